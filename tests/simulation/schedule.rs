//! What is done to the world, and when: a schedule drawn from the seed.
//!
//! Laws: two lanes run side by side, one takes nodes and links away, the other makes them worse; a
//! third is for the line between two regions, for changes of the membership of one, or for the way
//! to the nodes in seeds that have doors. In some seeds one more makes the network of a node slow,
//! and one more lets a disk rot. In each lane one fault follows another. What is
//! drawn, and when it begins and ends, depends on the seed alone: a fault that is left out takes
//! the time that it would have taken, so that all others stay as they are. Faults are numbered
//! from one, over all lanes, in the order in which they are drawn.

use std::collections::BTreeSet;
use std::time::Duration;

use zoneq::storage::disk::faulty::Dice;

use crate::flips::Flip;
use crate::history::Micros;
use crate::layout::{Layout, region_of};

mod doors;
mod line;

pub use doors::{Door, Named, Tenant};

/// What an operator is to change of who votes in a region of three zones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new node in the place of the nth voter.
    Replace(u64),
    /// The disk of a voter is lost: it comes back with an empty one, is refused, and replaced.
    LoseDisk,
    /// Five voters.
    Grow,
    /// Three voters, which of two in a zone by these bits.
    Shrink(u64),
    /// Back to who voted, when a change is under way.
    ThinkAgain,
}

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
    /// What goes to a node, and what comes from it, is on the way for so long within its region.
    Late(u64, Duration),
    SlowDisk(u64, Duration),
    SlowDisks(Duration),
    /// So many bytes are left, and what its reserve holds.
    FullDisk(u64, u64),
    FullDisks(u64),
    ClockStep(u64, i64),
    HandOver,
    Purge,
    Members(Change),
    /// A node of the zone that may be hurt loses its power, and its disk rots.
    Rot(Flip),
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
    FlapLine,
    /// The way to a node is hurt, and not the node.
    AtDoor(Door),
}

/// How long before it comes back the others let go of what an outrun node needs.
const OUTRUN_FOR: Micros = 400_000;

/// Salt of the seeds in which disks may rot, of those in which an operator can replace a node.
const FLIPS: u64 = 0x66_6c69_7073;
/// Salt of the seeds of two regions in which disks may rot, and of the seeds of any kind in which
/// the network of a node may be slow. With these none of the seeds that found a bug once is among
/// them: those stay what they were.
const PAIR_FLIPS: u64 = 0x72_6f74_7300_18fb;
const LATE: u64 = 0x6c_6174_6500_7355;

/// Which of the faults that are drawn are done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// Numbers of those that are left out.
    pub without: BTreeSet<u64>,
    /// All others are left out; empty = none.
    pub only: BTreeSet<u64>,
}

impl Choice {
    fn takes(&self, number: u64) -> bool {
        let is_among = self.only.is_empty() || self.only.contains(&number);
        is_among && !self.without.contains(&number)
    }
}

type Draw = fn(&mut Dice, &Layout) -> Fault;

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The fault of this number begins.
    Begin(u64, Fault),
    End(u64, Fault),
    /// While it lasts.
    GoOn(Fault),
    /// The others let go of what a node that is outrun needs.
    Purge,
}

/// A fault that was begun and when it ends.
#[derive(Clone, Copy, Debug)]
struct Running {
    number: u64,
    fault: Fault,
    until: Micros,
    /// A node that is outrun misses what the others let go before it is back.
    purged: bool,
}

/// At most one fault at a time.
struct Lane {
    dice: Dice,
    draw: Draw,
    running: Option<Running>,
    next: Micros,
    longest_pause: u64,
}

impl Lane {
    fn new(seed: u64, salt: u64, draw: Draw, longest_pause: u64) -> Lane {
        let mut dice = Dice::new(seed.rotate_left(24) ^ salt);
        let next = 500_000 + dice.below(longest_pause);
        Lane { dice, draw, running: None, next, longest_pause }
    }
}

pub struct Schedule {
    lanes: Vec<Lane>,
    layout: Layout,
    choice: Choice,
    drawn: u64,
}

