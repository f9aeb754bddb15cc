//! Many seeds, each in a process of its own: state that a library keeps for the whole process
//! cannot leak from one to the next, and an abort ends one seed only.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::panic;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::arguments::Arguments;
use crate::coverage::{self, Counts, Coverage};
use crate::history::SharedHistory;
use crate::run::{self, Verdict};
use crate::schedule::Named;
use crate::shrink;

/// Cases shown of one broken promise.
const SHOWN: usize = 5;
/// Real seconds that one seed may take.
const LONGEST_SECONDS: u32 = 1_200;
/// Seeds that found a bug once, as `tests/TRACK_RECORD.md` tells: they run whenever somebody asks
/// for the first seeds, and before each landing.
const KEPT: [u64; 12] = [41, 46, 89, 114, 203, 224, 281, 344, 481, 1520, 1540, 1891];
/// Seeds of two regions that found a bug once.
const KEPT_PAIRS: [u64; 26] = [
    5, 9, 10, 11, 15, 21, 27, 31, 34, 37, 46, 70, 74, 80, 88, 97, 114, 115, 202, 212, 274, 284,
    293, 335, 394, 449,
];
/// Seeds of two regions that run behind those of one, where nobody says of how many.
const PAIRS: std::ops::Range<u64> = 1..5;
/// The twenty seeds of the ordinary tests: of one region, and of two.
const ORDINARY: std::ops::Range<u64> = 1..15;
const ORDINARY_PAIRS: std::ops::Range<u64> = 1..7;
/// Simulated seconds of the schedules that have a name, which run behind those.
const NAMED_SECONDS: u64 = 12;
/// Seeds in which every verb of the API must have worked.
const ENOUGH: u64 = 20;
/// Signs of the bar that shows how far it is.
const BAR: u64 = 40;
/// The mark before a verdict in a seed's output, and before a fault as it begins.
const VERDICT: &str = "verdict ";
pub const FAULT: &str = "fault ";

/// Runs one seed in this process.
pub fn one(arguments: &Arguments, seed: u64) -> ExitCode {
    // A seed that does not end is ended by the kernel, and counts as dead.
    // SAFETY: it only sets a timer.
    unsafe { libc::alarm(LONGEST_SECONDS) };
    let coverage = Coverage::begin();
    let history = SharedHistory::default();
    let (for_panics, at_panic) = (arguments.clone(), (coverage.clone(), history.clone()));
    // No node may panic, so the first panic is the verdict: what a panic leaves behind cannot be
    // taken apart in order. Only redb may, at a page that rotted, and the tables take it for damage.
    panic::set_hook(Box::new(move |panic| {
        let is_in = |library: &str| panic.location().is_some_and(|at| at.file().contains(library));
        if is_in("/redb-") {
            return;
        }
        let (coverage, history) = &at_panic;
        let verdict = run::cut_short(seed, history, panic.to_string(), is_in("/openraft-"));
        tell(&for_panics, coverage, verdict);
        std::process::exit(1);
    }));
    let verdict = run::run(arguments, seed, &history);
    tell(arguments, &coverage, verdict)
}

fn tell(arguments: &Arguments, coverage: &Coverage, mut verdict: Verdict) -> ExitCode {
    verdict.seen = coverage.counts();
    verdict.cpu_ms = cpu_ms();
    if arguments.verdict {
        println!("{VERDICT}{}", encode(&verdict));
    } else {
        println!("{}", line(arguments, &verdict));
        coverage::lines(&verdict.seen).iter().for_each(|line| println!("{line}"));
        coverage::lines(&verdict.verbs).iter().for_each(|line| println!("{line}"));
        show(&verdict);
    }
    if verdict.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Milliseconds that this process has computed for so far.
fn cpu_ms() -> u64 {
    // SAFETY: the call writes to the place that it is given, for which all zeros are a value.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let millis = |time: libc::timeval| time.tv_sec * 1_000 + time.tv_usec / 1_000;
    (millis(usage.ru_utime) + millis(usage.ru_stime)).unsigned_abs()
}

fn encode(verdict: &Verdict) -> serde_json::Value {
    serde_json::json!({
        "seed": verdict.seed,
        "hash": format!("{:016x}", verdict.hash),
        "events": verdict.events,
        "calls": verdict.calls,
        "acknowledged": verdict.acknowledged,
        "simulated_ms": verdict.simulated_ms,
        "cpu_ms": verdict.cpu_ms,
        "leaders": verdict.leaders,
        "broken": verdict.broken,
        "faults": verdict.faults,
        "seen": verdict.seen,
        "verbs": verdict.verbs,
    })
}

fn decode(text: &str) -> Option<Verdict> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let number = |key: &str| value.get(key).and_then(serde_json::Value::as_u64);
    let cases = value.get("broken")?.as_array()?.iter();
    let broken = cases.filter_map(|case| {
        let text = |at: usize| Some(case.get(at)?.as_str()?.to_owned());
        Some((text(0)?, text(1)?))
    });
    let faults = value.get("faults")?.as_array()?.iter();
    let counts = |key: &str| -> Option<Counts> {
        let counts = value.get(key)?.as_object()?.iter();
        Some(counts.filter_map(|(what, count)| Some((what.clone(), count.as_u64()?))).collect())
    };
    Some(Verdict {
        seen: counts("seen")?,
        verbs: counts("verbs")?,
        seed: number("seed")?,
        hash: u64::from_str_radix(value.get("hash")?.as_str()?, 16).ok()?,
        events: number("events")?,
        calls: usize::try_from(number("calls")?).ok()?,
        acknowledged: usize::try_from(number("acknowledged")?).ok()?,
        simulated_ms: number("simulated_ms")?,
        cpu_ms: number("cpu_ms")?,
        leaders: usize::try_from(number("leaders")?).ok()?,
        broken: broken.collect(),
        faults: faults.filter_map(|fault| Some(fault.as_str()?.to_owned())).collect(),
    })
}

