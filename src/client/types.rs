//! What calls take and give, in Rust's own types.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::error::ClientError;
use crate::proto::queue::v1 as pb;

pub use crate::proto::queue::v1::{
    DeadLetterReason, DeleteOutcome, MessageState, Position, ReleaseOutcome,
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

/// A duration for the wire; refused when it does not fit.
pub(super) fn wire(span: Duration) -> Result<prost_types::Duration, ClientError> {
    prost_types::Duration::try_from(span).map_err(|_| {
        ClientError::Invalid(format!("a duration of {} s is too long", span.as_secs()))
    })
}

pub(super) fn wire_some(
    span: Option<Duration>,
) -> Result<Option<prost_types::Duration>, ClientError> {
    span.map(wire).transpose()
}

fn wire_ttl(ttl: Ttl) -> Result<Option<prost_types::Duration>, ClientError> {
    match ttl {
        Ttl::Default => Ok(None),
        Ttl::Never => Ok(Some(prost_types::Duration::default())),
        Ttl::After(Duration::ZERO) => Err(ClientError::Invalid(
            "a time to live of zero; say `Ttl::Never` for messages that never expire".to_owned(),
        )),
        Ttl::After(span) => wire(span).map(Some),
    }
}

pub(super) fn time(stamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    stamp.and_then(|stamp| SystemTime::try_from(stamp).ok())
}

pub(super) fn token(token: String) -> Option<String> {
    (!token.is_empty()).then_some(token)
}

impl QueueSettings {
    pub(super) fn to_wire(&self) -> Result<pb::QueueSettings, ClientError> {
        let dead = self.dead_letters.as_ref();
        Ok(pb::QueueSettings {
            default_ttl: wire_ttl(self.default_ttl)?,
            default_visibility_timeout: wire_some(self.default_visibility_timeout)?,
            max_message_bytes: self.max_message_bytes.unwrap_or(0),
            dead_letter_queue: dead.map(|target| target.queue.clone()).unwrap_or_default(),
            max_deliveries: dead.and_then(|target| target.max_deliveries).unwrap_or(0),
            dead_letter_ttl: wire_some(self.dead_letter_ttl)?,
            back_off: self.back_off.map(BackOff::to_wire).transpose()?,
            deduplication_window: wire_some(self.deduplication_window)?,
            max_messages: self.max_messages.unwrap_or(0),
            max_bytes: self.max_bytes.unwrap_or(0),
        })
    }
}

impl BackOff {
    fn to_wire(self) -> Result<pb::BackOff, ClientError> {
        let (first, most) = (Some(wire(self.first)?), Some(wire(self.most)?));
        Ok(pb::BackOff { first, most, factor: self.factor })
    }
}

impl From<pb::QueueSettings> for QueueSettings {
    fn from(settings: pb::QueueSettings) -> QueueSettings {
        let span = |d: prost_types::Duration| Duration::try_from(d).ok();
        QueueSettings {
            default_ttl: match settings.default_ttl.and_then(span) {
                None => Ttl::Default,
                Some(Duration::ZERO) => Ttl::Never,
                Some(span) => Ttl::After(span),
            },
            default_visibility_timeout: settings.default_visibility_timeout.and_then(span),
            max_message_bytes: (settings.max_message_bytes > 0)
                .then_some(settings.max_message_bytes),
            dead_letters: (!settings.dead_letter_queue.is_empty()).then_some(DeadLetters {
                queue: settings.dead_letter_queue,
                max_deliveries: (settings.max_deliveries > 0).then_some(settings.max_deliveries),
            }),
            dead_letter_ttl: settings.dead_letter_ttl.and_then(span),
            deduplication_window: settings.deduplication_window.and_then(span),
            max_messages: (settings.max_messages > 0).then_some(settings.max_messages),
            max_bytes: (settings.max_bytes > 0).then_some(settings.max_bytes),
            back_off: settings.back_off.map(|it| BackOff {
                first: it.first.and_then(span).unwrap_or_default(),
                most: it.most.and_then(span).unwrap_or_default(),
                factor: it.factor,
            }),
        }
    }
}

impl NewMessage {
    pub(super) fn into_wire(self) -> Result<pb::NewMessage, ClientError> {
        Ok(pb::NewMessage {
            body: self.body,
            headers: self.headers,
            delay: wire_some(self.delay)?,
            ttl: wire_ttl(self.ttl)?,
            priority: self.priority.map(u32::from),
            deduplication_key: self.deduplication_key.unwrap_or_default(),
            group: self.group.unwrap_or_default(),
        })
    }
}

impl From<pb::Durability> for Durability {
    fn from(durability: pb::Durability) -> Durability {
        Durability {
            position: durability.position.unwrap_or_default(),
            epoch: durability.epoch,
            log_time: time(durability.log_time),
            zones_at_least: durability.zones_at_least,
            zones: durability.zones,
        }
    }
}

pub(super) fn durability(durability: Option<pb::Durability>) -> Durability {
    durability.map(Durability::from).unwrap_or_default()
}

impl From<pb::Queue> for Queue {
    fn from(queue: pb::Queue) -> Queue {
        let counts = queue.counts.unwrap_or_default();
        Queue {
            name: queue.name,
            metadata: queue.metadata,
            settings: queue.settings.map(QueueSettings::from).unwrap_or_default(),
            counts: QueueCounts {
                visible: counts.visible,
                leased: counts.leased,
                delayed: counts.delayed,
                blocked: counts.blocked,
                due: counts.due,
                total: counts.total,
                bytes: counts.bytes,
                oldest_age: counts.oldest_age.and_then(|age| Duration::try_from(age).ok()),
            },
            created_at: time(queue.created_at),
            paused: queue.paused,
            dead_letters_refused_since: time(queue.dead_letters_refused_since),
        }
    }
}

impl From<pb::SentMessage> for SentMessage {
    fn from(message: pb::SentMessage) -> SentMessage {
        SentMessage {
            id: message.id,
            pop_receipt: message.pop_receipt,
            inserted_at: time(message.inserted_at),
            expires_at: time(message.expires_at),
            visible_at: time(message.visible_at),
            duplicate: message.duplicate,
        }
    }
}

impl From<pb::SendResponse> for SentBatch {
    fn from(response: pb::SendResponse) -> SentBatch {
        SentBatch {
            messages: response.messages.into_iter().map(SentMessage::from).collect(),
            durability: durability(response.durability),
        }
    }
}

impl From<pb::Message> for Message {
    fn from(message: pb::Message) -> Message {
        Message {
            id: message.id,
            body: message.body,
            headers: message.headers,
            pop_receipt: message.pop_receipt,
            inserted_at: time(message.inserted_at),
            expires_at: time(message.expires_at),
            visible_at: time(message.visible_at),
            dequeue_count: message.dequeue_count,
            priority: message.priority,
            dead_letter: message.dead_letter.map(DeadLetter::from),
            group: token(message.group),
        }
    }
}

impl From<pb::DeadLetter> for DeadLetter {
    fn from(dead: pb::DeadLetter) -> DeadLetter {
        DeadLetter {
            reason: dead.reason(),
            source: dead.source,
            dead_lettered_at: time(dead.dead_lettered_at),
            first_received_at: time(dead.first_received_at),
            last_received_at: time(dead.last_received_at),
            deliveries: dead.deliveries,
        }
    }
}

impl From<pb::DeleteResponse> for Deleted {
    fn from(response: pb::DeleteResponse) -> Deleted {
        Deleted {
            outcomes: response
                .outcomes
                .into_iter()
                .map(|outcome| DeleteOutcome::try_from(outcome).unwrap_or_default())
                .collect(),
            durability: durability(response.durability),
        }
    }
}

impl From<pb::ReleaseResponse> for Released {
    fn from(response: pb::ReleaseResponse) -> Released {
        let result = |result: pb::ReleaseResult| ReleaseResult {
            outcome: result.outcome(),
            visible_at: time(result.visible_at),
        };
        Released {
            results: response.results.into_iter().map(result).collect(),
            durability: durability(response.durability),
        }
    }
}

pub(super) fn wire_items(items: Vec<DeleteItem>) -> Vec<pb::DeleteItem> {
    items
        .into_iter()
        .map(|item| pb::DeleteItem { id: item.id, pop_receipt: item.pop_receipt })
        .collect()
}
