//! Segment files: their names, their header, and the runs of entries inside them.
//!
//! A file gets its name in the log only after its header was fsynced, so a named file with a
//! bad header rotted. A good header with another number is a recycled file whose rename was
//! lost: it holds nothing of the log.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::record::{has_next, position_at, put_position, word32, word64};
use crate::queue::ids::Position;
use crate::storage::disk::DiskFile;

/// Records start after this.
pub(super) const SEGMENT_HEADER: u64 = 4096;
const MAGIC: u64 = 0x3147_4553_514f_5a51;
const VERSION: u32 = 1;
/// A run is closed when it is this long, so that the index stays small.
const RUN_BYTES: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct Segment {
    pub number: u64,
    pub generation: u64,
    pub path: PathBuf,
    pub file: Arc<dyn DiskFile>,
    /// Bytes that were written before, so that a record in them needs no new space.
    len: AtomicU64,
}

impl Segment {
    pub fn new(
        number: u64,
        generation: u64,
        path: PathBuf,
        file: Arc<dyn DiskFile>,
        len: u64,
    ) -> Segment {
        Segment { number, generation, path, file, len: AtomicU64::new(len) }
    }

    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// It was written on, up to here.
    pub fn set_len(&self, len: u64) {
        self.len.store(len, Ordering::Relaxed);
    }
}

/// Where a segment begins: the log as it was when the segment was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub number: u64,
    pub generation: u64,
    pub before: Option<Position>,
    pub purged: Option<Position>,
    pub committed: Option<Position>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderFound {
    Good(SegmentHeader),
    Newer(u32),
    Bad,
}

impl SegmentHeader {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(SEGMENT_HEADER as usize);
        let positions = [self.before, self.purged, self.committed];
        let flags = positions
            .iter()
            .rev()
            .fold(0u32, |flags, some| (flags << 1) | u32::from(some.is_some()));
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        for position in positions {
            put_position(&mut out, position);
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.resize(SEGMENT_HEADER as usize, 0);
        out
    }

    pub fn decode(bytes: &[u8]) -> HeaderFound {
        Self::read(bytes).unwrap_or(HeaderFound::Bad)
    }

    fn read(bytes: &[u8]) -> Option<HeaderFound> {
        let summed = bytes.get(..104)?;
        if word64(bytes, 0)? != MAGIC || crc32c::crc32c(summed) != word32(bytes, 104)? {
            return None;
        }
        let version = word32(bytes, 8)?;
        if version != VERSION {
            return Some(HeaderFound::Newer(version));
        }
        let flags = word32(bytes, 12)?;
        let position = |number: usize| {
            position_at(bytes, 32 + number * 24).filter(|_| flags & (1 << number) != 0)
        };
        let header = SegmentHeader {
            number: word64(bytes, 16)?,
            generation: word64(bytes, 24)?,
            before: position(0),
            purged: position(1),
            committed: position(2),
        };
        let positions = [header.before, header.purged, header.committed];
        positions.into_iter().all(has_next).then_some(HeaderFound::Good(header))
    }
}

pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.log"))
}

/// The number in a segment's name; `None` for other files.
pub(super) fn segment_number(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".log")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

pub(super) fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("spare-{number:x}"))
}

pub(super) fn spare_number(path: &Path) -> Option<u64> {
    u64::from_str_radix(path.file_name()?.to_str()?.strip_prefix("spare-")?, 16).ok()
}

/// Entries that lie one after another in one segment, in whole records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub first: u64,
    /// Entries of its records after this one were truncated.
    pub last: u64,
    pub segment: u64,
    pub offset: u64,
    pub end: u64,
}

/// Where the entries are: an index at the grain of runs, so its size follows the log's bytes.
#[derive(Debug, Default)]
pub(super) struct Runs(VecDeque<Run>);

impl Runs {
    pub fn add(&mut self, run: Run) {
        if let Some(tail) = self.0.back_mut()
            && tail.segment == run.segment
            && tail.end == run.offset
            && tail.last + 1 == run.first
            && run.end - tail.offset <= RUN_BYTES
        {
            tail.last = run.last;
            tail.end = run.end;
            return;
        }
        self.0.push_back(run);
    }

    /// Keeps what is up to `last`; `None` drops all.
    pub fn truncate(&mut self, last: Option<u64>) {
        while let Some(tail) = self.0.back_mut() {
            match last {
                Some(last) if tail.first <= last => {
                    tail.last = tail.last.min(last);
                    return;
                }
                _ => self.0.pop_back(),
            };
        }
    }

    pub fn purge(&mut self, through: u64) {
        while self.0.front().is_some_and(|run| run.last <= through) {
            self.0.pop_front();
        }
    }

    /// The run that holds an entry.
    pub fn find(&self, index: u64) -> Option<Run> {
        let at = self.0.partition_point(|run| run.last < index);
        self.0.get(at).copied().filter(|run| run.first <= index)
    }

    /// Bytes of the runs that hold entries from an index on.
    pub fn bytes_from(&self, index: u64) -> u64 {
        let unread = self.0.iter().rev().take_while(|run| run.last >= index);
        unread.map(|run| run.end - run.offset).sum()
    }

    /// The first entry held.
    pub fn first(&self) -> Option<u64> {
        self.0.front().map(|run| run.first)
    }

    /// The first entry that lies in a segment or in a later one.
    pub fn first_from(&self, segment: u64) -> Option<u64> {
        let at = self.0.partition_point(|run| run.segment < segment);
        self.0.get(at).map(|run| run.first)
    }

    /// The first segment that still holds an entry.
    pub fn first_segment(&self) -> Option<u64> {
        self.0.front().map(|run| run.segment)
    }
}
