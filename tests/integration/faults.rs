//! What a lab's nodes suffer, and what clients see of it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use zoneq::client::{Client, DeleteItem, NewMessage, ReceiveOptions};

use super::stage::{Lab, PATIENCE, PEERS_ARE_LOST, wait};

/// Senders on a lab that note what was acknowledged to them.
#[derive(Default)]
struct Load {
    next: AtomicU64,
    acknowledged: Mutex<BTreeSet<String>>,
}

impl Load {
    fn many(&self) -> usize {
        self.acknowledged.lock().expect("a lock").len()
    }

    /// Sends one after another until a send fails.
    async fn send_until_it_fails(self: Arc<Load>, client: Client) {
        loop {
            let body = format!("m{}", self.next.fetch_add(1, Ordering::Relaxed));
            match client.send("orders", NewMessage::new(body.clone())).await {
                Ok(_) => self.acknowledged.lock().expect("a lock").insert(body),
                Err(_) => return,
            };
        }
    }
}

fn client(lab: &Lab, deadline: Duration) -> Client {
    Client::builder().endpoints(lab.urls()).deadline(deadline).build().expect("a client")
}

/// Receives and deletes until the queue is empty; every body that was there.
async fn drain(client: &Client) -> BTreeSet<String> {
    let mut bodies = BTreeSet::new();
    loop {
        let options = ReceiveOptions { max_messages: 1_000, ..ReceiveOptions::default() };
        let received = client.receive("orders", options).await.expect("received");
        if received.messages.is_empty() {
            return bodies;
        }
        let items = received.messages.iter().map(DeleteItem::from).collect();
        client.delete_batch("orders", items).await.expect("deleted");
        for message in received.messages {
            bodies.insert(String::from_utf8(message.body.to_vec()).expect("text"));
        }
    }
}

#[test]
fn every_acknowledged_message_is_there_after_sigkill_of_all_nodes_at_once() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let load = Arc::new(Load::default());
    let sending = client(&lab, Duration::from_millis(500));
    let senders: Vec<_> = (0..16)
        .map(|_| runtime.spawn(Arc::clone(&load).send_until_it_fails(sending.clone())))
        .collect();
    wait("500 messages are acknowledged", || (load.many() >= 500).then_some(()));
    lab.ok("lab kill all");
    for sender in senders {
        runtime.block_on(sender).expect("a sender ends");
    }
    drop(sending);
    lab.ok("lab start all");
    let found = runtime.block_on(drain(&client(&lab, PATIENCE)));
    let acknowledged = load.acknowledged.lock().expect("a lock");
    let lost: Vec<&String> = acknowledged.difference(&found).collect();
    assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), acknowledged.len());
    assert_eq!(lab.ok("cluster verify")["equal"], true);
    lab.warned_only_of(PEERS_ARE_LOST);
}

#[test]
fn without_a_majority_every_call_is_answered_in_time_and_none_hangs() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    lab.ok("send orders before");
    let leader = lab.leader();
    let followers: Vec<String> =
        [1, 2, 3].iter().filter(|id| **id != leader).map(u64::to_string).collect();

    // A leader alone: it may have written what it cannot commit.
    lab.ok(&format!("lab kill {}", followers.join(" ")));
    for verb in ["send orders late", "receive orders", "queue create other", "clear orders"] {
        let ran = lab.run(&format!("{verb} --deadline 1s"));
        let result = ran.result();
        assert!(matches!(ran.code, Some(3 | 75)), "{ran:#?}");
        assert_eq!(result["ok"], false);
        assert!(ran.took < Duration::from_secs(4), "{ran:#?}");
    }
    lab.ok(&format!("lab kill {leader}"));
    lab.ok(&format!("lab start {}", followers.join(" ")));
    wait("a majority serves again", || {
        (lab.run("send orders after --deadline 2s").code == Some(0)).then_some(())
    });

    // A follower alone: certainly nothing is written.
    let leader = lab.leader();
    lab.ok(&format!("lab kill {leader}"));
    let ran = lab.run("send orders late --deadline 1s");
    assert_eq!(ran.exits(3)["error"]["class"], "not_now");
    assert!(ran.took < Duration::from_secs(4), "{ran:#?}");
    // What a lone node remembers of a leader is no news.
    wait("the lone node says that nobody leads", || {
        let status = lab.run("cluster status");
        (status.code == Some(3) && status.result()["leader"].is_null()).then_some(())
    });
    lab.ok("lab start all");
    lab.ok("send orders again");
    lab.warned_only_of(PEERS_ARE_LOST);
}

