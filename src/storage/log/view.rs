//! The log in memory: what callers see, ahead of the disk by what waits for the flusher.
//!
//! Law: the cache holds the newest entries without a gap and all unflushed ones among them, so
//! an entry that is not in it is in a run on disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::flusher::Work;
use super::record;
use super::scan::Scanned;
use super::segment::{Runs, Segment};
use super::writer::{Opened, Writer};
use super::{LogEntry, LogState};
use crate::queue::ids::Position;
use crate::storage::error::StorageError;
use crate::storage::mend::Trouble;
use crate::storage::vote::VoteRecord;

/// The log as callers see it, ahead of the disk by what waits in `queue`.
#[derive(Debug)]
pub(super) struct View {
    pub(super) last: Option<Position>,
    pub(super) purged: Option<Position>,
    pub(super) committed: Option<Position>,
    pub(super) vote: Option<VoteRecord>,
    /// What was heard of the other region, as of the start.
    pub(super) heard: Option<Bytes>,
    pub(super) runs: Runs,
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
    /// The newest entries without a gap, all unflushed ones among them.
    pub(super) cache: VecDeque<LogEntry>,
    pub(super) cache_bytes: usize,
    /// Entries below this index are on disk and in `runs`.
    pub(super) flushed: u64,
    /// Grows when the tail is replaced, so that an older flush does not move `flushed`.
    pub(super) age: u64,
    pub(super) queue: VecDeque<Work>,
    pub(super) queued_bytes: u64,
    pub(super) failed: Option<StorageError>,
    pub(super) trouble: Vec<Trouble>,
    /// Kept while there is something to mend.
    pub(super) scanned: Vec<Scanned>,
    pub(super) closing: bool,
}

impl View {
    pub(super) fn of(writer: &Writer, opened: Opened) -> View {
        let Opened { scan, segments, heard } = opened;
        let replay = scan.replay;
        let holes = scan.trouble.iter().any(|trouble| trouble.hole().is_some());
        View {
            last: replay.last,
            purged: replay.purged,
            committed: replay.committed,
            vote: writer.vote.vote(),
            heard,
            runs: replay.runs,
            segments: segments.into_iter().map(|segment| (segment.number, segment)).collect(),
            cache: VecDeque::new(),
            cache_bytes: 0,
            flushed: replay.last.map_or(0, |last| last.index + 1),
            age: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            failed: None,
            trouble: scan.trouble,
            scanned: if holes { scan.segments } else { Vec::new() },
            closing: false,
        }
    }

    pub(super) fn state(&self) -> LogState {
        LogState {
            vote: self.vote,
            last: self.last,
            last_purged: self.purged,
            committed: self.committed,
            trouble: self.trouble.clone(),
        }
    }

    pub(super) fn ready(&self) -> Result<(), StorageError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.trouble.iter().find_map(Trouble::hole) {
            None => Ok(()),
            Some(hole) => Err(StorageError::Unmended {
                what: format!("entries {} to {} are bad", hole.first(), hole.last.index),
            }),
        }
    }

    pub(super) fn check_next(&self, entries: &[LogEntry]) -> Result<(), StorageError> {
        let mut next = self.last.map(|last| last.index + 1);
        for entry in entries {
            let index = entry.position.index;
            if next.is_some_and(|next| next != index) {
                return Err(StorageError::OutOfRange { index, why: "it would leave a gap" });
            }
            if entry.payload.bytes().len() > record::MAX_PAYLOAD / 2 {
                return Err(StorageError::OutOfRange { index, why: "the entry is too large" });
            }
            next = index.checked_add(1);
        }
        Ok(())
    }

    /// Drops the tail after `last`.
    pub(super) fn cut(&mut self, last: Option<Position>) {
        let keep = last.map_or(0, |last| last.index + 1);
        while self.cache.back().is_some_and(|entry| entry.position.index >= keep) {
            let dropped = self.cache.pop_back();
            self.cache_bytes -= dropped.map_or(0, |entry| entry.weight());
        }
        self.last = last;
        self.flushed = self.flushed.min(keep);
        self.age += 1;
    }

    /// Drops the front up to `through`, and all of it when that is beyond the end.
    pub(super) fn forget(&mut self, through: Position) {
        while self.cache.front().is_some_and(|entry| entry.position.index <= through.index) {
            let dropped = self.cache.pop_front();
            self.cache_bytes -= dropped.map_or(0, |entry| entry.weight());
        }
        self.purged = Some(through);
        self.runs.purge(through.index);
        if self.last.is_none_or(|last| last.index <= through.index) {
            self.last = Some(through);
            self.flushed = through.index + 1;
            self.age += 1;
        }
    }

    /// Where a read from `from` must end; `None` when there is nothing.
    pub(super) fn readable(&self, from: u64, to: u64) -> Result<Option<u64>, StorageError> {
        if self.purged.is_some_and(|purged| from <= purged.index) {
            return Err(StorageError::OutOfRange { index: from, why: "it is purged" });
        }
        let to = to.min(self.last.map_or(0, |last| last.index + 1));
        Ok((from < to).then_some(to))
    }

    pub(super) fn cached(&self, from: u64, to: u64, max_bytes: usize) -> Option<Vec<LogEntry>> {
        let first = self.cache.front()?.position.index;
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        let count = usize::try_from(to - from).ok()?;
        let found = self.cache.iter().skip(skip).take(count);
        Some(within(found.cloned(), max_bytes)).filter(|entries| !entries.is_empty())
    }

    /// Drops what is on disk from memory, oldest first, down to the budget.
    pub(super) fn trim(&mut self, budget: usize) {
        while self.cache_bytes > budget
            && self.cache.front().is_some_and(|entry| entry.position.index < self.flushed)
        {
            let dropped = self.cache.pop_front();
            self.cache_bytes -= dropped.map_or(0, |entry| entry.weight());
        }
    }
}

/// The first entries up to a byte budget, at least one.
pub(super) fn within(entries: impl Iterator<Item = LogEntry>, max_bytes: usize) -> Vec<LogEntry> {
    let mut bytes = 0;
    let mut taken = Vec::new();
    for entry in entries {
        bytes += entry.weight();
        if bytes > max_bytes && !taken.is_empty() {
            break;
        }
        taken.push(entry);
    }
    taken
}
