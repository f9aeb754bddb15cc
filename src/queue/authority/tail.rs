//! What a deposed primary has alone: the messages that it gave numbers after the fork.
//!
//! Laws:
//! * Both sides share one history up to the fork, and numbers only grow in it; so a message that is
//!   alive here is of the tail if, and only if, its number is the fork's or a higher one.
//! * What is listed is what a replay goes through. A message that was due when this side was fenced
//!   is never removed or moved any more: it is listed too, with why it is due.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::replay::{TailQueue, TailSend, TailSession, TailUnit};
use crate::queue::catalog::Queue;
use crate::queue::command::Content;
use crate::queue::ids::{ContentId, LogTime, MessageId, Number, QueueId};
use crate::queue::limits::{BATCH, PAGE};
use crate::queue::message::Message;
use crate::queue::note::Note;
use crate::queue::outcome::{Reply, Sent, Shown};
use crate::queue::rows::QueueRow;
use crate::queue::session::Fate;
use crate::queue::state::State;

/// A message of the tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailMessage {
    pub account: String,
    pub queue: String,
    pub shown: Shown,
    /// Why it would not be here any more, had this side gone on.
    pub due: Option<Due>,
}

/// Why a message is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// It would have been removed, or moved to the dead letters.
    Expired,
    /// Its last delivery is over: it would have been moved to the dead letters.
    LastDeliveryOver,
}

impl Due {
    fn of(message: &Message, now: LogTime) -> Option<Due> {
        let why = if message.is_expired(now) { Due::Expired } else { Due::LastDeliveryOver };
        message.is_due(now).then_some(why)
    }
}

/// Where a listing of the tail goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TailCursor {
    queue: QueueId,
    number: Number,
}