impl Schedule {
    pub fn new(seed: u64, layout: Layout, choice: Choice) -> Schedule {
        let lane = |salt, draw, longest_pause| Lane::new(seed, salt, draw, longest_pause);
        let (hard, soft): (Draw, Draw) =
            if layout.is_pair() { (line::hard, line::soft) } else { (hard, soft) };
        let mut lanes =
            vec![lane(0x6861_7264, hard, 3_000_000), lane(0x736f_6674, soft, 2_500_000)];
        if layout.is_pair() {
            lanes.push(lane(0x6c69_6e65, line::draw, 4_000_000));
        }
        if layout.has_spares() {
            lanes.push(lane(0x6d65_6d62, change, 5_000_000));
            if Dice::new(seed ^ FLIPS).below(2) == 0 {
                let rot = |dice: &mut Dice, _: &Layout| Fault::Rot(Flip::draw(dice));
                lanes.push(lane(0x666c_6970, rot, 8_000_000));
            }
        }
        let is_replaced = layout.has_spares();
        if layout.is_pair() && !is_replaced && Dice::new(seed ^ PAIR_FLIPS).below(4) == 0 {
            let rot = |dice: &mut Dice, _: &Layout| Fault::Rot(Flip::draw_of_a_member(dice));
            lanes.push(lane(0x666c_6970, rot, 8_000_000));
        }
        if Dice::new(seed ^ LATE).below(4) == 0 {
            lanes.push(lane(0x6c61_7465, late, 3_000_000));
        }
        Schedule { lanes, layout, choice, drawn: 0 }
    }

    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// What is due in a lane; `aim` finds out whom a fault hits.
    pub fn turn(
        &mut self,
        lane: usize,
        now: Micros,
        aim: impl FnOnce(Fault) -> Fault,
    ) -> Option<Step> {
        let lane = self.lanes.get_mut(lane)?;
        let Some(running) = &mut lane.running else {
            if lane.next > now {
                return None;
            }
            let fault = aim((lane.draw)(&mut lane.dice, &self.layout));
            let length = 200_000 + lane.dice.below(4_000_000);
            let length = match fault {
                Fault::Outrun(_) => length.max(1_500_000),
                // A disk does not fill in a moment.
                Fault::FullDisk(..) | Fault::FullDisks(_) => 3 * length,
                _ => length,
            };
            self.drawn += 1;
            let (number, until) = (self.drawn, now + length);
            lane.running = Some(Running { number, fault, until, purged: false });
            return self.choice.takes(number).then_some(Step::Begin(number, fault));
        };
        let is_done = self.choice.takes(running.number);
        let step = if running.until <= now {
            let step = Step::End(running.number, running.fault);
            lane.running = None;
            lane.next = now + 300_000 + lane.dice.below(lane.longest_pause);
            step
        } else if matches!(running.fault, Fault::Outrun(_))
            && !running.purged
            && running.until <= now + OUTRUN_FOR
        {
            running.purged = true;
            Step::Purge
        } else if matches!(running.fault, Fault::FlapLine | Fault::AtDoor(_)) {
            Step::GoOn(running.fault)
        } else {
            return None;
        };
        is_done.then_some(step)
    }

