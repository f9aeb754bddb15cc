//! What happened: every call of every client with its answer, every applied position with its
//! digest, every leader, every fault, all with simulated times.
//!
//! Laws: an operation is *ok*, *definitely failed* or *unknown*; one that never returned is
//! unknown. Everything recorded goes into one hash, so that two runs of a seed can be compared.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Simulated microseconds since the start.
pub type Micros = u64;
/// T: the replicated log time, in microseconds since the Unix epoch.
pub type LogTime = u64;
/// A client number that stands for the final drain.
pub const DRAIN: u32 = 99;
/// The time of what never came.
pub const NEVER: Micros = Micros::MAX;

/// Where a write stands in the log, and the T of its entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub index: u64,
    pub term: u64,
    pub node: u64,
    pub at: LogTime,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Create {
        queue: String,
    },
    /// `ttl`: microseconds, `None` = for ever.
    Send {
        queue: String,
        tags: Vec<u64>,
        ttl: Option<u64>,
        delay: u64,
    },
    Receive {
        queue: String,
        max: u32,
        visibility: u64,
    },
    /// `visibility`: `None` keeps the lease; `tag`: the new body, if any.
    Update {
        queue: String,
        id: String,
        receipt: String,
        visibility: Option<u64>,
        tag: Option<u64>,
    },
    Delete {
        queue: String,
        items: Vec<(String, String)>,
    },
    Peek {
        queue: String,
        stale: bool,
    },
    Get {
        queue: String,
        id: String,
        stale: bool,
    },
    Clear {
        queue: String,
    },
}

impl Call {
    pub fn queue(&self) -> &str {
        match self {
            Call::Create { queue }
            | Call::Send { queue, .. }
            | Call::Receive { queue, .. }
            | Call::Update { queue, .. }
            | Call::Delete { queue, .. }
            | Call::Peek { queue, .. }
            | Call::Get { queue, .. }
            | Call::Clear { queue } => queue,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMessage {
    pub id: String,
    pub receipt: String,
    pub inserted_at: LogTime,
    pub expires_at: Option<LogTime>,
    pub visible_at: LogTime,
}

/// A message as it was received or shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub id: String,
    /// Whose body this is; `None` when the bytes are those of no message.
    pub tag: Option<u64>,
    /// Only on received messages.
    pub receipt: String,
    pub inserted_at: LogTime,
    pub expires_at: Option<LogTime>,
    pub visible_at: LogTime,
    pub dequeue_count: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    Done,
    NotFound,
    Mismatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Created,
    Sent {
        mark: Mark,
        messages: Vec<SentMessage>,
    },
    /// Without a mark nothing was visible, by a majority's word.
    Received {
        mark: Option<Mark>,
        messages: Vec<Shown>,
    },
    Updated {
        mark: Mark,
        receipt: String,
        visible_at: LogTime,
    },
    Deleted {
        mark: Mark,
        outcomes: Vec<Deleted>,
    },
    /// A peek or a get, from the state at this T.
    Seen {
        at: LogTime,
        messages: Vec<Shown>,
    },
    Cleared {
        mark: Mark,
        removed: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok(Answer),
    /// It had no effect, and never will.
    Failed(String),
    Unknown(String),
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub client: u32,
    pub invoked: Micros,
    pub returned: Micros,
    pub call: Call,
    pub outcome: Outcome,
}

/// A node's state at one applied position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    pub node: u64,
    pub index: u64,
    pub term: u64,
    pub leader: u64,
    pub digest: u128,
}

/// How the run ended, once all faults were healed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ending {
    /// All nodes follow one leader and have applied the same position.
    pub converged: bool,
    /// A send was acknowledged.
    pub served: bool,
    /// Everything was received and deleted, and every queue is empty.
    pub drained: bool,
    /// What the nodes said when one of these did not come true.
    pub words: String,
    /// Left alone after that, they went on following the same leader.
    pub steady: bool,
    /// T of the last empty look at the queues.
    pub at: LogTime,
    /// Messages left in each queue by its own count.
    pub left: u64,
}

#[derive(Clone, Debug, Default)]
pub struct History {
    pub ops: Vec<Op>,
    pub applied: Vec<Applied>,
    /// `(term, node)` of each that said it leads.
    pub leaders: Vec<(u64, u64)>,
    /// Nodes that stopped by themselves though nothing was done to their disk.
    pub unexpected_stops: Vec<String>,
    pub ending: Ending,
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
    pub fn invoke(&mut self, now: Micros, client: u32, call: Call) -> usize {
        self.trace(now, format_args!("client {client} calls {call:?}"));
        let outcome = Outcome::Unknown("it never returned".to_owned());
        self.ops.push(Op { client, invoked: now, returned: NEVER, call, outcome });
        self.ops.len() - 1
    }

    pub fn answer(&mut self, now: Micros, op: usize, outcome: Outcome) {
        self.trace(now, format_args!("op {op} returns {outcome:?}"));
        if let Some(op) = self.ops.get_mut(op) {
            op.returned = now;
            op.outcome = outcome;
        }
    }

    pub fn applied(&mut self, now: Micros, applied: Applied) {
        self.trace(now, format_args!("{applied:?}"));
        self.applied.push(applied);
    }

    pub fn leads(&mut self, now: Micros, term: u64, node: u64) {
        self.trace(now, format_args!("node {node} leads term {term}"));
        self.leaders.push((term, node));
    }

