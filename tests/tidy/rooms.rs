//! Imports point down, and what a room must not know it does not name.

use crate::exemptions::Exemptions;
use crate::source::{self, Source};

/// Each room and what it may import of this crate. A room not listed here may import nothing,
/// so that a new room starts with a decision.
const MAY_IMPORT: [(&str, &[&str]); 13] = [
    ("mutants", &[]),
    ("queue", &["mutants"]),
    ("clock", &[]),
    ("proto", &[]),
    ("storage", &["queue", "clock", "mutants"]),
    ("consensus", &["storage", "queue", "clock", "proto", "mutants"]),
    ("geo", &["consensus", "storage", "queue", "clock", "proto", "mutants"]),
    ("api", &["geo", "consensus", "storage", "queue", "clock", "proto"]),
    ("client", &["proto"]),
    ("server", &["api", "geo", "consensus", "storage", "queue", "clock", "proto"]),
    ("cli", &["server", "client", "api", "geo", "consensus", "storage", "queue", "clock", "proto"]),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Single files of a room that may import more than the room.
const FILES_MAY_IMPORT: [(&str, &str); 1] = [("src/storage/codec", "proto")];

/// Names that production code may use in some rooms only: what, where, and why.
const NAMED_ONLY_IN: [(&str, &[&str], &str); 1] = [(
    "openraft",
    &["consensus"],
    "the Raft library stays behind one room: give consensus a function for what you need",
)];

/// Names that a room must not use, and why.
const NEVER_IN: [(&str, &[&str], &str); 2] = [
    (
        "queue",
        &[
            "tokio",
            "tracing",
            "std::time",
            "rand",
            "HashMap",
            "HashSet",
            "std::fs",
            "std::net",
            "std::thread",
            "f32",
            "f64",
            "async",
            "SystemTime",
            "Instant",
        ],
        "the queue is the same on every replica: let the entry carry it, or do it upstairs",
    ),
    ("storage", &["tonic", "std::net"], "storage knows bytes and fsync, not the network"),
];

/// The rooms of this crate that a file names, each with the byte where.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for prefix in ["crate::", "zoneq::"] {
        for at in source.find(prefix) {
            let after = at + prefix.len();
            found.extend(first_names(&source.code, after).into_iter().map(|name| (at, name)));
        }
    }
    found.retain(|(_, name)| MAY_IMPORT.iter().any(|(room, _)| room == name));
    found
}

/// The first path segments after `crate::`: one, or those of a braced list.
fn first_names(code: &str, at: usize) -> Vec<String> {
    let word = |text: &str| -> String {
        text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    if !code[at..].starts_with('{') {
        return vec![word(&code[at..])];
    }
    let close = source::matching(code, at);
    let (mut names, mut depth, mut start) = (Vec::new(), 0, at + 1);
    for (offset, byte) in code[at..close].bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 1 => {
                names.push(word(&code[start..]));
                start = at + offset + 1;
            }
            _ => {}
        }
    }
    names.push(word(&code[start..close]));
    names
}

fn upward_imports(sources: &[Source], exemptions: &Exemptions) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        let room = source.room();
        let mut allowed: Vec<&str> = vec![room];
        match MAY_IMPORT.iter().find(|(name, _)| *name == room) {
            Some((_, rooms)) => allowed.extend(*rooms),
            None => findings.push(format!(
                "{}:1: room {room} is not in the plan: add it to MAY_IMPORT in {} and to \
                 docs/architecture.md, or move the file to its room",
                source.path,
                file!()
            )),
        }
        for (file, extra) in FILES_MAY_IMPORT {
            if source.path.starts_with(file) {
                allowed.push(extra);
            }
        }
        let mut upward: Vec<(usize, String)> = imports(source);
        upward.retain(|(_, name)| !allowed.contains(&name.as_str()));
        let rooms: std::collections::BTreeSet<&String> = upward.iter().map(|u| &u.1).collect();
        for target in rooms {
            let places: Vec<usize> =
                upward.iter().filter(|u| &u.1 == target).map(|u| u.0).collect();
            if places.len() > exemptions.limit(&["import", &source.path, target], places.len()) {
                findings.push(format!(
                    "{}:{}: {room} imports {target}, which is not below it: move the thing down, \
                     or pass it in as a value",
                    source.path,
                    source.line(places[0])
                ));
            }
        }
    }
    findings
}

fn misplaced_names(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for (name, rooms, why) in NAMED_ONLY_IN {
            if rooms.contains(&source.room()) {
                continue;
            }
            for at in source.find(name) {
                findings.push(format!("{}:{}: {name}: {why}", source.path, source.line(at)));
            }
        }
        for (room, names, why) in NEVER_IN {
            if room != source.room() {
                continue;
            }
            for name in names {
                for at in source.find(name) {
                    findings.push(format!("{}:{}: {name}: {why}", source.path, source.line(at)));
                }
            }
        }
    }
    findings
}

#[test]
fn imports_point_down() {
    let exemptions = Exemptions::of("import");
    let mut findings = upward_imports(&source::all(&crate::root()), &exemptions);
    findings.extend(exemptions.unneeded(0));
    crate::report(
        "imports point down: cli, server, api, geo, consensus, storage, queue",
        &findings,
    );
}

#[test]
fn rooms_do_not_name_what_they_must_not_know() {
    crate::report("names in the wrong room", &misplaced_names(&source::all(&crate::root())));
}

#[test]
fn each_room_rule_can_fail() {
    let none = Exemptions::of("none");
    let broken = |path: &str, text: &str| upward_imports(&[Source::parse(path, text)], &none);
    assert_eq!(broken("src/queue/a.rs", "use crate::storage::disk;").len(), 1);
    assert_eq!(broken("src/queue/a.rs", "use crate::{queue::ids, clock::Clock};").len(), 1);
    assert_eq!(broken("src/client/a.rs", "fn f() { crate::queue::limits::BATCH }").len(), 1);
    assert_eq!(broken("src/attic/a.rs", "").len(), 1, "a room that is not in the plan");
    assert_eq!(broken("src/storage/codec.rs", "use crate::proto::log::v1;").len(), 0);
    assert_eq!(broken("src/storage/log.rs", "use crate::proto::log::v1;").len(), 1);

    let misplaced = |path: &str, text: &str| misplaced_names(&[Source::parse(path, text)]).len();
    assert_eq!(misplaced("src/api/a.rs", "use openraft::Raft;"), 1);
    assert_eq!(misplaced("src/api/a.rs", "// openraft says so\n"), 0);
    assert_eq!(misplaced("src/queue/a.rs", "use std::collections::HashMap;"), 1);
    assert_eq!(misplaced("src/queue/a.rs", "use std::collections::BTreeMap;"), 0);
}
