//! Hosts, on each a node that is the whole server, with a disk, a clock and a network of its own.
//! Which node sits on a host, if any, an operator may change (`seats.rs`).
//!
//! Laws: a host that goes down loses its disk first, so that nothing a destructor does reaches
//! it; a host that comes back gets what survived. A node that stops by itself is started again a
//! second later, as a service manager would, and told of unless its disk had failed it. One that
//! refuses its disk, as it should, stays down.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use zoneq::consensus::group::{Group, Status};
use zoneq::queue::authority::Role;
use zoneq::server::{Config, Node, Parts, Sizes};
use zoneq::storage::disk::faulty::{Dice, FaultyDisk};

use crate::doors::{Front, GATEWAY, PEER_PORT};
use crate::flips::Flip;
use crate::history::{Applied, Cluster, Micros, SharedHistory};
use crate::layout::{Layout, MEMBERS_OPERATOR, OPERATOR, REGIONS, host_name, region_of};
use crate::network::{SimClock, SimNetwork, Wires, now_us};
use crate::real_clock;
use crate::seats::{Seat, Seats, zone_name};
use crate::sightings;
use crate::strangers::{self, OTHER_CLUSTER, OTHER_SERVER};

mod upkeep;

pub const CLIENT_HOSTS: [&str; 2] = ["c1", "c2"];
/// The network's own shortest and longest latency, in force where no fault changes it.
pub const LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(8));
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
    layout: Layout,
    seats: Seats,
    seed: u64,
    sizes: Sizes,
    wires: Wires,
    history: SharedHistory,
    life: Mutex<Life>,
}

struct Life {
    number: u64,
    /// How often another node came to sit here, or an empty disk under the same.
    seated: u64,
    disk: FaultyDisk,
    group: Option<Group>,
    orders: Option<mpsc::Sender<Order>>,
    /// How often its disk was taken away and another put in.
    generation: u32,
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
    fn new(
        id: u64,
        (layout, seats): (Layout, Seats),
        cluster_seed: u64,
        wires: Wires,
        history: SharedHistory,
    ) -> Host {
        let seed = cluster_seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17) ^ (id << 56);
        let life = Life {
            number: 0,
            seated: 0,
            disk: FaultyDisk::new(seed),
            group: None,
            orders: None,
            generation: 0,
            disk_failed: false,
            stopped: None,
        };
        let (name, clock) = (host_name(id), Arc::default());
        let sizes = small_sizes(cluster_seed);
        let life = Mutex::new(life);
        Host { id, name, clock, layout, seats, seed, sizes, wires, history, life }
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

    /// The cluster that it belongs to: a region of which all disks were replaced is another.
    pub fn cluster(&self) -> Cluster {
        Cluster { region: region_of(self.id), generation: self.life().generation }
    }

    /// Puts in an empty disk; it must be down.
    fn replace_disk(&self) {
        let mut life = self.life();
        life.generation += 1;
        life.number = 0;
        life.disk = FaultyDisk::new(self.seed ^ u64::from(life.generation) << 32);
    }

    /// Puts in an empty disk for another node, or for one that lost its disk; it must be down.
    fn clear_disk(&self) {
        let mut life = self.life();
        life.seated += 1;
        life.number = 0;
        life.disk_failed = false;
        life.disk = FaultyDisk::new(self.seed ^ life.seated << 40);
    }

    /// Rots its disk; it must be down.
    fn rot(&self, flip: Flip) -> Option<String> {
        let mut life = self.life();
        life.disk = life.disk.restart();
        flip.on(&life.disk)
    }

    /// Under which number it is told of: hosts of two regions have the same node ids.
    fn known_as(&self) -> u64 {
        let seat = self.seats.of(self.id).filter(|_| !self.layout.is_pair());
        seat.map_or(self.id, |seat| seat.node)
    }

    /// Cuts its power: no I/O from here on, and nobody holds what it held.
    fn cut_power(&self) {
        let mut life = self.life();
        life.disk.crash();
        let (group, orders) = (life.group.take(), life.orders.take());
        drop(life);
        drop((group, orders));
    }

