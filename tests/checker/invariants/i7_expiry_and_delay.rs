//! I7: a message is never delivered at or after its expiry and never dropped before; a delayed
//! message is never delivered early. Among the dead letters its time to live rests, and one that is
//! sent back lives as long as its new queue lets messages live that say nothing.

use crate::history::{DRAIN, LogTime, Op};
use crate::queues::USUAL_TTL;
use crate::story::{Life, Story};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (id, life) in &story.lives {
        let visible = not_before(life);
        for grant in &life.grants {
            let (at, expires) = (grant.at, grant.shown.expires_at);
            if expires.is_some_and(|expires| at >= expires) {
                wrong.push(format!("{id} was delivered at T {at}, after its expiry"));
            }
            if let Some(visible) = visible.filter(|visible| at < *visible) {
                wrong.push(format!("{id} was delivered at T {at}, delayed until {visible}"));
            }
            let told = life.sent.filter(|_| grant.queue == life.home);
            let told = told.map(|sent| sent.message.expires_at);
            let rests = grant.shown.dead.is_some().then_some(None);
            if told.or(rests).is_some_and(|told| told != expires) {
                wrong.push(format!("{id} has another expiry than its send was told"));
            }
        }
        let lives_until = life.inserted_at.saturating_add(USUAL_TTL);
        let mut back =
            life.shown().filter(|s| s.shown.redriven.is_some() && s.shown.dead.is_none());
        if let Some(seen) = back.find(|seen| seen.shown.expires_at != Some(lives_until)) {
            let (expires, at) = (seen.shown.expires_at, life.inserted_at);
            wrong.push(format!("{id} was sent back at T {at} and expires at {expires:?}"));
        }
        for seen in &life.sightings {
            if seen.shown.expires_at.is_some_and(|expires| seen.at >= expires) {
                let at = seen.at;
                wrong.push(format!("{id} was shown by a read at T {at}, after its expiry"));
            }
        }
        wrong.extend(dropped(story, id, life));
    }
    wrong
}

/// The end of its delay, unless a change moved it.
fn not_before(life: &Life<'_>) -> Option<LogTime> {
    let moved = !life.changes.is_empty() || !life.unknown.is_empty();
    life.sent.filter(|_| !moved).map(|sent| sent.message.visible_at)
}

/// A message with time left that the final drain did not find.
fn dropped(story: &Story<'_>, id: &str, life: &Life<'_>) -> Option<String> {
    let ending = &story.history.ending;
    let expires = life.sent?.message.expires_at?;
    let of_clients = |op: &Op| op.client != DRAIN;
    let gone = life.deletes.iter().any(|delete| of_clients(delete.op))
        || life.maybe_deleted().any(|act| of_clients(act.op))
        || story.maybe_cleared(life);
    let drained = life.grants.iter().any(|grant| grant.op.client == DRAIN);
    // Sent back, it is another message, with a time of its own.
    let is_another = !life.became.is_empty();
    (ending.drained && expires > ending.at && !gone && !drained && !is_another).then(|| {
        format!("{id} expires at T {expires}, and at T {} the final drain missed it", ending.at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::New;
    use crate::invariants::sample::{Sample, new, shown};

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    fn received(ttl: Option<u64>, delay: u64, at: u64) -> Sample {
        let mut sample = Sample::default();
        sample.send_with("m", 1, ttl, delay);
        let mut message = shown("m", 1, "r", at + 2, 1);
        message.expires_at = ttl.map(|ttl| 1 + ttl);
        sample.receive_shown(2, message, at, 2);
        sample
    }

    #[test]
    fn delivery_before_expiry_and_after_the_delay_is_right() {
        assert_eq!(broken(received(Some(10), 4, 5)), 0);
    }

    #[test]
    fn delivery_at_the_moment_of_expiry_is_found() {
        assert_eq!(broken(received(Some(10), 0, 10)), 0);
        assert_eq!(broken(received(Some(10), 0, 11)), 1);
    }

    #[test]
    fn delivery_before_the_delay_has_passed_is_found() {
        assert_eq!(broken(received(None, 6, 6)), 1);
    }

    #[test]
    fn a_message_dropped_before_its_expiry_is_found() {
        let mut sample = Sample::default();
        sample.send_with("m", 1, Some(5_000), 0);
        assert_eq!(broken(sample), 1);
        let mut sample = Sample::default();
        sample.send_with("m", 1, Some(50), 0);
        assert_eq!(broken(sample), 0);
    }

    #[test]
    fn a_message_with_time_left_that_was_sent_back_as_another_was_not_dropped() {
        let sent_back = |becomes| {
            let mut sample = Sample::default();
            sample.send_new("gamma", "m", 1, New { ttl: Some(5_000), ..new(1) });
            sample.redrive("gamma-dead", "job", 4);
            if becomes {
                sample.drain_finds_redriven("new", "m", 6);
            }
            broken(sample)
        };
        assert_eq!((sent_back(true), sent_back(false)), (0, 1));
    }

    #[test]
    fn a_message_that_was_sent_back_with_another_time_to_live_is_found() {
        let expires = |at| {
            let mut sample = Sample::default();
            sample.dead_letter("m", 3);
            sample.redrive("gamma-dead", "job", 4);
            let mut message = Sample::redriven("m", 5, shown("new", 1, "r6", 9, 1));
            message.expires_at = at;
            sample.receive_from("gamma", 2, vec![message], 6, 3);
            broken(sample)
        };
        assert_eq!(expires(Some(5 + USUAL_TTL)), 0);
        assert_eq!(expires(None), 1);
        assert_eq!(expires(Some(2 + USUAL_TTL)), 1, "its first time went on");
    }
}
