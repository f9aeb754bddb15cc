//! Wall and monotonic time behind one trait, and a hand-turned clock for tests. Only this
//! file and the real disk may ask the system for the time.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where a node gets its time from.
pub trait Clock: Send + Sync + Debug + 'static {
    /// Microseconds since the Unix epoch by the wall clock: may step either way.
    fn wall_us(&self) -> u64;
    /// Microseconds since some fixed moment: never goes back.
    fn monotonic_us(&self) -> u64;
}

pub type SharedClock = Arc<dyn Clock>;

/// The machine's clocks. Monotonic time is tokio's, so that a paused runtime pauses it.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    start: tokio::time::Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock { start: tokio::time::Instant::now() }
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn wall_us(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO)
            .as_micros() as u64
    }

    fn monotonic_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}

/// A clock that moves only when told.
#[derive(Debug, Default)]
pub struct ManualClock {
    wall_us: AtomicU64,
    monotonic_us: AtomicU64,
}

impl ManualClock {
    /// Starts at a wall time in microseconds.
    #[must_use]
    pub fn at(wall_us: u64) -> Self {
        ManualClock { wall_us: AtomicU64::new(wall_us), monotonic_us: AtomicU64::new(0) }
    }

    /// Moves both times on.
    pub fn advance(&self, by: Duration) {
        self.wall_us.fetch_add(by.as_micros() as u64, Ordering::SeqCst);
        self.monotonic_us.fetch_add(by.as_micros() as u64, Ordering::SeqCst);
    }

    /// Steps the wall time alone.
    pub fn set_wall(&self, wall_us: u64) {
        self.wall_us.store(wall_us, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_us(&self) -> u64 {
        self.wall_us.load(Ordering::SeqCst)
    }

    fn monotonic_us(&self) -> u64 {
        self.monotonic_us.load(Ordering::SeqCst)
    }
}