    fn config(&self, seat: Seat) -> Result<Config, String> {
        let region = region_of(self.id);
        // Clusters have names of their own.
        let cluster = if region == 0 { "simulated" } else { "simulated-too" };
        let mut config = Config::new(seat.node, cluster, zone_name(seat.zone), "/data");
        let any = |port| std::net::SocketAddr::from(([0, 0, 0, 0], port));
        (config.grpc_listen, config.peer_listen) = (any(7401), any(7501));
        config.grpc_advertise = Some(format!("{}:7401", self.name));
        let peer_address = |name: &str| format!("{}:{PEER_PORT}", self.wires.doors.peer_host(name));
        config.peer_advertise = Some(peer_address(&self.name));
        config.peers = self.seats.peers(self.id, peer_address).parse()?;
        REGIONS[region].clone_into(&mut config.region);
        if self.layout.is_pair() {
            let other = self.layout.of_region(1 - region).iter();
            config.other_region = other.map(|host| format!("{}:7501", host_name(*host))).collect();
        }
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
            seed: self.seed ^ life.number ^ life.seated << 16,
            sizes: self.sizes,
        }
    }

    /// One life, from power on until it is cut or the node stops by itself.
    async fn live(self: Arc<Host>) -> turmoil::Result {
        let Some(seat) = self.seats.of(self.id) else { return std::future::pending().await };
        let config = self.config(seat)?;
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
        let (group, history) = (node.group(), &self.history);
        let own = (self.known_as(), self.cluster());
        let seats = (self.seats.clone(), self.id);
        tokio::spawn(observe_applied(own, seats, group.clone(), history.clone()));
        tokio::spawn(observe_leadership(own, group.clone(), history.clone()));
        if self.layout.is_pair() {
            tokio::spawn(sightings::observe(own, group.clone(), history.clone()));
        }
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
        commit_bytes: (32 << 10) << dice.below(6),
        commit_interval: Duration::from_millis(200 + dice.below(4_000)),
        many_rows: 1 + dice.below(100) as usize,
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
            let Some(through) = purgeable(group, durable) else { return };
            let trigger = group.raft().trigger();
            let _ = group
                .peers()
                .scoped(async {
                    trigger.snapshot().await?;
                    trigger.purge_log(through).await
                })
                .await;
        }
    }
}

/// How far the log may go: as far as the tables have it, and the other region, but for one time in
/// three, as if what is kept for that one had cost too much. `None` = there is nothing to let go of.
fn purgeable(group: &Group, durable: u64) -> Option<u64> {
    group.store().read().durable()?;
    if durable.is_multiple_of(3) {
        return Some(durable);
    }
    let authority = group.standing().map(|standing| standing.authority);
    let ships = authority.filter(|it| {
        it.attachment.is_some() && !matches!(it.role, Role::Secondary | Role::Detached)
    });
    match ships {
        Some(authority) => Some(durable.min(authority.shipped?.index.checked_sub(1)?)),
        None => Some(durable),
    }
}

/// Writes down what a node has applied. A voter that lost its disk has forgotten how it voted and
/// what it acknowledged: it must not take part under its id any more, until it votes no longer.
async fn observe_applied(
    (node, cluster): (u64, Cluster),
    (seats, host): (Seats, u64),
    group: Group,
    history: SharedHistory,
) {
    let mut must_not = seats.is_wiped(host);
    let mut applied = group.applied();
    while applied.changed().await.is_ok() {
        applied.borrow_and_update();
        let seen = {
            let store = group.store().read();
            store.applied().map(|at| Applied {
                cluster,
                node,
                index: at.index,
                term: at.term,
                leader: at.node,
                digest: store.state().digest().0,
            })
        };
        if let (Some(seen), Some(now)) = (seen, now_us()) {
            let mut history = history.lock();
            history.applied(now, seen);
            seats.note_voters(host, &group);
            if must_not && seats.is_voter(host) {
                must_not = false;
                let what = format!("node {node} lost its disk and takes part again under its id");
                history.unexpected_stops.push(what);
            }
        }
    }
}

