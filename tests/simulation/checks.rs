//! The simulator's checks, checked: each finds the history that breaks its promise. The
//! simulator itself has its own `main`, so these run in a test binary of the usual kind. And what
//! the simulated machines are made of is tested here too.

#[allow(dead_code, reason = "the simulator writes histories, the tests of the checks only read")]
mod history;
#[allow(dead_code, reason = "the list of all checks is the simulator's")]
mod invariants;
mod known;
#[cfg(test)]
mod power_cut;
#[allow(dead_code, reason = "what clients may do to a queue is the workload's")]
mod queues;
mod story;
