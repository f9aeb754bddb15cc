//! Three nodes in three zones, with something of every kind that outlives a process.

use std::path::Path;

use serde_json::{Value, json};
use zoneq::proto::queue::v1 as pb;
use zoneq::proto::queue::v1::queue_service_client::QueueServiceClient;

use super::nodes::{Nodes, Who, folder, now_us};
use super::{Kept, ageless, looked_at, pack};
use crate::stage::{wait, zoneq};

const ALL: [Who; 3] = [("east", 1), ("east", 2), ("east", 3)];
/// Dead letters whose redrive runs on for longer than a recording takes.
const SLOW: u64 = 300;
const QUEUES: &[(&str, &str)] = &[
    ("default", "dead"),
    ("default", "work"),
    ("default", "letters"),
    ("default", "resting"),
    ("default", "held"),
    ("default", "fast"),
    ("default", "fast-dead"),
    ("books", "orders"),
    ("books", "returns"),
];

/// A text of this length that is easy to pack.
fn text(name: &str, bytes: usize) -> String {
    let mut text = format!("{name}, and so on\n").repeat(bytes / 10);
    text.truncate(bytes);
    text
}

fn write(nodes: &Nodes, name: &str, bytes: usize) {
    std::fs::write(nodes.home().join(name), text(name, bytes)).expect("written");
}

/// A send under a session of its own; the id of the message.
fn send_in_session(nodes: &Nodes) -> String {
    let url = nodes.urls("east").remove(0);
    let session = pb::Session { client_id: vec![7; 16].into(), sequence: 1, lowest_unanswered: 1 };
    let request = pb::SendRequest {
        account: "default".to_owned(),
        queue: "letters".to_owned(),
        messages: vec![pb::NewMessage { body: "once".into(), ..Default::default() }],
        session: Some(session),
    };
    let sending = async {
        let mut service = QueueServiceClient::connect(url).await.expect("connected");
        service.send(request).await.expect("sent").into_inner().messages.remove(0).id
    };
    tokio::runtime::Runtime::new().expect("a runtime").block_on(sending)
}

/// Letters of `NAME-dead` that came from the queue `NAME`.
fn fill_with_dead_letters(nodes: &Nodes, name: &str, count: u64) {
    let ok = |line: &str| nodes.ok("east", line);
    ok(&format!("queue create {name}-dead"));
    ok(&format!(
        "queue create {name} --ttl never --dead-letter-queue {name}-dead --max-deliveries 1"
    ));
    let bodies: Vec<String> = (0..count).map(|number| format!("{name}-{number}")).collect();
    ok(&format!("send {name} {}", bodies.join(" ")));
    assert_eq!(ok(&format!("receive {name} --max {count} --visibility 0s"))["received"], count);
    wait("all of them are dead letters", || {
        let shown = ok(&format!("queue show {name}-dead"));
        (shown["queue"]["counts"]["total"] == count).then_some(())
    });
}

/// What the tables hold and the log does not.
fn fill_tables(nodes: &Nodes) {
    for line in [
        "account set-quota --max-queues 50 --max-messages 100000",
        "account set-quota --max-bytes 1000000 --account books",
        "queue create orders --account books --ttl never",
        "queue create returns --account books --ttl never --max-bytes 5000",
        "send orders bound --account books --priority 3",
        "send returns torn --account books",
        "queue create dead",
        "queue create work --dead-letter-queue dead --max-deliveries 1 --ttl never \
         --metadata team=shop --back-off 2s,1m,3 --max-messages 1000 --deduplication-window 7d",
        "send work first --header colour=green --priority 1 --group customer-1",
        "send work behind --group customer-1",
        "send work second --key once --priority 9",
        "send work second --key once",
        "send work later --delay 7d",
        "send work poison --priority 0 --header colour=red",
        "receive work --visibility 0s",
        "queue create resting --ttl never",
        "send resting asleep",
        "queue pause resting",
        "queue create gone --ttl never --undelete-window 7d --metadata last=words",
        "send gone kept",
        "queue delete gone",
        "queue create letters --ttl never --max-message-bytes 1048576",
    ] {
        nodes.ok("east", line);
    }
    write(nodes, "long", 5_000);
    write(nodes, "atlas", 600_000);
    nodes.ok("east", "send letters short");
    nodes.ok("east", "send letters --file long --header kind=letter");
    nodes.ok("east", "send letters --file atlas --header kind=atlas");
    fill_with_dead_letters(nodes, "fast", 3);
    nodes.ok("east", "redrive start fast-dead --watch");
    fill_with_dead_letters(nodes, "slow", SLOW);
}

/// More than a log keeps where space is short.
fn outgrow_the_log(nodes: &Nodes) {
    nodes.ok("east", "queue create filler --undelete-window 0s");
    write(nodes, "filling", 8_000);
    let sends = ["--send-file filler=filling"; 30].join(" ");
    for _ in 0..4 {
        nodes.ok("east", &format!("transact {sends}"));
    }
    nodes.ok("east", "queue delete filler");
    nodes.purge();
}

