//! Snapshots from one store into another.

use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::clock::ManualClock;
use crate::queue::command::Command;
use crate::queue::ids::ContentId;
use crate::storage::bodies::BodyOptions;
use crate::storage::disk::Disk as _;
use crate::storage::disk::faulty::FaultyDisk;
use crate::storage::store::{Store, StoreOptions};
use crate::storage::tables::EngineKind;
use crate::storage::testing::cut_power_at;
use crate::storage::testing::run::Run;

fn open(disk: &FaultyDisk) -> Result<Store, StoreError> {
    let mut options = StoreOptions::new(Arc::new(ManualClock::at(0)));
    options.engine = EngineKind::Redb;
    options.bodies = BodyOptions { segment_bytes: 8 << 10, copy_bytes: 4 << 10 };
    Store::open(Arc::new(disk.clone()), Path::new("/data"), options)
}

/// A store after some entries, and what it must equal.
fn grown(seed: u64, entries: usize) -> (FaultyDisk, Store, Run) {
    let disk = FaultyDisk::new(1);
    let mut run = Run::new(seed);
    let mut store = open(&disk).unwrap();
    store.set_membership(run.state_position(), Bytes::from_static(b"voters"));
    for _ in 0..entries {
        store.apply(&run.entry());
    }
    store.commit_now().unwrap();
    (disk, store, run)
}

fn chunks(view: &SnapshotView) -> Vec<Chunk> {
    let mut reader = view.reader();
    std::iter::from_fn(|| reader.next_chunk().unwrap()).collect()
}

/// The same stream in smaller chunks, so that parts lie across them.
fn small(view: &SnapshotView, size: usize) -> Vec<Chunk> {
    let stream: Vec<u8> = chunks(view).iter().flat_map(|chunk| chunk.data.to_vec()).collect();
    stream
        .chunks(size)
        .enumerate()
        .map(|(n, data)| Chunk::new((n * size) as u64, Bytes::copy_from_slice(data)))
        .collect()
}

fn take(store: &mut Store, chunks: &[Chunk]) -> Result<(), StoreError> {
    let mut writer = store.begin_install()?;
    for chunk in chunks {
        writer.push(chunk)?;
    }
    let ready = writer.finish()?;
    store.install(ready)
}

fn assert_same(store: &Store, run: &Run) {
    assert_eq!(store.state().digest(), run.state.digest());
    for (id, content) in &run.contents {
        let found = store.content(ContentId(*id)).unwrap();
        assert_eq!(found.as_ref(), Some(content), "content {id}");
    }
}

#[test]
fn a_snapshot_makes_another_store_equal() {
    let (_, store, run) = grown(1, 150);
    let view = store.view().unwrap();
    assert_eq!(Some(view.position()), store.applied());
    assert_eq!(view.digest(), run.state.digest());
    let (disk, mut other, _) = grown(2, 40);
    take(&mut other, &small(&view, 700)).unwrap();
    assert_same(&other, &run);
    assert_eq!(other.applied(), store.applied());
    assert_eq!(other.durable(), store.applied());
    assert_eq!(other.membership(), store.membership());
    drop(other);
    let mut other = open(&disk).unwrap();
    assert_same(&other, &run);
    assert_eq!(other.membership(), store.membership());
    // It goes on from there.
    let mut run = run;
    for _ in 0..50 {
        other.apply(&run.entry());
    }
    other.commit_now().unwrap();
    assert_same(&open(&disk).unwrap(), &run);
}

#[test]
fn a_view_stays_as_it_was_while_commits_go_on() {
    let (disk, mut store, mut run) = grown(3, 120);
    let view = store.view().unwrap();
    assert!(view.pinned_segments() > 0);
    let before = chunks(&view);
    let then = run.clone();
    for round in 0..300 {
        store.apply(&run.entry());
        if round % 4 == 0 {
            run.reclaim(usize::MAX);
            while store.reclaim(100) {}
            store.commit_now().unwrap();
        }
    }
    assert_eq!(chunks(&view), before);
    let (_, mut other, _) = grown(4, 1);
    take(&mut other, &before).unwrap();
    assert_same(&other, &then);
    // Without the view its segments go, once nothing lives in them.
    for queue in ["alpha", "beta", "gamma"] {
        store.apply(&run.entry_of(vec![Command::Clear { queue: queue.into() }]));
    }
    run.reclaim(usize::MAX);
    while store.reclaim(100) {}
    store.commit_now().unwrap();
    let with_view = disk.used_bytes();
    drop(view);
    // A new segment makes the names in the folder durable, those that are gone too.
    store.apply(&run.entry_of(vec![Run::create("alpha")]));
    let send = run.send("alpha", 1);
    store.apply(&run.entry_of(vec![send]));
    store.commit_now().unwrap();
    assert!(disk.used_bytes() < with_view, "{} < {with_view}", disk.used_bytes());
    assert_same(&store, &run);
}

