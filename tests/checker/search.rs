//! A search for an order of the calls on one queue that explains every answer: whether a short
//! history is linearizable.
//!
//! The algorithm is that of Wing and Gong (1993): of the calls that may come next, those that
//! began before any other returned, each is tried in turn; what was tried is remembered (Lowe,
//! 2017) as the set of calls that are done and the state of the queue. The queue of the
//! specification is first in, first out; what is released stands behind all that is visible then;
//! only the receipt that was given last works.
//!
//! Laws: a call of unknown outcome acted once at some time after it began, or never. Where servers
//! said that a call stands in the log decides only what is tried first, and is never believed. Leases
//! and messages live longer than the history, so time does nothing. A search that takes too many
//! states decides nothing, and says so. Of a history that cannot be explained few calls are told
//! which cannot be either: its shortest beginning, and of that the calls of as few messages as will
//! do, each with all its calls, and the fewest reads.

use std::collections::{BTreeMap, BTreeSet, HashSet};

/// Calls in one history: a bit each.
pub const MOST: usize = 128;
/// States that are looked at for a verdict in each attempt, and for each try to tell fewer calls.
const STATES: usize = 100_000;
const STATES_OF_A_TRY: usize = 20_000;
/// When a call returned that did not.
pub const NEVER: u64 = u64::MAX;
/// The giver of a receipt that no call of the history gave.
pub const NOBODY: usize = usize::MAX;

/// What was called; a message is named by a number of its own. A receipt is named by the call that
/// gave it: a send, a receive or an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Send(u64),
    Receive,
    Delete {
        message: u64,
        given_by: usize,
    },
    /// It stays leased, under a new receipt.
    Update {
        message: u64,
        given_by: usize,
    },
    Release {
        message: u64,
        given_by: usize,
    },
    Get(u64),
    /// Shows all that is visible.
    Peek,
    Count,
    Clear,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// The message that was leased, if there was one.
    Received(Option<u64>),
    /// The receipt is not the newest.
    Mismatch,
    /// There is no such message.
    Missing,
    /// A message that was got is visible, or leased.
    Visible,
    Leased,
    /// The visible messages, in any order.
    Seen(BTreeSet<u64>),
    Counted {
        visible: u64,
        leased: u64,
    },
    /// How many were removed.
    Cleared(u64),
    Unknown,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// Its name, as receipts are given by it.
    pub number: usize,
    pub client: u32,
    pub invoked: u64,
    pub returned: u64,
    pub act: Act,
    pub answer: Answer,
    /// Where it is said to stand in the order.
    pub hint: Option<u64>,
    /// Of calls that stand at one place, which came first: by the number that its answer gave to a
    /// message or a receipt. 0 = it gave none.
    pub drawn: u64,
}

impl Op {
    fn is_unknown(&self) -> bool {
        self.answer == Answer::Unknown
    }

    /// Whether its answer says that it changed nothing.
    fn is_read(&self) -> bool {
        match self.act {
            Act::Get(_) | Act::Peek | Act::Count => true,
            _ => matches!(
                self.answer,
                Answer::Received(None) | Answer::Mismatch | Answer::Missing | Answer::Cleared(0)
            ),
        }
    }

    /// The one message that it touched; none where it touched many, or nobody knows.
    pub fn message(&self) -> Option<u64> {
        match (self.act, &self.answer) {
            (Act::Receive, Answer::Received(message)) => *message,
            (Act::Send(message) | Act::Get(message), _) => Some(message),
            (
                Act::Delete { message, .. }
                | Act::Update { message, .. }
                | Act::Release { message, .. },
                _,
            ) => Some(message),
            _ => None,
        }
    }

    fn given_by(&self) -> Option<usize> {
        match self.act {
            Act::Delete { given_by, .. }
            | Act::Update { given_by, .. }
            | Act::Release { given_by, .. } => Some(given_by),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// These calls, in the order in which they began, cannot be explained.
    Not(Vec<Op>),
    /// It was too much to search.
    Undecided,
}

/// Where a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Place {
    #[default]
    Unsent,
    Visible,
    Leased,
    Gone,
}

/// The queue of the specification. Messages and calls are named by their places in the puzzle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Queue {
    visible: Vec<u8>,
    /// Of each message where it is, and the call that gave the newest receipt.
    messages: Vec<(Place, u8)>,
}

impl Queue {
    fn put(&mut self, message: u8, place: Place, by: u8) {
        self.visible.retain(|other| *other != message);
        if place == Place::Visible {
            self.visible.push(message);
        }
        self.messages[usize::from(message)] = (place, by);
    }

    fn at(&self, message: u8) -> (Place, u8) {
        self.messages[usize::from(message)]
    }

    fn leased(&self) -> usize {
        self.messages.iter().filter(|(place, _)| *place == Place::Leased).count()
    }
}

/// A call as the puzzle names things.
#[derive(Clone, Copy, Debug)]
struct Named {
    message: Option<u8>,
    /// The call that gave the receipt it used.
    giver: Option<u8>,
}

/// What the history asks of one message.
#[derive(Clone, Debug, Default)]
struct Asked {
    /// Answered receives of it, and calls that may release it.
    receives: u128,
    releases: Vec<usize>,
    sends: u128,
    /// Answered calls that its receipts worked for.
    uses: Vec<usize>,
    /// Calls with the receipt that its send gave.
    by_sender: u128,
}

