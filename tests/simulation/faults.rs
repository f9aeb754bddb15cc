//! Does to the world what the schedule says, and heals it of everything.

use std::time::Duration;

use crate::arguments::Arguments;
use crate::doors::Front;
use crate::layout::{Layout, host_name, region_of};
use crate::schedule::{Fault, Schedule, Step};
use crate::seeds::FAULT;
use crate::world::{CLIENT_HOSTS, LATENCY, Order, World};

mod doors;
mod line;

/// Bytes of a disk that is not full.
const ROOM: u64 = 1 << 40;

pub struct Faults {
    schedule: Schedule,
    /// A line that flaps is cut at this moment.
    is_cut: bool,
    doorway: doors::Doorway,
    /// Says what begins, for whoever has to know should the process die.
    tells: bool,
}

impl Faults {
    /// Those that a seed draws, as far as they are chosen.
    pub fn new(seed: u64, layout: Layout, arguments: &Arguments) -> Faults {
        let named = arguments.schedule;
        let has_doors = Front::of(seed, &layout, named).is_some();
        let schedule = Schedule::new(seed, layout, arguments.choice());
        let schedule = if has_doors { schedule.with_doors(seed, named) } else { schedule };
        let doorway = doors::Doorway::default();
        Faults { schedule, is_cut: false, doorway, tells: arguments.verdict }
    }

    /// Begins and ends what is due.
    pub fn turn(&mut self, world: &mut World) {
        let now = world.now();
        for lane in 0..self.schedule.lanes() {
            let step = self.schedule.turn(lane, now, |fault| aimed(world, fault));
            if let Some(step) = step {
                self.take(world, step);
            }
        }
    }

    fn take(&mut self, world: &mut World, step: Step) {
        match step {
            Step::Begin(number, fault) => {
                world.note(format_args!(
                    "fault {number}, {fault:?}, begins; node {:?} leads",
                    world.leader(0)
                ));
                let seconds = world.now() as f64 / 1e6;
                let words = format!("{number} at {seconds:.1} s: {fault:?}");
                if self.tells {
                    println!("{FAULT}{words}");
                }
                world.history.lock().faults.push(words);
                match fault {
                    Fault::AtDoor(door) => doors::begin(world, door, &mut self.doorway),
                    fault => begin(world, fault),
                }
            }
            Step::End(number, fault) => {
                world.note(format_args!("fault {number}, {fault:?}, ends"));
                match fault {
                    Fault::FlapLine => line::flap(world, false, &mut self.is_cut),
                    Fault::AtDoor(door) => doors::end(world, door),
                    fault => end(world, fault),
                }
            }
            Step::GoOn(Fault::AtDoor(door)) => doors::go_on(world, door, &mut self.doorway),
            Step::GoOn(_) => {
                let should = line::is_cut_then(world.now());
                line::flap(world, should, &mut self.is_cut);
            }
            Step::Purge => order_all(world, Order::Purge),
        }
    }

    /// Ends everything, for good.
    pub fn heal(&mut self, world: &mut World) {
        for lane in 0..self.schedule.lanes() {
            if let Some(step) = self.schedule.end(lane) {
                self.take(world, step);
            }
        }
        for host in world.hosts.clone() {
            host.clock.set_skew(0);
        }
        world.note(format_args!("all faults have healed"));
    }
}

/// Finds out whom it hits.
fn aimed(world: &World, fault: Fault) -> Fault {
    match fault {
        Fault::AtDoor(door) => Fault::AtDoor(doors::aimed(world, door)),
        fault => line::aimed(world, fault),
    }
}

fn begin(world: &mut World, fault: Fault) {
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
            for (a, b) in ways(world, a, b) {
                world.wires.cut(&a, &b, true);
                world.sim.partition_oneway(a, b);
            }
        }
        Fault::Hold(a, b) => {
            ways(world, a, b).into_iter().for_each(|(a, b)| world.sim.hold(a, b));
        }
        Fault::Outrun(id) => isolate(world, id, false, true),
        Fault::Loss(one_in) => world.sim.set_fail_rate(1.0 / one_in as f64),
        Fault::Late(id, delay) => delay_all(world, id, Some(delay)),
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
        Fault::Members(change) => world.seats.ask(change),
        Fault::Rot(flip) => world.rot(flip),
        of_pair => line::begin(world, of_pair),
    }
}

fn end(world: &mut World, fault: Fault) {
    let all = world.layout.hosts();
    match fault {
        Fault::Kill(id) | Fault::PowerCut(id) => world.power_on(id),
        Fault::Rot(_) => world.end_rot(),
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
            for (a, b) in ways(world, a, b) {
                world.wires.cut(&a, &b, false);
                world.sim.repair_oneway(a, b);
            }
        }
        Fault::Hold(a, b) => {
            ways(world, a, b).into_iter().for_each(|(a, b)| world.sim.release(a, b));
        }
        Fault::Outrun(id) => isolate(world, id, false, false),
        Fault::Loss(_) => world.sim.set_fail_rate(0.0),
        Fault::Late(id, _) => delay_all(world, id, None),
        Fault::SlowDisk(id, _) => slow(world, &[id], Duration::ZERO),
        Fault::SlowDisks(_) => slow(world, &all, Duration::ZERO),
        Fault::FullDisk(id, _) => fill(world, &[id], None),
        Fault::FullDisks(_) => fill(world, &all, None),
        // A clock that was stepped stays wrong until the next step or the healing.
        Fault::ClockStep(..) | Fault::HandOver | Fault::Purge | Fault::Members(_) => {}
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
    for (a, b) in world.wires.doors.ways(a, b) {
        world.wires.cut(&a, &b, cut);
        if cut {
            world.sim.partition(a, b);
        } else {
            world.sim.repair(a, b);
        }
    }
}

/// Every way from a node to another, as the machines at its ends.
fn ways(world: &World, from: u64, to: u64) -> Vec<(String, String)> {
    world.wires.doors.ways(&host_name(from), &host_name(to))
}

/// Messages between two machines take this long in both directions, or as long as they do anyhow.
fn delay_way(world: &World, a: &str, b: &str, delay: Option<Duration>) {
    let (shortest, longest) = delay.map_or(LATENCY, |delay| (delay, delay));
    world.sim.set_link_latency(a, b, shortest);
    world.sim.set_link_max_message_latency(a, b, longest);
}

/// The same of everything between a node, the others of its region, and clients.
fn delay_all(world: &World, id: u64, delay: Option<Duration>) {
    let own = host_name(id);
    let others = world.layout.of_region(region_of(id)).iter().filter(|other| **other != id);
    let clients = CLIENT_HOSTS.into_iter().map(str::to_owned);
    for other in others.map(|other| host_name(*other)).chain(clients) {
        for (a, b) in world.wires.doors.ways(&own, &other) {
            delay_way(world, &a, &b, delay);
        }
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
