//! What is drawn for the way to the nodes' addresses, and the schedules of nothing else.

use zoneq::storage::disk::faulty::Dice;

use super::{Fault, Schedule};
use crate::history::Micros;
use crate::layout::Layout;

/// A fault of the way to an address, while the machine behind it may well live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The gateway ends what it relays and refuses everybody, or accepts and closes.
    GatewayRefuses,
    GatewayCloses,
    /// The node that leads is killed, and after this time somebody else answers at its address
    /// until it comes back.
    AddressReused(Option<u64>, Micros, Tenant),
    /// The listener of the node that leads as this begins closes and opens again and again, and
    /// now and then its connections break.
    Flap(Option<u64>),
    /// The same, of whoever leads just then.
    FlapLeaders,
}

/// Who answers at an address that was a node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenant {
    /// Another node of the cluster.
    Member,
    OtherCluster,
    OtherServer,
}

/// A schedule of one kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Named {
    GatewayRefuses,
    GatewayCloses,
    AddressReused,
    FlappingListener,
    FlappingLeaders,
}

impl Named {
    pub const ALL: [Named; 5] = [
        Named::GatewayRefuses,
        Named::GatewayCloses,
        Named::AddressReused,
        Named::FlappingListener,
        Named::FlappingLeaders,
    ];

    pub fn has_gateway(self) -> bool {
        matches!(self, Named::GatewayRefuses | Named::GatewayCloses)
    }

    /// As the command line has it.
    pub fn name(self) -> &'static str {
        match self {
            Named::GatewayRefuses => "gateway-refuses",
            Named::GatewayCloses => "gateway-closes",
            Named::AddressReused => "address-reused",
            Named::FlappingListener => "flapping-listener",
            Named::FlappingLeaders => "flapping-leaders",
        }
    }

    pub(super) fn draw(self) -> super::Draw {
        match self {
            Named::GatewayRefuses => |_, _| Fault::AtDoor(Door::GatewayRefuses),
            Named::GatewayCloses => |_, _| Fault::AtDoor(Door::GatewayCloses),
            Named::AddressReused => reused,
            Named::FlappingListener => |_, _| Fault::AtDoor(Door::Flap(None)),
            Named::FlappingLeaders => |_, _| Fault::AtDoor(Door::FlapLeaders),
        }
    }
}

fn reused(dice: &mut Dice, _: &Layout) -> Fault {
    let tenant = match dice.below(3) {
        0 => Tenant::Member,
        1 => Tenant::OtherCluster,
        _ => Tenant::OtherServer,
    };
    // At once, or so that some are refused before.
    let after = if dice.below(2) == 0 { 0 } else { 1_000 * dice.below(60) };
    Fault::AtDoor(Door::AddressReused(None, after, tenant))
}

/// Any of them; where there is no gateway, nothing comes of what is done to it.
pub(super) fn draw(dice: &mut Dice, layout: &Layout) -> Fault {
    match dice.below(7) {
        0 => Fault::AtDoor(Door::GatewayRefuses),
        1 => Fault::AtDoor(Door::GatewayCloses),
        2..5 => reused(dice, layout),
        5 => Fault::AtDoor(Door::Flap(None)),
        _ => Fault::AtDoor(Door::FlapLeaders),
    }
}

impl Schedule {
    /// The same with a lane for the way to the nodes, or with nothing else but this.
    pub fn with_doors(mut self, seed: u64, named: Option<Named>) -> Schedule {
        let (draw, longest_pause): (super::Draw, u64) = match named {
            Some(named) => {
                self.lanes.clear();
                (named.draw(), 1_500_000)
            }
            None => (draw, 3_500_000),
        };
        self.lanes.push(super::Lane::new(seed, 0x646f_6f72, draw, longest_pause));
        self
    }
}
