//! What the simulator is asked for.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::schedule::{Choice, Named};

/// Runs seeds of the simulation and checks every promise on each.
#[derive(Clone, Debug, Parser)]
#[command(name = "sim")]
pub struct Arguments {
    /// How many seeds to run; when they begin with the first, those that found a bug once run too
    /// [default: the twenty of the ordinary tests, of one region and of two]
    #[arg(long)]
    seeds: Option<u64>,
    /// Runs the seeds that found a bug once, and no others
    #[arg(long, conflicts_with_all = ["seeds", "schedule"])]
    pub kept: bool,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    pub from: u64,
    /// Runs this seed alone, in this process
    #[arg(long)]
    pub seed: Option<u64>,
    /// One region, or two with an asynchronous copy [default: one, and after the first seeds a
    /// few with two]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=2))]
    regions: Option<u64>,
    /// Simulated seconds of faults; healing and drain come after
    #[arg(long, default_value_t = 60)]
    pub secs: u64,
    /// Leaves out the faults with these numbers, as the trace tells them; all others stay as drawn
    #[arg(long, value_delimiter = ',')]
    pub without: Vec<u64>,
    /// Leaves out all faults but those with these numbers; 0 is none
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<u64>,
    /// Only faults of this kind, of the way to the nodes' addresses
    #[arg(long, value_enum)]
    pub schedule: Option<Named>,
    /// Looks for the fewest faults with which the one seed still breaks the same promise, and
    /// prints the command for them
    #[arg(long, requires = "seed")]
    pub shrink: bool,
    /// Real minutes after which no other seed begins, or no other try to shrink one [default: as
    /// long as it takes, and ten to shrink]
    #[arg(long)]
    minutes: Option<u64>,
    /// Runs so many of the seeds of one region a second time, one fewer of two regions and one of
    /// the schedules that have a name, and compares the traces
    #[arg(long, default_value_t = 3)]
    pub twice: u64,
    /// Processes at once [default: one for each core]
    #[arg(long)]
    jobs: Option<usize>,
    /// Writes every event of the one seed to this file
    #[arg(long)]
    pub trace: Option<PathBuf>,
    /// Stops at the first seed that fails
    #[arg(long)]
    pub fail_fast: bool,
    /// Runs every deliberate break of the code until it is caught, within this many seeds, and
    /// then none with the same guards off; with --seed this one of the one --mutant
    #[arg(long)]
    pub mutants: bool,
    /// Only this one of them
    #[arg(long)]
    pub mutant: Option<String>,
    /// The seed's process says its verdict in one line of JSON
    #[arg(long, hide = true)]
    pub verdict: bool,

    // What `cargo test` may pass to every test binary.
    #[arg(hide = true)]
    filters: Vec<String>,
    #[arg(long, hide = true)]
    list: bool,
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
    /// Processes at once.
    pub fn jobs(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.unwrap_or(cores).max(1)
    }

    /// How many seeds.
    pub fn seeds(&self) -> u64 {
        self.seeds.unwrap_or(20)
    }

    /// Nobody said which seeds.
    pub fn is_ordinary(&self) -> bool {
        self.seeds.is_none() && self.from == 1 && self.is_of_any_kind()
    }

    /// How long it may take.
    pub fn patience(&self) -> Option<Duration> {
        self.minutes.map(|minutes| Duration::from_secs(60 * minutes))
    }

    /// Which faults are done.
    pub fn choice(&self) -> Choice {
        let numbers = |given: &[u64]| given.iter().copied().collect();
        Choice { without: numbers(&self.without), only: numbers(&self.only) }
    }

    /// Regions of each seed.
    pub fn regions(&self) -> u64 {
        self.regions.unwrap_or(1)
    }

    /// The same with so many seconds of faults.
    pub fn with_secs(&self, secs: u64) -> Arguments {
        Arguments { secs, ..self.clone() }
    }

    /// The same with these faults only.
    pub fn with_only(&self, faults: &[u64]) -> Arguments {
        let only = if faults.is_empty() { vec![0] } else { faults.to_vec() };
        Arguments { only, without: Vec::new(), ..self.clone() }
    }

    /// Nobody said of how many regions seeds are, nor of what kind.
    pub fn is_of_any_kind(&self) -> bool {
        self.regions.is_none() && self.schedule.is_none()
    }

    /// The same with faults of this kind only.
    pub fn with_schedule(&self, named: Named) -> Arguments {
        Arguments { schedule: Some(named), ..self.clone() }
    }

    /// The same of so many regions.
    pub fn with_regions(&self, regions: u64) -> Arguments {
        Arguments { regions: Some(regions), ..self.clone() }
    }

    /// `cargo test` was asked for other tests, or for a list.
    pub fn is_for_others(&self) -> bool {
        let named = |filter: &String| "simulation".contains(filter.as_str());
        let filtered = !self.filters.is_empty() && !self.filters.iter().any(named);
        self.list || self.ignored || filtered || self.skip.iter().any(named)
    }
}
