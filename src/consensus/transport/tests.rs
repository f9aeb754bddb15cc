//! Three nodes over real sockets, each on a runtime of its own that can be killed: what the
//! transport promises, seen through openraft.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::RangeBounds;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, Raft, RaftLogReader, RaftMetrics, SnapshotPolicy};
use tokio::runtime::Runtime;
use tonic::Code;

use super::super::fastpath::{self, FastPathOptions};
use super::super::machine::{Machine, SharedStore};
use super::super::membership::{
    Admission, AdmissionError, Demand, Membership, OnDisk, admission_check,
};
use super::super::network::{ChannelOptions, Io, Listener, Network, TcpNetwork};
use super::super::pending::Pending;
use super::super::types::{LogId, Member, RaftEntry, TypeConfig, Vote, scoped};
use super::super::zones::{Redundancy, Wanted};
use super::*;
use crate::clock::ManualClock;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::peer_service_client::PeerServiceClient;
use crate::queue::ids::ContentId;
use crate::storage::disk::FlushMode;
use crate::storage::disk::faulty::FaultyDisk;
use crate::storage::error::StorageError;
use crate::storage::snapshot::{SnapshotView, SnapshotWriter};
use crate::storage::store::{Store, StoreError, StoreOptions};

/// A log in memory: what is tested here is the wire.
#[derive(Clone, Debug, Default)]
struct MemoryLog(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    entries: BTreeMap<u64, RaftEntry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
}

impl RaftLogReader<TypeConfig> for MemoryLog {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<RaftEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + std::fmt::Debug + OptionalSend,
    {
        let held = self.0.lock().unwrap();
        Ok(held.entries.range(range).map(|(_, entry)| entry.clone()).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.0.lock().unwrap().vote)
    }
}

impl RaftLogStorage<TypeConfig> for MemoryLog {
    type LogReader = MemoryLog;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let held = self.0.lock().unwrap();
        let last = held.entries.values().next_back().map(|entry| entry.log_id);
        Ok(LogState { last_purged_log_id: held.purged, last_log_id: last.or(held.purged) })
    }

    async fn get_log_reader(&mut self) -> MemoryLog {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.0.lock().unwrap().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, done: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = RaftEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| (entry.log_id.index, entry));
        self.0.lock().unwrap().entries.extend(entries);
        done.io_completed(Ok(()));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let keep = last.map_or(0, |id| id.index + 1);
        self.0.lock().unwrap().entries.split_off(&keep);
        Ok(())
    }

    async fn purge(&mut self, id: LogId) -> Result<(), io::Error> {
        let mut held = self.0.lock().unwrap();
        held.entries = held.entries.split_off(&(id.index + 1));
        held.purged = Some(id);
        Ok(())
    }
}

struct Local(SharedStore);

#[async_trait::async_trait]
impl LocalNode for Local {
    fn begin_install(&self) -> Result<SnapshotWriter, StoreError> {
        self.0.write().begin_install()
    }
    async fn read_log(&self, _: u64, _: u64, _: usize) -> Result<Vec<pb::LogEntry>, StorageError> {
        Ok(Vec::new())
    }
    async fn content(&self, _: ContentId, _: u64) -> Result<(bytes::Bytes, u64), String> {
        Err("this node keeps none".to_owned())
    }
    fn compare(
        &self,
        _: crate::proto::log::v1::Milestones,
    ) -> Result<crate::proto::log::v1::ComparedMilestone, String> {
        Err("this node compares nothing".to_owned())
    }
    async fn digest(&self, _: u64) -> Option<[u8; 16]> {
        None
    }
    fn began_empty(&self) -> bool {
        true
    }
    async fn snapshot(&self) -> Result<SnapshotView, StoreError> {
        Err(StoreError::Empty)
    }

    fn refuses_entries(&self, _bytes: u64) -> Option<String> {
        None
    }

    fn refuses_snapshot(&self) -> Option<String> {
        None
    }

    fn flush_mode(&self) -> FlushMode {
        FlushMode::Threads
    }
}

struct Node {
    id: u64,
    runtime: Option<Runtime>,
    raft: Raft<TypeConfig, Machine>,
    peers: Peers,
    faults: Faults,
    store: SharedStore,
    log: MemoryLog,
}

const PATIENCE: Duration = Duration::from_secs(30);

fn peers(id: u64, faults: Faults) -> Peers {
    let options = ChannelOptions::for_election(Duration::from_millis(400));
    Peers::new("red", id, Arc::new(TcpNetwork), options, faults).unwrap()
}

