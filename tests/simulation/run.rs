//! One seed: chaos, healing, the ending, and the verdict.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::arguments::Arguments;
use crate::coverage::Counts;
use crate::doors::Front;
use crate::faults::Faults;
use crate::history::{DRAIN, Ending, History, Micros, SharedHistory};
use crate::invariants;
use crate::layout::{Layout, MEMBERS_OPERATOR, OPERATOR, region_of};
use crate::members;
use crate::network::{CLOCK, SimNetwork, Wires};
use crate::operating::{Working, operator};
use crate::operator::Wishes;
use crate::queues::ALL;
use crate::workload::{self, Worker};
use crate::world::{CLIENT_HOSTS, World};

const WORKERS_PER_HOST: u32 = 3;
/// Clients of the short queue beside them.
const SHORT_PER_HOST: u32 = 2;
/// How long the cluster has for each step of the ending.
const PATIENCE: Micros = 60_000_000;
/// How long nobody asks anything of it at the end.
const IDLE: Micros = 5_000_000;

/// What came of a seed.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub seed: u64,
    pub hash: u64,
    pub events: u64,
    pub calls: usize,
    pub acknowledged: usize,
    pub simulated_ms: u64,
    /// What its process used, filled in at its end.
    pub cpu_ms: u64,
    pub leaders: usize,
    pub broken: Vec<(String, String)>,
    /// The faults that began, each with its number and when it did.
    pub faults: Vec<String>,
    /// What the nodes said of themselves, counted.
    pub seen: Counts,
    /// Calls that were answered well, by verb.
    pub verbs: Counts,
}

/// What a run came to that a panic cut short: promises are judged as far as it went, but for the
/// ending, which it has none of. A panic of Raft is an assertion of its own invariants, and so of I11.
pub fn cut_short(seed: u64, history: &SharedHistory, why: String, is_of_raft: bool) -> Verdict {
    let none = History::default();
    let held = history.try_lock();
    let history = held.as_deref().unwrap_or(&none);
    let judged = invariants::broken(history).into_iter().filter(|(name, _)| *name != "I10");
    let mut broken: Vec<(String, String)> =
        judged.map(|(name, case)| (name.to_owned(), case)).collect();
    broken.push((if is_of_raft { "I11" } else { "a panic" }.to_owned(), why));
    verdict(seed, history, 0, broken)
}

/// Runs one seed as it is asked for and writes down what happens.
pub fn run(arguments: &Arguments, seed: u64, history: &SharedHistory) -> Verdict {
    let trace = arguments.trace.as_deref();
    if trace.is_some() {
        history.lock().keep_lines();
    }
    let layout = Layout::of(seed, arguments.regions());
    let layout = if arguments.schedule.is_some() { layout.without_spares() } else { layout };
    let front = Front::of(seed, &layout, arguments.schedule);
    let mut world = World::new(seed, layout, front, history.clone());
    let ran = stages(&mut world, seed, arguments);
    let mut broken: Vec<(String, String)> = Vec::new();
    if let Err(error) = ran {
        broken.push(("the run".to_owned(), error.to_string()));
    }
    let history = history.lock();
    if let Some(path) = trace
        && let Err(error) = std::fs::write(path, history.lines().join("\n"))
    {
        broken.push(("the trace".to_owned(), error.to_string()));
    }
    let cases = invariants::broken(&history).into_iter();
    broken.extend(cases.map(|(name, case)| (name.to_owned(), case)));
    verdict(seed, &history, world.now() / 1_000, broken)
}

fn verdict(
    seed: u64,
    history: &History,
    simulated_ms: u64,
    broken: Vec<(String, String)>,
) -> Verdict {
    let (hash, events) = history.hash();
    Verdict {
        seed,
        hash,
        events,
        calls: history.ops.len(),
        acknowledged: history.acknowledged(),
        simulated_ms,
        cpu_ms: 0,
        leaders: history.leaders.len(),
        broken,
        faults: history.faults.clone(),
        seen: Counts::new(),
        verbs: verbs(history),
    }
}

/// What was answered well: calls of clients, and what operators asked of two regions.
fn verbs(history: &History) -> Counts {
    let of_clients = history.verbs.iter().map(|(verb, count)| ((*verb).to_owned(), *count));
    let mut verbs: Counts = of_clients.collect();
    let pair = &history.pair;
    let mut add = |what: &str, count| *verbs.entry(what.to_owned()).or_default() += count;
    pair.acts.iter().filter(|it| it.outcome.is_ok()).for_each(|it| add(it.verb.name(), 1));
    for listed in &pair.listed {
        add("region tail list", 1);
        add("messages alive in listed tails", listed.alive.len() as u64);
        add("deletes in listed tails", listed.deleted.len() as u64);
        add("queues emptied in listed tails", listed.removed.len() as u64);
    }
    for replay in &pair.replays {
        let how = if replay.outcome.is_ok() { "region tail replay" } else { "broken off replays" };
        add(how, 1);
        add("messages sent again by replays", replay.sent);
        add("messages of tails not sent again", replay.skipped.len() as u64);
    }
    verbs.retain(|_, count| *count > 0);
    verbs
}

