//! A disk in memory that fails as disks do, decided by a seed: for tests and the simulator.
//!
//! What it models: a write counts only after `sync_data`; at a crash each 512-byte block of
//! each unsynced write survives or not; creates, renames and removals count only after
//! `sync_dir`, of the unsynced ones in a folder a prefix survives. After a crash every handle
//! refuses all I/O, so a destructor that writes changes nothing; [`FaultyDisk::restart`] gives
//! the disk that survived. After a failed sync the data is dropped, as Linux does: a later sync
//! succeeds and means nothing. Folders are durable as soon as made.

mod content;
mod dice;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use content::Inode;
pub use dice::Dice;

use super::{Disk, DiskFile, DiskLock, FlushMode, OpenMode};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Cheap to clone; all clones are the same disk in the same life.
#[derive(Debug, Clone)]
pub struct FaultyDisk {
    inner: Arc<Mutex<Inner>>,
    life: u64,
    mode: FlushMode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Folder,
    File(u64),
}

/// A change of names that its folder's sync has not covered.
#[derive(Debug)]
enum NameChange {
    Put(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

#[derive(Debug)]
struct Inner {
    dice: Dice,
    /// Grows at every crash; a handle of an earlier life is refused.
    life: u64,
    crashed: bool,
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    name_changes: Vec<NameChange>,
    locks: BTreeSet<PathBuf>,
    ops: u64,
    writes: u64,
    syncs: u64,
    kill_at_write: Option<u64>,
    kill_at_sync: Option<u64>,
    fail_op: Option<u64>,
    fail_sync: Option<u64>,
    capacity: u64,
    sync_delay: Duration,
}

impl FaultyDisk {
    #[must_use]
    pub fn new(seed: u64) -> FaultyDisk {
        let inner = Inner {
            dice: Dice::new(seed),
            life: 0,
            crashed: false,
            inodes: BTreeMap::new(),
            next_inode: 1,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            locks: BTreeSet::new(),
            ops: 0,
            writes: 0,
            syncs: 0,
            kill_at_write: None,
            kill_at_sync: None,
            fail_op: None,
            fail_sync: None,
            capacity: 1 << 40,
            sync_delay: Duration::ZERO,
        };
        FaultyDisk { inner: Arc::new(Mutex::new(inner)), life: 0, mode: FlushMode::Inline }
    }

    /// The same disk for code that flushes on threads.
    #[must_use]
    pub fn with_flush_mode(mut self, mode: FlushMode) -> FaultyDisk {
        self.mode = mode;
        self
    }

    /// The disk as a trait object.
    #[must_use]
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the power: every handle refuses from now on.
    pub fn crash(&self) {
        self.inner().crash();
    }

    #[must_use]
    pub fn is_crashed(&self) -> bool {
        self.inner().crashed
    }

    /// The disk that survived; crashes first if nobody did. Counters and planned faults start
    /// anew; capacity and delay stay.
    #[must_use]
    pub fn restart(&self) -> FaultyDisk {
        let mut inner = self.inner();
        inner.crash();
        inner.crashed = false;
        inner.writes = 0;
        inner.syncs = 0;
        inner.ops = 0;
        inner.kill_at_write = None;
        inner.kill_at_sync = None;
        inner.fail_op = None;
        inner.fail_sync = None;
        FaultyDisk { inner: Arc::clone(&self.inner), life: inner.life, mode: self.mode }
    }

    /// Cuts the power in the middle of the `n`th change from now, from 1: writes, lengths,
    /// creates, renames and removals count.
    pub fn kill_at_write(&self, n: u64) {
        let mut inner = self.inner();
        inner.kill_at_write = Some(inner.writes + n);
    }

    /// Cuts the power in the `n`th sync from now, from 1, before it did its work.
    pub fn kill_at_sync(&self, n: u64) {
        let mut inner = self.inner();
        inner.kill_at_sync = Some(inner.syncs + n);
    }

    /// Lets the `n`th operation on a file from now fail with EIO.
    pub fn fail_op(&self, n: u64) {
        let mut inner = self.inner();
        inner.fail_op = Some(inner.ops + n);
    }

    /// Lets the `n`th sync of a file from now fail with EIO and drop what it should have kept.
    pub fn fail_sync(&self, n: u64) {
        let mut inner = self.inner();
        inner.fail_sync = Some(inner.syncs + n);
    }

    /// Bytes that all files together may hold.
    pub fn set_capacity(&self, bytes: u64) {
        self.inner().capacity = bytes;
    }

    /// What a flush takes; awaited by those that flush inline.
    pub fn set_sync_delay(&self, delay: Duration) {
        self.inner().sync_delay = delay;
    }

    /// Changes so far in this life.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.inner().writes
    }

    /// Syncs so far in this life.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.inner().syncs
    }

