//! What comes back: dead letters by redrive, queues by undelete; quotas of accounts; and waiters
//! and jobs that live on when the leader does not.

use serde_json::Value;

use super::stage::{Lab, PEERS_ARE_LOST, Process, Ran, wait};

type On<'a> = &'a dyn Fn(&str) -> Ran;

#[test]
fn dead_letters_queues_and_quotas_come_and_go_by_any_node() {
    let lab = Lab::up();
    for (at, url) in lab.urls().iter().enumerate() {
        let on = |line: &str| lab.run(&format!("{line} -e {url}"));
        redrives(&on, at);
        undeletes(&on, at);
        accounts(&on, at);
    }
    lab.warned_only_of(&[]);
}

/// A queue `work-AT` with this many dead letters in `dead-AT`.
fn with_letters(on: On<'_>, at: usize, count: usize) {
    on(&format!("queue create dead-{at}")).exits(0);
    on(&format!("queue create work-{at} --dead-letter-queue dead-{at} --max-deliveries 1"))
        .exits(0);
    for n in 0..count {
        on(&format!("send work-{at} poison-{n} --group customer-{n}")).exits(0);
    }
    let all = on(&format!("receive work-{at} --max {count} --visibility 0s"));
    assert_eq!(all.exits(0)["received"], count);
    wait("the messages are dead letters", || {
        let shown = on(&format!("queue show dead-{at}")).exits(0);
        (shown["queue"]["counts"]["total"] == count).then_some(())
    });
}

fn redrives(on: On<'_>, at: usize) {
    with_letters(on, at, 2);
    let peeked = on(&format!("peek dead-{at} --state dead --max 10"));
    let old = peeked.items().remove(0);
    assert_eq!(peeked.items().len(), 2);
    let start = format!("redrive start dead-{at}");
    let counted = on(&format!("{start} --dry-run")).exits(0);
    assert_eq!((&counted["matching"], &counted["held"]), (&2.into(), &0.into()), "{counted}");
    let none = on(&format!("{start} --dry-run --source others-{at}")).exits(0);
    assert_eq!(none["matching"], 0);
    let counted = on(&format!("{start} --dry-run --reason max-deliveries")).exits(0);
    assert_eq!(counted["matching"], 2);
    on(&format!("{start} --reason boredom")).says(64, &["boredom", "max-deliveries"]);
    let why = "--reason max-deliveries --group customer-0";
    let done = on(&format!("{start} {why} --watch")).exits(0);
    assert_eq!(done["redrive"]["filter"]["reason"], "max_deliveries", "{done}");
    assert_eq!((&done["redrive"]["state"], &done["redrive"]["moved"]), (&"done".into(), &1.into()));
    let back = on(&format!("receive work-{at} --delete"));
    let back = &back.items()[0];
    assert_eq!((&back["body"], &back["group"]), (&"poison-0".into(), &"customer-0".into()));
    assert_eq!(
        back["redriven"],
        serde_json::json!({ "id": old["id"], "queue": format!("dead-{at}") })
    );
    assert_ne!(back["id"], old["id"], "it is a new message");
    assert_eq!(back["dequeue_count"], 1, "{back}");
    let listed = on(&format!("redrive list dead-{at}"));
    assert_eq!(listed.exits(0)["redrives"], 1);
    let id = listed.items()[0]["id"].clone();
    let late = on(&format!("redrive cancel dead-{at} {}", id.as_str().expect("an id"))).exits(0);
    assert_eq!(late["cancelled"], false, "it had ended");
    let nobody = on(&format!("redrive cancel dead-{at} 00000001-0000-8000-8000-000000000001"));
    assert_eq!(nobody.exits(2)["error"]["reason"], "REDRIVE_NOT_FOUND");
    let slow = on(&format!("{start} --rate 1")).exits(0);
    assert_eq!(slow["started"], true, "{slow}");
    on(&format!("redrive watch dead-{at}")).exits(0);
}

