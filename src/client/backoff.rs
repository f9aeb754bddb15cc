//! Exponential back-off with full jitter: clients that failed together do not come back together.

use std::time::Duration;

/// How long to wait before an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backoff {
    pub(super) base: Duration,
    pub(super) cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { base: Duration::from_millis(10), cap: Duration::from_millis(500) }
    }
}

impl Backoff {
    /// The longest wait before retry number `round`, counted from 0.
    pub(super) fn ceiling(&self, round: u32) -> Duration {
        self.base.saturating_mul(2u32.saturating_pow(round)).min(self.cap)
    }

    /// Between nothing and the ceiling, evenly; never less than the server asked for.
    pub(super) fn wait(&self, round: u32, asked: Option<Duration>) -> Duration {
        let ceiling = self.ceiling(round).as_micros() as u64;
        let jitter = Duration::from_micros(rand::random_range(0..=ceiling));
        asked.map_or(jitter, |asked| asked.min(self.cap).saturating_add(jitter / 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_doubles_and_stops_at_the_cap() {
        let backoff = Backoff::default();
        let ceilings: Vec<u128> = (0..8).map(|n| backoff.ceiling(n).as_millis()).collect();
        assert_eq!(ceilings, [10, 20, 40, 80, 160, 320, 500, 500]);
        assert_eq!(backoff.ceiling(u32::MAX), backoff.cap);
    }

    #[test]
    fn the_jitter_is_full_and_the_server_is_heard() {
        let backoff = Backoff::default();
        let waits: Vec<Duration> = (0..200).map(|_| backoff.wait(3, None)).collect();
        assert!(waits.iter().all(|wait| *wait <= Duration::from_millis(80)));
        assert!(waits.iter().any(|wait| *wait < Duration::from_millis(20)), "full, not equal");
        let asked = Duration::from_millis(100);
        assert!(backoff.wait(0, Some(asked)) >= asked);
        assert!(backoff.wait(0, Some(Duration::from_secs(3600))) < Duration::from_secs(1));
    }
}
