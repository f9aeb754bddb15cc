//! The verbs on queues and messages, asked of each node in turn.

use serde_json::{Value, json};

use super::consumers::At;
use super::stage::Lab;

#[test]
fn every_verb_works_on_any_node() {
    let lab = Lab::up();
    for (at, url) in lab.urls().iter().enumerate() {
        let queue = format!("orders-{at}");
        let on = |line: &str| lab.run(&format!("{line} -e {url}"));
        queues(&on, &queue);
        messages(&on, &queue);
        dead_letters(&on, &queue);
        releases(&on, &queue);
        duplicates(&on, &queue);
        groups(&on, &queue);
        transactions(&on, &queue);
        quotas(&on, &queue);
        let queue_of_many = format!("{queue}-many");
        let consumers = At { lab: &lab, url, queue: &queue_of_many };
        consumers.many();
        consumers.transactions();
        // What a stream does is the client's, whichever node it asks.
        if at == 0 {
            consumers.streams();
        }
        accepted_clock(&on);
        on(&format!("queue delete {queue}")).exits(0);
        let gone = on(&format!("queue show {queue}")).exits(2);
        assert_eq!(gone["error"]["reason"], "QUEUE_NOT_FOUND");
    }
    lab.warned_only_of(&[]);
}

/// Where the clocks agree there is nothing to accept; what the leader knows of them is told by way
/// of any node.
fn accepted_clock(on: On<'_>) {
    let asked = on("cluster accept-clock");
    let done = asked.exits(0);
    assert_eq!(done["was_agreed"], true, "{done}");
    assert_eq!(done["log_time_ahead_us"], done["log_time_ahead_before_us"], "{done}");
    let nodes = asked.items();
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    let known = nodes.iter().filter(|node| node["clock_ahead_us"].is_i64()).count();
    assert!(known >= 2, "the leader and one that agrees with it: {nodes:?}");
}

type On<'a> = &'a dyn Fn(&str) -> super::stage::Ran;

fn queues(on: On<'_>, queue: &str) {
    let made = on(&format!("queue create {queue} --metadata team=shop --visibility 2m")).exits(0);
    assert_eq!(made["created"], true);
    assert_eq!(made["durability"]["zones_at_least"], 2, "{made}");
    let same = on(&format!("queue create {queue} --metadata team=shop --visibility 2m")).exits(0);
    assert_eq!(same["created"], false, "an equal queue is no error");
    let other = on(&format!("queue create {queue} --visibility 3m")).exits(2);
    assert_eq!(other["error"]["reason"], "QUEUE_EXISTS");
    let bad = on("queue create Bad_Name").exits(2);
    assert_eq!(bad["error"]["reason"], "INVALID_ARGUMENT");

    on(&format!("queue set-metadata {queue} owner=ann")).exits(0);
    on(&format!("queue set-settings {queue} --ttl never --max-message-bytes 10")).exits(0);
    let shown = on(&format!("queue show {queue}")).exits(0);
    assert_eq!(shown["queue"]["metadata"], json!({ "owner": "ann" }));
    let settings = json!({
        "default_ttl": "never", "default_visibility_timeout": "2m", "max_message_bytes": 10,
        "dead_letter_queue": null, "max_deliveries": null, "dead_letter_ttl": null,
        "back_off": "1s,15m,2", "deduplication_window": "10m",
        "max_messages": null, "max_bytes": null, "undelete_window": "1h"
    });
    assert_eq!(shown["queue"]["settings"], settings);
    let listed = on(&format!("queue list --prefix {queue}"));
    assert_eq!(listed.exits(0)["queues"], 1);
    assert_eq!(listed.items()[0]["name"], queue);
    pausing(on, queue);
    let stale = on(&format!("queue show {queue} --max-staleness 30s")).exits(0);
    assert_eq!(stale["queue"]["name"], queue);
    let stale = on(&format!("redrive list {queue} --max-staleness 30s")).exits(0);
    assert_eq!(stale["redrives"], 0);
    let stale = on("account show --max-staleness 30s").exits(0);
    assert_eq!(stale["account"]["name"], "default");
}

fn pausing(on: On<'_>, queue: &str) {
    on(&format!("queue pause {queue}")).exits(0);
    on(&format!("send {queue} waits")).exits(0);
    assert_eq!(on(&format!("receive {queue} --wait 200ms")).exits(0)["received"], 0);
    let shown = on(&format!("queue show {queue}")).exits(0);
    assert_eq!(
        (&shown["queue"]["paused"], &shown["queue"]["counts"]["visible"]),
        (&true.into(), &1.into())
    );
    assert!(shown["queue"]["counts"]["oldest_age_ms"].is_u64(), "{shown}");
    on(&format!("queue resume {queue}")).exits(0);
    assert_eq!(on(&format!("receive {queue} --delete")).exits(0)["deleted"], 1);
    let shown = on(&format!("queue show {queue}")).exits(0);
    assert_eq!(shown["queue"]["counts"]["oldest_age_ms"], Value::Null, "{shown}");
}

