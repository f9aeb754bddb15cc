//! The faults of one region in a pair: at a zone of either, at all zones of the primary or of its
//! copy, and at everything.
//!
//! Laws: what is done to a region is the code of one region; the other's nodes are looked after
//! meanwhile. The line between the regions stands where clients are, so a leader whose packets to
//! clients are lost has lost the other region, too.

use futures::future::join;
use tokio::pin;
use zoneq::storage::disk::faulty::Dice;

use crate::cluster::{BEAT, Cluster};
use crate::faults::{self, Fault, Whom};
use crate::history::REGIONS;
use crate::region_faults::{self as pairs, RegionFault};
use crate::regions::Regions;
use crate::say;

/// Whose zones are hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// Those of one region, whichever it is this time.
    Either,
    Primary,
    Copy,
    Both,
}

impl At {
    /// The regions, of a primary and its copy.
    pub fn regions(self, (primary, copy): (usize, usize), dice: &mut Dice) -> Vec<usize> {
        match self {
            At::Either if dice.below(2) == 0 => vec![primary],
            At::Either | At::Copy => vec![copy],
            At::Primary => vec![primary],
            At::Both => vec![primary, copy],
        }
    }
}

const fn whole(
    name: &'static str,
    what: &'static str,
    at: At,
    harm: faults::Harm,
    lasts: (u64, u64),
) -> RegionFault {
    let fault = faults::fault(name, what, Whom::All, harm, lasts);
    pairs::fault(name, what, pairs::Harm::Zones(at, fault))
}

const POWER: (u64, u64) = (0, 1_500);
const FULL: (u64, u64) = (2_000, 4_000);
const STEP: (u64, u64) = (1_000, 3_000);

/// Those of all zones of a region at once.
const WHOLE: [RegionFault; 7] = [
    whole(
        "power-primary",
        "power cut of the primary region",
        At::Primary,
        faults::Harm::PowerCut,
        POWER,
    ),
    whole(
        "power-copy",
        "power cut of the secondary region",
        At::Copy,
        faults::Harm::PowerCut,
        POWER,
    ),
    whole("power-all", "power cut of both regions", At::Both, faults::Harm::PowerCut, POWER),
    whole(
        "full-primary",
        "all disks of the primary region are full, and then are not",
        At::Primary,
        faults::Harm::FullDisk,
        FULL,
    ),
    whole(
        "full-copy",
        "all disks of the secondary region are full, and then are not",
        At::Copy,
        faults::Harm::FullDisk,
        FULL,
    ),
    whole(
        "clock-primary",
        "all wall clocks of the primary region jump and jump back",
        At::Primary,
        faults::Harm::ClockStep,
        STEP,
    ),
    whole(
        "clock-copy",
        "all wall clocks of the secondary region jump and jump back",
        At::Copy,
        faults::Harm::ClockStep,
        STEP,
    ),
];

/// Each fault of one zone or leader, and those of whole regions.
pub fn all() -> impl Iterator<Item = RegionFault> {
    let of_one = faults::ALL.into_iter().filter(|fault| fault.whom != Whom::All);
    let of_one = of_one
        .map(|fault| pairs::fault(fault.name, fault.what, pairs::Harm::Zones(At::Either, fault)));
    of_one.chain(WHOLE)
}

/// Hurts the zones of these regions, lasts, and ends.
pub async fn strike(
    regions: &mut Regions,
    at: &[usize],
    fault: &Fault,
    dice: &mut Dice,
) -> Result<(), String> {
    let mut victims = [Vec::new(), Vec::new()];
    for region in at {
        victims[*region] = fault.victims(&mut regions.sides[*region], dice).await?;
        let words = format!("{} of {:?} of {}", fault.name, victims[*region], REGIONS[*region]);
        say(&regions.history, &words);
    }
    let [of_east, of_west] = victims;
    let (mut one, mut other) = (Dice::new(dice.next()), Dice::new(dice.next()));
    let [east, west] = &mut regions.sides;
    match (of_east.is_empty(), of_west.is_empty()) {
        (false, false) => {
            let east = fault.strike(east, &of_east, &mut one);
            let (east, west) = join(east, fault.strike(west, &of_west, &mut other)).await;
            east.and(west)
        }
        (false, true) => beside(fault.strike(east, &of_east, &mut one), west).await,
        (true, _) => beside(fault.strike(west, &of_west, &mut other), east).await,
    }
}

/// Time passes in a region while something is done to the other.
async fn beside(
    done: impl Future<Output = Result<(), String>>,
    other: &mut Cluster,
) -> Result<(), String> {
    pin!(done);
    loop {
        tokio::select! {
            done = &mut done => return done,
            passed = other.pass(BEAT) => passed?,
        }
    }
}
