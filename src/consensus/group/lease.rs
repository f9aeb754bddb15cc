//! The region lease as this node holds it: until when the other region will not promote itself.
//!
//! Laws: a grant counts from the moment when it was asked for, by this node's monotonic clock, and
//! only in the term and the epoch in which it was asked for: who leads next has none and asks
//! anew. Where the state says that the cluster relies on leases, nothing of a client is proposed
//! without one, no answer leaves without one that was looked at after the commit, and no
//! linearizable read is given without one that was looked at after the confirmation.
//!
//! Who asks for grants is the floor between regions.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::error::{Fate, GroupError, Reason};
use super::Group;
use crate::clock::SharedClock;
use crate::queue::command::Command;
use crate::queue::ids::Epoch;

/// A grant of the other region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Raft's term, in which this node leads.
    pub term: u64,
    pub epoch: Epoch,
    /// Monotonic time of this node.
    pub until_us: u64,
}

/// What this node holds, and why it holds nothing where that is known.
#[derive(Debug)]
pub struct RegionLease {
    clock: SharedClock,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    grant: Option<Grant>,
    trouble: Option<String>,
}

impl RegionLease {
    pub(super) fn new(clock: SharedClock) -> RegionLease {
        RegionLease { clock, held: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a grant; one that ends sooner than the one that is held changes nothing.
    pub fn take(&self, grant: Grant) {
        let mut held = self.lock();
        let same = |known: &Grant| (known.term, known.epoch) == (grant.term, grant.epoch);
        let later = held.grant.is_some_and(|it| same(&it) && it.until_us >= grant.until_us);
        if !later {
            held.grant = Some(grant);
        }
        held.trouble = None;
    }

    /// Why the newest request was not granted.
    pub fn note_trouble(&self, why: String) {
        self.lock().trouble = Some(why);
    }

    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.lock().trouble.clone()
    }

    /// How much is left of a grant of this term and epoch; `None` = none is held, or it has run
    /// out.
    #[must_use]
    pub fn left(&self, term: u64, epoch: Epoch) -> Option<Duration> {
        let grant = self.lock().grant.filter(|it| it.term == term && it.epoch == epoch)?;
        let left = grant.until_us.checked_sub(self.clock.monotonic_us())?;
        (left > 0).then(|| Duration::from_micros(left))
    }
}

impl Group {
    /// The region lease as this node holds it.
    #[must_use]
    pub fn region_lease(&self) -> &RegionLease {
        &self.inner.lease
    }

    /// How much is left of the grant that this node leads by.
    #[must_use]
    pub fn region_lease_left(&self) -> Option<Duration> {
        let leadership = *self.inner.leadership.borrow();
        let epoch = self.store().footing_now().epoch;
        self.inner.lease.left(leadership.term, epoch).filter(|_| leadership.is_me)
    }

    /// Refuses where this cluster relies on a region lease and this node holds none.
    pub(super) fn check_lease(&self) -> Result<(), GroupError> {
        let may = !self.store().footing_now().needs_lease
            || self.region_lease_left().is_some()
            || crate::mutants::is_chosen("lease-ignored");
        if may { Ok(()) } else { Err(GroupError::not_applied(Reason::NoRegionLease)) }
    }

    /// The same after the commit: what was done is done, and its fate is not for this node to
    /// tell any more.
    pub(super) fn check_lease_after(&self) -> Result<(), GroupError> {
        self.check_lease().map_err(|_| GroupError::NotNow {
            reason: Reason::NoRegionLease,
            fate: Fate::Unknown,
            retry_after: Duration::from_millis(200),
            leader: None,
        })
    }
}

/// Whether a command is a client's; what a cluster does by itself tells nobody anything.
pub(super) fn is_clients(command: &Command) -> bool {
    !matches!(command, Command::Region(_) | Command::Pulse)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;

    #[test]
    fn a_grant_runs_out_and_is_of_one_term_and_one_epoch() {
        let clock = Arc::new(ManualClock::at(0));
        let lease = RegionLease::new(clock.clone());
        let left = |term, epoch| lease.left(term, Epoch(epoch));
        assert_eq!(left(3, 1), None);
        let grant = |until_us| Grant { term: 3, epoch: Epoch(1), until_us };
        lease.take(grant(5_000_000));
        clock.advance(Duration::from_secs(4));
        assert_eq!(left(3, 1), Some(Duration::from_secs(1)));
        assert_eq!((left(4, 1), left(3, 2)), (None, None), "the next term and epoch have none");
        lease.take(grant(4_500_000));
        assert_eq!(left(3, 1), Some(Duration::from_secs(1)), "an older answer takes nothing away");
        clock.advance(Duration::from_secs(1));
        assert_eq!(left(3, 1), None, "it has run out at the very moment");
        lease.take(Grant { term: 4, ..grant(5_500_000) });
        assert_eq!((left(4, 1), left(3, 1)), (Some(Duration::from_millis(500)), None));
    }

    #[test]
    fn a_wall_clock_that_steps_moves_no_lease() {
        let clock = Arc::new(ManualClock::at(1_000_000));
        let lease = RegionLease::new(clock.clone());
        lease.take(Grant { term: 1, epoch: Epoch(1), until_us: 1_000_000 });
        clock.set_wall(900_000_000);
        assert_eq!(lease.left(1, Epoch(1)), Some(Duration::from_secs(1)));
    }
}
