//! Three nodes, each the whole server on a turmoil host, with a disk, a clock and a network of
//! its own.
//!
//! Laws: a host that goes down loses its disk first, so that nothing a destructor does reaches
//! it; a host that comes back gets what survived. A node that stops by itself is started again a
//! second later, as a service manager would, and told of unless its disk had failed it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use zoneq::consensus::group::{Group, Status};
use zoneq::server::{Config, Node, Parts, Sizes};
use zoneq::storage::disk::faulty::{Dice, FaultyDisk};

use crate::history::{Applied, Micros, SharedHistory};
use crate::network::{SimClock, SimNetwork, Wires, now_us};
use crate::real_clock;

pub const NODES: [u64; 3] = [1, 2, 3];
pub const CLIENT_HOSTS: [&str; 2] = ["c1", "c2"];
/// How long a node that stopped by itself stays down.
const RESTART_AFTER: Micros = 1_000_000;
const ORDERS: usize = 16;
/// Two segments of the log, as large as they get here.
const RESERVE_BYTES: u64 = 1 << 20;

/// What a fault asks of a node that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Hand leadership over, if it leads.
    HandOver,
    /// Make the tables durable and let the log below them go.
    Purge,
}

/// One node across its lives.
#[derive(Debug)]
pub struct Host {
    pub id: u64,
    pub name: String,
    pub clock: Arc<SimClock>,
    seed: u64,
    sizes: Sizes,
    wires: Wires,
    history: SharedHistory,
    life: Mutex<Life>,
}

struct Life {
    number: u64,
    disk: FaultyDisk,
    group: Option<Group>,
    orders: Option<mpsc::Sender<Order>>,
    /// Its disk was made to fail, so that it may stop by itself.
    disk_failed: bool,
    stopped: Option<String>,
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Life").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Host {
    fn new(id: u64, cluster_seed: u64, wires: Wires, history: SharedHistory) -> Host {
        let seed = cluster_seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ (id << 56);
        let life = Life {
            number: 0,
            disk: FaultyDisk::new(seed),
            group: None,
            orders: None,
            disk_failed: false,
            stopped: None,
        };
        let (name, clock) = (format!("z{id}"), Arc::default());
        let sizes = small_sizes(cluster_seed);
        Host { id, name, clock, seed, sizes, wires, history, life: Mutex::new(life) }
    }

    fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn disk(&self) -> FaultyDisk {
        self.life().disk.clone()
    }

    /// From now on it may stop by itself.
    pub fn let_disk_fail(&self, how: impl FnOnce(&FaultyDisk)) {
        let mut life = self.life();
        life.disk_failed = true;
        how(&life.disk);
    }

    pub fn order(&self, order: Order) {
        if let Some(orders) = &self.life().orders {
            // A node that is busy with sixteen orders misses one more.
            let _ = orders.try_send(order);
        }
    }

    pub fn status(&self) -> Option<Status> {
        self.life().group.as_ref().map(Group::status)
    }

    /// Cuts its power: no I/O from here on, and nobody holds what it held.
    fn cut_power(&self) {
        let mut life = self.life();
        life.disk.crash();
        let (group, orders) = (life.group.take(), life.orders.take());
        drop(life);
        drop((group, orders));
    }

    fn config(&self) -> Result<Config, String> {
        let mut config = Config::new(self.id, "simulated", self.name.clone(), "/data");
        let any = |port| std::net::SocketAddr::from(([0, 0, 0, 0], port));
        (config.grpc_listen, config.peer_listen) = (any(7401), any(7501));
        config.grpc_advertise = Some(format!("{}:7401", self.name));
        config.peer_advertise = Some(format!("{}:7501", self.name));
        let peer = |id: &u64| format!("{id}=z{id}@z{id}:7501/z{id}:7401");
        config.peers = NODES.iter().map(peer).collect::<Vec<_>>().join(",").parse()?;
        config.insecure_listen = true;
        config.disk_reserve_bytes = RESERVE_BYTES;
        config.heartbeat_ms = 80;
        config.election_ms = "200..400".parse()?;
        Ok(config)
    }

    fn parts(&self) -> Parts {
        let mut life = self.life();
        if life.number > 0 {
            life.disk = life.disk.restart();
        }
        life.number += 1;
        life.disk_failed = false;
        Parts {
            disk: life.disk.shared(),
            clock: Arc::<SimClock>::clone(&self.clock),
            network: Arc::new(SimNetwork { host: self.name.clone(), wires: self.wires.clone() }),
            seed: self.seed ^ life.number,
            sizes: self.sizes,
        }
    }

