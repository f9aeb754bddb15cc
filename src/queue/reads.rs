//! What may be asked of the state. Nothing here changes it.
//!
//! Reads are evaluated at the state's T; those that take `at` look ahead to a T not before it,
//! so that a leader may ask what would be visible at the stamp it would give now. Each read does
//! bounded work: pages have a greatest size, and a page that met too many unfitting messages
//! ends early, with a token to go on from.

use std::fmt;

use super::catalog::Queue;
use super::command::SessionTag;
use super::dead_letters;
use super::error::Rejection;
use super::ids::{LogTime, MessageId, Number, QueueId, Span};
use super::limits::{PAGE, PEEK_SCAN};
use super::message::Message;
use super::order::Lineup;
use super::order::bands::Band;
use super::outcome::{Counts, Shown, Standing};
use super::ranked::Key;
use super::rows::QueueRow;
use super::state::State;
use super::touch::{self, NEAR};

/// A queue as listings show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueView {
    pub row: QueueRow,
    pub counts: Counts,
    /// When the oldest message still there was sent.
    pub oldest: Option<LogTime>,
    /// How old that message is at the T of the state.
    pub oldest_age: Option<Span>,
    /// An alarm: since when the dead-letter queue refuses a message of this one.
    pub dead_letters_refused_at: Option<LogTime>,
}

/// Where a peek goes on: behind the last untouched and the last touched message it looked at
/// in one priority. Opaque to clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeekToken {
    pub priority: u8,
    pub untouched: Number,
    pub time: LogTime,
    pub touched: Number,
}

impl State {
    #[must_use]
    pub fn queue(&self, account: &str, name: &str) -> Option<QueueView> {
        self.catalog.find(account, name).map(|queue| self.view(queue))
    }

    /// The queues of an account behind the name `after`, by name; and whether there are more.
    #[must_use]
    pub fn queues(
        &self,
        account: &str,
        prefix: &str,
        after: Option<&str>,
        max: usize,
    ) -> (Vec<QueueView>, bool) {
        let max = max.clamp(1, PAGE);
        let mut found = self.catalog.list(account, prefix, after);
        let queues: Vec<&Queue> = found.by_ref().take(max).collect();
        let mut page = Vec::with_capacity(queues.len());
        for near in queues.chunks(NEAR) {
            touch::queues(near);
            page.extend(near.iter().map(|queue| self.view(queue)));
        }
        (page, found.next().is_some())
    }

    /// One message; one past its expiry is not found.
    ///
    /// # Errors
    /// [`Rejection::QueueNotFound`] and [`Rejection::MessageNotFound`].
    pub fn message(&self, account: &str, queue: &str, id: MessageId) -> Result<Shown, Rejection> {
        let found = self.find_queue(account, queue)?;
        let now = self.log_time();
        found
            .lineup
            .find(id.number)
            .filter(|message| message.epoch == id.epoch && !message.is_due(now))
            .map(|message| {
                let lineup = &found.lineup;
                let standing = lineup.standing(&message, now);
                message.shown(found.row.id, standing, lineup.note(id.number).cloned())
            })
            .ok_or_else(|| Rejection::MessageNotFound {
                queue: queue.to_owned(),
                id: id.to_string(),
            })
    }

    /// A page of the messages that stand as asked, in the order of the queue (due ones by
    /// expiry, blocked ones by number), and the token of the next page if there is one. A page may be empty and have a
    /// next.
    ///
    /// # Errors
    /// [`Rejection::QueueNotFound`].
    pub fn peek(
        &self,
        account: &str,
        queue: &str,
        standing: Standing,
        after: Option<PeekToken>,
        max: usize,
    ) -> Result<(Vec<Shown>, Option<PeekToken>), Rejection> {
        let found = self.find_queue(account, queue)?;
        let now = self.log_time();
        let mut page = Page {
            now,
            standing,
            max: max.clamp(1, PAGE),
            scanned: 0,
            shown: Vec::new(),
            token: after.unwrap_or_default(),
            queue: found,
        };
        let more = match standing {
            Standing::Due => page.due(),
            Standing::Blocked => page.blocked(),
            Standing::Visible | Standing::Leased | Standing::Delayed => page.in_order(),
        };
        Ok((page.shown, more.then_some(page.token)))
    }

