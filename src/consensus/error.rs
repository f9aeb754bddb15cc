//! The three classes of trouble: a rejection, which is the same on every replica and goes to the
//! client; *not now*, which says whether the write may have happened; and fatal, which stops
//! this node.

use std::time::Duration;

use super::types::NodeId;
use crate::queue::error::Rejection;

/// Whether a write that got no answer may have been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was never proposed, or was refused before it entered the log.
    NotApplied,
    /// It was proposed and not confirmed in time.
    Unknown,
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum GroupError {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    #[error("{reason}")]
    NotNow { reason: Reason, fate: Fate, retry_after: Duration, leader: Option<NodeId> },
    #[error("this node has stopped: {0}")]
    Fatal(String),
}

/// Why not now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("no leader is known; a majority of the zones may be out of reach")]
    NoLeader,
    #[error("this node does not lead")]
    NotLeader,
    #[error("the leader has lost touch with a majority of the zones")]
    NoQuorum,
    #[error("the node takes no more work at the moment: too many bytes are in flight")]
    Overloaded,
    #[error("the node is draining")]
    Draining,
    #[error("the deadline passed")]
    Deadline,
    #[error("leadership moved while the write was under way")]
    LeaderChanged,
    #[error("the other region was promoted while the write was under way")]
    Deposed,
    #[error("the caller knows of a newer epoch, and the other region did not say whether it is so")]
    Untold,
    #[error(
        "the caller knows of a pair of regions, and this cluster is not of it: its copy was given \
         up, or it never had one"
    )]
    OtherPair,
    #[error("the region lease has run out: the other region does not grant it anew")]
    NoRegionLease,
    #[error("the other region is further behind than the limit: writes wait for it")]
    TooFarBehind,
    #[error("the content of a message is damaged on this node, and no other has given it yet")]
    Rotten,
    #[error("the disk of node {node} is nearly full: {what} are refused until it has space")]
    DiskFull { node: NodeId, what: &'static str },
}

impl GroupError {
    #[must_use]
    pub fn not_applied(reason: Reason) -> GroupError {
        GroupError::NotNow {
            reason,
            fate: Fate::NotApplied,
            retry_after: Duration::from_millis(50),
            leader: None,
        }
    }

    #[must_use]
    pub fn unknown(reason: Reason) -> GroupError {
        GroupError::NotNow {
            reason,
            fate: Fate::Unknown,
            retry_after: Duration::from_millis(50),
            leader: None,
        }
    }
}
