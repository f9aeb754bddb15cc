//! The one checker: what a history of calls and answers is, and what every promise makes of it.
//!
//! Simulator and chaos both write a [`history::History`] and have it judged by
//! [`invariants::broken`], and what a drill of the product wrote is read and judged so too; no
//! promise has a second judge. Each test binary that takes this room
//! names the modules below at its root, as the modules name each other.
//!
//! Laws: nothing here knows how a history came about: no network, no clock, no process; what was
//! not seen is not judged, and whoever wrote the history says so.

pub mod gaps;
pub mod highest;
pub mod history;
pub mod invariants;
pub mod known;
pub mod lineage;
pub mod parts;
pub mod queues;
pub mod redrives;
pub mod retold;
pub mod sampled;
pub mod search;
pub mod story;
pub mod surviving;
pub mod tails;
pub mod times;
pub mod written;
