//! `zoneq lab` with two regions: protected from the start, hurt by region, and apart when the line
//! between them is cut.

use std::time::Duration;

use serde_json::Value;
use zoneq::client::{Client, ClientError};

use super::stage::{Lab, PEERS_ARE_LOST, wait};

/// What a region says of itself.
#[track_caller]
fn region(lab: &Lab, name: &str) -> Value {
    lab.ok(&format!("region status -e {name}"))
}

#[track_caller]
fn until(lab: &Lab, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait(what, || {
        let ran = lab.run(&format!("region status -e {name}"));
        (ran.code == Some(0)).then(|| ran.result()).filter(&is_so)
    })
}

fn field<'a>(rows: &'a Value, key: &str) -> Vec<&'a str> {
    let rows = rows.as_array().expect("rows").iter();
    rows.filter_map(|row| row[key].as_str()).collect()
}

#[test]
fn a_lab_is_two_regions_that_are_protected_live_and_follow_a_failover() {
    let lab = Lab::prepared();
    let up = lab.ok(&lab.pair_line());
    assert!(up["ready_ms"].as_u64().is_some_and(|ms| ms < 10_000), "{up}");
    assert_eq!(up["redundancy"], "GZRS");
    assert_eq!(field(&up["nodes"], "zone"), ["z1", "z2", "z3", "z4", "z5", "z6"]);
    assert_eq!(field(&up["regions"], "region"), ["east", "west"]);
    assert_eq!(field(&up["regions"], "role"), ["primary", "secondary"]);
    assert_eq!(field(&up["regions"], "status"), ["live", "live"]);

    lab.ok("queue create orders");
    lab.ok("send orders first");
    assert_eq!(lab.ok("region failover --to west")["done"], "failover");
    assert_eq!(region(&lab, "west")["role"], "primary");
    // Back at once, asked of the side that has just handed over.
    lab.ok("region failover --to east -e east");
    assert_eq!(region(&lab, "east")["role"], "primary");
    lab.ok("region failover --to west -e west");
    assert_eq!(region(&lab, "west")["role"], "primary");
    // Commands know the nodes of both regions.
    lab.ok("send orders second");
    assert_eq!(lab.ok("receive orders --max 10 --wait 5s")["received"], 2);
    assert_eq!(lab.ok("bench enqueue --secs 1 --warmup 0")["replicas"], 3, "of one region");

    // Down and up again it is the same pair, and waited for.
    lab.ok("lab down");
    let again = lab.ok("lab up --detach");
    assert_eq!(field(&again["regions"], "role"), ["secondary", "primary"]);
    assert_eq!(field(&again["regions"], "status"), ["live", "live"]);
    lab.warned_only_of(PEERS_ARE_LOST);
}

#[test]
fn a_cut_line_parts_the_regions_and_outlives_their_nodes() {
    let lab = Lab::pair();
    lab.ok("queue create orders");
    lab.ok("send orders shipped");
    until(&lab, "east", "it is there", |it| it["entries_behind"] == 0);
    let cut = lab.ok("lab cut east west");
    assert_eq!(cut["regions"][0]["line_cut"], true, "{cut}");
    lab.ok("send orders apart");
    let apart = until(&lab, "east", "the copy is out of reach", |it| it["status"] == "unavailable");
    assert!(apart["entries_behind"].as_u64().is_some_and(|many| many > 0), "{apart}");
    assert!(apart["bytes_behind"].as_u64().is_some_and(|many| many > 0), "{apart}");
    until(&lab, "west", "the copy knows that it is alone", |it| it["status"] == "unavailable");

    // Nodes that come back find it as it was, in both directions.
    lab.ok("lab kill all");
    lab.ok("lab start all");
    lab.ok("send orders still-apart");
    let still = region(&lab, "east");
    assert_eq!(still["status"], "unavailable", "{still}");
    let alone = region(&lab, "west");
    assert_eq!(alone["heard_seconds_ago"], Value::Null, "{alone}");

    assert_eq!(lab.ok("lab heal")["regions"][0]["line_cut"], false);
    until(&lab, "east", "it has all", |it| it["status"] == "live" && it["entries_behind"] == 0);
    assert_eq!(lab.ok("region verify")["equal"], true);
    lab.run("lab partition east").says(64, &["lab cut"]);
    lab.run("lab cut east north").says(64, &["between two regions"]);
}

#[test]
fn a_region_is_lost_and_promoted_by_its_name() {
    let lab = Lab::pair();
    lab.ok("queue create orders");
    lab.ok("send orders kept");
    until(&lab, "east", "it is there", |it| it["entries_behind"] == 0);
    let killed = lab.ok("lab kill east");
    let states: Vec<&str> = field(&killed["nodes"], "state");
    assert_eq!(states, ["down", "down", "down", "running", "running", "running"]);
    assert_eq!(lab.ok("region failover --force -e west")["promoted"], true);
    lab.ok("send orders after");
    assert_eq!(lab.ok("lab status")["regions"][1]["writable"], true);
    lab.ok("lab start east");
    until(&lab, "east", "the old primary is fenced", |it| it["role"] == "fenced");
    // A fenced node refuses, and the command finds the other region.
    assert_eq!(lab.ok("receive orders --max 10 --wait 5s")["received"], 2);
}

#[test]
fn who_was_told_of_a_promotion_is_not_acknowledged_by_the_old_primary_behind_a_cut_line() {
    let lab = Lab::pair();
    lab.ok("queue create orders");
    lab.ok("send orders kept");
    until(&lab, "east", "it is there", |it| it["entries_behind"] == 0);
    lab.ok("lab cut east west");
    assert_eq!(lab.ok("region failover --force -e west")["promoted"], true);
    let urls = lab.urls();
    let (east, west) = urls.split_at(3);
    let client = |endpoints: Vec<&String>| {
        let client = Client::builder().endpoints(endpoints).deadline(Duration::from_secs(3));
        client.build().expect("a client")
    };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    // The promotion is answered when a leader has it, which may be before this node does. Until
    // then it refuses, and who knows a node of east as well would be acknowledged there.
    runtime.block_on(client(vec![&west[0]]).send("orders", "it has it")).expect("sent");
    // Whichever node it comes to: those that follow pass on what it knows.
    let told: Vec<Client> = east.iter().map(|node| client(vec![&west[0], node])).collect();
    for client in &told {
        let sent = runtime.block_on(client.send("orders", "to west")).expect("sent");
        assert_eq!(sent.durability.epoch, 2, "this client was told");
    }
    lab.ok("lab kill west");
    for (client_told, node) in told.iter().zip(east) {
        let refused = runtime.block_on(client_told.send("orders", "never"));
        // Unknown where the connection to west broke under it.
        let retryable = |it: &ClientError| {
            matches!(it, ClientError::NotNow { .. } | ClientError::Unknown { .. })
        };
        assert!(refused.as_ref().is_err_and(retryable), "{refused:?}");
        let untold = client(vec![node]);
        runtime.block_on(untold.send("orders", "to who knows no better")).expect("sent");
    }
    assert_eq!(region(&lab, "east")["role"], "primary", "nobody has proved anything");
    lab.ok("lab start west");
    lab.ok("lab heal");
    until(&lab, "east", "the old primary is fenced", |it| it["role"] == "fenced");
    // One at first, one for the node, one of each that was told, and none of the others.
    assert_eq!(lab.ok("receive orders --max 10 --wait 5s")["received"], 5);
}