/// The calls of unknown outcome that came last, and the queue before them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Run {
    calls: Vec<u8>,
    before: Option<Queue>,
}

impl Run {
    fn with(&self, call: usize, queue: &Queue) -> Run {
        let mut calls = self.calls.clone();
        calls.push(call as u8);
        Run { calls, before: self.before.clone().or_else(|| Some(queue.clone())) }
    }
}

/// A history that is to be explained.
struct Puzzle<'a> {
    /// In the order in which they began.
    ops: Vec<&'a Op>,
    named: Vec<Named>,
    /// The order in which calls are tried.
    order: Vec<usize>,
    asked: Vec<Asked>,
    names: Vec<u64>,
    answered: u128,
    /// Receives of unknown outcome, and clears.
    takers: u128,
    clears: u128,
    seen: HashSet<(u128, Queue, Run)>,
    states: usize,
    /// How many answered calls are tried at each place.
    width: usize,
}

fn bit(at: usize) -> u128 {
    1 << at
}

impl<'a> Puzzle<'a> {
    fn new(ops: &'a [Op], states: usize, by_number: bool) -> Puzzle<'a> {
        let mut ops: Vec<&Op> = ops.iter().collect();
        ops.sort_by_key(|op| (op.invoked, op.returned, op.number));
        let names: BTreeSet<u64> = ops.iter().filter_map(|op| op.message()).collect();
        let names: Vec<u64> = names.into_iter().collect();
        let place = |number| ops.iter().position(|op| op.number == number).map(|at| at as u8);
        let named = ops.iter().map(|op| Named {
            message: op.message().and_then(|it| names.binary_search(&it).ok()).map(|at| at as u8),
            giver: op.given_by().and_then(place),
        });
        let named: Vec<Named> = named.collect();
        let all = |is: &dyn Fn(&Op) -> bool| {
            let some = ops.iter().enumerate().filter(|(_, op)| is(op));
            some.fold(0, |bits, (at, _)| bits | bit(at))
        };
        let answered = all(&|op| !op.is_unknown());
        let takers = all(&|op| op.act == Act::Receive && op.is_unknown());
        let clears = all(&|op| op.act == Act::Clear);
        let order = order(&ops, by_number);
        let asked = vec![Asked::default(); names.len()];
        let seen = HashSet::new();
        let mut puzzle = Puzzle {
            ops,
            named,
            order,
            asked,
            names,
            answered,
            takers,
            clears,
            seen,
            states,
            width: 1,
        };
        puzzle.ask();
        puzzle
    }

    /// Gathers what the history asks of each message.
    fn ask(&mut self) {
        for (at, (op, named)) in self.ops.iter().zip(&self.named).enumerate() {
            let Some(message) = named.message else { continue };
            let asked = &mut self.asked[usize::from(message)];
            match op.act {
                Act::Send(_) => asked.sends |= bit(at),
                Act::Receive => asked.receives |= bit(at),
                Act::Release { .. } if !op.is_read() => asked.releases.push(at),
                _ => {}
            }
            if named.giver.is_some() && op.answer == Answer::Done {
                asked.uses.push(at);
            }
            let giver = named.giver.map(|giver| self.ops[usize::from(giver)].act);
            if matches!(giver, Some(Act::Send(_))) && !op.is_read() {
                asked.by_sender |= bit(at);
            }
        }
    }

    /// Does a call; whether it may be answered so.
    fn run(&self, at: usize, queue: &mut Queue) -> bool {
        let (op, named, by) = (self.ops[at], self.named[at], at as u8);
        match (op.act, named.message) {
            (Act::Send(_), Some(message)) => {
                let is_new = queue.at(message).0 == Place::Unsent;
                if is_new {
                    queue.put(message, Place::Visible, by);
                }
                is_new
            }
            (Act::Receive, wanted) => {
                let first = queue.visible.first().copied();
                let fits = op.is_unknown() || first == wanted;
                if let Some(first) = first.filter(|_| fits) {
                    queue.put(first, Place::Leased, by);
                }
                fits
            }
            (Act::Delete { .. }, Some(message)) => {
                self.use_receipt(at, message, queue, Place::Gone)
            }
            (Act::Update { .. }, Some(message)) => {
                self.use_receipt(at, message, queue, Place::Leased)
            }
            (Act::Release { .. }, Some(message)) => {
                self.use_receipt(at, message, queue, Place::Visible)
            }
            (Act::Clear, _) => {
                let (mut removed, all) = (0, queue.messages.len());
                for message in (0..all).map(|at| at as u8) {
                    if matches!(queue.at(message).0, Place::Visible | Place::Leased) {
                        queue.put(message, Place::Gone, by);
                        removed += 1;
                    }
                }
                !matches!(op.answer, Answer::Cleared(told) if told != removed)
            }
            _ => op.is_unknown() || self.reads(op, named.message, queue),
        }
    }

    fn use_receipt(&self, at: usize, message: u8, queue: &mut Queue, to: Place) -> bool {
        let (op, (place, receipt)) = (self.ops[at], queue.at(message));
        let told = match place {
            Place::Unsent | Place::Gone => Answer::Missing,
            _ if self.named[at].giver != Some(receipt) => Answer::Mismatch,
            _ => Answer::Done,
        };
        let fits = op.is_unknown() || op.answer == told;
        if fits && told == Answer::Done {
            queue.put(message, to, at as u8);
        }
        fits
    }

    fn reads(&self, op: &Op, message: Option<u8>, queue: &Queue) -> bool {
        match (op.act, &op.answer) {
            (Act::Get(_), answer) => {
                let told = match message.map(|message| queue.at(message).0) {
                    Some(Place::Visible) => Answer::Visible,
                    Some(Place::Leased) => Answer::Leased,
                    _ => Answer::Missing,
                };
                *answer == told
            }
            (Act::Peek, Answer::Seen(seen)) => {
                let named = |message: &u8| self.names[usize::from(*message)];
                queue.visible.len() == seen.len()
                    && queue.visible.iter().all(|message| seen.contains(&named(message)))
            }
            (Act::Count, Answer::Counted { visible, leased }) => {
                (*visible, *leased) == (queue.visible.len() as u64, queue.leased() as u64)
            }
            _ => false,
        }
    }

    /// Whether there is an order from here that explains the rest; `None` = it was not found out.
    fn explore(&mut self, mut done: u128, queue: &Queue, mut run: Run) -> Option<bool> {
        // What changes nothing and is right here need not be tried at any other place.
        while let Some(at) = self.next_read(done, queue) {
            done |= bit(at);
            run = Run::default();
        }
        if done & self.answered == self.answered {
            return Some(true);
        }
        if self.is_dead(done, queue) || !self.seen.insert((done, queue.clone(), run.clone())) {
            return Some(false);
        }
        if self.seen.len() > self.states {
            return None;
        }
        for at in self.candidates(done, queue) {
            let mut after = queue.clone();
            let fits = self.run(at, &mut after);
            let is_unknown = self.ops[at].is_unknown();
            if !fits || (is_unknown && after == *queue) {
                continue;
            }
            let next = if is_unknown {
                run.with(at, queue)
            } else if self.may_wait(&run, at, &after) {
                continue;
            } else {
                Run::default()
            };
            let found = self.explore(done | bit(at), &after, next);
            if found != Some(false) {
                return found;
            }
        }
        Some(false)
    }

    /// Whether one of the calls of unknown outcome that came last might as well come behind the
    /// next call. It is tried there.
    fn may_wait(&self, run: &Run, next: usize, after: &Queue) -> bool {
        let Some(before) = &run.before else { return false };
        run.calls.iter().any(|waits| {
            let mut queue = before.clone();
            let others = run.calls.iter().filter(|call| *call != waits);
            let mut order = others.copied().chain([next as u8, *waits]);
            order.all(|call| self.run(usize::from(call), &mut queue)) && queue == *after
        })
    }

    /// Calls that are not done and began before any other returned.
    fn open(&self, done: u128) -> impl Iterator<Item = usize> + '_ {
        let waits = move |at: &usize| done & bit(*at) == 0;
        let waiting = (0..self.ops.len()).filter(waits);
        let first = waiting.map(|at| self.ops[at].returned).min().unwrap_or(NEVER);
        let may_come = move |at: &usize| self.ops[*at].invoked <= first;
        self.order.iter().copied().filter(waits).filter(may_come)
    }