async fn observe_leadership((node, cluster): (u64, Cluster), group: Group, history: SharedHistory) {
    let mut leadership = group.leadership();
    loop {
        let now_leads = {
            let now = leadership.borrow_and_update();
            now.is_me.then_some(now.term)
        };
        if let (Some(term), Some(now)) = (now_leads, now_us()) {
            history.lock().leads(now, cluster, term, node);
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

/// The hosts, and turmoil under them.
pub struct World {
    pub sim: turmoil::Sim<'static>,
    pub layout: Layout,
    pub hosts: Vec<Arc<Host>>,
    pub seats: Seats,
    pub wires: Wires,
    pub history: SharedHistory,
    /// Hosts that a fault keeps down.
    held_down: Vec<u64>,
    /// Hosts that stopped by themselves, and when they start again.
    restarts: Vec<(Micros, u64)>,
    /// The host whose disk rotted, until it starts again.
    rotten: Option<u64>,
}

impl World {
    pub fn new(seed: u64, layout: Layout, front: Option<Front>, history: SharedHistory) -> World {
        real_clock::follow(0);
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .epoch(std::time::UNIX_EPOCH)
            .simulation_duration(Duration::from_secs(3_600))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(LATENCY.0)
            .max_message_latency(LATENCY.1)
            .tcp_capacity(4_096)
            .enable_random_order();
        let mut sim = builder.build();
        sim.set_message_latency_curve(5.0);
        let wires = Wires::default();
        let seats = Seats::new(seed, &layout);
        let plan = || (layout.clone(), seats.clone());
        let host = |id| Host::new(id, plan(), seed, wires.clone(), history.clone());
        let hosts: Vec<Arc<Host>> =
            layout.hosts().into_iter().map(|id| Arc::new(host(id))).collect();
        for host in &hosts {
            let own = Arc::clone(host);
            sim.host(host.name.as_str(), move || Arc::clone(&own).live());
            wires.refuse(&host.name, seats.of(host.id).is_none());
        }
        if let Some(front) = front {
            draw_doors(&mut sim, &layout, front, &wires, seed);
        }
        let (held_down, restarts, rotten) = (Vec::new(), Vec::new(), None);
        World { sim, layout, hosts, seats, wires, history, held_down, restarts, rotten }
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
            let disk_failed = disk_failed || host.may_stop(&why);
            self.note(format_args!("node {} stopped by itself: {why}", host.id));
            if self.seats.may_refuse(host.id, &why) {
                self.take_down(&host, true);
                continue;
            }
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
                // What a fault has cut stays so.
                for (from, to) in [(&host.name, other), (other, &host.name)] {
                    if self.wires.is_cut(from, to) {
                        self.sim.partition_oneway(from.as_str(), to.as_str());
                    }
                }
            }
        }
    }

    fn others(&self, name: &str) -> Vec<String> {
        let nodes = self.hosts.iter().map(|host| host.name.clone());
        let has_operator = self.layout.is_pair() || self.layout.has_spares();
        let operator = has_operator.then_some(OPERATOR);
        let has_two = self.layout.is_pair() && self.layout.has_spares();
        let second = has_two.then_some(MEMBERS_OPERATOR);
        let clients = CLIENT_HOSTS.into_iter().chain(operator).chain(second).map(str::to_owned);
        let gateway = self.wires.doors.front().and_then(|front| front.behind);
        let gateway = gateway.map(|_| GATEWAY.to_owned());
        nodes.chain(clients).chain(gateway).filter(|other| other != name).collect()
    }

    fn bring_up(&mut self, id: u64) {
        let Some(host) = self.host(id) else { return };
        self.note(format_args!("node {id} starts again"));
        self.wires.refuse(&host.name, self.seats.of(id).is_none());
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
        // Two faults may hold it down at once.
        if let Some(at) = self.held_down.iter().position(|held| *held == id) {
            self.held_down.remove(at);
        }
        if !self.held_down.contains(&id) {
            self.bring_up(id);
        }
    }

    pub fn is_down(&self, id: u64) -> bool {
        self.held_down.contains(&id) || self.restarts.iter().any(|(_, other)| *other == id)
    }

    /// The host whose node leads the highest term of its region, as far as the running nodes know.
    pub fn leader(&self, region: usize) -> Option<u64> {
        let of = self.hosts.iter().filter(|host| region_of(host.id) == region);
        let led = of.filter_map(|host| {
            let status = host.status()?;
            Some((status.term, status.leader?))
        });
        let (_, leader) = led.max()?;
        self.seats.host_of(region, leader)
    }

    /// Whether no node of a region is down.
    pub fn is_all_up(&self, region: usize) -> bool {
        !self.layout.of_region(region).iter().any(|id| self.is_down(*id))
    }

    /// Ends all nodes of a region, puts empty disks in and starts them: another cluster.
    pub fn begin_anew(&mut self, region: usize) {
        let hosts = self.layout.of_region(region).to_vec();
        self.history.lock().pair.begins_anew(region);
        self.note(format_args!("region {} begins anew, with empty disks", REGIONS[region]));
        for id in &hosts {
            self.power_off(*id, true);
            if let Some(host) = self.host(*id) {
                host.replace_disk();
            }
        }
        if region == 0 && self.layout.has_spares() {
            let founders = self.layout.founders().into_iter();
            let founders: Vec<u64> = founders.filter(|host| hosts.contains(host)).collect();
            self.seats.begin_anew(&founders);
        }
        hosts.iter().for_each(|id| self.power_on(*id));
    }
}

/// Adds the machines that are no nodes, and makes all of them known by their numbers.
fn draw_doors(
    sim: &mut turmoil::Sim<'static>,
    layout: &Layout,
    front: Front,
    wires: &Wires,
    seed: u64,
) {
    if let Some(behind) = front.behind {
        let wires = wires.clone();
        sim.host(GATEWAY, move || strangers::gateway(wires.clone(), behind));
    }
    let (disk, other) = (FaultyDisk::new(seed ^ 0x6f_7468_6572), wires.clone());
    sim.host(OTHER_CLUSTER, move || strangers::other_cluster(disk.clone(), other.clone(), seed));
    sim.host(OTHER_SERVER, strangers::other_server);
    let gateway = front.behind.map(|_| GATEWAY.to_owned());
    let nodes = layout.hosts().into_iter().map(host_name);
    let names = nodes.chain(gateway).map(|name| (sim.lookup(name.as_str()), name));
    let names = names.collect();
    wires.doors.draw(front, names);
}
