//! Planned failovers of two regions of real processes, whose leaders are killed at each of their
//! steps, or that are begun at both sides at once.
//!
//! A client of each region sends all the while. What it is acknowledged must be there at the end;
//! and an acknowledgement of an epoch that is over, to a send that began after a later epoch was
//! acknowledged, would show two regions that take writes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use zoneq::client::Client;

use super::regions::{Pair, Region, drain, leader};
use super::stage::{Process, Ran, wait};

/// Between two sends of one client.
const PACE: Duration = Duration::from_millis(20);
/// What lies before the line that a failover drains.
const BACKLOG: usize = 384 << 10;
const BODY: usize = 32 << 10;
/// How a leader is lost while the verb runs: not done, or done or not.
const CUT_SHORT: [Option<i32>; 3] = [Some(0), Some(3), Some(75)];

#[derive(Default)]
struct Noted {
    stop: AtomicBool,
    /// The highest epoch of an acknowledgement.
    epoch: AtomicU32,
    acknowledged: Mutex<Vec<String>>,
}

/// Clients that send until they are told to stop.
struct Load {
    runtime: Runtime,
    noted: Arc<Noted>,
    sending: Vec<JoinHandle<()>>,
}

fn client(region: &Region, deadline: Duration) -> Client {
    let builder = Client::builder().endpoints(region.urls()).deadline(deadline);
    builder.build().expect("a client")
}

async fn send_all(client: Client, name: &'static str, noted: Arc<Noted>) {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 0.. {
        pace.tick().await;
        if noted.stop.load(Ordering::SeqCst) {
            return;
        }
        let before = noted.epoch.load(Ordering::SeqCst);
        let body = format!("{name}-{number}");
        let Ok(sent) = client.send("orders", body.as_str()).await else { continue };
        let epoch = sent.durability.epoch;
        assert!(epoch >= before, "{name} acknowledged in epoch {epoch}, begun after {before}");
        noted.epoch.fetch_max(epoch, Ordering::SeqCst);
        noted.acknowledged.lock().expect("a lock").push(body);
    }
}

impl Load {
    fn on(pair: &Pair) -> Load {
        let runtime = Runtime::new().expect("a runtime");
        let noted = Arc::new(Noted::default());
        let sending = ["east", "west"].map(|name| {
            // Each knows one region only: nobody tells it that the other one leads.
            let client = {
                let _context = runtime.enter();
                client(pair.side(name), Duration::from_secs(1))
            };
            runtime.spawn(send_all(client, name, Arc::clone(&noted)))
        });
        Load { runtime, noted, sending: sending.into() }
    }

    fn many(&self) -> usize {
        self.noted.acknowledged.lock().expect("a lock").len()
    }

    /// Waits until more is acknowledged.
    fn goes_on(&self) {
        let before = self.many();
        wait("sends are acknowledged", || (self.many() > before + 3).then_some(()));
    }

    /// Stops, and fails unless the regions are equal and hold all that was acknowledged.
    fn lost_nothing(self, pair: &Pair, primary: &str) {
        self.goes_on();
        self.noted.stop.store(true, Ordering::SeqCst);
        for sender in self.sending {
            self.runtime.block_on(sender).expect("a sender ends");
        }
        assert_eq!(pair.ok(pair.side(primary), "region verify")["equal"], true);
        let client = client(pair.side(primary), Duration::from_secs(20));
        let found = self.runtime.block_on(drain(&client));
        let acknowledged = self.noted.acknowledged.lock().expect("a lock");
        let lost: Vec<&String> = acknowledged.iter().filter(|it| !found.contains(*it)).collect();
        assert!(lost.is_empty(), "{} of {} lost: {lost:?}", lost.len(), acknowledged.len());
    }
}

fn protected() -> Pair {
    let pair = Pair::up();
    pair.ok(&pair.east, "queue create orders");
    pair.protect();
    pair
}

/// Runs a command that changes nothing when it is run again, where an answer was lost on a busy
/// machine.
fn done(pair: &Pair, region: &Region, line: &str) {
    wait(line, || (pair.run(region, line).code == Some(0)).then_some(()));
}

fn begin(pair: &Pair, asked: &str, line: &str) -> Process {
    let urls = pair.side(asked).urls().join(",");
    Process::start(pair.home.path(), &format!("{line} --json -e {urls}"))
}

/// Waits until both say what they are and the copy is live.
fn until_settled(pair: &Pair, primary: &str, secondary: &str) {
    pair.until(pair.side(primary), "it is the primary", |it| {
        it["role"] == "primary" && it["status"] == "live"
    });
    pair.until(pair.side(secondary), "it is the secondary", |it| {
        it["role"] == "secondary" && it["status"] == "live" && it["writable"] == false
    });
}

/// A step of a failover, as it shows.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// What the copy lacks crosses a narrow line.
    Draining,
    Sealed,
    Released,
    Promoted,
}

impl Step {
    /// Makes the line so that the step lasts.
    fn prepare(self, pair: &Pair, from: &Region) {
        done(pair, from, "region shape --off");
        if !matches!(self, Step::Draining) {
            done(pair, from, "region shape --delay 400ms");
            return;
        }
        done(pair, from, "region shape --bandwidth 128KiB/s");
        let runtime = Runtime::new().expect("a runtime");
        runtime.block_on(async {
            let client = client(from, Duration::from_secs(20));
            // Each an entry of its own: what is one crosses as one.
            for _ in 0..BACKLOG / BODY {
                client.send("orders", vec![b'x'; BODY]).await.expect("sent");
            }
        });
    }

