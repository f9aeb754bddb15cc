//! The data directory: whose it is, in which format, and that one process uses it.
//!
//! Refused, each with its own error: a folder that another process holds, one of another
//! cluster, of another node (its region or zone changed included), of a newer format, and one
//! whose identity is missing or bad while other files are there.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::disk::{Disk, DiskLock, OpenMode};
use super::error::{StorageError, during};

/// Raised when an older program could misread what a newer one writes.
pub const FORMAT: u32 = 1;

const IDENTITY: &str = "identity.json";
const BESIDE: &str = "identity.json.tmp";
/// An identity is some hundred bytes.
const MAX_BYTES: u64 = 64 << 10;

/// Who a data directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub cluster_id: String,
    pub node_id: u64,
    pub region: String,
    pub zone: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Written {
    format: u32,
    #[serde(flatten)]
    identity: Identity,
    /// crc32c over the other fields.
    checksum: u32,
}

/// A locked data directory; the lock goes with it.
#[derive(Debug)]
pub struct DataDir {
    dir: PathBuf,
    identity: Identity,
    created: bool,
    _lock: Box<dyn DiskLock>,
}

impl DataDir {
    /// Locks the folder, then makes it this node's or checks that it is.
    ///
    /// # Errors
    /// As the head of this file says.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        identity: Identity,
    ) -> Result<DataDir, StorageError> {
        disk.create_dir_all(dir).map_err(during("create", dir))?;
        let lock = disk.lock(dir).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StorageError::Locked { path: dir.to_path_buf() },
            _ => StorageError::io("lock", dir, error),
        })?;
        let created = match read_identity(disk.as_ref(), dir)? {
            Some(found) => {
                check_identity(dir, &found, &identity)?;
                false
            }
            None => {
                write_identity(disk.as_ref(), dir, &identity)?;
                true
            }
        };
        Ok(DataDir { dir: dir.to_path_buf(), identity, created, _lock: lock })
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether this call made it.
    #[must_use]
    pub fn created(&self) -> bool {
        self.created
    }
}

