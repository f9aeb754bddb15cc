//! The Rust client library: every verb of `zoneq.queue.v1` and `zoneq.admin.v1` as a typed async
//! method, with deadlines, retries that never run a write twice, endpoints and circuit breakers.
//!
//! ```no_run
//! # async fn example() -> Result<(), zoneq::client::ClientError> {
//! use zoneq::client::{Client, ReceiveOptions};
//!
//! let client = Client::builder().endpoints(["http://127.0.0.1:7401"]).build()?;
//! client.send("orders", "one order").await?;
//! for message in client.receive("orders", ReceiveOptions::default()).await?.messages {
//!     client.delete("orders", &message.id, &message.pop_receipt).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Laws: it knows the protocol only and no other room. A write whose fate is not known is
//! reported as [`ClientError::Unknown`], never as failed. Everything is bounded: calls by their
//! deadline, writes in flight by the session's window.

pub mod epochs;

mod accounts;
mod admin;
mod backoff;
mod breaker;
mod builder;
mod call;
mod endpoints;
mod error;
mod keep_alive;
pub mod limits;
mod outbox;
mod receive_stream;
mod redrive;
mod regions;
mod send_stream;
mod session;
mod shelf;
mod standby;
mod types;
mod verbs;

pub use accounts::{Account, AccountPage, AccountQuota};
pub use admin::Admin;
pub use builder::{Builder, Client};
#[doc(hidden)]
pub use call::counted;
pub use error::{ClientError, Reason};
pub use keep_alive::KeepAlive;
pub use receive_stream::{Acks, ReceiveStream, StreamOptions};
pub use redrive::{
    Redrive, RedriveFilter, RedriveOptions, RedrivePreview, RedriveState, StartedRedrive,
};
pub use regions::Regions;
pub use types::{
    BackOff, Cleared, CreatedQueue, DeadLetter, DeadLetterReason, DeadLetters, DeleteItem,
    DeleteOutcome, Deleted, Durability, DurabilityNow, ListQueues, Message, MessageState,
    NewMessage, OtherRegion, PeekOptions, PeekPage, Position, Queue, QueueCounts, QueuePage,
    QueueSettings, ReceiveOptions, Received, Redriven, ReleaseAfter, ReleaseOutcome, ReleaseResult,
    Released, Sent, SentBatch, SentMessage, ShownMessage, Transaction, Ttl, Update, Updated,
};
pub use verbs::StringMap;

#[cfg(test)]
mod tests;
