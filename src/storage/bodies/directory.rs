//! Where each stored content lies: 12 bytes a content and a little for each run of 256 ids.
//!
//! Ids are nearly consecutive, so they are grouped by their upper bits; a group is a bitmap
//! of its present ids and their places in order. A group is also the unit of storage: its
//! row is written when it changed.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::storage::codec::CodecError;

/// A record in a body segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub segment: u32,
    pub offset: u32,
    /// Of the whole record.
    pub len: u32,
}

const FORMAT: u8 = 1;
const BITMAP: usize = 32;
const PLACE: usize = 12;
const WHAT: &str = "a contents row";

/// The places of up to 256 ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    present: [u64; 4],
    places: Vec<Place>,
}

impl Group {
    fn has(&self, low: u8) -> bool {
        self.present.get(usize::from(low / 64)).is_some_and(|word| word >> (low % 64) & 1 == 1)
    }

    /// How many present ids are lower: the place's index.
    fn rank(&self, low: u8) -> usize {
        let (word, bit) = (usize::from(low / 64), low % 64);
        let full: u32 = self.present.iter().take(word).map(|word| word.count_ones()).sum();
        let part = self.present.get(word).map_or(0, |word| word & ((1u64 << bit) - 1));
        (full + part.count_ones()) as usize
    }

    fn flip(&mut self, low: u8) {
        if let Some(word) = self.present.get_mut(usize::from(low / 64)) {
            *word ^= 1 << (low % 64);
        }
    }

    fn get(&self, low: u8) -> Option<Place> {
        if self.has(low) { self.places.get(self.rank(low)).copied() } else { None }
    }

    fn insert(&mut self, low: u8, place: Place) -> Option<Place> {
        let at = self.rank(low);
        if self.has(low) {
            return self.places.get_mut(at).map(|old| std::mem::replace(old, place));
        }
        if self.places.len() == self.places.capacity() {
            // Not doubled: half of a doubled group would lie empty for ever.
            self.places.reserve_exact(32);
        }
        self.places.insert(at, place);
        self.flip(low);
        None
    }

    fn remove(&mut self, low: u8) -> Option<Place> {
        if !self.has(low) {
            return None;
        }
        let place = self.places.remove(self.rank(low));
        self.flip(low);
        if self.places.capacity() > 2 * self.places.len() + 32 {
            self.places.shrink_to_fit();
        }
        Some(place)
    }

    /// The present low bytes with their places, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u8, Place)> + '_ {
        (0..=255u8).filter(|low| self.has(*low)).zip(self.places.iter().copied())
    }

    /// The group's row.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + BITMAP + PLACE * self.places.len());
        bytes.push(FORMAT);
        for word in self.present {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for place in &self.places {
            bytes.extend_from_slice(&place.segment.to_le_bytes());
            bytes.extend_from_slice(&place.offset.to_le_bytes());
            bytes.extend_from_slice(&place.len.to_le_bytes());
        }
        bytes
    }

    /// Reads what [`Group::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Group, CodecError> {
        let (&found, rest) = bytes
            .split_first()
            .ok_or(CodecError::Missing { what: WHAT, field: "format version" })?;
        if found != FORMAT {
            return Err(CodecError::Version { what: WHAT, found, known: FORMAT });
        }
        let (bitmap, rest) = rest
            .split_at_checked(BITMAP)
            .ok_or(CodecError::Missing { what: WHAT, field: "bitmap" })?;
        let mut group = Group::default();
        for (word, bytes) in group.present.iter_mut().zip(bitmap.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let count: u32 = group.present.iter().map(|word| word.count_ones()).sum();
        let (places, left) = rest.as_chunks::<PLACE>();
        if !left.is_empty() || places.len() != count as usize {
            return Err(CodecError::Wrong { what: WHAT, field: "number of places" });
        }
        group.places = places
            .iter()
            .map(|[a, b, c, d, e, f, g, h, i, j, k, l]| Place {
                segment: u32::from_le_bytes([*a, *b, *c, *d]),
                offset: u32::from_le_bytes([*e, *f, *g, *h]),
                len: u32::from_le_bytes([*i, *j, *k, *l]),
            })
            .collect();
        Ok(group)
    }
}

/// All places, and which groups changed since their rows were last written.
#[derive(Debug, Default)]
pub struct Directory {
    groups: BTreeMap<u64, Group>,
    dirty: BTreeSet<u64>,
}

fn split(id: u64) -> (u64, u8) {
    (id >> 8, (id & 0xff) as u8)
}

impl Directory {
    #[must_use]
    pub fn get(&self, id: u64) -> Option<Place> {
        let (group, low) = split(id);
        self.groups.get(&group)?.get(low)
    }

