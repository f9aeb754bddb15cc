//! The messages of one queue, in order, with their counts.
//!
//! Order: priority (0 first), then visible time, then number. Untouched messages stand in
//! chunks in send order (`order/chunks.rs`), for each priority; only delayed, leased, returned
//! and updated ones have a tree node of their own. A message leaves its chunk at the first grant.
//!
//! Nothing moves because T moved. Visible or not is one comparison with T, and the counts are
//! questions to three ordered sets of times (see `ranked.rs`):
//!
//! * `ends`: the expiry of every message that has one, or the end of its last lease if that is
//!   sooner. Due = those up to T.
//! * `leases`, `delays`: when each touched message stops waiting (its visible time or its
//!   expiry, what comes first). Leased and delayed = those after T.
//! * blocked: those behind the head of their group (see `groups.rs`), in none of the sets but
//!   `ends`.
//! * visible = all that is left.
//!
//! So counts are exact at any T from the last entry on, at O(log n), and an entry in which a
//! million leases lapse does nothing for them. `ends` also finds the expired, so chunks need not
//! know their earliest expiry.
//!
//! Law: each change keeps `sum`, the digest of the messages, and names the row it changed.

pub(super) mod bands;
pub mod chunks;
mod numbered;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bands::{Band, Bands};
use chunks::{Chunk, MOST_IN_CHUNK};

use super::digest;
use super::groups::{Groups, Member};
use super::ids::{ContentId, LogTime, Number, QueueId};
use super::message::{Message, Slot};
use super::note::Note;
use super::outcome::{Changes, Counts, Standing};
use super::ranked::Ranked;
use super::rows::{ChunkRow, MessageRow, RowKey};

#[derive(Clone, Debug)]
pub struct Lineup {
    queue: QueueId,
    bands: Bands,
    touched: BTreeMap<Number, Message>,
    /// What few of the touched have.
    notes: BTreeMap<Number, Arc<Note>>,
    groups: Groups,
    ends: Ranked,
    leases: Ranked,
    delays: Ranked,
    total: u64,
    bytes: u64,
    sum: u128,
}

