//! Data folders that earlier versions wrote are opened by this one.
//!
//! Each is the folder of a node that was killed with SIGKILL in the middle of its work, packed
//! with what it answered before. `ZONEQ_RECORD_FIXTURE=NAME cargo test --test integration
//! upgrade` writes one more; those that are there never change.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::serving::{Serving, alone};
use super::stage::{Ran, wait, zoneq};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[track_caller]
fn tar(arguments: &[&str]) {
    let ended = Command::new("tar").args(arguments).status().expect("tar runs");
    assert!(ended.success(), "tar {arguments:?}");
}

/// Something of every kind that outlives the process.
fn fill(on: &dyn Fn(&str) -> Ran) {
    for line in [
        "queue create dead",
        "queue create work --dead-letter-queue dead --max-deliveries 1 --ttl never \
         --metadata team=shop --back-off 2s,1m,3 --max-messages 1000",
        "queue create resting --ttl never",
        "queue create held --ttl never",
        "send work first --header colour=green --priority 1 --group customer-1",
        "send work second --key once --priority 9",
        "send work second --key once",
        "send work later --delay 7d",
        "send resting asleep",
        "queue pause resting",
        "account set-quota --max-queues 50",
        // Its lease ends at once, so that it is a dead letter.
        "send work poison --priority 0",
        "receive work --visibility 0s",
        "send held leased --group customer-1",
        "receive held --visibility 7d",
    ] {
        on(line).exits(0);
    }
    wait("the poison is a dead letter", || {
        let dead = on("queue show dead").exits(0);
        (dead["queue"]["counts"]["total"] == 1).then_some(())
    });
}

/// What stays as it was however much later the folder is opened.
fn shown(on: &dyn Fn(&str) -> Ran) -> Value {
    let queue = |name: &str| {
        let mut queue = on(&format!("queue show {name}")).exits(0)["queue"].take();
        let total = queue["counts"]["total"].take();
        queue["counts"] = json!({ "total": total });
        let mut messages = Vec::new();
        for state in ["visible", "leased", "delayed", "dead"] {
            messages.extend(on(&format!("peek {name} --max 100 --state {state}")).items());
        }
        for message in &mut messages {
            let fields = message.as_object_mut().expect("a message");
            for passing in ["visible_at", "state", "lease_expires_at"] {
                fields.remove(passing);
            }
        }
        messages.sort_by_key(|message| message["id"].to_string());
        messages.dedup();
        json!({ "queue": queue, "messages": messages })
    };
    json!({
        "dead": queue("dead"),
        "work": queue("work"),
        "resting": queue("resting"),
        "held": queue("held"),
        "account": on("account show").exits(0)["account"],
    })
}

fn on(url: &str, dir: &Path) -> impl Fn(&str) -> Ran + use<> {
    let (url, dir) = (url.to_owned(), dir.to_path_buf());
    move |line: &str| zoneq(&dir, &format!("{line} --json -e {url}"))
}

#[track_caller]
fn record(name: &str) {
    let home = tempfile::tempdir().expect("a folder");
    let line = format!("{} --disk-reserve-bytes 0", alone(home.path()));
    let node = Serving::start(home.path(), &line);
    let on = on(&node.url(), home.path());
    fill(&on);
    let shown = shown(&on);
    node.kill();
    let folder = fixtures().join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let packed = folder.join("data.tar.gz").display().to_string();
    let from = home.path().display().to_string();
    tar(&["-czf", &packed, "--exclude=spare-*", "-C", &from, "data"]);
    let text = serde_json::to_string_pretty(&shown).expect("JSON") + "\n";
    std::fs::write(folder.join("shown.json"), text).expect("a file");
}

#[test]
fn a_data_folder_of_an_earlier_version_is_opened_with_all_that_is_in_it() {
    if let Ok(name) = std::env::var("ZONEQ_RECORD_FIXTURE") {
        record(&name);
    }
    let mut folders: Vec<PathBuf> = std::fs::read_dir(fixtures())
        .expect("the fixtures")
        .map(|entry| entry.expect("a folder").path())
        .collect();
    folders.sort();
    assert!(!folders.is_empty());
    for folder in folders {
        let home = tempfile::tempdir().expect("a folder");
        let packed = folder.join("data.tar.gz").display().to_string();
        tar(&["-xzf", &packed, "-C", &home.path().display().to_string()]);
        let line = format!("{} --disk-reserve-bytes 0", alone(home.path()));
        let node = Serving::start(home.path(), &line);
        let on = on(&node.url(), home.path());
        let text = std::fs::read_to_string(folder.join("shown.json")).expect("what it answered");
        let expected: Value = serde_json::from_str(&text).expect("JSON");
        let found = shown(&on);
        for (part, expected) in expected.as_object().expect("an object") {
            assert_eq!(&found[part], expected, "{part} of {}", folder.display());
        }
        // It goes on from there.
        on("send work and-on").exits(0);
        node.stop();
    }
}
