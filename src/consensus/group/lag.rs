//! How far the other region is behind, and writes that wait while it is too far.
//!
//! Laws: what the other region has is known from its acknowledgements only; what is not known to
//! be there counts as not there. Where a limit throttles, a client's write enters the log only
//! when that, all that is on its way there, and the write itself are within the limit: what a
//! forced failover loses of writes is at most that. Reads and what a cluster does by itself never wait.
//! That an entry is in the other region is said only of this epoch's, by the newest word of the
//! copy: what a deposed side had alone is in its log still, and nowhere else.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::super::error::{Fate, GroupError, Reason};
use super::Group;
use super::lease::is_clients;
use crate::queue::authority::{Authority, RegionEpoch, Role};
use crate::queue::command::Command;
use crate::queue::ids::{LogTime, Position, Span};
use crate::storage::codec;
use crate::storage::log::{LogEntry, Payload};

/// A write waits for so long at most before it is answered *not now*.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// What an entry adds to its commands, at most.
const AROUND: u64 = 256;
/// Entries and bytes of the log that are read to find one with a time: few have none.
const WITH_A_TIME: (u64, usize) = (64, 64 << 10);

/// The newest word of the other region, as far as this node has heard it since it leads. What
/// was recorded of it before is in the replicated state.
#[derive(Debug, Default)]
pub(super) struct Copy {
    /// The index after the last entry that it has; 0 = not known.
    next: AtomicU64,
    /// Until its first word: by the log and what was recorded; 0 = not known.
    last_sync_us: AtomicU64,
    /// Where it ends, by its newest word; `None` = there was none.
    end: Mutex<Option<End>>,
}

/// Where a copy ends in the log of an epoch.
#[derive(Clone, Debug)]
struct End {
    attachment: u128,
    epoch: RegionEpoch,
    /// `None` = it has nothing of that epoch.
    through: Option<Position>,
}

impl Copy {
    fn end(&self) -> MutexGuard<'_, Option<End>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Limits beyond which writes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_lag: Option<Span>,
    pub max_unshipped_bytes: Option<u64>,
}

/// How far the other region is behind this primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Behind {
    /// Positions of the log, bookkeeping included.
    pub positions: u64,
    /// What they take in the log, 64 KiB too many at most.
    pub bytes: u64,
    /// How old the newest entry is that it has; until its first word since this node leads,
    /// the entry that was recorded last. `None` = it has none, or this node does not lead.
    pub lag: Option<Span>,
}

impl Limits {
    /// The limits that throttle, where there are any.
    #[must_use]
    pub fn throttling(authority: &Authority) -> Option<Limits> {
        let settings = &authority.settings;
        let limits =
            Limits { max_lag: settings.max_lag, max_unshipped_bytes: settings.max_unshipped_bytes };
        let has_any = limits.max_lag.is_some() || limits.max_unshipped_bytes.is_some();
        let ships = authority.role.is_writable() && authority.attachment.is_some();
        (settings.throttle && has_any && ships).then_some(limits)
    }

    /// Whether a copy that is so far behind, and would be by so many bytes more, is within them.
    #[must_use]
    pub fn allow(&self, behind: &Behind, more_bytes: u64) -> bool {
        let late = matches!((self.max_lag, behind.lag), (Some(most), Some(lag)) if lag > most);
        let bytes = behind.bytes.saturating_add(more_bytes);
        !late && self.max_unshipped_bytes.is_none_or(|most| bytes <= most)
    }
}

impl Group {
    /// Takes in what the other region has; `None` = nothing is known any more.
    pub fn note_copy(&self, shipped: Option<Position>, last_sync: Option<LogTime>) {
        let copy = &self.inner.copy;
        let next = shipped.map_or(0, |at| at.index.saturating_add(1));
        copy.next.store(next, Ordering::Relaxed);
        copy.last_sync_us.store(last_sync.map_or(0, |at| at.0), Ordering::Relaxed);
        if shipped.is_none() {
            *copy.end() = None;
        }
    }

    /// Takes in where the copy of an attachment says that it ends in the log of the epoch in force
    /// here, also where that is less than it said before; `None` = it has nothing of that.
    pub fn note_copy_end(&self, attachment: u128, epoch: &RegionEpoch, through: Option<Position>) {
        let epoch = epoch.clone();
        *self.inner.copy.end() = Some(End { attachment, epoch, through });
    }

