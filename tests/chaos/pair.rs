//! The life of a pair of regions: protected until live, faults under load, healing, the ending, and
//! the verdict on I1 to I11 and G1 to G6.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use zoneq::storage::disk::faulty::Dice;

use crate::cluster::{Cluster, PATIENCE, ZONES};
use crate::history::{Answer, Cluster as Site, Ending, Op, Outcome, REGIONS, SharedHistory, Verb};
use crate::invariants;
use crate::lineage::PairStory;
use crate::machine::{Machine, Means, needed};
use crate::prober::{Gap, Prober};
use crate::region_faults::{Came, Forced, RegionFault};
use crate::regions::{Regions, Task};
use crate::replayed::{Clocks, replay};
use crate::session::{Closing, IDLE, IDLE_TRIES, Plan, led, work};
use crate::{now, say};

/// How long clients that were told to stop may take.
const CALLS_END: Duration = Duration::from_secs(60);

/// What a pair is to go through.
pub struct PairPlan<'a> {
    pub seed: u64,
    pub rounds: &'a [&'static RegionFault],
    pub machine: &'a Machine,
    /// Where the logs of the nodes go when a promise is broken.
    pub logs: PathBuf,
}

/// A promotion by force with what it truly lost.
#[derive(Clone, Debug)]
pub struct Lost {
    pub forced: Forced,
    /// Messages of clients that the old primary had acknowledged, alone.
    pub truly: u64,
}

