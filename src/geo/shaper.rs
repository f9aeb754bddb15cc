//! Makes the line to the other region behave as an operator shaped it.
//!
//! Laws: what is held back stays in the log: the shaper keeps marks of how far the log was and
//! when, at most 4,096 of them, and says how far it may be read by now. A mark passes never
//! earlier than its delay after the last entry it stands for, and in order. At most one batch is
//! read and waits for its turn. A leader that has just begun marks all that is not shipped as of
//! now: that is later than the truth, never earlier.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};

use super::batch::BATCH_BYTES;
use crate::consensus::group::Group;
use crate::queue::authority::shape::Weather;
use crate::queue::authority::{Authority, Head};

/// Marks that are kept; with more, one stands for a longer time.
const MARKS: usize = 4_096;
/// The shortest time that one mark stands for.
const GRAIN_US: u64 = 1_000;
/// Parts of a second that one batch takes at most on a line of limited bandwidth.
const PARTS: u64 = 4;
const LEAST_BATCH: u64 = 4 << 10;
/// A line that is held back is looked at again after this at the latest: it may be another then.
pub const LOOK: Duration = Duration::from_millis(100);

/// How far the log was for a while.
#[derive(Clone, Copy, Debug)]
struct Mark {
    head: Head,
    /// Monotonic time of its first entry, and of its last.
    first_us: u64,
    last_us: u64,
    /// Its share of the jitter.
    luck: u32,
}

/// The line of one leader.
#[derive(Debug)]
pub struct Shaper {
    luck: SmallRng,
    marks: VecDeque<Mark>,
    /// The log may be read through here.
    passed: Option<Head>,
    /// When what was sent so far has crossed.
    free_us: u64,
}

impl Shaper {
    #[must_use]
    pub fn new(seed: u64) -> Shaper {
        let luck = SmallRng::seed_from_u64(seed ^ 0x5a4e);
        Shaper { luck, marks: VecDeque::new(), passed: None, free_us: 0 }
    }

    /// Forgets all: the line is not shaped, or another node ships.
    pub fn clear(&mut self) {
        self.marks.clear();
        self.passed = None;
        self.free_us = 0;
    }

    /// Notes how far the log is now.
    pub fn note(&mut self, head: Head, weather: &Weather, now_us: u64) {
        let index = head.position.index;
        let newest = self.marks.back().map(|mark| mark.head).or(self.passed);
        if newest.is_some_and(|known| known.position.index >= index) {
            return;
        }
        let grain = GRAIN_US.max(2 * (weather.delay.0 + weather.jitter.0) / MARKS as u64);
        let is_full = self.marks.len() >= MARKS;
        if let Some(last) = self.marks.back_mut()
            && (is_full || now_us.saturating_sub(last.first_us) < grain)
        {
            (last.head, last.last_us) = (head, now_us);
            return;
        }
        let luck = self.luck.next_u32();
        self.marks.push_back(Mark { head, first_us: now_us, last_us: now_us, luck });
    }

    /// How far the log may be read now; `None` = nothing has passed yet.
    pub fn pass(&mut self, weather: &Weather, now_us: u64) -> Option<Head> {
        if weather.is_down {
            return None;
        }
        while let Some(mark) = self.marks.front().filter(|it| it.due_us(weather) <= now_us) {
            self.passed = Some(mark.head);
            self.marks.pop_front();
        }
        self.passed
    }

    /// How long until more may pass, at most [`LOOK`].
    #[must_use]
    pub fn pause(&self, weather: &Weather, now_us: u64) -> Duration {
        let due = self.marks.front().map(|mark| mark.due_us(weather).saturating_sub(now_us));
        due.map_or(LOOK, Duration::from_micros).clamp(Duration::from_millis(1), LOOK)
    }

    /// Bytes of a batch on this line.
    #[must_use]
    pub fn batch_bytes(weather: &Weather) -> usize {
        let whole = BATCH_BYTES as u64;
        let part = weather.bytes_per_second.map_or(whole, |rate| rate / PARTS);
        usize::try_from(part.clamp(LEAST_BATCH, whole)).unwrap_or(BATCH_BYTES)
    }

    /// Puts bytes on the line; answers when they have crossed.
    pub fn cross(&mut self, bytes: u64, weather: &Weather, now_us: u64) -> u64 {
        let Some(rate) = weather.bytes_per_second else { return now_us };
        let takes = u128::from(bytes) * 1_000_000 / u128::from(rate.max(1));
        let takes = u64::try_from(takes).unwrap_or(u64::MAX);
        self.free_us = self.free_us.max(now_us).saturating_add(takes);
        self.free_us
    }
}

