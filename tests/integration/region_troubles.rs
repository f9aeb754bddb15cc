//! What goes wrong between two regions of real processes. Both sides say so in their status, the
//! primary serves on, and once it is over the copy is live and equal by itself.

use std::time::Duration;

use futures::future::try_join_all;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::Instant;
use zoneq::client::{Client, NewMessage};

use super::disk_full::set_free_at;
use super::regions::{Pair, Region, leader};
use super::serving::{Serving, alone};
use super::stage::{wait, zoneq};

/// The nodes' disks can be told to count as full.
const FAULTS: &str = "--enable-faults";
const FULL: &str = "shipped entries are refused until it has space";

fn set_free(region: &Region, bytes: Option<u64>) {
    for url in region.urls() {
        set_free_at(&url, bytes);
    }
}

/// Whether a node says of its own disk that it refuses something.
fn is_full(pair: &Pair, url: &str) -> bool {
    let line = format!("cluster status --json -e {url}");
    let status = zoneq(pair.home.path(), &line).result();
    let nodes = status["nodes"].as_array().into_iter().flatten();
    let own = nodes.filter(|node| node["id"] == status["answered_by"]);
    own.filter_map(|node| node["disk"].as_str()).any(|it| it.starts_with("refuses"))
}

fn client(region: &Region) -> Client {
    let builder = Client::builder().endpoints(region.urls()).deadline(Duration::from_secs(30));
    builder.build().expect("a client")
}

fn says(status: &Value, words: &str) -> bool {
    status["trouble"].as_str().is_some_and(|why| why.contains(words))
}

/// Waits until both say that all is well, and compares them.
fn until_well(pair: &Pair) {
    for (region, role) in [(&pair.east, "primary"), (&pair.west, "secondary")] {
        let status = pair.until(region, "all is well", |it| {
            it["role"] == role && it["status"] == "live" && it["entries_behind"] == 0
        });
        let silent = (&status["trouble"], &status["stalled_seconds"]);
        assert_eq!(silent, (&Value::Null, &Value::Null), "{status}");
    }
    assert_eq!(pair.ok(&pair.east, "region verify")["equal"], true);
}

#[test]
fn a_secondary_whose_disks_are_full_is_told_of_by_both_sides_and_catches_up() {
    let pair = Pair::up_with(FAULTS);
    let (east, west) = (&pair.east, &pair.west);
    pair.ok(east, "queue create orders");
    pair.protect();
    let runtime = Runtime::new().expect("a runtime");
    let client = client(east);
    let mut sent = 0;
    let mut send = || {
        runtime.block_on(client.send("orders", vec![b'x'; BODY / 8])).expect("sent");
        sent += 1;
    };
    // At a good pace: what waits then looks as if it were soon there.
    let began = Instant::now();
    wait("it ships for a while", || {
        send();
        (began.elapsed() > Duration::from_millis(1_500)).then_some(())
    });
    set_free(west, Some(0));
    // Until the last of its nodes has met the fault, leadership goes to one that has space, and
    // that one takes what is shipped.
    wait("no node of west has space", || {
        west.urls().iter().all(|url| is_full(&pair, url)).then_some(())
    });
    let full = wait("west says that it takes nothing", || {
        send();
        Some(pair.ok(west, "region status")).filter(|it| says(it, FULL))
    });
    assert_eq!(full["status"], "unavailable", "{full}");
    assert!(full["stalled_seconds"].is_number(), "{full}");
    send();
    send();
    let told = pair.until(east, "east says why it does not ship", |it| says(it, FULL));
    // Writes do not rest for a failover that cannot be. It is asked again where the answer was
    // lost, as on a busy machine.
    let refused = wait("a failover is answered", || {
        let ran = pair.run(east, "region failover --to west --deadline 4s");
        (ran.code != Some(75)).then_some(ran)
    });
    refused.says(3, &["the other region does not follow", FULL]);
    let audit = format!("{:?}", pair.run(east, "region audit").items());
    assert!(!audit.contains("seal"), "{audit}");
    let synced = &told["last_sync_time"];
    // Tried again and again: it stands still since the first time, and says so all the while.
    let still = pair.until(east, "it stands still for a while", |it| {
        assert!(says(it, FULL) && it["status"] == "unavailable", "{it}");
        assert_eq!(&it["last_sync_time"], synced, "nothing came there: {it}");
        it["stalled_seconds"].as_f64().is_some_and(|lasts| lasts > 3.0)
    });
    let behind = still["messages_behind"].as_u64().expect("it is known");
    assert!((2..sent).contains(&behind), "{still}");
    assert_eq!((&still["writable"], &still["role"]), (&true.into(), &"primary".into()));
    for region in [east, west] {
        let line = format!("region status -e {}", region.urls().join(","));
        zoneq(pair.home.path(), &line).says(0, &["shipping has stood still for", FULL]);
    }
    let loss = pair.ok(west, "region failover --force --dry-run");
    assert_eq!(loss["messages_lost"], behind, "{loss}");
    set_free(west, None);
    until_well(&pair);
    pair.fail_over(east, "west");
    let total = &pair.ok(west, "queue show orders")["queue"]["counts"]["total"];
    assert_eq!(total.as_u64(), Some(sent));
}

