//! Files and functions have an end. When a file passes the limit, ask which room is missing.

use crate::exemptions::Exemptions;
use crate::source::{self, Source};

const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 70;

/// Names that say nothing about what is inside.
const BANNED_NAMES: [&str; 8] =
    ["util", "utils", "common", "core", "helpers", "misc", "manager", "impls"];

fn long_files(sources: &[Source], exemptions: &Exemptions) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        let lines = source.production_lines();
        let limit = FILE_LINES.max(exemptions.limit(&["lines", &source.path], lines));
        if lines > limit {
            findings.push(format!(
                "{}:1: {lines} lines without tests, {limit} allowed: move what has a purpose of \
                 its own to a file of its own",
                source.path
            ));
        }
    }
    findings
}

fn long_functions(sources: &[Source], exemptions: &Exemptions) -> Vec<String> {
    let mut findings = Vec::new();
    for source in sources {
        for function in source.functions() {
            let key = ["function", &source.path, &function.name];
            let limit = FUNCTION_LINES.max(exemptions.limit(&key, function.lines));
            if function.lines > limit {
                findings.push(format!(
                    "{}:{}: function {} has {} lines, {limit} allowed: name its steps as functions",
                    source.path, function.line, function.name, function.lines
                ));
            }
        }
    }
    findings
}

fn banned_names(paths: &[String]) -> Vec<String> {
    let banned = |path: &&String| {
        path.split('/').any(|part| BANNED_NAMES.contains(&part.split('.').next().unwrap_or(part)))
    };
    let finding = |path: &String| {
        format!("{path}:1: its name says nothing: name the file after what is in it")
    };
    paths.iter().filter(banned).map(finding).collect()
}

#[test]
fn files_are_short() {
    let exemptions = Exemptions::of("lines");
    let mut findings = long_files(&source::all(&crate::root()), &exemptions);
    findings.extend(exemptions.unneeded(FILE_LINES));
    crate::report("a file has at most 600 lines without tests", &findings);
}

#[test]
fn functions_are_short() {
    let exemptions = Exemptions::of("function");
    let mut findings = long_functions(&source::all(&crate::root()), &exemptions);
    findings.extend(exemptions.unneeded(FUNCTION_LINES));
    crate::report("a function has at most 70 lines", &findings);
}

#[test]
fn file_names_say_what_is_inside() {
    let mut paths = Vec::new();
    for folder in ["src", "tests", "benches", "examples"] {
        paths.extend(source::files(&crate::root(), folder));
    }
    crate::report("file and folder names that are banned", &banned_names(&paths));
}

#[test]
fn each_size_rule_can_fail() {
    let text = format!("fn long() {{\n{}}}\n", "    step();\n".repeat(600));
    let sources = [Source::parse("src/x.rs", &text)];
    let none = Exemptions::of("none");
    assert!(long_files(&sources, &none)[0].starts_with("src/x.rs:1: 602 lines"));
    assert!(long_functions(&sources, &none)[0].starts_with("src/x.rs:1: function long"));
    assert_eq!(banned_names(&["src/util/mod.rs".into(), "src/useful.rs".into()]).len(), 1);
}