    /// Ends what runs in a lane, for good.
    pub fn end(&mut self, lane: usize) -> Option<Step> {
        let running = self.lanes.get_mut(lane)?.running.take()?;
        let is_done = self.choice.takes(running.number);
        is_done.then_some(Step::End(running.number, running.fault))
    }
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

/// Makes the network of a node slow: mostly less than a heartbeat, sometimes longer than an
/// election waits.
fn late(dice: &mut Dice, layout: &Layout) -> Fault {
    let delay = match dice.below(4) {
        0 => 80 + dice.below(350),
        _ => 10 + dice.below(60),
    };
    Fault::Late(node(dice, layout), Duration::from_millis(delay))
}

/// Changes who votes.
fn change(dice: &mut Dice, _: &Layout) -> Fault {
    Fault::Members(match dice.below(10) {
        0..4 => Change::Replace(dice.below(5)),
        4 | 5 => Change::LoseDisk,
        6 => Change::Grow,
        7 | 8 => Change::Shrink(dice.below(32)),
        _ => Change::ThinkAgain,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn without(numbers: &[u64]) -> Choice {
        Choice { without: numbers.iter().copied().collect(), ..Choice::default() }
    }

    fn only(numbers: &[u64]) -> Choice {
        Choice { only: numbers.iter().copied().collect(), ..Choice::default() }
    }

    /// A minute of steps, with the time of each.
    fn minute(regions: u64, choice: Choice) -> Vec<(Micros, Step)> {
        minute_of(7, regions, choice)
    }

    fn minute_of(seed: u64, regions: u64, choice: Choice) -> Vec<(Micros, Step)> {
        let mut schedule = Schedule::new(seed, Layout::of(seed, regions), choice);
        let mut steps = Vec::new();
        for now in (0..60_000_000).step_by(1_000) {
            for lane in 0..schedule.lanes() {
                steps.extend(schedule.turn(lane, now, |fault| fault).map(|step| (now, step)));
            }
        }
        let ends = (0..schedule.lanes()).filter_map(|lane| schedule.end(lane));
        steps.extend(ends.collect::<Vec<_>>().into_iter().map(|step| (60_000_000, step)));
        steps
    }

    fn number(step: &Step) -> Option<u64> {
        match step {
            Step::Begin(number, _) | Step::End(number, _) => Some(*number),
            Step::GoOn(_) | Step::Purge => None,
        }
    }

    #[test]
    fn what_begins_ends() {
        for regions in [1, 2] {
            let steps = minute(regions, Choice::default());
            let begun = steps.iter().filter(|(_, step)| matches!(step, Step::Begin(..))).count();
            let ended = steps.iter().filter(|(_, step)| matches!(step, Step::End(..))).count();
            assert!(begun > 20 && begun == ended, "{begun} began and {ended} ended");
        }
    }

    #[test]
    fn a_fault_that_is_left_out_changes_nothing_of_the_others() {
        for regions in [1, 2] {
            let of_faults = |steps: Vec<(Micros, Step)>| {
                steps.into_iter().filter(|(_, step)| number(step).is_some()).collect::<Vec<_>>()
            };
            let all = of_faults(minute(regions, Choice::default()));
            let some = of_faults(minute(regions, without(&[3, 8])));
            let rest = all.iter().filter(|(_, step)| !matches!(number(step), Some(3 | 8)));
            assert!(some.iter().eq(rest));
            assert_eq!(some.len() + 4, all.len());
            let two = of_faults(minute(regions, only(&[3, 8])));
            assert!(all.iter().filter(|step| !some.contains(step)).eq(two.iter()));
        }
    }

    #[test]
    fn in_some_seeds_a_disk_rots_or_the_network_of_a_node_is_slow() {
        for regions in [1, 2] {
            let has = |seed, is: fn(&Fault) -> bool| {
                let steps = minute_of(seed, regions, Choice::default());
                steps.iter().any(|(_, step)| matches!(step, Step::Begin(_, fault) if is(fault)))
            };
            let count = |is| (0..100).filter(|seed| has(*seed, is)).count();
            let rots = count(|fault| matches!(fault, Fault::Rot(_)));
            let late = count(|fault| matches!(fault, Fault::Late(..)));
            assert!((5..50).contains(&rots), "{rots} of {regions}");
            assert!((10..50).contains(&late), "{late} of {regions}");
        }
    }

    #[test]
    fn no_vote_of_two_regions_is_lost_to_rot_where_nobody_replaces_a_node() {
        let is_of_votes = |step: &Step| match step {
            Step::Begin(_, Fault::Rot(flip)) => {
                use crate::flips::Place;
                matches!(flip.place, Place::Vote | Place::Slot)
            }
            _ => false,
        };
        let all = (0..100).filter(|seed| !Layout::of(*seed, 2).has_spares());
        for seed in all {
            let steps = minute_of(seed, 2, Choice::default());
            assert!(!steps.iter().any(|(_, step)| is_of_votes(step)), "seed {seed}");
        }
    }

    #[test]
    fn nothing_is_done_of_what_is_left_out() {
        assert_eq!(minute(1, only(&[0])), []);
        assert_eq!(minute(2, only(&[0])), []);
    }
}
