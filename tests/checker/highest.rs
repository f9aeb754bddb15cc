//! The highest value of all that stands before a place in an order, found without a walk over it.

use std::ops::Range;

/// Keys in order, each with the highest of the values up to it.
#[derive(Clone, Debug)]
pub struct Highest<K, V>(Vec<(K, V)>);

impl<K, V> Default for Highest<K, V> {
    fn default() -> Highest<K, V> {
        Highest(Vec::new())
    }
}

impl<K: Ord, V: Ord + Copy> FromIterator<(K, V)> for Highest<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(all: I) -> Highest<K, V> {
        let mut all: Vec<(K, V)> = all.into_iter().collect();
        all.sort_unstable();
        let mut highest = None;
        for (_, value) in &mut all {
            *value = highest.map_or(*value, |known: V| known.max(*value));
            highest = Some(*value);
        }
        Highest(all)
    }
}

impl<K: Ord, V: Ord + Copy> Highest<K, V> {
    /// The highest value of the keys below this one.
    pub fn below(&self, key: &K) -> Option<V> {
        self.last_of(self.0.partition_point(|(known, _)| known < key))
    }

    /// The highest value of the keys up to this one.
    pub fn through(&self, key: &K) -> Option<V> {
        self.last_of(self.0.partition_point(|(known, _)| known <= key))
    }

    /// Where, in the order of keys and values, all stand that have a key below this one and a value
    /// above that.
    pub fn places(&self, key: &K, above: V) -> Range<usize> {
        let from = self.0.partition_point(|(_, highest)| *highest <= above);
        let to = self.0.partition_point(|(known, _)| known < key);
        from.min(to)..to
    }

    fn last_of(&self, count: usize) -> Option<V> {
        self.0.get(count.checked_sub(1)?).map(|(_, highest)| *highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_is_that_of_all_before() {
        let all = Highest::from_iter([(5, 2), (1, 3), (3, 9), (5, 1)]);
        let below = [1, 3, 4, 5, 6].map(|key| all.below(&key));
        assert_eq!(below, [None, Some(3), Some(9), Some(9), Some(9)]);
        assert_eq!([0, 1, 3].map(|key| all.through(&key)), [None, Some(3), Some(9)]);
    }

    #[test]
    fn what_has_a_key_below_and_a_value_above_stands_in_the_places() {
        let all = Highest::from_iter([(1, 3), (2, 9), (3, 1), (4, 12)]);
        assert_eq!((all.places(&4, 3), all.places(&9, 9)), (1..3, 3..4));
        assert_eq!((all.places(&2, 3), all.places(&1, 0)), (1..1, 0..0));
    }
}
