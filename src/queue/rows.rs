//! The state as rows: what the tables store, a snapshot carries and a restart reads. A state
//! can always be rebuilt from its rows, and then has the same digest.

use std::sync::Arc;

use super::authority::{AuditRow, Authority};
use super::command::{Settings, StringMap};
use super::ids::{ContentId, Digest, Epoch, LogTime, MessageId, Number, QueueId, Receipt};
use super::note::Note;
use super::outcome::Outcome;

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
    /// Which region may write.
    Authority,
    /// What was done to the authority.
    Audit(u64),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Counters(CountersRow),
    Queue(QueueRow),
    Chunk(ChunkRow),
    Message(MessageRow),
    Session(SessionRow),
    Key(KeyRow),
    Authority(Authority),
    Audit(AuditRow),
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
}

/// Up to 256 untouched messages in send order, all of one epoch.
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
        }
    }
}
