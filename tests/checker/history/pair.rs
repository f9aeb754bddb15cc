//! What was seen of a pair of regions: what each node's state was, what was told to operators,
//! and what they did.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use zoneq::queue::authority::{Authority, RegionEpoch};

use super::{Cluster, LogTime, Micros};

/// A node's state in the pair at one applied position of its own log.
#[derive(Clone, Debug)]
pub struct Sighted {
    pub at: Micros,
    pub cluster: Cluster,
    pub node: u64,
    pub index: u64,
    pub log_time: LogTime,
    /// Of the data, which both regions have.
    pub digest: u128,
    pub authority: Arc<Authority>,
}

/// A status as it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub invoked: Micros,
    pub returned: Micros,
    pub cluster: Cluster,
    pub role: String,
    pub epoch: RegionEpoch,
    pub last_sync: Option<LogTime>,
    pub is_live: bool,
    /// Why shipping stands still, where it does.
    pub trouble: String,
    pub is_complete: bool,
    pub peer: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Protect,
    Unprotect,
    FailOver {
        to: usize,
    },
    Force {
        accept_incomplete: bool,
    },
    TakeBack {
        force: bool,
    },
    Resolve {
        keep: usize,
    },
    ReadAccess {
        on: bool,
    },
    /// The line is made as slow as this; neither: it is not shaped.
    Shape {
        bytes_per_second: u64,
        delay_ms: u64,
    },
    /// The primary relies on a region lease of this length; 0: on none.
    Lease {
        ms: u64,
    },
    Verify,
    /// The tail of a fenced side is in a file.
    SettleTail,
    /// All disks of the region were replaced.
    BeginAnew,
}

/// One verb of an operator, as it was asked of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub invoked: Micros,
    pub returned: Micros,
    pub cluster: Cluster,
    pub verb: Verb,
    pub outcome: Result<(), String>,
}

/// The tail of a deposed primary, as it was listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub at: Micros,
    pub cluster: Cluster,
    pub epoch: RegionEpoch,
    pub fenced_by: RegionEpoch,
    pub is_whole: bool,
    /// Ids of the messages in it.
    pub ids: Vec<String>,
}

#[derive(Clone, Debug, Default)]
pub struct PairHistory {
    pub sighted: Vec<Sighted>,
    pub told: Vec<Told>,
    pub acts: Vec<Act>,
    pub listed: Vec<Listed>,
    generations: BTreeMap<usize, u32>,
    /// Regions that clients are kept away from.
    closed: BTreeSet<usize>,
}

impl PairHistory {
    /// How often the disks of a region were replaced so far.
    pub fn generation(&self, region: usize) -> u32 {
        self.generations.get(&region).copied().unwrap_or_default()
    }

    pub fn close(&mut self, region: usize) {
        self.closed.insert(region);
    }

    pub fn open(&mut self, region: usize) {
        self.closed.remove(&region);
    }

    pub fn is_closed(&self, region: usize) -> bool {
        self.closed.contains(&region)
    }

    pub fn begins_anew(&mut self, region: usize) {
        *self.generations.entry(region).or_default() += 1;
    }
}
