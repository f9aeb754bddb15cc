//! G1: when a last sync time is shown, everything of that epoch with a commit time up to it is in
//! the copy; and what one side shows never falls within an epoch, but for a copy that an operator
//! had wiped in between.

use std::collections::BTreeMap;

use zoneq::queue::authority::{RegionEpoch, Role};

use crate::highest::Highest;
use crate::history::{Act, LogTime, Micros, Told, Verb};
use crate::lineage::PairStory;
use crate::retold::pair::{Case, Fact};

/// How far the copy of each epoch was by when: the index in the primary's log.
type Progress<'a> = BTreeMap<&'a RegionEpoch, Highest<Micros, u64>>;

pub fn check<'p>(pair: &'p PairStory<'_>) -> Vec<Case<'p>> {
    let mut wrong = falls(&pair.history.pair.told, &pair.history.pair.acts);
    let progress = progress(pair);
    let mut by_epoch: BTreeMap<&RegionEpoch, Vec<&Told>> = BTreeMap::new();
    for told in &pair.history.pair.told {
        by_epoch.entry(&told.epoch).or_default().push(told);
    }
    for line in pair.lineage.all() {
        let writes: Vec<_> = pair.writes_of(&line.epoch).collect();
        let last: Highest<LogTime, u64> =
            writes.iter().map(|(_, mark)| (mark.at, mark.index)).collect();
        for told in by_epoch.get(&line.epoch).into_iter().flatten() {
            let Some(shown) = told.last_sync else { continue };
            let copied = progress.get(&line.epoch).and_then(|it| it.through(&told.returned));
            if last.through(&shown).is_none_or(|last| copied.is_some_and(|it| it >= last)) {
                continue;
            }
            let is_missing =
                |index: u64, at: u64| at <= shown && copied.is_none_or(|copied| copied < index);
            let missing = writes.iter().find(|(_, mark)| is_missing(mark.index, mark.at));
            if let Some((op, mark)) = missing {
                let words = format!(
                    "a last sync time of {shown} is shown in {:?} at {} us, when the copy has all \
                     to {copied:?}, and {:?} was acknowledged at {mark:?}",
                    told.epoch, told.returned, op.call
                );
                let copied = Fact::Copied(&told.epoch, told.returned);
                wrong.push(Case::new(words).on([Fact::Call(op), copied, Fact::Told(told)]));
            }
        }
    }
    wrong
}

fn progress<'a>(pair: &'a PairStory<'_>) -> Progress<'a> {
    let mut progress: BTreeMap<&RegionEpoch, Vec<(Micros, u64)>> = BTreeMap::new();
    for seen in &pair.history.pair.sighted {
        let authority = &seen.authority;
        if let (Role::Secondary, Some(through)) = (&authority.role, authority.applied_through) {
            progress.entry(&authority.epoch).or_default().push((seen.at, through.index));
        }
    }
    for two in pair.lineage.lines.windows(2) {
        if let [line, next] = two
            && let Some(previous) = next.previous
        {
            progress.entry(&line.epoch).or_default().push((next.began, previous));
        }
    }
    progress.into_iter().map(|(epoch, steps)| (epoch, steps.into_iter().collect())).collect()
}

/// Looks of which the later shows less.
fn falls<'p>(told: &'p [Told], acts: &[Act]) -> Vec<Case<'p>> {
    let wipes = acts.iter().filter(|act| matches!(act.verb, Verb::Wipe));
    let wipes: Highest<Micros, Micros> = wipes.map(|act| (act.invoked, act.returned)).collect();
    let wiped = |earlier: &Told, later: &Told| {
        wipes.below(&later.returned).is_some_and(|returned| earlier.invoked < returned)
    };
    let mut wrong = Vec::new();
    let mut highest: BTreeMap<(&RegionEpoch, crate::history::Cluster), &Told> = BTreeMap::new();
    for later in told.iter().filter(|told| told.last_sync.is_some()) {
        let key = (&later.epoch, later.cluster);
        match highest.get(&key) {
            Some(earlier) if earlier.last_sync > later.last_sync && !wiped(earlier, later) => {
                if earlier.returned <= later.invoked {
                    let words = format!("the last sync time falls: {earlier:?}, then {later:?}");
                    let looks = [Fact::Told(earlier), Fact::Told(later)];
                    wrong.push(Case::new(words).on(looks));
                }
            }
            _ => {
                highest.insert(key, later);
            }
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
    fn what_the_copy_has_may_be_shown() {
        let mut sample = PairSample::protected();
        sample.write(5, 50);
        sample.copied(5, 50);
        sample.told(50);
        assert_eq!(broken(&sample), 0);
    }

    #[test]
    fn a_time_shown_too_early_is_found() {
        let mut sample = PairSample::protected();
        sample.write(5, 50);
        sample.write(6, 60);
        sample.copied(5, 50);
        sample.told(60);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn the_time_of_a_copy_that_was_wiped_begins_anew_and_does_not_fall_from_there() {
        let mut sample = PairSample::protected();
        sample.copied(5, 50);
        sample.told(50);
        sample.wipes_copy();
        sample.told(30);
        assert_eq!(broken(&sample), 0);
        sample.told(40);
        assert_eq!(broken(&sample), 0);
        sample.told(30);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn a_time_that_falls_is_found() {
        let mut sample = PairSample::protected();
        sample.copied(5, 50);
        sample.told(50);
        sample.told(40);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn the_write_that_the_copy_lacks_is_told_with_the_looks_at_copy_and_primary() {
        let mut sample = PairSample::protected();
        sample.write(5, 50);
        sample.copied(5, 50);
        sample.write(6, 60);
        sample.told(50);
        sample.told(60);
        assert_eq!(
            sample.told_of("G1"),
            [
                "0.000040 s, node 4 of west: is secondary in epoch 1 of east, has all to 5, at \
                 index 5 and T 50",
                "0.000050 s to 0.000060 s, client 1: CreateQueue of queue, answered by east, \
                 at T 60",
                "0.000090 s to 0.000100 s, east: shows the last sync time T 60 of epoch 1 of \
                 east",
            ]
        );
        let mut sample = PairSample::protected();
        sample.copied(5, 50);
        sample.told(50);
        sample.told(40);
        assert_eq!(
            sample.told_of("G1"),
            [
                "0.000030 s to 0.000040 s, east: shows the last sync time T 50 of epoch 1 of \
                 east",
                "0.000050 s to 0.000060 s, east: shows the last sync time T 40 of epoch 1 of \
                 east",
            ]
        );
    }
}