/// What may be in the log alone when the nodes end; what was told to those who did it.
fn fill_log(nodes: &Nodes) -> Value {
    let ok = |line: &str| nodes.ok("east", line);
    ok("queue create held --ttl never");
    ok("send held leased --group customer-1");
    ok("send held waiting --group customer-1");
    ok("send held given-back");
    let took = nodes.run("east", "receive held --max 2 --visibility 7d").items();
    let of = |body: &str| {
        let message = took.iter().find(|it| it["body"] == body).expect("received");
        let [id, receipt] = ["id", "pop_receipt"].map(|key| message[key].as_str().expect("text"));
        format!("{id} {receipt}")
    };
    ok(&format!("release held {} --delay 7d", of("given-back")));
    ok("redrive start slow-dead --rate 1");
    json!({ "leased": of("leased"), "in_session": send_in_session(nodes) })
}

/// What stays as it was for as long as no time passes.
fn shown(nodes: &Nodes) -> Value {
    let on = |line: &str| nodes.run("east", line);
    let mut shown = json!({});
    for (account, queue) in QUEUES {
        shown[format!("{account}/{queue}")] = looked_at(&on, account, queue);
    }
    shown["default"] = on("account show").exits(0)["account"].take();
    shown["books"] = on("account show --account books").exits(0)["account"].take();
    shown["accounts"] = on("account list").items().into();
    shown["deleted"] = on("queue list --deleted").items().into_iter().map(ageless).collect();
    shown["redrives of fast"] = on("redrive list fast-dead").items().into();
    shown
}

pub fn record(into: &Path) {
    let home = tempfile::tempdir().expect("a folder");
    let nodes = Nodes::start(home, &ALL, now_us());
    fill_tables(&nodes);
    outgrow_the_log(&nodes);
    let told = fill_log(&nodes);
    let shown = shown(&nodes);
    nodes.until_equal("east");
    let (home, at_us) = nodes.crash();
    let kept = json!({ "at_us": at_us, "told": told, "shown": shown });
    pack(home.path(), &ALL.map(folder), &into.join("cluster.tar.gz"), &kept);
}

fn opened(kept: &Kept, later_us: u64) -> Nodes {
    let home = kept.unpack();
    for who in ALL {
        let found = zoneq(home.path(), &format!("inspect {} --json", folder(who))).exits(0);
        assert_eq!(found["findings"], json!([]), "{found}");
        let (first, last) = (&found["log"]["first"], &found["log"]["last"]["index"]);
        assert!(first.as_u64() > Some(2), "the log has lost its beginning: {found}");
        let applied = &found["tables"]["applied"]["index"];
        assert!(applied.as_u64() < last.as_u64(), "the tables are behind the log: {found}");
    }
    Nodes::start(home, &ALL, kept.at_us() + later_us)
}

#[test]
fn a_cluster_of_an_earlier_version_is_opened_at_the_moment_at_which_it_ended() {
    for kept in Kept::all("cluster") {
        let nodes = opened(&kept, 0);
        holds_the_members(&nodes);
        kept.compare(&kept.known["shown"], &shown(&nodes));
        holds_the_counts(&nodes);
        knows_what_it_told(&nodes, kept.told());
        gives_out_what_it_held(&nodes);
        goes_on_with_the_redrive(&nodes);
        takes_writes(&nodes);
    }
}

fn holds_the_members(nodes: &Nodes) {
    let shown = nodes.ok("east", "cluster redundancy");
    assert_eq!((&shown["redundancy"], &shown["voters"]), (&json!("ZRS"), &json!([1, 2, 3])));
    let status = nodes.ok("east", "cluster status");
    let zones: Vec<&Value> =
        status["nodes"].as_array().expect("nodes").iter().map(|node| &node["zone"]).collect();
    assert_eq!(zones, ["z1", "z2", "z3"]);
}

fn holds_the_counts(nodes: &Nodes) {
    let counts =
        |queue: &str| nodes.ok("east", &format!("queue show {queue}"))["queue"]["counts"].take();
    let of = |queue: &str| {
        let counts = counts(queue);
        ["visible", "leased", "delayed", "blocked"]
            .map(|key| counts[key].as_u64().expect("a count"))
    };
    assert_eq!(of("work"), [2, 0, 1, 1]);
    assert_eq!(of("dead"), [1, 0, 0, 0]);
    assert_eq!(of("letters"), [4, 0, 0, 0]);
    assert_eq!(of("resting"), [1, 0, 0, 0]);
    assert_eq!(of("held"), [0, 1, 1, 1]);
    assert_eq!(of("fast"), [3, 0, 0, 0]);
    assert_eq!(of("fast-dead"), [0, 0, 0, 0]);
    let dead = &nodes.run("east", "peek dead --state dead").items()[0];
    assert_eq!(dead["body"], "poison");
    assert_eq!(dead["headers"], json!({ "colour": "red" }));
    let note = &dead["dead_letter"];
    assert_eq!(note["reason"], "max_deliveries");
    assert_eq!((&note["source"], &note["deliveries"]), (&json!("work"), &json!(1)));
}

