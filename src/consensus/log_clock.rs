//! The leader's stamps: where log time comes from (the laws are in docs, under *log time*).
//!
//! In a term T follows the wall clock as it stood when the leader was anchored, moved on by
//! monotonic time. The anchor is taken when a majority of the voters, this node among them, agrees
//! with it within the bound, or when an operator accepts it for the term; the first one of a term
//! is taken whole. A step of the wall clock afterwards changes nothing by itself: it is told of,
//! and where a majority agrees with it T is steered there.
//!
//! Laws: T never leaps within a term once it is anchored, never stands still and never goes back.
//! While T is ahead of where it is to be, stamps run at nine tenths of real time, and while it is
//! steered from behind at eleven tenths. A stamp is never below one that was given in the same
//! term.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::types::NodeId;
use crate::clock::SharedClock;
use crate::queue::ids::LogTime;

/// Who vouches for the wall clock that T follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Voucher {
    /// A majority of the voters agrees with it.
    Majority,
    /// An operator accepted it for this term.
    Operator,
}

#[derive(Clone, Copy, Debug)]
struct Anchor {
    /// The wall time when stamps began.
    wall_us: u64,
    by: Voucher,
    /// Whether T goes to it by slewing alone, also from behind.
    is_steered: bool,
}

/// Stamps for one term, or for the part of one that follows one anchor.
#[derive(Debug)]
pub struct LogClock {
    clock: SharedClock,
    /// T when these stamps began.
    start: LogTime,
    started_us: u64,
    anchor: Option<Anchor>,
    /// The last stamp of the term, shared with the stamps before these: an entry may be stamped by
    /// those while these begin.
    given: Arc<AtomicU64>,
}

/// Whether one wall clock is that of a majority: `others` are how far ahead of some moment the
/// clocks are that voters reported, out of `voters` voters, and `own` is this one's.
#[must_use]
pub fn is_agreed(own: i128, others: &[i128], voters: usize, bound_us: u64) -> bool {
    let near = |other: &&i128| own.abs_diff(**other) <= u128::from(bound_us);
    (others.iter().filter(near).count() + 1) * 2 > voters
}

/// The voter whose wall clock a majority agrees with, when this node's is not it: `ahead` are
/// how far ahead of this node's the others' clocks are.
#[must_use]
pub fn agreed_other(ahead: &[(NodeId, i128)], voters: usize, bound_us: u64) -> Option<NodeId> {
    let agreed = |(id, by): &&(NodeId, i128)| {
        // Everybody else, this node with its own zero among them.
        let others = ahead.iter().filter(|(other, _)| other != id).map(|(_, by)| *by);
        let others: Vec<i128> = others.chain([0]).collect();
        is_agreed(*by, &others, voters, bound_us)
    };
    ahead.iter().find(agreed).map(|(id, _)| *id)
}

/// How far one time is ahead of another, in microseconds.
fn ahead_us(time: u64, of: u64) -> i64 {
    if time >= of {
        i64::try_from(time - of).unwrap_or(i64::MAX)
    } else {
        i64::try_from(of - time).map_or(i64::MIN, |behind| -behind)
    }
}

impl LogClock {
    /// Starts a term at T `last`, anchored to a wall time if somebody vouches for it.
    #[must_use]
    pub fn start(clock: SharedClock, last: LogTime, anchor: Option<(u64, Voucher)>) -> LogClock {
        let started_us = clock.monotonic_us();
        let anchor = anchor.map(|(wall_us, by)| Anchor { wall_us, by, is_steered: false });
        LogClock { clock, start: last, started_us, anchor, given: Arc::default() }
    }

    /// The same term anchored at last, after T ran on by itself: the time is taken whole. `last` is
    /// T as the state has it.
    #[must_use]
    pub fn anchored(&self, last: LogTime, wall_us: u64, by: Voucher) -> LogClock {
        self.follows(last, Anchor { wall_us, by, is_steered: false })
    }

    /// The same term steered to a wall time that a majority agrees with: T runs at eleven tenths or
    /// at nine tenths of real time until it is there. `last` is T as the state has it.
    #[must_use]
    pub fn steered(&self, last: LogTime, wall_us: u64) -> LogClock {
        self.follows(last, Anchor { wall_us, by: Voucher::Majority, is_steered: true })
    }

    fn follows(&self, last: LogTime, anchor: Anchor) -> LogClock {
        LogClock {
            clock: Arc::clone(&self.clock),
            start: last.max(self.stamp()),
            started_us: self.clock.monotonic_us(),
            anchor: Some(anchor),
            given: Arc::clone(&self.given),
        }
    }

    /// Who vouches for the wall clock that T follows; `None` = T runs on by itself.
    #[must_use]
    pub fn voucher(&self) -> Option<Voucher> {
        self.anchor.map(|anchor| anchor.by)
    }

    /// How far the wall clock has stepped from where the anchor and monotonic time have it, in
    /// microseconds; `None` without an anchor.
    #[must_use]
    pub fn step_us(&self) -> Option<i64> {
        let anchor = self.anchor?;
        let course = anchor.wall_us.saturating_add(self.elapsed_us());
        Some(ahead_us(self.clock.wall_us(), course))
    }