pub fn line(arguments: &Arguments, verdict: &Verdict) -> String {
    let regions = match arguments.schedule {
        Some(named) => format!(" ({})", named.name()),
        None if arguments.regions() > 1 => " (two regions)".to_owned(),
        None => String::new(),
    };
    format!(
        "seed {:<6}{regions} {:>5} calls, {:>5} acknowledged, {:>3} leaderships, {:>3}.{} s simulated, \
         trace {:016x} of {} events: {}",
        verdict.seed,
        verdict.calls,
        verdict.acknowledged,
        verdict.leaders,
        verdict.simulated_ms / 1_000,
        verdict.simulated_ms / 100 % 10,
        verdict.hash,
        verdict.events,
        if verdict.broken.is_empty() { "every promise kept" } else { "BROKEN" }
    )
}

pub fn show(verdict: &Verdict) {
    let mut names: Vec<&String> = verdict.broken.iter().map(|(name, _)| name).collect();
    names.dedup();
    for name in names {
        let cases: Vec<&String> =
            verdict.broken.iter().filter(|(of, _)| of == name).map(|(_, case)| case).collect();
        for case in cases.iter().take(SHOWN) {
            println!("  {name}: {case}");
        }
        if cases.len() > SHOWN {
            println!("  {name}: and {} more", cases.len() - SHOWN);
        }
    }
}

/// What came of a seed's process.
pub enum Ended {
    Verdict(Verdict),
    /// It died without one, by a signal or an abort: the end of what it said, and the faults that
    /// had begun.
    Died {
        words: String,
        faults: Vec<String>,
    },
}

impl Ended {
    fn unborn(words: impl Into<String>) -> Ended {
        Ended::Died { words: words.into(), faults: Vec::new() }
    }
}

/// Runs a seed in a process of its own, under a mutant or none.
pub fn in_process(arguments: &Arguments, seed: u64, mutant: Option<&str>) -> Ended {
    let Ok(own) = std::env::current_exe() else {
        return Ended::unborn("this binary does not know where it is");
    };
    let mut command = Command::new(own);
    command.args(["--verdict", "--seed", &seed.to_string()]);
    command.args(["--secs", &arguments.secs.to_string()]);
    command.args(["--regions", &arguments.regions().to_string()]);
    if let Some(named) = arguments.schedule {
        command.args(["--schedule", named.name()]);
    }
    for (what, numbers) in [("--without", &arguments.without), ("--only", &arguments.only)] {
        if !numbers.is_empty() {
            command.args([what, &list(numbers)]);
        }
    }
    command.env_remove("ZONEQ_MUTANT").stdin(Stdio::null());
    if let Some(mutant) = mutant {
        command.env("ZONEQ_MUTANT", mutant);
    }
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => return Ended::unborn(error.to_string()),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let verdict = said.lines().find_map(|line| decode(line.strip_prefix(VERDICT)?));
    match verdict {
        Some(verdict) => Ended::Verdict(verdict),
        None => {
            let errors = String::from_utf8_lossy(&output.stderr);
            let lines = errors.lines().filter(|line| !line.is_empty());
            // A panic says where and why; what follows it is the way there.
            let why = lines.skip_while(|line| !line.contains("panicked at")).take(3);
            let why: Vec<&str> = why.collect();
            let words = if why.is_empty() { output.status.to_string() } else { why.join("\n  ") };
            let begun = said.lines().filter_map(|line| line.strip_prefix(FAULT));
            Ended::Died { words, faults: begun.map(str::to_owned).collect() }
        }
    }
}

