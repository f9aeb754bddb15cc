//! The gRPC face: `QueueService`, `ClusterService` and `RegionService` over the Raft group.
//!
//! Laws: every call has a deadline; a node that does not lead passes the whole call on, once;
//! what comes from the network is checked before it is believed, and nothing in it can make
//! this room panic.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod account;
mod admin;
mod call;
mod clock;
mod convert;
mod epoch;
mod error;
mod forward;
mod manage;
mod mending;
pub mod questions;
mod queue;
mod receive_stream;
mod redrive;
mod redundancy;
mod region;
pub mod requests;
mod send_stream;
mod sizes;
pub mod wishes;

pub use admin::ClusterFace;
pub use epoch::told;
pub use error::{DOMAIN, Refusal};
pub use mending::Mending;
pub use queue::QueueFace;
pub use region::RegionFace;