    /// How far the wall clock is ahead of T as it runs now, in microseconds.
    #[must_use]
    pub fn wall_ahead_us(&self) -> i64 {
        ahead_us(self.clock.wall_us(), self.now().0)
    }

    /// The stamp for an entry proposed now.
    #[must_use]
    pub fn stamp(&self) -> LogTime {
        let now = self.now().0;
        LogTime(self.given.fetch_max(now, Ordering::Relaxed).max(now))
    }

    fn elapsed_us(&self) -> u64 {
        self.clock.monotonic_us().saturating_sub(self.started_us)
    }

    fn now(&self) -> LogTime {
        let elapsed = self.elapsed_us();
        let after = |by: u64| self.start.0.saturating_add(by);
        let Some(anchor) = self.anchor else {
            // Nobody vouches for the wall clock: T runs on by itself.
            return LogTime(after(elapsed));
        };
        let tenth = elapsed / 10;
        let (slowest, fastest) = (after(elapsed - tenth), after(elapsed.saturating_add(tenth)));
        let course = anchor.wall_us.saturating_add(elapsed).max(slowest);
        LogTime(if anchor.is_steered { course.min(fastest) } else { course })
    }
}

/// The alarm about steps of the wall clock: it is raised once for each.
#[derive(Debug, Default)]
pub struct StepAlarm {
    told_us: Option<i64>,
}

/// What a look at the wall clock says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It runs as T does.
    Even,
    /// It has stepped, and nobody was told.
    Stepped,
    /// It stands where the last step brought it.
    Apart,
    /// It has come back by itself.
    Back,
}

