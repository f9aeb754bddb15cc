//! Who this node is to its peers, and the proof each call carries: cluster, sender, target.
//!
//! The law: a call is answered only by the node it is meant for, in the cluster it is meant
//! for. An address used again by another node, or by a node of another cluster, is the classic
//! way to lose a log.
//!
//! Refuses, with FAILED_PRECONDITION and a sentence, a call for another cluster or node; with
//! INVALID_ARGUMENT one that does not say. Calls from and to cut peers hang.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status};

use super::super::network::{ChannelError, ChannelOptions, Network, channel};
use super::super::types;
use super::acknowledged::Acknowledged;
use super::faults::Faults;
use crate::storage::reserve::Stage;

const CLUSTER: &str = "zoneq-cluster";
const TARGET: &str = "zoneq-target-node";
const SENDER: &str = "zoneq-sender-node";

/// What a node said of its disk.
#[derive(Clone, Copy, Debug)]
pub struct DiskReport {
    pub stage: Stage,
    pub free_bytes: u64,
    pub at: Instant,
}

/// This node and its way to the others. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Peers {
    inner: Arc<Inner>,
}

/// The leader that this node last heard of.
#[derive(Clone, Copy, Debug)]
struct Followed {
    /// Its term and its node.
    leader: (u64, u64),
    since: Instant,
    /// Whether this process heard of no leader before.
    is_first: bool,
}

#[derive(Debug)]
struct Inner {
    cluster: String,
    cluster_value: MetadataValue<Ascii>,
    node: u64,
    network: Arc<dyn Network>,
    channel: ChannelOptions,
    faults: Faults,
    calls: AtomicU64,
    admitted: AtomicBool,
    heard: Mutex<Option<Instant>>,
    followed: Mutex<Option<Followed>>,
    disks: Mutex<BTreeMap<u64, DiskReport>>,
    left: watch::Sender<bool>,
    acknowledged: Acknowledged,
}

/// A cluster id that no call can carry.
#[derive(Debug, thiserror::Error)]
#[error("the cluster id {0:?} must be printable ASCII without spaces at its ends")]
pub struct ClusterIdError(String);

impl Peers {
    /// This node in its cluster.
    pub fn new(
        cluster: impl Into<String>,
        node: u64,
        network: Arc<dyn Network>,
        channel: ChannelOptions,
        faults: Faults,
    ) -> Result<Peers, ClusterIdError> {
        let cluster = cluster.into();
        let refused = || ClusterIdError(cluster.clone());
        if cluster.is_empty() || cluster.trim() != cluster {
            return Err(refused());
        }
        let cluster_value = cluster.parse().map_err(|_| refused())?;
        let calls = AtomicU64::new(0);
        let admitted = AtomicBool::new(false);
        let (heard, followed) = (Mutex::default(), Mutex::default());
        let disks = Mutex::default();
        let left = watch::Sender::new(false);
        let inner = Inner {
            cluster,
            cluster_value,
            node,
            network,
            channel,
            faults,
            calls,
            admitted,
            heard,
            followed,
            disks,
            left,
            acknowledged: Acknowledged::default(),
        };
        Ok(Peers { inner: Arc::new(inner) })
    }

