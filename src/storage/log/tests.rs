use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::clock::ManualClock;
use crate::storage::disk::OpenMode;
use crate::storage::disk::faulty::{Dice, FaultyDisk};
use crate::storage::disk::real::RealDisk;

mod crash;
mod trouble;

const DIR: &str = "log";

fn options(segment_bytes: u64) -> LogOptions {
    let clock = Arc::new(ManualClock::at(1));
    LogOptions { segment_bytes, ..LogOptions::new(7, clock) }
}

fn open(disk: &FaultyDisk) -> (Log, LogState) {
    Log::open(disk.shared(), Path::new(DIR), options(16 << 10)).expect("the log opens")
}

fn at(term: u64, index: u64) -> Position {
    Position { term, node: 1, index }
}

/// What an entry holds follows from its position, so a stale one shows.
fn entry(term: u64, index: u64, length: usize) -> LogEntry {
    let mut dice = Dice::new(term << 32 | index);
    let bytes: Vec<u8> = (0..length).map(|_| dice.next() as u8).collect();
    let payload = match index % 7 {
        0 => Payload::Blank,
        1 => Payload::Membership(bytes.into()),
        _ => Payload::Commands(bytes.into()),
    };
    LogEntry { position: at(term, index), payload }
}

fn some(term: u64, indices: std::ops::Range<u64>) -> Vec<LogEntry> {
    indices.map(|index| entry(term, index, 100)).collect()
}

/// Appends and waits until it is durable.
async fn append(log: &Log, entries: Vec<LogEntry>) -> Result<(), StorageError> {
    let (send, receive) = oneshot::channel();
    let appended = log.append(entries, Box::new(move |done| drop(send.send(done))));
    let done = receive.await.expect("a callback is always called");
    assert!(appended.is_ok() || done.is_err());
    done
}

fn all(log: &Log) -> Vec<LogEntry> {
    let mut from = log.last_purged().map_or(0, |purged| purged.index + 1);
    let mut entries = Vec::new();
    loop {
        let some = log.read(from, u64::MAX, 700).expect("a read");
        if some.is_empty() {
            return entries;
        }
        from += some.len() as u64;
        entries.extend(some);
    }
}

#[tokio::test]
async fn unread_bytes_are_those_of_the_entries() {
    const BYTES: u64 = 100 << 10;
    let disk = FaultyDisk::new(1);
    let (log, _) = Log::open(disk.shared(), Path::new(DIR), options(1 << 20)).expect("it opens");
    append(&log, some(1, 0..2)).await.expect("durable");
    for index in 2..6 {
        append(&log, vec![entry(1, index, BYTES as usize)]).await.expect("durable");
    }
    let of = |from, entries: u64| {
        let unread = log.unread_bytes(from);
        // The grain of a run, and what a record has around its entry.
        let most = entries * (BYTES + (8 << 10)) + (64 << 10);
        assert!((entries * BYTES..=most).contains(&unread), "from {from}: {unread}");
    };
    of(2, 4);
    of(4, 2);
    of(5, 1);
    assert_eq!(log.unread_bytes(6), 0);
}

#[tokio::test]
async fn what_was_appended_is_read_by_a_clone_at_once_and_by_a_restart() {
    let disk = FaultyDisk::new(1);
    let (log, state) = open(&disk);
    assert_eq!(
        state,
        LogState { vote: None, last: None, last_purged: None, committed: None, trouble: vec![] }
    );
    let entries = some(1, 0..50);
    log.append(entries.clone(), Box::new(|_| ())).expect("accepted");
    assert_eq!(all(&log.clone()), entries);
    log.save_committed(at(1, 40));
    append(&log, some(1, 50..51)).await.expect("durable");
    drop(log);
    let (log, state) = open(&disk.restart());
    assert_eq!(state.last, Some(at(1, 50)));
    assert_eq!(state.committed, Some(at(1, 40)));
    assert_eq!(all(&log), some(1, 0..51));
}

