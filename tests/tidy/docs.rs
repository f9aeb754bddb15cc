//! What a user can type is written in `docs/reference`: every verb and flag of the command line,
//! every key of the configuration file, every reason of an error.

use std::process::Command;

use crate::source::{self, Source};

/// All pages of the reference, as one text.
fn reference() -> String {
    let pages = source::files(&crate::root(), "docs/reference");
    assert!(!pages.is_empty(), "docs/reference is missing");
    pages
        .iter()
        .map(|page| std::fs::read_to_string(crate::root().join(page)).expect("a page"))
        .collect()
}

/// The help text of a verb, asked of the binary itself.
fn help(verb: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_zoneq"))
        .args(verb)
        .arg("--help")
        .env("COLUMNS", "200")
        .output()
        .expect("the zoneq binary");
    String::from_utf8(output.stdout).expect("UTF-8 help")
}

/// The verbs that a help text lists.
fn verbs(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| line.trim() != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("    "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .map(str::to_string)
        .collect()
}

/// The long flags that a help text lists.
fn flags(help: &str) -> Vec<String> {
    help.lines()
        .map(str::trim_start)
        .filter(|line| line.starts_with('-'))
        .flat_map(|line| line.split([' ', ',', '=']))
        .filter(|word| word.len() > 2 && word.starts_with("--"))
        .map(|word| word.trim_end_matches(']').trim_end_matches("...").to_string())
        .filter(|flag| !matches!(flag.as_str(), "--help" | "--version"))
        .collect()
}

/// Every verb below this one, with its help text.
fn walk(verb: &[String], found: &mut Vec<(String, String)>) {
    let text = help(verb);
    for next in verbs(&text) {
        let mut longer = verb.to_vec();
        longer.push(next);
        walk(&longer, found);
    }
    if !verb.is_empty() {
        found.push((verb.join(" "), text));
    }
}

/// The fields of structs that are read from the configuration file, with their lines.
fn config_keys(source: &Source) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for at in source.find("struct") {
        let derives = source.code[..at].rfind("#[derive(");
        let deserialized = derives.is_some_and(|derive| {
            let between = &source.code[derive..at];
            between.contains("Deserialize") && !between.contains(['}', ';'])
        });
        let open = source.code[at..].find(['{', ';', '(']).map(|offset| at + offset);
        let Some(open) = open.filter(|open| deserialized && source.code[*open..].starts_with('{'))
        else {
            continue;
        };
        let close = source::matching(&source.code, open);
        let first = source.line(open);
        for (offset, line) in source.code[open..close].lines().enumerate() {
            let line = line.trim();
            let field = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub "));
            let Some((name, _)) = field.unwrap_or(line).split_once(':') else { continue };
            if !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_') {
                found.push((name.to_string(), first + offset));
            }
        }
    }
    found
}

/// Whether a page names a word as code, alone or with more beside it.
fn is_named(pages: &str, word: &str) -> bool {
    pages.match_indices(word).any(|(at, _)| {
        let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && !"-_".contains(c));
        edge(pages[..at].chars().next_back()) && edge(pages[at + word.len()..].chars().next())
    })
}

#[test]
fn every_verb_and_flag_is_in_the_reference() {
    if source::files(&crate::root(), "src/cli").is_empty() {
        return;
    }
    let pages = reference();
    let mut found = Vec::new();
    walk(&[], &mut found);
    assert!(found.iter().any(|(verb, _)| verb == "serve"), "no verbs read from --help: {found:?}");
    let mut findings = Vec::new();
    for (verb, text) in found {
        if !is_named(&pages, &format!("zoneq {verb}")) {
            findings.push(format!("docs/reference/verbs.md:1: `zoneq {verb}` is missing: add it"));
        }
        for flag in flags(&text) {
            if !is_named(&pages, &flag) {
                findings.push(format!(
                    "docs/reference/verbs.md:1: {flag} of `zoneq {verb}` is missing: add it"
                ));
            }
        }
    }
    crate::report("verbs and flags in docs/reference", &findings);
}

#[test]
fn every_configuration_key_is_in_the_reference() {
    let pages = reference();
    let mut findings = Vec::new();
    for source in source::all(&crate::root()) {
        if !source.path.starts_with("src/server/config") {
            continue;
        }
        for (key, line) in config_keys(&source) {
            if !is_named(&pages, &key) {
                findings.push(format!(
                    "{}:{line}: key {key} is not in docs/reference: add it to configuration.md",
                    source.path
                ));
            }
        }
    }
    crate::report("configuration keys in docs/reference", &findings);
}

#[test]
fn every_limit_is_in_the_reference() {
    let pages = reference();
    let mut findings = Vec::new();
    for source in source::all(&crate::root()) {
        if !source.path.starts_with("src/") || !source.path.ends_with("limits.rs") {
            continue;
        }
        for at in source.find("pub const") {
            let name = source.code[at + 9..].trim_start();
            let name = name.split(':').next().unwrap_or_default().trim();
            if !is_named(&pages, name) {
                findings.push(format!(
                    "{}:{}: limit {name} is not in docs/reference: add it to limits.md",
                    source.path,
                    source.line(at)
                ));
            }
        }
    }
    crate::report("limits in docs/reference", &findings);
}

#[test]
fn help_and_configuration_are_read_as_they_are_written() {
    let text = "Does things\n\nUsage: zoneq x\n\nCommands:\n  up    Starts\n          more words\n  \
                down  Stops\n  help  Prints\n\nOptions:\n      --dir <DIR>  Where\n  -j, --json  \
                As lines\n  -h, --help  Print\n";
    assert_eq!(verbs(text), ["up", "down"]);
    assert_eq!(flags(text), ["--dir", "--json"]);
    let text = "#[derive(Debug, Deserialize)]\n#[serde(deny_unknown_fields)]\npub struct A {\n    \
                /// Doc: x\n    pub data_dir: PathBuf,\n    zone: String,\n}\n\
                #[derive(Debug)]\nstruct B {\n    hidden: u8,\n}\n";
    let keys = config_keys(&Source::parse("src/server/config.rs", text));
    assert_eq!(keys, [("data_dir".into(), 5), ("zone".into(), 6)]);
    assert!(is_named("| `zone` |", "zone") && !is_named("`zones`, `my-zone`", "zone"));
}
