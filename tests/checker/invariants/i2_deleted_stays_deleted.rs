//! I2: after an acknowledged delete, clear or deletion of the queue no later receive or
//! linearizable read returns the message, after any restart; nor does one after a redrive has sent
//! it back as another message. A stale read may, and then its T is before the delete's. What was
//! deleted with its queue comes back with it.

use crate::history::{Call, Op};
use crate::story::{Act, Life, Sighting, Story};
use crate::times::When;

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut risen = Vec::new();
    for (id, life) in &story.lives {
        let deletes = life.deletes.iter().map(|delete| Act { op: delete.op, when: delete.when });
        for delete in deletes {
            for seen in life.shown().filter(|seen| is_after(&delete, seen)) {
                risen.push(words(id, life, &delete, &seen));
            }
        }
        for became in &life.became {
            let act = Act { op: became.op, when: When::exact(became.at) };
            for seen in life.shown().filter(|seen| is_after(&act, seen)) {
                let (new, at, seen_at) = (became.id, became.at, seen.at);
                risen.push(format!("{id} became {new} at T {at} and returned at T {seen_at}"));
            }
        }
        let Some(clear) = cleared(story, life) else { continue };
        for seen in life.shown().filter(|seen| seen.queue == life.home && is_after(clear, seen)) {
            risen.push(words(id, life, clear, &seen));
        }
    }
    risen
}

fn words(id: &str, life: &Life<'_>, removed: &Act<'_>, seen: &Sighting<'_>) -> String {
    let (home, by, call, at) = (life.home, removed.when.by, &seen.op.call, seen.at);
    format!("{id} of {home} was removed by T {by} and returned at T {at} by {call:?}")
}

/// The first acknowledged clear or deletion of its queue after it was sent.
fn cleared<'s, 'a>(story: &'s Story<'a>, life: &Life<'_>) -> Option<&'s Act<'a>> {
    story.queues.get(life.home)?.cleared_behind(life.inserted_at)
}

fn is_after(removed: &Act<'_>, seen: &Sighting<'_>) -> bool {
    if seen.shown.receipt.is_empty() {
        // The state at the delete's T holds the delete.
        return seen.at >= removed.when.by
            || (!is_stale(seen.op) && seen.op.invoked >= removed.op.returned);
    }
    seen.at > removed.when.by || seen.op.invoked >= removed.op.returned
}

fn is_stale(op: &Op) -> bool {
    matches!(op.call, Call::Peek { stale: true, .. } | Call::Get { stale: true, .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::sample::{Sample, shown};

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    fn deleted() -> Sample {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.receive("m", 2, 5, 1);
        sample.delete("m", "r2", 3);
        sample
    }

    #[test]
    fn a_message_that_is_never_seen_again_stays_deleted() {
        assert_eq!(broken(deleted()), 0);
    }

    #[test]
    fn a_receive_after_the_delete_betrays_a_resurrection() {
        let mut sample = deleted();
        sample.receive("m", 9, 12, 2);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_linearizable_read_after_the_delete_betrays_a_stale_leader() {
        let mut sample = deleted();
        let op = sample.peek(shown("m", 1, "", 5, 1), 2, false);
        (op.invoked, op.returned) = (100, 101);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_stale_read_may_show_it_only_from_before_the_delete() {
        let mut sample = deleted();
        let op = sample.peek(shown("m", 1, "", 5, 1), 2, true);
        (op.invoked, op.returned) = (100, 101);
        assert_eq!(broken(sample), 0);

        let mut sample = deleted();
        sample.peek(shown("m", 1, "", 5, 1), 3, true);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn what_was_cleared_does_not_come_back() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.clear(4);
        sample.receive("m", 6, 9, 1);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_dead_letter_that_was_sent_back_and_is_still_there_is_found() {
        let seen = |at| {
            let mut sample = Sample::default();
            sample.dead_letter("m", 3);
            sample.redrive("gamma-dead", "job", 4);
            sample.receive_redriven("new", "m", 6, 9);
            let message = Sample::dead("gamma", 3, 3, shown("m", 1, &format!("r{at}"), at + 1, 1));
            sample.receive_from("gamma-dead", 2, vec![message], at, 1);
            broken(sample)
        };
        assert_eq!(seen(5), 0);
        assert_eq!(seen(8), 1);
    }

    #[test]
    fn what_was_deleted_with_its_queue_returns_only_if_the_queue_came_back() {
        let seen = |back: Option<u64>| {
            let queue = || "delta".to_owned();
            let mut sample = Sample::default();
            sample.send_new("delta", "m", 1, crate::invariants::sample::new(1));
            sample.done(3, Call::DeleteQueue { queue: queue() });
            if let Some(at) = back {
                sample.done(at, Call::Undelete { queue: queue() });
            }
            sample.receive_from("delta", 2, vec![shown("m", 1, "r9", 12, 1)], 9, 3);
            broken(sample)
        };
        assert_eq!(seen(Some(5)), 0);
        assert_eq!(seen(None), 1);
    }
}
