//! Chaos: a cluster of real processes of the real binary, or a pair of them in two regions, hurt
//! under load.
//!
//! `cargo chaos` runs every fault that this machine can, `cargo chaos --fault kill-leader --rounds
//! 100` one of them; `cargo chaos --list` shows them, and `--regions 2` takes those of a pair. The
//! clients and the checker are the simulator's. In the ordinary tests a few faults of one region
//! run that need neither root nor other programs.
//!
//! Laws: every fault's means is tried first, and a fault that cannot be run is told as *not run*
//! with the reason; no process, mount or namespace stays behind. What only a simulator can see is
//! not judged, and that is said.

mod arguments;
#[path = "../checker/mod.rs"]
#[allow(dead_code, unused_imports, reason = "its tests run elsewhere, and the simulator uses more")]
mod checker;
mod cluster;
mod disks;
mod faults;
mod figures;
mod looks;
mod machine;
mod node;
#[path = "../operator/mod.rs"]
#[allow(dead_code, reason = "the simulator's operator does more")]
mod operator;
mod pair;
mod pairs;
mod prober;
mod region_faults;
mod regions;
#[allow(dead_code, unused_imports, reason = "its tests run elsewhere")]
mod repeat;
mod replayed;
#[allow(dead_code, unused_imports, reason = "its tests run elsewhere")]
mod seen;
mod session;
mod wires;
#[path = "../workload/mod.rs"]
mod workload;
mod zone_faults;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::Duration;

use arguments::Arguments;
use checker::{
    gaps, highest, history, invariants, known, lineage, parts, queues, redrives, retold, sampled,
    search, story, surviving, tails, times, written,
};
use clap::Parser as _;
use faults::Fault;
use history::{Micros, SharedHistory};
use machine::{Machine, Means};
use prober::Gap;
use repeat::Repeated;
use session::{Plan, Verdict};
use tokio::time::Instant;
use zoneq::clock::{Clock as _, SystemClock};

/// Rounds of one cluster; the next ones get another.
const ROUNDS_OF_A_SESSION: usize = 20;
/// Cases shown of one broken promise.
const SHOWN: usize = 5;
const NOT_JUDGED: &str = "chaos: not judged on real processes: I11 at every applied position (here \
     when the cluster is at rest, by its digests)";

/// When this process first asked: by the steady clock, and by the wall clock in microseconds.
fn began() -> (Instant, u64) {
    static BEGAN: OnceLock<(Instant, u64)> = OnceLock::new();
    *BEGAN.get_or_init(|| (Instant::now(), SystemClock::default().wall_us()))
}

/// Microseconds since then.
fn now() -> Micros {
    u64::try_from(began().0.elapsed().as_micros()).unwrap_or(Micros::MAX)
}

/// What time it is for clients.
fn clock() -> workload::Clock {
    workload::Clock { now, began: began().1 }
}

