//! I11: at the same applied index every node of a cluster has the same entry and the same digest, now and
//! after any restart; and one term has one leader.

use std::collections::BTreeMap;

use crate::history::{Applied, Cluster};
use crate::story::Story;

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut leaders: BTreeMap<(Cluster, u64), u64> = BTreeMap::new();
    for (cluster, term, node) in &story.history.leaders {
        let first = *leaders.entry((*cluster, *term)).or_insert(*node);
        if first != *node {
            wrong.push(format!("nodes {first} and {node} both lead term {term}"));
        }
    }
    let mut states: BTreeMap<(Cluster, u64), Applied> = BTreeMap::new();
    for applied in &story.history.applied {
        let first = states.entry((applied.cluster, applied.index)).or_insert(*applied);
        if (first.term, first.leader) != (applied.term, applied.leader) {
            wrong.push(format!("two entries were applied at one index: {first:?}, {applied:?}"));
        } else if first.digest != applied.digest {
            wrong.push(format!("two states at one index: {first:?}, {applied:?}"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;

    fn applied(node: u64, index: u64, term: u64, digest: u128) -> Applied {
        Applied { cluster: Cluster::default(), node, index, term, leader: 1, digest }
    }

    fn broken(applied: &[Applied], leaders: &[(u64, u64)]) -> usize {
        let mut history = History::default();
        history.applied.extend_from_slice(applied);
        let of_one = |(term, node): &(u64, u64)| (Cluster::default(), *term, *node);
        history.leaders.extend(leaders.iter().map(of_one));
        check(&Story::of(&history)).len()
    }

    #[test]
    fn equal_states_and_one_leader_a_term_are_right() {
        let states = [applied(1, 5, 2, 7), applied(2, 5, 2, 7), applied(2, 6, 2, 8)];
        assert_eq!(broken(&states, &[(1, 1), (1, 1), (2, 3)]), 0);
    }

    #[test]
    fn another_digest_at_the_same_index_is_found() {
        assert_eq!(broken(&[applied(1, 5, 2, 7), applied(2, 5, 2, 8)], &[]), 1);
    }

    #[test]
    fn another_entry_at_the_same_index_is_found() {
        assert_eq!(broken(&[applied(1, 5, 2, 7), applied(2, 5, 3, 7)], &[]), 1);
    }

    #[test]
    fn two_leaders_of_one_term_are_found() {
        assert_eq!(broken(&[], &[(4, 1), (4, 2)]), 1);
    }
}
