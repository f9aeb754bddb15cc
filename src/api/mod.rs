//! The fourth floor: what clients see. Translation, checks at the wall and admission; what is
//! true is decided below.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod admission;
pub mod grpc;
pub mod limits;
pub mod metrics;