fn stages(world: &mut World, seed: u64, arguments: &Arguments) -> turmoil::Result {
    let stop = Arc::new(AtomicBool::new(false));
    let at_work = clients(world, seed, &stop);
    let operator = world.layout.is_pair().then(|| operate(world, seed, &stop));
    let changes = world.layout.has_spares().then(|| change_members(world, seed, &stop));
    let mut faults = Faults::new(seed, world.layout.clone(), arguments);
    let end = arguments.secs * 1_000_000;
    while world.now() < end {
        world.step()?;
        faults.turn(world);
        world.grant_wishes();
        if let Some(work) = &operator {
            work.grant(world);
        }
    }
    faults.heal(world);
    stop.store(true, Ordering::Relaxed);
    // A call that is under way must not come after the last look at its queue.
    let until = world.now() + PATIENCE;
    while at_work.load(Ordering::Relaxed) > 0 && world.now() < until {
        world.step()?;
        world.grant_wishes();
        if let Some(work) = &operator {
            work.grant(world);
        }
    }
    let paired = match &operator {
        Some(work) => work.until_whole(world)?,
        None => false,
    };
    if let Some(done) = &changes
        && !is_settled(world, done)?
    {
        let what = "faults have healed and the members are not those that are to be".to_owned();
        world.history.lock().unexpected_stops.push(what);
    }
    let mut ending = Ending { converged: converge(world)?, ..Ending::default() };
    if ending.converged && (paired || operator.is_none()) {
        ending = close(world, seed)?;
    }
    if !ending.drained {
        ending.words = words(world);
    }
    // Until all nodes have applied what the drain did.
    if ending.drained {
        ending.converged = converge(world)?;
        ending.steady = is_steady(world)?;
        ending.paired = paired && verify(world, seed)?;
        ending.words = words(world);
    }
    let mut history = world.history.lock();
    history.ending = ending;
    Ok(())
}

/// Starts the clients; answers how many hosts of them are at work.
fn clients(world: &mut World, seed: u64, stop: &Arc<AtomicBool>) -> Arc<AtomicUsize> {
    let at_work = Arc::new(AtomicUsize::new(CLIENT_HOSTS.len()));
    for (at, host) in (0..).zip(CLIENT_HOSTS) {
        let (wires, history, stop) = (world.wires.clone(), world.history.clone(), stop.clone());
        let (ends, layout) = (Arc::clone(&at_work), world.layout.clone());
        world.sim.client(host, async move {
            let network = SimNetwork { host: host.to_owned(), wires };
            let new = |n| Worker::new((n, seed), network.reached(&layout), CLOCK, history.clone());
            let mut first = new(at + 1);
            first.enter().await;
            for plan in ALL {
                first.create(plan.name).await;
            }
            let numbers = (1..WORKERS_PER_HOST).map(|worker| 10 * worker + at + 1);
            let working = numbers.map(new).chain([first]).map(|worker| worker.work(stop.clone()));
            let short = (0..SHORT_PER_HOST).map(|worker| new(10 * (worker + 4) + at + 1));
            let short = short.map(|worker| worker.work_shortly(stop.clone()));
            let (working, short) =
                (futures::future::join_all(working), futures::future::join_all(short));
            futures::future::join(working, short).await;
            ends.fetch_sub(1, Ordering::Relaxed);
            Ok(())
        });
    }
    at_work
}

/// An operator at work on a pair of regions.
struct Operation {
    wishes: Wishes,
    /// What it came to.
    end: Rc<RefCell<Option<bool>>>,
}

impl Operation {
    /// Does what it wished for, once no fault is in the way.
    fn grant(&self, world: &mut World) {
        if let Some(region) = self.wishes.next()
            && world.is_all_up(region)
        {
            world.begin_anew(region);
            self.wishes.done();
        }
    }

    /// Steps until the pair is whole; whether it is.
    fn until_whole(&self, world: &mut World) -> turmoil::Result<bool> {
        let until = world.now() + 3 * PATIENCE;
        while self.end.borrow().is_none() && world.now() < until {
            world.step()?;
            world.grant_wishes();
            self.grant(world);
        }
        Ok(self.end.borrow().unwrap_or(false))
    }
}

/// Starts the operator. Clients are kept away from the second region until it is protected.
fn operate(world: &mut World, seed: u64, stop: &Arc<AtomicBool>) -> Operation {
    world.history.lock().pair.close(1);
    let operation = Operation { wishes: Wishes::default(), end: Rc::default() };
    let (wishes, end) = (operation.wishes.clone(), Rc::clone(&operation.end));
    let (wires, layout, stop) = (world.wires.clone(), world.layout.clone(), Arc::clone(stop));
    let history = world.history.clone();
    world.sim.client(OPERATOR, async move {
        let network = SimNetwork { host: OPERATOR.to_owned(), wires };
        let operator = operator(seed, &layout, &network, history, wishes);
        *end.borrow_mut() = Some(Working::new(operator).work(stop).await);
        Ok(())
    });
    operation
}

