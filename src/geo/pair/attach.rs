//! How the other region is attached, from either side.
//!
//! Laws: a side that follows, is fenced, kept a copy or is empty asks the one that has the data,
//! which attaches it; what is so already is answered again. Nothing there is given up unasked.

use tokio::time::Instant;

use super::toward::CARRIED;
use super::{Pair, STEP};
use crate::geo::batch;
use crate::geo::error::PairError;
use crate::geo::wire;
use crate::proto::geo::v1 as pb;
use crate::proto::geo::v1::carry_request::Verb;
use crate::queue::authority::command::RegionVerb;
use crate::queue::authority::plan::CopyEnd;
use crate::queue::authority::{Authority, Role};
use crate::storage::codec;

impl Pair {
    /// Attaches the other region, and begins to ship: an empty one, a kept copy of this lineage, or
    /// the primary that this side deposed. What the last has alone must have been replayed or
    /// exported, unless it is to be given up by `discard_tail`. On the side that is to follow, the
    /// other one is asked to.
    ///
    /// # Errors
    /// Refused by either side, with nothing changed; or *not now*: run it again.
    pub async fn protect(&self, who: &str, discard_tail: bool) -> Result<(), PairError> {
        let theirs = self.other.status(Instant::now() + STEP).await?;
        if self.is_to_follow(&theirs) {
            let verb = Verb::Protect(pb::CarryProtect { discard_tail });
            let asked = self.carry(who, verb, "protect", Instant::now() + CARRIED);
            return asked.await.map(drop);
        }
        self.protect_by(who, discard_tail, theirs).await
    }

    /// As [`Pair::protect`], when the side that is to follow asks for it.
    ///
    /// # Errors
    /// As there.
    pub(in crate::geo) async fn protect_here(
        &self,
        who: &str,
        discard_tail: bool,
    ) -> Result<(), PairError> {
        let theirs = self.other.status(Instant::now() + STEP).await?;
        self.protect_by(who, discard_tail, theirs).await
    }

    /// Whether the data that is to be protected is that of the other region.
    fn is_to_follow(&self, theirs: &pb::GetStatusResponse) -> bool {
        let writes = matches!(theirs.role.as_str(), "standalone" | "primary");
        let own = self.authority().filter(|own| own.lineage != 0);
        let is_mine = match &own {
            None => !self.group.store().read().state().is_empty() || theirs.is_empty,
            Some(own) => {
                let follows = !matches!(
                    own.role,
                    Role::Standalone | Role::Primary | Role::Sealed { .. } | Role::Conflict { .. }
                );
                !(follows && theirs.lineage == wire::wide(own.lineage))
            }
        };
        writes && !is_mine
    }

    async fn protect_by(
        &self,
        who: &str,
        discard_tail: bool,
        theirs: pb::GetStatusResponse,
    ) -> Result<(), PairError> {
        let own = self.authority();
        let region = own.as_ref().map_or(self.region.clone(), |it| it.region.clone());
        if theirs.region == region {
            let why = format!("both clusters are of region {region:?}: give one another name");
            return Err(PairError::Refused(why));
        }
        let reseed = self.must_seed(own.as_ref(), &theirs)?;
        // So a side is that goes on after a conflict without a second region.
        if own.as_ref().is_some_and(|it| it.role == Role::Primary && it.attachment.is_none()) {
            self.propose(RegionVerb::Unprotect, who).await?;
        }
        let (lineage, attachment) = match &own {
            Some(it) => {
                let known = it.attachment.as_ref().map(|attached| attached.id);
                (it.lineage, known.unwrap_or_else(|| self.fresh_id()))
            }
            None => (self.fresh_id(), self.fresh_id()),
        };
        let was_primary = own.is_some_and(|it| it.role == Role::Primary && it.attachment.is_some());
        let verb = RegionVerb::Protect { region, lineage, attachment, peer: theirs.region };
        self.propose(verb, who).await?;
        let authority = self.in_pair()?;
        let request = pb::AttachRequest {
            lineage: wire::wide(authority.lineage),
            attachment: wire::wide(attachment),
            ledger: wire::ledger_to(&authority.ledger),
            who: who.to_owned(),
            reseed,
            discard_tail,
            lease_us: authority.leasing.longest.max(authority.leasing.in_force).map(|it| it.0),
        };
        let attached = self
            .other
            .ask(Instant::now() + STEP, |mut client| {
                let request = request.clone();
                async move { client.attach(request).await }
            })
            .await;
        if let (Err(PairError::Refused(_)), false) = (&attached, was_primary) {
            self.propose(RegionVerb::Unprotect, who).await?;
        }
        attached.map(drop)
    }

    /// Whether what the other region has must be replaced by a whole state: it went another way, or
    /// this node's log does not reach back to where it ends.
    fn must_seed(
        &self,
        own: Option<&Authority>,
        theirs: &pb::GetStatusResponse,
    ) -> Result<bool, PairError> {
        let cannot = |why: String| Err(PairError::Refused(why));
        let gives_way = matches!(theirs.role.as_str(), "released" | "fenced" | "detached");
        if !theirs.is_empty && own.is_none_or(|own| theirs.lineage != wire::wide(own.lineage)) {
            return cannot(format!(
                "region {:?} holds data of its own: only an empty cluster, or one of the same history, can be attached",
                theirs.region
            ));
        }
        // An empty one is given a whole state where the log does not reach back.
        if let (Some(own), false) = (own, theirs.is_empty) {
            let has_handed_over = theirs.role == "released";
            let through = if has_handed_over { theirs.role_at } else { theirs.applied_through };
            let end = CopyEnd {
                epoch: theirs.epoch.clone().map(codec::epoch_from).unwrap_or_default(),
                through: through.map(wire::position_from),
            };
            // What follows already is given what it lacks, be that a state.
            let known = own.attachment.as_ref().map(|it| wire::wide(it.id));
            let follows = theirs.role == "secondary" && known.as_ref() == Some(&theirs.attachment);
            let primary = Authority { role: Role::Primary, ..own.clone() };
            let reach = batch::reach(&self.group, &primary, &end);
            return match reach {
                _ if theirs.role == "fenced" => Ok(true),
                Ok(()) => Ok(false),
                Err(_) if follows => Ok(false),
                Err(_) if gives_way => Ok(true),
                Err(parted) => cannot(format!("the kept copy cannot go on from here: {parted}")),
            };
        }
        Ok(false)
    }

    /// A number that no cluster has had: made of the time, and of who makes it.
    pub(super) fn fresh_id(&self) -> u128 {
        let leadership = *self.group.leadership().borrow();
        let name = crc32c::crc32c(self.group.config().cluster_id.as_bytes());
        let maker = [self.group.node(), leadership.term, self.clock.monotonic_us()];
        let maker: Vec<u8> = maker.iter().flat_map(|number| number.to_be_bytes()).collect();
        let low = u64::from(name) << 32 | u64::from(crc32c::crc32c(&maker));
        u128::from(self.clock.wall_us()) << 64 | u128::from(low)
    }
}
