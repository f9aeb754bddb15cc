//! Every deliberate break of the code must be caught: each runs seed after seed until a promise is
//! broken.
//!
//! Laws: a break is caught by a promise, I or G, that a run did not keep; a process that died is
//! told of, and does not count, and neither does a search for an order that came to no end. The
//! control breaks nothing and must keep every promise: without it a catch might be owed to the
//! guards that are off under every break.

use std::process::ExitCode;

use crate::arguments::Arguments;
use crate::invariants::UNDECIDED;
use crate::seeds::{Ended, in_process, line, show};

/// Seeds in which the control keeps every promise, of one region, and as many of two.
const CONTROL_SEEDS: u64 = 20;

/// What came of a seed under a break.
enum Outcome {
    Kept,
    /// Which promises were broken, and of one of them how.
    Caught(String),
    /// It ended without a promise that was broken.
    Ended(String),
}

fn outcome(arguments: &Arguments, seed: u64, mutant: &str) -> Outcome {
    let verdict = match in_process(arguments, seed, Some(mutant)) {
        Ended::Died { words, .. } => return Outcome::Ended(one_line(&words)),
        Ended::Verdict(verdict) => verdict,
    };
    let is_promise = |(name, case): &&(String, String)| {
        name.starts_with(['I', 'G']) && !case.contains(UNDECIDED)
    };
    let mut names: Vec<&str> =
        verdict.broken.iter().filter(is_promise).map(|(name, _)| &**name).collect();
    names.dedup();
    // What comes behind the sentence are the calls that it is about.
    let sentence = |case: &str| one_line(case.lines().next().unwrap_or_default());
    match (verdict.broken.iter().find(is_promise), verdict.broken.first()) {
        (Some((_, case)), _) => {
            Outcome::Caught(format!("{}: {}", names.join(", "), sentence(case)))
        }
        (None, Some((what, case))) => Outcome::Ended(format!("{what}: {}", sentence(case))),
        (None, None) => Outcome::Kept,
    }
}

fn one_line(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The command that repeats a seed under a break.
fn repeat(arguments: &Arguments, seed: u64, mutant: &str) -> String {
    let regions = if arguments.regions() > 1 { " --regions 2" } else { "" };
    let secs = arguments.secs;
    format!("cargo mutants-sim --mutant {mutant} --seed {seed} --secs {secs}{regions}")
}

/// Runs each break, or the one asked for, until it is caught, and the control; or one seed of one.
pub fn run(arguments: &Arguments) -> ExitCode {
    if !cfg!(feature = "mutants") {
        println!("this simulator was built without the feature `mutants`: cargo mutants-sim");
        return ExitCode::FAILURE;
    }
    let (control, breaks_nothing) = zoneq::mutants::CONTROL;
    let of_regions = arguments.with_regions(2);
    let all = zoneq::mutants::OF_CLUSTERS.iter().map(|it| (it, arguments));
    let all = all.chain(zoneq::mutants::OF_REGIONS.iter().map(|it| (it, &of_regions)));
    let is_asked = |name: &str| arguments.mutant.as_deref().is_none_or(|asked| asked == name);
    let asked: Vec<_> = all.filter(|((name, _), _)| is_asked(name)).collect();
    if asked.is_empty() && !is_asked(control) {
        let name = arguments.mutant.as_deref().unwrap_or_default();
        println!("there is no break {name:?}; they are named in src/mutants.rs");
        return ExitCode::FAILURE;
    }
    if let Some(seed) = arguments.seed {
        return again(arguments, seed);
    }
    let mut escaped = Vec::new();
    for ((name, what), arguments) in asked {
        println!("{name}: {what}");
        match first_catch(arguments, name) {
            Some((seed, by)) => {
                println!("  caught at seed {seed} by {by}");
                println!("  repeat it: {}", repeat(arguments, seed, name));
            }
            None => {
                println!("  NOT CAUGHT in {} seeds", arguments.seeds());
                escaped.push(*name);
            }
        }
    }
    if is_asked(control) {
        println!("{control}: {breaks_nothing}");
        if !keeps_every_promise(&[arguments.clone(), of_regions.clone()], control) {
            escaped.push(control);
        }
    }
    if escaped.is_empty() {
        println!("every mutant was caught");
        return ExitCode::SUCCESS;
    }
    println!("not as it should be: {}", escaped.join(", "));
    ExitCode::FAILURE
}

/// One seed under the break that was asked for.
fn again(arguments: &Arguments, seed: u64) -> ExitCode {
    let Some(mutant) = arguments.mutant.as_deref() else {
        println!("--seed with --mutants needs a --mutant");
        return ExitCode::FAILURE;
    };
    match in_process(arguments, seed, Some(mutant)) {
        Ended::Died { words, .. } => println!("seed {seed} died:\n  {words}"),
        Ended::Verdict(verdict) => {
            println!("{}", line(arguments, &verdict));
            show(&verdict);
        }
    }
    ExitCode::SUCCESS
}

/// The first seed that catches it.
fn first_catch(arguments: &Arguments, name: &str) -> Option<(u64, String)> {
    let seeds: Vec<u64> = (arguments.from..arguments.from + arguments.seeds()).collect();
    for together in seeds.chunks(arguments.jobs()) {
        let mut caught = None;
        for (seed, came) in outcomes(arguments, together, name) {
            match came {
                Outcome::Caught(by) => caught = caught.or(Some((seed, by))),
                Outcome::Ended(words) => {
                    println!("  seed {seed} ended, which is no catch: {words}")
                }
                Outcome::Kept => {}
            }
        }
        if caught.is_some() {
            return caught;
        }
    }
    None
}

/// Whether the control keeps every promise.
fn keeps_every_promise(kinds: &[Arguments], control: &str) -> bool {
    let mut keeps = true;
    for arguments in kinds {
        let seeds: Vec<u64> = (arguments.from..arguments.from + CONTROL_SEEDS).collect();
        for together in seeds.chunks(arguments.jobs()) {
            for (seed, came) in outcomes(arguments, together, control) {
                let (Outcome::Caught(words) | Outcome::Ended(words)) = came else { continue };
                println!("  NOT KEPT at seed {seed}: {words}");
                println!("  repeat it: {}", repeat(arguments, seed, control));
                keeps = false;
            }
        }
        if keeps {
            let regions = arguments.regions();
            println!("  keeps every promise in {CONTROL_SEEDS} seeds, regions: {regions}");
        }
    }
    keeps
}

/// What came of these seeds, all at once.
fn outcomes(arguments: &Arguments, seeds: &[u64], name: &str) -> Vec<(u64, Outcome)> {
    std::thread::scope(|scope| {
        let running: Vec<_> = seeds
            .iter()
            .map(|seed| (*seed, scope.spawn(|| outcome(arguments, *seed, name))))
            .collect();
        let ended = running.into_iter().map(|(seed, thread)| {
            let lost = |_| Outcome::Ended("the thread that waited for it panicked".to_owned());
            (seed, thread.join().unwrap_or_else(lost))
        });
        ended.collect()
    })
}
