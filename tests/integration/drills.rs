//! `zoneq drill`: the product's own proof, run as a user runs it. What it writes of its calls is
//! judged by the checker of simulator and chaos.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::checker::written;
use super::history::{Answer, Call, Deleted, History, Outcome};
use super::invariants;
use super::stage::{Lab, PEERS_ARE_LOST};

/// The history that a drill wrote, which keeps every promise.
fn judged(file: &Path) -> History {
    let mut histories = written::read(file).expect("a history");
    let history = histories.pop().expect("a history");
    assert!(histories.is_empty(), "one drill has one history");
    assert_eq!(invariants::broken(&history), Vec::new());
    let answered = |verb: &str| {
        let mut done = history.ops.iter().filter(|op| matches!(op.outcome, Outcome::Ok(_)));
        done.any(|op| op.call.verb(op.session) == verb)
    };
    for verb in ["CreateQueue", "Send", "ReceiveStream", "Update", "Delete"] {
        assert!(answered(verb), "no {verb} of the drill was answered well");
    }
    let told =
        |is: fn(&Call) -> bool| history.ops.iter().any(|op| is(&op.call) && op.attempts == 1);
    assert!(told(|call| matches!(call, Call::Delete { .. })), "how often it was tried is told");
    assert!(told(|call| matches!(call, Call::Send { .. })), "as far as it is known");
    history
}

fn drill(line: &str) {
    let lab = Lab::up();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("drill.jsonl");
    let ran = lab.run(&format!("{line} --history {}", file.display()));
    let result = ran.exits(0);
    assert_eq!(result["ok"], true);
    for key in ["lost", "resurrected", "duplicated_while_leased", "never_sent"] {
        assert_eq!(result[key], 0, "{key}: {result}");
    }
    assert!(result["acknowledged"].as_u64().is_some_and(|many| many >= 600), "{result}");
    let round = &ran.items()[0];
    assert_eq!(round["round"], 1, "{round}");
    assert_eq!(lab.ok("queue list")["queues"], 0, "the drill's queue is removed");
    let equal = lab.ok("cluster verify");
    assert_eq!((&equal["equal"], &equal["nodes"]), (&true.into(), &3.into()), "{equal}");
    lab.warned_only_of(PEERS_ARE_LOST);
    let history = judged(&file);
    let sends = history.ops.iter().filter(|op| matches!(op.call, Call::Send { .. }));
    assert!(sends.count() as u64 >= result["acknowledged"].as_u64().expect("a number"));
    assert!(history.events.iter().any(|(_, what)| what.contains("zone")), "{:?}", history.events);
    assert!(!history.leaders.is_empty() && history.applied.len() >= 3);
    loses(history);
}

/// A history is not believed where a message is gone that nobody deleted.
fn loses(mut history: History) {
    let deletes = history.ops.iter().rposition(|op| matches!(op.call, Call::Delete { .. }));
    let op = &mut history.ops[deletes.expect("a delete")];
    let Outcome::Ok(Answer::Deleted { outcomes, .. }) = &op.outcome else {
        panic!("the last delete is unknown: {op:?}")
    };
    assert!(outcomes.contains(&Deleted::Done), "{op:?}");
    op.outcome = Outcome::Failed("it was taken out".to_owned());
    let broken = invariants::broken(&history);
    assert!(broken.iter().any(|(name, _)| *name == "I1"), "{broken:?}");
}

#[test]
fn a_history_goes_to_a_file_that_is_not_there_yet() {
    let lab = Lab::up();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("drill.jsonl");
    std::fs::write(&file, "mine").expect("written");
    let line = format!("drill zone --history {}", file.display());
    lab.run(&line).says(1, &["drill.jsonl", "exists"]);
    assert_eq!(std::fs::read_to_string(&file).expect("text"), "mine");
}

#[test]
fn a_killed_zone_loses_nothing() {
    drill("drill zone --rounds 1");
}

#[test]
fn a_zone_stopped_on_purpose_loses_nothing() {
    drill("drill zone --graceful");
}

/// Drills a pair of regions; the result, and the only round.
fn drill_region(line: &str) -> (Value, Value) {
    let lab = Lab::pair();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("drill.jsonl");
    let ran = lab.run(&format!("{line} --history {}", file.display()));
    let result = ran.exits(0);
    assert_eq!((&result["ok"], &result["equal"]), (&true.into(), &true.into()), "{result}");
    for key in [
        "lost",
        "resurrected",
        "duplicated_while_leased",
        "never_sent",
        "two_writable",
        "sync_later_than_truth",
    ] {
        assert_eq!(result[key], 0, "{key}: {result}");
    }
    assert!(result["samples"].as_u64().is_some_and(|many| many >= 10), "{result}");
    assert_eq!(lab.ok("queue list")["queues"], 0, "the drill's queue is removed");
    for region in lab.ok("lab status")["regions"].as_array().expect("regions") {
        assert_eq!(region["status"], "live", "it ends protected and live: {region}");
    }
    let history = judged(&file);
    let pair = &history.pair;
    assert!(pair.told.len() >= 20 && pair.sighted.len() >= pair.told.len());
    // A verb whose answer was lost is asked again.
    assert!(pair.acts.last().is_some_and(|act| act.outcome.is_ok()), "{:?}", pair.acts);
    let tail = pair.listed.iter().map(|listed| listed.alive.len()).sum::<usize>();
    assert_eq!(ran.items()[0]["tail_messages"].as_u64().unwrap_or(0), tail as u64);
    let regions: BTreeSet<usize> = history.ops.iter().map(|op| op.site.region).collect();
    assert_eq!(regions.len(), 2, "calls were answered by both");
    loses(history);
    (result, ran.items()[0].clone())
}

#[test]
fn a_region_is_handed_over_without_loss() {
    let (result, round) = drill_region("drill region --planned");
    assert_eq!((&round["from"], &round["to"]), (&"east".into(), &"west".into()), "{round}");
    assert_eq!((&result["rpo_messages"], &result["undone"]), (&0.into(), &0.into()), "{result}");
}

#[test]
fn what_a_lost_region_had_alone_is_in_its_tail_and_sent_again() {
    let (result, round) = drill_region("drill region --forced --behind 800ms");
    let tail = result["tail_found"].as_u64().expect("a number");
    assert!(tail > 0, "the line was cut, and sends went on: {result}");
    assert_eq!(result["rpo_messages"], tail);
    assert!(result["rpo_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{result}");
    let dealt = ["tail_replayed", "tail_skipped"].map(|key| round[key].as_u64().unwrap_or(0));
    assert_eq!(dealt[0] + dealt[1], round["tail_messages"].as_u64().expect("a number"), "{round}");
}

#[test]
fn a_lost_region_is_gone_home_to() {
    let (_, round) = drill_region("drill region --failback --behind 100ms");
    assert!(round["home_ms"].as_f64().is_some_and(|ms| ms > 0.0), "{round}");
}

#[test]
fn a_drill_of_regions_needs_two_and_one_kind() {
    let lab = Lab::up();
    lab.run("drill region --planned").says(64, &["one region only"]);
    lab.run("drill region").says(64, &["--planned"]);
    lab.run("drill region --planned --behind 1s").says(64, &["--behind"]);
}
