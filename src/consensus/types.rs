//! The types that openraft is configured with, and the way between its log ids and ours.
//! Nothing outside this room names them.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use openraft::impls::TokioRuntime;
use openraft_rt::deterministic_rng::DeterministicRng;

use super::proposer::Reply;
use crate::queue::command::Entry as QueueEntry;
use crate::queue::ids::Position;
use crate::storage::snapshot::{ReadySnapshot, SnapshotView};

pub type NodeId = u64;

/// What membership knows of a node. A restart cannot change it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Member {
    pub zone: String,
    pub region: String,
    pub peer_address: String,
    pub grpc_address: String,
}

/// What rides beside an entry on the node that proposed it: the decoded commands, so that they
/// are not decoded again, and who waits for them.
pub struct Local {
    pub entry: QueueEntry,
    pub replies: Vec<Reply>,
}

/// One entry of commands: encoded once, kept as bytes.
#[derive(Clone, Default, serde::Serialize, serde::Deserialize)]
pub struct Proposal {
    pub encoded: Bytes,
    #[serde(skip)]
    local: Option<Arc<Mutex<Option<Local>>>>,
}

impl Proposal {
    /// An entry as another node or the log knows it.
    #[must_use]
    pub fn encoded(encoded: Bytes) -> Proposal {
        Proposal { encoded, local: None }
    }

    /// An entry as its proposer knows it.
    #[must_use]
    pub fn local(encoded: Bytes, local: Local) -> Proposal {
        Proposal { encoded, local: Some(Arc::new(Mutex::new(Some(local)))) }
    }

    /// Whether it came from the proposer of this node.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.local.is_some()
    }

    /// Takes what only the proposer has; the first taker gets it.
    pub fn take_local(&self) -> Option<Local> {
        let slot = self.local.as_ref()?;
        slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

impl PartialEq for Proposal {
    fn eq(&self, other: &Proposal) -> bool {
        self.encoded == other.encoded
    }
}

impl Eq for Proposal {}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.encoded.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of commands", self.encoded.len())
    }
}

/// openraft's own answer to a write. Outcomes go to their clients straight from `apply`.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Applied {}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("applied")
    }
}

pub type Runtime = DeterministicRng<TokioRuntime>;

openraft::declare_raft_types!(
    /// zoneq's choice of openraft's types.
    pub TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = NodeId,
        Node = Member,
        AsyncRuntime = Runtime,
);

/// A snapshot on its way: a pinned view where it comes from, a checked copy where it arrives.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "one at a time is on its way")]
pub enum SnapshotData {
    View(SnapshotView),
    Received(ReadySnapshot),
}

pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type RaftEntry = openraft::alias::EntryOf<TypeConfig>;
pub type Membership = openraft::Membership<NodeId, Member>;
pub type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

/// Reads a membership of a peer or of a disk.
///
/// # Errors
/// It is no JSON of one, or it has voters that it knows no node of, or a set of voters without
/// any: openraft takes neither for possible.
pub fn read_membership(json: &[u8]) -> serde_json::Result<Membership> {
    checked(&serde_json::from_slice(json)?)
}

/// Reads a membership with the entry that it came from.
///
/// # Errors
/// As [`read_membership`].
pub fn read_stored_membership(json: &[u8]) -> serde_json::Result<StoredMembership> {
    let stored: StoredMembership = serde_json::from_slice(json)?;
    Ok(StoredMembership::new(*stored.log_id(), checked(stored.membership())?))
}

/// Reads what the sender of a snapshot says of it.
///
/// # Errors
/// As [`read_membership`].
pub fn read_snapshot_meta(json: &[u8]) -> serde_json::Result<SnapshotMeta> {
    let meta: SnapshotMeta = serde_json::from_slice(json)?;
    checked(meta.last_membership.membership())?;
    Ok(meta)
}

fn checked(membership: &Membership) -> serde_json::Result<Membership> {
    let nodes: BTreeMap<NodeId, Member> =
        membership.nodes().map(|(id, member)| (*id, member.clone())).collect();
    Membership::new(membership.get_joint_config().clone(), nodes)
        .map_err(<serde_json::Error as serde::de::Error>::custom)
}

/// Runs a future where openraft may draw random numbers. Every task that calls openraft needs
/// it; the seed decides elections in a simulation and comes from the system elsewhere.
pub fn scoped<F: Future>(seed: u64, future: F) -> impl Future<Output = F::Output> {
    Runtime::scope(seed, future)
}

#[must_use]
pub fn position(id: &LogId) -> Position {
    let leader = id.committed_leader_id();
    Position { term: leader.term, node: leader.node_id, index: id.index() }
}

#[must_use]
pub fn log_id(position: &Position) -> LogId {
    use openraft::vote::RaftLeaderId as _;
    let leader = openraft::alias::LeaderIdOf::<TypeConfig>::new(position.term, position.node);
    LogId::new(leader.to_committed(), position.index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_whose_voters_have_no_node_is_refused_wherever_it_is_read() {
        let member = r#"{"zone":"z","region":"r","peer_address":"h:1","grpc_address":""}"#;
        let whole = format!(r#"{{"configs":[[1]],"nodes":{{"1":{member}}}}}"#);
        let stored = |it: &str| format!(r#"{{"log_id":null,"membership":{it}}}"#);
        let meta = |it: &str| {
            format!(r#"{{"last_log_id":null,"last_membership":{},"snapshot_id":""}}"#, stored(it))
        };
        let is_read = |it: &str| {
            let entry = read_membership(it.as_bytes()).is_ok();
            let tables = read_stored_membership(stored(it).as_bytes()).is_ok();
            let head = read_snapshot_meta(meta(it).as_bytes()).is_ok();
            assert_eq!([entry, entry], [tables, head], "{it}");
            entry
        };
        assert!(is_read(&whole));
        assert!(is_read(r#"{"configs":[],"nodes":{}}"#), "that of a node that was never in one");
        assert!(!is_read(r#"{"configs":[[1]],"nodes":{}}"#));
        assert!(!is_read(&whole.replace("[[1]]", "[[1],[]]")));
    }
}
