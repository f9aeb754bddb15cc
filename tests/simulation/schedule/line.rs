//! What is drawn for a pair of regions as such, and for the line between them.

use std::time::Duration;

use zoneq::storage::disk::faulty::Dice;

use super::Fault;
use crate::layout::Layout;

/// How far off the clocks of a whole region may be: minutes.
const FAR_OFF_US: u64 = 300_000_000;

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
        5 => Fault::FlapLine,
        _ => Fault::DelayLine(Duration::from_millis(20 + dice.below(400))),
    }
}
