//! What happened: every call of every client with its answer, every applied position with its
//! digest, every leader, every fault, all with the time since the start.
//!
//! Laws: an operation is *ok*, *definitely failed* or *unknown*; one that never returned is
//! unknown. Everything recorded goes into one hash, so that two runs of a seed can be compared.

mod pair;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use pair::{PairHistory, Sighted, Whom};
pub use zoneq::cli::drill::history::{
    Act, After, Alive, Answer, Applied, Asked, Call, Cluster, Dead, Deleted, Emptied, Ending, Gone,
    Item, Job, Listed, LogTime, Looked, Mark, Micros, NEVER, New, Op, Outcome, Progress, REGIONS,
    Redriven, Released, Replay, SentMessage, Session, Shown, Standing, Tenant, Told, Verb,
};

/// A client number that stands for the final drain.
pub const DRAIN: u32 = 99;
/// A client number that stands for the replay of a tail.
pub const TAIL: u32 = 98;

#[derive(Clone, Debug, Default)]
pub struct History {
    pub ops: Vec<Op>,
    pub applied: Vec<Applied>,
    /// `(cluster, term, node)` of each that said it leads.
    pub leaders: Vec<(Cluster, u64, u64)>,
    /// Nodes that stopped by themselves though nothing was done to their disk.
    pub unexpected_stops: Vec<String>,
    pub ending: Ending,
    /// The faults that began, each with its number and when it did.
    pub faults: Vec<String>,
    /// By message: the receipt that a send was answered with by a region that was lost, where the
    /// send may have taken effect in what went on.
    pub first_receipts: BTreeMap<String, String>,
    /// Faults and phases, and when.
    pub events: Vec<(Micros, String)>,
    /// What was seen of a pair of regions.
    pub pair: PairHistory,
    /// How often each verb was answered well.
    pub verbs: BTreeMap<&'static str, u64>,
    trace: Trace,
}

/// A running hash (FNV-1a) over everything that was recorded.
#[derive(Clone, Debug)]
struct Trace {
    hash: u64,
    events: u64,
    /// The lines themselves, when asked for.
    lines: Option<Vec<String>>,
}

impl Default for Trace {
    fn default() -> Trace {
        Trace { hash: 0xcbf2_9ce4_8422_2325, events: 0, lines: None }
    }
}

impl History {
    fn trace(&mut self, now: Micros, line: std::fmt::Arguments<'_>) {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = write!(text, "{now} {line}");
        for byte in text.bytes() {
            self.trace.hash ^= u64::from(byte);
            self.trace.hash = self.trace.hash.wrapping_mul(0x0100_0000_01b3);
        }
        self.trace.events += 1;
        if let Some(lines) = &mut self.trace.lines {
            lines.push(text);
        }
    }

    /// The hash so far, and over how many events.
    pub fn hash(&self) -> (u64, u64) {
        (self.trace.hash, self.trace.events)
    }

    pub fn keep_lines(&mut self) {
        self.trace.lines = Some(Vec::new());
    }

    pub fn lines(&self) -> &[String] {
        self.trace.lines.as_deref().unwrap_or_default()
    }

    /// A call begins; until it returns its outcome is unknown.
    pub fn invoke(
        &mut self,
        now: Micros,
        client: u32,
        session: Option<Session>,
        call: Call,
    ) -> usize {
        self.trace(now, format_args!("client {client} calls {call:?} under {session:?}"));
        let (outcome, attempts) = (Outcome::Unknown("it never returned".to_owned()), 1);
        let returned = NEVER;
        let (site, elsewhere) = (Cluster::default(), false);
        self.ops.push(Op {
            client,
            session,
            attempts,
            elsewhere,
            invoked: now,
            returned,
            call,
            outcome,
            site,
        });
        self.ops.len() - 1
    }

    pub fn answer(
        &mut self,
        now: Micros,
        op: usize,
        attempts: u32,
        outcome: Outcome,
        region: usize,
    ) {
        let site = Cluster { region, generation: self.pair.generation(region) };
        self.trace(now, format_args!("op {op} returns {outcome:?} to try {attempts}"));
        if let Some(op) = self.ops.get_mut(op) {
            if matches!(outcome, Outcome::Ok(_)) {
                *self.verbs.entry(op.call.verb(op.session)).or_default() += 1;
            }
            op.returned = now;
            op.attempts = attempts;
            op.outcome = outcome;
            op.site = site;
        }
    }

    /// A try of unknown fate of this call went to another region than the last.
    pub fn went_elsewhere(&mut self, op: usize) {
        if let Some(op) = self.ops.get_mut(op) {
            op.elsewhere = true;
        }
    }

    pub fn applied(&mut self, now: Micros, applied: Applied) {
        let Applied { cluster, node, index, term, leader, digest } = applied;
        let region = if cluster == Cluster::default() { "" } else { " of another cluster" };
        self.trace(
            now,
            format_args!(
                "Applied {{ node: {node}, index: {index}, term: {term}, leader: {leader}, \
                 digest: {digest} }}{region}"
            ),
        );
        self.applied.push(applied);
    }

    pub fn leads(&mut self, now: Micros, cluster: Cluster, term: u64, node: u64) {
        self.trace(now, format_args!("node {node} leads term {term}"));
        self.leaders.push((cluster, term, node));
    }

    /// A fault, a stop, a phase.
    pub fn event(&mut self, now: Micros, what: std::fmt::Arguments<'_>) {
        tracing::info!(target: "simulation", at_ms = now / 1_000, "{what}");
        self.events.push((now, what.to_string()));
        self.trace(now, what);
    }

    /// How many calls ended well.
    pub fn acknowledged(&self) -> usize {
        self.ops.iter().filter(|op| matches!(op.outcome, Outcome::Ok(_))).count()
    }
}

/// The history as all clients and observers write it.
#[derive(Clone, Debug, Default)]
pub struct SharedHistory(Arc<Mutex<History>>);

impl SharedHistory {
    pub fn lock(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None` when it is being written at this moment, maybe by the caller.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, History>> {
        self.0.try_lock().ok()
    }
}

/// From this tag on all bodies are of one to five kilobytes.
pub const LARGE_BODIES: u64 = 1 << 33;

/// The bytes of a tag's body: mostly small, one in twenty of some kilobytes.
pub fn body(tag: u64) -> Vec<u8> {
    let mixed = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let length = match tag {
        LARGE_BODIES.. => 1_000 + (mixed >> 52),
        _ if (mixed >> 40).is_multiple_of(20) => 4_000 + (mixed >> 50),
        _ => mixed >> 57,
    };
    let mut bytes = format!("{tag}:").into_bytes();
    bytes.extend((0..length).map(|at| (mixed.rotate_left((at % 64) as u32) ^ at) as u8));
    bytes
}

/// Whose body these bytes are.
pub fn tag_of(bytes: &[u8]) -> Option<u64> {
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let tag = std::str::from_utf8(bytes.get(..colon)?).ok()?.parse().ok()?;
    (body(tag) == bytes).then_some(tag)
}
