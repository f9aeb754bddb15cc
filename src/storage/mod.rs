//! The first floor: bytes and fsync. No network, no Raft protocol.

pub mod bodies;
pub mod codec;
pub mod disk;
pub mod error;
pub mod format;
pub mod heard;
pub mod horizon;
pub mod keys;
pub mod log;
pub mod mend;
pub mod reserve;
pub mod snapshot;
pub mod space;
pub mod store;
pub mod tables;
#[cfg(test)]
mod testing;
pub mod timings;
pub mod vote;
