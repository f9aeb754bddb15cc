//! The untouched messages of one priority, in chunks: the newest chunk grows, those before it
//! only shrink.
//!
//! The newest lies beside the others, not among them: a send finds its end without a search, and
//! of thousands of queues each has only that end to bring near.

use std::collections::{BTreeMap, VecDeque};

use crate::queue::ids::{Epoch, Number};
use crate::queue::message::{Message, Slot};

/// Untouched messages in one chunk. It is one row, written whole: of thousands of queues each
/// writes again, with every commit, what has come to its newest chunk before.
pub const CHUNK: usize = 64;
/// How many a chunk of an older version may have.
pub const MOST_IN_CHUNK: usize = 256;

#[derive(Clone, Debug)]
pub struct Chunk {
    pub epoch: Epoch,
    /// Never empty.
    pub slots: VecDeque<Slot>,
}

/// Chunks by the number that each began with, which never changes though that message may be gone.
#[derive(Clone, Debug, Default)]
pub struct Chunks {
    older: BTreeMap<Number, Chunk>,
    newest: Option<(Number, Chunk)>,
}

impl Chunks {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newest.is_none() && self.older.is_empty()
    }

    /// The number that a chunk began with, and the chunk.
    pub fn iter(&self) -> impl Iterator<Item = (Number, &Chunk)> {
        self.behind(Number(0))
    }

    #[must_use]
    pub fn get(&self, first: Number) -> Option<&Chunk> {
        match &self.newest {
            Some((newest, chunk)) if *newest == first => Some(chunk),
            _ => self.older.get(&first),
        }
    }

    fn get_mut(&mut self, first: Number) -> Option<&mut Chunk> {
        match &mut self.newest {
            Some((newest, chunk)) if *newest == first => Some(chunk),
            _ => self.older.get_mut(&first),
        }
    }

    /// The chunk that would hold a message, by its first number.
    #[must_use]
    pub fn holding(&self, number: Number) -> Option<(Number, &Chunk)> {
        match &self.newest {
            Some((first, chunk)) if *first <= number => Some((*first, chunk)),
            _ => self.older.range(..=number).next_back().map(|(first, chunk)| (*first, chunk)),
        }
    }

    /// The chunks from the one on that would hold `number`.
    pub fn from(&self, number: Number) -> impl Iterator<Item = (Number, &Chunk)> {
        self.behind(self.holding(number).map_or(number, |(first, _)| first))
    }

    /// The chunks that began with `first` and higher numbers.
    fn behind(&self, first: Number) -> impl Iterator<Item = (Number, &Chunk)> {
        let older = self.older.range(first..).map(|(first, chunk)| (*first, chunk));
        let newest = self.newest.as_ref().map(|(first, chunk)| (*first, chunk));
        older.chain(newest.filter(|(newest, _)| *newest >= first))
    }

    /// The message with the lowest number, with its epoch.
    #[must_use]
    pub fn head(&self) -> Option<(Epoch, &Slot)> {
        let newest = || self.newest.as_ref().map(|(_, chunk)| chunk);
        let chunk = self.older.first_key_value().map(|(_, chunk)| chunk).or_else(newest)?;
        chunk.slots.front().map(|slot| (chunk.epoch, slot))
    }

    /// The message with the highest number.
    #[must_use]
    pub fn tail(&self) -> Option<&Slot> {
        let older = || self.older.last_key_value().map(|(_, chunk)| chunk);
        let newest = self.newest.as_ref().map(|(_, chunk)| chunk).or_else(older)?;
        newest.slots.back()
    }

    #[must_use]
    pub fn find(&self, number: Number) -> Option<(Epoch, Slot)> {
        let (_, chunk) = self.holding(number)?;
        let at = chunk.slots.binary_search_by_key(&number, |slot| slot.number).ok()?;
        Some((chunk.epoch, *chunk.slots.get(at)?))
    }

    /// Adds a message with a number above all others; answers the first number of its chunk.
    pub fn push(&mut self, message: &Message) -> Number {
        let slot = Slot::of(message);
        match &mut self.newest {
            Some((first, chunk)) if chunk.epoch == message.epoch && chunk.slots.len() < CHUNK => {
                chunk.slots.push_back(slot);
                *first
            }
            _ => {
                let chunk = Chunk { epoch: message.epoch, slots: VecDeque::from(vec![slot]) };
                self.add(message.number, chunk);
                message.number
            }
        }
    }

    /// Adds a chunk behind all others.
    pub fn add(&mut self, first: Number, chunk: Chunk) {
        self.older.extend(self.newest.replace((first, chunk)));
    }

    /// Takes a message out; answers the first number of the chunk that would have held it.
    pub fn remove(&mut self, number: Number) -> Option<Number> {
        let (first, _) = self.holding(number)?;
        let chunk = self.get_mut(first)?;
        let at = chunk.slots.binary_search_by_key(&number, |slot| slot.number).ok()?;
        chunk.slots.remove(at);
        self.drop_if_empty(first);
        Some(first)
    }

    /// Takes the message with the lowest number out, with the first number of its chunk.
    pub fn pop(&mut self) -> Option<(Number, Slot)> {
        let (first, _) = self.iter().next()?;
        let slot = self.get_mut(first)?.slots.pop_front()?;
        self.drop_if_empty(first);
        Some((first, slot))
    }

    fn drop_if_empty(&mut self, first: Number) {
        if self.get(first).is_some_and(|chunk| !chunk.slots.is_empty()) {
            return;
        }
        if self.newest.take_if(|(newest, _)| *newest == first).is_none() {
            self.older.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::queue::ids::LogTime;
    use crate::queue::rows::Untouched;

    fn message(number: u64, epoch: Epoch) -> Message {
        let (number, inserted_at) = (Number(number), LogTime(number));
        let row = Untouched { number, inserted_at, expires_at: None, size: 1 };
        Slot::from_row(&row).message(epoch, 4)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Push { epoch: u32 },
        Remove(prop::sample::Index),
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => Just(Step::Push { epoch: 1 }),
            2 => prop::bool::weighted(0.02).prop_map(|is_later| Step::Push { epoch: 1 + u32::from(is_later) }),
            3 => any::<prop::sample::Index>().prop_map(Step::Remove),
            1 => Just(Step::Pop),
        ]
    }

    proptest! {
        #[test]
        fn they_say_what_an_ordinary_map_says(steps in prop::collection::vec(step(), 1..600)) {
            let (mut chunks, mut model, mut last) = (Chunks::default(), BTreeMap::new(), 0);
            for step in steps {
                match step {
                    Step::Push { epoch } => {
                        last += 2;
                        let first = chunks.push(&message(last, Epoch(epoch)));
                        prop_assert!(chunks.get(first).is_some_and(|it| it.epoch == Epoch(epoch)));
                        model.insert(Number(last), Epoch(epoch));
                    }
                    Step::Remove(index) => {
                        let number = Number(index.index(last as usize + 2) as u64);
                        prop_assert_eq!(chunks.remove(number).is_some(), model.remove(&number).is_some());
                    }
                    Step::Pop => {
                        let popped = chunks.pop().map(|(_, slot)| slot.number);
                        prop_assert_eq!(popped, model.pop_first().map(|(number, _)| number));
                    }
                }
                let head = chunks.head().map(|(epoch, slot)| (slot.number, epoch));
                prop_assert_eq!(head, model.first_key_value().map(|(number, epoch)| (*number, *epoch)));
                prop_assert_eq!(chunks.tail().map(|slot| slot.number), model.keys().next_back().copied());
                prop_assert_eq!(chunks.is_empty(), model.is_empty());
                prop_assert!(chunks.iter().all(|(_, it)| (1..=CHUNK).contains(&it.slots.len())));
            }
            for number in (0..last + 2).map(Number) {
                let found = chunks.find(number).map(|(epoch, slot)| (slot.number, epoch));
                prop_assert_eq!(found, model.get_key_value(&number).map(|(n, epoch)| (*n, *epoch)));
                let from = chunks.from(number).flat_map(|(_, it)| &it.slots).map(|slot| slot.number);
                let from: Vec<Number> = from.filter(|at| *at >= number).collect();
                prop_assert_eq!(from, model.range(number..).map(|(n, _)| *n).collect::<Vec<_>>());
            }
        }
    }
}
