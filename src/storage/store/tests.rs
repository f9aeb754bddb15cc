//! The store against a state and contents that know no disk.

use std::path::Path;
use std::time::Duration;

use super::due::MOST_AHEAD;
use super::*;
use crate::clock::ManualClock;
use crate::queue::command::{Command, Receive, StringMap};
use crate::queue::ids::{MessageId, Receipt, Span as Time};
use crate::queue::outcome::Reply;
use crate::storage::bodies::BodyOptions;
use crate::storage::disk::faulty::FaultyDisk;
use crate::storage::disk::{FlushMode, OpenMode};
use crate::storage::tables::{EngineKind, Rows, Span};
use crate::storage::testing::cut_power_at;
use crate::storage::testing::run::Run;

fn options(engine: EngineKind) -> StoreOptions {
    let mut options = StoreOptions::new(Arc::new(ManualClock::at(0)));
    options.engine = engine;
    options.bodies = BodyOptions { segment_bytes: 8 << 10, copy_bytes: 4 << 10 };
    options
}

fn open(disk: &FaultyDisk, engine: EngineKind) -> Store {
    Store::open(Arc::new(disk.clone()), Path::new("/data"), options(engine)).unwrap()
}

fn assert_same(store: &Store, run: &Run) {
    assert_eq!(store.state().digest(), run.state.digest());
    assert_eq!(store.state().log_time(), run.state.log_time());
    for (id, content) in &run.contents {
        let found = store.content(ContentId(*id)).unwrap();
        assert_eq!(found.as_ref(), Some(content), "content {id}");
    }
    let last = run.contents.keys().next_back().copied().unwrap_or(0) + 100;
    for id in (0..last).filter(|id| !run.contents.contains_key(id)) {
        assert!(store.find(ContentId(id)).is_none(), "content {id} is gone");
    }
}

/// A folder of this test alone: tables in memory are shared by path.
fn open_at(disk: &FaultyDisk, path: &str, engine: EngineKind) -> Store {
    Store::open(Arc::new(disk.clone()), Path::new(path), options(engine)).unwrap()
}

#[test]
fn the_state_is_rebuilt_from_the_tables_after_every_entry() {
    rebuilt_after_every_entry(EngineKind::Memory, "/rebuild", 600);
    rebuilt_after_every_entry(EngineKind::Redb, "/data", 120);
    // sled knows no simulated disk: its own files are real ones.
    #[cfg(feature = "sled")]
    {
        let folder = tempfile::tempdir().unwrap();
        rebuilt_after_every_entry(EngineKind::Sled, folder.path().to_str().unwrap(), 40);
    }
}

fn rebuilt_after_every_entry(engine: EngineKind, path: &str, entries: usize) {
    let disk = FaultyDisk::new(1);
    let mut run = Run::new(7);
    let mut store = open_at(&disk, path, engine);
    for _ in 0..entries {
        let entry = run.entry();
        store.apply(&entry);
        if run.index.is_multiple_of(5) {
            run.reclaim(usize::MAX);
            while store.reclaim(10) {}
        }
        store.commit_now().unwrap();
        assert_eq!(store.durable(), Some(entry.position));
        drop(store);
        store = open_at(&disk, path, engine);
        assert_eq!(store.applied(), Some(entry.position));
        assert_same(&store, &run);
    }
}

#[test]
fn commits_of_many_entries_hold_exactly_the_last_of_them() {
    let disk = FaultyDisk::new(1);
    let mut run = Run::new(11);
    let mut store = open(&disk, EngineKind::Redb);
    let mut committed = run.clone();
    for round in 0..400 {
        store.apply(&run.entry());
        if round % 4 == 1 {
            bodies_ahead(&mut store).unwrap();
        }
        if round % 9 == 0 {
            store.commit_now().unwrap();
            committed = run.clone();
        }
        assert_same(&store, &run);
        if round % 50 == 0 {
            store = open(&disk, EngineKind::Redb);
            assert_same(&store, &committed);
            run = committed.clone();
        }
    }
}

/// Writes the bodies that are in memory, as if their commit were put off.
fn bodies_ahead(store: &mut Store) -> Result<(), StoreError> {
    store.write_ahead();
    store.pick_up()
}

fn entry_of(run: &mut Run, store: &mut Store, command: Command) -> Reply {
    let entry = run.entry_of(vec![command]);
    let mut applied = store.apply(&entry);
    applied.outcomes.remove(0).unwrap()
}

