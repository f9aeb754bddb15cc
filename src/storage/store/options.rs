//! How a store behaves.

use std::time::Duration;

use crate::clock::SharedClock;
use crate::storage::bodies::BodyOptions;
use crate::storage::space::Space;
use crate::storage::tables::EngineKind;

/// How a store behaves; the sizes are made small by tests.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub engine: EngineKind,
    pub clock: SharedClock,
    /// A commit begins when this much waits, or bodies are written ahead of it.
    pub commit_bytes: usize,
    /// For each so many rows that have changed, bodies may be written once without a commit.
    pub many_rows: usize,
    /// A commit begins when anything waits for this long.
    pub commit_interval: Duration,
    /// With this much more than `commit_bytes` waiting, nothing is applied.
    pub hold_bytes: usize,
    /// The same when the entries that contents in memory came in take this much.
    pub body_bytes: usize,
    pub bodies: BodyOptions,
    /// The space on the disk.
    pub space: Space,
}

impl StoreOptions {
    #[must_use]
    pub fn new(clock: SharedClock) -> StoreOptions {
        StoreOptions {
            engine: EngineKind::default(),
            clock,
            commit_bytes: 48 << 20,
            // Of thousands of queues each has a row in every commit, however few messages it was
            // sent since the last: fewer commits cost them less.
            many_rows: 3_000,
            commit_interval: Duration::from_secs(5),
            hold_bytes: 64 << 20,
            body_bytes: 64 << 20,
            bodies: BodyOptions::default(),
            space: Space::default(),
        }
    }
}