    /// Whether the other region's group has applied this entry of the log, which is committed;
    /// `None` = there is no other region, or it is not known to this node: it does not lead, the
    /// entry is not known to be committed, or is of an epoch before.
    #[must_use]
    pub fn is_in_other_region(&self, position: Position) -> Option<bool> {
        self.term().ok()?;
        let store = self.store().read();
        let authority = store.state().authority()?;
        let ships = matches!(authority.role, Role::Primary | Role::Sealed { .. });
        let attachment = authority.attachment.as_ref().filter(|_| ships)?.id;
        let (epoch, recorded) = (authority.epoch.clone(), authority.shipped);
        let first = authority.line()?.first;
        drop(store);
        let is_before = first.is_some_and(|first| position.index <= first.index);
        if is_before || !self.has_applied(position) {
            return None;
        }
        let end = self.inner.copy.end().clone();
        let end = end.filter(|it| it.attachment == attachment && it.epoch == epoch);
        let through = match end {
            Some(end) => end.through,
            None => Some(recorded?),
        };
        Some(through.is_some_and(|at| at.index >= position.index))
    }

    /// How far the other region is behind, where one is attached and this cluster ships.
    #[must_use]
    pub fn behind(&self) -> Option<Behind> {
        let store = self.store().read();
        let authority = store.state().authority()?;
        authority.attachment.as_ref()?;
        let applied = store.applied()?.index;
        let shipped = authority.shipped;
        drop(store);
        let recorded = shipped.map_or(0, |at| at.index.saturating_add(1));
        let next = self.inner.copy.next.load(Ordering::Relaxed).max(recorded);
        if next > applied {
            return Some(Behind { positions: 0, bytes: 0, lag: Some(Span::ZERO) });
        }
        let lag = self.stamp().and_then(|now| {
            let last_sync = self.last_sync().or_else(|| self.recorded_sync(shipped?, applied, now));
            Some(now.since(last_sync?))
        });
        Some(Behind {
            positions: (applied + 1).saturating_sub(next),
            bytes: self.inner.log.unread_bytes(next),
            lag,
        })
    }

    fn last_sync(&self) -> Option<LogTime> {
        let at = self.inner.copy.last_sync_us.load(Ordering::Relaxed);
        (at > 0).then_some(LogTime(at))
    }

    /// The time of the entry that was recorded last, or of the first one behind it that has one
    /// and is still in the log: a new leader knows no other before the copy's first word, which
    /// may be long in coming. Where nothing with a time is behind it the copy lacks nothing.
    fn recorded_sync(&self, shipped: Position, applied: u64, now: LogTime) -> Option<LogTime> {
        let from = self.log_first()?.max(shipped.index);
        let to = applied.saturating_add(1).min(from.saturating_add(WITH_A_TIME.0));
        let read = self.log_entries(from, to, WITH_A_TIME.1).ok()?;
        let stamp = |entry: LogEntry| match entry.payload {
            Payload::Commands(bytes) => {
                codec::decode_entry(entry.position, bytes).ok().map(|entry| entry.stamp)
            }
            Payload::Blank | Payload::Membership(_) => None,
        };
        let at = read.into_iter().find_map(stamp).unwrap_or(now);
        // The copy may have said more meanwhile.
        let own = &self.inner.copy.last_sync_us;
        let _ = own.compare_exchange(0, at.0, Ordering::Relaxed, Ordering::Relaxed);
        self.last_sync()
    }

    /// Refuses a client's write while the other region is too far behind.
    pub(super) fn check_lag(&self, command: &Command) -> Result<(), GroupError> {
        let Some(limits) = self.store().footing_now().limits else { return Ok(()) };
        let behind = self.behind().unwrap_or_default();
        let coming = self.inner.proposer.bytes_in_flight();
        let more = coming.saturating_add(command.size() as u64).saturating_add(AROUND);
        if !is_clients(command) || limits.allow(&behind, more) {
            return Ok(());
        }
        Err(GroupError::NotNow {
            reason: Reason::TooFarBehind,
            fate: Fate::NotApplied,
            retry_after: PATIENCE,
            leader: None,
        })
    }

    /// Waits a while for the other region to catch up.
    pub(super) async fn until_within_limits(
        &self,
        command: &Command,
        deadline: Instant,
    ) -> Result<(), GroupError> {
        let now = Instant::now();
        let give_up = now + PATIENCE.min(deadline.saturating_duration_since(now) * 3 / 4);
        loop {
            let checked = self.check_lag(command);
            if checked.is_ok() || Instant::now() >= give_up {
                return checked;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_counts_before_it_is_there_and_what_is_not_known_is_no_lag() {
        let limits = Limits { max_lag: Some(Span(10)), max_unshipped_bytes: Some(1_000) };
        let behind = |bytes, lag| Behind { positions: 1, bytes, lag };
        assert!(limits.allow(&behind(900, Some(Span(10))), 100));
        assert!(!limits.allow(&behind(900, Some(Span(10))), 101));
        assert!(!limits.allow(&behind(0, Some(Span(11))), 0));
        assert!(limits.allow(&behind(0, None), 0));
        let lag_only = Limits { max_unshipped_bytes: None, ..limits };
        assert!(lag_only.allow(&behind(u64::MAX, None), u64::MAX));
    }
}
