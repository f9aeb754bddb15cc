//! What goes into the log: entries, the commands they carry, and the settings in them.

use bytes::Bytes;

use super::authority::command::RegionCommand;
use super::authority::replay::ReplayTail;
use super::ids::{Epoch, LogTime, MessageId, Position, QueueId, Receipt, Span};
use super::note::DeadReason;

/// One log entry of commands: many commands of many clients under one stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub position: Position,
    /// The leader's proposal for T; `apply` makes it strictly later than the last.
    pub stamp: LogTime,
    pub epoch: Epoch,
    pub commands: Vec<Envelope>,
}

/// A command with its sender.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    pub session: Option<SessionTag>,
    pub account: String,
    pub command: Command,
}

/// Makes a retry safe: the same client and sequence is never run twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTag {
    pub client: u128,
    pub sequence: u64,
    /// Outcomes below this sequence may be forgotten.
    pub lowest_unanswered: u64,
}

/// Name to value, in the order of the names.
pub type StringMap = std::collections::BTreeMap<String, String>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    CreateQueue {
        name: String,
        metadata: StringMap,
        /// In a box: it is large, and every command is moved as the largest is.
        settings: Box<Settings>,
    },
    DeleteQueue {
        name: String,
    },
    SetMetadata {
        name: String,
        metadata: StringMap,
    },
    SetSettings {
        name: String,
        settings: Box<Settings>,
    },
    /// Stops the receives of a queue, or lets them go on; all other verbs work as before.
    SetPaused {
        name: String,
        paused: bool,
    },
    Send {
        queue: String,
        messages: Vec<NewMessage>,
    },
    Receive(Receive),
    Update(Update),
    Delete {
        queue: String,
        items: Vec<(MessageId, Receipt)>,
    },
    /// Gives messages back; each item has its own outcome.
    Release {
        queue: String,
        items: Vec<(MessageId, Receipt)>,
        after: ReleaseAfter,
    },
    Transact(Transact),
    Clear {
        queue: String,
    },
    /// Brings a deleted queue back: the one deleted last under that name, or the one with the id.
    UndeleteQueue {
        name: String,
        id: Option<QueueId>,
        /// `None` = under the name it had.
        new_name: Option<String>,
    },
    /// Begins to send dead letters back.
    StartRedrive(Box<Redrive>),
    CancelRedrive {
        queue: String,
        id: MessageId,
    },
    /// What the account of the envelope may hold.
    SetAccountQuota(AccountQuota),
    /// The leader's proposal to do what time made due: bounded expiry and session ends.
    Pulse,
    /// Raises the replicated rules version that `apply` branches on.
    RaiseRules {
        version: u32,
    },
    /// A part of the tail of the primary that this cluster deposed. In a box: it is large.
    ReplayTail(Box<ReplayTail>),
    /// Changes which region may write; see `authority.rs`. In a box: it is large.
    Region(Box<RegionCommand>),
}

impl Command {
    /// About how many bytes it takes in an entry, and keeps in memory while one of its contents
    /// is held.
    #[must_use]
    pub fn size(&self) -> usize {
        /// Of a command, and of a message in it, besides contents.
        const BASE: usize = 64;
        /// An id with its receipt.
        const ITEM: usize = 32;
        BASE + match self {
            Command::Send { messages, .. } => {
                messages.iter().map(|message| message.content.size() + BASE).sum()
            }
            Command::Update(update) => update.content.as_ref().map_or(0, Content::size),
            Command::Delete { items, .. } | Command::Release { items, .. } => items.len() * ITEM,
            Command::Transact(asked) => {
                let sent = asked.sends.iter().flat_map(|(_, messages)| messages);
                let bytes: usize = sent.map(|message| message.content.size() + BASE).sum();
                bytes + asked.deletes.len() * ITEM
            }
            Command::Region(asked) => asked.size(),
            Command::ReplayTail(asked) => asked.size(),
            Command::StartRedrive(asked) => asked.filter.ids.len() * ITEM,
            _ => 0,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receive {
    pub queue: String,
    pub max_messages: u32,
    /// Stops before the sum of contents passes this, but gives at least one.
    pub max_bytes: u32,
    /// `None` = the queue's default.
    pub visibility: Option<Span>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub queue: String,
    pub id: MessageId,
    pub receipt: Receipt,
    /// `None` keeps the lease as it is.
    pub visibility: Option<Span>,
    /// `None` keeps body and headers.
    pub content: Option<ContentChange>,
}

/// A replaced body, replaced headers, or both. The proposer joins the kept half from the body
/// store before it proposes, so `content` is always whole.
pub type ContentChange = Content;

/// Deletes and sends that all happen, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transact {
    pub deletes: Vec<(String, MessageId, Receipt)>,
    /// Each queue once.
    pub sends: Vec<(String, Vec<NewMessage>)>,
}

/// A wish to send dead letters back; see `redrive.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redrive {
    /// The queue they are in.
    pub queue: String,
    /// Where they go; `None` = each to the queue it came from.
    pub target: Option<String>,
    /// At most so many a second of T.
    pub rate: Option<u32>,
    pub filter: RedriveFilter,
}

/// Which dead letters: those to which all that is given applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedriveFilter {
    /// They came from this queue.
    pub source: Option<String>,
    pub reason: Option<DeadReason>,
    /// They died at this time or later.
    pub dead_since: Option<LogTime>,
    /// They died before this time.
    pub dead_before: Option<LogTime>,
    pub group: Option<String>,
    /// Empty = any.
    pub ids: std::collections::BTreeSet<MessageId>,
}

