//! Which node sits on which host, as an operator has it who changes the membership: node ids,
//! zones, the list of peers in each node's configuration, and what is still to be done to hosts.
//!
//! Laws: a node id is given once. A node that is hurt has a disk that lost or rotted something, and
//! may refuse to start, in the words of the pages for operators; all nodes that are ever hurt in a
//! run are of one zone, so that a majority stays whole. The list names every node that sits, but
//! for one that refused. Of two regions only the first one's members change, and so only its nodes
//! may refuse.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::async_runtime::WatchReceiver as _;
use zoneq::consensus::group::Group;
use zoneq::storage::disk::faulty::Dice;

use crate::layout::{Layout, host_name, node_id, region_of};
use crate::schedule::Change;

/// A node of a zone. Zones of a region are numbered from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub node: u64,
    pub zone: u64,
}

/// What an operator does to a host; the world does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// An empty disk, and a new node on it.
    Sit(u64, Seat),
    /// No node any more.
    Leave(u64),
    /// An empty disk under the node that sits there, which must be refused.
    Wipe(u64),
    /// The node starts again, with the list of peers as it is now.
    Restart(u64),
}

/// Salt of the zone whose nodes may be hurt.
const WEAK: u64 = 0x7765_616b;

/// How a node says that its disk is not to be trusted.
const REFUSALS: [&str; 3] = [
    "but its disk is empty",
    "must not come back under this id",
    "neither slot of the vote can be read",
];

#[derive(Debug, Default)]
struct Plan {
    seats: BTreeMap<u64, Seat>,
    next: u64,
    wishes: VecDeque<Wish>,
    changes: VecDeque<Change>,
    /// Nodes whose disk was hurt.
    hurt: BTreeSet<u64>,
    /// Those of them that refused to start.
    refused: BTreeSet<u64>,
    /// Those whose disk was lost: they must refuse while they vote.
    wiped: BTreeSet<u64>,
    /// Who votes, by the newest membership in the log of any node: its term, its index and those.
    voters: ((u64, u64), BTreeSet<u64>),
    /// Of all nodes that are ever hurt.
    weak_zone: u64,
    /// How often the first of two regions began anew, with its founders.
    generation: u64,
}

/// The region whose members change.
const CHANGING: usize = 0;

/// The node that a host has at first, in a zone of its own.
fn founder(host: u64) -> Seat {
    Seat { node: node_id(host), zone: host }
}

/// The zone whose nodes may be hurt. Of two regions, which have no zone in common, it is one of a
/// region of three: what a single node loses nobody else has; and where the members of one change
/// it is of that one. 0 = none.
fn weak_zone(seed: u64, layout: &Layout) -> u64 {
    let regions = if layout.has_spares() { 1 } else { layout.regions() };
    let regions = (0..regions).map(|region| layout.of_region(region));
    let whole = regions.filter(|hosts| hosts.len() > 1).flatten();
    let zones: Vec<u64> = whole.copied().filter(|host| layout.founders().contains(host)).collect();
    let nth = Dice::new(seed ^ WEAK).below(zones.len() as u64) as usize;
    zones.get(nth).copied().unwrap_or(0)
}

/// Cheap to clone; all clones are the same plan.
#[derive(Clone, Debug, Default)]
pub struct Seats(Arc<Mutex<Plan>>);