/// What came of it.
#[derive(Default)]
pub struct PairVerdict {
    pub history: SharedHistory,
    /// Of each round that was ended, with how long no client was acknowledged a write.
    pub done: Vec<(&'static RegionFault, Gap)>,
    /// Rounds that were not run, and why.
    pub not_run: Vec<(&'static RegionFault, String)>,
    pub forced: Vec<Lost>,
    /// Entries of both regions that were applied again.
    pub replayed: u64,
    pub broken: Vec<(String, String)>,
}

pub async fn run(plan: &PairPlan<'_>) -> PairVerdict {
    let mut verdict = PairVerdict::default();
    if let Err(why) = live(plan, &mut verdict).await {
        verdict.broken.push(("the run".to_owned(), why));
    }
    let judged = invariants::broken(&verdict.history.lock());
    verdict.broken.extend(judged.into_iter().map(|(name, case)| (name.to_owned(), case)));
    verdict
}

async fn live(plan: &PairPlan<'_>, verdict: &mut PairVerdict) -> Result<(), String> {
    let history = verdict.history.clone();
    let home = tempfile::tempdir().map_err(|error| error.to_string())?;
    let of_nodes = Plan { seed: plan.seed, rounds: &[], machine: plan.machine, lying: false };
    // A region in no pair is no place for clients.
    history.lock().pair.close(1);
    let means = needed(plan.rounds.iter().map(|fault| fault.means()));
    let mut regions = Regions::start(home.path(), &of_nodes, &means, &history).await?;
    let lived = hurt_and_heal(plan, &mut regions, verdict).await;
    let ended = match lived {
        Ok(ending) => ending,
        Err(words) => Ending { words, ..Ending::default() },
    };
    let is_whole = ended.paired && ended.steady;
    history.lock().ending = ended;
    [0, 1].into_iter().try_for_each(|region| regions.kill(region))?;
    for side in &mut regions.sides {
        side.remount().await?;
    }
    let moved = means.contains(&Means::Faketime);
    let clocks = if moved { Clocks::Moved } else { Clocks::True };
    verdict.replayed = replay_all(&regions, clocks, verdict)?;
    verdict.forced.iter_mut().for_each(|lost| lost.truly = truly_lost(&history, &lost.forced));
    if !is_whole {
        keep_logs(home.path(), plan)?;
    }
    Ok(())
}

/// From two clusters that stand alone to a pair that is whole, and was hurt.
async fn hurt_and_heal(
    plan: &PairPlan<'_>,
    regions: &mut Regions,
    verdict: &mut PairVerdict,
) -> Result<Ending, String> {
    let history = verdict.history.clone();
    regions.whole().await?;
    let watch = regions.watch(plan.seed);
    regions.run(Task::Act(0, Verb::Protect)).await?;
    if !regions.run(Task::Settle).await? {
        return Err(format!("the pair is not live: {}", regions.words().await));
    }
    let prober = Prober::start(&regions.addresses(), &history).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let load = work(plan.seed, regions.addresses(), history.clone(), Arc::clone(&stop));
    let mut dice = Dice::new(plan.seed ^ 0x7061_6972);
    let mut hurt = Ok(());
    for fault in plan.rounds {
        hurt = round(fault, regions, &prober, &mut dice, verdict).await;
        if hurt.is_err() {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let ended = timeout(CALLS_END, load).await;
    prober.end().await;
    let ending = match (hurt, ended) {
        (Err(words), _) => Err(words),
        (_, Err(_)) => Err("calls of clients did not end".to_owned()),
        (Ok(()), Ok(_)) => end(plan.seed, regions, &history).await,
    };
    watch.end().await;
    ending
}

/// One fault, from a pair that is whole to a pair that is whole.
async fn round(
    fault: &'static RegionFault,
    regions: &mut Regions,
    prober: &Prober,
    dice: &mut Dice,
    verdict: &mut PairVerdict,
) -> Result<(), String> {
    regions.pass(Duration::from_millis(200 + dice.below(800))).await?;
    let from = now();
    say(&verdict.history, fault.name);
    let came = fault.strike(regions, dice).await.map_err(|why| format!("{}: {why}", fault.name))?;
    say(&verdict.history, &format!("{} has ended: {came:?}", fault.name));
    let healed = now();
    let behind = |words: String| format!("behind {}: {words}", fault.name);
    regions.whole().await.map_err(behind)?;
    if !regions.run(Task::Settle).await? {
        return Err(behind(format!("the pair is not whole: {}", regions.words().await)));
    }
    let until = Instant::now() + PATIENCE;
    while !prober.all_go_on_since(healed) {
        if Instant::now() >= until {
            return Err(behind(format!("no write is acknowledged: {}", regions.words().await)));
        }
        regions.pass(Duration::from_millis(20)).await?;
    }
    match came {
        Came::NotRun(why) => {
            verdict.not_run.push((fault, why));
            return Ok(());
        }
        Came::Forced(forced) => verdict.forced.push(Lost { forced, truly: 0 }),
        Came::Done => {}
    }
    verdict.done.push((fault, prober.gap_since(from)));
    Ok(())
}

/// Converges, serves, drains, is equal on both sides, and stays as it is.
async fn end(seed: u64, regions: &mut Regions, history: &SharedHistory) -> Result<Ending, String> {
    say(history, "all faults have ended");
    converged(regions).await?;
    let mut closing = Closing::begin(seed, regions.addresses(), history.clone());
    while !closing.is_finished() {
        regions.pass(Duration::from_millis(50)).await?;
    }
    let mut ending = closing.told().await?;
    if ending.drained {
        ending.paired = regions.run(Task::Verify).await?;
        if let Err(words) = converged(regions).await {
            return Ok(Ending { converged: false, words, ..ending });
        }
        for _ in 0..IDLE_TRIES {
            let before = all_led(regions).await;
            regions.pass(IDLE).await?;
            ending.steady = all_led(regions).await == before;
            if ending.steady {
                break;
            }
        }
    }
    ending.words = regions.words().await;
    Ok(ending)
}

/// Both, one after the other: a primary at rest writes a pulse a second, which both have to apply.
async fn converged(regions: &mut Regions) -> Result<(), String> {
    for side in &mut regions.sides {
        side.converged().await?;
    }
    Ok(())
}

async fn all_led(regions: &Regions) -> [Vec<Option<(u64, u64)>>; 2] {
    [led(&regions.sides[0]).await, led(&regions.sides[1]).await]
}

/// Writes down what each cluster was, from the logs that their nodes left; how many entries.
fn replay_all(regions: &Regions, clocks: Clocks, verdict: &PairVerdict) -> Result<u64, String> {
    let history = &mut verdict.history.lock();
    let left = regions.left.iter().map(|left| (left.site, left.data.clone()));
    let data = |side: &Cluster| (1..=ZONES).map(|id| side.data(id)).collect();
    let generation = |region: usize| history.pair.generation(region);
    let last = [0, 1].map(|region| {
        let site = Site { region, generation: generation(region) };
        (site, data(&regions.sides[region]))
    });
    let mut entries = 0;
    for (site, nodes) in left.chain(last).collect::<Vec<(_, Vec<PathBuf>)>>() {
        let seen = regions.looks.of(site);
        // A node that was behind when it ended may lack the end.
        let tried = nodes.iter().map(|data| replay(history, site, data, &seen, clocks));
        let mut failed = "there is no log".to_owned();
        let done = tried.flat_map(|it| it.map_err(|why| failed = why).ok()).next();
        entries += done.ok_or(failed)?;
    }
    Ok(entries)
}

/// Messages of clients that this promotion left behind.
fn truly_lost(history: &SharedHistory, forced: &Forced) -> u64 {
    let history = history.lock();
    let pair = PairStory::of(&history);
    let found = pair.lineage.forced().find(|(_, next)| next.epoch == forced.epoch);
    let Some((old, next)) = found else { return 0 };
    let left = pair.writes_of(&old.epoch).filter(|(_, mark)| Some(mark.index) > next.previous);
    left.map(|(op, _)| sent(op)).sum()
}

fn sent(op: &Op) -> u64 {
    match &op.outcome {
        Outcome::Ok(Answer::Sent { messages, .. }) => {
            messages.iter().filter(|message| !message.duplicate).count() as u64
        }
        _ => 0,
    }
}

/// What the nodes said, where it outlives the run.
fn keep_logs(home: &std::path::Path, plan: &PairPlan<'_>) -> Result<(), String> {
    for region in REGIONS {
        for id in 1..=ZONES {
            let name = format!("chaos-{}-{region}-z{id}.log", plan.seed);
            let from = home.join(region).join(format!("z{id}.log"));
            std::fs::copy(&from, plan.logs.join(name))
                .map_err(|error| format!("{}: {error}", from.display()))?;
        }
    }
    Ok(())
}
