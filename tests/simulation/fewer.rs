//! Finds fewer faults that still do the same harm, by leaving out halves, quarters and so on, down
//! to one at a time (delta debugging).
//!
//! Law: what is found is not the fewest there are, but none of it can be left out alone, unless
//! the search was ended early.

/// The faults without which the harm is not done; `harms` says whether it is done by some of them,
/// and nothing when no other try is allowed.
pub fn fewer(all: &[u64], mut harms: impl FnMut(&[u64]) -> Option<bool>) -> Vec<u64> {
    let mut kept = all.to_vec();
    match harms(&[]) {
        Some(true) => return Vec::new(),
        Some(false) => {}
        None => return kept,
    }
    let mut parts = 2;
    while kept.len() > 1 {
        let size = kept.len().div_ceil(parts);
        match without_one_part(&kept, size, &mut harms) {
            Some(Some(rest)) => {
                kept = rest;
                parts = (parts - 1).max(2);
            }
            Some(None) if size > 1 => parts = (2 * parts).min(kept.len()),
            Some(None) | None => break,
        }
    }
    kept
}

/// What is left when a part of this size is left out that is not needed, if there is one.
fn without_one_part(
    kept: &[u64],
    size: usize,
    harms: &mut impl FnMut(&[u64]) -> Option<bool>,
) -> Option<Option<Vec<u64>>> {
    for part in kept.chunks(size) {
        let rest: Vec<u64> = kept.iter().copied().filter(|it| !part.contains(it)).collect();
        // That nothing at all does no harm is known.
        if !rest.is_empty() && harms(&rest)? {
            return Some(Some(rest));
        }
    }
    Some(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many tries it takes to find these among so many.
    fn tries(needed: &[u64], of: u64) -> usize {
        let all: Vec<u64> = (1..=of).collect();
        let mut tries = 0;
        let found = fewer(&all, |kept| {
            tries += 1;
            Some(needed.iter().all(|it| kept.contains(it)))
        });
        assert_eq!(found, needed);
        tries
    }

    #[test]
    fn what_is_not_needed_is_left_out() {
        assert_eq!(tries(&[], 40), 1);
        assert!(tries(&[17], 40) < 15);
        assert!(tries(&[3, 38], 40) < 40);
        assert!(tries(&[1, 2, 39, 40], 40) < 80);
    }

    #[test]
    fn all_that_is_needed_stays() {
        tries(&[1, 2, 3], 3);
        tries(&[1], 1);
    }

    #[test]
    fn harm_that_either_of_two_does_ends_with_one() {
        let found = fewer(&[1, 2, 3, 4], |kept| Some(kept.contains(&2) || kept.contains(&3)));
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn a_search_that_is_ended_early_answers_the_fewest_so_far() {
        let all: Vec<u64> = (1..=8).collect();
        let mut left = 3;
        let found = fewer(&all, |kept| {
            left -= 1;
            (left >= 0).then(|| kept.contains(&7))
        });
        assert_eq!(found, [7, 8]);
        assert_eq!(fewer(&all, |_| None), all);
    }
}
