//! What is done to a pair of regions as such, and to the line between them.

use std::time::Duration;

use zoneq::storage::disk::faulty::Dice;

use super::{Fault, fill};
use crate::history::Micros;
use crate::layout::{Layout, host_name};
use crate::world::World;

/// A line that flaps is cut and whole for so long each.
const FLAP: Micros = 150_000;
/// How far off the clocks of a whole region may be: minutes.
const FAR_OFF_US: u64 = 300_000_000;
/// The network's own longest and shortest latency, in force where no fault changes it.
const LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(8));

fn region(dice: &mut Dice) -> usize {
    dice.below(2) as usize
}

/// As for one region, and what takes away a region's leader or all of it.
pub fn hard(dice: &mut Dice, layout: &Layout) -> Fault {
    match dice.below(10) {
        0 => Fault::KillLeader(region(dice), None),
        1 | 2 => Fault::PowerCutOfRegion(region(dice)),
        _ => match super::hard(dice, layout) {
            // Both at once are as one region is to itself.
            Fault::PowerCutOfAll if dice.below(3) > 0 => Fault::KillLeader(region(dice), None),
            fault => fault,
        },
    }
}

pub fn soft(dice: &mut Dice, layout: &Layout) -> Fault {
    match dice.below(8) {
        0 => Fault::FullRegion(region(dice), dice.below(300 << 10)),
        1 => {
            let by = dice.below(2 * FAR_OFF_US) as i64 - FAR_OFF_US as i64;
            Fault::RegionClock(region(dice), by)
        }
        _ => super::soft(dice, layout),
    }
}

/// What becomes of the line.
pub fn draw(dice: &mut Dice, _: &Layout) -> Fault {
    match dice.below(8) {
        0..3 => Fault::CutLine,
        3 | 4 => Fault::CutLineFrom(region(dice)),
        5 => Fault::FlapLine(false),
        _ => Fault::DelayLine(Duration::from_millis(20 + dice.below(400))),
    }
}

/// Finds out whom it hits.
pub fn aimed(world: &World, fault: Fault) -> Fault {
    match fault {
        Fault::KillLeader(region, _) => Fault::KillLeader(region, world.leader(region)),
        fault => fault,
    }
}

pub fn begin(world: &mut World, fault: Fault) {
    match fault {
        Fault::KillLeader(_, Some(id)) => world.power_off(id, true),
        Fault::PowerCutOfRegion(region) => {
            let hosts = world.layout.of_region(region).to_vec();
            hosts.into_iter().for_each(|id| world.power_off(id, false));
        }
        Fault::FullRegion(region, left) => {
            let hosts = world.layout.of_region(region).to_vec();
            fill(world, &hosts, Some(left));
        }
        Fault::RegionClock(region, by) => {
            let hosts = world.layout.of_region(region).to_vec();
            for host in hosts.iter().filter_map(|id| world.host(*id)) {
                host.clock.set_skew(by);
            }
        }
        Fault::CutLine => cut(world, &[0, 1], true),
        Fault::CutLineFrom(region) => cut(world, &[region], true),
        Fault::DelayLine(delay) => {
            for (a, b) in world.layout.line() {
                world.sim.set_link_latency(host_name(a), host_name(b), delay);
            }
        }
        _ => {}
    }
}

pub fn end(world: &mut World, fault: Fault) {
    match fault {
        Fault::KillLeader(_, Some(id)) => world.power_on(id),
        Fault::PowerCutOfRegion(region) => {
            let hosts = world.layout.of_region(region).to_vec();
            hosts.into_iter().for_each(|id| world.power_on(id));
        }
        Fault::FullRegion(region, _) => {
            let hosts = world.layout.of_region(region).to_vec();
            fill(world, &hosts, None);
        }
        Fault::CutLine | Fault::FlapLine(true) => cut(world, &[0, 1], false),
        Fault::CutLineFrom(region) => cut(world, &[region], false),
        Fault::DelayLine(_) => {
            for (a, b) in world.layout.line() {
                world.sim.set_link_latency(host_name(a), host_name(b), LATENCY.0);
                world.sim.set_link_max_message_latency(host_name(a), host_name(b), LATENCY.1);
            }
        }
        _ => {}
    }
}

/// Cuts the line or makes it whole, whenever it is time to.
pub fn flap(world: &mut World, now: Micros, is_cut: &mut bool) {
    let should = (now / FLAP).is_multiple_of(2);
    if should != *is_cut {
        *is_cut = should;
        cut(world, &[0, 1], should);
    }
}

/// Cuts what goes out of these regions to the other.
fn cut(world: &mut World, from: &[usize], cut: bool) {
    for (a, b) in world.layout.line() {
        let ways = [(0, host_name(a), host_name(b)), (1, host_name(b), host_name(a))];
        for (_, from, to) in ways.into_iter().filter(|(region, ..)| from.contains(region)) {
            world.wires.cut(&from, &to, cut);
            if cut {
                world.sim.partition_oneway(from, to);
            } else {
                world.sim.repair_oneway(from, to);
            }
        }
    }
}
