//! The ranges of the keys of a node's configuration.

use std::ops::RangeInclusive;

/// Nodes that may form a cluster.
pub const PEERS: RangeInclusive<usize> = 1..=15;
/// Letters of a cluster, region or zone name.
pub const NODE_NAMES: RangeInclusive<usize> = 1..=63;
/// Queues that metrics may name: each is six series.
pub const METRICS_QUEUES: RangeInclusive<usize> = 0..=1_000;
pub const HEARTBEAT_MS: RangeInclusive<u64> = 10..=10_000;
/// The shortest silence before an election, in heartbeats.
pub const ELECTION_HEARTBEATS: u64 = 2;
/// The longest silence before an election.
pub const LONGEST_ELECTION_MS: u64 = 60_000;
pub const MAX_IN_FLIGHT_REQUESTS: RangeInclusive<usize> = 1..=1 << 24;
pub const MAX_IN_FLIGHT_BYTES: RangeInclusive<usize> = 8 << 20..=1 << 40;
pub const BODY_MEMORY_BYTES: RangeInclusive<usize> = 1 << 20..=1 << 40;
pub const DISK_RESERVE_BYTES: RangeInclusive<u64> = 0..=1 << 40;
