//! What the command line reads at once.

/// The largest body that is read, from a file or as a line; a queue's own limit is lower or equal.
pub const BODY_BYTES: u64 = 1 << 20;
/// Bytes of a line of `delete --lines` and `release --lines`: an id and a pop receipt have far
/// fewer.
pub const ITEM_LINE_BYTES: u64 = 1_024;
