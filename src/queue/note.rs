//! What few messages have: kept beside the messages, so that the others do not pay for it.
//!
//! Law: a note lives and dies with its message, and has a part in its digest. It is shared, not
//! copied, between the state, its rows and the outcomes that name it.

use std::sync::Arc;

use super::ids::{LogTime, MessageId, Number};

/// What is known of one message besides what all have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// When it was first and last given out; only in a queue that has a dead-letter queue.
    pub received: Option<(LogTime, LogTime)>,
    pub dead: Option<Dead>,
    pub group: Option<Arc<str>>,
    /// It was sent by a redrive.
    pub redriven: Option<Redriven>,
}

/// The dead letter that a message was before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redriven {
    pub id: MessageId,
    /// The name of the dead-letter queue it was in.
    pub queue: Arc<str>,
    /// What `id` had been made of, where that was sent by a redrive too: the first of the chain.
    pub first: Option<MessageId>,
}

impl Redriven {
    /// The message that a client sent, and redrives made this of.
    #[must_use]
    pub fn origin(&self) -> MessageId {
        self.first.unwrap_or(self.id)
    }
}

/// How a message came to a dead-letter queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dead {
    pub reason: DeadReason,
    /// The name of the queue it came from.
    pub source: String,
    pub at: LogTime,
    /// Its place among the messages of the queue it is in: that of one sent at `at`. Its own
    /// number is older, and may lie below a mark of that queue.
    pub arrived: Number,
    /// How often it had been given out.
    pub deliveries: u32,
    /// First and last time, as far as they are known.
    pub received: Option<(LogTime, LogTime)>,
}

/// Why a message became a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadReason {
    /// Given out as often as its queue allows, and not deleted.
    MaxDeliveries,
}

impl Note {
    /// The place, among the messages of its queue, of the message with this note.
    #[must_use]
    pub fn place(&self, number: Number) -> Number {
        self.dead.as_ref().map_or(number, |dead| dead.arrived)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Note::default()
    }
}
