//! What looks at the nodes of a cluster tell of when an entry was applied.
//!
//! Laws: an answer counts from the moment at which it was asked for to the one at which it came.
//! An entry was applied between two times: the last at which no log had it, and the first at which
//! somebody said that it was applied. Where a node was not seen the first of them is the beginning.

use std::collections::BTreeMap;

use crate::history::{Cluster, Micros, NEVER};

/// A node had applied all to this index, and its log ended there, between two times.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub asked: Micros,
    pub by: Micros,
    pub cluster: Cluster,
    pub node: u64,
    pub applied: u64,
    pub end: u64,
}

/// The looks at one cluster.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// By when all to which index was applied somewhere, both rising.
    applied: Vec<(Micros, u64)>,
    /// Of each node when it was asked and how far its log had been at most, both rising.
    ends: BTreeMap<u64, Vec<(Micros, u64)>>,
}

impl Seen {
    /// Of these looks those at a cluster, whose nodes are numbered from one to this.
    pub fn of(looks: &[Look], cluster: Cluster, nodes: u64) -> Seen {
        let own = || looks.iter().filter(|look| look.cluster == cluster);
        let mut applied: Vec<(Micros, u64)> = own().map(|look| (look.by, look.applied)).collect();
        applied.sort_unstable();
        let mut highest = 0;
        applied.retain(|(_, index)| {
            let is_news = *index > highest;
            highest = highest.max(*index);
            is_news
        });
        let mut ends: BTreeMap<u64, Vec<(Micros, u64)>> =
            (1..=nodes).map(|node| (node, Vec::new())).collect();
        for look in own() {
            let of = ends.entry(look.node).or_default();
            let before = of.last().map_or(0, |(_, end)| *end);
            of.push((look.asked, look.end.max(before)));
        }
        Seen { applied, ends }
    }

    /// By when it was applied; never, where nobody saw that.
    pub fn by(&self, index: u64) -> Micros {
        let at = self.applied.partition_point(|(_, seen)| *seen < index);
        self.applied.get(at).map_or(NEVER, |(by, _)| *by)
    }

    /// Since when it may have been applied: no log of any node had it when it was asked then, so
    /// that no majority did.
    pub fn since(&self, index: u64) -> Micros {
        let lacked = |looks: &Vec<(Micros, u64)>| {
            let lacked = looks.partition_point(|(_, end)| *end < index);
            lacked.checked_sub(1).and_then(|last| looks.get(last)).map_or(0, |(asked, _)| *asked)
        };
        self.ends.values().map(lacked).min().unwrap_or_default()
    }

    /// The last that was seen to be applied.
    pub fn last(&self) -> u64 {
        self.applied.last().map_or(0, |(_, index)| *index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asked at a time, answered five later: applied to one index of a log that ends at another.
    fn look(asked: Micros, node: u64, applied: u64, end: u64) -> Look {
        Look { asked, by: asked + 5, cluster: Cluster::default(), node, applied, end }
    }

    fn seen(looks: &[Look]) -> Seen {
        Seen::of(looks, Cluster::default(), 3)
    }

    #[test]
    fn an_entry_is_applied_between_the_looks_that_lack_it_and_the_first_that_has_it() {
        let before = [look(100, 1, 7, 7), look(110, 2, 7, 7), look(120, 3, 7, 7)];
        let behind = [look(200, 1, 8, 8), look(210, 2, 7, 8), look(220, 3, 7, 8)];
        let seen = seen(&[before, behind].concat());
        assert_eq!((seen.since(8), seen.by(8), seen.last()), (100, 205, 8));
    }

    #[test]
    fn a_log_that_has_an_entry_which_is_not_applied_tells_nothing_of_when_it_is() {
        let before = [look(100, 1, 7, 8), look(110, 2, 7, 7), look(120, 3, 7, 7)];
        let behind = [look(200, 1, 7, 8), look(210, 2, 7, 7), look(220, 3, 8, 8)];
        let seen = seen(&[before, behind].concat());
        assert_eq!((seen.since(8), seen.by(8)), (0, 225));
    }

    #[test]
    fn a_node_that_lost_what_it_had_applied_and_begins_again_moves_no_bound() {
        let before = [look(100, 1, 7, 7), look(110, 2, 7, 7), look(120, 3, 7, 7)];
        let again = [look(300, 1, 6, 8), look(310, 2, 6, 8), look(320, 3, 6, 8)];
        let seen = seen(&[before, again, [look(400, 1, 8, 8); 3]].concat());
        assert_eq!((seen.since(8), seen.by(8)), (100, 405));
    }

    #[test]
    fn without_a_word_of_a_node_it_may_always_have_been() {
        let seen = seen(&[look(100, 1, 7, 7), look(110, 2, 7, 7)]);
        assert_eq!((seen.since(8), seen.by(8)), (0, NEVER));
    }

    #[test]
    fn the_looks_at_another_cluster_say_nothing() {
        let cluster = Cluster { region: 1, ..Cluster::default() };
        let looks = [1, 2, 3].map(|node| Look { cluster, ..look(100, node, 7, 7) });
        assert_eq!((seen(&looks).last(), seen(&looks).by(7)), (0, NEVER));
    }
}
