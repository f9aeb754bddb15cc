//! A message as `apply` sees it, and the small form in which an untouched one is kept.
//!
//! Law: a [`Slot`] says the same as the [`Message`] it was made from. It can, because an
//! untouched message's receipt and content carry its own number and it is visible from the
//! moment it was sent.

use std::sync::Arc;

use super::ids::{ContentId, Epoch, LogTime, MessageId, Number, QueueId, Receipt};
use super::note::Note;
use super::outcome::{Shown, Standing};
use super::rows::{MessageRow, Untouched};

/// Everything the state knows of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
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
    /// Its last lease: when that has run out, the message is due, and goes to the dead letters.
    pub last: bool,
    /// Given back by its last receiver: while it waits, nobody holds it.
    pub released: bool,
}

impl Message {
    #[must_use]
    pub fn id(&self) -> MessageId {
        MessageId { epoch: self.epoch, number: self.number }
    }

    /// Past its expiry, or the end of its last lease, at `now`: it is never delivered, shown or
    /// changed again in this queue.
    #[must_use]
    pub fn is_due(&self, now: LogTime) -> bool {
        self.due_at().is_some_and(|at| at <= now)
    }

    /// When it becomes due.
    #[must_use]
    pub fn due_at(&self) -> Option<LogTime> {
        if self.last { Some(self.waits_until()) } else { self.expires_at }
    }

    #[must_use]
    pub fn is_expired(&self, now: LogTime) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// When a message that waits stops waiting: it becomes visible or, if that is sooner, due.
    #[must_use]
    pub fn waits_until(&self) -> LogTime {
        self.expires_at.map_or(self.visible_at, |at| at.min(self.visible_at))
    }

    /// Whether it was given out and not given back: if it waits, it waits under a lease.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.dequeue_count > 0 && !self.released
    }

    /// How it stands if no head of a group is before it.
    #[must_use]
    pub fn standing(&self, now: LogTime) -> Standing {
        if self.is_due(now) {
            Standing::Due
        } else if self.visible_at <= now {
            Standing::Visible
        } else if self.is_held() {
            Standing::Leased
        } else {
            Standing::Delayed
        }
    }

    #[must_use]
    pub fn shown(&self, queue: QueueId, standing: Standing, note: Option<Arc<Note>>) -> Shown {
        Shown {
            id: self.id(),
            queue,
            content: self.content,
            inserted_at: self.inserted_at,
            expires_at: self.expires_at,
            visible_at: self.visible_at,
            dequeue_count: self.dequeue_count,
            priority: self.priority,
            standing,
            note,
        }
    }

    #[must_use]
    pub fn as_row(&self, queue: QueueId, note: Option<Arc<Note>>) -> MessageRow {
        MessageRow {
            queue,
            number: self.number,
            epoch: self.epoch,
            priority: self.priority,
            inserted_at: self.inserted_at,
            expires_at: self.expires_at,
            visible_at: self.visible_at,
            dequeue_count: self.dequeue_count,
            receipt: self.receipt,
            content: self.content,
            size: self.size,
            last: self.last,
            released: self.released,
            note,
        }
    }

    #[must_use]
    pub fn from_row(row: &MessageRow) -> Message {
        Message {
            number: row.number,
            epoch: row.epoch,
            priority: row.priority,
            inserted_at: row.inserted_at,
            expires_at: row.expires_at,
            visible_at: row.visible_at,
            dequeue_count: row.dequeue_count,
            receipt: row.receipt,
            content: row.content,
            size: row.size,
            last: row.last,
            released: row.released,
        }
    }
}

/// An untouched message in 32 bytes; `u64::MAX` stands for "never expires".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    pub number: Number,
    pub inserted_at: LogTime,
    expires: u64,
    pub size: u32,
}

impl Slot {
    #[must_use]
    pub fn of(message: &Message) -> Slot {
        Slot {
            number: message.number,
            inserted_at: message.inserted_at,
            expires: message.expires_at.map_or(u64::MAX, |at| at.0),
            size: message.size,
        }
    }

    #[must_use]
    pub fn from_row(row: &Untouched) -> Slot {
        Slot {
            number: row.number,
            inserted_at: row.inserted_at,
            expires: row.expires_at.map_or(u64::MAX, |at| at.0),
            size: row.size,
        }
    }

    #[must_use]
    pub fn to_row(self) -> Untouched {
        Untouched {
            number: self.number,
            inserted_at: self.inserted_at,
            expires_at: self.expires_at(),
            size: self.size,
        }
    }

    #[must_use]
    pub fn expires_at(self) -> Option<LogTime> {
        (self.expires != u64::MAX).then_some(LogTime(self.expires))
    }

    /// The whole message, given what its chunk knows of all its messages.
    #[must_use]
    pub fn message(self, epoch: Epoch, priority: u8) -> Message {
        Message {
            number: self.number,
            epoch,
            priority,
            inserted_at: self.inserted_at,
            expires_at: self.expires_at(),
            visible_at: self.inserted_at,
            dequeue_count: 0,
            receipt: Receipt { epoch, counter: self.number.0 },
            content: ContentId(self.number.0),
            size: self.size,
            last: false,
            released: false,
        }
    }
}
