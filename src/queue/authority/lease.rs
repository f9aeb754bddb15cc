//! Region leases as both regions have agreed on them. Granting itself is no entry of a log: see
//! the lease keeper of the floor between regions.
//!
//! Laws:
//! * The secondary agrees first, so that whoever promotes it knows for how long to wait; only
//!   then does the primary rely on leases, and acknowledges nothing without a grant.
//! * The secondary remembers the longest lease that it agreed to in the epoch, until another
//!   epoch begins: a shorter one, or none, ends no grant that is out.
//! * The primary remembers it too, and tells it to whoever is attached: a copy that was let go, or
//!   lost its disks, and follows again waits for grants that were given before.
//! * Once it has stopped granting it grants nothing more in this epoch, and agrees to nothing. A
//!   promotion by force names the entry at which that was so: who waited for another one has not
//!   waited long enough.

use super::command::{RegionReply, RegionVerb};
use super::refusal::RegionRefusal;
use super::transition::{mismatch, wrong_role};
use super::{Authority, Role};
use crate::queue::ids::{Epoch, Position, Span};
use crate::queue::limits::REGION_LEASE;

/// What is waited beyond a tenth more than the lease: for clocks that run unevenly, and for calls
/// that were just being answered.
const MARGIN: Span = Span(250_000);

/// What a cluster has agreed to about region leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leasing {
    /// Of a primary: it acknowledges nothing without a grant for this long. `None` = it relies
    /// on none.
    pub in_force: Option<Span>,
    /// The longest lease of this epoch: that a secondary agreed to, or a primary relied on.
    pub longest: Option<Span>,
    /// Of a secondary: since this entry it grants none.
    pub stopped: Option<Position>,
}

impl Leasing {
    /// How long a promotion by force waits after granting was stopped: a tenth longer than the
    /// longest lease, and a quarter of a second. `None` = no lease was ever agreed to.
    #[must_use]
    pub fn wait(&self) -> Option<Span> {
        let longest = self.longest?;
        let tenth = longest.0.div_ceil(10);
        Some(Span(longest.0.saturating_add(tenth).saturating_add(MARGIN.0)))
    }
}

impl Authority {
    /// Whether this secondary may grant a lease of this length in this epoch.
    ///
    /// # Errors
    /// The refusal that the primary is to read.
    pub fn check_grant(
        &self,
        attachment: u128,
        epoch: Epoch,
        lease: Span,
    ) -> Result<(), RegionRefusal> {
        self.check_follows(attachment, epoch)?;
        if self.leasing.stopped.is_some() {
            return Err(RegionRefusal::StoppedGranting);
        }
        if self.leasing.longest.is_none_or(|longest| lease > longest) {
            return Err(mismatch("the length of the region lease"));
        }
        Ok(())
    }

    fn check_follows(&self, attachment: u128, epoch: Epoch) -> Result<(), RegionRefusal> {
        if self.role != Role::Secondary {
            let verb = "grant a region lease".to_owned();
            return Err(RegionRefusal::WrongRole { role: self.role.name().to_owned(), verb });
        }
        if self.attachment.as_ref().is_none_or(|it| it.id != attachment) {
            return Err(mismatch("the attachment"));
        }
        if self.epoch.number != epoch {
            return Err(mismatch("the epoch"));
        }
        Ok(())
    }

    /// Who stands alone asks nobody for leave, and the other region may have been promoted.
    ///
    /// # Errors
    /// [`RegionRefusal::ReliesOnLease`].
    pub fn check_relies_on_none(&self) -> Result<(), RegionRefusal> {
        if self.leasing.in_force.is_some() { Err(RegionRefusal::ReliesOnLease) } else { Ok(()) }
    }

    /// Whether a promotion by force has to stop the granting of leases first.
    #[must_use]
    pub fn must_stop_granting(&self) -> bool {
        self.settings.lease.is_some() || self.leasing.longest.is_some()
    }
}

/// Whether a lease may have this length.
pub fn check_length(lease: Option<Span>) -> Result<(), RegionRefusal> {
    if lease.is_none_or(|lease| REGION_LEASE.contains(&lease)) {
        return Ok(());
    }
    let problem = format!(
        "is not between {} and {} seconds",
        REGION_LEASE.start().0 / 1_000_000,
        REGION_LEASE.end().0 / 1_000_000
    );
    Err(RegionRefusal::BadField { field: "region_lease".to_owned(), problem })
}

/// What the commands about leases do.
pub fn change(
    next: &mut Authority,
    at: Position,
    verb: &RegionVerb,
) -> Result<RegionReply, RegionRefusal> {
    match verb {
        RegionVerb::AcceptLease { attachment, epoch, lease } => {
            check_length(*lease)?;
            next.check_follows(*attachment, *epoch)?;
            if next.leasing.stopped.is_some() {
                return Err(RegionRefusal::StoppedGranting);
            }
            next.settings.lease = *lease;
            next.leasing.longest = next.leasing.longest.max(*lease);
        }
        RegionVerb::RelyOnLease { attachment, lease } => {
            if next.role != Role::Primary {
                return Err(wrong_role(&next.role, verb));
            }
            if next.attachment.as_ref().is_none_or(|it| it.id != *attachment) {
                return Err(mismatch("the attachment"));
            }
            if next.settings.lease != *lease {
                return Err(mismatch("the length of the region lease"));
            }
            next.leasing.in_force = *lease;
            next.leasing.longest = next.leasing.longest.max(*lease);
        }
        RegionVerb::SetGranting { on: false } if next.role == Role::Secondary => {
            let stopped = *next.leasing.stopped.get_or_insert(at);
            return Ok(RegionReply::At(stopped));
        }
        RegionVerb::SetGranting { on: true } if next.role == Role::Secondary => {
            next.leasing.stopped = None;
        }
        _ => return Err(wrong_role(&next.role, verb)),
    }
    Ok(RegionReply::Done)
}
