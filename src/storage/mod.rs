//! The first floor: bytes and fsync. No network, no Raft protocol.

pub mod codec;
pub mod disk;
pub mod keys;
#[cfg(test)]
mod testing;