fn releases(on: On<'_>, queue: &str) {
    on(&format!("queue set-settings {queue} --back-off 1h,2h,2")).exits(0);
    on(&format!("send {queue} job")).exits(0);
    let held = |receive: super::stage::Ran| {
        let item = receive.items()[0].clone();
        format!("{} {}", text(&item, "id"), text(&item, "pop_receipt"))
    };
    let first = held(on(&format!("receive {queue}")));
    on(&format!("release {queue} {first}")).exits(0);
    let void = on(&format!("release {queue} {first}")).exits(2);
    assert_eq!(void["error"]["reason"], "RECEIPT_MISMATCH");
    let again = held(on(&format!("receive {queue}")));
    on(&format!("release {queue} {again} --back-off")).exits(0);
    let counts = on(&format!("queue show {queue}")).exits(0)["queue"]["counts"].clone();
    assert_eq!((&counts["delayed"], &counts["leased"]), (&1.into(), &0.into()), "{counts}");
    on(&format!("clear {queue}")).exits(0);
}

fn duplicates(on: On<'_>, queue: &str) {
    let send = || on(&format!("send {queue} once --key order-7")).exits(0)["messages"][0].clone();
    let (first, second) = (send(), send());
    assert_eq!((&first["duplicate"], &second["duplicate"]), (&false.into(), &true.into()));
    assert_eq!(first["id"], second["id"], "answered with the first");
    assert_eq!(on(&format!("receive {queue} --max 10 --delete")).exits(0)["deleted"], 1);
    assert_eq!(send()["duplicate"], true, "whatever became of the message");
}

fn groups(on: On<'_>, queue: &str) {
    on(&format!("send {queue} one two --group customer-7")).exits(0);
    let first = on(&format!("receive {queue} --max 10"));
    assert_eq!(first.exits(0)["received"], 1, "only the head");
    let first = &first.items()[0];
    assert_eq!((text(first, "body"), text(first, "group")), ("one", "customer-7"));
    let blocked = on(&format!("peek {queue} --state blocked --max 10"));
    assert_eq!(
        (&blocked.exits(0)["messages"], &blocked.items()[0]["body"]),
        (&1.into(), &"two".into())
    );
    assert_eq!(on(&format!("queue show {queue}")).exits(0)["queue"]["counts"]["blocked"], 1);
    on(&format!("delete {queue} {} {}", text(first, "id"), text(first, "pop_receipt"))).exits(0);
    assert_eq!(on(&format!("receive {queue} --delete")).items()[0]["body"], "two");
}

fn transactions(on: On<'_>, queue: &str) {
    let next = format!("{queue}-next");
    on(&format!("queue create {next}")).exits(0);
    on(&format!("send {queue} input")).exits(0);
    let received = on(&format!("receive {queue}"));
    let item = &received.items()[0];
    let input = format!("{queue}/{}/{}", text(item, "id"), text(item, "pop_receipt"));
    let done = on(&format!("transact --delete {input} --send {next}=output")).exits(0);
    assert_eq!((&done["deleted"], &done["sent"]), (&1.into(), &1.into()));
    let again = on(&format!("transact --delete {input} --send {next}=output")).exits(2);
    assert_eq!(again["error"]["reason"], "MESSAGE_NOT_FOUND");
    assert_eq!(
        on(&format!("receive {next} --max 10 --delete")).exits(0)["deleted"],
        1,
        "once only"
    );
    on(&format!("queue delete {next}")).exits(0);
}

fn quotas(on: On<'_>, queue: &str) {
    on(&format!("queue set-settings {queue} --max-messages 2")).exits(0);
    on(&format!("send {queue} one two")).exits(0);
    let full = on(&format!("send {queue} three")).exits(3);
    assert_eq!(full["error"]["reason"], "FULL", "{full}");
    assert_eq!(full["error"]["class"], "not_now", "it may be tried again");
    on(&format!("receive {queue} --delete")).exits(0);
    on(&format!("send {queue} three")).exits(0);
    on(&format!("queue set-settings {queue} --max-messages 0")).exits(0);
    on(&format!("clear {queue}")).exits(0);
}

