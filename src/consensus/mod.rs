//! The second floor: the Raft group. The only room that may name openraft.

mod admission;
pub mod confirm;
pub mod error;
pub mod fastpath;
pub mod forward;
pub mod group;
pub mod limits;
pub mod log_clock;
pub mod log_store;
pub mod machine;
pub mod membership;
pub mod network;
pub mod pending;
pub mod proposer;
pub mod redundancy;
pub mod transport;
pub mod types;
pub mod zones;
