//! openraft's log storage over [`Log`]: conversions, nothing decided here.
//!
//! Laws: `append` returns when the entries are readable and reports them flushed after their
//! fsync, in order; a read is whole or an error, never short of what the log holds, save for the
//! byte budget that bounds one message to a follower. Entries that were purged are no error.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use bytes::Bytes;
use openraft::entry::EntryPayload;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};

use super::machine::Machine;
use super::pending::Pending;
use super::types::{
    LogId, Proposal, RaftEntry, TypeConfig, Vote, log_id, position, read_membership,
};
use crate::storage::error::StorageError;
use crate::storage::log::{Log, LogEntry, Payload};
use crate::storage::vote::VoteRecord;

/// Bytes of entries that one read for a follower returns, or one entry.
const READ_BYTES: usize = 1 << 20;

fn broken(error: StorageError) -> io::Error {
    io::Error::other(error)
}

/// The log as openraft stores and reads it.
#[derive(Clone, Debug)]
pub struct LogStore {
    log: Log,
    pending: Pending,
    /// For a mutant: applies and answers what no majority holds yet.
    early: Option<Machine>,
}

impl LogStore {
    #[must_use]
    pub fn new(log: Log, pending: Pending) -> LogStore {
        LogStore { log, pending, early: None }
    }

    /// Under the mutant, what this node proposes is applied and answered as it enters the log.
    #[must_use]
    pub fn answering(mut self, machine: &Machine) -> LogStore {
        let early = crate::mutants::is_chosen("acknowledge-before-quorum");
        self.early = early.then(|| machine.clone());
        self
    }
}

fn stored(entry: RaftEntry) -> io::Result<LogEntry> {
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank,
        EntryPayload::Normal(proposal) => Payload::Commands(proposal.encoded),
        EntryPayload::Membership(membership) => {
            let bytes = serde_json::to_vec(&membership).map_err(io::Error::other)?;
            Payload::Membership(Bytes::from(bytes))
        }
    };
    Ok(LogEntry { position: position(&entry.log_id), payload })
}

fn loaded(entry: LogEntry) -> io::Result<RaftEntry> {
    let payload = match entry.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Commands(bytes) => EntryPayload::Normal(Proposal::encoded(bytes)),
        Payload::Membership(bytes) => {
            EntryPayload::Membership(read_membership(&bytes).map_err(io::Error::other)?)
        }
    };
    Ok(RaftEntry { log_id: log_id(&entry.position), payload })
}

fn vote_record(vote: &Vote) -> VoteRecord {
    let leader = &vote.leader_id;
    VoteRecord { term: leader.term, node: leader.node_id, committed: vote.committed }
}

fn vote_of(record: VoteRecord) -> Vote {
    let mut vote = Vote::new(record.term, record.node);
    vote.committed = record.committed;
    vote
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: R,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let purged = self.log.last_purged().map_or(0, |at| at.index.saturating_add(1));
        let first = self.log.first().unwrap_or(u64::MAX).max(purged);
        let end = self.log.last().map_or(0, |at| at.index.saturating_add(1));
        let from = match range.start_bound() {
            Bound::Included(at) => *at,
            Bound::Excluded(at) => at.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(at) => at.saturating_add(1),
            Bound::Excluded(at) => *at,
            Bound::Unbounded => u64::MAX,
        };
        let (from, to) = (from.max(first), to.min(end));
        if from >= to {
            return Ok(Vec::new());
        }
        // One read of the log may end early, at the end of a segment for one.
        let (mut from, mut found) = (from, Vec::new());
        while from < to {
            let entries = self.log.read(from, to, READ_BYTES).map_err(broken)?;
            let Some(last) = entries.last() else {
                let lost = format!("entry {from} is not in the log, which held it");
                return Err(io::Error::other(lost));
            };
            from = last.position.index.saturating_add(1);
            for entry in entries {
                found.push(loaded(entry)?);
            }
        }
        Ok(found)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.vote().map(vote_of))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<RaftEntry>, io::Error> {
        let entries = match self.log.read(start, end, READ_BYTES) {
            Ok(entries) => entries,
            // Who asks is the replication of a leadership that is over: a snapshot of the next
            // leader took the place of these entries. An error would end this node; openraft
            // takes nothing for a heartbeat and then sees that it leads no more.
            Err(StorageError::OutOfRange { .. }) => Vec::new(),
            Err(error) => return Err(broken(error)),
        };
        entries.into_iter().map(loaded).collect()
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id = self.log.last_purged().as_ref().map(log_id);
        let last_log_id = self.log.last().as_ref().map(log_id).or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.log.save_vote(&vote_record(vote)).await.map_err(broken)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        if let Some(committed) = committed {
            self.log.save_committed(position(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.committed().as_ref().map(log_id))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<TypeConfig>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + Send,
        I::IntoIter: Send,
    {
        let entries = entries.into_iter().map(|entry| {
            if let EntryPayload::Normal(proposal) = &entry.payload {
                self.pending.add(entry.log_id, proposal);
                self.early
                    .iter()
                    .try_for_each(|early| early.apply_early(&entry.log_id, proposal))?;
            }
            stored(entry)
        });
        let entries = entries.collect::<io::Result<Vec<_>>>()?;
        let done = move |flushed: Result<(), StorageError>| {
            callback.io_completed(flushed.map_err(broken));
        };
        self.log.append(entries, Box::new(done)).map_err(broken)
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.pending.cut_after(last.as_ref().map(LogId::index));
        self.log.truncate_after(last.as_ref().map(position)).await.map_err(broken)
    }

    async fn purge(&mut self, through: LogId) -> Result<(), io::Error> {
        self.log.purge(position(&through)).await.map_err(broken)
    }
}

#[cfg(test)]
mod tests;