impl Node {
    /// A follower of a dead leader stands by itself only after `election` twice.
    fn start(id: u64, runtime: Runtime, listener: Listener, election: u64) -> Node {
        let config = openraft::Config {
            heartbeat_interval: 80,
            election_timeout_min: election,
            election_timeout_max: election + election / 2,
            enable_pre_vote: Some(true),
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: 0,
            install_snapshot_timeout: 5_000,
            ..Default::default()
        };
        let config = Arc::new(config.validate().unwrap());
        let faults = Faults::enabled();
        let peers = peers(id, faults.clone());
        peers.set_admitted();
        let clock = Arc::new(ManualClock::at(1_000_000));
        let disk = FaultyDisk::new(id).with_flush_mode(FlushMode::Inline);
        let log = MemoryLog::default();
        let (store, raft) = runtime.block_on(async {
            let options = StoreOptions::new(clock.clone());
            let store = Store::open(disk.shared(), Path::new("/tables"), options).unwrap();
            let store = SharedStore::new(store);
            let factory = PeerNetworkFactory::new(peers.clone());
            let machine = Machine::new(store.clone(), Pending::default());
            let raft = Raft::new(id, config, factory, log.clone(), machine);
            (store.clone(), scoped(id, raft).await.unwrap())
        });
        let (lost, events) = fastpath::signal();
        let local = Arc::new(Local(store.clone()));
        let service = PeerService::new(raft.clone(), peers.clone(), local, clock, lost);
        let server = tonic::transport::Server::builder()
            .add_service(service.into_server())
            .serve_with_incoming(listener.incoming);
        runtime.spawn(server);
        let options = FastPathOptions::default();
        runtime.spawn(fastpath::run(raft.clone(), peers.clone(), options, events));
        Node { id, runtime: Some(runtime), raft, peers, faults, store, log }
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().unwrap().block_on(scoped(99, work))
    }

    /// The process is gone: its sockets close, nothing is said.
    fn kill(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }

    fn alive(&self) -> bool {
        self.runtime.is_some()
    }

    fn until(
        &self,
        within: Duration,
        what: &str,
        reached: impl Fn(&RaftMetrics<TypeConfig>) -> bool + Send,
    ) -> RaftMetrics<TypeConfig> {
        self.run(self.raft.wait(Some(within)).metrics(reached, what)).unwrap()
    }

    fn membership(&self) -> Membership<Machine> {
        Membership::new(self.raft.clone())
    }
}

struct Cluster {
    nodes: Vec<Node>,
    members: BTreeMap<u64, Member>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.alive()) {
            node.kill();
        }
    }
}

impl Cluster {
    /// `voters` nodes formed into a cluster, and one more that is not in it.
    fn formed(voters: u64, election: u64) -> Cluster {
        let mut members = BTreeMap::new();
        let mut nodes = Vec::new();
        for id in 1..=voters + 1 {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap();
            let listener = runtime.block_on(TcpNetwork.listen("127.0.0.1:0")).unwrap();
            let member = Member {
                zone: format!("z{id}"),
                peer_address: listener.local.to_string(),
                ..Default::default()
            };
            members.insert(id, member);
            nodes.push(Node::start(id, runtime, listener, election));
        }
        let cluster = Cluster { nodes, members };
        let mut first = cluster.members.clone();
        first.remove(&(voters + 1));
        let form = cluster.nodes[0].membership();
        let wanted = if voters > 1 { Wanted::Zrs } else { Wanted::Lrs };
        cluster.nodes[0].run(form.form(first, wanted)).unwrap();
        for node in &cluster.nodes[..voters as usize] {
            node.until(PATIENCE, "a leader", |now| now.current_leader.is_some());
        }
        cluster
    }

    fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    fn leader(&self) -> &Node {
        let seen = self.nodes[0].until(PATIENCE, "a leader", |now| now.current_leader.is_some());
        self.node(seen.current_leader.unwrap())
    }

    /// A client of node `id`'s service that says it is node `sender`.
    fn client(&self, sender: u64, id: u64) -> PeerClient {
        PeerClient::new(peers(sender, Faults::disabled()), id, &self.members[&id].peer_address)
    }
}

