//! The region lease between two regions of real processes.

use super::regions::{Pair, leader};
use super::stage::{Process, wait};

/// The command as an operator types it, with a deadline after which it is not tried again.
const SEND: &str = "send orders one --deadline 2s";

fn leased(span: &str) -> Pair {
    let pair = Pair::up();
    pair.ok(&pair.east, "queue create orders");
    pair.protect();
    let set = pair.ok(&pair.east, &format!("region lease {span}"));
    assert_eq!(set["in_force"], true, "{set}");
    pair.until(&pair.east, "a grant is held", |it| it["lease"]["left_seconds"].is_number());
    pair
}

#[test]
fn the_next_leader_of_a_primary_does_not_inherit_its_region_lease() {
    let mut pair = leased("30s");
    pair.west.kill();
    // A grant is out: writes go on, though the other region is gone.
    pair.until(&pair.east, "the copy is gone", |it| it["status"] == "unavailable");
    pair.ok(&pair.east, SEND);
    let at = leader(pair.home.path(), &pair.east);
    pair.east.nodes[at] = None;
    wait("the next leader acknowledges nothing", || {
        let sent = pair.run(&pair.east, SEND);
        assert_ne!(sent.code, Some(0), "it has no grant: {sent:?}");
        format!("{sent:?}").contains("the region lease has run out").then_some(())
    });
    let status = pair.until(&pair.east, "it says why", |it| {
        it["trouble"].as_str().is_some_and(|why| why.contains("no region lease"))
    });
    assert_eq!(status["lease"]["in_force_seconds"], 30.0, "{status}");
    // An operator who knows that the other region is gone gives the lease up.
    pair.run(&pair.east, "region lease off --deadline 8s").says(2, &["the region lease stays"]);
    pair.ok(&pair.east, "region lease off --force");
    pair.ok(&pair.east, SEND);
    let audit = format!("{:?}", pair.run(&pair.east, "region audit").items());
    assert!(audit.contains("rely on a region lease of 30000 ms"), "{audit}");
    assert!(audit.contains("rely on no region lease"), "{audit}");
}

#[test]
fn a_forced_failover_says_how_long_it_waits_and_nothing_is_acknowledged_on_both_sides() {
    let pair = leased("2s");
    pair.ok(&pair.east, SEND);
    let shown = pair.ok(&pair.west, "region failover --force --dry-run");
    assert_eq!(shown["lease_wait_seconds"], 2.45, "{shown}");
    pair.ok(&pair.east, SEND);
    let began = tokio::time::Instant::now();
    // Asked again where the answer was lost: it goes on waiting.
    wait("west is promoted", || {
        pair.run(&pair.west, "region failover --force");
        (pair.run(&pair.west, "region status").result()["role"] == "standalone").then_some(())
    });
    let took = began.elapsed().as_secs_f64();
    assert!(took >= 2.45, "{took} s");
    pair.ok(&pair.west, SEND);
    pair.run(&pair.east, SEND).exits(2);
}

#[test]
fn a_forced_failover_asked_of_a_follower_ends_though_the_leader_is_lost_meanwhile() {
    let mut pair = leased("2s");
    pair.east.kill();
    let at = leader(pair.home.path(), &pair.west);
    let other = pair.west.urls()[(at + 1) % 3].clone();
    let line = format!("region failover --force --json -e {other}");
    let asked = Process::start(pair.home.path(), &line);
    wait("granting is stopped", || {
        let audit = format!("{:?}", pair.run(&pair.west, "region audit").items());
        audit.contains("stop granting region leases").then_some(())
    });
    // The way to the leader breaks while it waits for the lease: the next one goes on.
    pair.west.nodes[at] = None;
    let done = asked.ended().exits(0);
    assert_eq!(done["promoted"], true, "{done}");
    let status = pair.run(&pair.west, "region status").result();
    assert_eq!((&status["role"], &status["epoch"]), (&"standalone".into(), &2.into()), "{status}");
    let audit = pair.run(&pair.west, "region audit").items();
    let promotions = audit.iter().filter(|line| {
        line["what"].as_str().is_some_and(|what| what.starts_with("promote itself by force"))
    });
    assert_eq!(promotions.count(), 1, "{audit:?}");
    pair.ok(&pair.west, SEND);
    // Asked for anew it is refused, as before: nothing says that it is the same one.
    pair.run(&pair.west, "region failover --force").exits(2);
}
