//! Makes a seed that breaks a promise smaller: less time and fewer faults, each try in a process of
//! its own, with everything else as the seed draws it.
//!
//! Laws: what is found breaks a promise that the whole seed broke. Tries are bounded in number and
//! in time; what was found until then is told.

use std::process::ExitCode;
use std::time::Duration;

use crate::arguments::Arguments;
use crate::fewer::fewer;
use crate::seeds::{Ended, in_process, repeat, show};

/// Tries at most.
const TRIES: usize = 120;
/// How long they may take together, where nobody says.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long they may take of themselves, when many seeds have run and one of them failed.
const AFTERWARDS: Duration = Duration::from_secs(180);
/// What a process that died without a verdict broke.
const DEATH: &str = "the end of the process";

/// One seed and what is asked of it.
struct Search {
    seed: u64,
    /// The promise that is to be broken.
    promise: String,
    tries: usize,
    until: tokio::time::Instant,
}

/// The promises that a run broke, and the faults that began in it.
fn outcome(arguments: &Arguments, seed: u64) -> (Vec<String>, Vec<String>) {
    match in_process(arguments, seed, arguments.mutant.as_deref()) {
        Ended::Died { faults, .. } => (vec![DEATH.to_owned()], faults),
        Ended::Verdict(verdict) => {
            (verdict.broken.into_iter().map(|(name, _)| name).collect(), verdict.faults)
        }
    }
}

fn number(fault: &str) -> Option<u64> {
    fault.split(' ').next()?.parse().ok()
}

impl Search {
    /// Whether the promise is broken when so much is done; nothing when no other try is allowed.
    fn breaks(&mut self, arguments: &Arguments) -> Option<bool> {
        if self.tries >= TRIES || tokio::time::Instant::now() >= self.until {
            return None;
        }
        self.tries += 1;
        let (broken, _) = outcome(arguments, self.seed);
        let breaks = broken.contains(&self.promise);
        let (only, secs) = (&arguments.only, arguments.secs);
        println!("  {secs} s, faults {only:?}: {}", if breaks { "the same" } else { "not" });
        Some(breaks)
    }

    /// Less time, where that is enough.
    fn shorter(&mut self, all: &Arguments) -> Arguments {
        for quarters in 1..4 {
            let some = all.with_secs(all.secs * quarters / 4);
            if some.secs > 0 && self.breaks(&some) == Some(true) {
                return some;
            }
        }
        all.clone()
    }
}

/// What the whole seed breaks; nothing if it keeps every promise.
fn promise(arguments: &Arguments, seed: u64) -> Option<String> {
    match in_process(arguments, seed, arguments.mutant.as_deref()) {
        Ended::Died { words, .. } => {
            println!("seed {seed} died:\n  {words}");
            Some(DEATH.to_owned())
        }
        Ended::Verdict(verdict) => {
            show(&verdict);
            let promise = verdict.broken.iter().find(|(name, _)| name.starts_with(['I', 'G']));
            promise.or(verdict.broken.first()).map(|(name, _)| name.clone())
        }
    }
}

/// Looks for the smallest run of a seed that breaks the same promise, and prints its command.
pub fn run(arguments: &Arguments, seed: u64) -> ExitCode {
    look(arguments, seed, arguments.patience().unwrap_or(PATIENCE))
}

/// The same for the first of many seeds that failed, for three minutes at most.
pub fn afterwards(arguments: &Arguments, seed: u64) -> ExitCode {
    look(arguments, seed, AFTERWARDS);
    ExitCode::FAILURE
}

fn look(arguments: &Arguments, seed: u64, patience: Duration) -> ExitCode {
    let until = tokio::time::Instant::now() + patience;
    let Some(promise) = promise(arguments, seed) else {
        println!("seed {seed} keeps every promise: there is nothing to make smaller");
        return ExitCode::SUCCESS;
    };
    println!("looking for the fewest faults with which seed {seed} still breaks {promise}:");
    let mut search = Search { seed, promise, tries: 0, until };
    let shorter = search.shorter(arguments);
    let (_, begun) = outcome(&shorter, seed);
    let all: Vec<u64> = begun.iter().filter_map(|fault| number(fault)).collect();
    let kept = fewer(&all, |kept| search.breaks(&shorter.with_only(kept)));
    let smallest = if kept == all { shorter.clone() } else { shorter.with_only(&kept) };
    println!("after {} tries, of {} faults {} are left:", search.tries, all.len(), kept.len());
    let is_kept = |fault: &&String| number(fault).is_some_and(|number| kept.contains(&number));
    begun.iter().filter(is_kept).for_each(|fault| println!("  {fault}"));
    println!("{}", repeat(&smallest, seed));
    ExitCode::FAILURE
}