/// Writes once the leader is sure of its majority, which on a busy machine takes a moment.
fn write(leader: &Node) -> u64 {
    let written = async {
        loop {
            match leader.raft.write_blank().await {
                Ok(written) => return written.log_id.index,
                Err(refusal) if refusal.forward_to_leader().is_some() => {
                    tokio::task::yield_now().await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    leader.run(async { tokio::time::timeout(PATIENCE, written).await }).expect("in time")
}

#[test]
fn entries_reach_every_voter_in_order() {
    let cluster = Cluster::formed(3, 2_000);
    let leader = cluster.leader();
    let last = (0..50).map(|_| write(leader)).last().unwrap();
    for node in &cluster.nodes[..3] {
        let reached = move |now: &RaftMetrics<TypeConfig>| {
            now.last_applied.is_some_and(|id| id.index >= last)
        };
        node.until(PATIENCE, "all is applied", reached);
        let held = node.log.0.lock().unwrap();
        assert!(held.entries.keys().copied().eq(0..held.entries.len() as u64));
    }
}

#[test]
fn a_killed_leader_is_replaced_before_anyones_lease_runs_out() {
    let mut cluster = Cluster::formed(3, 10_000);
    let old = cluster.leader().id;
    write(cluster.leader());
    cluster.nodes[old as usize - 1].kill();
    // Without the fast path nobody stands for fifteen seconds, and then for ten more.
    for node in cluster.nodes[..3].iter().filter(|node| node.alive()) {
        let replaced = move |now: &RaftMetrics<TypeConfig>| {
            now.current_leader.is_some_and(|leader| leader != old)
        };
        node.until(Duration::from_secs(8), "a new leader", replaced);
    }
}

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_follows_when_the_cut_heals() {
    let cluster = Cluster::formed(3, 600);
    let old = cluster.leader();
    let all: BTreeSet<u64> = (1..=4).collect();
    old.faults.set_cut(all).unwrap();
    let old_id = old.id;
    let other = cluster.nodes[..3].iter().find(|node| node.id != old_id).unwrap();
    let now = other.until(PATIENCE, "a new leader", move |now| {
        now.current_leader.is_some_and(|leader| leader != old_id)
    });
    let new = now.current_leader.unwrap();
    let last = write(cluster.node(new));
    old.faults.set_cut(BTreeSet::new()).unwrap();
    old.until(PATIENCE, "the old leader follows", move |now| {
        now.current_leader.is_some_and(|leader| leader != old_id)
            && now.last_applied.is_some_and(|id| id.index >= last)
    });
}

#[test]
fn a_new_node_gets_a_snapshot_when_the_log_begins_too_late() {
    let cluster = Cluster::formed(3, 2_000);
    let leader = cluster.leader();
    let last = (0..20).map(|_| write(leader)).last().unwrap();
    leader
        .until(PATIENCE, "applied", move |now| now.last_applied.is_some_and(|id| id.index >= last));
    leader.run(leader.store.commit()).unwrap();
    leader.run(leader.raft.trigger().snapshot()).unwrap();
    leader.until(PATIENCE, "a snapshot", |now| now.snapshot.is_some());
    leader.run(leader.raft.trigger().purge_log(last)).unwrap();
    leader.until(PATIENCE, "a purged log", |now| now.purged.is_some());

    let membership = leader.membership();
    leader.run(membership.add_learner(4, cluster.members[&4].clone(), PATIENCE)).unwrap();
    let fourth = cluster.node(4);
    fourth.until(PATIENCE, "the snapshot installed", move |now| {
        now.last_applied.is_some_and(|id| id.index >= last)
    });
    assert_eq!(fourth.store.read().state().digest(), leader.store.read().state().digest());

    let gone = (1..=3).find(|id| *id != leader.id).unwrap();
    let zrs = Demand::Keep(Wanted::Zrs);
    leader.run(membership.replace(gone, 4, zrs, PATIENCE)).unwrap();
    let members = membership.members();
    assert!(members.voters.contains_key(&4) && !members.voters.contains_key(&gone));
    assert_eq!(members.redundancy(), Some(Redundancy::Zone));
    let error = leader.run(membership.remove(4, zrs)).unwrap_err();
    assert!(error.to_string().contains("losing that zone stops the cluster"), "{error}");
}

#[test]
fn a_call_meant_for_another_node_is_refused_over_the_wire() {
    let cluster = Cluster::formed(1, 600);
    let address = &cluster.members[&1].peer_address;
    let mut misled = PeerClient::new(peers(9, Faults::disabled()), 2, address);
    let asked = cluster.node(1).run(misled.read_clock(PATIENCE));
    let Err(CallError::Status { status, .. }) = asked else { panic!("not refused: {asked:?}") };
    assert_eq!(status.code(), Code::FailedPrecondition);
    let mut right = cluster.client(9, 1);
    assert_eq!(cluster.node(1).run(right.read_clock(PATIENCE)).unwrap(), 1_000_000);
}

/// Dials this address, whatever it is asked for.
#[derive(Debug)]
struct Misleading(Mutex<String>);

#[async_trait::async_trait]
impl Network for Misleading {
    async fn dial(&self, _: &str) -> std::io::Result<Io> {
        let address = self.0.lock().unwrap().clone();
        TcpNetwork.dial(&address).await
    }

    async fn listen(&self, address: &str) -> std::io::Result<Listener> {
        TcpNetwork.listen(address).await
    }
}

#[test]
fn a_peer_whose_address_led_to_another_node_is_dialled_anew() {
    let cluster = Cluster::formed(3, 2_000);
    let leads_to = |id: u64| cluster.members[&id].peer_address.clone();
    let network = Arc::new(Misleading(Mutex::new(leads_to(1))));
    let options = peers(9, Faults::disabled()).channel_options().clone();
    let own = peers(9, Faults::disabled());
    let nine = Peers::new(own.cluster(), 9, network.clone(), options, Faults::disabled()).unwrap();
    let mut two = PeerClient::new(nine, 2, &leads_to(2));
    let asked = cluster.node(1).run(two.read_clock(PATIENCE));
    assert!(matches!(asked, Err(CallError::Status { .. })), "node 1 answered for 2: {asked:?}");
    *network.0.lock().unwrap() = leads_to(2);
    assert_eq!(cluster.node(1).run(two.read_clock(PATIENCE)).unwrap(), 1_000_000);
}

#[test]
fn a_node_that_leaves_ends_the_append_streams_of_its_peers() {
    let cluster = Cluster::formed(1, 600);
    let one = cluster.node(1);
    let ended = one.run(async {
        let nine = peers(9, Faults::disabled());
        let channel = nine.channel(&cluster.members[&1].peer_address).unwrap();
        let requests = nine.request(1, futures::stream::pending());
        let opened = PeerServiceClient::new(channel).append(requests).await.unwrap();
        one.peers.leave();
        tokio::time::timeout(PATIENCE, opened.into_inner().message()).await.expect("in time")
    });
    let status = ended.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "node 1 is stopping"));
}

#[test]
fn a_call_from_a_cut_peer_hangs_until_its_deadline() {
    let cluster = Cluster::formed(1, 600);
    let one = cluster.node(1);
    one.faults.set_cut(BTreeSet::from([9])).unwrap();
    let asked = one.run(cluster.client(9, 1).read_clock(Duration::from_millis(200)));
    assert!(matches!(asked, Err(CallError::Late { .. })), "{asked:?}");
    one.faults.set_cut(BTreeSet::new()).unwrap();
    one.run(cluster.client(9, 1).read_clock(PATIENCE)).unwrap();
}

#[test]
fn a_voter_that_lost_its_disk_does_not_come_back_under_its_id() {
    let cluster = Cluster::formed(3, 2_000);
    let others: BTreeMap<u64, String> = cluster
        .members
        .iter()
        .filter(|(id, _)| **id != 3)
        .map(|(id, member)| (*id, member.peer_address.clone()))
        .collect();
    let wiped = peers(3, Faults::disabled());
    let verdict = cluster.node(1).run(admission_check(
        &wiped,
        OnDisk::Nothing,
        &others,
        PATIENCE,
        async || Ok(()),
    ));
    assert!(
        matches!(verdict, Err(AdmissionError::Wiped { node: 3, voter: true, .. })),
        "{verdict:?}"
    );
}

#[test]
fn a_founder_that_died_before_its_first_promise_comes_back() {
    let cluster = Cluster::formed(3, 2_000);
    let others: BTreeMap<u64, String> = cluster
        .members
        .iter()
        .filter(|(id, _)| **id != 3)
        .map(|(id, member)| (*id, member.peer_address.clone()))
        .collect();
    let back = peers(3, Faults::disabled());
    let keep = async || Ok(());
    let check = admission_check(&back, OnDisk::Admission, &others, PATIENCE, keep);
    assert_eq!(cluster.node(1).run(check).unwrap(), Admission::Known);
}
