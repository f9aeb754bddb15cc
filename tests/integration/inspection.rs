//! `zoneq inspect`: what it tells of a stopped node's directory, and that it changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::serving::{Serving, alone};
use super::stage::{Lab, Ran, zoneq};

/// Every file of a folder: a checksum of its bytes, and when it was changed.
fn files(dir: &Path) -> BTreeMap<PathBuf, (u32, SystemTime)> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let sum = crc32c::crc32c(&std::fs::read(&path).expect("readable"));
            let changed = entry.metadata().and_then(|known| known.modified()).expect("a time");
            found.insert(path, (sum, changed));
        }
    }
    found
}

/// Inspects and fails when anything in the directory is another than before.
#[track_caller]
fn inspected(home: &Path, dir: &Path, flags: &str) -> Ran {
    let before = files(dir);
    let ran = zoneq(home, &format!("inspect {} --json {flags}", dir.display()));
    assert!(files(dir) == before, "the directory was changed: {ran:#?}");
    ran
}

fn kinds(result: &Value) -> Vec<&str> {
    let findings = result["findings"].as_array().expect("findings").iter();
    findings.filter_map(|finding| finding["kind"].as_str()).collect()
}

/// What the commands in the listed entries were to do, in order.
fn verbs(ran: &Ran) -> Vec<String> {
    let entries = ran.items();
    let commands = entries.iter().filter_map(|entry| entry["commands"].as_array()).flatten();
    let verbs = commands.filter_map(|command| command["verb"].as_str());
    verbs.filter(|verb| *verb != "pulse").map(str::to_owned).collect()
}

#[test]
fn stopped_and_killed_nodes_show_the_same_data_and_keep_every_byte() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    lab.ok("send orders one two");
    let running = zoneq(lab.home(), &format!("inspect {}", lab.data_dir(1).display()));
    running.says(64, &["in use by a running node", "zoneq cluster status"]);

    let index = lab.ok("cluster verify")["index"].as_u64().expect("an index");
    lab.ok("lab down");
    let stopped: Vec<Value> =
        (1..=3).map(|id| inspected(lab.home(), &lab.data_dir(id), "").exits(0)).collect();
    for (at, result) in stopped.iter().enumerate() {
        assert_eq!((&result["ok"], kinds(result)), (&true.into(), vec![]), "{result}");
        assert_eq!(result["identity"]["node_id"], at as u64 + 1);
        assert_eq!(result["identity"]["cluster_id"], lab.cluster_id());
        assert!(result["log"]["vote"]["term"].as_u64().is_some_and(|term| term > 0), "{result}");
        let tables = &result["tables"];
        // Behind it there may be the first entry of who led last, which nobody was left to take.
        let applied = tables["applied"]["index"].as_u64();
        assert!(applied >= Some(index), "stopped, the tables hold it all: {result}");
        assert_eq!((&tables["queue_count"], &tables["messages"]), (&1.into(), &2.into()));
        let queue = &tables["queues"][0];
        assert_eq!((&queue["name"], &queue["counts"]["visible"]), (&"orders".into(), &2.into()));
        assert_eq!(tables["digest"], stopped[0]["tables"]["digest"]);
    }

    lab.ok("lab up --detach");
    lab.ok("send orders three");
    lab.ok("lab kill all");
    // Acknowledged is in two zones at least; the tables of a killed node may be older than its log.
    let holding = (1..=3).filter(|id| {
        let killed = inspected(lab.home(), &lab.data_dir(*id), "--entries ..");
        killed.exits(0);
        verbs(&killed).iter().filter(|verb| *verb == "send").count() == 2
    });
    assert!(holding.count() >= 2);
}

#[test]
fn entries_are_decoded_to_verbs_in_order() {
    let home = tempfile::tempdir().expect("a folder");
    let node = Serving::start(home.path(), &alone(home.path()));
    let on = |line: &str| {
        zoneq(home.path(), &format!("{line} --json -e {}", node.url())).exits(0);
    };
    on("queue create orders --deadline 30s");
    on("send orders hello world");
    on("receive orders --max 2 --delete");
    on("clear orders");
    node.stop().exits(0);
    let dir = home.path().join("data");
    let ran = inspected(home.path(), &dir, "--entries ..");
    let last = ran.exits(0)["log"]["last"]["index"].as_u64().expect("an index");
    assert_eq!(verbs(&ran), ["create_queue", "send", "receive", "delete", "clear"]);
    let indexes: Vec<u64> = ran.items().iter().filter_map(|e| e["index"].as_u64()).collect();
    let first = ran.result()["log"]["first"].as_u64().expect("an index");
    assert_eq!(indexes, (first..=last).collect::<Vec<_>>(), "all of them, in order");

    let one = inspected(home.path(), &dir, &format!("--entries {last}"));
    assert_eq!(one.items().len(), 1, "{one:#?}");
    assert_eq!(one.items()[0]["index"], last);
    let none = inspected(home.path(), &dir, &format!("--entries {}..", last + 1));
    assert_eq!((none.code, none.items().len()), (Some(0), 0));
    zoneq(home.path(), "inspect data --entries 5..3").says(64, &["5..3"]);

    let people = zoneq(home.path(), "inspect data --entries ..");
    people.says(0, &["send default/orders: 2 messages, 10 bytes", "all of it is sound"]);
}