/// Starts the operator who changes the membership; answers what that came to.
fn change_members(
    world: &mut World,
    seed: u64,
    stop: &Arc<AtomicBool>,
) -> Rc<RefCell<Option<bool>>> {
    let done: Rc<RefCell<Option<bool>>> = Rc::default();
    let end = Rc::clone(&done);
    let (wires, layout, stop) = (world.wires.clone(), world.layout.clone(), Arc::clone(stop));
    let (history, seats) = (world.history.clone(), world.seats.clone());
    let host = if world.layout.is_pair() { MEMBERS_OPERATOR } else { OPERATOR };
    world.sim.client(host, async move {
        let network = SimNetwork { host: host.to_owned(), wires };
        let operator = members::Operator::new(seed, &layout, &network, history, seats);
        *end.borrow_mut() = Some(operator.work(stop).await);
        Ok(())
    });
    done
}

/// Steps until the members are those that are to be; whether they are.
fn is_settled(world: &mut World, done: &Rc<RefCell<Option<bool>>>) -> turmoil::Result<bool> {
    let until = world.now() + 3 * PATIENCE;
    while done.borrow().is_none() && world.now() < until {
        world.step()?;
        world.grant_wishes();
    }
    Ok(done.borrow().unwrap_or(false))
}

/// Whether both regions hold the same at the very end.
fn verify(world: &mut World, seed: u64) -> turmoil::Result<bool> {
    let told: Rc<RefCell<Option<bool>>> = Rc::default();
    let end = Rc::clone(&told);
    let (layout, history) = (world.layout.clone(), world.history.clone());
    world.sim.client("auditor", async move {
        let network = SimNetwork { host: "auditor".to_owned(), wires: Wires::default() };
        let mut operator = operator(seed, &layout, &network, history, Wishes::default());
        *end.borrow_mut() = Some(operator.verify().await);
        Ok(())
    });
    let until = world.now() + PATIENCE;
    while told.borrow().is_none() && world.now() < until {
        world.step()?;
    }
    Ok(told.borrow().unwrap_or(false))
}

/// Steps until all nodes follow one leader and have applied the same position.
fn converge(world: &mut World) -> turmoil::Result<bool> {
    let until = world.now() + PATIENCE;
    while world.now() < until {
        for _ in 0..50 {
            world.step()?;
        }
        let statuses: Vec<_> = world
            .hosts
            .iter()
            .filter_map(|host| Some((region_of(host.id), host.status()?)))
            .collect();
        let one = |(region, first): &(usize, zoneq::consensus::group::Status)| {
            let of_region = statuses.iter().filter(|(of, _)| of == region);
            of_region.map(|(_, status)| status).all(|status| {
                status.leader.is_some()
                    && status.leader == first.leader
                    && status.applied == first.last_log
                    && status.digest == first.digest
            })
        };
        let seated = world.hosts.iter().filter(|host| world.seats.of(host.id).is_some());
        if statuses.len() == seated.count() && statuses.iter().all(one) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the nodes go on as they are while nobody asks anything of them.
fn is_steady(world: &mut World) -> turmoil::Result<bool> {
    let led = |world: &World| -> Vec<_> {
        let statuses = world.hosts.iter().map(|host| host.status());
        statuses.map(|status| status.map(|status| (status.term, status.leader))).collect()
    };
    let before = led(world);
    let until = world.now() + IDLE;
    while world.now() < until {
        world.step()?;
    }
    Ok(led(world) == before)
}

fn words(world: &World) -> String {
    let of = |host: &Arc<crate::world::Host>| match host.status() {
        Some(status) => format!(
            "host {}: leader {:?}, term {}, log {}, applied {}, digest {:032x}",
            host.id, status.leader, status.term, status.last_log, status.applied, status.digest.0
        ),
        None => format!("host {}: down", host.id),
    };
    world.hosts.iter().map(of).collect::<Vec<_>>().join("; ")
}

/// One more send, and then everything is received and deleted.
fn close(world: &mut World, seed: u64) -> turmoil::Result<Ending> {
    let ending = Arc::new(Mutex::new(Ending { converged: true, ..Ending::default() }));
    let told = Arc::clone(&ending);
    let history = world.history.clone();
    let layout = world.layout.clone();
    world.sim.client("closer", async move {
        let network = SimNetwork { host: "closer".to_owned(), wires: Wires::default() };
        let reached = network.reached(&layout);
        workload::close(Worker::new((DRAIN, seed), reached, CLOCK, history), &told).await;
        Ok(())
    });
    let now = || ending.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let until = world.now() + PATIENCE;
    while world.now() < until && !now().drained {
        world.step()?;
    }
    Ok(now())
}
