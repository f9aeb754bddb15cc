//! What the floor between regions needs of the group: its applied log, and a seat for what rides
//! in the next entry.

use tokio::time::Instant;

use super::super::error::GroupError;
use super::super::proposer::Term;
use super::super::types::NodeId;
use super::Group;
use crate::queue::authority::{Authority, Role};
use crate::queue::command::{Command, Envelope};
use crate::queue::ids::{LogTime, Position};
use crate::storage::error::StorageError;
use crate::storage::log::LogEntry;

/// The authority of a moment, with how far this node had applied then: the two belong together,
/// for the authority says which entries up to there were refused.
#[derive(Clone, Debug)]
pub struct Standing {
    pub authority: Authority,
    pub applied: Position,
    pub log_time: LogTime,
}

impl Group {
    /// `None` = the cluster stands alone, or has applied nothing.
    #[must_use]
    pub fn standing(&self) -> Option<Standing> {
        let store = self.store().read();
        let authority = store.state().authority()?.clone();
        let (applied, log_time) = (store.applied()?, store.state().log_time());
        Some(Standing { authority, applied, log_time })
    }

    /// Refuses data where the role of this cluster does, before it enters the log, and what would
    /// be stamped with an epoch that is no longer in force.
    pub(super) fn check_footing(&self, term: &Term, command: &Command) -> Result<(), GroupError> {
        // Who may write is settled on any footing.
        if matches!(command, Command::Region(_)) {
            return Ok(());
        }
        let footing = self.store().footing_now();
        if footing.is_writable && footing.epoch == term.epoch {
            return self.check_heard();
        }
        let store = self.store().read();
        let refusal = store.state().authority().map(|it| it.check_write());
        match refusal {
            Some(Err(refusal)) => Err(GroupError::Rejected(refusal.into())),
            // The term is being prepared anew.
            _ => Err(self.not_leader()),
        }
    }

    /// Whether a write of data may be proposed here, for who has to read before it writes: what a
    /// copy of another region has is no answer to a writer.
    ///
    /// # Errors
    /// The refusal of the role, or *not now* where this node does not lead.
    pub fn check_writable(&self) -> Result<(), GroupError> {
        self.check_footing(&*self.term()?, &Command::Pulse)
    }

    /// Makes sure that this node leads and has applied all that was acknowledged before the call,
    /// for who asks about entries of this group's own log: of that a secondary may be asked, too.
    ///
    /// # Errors
    /// *Not now* when it could not be confirmed by the deadline; refused by the role.
    pub async fn confirm_own_log(&self, deadline: Instant) -> Result<(), GroupError> {
        self.term()?;
        self.confirm(deadline).await?;
        self.check_lease()?;
        let store = self.store().read();
        let allowed = store.state().authority().map(|it| match it.role {
            Role::Secondary => it.check_read(),
            _ => it.check_newest(),
        });
        allowed.unwrap_or(Ok(())).map_err(|refusal| GroupError::Rejected(refusal.into()))
    }

    /// Waits until data may be written in this cluster; whether that is so by then.
    pub async fn until_writable(&self, give_up: Instant) -> bool {
        let mut footing = self.store().footing();
        let writable = footing.wait_for(|it| it.is_writable);
        matches!(tokio::time::timeout_at(give_up, writable).await, Ok(Ok(_)))
    }

    /// The time by the log clock, where this node leads.
    #[must_use]
    pub fn stamp(&self) -> Option<LogTime> {
        self.term().ok().map(|term| term.clock.stamp())
    }

    /// Entries of this node's log from `from` to before `to`, as many as fit in `max_bytes` and
    /// at least one. What is not applied here may yet be another's: ask for what is.
    ///
    /// # Errors
    /// [`StorageError`]: among others that the entries were purged.
    pub fn log_entries(
        &self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, StorageError> {
        self.inner.log.read(from, to, max_bytes)
    }

    /// What the entries from `from` on take in this node's log, 64 KiB too many at most.
    #[must_use]
    pub fn log_bytes_from(&self, from: u64) -> u64 {
        self.inner.log.unread_bytes(from)
    }

    /// The first entry that this node's log holds.
    #[must_use]
    pub fn log_first(&self) -> Option<u64> {
        self.inner.log.first()
    }

    /// The last entry that this node's log held once and holds no more.
    #[must_use]
    pub fn log_purged(&self) -> Option<Position> {
        self.inner.log.last_purged()
    }

    /// Lets a command ride at the end of the next entry of data that this node proposes. It
    /// causes none, nobody hears of its outcome, and a newer one takes its seat.
    pub fn ride(&self, command: Command) {
        self.inner.proposer.ride(Envelope { session: None, account: String::new(), command });
    }

    /// Who leads, when it is another node.
    #[must_use]
    pub fn other_leader(&self) -> Option<NodeId> {
        self.inner.leadership.borrow().leader.filter(|id| *id != self.node())
    }
}
