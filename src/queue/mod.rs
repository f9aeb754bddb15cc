//! The ground floor: what every replica agrees on.
//!
//! [`State::apply`] takes one log entry and answers one outcome for each
//! command. It does no I/O, cannot fail and gives the same answer on every replica: no async,
//! files, sockets, clocks, randomness, logging, floats or hash-map order. Refusals are outcomes.

mod accounts;
pub mod authority;
mod catalog;
mod change;
pub mod check;
pub mod command;
mod dead_letters;
pub mod dedup;
mod digest;
pub mod error;
mod feeds;
mod groups;
pub mod ids;
pub mod limits;
mod load;
pub(crate) mod log_time;
mod message;
pub mod milestones;
pub mod note;
mod order;
pub mod outcome;
mod quota;
mod ranked;
mod reads;
mod receipt;
mod reclaim;
pub mod redrive;
mod release;
pub mod rows;
mod rules;
mod session;
pub mod state;
mod survey;
#[cfg(test)]
mod tests;
mod touch;
mod transact;
mod undelete;
mod verbs;

pub use accounts::{AccountView, Held};
pub use load::LoadError;
pub use reads::{PeekToken, QueueView};
pub use rules::KNOWN as KNOWN_RULES;
pub use state::{FIRST_EPOCH, State};
pub use survey::Surveyed;
