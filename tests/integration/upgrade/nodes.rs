//! Nodes of this process over folders that are packed and opened again: at whatever moment, and
//! under the names by which they know each other, wherever they listen now.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use zoneq::clock::{Clock, SharedClock, SystemClock};
use zoneq::consensus::network::{Io, Listener, Network, TcpNetwork};
use zoneq::server::config::ElectionMs;
use zoneq::server::{Config, Node, Parts};

use crate::stage::{PATIENCE, Ports, Ran, wait, zoneq};

/// A node by its region and its id there; its zone has the number of its id.
pub type Who = (&'static str, u64);

/// A clock that goes on from a given moment.
#[derive(Debug)]
struct GoesOn {
    begins_us: u64,
    running: SystemClock,
}

impl Clock for GoesOn {
    fn wall_us(&self) -> u64 {
        self.begins_us + self.running.monotonic_us()
    }

    fn monotonic_us(&self) -> u64 {
        self.running.monotonic_us()
    }
}

/// Where the names lead now. The members of a cluster are written in its log, with their
/// addresses, and whoever opens it later may not have the ports of then.
#[derive(Debug)]
struct Names(BTreeMap<String, String>);

#[async_trait::async_trait]
impl Network for Names {
    async fn dial(&self, address: &str) -> io::Result<Io> {
        TcpNetwork.dial(self.0.get(address).map_or(address, String::as_str)).await
    }

    async fn listen(&self, address: &str) -> io::Result<Listener> {
        TcpNetwork.listen(address).await
    }
}

fn name((region, id): Who) -> String {
    format!("{region}-{id}:7501")
}

/// The name of a node's folder.
pub fn folder((region, id): Who) -> String {
    format!("{region}-{id}")
}

/// Nodes that run; each in its folder in `home`.
pub struct Nodes {
    nodes: Vec<(Who, Node)>,
    clock: SharedClock,
    /// Goes after the nodes, and waits for what they still write.
    runtime: Runtime,
    home: TempDir,
}

impl Nodes {
    /// Starts them, by a clock that begins at this moment, and waits until each region is led.
    #[track_caller]
    pub fn start(home: TempDir, all: &[Who], begins_us: u64) -> Nodes {
        let first = Ports::take().peer;
        let place = |at: u16| format!("127.0.0.1:{}", first + at);
        let names: BTreeMap<String, String> =
            all.iter().map(|who| name(*who)).zip((0..).map(place)).collect();
        let clock: SharedClock = Arc::new(GoesOn { begins_us, running: SystemClock::default() });
        let runtime = Runtime::new().expect("a runtime");
        let begin = |who: &Who| {
            let mut parts = parts();
            parts.clock = Arc::clone(&clock);
            parts.network = Arc::new(Names(names.clone()));
            let config = config(home.path(), all, *who, &names);
            let starting =
                async { tokio::time::timeout(PATIENCE, Node::start_with(config, parts)).await };
            (*who, runtime.block_on(starting).expect("in time").expect("a node"))
        };
        let started = all.iter().map(begin).collect();
        let nodes = Nodes { nodes: started, clock, runtime, home };
        for (region, _) in all {
            wait("a region is led", || {
                (nodes.run(region, "cluster status").code == Some(0)).then_some(())
            });
        }
        nodes
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    pub fn urls(&self, region: &str) -> Vec<String> {
        let of = self.nodes.iter().filter(|((of, _), _)| *of == region);
        of.map(|(_, node)| format!("http://{}", node.addresses().grpc)).collect()
    }

    /// Runs a command on the nodes of a region, with `--json`.
    #[track_caller]
    pub fn run(&self, region: &str, line: &str) -> Ran {
        let urls = self.urls(region).join(",");
        zoneq(self.home(), &format!("{line} --json -e {urls}"))
    }

    /// Runs a command that must succeed; its result.
    #[track_caller]
    pub fn ok(&self, region: &str, line: &str) -> Value {
        self.run(region, line).exits(0)
    }

    /// Waits until the status of a region's part of the pair is as wanted.
    #[track_caller]
    pub fn until(&self, region: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        wait(what, || Some(self.run(region, "region status").result()).filter(&is_so))
    }

    /// Lets every log begin later, as where space is short.
    #[track_caller]
    pub fn purge(&self) {
        let pretend = |free| {
            self.nodes.iter().for_each(|(_, node)| node.group().pretend_disk_free(free));
        };
        pretend(Some(0));
        wait("every log begins later", || {
            let purged = |(_, node): &(Who, Node)| node.group().status().purged > 0;
            self.nodes.iter().all(purged).then_some(())
        });
        pretend(None);
    }

    /// Waits until every node of a region has applied the same.
    #[track_caller]
    pub fn until_equal(&self, region: &str) {
        wait("the nodes are equal", || {
            let of = self.nodes.iter().filter(|((of, _), _)| *of == region);
            let all: Vec<_> = of.map(|(_, node)| node.group().status()).collect();
            let same = |one| (all[0].applied, all[0].digest) == one;
            all.iter().all(|one| same((one.applied, one.digest))).then_some(())
        });
    }

    /// Ends all of them at once, as a crash does; the moment at which it was.
    pub fn crash(self) -> (TempDir, u64) {
        let Nodes { nodes, clock, runtime, home } = self;
        let at_us = clock.wall_us();
        let inside = runtime.enter();
        drop(nodes);
        drop(inside);
        (home, at_us)
    }
}

/// Small segments, so that there is something to purge, and little to pack.
fn parts() -> Parts {
    let mut parts = Parts::real();
    parts.sizes.log_segment_bytes = 256 << 10;
    parts.sizes.log_cache_bytes = 64 << 10;
    parts.sizes.body_segment_bytes = 256 << 10;
    parts.sizes.commit_interval = Duration::from_secs(3);
    parts
}

fn config(home: &Path, all: &[Who], who: Who, names: &BTreeMap<String, String>) -> Config {
    let (region, id) = who;
    let cluster = format!("shop-{region}");
    let mut config = Config::new(id, cluster, format!("z{id}"), home.join(folder(who)));
    config.region = region.to_owned();
    let peer = |who: &Who| format!("{}=z{}@{}", who.1, who.1, name(*who));
    let (own, other): (Vec<Who>, Vec<Who>) = all.iter().partition(|it| it.0 == region);
    let peers: Vec<String> = own.iter().map(peer).collect();
    config.peers = peers.join(",").parse().expect("peers");
    config.other_region = other.into_iter().map(name).collect();
    config.peer_listen = names[&name(who)].parse().expect("an address");
    config.grpc_listen = "127.0.0.1:0".parse().expect("an address");
    config.heartbeat_ms = 80;
    config.election_ms = ElectionMs { min: 200, max: 400 };
    config.disk_reserve_bytes = 1 << 20;
    config
}

/// The wall time of this machine.
pub fn now_us() -> u64 {
    SystemClock::default().wall_us()
}