fn send(run: &mut Run, store: &mut Store, count: usize) -> Vec<(MessageId, Receipt)> {
    let command = run.send("work", count);
    match entry_of(run, store, command) {
        Reply::Sent(sent) => sent.into_iter().map(|sent| (sent.id, sent.receipt)).collect(),
        other => panic!("{other:?}"),
    }
}

fn delete(run: &mut Run, store: &mut Store, items: Vec<(MessageId, Receipt)>) {
    let command = Command::Delete { queue: "work".into(), items };
    entry_of(run, store, command);
}

fn tags(store: &Store) -> Vec<u8> {
    Rows::new(&*store.generation.tables, Span::tags(0..255)).map(|(key, _)| key[0]).collect()
}

#[test]
fn a_message_sent_and_deleted_between_two_commits_is_never_written() {
    let disk = FaultyDisk::new(1);
    let (mut run, mut store) = (Run::new(1), open(&disk, EngineKind::Redb));
    entry_of(&mut run, &mut store, Run::create("work"));
    store.commit_now().unwrap();
    for _ in 0..20 {
        let sent = send(&mut run, &mut store, 10);
        delete(&mut run, &mut store, sent);
    }
    store.commit_now().unwrap();
    assert_eq!(store.space(), (0, 0), "no body was written");
    // A deduplication key outlives its message.
    let kept = [keys::SESSION_TAG, keys::KEY_TAG];
    let few = [&[keys::MARK_TAG, keys::COUNTERS_TAG, keys::QUEUE_TAG][..], &kept].concat();
    let found = tags(&store);
    assert!(found.iter().all(|tag| few.contains(tag)), "no message was written: {found:?}");
    assert_same(&open(&disk, EngineKind::Redb), &run);
}

#[test]
fn space_comes_back_when_messages_are_deleted() {
    let disk = FaultyDisk::new(1);
    let (mut run, mut store) = (Run::new(2), open(&disk, EngineKind::Redb));
    entry_of(&mut run, &mut store, Run::create("work"));
    let mut sent = Vec::new();
    for round in 0..40 {
        sent.extend(send(&mut run, &mut store, 10));
        if round % 3 == 0 {
            bodies_ahead(&mut store).unwrap();
        }
        store.commit_now().unwrap();
    }
    let (live, full) = store.space();
    assert!(full > 100_000 && live > 100_000, "{live} of {full}");
    // One straggler in ten stays, spread over all segments.
    let (stay, go): (Vec<_>, Vec<_>) = sent.into_iter().enumerate().partition(|(n, _)| n % 10 == 0);
    for (_, item) in go {
        delete(&mut run, &mut store, vec![item]);
    }
    for _ in 0..60 {
        // Those that expired are not deleted, but removed by a pulse.
        entry_of(&mut run, &mut store, Command::Pulse);
        let item = send(&mut run, &mut store, 1);
        delete(&mut run, &mut store, item);
        store.commit_now().unwrap();
    }
    let (live, left) = store.space();
    assert!(left < full / 4, "{left} of {full} bytes are left for {live}");
    assert_same(&store, &run);
    assert_same(&open(&disk, EngineKind::Redb), &run);
    store = open(&disk, EngineKind::Redb);
    for (_, item) in stay {
        delete(&mut run, &mut store, vec![item]);
    }
    store.commit_now().unwrap();
    store.commit_now().unwrap();
    assert_eq!(store.space(), (0, 0));
    let bodies = disk.list(&store.generation.dir.join("bodies")).unwrap();
    assert_eq!(bodies, Vec::<std::path::PathBuf>::new(), "the files are deleted");
}