    /// Whether it is so; `None` = it is over, unseen.
    fn shows(self, pair: &Pair, from: &Region, to: &Region) -> Option<bool> {
        let looked = |region| pair.run(region, "region status").result();
        let (from, promoted) = (looked(from), looked(to)["role"] == "primary");
        let shows = match self {
            Step::Draining => {
                let left = from["bytes_behind"].as_u64().unwrap_or(u64::MAX);
                from["role"] == "primary" && left < BACKLOG as u64 * 3 / 4
            }
            Step::Sealed => from["role"] == "sealed",
            Step::Released => from["role"] == "released",
            Step::Promoted => promoted,
        };
        (shows || !promoted).then_some(shows)
    }
}

/// Begins a failover, and again where it was cut short, until the step shows. On a busy machine it
/// may pass unseen: then it goes back, and once more.
fn begin_until(pair: &Pair, step: Step, (asked, from, to): (&str, &str, &str)) -> Process {
    let line = format!("region failover --to {to} --deadline 20s");
    let sides = (pair.side(from), pair.side(to));
    loop {
        step.prepare(pair, sides.0);
        let mut verb = begin(pair, asked, &line);
        let shown = wait(&format!("{step:?}, or the end"), || {
            if verb.has_ended() {
                verb = begin(pair, asked, &line);
            }
            step.shows(pair, sides.0, sides.1).map_or(Some(false), |it| it.then_some(true))
        });
        if shown {
            return verb;
        }
        verb.ended();
        pair.fail_over(sides.1, from);
        until_settled(pair, from, to);
    }
}

/// Fails over once for each step, there and back, and kills the leader of the side that hands over,
/// or of the one that takes up, when the step shows; then the verb is run again at the other side.
fn lose_a_leader_at(steps: &[Step], hands_over: bool) {
    let mut pair = protected();
    let load = Load::on(&pair);
    for (round, step) in steps.iter().enumerate() {
        let sides = if round % 2 == 0 { ("east", "west") } else { ("west", "east") };
        let (from, to) = sides;
        let loses = if hands_over { from } else { to };
        let at = leader(pair.home.path(), pair.side(loses));
        let (asked, other) = if round % 3 == 0 { (from, to) } else { (to, from) };
        let verb = begin_until(&pair, *step, (asked, from, to));
        pair.side_mut(loses).nodes[at] = None;
        pair.fail_over(pair.side(other), to);
        let first: Ran = verb.ended();
        assert!(CUT_SHORT.contains(&first.code), "{step:?}: {first:#?}");
        pair.bring_back(loses, at);
        until_settled(&pair, to, from);
        load.goes_on();
        println!("{step:?} is gone through");
    }
    let primary = if steps.len().is_multiple_of(2) { "east" } else { "west" };
    done(&pair, pair.side(primary), "region shape --off");
    let epochs = load.noted.epoch.load(Ordering::SeqCst);
    assert!(epochs as usize > steps.len(), "{epochs} epochs");
    load.lost_nothing(&pair, primary);
}

#[test]
fn a_failover_ends_though_the_leader_that_hands_over_is_killed_at_any_step() {
    lose_a_leader_at(&[Step::Draining, Step::Sealed, Step::Released, Step::Promoted], true);
}

#[test]
fn a_failover_ends_though_the_leader_that_takes_up_is_killed_at_any_step() {
    lose_a_leader_at(&[Step::Sealed, Step::Released, Step::Promoted], false);
}

#[test]
fn a_failover_that_is_begun_at_both_sides_at_once_ends_with_one_primary() {
    let pair = protected();
    let load = Load::on(&pair);
    for (from, to) in [("east", "west"), ("west", "east")] {
        let line = format!("region failover --to {to}");
        let both = [from, to].map(|side| begin(&pair, side, &line));
        // Both agree: they name the same region.
        for verb in both {
            let ran = verb.ended();
            assert!(CUT_SHORT.contains(&ran.code), "{ran:#?}");
        }
        pair.fail_over(pair.side(from), to);
        until_settled(&pair, to, from);
        load.goes_on();
    }
    // Who names none may hand back what the other has just handed over.
    for verb in ["east", "west"].map(|side| begin(&pair, side, "region failover --deadline 10s")) {
        let ran = verb.ended();
        assert!(CUT_SHORT.contains(&ran.code), "{ran:#?}");
    }
    let primary = wait("one of them is the primary", || {
        let roles = ["east", "west"].map(|side| {
            let status = pair.run(pair.side(side), "region status").result();
            status["role"].as_str().unwrap_or_default().to_owned()
        });
        match [roles[0].as_str(), roles[1].as_str()] {
            ["primary", "secondary"] => Some("east"),
            ["secondary", "primary"] => Some("west"),
            _ => None,
        }
    });
    let secondary = if primary == "east" { "west" } else { "east" };
    until_settled(&pair, primary, secondary);
    load.lost_nothing(&pair, primary);
}

#[test]
fn two_regions_that_are_killed_together_under_load_come_back_as_they_were() {
    let mut pair = protected();
    let load = Load::on(&pair);
    load.goes_on();
    pair.until(&pair.east, "it ships", |it| it["last_sync_time"].is_string());
    pair.east.kill();
    pair.west.kill();
    let home = pair.home.path().to_owned();
    // The copy first: it must not take itself for more than it is.
    pair.west.start(&home);
    let alone = pair.until(&pair.west, "it leads", |it| it["role"] == "secondary");
    assert_eq!((&alone["status"], &alone["writable"]), (&"unavailable".into(), &false.into()));
    // What its last batch told it has; the rest nobody told it.
    assert_eq!((&alone["bytes_behind"], &alone["messages_behind"]), (&Value::Null, &Value::Null));
    pair.east.start(&home);
    until_settled(&pair, "east", "west");
    load.lost_nothing(&pair, "east");
}