impl Lineup {
    #[must_use]
    pub fn new(queue: QueueId) -> Lineup {
        Lineup {
            queue,
            bands: Bands::default(),
            touched: BTreeMap::new(),
            notes: BTreeMap::new(),
            groups: Groups::default(),
            ends: Ranked::default(),
            leases: Ranked::default(),
            delays: Ranked::default(),
            total: 0,
            bytes: 0,
            sum: 0,
        }
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.total
    }

    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The sum of the hashes of all messages.
    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum
    }

    #[must_use]
    pub fn counts(&self, now: LogTime) -> Counts {
        let due = self.ends.up_to(now) as u64;
        let leased = (self.leases.len() - self.leases.up_to(now)) as u64;
        let delayed = (self.delays.len() - self.delays.up_to(now)) as u64;
        let blocked = self.groups.blocked(now);
        Counts {
            visible: self.total - due - leased - delayed - blocked,
            leased,
            delayed,
            blocked,
            due,
            total: self.total,
            bytes: self.bytes,
        }
    }

    #[must_use]
    pub fn visible(&self, now: LogTime) -> u64 {
        self.counts(now).visible
    }

    /// When the first message becomes due.
    #[must_use]
    pub fn earliest_end(&self) -> Option<LogTime> {
        self.ends.first().map(|(at, _)| at)
    }

    /// When the oldest message was sent: numbers grow with time.
    #[must_use]
    pub fn oldest(&self) -> Option<LogTime> {
        let touched = self.touched.first_key_value().map(|(number, m)| (*number, m.inserted_at));
        self.bands
            .iter()
            .filter_map(|(_, band)| band.chunks.head())
            .map(|(_, slot)| (slot.number, slot.inserted_at))
            .chain(touched)
            .min()
            .map(|(_, at)| at)
    }

    /// The first time after `now` at which a waiting message stops waiting. One that expires
    /// before its lease ends counts with its expiry.
    #[must_use]
    pub fn next_change(&self, now: LogTime) -> Option<LogTime> {
        let end = (now, Number(u64::MAX));
        let times = [self.leases.after(end), self.delays.after(end)];
        times.into_iter().flatten().map(|(at, _)| at).min()
    }

    /// The message that became due first, if one has.
    #[must_use]
    pub fn first_due(&self, now: LogTime) -> Option<Number> {
        self.ends.first().filter(|(at, _)| *at <= now).map(|(_, number)| number)
    }

    pub(super) fn bands_from(&self, priority: u8) -> impl Iterator<Item = (u8, &Band)> {
        self.bands.from(priority)
    }

    /// Reads something of each line that this takes, and the ends of what a send lengthens; see
    /// `touch.rs`.
    pub(super) fn touch(&self) -> u64 {
        let sets = [&self.leases, &self.delays, self.groups.ends()].map(Ranked::len);
        let within = [sets.iter().sum(), self.notes.len(), self.touched.len()];
        let slots = self.bands.iter().filter_map(|(_, band)| band.chunks.tail());
        let last = self.ends.last().map_or(0, |(at, _)| at.0);
        let read = slots.map(|slot| slot.number.0).fold(last, u64::wrapping_add);
        read.wrapping_add(within.iter().sum::<usize>() as u64)
    }

    pub(super) fn ends(&self) -> &Ranked {
        &self.ends
    }

    pub(super) fn touched(&self, number: Number) -> Option<&Message> {
        self.touched.get(&number)
    }

    /// How a message of this queue stands.
    #[must_use]
    pub fn standing(&self, message: &Message, now: LogTime) -> Standing {
        match message.standing(now) {
            Standing::Due => Standing::Due,
            _ if !self.stands(message.number) => Standing::Blocked,
            standing => standing,
        }
    }

    /// The next message behind a number that has a note.
    #[must_use]
    pub fn next_note(&self, after: Number) -> Option<Number> {
        let from = (Bound::Excluded(after), Bound::Unbounded);
        self.notes.range(from).next().map(|(number, _)| *number)
    }

    /// Whether the head of a message's group is under a lease.
    #[must_use]
    pub fn is_behind_a_lease(&self, number: Number, now: LogTime) -> bool {
        let head = self.membership(number).and_then(|(group, _)| self.groups.head(&group));
        let head = head.and_then(|(_, head)| self.touched.get(&head));
        head.is_some_and(|head| head.standing(now) == Standing::Leased)
    }

    /// Touched messages behind a number, in the order of numbers.
    pub(super) fn touched_after(&self, after: Number) -> impl Iterator<Item = &Message> {
        let from = (Bound::Excluded(after), Bound::Unbounded);
        self.touched.range(from).map(|(_, message)| message)
    }

    /// The name of a group as it is kept already.
    #[must_use]
    pub fn group_name(&self, group: &str) -> Arc<str> {
        self.groups.name(group)
    }

    #[must_use]
    pub fn note(&self, number: Number) -> Option<&Arc<Note>> {
        self.notes.get(&number)
    }

    /// Changes the note of a touched message; an empty one is none.
    pub fn set_note(&mut self, number: Number, note: Note) {
        let hash = |note: &Note| digest::note(self.queue, number, note);
        if let Some(before) = self.notes.get(&number) {
            self.sum = self.sum.wrapping_sub(hash(before));
        }
        if note.is_empty() {
            self.notes.remove(&number);
        } else {
            self.sum = self.sum.wrapping_add(hash(&note));
            self.notes.insert(number, Arc::new(note));
        }
    }

    #[must_use]
    pub fn find(&self, number: Number) -> Option<Message> {
        if let Some(message) = self.touched.get(&number) {
            return Some(*message);
        }
        self.bands.iter().find_map(|(priority, band)| {
            let (epoch, slot) = band.chunks.find(number)?;
            Some(slot.message(epoch, priority))
        })
    }

    /// The message that stands first of those whose visible time has come, due ones included.
    #[must_use]
    pub fn head(&self, now: LogTime) -> Option<Message> {
        self.bands.iter().find_map(|(priority, band)| {
            let fresh = band.chunks.head().map(|(epoch, slot)| slot.message(epoch, priority));
            let back = band.waiting.first().filter(|(at, _)| *at <= now);
            match (fresh, back) {
                (Some(m), Some(key)) if *key < (m.visible_at, m.number) => {
                    self.touched.get(&key.1).copied()
                }
                (None, Some(key)) => self.touched.get(&key.1).copied(),
                (fresh, _) => fresh,
            }
        })
    }

    /// Adds a message just sent and never delayed, behind all others of its priority.
    pub fn add_untouched(&mut self, message: &Message, changes: &mut Changes) {
        let first = self.bands.open(message.priority).chunks.push(message);
        changes.row(RowKey::Chunk { queue: self.queue, priority: message.priority, first });
        self.sum = self.sum.wrapping_add(digest::message(self.queue, message));
        self.count_in(message);
    }

    /// Adds a message that needs a node of its own. Its note must be set before.
    pub fn add_touched(&mut self, message: Message, changes: &mut Changes) {
        self.count_in(&message);
        if let Some((group, member)) = self.membership(message.number) {
            self.join(&group, member, &message);
        }
        self.link(message, changes);
    }

    fn membership(&self, number: Number) -> Option<(Arc<str>, Member)> {
        if self.notes.is_empty() || crate::mutants::is_chosen("groups-ignored") {
            return None;
        }
        let note = self.notes.get(&number)?;
        Some((Arc::clone(note.group.as_ref()?), (note.place(number), number)))
    }

    /// Whether a message stands in the order: it has no group, or is the head of its own.
    fn stands(&self, number: Number) -> bool {
        let membership = self.membership(number);
        membership.is_none_or(|(group, member)| self.groups.is_head(&group, member))
    }

    fn join(&mut self, group: &Arc<str>, member: Member, message: &Message) {
        let before = self.groups.head(group);
        self.groups.join(group, member);
        match before {
            Some(head) if member < head => {
                if let Some(head) = self.touched.get(&head.1).copied() {
                    self.step_out(&head);
                    self.groups.block(&head);
                }
            }
            Some(_) => self.groups.block(message),
            None => {}
        }
    }

    /// A message leaves its group for good; the next one stands in its place.
    fn leave(&mut self, message: &Message) {
        let Some((group, member)) = self.membership(message.number) else { return };
        if !self.groups.is_head(&group, member) {
            self.groups.unblock(message);
        }
        if let Some((_, next)) = self.groups.leave(&group, member)
            && let Some(next) = self.touched.get(&next).copied()
        {
            self.groups.unblock(&next);
            self.step_in(&next);
        }
    }

    /// Takes a message out altogether.
    pub fn remove(&mut self, message: &Message, changes: &mut Changes) {
        self.unlink(message, changes);
        if !self.notes.is_empty() {
            self.leave(message);
            self.set_note(message.number, Note::default());
        }
        if let Some(at) = message.due_at() {
            self.ends.remove((at, message.number));
        }
        self.total -= 1;
        self.bytes -= u64::from(message.size);
    }

    /// Takes a message out of the order, to be put back by [`Lineup::put_back`] in this entry:
    /// totals and expiries keep it meanwhile.
    pub fn unlink(&mut self, message: &Message, changes: &mut Changes) {
        self.sum = self.sum.wrapping_sub(digest::message(self.queue, message));
        if self.touched.remove(&message.number).is_some() {
            if self.stands(message.number) {
                self.step_out(message);
            }
            changes.row(RowKey::Message { queue: self.queue, number: message.number });
            return;
        }
        let priority = message.priority;
        let Some(band) = self.bands.get_mut(priority) else { return };
        if let Some(first) = band.chunks.remove(message.number) {
            changes.row(RowKey::Chunk { queue: self.queue, priority, first });
        }
        self.bands.drop_if_empty(priority);
    }

    /// Puts back what [`Lineup::unlink`] took, as it is now; its size may differ from `before`.
    pub fn put_back(&mut self, before: &Message, message: Message, changes: &mut Changes) {
        self.bytes = self.bytes - u64::from(before.size) + u64::from(message.size);
        let (was, is) = (before.due_at(), message.due_at());
        if was != is {
            if let Some(at) = was {
                self.ends.remove((at, message.number));
            }
            if let Some(at) = is {
                self.ends.insert((at, message.number));
            }
        }
        self.link(message, changes);
    }

    fn link(&mut self, message: Message, changes: &mut Changes) {
        self.sum = self.sum.wrapping_add(digest::message(self.queue, &message));
        if self.stands(message.number) {
            self.step_in(&message);
        }
        changes.row(RowKey::Message { queue: self.queue, number: message.number });
        self.touched.insert(message.number, message);
    }

    /// A touched message takes its place in the order.
    fn step_in(&mut self, message: &Message) {
        let band = self.bands.open(message.priority);
        band.waiting.insert((message.visible_at, message.number));
        let key = (message.waits_until(), message.number);
        let set = if message.is_held() { &mut self.leases } else { &mut self.delays };
        set.insert(key);
    }

    fn step_out(&mut self, message: &Message) {
        let key = (message.waits_until(), message.number);
        let set = if message.is_held() { &mut self.leases } else { &mut self.delays };
        set.remove(key);
        let Some(band) = self.bands.get_mut(message.priority) else { return };
        band.waiting.remove(&(message.visible_at, message.number));
        self.bands.drop_if_empty(message.priority);
    }

    fn count_in(&mut self, message: &Message) {
        if let Some(at) = message.due_at() {
            self.ends.insert((at, message.number));
        }
        self.total += 1;
        self.bytes += u64::from(message.size);
    }
}

