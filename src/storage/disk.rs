//! The few file operations that zoneq uses, as a trait: the real disk and the faulty one of
//! the tests. Everything is synchronous; who calls it decides what may block (see
//! [`FlushMode`]).

pub mod faulty;
pub mod overlay;
pub mod real;
mod streamed;

use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Whether slow work may hide behind a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushMode {
    /// The real disk: flushes run on standing threads.
    Threads,
    /// A simulated disk: flushes run inline on a task of the simulation's runtime, so that a
    /// seed decides their order; [`Disk::sync_delay`] is awaited before each.
    Inline,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; never written.
    Read,
    /// Must exist.
    ReadWrite,
    /// Must not exist.
    CreateNew,
    /// Made when missing, kept when there.
    OpenOrCreate,
}

/// One open file. Writes are durable after `sync_data` returned and, for a new file, after
/// the folder that holds it was synced.
#[allow(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait DiskFile: Send + Sync + Debug {
    /// Fills `buf` from `offset`; an early end of the file is `UnexpectedEof`.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Writes the slices one after another from `offset`.
    fn write_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    /// fdatasync: data and length are durable. A failure is fatal to the node, never retried.
    fn sync_data(&self) -> io::Result<()>;
}

/// A lock on a folder, held until dropped.
pub trait DiskLock: Send + Sync + Debug {}

pub trait Disk: Send + Sync + Debug + 'static {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>>;
    /// As [`Disk::open`], for a file that is written in order and hardly read again: writes need
    /// not go through the page cache. What lies behind a write in its last 4 KiB block becomes
    /// zero, and the file may end up to a block later than what was written.
    fn open_streamed(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path, mode)
    }
    /// Makes the folder and those above it, durably.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Full paths of the folder's files and folders, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    fn exists(&self, path: &Path) -> bool;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and all in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes creates, renames and removals in this folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Bytes free for this user on the file system that holds `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// Locks a folder for this process; `WouldBlock` when another holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
    fn flush_mode(&self) -> FlushMode;
    /// What a flush costs now on a simulated disk; zero on the real one.
    fn sync_delay(&self) -> Duration;
}
