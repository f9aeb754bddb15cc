//! Which epochs began because somebody asked the region for a promotion by force, between the last
//! look that did not show the epoch and the first that did.
//!
//! Law: looks at one region that were not over when the next began are few, so only those next to
//! the first that showed an epoch are gone through.

use std::collections::{BTreeMap, BTreeSet};

use zoneq::queue::authority::RegionEpoch;

use super::{Sampled, Seen, cluster_of};
use crate::highest::Highest;
use crate::history::{Cluster, History, Micros, Verb};

pub struct Begun<'a> {
    /// The looks at each cluster, in the order in which they began.
    looks: BTreeMap<Cluster, Vec<&'a Seen>>,
    /// Which of them was the first to show each epoch.
    first: BTreeMap<(Cluster, &'a RegionEpoch), usize>,
    /// The promotions by force that each cluster was asked for.
    forced: BTreeMap<Cluster, Highest<Micros, Micros>>,
    /// Of each ledger its epochs.
    epochs: BTreeMap<usize, BTreeSet<&'a RegionEpoch>>,
}

impl<'a> Begun<'a> {
    pub fn of(sampled: &'a Sampled, history: &History) -> Begun<'a> {
        let mut looks: BTreeMap<Cluster, Vec<&Seen>> = BTreeMap::new();
        let mut first: BTreeMap<(Cluster, &RegionEpoch), usize> = BTreeMap::new();
        let mut epochs: BTreeMap<usize, BTreeSet<&RegionEpoch>> = BTreeMap::new();
        for seen in &sampled.seen {
            let cluster = seen.look.told.cluster;
            let own = looks.entry(cluster).or_default();
            // A ledger is told of one cluster.
            epochs.entry(seen.ledger).or_insert_with(|| {
                let lines = sampled.ledger(seen.ledger).iter().map(|line| &line.epoch);
                let epochs: BTreeSet<&RegionEpoch> = lines.collect();
                for epoch in &epochs {
                    first.entry((cluster, epoch)).or_insert(own.len());
                }
                epochs
            });
            own.push(seen);
        }
        let mut forced: BTreeMap<Cluster, Vec<(Micros, Micros)>> = BTreeMap::new();
        for act in &history.pair.acts {
            if matches!(act.verb, Verb::Force { .. }) {
                forced.entry(act.cluster).or_default().push((act.invoked, act.returned));
            }
        }
        let forced = forced.into_iter().map(|(of, acts)| (of, acts.into_iter().collect()));
        Begun { looks, first, forced: forced.collect(), epochs }
    }

    pub fn was_forced(&self, epoch: &RegionEpoch) -> bool {
        self.asked(epoch).unwrap_or(false)
    }

    fn asked(&self, epoch: &RegionEpoch) -> Option<bool> {
        let cluster = cluster_of(epoch)?;
        let looks = self.looks.get(&cluster)?;
        let number = *self.first.get(&(cluster, epoch))?;
        let first = looks.get(number)?.look.told.returned;
        let shows =
            |seen: &Seen| self.epochs.get(&seen.ledger).is_some_and(|it| it.contains(epoch));
        let before = |seen: &&&Seen| !shows(seen) && seen.look.told.returned <= first;
        let later = looks.iter().skip(number).take_while(|seen| seen.look.told.invoked <= first);
        let earlier = looks.get(..number)?.iter().rev().find(before);
        let last = later.filter(before).chain(earlier).map(|seen| seen.look.told.invoked).max();
        let forced = self.forced.get(&cluster)?.through(&first)?;
        Some(forced >= last.unwrap_or_default())
    }
}