#[test]
fn a_paused_leader_is_replaced_and_follows_when_it_wakes() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    let paused = lab.leader();
    lab.ok(&format!("lab pause {paused}"));
    lab.ok("send orders while-it-sleeps");
    let status = lab.ok("lab status");
    assert_eq!(status["nodes"][paused as usize - 1]["state"], "paused", "{status}");
    assert_ne!(lab.leader(), paused);

    // Awake, it believes for a moment that it leads still: what it says must be the new truth.
    lab.ok(&format!("lab resume {paused}"));
    let url = &lab.urls()[paused as usize - 1];
    let received = lab.run(&format!("receive orders --wait 5s --delete -e {url}"));
    assert_eq!(received.exits(0)["received"], 1);
    assert_eq!(received.items()[0]["body"], "while-it-sleeps");
    let equal = lab.ok("cluster verify");
    assert_eq!((&equal["equal"], &equal["nodes"]), (&true.into(), &3.into()), "{equal}");
    lab.warned_only_of(PEERS_ARE_LOST);
}

#[test]
fn a_leader_cut_off_is_replaced_and_takes_the_others_history_when_healed() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    let cut = lab.leader();
    let url = lab.urls()[cut as usize - 1].clone();
    lab.ok(&format!("lab partition {cut}"));
    // What it is told alone is not acknowledged, and must not appear where it did not happen.
    let alone = lab.run(&format!("send orders never --deadline 1s -e {url}"));
    assert!(matches!(alone.code, Some(3 | 75)), "{alone:#?}");
    lab.ok("send orders kept");
    assert_eq!(lab.ok("lab heal")["ok"], true);
    let equal = wait("the nodes are equal", || {
        let equal = lab.run("cluster verify --deadline 5s");
        (equal.code == Some(0)).then(|| equal.result())
    });
    assert_eq!(equal["nodes"], 3, "{equal}");
    let peeked = lab.run("peek orders --max 10");
    let bodies: Vec<String> = peeked.items().iter().map(|item| item["body"].to_string()).collect();
    let certain = alone.code == Some(3);
    assert!(bodies.contains(&"\"kept\"".to_owned()), "{bodies:?}");
    assert!(!certain || !bodies.contains(&"\"never\"".to_owned()), "{bodies:?}");
    lab.warned_only_of(PEERS_ARE_LOST);
}

/// Overwrites the second half of what the newest segment of a log holds with zeros, as a disk
/// leaves it that forgot what it was told to keep.
fn lose_the_end(log: &Path) {
    let files = std::fs::read_dir(log).expect("the log").flatten().map(|file| file.path());
    let newest = files.filter(|path| path.extension().is_some_and(|kind| kind == "log")).max();
    let newest = newest.expect("a segment");
    let mut bytes = std::fs::read(&newest).expect("readable");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("used");
    bytes[end / 2..=end].fill(0);
    std::fs::write(newest, bytes).expect("written");
}

#[test]
fn a_node_whose_log_lost_its_end_does_not_vote_under_its_old_id() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    let forgot = lab.leader() % 3 + 1;
    for _ in 0..20 {
        lab.ok("send orders some");
    }
    lab.ok(&format!("lab kill {forgot}"));
    let dir = lab.data_dir(forgot);
    lose_the_end(&dir.join("log"));
    // What the tables hold is not lost; without them the log is all that there is.
    std::fs::remove_dir_all(dir.join("tables")).expect("removed");

    let words = ["may not take part", "acknowledged entry", "lost what was durable"];
    lab.run(&format!("lab start {forgot}")).says(1, &words);
    lab.ok("send orders some");
    lab.warned_only_of(&["a peer cannot be reached", "may not take part"]);
}

#[test]
fn a_node_that_lost_its_disk_does_not_vote_under_its_old_id() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    let leader = lab.leader();
    let wiped = leader % 3 + 1;
    let last = wiped % 3 + 1;
    lab.ok(&format!("lab kill {wiped} {leader}"));
    std::fs::remove_dir_all(lab.data_dir(wiped)).expect("the disk is lost");

    // With the vote of the wiped node the last one would have a majority.
    let words = ["may not take part", "its disk is empty", "new node id"];
    lab.run(&format!("lab start {wiped}")).says(1, &words);
    let log = std::fs::read_to_string(lab.dir.join(format!("node-{wiped}/log"))).expect("a log");
    assert!(log.lines().last().is_some_and(|line| line.contains("\"exit\":64")), "{log}");
    lab.run("send orders none --deadline 500ms").exits(3);
    assert_ne!(lab.seen_by(last)["leader"], last, "one vote is no majority");

    lab.ok(&format!("lab start {leader}"));
    lab.ok("send orders some");
    lab.warned_only_of(&["a peer cannot be reached", "may not take part"]);
}
