//! Bytes that rot: torn, doubt and damage are told apart, and mended.

use super::*;

/// A log of ten records of five entries each, over several segments, closed.
async fn written(disk: &FaultyDisk) -> Vec<LogEntry> {
    let (log, _) = open(disk);
    let mut entries = Vec::new();
    for number in 0..10 {
        let some: Vec<LogEntry> =
            (number * 5..number * 5 + 5).map(|index| entry(1, index, 700)).collect();
        append(&log, some.clone()).await.expect("durable");
        entries.extend(some);
    }
    log.flush().await.expect("durable");
    entries
}

fn records(disk: &FaultyDisk) -> Vec<InspectedRecord> {
    inspect(disk, Path::new(DIR)).expect("readable").records
}

fn flip(disk: &FaultyDisk, record: &InspectedRecord, inside: u64) {
    disk.flip_bit(&record.segment, record.offset + inside, 2).expect("a flip");
}

fn part(entries: &[LogEntry], hole: Hole) -> Vec<LogEntry> {
    entries[hole.first() as usize..=hole.last.index as usize].to_vec()
}

#[tokio::test]
async fn a_rotten_record_with_a_good_one_after_it_is_damage_and_is_mended() {
    // In the header, in a payload, in the trailer.
    for inside in [9, 60, 400, u64::MAX] {
        for number in 0..9 {
            let disk = FaultyDisk::new(1);
            let entries = written(&disk).await;
            let record = &records(&disk)[number];
            flip(&disk, record, inside.min(record.bytes - 7));
            let disk = disk.restart();
            let (log, state) = open(&disk);
            let hole = Hole {
                after: number.checked_sub(1).map(|before| at(1, before as u64 * 5 + 4)),
                last: at(1, number as u64 * 5 + 4),
                segment: state.holes()[0].segment,
                offset: record.offset,
            };
            assert_eq!(state.trouble, vec![Trouble::Damage(hole)], "{inside} {number}");
            assert_eq!(state.last, Some(at(1, 49)));
            assert!(append(&log, some(1, 50..51)).await.is_err(), "takes nothing yet");
            assert!(log.read(hole.first(), 50, 1).is_err(), "an error, not a short answer");
            let wrong = log.mend(hole, some(2, hole.first()..hole.first() + 5)).await;
            assert!(matches!(wrong, Err(StorageError::OutOfRange { .. })), "{wrong:?}");
            let mended = log.mend(hole, part(&entries, hole)).await.expect("mended");
            assert_eq!(mended.trouble, vec![]);
            assert_eq!(all(&log), entries);
            append(&log, some(1, 50..51)).await.expect("goes on");
            drop(log);
            let (log, state) = open(&disk.restart());
            assert_eq!((state.trouble, state.last), (vec![], Some(at(1, 50))));
            assert_eq!(all(&log)[..50], entries);
        }
    }
}

#[tokio::test]
async fn the_last_record_is_torn_or_in_doubt() {
    for (inside, doubt) in [(60, false), (400, true), (u64::MAX, false)] {
        let disk = FaultyDisk::new(1);
        let entries = written(&disk).await;
        let record = records(&disk).pop().expect("a last record");
        flip(&disk, &record, inside.min(record.bytes - 7));
        let disk = disk.restart();
        let (log, state) = open(&disk);
        assert_eq!(state.last, Some(at(1, 44)));
        if doubt {
            let holes = state.holes();
            assert!(matches!(state.trouble[..], [Trouble::Doubt(_)]), "{state:?}");
            assert_eq!((holes[0].after, holes[0].last), (Some(at(1, 44)), at(1, 49)));
            let state = log.mend(holes[0], part(&entries, holes[0])).await.expect("mended");
            assert_eq!(state.last, Some(at(1, 49)));
            assert_eq!(all(&log), entries);
        } else {
            assert!(matches!(state.trouble[..], [Trouble::Torn { .. }]), "{state:?}");
            assert_eq!(all(&log), entries[..45]);
            append(&log, some(1, 45..46)).await.expect("goes on");
            drop(log);
            assert_eq!(open(&disk.restart()).1.trouble, vec![], "reported once");
        }
    }
}

#[tokio::test]
async fn a_doubt_that_nobody_can_settle_is_cut_for_good() {
    let disk = FaultyDisk::new(1);
    let entries = written(&disk).await;
    flip(&disk, &records(&disk)[9], 400);
    let disk = disk.restart();
    let (log, _) = open(&disk);
    let state = log.cut_doubt().await.expect("cut");
    assert_eq!((state.trouble, state.last), (vec![], Some(at(1, 44))));
    assert!(log.cut_doubt().await.is_err(), "there is no other");
    drop(log);
    let (log, state) = open(&disk.restart());
    assert_eq!(state.trouble, vec![]);
    assert_eq!(all(&log), entries[..45]);
}

