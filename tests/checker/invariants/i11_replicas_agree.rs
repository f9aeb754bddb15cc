//! I11: at the same applied index every node of a cluster has the same entry and the same digest, now and
//! after any restart; and along the log leaders follow each other in their order.
//!
//! A leader is named by its term and its node, as openraft's advanced leader ids are: in one term
//! one node may lead after another, the higher number after the lower, and never the other way round.

use std::collections::BTreeMap;

use crate::history::{Applied, Cluster, Outcome};
use crate::story::Story;

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut states: BTreeMap<(Cluster, u64), Applied> = BTreeMap::new();
    let mut leaders: BTreeMap<(Cluster, u64), (u64, u64)> = marks(story);
    for applied in &story.history.applied {
        let (at, leader) = ((applied.cluster, applied.index), (applied.term, applied.leader));
        let first = states.entry(at).or_insert(*applied);
        if (first.term, first.leader) != leader {
            wrong.push(format!("two entries were applied at one index: {first:?}, {applied:?}"));
        } else if first.digest != applied.digest {
            wrong.push(format!("two states at one index: {first:?}, {applied:?}"));
        }
        // What is told of a node at rest may be its state alone.
        if applied.term == 0 {
            continue;
        }
        let told = *leaders.entry(at).or_insert(leader);
        if told != leader && (first.term, first.leader) == leader {
            let (term, node) = told;
            wrong.push(format!(
                "a call was answered from term {term} of node {node}, and applied was {applied:?}"
            ));
        }
    }
    let following = leaders.iter().zip(leaders.iter().skip(1));
    for (((cluster, index), first), ((of, next_index), next)) in following {
        if cluster == of && next < first {
            let ((term, node), (next_term, next_node)) = (first, next);
            wrong.push(format!(
                "entry {index} is of term {term} of node {node}, and entry {next_index} behind it \
                 of term {next_term} of node {next_node}"
            ));
        }
    }
    wrong
}

/// What the answers of one region's cluster say of the entries at their places; where there are two
/// regions an answer may be of a log that nothing went on from.
fn marks(story: &Story<'_>) -> BTreeMap<(Cluster, u64), (u64, u64)> {
    let pair = &story.history.pair;
    if !pair.sighted.is_empty() || !pair.told.is_empty() {
        return BTreeMap::new();
    }
    let ops = story.history.ops.iter();
    let marks = ops.filter_map(|op| match &op.outcome {
        Outcome::Ok(answer) => answer.mark().map(|mark| (op.site, mark)),
        _ => None,
    });
    // What a stream gives says where it stands, and not under whom.
    let whole = marks.filter(|(_, mark)| mark.term > 0);
    whole.map(|(site, mark)| ((site, mark.index), (mark.term, mark.node))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{History, Mark};
    use crate::invariants::sample::{Sample, mark};

    fn applied(node: u64, index: u64, term: u64, digest: u128) -> Applied {
        Applied { cluster: Cluster::default(), node, index, term, leader: 1, digest }
    }

    fn broken(applied: &[Applied]) -> usize {
        let mut history = History::default();
        history.applied.extend_from_slice(applied);
        check(&Story::of(&history)).len()
    }

    #[test]
    fn equal_states_and_leaders_in_their_order_are_right() {
        let of_another = Applied { leader: 3, ..applied(1, 7, 2, 9) };
        let states = [applied(1, 5, 2, 7), applied(2, 5, 2, 7), applied(2, 6, 2, 8), of_another];
        assert_eq!(broken(&states), 0);
    }

    #[test]
    fn another_digest_at_the_same_index_is_found() {
        assert_eq!(broken(&[applied(1, 5, 2, 7), applied(2, 5, 2, 8)]), 1);
    }

    #[test]
    fn another_entry_at_the_same_index_is_found() {
        assert_eq!(broken(&[applied(1, 5, 2, 7), applied(2, 5, 3, 7)]), 1);
    }

    #[test]
    fn a_leader_behind_one_that_comes_after_it_is_found() {
        assert_eq!(broken(&[applied(1, 5, 3, 7), applied(1, 6, 2, 8)]), 1);
        let of_another = Applied { leader: 3, ..applied(1, 5, 2, 7) };
        assert_eq!(broken(&[of_another, applied(1, 6, 2, 8)]), 1);
    }

    #[test]
    fn a_state_that_is_told_without_its_leader_says_nothing_of_leaders() {
        let of_nobody = Applied { leader: 0, ..applied(1, 6, 0, 8) };
        assert_eq!(broken(&[applied(1, 5, 2, 7), of_nobody, applied(1, 7, 2, 9)]), 0);
        assert_eq!(broken(&[of_nobody, Applied { digest: 9, ..of_nobody }]), 1);
    }

    #[test]
    fn an_answer_from_an_entry_that_is_not_there_is_found() {
        let mut sample = Sample::default();
        sample.send("m", 5);
        let history = sample.ended();
        let mark = Mark { index: 5, ..mark(5) };
        let mut told = Applied { leader: mark.node, ..applied(1, mark.index, mark.term, 7) };
        let judged = |told| {
            let mut history = history.clone();
            history.applied.push(told);
            check(&Story::of(&history)).len()
        };
        assert_eq!(judged(told), 0);
        told.term += 1;
        assert_eq!(judged(told), 1);
    }
}