    /// One life, from power on until it is cut or the node stops by itself.
    async fn live(self: Arc<Host>) -> turmoil::Result {
        let config = self.config()?;
        let node = match Node::start_with(config, self.parts()).await {
            Ok(node) => node,
            Err(error) => return self.stop(&error),
        };
        let (orders, mut ordered) = mpsc::channel(ORDERS);
        {
            let mut life = self.life();
            life.group = Some(node.group().clone());
            life.orders = Some(orders);
        }
        tokio::spawn(observe_applied(self.id, node.group().clone(), self.history.clone()));
        tokio::spawn(observe_leadership(self.id, node.group().clone(), self.history.clone()));
        loop {
            tokio::select! {
                biased;
                why = node.failed() => return self.stop(&*why),
                Some(order) = ordered.recv() => obey(node.group(), order).await,
            }
        }
    }

    fn stop(&self, why: &dyn std::error::Error) -> turmoil::Result {
        let mut words = why.to_string();
        let mut cause = why.source();
        while let Some(why) = cause {
            words = format!("{words}: {why}");
            cause = why.source();
        }
        self.life().stopped = Some(words);
        Ok(())
    }
}

/// Small enough that segments are filled, recycled and copied forward many times in a run.
fn small_sizes(seed: u64) -> Sizes {
    let mut dice = Dice::new(seed ^ 0x73_697a_6573);
    Sizes {
        log_segment_bytes: (64 << 10) << dice.below(4),
        log_cache_bytes: (16 << 10) << dice.below(6),
        body_segment_bytes: (32 << 10) << dice.below(4),
        commit_interval: Duration::from_millis(200 + dice.below(4_000)),
    }
}

async fn obey(group: &Group, order: Order) {
    match order {
        Order::HandOver => {
            // Not being the leader, or nobody taking over, is no trouble here.
            let _ = group.hand_over(None).await;
        }
        Order::Purge => {
            if group.store().commit().await.is_err() {
                return;
            }
            let durable = group.status().durable;
            let trigger = group.raft().trigger();
            let _ = group
                .peers()
                .scoped(async {
                    trigger.snapshot().await?;
                    trigger.purge_log(durable).await
                })
                .await;
        }
    }
}

async fn observe_applied(node: u64, group: Group, history: SharedHistory) {
    let mut applied = group.applied();
    while applied.changed().await.is_ok() {
        applied.borrow_and_update();
        let seen = {
            let store = group.store().read();
            store.applied().map(|at| Applied {
                node,
                index: at.index,
                term: at.term,
                leader: at.node,
                digest: store.state().digest().0,
            })
        };
        if let (Some(seen), Some(now)) = (seen, now_us()) {
            history.lock().applied(now, seen);
        }
    }
}

