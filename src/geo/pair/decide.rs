//! What ends a failover or a conflict that did not come to its end by itself, from either side.
//!
//! Laws: who handed over takes back, and is asked to by the other side; what was taken back already
//! is answered again. A conflict that one side has decided is not decided anew by the other, which
//! learns of it.

use tokio::time::Instant;

use super::toward::{CARRIED, elsewhere};
use super::{Pair, STEP};
use crate::geo::error::PairError;
use crate::geo::wire;
use crate::proto::geo::v1 as pb;
use crate::proto::geo::v1::carry_request::Verb;
use crate::queue::authority::command::RegionVerb;
use crate::queue::authority::{Authority, Role};
use crate::queue::ids::Epoch;
use crate::storage::codec;

impl Pair {
    /// Takes back what was handed over and did not arrive: the other side declines, or, by
    /// `force`, is fenced by a new epoch, which may lose what it wrote. On a secondary: grants
    /// region leases again where a promotion by force was begun and did not come to its end; else
    /// its primary is asked to take back. Where it is taken back already nothing is done.
    ///
    /// # Errors
    /// Refused by the role, or by the other side, which may have been promoted already.
    pub async fn take_back(&self, who: &str, force: bool) -> Result<(), PairError> {
        let own = self.in_pair()?;
        if own.role != Role::Secondary || own.leasing.stopped.is_some() {
            return self.take_back_here(who, force).await;
        }
        let theirs = self.other.status(Instant::now() + STEP).await?;
        let is_of_ours = theirs.lineage == wire::wide(own.lineage);
        match theirs.role.as_str() {
            "sealed" | "released" if is_of_ours => {
                let verb = Verb::TakeBack(pb::CarryTakeBack { force });
                let asked = self.carry(who, verb, "take-back", Instant::now() + CARRIED);
                asked.await.map(drop)
            }
            "primary" if is_of_ours && was_taken_back(&own) => Ok(()),
            role => Err(PairError::Refused(format!(
                "region {:?} is {role} and hands nothing over: `zoneq region failback` makes the \
                 region where the data was at first the primary",
                theirs.region
            ))),
        }
    }

    /// The part of [`Pair::take_back`] of the side that handed over.
    ///
    /// # Errors
    /// As there.
    pub(in crate::geo) async fn take_back_here(
        &self,
        who: &str,
        force: bool,
    ) -> Result<(), PairError> {
        let authority = self.in_pair()?;
        let number = match &authority.role {
            role if matches!(role, Role::Sealed { .. })
                || crate::mutants::is_chosen("unseal-after-release") =>
            {
                return self.propose(RegionVerb::Unseal, who).await.map(drop);
            }
            Role::Released { to, .. } => to.number,
            // A promotion by force was begun here, and is not wanted after all.
            Role::Secondary if authority.leasing.stopped.is_some() => {
                let verb = RegionVerb::SetGranting { on: true };
                return self.propose(verb, who).await.map(drop);
            }
            // Nothing is handed over any more.
            Role::Primary => return Ok(()),
            role => {
                let why = format!("a cluster that is {} takes nothing back", role.name());
                return Err(elsewhere(&why, &authority, "failback"));
            }
        };
        if force {
            let number = authority.next_number();
            return self.propose(RegionVerb::TakeBack { number }, who).await.map(drop);
        }
        let request = pb::DeclineRequest {
            lineage: wire::wide(authority.lineage),
            number: number.0,
            who: who.to_owned(),
        };
        self.other
            .ask(Instant::now() + STEP, |mut client| {
                let request = request.clone();
                async move { client.decline(request).await }
            })
            .await?;
        self.propose(RegionVerb::Declined { number }, who).await.map(drop)
    }

    /// Decides a conflict, on both sides.
    ///
    /// # Errors
    /// Refused where there is none, and where it is decided otherwise. Where the other side is not
    /// reached it is decided here, and the higher epoch decides it there.
    pub async fn resolve(&self, who: &str, keep: &str) -> Result<(), PairError> {
        let own = self.in_pair()?;
        let theirs = self.other.status(Instant::now() + STEP).await.ok();
        if let Some(theirs) = &theirs
            && self.learn_decision(who, keep, &own, theirs).await?
        {
            return Ok(());
        }
        let told = theirs.as_ref().and_then(|theirs| decided_here(&own, keep, theirs));
        let number = match told {
            Some(number) => number,
            None => {
                let next = theirs.as_ref().map_or(0, |it| it.next_number);
                let number = next.max(own.next_number().0);
                let verb = RegionVerb::Resolve { keep: keep.to_owned(), number: Epoch(number) };
                self.propose(verb, who).await?;
                number
            }
        };
        if theirs.is_none_or(|it| it.role != "conflict") {
            return Ok(());
        }
        let request = pb::ResolveRequest {
            lineage: wire::wide(own.lineage),
            keep: keep.to_owned(),
            number,
            who: who.to_owned(),
        };
        self.other
            .ask(Instant::now() + STEP, |mut client| {
                let request = request.clone();
                async move { client.resolve(request).await }
            })
            .await
            .map(drop)
    }

    /// Takes in what was decided before and both may know; false = there is still a conflict.
    async fn learn_decision(
        &self,
        who: &str,
        keep: &str,
        own: &Authority,
        theirs: &pb::GetStatusResponse,
    ) -> Result<bool, PairError> {
        if theirs.lineage != wire::wide(own.lineage) || theirs.role == "conflict" {
            return Ok(false);
        }
        let epoch = theirs.epoch.clone().map(codec::epoch_from).unwrap_or_default();
        let kept = match &own.role {
            Role::Conflict { .. } if epoch.number > own.epoch.number => epoch.region.clone(),
            Role::Conflict { .. } => return Ok(false),
            Role::Fenced { by, .. } => by.region.clone(),
            Role::Primary | Role::Standalone | Role::Secondary => own.epoch.region.clone(),
            _ => return Ok(false),
        };
        if kept != keep {
            let why = format!("region {kept:?} is the one that goes on");
            return Err(elsewhere(&why, own, "failover"));
        }
        if matches!(own.role, Role::Conflict { .. }) {
            let ledger = wire::ledger_from(theirs.ledger.clone());
            let ledger = ledger.map_err(|error| PairError::Refused(error.to_string()))?;
            self.group.hear(own.lineage, ledger, who, Instant::now() + STEP).await?;
        }
        Ok(true)
    }
}

/// Whether a secondary knows that its primary took back what it had handed over.
fn was_taken_back(own: &Authority) -> bool {
    let mut newest = own.ledger.iter().rev();
    let is_again = newest
        .next()
        .zip(newest.next())
        .is_some_and(|(one, other)| one.epoch.region == other.epoch.region);
    own.declined > own.epoch.number || is_again
}

/// The number of the epoch by which this side has decided for that region, where the other one has
/// not heard of it.
fn decided_here(own: &Authority, keep: &str, theirs: &pb::GetStatusResponse) -> Option<u32> {
    let decided = match &own.role {
        Role::Fenced { by, .. } => by,
        Role::Primary | Role::Standalone => &own.epoch,
        _ => return None,
    };
    let known = theirs.epoch.as_ref().map_or(0, |epoch| epoch.number);
    let is_news = theirs.lineage == wire::wide(own.lineage) && decided.number.0 > known;
    (is_news && decided.region == keep).then_some(decided.number.0)
}