    /// A page of the dead letters that came to a queue, however they stand, by number.
    ///
    /// # Errors
    /// [`Rejection::QueueNotFound`].
    pub fn peek_dead(
        &self,
        account: &str,
        queue: &str,
        after: Option<PeekToken>,
        max: usize,
    ) -> Result<(Vec<Shown>, Option<PeekToken>), Rejection> {
        let found = self.find_queue(account, queue)?;
        let (lineup, now) = (&found.lineup, self.log_time());
        let (mut token, mut shown) = (after.unwrap_or_default(), Vec::new());
        for _ in 0..PEEK_SCAN {
            let Some(number) = lineup.next_note(token.touched) else { return Ok((shown, None)) };
            if shown.len() >= max.clamp(1, PAGE) {
                return Ok((shown, Some(token)));
            }
            token.touched = number;
            let note = lineup.note(number).filter(|note| note.dead.is_some());
            let Some((note, message)) = note.zip(lineup.find(number)) else { continue };
            let standing = lineup.standing(&message, now);
            if standing != Standing::Due {
                shown.push(message.shown(found.row.id, standing, Some(note.clone())));
            }
        }
        Ok((shown, Some(token)))
    }

    /// How many messages receives at `at` would find; in a paused queue they find none.
    ///
    /// # Errors
    /// [`Rejection::QueueNotFound`].
    pub fn visible(&self, account: &str, queue: &str, at: LogTime) -> Result<u64, Rejection> {
        let id = self.find_queue(account, queue)?.row.id;
        Ok(self.visible_in(id, at).unwrap_or(0))
    }

    /// What leads from a queue's name to it, as long as it has the name.
    ///
    /// # Errors
    /// [`Rejection::QueueNotFound`].
    pub fn queue_id(&self, account: &str, queue: &str) -> Result<QueueId, Rejection> {
        Ok(self.find_queue(account, queue)?.row.id)
    }

    /// As [`State::queue_id`]; `None` also for a queue that is paused.
    #[must_use]
    pub fn receivable(&self, account: &str, queue: &str) -> Option<QueueId> {
        let found = self.catalog.find(account, queue)?;
        (!found.is_paused()).then_some(found.row.id)
    }

    /// As [`State::visible`]; `None` = the queue was deleted.
    #[must_use]
    pub fn visible_in(&self, id: QueueId, at: LogTime) -> Option<u64> {
        let found = self.catalog.by_id(id).filter(|queue| queue.row.kept.is_none())?;
        let at = at.max(self.log_time());
        Some(if found.is_paused() { 0 } else { found.lineup.visible(at) })
    }

    /// Whether a command under this tag was answered before, so that it would not run.
    #[must_use]
    pub fn is_answered(&self, tag: &SessionTag) -> bool {
        self.sessions.answers(tag)
    }

    /// The earliest time after `at` at which a delayed or leased message stops waiting. It
    /// becomes visible then, unless it expires first: who wakes must ask again. `None` in a paused
    /// queue.
    #[must_use]
    pub fn next_visible_in(&self, id: QueueId, at: LogTime) -> Option<LogTime> {
        let found = self.catalog.by_id(id)?;
        if found.is_paused() { None } else { found.lineup.next_change(at.max(self.log_time())) }
    }

    /// When a pulse has work: the earliest expiry or end of a session. It may lie before T.
    #[must_use]
    pub fn next_due(&self) -> Option<LogTime> {
        let expiry = self.catalog.next_expiry().map(|(at, _)| at);
        expiry.into_iter().chain(self.sessions.next_end()).min()
    }

    /// Queues, messages and bytes of contents.
    #[must_use]
    pub fn totals(&self) -> (u64, u64, u64) {
        self.catalog.totals()
    }

    fn find_queue(&self, account: &str, name: &str) -> Result<&Queue, Rejection> {
        let found = self.catalog.find(account, name);
        found.ok_or_else(|| Rejection::QueueNotFound(name.to_owned()))
    }

    pub(super) fn view(&self, queue: &Queue) -> QueueView {
        let (now, oldest) = (self.log_time(), queue.lineup.oldest());
        QueueView {
            row: queue.row.clone(),
            counts: queue.lineup.counts(now),
            oldest,
            oldest_age: oldest.map(|at| now.since(at)),
            dead_letters_refused_at: dead_letters::refused_since(queue),
        }
    }
}