/// More than a segment of the log.
const BATCHES: usize = 20;
const BATCH: usize = 60;
const BODY: usize = 64 << 10;
/// So much is free that nothing is refused, and so little that no log is kept for others.
const THRIFTY: u64 = 200 << 20;

/// Writes more than is kept, and removes it.
fn outrun(pair: &Pair) {
    pair.ok(&pair.east, "queue create much");
    let client = client(&pair.east);
    let runtime = Runtime::new().expect("a runtime");
    let messages = || vec![NewMessage::from(vec![b'x'; BODY]); BATCH];
    for _ in 0..BATCHES / 4 {
        let sends = (0..4).map(|_| client.send_batch("much", messages()));
        runtime.block_on(try_join_all(sends)).expect("sent");
    }
    pair.ok(&pair.east, "clear much");
}

#[test]
fn a_copy_beyond_the_kept_log_is_given_what_it_lacks_by_a_leader_that_was_seeded_itself() {
    let mut pair = Pair::up_with(FAULTS);
    pair.ok(&pair.east, "queue create orders");
    pair.protect();
    pair.ok(&pair.east, "send orders before");
    until_well(&pair);
    set_free(&pair.east, Some(THRIFTY));
    let seeded = (leader(pair.home.path(), &pair.east) + 1) % 3;
    pair.east.nodes[seeded] = None;
    let there = pair.ok(&pair.east, "cluster status")["last_log_index"].as_u64();
    pair.west.kill();
    outrun(&pair);
    pair.ok(&pair.east, "send orders meanwhile");
    wait("the log is gone", || {
        pair.ok(&pair.east, "cluster snapshot");
        let status = pair.ok(&pair.east, "cluster status");
        (status["purged_index"].as_u64() > there).then_some(())
    });
    let gone = pair.until(&pair.east, "the copy is gone", |it| it["status"] == "unavailable");
    // A leader that was made since does not know.
    let behind = &gone["messages_behind"];
    assert!(behind.is_null() || *behind == 1, "what was cleared is no loss: {gone}");

    pair.bring_back("east", seeded);
    let id = seeded + 1;
    wait("the node that was gone leads", || {
        pair.run(&pair.east, &format!("cluster transfer --to {id}"));
        (leader(pair.home.path(), &pair.east) == seeded).then_some(())
    });
    let log = pair.east.nodes[seeded].as_ref().map(Serving::log).expect("it runs");
    assert!(log.contains("a snapshot from another node was installed"), "{log}");
    let home = pair.home.path().to_owned();
    pair.west.start(&home);
    until_well(&pair);
    let given = pair.ok(&pair.east, "region status");
    assert!(given["copied_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{given}");
    // From there on it is shipped from the log, by this leader and by the next.
    pair.ok(&pair.east, "send orders shipped");
    until_well(&pair);
    pair.east.nodes[seeded] = None;
    pair.ok(&pair.east, "send orders by-the-next");
    until_well(&pair);
    pair.bring_back("east", seeded);
    pair.fail_over(&pair.east, "west");
    assert_eq!(pair.run(&pair.west, "peek orders --max 10").items().len(), 4);
}

#[test]
fn a_third_cluster_and_a_primary_whose_copy_left_are_refused_and_say_so() {
    let pair = Pair::up();
    let (east, west) = (&pair.east, &pair.west);
    pair.ok(east, "queue create orders");
    pair.protect();
    pair.ok(east, "send orders kept");
    until_well(&pair);
    // A stranger with data that takes the secondary for its own, and one without.
    let line =
        format!("{} --region north --other-region {}", alone(pair.home.path()), east.other());
    let north = Serving::start(pair.home.path(), &line);
    let at_north =
        |line: &str| zoneq(pair.home.path(), &format!("{line} --json -e {}", north.url()));
    wait("north serves", || (at_north("queue create orders").code == Some(0)).then_some(()));
    for _ in 0..2 {
        at_north("region protect").says(2, &["holds data of its own", "west"]);
        at_north("send orders of-a-stranger").exits(0);
    }
    let alone = at_north("region status").exits(0);
    assert_eq!((&alone["role"], &alone["peer"]), (&"standalone".into(), &Value::Null), "{alone}");
    at_north("region failover --force").exits(2);
    until_well(&pair);

    // The copy is kept and follows nobody: what its primary ships is of an attachment that is over.
    pair.ok(west, "region unprotect");
    pair.ok(east, "send orders alone");
    let left = pair.until(east, "east says that the copy has left", |it| {
        says(it, "this cluster is attached to")
    });
    assert_eq!((&left["status"], &left["role"]), (&"unavailable".into(), &"primary".into()));
    let said = pair.until(east, "it says what the other is", |it| it["peer_role"] == "detached");
    assert_eq!(said["redundancy"], "ZRS", "no copy follows: {said}");
    let kept = pair.ok(west, "region status");
    assert_eq!((&kept["role"], &kept["writable"]), (&"detached".into(), &false.into()), "{kept}");
    pair.ok(east, "region protect");
    until_well(&pair);
}
