//! The first floor: bytes and fsync. No network, no Raft protocol.

pub mod disk;