#[test]
fn a_power_cut_at_any_step_loses_nothing_that_was_durable() {
    for seed in 0..3 {
        let (mut died_at, mut survived) = (0, 0);
        loop {
            let disk = FaultyDisk::new(seed * 1000 + died_at);
            cut_power_at(&disk, died_at);
            // States by index: the one after opening is one of them.
            let mut run = Run::new(seed);
            let mut states = vec![run.clone()];
            let mut done = 0;
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            let mut died = true;
            if let Ok(mut store) =
                Store::open(shared, Path::new("/data"), options(EngineKind::Redb))
            {
                died = false;
                for round in 1..=30 {
                    store.apply(&run.entry());
                    states.push(run.clone());
                    if round % 3 == 2 && bodies_ahead(&mut store).is_err() {
                        died = true;
                        assert!(store.commit_now().is_err(), "a failed flush is final");
                        break;
                    }
                    if round % 3 == 0 {
                        if store.commit_now().is_err() {
                            died = true;
                            assert!(store.commit_now().is_err(), "a failed commit is final");
                            break;
                        }
                        done = store.durable().unwrap().index as usize;
                    }
                }
            }
            let back = disk.restart();
            let store = open(&back, EngineKind::Redb);
            let found = store.applied().map_or(0, |position| position.index as usize);
            assert!(found >= done, "cut at step {died_at}: {found}, and {done} was durable");
            assert_same(&store, &states[found]);
            survived = if died { 0 } else { survived + 1 };
            if survived == 2 {
                break;
            }
            died_at += 1;
        }
        assert!(died_at > 60, "the run had {died_at} steps");
    }
}

#[test]
fn commits_begin_by_bytes_or_by_time_and_too_much_must_wait() {
    let clock = Arc::new(ManualClock::at(0));
    let mut options = options(EngineKind::Memory);
    options.clock = clock.clone();
    options.commit_bytes = 100_000;
    options.hold_bytes = 50_000;
    let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(1));
    let mut store = Store::open(disk, Path::new("/due"), options).unwrap();
    let mut run = Run::new(3);
    let commits = store.commits();
    entry_of(&mut run, &mut store, Run::create("work"));
    assert!(!store.commit_if_due().unwrap(), "nothing is due yet");
    clock.advance(Duration::from_secs(5));
    assert!(store.commit_if_due().unwrap(), "the interval has passed");
    assert_eq!(store.durable(), store.applied());
    assert!(commits.has_changed().unwrap());
    clock.advance(Duration::from_secs(5));
    assert!(!store.commit_if_due().unwrap(), "nothing has changed");
    entry_of(&mut run, &mut store, Command::Pulse);
    assert!(!store.commit_if_due().unwrap(), "what changed did not wait for long");
    while store.dirty_bytes() < 100_000 {
        assert!(!store.commit_if_due().unwrap());
        send(&mut run, &mut store, 10);
    }
    assert!(!store.must_wait());
    while !store.must_wait() {
        send(&mut run, &mut store, 10);
    }
    assert!(store.commit_if_due().unwrap());
    assert!(!store.must_wait());
    assert_eq!(store.dirty_bytes(), 0);
}

#[test]
fn a_commit_of_many_rows_waits_while_bodies_are_written_ahead_of_it() {
    let clock = Arc::new(ManualClock::at(0));
    let mut options = options(EngineKind::Redb);
    options.clock = clock.clone();
    options.commit_bytes = 100_000;
    options.many_rows = 10;
    let disk = FaultyDisk::new(1);
    let open = |disk: &FaultyDisk| {
        Store::open(Arc::new(disk.clone()), Path::new("/ahead"), options.clone()).unwrap()
    };
    let (mut store, mut run) = (open(&disk), Run::new(3));
    let names: Vec<String> = (0..20).map(|number| format!("queue-{number}")).collect();
    for name in &names {
        entry_of(&mut run, &mut store, Run::create(name));
    }
    store.commit_now().unwrap();
    let committed = run.clone();
    let fill = |store: &mut Store, run: &mut Run| {
        for name in names.iter().cycle() {
            if store.due().is_some() {
                break;
            }
            let one = run.send(name, 1);
            entry_of(run, store, one);
        }
        store.commit_if_due().unwrap()
    };
    // Twenty queues have a row and more each: it may wait as often as it may ever.
    let put_off = |store: &mut Store, run: &mut Run| {
        for ahead in 1..=MOST_AHEAD {
            assert!(fill(store, run));
            assert_eq!((store.ahead, store.durable()), (ahead, committed.state_position().into()));
            assert_eq!(store.generation.bodies.held_bytes(), 0, "what is written is let go");
            assert_same(store, run);
        }
    };
    put_off(&mut store, &mut run);
    drop(store);
    let disk = disk.restart();
    let (mut store, mut run) = (open(&disk), committed.clone());
    assert_same(&store, &run);
    put_off(&mut store, &mut run);
    assert!(fill(&mut store, &mut run));
    assert_eq!(store.durable(), store.applied(), "in the end all of it is committed");
    drop(store);
    let mut store = open(&disk);
    assert_same(&store, &run);
    // Nor does it wait longer than any other.
    assert!(fill(&mut store, &mut run));
    assert_ne!(store.durable(), store.applied());
    clock.advance(Duration::from_secs(5));
    assert!(store.commit_if_due().unwrap());
    assert_eq!(store.durable(), store.applied());
    drop(store);
    assert_same(&open(&disk), &run);
}

