//! Walks the records of a stopped log for the command line, and writes nothing.

use std::path::{Path, PathBuf};

use super::record::Kind;
use super::scan::{Piece, scan};
use crate::queue::ids::Position;
use crate::storage::disk::Disk;
use crate::storage::error::StorageError;
use crate::storage::mend::Trouble;
use crate::storage::vote::{VoteFile, VoteRecord};

/// One good record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InspectedRecord {
    pub segment: PathBuf,
    pub offset: u64,
    /// Bytes on disk, frame included.
    pub bytes: u64,
    pub kind: Kind,
    /// Index of the first entry and how many; 0 entries in other kinds.
    pub first: u64,
    pub entries: u32,
    /// The log's end after this record.
    pub last: Option<Position>,
    pub purged: Option<Position>,
    pub committed: Option<Position>,
}

/// What a stopped log holds.
#[derive(Debug)]
pub struct Inspection {
    /// An error when the vote is lost or cannot be read; the log may be whole all the same.
    pub vote: Result<Option<VoteRecord>, StorageError>,
    pub last: Option<Position>,
    pub last_purged: Option<Position>,
    pub committed: Option<Position>,
    pub trouble: Vec<Trouble>,
    pub records: Vec<InspectedRecord>,
}

/// Reads a stopped log.
///
/// # Errors
/// When the disk fails or the format is newer.
pub fn inspect(disk: &dyn Disk, dir: &Path) -> Result<Inspection, StorageError> {
    let vote = VoteFile::peek(disk, dir);
    let scan = scan(disk, dir)?;
    let records = scan.segments.iter().flat_map(|segment| {
        segment.pieces.iter().filter_map(|piece| match piece {
            Piece::Hole(_) => None,
            Piece::Record { offset, header } => Some(InspectedRecord {
                segment: segment.path.clone(),
                offset: *offset,
                bytes: header.total() as u64,
                kind: header.kind,
                first: header.first(),
                entries: header.count,
                last: header.last,
                purged: header.purged,
                committed: header.committed,
            }),
        })
    });
    Ok(Inspection {
        vote,
        last: scan.replay.last,
        last_purged: scan.replay.purged,
        committed: scan.replay.committed,
        trouble: scan.trouble.clone(),
        records: records.collect(),
    })
}
