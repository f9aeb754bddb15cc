//! Runs of pairs of regions: which faults, how often, and what is told of them.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use tokio::time::Instant;

use crate::arguments::Arguments;
use crate::gaps::percentile;
use crate::history::Micros;
use crate::machine::{Machine, needed};
use crate::pair::{self, Lost, PairPlan, PairVerdict};
use crate::region_faults::{self, RegionFault};
use crate::repeat::Repeated;
use crate::{conclude, each, seed};

/// Rounds of one pair; the next ones get another.
const ROUNDS_OF_A_PAIR: usize = 12;

/// The faults asked for.
fn chosen(arguments: &Arguments) -> Result<Vec<&'static RegionFault>, String> {
    let all = || region_faults::ALL.iter();
    if arguments.list {
        return Ok(all().collect());
    }
    if !arguments.faults.is_empty() {
        let named = |name: &String| {
            let found = all().find(|fault| fault.name == name);
            found.ok_or_else(|| {
                format!("two regions have no fault {name}; see `cargo chaos --regions 2 --list`")
            })
        };
        return arguments.faults.iter().map(named).collect();
    }
    let all_of_them = arguments.every_fault;
    Ok(all().filter(|fault| all_of_them || region_faults::is_ordinary(fault)).collect())
}

/// What came of all pairs so far.
#[derive(Default)]
struct Sum {
    pairs: u64,
    failed: u64,
    /// Of each fault how long nobody was acknowledged a write.
    gaps: BTreeMap<&'static str, Vec<Micros>>,
    not_run: BTreeMap<&'static str, Vec<String>>,
    forced: Vec<Lost>,
}

impl Sum {
    fn add(&mut self, verdict: &PairVerdict) {
        self.pairs += 1;
        self.failed += u64::from(!verdict.broken.is_empty());
        for (fault, gap) in &verdict.done {
            self.gaps.entry(fault.name).or_default().push(gap.of_all);
        }
        for (fault, why) in &verdict.not_run {
            self.not_run.entry(fault.name).or_default().push(why.clone());
        }
        self.forced.extend(verdict.forced.iter().cloned());
    }

    /// How often each fault came, and the figures.
    fn tell(mut self, faults: &[&'static RegionFault]) {
        for fault in faults {
            let name = fault.name;
            let gaps = self.gaps.remove(name).unwrap_or_default();
            let count = gaps.len();
            println!("{name:<18} {count:>3} times, without an acknowledged write {}", ms(gaps));
            for why in self.not_run.remove(name).unwrap_or_default() {
                println!("{name:<18} not run: {why}");
            }
        }
        let count = self.forced.len();
        for (leased, words) in [(false, ""), (true, ", with a region lease")] {
            let some = self.forced.iter().filter(|lost| lost.forced.leased == leased);
            let rto: Vec<Micros> = some.map(|lost| lost.forced.rto).collect();
            if !leased || !rto.is_empty() {
                let count = rto.len();
                let rto = ms(rto);
                println!(
                    "promoted by force {count} times{words}; from the command to a write {rto}"
                );
            }
        }
        let known = self.forced.iter().filter_map(|lost| lost.forced.known_lost);
        let unknown = count - known.clone().count();
        let (known, truly) = (known.sum::<u64>(), self.forced.iter().map(|lost| lost.truly));
        println!(
            "messages of clients lost: {known} by the copies' own words (of {unknown} promotions \
             they had none), {} of those that were acknowledged",
            truly.sum::<u64>()
        );
    }
}

/// In words.
fn ms(mut us: Vec<Micros>) -> String {
    us.sort_unstable();
    let of = |part| percentile(&us, part) / 1_000;
    let worst = us.last().copied().unwrap_or_default() / 1_000;
    format!("p50 / p90 / worst: {} / {} / {worst} ms", of(50), of(90))
}

pub async fn chaos(arguments: &Arguments) -> ExitCode {
    let faults = match chosen(arguments) {
        Ok(faults) => faults,
        Err(why) => {
            eprintln!("chaos: {why}");
            return ExitCode::from(2);
        }
    };
    if arguments.lying_disks {
        eprintln!("chaos: disks lie in one region only; leave --regions away");
        return ExitCode::from(2);
    }
    let (machine, faults) = match able(&faults).await {
        Ok(able) => able,
        Err(why) => {
            eprintln!("chaos: {why}");
            return ExitCode::FAILURE;
        }
    };
    if arguments.list {
        faults.iter().for_each(|fault| println!("{:<18} {}", fault.name, fault.what));
        return ExitCode::SUCCESS;
    }
    if faults.is_empty() {
        println!("chaos: nothing was run");
        return ExitCode::SUCCESS;
    }
    run(arguments, &machine, &faults).await
}

/// Those that the machine can run; of the others it is said why not.
async fn able(
    wanted: &[&'static RegionFault],
) -> Result<(Machine, Vec<&'static RegionFault>), String> {
    let home = tempfile::tempdir().map_err(|error| error.to_string())?;
    let means = needed(wanted.iter().map(|fault| fault.means()));
    let machine = Machine::probe(&means, home.path()).await;
    let (able, not_run) = machine.sort_out(wanted, |fault| fault.means());
    for (fault, why) in &not_run {
        println!("chaos: {} is not run: {why}", fault.name);
    }
    Ok((machine, able))
}

/// All rounds, so many to a pair, and the figures.
async fn run(
    arguments: &Arguments,
    machine: &Machine,
    faults: &[&'static RegionFault],
) -> ExitCode {
    let seed = seed(arguments);
    let until = arguments.minutes.map(|m| Instant::now() + Duration::from_secs(60 * m));
    println!(
        "chaos: two regions, {} faults, {} rounds of each, seed {seed}",
        faults.len(),
        arguments.rounds
    );
    let rounds: Vec<&'static RegionFault> =
        (0..arguments.rounds).flat_map(|_| faults.iter().copied()).collect();
    let mut sum = Sum::default();
    loop {
        for rounds in rounds.chunks(ROUNDS_OF_A_PAIR) {
            let logs = arguments.figures.with_file_name("");
            let seed = seed.wrapping_add(sum.pairs);
            let plan = PairPlan { seed, rounds, machine, logs };
            let verdict = pair::run(&plan).await;
            sum.add(&verdict);
            tell(arguments, &plan, sum.pairs, &verdict);
        }
        if until.is_none_or(|until| Instant::now() >= until) {
            break;
        }
    }
    let (pairs, failed) = (sum.pairs, sum.failed);
    sum.tell(&each(faults, |fault| fault.name));
    println!("chaos: {pairs} pairs, {failed} broke a promise");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What came of one pair.
fn tell(arguments: &Arguments, plan: &PairPlan<'_>, number: u64, verdict: &PairVerdict) {
    let history = verdict.history.lock();
    let pair = &history.pair;
    println!(
        "pair {number}, seed {}: {} of {} rounds; {} calls, {} acknowledged, {} verbs of the \
         operator, {} looks, {} tails listed, {} entries replayed: {}",
        plan.seed,
        verdict.done.len(),
        plan.rounds.len(),
        history.ops.len(),
        history.acknowledged(),
        pair.acts.len(),
        pair.told.len(),
        pair.listed.len(),
        verdict.replayed,
        if verdict.broken.is_empty() { "every promise kept" } else { "BROKEN" }
    );
    let rounds = plan.rounds.iter().map(|fault| fault.name).collect();
    let repeated = Repeated { seed: plan.seed, regions: 2, rounds, lying_disks: false };
    conclude(arguments, &repeated, &verdict.broken, &history);
}
