//! Both sides of a pair after a promotion by force: east was the primary and is fenced, with a
//! tail that nobody has taken; west goes on.

use std::path::Path;

use serde_json::{Value, json};

use super::nodes::{Nodes, Who, folder, now_us};
use super::{Kept, looked_at, pack};
use crate::stage::{wait, zoneq};

const ALL: [Who; 2] = [("east", 1), ("west", 1)];
const QUEUES: [&str; 3] = ["orders", "orders-dead", "cleared"];
/// What a status says of the pair itself, and not of the moment.
const LASTING: [&str; 15] = [
    "region",
    "role",
    "epoch",
    "epoch_region",
    "lineage",
    "peer",
    "redundancy",
    "writable",
    "complete",
    "tail",
    "limit",
    "shape",
    "last_forced",
    "epochs",
    "tails_taken",
];

/// A primary with a copy that has everything, a region lease, a limit and a line that is slow from
/// now on.
fn protect(nodes: &Nodes) {
    for line in [
        "queue create orders-dead",
        "queue create orders --ttl never --dead-letter-queue orders-dead --max-deliveries 3",
        "queue create cleared --ttl never",
        "send orders shared",
        "send orders shared-and-deleted --priority 0",
        "send cleared swept",
        "region protect",
    ] {
        nodes.ok("east", line);
    }
    nodes.until("east", "the copy is live", |it| it["status"] == "live");
    nodes.ok("west", "region read-access on");
    nodes.ok("east", "region limit --max-lag 1h --max-unshipped 64MiB --alert");
    nodes.ok("east", "region lease 2s");
    nodes.until("east", "the lease is relied on", |it| {
        it["lease"]["in_force_seconds"] == 2.0 && it["redundancy"].as_str() > Some("RA")
    });
    nodes.until("east", "all is there", |it| it["entries_behind"] == 0);
    nodes.ok("east", "region shape --delay 6h --jitter 1s --bandwidth 2MiB/s --outage 1h/5s/2h");
}

/// What west never gets.
fn write_the_tail(nodes: &Nodes) {
    let taken = "receive orders --delete";
    for line in [
        taken,
        "send orders done-with --priority 0",
        taken,
        "send orders lost --group customer-1 --priority 1 --header colour=green",
        "send orders lost-too --group customer-1",
        "send orders keyed --key once",
        "send orders later --delay 7d",
        "clear cleared",
    ] {
        nodes.ok("east", line);
    }
    nodes.until("west", "west has heard of it", |it| it["messages_behind"] == 4);
}

fn promote(nodes: &Nodes) {
    let promoted = nodes.ok("west", "region failover --force");
    assert_eq!(promoted["promoted"], true, "{promoted}");
    nodes.until("east", "the old primary is fenced", |it| it["role"] == "fenced");
    nodes.until("west", "west has heard that", |it| it["peer_role"] == "fenced");
    nodes.ok("west", "send orders after");
}

fn shown(nodes: &Nodes) -> Value {
    let mut shown = json!({});
    for (region, old) in [("east", " --max-staleness 1h"), ("west", "")] {
        let on = |line: &str| nodes.run(region, &format!("{line}{old}"));
        for queue in QUEUES {
            shown[format!("{queue} of {region}")] = looked_at(&on, "default", queue);
        }
        let status = nodes.ok(region, "region status");
        let lasting = LASTING.map(|key| (key.to_owned(), status[key].clone()));
        shown[region] = lasting.into_iter().collect();
        shown[format!("audit of {region}")] = nodes.run(region, "region audit").items().into();
    }
    let tail = nodes.run("east", "region tail list");
    shown["tail"] = tail.items().into();
    shown["sum of the tail"] = tail.exits(0);
    shown
}

pub fn record(into: &Path) {
    let home = tempfile::tempdir().expect("a folder");
    let nodes = Nodes::start(home, &ALL, now_us());
    protect(&nodes);
    write_the_tail(&nodes);
    promote(&nodes);
    let shown = shown(&nodes);
    let (home, at_us) = nodes.crash();
    let known = json!({ "at_us": at_us, "shown": shown });
    pack(home.path(), &ALL.map(folder), &into.join("pair.tar.gz"), &known);
}

#[test]
fn both_sides_of_a_pair_of_an_earlier_version_are_opened_after_a_promotion_by_force() {
    for kept in Kept::all("pair") {
        let nodes = opened(&kept);
        kept.compare(&kept.known["shown"], &shown(&nodes));
        holds_the_roles(&nodes);
        holds_the_audit(&nodes);
        keeps_who_may_write(&nodes);
        holds_the_tail(&nodes);
        takes_the_tail(&nodes);
        goes_back(&nodes);
    }
}

fn opened(kept: &Kept) -> Nodes {
    let home = kept.unpack();
    for who in ALL {
        let found = zoneq(home.path(), &format!("inspect {} --json", folder(who))).exits(0);
        assert_eq!(found["findings"], json!([]), "{found}");
    }
    let nodes = Nodes::start(home, &ALL, kept.at_us());
    for (region, other) in [("east", "standalone"), ("west", "fenced")] {
        nodes.until(region, "it hears of the other one", |it| it["peer_role"] == other);
    }
    nodes
}

