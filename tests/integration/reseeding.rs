//! A whole state that is given to the other region, and the loss of the leader that gives it.

use futures::future::try_join_all;
use serde_json::Value;
use zoneq::client::{Client, NewMessage};

use super::regions::{Pair, leader};

/// A second of giving at least, so that it is caught in the middle.
const MANY: usize = 64_000;
const BATCH: usize = 1_000;
const AT_ONCE: usize = 8;
const BODY: usize = 1 << 10;
const WHOLE: u64 = (MANY * BODY) as u64;

fn fill(client: &Client) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for _ in 0..MANY / BATCH / AT_ONCE {
        let messages = || vec![NewMessage::from(vec![b'x'; BODY]); BATCH];
        let sends = (0..AT_ONCE).map(|_| client.send_batch("orders", messages()));
        runtime.block_on(try_join_all(sends)).expect("sent");
    }
}

#[test]
fn what_one_of_three_began_to_give_is_gone_on_with_by_the_next_leader() {
    let mut pair = Pair::up();
    pair.ok(&pair.east, "queue create orders");
    pair.protect();
    // The side that is deposed lacks all that the other one takes from then on.
    pair.east.kill();
    assert_eq!(pair.ok(&pair.west, "region failover --force")["promoted"], true);
    fill(&pair.client(&pair.west, &pair.west));
    pair.east.start(pair.home.path());
    pair.until(&pair.east, "the old primary is fenced", |it| it["role"] == "fenced");
    let at = leader(pair.home.path(), &pair.west);
    pair.ok(&pair.west, "region protect --discard-tail");
    let copied = |it: &Value| it["copied_bytes"].as_u64().unwrap_or(0);
    let before = pair.until(&pair.west, "a third is given", |it| copied(it) > WHOLE / 3);
    pair.west.nodes[at] = None;
    assert_eq!(before["status"], "bootstrap", "{before}");
    pair.ok(&pair.west, "send orders meanwhile");
    let after = pair.until(&pair.west, "the copy is live", |it| it["status"] == "live");
    let (before, after) = (copied(&before), copied(&after));
    println!("{before} bytes by the first leader, {after} by the next, of {WHOLE}");
    assert!(after > 0, "the first gave all: {before}");
    assert!(after < WHOLE - before + WHOLE / 8, "{after} bytes by the next, {before} by the first");
    pair.bring_back("west", at);
    assert_eq!(pair.ok(&pair.west, "region verify")["equal"], true);
    pair.fail_over(&pair.west, "east");
    let total = &pair.ok(&pair.east, "queue show orders")["queue"]["counts"]["total"];
    assert_eq!(total.as_u64(), Some(MANY as u64 + 1));
}
