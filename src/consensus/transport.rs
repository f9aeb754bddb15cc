//! What nodes say to each other, over gRPC: the client and the server side of peer.proto.
//!
//! `peers` is who this node is and the proof each call carries, `client` openraft's network,
//! `service` the answers, `snapshot` the way of a snapshot, `convert` the messages, `faults`
//! the peers cut off by name, `acknowledged` what peers said they hold, `outgoing`
//! the requests of a stream.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod acknowledged;
pub mod client;
pub mod convert;
pub mod faults;
mod outgoing;
pub mod peers;
pub mod service;
mod snapshot;
#[cfg(test)]
mod tests;

/// No message between nodes is longer. The leader's reader cuts at a mebibyte, an entry alone
/// may be a few.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;

pub use client::{CallError, PeerClient, PeerNetworkFactory};
pub use faults::{Faults, FaultsDisabled};
pub use peers::{ClusterIdError, DiskReport, Peers};
pub use service::{LocalNode, PeerService, unread};
pub use snapshot::incoming_chunk;
