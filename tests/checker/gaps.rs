//! How long nothing was acknowledged, and how such times are spread.

use crate::history::Micros;

/// The longest time between two acknowledgements of which the second is behind `from`; times come
/// in order.
pub fn longest(acknowledged: impl Iterator<Item = Micros>, from: Micros) -> Micros {
    let (mut last, mut longest) = (None, 0);
    for at in acknowledged {
        if let Some(last) = last.filter(|_| at > from) {
            longest = longest.max(at.saturating_sub(last));
        }
        last = Some(at);
    }
    longest
}

/// The least of these that so many in a hundred do not exceed; they come in order.
pub fn percentile(sorted: &[Micros], of_hundred: usize) -> Micros {
    let rank = (sorted.len() * of_hundred).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_counts_when_it_ends_behind_the_fault_also_when_it_began_before() {
        let acknowledged = [10, 500, 510, 900, 910];
        let since = |from| longest(acknowledged.into_iter(), from);
        assert_eq!(
            (since(0), since(505), since(520), since(905), since(910)),
            (490, 390, 390, 10, 0)
        );
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (50, 99));
        assert_eq!((percentile(&[7], 50), percentile(&[7], 99), percentile(&[], 50)), (7, 7, 0));
        assert_eq!(percentile(&[1, 2, 3], 99), 3);
    }
}
