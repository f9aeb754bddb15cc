//! The name of what a pair survives, as operators know it: derived from the zones of the voters and
//! from whether there is a copy.
//!
//! Law: a copy is claimed where this side is in a pair, and not against the other side's own word: a
//! region that said that it follows nobody is no copy until it takes something. One that was not
//! heard may be.

use super::Pair;
use crate::consensus::group::Standing;
use crate::geo::herald::Heard;
use crate::proto::geo::v1 as pb;
use crate::queue::authority::Role;

impl Pair {
    /// The name of what the pair survives, where the voters' zones amount to `zoned`; of reads at
    /// the secondary a primary knows by its word.
    #[must_use]
    pub fn redundancy_of(&self, zoned: &str) -> String {
        let heard = self.heard.borrow().clone();
        let follows = self.follows_since(heard.as_ref());
        let heard = heard.as_ref().map(|it| &*it.status);
        named(zoned, self.group.standing().as_ref(), heard, follows)
    }

    /// Whether the copy took something after the other region's last word, which is old then.
    pub(super) fn follows_since(&self, heard: Option<&Heard>) -> bool {
        self.watermark.borrow().took_us > heard.map(|it| it.at_us)
    }
}

/// The name of what the pair survives, as operators know it.
pub(super) fn named(
    zoned: &str,
    standing: Option<&Standing>,
    heard: Option<&pb::GetStatusResponse>,
    follows: bool,
) -> String {
    // A side that is fenced, in conflict or detached has no copy, and is none.
    let is_paired =
        |role: &Role| !matches!(role, Role::Fenced { .. } | Role::Conflict { .. } | Role::Detached);
    let paired = standing
        .is_some_and(|it| it.authority.attachment.is_some() && is_paired(&it.authority.role));
    let is_primary = standing.is_some_and(|it| it.authority.role == Role::Primary);
    let is_alone = is_primary && !follows && heard.is_some_and(|it| follows_nobody(&it.role));
    if !paired || is_alone {
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

/// Whether a region of this role, as it says it, takes nothing from a primary.
fn follows_nobody(role: &str) -> bool {
    matches!(role, "standalone" | "fenced" | "conflict" | "detached")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::authority::{Attachment, Authority};
    use crate::queue::ids::{LogTime, Position};

    /// The name that a primary in three zones gives itself, by the other side's word.
    fn name_of(role: Role, word: Option<(&str, bool)>) -> String {
        let attachment = Some(Attachment { id: 1, peer: "west".to_owned() });
        let authority = Authority { role, attachment, ..Authority::default() };
        let (applied, log_time) = (Position::default(), LogTime(1));
        let standing = Standing { authority, applied, log_time };
        let heard = word.map(|(role, read_access)| pb::GetStatusResponse {
            role: role.to_owned(),
            read_access,
            ..pb::GetStatusResponse::default()
        });
        let now = |follows| named("ZRS", Some(&standing), heard.as_ref(), follows);
        assert_ne!(now(true), "ZRS", "what took something since then is a copy");
        now(false)
    }

    #[test]
    fn a_primary_claims_no_copy_that_says_that_it_follows_nobody() {
        for word in ["standalone", "fenced", "conflict", "detached"] {
            for reads in [false, true] {
                assert_eq!(name_of(Role::Primary, Some((word, reads))), "ZRS", "{word}");
            }
        }
        assert_eq!(name_of(Role::Primary, Some(("secondary", false))), "GZRS");
        assert_eq!(name_of(Role::Primary, Some(("secondary", true))), "RA-GZRS");
        assert_eq!(name_of(Role::Primary, None), "GZRS", "it was not heard");
    }

    #[test]
    fn a_secondary_and_a_side_that_hands_over_do_not_go_by_the_word_of_the_other() {
        assert_eq!(name_of(Role::Secondary, Some(("fenced", false))), "GZRS");
        let sealed = Role::Sealed { at: Position::default() };
        assert_eq!(name_of(sealed, Some(("standalone", false))), "GZRS");
    }
}
