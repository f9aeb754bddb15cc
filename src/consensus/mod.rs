//! The second floor: the Raft group. The only room that may name openraft.

pub mod error;
pub mod log_clock;
pub mod machine;
pub mod network;
pub mod proposer;
pub mod transport;
pub mod types;
pub mod zones;
