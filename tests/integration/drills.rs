//! `zoneq drill`: the product's own proof, run as a user runs it.

use serde_json::Value;

use super::stage::{Lab, PEERS_ARE_LOST};

fn drill(line: &str) {
    let lab = Lab::up();
    let ran = lab.run(line);
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
    let ran = lab.run(line);
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
    let (result, round) = drill_region("drill region --forced --behind 300ms");
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
