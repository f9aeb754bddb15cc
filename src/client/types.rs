//! What calls take and give, in Rust's own types.

mod wire;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

pub(super) use wire::{durability, span, time, token, wire, wire_items, wire_some};

pub use crate::proto::queue::v1::{
    DeadLetterReason, DeleteOutcome, MessageState, OtherRegion, Position, ReleaseOutcome,
};

/// How long a message lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ttl {
    /// As the queue says; for a queue, seven days.
    #[default]
    Default,
    Never,
    After(Duration),
}

/// A queue's settings; the default is the server's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSettings {
    pub default_ttl: Ttl,
    pub default_visibility_timeout: Option<Duration>,
    pub max_message_bytes: Option<u32>,
    /// Where messages go that were given out too often.
    pub dead_letters: Option<DeadLetters>,
    /// How long messages live that come here as dead letters; `None` = for ever.
    pub dead_letter_ttl: Option<Duration>,
    /// How long messages wait that are released by back-off.
    pub back_off: Option<BackOff>,
    /// How long a deduplication key counts; 1 s to 7 days.
    pub deduplication_window: Option<Duration>,
    /// Messages the queue may hold; `None` = no quota.
    pub max_messages: Option<u64>,
    /// Bytes of bodies and headers the queue may hold; `None` = no quota.
    pub max_bytes: Option<u64>,
    /// How long the queue can come back after it was deleted, 0 to 7 days; zero = not at all;
    /// `None` = 1 hour.
    pub undelete_window: Option<Duration>,
}

/// A message waits `first` after its first delivery, `factor` times as long after each further
/// one, and never longer than `most`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    pub first: Duration,
    /// At most 7 days.
    pub most: Duration,
    /// 1 to 10.
    pub factor: u32,
}

/// Deletes and sends, in queues of one account, that all happen or none: 1 to 1000 in all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Queue and message.
    pub deletes: Vec<(String, DeleteItem)>,
    pub sends: BTreeMap<String, Vec<NewMessage>>,
}

impl Transaction {
    #[must_use]
    pub fn new() -> Transaction {
        Transaction::default()
    }

    /// Deletes a received message.
    #[must_use]
    pub fn delete(mut self, queue: impl Into<String>, item: impl Into<DeleteItem>) -> Transaction {
        self.deletes.push((queue.into(), item.into()));
        self
    }

    #[must_use]
    pub fn send(mut self, queue: impl Into<String>, message: impl Into<NewMessage>) -> Transaction {
        self.sends.entry(queue.into()).or_default().push(message.into());
        self
    }
}

/// When a released message may be received again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReleaseAfter {
    #[default]
    Now,
    /// At most 7 days.
    Delay(Duration),
    /// As the back-off in the queue's settings says.
    BackOff,
}

/// What became of one message that was to be released.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReleaseResult {
    pub outcome: ReleaseOutcome,
    /// When a released one may be received again.
    pub visible_at: Option<SystemTime>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// One for each item, in order.
    pub results: Vec<ReleaseResult>,
    pub durability: Durability,
}

/// Where a queue's dead letters go, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetters {
    /// A queue of the same account.
    pub queue: String,
    /// How often a message is given out before it is a dead letter; `None` = 10.
    pub max_deliveries: Option<u32>,
}

/// A message to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMessage {
    pub body: Bytes,
    pub headers: BTreeMap<String, String>,
    pub delay: Option<Duration>,
    pub ttl: Ttl,
    /// 0 is given out first, 9 last; `None` = 4.
    pub priority: Option<u8>,
    /// A send whose key was seen inside the queue's window sends nothing; 1 to 256 bytes.
    pub deduplication_key: Option<String>,
    /// Of the messages of one group only the first is given out; 1 to 128 bytes.
    pub group: Option<String>,
}

impl NewMessage {
    pub fn new(body: impl Into<Bytes>) -> NewMessage {
        NewMessage { body: body.into(), ..NewMessage::default() }
    }

    /// The same with another body.
    #[must_use]
    pub fn with_body(&self, body: impl Into<Bytes>) -> NewMessage {
        NewMessage { body: body.into(), ..self.clone() }
    }

    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> NewMessage {
        self.headers.insert(name.into(), value.into());
        self
    }

    #[must_use]
    pub fn delay(mut self, delay: Duration) -> NewMessage {
        self.delay = Some(delay);
        self
    }

    #[must_use]
    pub fn priority(mut self, priority: u8) -> NewMessage {
        self.priority = Some(priority);
        self
    }

    #[must_use]
    pub fn deduplication_key(mut self, key: impl Into<String>) -> NewMessage {
        self.deduplication_key = Some(key.into());
        self
    }

    #[must_use]
    pub fn group(mut self, group: impl Into<String>) -> NewMessage {
        self.group = Some(group.into());
        self
    }

    #[must_use]
    pub fn ttl(mut self, ttl: Ttl) -> NewMessage {
        self.ttl = ttl;
        self
    }
}

impl From<&str> for NewMessage {
    fn from(body: &str) -> NewMessage {
        NewMessage::new(Bytes::copy_from_slice(body.as_bytes()))
    }
}

impl From<Vec<u8>> for NewMessage {
    fn from(body: Vec<u8>) -> NewMessage {
        NewMessage::new(body)
    }
}

impl From<Bytes> for NewMessage {
    fn from(body: Bytes) -> NewMessage {
        NewMessage::new(body)
    }
}

/// What is known of a write's durability when its answer came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    pub position: Position,
    pub epoch: u32,
    pub log_time: Option<SystemTime>,
    /// Zones that must hold the write, by the layout of the voters.
    pub zones_at_least: u32,
    /// Zones known to hold it, fsynced.
    pub zones: Vec<String>,
}