fn undeletes(on: On<'_>, at: usize) {
    let queue = format!("keep-{at}");
    on(&format!("queue create {queue} --undelete-window 1h")).exits(0);
    on(&format!("send {queue} precious")).exits(0);
    on(&format!("queue delete {queue}")).exits(0);
    on(&format!("queue show {queue}")).exits(2);
    let listed = on(&format!("queue list --deleted --prefix {queue}"));
    assert_eq!(listed.items()[0]["counts"]["total"], 1);
    assert!(listed.items()[0]["kept_until"].is_string());
    on(&format!("queue create {queue}")).exits(0);
    let taken = on(&format!("queue undelete {queue}")).exits(2);
    assert_eq!(taken["error"]["reason"], "QUEUE_EXISTS");
    on(&format!("queue undelete {queue} --as {queue}-again")).exits(0);
    let back = on(&format!("receive {queue}-again --delete"));
    assert_eq!(back.items()[0]["body"], "precious");
    on(&format!("queue set-settings {queue} --undelete-window 0s")).exits(0);
    on(&format!("queue delete {queue}")).exits(0);
    let gone = on(&format!("queue undelete {queue}")).exits(2);
    assert_eq!(gone["error"]["reason"], "QUEUE_NOT_FOUND");
}

fn accounts(on: On<'_>, at: usize) {
    let account = format!("shop{at}");
    let on = |line: &str| on(&format!("{line} --account {account}"));
    on("account set-quota --max-messages 2 --max-queues 1").exits(0);
    on("queue create orders").exits(0);
    let second = on("queue create bills").exits(2);
    assert_eq!(second["error"]["reason"], "LIMIT_REACHED");
    on("send orders one").exits(0);
    on("send orders two").exits(0);
    let full = on("send orders three").exits(3);
    assert_eq!(full["error"]["reason"], "FULL");
    let words = full["error"]["message"].as_str().expect("a sentence");
    assert!(words.contains(&format!("in account \"{account}\" has reached its limit of 2")));
    on("account set-quota --max-messages 0").exits(0);
    on("send orders three").exits(0);
    let shown = on("account show").exits(0);
    let quota = &shown["account"]["quota"];
    assert_eq!((&quota["max_messages"], &quota["max_queues"]), (&Value::Null, &1.into()));
    assert_eq!(shown["account"]["messages"], 3);
    let listed = on("account list");
    assert!(listed.items().iter().any(|item| item["name"] == account.as_str()));
}

#[test]
fn a_redrive_goes_on_when_its_leader_is_killed() {
    let lab = Lab::up();
    with_letters(&|line: &str| lab.run(line), 0, 30);
    lab.ok("redrive start dead-0 --rate 10");
    lab.ok(&format!("lab kill {}", lab.leader()));
    let done = lab.run("redrive watch dead-0").exits(0);
    let redrive = &done["redrive"];
    assert_eq!((&redrive["state"], &redrive["moved"]), (&"done".into(), &30.into()), "{done}");
    let back = lab.run("receive work-0 --max 100");
    assert_eq!(back.exits(0)["received"], 30, "each is there once");
    lab.warned_only_of(PEERS_ARE_LOST);
}

#[test]
fn who_waits_goes_on_waiting_when_the_leader_is_killed() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    let leader = lab.leader();
    let other = lab.urls()[leader as usize % 3].clone();
    let dir = lab.home().to_path_buf();
    let line = format!("receive orders --wait 50s --delete --json -e {other}");
    let waiters: Vec<Process> = (0..3).map(|_| Process::start(&dir, &line)).collect();
    lab.ok(&format!("lab kill {leader}"));
    for n in 0..3 {
        lab.ok(&format!("send orders for-you-{n}"));
    }
    for waiter in waiters {
        let got = waiter.ended();
        assert_eq!(got.exits(0)["deleted"], 1, "each gets one");
    }
    lab.warned_only_of(PEERS_ARE_LOST);
}
