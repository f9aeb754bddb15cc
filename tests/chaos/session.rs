//! One cluster's life: faults under load, healing, the ending, and the verdict.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use zoneq::storage::disk::faulty::Dice;

use crate::cluster::{Address, Cluster, PATIENCE, Place};
use crate::faults::Fault;
use crate::history::{DRAIN, Ending, SharedHistory};
use crate::invariants;
use crate::machine::{Machine, needed};
use crate::prober::{Gap, Prober};
use crate::queues::ALL;
use crate::wires::Wires;
use crate::workload::{self, Worker};
use crate::{clock, now, say};

const WORKERS: u32 = 6;
/// Numbers of the clients of the short queue beside them.
const SHORT: std::ops::RangeInclusive<u32> = 41..=44;
/// How long the cluster must stay as it is at the end, asked nothing.
pub const IDLE: Duration = Duration::from_secs(2);
/// How often it may begin with that again: a machine that is busy with something else lets a
/// leader miss its time, and that is no fault of the cluster.
pub const IDLE_TRIES: u32 = 10;

/// What a session is to be.
pub struct Plan<'a> {
    pub seed: u64,
    pub rounds: &'a [&'static Fault],
    pub machine: &'a Machine,
    /// Disks say *synced* and do nothing.
    pub lying: bool,
}

