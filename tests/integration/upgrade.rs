//! Data folders that earlier versions wrote are opened by this one.
//!
//! Each is what nodes that ended in the middle of their work left on their disks, packed with
//! what they answered before: one node alone, the nodes of a cluster, or both sides of a pair of
//! regions. Those that are there never change. To write one more, of a cluster or, with a name
//! that ends with `-pair`, of a pair:
//! `ZONEQ_RECORD_FIXTURE=NAME cargo test --test integration upgrade::one_more`.

mod cluster;
mod nodes;
mod pair;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::serving::{Serving, alone};
use super::stage::{Ran, zoneq};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

#[track_caller]
fn tar(arguments: &[&str]) {
    let ended = Command::new("tar").args(arguments).status().expect("tar runs");
    assert!(ended.success(), "tar {arguments:?}");
}

/// Packs these folders of `home`, without what a node makes again, and what is known of them.
fn pack(home: &Path, folders: &[String], archive: &Path, known: &Value) {
    let to = archive.parent().expect("a folder");
    std::fs::create_dir_all(to).expect("a folder");
    let (archive, from) = (archive.display().to_string(), home.display().to_string());
    let line = ["-czf", &archive, "--exclude=spare-*", "--exclude=reserve", "-C", &from];
    let folders = folders.iter().map(String::as_str);
    tar(&line.into_iter().chain(folders).collect::<Vec<_>>());
    let text = serde_json::to_string_pretty(known).expect("JSON") + "\n";
    std::fs::write(to.join("shown.json"), text).expect("a file");
}

/// What an earlier version left.
struct Kept {
    archive: PathBuf,
    known: Value,
}

impl Kept {
    /// All of a kind, which is the name of the archive.
    #[track_caller]
    fn all(kind: &str) -> Vec<Kept> {
        let folders = std::fs::read_dir(fixtures()).expect("the fixtures");
        let archives = folders
            .map(|entry| entry.expect("a folder").path().join(kind).with_extension("tar.gz"))
            .filter(|archive| archive.is_file());
        let read = |archive: PathBuf| {
            let text = std::fs::read_to_string(archive.with_file_name("shown.json"));
            let known = serde_json::from_str(&text.expect("what it answered")).expect("JSON");
            Kept { archive, known }
        };
        let mut all: Vec<Kept> = archives.map(read).collect();
        all.sort_by(|one, other| one.archive.cmp(&other.archive));
        assert!(!all.is_empty(), "there is none of the kind {kind:?}");
        all
    }

    fn unpack(&self) -> TempDir {
        let home = tempfile::tempdir().expect("a folder");
        let (archive, to) = (self.archive.display().to_string(), home.path().display().to_string());
        tar(&["-xzf", &archive, "-C", &to]);
        home
    }

    /// The wall time at which its nodes ended.
    fn at_us(&self) -> u64 {
        self.known["at_us"].as_u64().expect("a time")
    }

    /// What those who wrote it were told, and may come back with.
    fn told(&self) -> &Value {
        &self.known["told"]
    }

    /// Fails unless all of what was shown is shown again.
    #[track_caller]
    fn compare(&self, expected: &Value, found: &Value) {
        for (part, expected) in expected.as_object().expect("an object") {
            let known = what_is_known(expected, &found[part]);
            assert_eq!(&known, expected, "{part} of {}", self.archive.display());
        }
    }
}

/// What is found, without the fields that the earlier version did not show.
fn what_is_known(expected: &Value, found: &Value) -> Value {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            let fields = found.iter().filter_map(|(name, value)| {
                Some((name.clone(), what_is_known(expected.get(name)?, value)))
            });
            Value::Object(fields.collect())
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            let both = expected.iter().zip(found);
            Value::Array(both.map(|(expected, found)| what_is_known(expected, found)).collect())
        }
        _ => found.clone(),
    }
}

/// Every message of a queue, each once.
fn messages(on: &dyn Fn(&str) -> Ran, queue: &str) -> Vec<Value> {
    let mut messages = Vec::new();
    for state in ["visible", "leased", "delayed", "blocked", "dead"] {
        messages.extend(on(&format!("peek {queue} --max 100 --state {state}")).items());
    }
    messages.sort_by_key(|message| message["id"].to_string());
    messages.dedup_by_key(|message| message["id"].to_string());
    messages
}

/// A queue without what grows while it is looked at.
fn ageless(mut queue: Value) -> Value {
    queue["counts"].as_object_mut().expect("counts").remove("oldest_age_ms");
    queue
}

/// A queue and its messages, as they are while no time passes. A long body is shown as a sum.
fn looked_at(on: &dyn Fn(&str) -> Ran, account: &str, queue: &str) -> Value {
    let on = |line: &str| on(&format!("{line} --account {account}"));
    let shown = ageless(on(&format!("queue show {queue}")).exits(0)["queue"].take());
    let mut messages = messages(&on, queue);
    for message in &mut messages {
        let body = message["body"].as_str().expect("a text").to_owned();
        if body.len() > 100 {
            message["body"] =
                json!({ "bytes": body.len(), "sum": crc32c::crc32c(body.as_bytes()) });
        }
    }
    json!({ "queue": shown, "messages": messages })
}

/// What stays as it was however much later the folder of a node alone is opened.
fn lasting(on: &dyn Fn(&str) -> Ran) -> Value {
    let queue = |name: &str| {
        let mut queue = on(&format!("queue show {name}")).exits(0)["queue"].take();
        let total = queue["counts"]["total"].take();
        queue["counts"] = json!({ "total": total });
        let mut messages = messages(on, name);
        for message in &mut messages {
            let fields = message.as_object_mut().expect("a message");
            for passing in ["visible_at", "state", "lease_expires_at"] {
                fields.remove(passing);
            }
        }
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

#[test]
fn one_more_is_written_when_it_is_asked_for() {
    let Ok(name) = std::env::var("ZONEQ_RECORD_FIXTURE") else { return };
    let folder = fixtures().join(&name);
    assert!(!folder.exists(), "what is there never changes");
    if name.ends_with("-pair") { pair::record(&folder) } else { cluster::record(&folder) }
}

#[test]
fn a_data_folder_of_an_earlier_version_is_opened_with_all_that_is_in_it() {
    for kept in Kept::all("data") {
        let home = kept.unpack();
        let line = format!("{} --disk-reserve-bytes 0", alone(home.path()));
        let node = Serving::start(home.path(), &line);
        let on = on(&node.url(), home.path());
        kept.compare(&kept.known, &lasting(&on));
        // It goes on from there.
        on("send work and-on").exits(0);
        node.stop();
    }
}
