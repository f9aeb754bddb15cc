//! The leader's stamps: where log time comes from (the laws are in docs, under *log time*).
//!
//! In a term T follows the wall clock as it stood when the leader was anchored, moved on by
//! monotonic time: a step of the wall clock changes nothing. The anchor is taken only when a
//! majority of the voters, this node among them, agrees with it within the bound. While the
//! anchored time is behind T, stamps run at nine tenths of real time until it has caught up: T
//! never stands still and never goes back.

use super::types::NodeId;
use crate::clock::SharedClock;
use crate::queue::ids::LogTime;

/// Stamps for one term.
#[derive(Debug)]
pub struct LogClock {
    clock: SharedClock,
    /// T when the term was anchored.
    start: LogTime,
    started_us: u64,
    /// The wall time then, if a majority agreed.
    wall_us: Option<u64>,
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

impl LogClock {
    /// Starts a term at T `last`, anchored to `wall_us` if it was agreed.
    #[must_use]
    pub fn start(clock: SharedClock, last: LogTime, wall_us: Option<u64>) -> LogClock {
        let started_us = clock.monotonic_us();
        LogClock { clock, start: last, started_us, wall_us }
    }

    /// Whether a majority vouched for the wall clock.
    #[must_use]
    pub fn is_anchored(&self) -> bool {
        self.wall_us.is_some()
    }

    /// The stamp for an entry proposed now.
    #[must_use]
    pub fn stamp(&self) -> LogTime {
        let elapsed = self.clock.monotonic_us().saturating_sub(self.started_us);
        match self.wall_us {
            // Nobody vouches for the wall clock: T runs on by itself.
            None => LogTime(self.start.0.saturating_add(elapsed)),
            Some(wall) => {
                let slewed = self.start.0.saturating_add(elapsed - elapsed / 10);
                LogTime(wall.saturating_add(elapsed).max(slewed))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::clock::ManualClock;

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
        let stamps = LogClock::start(clock.clone(), LogTime(1_000_000), Some(9_000_000));
        assert_eq!(stamps.stamp(), LogTime(9_000_000));
        clock.set_wall(0);
        clock.advance(Duration::from_micros(10));
        assert_eq!(stamps.stamp(), LogTime(9_000_010), "a step of the wall clock changes nothing");
    }

    #[test]
    fn behind_t_the_stamps_run_at_nine_tenths_until_the_wall_clock_has_caught_up() {
        let clock = Arc::new(ManualClock::at(900));
        let stamps = LogClock::start(clock.clone(), LogTime(1_000), Some(900));
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
}