#[test]
fn a_row_of_few_messages_counts_less_than_one_of_many() {
    let mut store = open_at(&FaultyDisk::new(1), "/costs", EngineKind::Memory);
    let mut run = Run::new(3);
    let names: Vec<String> = (0..100).map(|number| format!("queue-{number}")).collect();
    for name in &names {
        entry_of(&mut run, &mut store, Run::create(name));
    }
    let before = store.dirty_cost;
    for name in &names {
        let one = run.send(name, 1);
        entry_of(&mut run, &mut store, one);
    }
    let for_few = (store.dirty_cost - before) / names.len();
    assert!((UNTOUCHED_BYTES..256).contains(&for_few), "{for_few}: the queues had changed before");
    let before = store.dirty_cost;
    let many = run.send("queue-7", 200);
    entry_of(&mut run, &mut store, many);
    assert!(store.dirty_cost - before >= 199 * UNTOUCHED_BYTES, "the row has grown");
}

#[test]
fn a_membership_and_blank_entries_are_kept_with_the_position() {
    let disk = FaultyDisk::new(1);
    let mut store = open(&disk, EngineKind::Redb);
    let at = |index| Position { term: 2, node: 3, index };
    store.set_membership(at(1), Bytes::from_static(b"three voters"));
    store.mark(at(2));
    store.commit_now().unwrap();
    let store = open(&disk, EngineKind::Redb);
    assert_eq!(store.applied(), Some(at(2)));
    assert_eq!(store.membership(), Some((at(1), Bytes::from_static(b"three voters"))));
}

#[test]
fn a_flipped_bit_in_a_body_is_found_when_it_is_read() {
    let disk = FaultyDisk::new(1);
    let (mut run, mut store) = (Run::new(4), open(&disk, EngineKind::Redb));
    entry_of(&mut run, &mut store, Run::create("work"));
    send(&mut run, &mut store, 3);
    store.commit_now().unwrap();
    let bodies = disk.list(&store.generation.dir.join("bodies")).unwrap();
    disk.flip_bit(&bodies[0], 30, 0).unwrap();
    let broken = run.contents.keys().filter(|id| store.content(ContentId(**id)).is_err()).count();
    assert_eq!(broken, 1);
}

#[test]
fn a_damaged_pointer_is_refused_and_not_taken_for_a_new_store() {
    let disk = FaultyDisk::new(1);
    let mut store = open(&disk, EngineKind::Redb);
    store.mark(Position { term: 1, node: 1, index: 1 });
    store.commit_now().unwrap();
    drop(store);
    disk.flip_bit(Path::new("/data/CURRENT"), 3, 0).unwrap();
    let opened =
        Store::open(Arc::new(disk), Path::new("/data"), options(EngineKind::Redb)).map(drop);
    assert!(opened.unwrap_err().to_string().contains("damaged"));
}

/// Tables that are closed and opened again, with one bit flipped between the two; whether a commit
/// finds them damaged though they open, and whether that is noted.
fn commit_over_rot(offset: u64, bit: u8) -> (bool, bool) {
    let disk = FaultyDisk::new(1);
    let (mut run, mut store) = (Run::new(4), open(&disk, EngineKind::Redb));
    entry_of(&mut run, &mut store, Run::create("work"));
    send(&mut run, &mut store, 30);
    store.commit_now().unwrap();
    let rows = store.generation.dir.join("rows.redb");
    drop(store);
    let (shared, dir): (Arc<dyn Disk>, _) = (Arc::new(disk.clone()), Path::new("/data"));
    let is_hit = disk.flip_bit(&rows, offset, bit).is_ok();
    let opened = Store::open(Arc::clone(&shared), dir, options(EngineKind::Redb));
    let Some(mut store) = opened.ok().filter(|_| is_hit) else { return (false, false) };
    send(&mut run, &mut store, 30);
    let failed = store.commit_now().err();
    drop(store);
    let noted = noted_damage(&shared, dir).is_some();
    (failed.is_some_and(|error| error.is_damage()), noted)
}

