//! What a simulated power cut is made of: the disk refuses first, then the tasks are dropped,
//! and so a destructor that writes changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use zoneq::storage::disk::faulty::FaultyDisk;
use zoneq::storage::disk::{Disk, DiskFile, OpenMode};

/// Writes and syncs when it is dropped, as a database may.
struct TidiesUp(Arc<dyn DiskFile>);

impl Drop for TidiesUp {
    fn drop(&mut self) {
        let _ = self.0.write_all_at(b"tidied up", 0);
        let _ = self.0.sync_data();
    }
}

/// What the file holds after its host went down, with or without its disk going first.
fn survivor(power_first: bool) -> Vec<u8> {
    let disk = FaultyDisk::new(1);
    let path = Path::new("/file");
    let file = disk.open(path, OpenMode::CreateNew).expect("a new file");
    file.write_all_at(b"as it was", 0).expect("a write");
    file.sync_data().expect("a sync");
    disk.sync_dir(Path::new("/")).expect("a sync");
    let mut sim = turmoil::Builder::new().build();
    let own = Arc::clone(&file);
    sim.host("node", move || {
        let file = TidiesUp(Arc::clone(&own));
        async move {
            let _held = file;
            std::future::pending().await
        }
    });
    sim.client("clock", async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(())
    });
    sim.run().expect("a run");
    if power_first {
        disk.crash();
    }
    sim.crash("node");
    let disk = disk.restart();
    let file = disk.open(path, OpenMode::Read).expect("the file");
    let mut bytes = vec![0; 9];
    file.read_exact_at(&mut bytes, 0).expect("a read");
    bytes
}

#[test]
fn a_destructor_that_writes_changes_nothing_once_the_power_is_off() {
    assert_eq!(survivor(true), b"as it was");
}

#[test]
fn without_the_disk_going_first_it_would() {
    assert_eq!(survivor(false), b"tidied up");
}