#[tokio::test]
async fn damage_that_is_let_go_is_where_the_log_begins() {
    // In the header, in a payload, in the trailer.
    for inside in [9, 400, u64::MAX] {
        for number in 0..9 {
            let disk = FaultyDisk::new(1);
            let entries = written(&disk).await;
            let record = &records(&disk)[number];
            flip(&disk, record, inside.min(record.bytes - 7));
            let disk = disk.restart();
            let (log, state) = open(&disk);
            let hole = state.holes()[0];
            let state = log.let_go(hole).await.expect("let go");
            assert_eq!((&state.trouble[..], state.last_purged), (&[][..], Some(hole.last)));
            let left = &entries[hole.last.index as usize + 1..];
            assert_eq!(all(&log), left, "{inside} {number}");
            append(&log, some(1, 50..51)).await.expect("goes on");
            drop(log);
            let (log, state) = open(&disk.restart());
            let held = (state.trouble, state.last_purged, state.last);
            assert_eq!(held, (vec![], Some(hole.last), Some(at(1, 50))));
            assert_eq!(all(&log)[..left.len()], *left);
            log.purge(at(1, 30)).await.expect("purged");
            assert_eq!(all(&log).len(), 20.min(left.len() + 1));
        }
    }
}

#[tokio::test]
async fn of_two_holes_the_first_is_let_go_first_and_a_doubt_never() {
    let disk = FaultyDisk::new(1);
    let entries = written(&disk).await;
    let found = records(&disk);
    for (number, inside) in [(2, 400), (3, 9), (7, 400), (9, 400)] {
        flip(&disk, &found[number], inside);
    }
    let (log, mut state) = open(&disk.restart());
    let later = state.holes()[1];
    assert!(matches!(log.let_go(later).await, Err(StorageError::Unmended { .. })));
    for last in [14, 19, 39] {
        state = log.let_go(state.holes()[0]).await.expect("let go");
        assert_eq!(state.last_purged, Some(at(1, last)));
    }
    assert!(matches!(state.trouble[..], [Trouble::Doubt(_)]), "{state:?}");
    let doubt = state.holes()[0];
    assert!(matches!(log.let_go(doubt).await, Err(StorageError::Unmended { .. })));
    log.mend(doubt, part(&entries, doubt)).await.expect("mended");
    assert_eq!(all(&log), entries[40..]);
}

#[tokio::test]
async fn a_hole_that_a_full_disk_keeps_from_being_mended_is_mended_when_there_is_space() {
    let disk = FaultyDisk::new(1);
    let entries = written(&disk).await;
    flip(&disk, &records(&disk)[1], 400);
    let disk = disk.restart();
    let (log, state) = open(&disk);
    let hole = state.holes()[0];
    let used = disk.used_bytes();
    disk.set_capacity(used + 5_000);
    let full = log.mend(hole, part(&entries, hole)).await;
    assert!(matches!(full, Err(StorageError::Full { .. })), "{full:?}");
    assert!(disk.used_bytes() <= used, "what it tried takes no space");
    assert_eq!((log.failure().is_none(), log.state().holes()), (true, vec![hole]));
    disk.set_capacity(1 << 20);
    let state = log.mend(hole, part(&entries, hole)).await.expect("mended");
    assert_eq!(state.trouble, vec![]);
    assert_eq!(all(&log), entries);
}

#[tokio::test]
async fn two_holes_in_two_segments_are_mended_one_by_one() {
    let disk = FaultyDisk::new(1);
    let entries = written(&disk).await;
    let found = records(&disk);
    flip(&disk, &found[1], 400);
    flip(&disk, &found[7], 60);
    assert_ne!(found[1].segment, found[7].segment);
    let (log, state) = open(&disk.restart());
    assert_eq!(state.holes().len(), 2);
    for hole in state.holes() {
        log.mend(hole, part(&entries, hole)).await.expect("mended");
    }
    assert_eq!(log.state().trouble, vec![]);
    assert_eq!(all(&log), entries);
}

#[tokio::test]
async fn two_holes_in_one_segment_are_mended_one_by_one() {
    let places = records(&{
        let disk = FaultyDisk::new(1);
        written(&disk).await;
        disk
    });
    let pairs = (0..9).flat_map(|one| (one + 1..9).map(move |two| (one, two)));
    let together = |(one, two): &(usize, usize)| places[*one].segment == places[*two].segment;
    let pairs: Vec<(usize, usize)> = pairs.filter(together).collect();
    assert!(!pairs.is_empty());
    // Both payloads, both headers, and one of each.
    for (first, second) in [(400, 400), (9, 9), (9, 400), (400, 9)] {
        for (one, two) in &pairs {
            let disk = FaultyDisk::new(1);
            let entries = written(&disk).await;
            let found = records(&disk);
            flip(&disk, &found[*one], first);
            flip(&disk, &found[*two], second);
            let (log, mut state) = open(&disk.restart());
            let mut turns = 0;
            while let Some(hole) = state.holes().first().copied() {
                state = log.mend(hole, part(&entries, hole)).await.expect("mended");
                turns += 1;
                assert!(turns <= 2, "{one} {two}: {state:?}");
            }
            assert_eq!(state.trouble, vec![]);
            assert_eq!(all(&log), entries, "{one} {two}");
        }
    }
}

