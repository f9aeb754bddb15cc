//! `zoneq lab`: up, status, down and up again.

use super::stage::{Lab, PEERS_ARE_LOST, zoneq};

#[test]
fn a_lab_comes_up_serves_goes_down_and_comes_back_with_its_data() {
    let lab = Lab::prepared();
    let up = lab.ok(&lab.up_line());
    assert_eq!((&up["ok"], &up["redundancy"]), (&true.into(), &"ZRS".into()), "{up}");
    assert_eq!(up["notes"].as_array().map(Vec::len), Some(0), "{up}");
    let leader = up["leader"].as_u64().expect("a leader");
    let zones: Vec<&str> = up["nodes"]
        .as_array()
        .expect("nodes")
        .iter()
        .filter_map(|node| node["zone"].as_str())
        .collect();
    assert_eq!(zones, ["z1", "z2", "z3"]);
    assert_eq!(lab.leader(), leader);

    lab.ok("queue create orders");
    lab.ok("send orders kept");
    let again = lab.ok("lab up --detach");
    assert_eq!(again["notes"][0], "every node was running already");

    let down = lab.ok("lab down");
    for node in down["nodes"].as_array().expect("nodes") {
        assert_eq!((&node["state"], &node["pid"]), (&"down".into(), &().into()), "{node}");
    }
    assert_eq!(lab.ok("lab status")["nodes"][0]["state"], "down");
    lab.run("send orders nobody --deadline 300ms").exits(3);

    lab.ok("lab up --detach");
    assert_eq!(lab.ok("receive orders --wait 5s")["received"], 1);
    lab.warned_only_of(PEERS_ARE_LOST);
}

#[test]
fn one_zone_is_lrs_and_says_so_and_a_layout_that_loses_data_is_refused() {
    let lab = Lab::prepared();
    lab.run("lab up --detach --zones 2").says(64, &["--zones 2", "use 3 or more"]);
    lab.run("lab up --detach --regions 3").says(64, &["--regions is 3", "1 and 2"]);
    assert!(!lab.dir.exists(), "a refused lab leaves nothing");
    let up = lab.ok(&format!("{} --zones 1", lab.up_line()));
    assert_eq!(up["redundancy"], "LRS");
    assert!(up["notes"][0].as_str().is_some_and(|note| note.contains("not of the zone")), "{up}");
    lab.run("drill zone").says(64, &["one zone only"]);
    lab.run("lab up --detach --zones 3").says(64, &["--zones is 3"]);
    lab.run("lab up --detach --regions 2").says(64, &["--regions is 2", "has 1"]);
    lab.run("lab cut east west").says(64, &["between two regions"]);
    lab.run("lab kill z9").says(64, &["z9", "its nodes: [1]"]);
    lab.warned_only_of(&[]);
}

#[test]
fn verbs_without_a_lab_say_how_to_start_one() {
    let home = tempfile::tempdir().expect("a folder");
    for verb in ["status", "down", "kill all", "start 1", "pause 1", "cut east west", "heal"] {
        let ran = zoneq(home.path(), &format!("lab {verb} --dir nowhere"));
        ran.says(64, &["there is no lab in nowhere", "zoneq lab up --dir nowhere"]);
    }
    assert!(std::fs::read_dir(home.path()).expect("a folder").next().is_none(), "nothing is made");
}
