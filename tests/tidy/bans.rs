//! Calls that do not ship.

use crate::exemptions::Exemptions;
use crate::source::{self, Source};

/// What, whether `exemptions.txt` may allow it, and what to do instead.
const BANNED: [(&str, bool, &str); 7] = [
    ("todo!", false, "finish it, or leave the path out"),
    ("unimplemented!", false, "finish it, or leave the path out"),
    ("dbg!", false, "use tracing, or remove it"),
    (".unwrap()", false, "return the error, or write why it cannot happen"),
    (".unwrap_err()", false, "match on the result"),
    (".expect(", true, "return the error; exempt it only where no caller could act on it"),
    ("panic!", true, "return an error; exempt it only where going on would break a promise"),
];

fn banned_calls(sources: &[Source], exemptions: &Exemptions) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for (call, exemptible, instead) in BANNED {
            let places = source.find(call);
            let name = call.trim_start_matches('.');
            let limit = exemptions.limit(&["call", &source.path, name], places.len());
            if places.len() <= limit && exemptible {
                continue;
            }
            for at in places {
                findings.push(format!("{}:{}: {call}: {instead}", source.path, source.line(at)));
            }
        }
    }
    findings
}

/// Work that nobody owns is work that nobody does.
fn orphan_notes(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for (at, line) in source.text.lines().enumerate() {
            let note = ["TODO", "FIXME", "XXX"].iter().any(|word| line.contains(word));
            if note && !line.contains('#') {
                findings.push(format!(
                    "{}:{}: a note to finish something names no issue: do it, or write #number",
                    source.path,
                    at + 1
                ));
            }
        }
    }
    findings
}

/// A lint is silenced for a reason that stands beside it.
fn unexplained_allows(sources: &[Source]) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for start in ["#[allow(", "#![allow(", "#[expect("] {
            for (at, _) in source.code.match_indices(start) {
                let end = source::matching(&source.code, at + start.len() - 1);
                if !source.code[at..end].contains("reason") {
                    findings.push(format!(
                        "{}:{}: a silenced lint without a reason: add `reason = \"...\"`",
                        source.path,
                        source.line(at)
                    ));
                }
            }
        }
    }
    findings
}

/// A file says at its door what it is for.
fn silent_files(sources: &[Source]) -> Vec<String> {
    let silent =
        |source: &&Source| !source.only_tests && !source.text.trim_start().starts_with("//!");
    let finding = |source: &Source| {
        format!("{}:1: no //! head: say what the file does and what it refuses", source.path)
    };
    sources.iter().filter(silent).map(finding).collect()
}

/// The modules that read what came from outside, if they are there: each begins by denying what
/// could end the process. A deny at the top of a module holds for the modules inside it.
const DECODERS: [&str; 7] = [
    "src/api/mod.rs",
    "src/geo/mod.rs",
    "src/consensus/transport.rs",
    "src/consensus/transport/mod.rs",
    "src/storage/codec.rs",
    "src/storage/codec/mod.rs",
    "src/storage/keys.rs",
];

fn trusting_decoders(sources: &[Source]) -> Vec<String> {
    let lints = ["unwrap_used", "expect_used", "panic", "indexing_slicing"];
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| DECODERS.contains(&source.path.as_str())) {
        let denied = source.code.find("#![deny(").map(|at| {
            let end = source::matching(&source.code, at + "#![deny".len());
            &source.code[at..end]
        });
        let missing = |lint: &&&str| !denied.is_some_and(|list| list.contains(**lint));
        let missing: Vec<&&str> = lints.iter().filter(missing).collect();
        if !missing.is_empty() {
            findings.push(format!(
                "{}:1: it reads what came from outside and does not deny clippy's {missing:?}: \
                 add #![deny(clippy::...)] under its head",
                source.path
            ));
        }
    }
    findings
}

#[test]
fn decoders_deny_what_could_end_the_process() {
    crate::report("modules that decode", &trusting_decoders(&source::all(&crate::root())));
}

#[test]
fn nothing_that_ships_panics_or_is_unfinished() {
    let exemptions = Exemptions::of("call");
    let mut findings = banned_calls(&source::all(&crate::root()), &exemptions);
    findings.extend(exemptions.unneeded(0));
    crate::report("calls that do not ship", &findings);
}

#[test]
fn notes_to_finish_name_an_issue() {
    crate::report("notes without an issue", &orphan_notes(&source::all(&crate::root())));
}

#[test]
fn silenced_lints_say_why() {
    crate::report("lints without a reason", &unexplained_allows(&source::all(&crate::root())));
}

#[test]
fn files_explain_themselves() {
    crate::report("files without a head", &silent_files(&source::all(&crate::root())));
}

#[test]
fn each_ban_can_fail() {
    let none = Exemptions::of("none");
    let text = "fn f() { g().unwrap(); h().expect(\"x\"); todo!(); }\n\
                #[cfg(test)]\nmod tests { fn t() { g().unwrap(); } }\n";
    let sources = [Source::parse("src/x.rs", text)];
    assert_eq!(banned_calls(&sources, &none).len(), 3);
    assert_eq!(silent_files(&sources).len(), 1);
    let allow = "#[allow(dead_code)]\n#[allow(unused, reason = \"x\")]\n";
    assert_eq!(unexplained_allows(&[Source::parse("src/x.rs", allow)]).len(), 1);
    assert_eq!(trusting_decoders(&[Source::parse("src/api/mod.rs", "//! x\n")]).len(), 1);
    let note = format!("// {}: later\n", "TODO");
    assert_eq!(orphan_notes(&[Source::parse("src/x.rs", &note)]).len(), 1);
}