#[tokio::test(start_paused = true)]
async fn appends_that_arrive_during_a_flush_share_the_next() {
    let disk = FaultyDisk::new(1);
    let (log, _) = open(&disk);
    disk.set_sync_delay(Duration::from_secs(1));
    let order = Arc::new(Mutex::new(Vec::new()));
    let put = |index: u64| {
        let order = Arc::clone(&order);
        let done = move |result: Result<(), StorageError>| {
            result.expect("durable");
            order.lock().expect("unpoisoned").push(index);
        };
        log.append(some(1, index..index + 1), Box::new(done)).expect("accepted");
    };
    put(0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(order.lock().expect("unpoisoned").is_empty(), "the flush runs");
    let before = disk.syncs();
    (1..20).for_each(put);
    log.flush().await.expect("durable");
    assert_eq!(*order.lock().expect("unpoisoned"), (0..20).collect::<Vec<_>>());
    assert_eq!(disk.syncs() - before, 2, "one fsync for the first, one for the other nineteen");
    let found = inspect(&disk, Path::new(DIR)).expect("readable");
    let counts: Vec<u32> = found.records.iter().map(|record| record.entries).collect();
    assert_eq!(counts, [1, 19]);
}

#[tokio::test]
async fn entries_that_left_the_cache_come_from_the_disk() {
    let disk = FaultyDisk::new(1);
    let small = LogOptions { cache_bytes: 1000, ..options(16 << 10) };
    let (log, _) = Log::open(disk.shared(), Path::new(DIR), small).expect("the log opens");
    for index in 0..300 {
        append(&log, some(1, index..index + 1)).await.expect("durable");
    }
    assert_eq!(all(&log), some(1, 0..300));
    assert_eq!(log.read(5, 6, 0).expect("a read"), some(1, 5..6), "one at least");
    assert_eq!(log.read(300, 400, 9999).expect("a read"), vec![]);
    let gap = append(&log, some(1, 302..303)).await;
    assert!(matches!(gap, Err(StorageError::OutOfRange { index: 302, .. })), "{gap:?}");
    append(&log, some(1, 300..301)).await.expect("a refusal stops nothing");
}

#[tokio::test]
async fn a_truncated_tail_is_gone_for_readers_and_after_a_restart() {
    let disk = FaultyDisk::new(1);
    let (log, _) = open(&disk);
    append(&log, some(1, 0..10)).await.expect("durable");
    log.append(some(1, 10..20), Box::new(|_| ())).expect("accepted");
    let cut = log.truncate_after(Some(at(1, 4)));
    assert_eq!(log.last(), Some(at(1, 4)));
    log.append(some(2, 5..8), Box::new(|_| ())).expect("accepted");
    let wanted: Vec<LogEntry> = some(1, 0..5).into_iter().chain(some(2, 5..8)).collect();
    assert_eq!(all(&log), wanted);
    cut.await.expect("durable");
    log.flush().await.expect("durable");
    assert_eq!(all(&log), wanted);
    drop(log);
    let (log, _) = open(&disk.restart());
    assert_eq!(all(&log), wanted);
    log.truncate_after(None).await.expect("durable");
    assert_eq!((log.last(), all(&log)), (None, vec![]));
    append(&log, some(3, 0..2)).await.expect("durable");
    let (log, _) = open(&disk.restart());
    assert_eq!(all(&log), some(3, 0..2));
}

#[tokio::test]
async fn a_purge_gives_segments_back_and_beyond_the_end_it_moves_the_log() {
    let disk = FaultyDisk::new(1);
    let (log, _) = open(&disk);
    for index in 0..600 {
        append(&log, some(1, index..index + 1)).await.expect("durable");
    }
    let before = log.disk_bytes();
    let through = log.before_newest(before / 2).expect("entries in older segments");
    assert!(log.bytes_after(Some(through)) <= before / 2);
    assert!(log.bytes_after(Some(through - 1)) > before / 2, "as many as fit are kept");
    assert_eq!(log.before_newest(0), None);
    log.purge(at(1, 580)).await.expect("durable");
    assert!(log.disk_bytes() < before / 3, "{} of {before}", log.disk_bytes());
    assert!(log.read(580, 581, 10).is_err(), "a purged entry is an error, not a gap");
    assert_eq!(log.first(), Some(581), "though those before it are in its segment still");
    assert_eq!(all(&log), some(1, 581..600));
    log.purge(at(4, 900)).await.expect("durable");
    assert_eq!((log.last(), log.last_purged()), (Some(at(4, 900)), Some(at(4, 900))));
    append(&log, some(5, 901..903)).await.expect("durable");
    drop(log);
    let (log, state) = open(&disk.restart());
    assert_eq!((state.last, state.last_purged), (Some(at(5, 902)), Some(at(4, 900))));
    assert_eq!(all(&log), some(5, 901..903));
}

#[tokio::test]
async fn a_failed_fsync_is_final() {
    let disk = FaultyDisk::new(1);
    let (log, _) = open(&disk);
    append(&log, some(1, 0..1)).await.expect("durable");
    tokio::task::yield_now().await;
    disk.fail_sync(1);
    let (first, second) = tokio::join!(append(&log, some(1, 1..2)), append(&log, some(1, 2..3)));
    assert!(matches!(first, Err(StorageError::Io { .. })), "{first:?}");
    assert!(second.is_err());
    let syncs = disk.syncs();
    let later = append(&log, some(1, 3..4)).await;
    assert!(matches!(later, Err(StorageError::Stopped { .. })), "{later:?}");
    let vote = log.save_vote(&VoteRecord { term: 9, node: 1, committed: false }).await;
    assert!(vote.is_err() && log.flush().await.is_err() && log.failure().is_some());
    assert_eq!(disk.syncs(), syncs, "and never tried again");
    drop(log);
    assert_eq!(open(&disk.restart()).1.last, Some(at(1, 0)));
}

#[tokio::test(start_paused = true)]
async fn on_a_full_disk_entries_wait_unwritten_and_nothing_acknowledged_is_lost() {
    let disk = FaultyDisk::new(1);
    let (log, _) = open(&disk);
    append(&log, some(1, 0..1)).await.expect("durable");
    log.flush().await.expect("durable");
    let capacity = disk.used_bytes();
    disk.set_capacity(capacity);
    let mut next = 1;
    while log.room() > 4_000 {
        append(&log, some(1, next..next + 1)).await.expect("there was room");
        next += 1;
    }
    assert!(next > 20);
    let within = Duration::from_secs(1);
    while let Ok(done) = tokio::time::timeout(within, append(&log, some(1, next..next + 1))).await {
        done.expect("there was room");
        next += 1;
    }
    assert!(log.failure().is_none(), "nothing has failed");
    drop(log);

    let disk = disk.restart();
    let (log, _) = open(&disk);
    assert_eq!(all(&log), some(1, 0..next));
    let waiting = append(&log, some(1, next..next + 1));
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(within, &mut waiting).await.is_err(), "still full");
    disk.set_capacity(capacity * 2);
    waiting.await.expect("there is space again");
    assert_eq!(all(&log), some(1, 0..next + 1));
}

