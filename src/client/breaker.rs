//! A circuit breaker: an endpoint that fails again and again is left alone for a while, then
//! tried by one call; that call's fate decides.

use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the circuit.
const THRESHOLD: u32 = 2;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Circuit {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        pause: Duration,
    },
    /// One call is out to see whether the endpoint is back.
    HalfOpen {
        pause: Duration,
    },
}

/// One endpoint's circuit.
#[derive(Debug)]
pub(super) struct Breaker {
    circuit: Circuit,
}

/// May a call go out?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Go,
    /// This call is the probe.
    Probe,
    /// Not before then.
    Wait(Instant),
}

impl Breaker {
    pub(super) fn new() -> Breaker {
        Breaker { circuit: Circuit::Closed { failures: 0 } }
    }

    /// Asks for one call, and takes the probe's place when it is free.
    pub(super) fn ask(&mut self, now: Instant) -> Gate {
        match self.circuit {
            Circuit::Closed { .. } => Gate::Go,
            Circuit::Open { until, .. } if now < until => Gate::Wait(until),
            Circuit::Open { pause, .. } => {
                self.circuit = Circuit::HalfOpen { pause };
                Gate::Probe
            }
            Circuit::HalfOpen { .. } => Gate::Wait(now + FIRST_PAUSE),
        }
    }

    /// The endpoint answered, whatever it said.
    pub(super) fn answered(&mut self) {
        self.circuit = Circuit::Closed { failures: 0 };
    }

    /// The endpoint could not be reached, or went silent.
    pub(super) fn failed(&mut self, now: Instant) {
        self.circuit = match self.circuit {
            Circuit::Closed { failures } if failures + 1 < THRESHOLD => {
                Circuit::Closed { failures: failures + 1 }
            }
            Circuit::Closed { .. } => {
                Circuit::Open { until: now + FIRST_PAUSE, pause: FIRST_PAUSE }
            }
            Circuit::HalfOpen { pause } => {
                let pause = (pause * 2).min(LONGEST_PAUSE);
                Circuit::Open { until: now + pause, pause }
            }
            open @ Circuit::Open { .. } => open,
        };
    }

    /// The call was dropped before it ended: a probe frees its place.
    pub(super) fn abandoned(&mut self, now: Instant) {
        if let Circuit::HalfOpen { pause } = self.circuit {
            self.circuit = Circuit::Open { until: now, pause };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_one_probe_decides() {
        let mut breaker = Breaker::new();
        let start = Instant::now();
        breaker.failed(start);
        breaker.answered();
        breaker.failed(start);
        assert_eq!(breaker.ask(start), Gate::Go, "an answer between them starts the count anew");

        breaker.failed(start);
        assert_eq!(breaker.ask(start), Gate::Wait(start + FIRST_PAUSE));

        let later = start + FIRST_PAUSE;
        assert_eq!(breaker.ask(later), Gate::Probe);
        assert!(matches!(breaker.ask(later), Gate::Wait(_)), "only one probe");

        breaker.failed(later);
        assert_eq!(breaker.ask(later), Gate::Wait(later + FIRST_PAUSE * 2), "the pause doubles");

        let back = later + FIRST_PAUSE * 2;
        assert_eq!(breaker.ask(back), Gate::Probe);
        breaker.answered();
        assert_eq!(breaker.ask(back), Gate::Go);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_probe_frees_its_place() {
        let mut breaker = Breaker::new();
        let start = Instant::now();
        breaker.failed(start);
        breaker.failed(start);
        let later = start + FIRST_PAUSE;
        assert_eq!(breaker.ask(later), Gate::Probe);
        breaker.abandoned(later);
        assert_eq!(breaker.ask(later), Gate::Probe);
    }

    #[tokio::test(start_paused = true)]
    async fn the_pause_has_an_end() {
        let mut breaker = Breaker::new();
        let mut now = Instant::now();
        breaker.failed(now);
        breaker.failed(now);
        for _ in 0..20 {
            now += LONGEST_PAUSE;
            assert_eq!(breaker.ask(now), Gate::Probe);
            breaker.failed(now);
        }
        assert_eq!(breaker.ask(now), Gate::Wait(now + LONGEST_PAUSE));
    }
}
