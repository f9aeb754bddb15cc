//! What clients are told.

use serde::{Deserialize, Serialize};

use super::{Asked, LogTime, Mark, Standing};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    pub redriven: Option<Redriven>,
    /// As a peek asked for it, or a get answered it.
    pub standing: Option<Standing>,
}

/// How a message came to a dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dead {
    pub source: String,
    pub at: LogTime,
    pub deliveries: u32,
}

/// Which message, and of which queue, a message was before a redrive sent it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redriven {
    pub id: String,
    pub queue: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Progress {
    Running,
    Done,
    Cancelled,
}

/// A redrive as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: String,
    pub asked: Asked,
    pub progress: Progress,
    pub started_at: LogTime,
    pub ended_at: Option<LogTime>,
    pub moved: u64,
    pub held: u64,
    pub refused: u64,
}

/// An account as one look saw it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    /// Messages that it may hold.
    pub quota: Option<u64>,
    pub queues: u64,
    pub messages: u64,
}

/// A queue as one look saw it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deleted {
    Done,
    NotFound,
    Mismatch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Released {
    /// Visible again from this T on.
    At(LogTime),
    NotFound,
    Mismatch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// A redrive runs; `started` by this call.
    Redriving {
        mark: Mark,
        id: String,
        started: bool,
    },
    Counted {
        matching: u64,
        held: u64,
    },
    /// False when it had ended.
    Cancelled {
        mark: Mark,
        cancelled: bool,
    },
    /// The newest first.
    Redrives {
        at: LogTime,
        jobs: Vec<Job>,
    },
    Account {
        at: LogTime,
        account: Tenant,
    },
    Accounts {
        at: LogTime,
        names: Vec<String>,
    },
    Durable {
        committed: bool,
        zones_at_least: u32,
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
            | Answer::Cleared { mark, .. }
            | Answer::Redriving { mark, .. }
            | Answer::Cancelled { mark, .. } => Some(*mark),
            Answer::Received { mark, .. } => *mark,
            _ => None,
        }
    }

    /// T of the state that a read was answered from.
    pub fn read_at(&self) -> Option<LogTime> {
        match self {
            Answer::Seen { at, .. }
            | Answer::Looked { at, .. }
            | Answer::Listed { at, .. }
            | Answer::Redrives { at, .. }
            | Answer::Account { at, .. }
            | Answer::Accounts { at, .. } => Some(*at),
            _ => None,
        }
    }
}