/// Rows: what the tables hold of a lineup.
impl Lineup {
    #[must_use]
    pub fn chunk_len(&self, priority: u8, first: Number) -> Option<usize> {
        Some(self.bands.get(priority)?.chunks.get(first)?.slots.len())
    }

    #[must_use]
    pub fn chunk_row(&self, priority: u8, first: Number) -> Option<ChunkRow> {
        let chunk = self.bands.get(priority)?.chunks.get(first)?;
        let messages = chunk.slots.iter().map(|slot| slot.to_row()).collect();
        Some(ChunkRow { queue: self.queue, priority, first, epoch: chunk.epoch, messages })
    }

    #[must_use]
    pub fn message_row(&self, number: Number) -> Option<MessageRow> {
        let note = || self.notes.get(&number).cloned();
        self.touched.get(&number).map(|message| message.as_row(self.queue, note()))
    }

    pub fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        let queue = self.queue;
        let chunks = self.bands.iter().flat_map(move |(priority, band)| {
            band.chunks.iter().map(move |(first, _)| RowKey::Chunk { queue, priority, first })
        });
        let touched =
            self.touched.keys().map(move |number| RowKey::Message { queue, number: *number });
        chunks.chain(touched)
    }

    /// Takes in a chunk as it was stored; false when its messages are out of order, too many, or
    /// meet those of another chunk.
    #[must_use]
    pub fn load_chunk(&mut self, row: &ChunkRow) -> bool {
        let numbers = || row.messages.iter().map(|m| m.number);
        let ascending = numbers().zip(numbers().skip(1)).all(|(a, b)| a < b);
        let begins = row.messages.first().is_some_and(|m| m.number >= row.first);
        let band = self.bands.open(row.priority);
        let clear = band.chunks.tail().is_none_or(|slot| slot.number < row.first);
        if !ascending || !begins || !clear || row.messages.len() > MOST_IN_CHUNK {
            return false;
        }
        let slots: VecDeque<Slot> = row.messages.iter().map(Slot::from_row).collect();
        for slot in &slots {
            let message = slot.message(row.epoch, row.priority);
            self.sum = self.sum.wrapping_add(digest::message(self.queue, &message));
            self.count_in(&message);
        }
        let band = self.bands.open(row.priority);
        band.chunks.add(row.first, Chunk { epoch: row.epoch, slots });
        true
    }

    /// Takes in a message as it was stored; false when it is there already.
    #[must_use]
    pub fn load_message(&mut self, row: &MessageRow) -> bool {
        if self.find(row.number).is_some() {
            return false;
        }
        if let Some(note) = &row.note {
            let mut note = Note::clone(note);
            note.group = note.group.map(|group| self.groups.name(&group));
            self.set_note(row.number, note);
        }
        self.add_touched(Message::from_row(row), &mut Changes::default());
        true
    }
}

