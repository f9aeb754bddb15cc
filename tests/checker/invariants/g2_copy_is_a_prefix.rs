//! G2: the state of a secondary is the state that its primary had at one position: a prefix of the
//! log, without holes.

use std::collections::BTreeMap;

use zoneq::queue::authority::{RegionEpoch, Role};

use crate::history::{Applied, Cluster};
use crate::lineage::PairStory;

pub fn check(pair: &PairStory<'_>) -> Vec<String> {
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
        if (there.term, there.leader) != (at.term, at.node) {
            wrong.push(format!("host {host} has all to {at:?}, where the primary has {there:?}"));
        } else if let Some(here) = seen.digest.filter(|here| *here != there.digest) {
            wrong.push(format!(
                "host {host} has all to {at:?} with the digest {here:032x}, and the primary had {there:?}"
            ));
        }
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
}