    /// A fault, a stop, a phase: in the trace only.
    pub fn event(&mut self, now: Micros, what: std::fmt::Arguments<'_>) {
        tracing::info!(target: "simulation", at_ms = now / 1_000, "{what}");
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

/// An acknowledged call that concerns one message.
#[derive(Debug)]
pub struct Change<'a, T> {
    pub op: &'a Op,
    pub mark: Mark,
    pub what: &'a T,
}

// Derived, these would ask the same of `T`.
impl<T> Clone for Change<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Change<'_, T> {}

/// All that is known of one message id.
#[derive(Clone, Debug, Default)]
pub struct Life<'a> {
    pub queue: &'a str,
    /// The acknowledged send; a message whose send is unknown has none.
    pub sent: Option<Change<'a, SentMessage>>,
    pub sent_tag: Option<u64>,
    /// In log order.
    pub grants: Vec<Change<'a, Shown>>,
    /// Acknowledged updates, in log order: the call, the new receipt and the new visible time.
    pub updates: Vec<Change<'a, Op>>,
    /// Acknowledged deletes that removed it.
    pub deletes: Vec<Change<'a, Op>>,
    /// Updates and deletes of unknown outcome.
    pub unknown: Vec<&'a Op>,
    /// Peeks and gets that showed it, each with its T.
    pub sightings: Vec<(&'a Op, LogTime, &'a Shown)>,
}

impl<'a> Life<'a> {
    /// Deletes that may have removed it: unknown ones.
    pub fn maybe_deleted(&self) -> impl Iterator<Item = &&'a Op> {
        self.unknown.iter().filter(|op| matches!(op.call, Call::Delete { .. }))
    }

    pub fn shown(&self) -> impl Iterator<Item = (&'a Op, &'a Shown)> {
        let grants = self.grants.iter().map(|grant| (grant.op, grant.what));
        grants.chain(self.sightings.iter().map(|(op, _, shown)| (*op, *shown)))
    }
}

/// The history told message by message.
#[derive(Debug)]
pub struct Story<'a> {
    pub history: &'a History,
    pub lives: BTreeMap<&'a str, Life<'a>>,
    /// Acknowledged clears, each with its mark.
    pub clears: Vec<(&'a Op, Mark)>,
    pub unknown_clears: Vec<&'a Op>,
    pub unknown_receives: Vec<&'a Op>,
}

impl<'a> Story<'a> {
    pub fn of(history: &'a History) -> Story<'a> {
        let mut story = Story {
            history,
            lives: BTreeMap::new(),
            clears: Vec::new(),
            unknown_clears: Vec::new(),
            unknown_receives: Vec::new(),
        };
        for op in &history.ops {
            match &op.outcome {
                Outcome::Ok(answer) => story.acknowledged(op, answer),
                Outcome::Unknown(_) => story.unknown(op),
                Outcome::Failed(_) => {}
            }
        }
        for life in story.lives.values_mut() {
            life.grants.sort_by_key(|change| change.mark);
            life.updates.sort_by_key(|change| change.mark);
            life.deletes.sort_by_key(|change| change.mark);
        }
        story
    }

    fn life(&mut self, id: &'a str, op: &'a Op) -> &mut Life<'a> {
        let life = self.lives.entry(id).or_default();
        life.queue = op.call.queue();
        life
    }

    fn acknowledged(&mut self, op: &'a Op, answer: &'a Answer) {
        match (answer, &op.call) {
            (Answer::Sent { mark, messages }, Call::Send { tags, .. }) => {
                for (message, tag) in messages.iter().zip(tags) {
                    let life = self.life(&message.id, op);
                    life.sent = Some(Change { op, mark: *mark, what: message });
                    life.sent_tag = Some(*tag);
                }
            }
            (Answer::Received { mark: Some(mark), messages }, _) => {
                for shown in messages {
                    let grant = Change { op, mark: *mark, what: shown };
                    self.life(&shown.id, op).grants.push(grant);
                }
            }
            (Answer::Updated { mark, .. }, Call::Update { id, .. }) => {
                self.life(id, op).updates.push(Change { op, mark: *mark, what: op });
            }
            (Answer::Deleted { mark, outcomes }, Call::Delete { items, .. }) => {
                for ((id, _), outcome) in items.iter().zip(outcomes) {
                    if *outcome == Deleted::Done {
                        self.life(id, op).deletes.push(Change { op, mark: *mark, what: op });
                    }
                }
            }
            (Answer::Seen { at, messages }, _) => {
                for shown in messages {
                    self.life(&shown.id, op).sightings.push((op, *at, shown));
                }
            }
            (Answer::Cleared { mark, .. }, _) => self.clears.push((op, *mark)),
            _ => {}
        }
    }

    fn unknown(&mut self, op: &'a Op) {
        match &op.call {
            Call::Update { id, .. } => self.life(id, op).unknown.push(op),
            Call::Delete { items, .. } => {
                for (id, _) in items {
                    self.life(id, op).unknown.push(op);
                }
            }
            Call::Clear { .. } => self.unknown_clears.push(op),
            Call::Receive { .. } => self.unknown_receives.push(op),
            _ => {}
        }
    }

    /// Whether a clear of its queue may have removed a message that was inserted at this T.
    pub fn maybe_cleared(&self, queue: &str, inserted_at: LogTime, sent: &Op) -> bool {
        let known = self.clears.iter();
        known.filter(|(op, _)| op.call.queue() == queue).any(|(_, mark)| mark.at >= inserted_at)
            || self
                .unknown_clears
                .iter()
                .any(|op| op.call.queue() == queue && op.returned >= sent.invoked)
    }
}

/// The bytes of a tag's body: mostly small, one in twenty of some kilobytes.
pub fn body(tag: u64) -> Vec<u8> {
    let mixed = tag.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let length = if (mixed >> 40).is_multiple_of(20) { 4_000 + (mixed >> 50) } else { mixed >> 57 };
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