/// Writes down a fault or a phase.
fn say(history: &SharedHistory, what: &str) {
    history.lock().event(now(), format_args!("{what}"));
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.is_for_others() {
        return ExitCode::SUCCESS;
    }
    began();
    if let Some(path) = &arguments.judge {
        return judge(path);
    }
    let Ok(runtime) = tokio::runtime::Runtime::new() else {
        eprintln!("chaos: no runtime");
        return ExitCode::FAILURE;
    };
    let code = runtime.block_on(async {
        tokio::select! {
            code = chaos(&arguments) => code,
            _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
        }
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

/// The faults asked for.
fn chosen(arguments: &Arguments) -> Result<Vec<&'static Fault>, String> {
    let all = || faults::ALL.iter();
    if !arguments.faults.is_empty() {
        let named = |name: &String| {
            let found = all().find(|fault| fault.name == name);
            found.ok_or_else(|| format!("there is no fault {name}; see `cargo chaos --list`"))
        };
        return arguments.faults.iter().map(named).collect();
    }
    let all_of_them = arguments.every_fault;
    Ok(all().filter(|fault| all_of_them || faults::is_ordinary(fault)).collect())
}

async fn chaos(arguments: &Arguments) -> ExitCode {
    if arguments.regions == 2 { pairs::chaos(arguments).await } else { one_region(arguments).await }
}

async fn one_region(arguments: &Arguments) -> ExitCode {
    let wanted = match chosen(arguments) {
        Ok(_) if arguments.list => faults::ALL.iter().collect(),
        Ok(wanted) => wanted,
        Err(why) => {
            eprintln!("chaos: {why}");
            return ExitCode::from(2);
        }
    };
    let (able, not_run) = match probe(&wanted, arguments.lying_disks).await {
        Ok(probed) => probed,
        Err(why) => {
            eprintln!("chaos: {why}");
            return ExitCode::FAILURE;
        }
    };
    for (fault, why) in &not_run {
        println!("chaos: {} is not run: {why}", fault.name);
    }
    if arguments.list {
        able.1.iter().for_each(|fault| println!("{:<15} {}", fault.name, fault.what));
        return ExitCode::SUCCESS;
    }
    if able.1.is_empty() {
        println!("chaos: nothing was run");
        return ExitCode::SUCCESS;
    }
    run(arguments, &able.0, &able.1).await
}

type Able = (Machine, Vec<&'static Fault>);

/// Those that the machine can run, and why not the others.
async fn probe(
    wanted: &[&'static Fault],
    lying: bool,
) -> Result<(Able, Vec<(&'static Fault, String)>), String> {
    let home = tempfile::tempdir().map_err(|error| error.to_string())?;
    let lies = lying.then_some(Means::Strace);
    let means = machine::needed(wanted.iter().map(|fault| fault.means()).chain([lies]));
    let machine = Machine::probe(&means, home.path()).await;
    if let Some(why) = machine.lacks(Means::Strace).filter(|_| lying) {
        return Err(format!("disks cannot be made to lie: {why}"));
    }
    let (able, not_run) = machine.sort_out(wanted, |fault| fault.means());
    Ok(((machine, able), not_run))
}

/// Each of them once.
fn each<F: Copy>(faults: &[F], name: impl Fn(F) -> &'static str) -> Vec<F> {
    let mut known = BTreeSet::new();
    faults.iter().copied().filter(|fault| known.insert(name(*fault))).collect()
}

/// The seed that was asked for, or one of this moment.
fn seed(arguments: &Arguments) -> u64 {
    arguments.seed.unwrap_or_else(|| u64::from(std::process::id()) ^ (began().1 / 1_000_000))
}

/// All rounds, so many to a cluster, and the figures.
async fn run(arguments: &Arguments, machine: &Machine, faults: &[&'static Fault]) -> ExitCode {
    let seed = seed(arguments);
    let until = arguments.minutes.map(|m| Instant::now() + Duration::from_secs(60 * m));
    println!("chaos: {} faults, {} rounds of each, seed {seed}", faults.len(), arguments.rounds);
    let mut gaps: BTreeMap<&str, Vec<Gap>> = BTreeMap::new();
    let (mut number, mut failed) = (0, 0);
    loop {
        let rounds: Vec<&'static Fault> =
            (0..arguments.rounds).flat_map(|_| faults.iter().copied()).collect();
        for rounds in rounds.chunks(ROUNDS_OF_A_SESSION) {
            let (seed, lying) = (seed.wrapping_add(number), arguments.lying_disks);
            let plan = Plan { seed, rounds, machine, lying };
            let verdict = session::run(&plan).await;
            number += 1;
            for (fault, gap) in &verdict.gaps {
                gaps.entry(fault.name).or_default().push(*gap);
            }
            failed += u64::from(!verdict.broken.is_empty());
            tell(arguments, &plan, number, &verdict);
        }
        if until.is_none_or(|until| Instant::now() >= until) {
            break;
        }
    }
    println!("{NOT_JUDGED}");
    for fault in each(faults, |fault| fault.name) {
        let Some(gaps) = gaps.get(fault.name) else { continue };
        let line = figures::line(fault, seed, gaps);
        println!("{}", figures::words(&line));
        if let Err(error) = figures::keep(&arguments.figures, &line) {
            eprintln!("chaos: {}: {error}", arguments.figures.display());
        }
    }
    println!("chaos: {number} clusters, {failed} broke a promise");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What came of one cluster.
fn tell(arguments: &Arguments, plan: &Plan<'_>, number: u64, verdict: &Verdict) {
    let history = verdict.history.lock();
    let mut names: Vec<&str> = plan.rounds.iter().map(|fault| fault.name).collect();
    names.sort_unstable();
    names.dedup();
    println!(
        "cluster {number}, seed {}: {} of {} rounds of {}; {} calls, {} acknowledged, {} leaderships \
         seen, {} stops: {}",
        plan.seed,
        verdict.gaps.len(),
        plan.rounds.len(),
        names.join(", "),
        history.ops.len(),
        history.acknowledged(),
        history.leaders.len(),
        history.unexpected_stops.len(),
        if verdict.broken.is_empty() { "every promise kept" } else { "BROKEN" }
    );
    let rounds = plan.rounds.iter().map(|fault| fault.name).collect();
    let repeated = Repeated { seed: plan.seed, regions: 1, rounds, lying_disks: plan.lying };
    conclude(arguments, &repeated, &verdict.broken, &history);
}

/// What was broken, the command that repeats it, and where its history is kept, when it is asked
/// for or a promise was broken.
fn conclude(
    arguments: &Arguments,
    repeated: &Repeated<'_>,
    broken: &[(String, String)],
    history: &history::History,
) {
    show(broken);
    let is_broken = !broken.is_empty();
    if is_broken {
        println!("  repeat it: {}", repeat::command(repeated));
    }
    let of_pair = if repeated.regions > 1 { "-regions" } else { "" };
    let name = format!("chaos-{}{of_pair}.jsonl", repeated.seed);
    let beside = || is_broken.then(|| arguments.figures.with_file_name(name));
    let Some(path) = arguments.history.clone().or_else(beside) else { return };
    match written::write(&path, history) {
        Ok(()) => {
            println!("  its history is in {}", path.display());
            println!("  judge it: {}", repeat::judge(&path));
        }
        Err(why) => eprintln!("chaos: {why}"),
    }
}

/// Some cases of each promise that was broken.
fn show(broken: &[(String, String)]) {
    let mut names: Vec<&String> = broken.iter().map(|(name, _)| name).collect();
    names.dedup();
    for name in names {
        let cases: Vec<&String> =
            broken.iter().filter(|(of, _)| of == name).map(|(_, case)| case).collect();
        cases.iter().take(SHOWN).for_each(|case| println!("  {name}: {case}"));
        if cases.len() > SHOWN {
            println!("  {name}: and {} more", cases.len() - SHOWN);
        }
    }
}

/// Judges histories that were written down, and says what of each could not be judged.
fn judge(path: &std::path::Path) -> ExitCode {
    let histories = match written::read(path) {
        Ok(histories) => histories,
        Err(why) => {
            eprintln!("chaos: {why}");
            return ExitCode::FAILURE;
        }
    };
    let mut code = ExitCode::SUCCESS;
    for (number, history) in (1..).zip(&histories) {
        let broken = invariants::broken(history);
        let broken: Vec<(String, String)> =
            broken.into_iter().map(|(name, case)| (name.to_owned(), case)).collect();
        let end = if broken.is_empty() { "every promise kept" } else { "BROKEN" };
        let of_pair = if history.pair.sighted.is_empty() { "" } else { " and G1 to G6" };
        println!(
            "history {number}: {} calls, {} acknowledged; judged by I1 to I11{of_pair}: {end}",
            history.ops.len(),
            history.acknowledged()
        );
        show(&broken);
        invariants::unjudged(history).iter().for_each(|what| println!("  not judged: {what}"));
        if !broken.is_empty() {
            code = ExitCode::FAILURE;
        }
    }
    if histories.is_empty() {
        eprintln!("chaos: {} holds no history", path.display());
        return ExitCode::FAILURE;
    }
    code
}