    fn next_read(&self, done: u128, queue: &Queue) -> Option<usize> {
        let mut same = queue.clone();
        self.open(done).find(|at| {
            let op = self.ops[*at];
            op.is_read() && !op.is_unknown() && self.run(*at, &mut same)
        })
    }

    /// The calls that may come next, those first that are the likeliest.
    fn candidates(&self, done: u128, queue: &Queue) -> Vec<usize> {
        let mut order: Vec<usize> = Vec::new();
        let (mut is_received, mut is_sent, mut answered, mut last) = (false, false, 0, None);
        for at in self.open(done) {
            let op = self.ops[at];
            // Of calls that do the same one is as good as another.
            let is_twin = match op.act {
                _ if !op.is_unknown() => {
                    // Commands of one entry stand at one place.
                    answered += usize::from(last.is_none() || op.hint.is_none() || op.hint != last);
                    last = op.hint;
                    answered > self.width
                }
                Act::Receive => std::mem::replace(&mut is_received, true),
                Act::Send(_) if self.is_ghost(at) => std::mem::replace(&mut is_sent, true),
                _ => false,
            };
            if !is_twin {
                order.push(at);
            }
        }
        let next = order.iter().copied().find(|at| !self.ops[*at].is_unknown());
        if let Some(next) = next
            && !self.run(next, &mut queue.clone())
        {
            order.sort_by_key(|at| !self.may_help(*at, next));
        }
        order
    }

    /// A send of unknown outcome whose message no other call names.
    fn is_ghost(&self, at: usize) -> bool {
        let message = self.named[at].message;
        let seen = |op: &&Op| match &op.answer {
            Answer::Seen(seen) => {
                message.is_some_and(|m| seen.contains(&self.names[usize::from(m)]))
            }
            _ => false,
        };
        self.named.iter().filter(|other| other.message == message).count() == 1
            && !self.ops.iter().any(seen)
    }

    /// Whether a call of unknown outcome may be what another one needs before it.
    fn may_help(&self, at: usize, next: usize) -> bool {
        let (op, other) = (self.ops[at], self.ops[next]);
        let same =
            self.named[at].message.is_some() && self.named[at].message == self.named[next].message;
        op.is_unknown() && (same || op.act == Act::Receive || other.message().is_none())
    }

