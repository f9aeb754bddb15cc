//! A leader that was killed is replaced at once, without waiting for its lease to run out.
//!
//! When the connection that carries the leader's log breaks, a follower dials the leader's own
//! peer address once more. *Refused* means that the host is there and the process is gone; then
//! the follower treats it as a hand-over of leadership to itself: it drops its own lease and
//! asks for votes that are granted inside the others' leases.
//!
//! Laws: vote safety is openraft's and untouched: term, one vote a term and the check for the
//! newest log all hold; only the guard against disturbance is passed over, and only on
//! evidence. The lowest id goes first, each next waits a step longer, so votes seldom split.
//! Reads must confirm leadership with a majority (ReadIndex), never trust a lease.
//!
//! Refuses as evidence: a connection that opens or times out (a lost machine or zone), an
//! address that is not where the stream came from, a leader that took another's place less than
//! a second ago, a host name unless names are said to be the nodes' own, and a peer that is cut
//! off by a fault.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use openraft::Raft;
use openraft::alias::VoteOf;
use openraft::async_runtime::WatchReceiver as _;
use openraft::raft::TransferLeaderRequest;
use openraft::storage::RaftStateMachine;
use tokio::sync::mpsc;

use super::transport::Peers;
use super::types::{SnapshotData, TypeConfig};

/// Signals waiting to be looked at; more are dropped, for they say the same.
const WAITING: usize = 16;

/// A dying process closes its sockets one by one, and its listener need not be the first: the
/// address is dialled this often, [`DIAL_PAUSE`] apart, before its answer is believed.
const DIALS: u32 = 20;
const DIAL_PAUSE: Duration = Duration::from_millis(15);

/// A leader's stream that ended by a broken connection.
#[derive(Clone, Copy, Debug)]
pub struct LeaderLost {
    /// The leader's vote, committed.
    pub vote: VoteOf<TypeConfig>,
    /// Where its stream came from, if known.
    pub remote: Option<SocketAddr>,
}

/// The sending end, held by the peer service.
#[derive(Clone, Debug)]
pub struct LostSignal(mpsc::Sender<LeaderLost>);

impl LostSignal {
    /// Never waits: a full queue already holds the news.
    pub fn tell(&self, lost: LeaderLost) {
        let _ = self.0.try_send(lost);
    }
}

/// The receiving end, held by the task that runs the fast path.
pub type LostEvents = mpsc::Receiver<LeaderLost>;

/// Both ends.
#[must_use]
pub fn signal() -> (LostSignal, LostEvents) {
    let (sender, receiver) = mpsc::channel(WAITING);
    (LostSignal(sender), receiver)
}

#[derive(Clone, Copy, Debug)]
pub struct FastPathOptions {
    /// Off where peer addresses lead through proxies or service addresses, and where reads
    /// rely on the leader's lease.
    pub enabled: bool,
    /// How much longer each next follower waits.
    pub step: Duration,
    /// How long a leader must have been followed, save the first that this process follows. What
    /// breaks connections while processes live could else replace one leader after the other, as
    /// fast as they are elected.
    pub settled: Duration,
    /// Whether host names in peer addresses are the nodes' own.
    pub trust_names: bool,
}

impl Default for FastPathOptions {
    fn default() -> Self {
        FastPathOptions {
            enabled: true,
            step: Duration::from_millis(30),
            settled: Duration::from_secs(1),
            trust_names: false,
        }
    }
}

/// What a follower knows of its leader when the stream breaks.
struct Succession {
    leader_address: String,
    /// How many voters with lower ids may go first.
    rank: u32,
}

/// Runs until every [`LostSignal`] is gone.
pub async fn run<SM>(
    raft: Raft<TypeConfig, SM>,
    peers: Peers,
    options: FastPathOptions,
    mut events: LostEvents,
) where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    let mut handled: Option<VoteOf<TypeConfig>> = None;
    while let Some(lost) = events.recv().await {
        if !options.enabled || handled == Some(lost.vote) {
            continue;
        }
        if take_over(&raft, &peers, options, lost).await {
            handled = Some(lost.vote);
        }
    }
}

