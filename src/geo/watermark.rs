//! What a primary knows of its copy.
//!
//! Law: the last sync time is the T of the newest entry that the secondary's group has applied,
//! taken from its acknowledgement and from nowhere else; within an epoch it never falls.

use crate::queue::ids::{LogTime, Position};

/// Azure's word for how the copy does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GeoStatus {
    /// The other region has not been reached, or refuses.
    #[default]
    Unavailable,
    /// It is being given what it lacks, for the first time since it was reached.
    Bootstrap,
    Live,
}

/// How far the copy is, as of its last acknowledgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watermark {
    pub status: GeoStatus,
    /// Everything committed up to this time is in the other region. `None` = not known since
    /// this node leads.
    pub last_sync: Option<LogTime>,
    pub shipped: Option<Position>,
    /// Positions of this log that the copy lacks, bookkeeping included.
    pub positions_behind: u64,
    /// What they take in this node's log.
    pub bytes_behind: u64,
    /// When the copy last said what it has of this log, by this node's monotonic time.
    pub took_us: Option<u64>,
    /// Messages with a lower number were sent, as far as the copy knows.
    pub next_message: Option<u64>,
    /// Bytes a second that were acknowledged lately.
    pub bytes_per_second: u64,
    /// The other region has applied the release, and is the primary.
    pub promoted: bool,
    /// Bytes of the state that was given to the copy last.
    pub copied_bytes: u64,
    /// About how many there are to be; `None` = no state is being given, or it is not known yet.
    pub copy_total: Option<u64>,
    /// Bytes of batches of the log that were put on the line since this node leads, before they
    /// are compressed.
    pub shipped_bytes: u64,
    /// The shape of the line holds everything back.
    pub is_down: bool,
    /// Why shipping stands still, where it does. It stays until the copy takes something.
    pub trouble: Option<String>,
    /// Since when it does, by this node's monotonic time.
    pub stalled_since_us: Option<u64>,
}

impl Watermark {
    /// About how long it takes to ship what waits, at the pace of late; `None` = not known.
    #[must_use]
    pub fn drain_seconds(&self) -> Option<u64> {
        drain_seconds(self.bytes_behind, self.bytes_per_second)
    }

    /// Shipping stands still, and did before where nothing was taken since.
    pub fn stand_still(&mut self, why: String, now_us: u64) {
        self.status = GeoStatus::Unavailable;
        self.trouble = Some(why);
        self.stalled_since_us.get_or_insert(now_us);
    }

    /// A state begins to be given.
    pub fn begin_copy(&mut self) {
        (self.copied_bytes, self.copy_total) = (0, None);
    }

    /// So many bytes of a state are still to come.
    pub fn expect_copy(&mut self, bytes: u64) {
        self.copy_total = Some(self.copied_bytes.saturating_add(bytes));
    }

    /// The copy takes what it is given, or has all.
    pub fn go_on(&mut self) {
        if self.trouble.take().is_some() {
            self.status = GeoStatus::Bootstrap;
        }
        self.stalled_since_us = None;
    }

    /// Takes an acknowledgement in; an older one changes nothing.
    pub fn acknowledge(&mut self, through: Position, log_time: LogTime) {
        let newer = self.shipped.is_none_or(|known| known.index < through.index);
        if newer {
            self.shipped = Some(through);
        }
        self.last_sync = Some(self.last_sync.map_or(log_time, |known| known.max(log_time)));
    }
}

/// About how many seconds so many bytes take at a pace; `None` = there is no pace yet.
#[must_use]
pub fn drain_seconds(bytes: u64, per_second: u64) -> Option<u64> {
    match (bytes, per_second) {
        (0, _) => Some(0),
        (_, 0) => None,
        (bytes, pace) => Some(bytes.div_ceil(pace)),
    }
}

/// The pace of acknowledged bytes, over windows of a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// When the window began; 0 = none has.
    since_us: u64,
    bytes: u64,
    per_second: u64,
}

impl Pace {
    /// Bytes a second in the last whole window; 0 = there was none.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        self.per_second
    }

    /// Counts bytes acknowledged at a monotonic time; answers bytes a second.
    pub fn count(&mut self, bytes: u64, now_us: u64) -> u64 {
        const WINDOW_US: u64 = 1_000_000;
        if self.since_us == 0 {
            self.since_us = now_us;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        let passed = now_us.saturating_sub(self.since_us);
        if passed >= WINDOW_US {
            let whole = u128::from(self.bytes) * 1_000_000 / u128::from(passed);
            self.per_second = u64::try_from(whole).unwrap_or(u64::MAX);
            (self.since_us, self.bytes) = (now_us, 0);
        }
        self.per_second
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64) -> Position {
        Position { term: 1, node: 1, index }
    }

    #[test]
    fn the_last_sync_time_never_falls() {
        let mut mark = Watermark::default();
        mark.acknowledge(at(5), LogTime(50));
        mark.acknowledge(at(4), LogTime(40));
        assert_eq!((mark.shipped, mark.last_sync), (Some(at(5)), Some(LogTime(50))));
        mark.acknowledge(at(6), LogTime(60));
        assert_eq!((mark.shipped, mark.last_sync), (Some(at(6)), Some(LogTime(60))));
    }

    #[test]
    fn it_stands_still_since_the_first_failure_after_the_copy_took_something() {
        let mut mark = Watermark { status: GeoStatus::Live, ..Watermark::default() };
        mark.stand_still("refused".to_owned(), 5);
        mark.stand_still("refused otherwise".to_owned(), 9);
        assert_eq!(mark.trouble.as_deref(), Some("refused otherwise"));
        assert_eq!((mark.status, mark.stalled_since_us), (GeoStatus::Unavailable, Some(5)));
        mark.go_on();
        assert_eq!((mark.status, mark.stalled_since_us), (GeoStatus::Bootstrap, None));
        mark.status = GeoStatus::Live;
        mark.go_on();
        assert_eq!((mark.status, mark.trouble), (GeoStatus::Live, None));
    }

    #[test]
    fn what_is_expected_of_a_copy_is_beside_what_was_given_of_it() {
        let mut mark = Watermark { copied_bytes: 7, copy_total: Some(9), ..Watermark::default() };
        mark.begin_copy();
        assert_eq!((mark.copied_bytes, mark.copy_total), (0, None));
        mark.copied_bytes = 40;
        mark.expect_copy(100);
        assert_eq!((mark.copied_bytes, mark.copy_total), (40, Some(140)));
    }

    #[test]
    fn the_drain_time_is_known_when_there_is_a_pace() {
        let mut mark = Watermark { bytes_behind: 100, ..Watermark::default() };
        assert_eq!(mark.drain_seconds(), None);
        mark.bytes_per_second = 40;
        assert_eq!(mark.drain_seconds(), Some(3));
        mark.bytes_behind = 0;
        assert_eq!(mark.drain_seconds(), Some(0));
    }

    #[test]
    fn a_pace_is_what_a_second_brought() {
        let mut pace = Pace { since_us: 1_000_000, ..Pace::default() };
        assert_eq!(pace.count(500, 1_500_000), 0, "not a second yet");
        assert_eq!(pace.count(500, 3_000_000), 500);
    }

    #[test]
    fn a_pace_begins_with_the_first_bytes_and_not_with_the_process() {
        let mut pace = Pace::default();
        assert_eq!(pace.count(500, 900_000_000), 0, "not a second yet");
        assert_eq!(pace.count(500, 901_000_000), 1_000);
    }
}