#[test]
fn damage_that_only_a_commit_meets_is_noted_for_the_next_start() {
    let places = (0..16_u64).flat_map(|page| [0, 2, 3, 5, 9].map(|at| page * 4096 + at));
    let places = places.flat_map(|at| [(at, 3), (at, 7)]);
    let met: Vec<_> = places.map(|(at, bit)| commit_over_rot(at, bit)).collect();
    assert!(met.iter().all(|(is_damage, noted)| is_damage == noted), "{met:?}");
    assert!(met.contains(&(true, true)), "no commit met what rotted: look for other places");
}

/// Rows, the mark among them, whose first byte is their format, with one of their own.
#[test]
fn a_row_of_a_format_that_the_pointer_does_not_say_has_rotted() {
    let disk = FaultyDisk::new(7);
    let (mut run, mut store) = (Run::new(1), open(&disk, EngineKind::Redb));
    entry_of(&mut run, &mut store, Run::create("work"));
    send(&mut run, &mut store, 3);
    store.commit_now().unwrap();
    drop(store);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let generation = Path::new("/data/generation-0000000001");
    for key in [keys::row(&RowKey::Counters), vec![keys::MARK_TAG]] {
        for format in [0, 3] {
            let tables = EngineKind::Redb.open(&shared, generation).unwrap();
            let whole = tables.get(&key).unwrap().expect("it is there");
            let mut rotten = whole.clone();
            rotten[0] = format;
            let put = |value: &[u8]| vec![(key.clone(), Some(value.to_vec()))];
            tables.commit(&put(&rotten)).unwrap();
            drop(tables);
            let opened =
                Store::open(Arc::clone(&shared), Path::new("/data"), options(EngineKind::Redb));
            let error = opened.expect_err("it is not readable");
            assert!(error.is_damage(), "{error:?}");
            let tables = EngineKind::Redb.open(&shared, generation).unwrap();
            tables.commit(&put(&whole)).unwrap();
        }
    }
    drop(open(&disk, EngineKind::Redb));
}

#[test]
fn tables_of_a_newer_version_are_refused_and_not_taken_for_damage() {
    let disk = FaultyDisk::new(7);
    drop(open(&disk, EngineKind::Redb));
    let mut pointer = vec![2, 1, 0, 0, 0, 0, 0, 0, 0];
    pointer.extend_from_slice(&crc32c::crc32c(&pointer).to_le_bytes());
    let file = disk.open(Path::new("/data/CURRENT"), OpenMode::ReadWrite).unwrap();
    file.write_all_at(&pointer, 0).unwrap();
    let opened = Store::open(Arc::new(disk.clone()), Path::new("/data"), options(EngineKind::Redb));
    let error = opened.expect_err("it is newer");
    assert!(!error.is_damage(), "{error:?}");
    assert!(error.to_string().contains("has format 2, and this version knows 1"), "{error}");
}

#[test]
fn a_received_message_keeps_its_content_across_commits() {
    let disk = FaultyDisk::new(1);
    let (mut run, mut store) = (Run::new(5), open(&disk, EngineKind::Redb));
    entry_of(&mut run, &mut store, Run::create("work"));
    send(&mut run, &mut store, 5);
    store.commit_now().unwrap();
    let receive = Command::Receive(Receive {
        queue: "work".into(),
        max_messages: 5,
        max_bytes: 1 << 20,
        visibility: Some(Time::from_secs(1)),
    });
    entry_of(&mut run, &mut store, receive);
    store.commit_now().unwrap();
    assert_same(&open(&disk, EngineKind::Redb), &run);
    assert!(run.contents.values().any(|content| content.headers != StringMap::new()));
}

#[test]
fn applying_and_reading_go_on_while_a_thread_commits() {
    let disk = FaultyDisk::new(1).with_flush_mode(FlushMode::Threads);
    let mut options = options(EngineKind::Redb);
    options.commit_bytes = 2_000;
    let open = || Store::open(Arc::new(disk.clone()), Path::new("/data"), options.clone()).unwrap();
    let (mut run, mut store) = (Run::new(6), open());
    let mut overlapped = 0;
    for _ in 0..600 {
        overlapped += usize::from(store.writer.busy());
        store.apply(&run.entry());
        store.commit_if_due().unwrap();
        assert_same(&store, &run);
    }
    assert!(overlapped > 10, "only {overlapped} entries came while a commit ran");
    store.commit_now().unwrap();
    assert_eq!(store.durable(), store.applied());
    drop(store);
    assert_same(&open(), &run);
}

