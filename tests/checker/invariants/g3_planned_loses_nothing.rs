//! G3: a planned failover loses nothing and there are never two writable sides: who has handed
//! over acknowledged nothing beyond the place where the other begins.

use crate::lineage::PairStory;
use crate::retold::pair::{Case, Fact};

pub fn check<'p>(pair: &'p PairStory<'_>) -> Vec<Case<'p>> {
    let mut wrong = Vec::new();
    for (old, new) in pair.lineage.planned() {
        let beyond = pair.writes_beyond(&old.epoch, new.previous);
        wrong.extend(beyond.into_iter().map(|(op, mark)| {
            let (from, to) = (&old.epoch, &new.epoch);
            let words = format!(
                "{from:?} was handed over to {to:?} at {:?}, and {:?} was acknowledged at {mark:?}",
                new.previous, op.call
            );
            Case::new(words).on([Fact::Released(to), Fact::Began(to), Fact::Call(op)])
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
        assert_eq!(check(&PairStory::of(&sample.history)).len(), 0);
    }

    #[test]
    fn a_hand_over_that_nothing_went_on_from_is_judged_too() {
        let mut sample = PairSample::protected();
        sample.handed_to(7);
        sample.write(8, 80);
        sample.taken_back(9);
        assert_eq!(check(&PairStory::of(&sample.history)).len(), 1);
    }

    #[test]
    fn the_release_the_beginning_and_the_write_beyond_are_told() {
        let mut sample = PairSample::protected();
        sample.write(5, 50);
        sample.handed_to(7);
        sample.write(8, 80);
        sample.write_of_the_other(101, 90);
        assert_eq!(
            sample.told_of("G3"),
            [
                "0.000040 s, node 1 of east: is released in epoch 1 of east, since 7, at index \
                 7 and T 70",
                "0.000050 s, node 4 of west: is primary in epoch 2 of west, at index 100 and T \
                 70",
                "0.000060 s to 0.000070 s, client 1: CreateQueue of queue, answered by east, \
                 at T 80",
            ]
        );
    }
}