    #[must_use]
    pub fn node(&self) -> u64 {
        self.inner.node
    }

    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.inner.cluster
    }

    #[must_use]
    pub fn faults(&self) -> &Faults {
        &self.inner.faults
    }

    #[must_use]
    pub fn network(&self) -> &Arc<dyn Network> {
        &self.inner.network
    }

    #[must_use]
    pub fn channel_options(&self) -> &ChannelOptions {
        &self.inner.channel
    }

    /// Whether a node that began with an empty disk was found fit to take part.
    #[must_use]
    pub fn admitted(&self) -> bool {
        self.inner.admitted.load(Ordering::Acquire)
    }

    /// Says that it was; see [`admission`](super::super::membership::admission_check).
    pub(in crate::consensus) fn set_admitted(&self) {
        self.inner.admitted.store(true, Ordering::Release);
    }

    /// What the peers acknowledged to this node.
    pub(super) fn acknowledged(&self) -> &Acknowledged {
        &self.inner.acknowledged
    }

    /// Ends the append streams that peers hold open here: this node stops on purpose, and what
    /// they still ask would meet a Raft core that has ended.
    pub fn leave(&self) {
        self.inner.left.send_replace(true);
    }

    /// Whether this node has left.
    #[must_use]
    pub fn has_left(&self) -> bool {
        *self.inner.left.borrow()
    }

    /// Returns once this node has left; at once when it has.
    pub async fn until_left(&self) {
        // The sender lives as long as these peers.
        let _ = self.inner.left.subscribe().wait_for(|left| *left).await;
    }

    /// When this node last took entries or a heartbeat from the leader it follows.
    #[must_use]
    pub fn last_heard(&self) -> Option<Instant> {
        *self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that it did, at `at`.
    pub(super) fn set_heard(&self, at: Instant) {
        *self.inner.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Says that the leader of a term, as term and node, was heard of now, if it is another one
    /// than before.
    pub(super) fn note_leader(&self, leader: (u64, u64)) {
        let mut followed = self.inner.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if followed.is_none_or(|known| known.leader != leader) {
            let is_first = followed.is_none();
            *followed = Some(Followed { leader, since: Instant::now(), is_first });
        }
    }

    /// Whether this node has heard of this leader for at least so long, and of no other since. The
    /// first that it hears of need not last: it took the place of none that this node knew.
    pub(in crate::consensus) fn has_settled(&self, leader: (u64, u64), least: Duration) -> bool {
        let followed = self.inner.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let known = followed.filter(|known| known.leader == leader);
        known.is_some_and(|known| known.is_first || known.since.elapsed() >= least)
    }

    /// What a node, or this one, last said of its disk.
    #[must_use]
    pub fn disk_of(&self, node: u64) -> Option<DiskReport> {
        self.inner.disks.lock().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
    }

    /// Says what it said.
    pub(in crate::consensus) fn note_disk(&self, node: u64, report: DiskReport) {
        self.inner.disks.lock().unwrap_or_else(PoisonError::into_inner).insert(node, report);
    }

    /// Runs a call into openraft, with a seed of its own that follows from the node and the
    /// number of calls before it.
    pub fn scoped<F: Future>(&self, call: F) -> impl Future<Output = F::Output> {
        let number = self.inner.calls.fetch_add(1, Ordering::Relaxed);
        types::scoped(self.inner.node.rotate_left(32) ^ number, call)
    }

    /// A channel of its own to a peer; it connects when first used.
    pub fn channel(&self, address: &str) -> Result<Channel, ChannelError> {
        channel(Arc::clone(&self.inner.network), address, &self.inner.channel)
    }

    /// A request that says who sends it and whom it is meant for.
    #[must_use]
    pub fn request<T>(&self, target: u64, message: T) -> Request<T> {
        let mut request = Request::new(message);
        self.sign(target, request.metadata_mut());
        request
    }

    /// Writes sender, target and cluster into a call's metadata.
    pub fn sign(&self, target: u64, metadata: &mut MetadataMap) {
        metadata.insert(CLUSTER, self.inner.cluster_value.clone());
        metadata.insert(TARGET, target.into());
        metadata.insert(SENDER, self.inner.node.into());
    }

    /// Whether a call that says whom it is meant for is meant for this node. Clients of the other
    /// region do not say it.
    #[allow(clippy::result_large_err, reason = "tonic's own error type")]
    pub fn admit_signed(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let is_signed = metadata.contains_key(TARGET) || metadata.contains_key(CLUSTER);
        if is_signed { self.admit(metadata).map(drop) } else { Ok(()) }
    }

    /// The sender of a call that is meant for this node; refuses every other call.
    #[allow(clippy::result_large_err, reason = "tonic's own error type")]
    pub fn admit(&self, metadata: &MetadataMap) -> Result<u64, Status> {
        let cluster = text(metadata, CLUSTER)?;
        if cluster != self.inner.cluster {
            return Err(Status::failed_precondition(format!(
                "this call is for cluster {cluster}, but node {} belongs to cluster {}",
                self.inner.node, self.inner.cluster
            )));
        }
        let target = number(metadata, TARGET)?;
        if target != self.inner.node {
            return Err(Status::failed_precondition(format!(
                "this call is for node {target}, but this address belongs to node {} of \
                 cluster {}",
                self.inner.node, self.inner.cluster
            )));
        }
        number(metadata, SENDER)
    }
}

#[allow(clippy::result_large_err, reason = "tonic's own error type")]
fn text<'a>(metadata: &'a MetadataMap, key: &'static str) -> Result<&'a str, Status> {
    metadata
        .get(key)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| Status::invalid_argument(format!("the call carries no readable {key}")))
}