#[test]
fn a_view_survives_the_install_of_another_snapshot() {
    let (_, source, _) = grown(5, 60);
    let (disk, mut store, mut run) = grown(6, 60);
    let view = store.view().unwrap();
    let before = chunks(&view);
    let found = run.contents.keys().next().and_then(|id| store.find(ContentId(*id)));
    take(&mut store, &chunks(&source.view().unwrap())).unwrap();
    for _ in 0..3 {
        store.mark(run.state_position());
        store.commit_now().unwrap();
    }
    assert_eq!(chunks(&view), before);
    assert!(found.unwrap().read().is_ok(), "what was found can be read");
    drop(view);
    run.entry();
    store.mark(run.state_position());
    store.commit_now().unwrap();
    let generations = disk.list(Path::new("/data")).unwrap();
    assert_eq!(generations.len(), 2, "CURRENT and one generation: {generations:?}");
}

#[test]
fn a_stream_that_broke_goes_on_at_any_chunk() {
    let (_, store, run) = grown(7, 150);
    let view = store.view().unwrap();
    let all = small(&view, 3_000);
    let (_, mut other, _) = grown(8, 5);
    let mut writer = other.begin_install().unwrap();
    for (n, chunk) in all.iter().enumerate() {
        let ahead = all.get(n + 1).filter(|_| n % 3 == 0);
        assert!(ahead.is_none_or(|ahead| writer.push(ahead).is_err()), "a gap is refused");
        writer.push(chunk).unwrap();
        writer.push(&all[0]).unwrap();
        assert_eq!(writer.offset(), chunk.offset + chunk.data.len() as u64);
    }
    let ready = writer.finish().unwrap();
    other.install(ready).unwrap();
    assert_same(&other, &run);
    let whole = chunks(&view);
    for chunk in &whole {
        let mut reader = view.reader_at(chunk.offset).unwrap();
        assert_eq!(reader.next_chunk().unwrap().as_ref(), Some(chunk));
        assert!(chunk.data.len() <= CHUNK_BYTES);
    }
    assert!(view.reader_at(1).is_err(), "no chunk begins there");
}

#[test]
fn a_damaged_or_short_stream_changes_nothing() {
    let (_, store, _) = grown(9, 80);
    let all = small(&store.view().unwrap(), 2_000);
    let (_, mut other, run) = grown(10, 30);
    let mut damaged = all.clone();
    let mut data = damaged[1].data.to_vec();
    data[5] ^= 1;
    damaged[1].data = Bytes::from(data);
    let error = take(&mut other, &damaged).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    let error = take(&mut other, &all[..all.len() - 1]).unwrap_err();
    assert!(error.to_string().contains("ended early"), "{error}");
    assert_same(&other, &run);
    take(&mut other, &all).unwrap();
}

#[test]
fn rows_that_are_not_the_state_of_the_header_are_refused() {
    let (_, store, _) = grown(11, 80);
    let mut view = store.view().unwrap();
    view.digest = Digest(1);
    let (_, mut other, run) = grown(12, 30);
    let error = take(&mut other, &chunks(&view)).unwrap_err();
    assert!(error.to_string().contains("digest"), "{error}");
    assert_same(&other, &run);
}

#[test]
fn a_power_cut_at_any_step_of_an_install_leaves_the_old_or_the_new() {
    let (_, source, new) = grown(13, 40);
    let stream = small(&source.view().unwrap(), 5_000);
    let (mut old_found, mut new_found) = (0, 0);
    let (mut died_at, mut survived) = (0, 0);
    loop {
        let (disk, mut store, old) = grown(14, 12);
        cut_power_at(&disk, died_at);
        let taken = take(&mut store, &stream);
        let back = disk.restart();
        let store = open(&back).unwrap();
        if store.applied() == source.applied() {
            assert_same(&store, &new);
            assert_eq!(store.membership(), source.membership());
            new_found += 1;
        } else {
            assert!(taken.is_err(), "step {died_at}: an install that returned is durable");
            assert_same(&store, &old);
            old_found += 1;
        }
        let generations = back.list(Path::new("/data")).unwrap();
        assert_eq!(generations.len(), 2, "no leftovers: {generations:?}");
        survived = if taken.is_ok() { survived + 1 } else { 0 };
        if survived == 2 {
            break;
        }
        died_at += 1;
    }
    assert!(old_found > 20 && new_found >= 1, "{old_found} old, {new_found} new");
}

#[test]
fn an_empty_store_has_nothing_to_view() {
    let store = open(&FaultyDisk::new(1)).unwrap();
    assert!(matches!(store.view(), Err(StoreError::Empty)));
}

#[test]
fn a_snapshot_that_comes_to_nothing_leaves_nothing() {
    let (_, source, _) = grown(15, 60);
    let (disk, mut store, run) = grown(16, 10);
    let all = small(&source.view().unwrap(), 3_000);
    let before = disk.list(Path::new("/data")).unwrap();
    let mut writer = store.begin_install().unwrap();
    for chunk in &all[..all.len() - 1] {
        writer.push(chunk).unwrap();
    }
    assert!(writer.finish().is_err());
    assert_eq!(disk.list(Path::new("/data")).unwrap(), before);
    let mut writer = store.begin_install().unwrap();
    for chunk in &all {
        writer.push(chunk).unwrap();
    }
    drop(writer.finish().unwrap());
    assert_eq!(disk.list(Path::new("/data")).unwrap(), before, "ready, and not wanted");
    assert_same(&store, &run);
}
