//! Three nodes in one process, over loopback and real files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;

use super::*;
use crate::clock::{Clock as _, SystemClock};
use crate::consensus::network::{Io, TcpNetwork};
use crate::queue::command::{
    Command, Content, NewMessage, Receive, SessionTag, Settings, StringMap,
};
use crate::queue::error::Rejection;
use crate::queue::outcome::Standing;
use crate::storage::disk::real::RealDisk;
use crate::storage::log::LogOptions;
use crate::storage::store::StoreOptions;

mod clocks;
mod comparing;
mod contents;
mod truth;
mod waits;

struct TestNode {
    group: Group,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl TestNode {
    /// Ends the node at once: its tasks are dropped, its port is closed.
    async fn stop(self) {
        for task in &self.tasks {
            task.abort();
        }
        self.group.shutdown().await;
    }
}

fn members(addresses: &[String]) -> BTreeMap<NodeId, Member> {
    let member = |(at, address): (usize, &String)| {
        let member = Member {
            zone: format!("z{}", at + 1),
            region: "east".into(),
            peer_address: address.clone(),
            grpc_address: String::new(),
        };
        (at as NodeId + 1, member)
    };
    addresses.iter().enumerate().map(member).collect()
}

async fn start(dir: &Path, node: NodeId, addresses: &[String]) -> TestNode {
    start_by(dir, node, addresses, Arc::new(SystemClock::default())).await
}

/// The same by this clock.
async fn start_by(dir: &Path, node: NodeId, addresses: &[String], clock: SharedClock) -> TestNode {
    let disk: Arc<dyn crate::storage::disk::Disk> = Arc::new(RealDisk);
    let dir = dir.join(format!("node-{node}"));
    std::fs::create_dir_all(&dir).unwrap();
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::new(node, clock.clone()) };
    let (log, state) = Log::open(disk.clone(), &dir.join("log"), options).unwrap();
    assert!(state.trouble.is_empty(), "{state:?}");
    let store = Store::open(disk, &dir.join("store"), StoreOptions::new(clock.clone())).unwrap();
    // Long enough that a machine with other work does not depose who leads.
    let election = (Duration::from_millis(400), Duration::from_millis(800));
    let config = GroupConfig {
        cluster_id: "test".into(),
        node,
        founders: members(addresses),
        heartbeat: Duration::from_millis(80),
        election,
        clock_bound: Duration::from_secs(1),
        preferred_zone: None,
        enable_faults: false,
        channel: ChannelOptions::for_election(election.0),
        seed: node,
    };
    let network = Arc::new(TcpNetwork);
    let started =
        Group::start(config, log, store, FlushMode::Threads, clock, network).await.unwrap();
    let listener = TcpNetwork.listen(&addresses[node as usize - 1]).await.unwrap();
    let serve = tonic::transport::Server::builder()
        .add_service(started.peer_service.into_server())
        .serve_with_incoming(listener.incoming.boxed());
    let mut tasks: Vec<_> = started.tasks.into_iter().map(|(_, task)| tokio::spawn(task)).collect();
    tasks.push(tokio::spawn(async move {
        let _ = serve.await;
    }));
    TestNode { group: started.group, tasks }
}

