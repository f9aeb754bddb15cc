//! Which side a verb belongs to, and how it comes there.
//!
//! Laws: what is passed on is passed once: the side that is asked by the other one does it itself
//! or refuses. Where nothing is passed on, the refusal names the side and the command to type.

use std::time::Duration;

use tokio::time::Instant;

use super::Pair;
use crate::geo::error::PairError;
use crate::geo::wire;
use crate::proto::geo::v1 as pb;
use crate::proto::geo::v1::carry_request::Verb;
use crate::queue::authority::{Authority, Role};

/// The other side has this long for what is passed on to it.
pub(super) const CARRIED: Duration = Duration::from_secs(30);

/// Where an operator goes with a command that this side does not carry out, and what is typed
/// there.
#[must_use]
pub fn toward(own: &Authority, command: &str) -> String {
    let there = |region: &str| format!("run `zoneq region {command}` at region {region:?}");
    let peer = own.attachment.as_ref().map(|it| it.peer.as_str());
    match (&own.role, peer) {
        (Role::Secondary, _) => there(&own.epoch.region),
        (Role::Fenced { by, .. }, _) => there(&by.region),
        (Role::Primary, Some(peer)) => there(peer),
        (Role::Primary | Role::Standalone, _) => {
            "`zoneq region protect` attaches a second region".to_owned()
        }
        (Role::Sealed { .. } | Role::Released { .. }, _) => {
            "a failover is under way: `zoneq region failover` goes on with it, and \
             `zoneq region take-back` ends it"
                .to_owned()
        }
        (Role::Conflict { with, .. }, _) => format!(
            "`zoneq region resolve --keep` decides between regions {:?} and {with:?}",
            own.region
        ),
        (Role::Detached, _) => {
            "it is a kept copy: `zoneq region promote` makes it a cluster of its own".to_owned()
        }
    }
}

/// A refusal that says where to go.
pub(super) fn elsewhere(why: &str, own: &Authority, command: &str) -> PairError {
    PairError::Refused(format!("{why}: {}", toward(own, command)))
}

impl Pair {
    /// Asks the other region to do what is its to do. `command` is what an operator would type
    /// there.
    ///
    /// # Errors
    /// As [`crate::geo::other::OtherRegion::ask`].
    pub(super) async fn carry(
        &self,
        who: &str,
        verb: Verb,
        command: &str,
        deadline: Instant,
    ) -> Result<pb::CarryResponse, PairError> {
        let lineage = self.authority().map(|it| it.lineage).filter(|lineage| *lineage != 0);
        let request = pb::CarryRequest {
            lineage: lineage.map(wire::wide).unwrap_or_default(),
            who: who.to_owned(),
            verb: Some(verb),
        };
        let asked = self.other.ask_patiently(deadline, CARRIED, |mut client| {
            let request = request.clone();
            async move { client.carry(request).await }
        });
        match asked.await {
            // A node of before this call says no word.
            Err(PairError::Refused(why)) if why.is_empty() => Err(PairError::Refused(format!(
                "the other region cannot be asked for that from here: run `zoneq region \
                 {command}` there"
            ))),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::authority::{Attachment, RegionEpoch};
    use crate::queue::ids::{Epoch, Position};

    #[test]
    fn in_every_role_a_refusal_says_what_to_type_and_where_that_is_another_region() {
        let at = Position::default();
        let west = || RegionEpoch { number: Epoch(2), region: "west".to_owned() };
        let attachment = || Some(Attachment { id: 7, peer: "west".to_owned() });
        let there = "run `zoneq region failback` at region \"west\"";
        let under_way = "a failover is under way: `zoneq region failover`";
        let protect = "`zoneq region protect` attaches";
        let table = [
            (Role::Standalone, None, protect),
            (Role::Primary, None, protect),
            (Role::Primary, attachment(), there),
            (Role::Sealed { at }, attachment(), under_way),
            (Role::Released { to: west(), at }, attachment(), under_way),
            (Role::Secondary, attachment(), there),
            (Role::Fenced { by: west(), fork: None, at }, None, there),
            (
                Role::Conflict { with: "west".to_owned(), fork: None, at },
                None,
                "`zoneq region resolve --keep` decides between regions \"east\" and \"west\"",
            ),
            (Role::Detached, None, "it is a kept copy: `zoneq region promote`"),
        ];
        for (role, attachment, said) in table {
            let region = "east".to_owned();
            let follows = role == Role::Secondary;
            let epoch = if follows { west() } else { RegionEpoch::default() };
            let own = Authority { role, attachment, region, epoch, ..Authority::default() };
            let text = toward(&own, "failback");
            assert!(text.starts_with(said), "{}: {text}", own.role.name());
        }
    }
}