impl StepAlarm {
    /// Judges how far the wall clock has stepped, where more than `most_us` is a step.
    pub fn look(&mut self, step_us: i64, most_us: u64) -> Look {
        if step_us.unsigned_abs() <= most_us {
            return if self.told_us.take().is_some() { Look::Back } else { Look::Even };
        }
        if self.told_us.is_some_and(|told| told.abs_diff(step_us) <= most_us) {
            return Look::Apart;
        }
        self.told_us = Some(step_us);
        Look::Stepped
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::{Clock as _, ManualClock};

    const SECOND: u64 = 1_000_000;
    const HOUR: u64 = 3_600 * SECOND;

    /// A leader anchored at an hour, and its clock.
    fn anchored() -> (Arc<ManualClock>, LogClock) {
        let clock = Arc::new(ManualClock::at(HOUR));
        let anchor = Some((HOUR, Voucher::Majority));
        let stamps = LogClock::start(clock.clone(), LogTime(0), anchor);
        (clock, stamps)
    }

    #[test]
    fn a_majority_must_agree_with_the_wall_clock() {
        assert!(is_agreed(0, &[5, 800], 3, 10), "two of three");
        assert!(!is_agreed(0, &[-400, 800], 3, 10), "one of three");
        assert!(!is_agreed(0, &[], 3, 10), "nobody answered");
        assert!(is_agreed(0, &[], 1, 10), "alone");
    }

    #[test]
    fn an_outlier_names_a_voter_whose_clock_a_majority_shares() {
        let hour = 3_600_000_000;
        assert_eq!(agreed_other(&[(2, hour), (3, hour + 5)], 3, 10), Some(2));
        assert_eq!(agreed_other(&[(2, hour), (3, -hour)], 3, 10), None, "all differ");
        assert_eq!(agreed_other(&[(2, hour)], 3, 10), None, "one of three is no majority");
    }

    #[test]
    fn time_that_passed_while_nobody_led_is_taken_whole() {
        let clock = Arc::new(ManualClock::at(9_000_000));
        let stamps = LogClock::start(
            clock.clone(),
            LogTime(1_000_000),
            Some((9_000_000, Voucher::Majority)),
        );
        assert_eq!(stamps.stamp(), LogTime(9_000_000));
        clock.set_wall(0);
        clock.advance(Duration::from_micros(10));
        assert_eq!(stamps.stamp(), LogTime(9_000_010), "a step of the wall clock changes nothing");
    }

    #[test]
    fn behind_t_the_stamps_run_at_nine_tenths_until_the_wall_clock_has_caught_up() {
        let clock = Arc::new(ManualClock::at(900));
        let stamps = LogClock::start(clock.clone(), LogTime(1_000), Some((900, Voucher::Majority)));
        clock.advance(Duration::from_micros(100));
        assert_eq!(stamps.stamp(), LogTime(1_090));
        clock.advance(Duration::from_micros(900));
        assert_eq!(stamps.stamp(), LogTime(1_900));
        clock.advance(Duration::from_micros(1_000));
        assert_eq!(stamps.stamp(), LogTime(2_900));
    }

    #[test]
    fn without_agreement_t_runs_on() {
        let clock = Arc::new(ManualClock::at(77));
        let stamps = LogClock::start(clock.clone(), LogTime(1_000), None);
        clock.advance(Duration::from_micros(5));
        assert_eq!(stamps.stamp(), LogTime(1_005));
    }

    #[test]
    fn a_step_forward_that_is_agreed_is_caught_up_at_eleven_tenths() {
        let (clock, before) = anchored();
        clock.set_wall(HOUR + 10 * SECOND);
        assert_eq!(before.step_us(), Some(10 * SECOND as i64));
        let stamps = before.steered(LogTime(0), HOUR + 10 * SECOND);
        assert_eq!(stamps.stamp(), LogTime(HOUR), "it does not leap");
        assert_eq!((stamps.step_us(), stamps.wall_ahead_us()), (Some(0), 10 * SECOND as i64));
        clock.advance(Duration::from_secs(50));
        assert_eq!(stamps.stamp(), LogTime(HOUR + 55 * SECOND));
        clock.advance(Duration::from_secs(50));
        assert_eq!(stamps.stamp(), LogTime(HOUR + 110 * SECOND), "it has caught up");
        clock.advance(Duration::from_secs(50));
        assert_eq!(stamps.stamp(), LogTime(HOUR + 160 * SECOND), "and follows the wall clock");
        assert_eq!(stamps.wall_ahead_us(), 0);
    }

    #[test]
    fn a_step_back_that_is_agreed_is_waited_for_at_nine_tenths() {
        let (clock, before) = anchored();
        clock.set_wall(HOUR - 10 * SECOND);
        let stamps = before.steered(LogTime(0), HOUR - 10 * SECOND);
        assert_eq!(stamps.stamp(), LogTime(HOUR), "it does not go back");
        clock.advance(Duration::from_secs(50));
        assert_eq!(stamps.stamp(), LogTime(HOUR + 45 * SECOND));
        clock.advance(Duration::from_secs(100));
        assert_eq!(stamps.stamp(), LogTime(HOUR + 140 * SECOND));
        assert_eq!((stamps.step_us(), stamps.wall_ahead_us()), (Some(0), 0));
    }

    #[test]
    fn steered_again_and_again_t_is_never_faster_nor_slower_than_by_a_tenth() {
        let (clock, mut stamps) = anchored();
        let mut last = stamps.stamp().0;
        for wall in [HOUR + 30 * SECOND, 3 * HOUR, 5, 2 * HOUR, HOUR - SECOND, HOUR + 20 * SECOND] {
            clock.set_wall(wall);
            stamps = stamps.steered(LogTime(0), wall);
            for _ in 0..20 {
                clock.advance(Duration::from_secs(1));
                let now = stamps.stamp().0;
                assert!((900_000..=1_100_000).contains(&(now - last)), "{last} to {now}");
                last = now;
            }
        }
    }

    #[test]
    fn stamps_go_on_from_what_the_state_has_and_from_what_was_given() {
        let (clock, before) = anchored();
        let stamps = before.steered(LogTime(HOUR + 77), HOUR);
        assert_eq!(stamps.stamp(), LogTime(HOUR + 77));
        // An entry that was taken up before the change is stamped after it.
        clock.advance(Duration::from_secs(1_000));
        let late = before.stamp();
        assert_eq!(late, LogTime(HOUR + 1_000 * SECOND));
        clock.set_wall(0);
        let stamps = before.steered(LogTime(0), 0);
        clock.advance(Duration::from_secs(100));
        let late = before.stamp();
        assert_eq!(late, LogTime(HOUR + 1_100 * SECOND));
        assert_eq!(stamps.stamp(), late, "not at nine tenths, which were below it");
    }

    #[test]
    fn the_first_anchor_after_running_on_is_taken_whole_whoever_vouches() {
        for by in [Voucher::Majority, Voucher::Operator] {
            let clock = Arc::new(ManualClock::at(HOUR));
            let alone = LogClock::start(clock.clone(), LogTime(SECOND), None);
            assert_eq!((alone.voucher(), alone.step_us()), (None, None));
            clock.advance(Duration::from_secs(1));
            assert_eq!(alone.wall_ahead_us(), (HOUR - SECOND) as i64);
            let stamps = alone.anchored(LogTime(SECOND), clock.wall_us(), by);
            assert_eq!((stamps.voucher(), stamps.stamp()), (Some(by), LogTime(HOUR + SECOND)));
        }
    }

    #[test]
    fn a_step_is_told_once_and_so_is_the_next() {
        let mut alarm = StepAlarm::default();
        let mut look = |step_us| alarm.look(step_us, 500);
        assert_eq!([look(0), look(500), look(-500)], [Look::Even; 3]);
        assert_eq!([look(501), look(501), look(900)], [Look::Stepped, Look::Apart, Look::Apart]);
        assert_eq!([look(2_000), look(-2_000)], [Look::Stepped; 2]);
        assert_eq!([look(3), look(3), look(-501)], [Look::Back, Look::Even, Look::Stepped]);
        assert_eq!(alarm.look(i64::MIN, 500), Look::Stepped);
    }

    #[test]
    fn no_time_is_too_far_away() {
        assert_eq!((ahead_us(u64::MAX, 0), ahead_us(0, u64::MAX)), (i64::MAX, i64::MIN));
        assert_eq!((ahead_us(5, 3), ahead_us(3, 5)), (2, -2));
    }
}
