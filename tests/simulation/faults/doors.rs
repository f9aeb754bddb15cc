//! What is done to the way to the nodes' addresses.

use crate::doors::Gateway;
use crate::history::Micros;
use crate::layout::host_name;
use crate::schedule::{Door, Tenant};
use crate::strangers::{OTHER_CLUSTER, OTHER_SERVER};
use crate::world::World;

/// A listener that flaps is shut for this long and open for as long.
const FLAP: Micros = 40_000;
/// In one of so many turns the connections of its node break as it shuts.
const TURNS_UNBROKEN: u64 = 4;

/// What lasts of the fault that runs.
#[derive(Debug, Default)]
pub struct Doorway {
    began: Micros,
    /// The last turn of a flap that was taken, and who led then.
    turn: u64,
    led: Option<u64>,
}

/// Finds out whom it hits.
pub fn aimed(world: &World, door: Door) -> Door {
    match door {
        Door::AddressReused(_, after, tenant) => {
            Door::AddressReused(world.leader(0).filter(|id| !world.is_down(*id)), after, tenant)
        }
        Door::Flap(_) => Door::Flap(world.leader(0)),
        door => door,
    }
}

pub fn begin(world: &mut World, door: Door, doorway: &mut Doorway) {
    count(door);
    *doorway = Doorway { began: world.now(), turn: 0, led: world.leader(0) };
    match door {
        Door::GatewayRefuses => world.wires.doors.set_gateway(Gateway::Refuses),
        Door::GatewayCloses => world.wires.doors.set_gateway(Gateway::Closes),
        Door::AddressReused(Some(id), 0, tenant) => {
            let_in(world, id, tenant);
            world.power_off(id, true);
        }
        Door::AddressReused(Some(id), ..) => world.power_off(id, true),
        Door::AddressReused(None, ..) | Door::Flap(_) | Door::FlapLeaders => {}
    }
}

pub fn go_on(world: &mut World, door: Door, doorway: &mut Doorway) {
    watch(world, door, doorway);
    let is_due = |after| world.now() == doorway.began + after;
    match door {
        Door::AddressReused(Some(id), after, tenant) if after > 0 && is_due(after) => {
            let_in(world, id, tenant);
        }
        Door::Flap(Some(id)) => flap(world, id, doorway),
        Door::FlapLeaders => {
            if let Some(id) = world.leader(0) {
                flap(world, id, doorway);
            }
        }
        _ => {}
    }
}

pub fn end(world: &mut World, door: Door) {
    match door {
        Door::GatewayRefuses | Door::GatewayCloses => {
            world.wires.doors.set_gateway(Gateway::Relays);
        }
        Door::AddressReused(Some(id), ..) => {
            world.wires.doors.set_tenant(&host_name(id), None);
            world.power_on(id);
        }
        Door::AddressReused(None, ..) => {}
        Door::Flap(_) | Door::FlapLeaders => world.wires.doors.set_refused("", &[]),
    }
}

/// Counted in the summary, beside what nodes say.
fn count(door: Door) {
    match door {
        Door::GatewayRefuses => told("fault: the gateway in front of a node refuses"),
        Door::GatewayCloses => told("fault: the gateway in front of a node accepts and closes"),
        Door::AddressReused(..) => told("fault: a dead leader's address is answered by another"),
        Door::Flap(_) => told("fault: the listener of a leader flaps"),
        Door::FlapLeaders => told("fault: the listener of whoever leads flaps"),
    }
}

fn told(what: &'static str) {
    tracing::info!(target: "zoneq::simulation", "{what}");
}

/// Counts the leaders that live and are followed no more.
fn watch(world: &World, door: Door, doorway: &mut Doorway) {
    let Some(leads) = world.leader(0) else { return };
    if let Some(led) = doorway.led.replace(leads)
        && led != leads
        && !world.is_down(led)
    {
        match door {
            Door::AddressReused(..) => {}
            _ => told("a leader that lives was replaced while the way to it was hurt"),
        }
    }
}

fn let_in(world: &World, id: u64, tenant: Tenant) {
    let name = host_name(id);
    let tenant = match tenant {
        Tenant::Member => match id {
            1 => "z2",
            _ => "z1",
        },
        Tenant::OtherCluster => OTHER_CLUSTER,
        Tenant::OtherServer => OTHER_SERVER,
    };
    world.wires.doors.set_tenant(&name, Some(tenant));
}

/// Shuts the listener of a node to some of the others, in turn, and opens it.
fn flap(world: &World, id: u64, doorway: &mut Doorway) {
    let turn = 1 + (world.now() - doorway.began) / FLAP;
    if turn == doorway.turn {
        return;
    }
    doorway.turn = turn;
    let name = host_name(id);
    let (round, is_shut) = (turn / 2, !turn.is_multiple_of(2));
    let others = world.hosts.iter().map(|host| host.name.clone()).filter(|other| *other != name);
    // One, the other, and both.
    let refused = (1..).zip(others).filter(|(n, _)| is_shut && round % 3 != *n % 3);
    let refused: Vec<String> = refused.map(|(_, other)| other).collect();
    world.wires.doors.set_refused(&name, &refused);
    if is_shut && round.is_multiple_of(TURNS_UNBROKEN) {
        world.wires.doors.break_all(&name);
    }
}
