//! What one client of the library may be given and does at once.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Nodes that a client is told of.
pub const ENDPOINTS: RangeInclusive<usize> = 1..=64;
/// Connections to the node in use.
pub const CONNECTIONS: RangeInclusive<usize> = 1..=64;
/// The longest that a time-out of a client may be.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Writes in flight on one session at most.
pub const SESSION_WRITES: u64 = 1_000;
/// No write is tried for longer, however late its deadline: the cluster may forget the session of
/// a client's first writes when it has heard nothing for twice that, and would run a retry again.
pub const LONGEST_RETRY: Duration = Duration::from_secs(300);