/// Reads whose folder it is; `None` for an empty one. Takes no lock.
///
/// # Errors
/// When the identity is bad, newer, or missing beside other files.
pub fn read_identity(disk: &dyn Disk, dir: &Path) -> Result<Option<Identity>, StorageError> {
    let path = dir.join(IDENTITY);
    if !disk.exists(&path) {
        let known = [dir.join("LOCK"), dir.join(BESIDE)];
        let files = disk.list(dir).map_err(during("list", dir))?;
        return match files.into_iter().find(|file| !known.contains(file)) {
            None => Ok(None),
            Some(file) => {
                let what = format!("it has no identity, but {} is there", file.display());
                Err(StorageError::damaged(dir, what))
            }
        };
    }
    let file = disk.open(&path, OpenMode::Read).map_err(during("open", &path))?;
    let len = file.len().map_err(during("measure", &path))?;
    if len > MAX_BYTES {
        return Err(StorageError::damaged(&path, "it is too long for an identity"));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(during("read", &path))?;
    let bad = |error: serde_json::Error| StorageError::damaged(&path, error.to_string());
    // The format comes first: a newer one may have other fields.
    let any: serde_json::Value = serde_json::from_slice(&bytes).map_err(bad)?;
    let format = any.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
    if format > u64::from(FORMAT) {
        let found = u32::try_from(format).unwrap_or(u32::MAX);
        return Err(StorageError::NewerFormat { path, found, known: FORMAT });
    }
    let written: Written = serde_json::from_value(any).map_err(bad)?;
    if written.checksum != checksum(written.format, &written.identity) {
        return Err(StorageError::damaged(&path, "its checksum is bad"));
    }
    Ok(Some(written.identity))
}

fn checksum(format: u32, identity: &Identity) -> u32 {
    let Identity { cluster_id, node_id, region, zone } = identity;
    crc32c::crc32c(format!("{format}\n{cluster_id}\n{node_id}\n{region}\n{zone}").as_bytes())
}

fn write_identity(disk: &dyn Disk, dir: &Path, identity: &Identity) -> Result<(), StorageError> {
    let (path, beside) = (dir.join(IDENTITY), dir.join(BESIDE));
    let checksum = checksum(FORMAT, identity);
    let written = Written { format: FORMAT, identity: identity.clone(), checksum };
    let mut bytes = serde_json::to_vec_pretty(&written)
        .map_err(|error| StorageError::io("encode", &path, error.into()))?;
    bytes.push(b'\n');
    let file = disk.open(&beside, OpenMode::OpenOrCreate).map_err(during("create", &beside))?;
    file.set_len(0).map_err(during("cut", &beside))?;
    file.write_all_at(&bytes, 0).map_err(during("write", &beside))?;
    file.sync_data().map_err(during("sync", &beside))?;
    disk.rename(&beside, &path).map_err(during("rename", &beside))?;
    disk.sync_dir(dir).map_err(during("sync", dir))
}

/// Whether a folder is the one that is wanted.
///
/// # Errors
/// [`StorageError::ForeignCluster`] or [`StorageError::ForeignNode`].
pub fn check_identity(dir: &Path, found: &Identity, wanted: &Identity) -> Result<(), StorageError> {
    let path = dir.to_path_buf();
    if found.cluster_id != wanted.cluster_id {
        let (found, expected) = (found.cluster_id.clone(), wanted.cluster_id.clone());
        return Err(StorageError::ForeignCluster { path, found, expected });
    }
    same(&path, "node", &found.node_id, &wanted.node_id)?;
    same(&path, "region", &found.region, &wanted.region)?;
    same(&path, "zone", &found.zone, &wanted.zone)
}

fn same<T: PartialEq + Display>(
    path: &Path,
    what: &'static str,
    found: &T,
    expected: &T,
) -> Result<(), StorageError> {
    if found == expected {
        return Ok(());
    }
    let (found, expected) = (found.to_string(), expected.to_string());
    Err(StorageError::ForeignNode { path: path.to_path_buf(), what, found, expected })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::faulty::FaultyDisk;

    fn identity() -> Identity {
        Identity {
            cluster_id: "c1".to_owned(),
            node_id: 3,
            region: "east".to_owned(),
            zone: "z1".to_owned(),
        }
    }

    fn open(disk: &FaultyDisk, identity: Identity) -> Result<DataDir, StorageError> {
        DataDir::open(&disk.shared(), Path::new("data"), identity)
    }

    #[test]
    fn a_folder_is_its_nodes_alone_and_held_by_one() {
        let disk = FaultyDisk::new(1);
        let held = open(&disk, identity()).expect("a new folder");
        assert!(held.created());
        assert!(matches!(open(&disk, identity()), Err(StorageError::Locked { .. })));
        drop(held);
        assert!(!open(&disk, identity()).expect("mine").created());
        let other = open(&disk, Identity { cluster_id: "c2".to_owned(), ..identity() });
        assert!(matches!(other, Err(StorageError::ForeignCluster { .. })), "{other:?}");
        for (what, other) in [
            ("node", Identity { node_id: 4, ..identity() }),
            ("region", Identity { region: "west".to_owned(), ..identity() }),
            ("zone", Identity { zone: "z2".to_owned(), ..identity() }),
        ] {
            let refused = open(&disk, other).expect_err("not mine").to_string();
            assert!(refused.contains(what), "{refused}");
        }
    }

    #[test]
    fn rot_a_newer_format_and_a_lost_identity_are_told_apart() {
        let disk = FaultyDisk::new(1);
        drop(open(&disk, identity()).expect("a new folder"));
        let path = Path::new("data/identity.json");
        let file = disk.open(path, OpenMode::ReadWrite).expect("there");
        file.write_all_at(b"{\"format\": 2}", 0).expect("a write");
        file.set_len(13).expect("a cut");
        let newer = open(&disk, identity());
        assert!(matches!(newer, Err(StorageError::NewerFormat { found: 2, .. })), "{newer:?}");
        file.write_all_at(b"{\"format\": 1}", 0).expect("a write");
        assert!(matches!(open(&disk, identity()), Err(StorageError::Damaged { .. })));
        disk.rename(path, Path::new("data/other")).expect("a rename");
        assert!(matches!(open(&disk, identity()), Err(StorageError::Damaged { .. })));
    }

    #[test]
    fn a_cut_while_a_folder_is_made_leaves_one_that_can_be_made() {
        for seed in 0..20 {
            for nth in 1..6 {
                let disk = FaultyDisk::new(seed);
                disk.kill_at_write(nth);
                drop(open(&disk, identity()));
                open(&disk.restart(), identity()).expect("opens after the cut");
            }
        }
    }
}
