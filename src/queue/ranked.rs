//! An ordered set of (time, number) that can say how many of its times lie at or before a T.
//!
//! This is what makes counts exact at every T without moving anything when T moves: "leased" is
//! the number of lease ends after T, "due" the number of expiries up to T. A million leases that
//! lapse in one entry cost that entry nothing.
//!
//! It is a three-level tree kept in plain vectors: groups of blocks of keys. The block of the
//! highest keys lies beside the tree: keys mostly arrive in order, and then only its end is
//! touched. A key costs 16 bytes when keys arrive in order and never more than 32 on average;
//! insert, remove and rank touch one block and one group, plus the list of groups.

use super::ids::{LogTime, Number};

pub type Key = (LogTime, Number);

/// Keys in a block, and blocks in a group.
const BLOCK: usize = 128;
const GROUP: usize = 128;

#[derive(Clone, Debug, Default)]
pub struct Ranked {
    groups: Vec<Group>,
    /// A block of keys that are above all in the groups.
    tail: Vec<Key>,
    len: usize,
}

/// Blocks of ascending keys; never empty.
#[derive(Clone, Debug, Default)]
struct Group {
    blocks: Vec<Vec<Key>>,
    len: usize,
}

impl Group {
    fn last(&self) -> Option<Key> {
        self.blocks.last().and_then(|block| block.last().copied())
    }

    /// The block that holds `key` or would take it.
    fn place(&self, key: Key) -> usize {
        let at = self.blocks.partition_point(|block| block.last().is_some_and(|k| *k < key));
        at.min(self.blocks.len().saturating_sub(1))
    }

    /// Splits a block that is full, unless the key goes behind all: then it opens a new one, so
    /// that keys which arrive in order fill their blocks.
    fn insert(&mut self, key: Key) -> bool {
        let mut at = self.place(key);
        let Some(block) = self.blocks.get_mut(at) else {
            self.blocks.push(vec![key]);
            self.len += 1;
            return true;
        };
        let Err(mut slot) = block.binary_search(&key) else { return false };
        self.len += 1;
        if block.len() >= BLOCK {
            if slot == block.len() {
                self.blocks.insert(at + 1, vec![key]);
                return true;
            }
            let right = block.split_off(BLOCK / 2);
            self.blocks.insert(at + 1, right);
            if slot > BLOCK / 2 {
                at += 1;
                slot -= BLOCK / 2;
            }
        }
        if let Some(block) = self.blocks.get_mut(at) {
            block.insert(slot, key);
        }
        true
    }

    fn remove(&mut self, key: Key) -> bool {
        let at = self.place(key);
        let Some(block) = self.blocks.get_mut(at) else { return false };
        let Ok(slot) = block.binary_search(&key) else { return false };
        block.remove(slot);
        self.len -= 1;
        let left = block.len();
        if left == 0 {
            self.blocks.remove(at);
        } else if left < BLOCK / 4 {
            self.join(at);
        }
        true
    }

    /// Joins a thin block with the next one where both fit well into one.
    fn join(&mut self, at: usize) {
        let sum = |a: usize| Some(self.blocks.get(a)?.len() + self.blocks.get(a + 1)?.len());
        let first = if sum(at).is_some_and(|n| n <= BLOCK / 2) {
            at
        } else if at > 0 && sum(at - 1).is_some_and(|n| n <= BLOCK / 2) {
            at - 1
        } else {
            return;
        };
        let right = self.blocks.remove(first + 1);
        if let Some(left) = self.blocks.get_mut(first) {
            left.extend(right);
        }
    }

    /// Keys up to and with `key`.
    fn rank(&self, key: Key) -> usize {
        let at = self.blocks.partition_point(|block| block.last().is_some_and(|k| *k <= key));
        let whole: usize = self.blocks.iter().take(at).map(Vec::len).sum();
        whole + self.blocks.get(at).map_or(0, |block| block.partition_point(|k| *k <= key))
    }
}

impl Ranked {
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// False when the key is there already.
    pub fn insert(&mut self, key: Key) -> bool {
        if self.tail.last().is_none_or(|last| *last < key) && !self.is_under_groups(key) {
            if self.tail.len() >= BLOCK {
                let block = std::mem::take(&mut self.tail);
                self.seal(block);
            }
            self.tail.push(key);
            self.len += 1;
            return true;
        }
        match self.tail.binary_search(&key) {
            Ok(_) => false,
            Err(0) if !self.groups.is_empty() => self.insert_in_groups(key),
            Err(slot) if self.tail.len() < BLOCK => {
                self.tail.insert(slot, key);
                self.len += 1;
                true
            }
            Err(_) => {
                let block = std::mem::take(&mut self.tail);
                self.seal(block);
                self.insert_in_groups(key)
            }
        }
    }

    /// Whether a key is not above all that the groups hold.
    fn is_under_groups(&self, key: Key) -> bool {
        self.tail.is_empty() && self.groups.last().and_then(Group::last).is_some_and(|k| key <= k)
    }

    /// The block behind all others takes its place among the groups.
    fn seal(&mut self, block: Vec<Key>) {
        match self.groups.last_mut().filter(|group| group.blocks.len() < GROUP) {
            Some(group) => {
                group.len += block.len();
                group.blocks.push(block);
            }
            None => self.groups.push(Group { len: block.len(), blocks: vec![block] }),
        }
    }