#[allow(clippy::result_large_err, reason = "tonic's own error type")]
fn number(metadata: &MetadataMap, key: &'static str) -> Result<u64, Status> {
    let value = text(metadata, key)?;
    value.parse().map_err(|_| Status::invalid_argument(format!("{key} {value:?} is not a node id")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use tonic::Code;

    use super::super::super::network::TcpNetwork;
    use super::*;

    fn peers(cluster: &str, node: u64) -> Peers {
        let options = ChannelOptions::for_election(Duration::from_millis(200));
        Peers::new(cluster, node, Arc::new(TcpNetwork), options, Faults::disabled()).unwrap()
    }

    fn refusal(from: &Peers, target: u64, at: &Peers) -> Status {
        at.admit(from.request(target, ()).metadata()).unwrap_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_took_anothers_place_settles_with_time_and_the_first_at_once() {
        let (own, second) = (peers("red", 1), Duration::from_secs(1));
        assert!(!own.has_settled((3, 2), Duration::ZERO), "nobody was heard of");
        own.note_leader((3, 2));
        assert!(own.has_settled((3, 2), second));
        for leader in [(4, 3), (5, 2)] {
            own.note_leader(leader);
            tokio::time::advance(second / 2).await;
            own.note_leader(leader);
            assert!(!own.has_settled(leader, second));
            tokio::time::advance(second / 2).await;
            assert!(own.has_settled(leader, second));
        }
        assert!(!own.has_settled((3, 2), Duration::ZERO), "it leads no longer");
    }

    #[test]
    fn a_call_passed_on_is_checked_where_it_says_whom_it_is_meant_for() {
        let (one, two, other) = (peers("red", 1), peers("red", 2), peers("blue", 2));
        two.admit_signed(one.request(2, ()).metadata()).unwrap();
        two.admit_signed(Request::new(()).metadata()).unwrap();
        let told = other.admit_signed(one.request(2, ()).metadata()).unwrap_err();
        assert_eq!(told.code(), Code::FailedPrecondition);
        assert!(one.admit_signed(one.request(2, ()).metadata()).is_err());
    }

    #[test]
    fn a_call_for_this_node_names_its_sender() {
        let (one, two) = (peers("red", 1), peers("red", 2));
        assert_eq!(two.admit(one.request(2, ()).metadata()).unwrap(), 1);
    }

    #[test]
    fn a_call_for_another_cluster_is_refused() {
        let status = refusal(&peers("red", 1), 2, &peers("blue", 2));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(
            status.message(),
            "this call is for cluster red, but node 2 belongs to cluster blue"
        );
    }

    #[test]
    fn a_call_for_another_node_is_refused() {
        let status = refusal(&peers("red", 1), 3, &peers("red", 2));
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().starts_with("this call is for node 3"), "{status}");
    }

    #[test]
    fn an_unsigned_call_is_refused() {
        let status = peers("red", 1).admit(&MetadataMap::new()).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
}
