//! What is done to the world, and when: a schedule drawn from the seed.
//!
//! Two lanes run side by side: one takes nodes and links away, the other makes them worse.
//! Everything ends, and once the chaos is over everything is healed.

use std::time::Duration;

use zoneq::storage::disk::faulty::Dice;

use crate::history::Micros;
use crate::layout::{Layout, host_name, region_of};
use crate::world::{CLIENT_HOSTS, Order, World};

mod line;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process is gone and its disk lost what was not synced; the kernel refuses dials.
    Kill(u64),
    PowerCut(u64),
    PowerCutOfAll,
    /// Power goes in the middle of a write, or before a sync did its work.
    DieAtWrite(u64, u64),
    DieAtSync(u64, u64),
    /// A sync fails and drops what it should have kept; the node must stop.
    FailSync(u64, u64),
    FailIo(u64, u64),
    /// Cut off from the other nodes and, if so drawn, from the clients.
    Isolate(u64, bool),
    Cut(u64, u64),
    CutOneWay(u64, u64),
    Hold(u64, u64),
    /// Cut off while the others let their logs go, so that it needs a snapshot.
    Outrun(u64),
    /// One packet in so many is lost, everywhere.
    Loss(u64),
    SlowDisk(u64, Duration),
    SlowDisks(Duration),
    /// So many bytes are left, and what its reserve holds.
    FullDisk(u64, u64),
    FullDisks(u64),
    ClockStep(u64, i64),
    HandOver,
    Purge,
    /// The node that leads this region, if one does, is killed.
    KillLeader(usize, Option<u64>),
    PowerCutOfRegion(usize),
    FullRegion(usize, u64),
    /// All clocks of a region are off by as much.
    RegionClock(usize, i64),
    /// What crosses from region to region: nothing, nothing from the one of this number, late, or
    /// nothing every other moment.
    CutLine,
    CutLineFrom(usize),
    DelayLine(Duration),
    FlapLine(bool),
}

/// Bytes of a disk that is not full.
const ROOM: u64 = 1 << 40;
/// How long before it comes back the others let go of what an outrun node needs.
const OUTRUN_FOR: Micros = 400_000;

/// A fault that was begun and when it ends.
#[derive(Clone, Copy, Debug)]
struct Running {
    fault: Fault,
    until: Micros,
    /// A node that is outrun misses what the others let go before it is back.
    purged: bool,
}

/// One lane: at most one fault at a time.
struct Lane {
    dice: Dice,
    draw: fn(&mut Dice, &Layout) -> Fault,
    running: Option<Running>,
    next: Micros,
    longest_pause: u64,
}

pub struct Faults {
    lanes: Vec<Lane>,
    layout: Layout,
}

fn node(dice: &mut Dice, layout: &Layout) -> u64 {
    let region = if layout.is_pair() { dice.below(2) as usize } else { 0 };
    let hosts = layout.of_region(region);
    hosts[dice.below(hosts.len() as u64) as usize]
}

/// Two nodes of one region; one that is alone is twice the same.
fn pair(dice: &mut Dice, layout: &Layout) -> (u64, u64) {
    let one = node(dice, layout);
    let others = layout.of_region(region_of(one)).iter().filter(|other| **other != one);
    let others: Vec<u64> = others.copied().collect();
    if others.is_empty() {
        return (one, one);
    }
    (one, others[dice.below(others.len() as u64) as usize])
}

/// Takes nodes and links away.
fn hard(dice: &mut Dice, layout: &Layout) -> Fault {
    match dice.below(24) {
        0..3 => Fault::Kill(node(dice, layout)),
        3..6 => Fault::PowerCut(node(dice, layout)),
        6..9 => Fault::PowerCutOfAll,
        9..11 => Fault::DieAtWrite(node(dice, layout), 1 + dice.below(60)),
        11..13 => Fault::DieAtSync(node(dice, layout), 1 + dice.below(30)),
        13 => Fault::FailSync(node(dice, layout), 1 + dice.below(30)),
        14 => Fault::FailIo(node(dice, layout), 1 + dice.below(60)),
        15..18 => Fault::Isolate(node(dice, layout), dice.below(2) == 0),
        roll @ 18..22 => {
            let (a, b) = pair(dice, layout);
            match roll {
                _ if a == b => Fault::Kill(a),
                18 => Fault::Cut(a, b),
                21 => Fault::Hold(a, b),
                _ => Fault::CutOneWay(a, b),
            }
        }
        _ => Fault::Outrun(node(dice, layout)),
    }
}