impl State {
    /// Messages whose number is `from` or a higher one, by queue and number, those that are due
    /// among them; and where the next page begins, if there is one. A page may be empty and have a
    /// next. Those of a deleted queue are deleted with it, though that may still be undeleted.
    #[must_use]
    pub fn tail(
        &self,
        from: Number,
        after: Option<TailCursor>,
        max: usize,
    ) -> (Vec<TailMessage>, Option<TailCursor>) {
        let (max, now) = (max.clamp(1, PAGE), self.log_time());
        let mut found = Vec::new();
        for queue in self.catalog.all().filter(|queue| queue.row.kept.is_none()) {
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
            found.extend(page.into_iter().map(|message| {
                let standing = queue.lineup.standing(&message, now);
                let note = queue.lineup.note(message.number).cloned();
                TailMessage {
                    account: queue.row.account.clone(),
                    queue: queue.row.name.clone(),
                    due: Due::of(&message, now),
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

/// Messages alive of a tail, in the order of their numbers, with what must be known to send them
/// again: which send they came in, and under which key.
#[derive(Clone, Debug, Default)]
pub struct TailWindow {
    messages: BTreeMap<Number, QueueId>,
    /// Sends whose answers are kept, and which numbers they gave.
    sessions: Vec<TailSession>,
    sent_in: BTreeMap<Number, usize>,
    keys: BTreeMap<Number, u128>,
    /// A send that begins behind it may be cut off here.
    whole_through: Number,
    is_last: bool,
}

/// What of a window is sent at once; contents are named, and read without the state.
#[derive(Clone, Debug, Default)]
pub struct TailPart {
    pub through: Number,
    /// There is no more.
    pub last: bool,
    /// This side's log time, which is that of the tail's end.
    pub ended_at: LogTime,
    pub queues: Vec<TailQueue>,
    pub units: Vec<TailUnit>,
    /// When each unit was sent, in order.
    pub sent_at: Vec<LogTime>,
    /// Of each message, in order.
    pub contents: Vec<ContentId>,
}

impl State {
    /// Whether a message is there.
    #[must_use]
    pub fn holds(&self, account: &str, queue: &str, id: MessageId) -> bool {
        let queue = self.catalog.find(account, queue);
        let found = queue.and_then(|queue| queue.lineup.find(id.number));
        found.is_some_and(|message| message.id() == id)
    }

    /// Whether a client has finished a sequence whose outcome is not kept here.
    #[must_use]
    pub fn is_forgotten(&self, client: u128, sequence: u64) -> bool {
        self.sessions.fate(client, sequence) == Fate::Forgotten
    }
}

impl TailWindow {
    /// Whether parts after this number must be taken from another window.
    #[must_use]
    pub fn is_spent(&self, after: Number) -> bool {
        !self.is_last && after >= self.whole_through
    }
}

impl State {
    /// The first `most` messages alive with numbers from `from` on, and those of the send that
    /// the last of them came in. What is due is among them: whether it expired is another's to say.
    #[must_use]
    pub fn tail_window(&self, from: Number, most: usize) -> TailWindow {
        let wanted = most.max(1) + BATCH;
        let mut found: Vec<(Number, QueueId)> = Vec::new();
        let mut is_last = true;
        for queue in self.catalog.all().filter(|queue| queue.row.kept.is_none()) {
            let page = queue.lineup.numbered_from(from, wanted + 1);
            found.extend(page.into_iter().map(|message| (message.number, queue.row.id)));
            if found.len() > wanted {
                is_last = false;
                found.sort_unstable();
                found.truncate(wanted);
            }
        }
        found.sort_unstable();
        let whole = if is_last { found.last() } else { found.get(most.max(1) - 1) };
        let whole_through = whole.map_or(from, |(number, _)| *number);
        let messages: BTreeMap<Number, QueueId> = found.into_iter().collect();
        let mut window = TailWindow { messages, whole_through, is_last, ..TailWindow::default() };
        self.note_sessions(&mut window);
        self.note_keys(&mut window);
        window
    }

    fn note_sessions(&self, window: &mut TailWindow) {
        for (client, sequence, reply) in self.sessions.kept_sends() {
            let (answer, transacted) = match reply {
                Reply::Sent(answer) => (answer, false),
                Reply::Transacted(answer) => (answer, true),
                _ => continue,
            };
            let here =
                |sent: &&Sent| !sent.duplicate && window.messages.contains_key(&sent.id.number);
            let numbers: Vec<Number> = answer.iter().filter(here).map(|it| it.id.number).collect();
            if numbers.is_empty() {
                continue;
            }
            let at = window.sessions.len();
            window.sent_in.extend(numbers.into_iter().map(|number| (number, at)));
            let answer = answer.clone();
            let ran = None;
            window.sessions.push(TailSession { client, sequence, transacted, answer, ran });
        }
    }

    fn note_keys(&self, window: &mut TailWindow) {
        let queues: BTreeSet<QueueId> = window.messages.values().copied().collect();
        let redriven = self.redriven(window);
        let now = self.log_time();
        for queue in queues.into_iter().filter_map(|id| self.catalog.by_id(id)) {
            let is_here = |number: &Number| window.messages.get(number) == Some(&queue.row.id);
            for (key, kept) in queue.keys.all().filter(|(_, kept)| kept.until > now) {
                // A redrive made a message of the one that had the key.
                let copy = redriven.get(&kept.id).copied();
                let number = copy.filter(is_here).unwrap_or(kept.id.number);
                if window.messages.contains_key(&number) {
                    window.keys.insert(number, key);
                }
            }
        }
    }

    /// What redrives made messages of the window of.
    fn redriven(&self, window: &TailWindow) -> BTreeMap<MessageId, Number> {
        let origin = |(number, id): (&Number, &QueueId)| {
            let note = self.catalog.by_id(*id)?.lineup.note(*number)?;
            Some((note.redriven.as_ref()?.origin(), *number))
        };
        window.messages.iter().filter_map(origin).collect()
    }

    /// The next part of a window: messages behind `after`, whole sends, at least one and at most
    /// [`BATCH`] messages, and about `bytes`. With `all`, queues say how they are made.
    #[must_use]
    pub fn tail_part(
        &self,
        window: &TailWindow,
        after: Number,
        (bytes, all): (usize, bool),
    ) -> TailPart {
        let ended_at = self.log_time();
        let mut part = TailPart { through: after, ended_at, ..TailPart::default() };
        let mut places = BTreeMap::new();
        let mut size = 0;
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        for (number, _) in window.messages.range(behind) {
            if *number <= part.through {
                continue;
            }
            let cut = *number > window.whole_through && !window.is_last;
            if cut || size >= bytes {
                return part;
            }
            let session = window.sent_in.get(number).and_then(|at| window.sessions.get(*at));
            let numbers = match session {
                Some(session) => {
                    let own = session.answer.iter().filter(|sent| !sent.duplicate);
                    own.map(|sent| sent.id.number).collect()
                }
                None => vec![*number],
            };
            let alive: Vec<_> = numbers
                .into_iter()
                .filter(|it| it >= number)
                .filter_map(|it| Some((it, self.catalog.by_id(*window.messages.get(&it)?)?)))
                .collect();
            let most = part.contents.len().max(part.queues.len()) + alive.len();
            if !part.units.is_empty() && most > BATCH {
                return part;
            }
            let mut unit = TailUnit { session: session.cloned(), messages: Vec::new() };
            let mut sent_at = LogTime(0);
            for (number, queue) in alive {
                let Some(message) = queue.lineup.find(number) else { continue };
                sent_at = message.inserted_at;
                let at = *places.entry(queue.row.id).or_insert_with(|| {
                    part.queues.push(tail_queue(&queue.row, all));
                    part.queues.len() as u32 - 1
                });
                size += message.size as usize;
                part.contents.push(message.content);
                part.through = part.through.max(number);
                unit.messages.push(self.tail_send(queue, &message, (at, window)));
            }
            part.units.push(unit);
            part.sent_at.push(sent_at);
        }
        part.last = window.is_last;
        part
    }

    fn tail_send(
        &self,
        queue: &Queue,
        message: &Message,
        (at, window): (u32, &TailWindow),
    ) -> TailSend {
        let waits = message.visible_at > self.log_time() && !message.is_held();
        TailSend {
            queue: at,
            id: message.id(),
            content: Content::default(),
            priority: message.priority,
            expires_at: message.expires_at,
            visible_at: if waits { message.visible_at } else { LogTime(0) },
            key: window.keys.get(&message.number).copied(),
            note: queue.lineup.note(message.number).map(|it| sent_anew(it)).unwrap_or_default(),
        }
    }
}

/// Nobody has received it yet, where it goes.
fn sent_anew(note: &Note) -> Note {
    Note { received: None, ..note.clone() }
}

fn tail_queue(row: &QueueRow, all: bool) -> TailQueue {
    TailQueue {
        id: row.id,
        account: row.account.clone(),
        name: row.name.clone(),
        created_at: row.created_at,
        make: all.then(|| Box::new((row.metadata.clone(), row.settings.clone()))),
    }
}
