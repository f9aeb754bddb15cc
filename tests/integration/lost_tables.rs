//! A node whose tables are lost or damaged, whose log does not reach back, and whose vote and
//! log are good: it takes a snapshot from a peer and is itself again. And one whose log rotted
//! where nobody else's log reaches back: its own tables, or a snapshot, stand for what is missing.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use zoneq::client::{Client, NewMessage, QueueSettings, ReceiveOptions};
use zoneq::server::config::ElectionMs;
use zoneq::server::{Config, Node, Parts};

use super::stage::{PATIENCE, Ports};

const MESSAGES: usize = 300;

/// Three nodes in this process, with small segments, so that there is something to purge.
struct Three {
    home: TempDir,
    peers: String,
    nodes: Vec<Node>,
}

async fn start(home: &Path, peers: &str, id: u64) -> Node {
    let mut config = Config::new(id, "three", format!("z{id}"), home.join(format!("node-{id}")));
    config.peers = peers.parse().expect("peers");
    let own = config.peers.0.iter().find(|peer| peer.id == id).expect("listed").clone();
    config.peer_listen = own.address.parse().expect("an address");
    config.grpc_listen = "127.0.0.1:0".parse().expect("an address");
    config.heartbeat_ms = 80;
    config.election_ms = ElectionMs { min: 200, max: 400 };
    config.disk_reserve_bytes = 1 << 20;
    let mut parts = Parts::real();
    parts.sizes.log_segment_bytes = 256 << 10;
    parts.sizes.log_cache_bytes = 64 << 10;
    parts.sizes.body_segment_bytes = 256 << 10;
    parts.sizes.commit_interval = Duration::from_millis(100);
    let starting = tokio::time::timeout(PATIENCE, Node::start_with(config, parts));
    starting.await.expect("it takes part in time").expect("a node")
}

impl Three {
    async fn up() -> Three {
        let home = tempfile::tempdir().expect("a folder");
        let first = Ports::take().peer;
        let peer = |id: u16| format!("{id}=z{id}@127.0.0.1:{}", first + id);
        let peers = (1..=3).map(peer).collect::<Vec<_>>().join(",");
        let mut nodes = Vec::new();
        for id in 1..=3 {
            nodes.push(start(home.path(), &peers, id).await);
        }
        Three { home, peers, nodes }
    }

    fn client(&self) -> Client {
        let urls = self.nodes.iter().map(|node| format!("http://{}", node.addresses().grpc));
        let client = Client::builder().endpoints(urls.collect::<Vec<_>>()).deadline(PATIENCE);
        client.build().expect("a client")
    }
}

async fn until(what: &str, mut look: impl FnMut() -> bool) {
    let looking = async {
        while !look() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect(what);
}

/// Sends these messages; each body begins with its number.
async fn send(client: &Client, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let mut body = format!("{number:04}").into_bytes();
        body.resize(8 << 10, b'.');
        client.send("orders", NewMessage::new(body)).await.expect("sent");
    }
}

/// Lets these nodes keep little of their log, as one does that is short of space.
async fn purge(nodes: &[Node]) {
    let pretend = |free| nodes.iter().for_each(|node| node.group().pretend_disk_free(free));
    pretend(Some(0));
    until("every log begins later", || nodes.iter().all(|node| node.group().status().purged > 0))
        .await;
    pretend(None);
}

/// All are equal and follow a leader.
async fn until_equal(nodes: &[Node]) {
    let same = || {
        let all: Vec<_> = nodes.iter().map(|node| node.group().status()).collect();
        all.iter().all(|one| one.leader.is_some() && one.applied == all[0].applied)
            && all.iter().all(|one| one.digest == all[0].digest)
    };
    until("the nodes are equal", same).await;
}

