//! What a simulation makes small.

use std::time::Duration;

/// Sizes and pauses of what lies on the disk. A simulation makes them small, so that a segment
/// is full and a commit due within seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub log_segment_bytes: u64,
    /// Newest entries of the log kept in memory.
    pub log_cache_bytes: usize,
    pub body_segment_bytes: u32,
    /// A table commit begins when this much waits, or anything for this long; see `StoreOptions`.
    pub commit_bytes: usize,
    pub commit_interval: Duration,
    /// With each so many changed rows, bodies may be written once ahead of their commit.
    pub many_rows: usize,
}

impl Default for Sizes {
    fn default() -> Self {
        Sizes {
            log_segment_bytes: 64 << 20,
            log_cache_bytes: 32 << 20,
            body_segment_bytes: 64 << 20,
            commit_bytes: 48 << 20,
            commit_interval: Duration::from_secs(5),
            many_rows: 3_000,
        }
    }
}