#[tokio::test]
async fn segments_that_purges_give_back_are_used_again_and_none_is_made_beside() {
    let disk = FaultyDisk::new(1);
    let (log, _) = open(&disk);
    let mut next = 0;
    for round in 0..20 {
        let (writes, first) = (disk.writes(), next);
        // A purge comes late, as when it waits for a commit of the tables, and frees two.
        let full = log.disk_bytes() + 2 * (16 << 10);
        while log.disk_bytes() < full {
            append(&log, some(1, next..next + 1)).await.expect("durable");
            next += 1;
            // The writer has nothing to write, and might make a segment.
            tokio::task::yield_now().await;
        }
        log.purge(at(1, next - 1)).await.expect("durable");
        log.flush().await.expect("durable");
        let beside = disk.writes() - writes - (next - first);
        // The purge, and of each of the two segments its header and its two names.
        assert!(round < 2 || beside == 7, "round {round}: {beside} writes beside the entries");
    }
}

#[tokio::test(start_paused = true)]
async fn a_purge_on_a_full_disk_lets_the_log_go_on() {
    let disk = FaultyDisk::new(1);
    let (log, _) = open(&disk);
    append(&log, some(1, 0..1)).await.expect("durable");
    while log.room() < 30_000 {
        tokio::task::yield_now().await;
    }
    let capacity = disk.used_bytes();
    disk.set_capacity(capacity);
    let mut next = 1;
    while log.room() > 4_000 {
        append(&log, some(1, next..next + 1)).await.expect("there was room");
        next += 1;
    }
    log.purge(at(1, next - 1)).await.expect("the end of a segment is kept for it");
    assert!(log.room() > 4_000, "what it freed is used again");
    for _ in 0..3 * next {
        append(&log, some(1, next..next + 1)).await.expect("in what the purges gave back");
        log.purge(at(1, next)).await.expect("durable");
        next += 1;
    }
    assert!(disk.used_bytes() <= capacity);
}

