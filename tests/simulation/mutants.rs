//! Every deliberate break of the code must be caught: each runs seed after seed until a promise
//! is broken, or its process dies.

use std::process::ExitCode;

use crate::arguments::Arguments;
use crate::seeds::{Ended, in_process};

/// What caught a break.
fn caught(arguments: &Arguments, seed: u64, mutant: &str) -> Option<String> {
    match in_process(arguments, seed, Some(mutant)) {
        Ended::Died(words) => Some(format!("the end of the process: {}", one_line(&words))),
        Ended::Verdict(verdict) => {
            let mut names: Vec<&str> = verdict.broken.iter().map(|(name, _)| &**name).collect();
            names.dedup();
            // A broken promise says more than the panic that came of it.
            let promise = verdict.broken.iter().find(|(name, _)| name.starts_with(['I', 'G']));
            let (_, case) = promise.or(verdict.broken.first())?;
            // What comes behind the sentence are the calls that it is about.
            let sentence = case.lines().next().unwrap_or_default();
            Some(format!("{}: {}", names.join(", "), one_line(sentence)))
        }
    }
}

fn one_line(words: &str) -> String {
    words.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Runs each break, or the one asked for, until it is caught.
pub fn run(arguments: &Arguments) -> ExitCode {
    if !cfg!(feature = "mutants") {
        println!("this simulator was built without the feature `mutants`: cargo mutants-sim");
        return ExitCode::FAILURE;
    }
    let mut escaped = Vec::new();
    let of_regions = arguments.with_regions(2);
    let all = zoneq::mutants::OF_CLUSTERS.iter().map(|it| (it, arguments));
    let all = all.chain(zoneq::mutants::OF_REGIONS.iter().map(|it| (it, &of_regions)));
    let is_asked = |name: &str| arguments.mutant.as_deref().is_none_or(|asked| asked == name);
    for ((name, what), arguments) in all.filter(|((name, _), _)| is_asked(name)) {
        println!("{name}: {what}");
        match first_catch(arguments, name) {
            Some((seed, by)) => println!("  caught at seed {seed} by {by}"),
            None => {
                println!("  NOT CAUGHT in {} seeds", arguments.seeds());
                escaped.push(*name);
            }
        }
    }
    if escaped.is_empty() {
        println!("every mutant was caught");
        return ExitCode::SUCCESS;
    }
    println!("not caught: {}", escaped.join(", "));
    ExitCode::FAILURE
}

/// The first seed, of as many at once as there are jobs, that catches it.
fn first_catch(arguments: &Arguments, name: &str) -> Option<(u64, String)> {
    let seeds: Vec<u64> = (arguments.from..arguments.from + arguments.seeds()).collect();
    for together in seeds.chunks(arguments.jobs()) {
        let found = std::thread::scope(|scope| {
            let running: Vec<_> = together
                .iter()
                .map(|seed| (*seed, scope.spawn(|| caught(arguments, *seed, name))))
                .collect();
            let ended = running.into_iter().map(|(seed, thread)| (seed, thread.join().ok()));
            let mut caught = ended.filter_map(|(seed, by)| Some((seed, by??)));
            let first = caught.next();
            caught.for_each(drop);
            first
        });
        if found.is_some() {
            return found;
        }
    }
    None
}
