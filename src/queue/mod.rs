//! The ground floor: what every replica agrees on.
//!
//! [`State::apply`](state::State::apply) takes one log entry and answers one outcome for each
//! command. It does no I/O, cannot fail and gives the same answer on every replica: no async,
//! files, sockets, clocks, randomness, logging, floats or hash-map order. Refusals are outcomes.

pub mod command;
pub mod error;
pub mod ids;
pub mod limits;
pub mod outcome;
pub mod rows;
