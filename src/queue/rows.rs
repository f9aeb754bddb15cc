//! The state as rows: what the tables store, a snapshot carries and a restart reads. A state
//! can always be rebuilt from its rows, and then has the same digest.

use std::sync::Arc;

use super::authority::seed::SeedRow;
use super::authority::{AuditRow, Authority};
use super::command::{AccountQuota, Redrive, Settings, StringMap};
use super::ids::{ContentId, Digest, Epoch, LogTime, MessageId, Number, QueueId, Receipt};
use super::note::Note;
use super::outcome::Outcome;
use super::redrive::{Progress, Tally};

/// Names a row. The order is the order in the tables: kind first, then its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// T, the counters, the rules version, the epoch and the digest: one row.
    Counters,
    Queue(QueueId),
    /// A run of untouched messages; `first` is the number it began with and never changes,
    /// though that message may be gone.
    Chunk {
        queue: QueueId,
        priority: u8,
        first: Number,
    },
    /// A message that was delayed, leased, returned or updated.
    Message {
        queue: QueueId,
        number: Number,
    },
    /// The kept outcomes of one client.
    Session(u128),
    /// A deduplication key of a queue.
    Key {
        queue: QueueId,
        key: u128,
    },
    /// A redrive of a queue.
    Redrive {
        queue: QueueId,
        number: Number,
    },
    /// The quota of an account.
    Account(AccountName),
    /// Which region may write.
    Authority,
    /// What was done to the authority.
    Audit(u64),
    /// A chunk of a state that is under way to this secondary.
    Seed(u64),
}

/// An account's name, padded with zeros: of a fixed size, and in the order of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountName([u8; 24]);

impl AccountName {
    /// `None` for what is no account's name.
    #[must_use]
    pub fn new(name: &str) -> Option<AccountName> {
        super::check::account(name).ok()?;
        let mut bytes = [0; 24];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(AccountName(bytes))
    }

    /// Reads what [`AccountName::as_bytes`] gave.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 24]) -> Option<AccountName> {
        let name = AccountName(bytes);
        (AccountName::new(name.as_str()?)? == name).then_some(name)
    }

    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 24] {
        &self.0
    }

    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap_or(self.0.len());
        std::str::from_utf8(self.0.get(..end)?).ok()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Counters(CountersRow),
    Queue(QueueRow),
    Chunk(ChunkRow),
    Message(MessageRow),
    Session(SessionRow),
    Key(KeyRow),
    Redrive(RedriveRow),
    Account(AccountRow),
    Authority(Box<Authority>),
    Audit(AuditRow),
    Seed(SeedRow),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CountersRow {
    pub log_time: LogTime,
    pub epoch: Epoch,
    pub rules: u32,
    /// The next number of the shared counter: message numbers, receipts, contents.
    pub next_number: u64,
    pub next_queue: u64,
    /// Checked against the rows at every restart.
    pub digest: Digest,
    /// The revision of the authority row; 0 = there is none.
    pub authority: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueRow {
    pub id: QueueId,
    pub account: String,
    pub name: String,
    pub metadata: StringMap,
    pub settings: Settings,
    pub created_at: LogTime,
    /// Messages with lower numbers were cleared and do not exist, whatever rows are left.
    pub cleared_below: Number,
    /// The queue was deleted; its rows are freed in the background, then this one.
    pub deleted: bool,
    /// Receives give nothing.
    pub paused: bool,
    /// A message that the dead-letter queue did not take, and since when; it may be gone now.
    pub dead_letter_refused: Option<(Number, LogTime)>,
    /// It was deleted, and is kept to come back.
    pub kept: Option<Deleted>,
}

/// When a queue was deleted that is kept, and until when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    pub at: LogTime,
    pub until: LogTime,
}

/// A job that sends dead letters back; see `redrive.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedriveRow {
    pub queue: QueueId,
    /// It takes the dead letters that arrived before.
    pub number: Number,
    pub epoch: Epoch,
    pub asked: Redrive,
    pub started_at: LogTime,
    pub progress: Progress,
    pub ended_at: Option<LogTime>,
    /// It has looked at the messages up to this number.
    pub looked_through: Number,
    pub next_step: LogTime,
    pub tally: Tally,
}

impl RedriveRow {
    /// What names it to a client.
    #[must_use]
    pub fn id(&self) -> MessageId {
        MessageId { epoch: self.epoch, number: self.number }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccountRow {
    pub name: AccountName,
    pub quota: AccountQuota,
}

/// Untouched messages in send order, all of one epoch: 64 at most, or 256 of an older version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRow {
    pub queue: QueueId,
    pub priority: u8,
    pub first: Number,
    pub epoch: Epoch,
    pub messages: Vec<Untouched>,
}

/// A message as it was sent. Its receipt and content id are its number; it is visible from
/// `inserted_at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untouched {
    pub number: Number,
    pub inserted_at: LogTime,
    pub expires_at: Option<LogTime>,
    pub size: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRow {
    pub queue: QueueId,
    pub number: Number,
    pub epoch: Epoch,
    pub priority: u8,
    pub inserted_at: LogTime,
    pub expires_at: Option<LogTime>,
    pub visible_at: LogTime,
    pub dequeue_count: u32,
    pub receipt: Receipt,
    pub content: ContentId,
    pub size: u32,
    /// It is under its last lease.
    pub last: bool,
    /// Its last receiver gave it back.
    pub released: bool,
    pub note: Option<Arc<Note>>,
}

impl MessageRow {
    /// Its place among the messages of its queue: what a mark of that queue is compared with.
    #[must_use]
    pub fn arrived(&self) -> Number {
        self.note.as_ref().map_or(self.number, |note| note.place(self.number))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    pub client: u128,
    pub last_used: LogTime,
    /// Sequences at or below were answered or forgotten.
    pub forgotten_through: u64,
    pub outcomes: Vec<(u64, Outcome)>,
}

/// The first send under a deduplication key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRow {
    pub queue: QueueId,
    pub key: u128,
    pub id: MessageId,
    pub sent_at: LogTime,
    /// The key counts until then.
    pub until: LogTime,
}

impl RowKey {
    /// The queue whose messages or standing the row is about.
    #[must_use]
    pub fn queue(&self) -> Option<QueueId> {
        match self {
            RowKey::Queue(queue) | RowKey::Chunk { queue, .. } | RowKey::Message { queue, .. } => {
                Some(*queue)
            }
            RowKey::Counters
            | RowKey::Session(_)
            | RowKey::Key { .. }
            | RowKey::Redrive { .. }
            | RowKey::Account(_)
            | RowKey::Authority
            | RowKey::Audit(_)
            | RowKey::Seed(_) => None,
        }
    }
}

impl Row {
    /// The key that names this row.
    #[must_use]
    pub fn key(&self) -> RowKey {
        match self {
            Row::Counters(_) => RowKey::Counters,
            Row::Queue(row) => RowKey::Queue(row.id),
            Row::Chunk(row) => {
                RowKey::Chunk { queue: row.queue, priority: row.priority, first: row.first }
            }
            Row::Message(row) => RowKey::Message { queue: row.queue, number: row.number },
            Row::Session(row) => RowKey::Session(row.client),
            Row::Key(row) => RowKey::Key { queue: row.queue, key: row.key },
            Row::Authority(_) => RowKey::Authority,
            Row::Audit(row) => RowKey::Audit(row.number),
            Row::Seed(row) => RowKey::Seed(row.number),
            Row::Redrive(row) => RowKey::Redrive { queue: row.queue, number: row.number },
            Row::Account(row) => RowKey::Account(row.name),
        }
    }
}
