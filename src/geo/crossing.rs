//! The shaped line, as a state that is given crosses it.
//!
//! Laws: as for batches (see [`super::shaper`]): what is given was written when its view was taken,
//! and passes not before the delay of the line after that; its bytes cross one after the other at
//! the bandwidth, and nothing passes while the line is down. What waits is looked at again, for the
//! line may be another then. Who leads no more gives nothing. Half of the time is left to who writes
//! meanwhile: after each chunk there is a rest.

use std::time::Duration;

use tokio::sync::watch;

use super::error::SeedError;
use super::seed::CHUNK_BYTES;
use super::shaper::{self, LOOK, Shaper};
use super::shipper::tell_down;
use super::watermark::Watermark;
use crate::clock::SharedClock;
use crate::consensus::group::Group;
use crate::queue::authority::Head;
use crate::queue::authority::shape::Weather;
use crate::queue::ids::{LogTime, Position};

/// The longest rest between two chunks: where they take longer it is the line that holds them up,
/// and not who writes.
const REST: Duration = Duration::from_millis(25);

/// The line of one state that is given.
pub(super) struct Crossing {
    group: Group,
    clock: SharedClock,
    news: watch::Sender<Watermark>,
    line: Line,
    /// Since when the last chunk has been on its way.
    since_us: Option<u64>,
}

/// What passes of it, by the clock that is told.
struct Line {
    shaper: Shaper,
    /// What is given, and when its view was taken.
    head: Head,
    since_us: u64,
}

impl Line {
    fn new(seed: u64, position: Position, since_us: u64) -> Line {
        let head = Head { position, log_time: LogTime(0) };
        Line { shaper: Shaper::new(seed), head, since_us }
    }

    /// How long until these bytes have crossed, or are to be looked at again; `None` = they have.
    /// When they will have is kept in `crossed`, which is empty at first.
    fn left(
        &mut self,
        bytes: u64,
        weather: &Weather,
        now_us: u64,
        crossed: &mut Option<u64>,
    ) -> Option<Duration> {
        self.shaper.note(self.head, weather, self.since_us);
        if self.shaper.pass(weather, now_us).is_none() {
            return Some(self.shaper.pause(weather, now_us));
        }
        let at = match *crossed {
            Some(at) => at,
            None => self.shaper.cross(bytes, weather, now_us),
        };
        *crossed = Some(at);
        (at > now_us).then(|| Duration::from_micros(at - now_us).min(LOOK))
    }
}

impl Crossing {
    /// Of a view that is taken now, at that position.
    pub(super) fn new(
        group: &Group,
        clock: &SharedClock,
        news: &watch::Sender<Watermark>,
        position: Position,
    ) -> Crossing {
        let line = Line::new(group.config().seed, position, clock.monotonic_us());
        let (group, clock, news) = (group.clone(), clock.clone(), news.clone());
        Crossing { group, clock, news, line, since_us: None }
    }

    fn weather(&self) -> Option<Weather> {
        shaper::weather(&self.group, &self.group.standing()?.authority)
    }

    /// Bytes of a chunk on this line.
    pub(super) fn chunk_bytes(&self) -> usize {
        self.weather().map_or(CHUNK_BYTES, |it| Shaper::batch_bytes(&it).min(CHUNK_BYTES))
    }

    /// Returns when so many bytes have crossed; after a rest, as long as it took to give the chunk
    /// before and to read this one.
    ///
    /// # Errors
    /// When another node leads.
    pub(super) async fn cross(&mut self, bytes: usize) -> Result<(), SeedError> {
        if let Some(since) = self.since_us.take() {
            let took = Duration::from_micros(self.clock.monotonic_us().saturating_sub(since));
            tokio::time::sleep(took.min(REST)).await;
        }
        self.pass(bytes).await?;
        self.since_us = Some(self.clock.monotonic_us());
        Ok(())
    }

    async fn pass(&mut self, bytes: usize) -> Result<(), SeedError> {
        let mut crossed = None;
        loop {
            if !self.group.leadership().borrow().is_me {
                return Err(SeedError::LeadsNoMore);
            }
            let weather = self.weather();
            tell_down(&self.news, weather.is_some_and(|it| it.is_down), &self.clock);
            let Some(weather) = weather else { return Ok(()) };
            let now = self.clock.monotonic_us();
            match self.line.left(bytes as u64, &weather, now, &mut crossed) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ids::Span;

    const S: u64 = 1_000_000;

    fn line() -> Line {
        Line::new(1, Position { term: 1, node: 1, index: 9 }, 100 * S)
    }

    #[test]
    fn a_state_passes_after_the_delay_once_and_its_chunks_cross_at_the_bandwidth() {
        let mut line = line();
        let delay = Span::from_secs(10);
        let weather = Weather { delay, bytes_per_second: Some(1_000), ..Weather::default() };
        let mut first = None;
        assert!(line.left(500, &weather, 110 * S - 1, &mut first).is_some(), "too early");
        assert_eq!(first, None, "nothing is on the line before");
        assert!(line.left(500, &weather, 110 * S, &mut first).is_some(), "it takes half a second");
        assert_eq!(first, Some(110 * S + S / 2));
        assert_eq!(line.left(500, &weather, 110 * S + S / 2, &mut first), None);
        let (mut second, now) = (None, 110 * S + S / 2);
        assert_eq!(line.left(2_000, &weather, now, &mut second), Some(LOOK), "no second delay");
        assert_eq!(second, Some(now + 2 * S));
        assert_eq!(line.left(2_000, &weather, now + 2 * S, &mut second), None);
    }

    #[test]
    fn a_line_that_is_down_lets_no_chunk_through_until_it_is_up() {
        let mut line = line();
        let down = Weather { is_down: true, ..Weather::default() };
        let mut crossed = None;
        for at in 100..1_000 {
            assert!(line.left(1, &down, at * S, &mut crossed).is_some(), "at {at} s");
        }
        assert_eq!(line.left(1, &Weather::default(), 1_000 * S, &mut crossed), None);
        assert!(line.left(1, &down, 1_001 * S, &mut None).is_some(), "and the next again");
    }
}