/// Whether the leadership was asked for.
async fn take_over<SM>(
    raft: &Raft<TypeConfig, SM>,
    peers: &Peers,
    options: FastPathOptions,
    lost: LeaderLost,
) -> bool
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    let leader = lost.vote.leader_id.node_id;
    let Some(next) = succession(raft, peers.node(), lost.vote) else { return false };
    let address = &next.leader_address;
    if !peers.has_settled((lost.vote.leader_id.term, leader), options.settled)
        || peers.faults().is_cut(leader)
        || !is_own_address(lost.remote, address, options.trust_names)
        || !is_gone(raft, peers, address, lost.vote).await
    {
        return false;
    }
    tokio::time::sleep(options.step * next.rank).await;
    // Another follower may have gone first, or the leader may be back.
    if raft.metrics().borrow_watched().vote != lost.vote {
        return false;
    }
    if next.rank > 0 && !refuses(peers, address).await {
        return false;
    }
    tracing::info!(leader, term = lost.vote.leader_id.term, "the leader's process is gone");
    let request = TransferLeaderRequest::new(lost.vote, peers.node(), None);
    match peers.scoped(raft.handle_transfer_leader(request)).await {
        Ok(Ok(())) => true,
        Ok(Err(refusal)) => {
            tracing::debug!(%refusal, "no longer this leader's follower");
            false
        }
        Err(fatal) => {
            tracing::warn!(%fatal, "cannot take over");
            true
        }
    }
}

/// Where this node stands after `vote`'s leader; none if it is not a voter that follows it.
fn succession<SM>(
    raft: &Raft<TypeConfig, SM>,
    node: u64,
    vote: VoteOf<TypeConfig>,
) -> Option<Succession>
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let leader = vote.leader_id.node_id;
    if metrics.vote != vote || leader == node {
        return None;
    }
    let members = &metrics.membership_config;
    let rank = rank(members.voter_ids(), leader, node)?;
    let leader_address = members.get_node(&leader)?.peer_address.clone();
    Some(Succession { leader_address, rank })
}

/// How many voters other than the leader have a lower id than `node`, if it is a voter.
fn rank(voters: impl Iterator<Item = u64>, leader: u64, node: u64) -> Option<u32> {
    let (mut lower, mut voter) = (0, false);
    for id in voters {
        voter |= id == node;
        lower += u32::from(id < node && id != leader);
    }
    voter.then_some(lower)
}

/// Whether a refusal at `address` says something about the process that the stream came from.
fn is_own_address(remote: Option<SocketAddr>, address: &str, trust_names: bool) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(address) => remote.is_some_and(|remote| remote.ip() == address.ip()),
        Err(_) => trust_names,
    }
}

/// Whether the leader's process is gone; false as soon as this node follows another vote.
async fn is_gone<SM>(
    raft: &Raft<TypeConfig, SM>,
    peers: &Peers,
    address: &str,
    vote: VoteOf<TypeConfig>,
) -> bool
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    for dial in 0..DIALS {
        if dial > 0 {
            tokio::time::sleep(DIAL_PAUSE).await;
        }
        if raft.metrics().borrow_watched().vote != vote {
            return false;
        }
        if refuses(peers, address).await {
            return true;
        }
    }
    false
}

async fn refuses(peers: &Peers, address: &str) -> bool {
    let within = peers.channel_options().connect_timeout;
    let dialled = tokio::time::timeout(within, peers.network().dial(address)).await;
    matches!(dialled, Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::network::{ChannelOptions, Network as _, TcpNetwork};
    use super::super::transport::Faults;
    use super::*;

    #[test]
    fn the_lowest_follower_goes_first() {
        assert_eq!(rank([1, 2, 3].into_iter(), 1, 2), Some(0));
        assert_eq!(rank([1, 2, 3].into_iter(), 1, 3), Some(1));
        assert_eq!(rank([1, 2, 3].into_iter(), 3, 2), Some(1));
        assert_eq!(rank([1, 2, 3].into_iter(), 1, 4), None, "a learner stays one");
    }

    #[test]
    fn a_refusal_elsewhere_is_no_evidence() {
        let remote = Some("10.0.0.7:51000".parse().unwrap());
        assert!(is_own_address(remote, "10.0.0.7:7501", false));
        assert!(!is_own_address(remote, "10.0.0.8:7501", false), "a proxy's address");
        assert!(!is_own_address(None, "10.0.0.7:7501", false));
        assert!(!is_own_address(remote, "queue-service:7501", false));
        assert!(is_own_address(remote, "node-1:7501", true));
    }

    #[tokio::test]
    async fn only_a_refused_connection_counts() {
        let options = ChannelOptions::for_election(Duration::from_millis(200));
        let network = Arc::new(TcpNetwork);
        let peers = Peers::new("red", 2, network, options, Faults::disabled()).unwrap();
        let listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local.to_string();
        assert!(!refuses(&peers, &address).await);
        drop(listener);
        assert!(refuses(&peers, &address).await);
    }
}