impl Mark {
    fn due_us(&self, weather: &Weather) -> u64 {
        let jitter = u128::from(weather.jitter.0) * u128::from(self.luck) / u128::from(u32::MAX);
        let jitter = u64::try_from(jitter).unwrap_or(u64::MAX);
        self.last_us.saturating_add(weather.delay.0).saturating_add(jitter)
    }
}

/// How the line from this primary is now; `None` = it is not shaped.
#[must_use]
pub fn weather(group: &Group, authority: &Authority) -> Option<Weather> {
    let shape = &authority.settings.shape;
    if !shape.is_shaped() {
        return None;
    }
    // Who does not lead has the time of its state, which is about that.
    let now = group.stamp().unwrap_or_else(|| group.store().read().state().log_time());
    let elapsed = now.since(shape.since);
    Some(shape.weather(elapsed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ids::{LogTime, Position, Span};

    fn head(index: u64) -> Head {
        Head { position: Position { term: 1, node: 1, index }, log_time: LogTime(index) }
    }

    fn passes(shaper: &mut Shaper, weather: &Weather, now_us: u64) -> Option<u64> {
        shaper.pass(weather, now_us).map(|head| head.position.index)
    }

    fn delayed(delay: u64) -> Weather {
        Weather { delay: Span::from_secs(delay), ..Weather::default() }
    }

    const S: u64 = 1_000_000;

    #[test]
    fn what_was_written_passes_after_the_delay_and_not_before() {
        let mut shaper = Shaper::new(1);
        let weather = delayed(10);
        assert_eq!(passes(&mut shaper, &weather, 0), None, "nothing is known");
        for (index, at) in [(5, 0), (6, S), (9, 4 * S)] {
            shaper.note(head(index), &weather, at);
        }
        assert_eq!(passes(&mut shaper, &weather, 10 * S - 1), None);
        assert_eq!(passes(&mut shaper, &weather, 10 * S), Some(5));
        assert_eq!(shaper.pause(&weather, 10 * S), LOOK);
        assert_eq!(passes(&mut shaper, &weather, 13 * S), Some(6));
        assert_eq!(shaper.pause(&weather, 14 * S - 5_000), Duration::from_millis(5));
        let down = Weather { is_down: true, ..weather };
        assert_eq!(passes(&mut shaper, &down, 20 * S), None, "an outage holds what waits");
        assert_eq!(passes(&mut shaper, &weather, 20 * S), Some(9));
        // A delay that is made shorter holds for what waits already.
        shaper.note(head(12), &weather, 20 * S);
        assert_eq!(passes(&mut shaper, &delayed(1), 21 * S), Some(12));
    }

    #[test]
    fn jitter_is_drawn_from_the_seed_and_keeps_the_order() {
        let weather = Weather { jitter: Span::from_secs(5), ..delayed(1) };
        let run = |seed| {
            let mut shaper = Shaper::new(seed);
            let mut times = Vec::new();
            for at in 0..200_u64 {
                shaper.note(head(at + 1), &weather, at * S / 10);
            }
            let mut last = None;
            for now in 0..400_u64 {
                let passed = passes(&mut shaper, &weather, now * S / 10);
                assert!(passed >= last, "it went back");
                if passed != last {
                    times.push((now, passed));
                }
                last = passed;
                // Entry `i` was written at (i - 1)/10 s and passes a second later at the earliest.
                assert!(passed.is_none_or(|it| it + 9 <= now), "{passed:?} at {now}");
            }
            assert_eq!(last, Some(200), "all passes in the end");
            times
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    #[test]
    fn marks_are_bounded_however_much_is_written() {
        let mut shaper = Shaper::new(1);
        let weather = delayed(900);
        for at in 1..=1_000_000_u64 {
            shaper.note(head(at), &weather, at * 2_000);
        }
        assert!(shaper.marks.len() <= MARKS, "{} marks", shaper.marks.len());
        // 2,000 seconds have passed: what is older than 900 has passed, to the grain of a mark.
        let passed = passes(&mut shaper, &weather, 2_000 * S).expect("some");
        assert!((549_000..=550_000).contains(&passed), "{passed}");
    }

    #[test]
    fn bytes_cross_one_after_the_other_at_the_bandwidth() {
        let mut shaper = Shaper::new(1);
        let slow = Weather { bytes_per_second: Some(1_000), ..Weather::default() };
        assert_eq!(shaper.cross(500, &slow, 7 * S), 7_500_000);
        assert_eq!(shaper.cross(1_000, &slow, 7 * S), 8_500_000, "behind what is on the line");
        assert_eq!(shaper.cross(1_000, &slow, 20 * S), 21 * S);
        assert_eq!(shaper.cross(1 << 30, &Weather::default(), 20 * S), 20 * S);
        assert_eq!(Shaper::batch_bytes(&slow), 4 << 10);
        assert_eq!(Shaper::batch_bytes(&Weather::default()), BATCH_BYTES);
    }
}
