//! I6: within one message id the dequeue count rises by one with each grant and never falls.

use crate::history::{Change, Life, Shown, Story};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, life) in &story.lives {
        let mut before = 0;
        for grant in &life.grants {
            let count = grant.what.dequeue_count;
            // A receive of unknown outcome may have been granted it.
            let unseen = unseen(story, life, grant);
            if count <= before || u64::from(count - before - 1) > unseen {
                wrong.push(format!(
                    "{id}: the grant at {:?} has the dequeue count {count}, after {before} and \
                     at most {unseen} grants that nobody saw",
                    grant.mark
                ));
            }
            before = count;
        }
        wrong.extend(fallen(id, life));
    }
    wrong
}

/// Receives of unknown outcome that may have come before this grant.
fn unseen(story: &Story<'_>, life: &Life<'_>, grant: &Change<'_, Shown>) -> u64 {
    let may = story
        .unknown_receives
        .iter()
        .filter(|op| op.call.queue() == life.queue && op.invoked <= grant.op.returned);
    may.count() as u64
}

/// Reads that show fewer than were granted by their T.
fn fallen(id: &str, life: &Life<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (_, at, shown) in &life.sightings {
        let granted = life.grants.iter().filter(|grant| grant.mark.at <= *at);
        let most = granted.map(|grant| grant.what.dequeue_count).max().unwrap_or(0);
        if shown.dequeue_count < most {
            let count = shown.dequeue_count;
            wrong.push(format!("{id}: a read at T {at} shows the count {count} after {most}"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::sample::{Sample, shown};

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    fn granted(counts: &[u32]) -> Sample {
        let mut sample = Sample::default();
        sample.send("m", 1);
        for (at, count) in (2..).step_by(2).zip(counts) {
            sample.receive("m", at, at + 2, *count);
        }
        sample
    }

    #[test]
    fn one_two_three_is_right() {
        assert_eq!(broken(granted(&[1, 2, 3])), 0);
    }

    #[test]
    fn a_count_that_stands_still_falls_or_jumps_is_found() {
        for counts in [[1, 1], [2, 1], [1, 3]] {
            assert!(broken(granted(&counts)) > 0, "{counts:?}");
        }
    }

    #[test]
    fn a_receive_of_unknown_outcome_explains_one_step() {
        let mut sample = granted(&[1]);
        sample.unknown_receive(4);
        sample.receive("m", 8, 9, 3);
        assert_eq!(broken(sample), 0);
    }

    #[test]
    fn a_read_that_shows_a_lower_count_than_was_granted_is_found() {
        let mut sample = granted(&[1, 2]);
        sample.peek(shown("m", 1, "", 9, 1), 5, false);
        assert_eq!(broken(sample), 1);
    }
}