#[tokio::test]
async fn a_rotten_segment_header_is_made_good_from_the_records() {
    let disk = FaultyDisk::new(1);
    let entries = written(&disk).await;
    let mut segments: Vec<PathBuf> =
        records(&disk).into_iter().map(|record| record.segment).collect();
    segments.dedup();
    assert!(segments.len() > 2);
    for segment in segments {
        let disk = disk.restart();
        disk.flip_bit(&segment, 25, 1).expect("a flip");
        let (log, state) = open(&disk);
        assert_eq!(state.trouble, vec![], "{segment:?}");
        assert_eq!(all(&log), entries);
        drop(log);
    }
}

#[tokio::test]
async fn zeros_and_what_recycling_left_behind_are_nothing() {
    let disk = FaultyDisk::new(1);
    let (log, _) = open(&disk);
    for index in 0..400 {
        append(&log, some(1, index..index + 1)).await.expect("durable");
        if index % 40 == 39 {
            log.purge(at(1, index - 3)).await.expect("durable");
        }
        if index > 200 {
            let found = inspect(&disk, Path::new(DIR)).expect("readable");
            assert_eq!((found.trouble, found.last), (vec![], Some(at(1, index))));
        }
    }
}

#[test]
fn no_bytes_end_the_process() {
    let mut dice = Dice::new(5);
    let header = record::Header {
        kind: Kind::Entries,
        segment: 1,
        generation: 2,
        seed: 3,
        count: 0,
        payload: 0,
        before: None,
        last: Some(at(1, 3)),
        purged: None,
        committed: None,
    };
    let good = record::encode(header, &some(1, 0..4)).slices().concat();
    assert!(matches!(look(&good, 0, 1, 2), Found::Good { .. }));
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..=dice.below(4) {
            let at = dice.below(bytes.len() as u64) as usize;
            bytes[at] = dice.next() as u8;
        }
        bytes.truncate(dice.below(bytes.len() as u64 * 2) as usize);
        if let Found::Good { header, .. } = look(&bytes, 0, 1, 2) {
            assert_eq!(bytes, good, "{header:?}");
        }
        let sound = record::Header::decode(&bytes);
        if let Some(header) = sound {
            drop(record::entries(&header, &bytes.into()));
        }
    }
}

/// Writes a log over several segments; its segment files in order.
async fn segments(disk: &FaultyDisk) -> (Vec<LogEntry>, Vec<PathBuf>) {
    let entries = written(disk).await;
    let mut files: Vec<PathBuf> = records(disk).into_iter().map(|record| record.segment).collect();
    files.dedup();
    assert!(files.len() >= 3, "{files:?}");
    (entries, files)
}

#[tokio::test]
async fn a_segment_file_that_is_missing_is_damage_and_is_mended() {
    for missing in 0..2 {
        let disk = FaultyDisk::new(1);
        let (entries, files) = segments(&disk).await;
        let held = records(&disk).into_iter().filter(|record| record.segment == files[missing]);
        let held: Vec<InspectedRecord> = held.collect();
        disk.remove_file(&files[missing]).expect("removed");
        disk.sync_dir(Path::new(DIR)).expect("for good");
        let (log, state) = open(&disk.restart());
        let holes = state.holes();
        assert_eq!(holes.len(), 1, "{state:?}");
        assert!(matches!(state.trouble[..], [Trouble::Damage(_)]), "{state:?}");
        assert_eq!(holes[0].first(), held[0].first, "{missing}");
        assert_eq!(Some(holes[0].last), held.last().expect("records").last);
        assert_eq!(state.last, Some(at(1, 49)));
        assert!(append(&log, some(1, 50..51)).await.is_err(), "takes nothing yet");
        let mended = log.mend(holes[0], part(&entries, holes[0])).await.expect("mended");
        assert_eq!(mended.trouble, vec![]);
        assert_eq!(all(&log), entries);
        append(&log, some(1, 50..51)).await.expect("goes on");
        drop(log);
        let (log, state) = open(&disk.restart());
        assert_eq!((state.trouble, state.last), (vec![], Some(at(1, 50))));
        assert_eq!(all(&log)[..50], entries);
    }
}

#[tokio::test]
async fn a_segment_that_a_purge_gave_back_is_not_missing() {
    let disk = FaultyDisk::new(1);
    let (entries, files) = segments(&disk).await;
    let (log, _) = open(&disk.restart());
    log.purge(at(1, 39)).await.expect("durable");
    drop(log);
    let disk = disk.restart();
    assert!(!disk.exists(&files[0]), "it was given back");
    let (log, state) = open(&disk);
    assert_eq!((state.trouble, state.last_purged), (vec![], Some(at(1, 39))));
    for (index, wanted) in (0..).zip(&entries).skip(40) {
        assert_eq!(log.entry(index).expect("a read").as_ref(), Some(wanted));
    }
}
