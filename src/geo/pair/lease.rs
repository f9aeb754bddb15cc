//! How the operator sets the region lease.

use std::time::Duration;

use tokio::time::Instant;

use super::toward::elsewhere;
use super::{Pair, STEP};
use crate::geo::error::PairError;
use crate::geo::lease;
use crate::queue::authority::command::RegionVerb;
use crate::queue::authority::{RegionSettings, Role};
use crate::queue::ids::Span;

impl Pair {
    /// Sets the region lease of this primary, or turns it off. Answers whether both regions agree
    /// `within` this time; otherwise the leader goes on asking the other one, and until that one
    /// agrees a new lease is not relied on.
    ///
    /// # Errors
    /// Refused by the role, by the other region, or for its length. To turn it off takes the other
    /// region's word, unless by `force`: without it the lease stays.
    pub async fn set_lease(
        &self,
        who: &str,
        wanted: Option<Span>,
        force: bool,
        within: Duration,
    ) -> Result<bool, PairError> {
        let authority = self.in_pair()?;
        if authority.role != Role::Primary {
            let why = format!(
                "the region lease is set at the primary: this cluster is {}",
                authority.role.name()
            );
            return Err(elsewhere(&why, &authority, "lease"));
        }
        if force && wanted.is_none() {
            self.configure_lease(who, wanted).await?;
            let attachment = authority.attachment.as_ref().map_or(0, |it| it.id);
            let verb = RegionVerb::RelyOnLease { attachment, lease: None };
            return self.propose(verb, who).await.map(|_| true);
        }
        let before = authority.settings.lease;
        if before != wanted {
            self.configure_lease(who, wanted).await?;
        }
        match lease::settle(&self.group, &self.other, who, Instant::now() + within.min(STEP)).await
        {
            Ok(()) => Ok(true),
            Err(PairError::NotNow { .. }) if wanted.is_some() => Ok(false),
            Err(error) => {
                // What did not come about now must not come about later by itself.
                self.configure_lease(who, before).await?;
                Err(match error {
                    PairError::NotNow { why, .. } => PairError::Refused(format!(
                        "the region lease stays: to end it takes the other region's word, or \
                         `zoneq region lease off --force`: {why}"
                    )),
                    other => other,
                })
            }
        }
    }

    async fn configure_lease(&self, who: &str, lease: Option<Span>) -> Result<(), PairError> {
        self.configure(who, |settings| Ok(RegionSettings { lease, ..settings })).await
    }
}
