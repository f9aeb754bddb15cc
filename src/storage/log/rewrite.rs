//! A segment written anew in memory, with a hole filled or let go.
//!
//! Laws: records that were whole stay in their order, and only the chain of checksums is new;
//! other holes of the segment stay holes, and are found again as such. A hole that is let go is a
//! purge through its last entry.

use super::LogEntry;
use super::record::{self, Header, Kind, first_seed};
use super::scan::{Piece, Scanned, newer};
use super::segment::SegmentHeader;
use crate::queue::ids::Position;
use crate::storage::error::StorageError;
use crate::storage::mend::Hole;

/// What a mended segment's records may hold at most.
const MEND_RECORD_BYTES: usize = 4 << 20;

/// What comes in the place of a hole.
#[derive(Debug)]
pub(super) enum Filling {
    /// What it held, as a peer gave it.
    Entries(Vec<LogEntry>),
    /// Nothing: the log begins behind it.
    Purge,
}

/// The bytes of a segment under a new header, with this in the place of the hole.
///
/// # Errors
/// [`StorageError::Unmended`] when a record that was whole does not decode.
pub(super) fn fill(
    header: SegmentHeader,
    segment: &Scanned,
    old: &[u8],
    hole: &Hole,
    filling: &Filling,
) -> Result<Vec<u8>, StorageError> {
    let mut new = Rewrite {
        bytes: header.encode(),
        header,
        seed: first_seed(header.number, header.generation),
        last: header.before,
        purged: header.purged,
    };
    for piece in &segment.pieces {
        match piece {
            Piece::Record { offset, header } => new.copy(old, *offset, header)?,
            Piece::Hole(found) if found == hole => match filling {
                Filling::Entries(entries) => new.fill(hole, entries),
                Filling::Purge => new.let_go(hole),
            },
            Piece::Hole(other) => new.keep(other),
        }
    }
    Ok(new.bytes)
}

struct Rewrite {
    bytes: Vec<u8>,
    header: SegmentHeader,
    seed: u32,
    last: Option<Position>,
    purged: Option<Position>,
}

impl Rewrite {
    fn copy(&mut self, old: &[u8], offset: u64, header: &Header) -> Result<(), StorageError> {
        let from = offset as usize;
        let record = old.get(from..from + header.total()).unwrap_or_default();
        let entries = match header.kind {
            Kind::Entries => {
                let record = bytes::Bytes::copy_from_slice(record);
                record::entries(header, &record).ok_or_else(|| StorageError::Unmended {
                    what: format!("the record at {offset} does not decode"),
                })?
            }
            Kind::Truncate | Kind::Purge => Vec::new(),
        };
        let purged = newer(self.purged, header.purged);
        self.put(header.kind, &entries, header.last, purged, header.committed);
        Ok(())
    }

    fn let_go(&mut self, hole: &Hole) {
        self.put(Kind::Purge, &[], Some(hole.last), Some(hole.last), None);
    }

    fn fill(&mut self, hole: &Hole, entries: &[LogEntry]) {
        if self.last != hole.after {
            self.put(Kind::Truncate, &[], hole.after, self.purged, None);
        }
        let mut rest = entries;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fitting = rest
                .iter()
                .take_while(|entry| {
                    bytes += entry.weight();
                    bytes <= MEND_RECORD_BYTES
                })
                .count();
            let (some, after) = rest.split_at(fitting.max(1));
            let last = some.last().map(|entry| entry.position);
            self.put(Kind::Entries, some, last, self.purged, None);
            rest = after;
        }
    }

    /// Leaves another hole to be found again: what it held is said, and is not there.
    fn keep(&mut self, hole: &Hole) {
        if self.last != hole.after {
            self.put(Kind::Truncate, &[], hole.after, self.purged, None);
        }
        let missing = hole.last.index.saturating_add(1).saturating_sub(hole.first());
        let count = u32::try_from(missing).unwrap_or(u32::MAX).max(1);
        let (bytes, checksum) = record::encode_lost(Header {
            kind: Kind::Entries,
            segment: self.header.number,
            generation: self.header.generation,
            seed: self.seed,
            count,
            payload: 0,
            before: hole.after,
            last: Some(hole.last),
            purged: self.purged,
            committed: None,
        });
        self.bytes.extend_from_slice(&bytes);
        self.seed = checksum;
        self.last = Some(hole.last);
    }

    fn put(
        &mut self,
        kind: Kind,
        entries: &[LogEntry],
        last: Option<Position>,
        purged: Option<Position>,
        committed: Option<Position>,
    ) {
        let header = Header {
            kind,
            segment: self.header.number,
            generation: self.header.generation,
            seed: self.seed,
            count: 0,
            payload: 0,
            before: self.last,
            last,
            purged,
            committed,
        };
        let encoded = record::encode(header, entries);
        for slice in encoded.slices() {
            self.bytes.extend_from_slice(slice);
        }
        self.seed = encoded.checksum;
        self.last = last;
        self.purged = purged;
    }
}
