//! What happened: every call of every client with its answer, every applied position with its
//! digest, every leader, every fault, all with simulated times.
//!
//! Laws: an operation is *ok*, *definitely failed* or *unknown*; one that never returned is
//! unknown. Everything recorded goes into one hash, so that two runs of a seed can be compared.

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

/// A message as a client sends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct New {
    /// Whose body it has; no two messages are sent with the same.
    pub tag: u64,
    /// Microseconds, `None` = for ever.
    pub ttl: Option<u64>,
    pub delay: u64,
    pub priority: u8,
    pub key: Option<u64>,
    pub group: Option<u64>,
}

/// When a released message comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Now,
    Delay(u64),
    BackOff,
}

/// How a message stands, as a peek asks and a get answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Visible,
    Leased,
    Delayed,
    Blocked,
}

/// An id and a receipt.
pub type Item = (String, String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    Create {
        queue: String,
    },
    DeleteQueue {
        queue: String,
    },
    Pause {
        queue: String,
        paused: bool,
    },
    /// Replaces the metadata by one number.
    SetMetadata {
        queue: String,
        value: u64,
    },
    /// Replaces the settings by the queue's own, with this lease for those who name none.
    SetSettings {
        queue: String,
        value: u64,
    },
    Send {
        queue: String,
        messages: Vec<New>,
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
        items: Vec<Item>,
    },
    Release {
        queue: String,
        items: Vec<Item>,
        after: After,
    },
    /// Deletes, each with its queue, and sends.
    Transact {
        deletes: Vec<(String, Item)>,
        sends: Vec<(String, Vec<New>)>,
    },
    Peek {
        queue: String,
        standing: Standing,
        stale: bool,
    },
    Get {
        queue: String,
        id: String,
        stale: bool,
    },
    /// Settings, metadata and counts of a queue.
    Look {
        queue: String,
        stale: bool,
    },
    List {
        stale: bool,
    },
    Clear {
        queue: String,
    },
}

impl Call {
    /// The queue that it names; none where it names many or none.
    pub fn queue(&self) -> Option<&str> {
        match self {
            Call::Create { queue }
            | Call::DeleteQueue { queue }
            | Call::Pause { queue, .. }
            | Call::SetMetadata { queue, .. }
            | Call::SetSettings { queue, .. }
            | Call::Send { queue, .. }
            | Call::Receive { queue, .. }
            | Call::Update { queue, .. }
            | Call::Delete { queue, .. }
            | Call::Release { queue, .. }
            | Call::Peek { queue, .. }
            | Call::Get { queue, .. }
            | Call::Look { queue, .. }
            | Call::Clear { queue } => Some(queue),
            Call::Transact { .. } | Call::List { .. } => None,
        }
    }

    /// Whether any node may answer, from a state that is not the newest.
    pub fn is_stale(&self) -> bool {
        match self {
            Call::Peek { stale, .. }
            | Call::Get { stale, .. }
            | Call::Look { stale, .. }
            | Call::List { stale } => *stale,
            _ => false,
        }
    }

    /// The messages that it sends, each with its queue.
    pub fn sends(&self) -> impl Iterator<Item = (&str, &New)> {
        let one = match self {
            Call::Send { queue, messages } => Some((queue, messages)),
            _ => None,
        };
        let many = match self {
            Call::Transact { sends, .. } => sends.as_slice(),
            _ => &[],
        };
        let all = one.into_iter().chain(many.iter().map(|(queue, messages)| (queue, messages)));
        all.flat_map(|(queue, new)| new.iter().map(|new| (queue.as_str(), new)))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMessage {
    pub id: String,
    pub receipt: String,
    pub inserted_at: LogTime,
    pub expires_at: Option<LogTime>,
    pub visible_at: LogTime,
    /// Nothing was sent: this is the first message with the same key.
    pub duplicate: bool,
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
    pub priority: u8,
    pub group: Option<u64>,
    pub dead: Option<Dead>,
    /// As a peek asked for it, or a get answered it.
    pub standing: Option<Standing>,
}

/// How a message came to a dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    pub source: String,
    pub at: LogTime,
    pub deliveries: u32,
}

/// A queue as one look saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Looked {
    pub visible: u64,
    pub leased: u64,
    pub delayed: u64,
    pub blocked: u64,
    pub due: u64,
    pub total: u64,
    pub paused: bool,
    /// What its metadata and settings were last set to; `None` = as it was created.
    pub metadata: Option<u64>,
    pub settings: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    Done,
    NotFound,
    Mismatch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Released {
    /// Visible again from this T on.
    At(LogTime),
    NotFound,
    Mismatch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A queue was created, deleted, paused, resumed or set.
    Done {
        mark: Mark,
    },
    /// A send, or a transaction with all its messages.
    Sent {
        mark: Mark,
        messages: Vec<SentMessage>,
    },
    /// Without a mark nothing was visible, by a majority's word. `more`: it stopped early.
    Received {
        mark: Option<Mark>,
        messages: Vec<Shown>,
        more: bool,
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
    Released {
        mark: Mark,
        outcomes: Vec<Released>,
    },
    /// A peek or a get, from the state at this T.
    Seen {
        at: LogTime,
        messages: Vec<Shown>,
    },
    Looked {
        at: LogTime,
        queue: Looked,
    },
    Listed {
        at: LogTime,
        queues: Vec<String>,
    },
    Cleared {
        mark: Mark,
        removed: u64,
    },
}

impl Answer {
    /// The mark of a write.
    pub fn mark(&self) -> Option<Mark> {
        match self {
            Answer::Done { mark }
            | Answer::Sent { mark, .. }
            | Answer::Updated { mark, .. }
            | Answer::Deleted { mark, .. }
            | Answer::Released { mark, .. }
            | Answer::Cleared { mark, .. } => Some(*mark),
            Answer::Received { mark, .. } => *mark,
            Answer::Seen { .. } | Answer::Looked { .. } | Answer::Listed { .. } => None,
        }
    }

    /// T of the state that a read was answered from.
    pub fn read_at(&self) -> Option<LogTime> {
        match self {
            Answer::Seen { at, .. } | Answer::Looked { at, .. } | Answer::Listed { at, .. } => {
                Some(*at)
            }
            _ => None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok(Answer),
    /// It had no effect, and never will.
    Failed(String),
    Unknown(String),
}

/// What makes a retry of a write safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub client: u64,
    pub sequence: u64,
    /// What is below is over: it never runs from then on.
    pub lowest: u64,
}

/// One call of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub client: u32,
    pub session: Option<Session>,
    /// How often it was tried; the answer of a later try may be that of an earlier one.
    pub attempts: u32,
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
        self.ops.push(Op { client, session, attempts, invoked: now, returned, call, outcome });
        self.ops.len() - 1
    }

    pub fn answer(&mut self, now: Micros, op: usize, attempts: u32, outcome: Outcome) {
        self.trace(now, format_args!("op {op} returns {outcome:?} to try {attempts}"));
        if let Some(op) = self.ops.get_mut(op) {
            op.returned = now;
            op.attempts = attempts;
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
