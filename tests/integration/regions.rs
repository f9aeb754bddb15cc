//! Two regions of real processes: three nodes each, a zone a node.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use zoneq::client::{Client, DeleteItem, Reason, ReceiveOptions, Update};

use super::serving::Serving;
use super::stage::{Ports, Ran, wait, zoneq};

/// A region's cluster.
pub struct Region {
    name: &'static str,
    ports: Ports,
    /// Peer listeners of the other region.
    other: String,
    /// Flags that a test gives every node beside the usual ones.
    more: &'static str,
    pub nodes: Vec<Option<Serving>>,
}

pub struct Pair {
    pub east: Region,
    pub west: Region,
    /// Goes last: nodes end before their folders do.
    pub home: TempDir,
}

impl Region {
    fn peers(ports: &Ports) -> Vec<String> {
        (0..3).map(|at| format!("127.0.0.1:{}", ports.peer + at)).collect()
    }

    pub fn flags(&self, home: &Path, at: u16) -> String {
        let id = |at: u16| at + 1;
        let peers: Vec<String> = (0..3)
            .map(|it| {
                let (peer, grpc) = (self.ports.peer + it, self.ports.grpc + it);
                format!("{}=z{}@127.0.0.1:{peer}/127.0.0.1:{grpc}", id(it), id(it))
            })
            .collect();
        format!(
            "--cluster-id {name} --region {name} --node-id {} --zone z{} --data-dir {} \
             --grpc-listen 127.0.0.1:{} --peer-listen 127.0.0.1:{} --peers {} --other-region {} \
             --heartbeat-ms 80 --election-ms 200..400 {}",
            id(at),
            id(at),
            home.join(format!("{}-{}", self.name, id(at))).display(),
            self.ports.grpc + at,
            self.ports.peer + at,
            peers.join(","),
            self.other,
            self.more,
            name = self.name,
        )
    }

    pub fn start(&mut self, home: &Path) {
        for at in 0..3 {
            self.start_one(home, at);
        }
    }

    /// Starts one node, from 0.
    pub fn start_one(&mut self, home: &Path, at: usize) {
        self.nodes[at] = Some(Serving::start(home, &self.flags(home, at as u16)));
    }

    /// All its nodes are killed at once.
    pub fn kill(&mut self) {
        self.nodes = (0..3).map(|_| None).collect();
    }

    /// Peer listeners of the other region, as the nodes are told of them.
    pub fn other(&self) -> &str {
        &self.other
    }

    pub fn urls(&self) -> Vec<String> {
        (0..3).map(|at| format!("http://127.0.0.1:{}", self.ports.grpc + at)).collect()
    }
}

impl Pair {
    pub fn up() -> Pair {
        Pair::up_with("")
    }

    /// With more flags for every node.
    pub fn up_with(more: &'static str) -> Pair {
        let home = tempfile::tempdir().expect("a folder");
        let (east, west) = (Ports::take(), Ports::take());
        let others = [Region::peers(&west).join(","), Region::peers(&east).join(",")];
        let region = |name, ports, other: &String| Region {
            name,
            ports,
            other: other.clone(),
            more,
            nodes: (0..3).map(|_| None).collect(),
        };
        let mut pair = Pair {
            east: region("east", east, &others[0]),
            west: region("west", west, &others[1]),
            home,
        };
        pair.east.start(pair.home.path());
        pair.west.start(pair.home.path());
        for region in [&pair.east, &pair.west] {
            wait("a region has a leader", || {
                (pair.run(region, "cluster status").code == Some(0)).then_some(())
            });
        }
        pair
    }

    /// A region by its name.
    pub fn side(&self, name: &str) -> &Region {
        if name == "east" { &self.east } else { &self.west }
    }

    pub fn side_mut(&mut self, name: &str) -> &mut Region {
        if name == "east" { &mut self.east } else { &mut self.west }
    }