/// The command that repeats a run.
pub fn repeat(arguments: &Arguments, seed: u64) -> String {
    let regions = if arguments.regions() > 1 { " --regions 2" } else { "" };
    let named = arguments.schedule.map(|named| format!(" --schedule {}", named.name()));
    let (secs, named) = (arguments.secs, named.unwrap_or_default());
    let faults = [("without", &arguments.without), ("only", &arguments.only)];
    let given = faults.iter().filter(|(_, numbers)| !numbers.is_empty());
    let faults: String = given.map(|(what, them)| format!(" --{what} {}", list(them))).collect();
    format!("  repeat it: cargo sim --seed {seed} --secs {secs}{regions}{named}{faults}")
}

fn list(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

/// What many seeds came to.
#[derive(Default)]
struct Total {
    /// Seeds that were asked for, and that have run.
    of: u64,
    done: u64,
    failed: Vec<u64>,
    /// The first of them, and what was asked of it.
    first_failed: Option<(Arguments, u64)>,
    /// By the number of regions: milliseconds simulated, and computed for.
    times: BTreeMap<u64, (u64, u64)>,
    acknowledged: usize,
    seen: Counts,
    verbs: Counts,
}

/// Those of the ordinary tests. Or the range asked for, and the kept seeds after it if it begins
/// with the first; with some of two regions if it is not said of how many.
fn chosen(arguments: &Arguments) -> Vec<(Arguments, u64)> {
    let each = |seeds: &[u64], regions: u64| -> Vec<(Arguments, u64)> {
        let arguments = arguments.with_regions(regions);
        seeds.iter().map(|seed| (arguments.clone(), *seed)).collect()
    };
    let named = || {
        let short = arguments.with_secs(arguments.secs.min(NAMED_SECONDS));
        (1..).zip(Named::ALL).map(move |(seed, named)| (short.with_schedule(named), seed))
    };
    if arguments.kept {
        return [each(&KEPT, 1), each(&KEPT_PAIRS, 2)].concat();
    }
    if arguments.is_ordinary() {
        let one: Vec<u64> = ORDINARY.collect();
        let two: Vec<u64> = ORDINARY_PAIRS.collect();
        return each(&one, 1).into_iter().chain(named()).chain(each(&two, 2)).collect();
    }
    let range = arguments.from..arguments.from.saturating_add(arguments.seeds());
    let begins = range.start == 1;
    let with_kept = |range: std::ops::Range<u64>, arguments: Arguments| {
        let kept: &[u64] = match arguments.regions() {
            1 if arguments.schedule.is_some() => &[],
            1 => &KEPT,
            _ => &KEPT_PAIRS,
        };
        let of_range = range.clone();
        let kept = kept.iter().copied().filter(move |seed| begins && !of_range.contains(seed));
        range.chain(kept).map(move |seed| (arguments.clone(), seed)).collect::<Vec<_>>()
    };
    let mut all = with_kept(range, arguments.clone());
    if begins && arguments.is_of_any_kind() {
        all.extend(named());
        all.extend(with_kept(PAIRS, arguments.with_regions(2)));
    }
    all
}

/// Runs the seeds and says how it went.
pub fn many(arguments: &Arguments) -> ExitCode {
    let jobs = arguments.jobs();
    let seeds = chosen(arguments);
    println!(
        "simulation: {} seeds from {} of {} s, {jobs} at a time, {} of them twice",
        seeds.len(),
        arguments.from,
        arguments.secs,
        (0..seeds.len()).filter(|at| is_twice(arguments, &seeds, *at)).count()
    );
    let (next, began) = (AtomicUsize::new(0), tokio::time::Instant::now());
    let total = Mutex::new(Total { of: seeds.len() as u64, ..Total::default() });
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let is_late = arguments.patience().is_some_and(|it| began.elapsed() >= it);
                    let failed = || {
                        let total = total.lock().unwrap_or_else(PoisonError::into_inner);
                        !total.failed.is_empty()
                    };
                    let stop = is_late || (arguments.fail_fast && failed());
                    let Some((asked, seed)) = seeds.get(at).filter(|_| !stop) else { return };
                    let twice = is_twice(arguments, &seeds, at);
                    let (verdict, words) = judge(asked, *seed, twice);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    note(&mut total, asked, *seed, verdict.as_ref(), &words);
                }
            });
        }
    });
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!(
        "simulation: {} seeds, {} failed{}; {} s simulated, {} calls acknowledged",
        total.done,
        total.failed.len(),
        if total.failed.is_empty() { String::new() } else { format!(": {:?}", total.failed) },
        total.times.values().map(|(simulated, _)| simulated).sum::<u64>() / 1_000,
        total.acknowledged
    );
    speeds(&total.times).iter().for_each(|line| println!("{line}"));
    coverage::lines(&total.seen).iter().for_each(|line| println!("{line}"));
    coverage::lines(&total.verbs).iter().for_each(|line| println!("{line}"));
    let missing = coverage::missing_verbs(&total.verbs);
    if total.done >= ENOUGH && !missing.is_empty() {
        println!("simulation: no seed was answered to {missing:?}");
        return ExitCode::FAILURE;
    }
    match total.first_failed {
        None => ExitCode::SUCCESS,
        Some((asked, seed)) => shrink::afterwards(&asked, seed),
    }
}

