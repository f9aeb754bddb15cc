//! The second floor: the Raft group. The only room that may name openraft.

pub mod network;
pub mod transport;
pub mod zones;
