//! G2: the state of a secondary is the state that its primary had at one position: a prefix of the
//! log, without holes.

use std::collections::BTreeMap;

use zoneq::queue::authority::{RegionEpoch, Role};

use crate::history::{Applied, Cluster};
use crate::lineage::PairStory;
use crate::retold::pair::{Case, Fact};

pub fn check<'p>(pair: &'p PairStory<'_>) -> Vec<Case<'p>> {
    let applied = pair.history.applied.iter().map(|it| ((it.cluster, it.index), it));
    let applied: BTreeMap<(Cluster, u64), &Applied> = applied.collect();
    let writers = pair.lineage.all().filter_map(|it| Some((&it.epoch, it.cluster?)));
    let writers: BTreeMap<&RegionEpoch, Cluster> = writers.collect();
    let mut wrong = Vec::new();
    for seen in &pair.history.pair.sighted {
        let authority = &seen.authority;
        let (Role::Secondary, Some(at)) = (&authority.role, authority.applied_through) else {
            continue;
        };
        let writer = writers.get(&authority.epoch);
        let Some(there) = writer.and_then(|writer| applied.get(&(*writer, at.index))) else {
            continue;
        };
        let host = seen.node;
        let words = if (there.term, there.leader) != (at.term, at.node) {
            format!("host {host} has all to {at:?}, where the primary has {there:?}")
        } else if let Some(here) = seen.digest.filter(|here| *here != there.digest) {
            format!(
                "host {host} has all to {at:?} with the digest {here:032x}, and the primary had {there:?}"
            )
        } else {
            continue;
        };
        let primary = Fact::At(there.cluster, there.index);
        wrong.push(Case::new(words).on([primary, Fact::Seen(seen)]));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::pair_sample::PairSample;

    fn broken(sample: &PairSample) -> usize {
        check(&PairStory::of(&sample.history)).len()
    }

    #[test]
    fn the_same_state_at_the_same_position_is_right() {
        let mut sample = PairSample::protected();
        sample.applied(5, 77);
        sample.copied_as(5, 50, 77);
        assert_eq!(broken(&sample), 0);
    }

    #[test]
    fn a_hole_shows_in_the_digest() {
        let mut sample = PairSample::protected();
        sample.applied(5, 77);
        sample.copied_as(5, 50, 78);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn what_the_primary_did_at_that_position_is_told_with_the_look_at_the_copy() {
        let mut sample = PairSample::protected();
        sample.write(4, 40);
        sample.write(5, 50);
        sample.seen(5, 50);
        sample.applied(5, 77);
        sample.copied_as(5, 50, 78);
        assert_eq!(
            sample.told_of("G2"),
            [
                "0.000040 s to 0.000050 s, client 1: CreateQueue of queue, answered by east, \
                 at T 50",
                "0.000060 s, node 1 of east: is primary in epoch 1 of east, at index 5 and T 50",
                "0.000070 s, node 4 of west: is secondary in epoch 1 of east, has all to 5, at \
                 index 5 and T 50",
            ]
        );
    }
}