/// Whether a seed runs a second time: the first ones of each kind do. Three of one region, as many
/// as it is where nothing else is said, and two of two are the five that the ordinary tests owe.
fn is_twice(arguments: &Arguments, seeds: &[(Arguments, u64)], at: usize) -> bool {
    let kind = |of: &Arguments| (of.regions(), of.schedule.is_some());
    let Some((asked, _)) = seeds.get(at) else { return false };
    let nth = seeds[..at].iter().filter(|(of, _)| kind(of) == kind(asked)).count() as u64;
    let of_kind = match kind(asked) {
        (1, false) => arguments.twice,
        (_, false) => arguments.twice.saturating_sub(1),
        (_, true) => arguments.twice.min(1),
    };
    nth < of_kind
}

/// The verdict of a seed, and what else is wrong with it.
fn judge(arguments: &Arguments, seed: u64, twice: bool) -> (Option<Verdict>, String) {
    match in_process(arguments, seed, None) {
        Ended::Died { words, .. } => (None, format!("seed {seed:<6} died:\n  {words}")),
        Ended::Verdict(first) if twice => {
            let words = match in_process(arguments, seed, None) {
                Ended::Verdict(again) if again.hash == first.hash => String::new(),
                Ended::Verdict(again) => format!(
                    "seed {seed:<6} gave trace {:016x}, and then {:016x}: a run does not repeat",
                    first.hash, again.hash
                ),
                Ended::Died { words, .. } => {
                    format!("seed {seed:<6} died the second time:\n  {words}")
                }
            };
            (Some(first), words)
        }
        Ended::Verdict(first) => (Some(first), String::new()),
    }
}

/// How far it is, for a terminal.
fn bar(done: u64, of: u64) -> String {
    let full = (BAR * done / of.max(1)).min(BAR);
    let part = |what: &str, count: u64| what.repeat(usize::try_from(count).unwrap_or_default());
    format!("[{}{}] {done} of {of} seeds", part("#", full), part(".", BAR - full))
}

/// How much is simulated in a minute of one core; of two regions a minute is one of both.
fn speeds(times: &BTreeMap<u64, (u64, u64)>) -> Vec<String> {
    let line = |(regions, (simulated, computed)): (&u64, &(u64, u64))| {
        let regions = if *regions > 1 { "two regions" } else { "one region" };
        let speed = *simulated as f64 / (*computed).max(1) as f64;
        format!("{speed:>7.1}  simulated minutes of {regions} for each minute of CPU")
    };
    times.iter().map(line).collect()
}

/// What kind of fault a line like `5 at 7.5 s: Kill(8)` tells of.
fn kind_of(fault: &str) -> &str {
    let what = fault.split_once(": ").map_or(fault, |(_, what)| what);
    what.split(|sign: char| !sign.is_alphanumeric()).next().unwrap_or(what)
}

fn note(
    total: &mut Total,
    arguments: &Arguments,
    seed: u64,
    verdict: Option<&Verdict>,
    words: &str,
) {
    total.done += 1;
    let broken = verdict.is_none_or(|verdict| !verdict.broken.is_empty());
    if let Some(verdict) = verdict {
        let (simulated, computed) = total.times.entry(arguments.regions()).or_default();
        *simulated += verdict.simulated_ms;
        *computed += verdict.cpu_ms;
        total.acknowledged += verdict.acknowledged;
        for fault in &verdict.faults {
            *total.seen.entry(format!("fault: {}", kind_of(fault))).or_default() += 1;
        }
        let both = [(&mut total.seen, &verdict.seen), (&mut total.verbs, &verdict.verbs)];
        for (sum, of_seed) in both {
            for (what, count) in of_seed {
                *sum.entry(what.clone()).or_default() += count;
            }
        }
        if broken || !std::io::stdout().is_terminal() {
            println!("{}", line(arguments, verdict));
        } else {
            print!("\r{} ", bar(total.done, total.of));
            // A terminal that is gone does not matter.
            let _ = std::io::stdout().flush();
        }
        show(verdict);
    }
    if !words.is_empty() {
        println!("{words}");
    }
    if broken || !words.is_empty() {
        total.failed.push(seed);
        total.first_failed.get_or_insert_with(|| (arguments.clone(), seed));
        println!("{}", repeat(arguments, seed));
        println!("  make it smaller: the same with --shrink");
    }
}