/// What is known of a position's durability now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurabilityNow {
    pub committed: bool,
    pub zones_at_least: u32,
    pub zones: Vec<String>,
    /// Whether the other region has it; unspecified where there is none, or it is not known.
    pub other_region: OtherRegion,
}

/// Exact counts of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounts {
    pub visible: u64,
    pub leased: u64,
    pub delayed: u64,
    /// Behind the first message of their group.
    pub blocked: u64,
    /// Past their expiry and not yet removed.
    pub due: u64,
    pub total: u64,
    pub bytes: u64,
    /// How long ago the oldest message still there was sent; `None` when there is none.
    pub oldest_age: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    pub name: String,
    pub metadata: BTreeMap<String, String>,
    pub settings: QueueSettings,
    pub counts: QueueCounts,
    pub created_at: Option<SystemTime>,
    /// Receives find nothing until the queue is resumed.
    pub paused: bool,
    /// An alarm: since then the dead-letter queue takes no messages of this one, which are given
    /// out again instead.
    pub dead_letters_refused_since: Option<SystemTime>,
    /// A queue deleted and made again has another.
    pub id: u64,
    /// Only of a deleted queue: when it was deleted, and until when it can come back.
    pub deleted_at: Option<SystemTime>,
    pub kept_until: Option<SystemTime>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreatedQueue {
    pub queue: Queue,
    /// False when an equal queue was there already.
    pub created: bool,
    pub durability: Durability,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQueues {
    pub prefix: String,
    /// 1 to 1000; 0 = 100.
    pub page_size: u32,
    /// From the page before.
    pub page_token: Option<String>,
    /// Given: any node may answer, from a state at most this old.
    pub max_staleness: Option<Duration>,
    /// The deleted queues that can come back, instead of those that are there.
    pub deleted: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueuePage {
    pub queues: Vec<Queue>,
    /// `None` on the last page.
    pub next_page_token: Option<String>,
    pub log_time: Option<SystemTime>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentMessage {
    pub id: String,
    /// May be used to update or delete the message until it is received.
    pub pop_receipt: String,
    pub inserted_at: Option<SystemTime>,
    /// `None` = never.
    pub expires_at: Option<SystemTime>,
    pub visible_at: Option<SystemTime>,
    /// Nothing was sent: a message with the same deduplication key was, and this is what is known
    /// of it.
    pub duplicate: bool,
}

/// One message's acknowledgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    pub message: SentMessage,
    pub durability: Durability,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SentBatch {
    pub messages: Vec<SentMessage>,
    pub durability: Durability,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub id: String,
    pub body: Bytes,
    pub headers: BTreeMap<String, String>,
    /// Empty unless the message was received.
    pub pop_receipt: String,
    pub inserted_at: Option<SystemTime>,
    /// `None` = never.
    pub expires_at: Option<SystemTime>,
    pub visible_at: Option<SystemTime>,
    pub dequeue_count: u32,
    pub priority: u32,
    /// Only in a dead-letter queue: how the message came there.
    pub dead_letter: Option<DeadLetter>,
    pub group: Option<String>,
    /// It was sent by a redrive: the dead letter it was before.
    pub redriven: Option<Redriven>,
}

/// The dead letter that a message was before.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redriven {
    pub id: String,
    /// The dead-letter queue it was in.
    pub queue: String,
}

/// How a message came to a dead-letter queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetter {
    pub reason: DeadLetterReason,
    /// The queue that it came from.
    pub source: String,
    pub dead_lettered_at: Option<SystemTime>,
    /// `None` = not known: the queue had no dead-letter queue then.
    pub first_received_at: Option<SystemTime>,
    pub last_received_at: Option<SystemTime>,
    /// How often it had been given out.
    pub deliveries: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveOptions {
    /// 1 to 1000.
    pub max_messages: u32,
    /// `None` = the queue's default.
    pub visibility_timeout: Option<Duration>,
    /// How long to wait for the first message; at most 60 s.
    pub wait: Duration,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        ReceiveOptions { max_messages: 1, visibility_timeout: None, wait: Duration::ZERO }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    pub messages: Vec<Message>,
    /// The answer stopped at its size limit; more is visible.
    pub more: bool,
    /// `None` when nothing was received.
    pub durability: Option<Durability>,
}

/// What to change of a message; `None` keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Update {
    /// From now; zero makes the message visible at once.
    pub visibility_timeout: Option<Duration>,
    pub body: Option<Bytes>,
    pub headers: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Updated {
    /// The receipt to use from here on.
    pub pop_receipt: String,
    pub visible_at: Option<SystemTime>,
    pub durability: Durability,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteItem {
    pub id: String,
    pub pop_receipt: String,
}

impl From<&Message> for DeleteItem {
    fn from(message: &Message) -> DeleteItem {
        DeleteItem { id: message.id.clone(), pop_receipt: message.pop_receipt.clone() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deleted {
    /// One for each item, in order.
    pub outcomes: Vec<DeleteOutcome>,
    pub durability: Durability,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeekOptions {
    /// 1 to 1000; 0 = 1.
    pub max_messages: u32,
    /// `None` = visible.
    pub state: Option<MessageState>,
    pub page_token: Option<String>,
    pub max_staleness: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeekPage {
    pub messages: Vec<Message>,
    pub next_page_token: Option<String>,
    pub log_time: Option<SystemTime>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShownMessage {
    pub message: Message,
    pub state: MessageState,
    pub log_time: Option<SystemTime>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    pub removed: u64,
    pub durability: Durability,
}
