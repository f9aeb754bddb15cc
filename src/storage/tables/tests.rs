//! The same questions to every engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::storage::disk::faulty::FaultyDisk;
use crate::storage::testing::cut_power_at;

/// An engine, opened again and again over the same files.
struct Bench {
    kind: EngineKind,
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Bench {
    fn all(name: &str) -> Vec<Bench> {
        let dir = PathBuf::from("/").join(name);
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(1));
        disk.create_dir_all(&dir).unwrap();
        let memory =
            Bench { kind: EngineKind::Memory, disk: disk.clone(), dir: dir.clone(), _folder: None };
        let redb = Bench { kind: EngineKind::Redb, disk: disk.clone(), dir, _folder: None };
        #[cfg(feature = "sled")]
        {
            let folder = tempfile::tempdir().unwrap();
            let dir = folder.path().to_path_buf();
            let sled = Bench { kind: EngineKind::Sled, disk, dir, _folder: Some(folder) };
            vec![memory, redb, sled]
        }
        #[cfg(not(feature = "sled"))]
        vec![memory, redb]
    }

    fn open(&self) -> Arc<dyn Tables> {
        self.kind.open(&self.disk, &self.dir).unwrap()
    }
}

fn key(n: u32) -> Vec<u8> {
    [&[7][..], &n.to_be_bytes()].concat()
}

fn put(n: u32, value: &str) -> (Vec<u8>, Option<Vec<u8>>) {
    (key(n), Some(value.as_bytes().to_vec()))
}

fn rows(tables: &dyn TablesRead) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows = Rows::new(tables, Span::tag(7));
    let found = rows.by_ref().collect();
    rows.result().unwrap();
    found
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    for bench in Bench::all("reopen") {
        let tables = bench.open();
        assert!(rows(&*tables).is_empty());
        assert_eq!(tables.get(&key(1)).unwrap(), None);
        tables.commit(&vec![put(1, "one"), put(2, "two"), put(3, "three")]).unwrap();
        tables.commit(&vec![put(2, "zwei"), (key(3), None), (key(9), None)]).unwrap();
        drop(tables);
        let tables = bench.open();
        assert_eq!(tables.get(&key(2)).unwrap().as_deref(), Some(&b"zwei"[..]));
        let keys: Vec<_> = rows(&*tables).into_keys().collect();
        assert_eq!(keys, [key(1), key(2)], "{:?}", bench.kind);
    }
}

#[test]
fn a_view_never_changes() {
    for bench in Bench::all("view") {
        let tables = bench.open();
        tables.commit(&vec![put(1, "one"), put(2, "two")]).unwrap();
        let view = tables.snapshot().unwrap();
        let before = rows(&*view);
        for n in 0..50 {
            tables.commit(&vec![put(n, "new"), (key(n + 1), None)]).unwrap();
        }
        assert_eq!(rows(&*view), before, "{:?}", bench.kind);
        assert_ne!(rows(&*tables), before);
    }
}

#[test]
fn pages_hold_every_row_once_and_no_other_tag() {
    for bench in Bench::all("pages") {
        let tables = bench.open();
        let mut batch: Batch = (0..3000).map(|n| put(n, &"x".repeat(300))).collect();
        batch.push((vec![6, 255], Some(vec![1])));
        batch.push((vec![8], Some(vec![1])));
        tables.commit(&batch).unwrap();
        assert_eq!(rows(&*tables).len(), 3000, "{:?}", bench.kind);
        let page = tables.page(&Span::tag(7), 1).unwrap();
        assert_eq!(page.len(), 1, "a page has at least one row");
    }
}

