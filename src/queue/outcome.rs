//! What `apply` answers: one outcome for each command, and the changes it made.

use std::sync::Arc;

use super::authority::command::RegionReply;
use super::command::Content;
use super::error::Rejection;
use super::ids::{ContentId, LogTime, MessageId, QueueId, Receipt};
use super::note::Note;

/// The result of applying one entry.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// One for each command, in order.
    pub outcomes: Vec<Outcome>,
    pub changes: Changes,
    /// T after this entry.
    pub log_time: LogTime,
}

/// What the table writer must know. Rows are named, not carried: it asks the state for them
/// when it commits, so that a row changed many times is written once.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub rows: Vec<super::rows::RowKey>,
    pub contents: Vec<ContentEvent>,
}

#[derive(Clone, Debug)]
pub enum ContentEvent {
    Put(ContentId, Content),
    Drop(ContentId),
    /// Of a second state, beside the contents in use: the id may be that of another one there.
    PutBeside(ContentId, Content),
    DropBeside(ContentId),
    /// A content that was put beside is one of those in use.
    TakeBeside(ContentId),
    /// The contents that were put beside are the ones in use, and all others go.
    Switch,
}

pub type Outcome = Result<Reply, Rejection>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `created` is false when an equal queue was there already.
    QueueCreated {
        created: bool,
    },
    QueueDeleted,
    MetadataSet,
    SettingsSet,
    PausedSet,
    Sent(Vec<Sent>),
    Received {
        messages: Vec<Granted>,
        more: bool,
    },
    Updated {
        receipt: Receipt,
        visible_at: LogTime,
    },
    Deleted(Vec<DeleteOutcome>),
    Released(Vec<ReleaseOutcome>),
    /// The messages sent, in the order of the command; all deletes happened.
    Transacted(Vec<Sent>),
    Cleared {
        removed: u64,
    },
    /// A pulse; `more` says that work is left for another.
    Pulsed {
        more: bool,
    },
    RulesRaised,
    Region(RegionReply),
    QueueUndeleted,
    /// `started` is false when an equal one was running already.
    RedriveStarted {
        id: MessageId,
        started: bool,
    },
    /// `cancelled` is false when it had ended before.
    RedriveCancelled {
        cancelled: bool,
    },
    AccountQuotaSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub id: MessageId,
    pub receipt: Receipt,
    pub inserted_at: LogTime,
    pub expires_at: Option<LogTime>,
    pub visible_at: LogTime,
    /// Nothing was sent: this is what is known of the first message with the same key.
    pub duplicate: bool,
}

/// A message under a new lease. The content is read from the body store by its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    pub id: MessageId,
    pub receipt: Receipt,
    pub content: ContentId,
    pub inserted_at: LogTime,
    pub expires_at: Option<LogTime>,
    pub visible_at: LogTime,
    pub dequeue_count: u32,
    pub priority: u8,
    pub note: Option<Arc<Note>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeleteOutcome {
    Deleted,
    MessageNotFound,
    ReceiptMismatch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseOutcome {
    Released { visible_at: LogTime },
    MessageNotFound,
    ReceiptMismatch,
}

/// How a message stands at the T of the state that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Visible,
    Leased,
    /// Sent with a delay, or released to come back later.
    Delayed,
    /// Behind the head of its group.
    Blocked,
    /// Past its expiry or its last lease, not yet removed; never delivered.
    Due,
}

/// A message as peek and get show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub id: MessageId,
    pub queue: QueueId,
    pub content: ContentId,
    pub inserted_at: LogTime,
    pub expires_at: Option<LogTime>,
    pub visible_at: LogTime,
    pub dequeue_count: u32,
    pub priority: u8,
    pub standing: Standing,
    pub note: Option<Arc<Note>>,
}

/// Exact counts for the state after the last entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub visible: u64,
    pub leased: u64,
    pub delayed: u64,
    pub blocked: u64,
    pub due: u64,
    pub total: u64,
    pub bytes: u64,
}