    /// Returns the place that the id had before.
    pub fn insert(&mut self, id: u64, place: Place) -> Option<Place> {
        let (group, low) = split(id);
        self.dirty.insert(group);
        self.groups.entry(group).or_default().insert(low, place)
    }

    /// Inserts many, in the order of their ids: each group is looked up once.
    pub fn insert_all(&mut self, places: impl Iterator<Item = (u64, Place)>) {
        let mut places = places.peekable();
        while let Some((number, _)) = places.peek().map(|(id, _)| split(*id)) {
            self.dirty.insert(number);
            let group = self.groups.entry(number).or_default();
            while let Some((id, place)) = places.next_if(|(id, _)| split(*id).0 == number) {
                group.insert(split(id).1, place);
            }
        }
    }

    pub fn remove(&mut self, id: u64) -> Option<Place> {
        let (number, low) = split(id);
        let group = self.groups.get_mut(&number)?;
        let place = group.remove(low)?;
        if group.places.is_empty() {
            self.groups.remove(&number);
        }
        self.dirty.insert(number);
        Some(place)
    }

    /// Removes whole groups; `ids` begins and ends with one. Answers where their contents lay.
    pub fn remove_range(&mut self, ids: RangeInclusive<u64>) -> Vec<Place> {
        let numbers = ids.start() >> 8..=ids.end() >> 8;
        let found: Vec<u64> = self.groups.range(numbers).map(|(number, _)| *number).collect();
        let mut places = Vec::new();
        for number in found {
            places.extend(self.groups.remove(&number).into_iter().flat_map(|it| it.places));
            self.dirty.insert(number);
        }
        places
    }

    /// Takes a group as its row has it.
    pub fn load(&mut self, number: u64, group: Group) {
        self.groups.insert(number, group);
    }

    /// Ids with their places from `first` to `last`, both included.
    pub fn range(&self, first: u64, last: u64) -> impl Iterator<Item = (u64, Place)> + '_ {
        let groups = (first <= last).then(|| self.groups.range(first >> 8..=last >> 8));
        groups
            .into_iter()
            .flatten()
            .flat_map(|(number, group)| {
                group.iter().map(move |(low, place)| (number << 8 | u64::from(low), place))
            })
            .filter(move |(id, _)| (first..=last).contains(id))
    }

    /// The groups changed since the last call; `None` for one that is empty now.
    pub fn take_dirty(&mut self) -> Vec<(u64, Option<Vec<u8>>)> {
        let dirty = std::mem::take(&mut self.dirty);
        dirty
            .into_iter()
            .map(|number| (number, self.groups.get(&number).map(Group::encode)))
            .collect()
    }

    /// How many groups have changed.
    #[must_use]
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(n: u32) -> Place {
        Place { segment: n, offset: n * 3, len: n + 24 }
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(steps in prop::collection::vec((0u64..700, prop::option::of(0u32..1000)), 0..400)) {
            let (mut directory, mut model) = (Directory::default(), BTreeMap::new());
            for (id, value) in steps {
                match value {
                    Some(n) => prop_assert_eq!(directory.insert(id, place(n)), model.insert(id, place(n))),
                    None => prop_assert_eq!(directory.remove(id), model.remove(&id)),
                }
                prop_assert_eq!(directory.get(id), model.get(&id).copied());
            }
            let all: Vec<_> = directory.range(0, u64::MAX).collect();
            let mut at_once = Directory::default();
            at_once.insert_all(all.iter().copied());
            prop_assert_eq!(at_once.range(0, u64::MAX).collect::<Vec<_>>(), all.clone());
            prop_assert_eq!(all, model.iter().map(|(id, place)| (*id, *place)).collect::<Vec<_>>());
            let mut again = Directory::default();
            for (number, row) in directory.take_dirty() {
                if let Some(row) = row {
                    again.load(number, Group::decode(&row).unwrap());
                }
            }
            let all: Vec<_> = again.range(100, 400).collect();
            prop_assert_eq!(all, model.range(100..=400).map(|(id, place)| (*id, *place)).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = Group::decode(&bytes);
        }
    }

    #[test]
    fn a_content_takes_little_more_than_its_place() {
        let mut directory = Directory::default();
        for id in 0..25_600 {
            directory.insert(id, place(1));
        }
        let bytes: usize = directory
            .groups
            .values()
            .map(|group| group.places.capacity() * PLACE + 32 + 24 + 8)
            .sum();
        assert!(bytes / 25_600 <= 13, "{} bytes a content", bytes / 25_600);
    }
}
