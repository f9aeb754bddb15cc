//! Where the nodes of a run are: one region of three, or two regions, one of which may be smaller.
//! In one seed of four one region has two hosts to spare, on which an operator seats nodes; of two
//! regions of three the first one has them in one seed of six.

use zoneq::storage::disk::faulty::Dice;

#[allow(unused_imports, reason = "the tests of the checks do not count regions")]
pub use crate::history::REGIONS;

/// The host from which an operator works on a pair of regions.
pub const OPERATOR: &str = "op";
/// The host from which one changes the members of the first of two regions meanwhile.
pub const MEMBERS_OPERATOR: &str = "op2";
/// Hosts are numbered through: this many numbers for each region.
const SPAN: u64 = 3;
/// Hosts of the first region on which no node is at first.
const SPARES: [u64; 2] = [7, 8];
/// Salt of the seeds in which the membership changes.
const MEMBERS: u64 = 0x6d65_6d62_6572;
/// The same of two regions. With this none of the seeds that found a bug once is among them.
const PAIR_MEMBERS: u64 = 0x70_6d65_6d00_0010;

/// The region of a host, as an index into [`REGIONS`].
pub fn region_of(host: u64) -> usize {
    usize::from(host > SPAN && host <= 2 * SPAN)
}

/// The node id that a host's first node has in its own group: both regions count from one.
pub fn node_id(host: u64) -> u64 {
    (host - 1) % SPAN + 1
}

pub fn host_name(host: u64) -> String {
    format!("z{host}")
}

/// The hosts of each region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout(Vec<Vec<u64>>);

impl Layout {
    /// One region is always of three; of two, some seeds make one or both a single node.
    pub fn of(seed: u64, regions: u64) -> Layout {
        let region = |at: u64, size: u64| (1..=size).map(|n| at * SPAN + n).collect();
        if regions < 2 {
            let mut own: Vec<u64> = region(0, SPAN);
            if Dice::new(seed ^ MEMBERS).below(4) == 0 {
                own.extend(SPARES);
            }
            return Layout(vec![own]);
        }
        let (east, west) = match Dice::new(seed ^ 0x6c61_796f_7574).below(8) {
            0 => (SPAN, 1),
            1 => (1, SPAN),
            2 => (1, 1),
            _ => (SPAN, SPAN),
        };
        let mut first: Vec<u64> = region(0, east);
        let are_whole = (east, west) == (SPAN, SPAN);
        if are_whole && Dice::new(seed ^ PAIR_MEMBERS).below(6) == 0 {
            first.extend(SPARES);
        }
        Layout(vec![first, region(1, west)])
    }

    pub fn is_pair(&self) -> bool {
        self.0.len() > 1
    }

    /// The same with no host to spare: the membership stays as it is.
    pub fn without_spares(mut self) -> Layout {
        self.0.iter_mut().for_each(|region| region.retain(|host| !SPARES.contains(host)));
        self
    }

    /// Whether there are hosts to spare, and so an operator who changes the membership.
    pub fn has_spares(&self) -> bool {
        self.of_region(0).iter().any(|host| SPARES.contains(host))
    }

    /// The hosts on which a node is from the beginning.
    pub fn founders(&self) -> Vec<u64> {
        self.hosts().into_iter().filter(|host| !SPARES.contains(host)).collect()
    }

    pub fn regions(&self) -> usize {
        self.0.len()
    }

    pub fn of_region(&self, region: usize) -> &[u64] {
        self.0.get(region).map_or(&[], Vec::as_slice)
    }

    /// All hosts, those of the first region first.
    pub fn hosts(&self) -> Vec<u64> {
        self.0.concat()
    }

    /// Every way from a host of one region to a host of the other.
    pub fn line(&self) -> Vec<(u64, u64)> {
        let west = self.of_region(1);
        let ways = self.of_region(0).iter().flat_map(|a| west.iter().map(|b| (*a, *b)));
        ways.collect()
    }
}
