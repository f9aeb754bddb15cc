//! Log time T: the only clock of the queue room.
//!
//! Law: T grows strictly with every entry that applies, whatever stamp the leader proposed, so
//! two entries never share a T and a leader whose wall clock is behind cannot take time back.

use super::ids::LogTime;

/// T after an entry stamped `stamp`, when it was `now` before.
#[must_use]
pub fn advance(now: LogTime, stamp: LogTime) -> LogTime {
    LogTime(now.0.saturating_add(1).max(stamp.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t_follows_the_stamp_and_never_stands_still_or_goes_back() {
        assert_eq!(advance(LogTime(10), LogTime(50)), LogTime(50));
        assert_eq!(advance(LogTime(10), LogTime(10)), LogTime(11));
        assert_eq!(advance(LogTime(10), LogTime(3)), LogTime(11));
    }
}
