//! The built binary as its users meet it: real processes, real sockets, real files.
//!
//! Laws: every test has a folder and ports of its own and leaves no process behind, also when it
//! fails; nothing is slept through, every wait is for a condition and has an end; what nodes
//! wrote to their logs is part of the test: a warning that the test did not ask for fails it.

#[path = "../checker/mod.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "what is judged here others write, and simulator and chaos tell more"
)]
mod checker;
mod comebacks;
mod consumers;
mod disk_full;
mod doctoring;
mod drills;
mod embedding;
mod faces;
mod faults;
mod handovers;
mod inspection;
mod lab_regions;
mod lab_verbs;
mod leases;
mod linearizable;
mod lines;
mod lost_tables;
mod members;
mod mending;
mod metrics;
mod redundancy;
mod refusals;
mod region_troubles;
mod regions;
mod reseeding;
mod serving;
mod sizes;
mod stage;
mod standby;
mod tls;
mod upgrade;
mod verbs;
mod waiting;

use checker::{
    highest, history, invariants, known, lineage, parts, queues, redrives, retold, sampled, search,
    story, surviving, tails, times,
};