async fn free_addresses(count: usize) -> Vec<String> {
    let mut held: Vec<(String, futures::stream::BoxStream<'static, std::io::Result<Io>>)> =
        Vec::new();
    for _ in 0..count {
        let listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        held.push((listener.local.to_string(), listener.incoming));
    }
    held.into_iter().map(|(address, _)| address).collect()
}

async fn cluster(dir: &Path) -> (Vec<TestNode>, Vec<String>) {
    let clock = || Arc::new(SystemClock::default()) as SharedClock;
    cluster_by(dir, [clock(), clock(), clock()]).await
}

/// The same, each node by its own clock.
async fn cluster_by(dir: &Path, clocks: [SharedClock; 3]) -> (Vec<TestNode>, Vec<String>) {
    let addresses = free_addresses(3).await;
    let mut nodes = Vec::new();
    for (node, clock) in (1..).zip(clocks) {
        nodes.push(start_by(dir, node, &addresses, clock).await);
    }
    let joins = nodes.iter().map(|node| node.group.join(Wanted::Zrs, Duration::from_secs(10)));
    for joined in futures::future::join_all(joins).await {
        assert_eq!(joined.unwrap(), Admission::Forming);
    }
    (nodes, addresses)
}

/// The disk of a founder that was admitted and died before its first vote.
async fn admitted_once(dir: &Path, node: NodeId) {
    let disk: Arc<dyn crate::storage::disk::Disk> = Arc::new(RealDisk);
    let log = dir.join(format!("node-{node}")).join("log");
    std::fs::create_dir_all(&log).unwrap();
    let clock: SharedClock = Arc::new(SystemClock::default());
    let options = LogOptions { segment_bytes: 1 << 20, ..LogOptions::new(node, clock) };
    let (log, _) = Log::open(disk, &log, options).unwrap();
    assert_eq!(log.vote(), None);
    log.save_vote(&ADMITTED).await.unwrap();
}

#[tokio::test]
async fn founders_that_died_before_their_first_promise_form_the_cluster() {
    let dir = tempfile::tempdir().unwrap();
    admitted_once(dir.path(), 2).await;
    admitted_once(dir.path(), 3).await;
    let addresses = free_addresses(3).await;
    let mut nodes = Vec::new();
    for node in 1..=3 {
        nodes.push(start(dir.path(), node, &addresses).await);
    }
    let joins = nodes.iter().map(|node| node.group.join(Wanted::Zrs, Duration::from_secs(10)));
    for joined in futures::future::join_all(joins).await {
        assert!(matches!(joined.unwrap(), Admission::Forming | Admission::Known));
    }
    leader(&nodes).await;
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// The node that leads and is ready.
async fn leader(nodes: &[TestNode]) -> usize {
    let ready = nodes.iter().enumerate().map(|(at, node)| {
        Box::pin(async move {
            let mut leadership = node.group.leadership();
            leadership.wait_for(|now| now.is_me).await.unwrap();
            at
        })
    });
    let first = futures::future::select_all(ready);
    tokio::time::timeout(Duration::from_secs(10), first).await.expect("somebody leads").0
}

fn envelope(command: Command) -> Envelope {
    Envelope { session: None, account: "default".into(), command }
}

fn create(name: &str) -> Envelope {
    let settings = Settings::default();
    envelope(Command::CreateQueue {
        name: name.into(),
        metadata: StringMap::new(),
        settings: Box::new(settings),
    })
}

fn send(body: &str) -> Envelope {
    let content =
        Content { body: bytes::Bytes::copy_from_slice(body.as_bytes()), ..Content::default() };
    let message = NewMessage { content, ..NewMessage::default() };
    envelope(Command::Send { queue: "orders".into(), messages: vec![message] })
}

fn receive(max: u32) -> Receive {
    Receive { queue: "orders".into(), max_messages: max, max_bytes: 4 << 20, visibility: None }
}

fn bodies(done: &Done) -> Vec<String> {
    let text = |content: &Content| String::from_utf8(content.body.to_vec()).unwrap();
    done.contents.iter().map(text).collect()
}

#[tokio::test]
async fn what_was_sent_is_received_and_is_in_two_zones() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, _) = cluster(dir.path()).await;
    let group = &nodes[leader(&nodes).await].group;
    group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    let sent = group.propose(send("one book"), soon()).await.unwrap();
    let (at_least, zones) = group.durability(sent.position);
    assert_eq!(at_least, 2);
    assert!(zones.len() >= 2, "{zones:?}");
    assert!(group.has_applied(sent.position));
    let other = Position { term: sent.position.term + 1, ..sent.position };
    assert!(!group.has_applied(other), "another leader's entry at this index");

    let done = group.receive("default", &receive(10), None, Duration::ZERO, soon()).await.unwrap();
    assert_eq!(bodies(&done.expect("a message")), ["one book"]);
    let none = group.receive("default", &receive(10), None, Duration::ZERO, soon()).await.unwrap();
    assert!(none.is_none(), "it is leased");
}