/// Receipts, sessions and deduplication keys are good for as long as they would have been.
fn knows_what_it_told(nodes: &Nodes, told: &Value) {
    let total = |queue: &str| {
        nodes.ok("east", &format!("queue show {queue}"))["queue"]["counts"]["total"].take()
    };
    assert_eq!(send_in_session(nodes), told["in_session"], "it is the answer of then");
    assert_eq!(total("letters"), 4);
    nodes.ok("east", "send work second --key once");
    assert_eq!(total("work"), 4, "it was sent before");
    let leased = told["leased"].as_str().expect("an id and a receipt");
    nodes.ok("east", &format!("delete held {leased}"));
    assert_eq!(received(nodes, "held"), ["waiting"], "the next of its group");
    write(nodes, "too-long", 5_000);
    let full = nodes.run("east", "send returns --file too-long --account books --deadline 1s");
    assert_eq!(full.result()["error"]["reason"], "FULL", "{full:#?}");
}

/// All that can be received of a queue, in order; it is deleted.
fn received(nodes: &Nodes, queue: &str) -> Vec<String> {
    let taken = nodes.run("east", &format!("receive {queue} --max 10 --delete")).items();
    taken.iter().map(|message| message["body"].as_str().expect("a text").to_owned()).collect()
}

fn gives_out_what_it_held(nodes: &Nodes) {
    assert_eq!(received(nodes, "resting"), [""; 0], "it is paused");
    nodes.ok("east", "queue resume resting");
    assert_eq!(received(nodes, "resting"), ["asleep"]);
    let brought_back = nodes.ok("east", "queue undelete gone");
    assert_eq!(brought_back["ok"], true);
    assert_eq!(nodes.ok("east", "queue show gone")["queue"]["metadata"]["last"], "words");
    assert_eq!(received(nodes, "gone"), ["kept"]);
    assert_eq!(received(nodes, "work"), ["first", "second"], "by priority, and one of a group");
    assert_eq!(received(nodes, "work"), ["behind"]);
    let letters = received(nodes, "letters");
    let sent = ["short".to_owned(), text("long", 5_000), text("atlas", 600_000), "once".to_owned()];
    assert!(letters == sent, "{:?}", letters.iter().map(String::len).collect::<Vec<_>>());
}

/// It is slow, and goes on where it was.
fn goes_on_with_the_redrive(nodes: &Nodes) {
    let job = || nodes.run("east", "redrive list slow-dead").items().remove(0);
    let found = job();
    assert_eq!(
        (&found["state"], &found["max_messages_per_second"]),
        (&json!("running"), &json!(1))
    );
    let moved = |job: &Value| job["moved"].as_u64().expect("a number");
    wait("it moves one more", || (moved(&job()) > moved(&found)).then_some(()));
    nodes.ok("east", "queue pause slow");
    let id = found["id"].as_str().expect("an id");
    assert_eq!(nodes.ok("east", &format!("redrive cancel slow-dead {id}"))["cancelled"], true);
    let moved = moved(&job());
    for (queue, total) in [("slow", moved), ("slow-dead", SLOW - moved)] {
        assert_eq!(
            nodes.ok("east", &format!("queue show {queue}"))["queue"]["counts"]["total"],
            total
        );
    }
    let back = &nodes.run("east", "peek slow").items()[0];
    assert_eq!(back["redriven"]["queue"], "slow-dead");
}

fn takes_writes(nodes: &Nodes) {
    nodes.ok("east", "queue create new");
    nodes.ok("east", "send new and-on --group customer-9 --key fresh");
    assert_eq!(received(nodes, "new"), ["and-on"]);
    assert_eq!(nodes.ok("east", "cluster verify")["equal"], true);
}

#[test]
fn a_cluster_of_an_earlier_version_is_opened_when_its_times_have_passed() {
    const EIGHT_DAYS_US: u64 = 8 * 24 * 3_600 * 1_000_000;
    for kept in Kept::all("cluster") {
        let nodes = opened(&kept, EIGHT_DAYS_US);
        wait("what was delayed is visible", || {
            let counts = nodes.ok("east", "queue show work")["queue"]["counts"].take();
            (counts["visible"] == 3).then_some(())
        });
        nodes.run("east", "queue undelete gone").exits(2);
        wait("the lease has run out, and so has the wait of what was given back", || {
            let counts = nodes.ok("east", "queue show held")["queue"]["counts"].take();
            (counts["visible"] == 2).then_some(())
        });
        nodes.ok("east", "send work second --key once");
        assert_eq!(nodes.ok("east", "queue show work")["queue"]["counts"]["total"], 5, "a new one");
        takes_writes(&nodes);
    }
}
