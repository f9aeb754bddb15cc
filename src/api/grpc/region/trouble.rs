//! What is wrong with a pair, in words that say what is to be done about it.

use crate::consensus::group::Agreement;
use crate::geo::pair::PairStatus;
use crate::queue::authority::{Authority, RegionEpoch, Role};

/// All that is wrong as this side knows it; empty = nothing.
pub fn of(status: &PairStatus, authority: &Authority) -> String {
    let said: Vec<String> = match &authority.role {
        Role::Primary | Role::Sealed { .. } | Role::Released { .. } => {
            let differs = status.differs.as_ref().map(|(peer, it)| differs(peer, it));
            [&status.watermark.trouble, &status.lease_trouble, &status.lag_trouble, &differs]
                .into_iter()
                .flatten()
                .cloned()
                .collect()
        }
        Role::Secondary => status.refuses.iter().cloned().collect(),
        Role::Fenced { by, fork, .. } => vec![fenced(by, fork.is_some(), authority)],
        Role::Conflict { with, .. } => vec![conflict(with, authority)],
        Role::Standalone | Role::Detached => Vec::new(),
    };
    said.join("; ")
}

fn fenced(by: &RegionEpoch, has_fork: bool, authority: &Authority) -> String {
    let there = &by.region;
    let what = match authority.tail {
        _ if authority.seeding.is_some() => "it is being given the data of there".to_owned(),
        None if has_fork => "its tail is not dealt with: zoneq region tail list".to_owned(),
        None => format!(
            "they share no epoch: zoneq region protect --discard-tail at region {there:?} gives \
             it the data of there"
        ),
        Some(_) => format!("zoneq region protect at region {there:?} makes it the secondary"),
    };
    format!("fenced by epoch {} of region {there:?}; {what}", by.number.0)
}

fn conflict(with: &str, authority: &Authority) -> String {
    format!(
        "region {with:?} has the same epoch {}, and neither takes writes: zoneq region resolve \
         --keep {with} or --keep {}",
        authority.epoch.number.0, authority.region
    )
}

/// What the last comparison of both regions found.
fn differs(peer: &str, found: &Agreement) -> String {
    format!(
        "region {peer:?} held different data at entry {}: {}; zoneq region verify compares again",
        found.index,
        found.differs.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::authority::seed::Seeding;
    use crate::queue::authority::{Attachment, TailFate};
    use crate::queue::ids::Epoch;

    #[test]
    fn a_side_in_conflict_says_with_whom_and_how_that_is_decided() {
        let epoch = RegionEpoch { number: Epoch(3), region: "east".to_owned() };
        let region = "east".to_owned();
        let authority = Authority { epoch, region, ..Authority::default() };
        assert_eq!(
            conflict("west", &authority),
            "region \"west\" has the same epoch 3, and neither takes writes: zoneq region resolve \
             --keep west or --keep east"
        );
    }

    #[test]
    fn data_that_differ_are_told_with_the_entry_and_the_queues() {
        let found = Agreement {
            differs: vec!["queue \"orders\"".to_owned(), "sessions".to_owned()],
            index: 1_024,
        };
        assert_eq!(
            differs("west", &found),
            "region \"west\" held different data at entry 1024: queue \"orders\", sessions; zoneq \
             region verify compares again"
        );
    }

    fn fenced_with(tail: Option<TailFate>, fork: bool, is_given: bool) -> String {
        let by = RegionEpoch { number: Epoch(3), region: "west".to_owned() };
        // The attachment is that of before, when this side was the primary.
        let attachment = Some(Attachment { id: 1, peer: "west".to_owned() });
        let seeding = is_given.then(Seeding::default);
        let authority = Authority { tail, attachment, seeding, ..Authority::default() };
        fenced(&by, fork, &authority)
    }

    #[test]
    fn a_fenced_side_says_by_whom_and_what_is_next() {
        let by = "fenced by epoch 3 of region \"west\"; ";
        let table = [
            ((None, true, false), "its tail is not dealt with: zoneq region tail list"),
            ((None, false, false), "they share no epoch: zoneq region protect --discard-tail"),
            ((Some(TailFate::Replayed), true, false), "zoneq region protect at region \"west\""),
            ((Some(TailFate::Replayed), true, true), "it is being given the data of there"),
        ];
        for ((tail, fork, is_given), next) in table {
            let said = fenced_with(tail, fork, is_given);
            assert!(said.starts_with(&format!("{by}{next}")), "{said}");
        }
    }
}