#[tokio::test]
async fn a_receive_that_is_tried_again_is_given_the_same_messages() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, _) = cluster(dir.path()).await;
    let group = &nodes[leader(&nodes).await].group;
    group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    group.propose(send("the only one"), soon()).await.unwrap().outcome.unwrap();
    let tag = |sequence| Some(SessionTag { client: 7, sequence, lowest_unanswered: 1 });
    let first = group.receive("default", &receive(1), tag(1), Duration::ZERO, soon()).await;
    let again = group.receive("default", &receive(1), tag(1), Duration::ZERO, soon()).await;
    let (first, again) = (first.unwrap().expect("given"), again.unwrap().expect("given again"));
    assert_eq!(first.outcome, again.outcome, "the same grant, though nothing is visible now");
    assert_eq!(bodies(&again), ["the only one"]);
    let next = group.receive("default", &receive(1), tag(2), Duration::ZERO, soon()).await;
    assert!(next.unwrap().is_none(), "another receive finds nothing");
}

#[tokio::test]
async fn a_waiting_receiver_is_woken_by_a_send() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, _) = cluster(dir.path()).await;
    let group = nodes[leader(&nodes).await].group.clone();
    group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    let waiter = group.clone();
    let waiting = tokio::spawn(async move {
        waiter.receive("default", &receive(1), None, Duration::from_secs(30), soon()).await
    });
    tokio::task::yield_now().await;
    group.propose(send("at last"), soon()).await.unwrap().outcome.unwrap();
    let done = waiting.await.unwrap().unwrap().expect("woken long before the wait is over");
    assert_eq!(bodies(&done), ["at last"]);
}

#[tokio::test]
async fn the_others_go_on_when_the_leader_stops_and_it_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, addresses) = cluster(dir.path()).await;
    let first = leader(&nodes).await;
    let group = nodes[first].group.clone();
    group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    for n in 0..100 {
        group.propose(send(&n.to_string()), soon()).await.unwrap().outcome.unwrap();
    }
    let gone = nodes.remove(first);
    let gone_id = gone.group.node();
    drop(group);
    gone.stop().await;

    let second = leader(&nodes).await;
    let group = nodes[second].group.clone();
    group.propose(send("after"), soon()).await.unwrap().outcome.unwrap();
    let look = |store: &Store, _| store.state().queue("default", "orders").unwrap().counts.total;
    let (total, _) = group.read(Freshness::Linearizable, soon(), look).await.unwrap();
    assert_eq!(total, 101);

    let back = start(dir.path(), gone_id, &addresses).await;
    let position = group.store().read().applied().unwrap();
    let mut applied = back.group.applied();
    let caught_up =
        applied.wait_for(|mark| mark.position.is_some_and(|at| at.index >= position.index));
    tokio::time::timeout(Duration::from_secs(10), caught_up).await.expect("in time").unwrap();
    let digest = |group: &Group| group.store().read().state().digest();
    assert_eq!(digest(&back.group), digest(&group));
}

#[tokio::test]
async fn without_a_quorum_a_write_ends_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let (mut nodes, _) = cluster(dir.path()).await;
    let first = leader(&nodes).await;
    let alone = nodes.swap_remove(first);
    alone.group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    for node in nodes {
        node.stop().await;
    }
    let deadline = Instant::now() + Duration::from_secs(1);
    let refused = alone.group.propose(send("nobody hears"), deadline).await.unwrap_err();
    assert!(matches!(refused, GroupError::NotNow { .. }), "{refused}");
    let read = alone.group.read(Freshness::Linearizable, deadline, |_, _| ()).await.unwrap_err();
    assert!(matches!(read, GroupError::NotNow { .. }), "{read}");
}

#[tokio::test]
async fn leadership_is_handed_over_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let (nodes, _) = cluster(dir.path()).await;
    let first = leader(&nodes).await;
    let group = nodes[first].group.clone();
    group.propose(create("orders"), soon()).await.unwrap().outcome.unwrap();
    group.propose(send("kept"), soon()).await.unwrap().outcome.unwrap();
    let heir = group.hand_over(None).await.unwrap();
    assert_ne!(heir, group.node());
    let heir = nodes.iter().find(|node| node.group.node() == heir).unwrap();
    let mut ready = heir.group.leadership();
    ready.wait_for(|now| now.is_me).await.unwrap();
    let look = |store: &Store, _| {
        store.state().peek("default", "orders", Standing::Visible, None, 10).unwrap().0.len()
    };
    let (shown, _) = heir.group.read(Freshness::Linearizable, soon(), look).await.unwrap();
    assert_eq!(shown, 1);
}
