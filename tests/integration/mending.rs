//! A node whose last record is in doubt, and an operator who gives it up.

use super::inspection::spoil;
use super::stage::{Lab, PEERS_ARE_LOST, Process, wait};

#[test]
fn a_record_in_doubt_waits_for_the_others_until_an_operator_gives_it_up() {
    let lab = Lab::up();
    lab.ok("queue create orders");
    lab.ok("send orders the-last-body");
    let doubts = lab.leader() % 3 + 1;
    let url = &lab.urls()[doubts as usize - 1];
    lab.ok("cluster verify");
    let whole = lab.ok(&format!("cluster mend -e {url}"));
    assert_eq!((&whole["node"], &whole["trouble"]), (&doubts.into(), &"none".into()), "{whole}");
    lab.run(&format!("cluster mend -e {url} --accept")).says(2, &["no record", "in doubt"]);

    lab.ok("lab kill all");
    spoil(&lab.data_dir(doubts), b"the-last-body", |rest| rest[0] ^= 1);
    let line = format!("lab start {doubts} --dir {}", lab.dir.display());
    let starting = Process::start(lab.home(), &line);
    let asked = wait("the node says what it misses", || {
        let ran = lab.run(&format!("cluster mend -e {url} --deadline 2s"));
        ran.stdout.contains("\"doubt\"").then(|| ran.exits(1))
    });
    let others: Vec<u64> = (1..=3).filter(|id| *id != doubts).collect();
    assert_eq!((&asked["accepted"], &asked["silent_nodes"]), (&false.into(), &others.into()));
    let elsewhere = format!("send orders more -e {url} --deadline 1s");
    lab.run(&elsewhere).says(3, &["makes its data whole before it takes part"]);

    let accepted = lab.run(&format!("cluster mend -e {url} --accept"));
    assert_eq!(accepted.exits(0)["last_index"], asked["last_index"]);
    // It waits for a leader, which there is when another comes; the node runs without it.
    drop(starting);
    // The others have it, so nothing is lost after all.
    lab.ok("lab start all");
    let received = lab.run("receive orders --wait 10s");
    assert_eq!(received.items()[0]["body"], "the-last-body", "{received:?}");
    assert_eq!(lab.ok("cluster verify")["equal"], true);
    let expected = ["the log is not whole", "because an operator gave it up"];
    lab.warned_only_of(&[PEERS_ARE_LOST, &expected].concat());
}