/// Makes things worse without taking them away.
fn soft(dice: &mut Dice, layout: &Layout) -> Fault {
    let slow = |dice: &mut Dice| match dice.below(6) {
        // A stalled disk on the leader makes it hand over.
        0 => Duration::from_millis(2_500),
        1 => Duration::from_millis(400),
        _ => Duration::from_millis(5 + dice.below(60)),
    };
    let left = |dice: &mut Dice| match dice.below(3) {
        0 => 0,
        1 => dice.below(300 << 10),
        _ => dice.below(2 << 20),
    };
    match dice.below(15) {
        12..14 => Fault::FullDisk(node(dice, layout), left(dice)),
        14 => Fault::FullDisks(left(dice)),
        0..2 => Fault::Loss(100 + dice.below(2_000)),
        2..4 => Fault::SlowDisk(node(dice, layout), slow(dice)),
        4 => Fault::SlowDisks(slow(dice).min(Duration::from_millis(400))),
        5..8 => {
            // Mostly within the bound that nodes trust each other by, sometimes far beyond.
            let span = if dice.below(3) == 0 { 20_000_000 } else { 900_000 };
            Fault::ClockStep(node(dice, layout), dice.below(2 * span) as i64 - span as i64)
        }
        8..10 => Fault::HandOver,
        _ => Fault::Purge,
    }
}

impl Faults {
    pub fn new(seed: u64, layout: Layout) -> Faults {
        let lane = |salt: u64, draw: fn(&mut Dice, &Layout) -> Fault, longest_pause| {
            let mut dice = Dice::new(seed.rotate_left(24) ^ salt);
            let next = 500_000 + dice.below(longest_pause);
            Lane { dice, draw, running: None, next, longest_pause }
        };
        let hard: fn(&mut Dice, &Layout) -> Fault =
            if layout.is_pair() { line::hard } else { hard };
        let soft: fn(&mut Dice, &Layout) -> Fault =
            if layout.is_pair() { line::soft } else { soft };
        let mut lanes =
            vec![lane(0x6861_7264, hard, 3_000_000), lane(0x736f_6674, soft, 2_500_000)];
        if layout.is_pair() {
            lanes.push(lane(0x6c69_6e65, line::draw, 4_000_000));
        }
        Faults { lanes, layout }
    }

    /// Begins and ends what is due.
    pub fn turn(&mut self, world: &mut World) {
        let now = world.now();
        for lane in &mut self.lanes {
            if let Some(running) = lane.running.filter(|running| running.until <= now) {
                lane.running = None;
                end(world, running.fault);
                lane.next = now + 300_000 + lane.dice.below(lane.longest_pause);
            } else if lane.running.is_none() && lane.next <= now {
                let fault = (lane.draw)(&mut lane.dice, &self.layout);
                let fault = line::aimed(world, fault);
                let length = 200_000 + lane.dice.below(4_000_000);
                let length = match fault {
                    Fault::Outrun(_) => length.max(1_500_000),
                    // A disk does not fill in a moment.
                    Fault::FullDisk(..) | Fault::FullDisks(_) => 3 * length,
                    _ => length,
                };
                lane.running = Some(Running { fault, until: now + length, purged: false });
                begin(world, fault);
            } else if let Some(Running { fault: Fault::FlapLine(is_cut), .. }) = &mut lane.running {
                line::flap(world, now, is_cut);
            } else if let Some(running) = &mut lane.running
                && matches!(running.fault, Fault::Outrun(_))
                && !running.purged
                && running.until <= now + OUTRUN_FOR
            {
                running.purged = true;
                order_all(world, Order::Purge);
            }
        }
    }

    /// Ends everything, for good.
    pub fn heal(&mut self, world: &mut World) {
        for lane in &mut self.lanes {
            if let Some(running) = lane.running.take() {
                end(world, running.fault);
            }
        }
        for host in world.hosts.clone() {
            host.clock.set_skew(0);
        }
        world.note(format_args!("all faults have healed"));
    }
}