/// How much the queues of an account may hold together; `None` = no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AccountQuota {
    pub messages: Option<u64>,
    /// Bodies and headers together.
    pub bytes: Option<u64>,
    pub queues: Option<u64>,
}

/// When a released message may be received again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseAfter {
    Now,
    Delay(Span),
    /// As the back-off of its queue says for its dequeue count.
    BackOff,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewMessage {
    pub content: Content,
    pub delay: Span,
    pub ttl: TimeToLive,
    /// 0 is given out first, 9 last.
    pub priority: u8,
    /// The hash of a deduplication key; see `dedup.rs`. In a box, as the group is: a message is
    /// moved often, and few have them.
    pub key: Option<Box<u128>>,
    /// Of the messages of one group only the first may be received; see `groups.rs`.
    pub group: Option<Box<str>>,
}

/// An empty message, visible at once, that lives as long as its queue says.
impl Default for NewMessage {
    fn default() -> NewMessage {
        NewMessage {
            content: Content::default(),
            delay: Span::ZERO,
            ttl: TimeToLive::Default,
            priority: super::limits::DEFAULT_PRIORITY,
            key: None,
            group: None,
        }
    }
}

/// Body and headers: they are stored together, outside the state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    pub body: Bytes,
    pub headers: StringMap,
}

impl Content {
    /// Bytes that count against limits and in `counts.bytes`.
    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len() + self.headers.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeToLive {
    /// The queue's default.
    #[default]
    Default,
    Never,
    For(Span),
}

/// A queue's settings. A new field has a default that means what was so before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `None` = messages live for ever unless they say otherwise.
    pub default_ttl: Option<Span>,
    pub default_visibility: Span,
    pub max_message_bytes: u32,
    /// Where messages go that were given out too often; `None` = they are given out for ever.
    pub dead_letters: Option<DeadLetters>,
    /// How long a message lives that came here by dead-lettering; `None` = for ever.
    pub dead_letter_ttl: Option<Span>,
    pub back_off: BackOff,
    /// How long a deduplication key counts from its send.
    pub deduplication_window: Span,
    pub quota: Quota,
    /// How long the queue can come back after it was deleted; zero = not at all.
    pub undelete_window: Span,
}

/// How much a queue may hold; `None` = as much as the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    pub messages: Option<u64>,
    /// Bodies and headers together.
    pub bytes: Option<u64>,
}

/// How long a message waits that is released by back-off: `first` after its first delivery, and
/// `factor` times as long after each further one, but never longer than `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackOff {
    pub first: Span,
    pub most: Span,
    pub factor: u32,
}

impl Default for BackOff {
    fn default() -> BackOff {
        let (first, most) = super::limits::DEFAULT_BACK_OFF;
        BackOff { first, most, factor: 2 }
    }
}

/// Where a queue's dead letters go, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetters {
    /// A queue of the same account.
    pub queue: String,
    /// A message that was given out so often is a dead letter when its lease runs out.
    pub max_deliveries: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            default_ttl: Some(super::limits::DEFAULT_TTL),
            default_visibility: super::limits::DEFAULT_VISIBILITY,
            max_message_bytes: super::limits::DEFAULT_MESSAGE_BYTES,
            dead_letters: None,
            dead_letter_ttl: None,
            back_off: BackOff::default(),
            deduplication_window: super::limits::DEFAULT_DEDUPLICATION_WINDOW,
            quota: Quota::default(),
            undelete_window: Span::ZERO,
        }
    }
}
