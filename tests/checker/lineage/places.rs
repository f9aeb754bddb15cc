//! Look-ups for the epochs of a pair: each is made once, so that no question walks over all epochs or
//! over all that was seen.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zoneq::queue::authority::{Authority, RegionEpoch, Role};
use zoneq::queue::ids::Position;

use super::Line;
use crate::highest::Highest;
use crate::history::{Cluster, LogTime, Micros, Sighted};

/// Stretches of T, each with a moment: of each T the first moment of the stretches that hold it, as
/// steps from one T to the next.
#[derive(Clone, Debug, Default)]
pub struct Earliest(Vec<(LogTime, Option<Micros>)>);

impl Earliest {
    /// Each from its first T through its last.
    pub fn of(stretches: &[(LogTime, LogTime, Micros)]) -> Earliest {
        let mut edges: BTreeMap<LogTime, Vec<(bool, Micros)>> = BTreeMap::new();
        for (from, through, moment) in stretches.iter().filter(|(from, by, _)| from <= by) {
            edges.entry(*from).or_default().push((true, *moment));
            if let Some(behind) = through.checked_add(1) {
                edges.entry(behind).or_default().push((false, *moment));
            }
        }
        let mut open: BTreeMap<Micros, usize> = BTreeMap::new();
        let steps = edges.into_iter().map(|(at, edges)| {
            for (begins, moment) in edges {
                let count = open.entry(moment).or_default();
                *count = if begins { *count + 1 } else { count.saturating_sub(1) };
            }
            open.retain(|_, count| *count > 0);
            (at, open.keys().next().copied())
        });
        Earliest(steps.collect())
    }

    pub fn at(&self, at: LogTime) -> Option<Micros> {
        let next = self.0.partition_point(|(from, _)| *from <= at);
        self.0.get(next.checked_sub(1)?)?.1
    }
}

/// What was seen of the pair, each with its place; a copy that became a cluster of its own has a
/// history of its own.
pub fn ours(sighted: &[Sighted]) -> impl Iterator<Item = (usize, &Sighted)> {
    let ours = sighted.iter().map(|it| it.authority.lineage).find(|id| *id > 0);
    let is_ours = move |id: u128| id == 0 || Some(id) == ours;
    sighted.iter().enumerate().filter(move |(_, it)| is_ours(it.authority.lineage))
}

/// Where the newest state stands, whose ledger tells of all epochs that the history went on with.
pub fn newest(sighted: &[Sighted]) -> Option<usize> {
    let newest = ours(sighted).max_by_key(|(_, it)| (&it.authority.epoch, it.at));
    newest.map(|(place, _)| place)
}

/// Each authority once, in the order in which they were seen last: nodes share what is the same.
pub fn each_once<'a>(
    sighted: impl DoubleEndedIterator<Item = &'a Sighted>,
) -> impl Iterator<Item = &'a Authority> {
    let mut known = BTreeSet::new();
    let last = sighted.rev().filter(|seen| known.insert(Arc::as_ptr(&seen.authority)));
    let all: Vec<&Authority> = last.map(|seen| &*seen.authority).collect();
    all.into_iter().rev()
}

/// The epochs that clusters were seen to release to, each with the place.
pub fn released<'a>(sighted: &[&'a Sighted]) -> BTreeSet<(&'a RegionEpoch, Position)> {
    let released = sighted.iter().filter_map(|seen| match &seen.authority.role {
        Role::Released { to, at } => Some((to, *at)),
        _ => None,
    });
    released.collect()
}

/// When clusters were first seen beyond a place of their logs.
pub struct Beyond(BTreeMap<Cluster, Highest<Reverse<u64>, Reverse<Micros>>>);

impl Beyond {
    pub fn of(sighted: &[&Sighted]) -> Beyond {
        let mut all: BTreeMap<Cluster, Vec<_>> = BTreeMap::new();
        for seen in sighted {
            all.entry(seen.cluster).or_default().push((Reverse(seen.index), Reverse(seen.at)));
        }
        Beyond(all.into_iter().map(|(of, seen)| (of, seen.into_iter().collect())).collect())
    }

    pub fn first(&self, cluster: Cluster, place: Option<u64>) -> Option<Micros> {
        let seen = self.0.get(&cluster)?;
        let first = match place {
            Some(place) => seen.below(&Reverse(place)),
            None => seen.through(&Reverse(0)),
        };
        first.map(|Reverse(at)| at)
    }
}

/// Of each cluster: the index that began each of its epochs, in order, and which of all that is.
pub fn begun<'a>(
    all: impl Iterator<Item = &'a Line>,
) -> BTreeMap<Cluster, Vec<(Option<u64>, usize)>> {
    by_cluster(all, |line| line.first)
}

/// Of each cluster: when it was first seen in each of its epochs, in order, and which of all that is.
pub fn written<'a>(all: impl Iterator<Item = &'a Line>) -> BTreeMap<Cluster, Vec<(Micros, usize)>> {
    by_cluster(all, |line| line.began)
}

fn by_cluster<'a, K: Ord>(
    all: impl Iterator<Item = &'a Line>,
    key: impl Fn(&Line) -> K,
) -> BTreeMap<Cluster, Vec<(K, usize)>> {
    let mut of: BTreeMap<Cluster, Vec<(K, usize)>> = BTreeMap::new();
    for (number, line) in all.enumerate() {
        if let Some(cluster) = line.cluster {
            of.entry(cluster).or_default().push((key(line), number));
        }
    }
    of.values_mut().for_each(|own| own.sort_unstable());
    of
}

/// Of each epoch: which of `lines` is the first that is higher.
pub fn next(lines: &[Line], dead: &[Line]) -> BTreeMap<RegionEpoch, usize> {
    let mut highest: Vec<&RegionEpoch> = Vec::new();
    for line in lines {
        let before = highest.last().copied().unwrap_or(&line.epoch);
        highest.push(before.max(&line.epoch));
    }
    let next = lines.iter().chain(dead).filter_map(|line| {
        let after = highest.partition_point(|epoch| **epoch <= line.epoch);
        (after < lines.len()).then(|| (line.epoch.clone(), after))
    });
    next.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_is_that_of_the_stretches_that_hold_a_time() {
        let all = Earliest::of(&[(10, 20, 5), (15, 30, 3), (40, LogTime::MAX, 9), (8, 7, 1)]);
        let at = [9, 10, 15, 20, 21, 30, 31, 40, LogTime::MAX].map(|at| all.at(at));
        let three = Some(3);
        assert_eq!(at, [None, Some(5), three, three, three, three, None, Some(9), Some(9)]);
    }
}