#[test]
fn redb_takes_a_commit_again_that_found_the_disk_full_wherever_that_was() {
    let (mut full, mut grew) = (0, 0);
    for blocks in 0..400 {
        let disk = FaultyDisk::new(blocks);
        let dir = Path::new("/t");
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        disk.create_dir_all(dir).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let tables = EngineKind::Redb.open(&shared, dir).unwrap();
        tables.commit(&(0..60).map(|n| put(n, "before")).collect()).unwrap();
        let before = rows(&*tables);
        disk.set_capacity(disk.used_bytes() + blocks * 4_096);
        let large: Batch = (30..90).map(|n| put(n, &"x".repeat(9_000))).collect();
        match tables.commit(&large) {
            Ok(()) => grew += 1,
            Err(TablesError::NoRoom) => {
                full += 1;
                assert_eq!(rows(&*tables), before, "nothing of it counts");
                assert!(matches!(tables.commit(&large), Err(TablesError::NoRoom)), "still full");
                tables.commit(&vec![put(0, "small")]).unwrap();
                disk.set_capacity(u64::MAX);
                tables.commit(&large).unwrap();
            }
            Err(error) => panic!("{blocks}: {error:?}"),
        }
        let after = rows(&*tables);
        assert_eq!(after.len(), 90);
        drop(tables);
        let back: Arc<dyn Disk> = Arc::new(disk.restart());
        let tables = EngineKind::Redb.open(&back, dir).unwrap();
        assert_eq!(rows(&*tables), after);
    }
    assert!(full > 5 && grew > 5, "{full} were full, {grew} were not");
}

#[test]
fn redb_is_whole_after_a_power_cut_at_any_step() {
    for seed in 0..4 {
        let (mut died_at, mut survived) = (0, 0);
        loop {
            let disk = FaultyDisk::new(seed);
            let dir = Path::new("/t");
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            disk.create_dir_all(dir).unwrap();
            disk.sync_dir(Path::new("/")).unwrap();
            // A file that was not whole when it was made belongs to no store yet.
            let tables = EngineKind::Redb.open(&shared, dir).unwrap();
            cut_power_at(&disk, died_at);
            let (mut done, mut tried) = (0, 0);
            for n in 1..=6 {
                tried = n;
                if tables.commit(&vec![put(n, "x"), put(100, &n.to_string())]).is_err() {
                    break;
                }
                done = n;
            }
            drop(tables);
            let back: Arc<dyn Disk> = Arc::new(disk.restart());
            back.create_dir_all(dir).unwrap();
            let tables = EngineKind::Redb.open(&back, dir).unwrap();
            let last = tables
                .get(&key(100))
                .unwrap()
                .map_or(0, |value| String::from_utf8(value).unwrap().parse::<u32>().unwrap());
            assert!((done..=tried).contains(&last), "step {died_at}: {last}, {done} were durable");
            assert_eq!(rows(&*tables).len() as u32, if last == 0 { 0 } else { last + 1 });
            survived = if done == 6 { survived + 1 } else { 0 };
            if survived == 2 {
                break;
            }
            died_at += 1;
        }
        assert!(died_at > 20, "the run was cut at {died_at} steps");
    }
}

/// Rows in redb, closed again, with one bit flipped; what opening and reading them comes to.
fn read_rotten(offset: u64, bit: u8) -> Result<usize, TablesError> {
    let disk = FaultyDisk::new(1);
    let (dir, shared): (_, Arc<dyn Disk>) = (Path::new("/t"), Arc::new(disk.clone()));
    disk.create_dir_all(dir).unwrap();
    let tables = EngineKind::Redb.open(&shared, dir).unwrap();
    let batch: Batch = (0..200).map(|n| put(n, &"x".repeat(60))).collect();
    tables.commit(&batch).unwrap();
    drop(tables);
    if disk.flip_bit(&dir.join("rows.redb"), offset, bit).is_err() {
        return Ok(0); // The file is shorter.
    }
    let tables = EngineKind::Redb.open(&shared, dir)?;
    let mut rows = Rows::new(&*tables, Span::tag(7));
    let count = rows.by_ref().count();
    rows.result()?;
    tables.commit(&vec![put(500, "y")])?;
    Ok(count)
}

#[test]
fn redb_with_a_page_that_rotted_is_read_or_found_damaged_and_never_panics() {
    let places = (0..24_u64).flat_map(|page| [0, 2, 3, 5, 9].map(|at| page * 4096 + at));
    let read: Vec<_> = places.flat_map(|at| [(at, 3), (at, 7)]).collect();
    let read: Vec<_> = read.into_iter().map(|(at, bit)| read_rotten(at, bit)).collect();
    let errors: Vec<&TablesError> = read.iter().filter_map(|it| it.as_ref().err()).collect();
    assert!(errors.iter().all(|error| error.is_damage()), "{errors:?}");
    let panicked = |error: &&&TablesError| format!("{error:?}").contains("Unsound");
    let panics = errors.iter().filter(panicked).count();
    assert!(panics > 0, "none of {} errors was a panic: look for other places", errors.len());
    assert!(read.iter().any(Result::is_ok), "a bit that means nothing is no damage");
}