#[test]
fn a_failed_commit_on_the_thread_is_reported_and_final() {
    let disk = FaultyDisk::new(1).with_flush_mode(FlushMode::Threads);
    let (mut run, mut store) = (Run::new(6), open(&disk, EngineKind::Redb));
    store.apply(&run.entry());
    store.commit_now().unwrap();
    let durable = store.durable();
    disk.kill_at_write(2);
    store.apply(&run.entry());
    assert!(store.commit_now().is_err());
    assert!(matches!(store.commit_if_due(), Err(StoreError::Failed(_))));
    assert_eq!(store.durable(), durable);
}

#[test]
fn an_error_of_the_disk_or_a_full_one_stops_commits_and_loses_nothing_durable() {
    let faults: [fn(&FaultyDisk, u64); 3] = [
        |disk, n| disk.fail_op(n + 1),
        |disk, n| disk.fail_sync(n + 1),
        |disk, n| disk.set_capacity(disk.used_bytes() + n * 700),
    ];
    for fault in faults {
        let mut failures = 0;
        for n in 0..60 {
            let disk = FaultyDisk::new(n);
            let mut store = open(&disk, EngineKind::Redb);
            let mut run = Run::new(n);
            let mut states = vec![run.clone()];
            fault(&disk, n);
            for _ in 0..12 {
                store.apply(&run.entry());
                states.push(run.clone());
                if store.commit_now().is_err() {
                    failures += 1;
                    assert!(store.commit_now().is_err(), "a failed commit is final");
                    break;
                }
            }
            let done = store.durable().map_or(0, |position| position.index as usize);
            drop(store);
            let back = disk.restart();
            back.set_capacity(u64::MAX);
            let store = open(&back, EngineKind::Redb);
            let found = store.applied().map_or(0, |position| position.index as usize);
            assert!(found >= done, "{found}, and {done} was durable");
            assert_same(&store, &states[found]);
        }
        assert!(failures > 5, "only {failures} commits failed");
    }
}

#[test]
fn a_commit_without_room_is_held_up_and_goes_on_when_there_is_space() {
    let disk = FaultyDisk::new(1);
    let (mut run, mut store) = (Run::new(9), open(&disk, EngineKind::Redb));
    entry_of(&mut run, &mut store, Run::create("work"));
    send(&mut run, &mut store, 5);
    store.commit_now().unwrap();
    let durable = store.durable();
    disk.set_capacity(disk.used_bytes());
    for _ in 0..3 {
        send(&mut run, &mut store, 5);
        assert!(matches!(store.commit_now(), Err(StoreError::NoRoom)));
        assert!(matches!(store.commit_through(store.applied()), Err(StoreError::NoRoom)));
        assert_eq!(store.durable(), durable);
        assert!(store.owed_bytes() > 2_500, "it is still to be written");
        assert_same(&store, &run);
    }
    disk.set_capacity(u64::MAX);
    store.commit_now().unwrap();
    assert_eq!(store.durable(), store.applied());
    assert_same(&store, &run);
    assert_same(&open(&disk, EngineKind::Redb), &run);
}

#[test]
fn the_reserve_makes_room_for_a_commit() {
    let disk = FaultyDisk::new(1);
    let mut options = options(EngineKind::Redb);
    let space = Space::open(disk.shared(), Path::new(""), 4 << 20).unwrap();
    while space.observe(0).is_ok() && disk.used_bytes() < 4 << 20 {}
    options.space = space.clone();
    let mut store = Store::open(disk.shared(), Path::new("/data"), options).unwrap();
    let mut run = Run::new(9);
    entry_of(&mut run, &mut store, Run::create("work"));
    disk.set_capacity(disk.used_bytes());
    send(&mut run, &mut store, 5);
    store.commit_now().unwrap();
    assert!(disk.used_bytes() < 4 << 20, "the reserve gave what it took");
    assert_same(&open(&disk, EngineKind::Redb), &run);
}