    /// Starts a node that was lost, from 0, of a region by its name.
    pub fn bring_back(&mut self, name: &str, at: usize) {
        let home = self.home.path().to_owned();
        self.side_mut(name).start_one(&home, at);
    }

    pub fn run(&self, region: &Region, line: &str) -> Ran {
        zoneq(self.home.path(), &format!("{line} --json -e {}", region.urls().join(",")))
    }

    #[track_caller]
    pub fn ok(&self, region: &Region, line: &str) -> Value {
        self.run(region, line).exits(0)
    }

    #[track_caller]
    pub fn until(&self, region: &Region, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait(what, || Some(self.run(region, "region status").result()).filter(&is_so))
    }

    /// Asked again where the answer was lost with a leader, as on a busy machine.
    #[track_caller]
    pub fn protect(&self) {
        let protects = || (self.run(&self.east, "region protect").code == Some(0)).then_some(());
        wait("east is protected", protects);
        self.until(&self.east, "the copy is live", |it| it["status"] == "live");
    }

    /// A failover to a region, asked again, as an operator does, where the answer was *not now* or
    /// was lost with a leader.
    #[track_caller]
    pub fn fail_over(&self, asked: &Region, to: &str) {
        let line = format!("region failover --to {to}");
        wait("a failover", || (self.run(asked, &line).code == Some(0)).then_some(()));
    }

    /// A client that knows both regions.
    pub fn client(&self, first: &Region, second: &Region) -> Client {
        let endpoints = first.urls().into_iter().chain(second.urls());
        let builder = Client::builder().endpoints(endpoints).deadline(Duration::from_secs(20));
        builder.build().expect("a client")
    }
}

/// Sends one message after the other until told to stop; answers what was acknowledged.
async fn send_all(client: Client, name: &'static str, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let body = format!("{name}-{number}");
        if client.send("orders", body.as_str()).await.is_ok() {
            acknowledged.push(body);
        }
    }
    acknowledged
}

/// Everything in the queue, received and deleted.
pub async fn drain(client: &Client) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    loop {
        let options = ReceiveOptions { max_messages: 1_000, ..ReceiveOptions::default() };
        let received = client.receive("orders", options).await.expect("received").messages;
        if received.is_empty() {
            return found;
        }
        let items = received.iter().map(DeleteItem::from).collect();
        client.delete_batch("orders", items).await.expect("deleted");
        for message in received {
            found.insert(String::from_utf8(message.body.to_vec()).expect("text"));
        }
    }
}

/// Replaces the body alone of a message that is in no queue; why it was refused.
fn update_of_half(client: &Client) -> Option<Reason> {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let update = Update { body: Some("other".into()), ..Update::default() };
    let id = "00000001-0000-8000-8000-000000000001";
    let answer = runtime.block_on(client.update("nowhere", id, "r1-1", update));
    answer.expect_err("no such queue").reason().cloned()
}

