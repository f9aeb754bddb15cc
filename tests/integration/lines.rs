//! What an operator sets about the line between two regions of real processes.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::regions::Pair;

/// The status line by line, as `--watch --json` shows it, until one is as wanted; then it is
/// interrupted and must end well.
fn watched(pair: &Pair, is_wanted: impl Fn(&Value) -> bool) -> usize {
    let mut watching = Command::new(super::stage::BINARY)
        .args(["region", "status", "--watch", "--interval", "100ms", "--json", "-e"])
        .arg(pair.east.urls().join(","))
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(watching.stdout.take().expect("its output")).lines();
    let mut seen = 0;
    for line in lines {
        seen += 1;
        let line = line.expect("a line");
        let value: Value = serde_json::from_str(&line).expect("an object on a line of its own");
        if is_wanted(&value) {
            break;
        }
        assert!(seen < 300, "never as wanted: {line}");
    }
    let id = rustix::process::Pid::from_child(&watching);
    rustix::process::kill_process(id, rustix::process::Signal::INT).expect("interrupted");
    let ended = watching.wait().expect("it ends");
    assert_eq!(ended.code(), Some(0));
    seen
}

#[test]
fn the_line_is_shaped_and_limited_by_the_verbs_and_both_sides_show_it() {
    let pair = Pair::up();
    let (east, west) = (&pair.east, &pair.west);
    pair.ok(east, "queue create orders");
    pair.protect();
    let trace = pair.home.path().join("line.trace");
    std::fs::write(&trace, "# up for an hour\n0s 0s - up\n1h 1s 2MiB/s down\n").expect("written");
    let shape = format!(
        "region shape --delay 200ms --jitter 50ms --outage 1h/5s/2h --trace {}",
        trace.display()
    );
    let shaped = pair.ok(east, &shape);
    assert_eq!(
        (&shaped["shape"]["trace_steps"], &shaped["shape"]["down"]),
        (&2.into(), &false.into())
    );
    let at_west = pair.until(west, "west hears of it", |it| it["shape"].is_object());
    assert_eq!(at_west["shape"]["jitter_seconds"], 0.05);
    assert_eq!(at_west["shape"]["outages"][0]["every_seconds"], 7_200.0);
    pair.run(west, "region shape --pause").says(2, &["at the primary"]);
    pair.run(east, "region shape --bandwidth 1B/s").says(2, &["1 KiB/s"]);
    pair.run(east, "region shape --outage 5s").says(64, &["START/FOR"]);
    pair.ok(east, "region limit --max-lag 2s --max-unshipped 64MiB --alert");
    pair.ok(east, "region shape --pause");
    pair.ok(east, "send orders late");
    let seen = watched(&pair, |it| {
        it["limit"]["passed"] == true && it["status"] == "unavailable" && it["messages_behind"] == 1
    });
    assert!(seen > 1, "it watches");
    let east_now = pair.ok(east, "region status");
    let trouble = east_now["trouble"].as_str().expect("a trouble");
    assert!(trouble.contains("it is down") && trouble.contains("over the limit"), "{trouble}");
    pair.until(west, "west says that it is cut off", |it| it["status"] == "unavailable");
    pair.ok(east, "region limit --max-unshipped 1MiB --throttle");
    let shown = pair.until(west, "west knows the limit", |_| {
        let loss = pair.ok(west, "region failover --force --dry-run");
        loss["bytes_lost_at_most"] == 1_048_576 && loss["messages_lost"] == 1
    });
    assert_eq!(shown["role"], "secondary");
    let held = "lets nothing through in the time that writes may rest";
    pair.run(east, "region failover --to west --deadline 5s").says(3, &[held]);
    let off = pair.ok(east, "region shape --off");
    assert!(off["shape"].is_null(), "{off}");
    pair.until(east, "all is there", |it| {
        it["status"] == "live" && it["messages_behind"] == 0 && it["trouble"].is_null()
    });
    pair.ok(east, "region limit --max-lag off --max-unshipped off");
}
