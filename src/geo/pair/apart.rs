//! How the regions of a pair part: what becomes of the copy.

use tokio::time::Instant;

use super::toward::elsewhere;
use super::{Pair, STEP};
use crate::geo::error::PairError;
use crate::geo::wire;
use crate::proto::geo::v1 as pb;
use crate::queue::authority::Role;
use crate::queue::authority::command::RegionVerb;

impl Pair {
    /// Ends the protection: a primary stands alone again, and the copy is kept there, readable, or
    /// wiped. On a secondary, or with a kept copy, the same is done with what is here. A region lease
    /// is ended first, which takes the other region's word that it was not promoted.
    ///
    /// # Errors
    /// As [`Pair::protect`], and as [`Pair::set_lease`] where a lease is relied on. Where the other region is not reached, this one has ended it, and
    /// the other's operator ends it there.
    pub async fn unprotect(&self, who: &str, wipe: bool) -> Result<(), PairError> {
        let authority = self.in_pair()?;
        if matches!(authority.role, Role::Secondary | Role::Detached) {
            self.propose(RegionVerb::Detach, who).await?;
            if wipe {
                self.propose(RegionVerb::Wipe, who).await?;
            }
            return Ok(());
        }
        if !matches!(authority.role, Role::Standalone | Role::Primary) {
            let why = format!("a cluster that is {} has no copy to give up", authority.role.name());
            return Err(elsewhere(&why, &authority, "unprotect"));
        }
        if authority.leasing.in_force.is_some() {
            self.set_lease(who, None, false, STEP).await?;
        }
        self.propose(RegionVerb::Unprotect, who).await?;
        let (lineage, who) = (wire::wide(authority.lineage), who.to_owned());
        let request = pb::DetachRequest { lineage, who, wipe };
        self.other
            .ask(Instant::now() + STEP, |mut client| {
                let request = request.clone();
                async move { client.detach(request).await }
            })
            .await
            .map(drop)
    }

    /// Makes a kept copy a cluster of its own, with a history of its own from here on; where this
    /// cluster stands alone nothing is done.
    ///
    /// # Errors
    /// Refused in any other role, and while the copy is being given a state.
    pub async fn promote_copy(&self, who: &str) -> Result<(), PairError> {
        let own = self.in_pair()?;
        match own.role {
            Role::Standalone => return Ok(()),
            Role::Detached => {}
            ref role => {
                let why = format!("a cluster that is {} is no kept copy", role.name());
                return Err(elsewhere(&why, &own, "promote"));
            }
        }
        let lineage = self.fresh_id();
        self.propose(RegionVerb::Renew { lineage }, who).await.map(drop)
    }
}
