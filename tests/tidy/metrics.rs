//! Every metric that a node tells stands in the reference, by the rules of its names; what the
//! reference and the alert rules name, a node tells.

use std::collections::BTreeSet;

use crate::source::{self, Source};

const PAGE: &str = "docs/reference/metrics.md";
const ROOMS: [&str; 6] = ["server", "api", "geo", "consensus", "storage", "queue"];

/// The names that production code writes, with their lines.
fn told(source: &Source) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for prefix in ["\"zoneq_", "\"process_"] {
        for (at, _) in source.text.match_indices(prefix) {
            let rest = &source.text[at + 1..];
            let name = rest.split('"').next().unwrap_or_default();
            if !source.in_test(at) && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                found.push((name.to_owned(), source.line(at)));
            }
        }
    }
    found
}

/// The names in the first column of the reference.
fn documented(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split(['`', '{']).next());
    names
        .filter(|name| name.starts_with("zoneq_") || name.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

/// The names of ours in a text that is not ours to write, as in alert rules.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    words.filter(|word| word.starts_with("zoneq_")).map(str::to_owned).collect()
}

fn broken_name(name: &str) -> bool {
    let of_a_room = |rest: &str| ROOMS.iter().any(|room| rest.starts_with(&format!("{room}_")));
    !name.starts_with("process_") && !name.strip_prefix("zoneq_").is_some_and(of_a_room)
}

fn findings(sources: &[Source], page: &str, others: &[(String, String)]) -> Vec<String> {
    let mut findings = Vec::new();
    let (documented, mut all) = (documented(page), BTreeSet::new());
    for source in sources {
        for (name, line) in told(source) {
            let place = format!("{}:{line}", source.path);
            if broken_name(&name) {
                findings.push(format!("{place}: {name}: name it zoneq_<room>_<noun>_<unit>"));
            }
            if !documented.contains(&name) {
                findings.push(format!("{place}: metric {name} is not in {PAGE}: add a row"));
            }
            all.insert(name);
        }
    }
    for name in documented.difference(&all) {
        findings.push(format!("{PAGE}: no node tells {name}: remove the row"));
    }
    for (path, text) in others {
        for name in mentioned(text) {
            let parts = ["", "_bucket", "_count", "_sum"];
            if !parts.iter().any(|part| name.strip_suffix(part).is_some_and(|it| all.contains(it)))
            {
                findings.push(format!("{path}: no node tells {name}"));
            }
        }
    }
    findings
}

#[test]
fn every_metric_is_in_the_reference() {
    let read = |path: &str| std::fs::read_to_string(crate::root().join(path)).expect("a file");
    let mut others = source::files(&crate::root(), "deploy/monitoring");
    assert!(others.len() >= 2, "the alert rules are missing");
    others.push("docs/operating/monitoring.md".to_owned());
    let others: Vec<_> = others.into_iter().map(|path| (path.clone(), read(&path))).collect();
    let found = findings(&source::all(&crate::root()), &read(PAGE), &others);
    crate::report("metrics in docs/reference", &found);
}

/// The alerts of a file of rules.
fn alerts(rules: &str) -> BTreeSet<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

#[test]
fn every_alert_is_shown_to_fire() {
    let read = |name: &str| {
        let path = crate::root().join("deploy/monitoring").join(name);
        std::fs::read_to_string(path).expect("a file")
    };
    let (rules, shown) = (read("alerts.yml"), read("alerts_test.yml"));
    let expected = |name: &&str| shown.contains(&format!("'{{alertname=\"{name}\"}}', value: 1"));
    let found: Vec<String> = alerts(&rules)
        .into_iter()
        .filter(|name| !expected(name))
        .map(|name| format!("alerts_test.yml does not show {name} fire"))
        .collect();
    assert!(alerts(&rules).len() >= 10, "the alert rules are missing");
    crate::report("alerts shown to fire", &found);
}

#[test]
fn each_metric_rule_can_fail() {
    let source = Source::parse(
        "src/api/metrics/x.rs",
        "fn f() { page.gauge(\"zoneq_geo_lag_seconds\"); page.gauge(\"zoneq_attic_things\"); }\n\
         #[cfg(test)]\nmod tests { const X: &str = \"zoneq_geo_test\"; }\n",
    );
    let page = "| `zoneq_geo_lag_seconds{a}` | gauge | x |\n| `zoneq_geo_gone` | gauge | x |\n";
    let rules =
        ("alerts.yml".to_owned(), "zoneq_geo_lag_seconds_count > zoneq_geo_other".to_owned());
    let found = findings(&[source], page, &[rules]);
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(found[0].contains("zoneq_<room>"), "{found:#?}");
    assert!(found[1].contains("zoneq_attic_things is not in"), "{found:#?}");
    assert!(found[2].contains("no node tells zoneq_geo_gone"), "{found:#?}");
    assert!(found[3].starts_with("alerts.yml: no node tells zoneq_geo_other"), "{found:#?}");
}
