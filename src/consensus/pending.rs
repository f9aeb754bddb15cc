//! What the proposer kept of its own entries while they are in the log: the decoded commands
//! and who waits for them. The log stores bytes only, so the way from `append` to `apply` for
//! all else is here. Bounded by the proposer's entries in flight.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::types::{Local, LogId, Proposal};

/// Proposals of this node by log index. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    proposals: Arc<Mutex<BTreeMap<u64, (LogId, Proposal)>>>,
}

impl Pending {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, (LogId, Proposal)>> {
        self.proposals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an entry that was proposed here.
    pub fn add(&self, id: LogId, proposal: &Proposal) {
        if proposal.is_local() {
            self.lock().insert(id.index(), (id, proposal.clone()));
        }
    }

    /// What was kept of the entry that is applied now; forgets all before it.
    pub fn take(&self, id: &LogId) -> Option<Local> {
        let mut proposals = self.lock();
        let later = proposals.split_off(&id.index().saturating_add(1));
        let mut passed = std::mem::replace(&mut *proposals, later);
        drop(proposals);
        let (kept, proposal) = passed.remove(&id.index())?;
        if kept == *id { proposal.take_local() } else { None }
    }

    /// Forgets the entries after an index: they were cut from the log.
    pub fn cut_after(&self, index: Option<u64>) {
        let from = index.map_or(0, |index| index.saturating_add(1));
        self.lock().split_off(&from);
    }
}
