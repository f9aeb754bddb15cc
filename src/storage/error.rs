//! Why the log, the vote or the data directory could not do what was asked.
//!
//! Every variant can be cloned, because one failed fsync is the answer of every append that
//! waited for it. Only [`StorageError::Full`] and [`StorageError::OutOfRange`] leave the room
//! usable; after any other failed write the node stops.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[derive(Debug, Clone, thiserror::Error)]
pub enum StorageError {
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("no space left to {what} {}", path.display())]
    Full {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: Arc<io::Error>,
    },
    #[error("{} is damaged: {what}", path.display())]
    Damaged { path: PathBuf, what: String },
    #[error(
        "{}: neither slot of the vote can be read, so this node could vote twice in one term; \
         give its place to a node with a new id",
        path.display()
    )]
    VoteLost { path: PathBuf },
    #[error("{} is in use by another process", path.display())]
    Locked { path: PathBuf },
    #[error("{} belongs to cluster {found}, not to {expected}", path.display())]
    ForeignCluster { path: PathBuf, found: String, expected: String },
    #[error("{} was made for {what} {found}, not for {expected}", path.display())]
    ForeignNode { path: PathBuf, what: &'static str, found: String, expected: String },
    #[error(
        "{} has format {found}; this program reads up to {known}: run a newer one",
        path.display()
    )]
    NewerFormat { path: PathBuf, found: u32, known: u32 },
    #[error("log index {index} is not where the log goes on: {why}")]
    OutOfRange { index: u64, why: &'static str },
    #[error("the log waits to be mended: {what}")]
    Unmended { what: String },
    #[error("the log stopped after a failure: {first}")]
    Stopped { first: Arc<StorageError> },
    #[error("the log is closed")]
    Closed,
}

impl StorageError {
    /// Names the operation and the file; a full disk is told apart.
    pub fn io(what: &'static str, path: &Path, source: io::Error) -> StorageError {
        let path = path.to_path_buf();
        if source.kind() == io::ErrorKind::StorageFull {
            return StorageError::Full { what, path, source: Arc::new(source) };
        }
        StorageError::Io { what, path, source: Arc::new(source) }
    }

    pub fn damaged(path: &Path, what: impl Into<String>) -> StorageError {
        StorageError::Damaged { path: path.to_path_buf(), what: what.into() }
    }
}

/// `map_err(during("read", path))`.
pub fn during<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StorageError + 'a {
    move |source| StorageError::io(what, path, source)
}
