//! `zoneq doctor`: what it says of a sound host, of a running node, and of each mistake.

use std::path::Path;

use serde_json::Value;

use super::serving::{Serving, alone};
use super::stage::{Lab, PEERS_ARE_LOST, Ran, zoneq};

fn doctor(home: &Path, flags: &str) -> Ran {
    zoneq(home, &format!("doctor --json --writes 20 {flags}"))
}

/// The checks of a name, in order.
fn checks(ran: &Ran, name: &str) -> Vec<Value> {
    ran.items().into_iter().filter(|item| item["check"] == name).collect()
}

#[track_caller]
fn state(ran: &Ran, name: &str) -> String {
    let found = checks(ran, name);
    assert_eq!(found.len(), 1, "{name} in {ran:#?}");
    found[0]["state"].as_str().expect("a state").to_owned()
}

#[test]
fn a_host_is_checked_before_its_first_start_and_nothing_is_made() {
    let home = tempfile::tempdir().expect("a folder");
    let ran = doctor(home.path(), &alone(home.path()));
    let result = ran.exits(0);
    assert_eq!((&result["ok"], &result["failures"]), (&true.into(), &0.into()));
    for name in ["configuration", "data directory", "grpc_listen", "peer_listen", "clock"] {
        assert_eq!(state(&ran, name), "ok", "{name}");
    }
    assert_eq!(state(&ran, "redundancy"), "warn", "one node alone");
    let speed = &checks(&ran, "disk speed")[0];
    let found = speed["found"].as_str().expect("words");
    assert!(
        found.contains("20 syncs") && found.contains("p50") && found.contains("p99"),
        "{found}"
    );
    state(&ran, "file descriptors");
    state(&ran, "disk space");
    assert!(std::fs::read_dir(home.path()).expect("a folder").next().is_none(), "nothing is left");

    let people = zoneq(home.path(), &format!("doctor --writes 10 {}", alone(home.path())));
    people.says(0, &["ok    configuration: node 1 of cluster shop in zone z1.", "0 failed"]);
}

#[test]
fn a_running_node_and_a_stopped_one_are_sound() {
    let home = tempfile::tempdir().expect("a folder");
    let flags = alone(home.path());
    let node = Serving::start(home.path(), &flags);
    let ran = doctor(home.path(), &flags);
    ran.exits(0);
    let directory = checks(&ran, "data directory")[0]["found"].to_string();
    assert!(directory.contains("it is running"), "{directory}");
    assert_eq!(state(&ran, "grpc_listen"), "ok", "the node itself has it");
    node.stop().exits(0);

    let ran = doctor(home.path(), &flags);
    ran.exits(0);
    let log = checks(&ran, "log")[0]["found"].to_string();
    assert!(log.contains("whole up to entry"), "{log}");
    Serving::start(home.path(), &flags).stop().exits(0);
}

#[test]
fn clocks_of_the_peers_that_answer_are_compared() {
    let lab = Lab::up();
    lab.ok("lab kill 3");
    let node = &lab.file()["nodes"][0];
    let flags = format!(
        "--cluster-id {} --node-id 1 --zone z1 --data-dir {} --grpc-listen 127.0.0.1:{} \
         --peer-listen 127.0.0.1:{} --peers {}",
        lab.cluster_id(),
        lab.data_dir(1).display(),
        node["grpc_port"],
        node["peer_port"],
        lab.peers()
    );
    let ran = doctor(lab.home(), &flags);
    ran.exits(0);
    assert_eq!(state(&ran, "redundancy"), "ok");
    let clocks = checks(&ran, "clock");
    assert_eq!(clocks.len(), 2, "{clocks:?}");
    assert_eq!(clocks[0]["state"], "ok", "{clocks:?}");
    assert!(clocks[0]["found"].to_string().contains("that of node 2"), "{clocks:?}");
    assert_eq!(clocks[1]["state"], "warn", "node 3 is down: {clocks:?}");
    lab.warned_only_of(PEERS_ARE_LOST);
}

#[test]
fn each_mistake_fails_its_check_and_exits_with_1() {
    let home = tempfile::tempdir().expect("a folder");
    let missing = doctor(home.path(), "--zone z1");
    missing.exits(1);
    assert!(checks(&missing, "configuration")[0]["found"].to_string().contains("node_id"));
    std::fs::write(home.path().join("zoneq.toml"), "zome = 1").expect("written");
    let unknown = doctor(home.path(), "--config zoneq.toml");
    unknown.exits(1);
    assert!(checks(&unknown, "configuration")[0]["found"].to_string().contains("zome"));

    let flags = alone(home.path());
    let address = flags.split("--grpc-listen ").nth(1).and_then(|rest| rest.split(' ').next());
    let held = std::net::TcpListener::bind(address.expect("an address")).expect("a free port");
    let taken = doctor(home.path(), &flags);
    taken.exits(1);
    assert_eq!(state(&taken, "grpc_listen"), "fail");
    drop(held);

    Serving::start(home.path(), &flags).stop().exits(0);
    for (from, to) in [("--cluster-id shop", "--cluster-id mall"), ("--zone z1", "--zone z2")] {
        let foreign = doctor(home.path(), &flags.replace(from, to));
        foreign.exits(1);
        assert_eq!(state(&foreign, "data directory"), "fail");
    }
    let peers = "--peers 1=z1@127.0.0.1:1,2=z1@127.0.0.1:2,3=z2@127.0.0.1:3";
    let unbalanced = doctor(home.path(), &format!("{flags} {peers}"));
    unbalanced.exits(1);
    assert_eq!(state(&unbalanced, "redundancy"), "fail");
    zoneq(home.path(), "doctor --writes 0").says(64, &["--writes"]);
}
