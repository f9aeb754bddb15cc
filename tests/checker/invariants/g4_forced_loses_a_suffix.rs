//! G4: what a promotion by force loses are the last entries of the epoch before, all of them later
//! than any last sync time that was shown of it; and whatever was acknowledged belongs to an
//! epoch. That nothing before is lost I1 says, of the history that went on.

use std::collections::BTreeMap;

use zoneq::queue::authority::RegionEpoch;

use crate::history::Told;
use crate::lineage::PairStory;

pub fn check(pair: &PairStory<'_>) -> Vec<String> {
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
            format!(
                "of {epoch:?} what came after {kept:?} was left behind, and with it {call:?} at \
                 {mark:?}, though it was told {shown:?}"
            )
        }));
    }
    wrong.extend(pair.strays.iter().map(|(op, mark)| {
        format!(
            "{:?} of {:?} was acknowledged at {mark:?}, and belongs to no epoch",
            op.call, op.site
        )
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
        assert_eq!(check(&PairStory::of(&sample.history)), Vec::<String>::new());
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
}