    /// Bytes that all files hold.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.inner().used()
    }

    /// Rots one bit where it lies, as the next reader sees it and after any crash.
    ///
    /// # Errors
    /// `NotFound` when there is no such file, `UnexpectedEof` beyond its end.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut inner = self.inner();
        let inode = inner.file_at(path)?;
        let inode = inner.inodes.get_mut(&inode).ok_or(io::ErrorKind::NotFound)?;
        inode.flip(offset, bit)
    }
}

impl Inner {
    fn used(&self) -> u64 {
        self.inodes.values().map(Inode::len).sum()
    }

    fn file_at(&self, path: &Path) -> io::Result<u64> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Refuses handles of an earlier life, and fails the planned operation.
    fn admit(&mut self, life: u64) -> io::Result<()> {
        if self.crashed || life != self.life {
            return Err(io::Error::other("the power is off"));
        }
        self.ops += 1;
        if self.fail_op == Some(self.ops) {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        Ok(())
    }

    /// Called after a change went to the unsynced part: the power may go now.
    fn count_write(&mut self) -> io::Result<()> {
        self.writes += 1;
        if self.kill_at_write == Some(self.writes) {
            self.crash();
            return Err(io::Error::other("the power went off in a write"));
        }
        Ok(())
    }

    /// Called before a sync does its work.
    fn count_sync(&mut self) -> io::Result<()> {
        self.syncs += 1;
        if self.kill_at_sync == Some(self.syncs) {
            self.crash();
            return Err(io::Error::other("the power went off in a sync"));
        }
        Ok(())
    }

    fn crash(&mut self) {
        if self.crashed {
            return;
        }
        self.crashed = true;
        self.life += 1;
        self.locks.clear();
        let changes = std::mem::take(&mut self.name_changes);
        let mut cut: BTreeSet<PathBuf> = BTreeSet::new();
        for change in changes {
            let folder = change.folder();
            if cut.contains(&folder) {
                continue;
            }
            if self.dice.below(3) == 0 {
                cut.insert(folder);
                continue;
            }
            change.apply(&mut self.durable_names);
        }
        let folders: BTreeSet<PathBuf> = self
            .durable_names
            .iter()
            .filter(|(_, node)| **node == Node::Folder)
            .map(|(path, _)| path.clone())
            .collect();
        self.durable_names
            .retain(|path, _| path.parent().is_none_or(|p| is_root(p) || folders.contains(p)));
        self.names = self.durable_names.clone();
        for inode in self.inodes.values_mut() {
            inode.crash(&mut self.dice);
        }
        let alive: BTreeSet<u64> = self
            .names
            .values()
            .filter_map(|node| if let Node::File(inode) = node { Some(*inode) } else { None })
            .collect();
        self.inodes.retain(|inode, _| alive.contains(inode));
    }

    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        change.apply(&mut self.names);
        self.name_changes.push(change);
        self.count_write()
    }

    fn sync_folder(&mut self, folder: &Path) {
        let changes = std::mem::take(&mut self.name_changes);
        for change in changes {
            if change.folder() == folder {
                change.apply(&mut self.durable_names);
            } else {
                self.name_changes.push(change);
            }
        }
        self.forget_unnamed();
    }

    /// Drops files that no name, handle or unsynced change can reach.
    fn forget_unnamed(&mut self) {
        let changed = self.name_changes.iter().filter_map(|change| match change {
            NameChange::Put(_, Node::File(inode)) | NameChange::Rename(_, _, Node::File(inode)) => {
                Some(*inode)
            }
            _ => None,
        });
        let named = self
            .names
            .values()
            .chain(self.durable_names.values())
            .filter_map(|node| if let Node::File(inode) = node { Some(*inode) } else { None });
        let alive: BTreeSet<u64> = changed.chain(named).collect();
        self.inodes.retain(|id, inode| inode.handles > 0 || alive.contains(id));
    }
}

impl NameChange {
    fn folder(&self) -> PathBuf {
        let path = match self {
            NameChange::Put(path, _)
            | NameChange::Remove(path)
            | NameChange::Rename(_, path, _) => path,
        };
        path.parent().map(Path::to_path_buf).unwrap_or_default()
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            NameChange::Put(path, node) => {
                names.insert(path.clone(), *node);
            }
            NameChange::Remove(path) => {
                names.retain(|name, _| !name.starts_with(path));
            }
            NameChange::Rename(from, to, node) => {
                let moved: Vec<PathBuf> =
                    names.keys().filter(|name| name.starts_with(from)).cloned().collect();
                for name in moved {
                    let (Some(node), Ok(rest)) = (names.remove(&name), name.strip_prefix(from))
                    else {
                        continue;
                    };
                    let to = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                    names.insert(to, node);
                }
                names.insert(to.clone(), *node);
            }
        }
    }
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path.parent().is_none()
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    inode: u64,
    writable: bool,
}

impl FaultyFile {
    fn with<T>(&self, act: impl FnOnce(&mut Inner, u64) -> io::Result<T>) -> io::Result<T> {
        let mut inner = self.disk.inner();
        inner.admit(self.disk.life)?;
        act(&mut inner, self.inode)
    }

