//! I6: within one message id the dequeue count rises by one with each grant and never falls; it
//! begins again where the message comes as a dead letter. No queue gives a message out more often
//! than it allows, and a dead letter says truly where it came from and how often it was given out.

use crate::history::{Call, LogTime, Shown};
use crate::queues::{max_deliveries, plan};
use crate::story::{Act, Grant, Life, Story};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let unseen: std::collections::BTreeMap<&str, Unseen> =
        story.queues.iter().map(|(name, q)| (*name, Unseen::of(&q.unknown_receives))).collect();
    for (id, life) in &story.lives {
        let mut before: Option<&Grant<'_>> = None;
        for grant in &life.grants {
            let same = before.filter(|before| before.queue == grant.queue);
            let (count, since) =
                same.map_or((0, arrived(life, grant)), |g| (g.shown.dequeue_count, g.at));
            // A receive of unknown outcome may have been granted it.
            let unseen = unseen.get(grant.queue).map_or(0, |all| all.between(since, grant.at));
            let (now, at) = (grant.shown.dequeue_count, grant.at);
            if now <= count || u64::from(now - count - 1) > unseen {
                wrong.push(format!(
                    "{id}: the grant at T {at} has the dequeue count {now}, after {count} and at \
                     most {unseen} grants that nobody saw"
                ));
            }
            before = Some(grant);
        }
        wrong.extend(fallen(id, life));
        let told = life.shown().filter_map(|seen| of_the_dead(seen.queue, seen.shown));
        wrong.extend(told.map(|words| format!("{id} {words}")));
    }
    wrong
}

/// When it came to the queue in which it was granted.
fn arrived(life: &Life<'_>, grant: &Grant<'_>) -> LogTime {
    grant.shown.dead.as_ref().map_or(life.inserted_at, |dead| dead.at)
}

/// The receives of one queue that have an unknown outcome.
struct Unseen {
    begin: Vec<LogTime>,
    end: Vec<LogTime>,
}

impl Unseen {
    fn of(receives: &[Act<'_>]) -> Unseen {
        // A stream goes on: one that is not heard may give as often as it has credit.
        let often = receives.iter().flat_map(|act| match (&act.op.call, act.op.session) {
            (Call::Receive { max, .. }, None) => vec![act.when; *max as usize],
            _ => vec![act.when],
        });
        let (mut begin, mut end): (Vec<LogTime>, Vec<LogTime>) =
            often.map(|when| (when.after, when.by)).unzip();
        begin.sort_unstable();
        end.sort_unstable();
        Unseen { begin, end }
    }

    /// How many of them may have acted between these times, both included: the order of calls
    /// at one T is not known.
    fn between(&self, since: LogTime, until: LogTime) -> u64 {
        let begun = self.begin.partition_point(|after| *after < until);
        let ended = self.end.partition_point(|by| *by < since);
        begun.saturating_sub(ended) as u64
    }
}

/// Reads that show fewer than were granted by their T.
fn fallen(id: &str, life: &Life<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for seen in &life.sightings {
        let by = life.grants.partition_point(|grant| grant.at <= seen.at);
        let last = by.checked_sub(1).and_then(|last| life.grants.get(last));
        let Some(last) = last.filter(|grant| grant.queue == seen.queue) else { continue };
        let (most, count, at) = (last.shown.dequeue_count, seen.shown.dequeue_count, seen.at);
        if count < most {
            wrong.push(format!("{id}: a read at T {at} shows the count {count} after {most}"));
        }
    }
    wrong
}

/// What is wrong with a message as far as its deliveries go.
fn of_the_dead(queue: &str, shown: &Shown) -> Option<String> {
    let count = shown.dequeue_count;
    if let Some(most) = max_deliveries(queue).filter(|most| count > *most) {
        return Some(format!("was given out {count} times in {queue}, which allows {most}"));
    }
    let dead = shown.dead.as_ref()?;
    match plan(&dead.source).dead_letters {
        Some((target, most)) if target == queue && most == dead.deliveries => None,
        _ => Some(format!("is a dead letter in {queue}, and says {dead:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::sample::{Sample, new, shown};

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

    /// A message of gamma-dead, which allows two deliveries and feeds gamma-grave.
    fn given_out(counts: &[u32]) -> Sample {
        let mut sample = Sample::default();
        sample.send_new("gamma-dead", "m", 1, new(1));
        for (at, count) in (2..).step_by(2).zip(counts) {
            let message = shown("m", 1, &format!("r{at}"), at + 1, *count);
            sample.receive_from("gamma-dead", 2, vec![message], at, 1);
        }
        sample
    }

    #[test]
    fn a_message_given_out_more_often_than_its_queue_allows_is_found() {
        assert_eq!(broken(given_out(&[1, 2])), 0);
        assert_eq!(broken(given_out(&[1, 2, 3])), 1);
    }

    #[test]
    fn a_dead_letter_begins_again_and_says_how_it_came() {
        let arrives = |deliveries, count| {
            let mut sample = given_out(&[1, 2]);
            let message = shown("m", 1, "r9", 20, count);
            let message = Sample::dead("gamma-dead", deliveries, 8, message);
            sample.receive_from("gamma-grave", 2, vec![message], 10, 10);
            broken(sample)
        };
        assert_eq!(arrives(2, 1), 0);
        assert_eq!(arrives(1, 1), 1, "it says that it was given out once");
        assert_eq!(arrives(2, 3), 1, "its count goes on from the queue that it came from");
    }
}