impl Seats {
    /// A node on each host but the spare ones.
    pub fn new(seed: u64, layout: &Layout) -> Seats {
        let founders = layout.founders();
        let seats: BTreeMap<u64, Seat> =
            founders.iter().map(|host| (*host, founder(*host))).collect();
        let next = seats.values().map(|seat| seat.node).max().unwrap_or(0) + 1;
        let weak_zone = weak_zone(seed, layout);
        Seats(Arc::new(Mutex::new(Plan { seats, next, weak_zone, ..Plan::default() })))
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn of(&self, host: u64) -> Option<Seat> {
        self.plan().seats.get(&host).copied()
    }

    /// The host of a node of this region.
    pub fn host_of(&self, region: usize, node: u64) -> Option<u64> {
        let plan = self.plan();
        let mut of = plan.seats.iter().filter(|(host, _)| region_of(**host) == region);
        of.find(|(_, seat)| seat.node == node).map(|(host, _)| *host)
    }

    /// All nodes that sit in the region whose members change, with their hosts.
    pub fn all(&self) -> BTreeMap<u64, u64> {
        let plan = self.plan();
        let of = plan.seats.iter().filter(|(host, _)| region_of(**host) == CHANGING);
        of.map(|(host, seat)| (seat.node, *host)).collect()
    }

    /// The region whose members change begins anew: its founders sit where they did at first, and
    /// nothing is wished for or asked for any more.
    pub fn begin_anew(&self, founders: &[u64]) {
        let mut plan = self.plan();
        plan.seats.retain(|host, _| region_of(*host) != CHANGING);
        plan.seats.extend(founders.iter().map(|host| (*host, founder(*host))));
        plan.hurt.clear();
        plan.refused.clear();
        plan.wiped.clear();
        plan.voters = Default::default();
        plan.wishes.clear();
        plan.changes.clear();
        plan.generation += 1;
    }

    /// How often it did.
    pub fn generation(&self) -> u64 {
        self.plan().generation
    }

    /// The list of peers for the node of this host, with where each host is heard by peers. One
    /// that came later is not in its own.
    pub fn peers(&self, host: u64, peer_address: impl Fn(&str) -> String) -> String {
        let plan = self.plan();
        let is_listed = |(of, seat): &(&u64, &Seat)| {
            let is_of_region = region_of(**of) == region_of(host);
            let came_later = **of == host && seat.node != node_id(host);
            let refused = region_of(host) == CHANGING && plan.refused.contains(&seat.node);
            is_of_region && !came_later && !refused
        };
        let peer = |(host, seat): (&u64, &Seat)| {
            let (name, Seat { node, zone }) = (host_name(*host), seat);
            format!("{node}={}@{}/{name}:7401", zone_name(*zone), peer_address(&name))
        };
        plan.seats.iter().filter(is_listed).map(peer).collect::<Vec<_>>().join(",")
    }

    /// A seat for a node of this zone, with a new id.
    pub fn new_seat(&self, zone: u64) -> Seat {
        let mut plan = self.plan();
        plan.next += 1;
        Seat { node: plan.next - 1, zone }
    }

    pub fn wish(&self, wish: Wish) {
        self.plan().wishes.push_back(wish);
    }

    pub fn has_wishes(&self) -> bool {
        !self.plan().wishes.is_empty()
    }

    /// The next wish, which counts as done: nobody else looks before the world has done it.
    pub fn take_wish(&self) -> Option<Wish> {
        let mut plan = self.plan();
        let wish = plan.wishes.pop_front()?;
        match wish {
            Wish::Sit(host, seat) => {
                plan.seats.insert(host, seat);
            }
            Wish::Leave(host) => {
                plan.seats.remove(&host);
            }
            Wish::Wipe(host) => {
                if let Some(Seat { node, .. }) = plan.seats.get(&host).copied() {
                    plan.hurt.insert(node);
                    plan.refused.insert(node);
                    plan.wiped.insert(node);
                }
            }
            Wish::Restart(_) => {}
        }
        Some(wish)
    }

    /// A change of the membership that the schedule asks for.
    pub fn ask(&self, change: Change) {
        self.plan().changes.push_back(change);
    }

    pub fn take_change(&self) -> Option<Change> {
        self.plan().changes.pop_front()
    }

    /// The hosts of nodes that may be hurt and did not refuse.
    pub fn weak(&self) -> Vec<u64> {
        let plan = self.plan();
        let may = |seat: &Seat| seat.zone == plan.weak_zone && !plan.refused.contains(&seat.node);
        plan.seats.iter().filter(|(_, seat)| may(seat)).map(|(host, _)| *host).collect()
    }

    /// The disk of the node on this host rotted.
    pub fn hurt(&self, host: u64) {
        let mut plan = self.plan();
        if let Some(node) = plan.seats.get(&host).map(|seat| seat.node) {
            plan.hurt.insert(node);
        }
    }

    /// Whether the disk of the node on this host was lost, or rotted.
    pub fn is_hurt(&self, host: u64) -> bool {
        let plan = self.plan();
        plan.seats.get(&host).is_some_and(|seat| plan.hurt.contains(&seat.node))
    }

    /// Nodes that sit and have refused to start.
    pub fn refused(&self) -> BTreeSet<u64> {
        let plan = self.plan();
        let of = plan.seats.iter().filter(|(host, _)| region_of(**host) == CHANGING);
        let sit: BTreeSet<u64> = of.map(|(_, seat)| seat.node).collect();
        plan.refused.intersection(&sit).copied().collect()
    }

    /// Whether the node of this host lost its disk, and with it what it had promised.
    pub fn is_wiped(&self, host: u64) -> bool {
        let plan = self.plan();
        let node = plan.seats.get(&host).map(|seat| seat.node);
        region_of(host) == CHANGING && node.is_some_and(|node| plan.wiped.contains(&node))
    }

    /// Says who votes by the membership that the node of a host has in its log.
    pub fn note_voters(&self, host: u64, group: &Group) {
        let metrics = group.raft().metrics();
        let metrics = metrics.borrow_watched();
        let membership = &metrics.membership_config;
        let Some(at) = membership.log_id() else { return };
        let at = (at.leader_id.term, at.index);
        let mut plan = self.plan();
        if region_of(host) == CHANGING && at > plan.voters.0 {
            plan.voters = (at, membership.voter_ids().collect());
        }
    }

    /// Whether the node of this host votes, by the newest membership that any node has.
    pub fn is_voter(&self, host: u64) -> bool {
        let plan = self.plan();
        let node = plan.seats.get(&host).map(|seat| seat.node);
        region_of(host) == CHANGING && node.is_some_and(|node| plan.voters.1.contains(&node))
    }

    /// Whether the node of a host may stop with these words; from then on it has refused.
    pub fn may_refuse(&self, host: u64, why: &str) -> bool {
        let mut plan = self.plan();
        let Some(node) = plan.seats.get(&host).map(|seat| seat.node) else { return false };
        let is_hurt = region_of(host) == CHANGING && plan.hurt.contains(&node);
        let may = is_hurt && REFUSALS.iter().any(|words| why.contains(words));
        if may {
            plan.refused.insert(node);
        }
        may
    }
}

pub fn zone_name(zone: u64) -> String {
    host_name(zone)
}
