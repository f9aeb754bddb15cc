//! What a deposed primary has alone: the messages that it gave numbers after the fork.
//!
//! Law: both sides share one history up to the fork, and numbers only grow in it; so a message
//! that is alive here is of the tail if, and only if, its number is the fork's or a higher one.

use crate::queue::ids::{Number, QueueId};
use crate::queue::limits::PAGE;
use crate::queue::message::Message;
use crate::queue::outcome::{Shown, Standing};
use crate::queue::state::State;

/// A message of the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailMessage {
    pub account: String,
    pub queue: String,
    pub shown: Shown,
}

/// Where a listing of the tail goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TailCursor {
    queue: QueueId,
    number: Number,
}

impl State {
    /// Messages alive whose number is `from` or a higher one, by queue and number; and where the
    /// next page begins, if there is one. A page may be empty and have a next.
    #[must_use]
    pub fn tail(
        &self,
        from: Number,
        after: Option<TailCursor>,
        max: usize,
    ) -> (Vec<TailMessage>, Option<TailCursor>) {
        let (max, now) = (max.clamp(1, PAGE), self.log_time());
        let mut found = Vec::new();
        for queue in self.catalog.all() {
            let id = queue.row.id;
            let first = match after {
                Some(cursor) if id < cursor.queue => continue,
                Some(cursor) if id == cursor.queue => from.max(Number(cursor.number.0 + 1)),
                _ => from,
            };
            let room = max - found.len();
            let page: Vec<Message> = queue.lineup.numbered_from(first, room);
            let last = page.last().map(|message| message.number);
            let full = page.len() == room;
            found.extend(page.into_iter().filter(|message| !message.is_due(now)).map(|message| {
                let standing = queue.lineup.standing(&message, now);
                let note = queue.lineup.note(message.number).cloned();
                TailMessage {
                    account: queue.row.account.clone(),
                    queue: queue.row.name.clone(),
                    shown: message.shown(id, standing, note),
                }
            }));
            if let (true, Some(number)) = (full, last) {
                return (found, Some(TailCursor { queue: id, number }));
            }
        }
        (found, None)
    }
}

impl TailMessage {
    /// Whether somebody works on it at the moment.
    #[must_use]
    pub fn is_leased(&self) -> bool {
        self.shown.standing == Standing::Leased
    }
}