    fn write(&self, data: Vec<u8>, offset: u64) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.with(|inner, id| {
            let used = inner.used();
            let capacity = inner.capacity;
            let inode = inner.inodes.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
            let end = offset + data.len() as u64;
            if used + end.saturating_sub(inode.len()) > capacity && end > inode.len() {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            inode.write(offset, data);
            inner.count_write()
        })
    }
}

impl Drop for FaultyFile {
    fn drop(&mut self) {
        let mut inner = self.disk.inner();
        if inner.life != self.disk.life {
            return;
        }
        if let Some(inode) = inner.inodes.get_mut(&self.inode) {
            inode.handles = inode.handles.saturating_sub(1);
        }
        inner.forget_unnamed();
    }
}

impl DiskFile for FaultyFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|inner, id| {
            inner.inodes.get(&id).ok_or(io::ErrorKind::NotFound)?.read(buf, offset)
        })
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write(buf.to_vec(), offset)
    }

    fn write_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write(bufs.concat(), offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|inner, id| {
            let used = inner.used();
            let capacity = inner.capacity;
            let inode = inner.inodes.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
            if len > inode.len() && used + (len - inode.len()) > capacity {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            inode.set_len(len);
            inner.count_write()
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|inner, id| Ok(inner.inodes.get(&id).ok_or(io::ErrorKind::NotFound)?.len()))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|inner, id| {
            inner.count_sync()?;
            let failed = inner.fail_sync == Some(inner.syncs);
            let inode = inner.inodes.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
            if failed {
                inode.forget_unsynced();
                return Err(io::Error::from_raw_os_error(EIO));
            }
            inode.sync();
            Ok(())
        })
    }
}

#[derive(Debug)]
struct FaultyLock {
    disk: FaultyDisk,
    path: PathBuf,
}

impl DiskLock for FaultyLock {}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut inner = self.disk.inner();
        if inner.life == self.disk.life {
            inner.locks.remove(&self.path);
        }
    }
}

impl Disk for FaultyDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut inner = self.inner();
        inner.admit(self.life)?;
        let found = inner.names.get(path).copied();
        let inode = match (found, mode) {
            (Some(Node::Folder), _) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(Node::File(_)), OpenMode::CreateNew) => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            (Some(Node::File(inode)), _) => inode,
            (None, OpenMode::Read | OpenMode::ReadWrite) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            (None, OpenMode::CreateNew | OpenMode::OpenOrCreate) => {
                let parent = path.parent().unwrap_or(Path::new(""));
                if !is_root(parent) && inner.names.get(parent) != Some(&Node::Folder) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let inode = inner.next_inode;
                inner.next_inode += 1;
                inner.inodes.insert(inode, Inode::default());
                inner.change_names(NameChange::Put(path.to_path_buf(), Node::File(inode)))?;
                inode
            }
        };
        if let Some(inode) = inner.inodes.get_mut(&inode) {
            inode.handles += 1;
        }
        let writable = mode != OpenMode::Read;
        Ok(Arc::new(FaultyFile { disk: self.clone(), inode, writable }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.admit(self.life)?;
        for folder in path.ancestors().filter(|folder| !is_root(folder)) {
            if matches!(inner.names.get(folder), Some(Node::File(_))) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            inner.names.insert(folder.to_path_buf(), Node::Folder);
            inner.durable_names.insert(folder.to_path_buf(), Node::Folder);
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut inner = self.inner();
        inner.admit(self.life)?;
        if !is_root(path) && inner.names.get(path) != Some(&Node::Folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(inner.names.keys().filter(|name| name.parent() == Some(path)).cloned().collect())
    }

    fn exists(&self, path: &Path) -> bool {
        let inner = self.inner();
        !inner.crashed
            && inner.life == self.life
            && (is_root(path) || inner.names.contains_key(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.admit(self.life)?;
        let node = *inner.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        inner.change_names(NameChange::Rename(from.to_path_buf(), to.to_path_buf(), node))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.admit(self.life)?;
        inner.file_at(path)?;
        inner.change_names(NameChange::Remove(path.to_path_buf()))
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.admit(self.life)?;
        if inner.names.get(path) != Some(&Node::Folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        inner.change_names(NameChange::Remove(path.to_path_buf()))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.inner();
        inner.admit(self.life)?;
        inner.count_sync()?;
        inner.sync_folder(path);
        Ok(())
    }

    fn free_bytes(&self, _path: &Path) -> io::Result<u64> {
        let mut inner = self.inner();
        inner.admit(self.life)?;
        Ok(inner.capacity.saturating_sub(inner.used()))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let mut inner = self.inner();
        inner.admit(self.life)?;
        if !inner.locks.insert(path.to_path_buf()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(FaultyLock { disk: self.clone(), path: path.to_path_buf() }))
    }

    fn flush_mode(&self) -> FlushMode {
        self.mode
    }

    fn sync_delay(&self) -> Duration {
        self.inner().sync_delay
    }
}

#[cfg(test)]
mod tests;