    /// Whether something that was answered cannot come to be from here.
    fn is_dead(&self, done: u128, queue: &Queue) -> bool {
        if self.is_blocked(done, queue) {
            return true;
        }
        let waits = |at: usize| done & bit(at) == 0;
        self.asked.iter().zip(&queue.messages).any(|(asked, (place, receipt))| {
            let is_void = |at: &usize| match self.named[*at].giver {
                Some(giver) => !waits(usize::from(giver)) && giver != *receipt,
                None => true,
            };
            if asked.uses.iter().any(|at| waits(*at) && is_void(at)) {
                return true;
            }
            asked.receives & !done != 0
                && match place {
                    Place::Visible => false,
                    Place::Gone => true,
                    Place::Unsent => asked.sends & !done == 0,
                    Place::Leased => !asked.releases.iter().any(|at| {
                        let giver = self.named[*at].giver.map(usize::from);
                        let is_update = |giver: usize| {
                            matches!(self.ops[giver].act, Act::Update { .. }) && waits(giver)
                        };
                        waits(*at)
                            && giver.is_some_and(|it| it == usize::from(*receipt) || is_update(it))
                    }),
                }
        })
    }
}

impl Puzzle<'_> {
    /// When the next of these calls that wait begins at the earliest, and has acted at the latest.
    fn span(&self, calls: u128) -> Option<(u64, u64)> {
        let mut span = None;
        let mut left = calls;
        while left != 0 {
            let op = self.ops[left.trailing_zeros() as usize];
            let (from, to) = span.unwrap_or((NEVER, NEVER));
            span = Some((op.invoked.min(from), op.returned.min(to)));
            left &= left - 1;
        }
        span
    }

    /// Whether something stands before a message that must be received first: another that is
    /// received later, or more that nobody is given than were taken away by who was not answered.
    fn is_blocked(&self, done: u128, queue: &Queue) -> bool {
        // What is not visible yet comes behind all that is; a clear may come in between.
        let cleared = self.span(self.clears & !done).map_or(NEVER, |(from, _)| from);
        let (mut first, mut is_asked) = (NEVER, false);
        for (asked, (place, _)) in self.asked.iter().zip(&queue.messages) {
            if *place != Place::Visible
                && let Some((_, to)) = self.span(asked.receives & !done)
            {
                first = first.min(to);
                is_asked |= to < cleared;
            }
        }
        let mut others = 0;
        for message in queue.visible.iter().rev() {
            let asked = &self.asked[usize::from(*message)];
            // Who has the receipt of its send may take a message from anywhere.
            if asked.by_sender & !done != 0 {
                continue;
            }
            match self.span(asked.receives & !done) {
                Some((from, _)) if from > first => return true,
                Some((_, to)) => (first, is_asked) = (first.min(to), true),
                None => others += u32::from(is_asked),
            }
        }
        others > (self.takers & !done).count_ones()
    }
}

/// The order in which calls are tried: as they are said to stand, and else as they returned; calls
/// of unknown outcome of which nothing is said come last.
fn order(ops: &[&Op], by_number: bool) -> Vec<usize> {
    let told = |by: u64| {
        let returned = ops.iter().filter(|op| op.returned <= by);
        returned.filter_map(|op| op.hint).max().unwrap_or(0)
    };
    let key = |at: &usize| {
        let op = ops[*at];
        let hint = match op.hint {
            None if op.is_unknown() => u64::MAX,
            hint => hint.unwrap_or_else(|| told(op.returned)),
        };
        let drawn = if by_number { op.drawn } else { 0 };
        (hint, drawn, op.is_read(), op.returned, *at)
    };
    let mut order: Vec<usize> = (0..ops.len()).collect();
    order.sort_by_cached_key(key);
    order
}

/// How many answered calls are tried at each place, and whether of calls at one place that comes
/// first which was given the lower number. Only the last finds out that there is no order.
const ATTEMPTS: [(usize, bool); 5] = [(1, false), (1, true), (2, false), (2, true), (MOST, false)];

/// Whether there is an order that explains all; `None` = it was not found out. At first only orders
/// are tried that are near to what the servers said.
fn is_explained(ops: &[Op], states: usize) -> Option<bool> {
    let mut found = None;
    for (width, by_number) in ATTEMPTS {
        let mut puzzle = Puzzle::new(ops, states, by_number);
        puzzle.width = width;
        let messages = vec![(Place::Unsent, 0); puzzle.names.len()];
        let empty = Queue { visible: Vec::new(), messages };
        found = puzzle.explore(0, &empty, Run::default());
        if found == Some(true) {
            break;
        }
    }
    found
}

/// The history up to a moment: what had not returned by then is unknown.
pub fn until(ops: &[Op], moment: u64) -> Vec<Op> {
    let begun = ops.iter().filter(|op| op.invoked <= moment);
    let seen = begun.map(|op| match op.returned <= moment {
        true => op.clone(),
        false => Op { returned: NEVER, answer: Answer::Unknown, ..op.clone() },
    });
    seen.filter(matters).collect()
}

/// A read that was not answered says nothing.
fn matters(op: &Op) -> bool {
    !(op.is_unknown() && matches!(op.act, Act::Get(_) | Act::Peek | Act::Count))
}

