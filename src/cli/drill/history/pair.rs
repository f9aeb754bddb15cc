//! What operators were told of a pair of regions, what they did, and what of a tail.

use serde::{Deserialize, Serialize};

use super::{Cluster, LogTime, Micros};
use crate::queue::authority::RegionEpoch;

/// A status as it was shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub invoked: Micros,
    pub returned: Micros,
    pub cluster: Cluster,
    pub role: String,
    #[serde(with = "super::epoch")]
    pub epoch: RegionEpoch,
    pub last_sync: Option<LogTime>,
    pub is_live: bool,
    /// Why shipping stands still, where it does.
    pub trouble: String,
    pub is_complete: bool,
    pub peer: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// The way back until that region is the primary.
    FailBack {
        to: usize,
    },
    /// The protection ends, and the copy is wiped.
    Wipe,
    /// A kept copy becomes a cluster of its own.
    PromoteCopy,
    /// All disks of the region were replaced.
    BeginAnew,
}

impl Verb {
    /// As it is counted.
    pub fn name(self) -> &'static str {
        match self {
            Verb::Protect => "region protect",
            Verb::Unprotect => "region unprotect",
            Verb::FailOver { .. } => "region failover",
            Verb::Force { .. } => "region failover --force",
            Verb::TakeBack { .. } => "region take-back",
            Verb::Resolve { .. } => "region resolve",
            Verb::ReadAccess { .. } => "region read-access",
            Verb::Shape { .. } => "region shape",
            Verb::Lease { .. } => "region lease",
            Verb::Verify => "region verify",
            Verb::SettleTail => "region tail export",
            Verb::FailBack { .. } => "region failback",
            Verb::Wipe => "region unprotect --wipe",
            Verb::PromoteCopy => "region promote",
            Verb::BeginAnew => "region begins anew, with empty disks",
        }
    }
}

/// One verb of an operator, as it was asked of a region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    pub invoked: Micros,
    pub returned: Micros,
    pub cluster: Cluster,
    pub verb: Verb,
    pub outcome: Result<(), String>,
}

/// The tail of a deposed primary, as it was listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub at: Micros,
    pub cluster: Cluster,
    #[serde(with = "super::epoch")]
    pub epoch: RegionEpoch,
    #[serde(with = "super::epoch")]
    pub fenced_by: RegionEpoch,
    /// The log reached back to the fork, before all was listed and after.
    pub is_whole: bool,
    /// Messages with this number or a higher one are its own.
    pub first_number: u64,
    pub alive: Vec<Alive>,
    pub deleted: Vec<Gone>,
    pub removed: Vec<Emptied>,
}

/// A message of a tail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    pub id: String,
    pub queue: String,
    /// Whose body it has; `None` when the bytes are those of no message.
    pub tag: Option<u64>,
    pub expires_at: Option<LogTime>,
}

/// A message that a tail says was deleted there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    pub id: String,
    pub queue: String,
    /// It was sent before the fork.
    pub is_shared: bool,
}

/// A queue that a tail says was cleared, or deleted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Emptied {
    pub queue: String,
    pub with_queue: bool,
}

/// A replay of the tail of a fenced side, as far as it was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    pub invoked: Micros,
    pub returned: Micros,
    pub cluster: Cluster,
    /// The epoch whose tail it is, as it was listed before.
    #[serde(with = "super::epoch")]
    pub epoch: RegionEpoch,
    /// Messages that this call sent.
    pub sent: u64,
    /// Ids of those that were not sent, each with the reason.
    pub skipped: Vec<(String, String)>,
    pub outcome: Result<(), String>,
}

/// An epoch: its number and its region.
pub type EpochId = (u32, String);

/// A place in a log. Of one that a status told of only the index is known, and the rest is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub index: u64,
    pub term: u64,
    pub node: u64,
}

/// Where an epoch joins the one before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Join {
    pub epoch: EpochId,
    /// The last place of the epoch before, in the log of its region.
    pub previous: Option<Place>,
    /// The place that began it, in the log of its own region.
    pub first: Option<Place>,
}

/// How far the tail of a fenced epoch was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub epoch: EpochId,
    /// Messages with numbers up to here are dealt with.
    pub through: u64,
    pub sent: u64,
    pub skipped: u64,
    pub done: bool,
}

/// A cluster's part in a pair of regions: as much of its authority as is judged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub lineage: u128,
    pub region: String,
    /// As `region status` says it.
    pub role: String,
    /// Where the role began, of one that has a place.
    pub role_at: Option<Place>,
    /// Whom it handed over to, is fenced by, or is in conflict with.
    pub other: Option<EpochId>,
    pub epoch: EpochId,
    /// The oldest first.
    pub ledger: Vec<Join>,
    /// Of a secondary: up to where it has the primary's log.
    pub applied_through: Option<Place>,
    /// The region lease that a primary relies on, in microseconds.
    pub lease: Option<u64>,
    pub replayed: Vec<Taken>,
}

/// A node's state at one applied position of its own log; its part is that of the line before that
/// has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sight {
    pub at: Micros,
    pub cluster: Cluster,
    pub node: u64,
    pub index: u64,
    pub log_time: LogTime,
    /// Of the data; `None` = it was not told.
    pub digest: Option<u128>,
}

/// A look at a region by its status, from which the reader tells what the region was, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    pub told: Told,
    /// The last entry of its own log that who answered had applied.
    pub index: u64,
    pub log_time: LogTime,
    /// A ledger without lines is the one of the look before at this region.
    pub part: Part,
}