/// Flips a bit of the body with this number in the log.
fn rot(dir: &Path, number: usize) {
    let body = format!("{number:04}....").into_bytes();
    let files = std::fs::read_dir(dir.join("log")).expect("a folder").flatten();
    let is_hit = |path: &Path| {
        let mut bytes = std::fs::read(path).expect("a segment");
        let Some(at) = bytes.windows(body.len()).position(|some| some == body) else {
            return false;
        };
        bytes[at] ^= 1;
        std::fs::write(path, bytes).expect("written");
        true
    };
    let logs =
        files.map(|file| file.path()).filter(|path| path.extension() == Some("log".as_ref()));
    assert_eq!(logs.filter(|path| is_hit(path)).count(), 1, "message {number} is in one segment");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_rotted_where_no_other_reaches_back_begins_behind_what_the_tables_hold() {
    let mut three = Three::up().await;
    let client = three.client();
    let settings = QueueSettings::default();
    client.create_queue("orders", Default::default(), settings).await.expect("created");
    send(&client, 0..60).await;
    until_equal(&three.nodes).await;
    let dir = three.home.path().join("node-3");
    let node = three.nodes.pop().expect("node 3");
    if node.group().leadership().borrow().is_me {
        node.group().hand_over(None).await.expect("handed over");
    }
    node.shutdown().await.expect("stopped");
    send(&client, 60..120).await;
    purge(&three.nodes).await;

    // In its own tables; then in those of the others alone.
    for (number, tables_too) in [(20, false), (40, true)] {
        rot(&dir, number);
        if tables_too {
            std::fs::remove_dir_all(dir.join("tables")).expect("removed");
        }
        let node = start(three.home.path(), &three.peers, 3).await;
        until("its log begins behind what rotted", || node.group().status().purged > number as u64)
            .await;
        three.nodes.push(node);
        until_equal(&three.nodes).await;
        if !tables_too {
            three.nodes.pop().expect("node 3").shutdown().await.expect("stopped");
        }
    }
    for node in three.nodes {
        node.shutdown().await.expect("stopped");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_tables_takes_a_snapshot_and_serves_as_itself() {
    let mut three = Three::up().await;
    let client = three.client();
    client
        .create_queue("orders", Default::default(), QueueSettings::default())
        .await
        .expect("created");
    send(&client, 0..MESSAGES).await;
    purge(&three.nodes).await;

    type Damage = fn(&Path);
    let lost: Damage = |dir| std::fs::remove_dir_all(dir.join("tables")).expect("removed");
    let pointer: Damage = |dir| {
        std::fs::write(dir.join("tables/CURRENT"), b"not a pointer").expect("written");
    };
    let rows: Damage = |dir| {
        let tables = std::fs::read_dir(dir.join("tables")).expect("a folder").flatten();
        let generation = tables.map(|entry| entry.path()).find(|path| path.is_dir());
        let rows = generation.expect("a generation").join("rows.redb");
        std::fs::write(rows, vec![0xa5; 8 << 10]).expect("written");
    };
    let noted: Damage = |dir| {
        std::fs::write(dir.join("tables/DAMAGED"), b"a commit met it").expect("written");
    };
    for (damage, aside) in [(lost, false), (pointer, true), (rows, true), (noted, true)] {
        let node = three.nodes.pop().expect("node 3");
        node.shutdown().await.expect("stopped");
        let dir = three.home.path().join("node-3");
        damage(&dir);
        let node = start(three.home.path(), &three.peers, 3).await;
        assert!(node.group().status().applied > 0, "it has its tables when it starts");
        assert_eq!(dir.join("tables.lost").is_dir(), aside, "nothing is deleted");
        three.nodes.push(node);
        until_equal(&three.nodes).await;
    }

    // Its contents are there too, and it may lead: it is the voter that it was.
    let leads = three.nodes.iter().find(|node| node.group().leadership().borrow().is_me);
    let leader = leads.expect("a leader").group().clone();
    if leader.node() != 3 {
        assert_eq!(leader.hand_over(Some(3)).await.expect("handed over"), 3);
    }
    let client = three.client();
    let mut bodies = Vec::new();
    while bodies.len() < MESSAGES {
        let options = ReceiveOptions { max_messages: 100, wait: PATIENCE, ..Default::default() };
        let received = client.receive("orders", options).await.expect("received");
        bodies.extend(received.messages.iter().map(|m| m.body.slice(..4)));
    }
    bodies.sort();
    let sent: Vec<String> = (0..MESSAGES).map(|number| format!("{number:04}")).collect();
    assert!(bodies.iter().zip(&sent).all(|(body, sent)| body == sent.as_bytes()));
    for node in three.nodes {
        node.shutdown().await.expect("stopped");
    }
}