fn holds_the_roles(nodes: &Nodes) {
    let (east, west) = (nodes.ok("east", "region status"), nodes.ok("west", "region status"));
    assert_eq!((&east["role"], &west["role"]), (&json!("fenced"), &json!("standalone")));
    assert_eq!((&west["epoch"], &west["epoch_region"]), (&json!(2), &json!("west")));
    assert_eq!(east["lineage"], west["lineage"]);
    let ledger = west["epochs"].as_array().expect("a ledger");
    assert_eq!(ledger.len(), 2, "{west}");
    assert_eq!((&ledger[0]["region"], &ledger[1]["region"]), (&json!("east"), &json!("west")));
    let lost = &west["last_forced"];
    assert_eq!((&lost["epoch"], &lost["complete"]), (&json!(2), &json!(true)), "{lost}");
    assert_eq!(lost["messages_lost"], 4, "{lost}");
    assert_eq!(lost["queues_lost"][0]["queue"], "orders", "{lost}");
    assert_eq!(lost["bytes_lost_at_most"], json!(null), "its limit let nothing wait: {lost}");
}

/// Each side knows what was done to it.
fn holds_the_audit(nodes: &Nodes) {
    let of_east = [
        "protect itself by region \"west\"",
        "at most 3600000 ms and at most 67108864 bytes behind, or an alert",
        "a region lease of 2000 ms",
        "rely on a region lease of 2000 ms",
        "the line shaped",
        "be fenced by epoch 2 of region \"west\"",
    ];
    let of_west = [
        "become the secondary region \"west\"",
        "reads on",
        "agree to grant region leases of 2000 ms",
        "promote itself by force to epoch 2",
    ];
    for (region, done) in [("east", &of_east[..]), ("west", &of_west)] {
        let audit = nodes.run(region, "region audit").items();
        let said: Vec<&str> = audit.iter().filter_map(|row| row["what"].as_str()).collect();
        for what in done {
            assert!(said.iter().any(|said| said.contains(what)), "{what:?} is not in {said:?}");
        }
    }
}

fn keeps_who_may_write(nodes: &Nodes) {
    nodes.run("east", "send orders never").says(2, &["fenced", "west"]);
    nodes.run("east", "receive orders").says(2, &["fenced", "west"]);
    nodes.ok("west", "send orders and-on");
    nodes.run("west", "region failover --force").exits(2);
    nodes.run("west", "region protect").says(2, &["neither replayed nor exported"]);
    assert_eq!(bodies(nodes, "west"), ["shared-and-deleted", "shared", "after", "and-on"]);
}

/// What is visible in the queue of orders, in order.
fn bodies(nodes: &Nodes, region: &str) -> Vec<String> {
    let messages = nodes.run(region, "peek orders --max 100").items();
    messages.iter().map(|message| message["body"].as_str().expect("a text").to_owned()).collect()
}

fn holds_the_tail(nodes: &Nodes) {
    let file = nodes.home().join("tail.jsonl");
    nodes.ok("east", &format!("region tail export {}", file.display()));
    let text = std::fs::read_to_string(file).expect("the tail");
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let bodies: Vec<&Value> = lines.iter().map(|line| &line["body_base64"]).collect();
    // lost, lost-too, keyed and later; then what was deleted, and what was cleared.
    let alive = [json!("bG9zdA=="), json!("bG9zdC10b28="), json!("a2V5ZWQ="), json!("bGF0ZXI=")];
    assert!(bodies[..4].iter().copied().eq(&alive), "{lines:?}");
    let lost = &lines[0];
    assert_eq!((&lost["group"], &lost["priority"]), (&json!("customer-1"), &json!(1)));
    assert_eq!(lost["headers"], json!({ "colour": "green" }));
    let deleted: Vec<&Value> = lines[4..6].iter().map(|line| &line["shared"]).collect();
    assert_eq!(deleted, [&json!(true), &json!(false)], "{lines:?}");
    assert_eq!(lines[6]["queue"], "cleared", "{lines:?}");
    assert!(lines[6]["cleared_at"].is_string() && lines.len() == 7, "{lines:?}");
}

fn takes_the_tail(nodes: &Nodes) {
    let sent = nodes.ok("east", "region tail replay");
    assert_eq!((&sent["found"], &sent["replayed"]), (&json!(4), &json!(4)), "{sent}");
    assert_eq!(nodes.ok("east", "region tail replay")["found"], 0, "nothing is sent twice");
    let status = nodes.ok("west", "region status");
    let taken = &status["tails_taken"][0];
    assert_eq!((&taken["epoch"], &taken["sent"]), (&json!(1), &json!(4)), "{status}");
    let counts = nodes.ok("west", "queue show orders")["queue"]["counts"].take();
    let of = |key: &str| counts[key].as_u64().expect("a count");
    assert_eq!(["visible", "blocked", "delayed"].map(of), [6, 1, 1], "{counts}");
    nodes.ok("west", "send orders keyed --key once");
    assert_eq!(nodes.ok("west", "queue show orders")["queue"]["counts"]["total"], 8, "a duplicate");
}

/// The old primary is given all that it lacks, and is handed back to.
fn goes_back(nodes: &Nodes) {
    wait("west is protected", || {
        (nodes.run("west", "region protect").code == Some(0)).then_some(())
    });
    nodes.ok("west", "region shape --off");
    nodes.until("west", "the copy is live", |it| it["status"] == "live");
    assert_eq!(nodes.ok("west", "region verify")["equal"], true);
    wait("it is handed over", || {
        (nodes.run("west", "region failover --to east").code == Some(0)).then_some(())
    });
    nodes.until("east", "it is the primary again", |it| it["role"] == "primary");
    assert_eq!(bodies(nodes, "east").len(), 6);
    nodes.ok("east", "send orders at-home");
}
