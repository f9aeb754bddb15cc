//! Key tags are for ever: each names one kind of row, in every table ever written.

use std::collections::BTreeMap;

use crate::source::Source;

const FILE: &str = "src/storage/keys.rs";

/// Every constant of one byte, and numbered enum variants: in that file both are tags.
fn tags(source: &Source) -> Vec<(String, u8, usize)> {
    let mut found = Vec::new();
    for (at, line) in source.code.lines().enumerate() {
        let Some((left, right)) = line.split_once('=') else { continue };
        let right = right.trim().trim_end_matches([',', ';']);
        let left = left.trim().trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        let left = left.trim_start_matches("pub(super) ");
        let name = match left.strip_prefix("const ").and_then(|rest| rest.split_once(':')) {
            Some((name, kind)) if kind.trim() == "u8" => name.trim(),
            Some(_) => continue,
            None if left.chars().all(|c| c.is_alphanumeric()) => left,
            None => continue,
        };
        let is_tag = name != left;
        let is_variant = name.starts_with(|c: char| c.is_ascii_uppercase()) && left == name;
        let value = number(source.text.lines().nth(at).unwrap_or(""), right);
        if let (true, Some(value)) = (is_tag || is_variant, value) {
            found.push((name.to_string(), value, at + 1));
        }
    }
    found
}

/// A byte as Rust writes it; `raw` is the line with its literals, for `b'x'`.
fn number(raw: &str, text: &str) -> Option<u8> {
    if let Some(hex) = text.strip_prefix("0x") {
        return u8::from_str_radix(&hex.replace('_', ""), 16).ok();
    }
    if let Some((_, literal)) = raw.split_once("= b'") {
        return literal.bytes().next();
    }
    text.parse().ok()
}

fn repeated_tags(source: &Source) -> Vec<String> {
    let mut seen: BTreeMap<u8, (String, usize)> = BTreeMap::new();
    let mut findings = Vec::new();
    for (name, value, line) in tags(source) {
        if let Some((first, at)) = seen.get(&value) {
            findings.push(format!(
                "{}:{line}: {name} has the tag {value} of {first} (line {at}): take the next free \
                 one; a tag is never given again",
                source.path
            ));
        } else {
            seen.insert(value, (name, line));
        }
    }
    findings
}

#[test]
fn every_key_tag_is_unique() {
    let Ok(text) = std::fs::read_to_string(crate::root().join(FILE)) else { return };
    let source = Source::parse(FILE, &text);
    assert!(
        tags(&source).len() > 1,
        "{FILE}: no tags found: write them as `const NAME: u8 = 0x..;`"
    );
    crate::report("key tags", &repeated_tags(&source));
}

#[test]
fn a_repeated_tag_is_found() {
    let text = "const TAG_A: u8 = 1;\npub const TAG_B: u8 = 0x01;\nenum Kind {\n    Queue = 1,\n}\n\
                const TAG_C: u8 = b'q';\nconst LENGTH: usize = 1;\n";
    let source = Source::parse(FILE, text);
    let names: Vec<String> = tags(&source).into_iter().map(|tag| tag.0).collect();
    assert_eq!(names, ["TAG_A", "TAG_B", "Queue", "TAG_C"]);
    assert_eq!(repeated_tags(&source).len(), 2);
}