/// What came of it.
#[derive(Default)]
pub struct Verdict {
    pub history: SharedHistory,
    /// Of each round that was ended.
    pub gaps: Vec<(&'static Fault, Gap)>,
    pub broken: Vec<(String, String)>,
}

pub async fn run(plan: &Plan<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    if let Err(why) = live(plan, &mut verdict).await {
        verdict.broken.push(("the run".to_owned(), why));
    }
    let judged = invariants::broken(&verdict.history.lock());
    verdict.broken.extend(judged.into_iter().map(|(name, case)| (name.to_owned(), case)));
    verdict
}

async fn live(plan: &Plan<'_>, verdict: &mut Verdict) -> Result<(), String> {
    let history = verdict.history.clone();
    let home = tempfile::tempdir().map_err(|error| error.to_string())?;
    let means = needed(plan.rounds.iter().map(|fault| fault.means()));
    let [wires] = Wires::of_regions(&means)?;
    let place = Place { wires, ..Place::default() };
    let mut cluster = Cluster::start(home.path(), &place, plan, &means, history.clone())?;
    cluster.whole(PATIENCE).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let prober = Prober::start(&cluster.addresses(), &history).await?;
    let load = work(plan.seed, cluster.addresses(), history.clone(), Arc::clone(&stop));
    let mut dice = Dice::new(plan.seed ^ 0x0063_6861_6f73);
    let mut hurt = Ok(());
    for fault in plan.rounds {
        hurt = round(fault, &mut cluster, &prober, &mut dice, verdict).await;
        if hurt.is_err() {
            break;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let ended = timeout(PATIENCE, load).await;
    prober.end().await;
    let mut ending = Ending::default();
    if let Err(words) = &hurt {
        ending.words.clone_from(words);
    } else if ended.is_err() {
        ending.words = "calls of clients did not end".to_owned();
    } else {
        ending = end(plan.seed, &mut cluster, &history).await?;
    }
    history.lock().ending = ending;
    Ok(())
}

/// One fault, from a whole cluster to a whole cluster.
async fn round(
    fault: &'static Fault,
    cluster: &mut Cluster,
    prober: &Prober,
    dice: &mut Dice,
    verdict: &mut Verdict,
) -> Result<(), String> {
    cluster.pass(Duration::from_millis(200 + dice.below(600))).await?;
    let victims = fault.victims(cluster, dice).await?;
    let from = now();
    say(&verdict.history, &format!("{} of {victims:?}", fault.name));
    fault.strike(cluster, &victims, dice).await?;
    say(&verdict.history, &format!("{} of {victims:?} has ended", fault.name));
    let healed = now();
    cluster.whole(PATIENCE).await.map_err(|words| format!("behind {}: {words}", fault.name))?;
    let until = Instant::now() + PATIENCE;
    while !prober.all_go_on_since(healed) {
        if Instant::now() >= until {
            let words = cluster.words().await;
            return Err(format!("behind {} no write is acknowledged: {words}", fault.name));
        }
        cluster.pass(Duration::from_millis(20)).await?;
    }
    verdict.gaps.push((fault, prober.gap_since(from)));
    Ok(())
}

/// The clients, on a thread of their own, as they share what they know.
pub fn work(
    seed: u64,
    addresses: Vec<Address>,
    history: SharedHistory,
    stop: Arc<AtomicBool>,
) -> JoinHandle<()> {
    tokio::task::spawn_blocking(move || {
        on_this_thread(async move {
            let new =
                |n| Worker::new((n, seed), Cluster::reached(&addresses), clock(), history.clone());
            let mut first = new(1);
            first.enter().await;
            for plan in ALL {
                first.create(plan.name).await;
            }
            let working =
                (2..=WORKERS).map(new).chain([first]).map(|worker| worker.work(stop.clone()));
            let short = SHORT.map(new).map(|worker| worker.work_shortly(stop.clone()));
            let (working, short) =
                (futures::future::join_all(working), futures::future::join_all(short));
            futures::future::join(working, short).await;
        })
    })
}

/// What clients know is not shared between threads.
fn on_this_thread(work: impl Future<Output = ()>) {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => eprintln!("chaos: no runtime for clients: {error}"),
    }
}

/// The last client, at work on a thread of its own.
pub struct Closing {
    told: Arc<Mutex<Ending>>,
    work: JoinHandle<()>,
}

impl Closing {
    /// Begins, of nodes that have converged.
    pub fn begin(seed: u64, addresses: Vec<Address>, history: SharedHistory) -> Closing {
        let told = Arc::new(Mutex::new(Ending { converged: true, ..Ending::default() }));
        let at = Arc::clone(&told);
        let work = tokio::task::spawn_blocking(move || {
            on_this_thread(async move {
                let reached = Cluster::reached(&addresses);
                let worker = Worker::new((DRAIN, seed), reached, clock(), history);
                // Beyond that it is told how far it came.
                let _ = timeout(PATIENCE, workload::close(worker, &at)).await;
            })
        });
        Closing { told, work }
    }

    pub fn is_finished(&self) -> bool {
        self.work.is_finished()
    }

    /// How far it came.
    pub async fn told(&mut self) -> Result<Ending, String> {
        (&mut self.work).await.map_err(|error| error.to_string())?;
        Ok(self.told.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// Converges, serves, drains, and stays as it is.
async fn end(seed: u64, cluster: &mut Cluster, history: &SharedHistory) -> Result<Ending, String> {
    say(history, "all faults have ended");
    if let Err(words) = cluster.converged().await {
        return Ok(Ending { words, ..Ending::default() });
    }
    let mut closing = Closing::begin(seed, cluster.addresses(), history.clone());
    while !closing.is_finished() {
        cluster.pass(Duration::from_millis(50)).await?;
    }
    let mut ending = closing.told().await?;
    if !ending.drained {
        ending.words = cluster.words().await;
        return Ok(ending);
    }
    if let Err(words) = cluster.converged().await {
        return Ok(Ending { converged: false, words, ..ending });
    }
    for _ in 0..IDLE_TRIES {
        let before = led(cluster).await;
        cluster.pass(IDLE).await?;
        ending.steady = led(cluster).await == before;
        if ending.steady {
            break;
        }
    }
    ending.words = cluster.words().await;
    Ok(ending)
}

/// Whom each node follows, in which term.
pub async fn led(cluster: &Cluster) -> Vec<Option<(u64, u64)>> {
    let statuses = cluster.statuses().await;
    statuses.iter().map(|it| it.as_ref().map(|it| (it.term, it.leader_id))).collect()
}