#[tokio::test(start_paused = true)]
async fn what_waited_together_is_written_in_records_that_fit_into_a_segment() {
    let disk = FaultyDisk::new(1);
    let (log, _) = open(&disk);
    append(&log, some(1, 0..1)).await.expect("durable");
    while log.room() < 30_000 {
        tokio::task::yield_now().await;
    }
    disk.set_capacity(disk.used_bytes());
    // More than two segments, and more than there is room for.
    let entries: Vec<LogEntry> = (1..90).map(|index| entry(1, index, 500)).collect();
    let waiting = append(&log, entries);
    tokio::pin!(waiting);
    let within = Duration::from_secs(1);
    assert!(tokio::time::timeout(within, &mut waiting).await.is_err(), "the rest waits");
    assert!(log.failure().is_none(), "nothing has failed");
    assert!(log.room() < 10_000, "what fits is written: {} bytes are left", log.room());
    disk.set_capacity(1 << 20);
    waiting.await.expect("there is space again");
    let usual = 16 << 10;
    let found = disk.list(Path::new(DIR)).expect("a list");
    for path in found.iter().filter(|path| path.extension().is_some_and(|end| end == "log")) {
        let file = disk.open(path, OpenMode::Read).expect("the segment");
        assert_eq!(file.len().expect("a length"), usual, "{}", path.display());
    }
}

#[tokio::test(start_paused = true)]
async fn an_entry_larger_than_a_segment_waits_on_a_full_disk_and_is_kept() {
    for before in [0, 1, 20] {
        let disk = FaultyDisk::new(1);
        let (log, _) = open(&disk);
        for index in 0..before {
            append(&log, some(1, index..index + 1)).await.expect("durable");
        }
        while log.room() < 30_000 {
            tokio::task::yield_now().await;
        }
        disk.set_capacity(disk.used_bytes() + 10_000);
        let payload = Payload::Commands(vec![7; 50_000].into());
        let large = LogEntry { position: at(1, before), payload };
        let mut waiting = Box::pin(append(&log, vec![large.clone()]));
        let within = Duration::from_secs(1);
        assert!(tokio::time::timeout(within, &mut waiting).await.is_err(), "it does not fit");
        assert!(log.failure().is_none(), "nothing has failed");
        disk.set_capacity(1 << 20);
        waiting.await.expect("there is space again");
        append(&log, some(1, before + 1..before + 20)).await.expect("the log goes on");
        drop(log);
        let (log, state) = open(&disk.restart());
        assert_eq!((state.last, state.trouble), (Some(at(1, before + 19)), vec![]));
        assert_eq!(log.read(before, before + 1, usize::MAX).expect("a read"), [large]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_flush_shows() {
    let disk = FaultyDisk::new(1);
    let clock = Arc::new(ManualClock::at(1));
    let with = LogOptions { clock: clock.clone(), ..options(16 << 10) };
    let (log, _) = Log::open(disk.shared(), Path::new(DIR), with).expect("the log opens");
    clock.advance(Duration::from_secs(1));
    disk.set_sync_delay(Duration::from_secs(5));
    assert_eq!(log.stalled_for(), Duration::ZERO);
    log.append(some(1, 0..1), Box::new(|_| ())).expect("accepted");
    tokio::time::sleep(Duration::from_secs(1)).await;
    clock.advance(Duration::from_secs(3));
    assert_eq!(log.stalled_for(), Duration::from_secs(3));
    log.flush().await.expect("durable");
    assert_eq!(log.stalled_for(), Duration::ZERO);
}

#[test]
fn a_real_disk_needs_no_runtime_and_keeps_what_it_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let dir = folder.path().join("log");
    let calls = Arc::new(AtomicU64::new(0));
    let (log, _) = Log::open(disk.clone(), &dir, options(256 << 10)).expect("the log opens");
    for index in 0..500u64 {
        let calls = Arc::clone(&calls);
        let done = move |result: Result<(), StorageError>| {
            result.expect("durable");
            assert_eq!(calls.fetch_add(1, Ordering::SeqCst), index, "in order");
        };
        log.append(vec![entry(1, index, 5000)], Box::new(done)).expect("accepted");
    }
    drop(log);
    assert_eq!(calls.load(Ordering::SeqCst), 500, "a drop waits for what was asked");
    let (log, state) = Log::open(disk.clone(), &dir, options(256 << 10)).expect("again");
    assert_eq!((state.last, state.trouble), (Some(at(1, 499)), vec![]));
    let wanted: Vec<LogEntry> = (0..500).map(|index| entry(1, index, 5000)).collect();
    assert_eq!(log.read(0, 500, usize::MAX).expect("a read").first(), wanted.first());
    assert_eq!(all(&log), wanted);
    drop(log.purge(at(1, 450)));
    drop(log);
    let found = inspect(disk.as_ref(), &dir).expect("readable");
    assert_eq!(found.last_purged, Some(at(1, 450)));
}
