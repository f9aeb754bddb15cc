//! G4: what a promotion by force loses are the last entries of the epoch before, all of them later
//! than any last sync time that was shown of it; and whatever was acknowledged belongs to an
//! epoch. That nothing before is lost I1 says, of the history that went on.

use std::collections::BTreeMap;

use zoneq::queue::authority::RegionEpoch;

use crate::history::Told;
use crate::lineage::PairStory;
use crate::retold::pair::{Case, Fact};

pub fn check<'p>(pair: &'p PairStory<'_>) -> Vec<Case<'p>> {
    let mut wrong = Vec::new();
    let forced = pair.lineage.forced().map(|(old, new)| (old, new.previous));
    // Nothing went on from these.
    let dead = pair.lineage.dead.iter().map(|line| (line, None));
    let latest = latest(&pair.history.pair.told);
    for (old, kept) in forced.chain(dead) {
        let Some(shown) = latest.get(&old.epoch) else { continue };
        let lost = pair.writes_beyond(&old.epoch, kept).into_iter();
        let early = lost.filter(|(_, mark)| Some(mark.at) <= shown.last_sync);
        wrong.extend(early.map(|(op, mark)| {
            let (epoch, call) = (&old.epoch, &op.call);
            let words = format!(
                "of {epoch:?} what came after {kept:?} was left behind, and with it {call:?} at \
                 {mark:?}, though it was told {shown:?}"
            );
            let next = pair.lineage.after(old).map(|next| Fact::Began(&next.epoch));
            Case::new(words).on([Fact::Call(op), Fact::Told(shown)]).on(next)
        }));
    }
    wrong.extend(pair.strays.iter().map(|(op, mark)| {
        let words = format!(
            "{:?} of {:?} was acknowledged at {mark:?}, and belongs to no epoch",
            op.call, op.site
        );
        Case::new(words).on([Fact::Call(op)])
    }));
    wrong
}

/// Of each epoch the look that showed the latest last sync time.
fn latest(told: &[Told]) -> BTreeMap<&RegionEpoch, &Told> {
    let mut latest: BTreeMap<&RegionEpoch, &Told> = BTreeMap::new();
    for told in told {
        let known = latest.entry(&told.epoch).or_insert(told);
        if told.last_sync >= known.last_sync {
            *known = told;
        }
    }
    latest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Cluster;
    use crate::invariants::pair_sample::PairSample;

    fn broken(shown: u64) -> usize {
        let mut sample = PairSample::protected();
        sample.write(5, 50);
        sample.write(6, 60);
        sample.copied(5, 50);
        sample.told(shown);
        sample.promoted(5);
        check(&PairStory::of(&sample.history)).len()
    }

    #[test]
    fn what_came_after_the_last_sync_time_may_be_lost() {
        assert_eq!(broken(50), 0);
    }

    #[test]
    fn what_was_said_to_be_there_may_not() {
        assert_eq!(broken(60), 1);
    }

    #[test]
    fn an_epoch_that_was_taken_back_from_may_lose_all_but_what_was_said_to_be_there() {
        let mut sample = PairSample::protected();
        sample.handed_to(7);
        sample.write_of_the_other(101, 80);
        sample.taken_back(8);
        assert_eq!(check(&PairStory::of(&sample.history)).len(), 0);
        sample.told_by_the_other(80);
        assert_eq!(check(&PairStory::of(&sample.history)).len(), 1);
    }

    #[test]
    fn what_a_cluster_outside_of_the_pair_acknowledged_is_found() {
        let mut sample = PairSample::protected();
        sample.write(5, 50);
        let last = sample.history.ops.last_mut().expect("a write");
        last.site = Cluster { region: 1, generation: 3 };
        assert_eq!(check(&PairStory::of(&sample.history)).len(), 1);
    }

    #[test]
    fn what_was_lost_is_told_with_the_look_that_covered_it_and_the_promotion() {
        let mut sample = PairSample::protected();
        sample.write(5, 50);
        sample.send("m", 6);
        sample.told(6);
        sample.forces();
        sample.promoted(5);
        assert_eq!(
            sample.told_of("G4"),
            [
                "0.000040 s to 0.000050 s, client 1: sends m to queue, answered by east, at T 6",
                "0.000060 s to 0.000070 s, east: shows the last sync time T 6 of epoch 1 of \
                 east",
                "0.000080 s to 0.000080 s, the operator of east: region failover --force",
                "0.000090 s, node 4 of west: is standalone in epoch 2 of west, at index 100 \
                 and T 50",
            ]
        );
    }
}
