//! What a leader holds at once; the rest is refused with `OVERLOADED`, to be tried again.

/// Commands that wait to enter the log.
pub const WAITING_COMMANDS: usize = 8_192;
/// Bytes of commands that are accepted and not yet answered.
pub const COMMAND_BYTES: usize = 32 << 20;
/// Reads that wait for a majority's word that this node leads.
pub const WAITING_READS: usize = 16_384;
