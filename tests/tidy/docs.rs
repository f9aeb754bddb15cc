//! What a user can type is written in `docs/reference`: every verb and flag of the command line,
//! every key of the configuration file, every reason of an error.

use std::process::Command;

use crate::source::{self, Source};

const VERBS: &str = "docs/reference/verbs.md";
const VERBS_HEAD: &str = "\
# Verbs

What each verb of the command line does and takes, as the binary prints it under `--help`. This
page is written by a test from the binary itself, so that the two cannot differ.

Every flag has an environment variable, named beside it. `--json` prints one object a line, the
last one the result. The exit codes have a page of their own: [exit-codes.md](exit-codes.md).
";

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
        .env_clear()
        .env("COLUMNS", "100")
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

/// The page of all verbs: what each says under `--help`. Flags of every verb stand once, at
/// the top.
fn verbs_page() -> String {
    let mut found = Vec::new();
    walk(&[], &mut found);
    assert!(found.len() > 3, "no verbs could be read from `zoneq --help`");
    found.sort();
    let mut page = String::from(VERBS_HEAD);
    page.push_str(&format!("\n## zoneq\n\n```text\n{}\n```\n", tidied(&help(&[]))));
    for (verb, text) in found {
        let own = text.split("\nEverywhere:\n").collect::<Vec<_>>();
        // What follows the flags of every verb (examples, exit codes) begins after a blank line.
        let after = own.get(1).and_then(|rest| rest.split_once("\n\n")).map_or("", |rest| rest.1);
        let text = format!("{}\n{after}", own[0]);
        page.push_str(&format!("\n## zoneq {verb}\n\n```text\n{}\n```\n", tidied(&text)));
    }
    page
}

/// Without trailing spaces and with single blank lines.
fn tidied(text: &str) -> String {
    let mut lines: Vec<&str> = text.trim().lines().map(str::trim_end).collect();
    lines.dedup_by(|line, before| line.is_empty() && before.is_empty());
    lines.join("\n")
}

#[test]
fn every_verb_and_flag_is_in_the_reference() {
    let path = crate::root().join(VERBS);
    let page = verbs_page();
    if std::env::var_os("ZONEQ_RECORD_VERBS").is_some() {
        std::fs::write(&path, &page).expect(VERBS);
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = page.lines().zip(written.lines()).position(|(now, then)| now != then);
    let mut findings = Vec::new();
    if page != written {
        let line = differs.unwrap_or_else(|| page.lines().count().min(written.lines().count()));
        findings.push(format!(
            "{VERBS}:{}: differs from what `--help` says: run `ZONEQ_RECORD_VERBS=1 cargo test \
             --test tidy every_verb` and commit the page",
            line + 1
        ));
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

/// Links of a page that lead nowhere. A link whose text is a name in code and whose target is a
/// source file must find that name there: so a page that explains code moves with it.
fn broken_links(page: &str, text: &str) -> Vec<String> {
    let folder = crate::root().join(page);
    let folder = folder.parent().expect("a page in a folder");
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        for (label, target) in links(line) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let path = folder.join(file);
            if !path.exists() {
                findings.push(format!("{page}:{}: {target} does not exist: mend the link", at + 1));
                continue;
            }
            let name = label.trim_matches('`').rsplit("::").next().unwrap_or_default();
            let code = label.starts_with('`') && !name.contains(['.', '/']);
            if !code || !file.ends_with(".rs") || file.ends_with("mod.rs") {
                continue;
            }
            let source = std::fs::read_to_string(&path).expect("a source file");
            if !is_named(&source, name) && !file.ends_with(&format!("/{name}.rs")) {
                findings.push(format!(
                    "{page}:{}: {target} does not name {name} any more: link to where it is now",
                    at + 1
                ));
            }
        }
    }
    findings
}

/// `[label](target)` of one line.
fn links(line: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for (middle, _) in line.match_indices("](") {
        let label = line[..middle].rfind('[').map(|open| &line[open + 1..middle]);
        let target = line[middle + 2..].find(')').map(|end| &line[middle + 2..middle + 2 + end]);
        found.extend(label.zip(target));
    }
    found
}

#[test]
fn links_lead_somewhere() {
    let mut pages = vec!["README.md".into(), "CONTRIBUTING.md".into(), "CHANGELOG.md".into()];
    for folder in ["docs", "deploy", "examples", "benches", "tests"] {
        let inside = source::files(&crate::root(), folder);
        pages.extend(inside.into_iter().filter(|path| path.ends_with(".md")));
    }
    let mut findings = Vec::new();
    for page in pages {
        let text = std::fs::read_to_string(crate::root().join(&page)).expect("a page");
        findings.extend(broken_links(&page, &text));
    }
    crate::report("links in the documentation", &findings);
}

#[test]
fn a_broken_link_is_found() {
    let text = "[a](missing.md) [`LogTime`](../src/queue/ids.rs)\n[b](https://x.y) [c](#d)\n\
                [`NoSuchThing`](../src/queue/ids.rs)\n";
    let findings = broken_links("docs/page.md", text);
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].starts_with("docs/page.md:1:"), "{findings:?}");
    assert!(findings[1].starts_with("docs/page.md:3:"), "{findings:?}");
}

#[test]
fn help_and_configuration_are_read_as_they_are_written() {
    let text = "Does things\n\nUsage: zoneq x\n\nCommands:\n  up    Starts\n          more words\n  \
                down  Stops\n  help  Prints\n\nOptions:\n      --dir <DIR>  Where\n  -j, --json  \
                As lines\n  -h, --help  Print\n";
    assert_eq!(verbs(text), ["up", "down"]);
    let text = "#[derive(Debug, Deserialize)]\n#[serde(deny_unknown_fields)]\npub struct A {\n    \
                /// Doc: x\n    pub data_dir: PathBuf,\n    zone: String,\n}\n\
                #[derive(Debug)]\nstruct B {\n    hidden: u8,\n}\n";
    let keys = config_keys(&Source::parse("src/server/config.rs", text));
    assert_eq!(keys, [("data_dir".into(), 5), ("zone".into(), 6)]);
    assert!(is_named("| `zone` |", "zone") && !is_named("`zones`, `my-zone`", "zone"));
}