/// The history of some of the messages only. An order of all calls explains it too.
fn of_messages(ops: &[Op], messages: &BTreeSet<u64>) -> Vec<Op> {
    let told = ops.iter().filter_map(|op| {
        let is_one = match (op.act, &op.answer) {
            (Act::Count, _) => false,
            (Act::Peek | Act::Clear, _) => true,
            (Act::Receive, Answer::Unknown | Answer::Received(None)) => true,
            _ => op.message().is_some_and(|message| messages.contains(&message)),
        };
        let mut op = is_one.then(|| op.clone())?;
        match &mut op.answer {
            Answer::Seen(seen) => seen.retain(|message| messages.contains(message)),
            // Nobody knows how many of these there were.
            answer @ Answer::Cleared(1..) => *answer = Answer::Done,
            _ => {}
        }
        Some(op)
    });
    told.collect()
}

fn is_wrong(ops: &[Op]) -> bool {
    is_explained(ops, STATES_OF_A_TRY) == Some(false)
}

/// The shortest beginning that cannot be explained, without calls that began behind its end.
fn beginning(ops: &[Op]) -> Vec<Op> {
    let mut moments: Vec<u64> =
        ops.iter().map(|op| op.returned).filter(|at| *at != NEVER).collect();
    moments.sort_unstable();
    // What a beginning does not explain no longer one does.
    let first = moments.partition_point(|at| !is_wrong(&until(ops, *at)));
    let shorter = moments.get(first).map(|at| until(ops, *at));
    shorter.filter(|ops| is_wrong(ops)).unwrap_or_else(|| ops.to_vec())
}

/// The calls of as few messages as cannot be explained: of one, of two, or as many as are left
/// when each was left out in turn.
fn few_messages(ops: &[Op]) -> Option<Vec<Op>> {
    let all: BTreeSet<u64> = ops.iter().filter_map(Op::message).collect();
    let wrong = |messages: &BTreeSet<u64>| {
        let some = of_messages(ops, messages);
        is_wrong(&some).then_some(some)
    };
    let single = all.iter().filter_map(|one| wrong(&BTreeSet::from([*one])));
    let fewest = single.min_by_key(Vec::len);
    if fewest.is_some() {
        return fewest;
    }
    let pairs = all.iter().flat_map(|one| all.range(one + 1..).map(|two| [*one, *two]));
    let fewest = pairs.filter_map(|pair| wrong(&BTreeSet::from(pair))).min_by_key(Vec::len);
    if fewest.is_some() {
        return fewest;
    }
    let mut left = wrong(&all)?;
    let mut messages = all.clone();
    for message in all {
        let mut fewer = messages.clone();
        fewer.remove(&message);
        if let Some(some) = wrong(&fewer) {
            (left, messages) = (some, fewer);
        }
    }
    Some(left)
}

/// As few calls as cannot be explained. What is left out is what an order of all calls explains as
/// well without it: the end of the history, reads, and messages with all their calls.
fn shrunk(ops: &[Op]) -> Vec<Op> {
    let mut left = beginning(ops);
    if let Some(fewer) = few_messages(&left) {
        left = beginning(&fewer);
    }
    let mut at = 0;
    while at < left.len() {
        let mut fewer = left.clone();
        let op = fewer.remove(at);
        if op.is_read() && is_wrong(&fewer) {
            left = fewer;
        } else {
            at += 1;
        }
    }
    left.sort_by_key(|op| (op.invoked, op.number));
    left
}

/// Judges a history; of a longer one the beginning of [`MOST`] calls.
pub fn search(ops: &[Op]) -> Verdict {
    let ops: Vec<Op> = ops.iter().filter(|op| matters(op)).cloned().collect();
    let mut begun: Vec<u64> = ops.iter().map(|op| op.invoked).collect();
    begun.sort_unstable();
    let ops = match begun.get(MOST) {
        Some(next) => until(&ops, next.saturating_sub(1)),
        None => ops,
    };
    match is_explained(&ops, STATES) {
        Some(true) => Verdict::Linearizable,
        Some(false) => Verdict::Not(shrunk(&ops)),
        // A few of its messages may be enough to refuse it.
        None => match few_messages(&ops) {
            Some(some) => Verdict::Not(shrunk(&some)),
            None => Verdict::Undecided,
        },
    }
}