fn begin(world: &mut World, fault: Fault) {
    world.note(format_args!("{fault:?} begins; node {:?} leads", world.leader(0)));
    let all = world.layout.hosts();
    match fault {
        Fault::Kill(id) => world.power_off(id, true),
        Fault::PowerCut(id) => world.power_off(id, false),
        Fault::PowerCutOfAll => all.into_iter().for_each(|id| world.power_off(id, false)),
        Fault::DieAtWrite(id, n) => on_disk(world, id, |disk| disk.kill_at_write(n)),
        Fault::DieAtSync(id, n) => on_disk(world, id, |disk| disk.kill_at_sync(n)),
        Fault::FailSync(id, n) => on_disk(world, id, |disk| disk.fail_sync(n)),
        Fault::FailIo(id, n) => on_disk(world, id, |disk| disk.fail_op(n)),
        Fault::Isolate(id, from_clients) => isolate(world, id, from_clients, true),
        Fault::Cut(a, b) => cut(world, &host_name(a), &host_name(b), true),
        Fault::CutOneWay(a, b) => {
            world.wires.cut(&host_name(a), &host_name(b), true);
            world.sim.partition_oneway(host_name(a), host_name(b));
        }
        Fault::Hold(a, b) => world.sim.hold(host_name(a), host_name(b)),
        Fault::Outrun(id) => isolate(world, id, false, true),
        Fault::Loss(one_in) => world.sim.set_fail_rate(1.0 / one_in as f64),
        Fault::SlowDisk(id, delay) => slow(world, &[id], delay),
        Fault::SlowDisks(delay) => slow(world, &all, delay),
        Fault::FullDisk(id, left) => fill(world, &[id], Some(left)),
        Fault::FullDisks(left) => fill(world, &all, Some(left)),
        Fault::ClockStep(id, by) => {
            if let Some(host) = world.host(id) {
                host.clock.set_skew(by);
            }
        }
        Fault::HandOver => order_all(world, Order::HandOver),
        Fault::Purge => order_all(world, Order::Purge),
        of_pair => line::begin(world, of_pair),
    }
}

fn end(world: &mut World, fault: Fault) {
    world.note(format_args!("{fault:?} ends"));
    let all = world.layout.hosts();
    match fault {
        Fault::Kill(id) | Fault::PowerCut(id) => world.power_on(id),
        Fault::PowerCutOfAll => all.into_iter().for_each(|id| world.power_on(id)),
        // A disk that did not get as far as its fault dies now, by a power cut.
        Fault::DieAtWrite(id, _)
        | Fault::DieAtSync(id, _)
        | Fault::FailSync(id, _)
        | Fault::FailIo(id, _) => {
            if !world.is_down(id) {
                world.power_off(id, false);
                world.power_on(id);
            }
        }
        Fault::Isolate(id, from_clients) => isolate(world, id, from_clients, false),
        Fault::Cut(a, b) => cut(world, &host_name(a), &host_name(b), false),
        Fault::CutOneWay(a, b) => {
            world.wires.cut(&host_name(a), &host_name(b), false);
            world.sim.repair_oneway(host_name(a), host_name(b));
        }
        Fault::Hold(a, b) => world.sim.release(host_name(a), host_name(b)),
        Fault::Outrun(id) => isolate(world, id, false, false),
        Fault::Loss(_) => world.sim.set_fail_rate(0.0),
        Fault::SlowDisk(id, _) => slow(world, &[id], Duration::ZERO),
        Fault::SlowDisks(_) => slow(world, &all, Duration::ZERO),
        Fault::FullDisk(id, _) => fill(world, &[id], None),
        Fault::FullDisks(_) => fill(world, &all, None),
        // A clock that was stepped stays wrong until the next step or the healing.
        Fault::ClockStep(..) | Fault::HandOver | Fault::Purge => {}
        of_pair => line::end(world, of_pair),
    }
}

fn on_disk(
    world: &mut World,
    id: u64,
    how: impl FnOnce(&zoneq::storage::disk::faulty::FaultyDisk),
) {
    if let Some(host) = world.host(id) {
        host.let_disk_fail(how);
    }
}

fn slow(world: &mut World, ids: &[u64], delay: Duration) {
    for host in ids.iter().filter_map(|id| world.host(*id)) {
        host.disk().set_sync_delay(delay);
    }
}

/// Leaves so many bytes free, or room for everything.
fn fill(world: &mut World, ids: &[u64], left: Option<u64>) {
    for disk in ids.iter().filter_map(|id| world.host(*id)).map(|host| host.disk()) {
        disk.set_capacity(left.map_or(ROOM, |left| disk.used_bytes() + left));
    }
}

fn order_all(world: &mut World, order: Order) {
    for host in &world.hosts {
        host.order(order);
    }
}

fn cut(world: &mut World, a: &str, b: &str, cut: bool) {
    world.wires.cut(a, b, cut);
    if cut {
        world.sim.partition(a, b);
    } else {
        world.sim.repair(a, b);
    }
}

fn isolate(world: &mut World, id: u64, from_clients: bool, isolated: bool) {
    let own = host_name(id);
    let others = world.layout.of_region(region_of(id)).to_vec();
    for other in others.into_iter().filter(|other| *other != id) {
        cut(world, &own, &host_name(other), isolated);
    }
    if from_clients {
        for client in CLIENT_HOSTS {
            cut(world, &own, client, isolated);
        }
    }
}
