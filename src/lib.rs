//! zoneq: work queues that survive the loss of a zone.
//!
//! One crate, rooms on floors; imports point down:
//!
//! ```text
//! cli -> server -> api -> geo -> consensus -> storage -> queue
//! ```
//!
//! `queue` is the replicated state, `storage` the bytes and fsyncs, `consensus` the Raft group,
//! `geo` what goes between regions, `api` what clients see, `server` the assembly and `cli` the gate. `client` is the Rust client
//! library and uses the protocol only. `docs/architecture.md` is the floor plan in full.

pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    rustdoc::all,
    reason = "generated from proto/, where the comments are"
)]
pub mod proto;

pub mod consensus;
pub mod geo;
pub mod mutants;
pub mod queue;
pub mod server;
pub mod storage;