/// The calls in words, a line each.
pub fn in_words(ops: &[Op]) -> Vec<String> {
    let givers: BTreeMap<usize, u32> = ops.iter().map(|op| (op.number, op.client)).collect();
    let receipt = |given_by: usize| match givers.get(&given_by) {
        Some(client) => format!("with the receipt that call {given_by} gave to client {client}"),
        None => "with a receipt from elsewhere".to_owned(),
    };
    let line = |op: &Op| {
        let what = match op.act {
            Act::Send(message) => format!("sends message {message}"),
            Act::Receive => "receives".to_owned(),
            Act::Delete { message, given_by } => format!("deletes {message} {}", receipt(given_by)),
            Act::Update { message, given_by } => format!("updates {message} {}", receipt(given_by)),
            Act::Release { message, given_by } => {
                format!("releases {message} {}", receipt(given_by))
            }
            Act::Get(message) => format!("gets {message}"),
            Act::Peek => "peeks at what is visible".to_owned(),
            Act::Count => "counts".to_owned(),
            Act::Clear => "clears the queue".to_owned(),
        };
        let told = match &op.answer {
            Answer::Done => "it is done".to_owned(),
            Answer::Received(Some(message)) => format!("it is given {message}"),
            Answer::Received(None) => "nothing is visible".to_owned(),
            Answer::Mismatch => "the receipt is not the newest".to_owned(),
            Answer::Missing => "there is no such message".to_owned(),
            Answer::Visible => "it is visible".to_owned(),
            Answer::Leased => "it is leased".to_owned(),
            Answer::Seen(seen) => format!("it sees {seen:?}"),
            Answer::Counted { visible, leased } => format!("{visible} visible, {leased} leased"),
            Answer::Cleared(removed) => format!("{removed} are removed"),
            Answer::Unknown => "nobody knows what became of it".to_owned(),
        };
        let (number, client, from) = (op.number, op.client, op.invoked);
        match op.returned {
            NEVER => format!("call {number} of client {client}, from {from}: {what}; {told}"),
            to => format!("call {number} of client {client}, {from} to {to}: {what}; {told}"),
        }
    };
    ops.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls one after the other, each of ten moments, unless they are moved.
    #[derive(Default)]
    struct Told(Vec<Op>);

    impl Told {
        fn call(&mut self, act: Act, answer: Answer) -> usize {
            let number = self.0.len();
            let invoked = number as u64 * 10;
            let returned = if answer == Answer::Unknown { NEVER } else { invoked + 5 };
            self.0.push(Op {
                number,
                client: 1,
                invoked,
                returned,
                act,
                answer,
                hint: None,
                drawn: 0,
            });
            number
        }

        fn sent(&mut self, message: u64) -> usize {
            self.call(Act::Send(message), Answer::Done)
        }

        fn received(&mut self, message: u64) -> usize {
            self.call(Act::Receive, Answer::Received(Some(message)))
        }

        fn nothing(&mut self) -> usize {
            self.call(Act::Receive, Answer::Received(None))
        }

        fn deleted(&mut self, message: u64, given_by: usize) -> usize {
            self.call(Act::Delete { message, given_by }, Answer::Done)
        }

        fn released(&mut self, message: u64, given_by: usize) -> usize {
            self.call(Act::Release { message, given_by }, Answer::Done)
        }

        /// Two calls are made to overlap.
        fn together(&mut self, first: usize, second: usize) {
            self.0[first].returned = self.0[second].returned;
        }

        #[track_caller]
        fn is_right(&self) {
            assert_eq!(search(&self.0), Verdict::Linearizable, "{:#?}", in_words(&self.0));
        }

        /// It is refused, and of it these calls are told.
        #[track_caller]
        fn is_refused(&self, told: &[usize]) {
            let Verdict::Not(ops) = search(&self.0) else { panic!("{:#?}", in_words(&self.0)) };
            let numbers: Vec<usize> = ops.iter().map(|op| op.number).collect();
            assert_eq!(numbers, told, "{:#?}", in_words(&ops));
        }
    }

    #[test]
    fn one_after_the_other_is_first_in_first_out() {
        let mut told = Told::default();
        told.sent(1);
        told.sent(2);
        told.received(1);
        told.received(2);
        told.nothing();
        told.is_right();
    }

    #[test]
    fn a_message_given_before_one_that_stands_before_it_is_found() {
        let mut told = Told::default();
        let (first, _) = (told.sent(1), told.sent(9));
        let second = told.sent(2);
        let taken = told.received(9);
        told.received(1);
        told.is_refused(&[first, 1, taken]);
        // Of three the two that are out of order are told.
        let mut told = Told::default();
        told.sent(9);
        told.received(9);
        let (first, second) = (told.sent(1), second + told.sent(2) - second);
        let early = told.received(2);
        told.received(1);
        told.is_refused(&[first, second, early]);
    }

    #[test]
    fn what_overlaps_may_come_in_either_order() {
        for (first, second) in [(1, 2), (2, 1)] {
            let mut told = Told::default();
            let (one, two) = (told.sent(1), told.sent(2));
            told.together(one, two);
            told.received(first);
            told.received(second);
            told.is_right();
        }
    }

    #[test]
    fn a_message_that_is_leased_twice_is_found() {
        let mut told = Told::default();
        told.sent(7);
        let sent = told.sent(1);
        told.received(7);
        let (first, second) = (told.received(1), told.received(1));
        told.is_refused(&[sent, first, second]);
    }

    #[test]
    fn a_lost_send_and_an_empty_answer_from_an_old_state_are_found() {
        let mut told = Told::default();
        let sent = told.sent(1);
        told.sent(2);
        let nothing = told.nothing();
        told.received(1);
        told.is_refused(&[sent, nothing]);
        let mut told = Told::default();
        let sent = told.sent(1);
        let count = told.call(Act::Count, Answer::Counted { visible: 0, leased: 0 });
        told.is_refused(&[sent, count]);
    }

    #[test]
    fn a_message_that_comes_back_is_found() {
        let mut told = Told::default();
        let sent = told.sent(1);
        let given = told.received(1);
        let deleted = told.deleted(1, given);
        let back = told.received(1);
        told.is_refused(&[sent, given, deleted, back]);
        let mut told = Told::default();
        let sent = told.sent(1);
        let cleared = told.call(Act::Clear, Answer::Cleared(1));
        let back = told.call(Act::Get(1), Answer::Visible);
        told.is_refused(&[sent, cleared, back]);
    }

    #[test]
    fn only_the_receipt_that_was_given_last_works() {
        let old = |answer: Answer| {
            let mut told = Told::default();
            told.sent(1);
            let first = told.received(1);
            let update = told.call(Act::Update { message: 1, given_by: first }, Answer::Done);
            told.call(Act::Delete { message: 1, given_by: first }, answer);
            told.deleted(1, update);
            told.call(Act::Delete { message: 1, given_by: update }, Answer::Missing);
            told
        };
        old(Answer::Mismatch).is_right();
        old(Answer::Done).is_refused(&[0, 1, 2, 3]);
        old(Answer::Missing).is_refused(&[0, 1, 2, 3]);
    }

    #[test]
    fn the_receipt_of_a_send_works_until_the_message_is_given_out() {
        let mut told = Told::default();
        let (first, second) = (told.sent(1), told.sent(2));
        told.deleted(1, first);
        told.received(2);
        told.call(Act::Delete { message: 2, given_by: second }, Answer::Mismatch);
        told.nothing();
        told.is_right();
    }

    #[test]
    fn what_is_released_is_behind_what_is_visible() {
        let begun = || {
            let mut told = Told::default();
            told.sent(1);
            told.sent(2);
            let given = told.received(1);
            told.released(1, given);
            told
        };
        let mut right = begun();
        right.received(2);
        right.received(1);
        right.is_right();
        let mut wrong = begun();
        wrong.received(1);
        wrong.is_refused(&[0, 1, 2, 3, 4]);
    }

    #[test]
    fn reads_show_what_is_there() {
        let mut told = Told::default();
        told.sent(1);
        told.sent(2);
        let given = told.received(1);
        told.call(Act::Peek, Answer::Seen(BTreeSet::from([2])));
        told.call(Act::Count, Answer::Counted { visible: 1, leased: 1 });
        told.call(Act::Get(1), Answer::Leased);
        told.call(Act::Get(2), Answer::Visible);
        told.call(Act::Get(3), Answer::Missing);
        told.deleted(1, given);
        told.call(Act::Clear, Answer::Cleared(1));
        told.is_right();
        told.0[3].answer = Answer::Seen(BTreeSet::from([1, 2]));
        told.is_refused(&[0, 2, 3]);
    }

    #[test]
    fn an_unknown_send_may_show_up_later_or_never_but_not_twice() {
        let begun = || {
            let mut told = Told::default();
            told.call(Act::Send(1), Answer::Unknown);
            told.nothing();
            told
        };
        begun().is_right();
        let mut later = begun();
        later.received(1);
        later.nothing();
        later.is_right();
        let mut twice = begun();
        twice.received(1);
        twice.received(1);
        twice.is_refused(&[0, 2, 3]);
    }

    #[test]
    fn an_unknown_call_does_nothing_before_it_began() {
        let mut told = Told::default();
        let early = told.received(1);
        told.call(Act::Send(1), Answer::Unknown);
        told.is_refused(&[early]);
    }

    #[test]
    fn an_unknown_receive_may_have_taken_the_first_and_an_unknown_release_brought_it_back() {
        let mut told = Told::default();
        told.sent(1);
        told.sent(2);
        told.call(Act::Receive, Answer::Unknown);
        let given = told.received(2);
        told.nothing();
        told.call(Act::Release { message: 2, given_by: given }, Answer::Unknown);
        told.received(2);
        told.is_right();
        // It took one at most.
        told.sent(3);
        told.sent(4);
        told.received(4);
        assert!(matches!(search(&told.0), Verdict::Not(_)));
    }

    #[test]
    fn what_servers_say_of_the_order_is_not_believed() {
        let mut told = Told::default();
        let (first, second) = (told.sent(1), told.sent(2));
        told.received(1);
        told.received(2);
        (told.0[first].hint, told.0[second].hint) = (Some(9), Some(3));
        told.is_right();
        told.0[2].answer = Answer::Received(Some(2));
        told.0[3].answer = Answer::Received(Some(1));
        told.is_refused(&[0, 1, 2]);
    }

    #[test]
    fn more_calls_than_there_are_bits_are_judged_as_far_as_they_go() {
        let mut told = Told::default();
        let last = MOST as u64 - 1;
        (0..last).for_each(|message| _ = told.sent(message));
        told.call(Act::Count, Answer::Counted { visible: last, leased: 0 });
        told.received(5);
        told.is_right();
        told.0[MOST - 1].answer = Answer::Counted { visible: last - 1, leased: 0 };
        assert!(matches!(search(&told.0), Verdict::Not(_)));
    }

    /// Chance that repeats itself.
    struct Chance(u64);

    impl Chance {
        fn below(&mut self, many: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 33) % many
        }
    }

    /// What one client of a made-up history holds: messages, each with who gave the receipt.
    type Held = Vec<(u64, usize)>;

    /// What a queue that makes no mistake answers to a call.
    fn right(act: Act, number: usize, queue: &mut Vec<u64>, leases: &mut Held) -> Answer {
        match act {
            Act::Send(message) => queue.push(message),
            Act::Receive => {
                let first = (!queue.is_empty()).then(|| queue.remove(0));
                leases.extend(first.map(|message| (message, number)));
                return Answer::Received(first);
            }
            Act::Count => {
                let (visible, leased) = (queue.len() as u64, leases.len() as u64);
                return Answer::Counted { visible, leased };
            }
            Act::Delete { message, given_by } | Act::Release { message, given_by } => {
                leases.retain(|lease| *lease != (message, given_by));
                if matches!(act, Act::Release { .. }) {
                    queue.push(message);
                }
            }
            _ => {}
        }
        Answer::Done
    }

    /// Calls of four clients at once, each answered rightly or, one in `lost`, not at all.
    fn made_up(seed: u64, calls: usize, lost: u64) -> Vec<Op> {
        let mut chance = Chance(seed);
        // When each client's calls begin, act and end.
        let mut moments = Vec::new();
        for client in 0..4 {
            let mut at = chance.below(20);
            for _ in 0..calls / 4 {
                let (invoked, acted) = (at, at + 1 + chance.below(40));
                let returned = acted + chance.below(40);
                moments.push((acted, client, invoked, returned));
                at = returned + 1 + chance.below(10);
            }
        }
        moments.sort_unstable();
        let (mut queue, mut leases) = (Vec::new(), Vec::new());
        let mut held: Vec<Held> = vec![Vec::new(); 4];
        let (mut ops, mut acts) = (Vec::new(), Vec::new());
        for (number, (acted, client, invoked, returned)) in moments.into_iter().enumerate() {
            let holds = &mut held[client];
            let act = match chance.below(10) {
                0..4 => Act::Send(number as u64),
                7 if !holds.is_empty() => {
                    let (message, given_by) = holds.remove(0);
                    Act::Release { message, given_by }
                }
                8 if !holds.is_empty() => {
                    let (message, given_by) = holds.remove(0);
                    Act::Delete { message, given_by }
                }
                9 => Act::Count,
                _ => Act::Receive,
            };
            let is_lost = chance.below(lost) == 0;
            let mut op = Op {
                number,
                client: client as u32,
                invoked,
                returned,
                act,
                answer: Answer::Unknown,
                hint: Some(acted),
                drawn: 0,
            };
            if !is_lost || chance.below(2) == 0 {
                op.answer = right(act, number, &mut queue, &mut leases);
            }
            acts.push((op.answer == Answer::Done).then_some(acted));
            if is_lost {
                (op.answer, op.returned, op.hint) = (Answer::Unknown, NEVER, None);
            } else if let Answer::Received(Some(message)) = op.answer {
                holds.push((message, number));
            }
            ops.push(op);
        }
        // Of a send whose message was seen it is known when it was.
        let seen: Vec<Option<u64>> = ops.iter().map(Op::message).collect();
        for (number, op) in ops.iter_mut().enumerate().filter(|(_, op)| op.is_unknown()) {
            let is_seen = seen
                .iter()
                .enumerate()
                .any(|(at, message)| at != number && *message == Some(number as u64));
            op.hint = acts[number].filter(|_| is_seen);
        }
        ops
    }

    #[test]
    fn sixty_calls_that_are_answered_rightly_are_explained_almost_without_a_wrong_turn() {
        for seed in 0..200 {
            let ops = made_up(seed, 60, u64::MAX);
            assert_eq!(is_explained(&ops, 200), Some(true), "seed {seed}");
        }
    }

    #[test]
    fn many_calls_are_explained_though_answers_are_lost() {
        for seed in 0..100 {
            let ops = made_up(seed, 80, 8);
            assert_eq!(search(&ops), Verdict::Linearizable, "seed {seed}");
            let mut ops = made_up(seed, 40, 8);
            ops.iter_mut().for_each(|op| op.hint = None);
            assert_eq!(search(&ops), Verdict::Linearizable, "seed {seed}, without positions");
        }
    }

    #[test]
    fn of_sixty_calls_with_one_wrong_answer_a_few_are_told() {
        for seed in 0..100 {
            let mut ops = made_up(seed, 60, u64::MAX);
            let given = |op: &&Op| matches!(op.answer, Answer::Received(Some(_)));
            let all: Vec<Op> = ops.iter().filter(given).cloned().collect();
            let [first, .., last] = &all[..] else { panic!("seed {seed} has no receives") };
            if ops.iter().any(|op| op.message() == first.message() && op.given_by().is_some()) {
                continue;
            }
            ops[last.number].answer = first.answer.clone();
            let Verdict::Not(told) = search(&ops) else { panic!("seed {seed}") };
            assert!(told.len() <= 4, "seed {seed}: {:#?}", in_words(&told));
            assert!(is_wrong(&told), "what is told is wrong by itself");
        }
    }

    #[test]
    fn calls_are_told_in_words() {
        let mut told = Told::default();
        told.sent(1);
        let given = told.received(1);
        told.deleted(1, given);
        told.call(Act::Receive, Answer::Unknown);
        assert_eq!(
            in_words(&told.0),
            [
                "call 0 of client 1, 0 to 5: sends message 1; it is done",
                "call 1 of client 1, 10 to 15: receives; it is given 1",
                "call 2 of client 1, 20 to 25: deletes 1 with the receipt that call 1 gave to \
                 client 1; it is done",
                "call 3 of client 1, from 30: receives; nobody knows what became of it",
            ]
        );
    }
}
