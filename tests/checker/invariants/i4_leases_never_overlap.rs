//! I4: the leases of one message never overlap in T. A lease runs from its grant to the visible
//! time then given, half-open; an accepted update moves that end, and so does a release.

use crate::highest::Highest;
use crate::history::{Answer, Call, LogTime, Outcome};
use crate::story::{Grant, Life, Story};
use crate::times::When;

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut overlaps = Vec::new();
    for (id, life) in &story.lives {
        let wrong = life.grants.iter().filter_map(|grant| of_another_length(grant));
        overlaps.extend(wrong.map(|words| format!("{id} {words}")));
        let ends = Ends::of(life);
        for pair in life.grants.windows(2) {
            let [first, second] = pair else { continue };
            if first.queue != second.queue {
                continue;
            }
            let Some(end) = ends.of_lease(life, first, second.at) else { continue };
            if second.at < end {
                overlaps.push(format!(
                    "{id} was leased at T {} until {end} and again at {}",
                    first.at, second.at
                ));
            }
        }
    }
    overlaps
}

/// What is wrong with the length of a lease. One that was answered again began before the answer.
fn of_another_length(grant: &Grant<'_>) -> Option<String> {
    let Call::Receive { visibility, .. } = &grant.op.call else { return None };
    let Outcome::Ok(Answer::Received { mark: Some(mark), .. }) = &grant.op.outcome else {
        return None;
    };
    let (granted, until) = (mark.at, grant.shown.visible_at);
    let asked = granted + visibility;
    (until > asked || (until < asked && !grant.op.may_be_repeated())).then(|| {
        format!("was granted at T {granted} for {visibility} us and is visible at {until}")
    })
}

/// What may have ended the leases of one message: behind which T, and by when.
struct Ends {
    changes: Highest<LogTime, LogTime>,
    unknown: Highest<LogTime, LogTime>,
}

impl Ends {
    fn of(life: &Life<'_>) -> Ends {
        let span = |when: When| (when.after, when.by);
        let changes = life.changes.iter().map(|change| span(change.when)).collect();
        let unknown = life.unknown.iter().map(|act| span(act.when)).collect();
        Ends { changes, unknown }
    }

    /// When the first lease ended: as it was granted, or as the last change before `until` said.
    /// `None`: a call of unknown outcome may have ended it, or one of which it is not known whether
    /// it came before.
    fn of_lease(&self, life: &Life<'_>, first: &Grant<'_>, until: LogTime) -> Option<LogTime> {
        if self.unknown.below(&until).is_some_and(|by| by > first.at) {
            return None;
        }
        let near = life.changes.get(self.changes.places(&until, first.at)).unwrap_or_default();
        let changes = || near.iter().filter(|change| change.when.by > first.at);
        let is_vague = changes().any(|change| change.when != When::exact(change.when.by));
        if changes().any(|change| change.when.by > until) || (is_vague && changes().count() > 1) {
            return None;
        }
        Some(changes().next_back().map_or(first.shown.visible_at, |change| change.visible_at))
    }
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
    fn two_grants_at_one_time_are_found() {
        let mut sample = leased_until(20);
        sample.receive("m", 10, 20, 2);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_release_ends_a_lease_and_says_when_the_next_may_begin() {
        let mut right = leased_until(20);
        right.release("m", "r10", 12, 15);
        right.receive("m", 15, 30, 2);
        assert_eq!(broken(right), 0);

        let mut early = leased_until(20);
        early.release("m", "r10", 12, 15);
        early.receive("m", 14, 30, 2);
        assert_eq!(broken(early), 1);
    }

    #[test]
    fn a_grant_that_is_answered_again_began_before_the_answer_and_is_no_longer_than_asked() {
        for (until, found) in [(15, 0), (20, 0), (21, 1)] {
            let mut sample = Sample::default();
            sample.send("m", 1);
            let message = crate::invariants::sample::shown("m", 1, "r10", until, 1);
            sample.receive_shown(2, message, 10, 10);
            sample.under(7, 1, 1);
            assert_eq!(broken(sample), found, "until {until}");
        }
    }

    #[test]
    fn a_lease_of_another_length_than_asked_for_is_found() {
        let mut sample = leased_until(20);
        let last = sample.history.ops.last_mut().expect("a receive");
        last.call = Call::Receive { queue: "queue".to_owned(), max: 1, visibility: 99 };
        assert_eq!(broken(sample), 1);
    }
}
