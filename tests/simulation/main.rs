//! The simulator: whole clusters of the real code on a simulated network, with simulated disks
//! and clocks, and every fault decided by a seed.
//!
//! `cargo sim --seeds 200` runs seeds, each in a process of its own; `cargo sim --seed 7` runs
//! one, `--shrink` with it finds fewer faults that do the same. In the ordinary tests twenty seeds
//! run, of one region and of two, and five of them twice: the same seed must give the same trace. A
//! failure prints the one command that repeats it. `cargo mutants-sim` breaks the code on purpose,
//! in many ways, and must see each of them.
//!
//! It refuses to be built without `tokio_unstable`: the scheduler would not follow the seed.

#[cfg(not(tokio_unstable))]
compile_error!(
    "the simulator needs tokio's seeded scheduler: do not set RUSTFLAGS, .cargo/config.toml does"
);

mod arguments;
#[path = "../checker/mod.rs"]
#[allow(dead_code, unused_imports, reason = "its tests run in checks.rs, under a harness")]
mod checker;
mod coverage;
mod doors;
mod entropy;
mod faults;
#[allow(dead_code, reason = "its tests run in checks.rs, under a harness")]
mod fewer;
mod flips;
mod layout;
mod members;
mod mutants;
mod network;
mod operating;
#[path = "../operator/mod.rs"]
mod operator;
mod real_clock;
mod run;
#[allow(dead_code, reason = "its tests run in checks.rs, under a harness")]
mod schedule;
mod seats;
mod seeds;
mod shrink;
mod sightings;
mod strangers;
#[path = "../workload/mod.rs"]
mod workload;
mod world;

use std::process::ExitCode;

use arguments::Arguments;
use checker::{
    highest, history, invariants, known, lineage, parts, queues, redrives, retold, sampled, search,
    story, surviving, tails, times,
};
use clap::Parser as _;

/// As in the binary; a twentieth of the time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.is_for_others() {
        return ExitCode::SUCCESS;
    }
    if arguments.mutants {
        return mutants::run(&arguments);
    }
    if let Some(seed) = arguments.seed.filter(|_| arguments.shrink) {
        return shrink::run(&arguments, seed);
    }
    if let Some(seed) = arguments.seed {
        return seeds::one(&arguments, seed);
    }
    seeds::many(&arguments)
}
