//! `zoneq drill`: the product's own proof, run as a user runs it.

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
