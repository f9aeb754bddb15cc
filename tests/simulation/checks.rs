//! The one checker, checked: each promise's check finds the history that breaks it. Simulator and
//! chaos have a `main` of their own, so these tests run in a test binary of the usual kind. And
//! what the simulated machines are made of is tested here too.

#[path = "../checker/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "simulator and chaos write histories, the tests of the checks only read"
)]
mod checker;
mod fewer;
#[allow(dead_code, reason = "what rots is the simulator's")]
mod flips;
#[allow(dead_code, reason = "where the nodes are is the simulator's")]
mod layout;
#[cfg(test)]
mod power_cut;
#[path = "../chaos/repeat.rs"]
#[allow(dead_code, reason = "chaos says it, the tests only read")]
mod repeat;
#[allow(dead_code, unused_imports, reason = "what faults do is the simulator's")]
mod schedule;
#[path = "../chaos/seen.rs"]
#[allow(dead_code, reason = "chaos looks, the tests only read")]
mod seen;

use checker::{
    highest, history, invariants, known, lineage, parts, queues, redrives, retold, sampled, search,
    story, surviving, tails, times,
};
