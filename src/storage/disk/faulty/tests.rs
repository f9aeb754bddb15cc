use super::*;

fn open(disk: &FaultyDisk, name: &str) -> Arc<dyn DiskFile> {
    disk.open(Path::new(name), OpenMode::OpenOrCreate).expect("a file")
}

fn bytes(disk: &FaultyDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(Path::new(name), OpenMode::Read).ok()?;
    let mut read = vec![0; file.len().ok()? as usize];
    file.read_exact_at(&mut read, 0).ok()?;
    Some(read)
}

#[test]
fn what_was_synced_survives_and_what_was_not_may_be_torn() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..200 {
        let disk = FaultyDisk::new(seed);
        let file = open(&disk, "f");
        file.write_all_at(&[1; 2048], 0).expect("a write");
        file.sync_data().expect("a sync");
        disk.sync_dir(Path::new("")).expect("a sync");
        file.write_all_at(&[2; 2048], 0).expect("a write");
        let disk = disk.restart();
        let read = bytes(&disk, "f").expect("the file is durable");
        for block in read.chunks(512) {
            assert!(block.iter().all(|byte| *byte == block[0]), "a block is written as a whole");
        }
        match read.iter().filter(|byte| **byte == 2).count() {
            0 => lost += 1,
            2048 => kept += 1,
            _ => torn += 1,
        }
    }
    assert!(kept > 0 && lost > 0 && torn > 0, "{kept} {lost} {torn}");
}

#[test]
fn a_name_counts_after_its_folder_was_synced() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = FaultyDisk::new(seed);
        open(&disk, "old").sync_data().expect("a sync");
        disk.sync_dir(Path::new("")).expect("a sync");
        disk.rename(Path::new("old"), Path::new("new")).expect("a rename");
        let disk = disk.restart();
        let names = (disk.exists(Path::new("old")), disk.exists(Path::new("new")));
        assert!(names.0 != names.1, "a rename is whole");
        lost += u32::from(names.0);
    }
    assert!(lost > 0 && lost < 50, "{lost}");
}

#[derive(Debug)]
struct WritesWhenDropped(Arc<dyn DiskFile>);

impl Drop for WritesWhenDropped {
    fn drop(&mut self) {
        let written = self.0.write_all_at(b"last words", 0);
        assert!(written.is_err() && self.0.sync_data().is_err() && self.0.set_len(0).is_err());
    }
}

#[test]
fn a_destructor_that_writes_after_the_crash_changes_nothing() {
    let disk = FaultyDisk::new(1);
    let file = open(&disk, "f");
    file.write_all_at(b"before", 0).expect("a write");
    file.sync_data().expect("a sync");
    disk.sync_dir(Path::new("")).expect("a sync");
    let writer = WritesWhenDropped(file);
    disk.crash();
    let after = disk.restart();
    drop(writer);
    assert_eq!(bytes(&after, "f").as_deref(), Some(&b"before"[..]));
    assert!(disk.open(Path::new("f"), OpenMode::Read).is_err(), "the old disk stays off");
}

#[test]
fn a_sync_that_failed_is_not_made_good_by_the_next() {
    let disk = FaultyDisk::new(3);
    let file = open(&disk, "f");
    disk.sync_dir(Path::new("")).expect("a sync");
    disk.fail_sync(1);
    file.write_all_at(b"gone", 0).expect("a write");
    assert!(file.sync_data().is_err());
    file.sync_data().expect("succeeds, and means nothing");
    assert_eq!(bytes(&disk.restart(), "f").as_deref(), Some(&b""[..]));
}

#[test]
fn a_full_disk_refuses_growth_only() {
    let disk = FaultyDisk::new(3);
    disk.set_capacity(100);
    let file = open(&disk, "f");
    file.write_all_at(&[1; 100], 0).expect("fits");
    let more = file.write_all_at(&[1; 1], 100).map_err(|error| error.kind());
    assert_eq!(more, Err(io::ErrorKind::StorageFull));
    file.write_all_at(&[2; 100], 0).expect("overwriting needs no space");
    assert_eq!(disk.free_bytes(Path::new("f")).expect("a figure"), 0);
}

#[test]
fn the_power_goes_at_the_planned_write_and_a_lock_goes_with_it() {
    let disk = FaultyDisk::new(9);
    let held = disk.lock(Path::new("d")).expect("a lock");
    assert!(disk.lock(Path::new("d")).is_err());
    let file = open(&disk, "f");
    disk.kill_at_write(2);
    file.write_all_at(b"1", 0).expect("the first");
    assert!(file.write_all_at(b"2", 1).is_err());
    assert!(disk.is_crashed());
    let disk = disk.restart();
    let _again = disk.lock(Path::new("d")).expect("free after the crash");
    drop(held);
    assert!(disk.lock(Path::new("d")).is_err(), "an old lock does not free the new one");
}

#[test]
fn a_planned_failure_is_eio() {
    let disk = FaultyDisk::new(9);
    let file = open(&disk, "f");
    disk.fail_op(2);
    file.write_all_at(b"1", 0).expect("the first");
    let second = file.write_all_at(b"2", 1).map_err(|error| error.raw_os_error());
    assert_eq!(second, Err(Some(EIO)));
    file.write_all_at(b"3", 2).expect("the third");
}
