//! What is done to a pair of regions as such, and to the line between them.

use super::{delay_way, fill};
use crate::history::Micros;
use crate::layout::host_name;
use crate::schedule::Fault;
use crate::world::World;

/// A line that flaps is cut and whole for so long each.
const FLAP: Micros = 150_000;

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
                delay_way(world, &host_name(a), &host_name(b), Some(delay));
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
        Fault::CutLine => cut(world, &[0, 1], false),
        Fault::CutLineFrom(region) => cut(world, &[region], false),
        Fault::DelayLine(_) => {
            for (a, b) in world.layout.line() {
                delay_way(world, &host_name(a), &host_name(b), None);
            }
        }
        _ => {}
    }
}

/// Whether a line that flaps is cut at that moment.
pub fn is_cut_then(now: Micros) -> bool {
    (now / FLAP).is_multiple_of(2)
}

/// Cuts the line or makes it whole, where it is not so.
pub fn flap(world: &mut World, should: bool, is_cut: &mut bool) {
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
