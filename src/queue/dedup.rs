//! Deduplication keys: a send whose key was seen inside the window is answered with the first.
//!
//! Laws: a key counts from its send until the window that its queue had then has passed,
//! whatever became of the message; the window is a comparison with T, and pulses only free what
//! has lapsed. A queue keeps at most 1,000,000 keys: a send that would need more is refused whole.

use std::collections::{BTreeMap, BTreeSet};

use super::command::NewMessage;
use super::digest;
use super::error::Rejection;
use super::ids::{LogTime, MessageId, QueueId};
use super::limits;
use super::outcome::Changes;
use super::rows::{KeyRow, RowKey};
use crate::mutants;

/// The keys of one queue.
#[derive(Clone, Debug)]
pub struct Keys {
    queue: QueueId,
    kept: BTreeMap<u128, Kept>,
    ends: BTreeSet<(LogTime, u128)>,
    sum: u128,
}

/// What is known of the first send under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub id: MessageId,
    pub sent_at: LogTime,
    pub until: LogTime,
}

/// A key as the log and the state have it: 128 bits of what the user gave.
#[must_use]
pub fn hash(key: &str) -> u128 {
    /// Permanent: another one would forget every key.
    const SEED: u64 = 0x6b65_7973;
    xxhash_rust::xxh3::xxh3_128_with_seed(key.as_bytes(), SEED)
}

impl Keys {
    #[must_use]
    pub fn new(queue: QueueId) -> Keys {
        Keys { queue, kept: BTreeMap::new(), ends: BTreeSet::new(), sum: 0 }
    }

    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum
    }

    /// When the first key lapses.
    #[must_use]
    pub fn first_end(&self) -> Option<LogTime> {
        self.ends.first().map(|(at, _)| *at)
    }

    /// The first send under a key whose window has not passed.
    #[must_use]
    pub fn find(&self, key: u128, now: LogTime) -> Option<Kept> {
        let is_known = |kept: &&Kept| kept.until > now && !mutants::is_chosen("keys-forgotten");
        self.kept.get(&key).filter(is_known).copied()
    }

    /// Whether there is room for the new keys of a batch; one that is there twice counts twice.
    ///
    /// # Errors
    /// [`Rejection::Full`].
    pub fn check_room(&self, messages: &[NewMessage], queue: &str) -> Result<(), Rejection> {
        if messages.iter().all(|message| message.key.is_none()) {
            return Ok(());
        }
        let is_new = |key: &&u128| !self.kept.contains_key(*key);
        let new = messages.iter().filter_map(|m| m.key.as_deref()).filter(is_new).count();
        if self.kept.len() + new <= limits::DEDUPLICATION_KEYS {
            return Ok(());
        }
        let what = format!("the number of deduplication keys of queue {queue:?}");
        Err(Rejection::Full { what, limit: limits::DEDUPLICATION_KEYS as u64 })
    }

    /// Keeps a key; one that has lapsed is replaced.
    pub fn keep(&mut self, key: u128, kept: Kept, changes: &mut Changes) {
        self.forget(key);
        self.sum = self.sum.wrapping_add(digest::key(self.queue, key, &kept));
        self.ends.insert((kept.until, key));
        self.kept.insert(key, kept);
        changes.row(RowKey::Key { queue: self.queue, key });
    }

    /// Frees up to `max` lapsed keys; answers how many.
    pub fn lapse(&mut self, now: LogTime, max: usize, changes: &mut Changes) -> usize {
        let mut freed = 0;
        while freed < max
            && let Some((until, key)) = self.ends.first().copied()
            && until <= now
        {
            self.forget(key);
            changes.row(RowKey::Key { queue: self.queue, key });
            freed += 1;
        }
        freed
    }

    /// Frees up to `max` keys of a queue that nothing reads any more; answers how many.
    pub fn shed(&mut self, max: usize, changes: &mut Changes) -> usize {
        self.lapse(LogTime(u64::MAX), max, changes)
    }

    #[must_use]
    pub fn row(&self, key: u128) -> Option<KeyRow> {
        let Kept { id, sent_at, until } = *self.kept.get(&key)?;
        Some(KeyRow { queue: self.queue, key, id, sent_at, until })
    }

    /// Every key with what is known of its first send, lapsed ones included.
    pub fn all(&self) -> impl Iterator<Item = (u128, &Kept)> {
        self.kept.iter().map(|(key, kept)| (*key, kept))
    }

    pub fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        self.kept.keys().map(|key| RowKey::Key { queue: self.queue, key: *key })
    }

    /// Takes in a key as it was stored; false when it is there already.
    #[must_use]
    pub fn load(&mut self, row: &KeyRow) -> bool {
        if self.kept.contains_key(&row.key) {
            return false;
        }
        let kept = Kept { id: row.id, sent_at: row.sent_at, until: row.until };
        self.keep(row.key, kept, &mut Changes::default());
        true
    }

    fn forget(&mut self, key: u128) {
        if let Some(before) = self.kept.remove(&key) {
            self.sum = self.sum.wrapping_sub(digest::key(self.queue, key, &before));
            self.ends.remove(&(before.until, key));
        }
    }
}