/// Changes the log of a stopped node where `body` stands in it.
pub fn spoil(dir: &Path, body: &[u8], spoil: impl Fn(&mut [u8])) {
    let path = dir.join("log/0000000000000001.log");
    let mut bytes = std::fs::read(&path).expect("a segment");
    let at = bytes.windows(body.len()).position(|some| some == body).expect("the body is there");
    spoil(&mut bytes[at..]);
    std::fs::write(&path, bytes).expect("written");
}

#[test]
fn damage_a_torn_end_a_lost_vote_and_a_bad_identity_are_told_apart() {
    let home = tempfile::tempdir().expect("a folder");
    let node = Serving::start(home.path(), &alone(home.path()));
    let on = |line: &str| {
        zoneq(home.path(), &format!("{line} --json -e {}", node.url())).exits(0);
    };
    on("queue create orders --deadline 30s");
    on("send orders the-first-body");
    on("send orders the-last-body");
    node.stop().exits(0);
    let dir = home.path().join("data");
    let segment = dir.join("log/0000000000000001.log");
    let whole = std::fs::read(&segment).expect("a segment");

    spoil(&dir, b"the-first-body", |rest| rest[0] ^= 1);
    let damaged = inspected(home.path(), &dir, "--entries ..");
    assert_eq!(kinds(&damaged.exits(1)), ["damage"], "{damaged:#?}");
    assert!(damaged.items().len() > 2, "what is whole is listed");
    std::fs::write(&segment, &whole).expect("written");

    // The crash came in the middle of the last write.
    spoil(&dir, b"the-last-body", |rest| rest[..4096].fill(0));
    assert_eq!(kinds(&inspected(home.path(), &dir, "").exits(0)), ["torn"]);
    std::fs::write(&segment, &whole).expect("written");

    let vote = dir.join("log/vote");
    let kept = std::fs::read(&vote).expect("a vote");
    std::fs::write(&vote, vec![0xaa; kept.len()]).expect("written");
    let lost = inspected(home.path(), &dir, "").exits(1);
    assert_eq!((kinds(&lost), &lost["log"]["vote"]), (vec!["vote"], &Value::Null));
    std::fs::write(&vote, kept).expect("written");

    let identity = dir.join("identity.json");
    let kept = std::fs::read_to_string(&identity).expect("an identity");
    std::fs::write(&identity, kept.replace("shop", "shoe")).expect("written");
    let bad = inspected(home.path(), &dir, "").exits(1);
    assert_eq!((kinds(&bad), &bad["tables"]["messages"]), (vec!["identity"], &2.into()));
    std::fs::write(&identity, kept.replace("\"format\": 1", "\"format\": 9")).expect("written");
    zoneq(home.path(), "inspect data").says(64, &["has format 9", "run a newer one"]);
    std::fs::write(&identity, kept).expect("written");

    let current = dir.join("tables/CURRENT");
    let kept = std::fs::read(&current).expect("a pointer");
    std::fs::write(&current, vec![0xaa; kept.len()]).expect("written");
    let bad = inspected(home.path(), &dir, "").exits(1);
    assert_eq!((kinds(&bad), &bad["tables"]), (vec!["tables"], &Value::Null));
    std::fs::write(&current, kept).expect("written");
    inspected(home.path(), &dir, "").exits(0);
}

#[test]
fn what_is_no_data_directory_is_said_to_be_none() {
    let home = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(home.path().join("empty")).expect("a folder");
    std::fs::create_dir(home.path().join("other")).expect("a folder");
    std::fs::write(home.path().join("other/letter.txt"), "dear").expect("written");
    for (dir, words) in [
        ("missing", &["there is no folder missing"][..]),
        ("empty", &["empty is not the data directory of a node"]),
        ("other", &["other is not the data directory of a node"]),
    ] {
        zoneq(home.path(), &format!("inspect {dir}")).says(64, words);
    }
    assert!(files(&home.path().join("empty")).is_empty(), "nothing is made");
}
