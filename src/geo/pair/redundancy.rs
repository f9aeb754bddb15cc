//! The name of what a pair survives, as operators know it: derived from the zones of the voters and
//! from whether there is a copy.

use super::Pair;
use crate::consensus::group::Standing;
use crate::proto::geo::v1 as pb;
use crate::queue::authority::Role;

impl Pair {
    /// The name of what the pair survives, where the voters' zones amount to `zoned`; of reads at
    /// the secondary a primary knows by its word.
    #[must_use]
    pub fn redundancy_of(&self, zoned: &str) -> String {
        let heard = self.heard.borrow().clone();
        named(zoned, self.group.standing().as_ref(), heard.as_ref().map(|it| &*it.status))
    }
}

/// The name of what the pair survives, as operators know it.
pub(super) fn named(
    zoned: &str,
    standing: Option<&Standing>,
    heard: Option<&pb::GetStatusResponse>,
) -> String {
    // A side that is fenced, in conflict or detached has no copy, and is none.
    let is_paired =
        |role: &Role| !matches!(role, Role::Fenced { .. } | Role::Conflict { .. } | Role::Detached);
    let paired = standing
        .is_some_and(|it| it.authority.attachment.is_some() && is_paired(&it.authority.role));
    if !paired {
        return zoned.to_owned();
    }
    let geo = match zoned {
        "LRS" => "GRS",
        "ZRS" => "GZRS",
        other => return other.to_owned(),
    };
    let secondary = standing.filter(|it| it.authority.role == Role::Secondary);
    let read = match secondary {
        Some(own) => own.authority.settings.read_access,
        None => heard.is_some_and(|it| it.read_access),
    };
    if read { format!("RA-{geo}") } else { geo.to_owned() }
}
