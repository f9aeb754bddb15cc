//! I4: the leases of one message never overlap in T. A lease runs from its grant to the visible
//! time then given, half-open; an accepted update moves that end.

use crate::history::{Answer, Call, Change, LogTime, Outcome, Shown, Story};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut overlaps = Vec::new();
    for (id, life) in &story.lives {
        for grant in &life.grants {
            let wanted = visibility(grant);
            if grant.what.visible_at != grant.mark.at + wanted {
                overlaps.push(format!(
                    "{id} was granted at T {} for {wanted} us and is visible at {}",
                    grant.mark.at, grant.what.visible_at
                ));
            }
        }
        for pair in life.grants.windows(2) {
            let [first, second] = pair else { continue };
            // Of an unknown update with the lease's receipt nobody knows whether it ended it.
            if life.unknown.iter().any(|op| op.invoked <= second.op.returned) {
                continue;
            }
            let end = end_of(first, second.mark.at, &life.updates);
            if second.mark.at < end {
                overlaps.push(format!(
                    "{id} was leased at {:?} until T {end} and again at {:?}",
                    first.mark, second.mark
                ));
            }
        }
    }
    overlaps
}

fn visibility(grant: &Change<'_, Shown>) -> u64 {
    match &grant.op.call {
        Call::Receive { visibility, .. } => *visibility,
        _ => 0,
    }
}

/// When the first lease ended: as it was granted, or as the last update before `until` said.
fn end_of(
    first: &Change<'_, Shown>,
    until: LogTime,
    updates: &[Change<'_, crate::history::Op>],
) -> LogTime {
    let within =
        updates.iter().filter(|update| update.mark > first.mark && update.mark.at <= until);
    let mut ends = within.filter_map(|update| match &update.what.outcome {
        Outcome::Ok(Answer::Updated { visible_at, .. }) => Some(*visible_at),
        _ => None,
    });
    ends.next_back().unwrap_or(first.what.visible_at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::sample::Sample;

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    fn leased_until(end: u64) -> Sample {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.receive("m", 10, end, 1);
        sample
    }

    #[test]
    fn a_lease_may_begin_where_the_last_one_ended() {
        let mut sample = leased_until(20);
        sample.receive("m", 20, 30, 2);
        assert_eq!(broken(sample), 0);
    }

    #[test]
    fn a_lease_inside_another_is_found() {
        let mut sample = leased_until(20);
        sample.receive("m", 19, 30, 2);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn an_update_moves_the_end_of_a_lease() {
        let mut shorter = leased_until(20);
        shorter.update("m", "r10", 12, 15);
        shorter.receive("m", 16, 30, 2);
        assert_eq!(broken(shorter), 0);

        let mut longer = leased_until(20);
        longer.update("m", "r10", 12, 40);
        longer.receive("m", 25, 30, 2);
        assert_eq!(broken(longer), 1);
    }

    #[test]
    fn an_update_of_unknown_outcome_may_have_ended_the_lease() {
        let mut sample = leased_until(20);
        sample.unknown_update("m", "r10", 11);
        sample.receive("m", 13, 30, 2);
        assert_eq!(broken(sample), 0);
    }

    #[test]
    fn a_lease_of_another_length_than_asked_for_is_found() {
        let mut sample = leased_until(20);
        let last = sample.history.ops.last_mut().expect("a receive");
        last.call = Call::Receive { queue: "queue".to_owned(), max: 1, visibility: 99 };
        assert_eq!(broken(sample), 1);
    }
}