    fn insert_in_groups(&mut self, key: Key) -> bool {
        let at = self.place(key);
        let last = at + 1 == self.groups.len();
        let Some(group) = self.groups.get_mut(at) else {
            self.groups.push(Group { blocks: vec![vec![key]], len: 1 });
            self.len += 1;
            return true;
        };
        let behind = last && group.last().is_some_and(|k| k < key);
        if !group.insert(key) {
            return false;
        }
        self.len += 1;
        if group.blocks.len() > GROUP {
            let cut = if behind { GROUP } else { GROUP / 2 };
            let blocks = group.blocks.split_off(cut);
            let len = blocks.iter().map(Vec::len).sum();
            group.len -= len;
            self.groups.insert(at + 1, Group { blocks, len });
        }
        true
    }

    /// False when the key is not there.
    pub fn remove(&mut self, key: Key) -> bool {
        if self.tail.first().is_some_and(|first| *first <= key) {
            let Ok(slot) = self.tail.binary_search(&key) else { return false };
            self.tail.remove(slot);
            self.len -= 1;
            return true;
        }
        let at = self.place(key);
        let Some(group) = self.groups.get_mut(at) else { return false };
        if !group.remove(key) {
            return false;
        }
        self.len -= 1;
        if group.len == 0 {
            self.groups.remove(at);
        }
        true
    }

    /// How many keys have a time at or before `now`.
    #[must_use]
    pub fn up_to(&self, now: LogTime) -> usize {
        let key = (now, Number(u64::MAX));
        let at = self.groups.partition_point(|group| group.last().is_some_and(|k| k <= key));
        let whole: usize = self.groups.iter().take(at).map(|group| group.len).sum();
        match self.groups.get(at) {
            Some(group) => whole + group.rank(key),
            None => whole + self.tail.partition_point(|k| *k <= key),
        }
    }

    #[must_use]
    pub fn first(&self) -> Option<Key> {
        let block = self.groups.first().and_then(|group| group.blocks.first());
        block.unwrap_or(&self.tail).first().copied()
    }

    #[must_use]
    pub fn last(&self) -> Option<Key> {
        self.tail.last().copied().or_else(|| self.groups.last()?.last())
    }

    /// The first key behind `key`.
    #[must_use]
    pub fn after(&self, key: Key) -> Option<Key> {
        let at = self.groups.partition_point(|group| group.last().is_some_and(|k| k <= key));
        let block = match self.groups.get(at) {
            Some(group) => {
                let behind = |block: &Vec<Key>| block.last().is_some_and(|k| *k <= key);
                group.blocks.get(group.blocks.partition_point(behind))?
            }
            None => &self.tail,
        };
        block.get(block.partition_point(|k| *k <= key)).copied()
    }

    /// Frees one block; false when there is none. For a set that is no longer read.
    pub fn shed_block(&mut self) -> bool {
        if !self.tail.is_empty() {
            self.len -= self.tail.len();
            self.tail = Vec::new();
            return true;
        }
        while let Some(group) = self.groups.last_mut() {
            if let Some(block) = group.blocks.pop() {
                group.len -= block.len();
                self.len -= block.len();
                return true;
            }
            self.groups.pop();
        }
        false
    }

    fn place(&self, key: Key) -> usize {
        let at = self.groups.partition_point(|group| group.last().is_some_and(|k| k < key));
        at.min(self.groups.len().saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn key(time: u64, number: u64) -> Key {
        (LogTime(time), Number(number))
    }

    fn check(ranked: &Ranked, model: &BTreeSet<Key>, now: u64) {
        assert_eq!(ranked.len(), model.len());
        assert_eq!(ranked.first(), model.first().copied());
        assert_eq!(ranked.last(), model.last().copied());
        let end = (LogTime(now), Number(u64::MAX));
        assert_eq!(ranked.up_to(LogTime(now)), model.range(..=end).count());
        let next = model.range((std::ops::Bound::Excluded(end), std::ops::Bound::Unbounded)).next();
        assert_eq!(ranked.after(end), next.copied());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn it_says_what_an_ordinary_set_says(
            steps in prop::collection::vec((0u64..2_000, 0u64..8, prop::bool::weighted(0.6)), 1..6_000),
            nows in prop::collection::vec(0u64..2_000, 20),
        ) {
            let (mut ranked, mut model) = (Ranked::default(), BTreeSet::new());
            for (time, number, add) in steps {
                let key = key(time, number);
                if add {
                    prop_assert_eq!(ranked.insert(key), model.insert(key));
                } else {
                    prop_assert_eq!(ranked.remove(key), model.remove(&key));
                }
            }
            for now in nows {
                check(&ranked, &model, now);
            }
        }
    }

    #[test]
    fn keys_in_order_fill_their_blocks_and_leave_from_the_front() {
        let mut ranked = Ranked::default();
        let n = 100_000;
        for i in 0..n {
            assert!(ranked.insert(key(i, i)));
        }
        let blocks: usize = ranked.groups.iter().map(|g| g.blocks.len()).sum();
        assert_eq!(blocks + 1, (n as usize).div_ceil(BLOCK), "and the one behind them");
        assert_eq!(ranked.up_to(LogTime(49_999)), 50_000);
        for i in 0..n {
            assert_eq!(ranked.first(), Some(key(i, i)));
            assert!(ranked.remove(key(i, i)));
        }
        assert!(ranked.len() == 0 && ranked.groups.is_empty());
    }

    #[test]
    fn a_dead_set_is_freed_block_by_block() {
        let mut ranked = Ranked::default();
        for i in 0..1_000 {
            ranked.insert(key(i, i));
        }
        let mut steps = 0;
        while ranked.shed_block() {
            steps += 1;
        }
        assert_eq!((steps, ranked.len()), (8, 0));
    }
}
