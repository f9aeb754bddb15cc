//! The simulator's checks, checked: each finds the history that breaks its promise. The
//! simulator itself has its own `main`, so these run in a test binary of the usual kind. And what
//! the simulated machines are made of is tested here too.

mod fewer;
#[allow(
    dead_code,
    unused_imports,
    reason = "the simulator writes histories, the tests of the checks only read"
)]
mod history;
#[allow(dead_code, reason = "the list of all checks is the simulator's")]
mod invariants;
mod known;
#[allow(dead_code, reason = "where the nodes are is the simulator's")]
mod layout;
mod lineage;
#[cfg(test)]
mod power_cut;
#[allow(dead_code, reason = "what clients may do to a queue is the workload's")]
mod queues;
mod redrives;
#[allow(dead_code, reason = "what faults do is the simulator's")]
mod schedule;
mod story;
mod surviving;
mod times;
