//! A seed of which the track record says that it keeps a bug away is one that runs: among those
//! that found a bug once, or among those of the ordinary tests.

use std::collections::BTreeSet;

use crate::{report, root};

/// Seeds that run, of one region and of two.
#[derive(Debug, Default)]
struct Running {
    one: BTreeSet<u64>,
    two: BTreeSet<u64>,
}

/// All numbers in the text.
fn numbers(text: &str) -> Vec<u64> {
    let words = text.split(|sign: char| !sign.is_ascii_digit());
    words.filter_map(|word| word.parse().ok()).collect()
}

/// What the simulator's own lists say.
fn running(source: &str) -> Running {
    let told = |name: &str| {
        let found = source.split_once(&format!("const {name}: "));
        let value = found.and_then(|(_, rest)| rest.split_once('=')?.1.split_once(';'));
        value.map_or_else(Vec::new, |(value, _)| numbers(value))
    };
    let range = |name: &str| match told(name)[..] {
        [from, to] => from..to,
        _ => 0..0,
    };
    let all = |kept: &str, ordinary: &str| told(kept).into_iter().chain(range(ordinary)).collect();
    Running { one: all("KEPT", "ORDINARY"), two: all("KEPT_PAIRS", "ORDINARY_PAIRS") }
}

/// The numbers that follow `seed` or `seeds`, with what is in brackets between them.
fn seeds(text: &str) -> Vec<u64> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("seed") {
        // How many, and not which.
        if text[..at].ends_with("--") && text[at..].starts_with("seeds") {
            continue;
        }
        let mut rest = text[at + 4..].trim_start_matches('s').trim_start();
        loop {
            let digits = rest.find(|sign: char| !sign.is_ascii_digit()).unwrap_or(rest.len());
            let Ok(number) = rest[..digits].parse() else { break };
            found.push(number);
            rest = rest[digits..].trim_start();
            if let Some(inside) = rest.strip_prefix('(') {
                rest = inside.split_once(')').map_or("", |(_, behind)| behind).trim_start();
            }
            rest = rest.trim_start_matches(',').trim_start();
            rest = rest.strip_prefix("and ").unwrap_or(rest);
        }
    }
    found
}

/// The seeds that a row says keep its bug away, and whether they are of two regions.
fn kept(row: &str) -> Option<(Vec<u64>, bool)> {
    let cells: Vec<&str> = row.split('|').map(str::trim).collect();
    let (found_by, kept_away_by) = (cells.get(2)?, cells.get(3)?);
    let named = seeds(kept_away_by);
    let says = ["the seed", "the same seed", "the two seeds"];
    let kept = if !named.is_empty() {
        named
    } else if says.iter().any(|words| kept_away_by.contains(words)) {
        seeds(found_by)
    } else {
        return None;
    };
    let of_two = ["--regions 2", "two regions"].iter().any(|words| found_by.contains(words));
    Some((kept, of_two))
}

fn forgotten(record: &str, running: &Running) -> Vec<String> {
    let rows = record.lines().enumerate().filter(|(_, line)| line.starts_with('|'));
    let mut findings = Vec::new();
    for (at, row) in rows {
        let Some((seeds, of_two)) = kept(row) else { continue };
        let (running, regions) = if of_two { (&running.two, 2) } else { (&running.one, 1) };
        let forgotten = seeds.iter().filter(|seed| !running.contains(seed));
        findings.extend(forgotten.map(|seed| {
            format!(
                "tests/TRACK_RECORD.md:{}: seed {seed} of {regions} does not run; put it into \
                 KEPT or KEPT_PAIRS of tests/simulation/seeds.rs",
                at + 1
            )
        }));
    }
    findings
}

#[test]
fn seeds_that_keep_a_bug_away_run() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).expect("it is there");
    let running = running(&read("tests/simulation/seeds.rs"));
    assert!(!running.one.is_empty() && !running.two.is_empty(), "{running:?}");
    let record = read("tests/TRACK_RECORD.md");
    assert!(record.lines().filter_map(kept).count() > 20, "the record is read as it is written");
    report("seeds that keep a bug away run", &forgotten(&record, &running));
}

#[test]
fn a_forgotten_seed_is_found() {
    let source = "const KEPT: [u64; 2] = [41, 46];\nconst KEPT_PAIRS: [u64; 1] = [\n    70,\n];\n\
                  const ORDINARY: R = 1..3;\nconst ORDINARY_PAIRS: R = 1..2;";
    let running = running(source);
    let finds = |row: &str| forgotten(row, &running).len();
    assert_eq!(finds("| a bug | the simulator, seed 46 | the seed | fixed |"), 0);
    assert_eq!(finds("| a bug | the simulator, seed 2 | the seed | fixed |"), 0);
    assert_eq!(finds("| a bug | the simulator, seed 3 | the seed | fixed |"), 1);
    assert_eq!(
        finds("| a bug | `cargo sim --regions 2 --seed 46` | a test, the seed | fixed |"),
        1
    );
    assert_eq!(
        finds("| a bug | two regions, seeds 70 (I1, G2), 71, and 72, I9 | the seeds | |"),
        2
    );
    assert_eq!(finds("| a bug | two regions, seeds 70 and 71 | seed 70 | fixed |"), 0);
    assert_eq!(finds("| a bug | `cargo sim --seeds 500`, seed 46 | the seed | fixed |"), 0);
    assert_eq!(finds("| a bug | the simulator, seed 99 | `a::test` | fixed |"), 0);
}