/// Freeing a lineup that nothing reads any more.
impl Lineup {
    /// Frees up to `max` messages (or, when none are left, blocks of times) and names their rows
    /// and contents. Answers how many; 0 = nothing is left.
    pub fn shed(&mut self, max: usize, changes: &mut Changes) -> usize {
        let mut freed = 0;
        while freed < max {
            if let Some((number, message)) = self.touched.pop_first() {
                changes.drop_content(message.content);
                changes.row(RowKey::Message { queue: self.queue, number });
                if let Some((group, member)) = self.membership(number) {
                    if !self.groups.is_head(&group, member) {
                        self.groups.unblock(&message);
                    }
                    if let Some((_, next)) = self.groups.leave(&group, member)
                        && let Some(next) = self.touched.get(&next)
                    {
                        self.groups.unblock(next);
                    }
                }
                self.notes.remove(&number);
                if let Some(band) = self.bands.get_mut(message.priority) {
                    band.waiting.remove(&(message.visible_at, number));
                }
            } else if !self.shed_untouched(changes)
                && !self.ends.shed_block()
                && !self.leases.shed_block()
                && !self.delays.shed_block()
            {
                break;
            }
            freed += 1;
        }
        freed
    }

    fn shed_untouched(&mut self, changes: &mut Changes) -> bool {
        while let Some((priority, band)) = self.bands.first_mut() {
            let Some((first, slot)) = band.chunks.pop() else {
                self.bands.remove(priority);
                continue;
            };
            changes.row(RowKey::Chunk { queue: self.queue, priority, first });
            changes.drop_content(ContentId(slot.number.0));
            return true;
        }
        false
    }
}
