//! A cluster is made to survive less and more, by name, live and without loss.

use serde_json::Value;

use super::stage::{Lab, PEERS_ARE_LOST, Process, wait};

/// The voters as the leader has them.
fn voters(lab: &Lab) -> Vec<u64> {
    let shown = lab.ok("cluster redundancy");
    shown["voters"].as_array().expect("voters").iter().filter_map(Value::as_u64).collect()
}

#[test]
fn three_zones_become_one_and_three_again_while_messages_come() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    let leader = lab.leader();
    let shown = lab.ok("cluster redundancy");
    assert_eq!((&shown["redundancy"], voters(&lab)), (&"ZRS".into(), vec![1, 2, 3]));
    let same = lab.ok("cluster redundancy zrs");
    assert_eq!(
        (same["stage"].as_str(), &same["begin_to_vote"]),
        (Some("done"), &Value::Array(vec![]))
    );

    let dry = lab.ok("cluster redundancy lrs --dry-run");
    assert_eq!(
        (dry["stage"].as_str(), &dry["wanted_redundancy"]),
        (Some("planned"), &"LRS".into())
    );
    assert_eq!(dry["voters"], Value::from(vec![leader]));
    assert_eq!(voters(&lab), [1, 2, 3], "a dry run changes nothing");
    let other = (1..=3).find(|id| *id != leader).expect("another node");
    let refused = lab.run(&format!("cluster redundancy lrs --zone z{other}"));
    refused.says(2, &[&format!("node {leader} leads and is in zone z{leader}"), "transfer"]);
    lab.run("cluster redundancy zrs --zone z1").says(64, &["--zone"]);

    // Live: a load runs through both changes, and finds every message again.
    let line = "bench pipeline --secs 6 --warmup 0 -c 8 --json --dir";
    let load = Process::start(lab.home(), &format!("{line} {}", lab.dir.display()));
    wait("the load runs", || {
        let status = lab.run("cluster status").result();
        status["messages"].as_u64().filter(|many| *many > 0)
    });
    let local = lab.ok("cluster redundancy lrs");
    assert_eq!((local["stage"].as_str(), &local["redundancy"]), (Some("done"), &"LRS".into()));
    assert_eq!(voters(&lab), [leader]);
    assert_eq!(lab.ok("cluster redundancy lrs")["voters"], Value::from(vec![leader]), "twice");
    let zoned = lab.ok("cluster redundancy zrs");
    assert_eq!((&zoned["redundancy"], voters(&lab)), (&"ZRS".into(), vec![1, 2, 3]));
    let load = load.ended().exits(0);
    assert_eq!(load["errors"].as_u64().unwrap_or(0), 0, "{load}");

    // With one voter the others may go; what is acknowledged then is there when they are back.
    lab.ok("cluster redundancy lrs");
    lab.ok("send orders alone");
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    lab.ok(&format!("lab kill {} {}", others[0], others[1]));
    lab.ok("send orders still");
    wait("the leader misses them", || {
        // Before it does, it waits for a word of them, and changes nothing without.
        let refused = lab.run("cluster redundancy zrs --deadline 2s");
        let told = refused.result()["error"]["message"].to_string();
        let named = told.contains("does not answer") && told.contains("add a node in 2 more");
        (refused.code == Some(2) && named).then_some(())
    });
    lab.ok(&format!("lab start {} {}", others[0], others[1]));
    wait("all answer", || (lab.run("cluster redundancy zrs").code == Some(0)).then_some(()));
    assert_eq!(voters(&lab), [1, 2, 3]);
    assert_eq!(lab.ok("cluster verify")["equal"], true);
    assert_eq!(lab.ok("receive orders --max 10 --wait 5s")["received"], 2);
    lab.warned_only_of(PEERS_ARE_LOST);
}

#[test]
fn one_zone_cannot_be_three_and_says_what_to_add() {
    let lab = Lab::prepared();
    lab.ok(&format!("{} --zones 1", lab.up_line()));
    assert_eq!(lab.ok("cluster redundancy")["redundancy"], "LRS");
    lab.run("cluster redundancy zrs").says(2, &["z1 (node 1)", "add a node in 2 more"]);
    assert_eq!(lab.ok("cluster redundancy lrs")["voters"], Value::from(vec![1]));
}

#[test]
fn the_name_follows_the_zones_and_the_second_region() {
    let lab = Lab::pair();
    let name = |region: &str| {
        let of = |line: &str, key: &str| {
            lab.ok(&format!("{line} -e {region}"))[key].as_str().expect("a name").to_owned()
        };
        // Between two questions the regions may have heard of each other.
        wait("both commands say the same name", || {
            let shown = of("cluster redundancy", "redundancy");
            (of("region status", "redundancy") == shown).then_some(shown)
        })
    };
    assert_eq!((name("east"), name("west")), ("GZRS".to_owned(), "GZRS".to_owned()));
    lab.ok("cluster redundancy lrs -e east");
    assert_eq!((name("east"), name("west")), ("GRS".to_owned(), "GZRS".to_owned()));
    lab.ok("region read-access on -e west");
    wait("the primary has heard of it", || (name("east") == "RA-GRS").then_some(()));
    lab.ok("cluster redundancy zrs -e east");
    assert_eq!((name("east"), name("west")), ("RA-GZRS".to_owned(), "RA-GZRS".to_owned()));
    // Beside the verbs about the pair, and in its epoch.
    let audit = lab.run("region audit -e east").items();
    let line = |what: &str| audit.iter().find(|line| line["what"] == what).unwrap_or(&Value::Null);
    let done = line("change the redundancy to zrs: node 1, 2, 3 to vote");
    assert_eq!(done["epoch"], 1, "{audit:?}");
    let begun = line("begin to change the redundancy to zrs: node 1, 2, 3 to vote");
    assert!(begun["number"].as_u64() < done["number"].as_u64(), "{audit:?}");
    assert!(line("protect itself by region \"west\"")["number"].as_u64().is_some(), "{audit:?}");
    let leader = lab.ok("cluster redundancy -e east");
    assert_eq!(leader["redundancy"], "RA-GZRS");
    let status = lab.ok("cluster status -e east");
    assert_eq!(status["redundancy"], "ZRS", "by the zones alone");
}