fn dead_letters(on: On<'_>, queue: &str) {
    let dead = format!("{queue}-dead");
    on(&format!("queue create {dead} --dead-letter-ttl 1h")).exits(0);
    on(&format!("queue set-settings {queue} --dead-letter-queue {dead} --max-deliveries 1"))
        .exits(0);
    let used = on(&format!("queue delete {dead}")).exits(2);
    assert_eq!(used["error"]["reason"], "QUEUE_IN_USE");
    on(&format!("send {queue} poison")).exits(0);
    let received = on(&format!("receive {queue} --visibility 0s"));
    let id = text(&received.items()[0], "id").to_owned();
    let moved = on(&format!("receive {dead} --wait 10s --delete"));
    assert_eq!(moved.exits(0)["deleted"], 1, "the pulse moved it");
    let moved = &moved.items()[0];
    assert_eq!((text(moved, "id"), text(moved, "body")), (id.as_str(), "poison"));
    let letter = &moved["dead_letter"];
    assert_eq!((text(letter, "source"), text(letter, "reason")), (queue, "max_deliveries"));
    assert_eq!(letter["deliveries"], 1);
    on(&format!("queue set-settings {queue} --no-dead-letters")).exits(0);
    on(&format!("queue delete {dead}")).exits(0);
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} in {value}"))
}

fn durability(on: On<'_>, position: &str) {
    let now = on(&format!("durability {position}")).exits(0);
    assert_eq!((&now["committed"], &now["zones_at_least"]), (&true.into(), &2.into()), "{now}");
    assert!(now["zones"].as_array().is_some_and(|zones| !zones.is_empty()), "{now}");
    assert_eq!(now["position"], position);
    let other = on("durability 1000000:1:1000000").exits(1);
    assert_eq!((&other["committed"], &other["ok"]), (&false.into(), &false.into()), "{other}");
    on("durability 1:2").says(64, &["TERM:NODE:INDEX"]);
}

fn messages(on: On<'_>, queue: &str) {
    let sent = on(&format!("send {queue} a b --header kind=book")).exits(0);
    assert_eq!((&sent["sent"], &sent["ok"]), (&2.into(), &true.into()));
    durability(on, text(&sent["durability"], "position"));
    let large = on(&format!("send {queue} far-too-large")).exits(2);
    assert_eq!(large["error"]["reason"], "INVALID_ARGUMENT", "{large}");
    on(&format!("send {queue} later --delay 1h")).exits(0);
    let peeked = on(&format!("peek {queue} --max 10"));
    assert_eq!(peeked.exits(0)["messages"], 2);
    assert_eq!(peeked.items()[0]["headers"], json!({ "kind": "book" }));
    assert!(peeked.items()[0].get("pop_receipt").is_none(), "a peek gives no receipt");
    let delayed = on(&format!("peek {queue} --state delayed"));
    assert_eq!(delayed.items()[0]["body"], "later");

    on(&format!("send {queue} first --priority 0")).exits(0);
    let first = on(&format!("receive {queue} --delete"));
    assert_eq!(
        (&first.items()[0]["body"], &first.items()[0]["priority"]),
        (&"first".into(), &0.into())
    );

    let received = on(&format!("receive {queue}"));
    assert_eq!(received.exits(0)["received"], 1);
    let first = &received.items()[0];
    assert_eq!((&first["body"], &first["dequeue_count"]), (&"a".into(), &1.into()));
    let (id, receipt) = (text(first, "id"), text(first, "pop_receipt"));
    let shown = on(&format!("get {queue} {id}")).exits(0);
    assert_eq!(shown["message"]["body"], "a", "{shown}");
    let stale = on(&format!("get {queue} {id} --max-staleness 30s")).exits(0);
    assert_eq!(stale["message"]["body"], "a", "{stale}");

    let updated = on(&format!("update {queue} {id} {receipt} --visibility 0s --body A")).exits(0);
    assert_ne!(text(&updated, "pop_receipt"), receipt, "{updated}");
    let stale = on(&format!("delete {queue} {id} {receipt}")).exits(2);
    assert_eq!(stale["error"]["reason"], "RECEIPT_MISMATCH", "the old receipt counts no more");
    let again = on(&format!("receive {queue} --max 10 --delete"));
    assert_eq!((&again.exits(0)["received"], &again.result()["deleted"]), (&2.into(), &2.into()));
    let bodies: Vec<Value> = again.items().iter().map(|item| item["body"].clone()).collect();
    assert!(bodies.contains(&"A".into()) && bodies.contains(&"b".into()), "{bodies:?}");
    let gone = on(&format!("get {queue} {id}")).exits(2);
    assert_eq!(gone["error"]["reason"], "MESSAGE_NOT_FOUND");
    assert_eq!(on(&format!("receive {queue}")).exits(0)["received"], 0, "nothing is no error");

    let cleared = on(&format!("clear {queue}")).exits(0);
    assert_eq!(cleared["removed"], 1, "the delayed one: {cleared}");
    let counts = on(&format!("queue show {queue}")).exits(0)["queue"]["counts"].clone();
    assert_eq!((&counts["total"], &counts["bytes"]), (&0.into(), &0.into()));
}