#[test]
fn a_pair_ships_shows_its_last_sync_time_and_reads_as_it_is_told() {
    let pair = Pair::up();
    let (east, west) = (&pair.east, &pair.west);
    let alone = pair.ok(east, "region status");
    assert_eq!((&alone["role"], &alone["redundancy"]), (&"standalone".into(), &"ZRS".into()));
    pair.run(west, "region failover").exits(2);
    pair.run(west, "region tail list").exits(2);
    pair.ok(east, "queue create orders");
    pair.ok(east, "send orders before");
    pair.protect();
    pair.ok(east, "region protect");
    pair.ok(east, "send orders after");
    let synced = pair.until(east, "all is there", |it| {
        it["status"] == "live" && it["entries_behind"] == 0 && it["last_sync_time"].is_string()
    });
    assert_eq!(
        (&synced["role"], &synced["peer"], &synced["redundancy"]),
        (&"primary".into(), &"west".into(), &"GZRS".into())
    );
    let copy = pair.until(west, "the copy knows too", |it| it["status"] == "live");
    assert_eq!((&copy["role"], &copy["complete"]), (&"secondary".into(), &true.into()));
    assert!(copy["last_sync_time"].is_string(), "{copy}");

    // Reads are off until they are allowed, and writes never are.
    pair.run(west, "peek orders --max 10").says(2, &["reads are off", "east"]);
    pair.ok(west, "region read-access on");
    let peek = |bound: &str| pair.run(west, &format!("peek orders --max 10 {bound}"));
    wait("both messages are read at the secondary", || {
        (peek("--max-staleness 1m").items().len() == 2).then_some(())
    });
    let shown = peek("--max-staleness 1m").items();
    let id = shown[0]["id"].as_str().expect("an id");
    for line in [format!("get orders {id}"), "account show".into(), "redrive list orders".into()] {
        pair.run(west, &line).says(2, &["may not be the newest", "east"]);
        pair.ok(west, &format!("{line} --max-staleness 1m"));
    }
    // The newest is the primary's to say, and a copy is no older than the reader allows.
    peek("").says(2, &["may not be the newest", "east"]);
    let both = pair.client(west, east);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let read = runtime.block_on(both.queue("orders")).expect("read at the primary");
    assert_eq!(read.counts.total, 2);
    pair.ok(east, "region shape --pause");
    let late = wait("the copy is too old", || {
        let seen = peek("--max-staleness 1s --deadline 1s");
        Some(seen).filter(|it| it.stdout.contains("behind region"))
    });
    late.says(3, &["behind region", "allows 1.000 s"]);
    assert_eq!(peek("--max-staleness 1h").items().len(), 2);
    pair.ok(east, "region shape --off");
    pair.run(west, "send orders wrong").says(2, &["read-only", "east"]);
    pair.run(west, "receive orders").says(2, &["read-only", "east"]);
    assert_eq!(update_of_half(&pair.client(west, west)), Some(Reason::ReadOnly));
    pair.until(east, "the name says so", |it| it["redundancy"] == "RA-GZRS");
    assert_eq!(pair.ok(east, "region verify")["equal"], true);
    assert_eq!(pair.ok(west, "region verify")["equal"], true);
    let audit = pair.run(east, "region audit").items();
    assert!(audit[0]["what"].as_str().is_some_and(|it| it.contains("protect")), "{audit:?}");

    // Apart, the copy is kept and readable; a secondary that is not one cannot be promoted.
    pair.ok(east, "region unprotect");
    assert_eq!(pair.ok(west, "region status")["role"], "detached");
    pair.run(west, "region failover --force").exits(2);
    assert_eq!(pair.run(west, "peek orders --max 10").items().len(), 2);
}

