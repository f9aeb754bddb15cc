//! A disk that fills: what is refused, what goes on, and that it ends by itself. The disks only
//! count as full, by a built-in fault, so that every step can be waited for.

use std::time::Duration;

use serde_json::Value;
use zoneq::client::Client;

use super::stage::{Lab, wait};

/// What a lab's node keeps.
const RESERVE: u64 = 16 << 20;
const WARNINGS: &[&str] = &["the disk is nearly full"];

fn set_free(lab: &Lab, id: u64, bytes: Option<u64>) {
    set_free_at(&lab.urls()[id as usize - 1], bytes);
}

/// Lets the disk of a node count as if no more than this were free.
pub fn set_free_at(url: &str, bytes: Option<u64>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = Client::builder().endpoints([url]).deadline(Duration::from_secs(10));
        let client = client.build().expect("a client");
        client.admin().set_faults(Vec::new(), bytes).await.expect("the fault is set");
    });
}

/// A lab whose reserves are filled and whose logs have segments to go on in.
fn ready() -> Lab {
    let lab = Lab::up();
    lab.ok("queue create orders");
    for id in 1..=3 {
        let dir = lab.data_dir(id);
        wait("the reserve is filled", || {
            let held = std::fs::metadata(dir.join("reserve")).ok()?.len();
            (held == RESERVE).then_some(())
        });
        wait("a segment is kept ready", || {
            let names = std::fs::read_dir(dir.join("log")).ok()?.flatten();
            let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.any(|name| name.starts_with("spare-")).then_some(())
        });
    }
    lab
}

/// What the leader knows of a node's disk.
fn disk(lab: &Lab, id: u64) -> String {
    let status = lab.seen_by(lab.leader());
    let nodes = status["nodes"].as_array().expect("nodes").clone();
    let node = nodes.into_iter().find(|node| node["id"] == id).expect("the node");
    node["disk"].as_str().unwrap_or_default().to_owned()
}

/// A send that is refused for want of space; not one that met a change of the leader.
fn refusal(lab: &Lab) -> Option<Value> {
    let ran = lab.run("send orders more --deadline 300ms");
    let error = (ran.code == Some(3)).then(|| ran.result()["error"].clone())?;
    error["message"].as_str()?.contains("the disk of node ").then_some(error)
}

#[test]
fn when_all_disks_are_nearly_full_sends_are_refused_and_consumers_go_on() {
    let lab = ready();
    lab.ok("send orders one");
    lab.ok("send orders two");
    for id in 1..=3 {
        set_free(&lab, id, Some(0));
    }
    let error = wait("sends are refused", || refusal(&lab));
    let message = error["message"].as_str().expect("words").to_owned();
    assert!(message.contains("the disk of node "), "{message}");
    assert!(message.contains("sends are refused until it has space"), "{message}");
    assert_eq!(error["class"], "not_now", "{error}");
    let leader = lab.leader();
    assert_eq!(disk(&lab, leader), "refuses sends");

    let received = lab.ok("receive orders --delete");
    assert_eq!(received["received"], 1, "{received}");
    assert_eq!(lab.ok("clear orders")["ok"], true);

    for id in 1..=3 {
        set_free(&lab, id, None);
    }
    wait("sends go on", || (lab.run("send orders again").code == Some(0)).then_some(()));
    let left = lab.run("peek orders --max 10");
    left.exits(0);
    let bodies: Vec<Value> = left.items().iter().map(|item| item["body"].clone()).collect();
    assert!(bodies.contains(&"again".into()), "{bodies:?}");
    assert!(!bodies.contains(&"more".into()), "what was refused was not applied: {bodies:?}");
    assert_eq!(lab.ok("cluster verify")["equal"], true);
    lab.warned_only_of(WARNINGS);
}

#[test]
fn a_full_leader_hands_over_and_a_full_follower_holds_nobody_back() {
    let lab = ready();
    let full = lab.leader();
    set_free(&lab, full, Some(0));
    let leader = wait("another node leads", || Some(lab.leader()).filter(|id| *id != full));
    wait("the leader knows of the full disk", || {
        (disk(&lab, full) == "refuses sends").then_some(())
    });
    lab.ok("send orders one");
    assert_eq!(disk(&lab, leader), "ok");

    // Two of three disks: a majority could not store it.
    let second = (1..=3).find(|id| *id != full && *id != leader).expect("a third node");
    set_free(&lab, second, Some(0));
    let message = wait("sends are refused", || refusal(&lab))["message"].to_string();
    let named = format!("the disk of node {full} ");
    let other = format!("the disk of node {second} ");
    assert!(message.contains(&named) || message.contains(&other), "{message}");

    set_free(&lab, full, None);
    wait("sends go on", || (lab.run("send orders two").code == Some(0)).then_some(()));
    assert_eq!(lab.ok("cluster verify")["equal"], true);
    lab.warned_only_of(WARNINGS);
}
