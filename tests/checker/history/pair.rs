//! What was seen of a pair of regions: what each node's state was, what was told to operators,
//! and what they did.

use std::collections::BTreeMap;
use std::sync::Arc;

use zoneq::queue::authority::Authority;

use super::{Act, Cluster, Listed, LogTime, Micros, Replay, Told};

/// A node's state in the pair at one applied position of its own log.
#[derive(Clone, Debug)]
pub struct Sighted {
    pub at: Micros,
    pub cluster: Cluster,
    pub node: u64,
    pub index: u64,
    pub log_time: LogTime,
    /// Of the data, which both regions have; `None` = it was not told.
    pub digest: Option<u128>,
    pub authority: Arc<Authority>,
}

#[derive(Clone, Debug, Default)]
pub struct PairHistory {
    pub sighted: Vec<Sighted>,
    pub told: Vec<Told>,
    pub acts: Vec<Act>,
    pub listed: Vec<Listed>,
    pub replays: Vec<Replay>,
    generations: BTreeMap<usize, u32>,
    /// Regions that clients are kept away from.
    closed: BTreeMap<usize, Whom>,
}

/// Who is kept away from a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    All,
    /// Clients that know the epoch of the pair are turned away by the region itself.
    WhoKnowsNothing,
}

impl PairHistory {
    /// How often the disks of a region were replaced so far.
    pub fn generation(&self, region: usize) -> u32 {
        self.generations.get(&region).copied().unwrap_or_default()
    }

    pub fn close(&mut self, region: usize) {
        self.close_to(Whom::All, region);
    }

    pub fn close_to(&mut self, whom: Whom, region: usize) {
        self.closed.insert(region, whom);
    }

    pub fn open(&mut self, region: usize) {
        self.closed.remove(&region);
    }

    pub fn is_closed(&self, region: usize) -> bool {
        self.closed.contains_key(&region)
    }

    pub fn is_closed_to(&self, region: usize, knows_the_pair: bool) -> bool {
        match self.closed.get(&region) {
            Some(Whom::All) => true,
            Some(Whom::WhoKnowsNothing) => !knows_the_pair,
            None => false,
        }
    }

    pub fn begins_anew(&mut self, region: usize) {
        *self.generations.entry(region).or_default() += 1;
    }
}
