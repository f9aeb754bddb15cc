//! The third floor: between regions.
//!
//! The primary's leader reads its own applied log and streams it ([`shipper`]); the secondary's
//! leader proposes what comes into its *own* group ([`receiver`]), where `apply` alone decides
//! whether it counts. What is known of the copy is in the [`watermark`].
//!
//! Laws: nothing is shipped that this node has not applied; what is known of the other side
//! comes from its answers only; nothing is decided by comparing the clocks of the two
//! regions; how far they differ is only shown. Nothing here is needed for a cluster that stands
//! alone.
//!
//! [`pair`] has the operator's verbs, [`failover`] drives what was begun, the [`herald`] keeps
//! the regions informed of each other, and the keeper of the [`lease`] asks the other one for leave;
//! [`lag`] says when the other one is too far behind, and [`agreement`] when its data differ; an
//! [`inquiry`] is made when callers say that the other one was promoted.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these bytes came from another region: no content of theirs may end the process"
)]

pub mod agreement;
pub mod batch;
mod crossing;
pub mod error;
pub mod failover;
pub mod herald;
pub mod inquiry;
pub mod inventory;
pub mod lag;
pub mod lease;
pub mod other;
pub mod pair;
pub mod patch;
pub mod receiver;
pub mod seed;
pub mod shaper;
pub mod shipper;
pub mod tail;
#[cfg(test)]
mod tests;
pub mod watermark;
pub mod wire;
