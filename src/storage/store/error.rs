//! What can go wrong between the state and its tables.

use std::io;

use crate::queue::ids::ContentId;
use crate::storage::codec::CodecError;
use crate::storage::error::StorageError;
use crate::storage::tables::TablesError;

/// An error of the store. After one of a commit the store refuses all further commits.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Tables(#[from] TablesError),
    #[error(transparent)]
    Disk(#[from] StorageError),
    #[error("a row of the tables is not readable")]
    Codec(#[from] CodecError),
    #[error("{path} could not be {doing}")]
    Io { doing: &'static str, path: String, source: io::Error },
    #[error(
        "{path} has format {found}, and this version knows {known}: a newer one wrote the tables"
    )]
    Newer { path: String, found: u8, known: u8 },
    #[error("{what} is damaged: {why}")]
    Damaged { what: String, why: String },
    #[error("{what} is damaged: {why}")]
    Content { id: ContentId, what: String, why: &'static str },
    #[error("the state cannot be rebuilt from its rows")]
    Load { source: Box<dyn std::error::Error + Send + Sync> },
    #[error("nothing is committed to the tables yet, so there is nothing to view")]
    Empty,
    #[error("the snapshot is refused: {0}")]
    Snapshot(String),
    #[error("the disk has no room for a commit of the tables; it is tried again")]
    NoRoom,
    #[error("the thread that writes the tables could not be started")]
    Thread(#[source] io::Error),
    #[error("the tables are not written any more since a commit failed: {0}")]
    Failed(String),
}

impl StoreError {
    /// Whether a write found the disk full. Of a sync nobody knows what it left.
    #[must_use]
    pub(super) fn is_full(&self) -> bool {
        matches!(self, StoreError::Io { doing: "written" | "made", source, .. }
            if source.kind() == io::ErrorKind::StorageFull)
    }

    /// Whether what lies on the disk is unsound, rather than out of reach or of another version. A
    /// newer version says so in the pointer to its tables, under a checksum: behind a pointer that is
    /// known, a row of an unknown format has rotted.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            StoreError::Damaged { .. } | StoreError::Content { .. } | StoreError::Load { .. } => {
                true
            }
            StoreError::Codec(_) => true,
            StoreError::Tables(error) => error.is_damage(),
            _ => false,
        }
    }
}
