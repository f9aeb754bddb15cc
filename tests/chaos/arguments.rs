//! What chaos is asked for.

use std::path::PathBuf;

use clap::Parser;

/// Hurts a cluster of real processes under load, heals it, and checks every promise.
#[derive(Clone, Debug, Parser)]
#[command(name = "chaos")]
pub struct Arguments {
    /// How many regions: 1, or 2, of which one protects the other and an operator works on both
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=2))]
    pub regions: u64,
    /// How often each fault comes
    #[arg(long, default_value_t = 1)]
    pub rounds: u64,
    /// Begins again until so many minutes have passed
    #[arg(long)]
    pub minutes: Option<u64>,
    /// Only this fault; several may be given
    #[arg(long = "fault", value_name = "NAME")]
    pub faults: Vec<String>,
    /// Shows the faults, and which this machine can run
    #[arg(long)]
    pub list: bool,
    /// Decides which nodes are hurt, when, and what clients do [default: another each time]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Writes every call with its answer to this file, one line of JSON each
    #[arg(long, value_name = "FILE")]
    pub history: Option<PathBuf>,
    /// Judges such a file and hurts nobody
    #[arg(long, value_name = "FILE")]
    pub judge: Option<PathBuf>,
    /// Adds the figures to this file, one line of JSON for each fault
    #[arg(long, value_name = "FILE", default_value = concat!(env!("CARGO_TARGET_TMPDIR"), "/chaos.jsonl"))]
    pub figures: PathBuf,
    /// Every fault; without it, or names, only a few that need neither root nor other programs
    #[arg(long)]
    pub every_fault: bool,

    /// Disks say *synced* and do nothing: a power cut of all zones must then break promises
    #[arg(long)]
    pub lying_disks: bool,

    // What `cargo test` may pass to every test binary.
    #[arg(hide = true)]
    filters: Vec<String>,
    #[arg(long, hide = true)]
    ignored: bool,
    #[arg(long, hide = true)]
    exact: bool,
    #[arg(long, hide = true)]
    nocapture: bool,
    #[arg(long, short, hide = true)]
    quiet: bool,
    #[arg(long, hide = true)]
    skip: Vec<String>,
    #[arg(long, hide = true)]
    test_threads: Option<usize>,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(long, hide = true)]
    color: Option<String>,
}

impl Arguments {
    /// `cargo test` was asked for other tests.
    pub fn is_for_others(&self) -> bool {
        let named = |filter: &String| "chaos".contains(filter.as_str());
        let filtered = !self.filters.is_empty() && !self.filters.iter().any(named);
        self.ignored || filtered || self.skip.iter().any(named)
    }
}
