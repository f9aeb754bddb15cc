//! How long something took, counted by how long: what metrics show as a histogram.
//!
//! Law: to note a duration costs two or three relaxed additions and never waits. The parts are read
//! one after the other, so that one that is noted meanwhile may be in some of them only.

use std::sync::atomic::{AtomicU64, Ordering};

/// The upper ends of the buckets, in microseconds; what took longer is in none of them.
const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000,
    1_000_000, 2_500_000, 5_000_000, 10_000_000,
];

#[derive(Debug, Default)]
pub struct Timings {
    buckets: [AtomicU64; BOUNDS_US.len()],
    longer: AtomicU64,
    sum_us: AtomicU64,
}

/// What was noted so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timed {
    /// How many took at most so many seconds; the bounds rise.
    pub within: Vec<(f64, u64)>,
    pub count: u64,
    pub sum_seconds: f64,
}

impl Timings {
    /// Notes one that took so many microseconds.
    pub fn note(&self, took_us: u64) {
        let bucket = self.buckets.get(BOUNDS_US.partition_point(|bound| *bound < took_us));
        bucket.unwrap_or(&self.longer).fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(took_us, Ordering::Relaxed);
    }

    #[must_use]
    pub fn seen(&self) -> Timed {
        let mut count = 0;
        let mut within = Vec::with_capacity(BOUNDS_US.len());
        for (bound, bucket) in BOUNDS_US.iter().zip(&self.buckets) {
            count += bucket.load(Ordering::Relaxed);
            within.push((seconds(*bound), count));
        }
        count += self.longer.load(Ordering::Relaxed);
        Timed { within, count, sum_seconds: seconds(self.sum_us.load(Ordering::Relaxed)) }
    }
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_every_bucket_that_it_fits_in() {
        let timings = Timings::default();
        assert_eq!(timings.seen().count, 0);
        for took_us in [0, 100, 101, 9_000, 10_000_000, 60_000_000] {
            timings.note(took_us);
        }
        let seen = timings.seen();
        let within = |bound: f64| seen.within.iter().find(|(it, _)| *it == bound).expect("it").1;
        assert_eq!(within(0.0001), 2, "the bound is within");
        assert_eq!(within(0.00025), 3);
        assert_eq!((within(0.005), within(0.01)), (3, 4));
        assert_eq!((within(10.0), seen.count), (5, 6), "what took longer is in no bucket");
        assert!((seen.sum_seconds - 70.009_201).abs() < 1e-9, "{}", seen.sum_seconds);
    }
}