#[test]
fn a_planned_failover_under_load_loses_nothing_and_goes_back() {
    let mut pair = Pair::up();
    pair.ok(&pair.east, "queue create orders");
    pair.protect();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let stop = Arc::new(AtomicBool::new(false));
    let sending: Vec<_> = ["a", "b", "c"]
        .into_iter()
        .map(|name| {
            let client = pair.client(&pair.east, &pair.west);
            runtime.spawn(send_all(client, name, Arc::clone(&stop)))
        })
        .collect();
    // A leader of each side is lost on the way.
    pair.until(&pair.east, "it ships", |it| it["status"] == "live");
    for name in ["west", "east"] {
        let region = if name == "west" { &mut pair.west } else { &mut pair.east };
        let home = pair.home.path();
        let at = leader(home, region);
        region.nodes[at] = None;
        region.start_one(home, at);
        pair.until(&pair.east, "it ships on", |it| it["status"] == "live");
    }
    pair.fail_over(&pair.west, "west");
    pair.until(&pair.west, "west is the primary", |it| it["role"] == "primary");
    pair.until(&pair.east, "the old primary follows", |it| it["role"] == "secondary");
    for row in pair.run(&pair.west, "region audit").items() {
        assert!(!row["at"].as_str().is_none_or(|at| at.starts_with("1970")), "{row}");
    }
    pair.until(&pair.west, "it is protected", |it| it["status"] == "live");
    // And back, asked of the primary this time.
    pair.fail_over(&pair.west, "east");
    pair.until(&pair.east, "it leads again", |it| it["role"] == "primary");
    pair.until(&pair.west, "and is protected again", |it| it["role"] == "secondary");
    stop.store(true, Ordering::Relaxed);
    let acknowledged: Vec<String> = runtime.block_on(async {
        let mut all = Vec::new();
        for one in sending {
            all.extend(one.await.expect("the sender ends"));
        }
        all
    });
    assert!(acknowledged.len() > 50, "only {} were sent", acknowledged.len());
    pair.until(&pair.east, "all is there", |it| it["status"] == "live");
    assert_eq!(pair.ok(&pair.east, "region verify")["equal"], true);
    let found = runtime.block_on(drain(&pair.client(&pair.west, &pair.east)));
    let lost: Vec<&String> = acknowledged.iter().filter(|it| !found.contains(*it)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
}

/// Which of a region's nodes leads, from 0.
pub fn leader(home: &Path, region: &Region) -> usize {
    wait("a leader is known", || {
        let line = format!("cluster status --json -e {}", region.urls().join(","));
        let id = zoneq(home, &line).result()["leader"].as_u64()?;
        usize::try_from(id - 1).ok()
    })
}

#[test]
fn a_forced_failover_keeps_what_was_shipped_and_lists_the_rest_as_the_tail() {
    let mut pair = Pair::up();
    pair.ok(&pair.east, "queue create orders");
    pair.protect();
    pair.ok(&pair.east, "send orders shipped");
    pair.until(&pair.east, "it is there", |it| it["entries_behind"] == 0);
    // The line is cut by the loss of one side, and the other goes on.
    pair.west.kill();
    pair.until(&pair.east, "the copy is gone", |it| it["status"] == "unavailable");
    let sent = pair.ok(&pair.east, "send orders lost --group g");
    let lost = sent["messages"][0]["id"].as_str().expect("an id").to_owned();
    pair.east.kill();
    pair.west.start(pair.home.path());
    let status = pair.until(&pair.west, "it leads", |it| it["role"] == "secondary");
    assert_eq!(status["complete"], true);
    let west = &pair.west;
    let shown = pair.ok(west, "region failover --force --dry-run");
    assert_eq!(shown["promoted"], false);
    assert_eq!(pair.ok(west, "region status")["role"], "secondary", "a dry run changes nothing");
    assert_eq!(pair.ok(west, "region failover --force")["promoted"], true);
    pair.ok(west, "send orders after");
    assert_eq!(pair.ok(west, "region status")["redundancy"], "ZRS");
    pair.run(west, "region failover --force").exits(2);

    pair.east.start(pair.home.path());
    let east = &pair.east;
    let fenced = pair.until(east, "the old primary is fenced", |it| it["role"] == "fenced");
    assert_eq!(fenced["redundancy"], "ZRS", "it has no copy");
    let by =
        "fenced by epoch 2 of region \"west\"; its tail is not dealt with: zoneq region tail list";
    assert_eq!(fenced["trouble"], by);
    pair.run(east, "send orders never").says(2, &["fenced", "west"]);
    let tail = pair.run(east, "region tail list");
    assert_eq!(tail.items().len(), 1, "{tail:?}");
    assert_eq!(tail.items()[0]["id"], lost.as_str());
    let (head, fork) = (tail.result(), tail.result()["fork_index"].as_u64().expect("a fork"));
    assert_eq!((&head["whole"], &head["whole_from"]), (&true.into(), &(fork + 1).into()));
    let exported = pair.home.path().join("tail.jsonl");
    let line = format!("region tail export {}", exported.display());
    assert_eq!(pair.ok(east, &line)["messages"], 1);
    pair.run(east, &line).exits(1);
    let text = std::fs::read_to_string(&exported).expect("the tail");
    let line: Value = serde_json::from_str(text.trim()).expect("one line");
    assert_eq!((&line["id"], &line["body_base64"]), (&lost.as_str().into(), &"bG9zdA==".into()));
    assert_eq!(line["group"], "g", "{line}");
    assert_eq!(pair.run(&pair.west, "peek orders --max 10").items().len(), 2, "nothing was merged");

    // What the old primary had alone is sent to the new one, once.
    let replayed = pair.ok(east, "region tail replay");
    assert_eq!((&replayed["found"], &replayed["replayed"]), (&1.into(), &1.into()));
    assert_eq!(pair.ok(east, "region tail replay")["found"], 0, "nothing is sent twice");
    assert_eq!(pair.ok(east, "region status")["tail"], "replayed");
    assert_eq!(pair.run(&pair.west, "peek orders --max 10").items().len(), 3);
    assert_eq!(pair.ok(&pair.west, "region tail replay")["found"], 0, "asked of the new one too");

    // The old region is given all in the place of what it has, and is handed back to.
    let west = &pair.west;
    wait("it is protected again", || {
        (pair.run(west, "region protect").code == Some(0)).then_some(())
    });
    pair.until(west, "the copy is live", |it| it["status"] == "live");
    assert_eq!(pair.ok(west, "region verify")["equal"], true);
    pair.fail_over(west, "east");
    pair.until(&pair.east, "it leads again", |it| it["role"] == "primary");
    let ids = pair.run(&pair.east, "peek orders --max 10").items();
    assert_eq!(ids.len(), 3, "{ids:?}");
}

#[test]
fn failback_goes_the_whole_way_and_may_be_run_again() {
    let mut pair = Pair::up();
    pair.ok(&pair.east, "queue create orders");
    pair.protect();
    pair.ok(&pair.east, "send orders shipped");
    pair.until(&pair.east, "it is there", |it| it["entries_behind"] == 0);
    pair.west.kill();
    pair.until(&pair.east, "the copy is gone", |it| it["status"] == "unavailable");
    pair.ok(&pair.east, "send orders lost");
    pair.east.kill();
    pair.west.start(pair.home.path());
    pair.until(&pair.west, "it leads", |it| it["role"] == "secondary");
    pair.ok(&pair.west, "region failover --force");
    pair.east.start(pair.home.path());
    let (east, west) = (&pair.east, &pair.west);
    pair.until(east, "the old primary is fenced", |it| it["role"] == "fenced");

    pair.run(west, "region protect").says(2, &["neither replayed nor exported"]);
    for side in [east, west] {
        let shown = pair.ok(side, "region failback --dry-run");
        let way = ["replay-tail", "protect", "await-copy", "hand-over"];
        assert_eq!((&shown["to"], &shown["stages"]), (&"east".into(), &way.as_slice().into()));
    }
    assert_eq!(pair.ok(west, "region status")["role"], "standalone", "nothing was done");
    wait("the way back", || (pair.run(west, "region failback").code == Some(0)).then_some(()));
    pair.until(east, "it leads again", |it| it["role"] == "primary");
    pair.until(west, "the other follows", |it| it["role"] == "secondary");
    assert_eq!(pair.run(east, "peek orders --max 10").items().len(), 2, "the tail is there");
    for region in [east, west] {
        let again = pair.ok(region, "region failback");
        assert_eq!(again["stages"].as_array().map(Vec::len), Some(0), "nothing is left to do");
    }
    // After a planned failover it is that, the other way.
    pair.until(east, "it is protected", |it| it["status"] == "live");
    pair.fail_over(east, "west");
    pair.until(west, "it leads", |it| it["role"] == "primary");
    pair.until(west, "it is protected", |it| it["status"] == "live");
    wait("the way back", || (pair.run(west, "region failback").code == Some(0)).then_some(()));
    pair.until(east, "it leads again", |it| it["role"] == "primary");
}
