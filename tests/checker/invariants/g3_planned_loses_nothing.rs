//! G3: a planned failover loses nothing and there are never two writable sides: who has handed
//! over acknowledged nothing beyond the place where the other begins.

use crate::lineage::PairStory;

pub fn check(pair: &PairStory<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (old, new) in pair.lineage.planned() {
        let beyond = pair.writes_beyond(&old.epoch, new.previous);
        wrong.extend(beyond.into_iter().map(|(op, mark)| {
            let (from, to) = (&old.epoch, &new.epoch);
            format!(
                "{from:?} was handed over to {to:?} at {:?}, and {:?} was acknowledged at {mark:?}",
                new.previous, op.call
            )
        }));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::pair_sample::PairSample;

    fn broken(index: u64) -> usize {
        let mut sample = PairSample::protected();
        sample.released(7);
        sample.promoted(7);
        sample.write(index, 10 * index);
        check(&PairStory::of(&sample.history)).len()
    }

    #[test]
    fn what_came_before_the_release_is_no_loss() {
        assert_eq!(broken(6), 0);
    }

    #[test]
    fn what_is_acknowledged_after_the_release_is_found() {
        assert_eq!(broken(8), 1);
    }

    #[test]
    fn what_the_heir_acknowledged_before_it_was_taken_back_from_is_of_its_own_epoch() {
        let mut sample = PairSample::protected();
        sample.handed_to(7);
        sample.write_of_the_other(101, 80);
        sample.taken_back(8);
        sample.write(9, 90);
        assert_eq!(check(&PairStory::of(&sample.history)), Vec::<String>::new());
    }

    #[test]
    fn a_hand_over_that_nothing_went_on_from_is_judged_too() {
        let mut sample = PairSample::protected();
        sample.handed_to(7);
        sample.write(8, 80);
        sample.taken_back(9);
        assert_eq!(check(&PairStory::of(&sample.history)).len(), 1);
    }
}