async fn observe_leadership(node: u64, group: Group, history: SharedHistory) {
    let mut leadership = group.leadership();
    loop {
        let now_leads = {
            let now = leadership.borrow_and_update();
            now.is_me.then_some(now.term)
        };
        if let (Some(term), Some(now)) = (now_leads, now_us()) {
            history.lock().leads(now, term, node);
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// The hosts, and turmoil under them.
pub struct World {
    pub sim: turmoil::Sim<'static>,
    pub hosts: Vec<Arc<Host>>,
    pub wires: Wires,
    pub history: SharedHistory,
    /// Hosts that a fault keeps down.
    held_down: Vec<u64>,
    /// Hosts that stopped by themselves, and when they start again.
    restarts: Vec<(Micros, u64)>,
}

impl World {
    pub fn new(seed: u64, history: SharedHistory) -> World {
        real_clock::follow(0);
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .epoch(std::time::UNIX_EPOCH)
            .simulation_duration(Duration::from_secs(3_600))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(Duration::from_millis(8))
            .tcp_capacity(4_096)
            .enable_random_order();
        let mut sim = builder.build();
        sim.set_message_latency_curve(5.0);
        let wires = Wires::default();
        let hosts: Vec<Arc<Host>> = NODES
            .iter()
            .map(|id| Arc::new(Host::new(*id, seed, wires.clone(), history.clone())))
            .collect();
        for host in &hosts {
            let own = Arc::clone(host);
            sim.host(host.name.as_str(), move || Arc::clone(&own).live());
        }
        World { sim, hosts, wires, history, held_down: Vec::new(), restarts: Vec::new() }
    }

    pub fn now(&self) -> Micros {
        u64::try_from(self.sim.elapsed().as_micros()).unwrap_or(Micros::MAX)
    }

    pub fn host(&self, id: u64) -> Option<Arc<Host>> {
        self.hosts.iter().find(|host| host.id == id).map(Arc::clone)
    }

    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        self.history.lock().event(self.now(), what);
    }

    /// Moves time on by one tick.
    ///
    /// # Errors
    /// A client that failed.
    pub fn step(&mut self) -> turmoil::Result {
        real_clock::follow(self.now());
        self.sim.step()?;
        let now = self.now();
        for host in self.hosts.clone() {
            let stopped = {
                let mut life = host.life();
                let disk_failed = life.disk_failed || life.disk.is_crashed();
                life.stopped.take().map(|why| (why, disk_failed))
            };
            let Some((why, disk_failed)) = stopped else { continue };
            self.note(format_args!("node {} stopped by itself: {why}", host.id));
            if !disk_failed {
                let mut history = self.history.lock();
                let at = format!("at {} ms node {} stopped", now / 1_000, host.id);
                history.unexpected_stops.push(format!("{at}: {why}"));
            }
            self.take_down(&host, true);
            self.restarts.push((now + RESTART_AFTER, host.id));
        }
        let due = |restart: &(Micros, u64)| restart.0 <= now;
        let restarts: Vec<u64> =
            self.restarts.iter().filter(|r| due(r)).map(|(_, id)| *id).collect();
        self.restarts.retain(|restart| !due(restart));
        for id in restarts {
            if !self.held_down.contains(&id) {
                self.bring_up(id);
            }
        }
        Ok(())
    }

    /// Ends a node at once. A killed process leaves a kernel that closes its sockets and
    /// refuses new ones; without power there is only silence.
    fn take_down(&mut self, host: &Host, kernel_lives: bool) {
        host.cut_power();
        let others: Vec<String> = self.others(&host.name);
        if !kernel_lives {
            for other in &others {
                self.sim.partition(host.name.as_str(), other.as_str());
            }
        }
        let disk = host.disk();
        let before = (disk.writes(), disk.syncs());
        self.sim.crash(host.name.as_str());
        if (disk.writes(), disk.syncs()) != before {
            let what = format!("node {}: a destructor reached a disk without power", host.id);
            self.history.lock().unexpected_stops.push(what);
        }
        if kernel_lives {
            self.wires.refuse(&host.name, true);
        } else {
            for other in &others {
                self.sim.repair(host.name.as_str(), other.as_str());
            }
        }
    }

    fn others(&self, name: &str) -> Vec<String> {
        let nodes = self.hosts.iter().map(|host| host.name.clone());
        let clients = CLIENT_HOSTS.iter().map(|name| (*name).to_owned());
        nodes.chain(clients).filter(|other| other != name).collect()
    }

    fn bring_up(&mut self, id: u64) {
        let Some(host) = self.host(id) else { return };
        self.note(format_args!("node {id} starts again"));
        self.wires.refuse(&host.name, false);
        self.sim.bounce(host.name.as_str());
    }

    /// A fault ends a node until [`World::power_on`].
    pub fn power_off(&mut self, id: u64, kernel_lives: bool) {
        let Some(host) = self.host(id) else { return };
        self.held_down.push(id);
        self.restarts.retain(|(_, other)| *other != id);
        self.take_down(&host, kernel_lives);
    }

    pub fn power_on(&mut self, id: u64) {
        self.held_down.retain(|held| *held != id);
        if !self.held_down.contains(&id) {
            self.bring_up(id);
        }
    }

    pub fn is_down(&self, id: u64) -> bool {
        self.held_down.contains(&id) || self.restarts.iter().any(|(_, other)| *other == id)
    }

    /// Whoever leads the highest term, as far as the running nodes know.
    pub fn leader(&self) -> Option<u64> {
        let statuses = self.hosts.iter().filter_map(|host| host.status());
        let led = statuses.filter_map(|status| Some((status.term, status.leader?)));
        led.max().map(|(_, leader)| leader)
    }
}