/// A peek at work. `token` follows what it has looked at.
struct Page<'a> {
    now: LogTime,
    standing: Standing,
    max: usize,
    scanned: usize,
    shown: Vec<Shown>,
    token: PeekToken,
    queue: &'a Queue,
}

impl Page<'_> {
    fn full(&self) -> bool {
        self.shown.len() >= self.max || self.scanned >= PEEK_SCAN
    }

    fn look(&mut self, message: &Message) {
        self.scanned += 1;
        let lineup = &self.queue.lineup;
        if lineup.standing(message, self.now) == self.standing {
            let note = lineup.note(message.number).cloned();
            self.shown.push(message.shown(self.queue.row.id, self.standing, note));
        }
    }

    /// True when messages may be left.
    fn in_order(&mut self) -> bool {
        let lineup: &Lineup = &self.queue.lineup;
        for (priority, band) in lineup.bands_from(self.token.priority) {
            if priority != self.token.priority {
                self.token = PeekToken { priority, ..PeekToken::default() };
            }
            if self.band(lineup, priority, band) {
                return true;
            }
        }
        false
    }

    fn band(&mut self, lineup: &Lineup, priority: u8, band: &Band) -> bool {
        let visible = self.standing == Standing::Visible;
        let mut fresh = visible
            .then(|| untouched_after(band, priority, self.token.untouched))
            .into_iter()
            .flatten()
            .peekable();
        let mut back =
            touched_after(band, (self.token.time, self.token.touched), visible, self.now)
                .filter_map(|key| lineup.touched(key.1))
                .peekable();
        loop {
            let order = |message: &Message| (message.visible_at, message.number);
            let fresh_first = match (fresh.peek(), back.peek()) {
                (None, None) => return false,
                (Some(a), Some(b)) => order(a) < order(b),
                (a, _) => a.is_some(),
            };
            if self.full() {
                return true;
            }
            if fresh_first {
                let Some(message) = fresh.next() else { return false };
                self.token.untouched = message.number;
                self.look(&message);
            } else {
                let Some(message) = back.next() else { return false };
                (self.token.time, self.token.touched) = order(message);
                self.look(message);
            }
        }
    }

    fn blocked(&mut self) -> bool {
        for message in self.queue.lineup.touched_after(self.token.touched) {
            if self.full() {
                return true;
            }
            self.token.touched = message.number;
            self.look(message);
        }
        false
    }

    fn due(&mut self) -> bool {
        let lineup = &self.queue.lineup;
        loop {
            let next = lineup.ends().after((self.token.time, self.token.touched));
            let Some(key) = next.filter(|(at, _)| *at <= self.now) else { return false };
            if self.full() {
                return true;
            }
            (self.token.time, self.token.touched) = key;
            if let Some(message) = lineup.find(key.1) {
                self.look(&message);
            }
        }
    }
}

fn untouched_after(band: &Band, priority: u8, after: Number) -> impl Iterator<Item = Message> + '_ {
    band.chunks.from(after).flat_map(move |(_, chunk)| {
        let from = chunk.slots.partition_point(|slot| slot.number <= after);
        chunk.slots.range(from..).map(move |slot| slot.message(chunk.epoch, priority))
    })
}

/// Keys of touched messages behind `after`: those up to now, or those that still wait.
fn touched_after(
    band: &Band,
    after: Key,
    visible: bool,
    now: LogTime,
) -> impl Iterator<Item = Key> + '_ {
    let end = (now, Number(u64::MAX));
    let from = if visible { after } else { after.max(end) };
    let from = (std::ops::Bound::Excluded(from), std::ops::Bound::Unbounded);
    band.waiting.range(from).take_while(move |key| !visible || **key <= end).copied()
}

impl fmt::Display for PeekToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PeekToken { priority, untouched, time, touched } = self;
        write!(f, "{priority:x}-{:x}-{:x}-{:x}", untouched.0, time.0, touched.0)
    }
}

impl PeekToken {
    /// Reads what `Display` wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<PeekToken> {
        let mut parts = text.split('-').map(|part| u64::from_str_radix(part, 16).ok());
        let mut next = || parts.next().flatten();
        let token = PeekToken {
            priority: u8::try_from(next()?).ok()?,
            untouched: Number(next()?),
            time: LogTime(next()?),
            touched: Number(next()?),
        };
        (token.to_string() == text).then_some(token)
    }
}
