//! Snapshots: a pinned view of the tables as a stream of checksummed chunks, and the taking of
//! such a stream beside the tables in use.
//!
//! The stream is a header (position, membership, digest), every replicated row as it is stored,
//! every content, and an end with totals; each part has its length in front, and the whole is
//! cut into chunks of at most 1 MiB. It depends on the view alone, so a stream that broke can go
//! on at any chunk. Nothing is copied to a file at the sender.
//!
//! The taker refuses a chunk with a wrong checksum or out of order, a row or content that is
//! not readable, totals that do not add up, and rows whose state has another digest than the
//! header says.

mod install;
mod stream;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

pub use install::{ReadySnapshot, SnapshotWriter};
pub use stream::SnapshotReader;

use super::bodies::{Group, Pin, SegmentFiles};
use super::codec::{CodecError, Mark};
use super::keys;
use super::store::{StoreError, decode, read_mark};
use super::tables::TablesRead;
use crate::queue::command::Content;
use crate::queue::ids::{ContentId, Digest, Position};
use crate::queue::rows::{Row, RowKey};

/// The format of the stream.
const FORMAT: u32 = 1;
/// A chunk's data is at most this long.
pub const CHUNK_BYTES: usize = 1 << 20;

/// A piece of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Where in the stream the data begins.
    pub offset: u64,
    pub data: Bytes,
    /// CRC-32C of the data.
    pub checksum: u32,
}

impl Chunk {
    /// A chunk with its checksum.
    #[must_use]
    pub fn new(offset: u64, data: Bytes) -> Chunk {
        let checksum = crc32c::crc32c(&data);
        Chunk { offset, data, checksum }
    }
}

/// What the tables held at one position; it never changes, whatever is committed after it.
#[derive(Clone, Debug)]
pub struct SnapshotView {
    tables: Arc<dyn TablesRead>,
    files: Arc<SegmentFiles>,
    pins: Arc<Vec<Pin>>,
    mark: Mark,
    position: Position,
    digest: Digest,
}

impl SnapshotView {
    /// A view of tables whose segments are pinned.
    pub(super) fn new(
        tables: Arc<dyn TablesRead>,
        files: Arc<SegmentFiles>,
        pins: Vec<Pin>,
    ) -> Result<SnapshotView, StoreError> {
        let mark = read_mark(&*tables)?;
        let position = mark.applied.ok_or(StoreError::Empty)?;
        let key = keys::row(&RowKey::Counters);
        let row = tables.get(&key)?.ok_or(StoreError::Empty)?;
        let Row::Counters(counters) = decode(&key, &row)? else {
            return Err(CodecError::Wrong { what: "the counters row", field: "kind" }.into());
        };
        let pins = Arc::new(pins);
        Ok(SnapshotView { tables, files, pins, mark, position, digest: counters.digest })
    }

    /// The last entry that the view holds.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The newest membership at the position and where it came from.
    #[must_use]
    pub fn membership(&self) -> Option<(Position, Bytes)> {
        self.mark.membership.clone()
    }

    /// The digest of the state in the view.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// One row of the view.
    pub fn row(&self, key: &RowKey) -> Result<Option<Row>, StoreError> {
        let bytes = keys::row(key);
        let row = self.tables.get(&bytes)?.map(|value| decode(&bytes, &value));
        Ok(row.transpose()?)
    }

    /// A content of the view, by the id that it is kept under.
    pub fn content(&self, id: ContentId) -> Result<Option<Content>, StoreError> {
        let Some(row) = self.tables.get(&keys::contents(id.0 >> 8))? else { return Ok(None) };
        let group = Group::decode(&row)?;
        let place = group.iter().find(|(low, _)| u64::from(*low) == id.0 & 0xff);
        place.map(|(_, place)| self.files.read(id, place)).transpose()
    }

    /// How many bytes each of the contents takes that are kept in one row with this one; empty where
    /// there is none. To look at one alone costs as much.
    pub fn lengths_near(&self, id: ContentId) -> Result<BTreeMap<ContentId, u64>, StoreError> {
        let group = id.0 >> 8;
        let Some(row) = self.tables.get(&keys::contents(group))? else {
            return Ok(BTreeMap::new());
        };
        let found = Group::decode(&row)?;
        let id = |low| ContentId(group << 8 | u64::from(low));
        Ok(found.iter().map(|(low, place)| (id(low), place.len.into())).collect())
    }

    /// How many body segments it pins.
    #[must_use]
    pub fn pinned_segments(&self) -> usize {
        self.pins.len()
    }

    /// The stream from its beginning.
    #[must_use]
    pub fn reader(&self) -> SnapshotReader {
        SnapshotReader::new(self.clone())
    }

    /// The stream from `offset`, where an earlier reader's chunk began or the stream ended.
    pub fn reader_at(&self, offset: u64) -> Result<SnapshotReader, StoreError> {
        let mut reader = self.reader();
        while reader.offset() < offset {
            if reader.next_chunk()?.is_none() {
                break;
            }
        }
        if reader.offset() == offset {
            Ok(reader)
        } else {
            Err(StoreError::Snapshot(format!("no chunk begins at byte {offset} of it")))
        }
    }
}

#[cfg(test)]
mod tests;
