//! I1: a send that was acknowledged is present, deleted or expired, ever after.

use crate::history::{Call, DRAIN, Op, Outcome};
use crate::queues::max_deliveries;
use crate::story::{Life, Story};

/// Messages with a time to live are I7's: here only what never expires.
pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut lost = Vec::new();
    for (id, life) in &story.lives {
        let Some(sent) = life.sent else { continue };
        if sent.message.expires_at.is_some() || may_be_gone(story, life, None) {
            continue;
        }
        if story.history.ending.drained && !drained(life) {
            lost.push(format!(
                "{id} of {} was acknowledged at T {} and nobody deleted it, but the final drain \
                 did not find it",
                life.home, life.inserted_at
            ));
        }
    }
    lost.extend(not_found(story));
    lost
}

/// Whether a delete or a clear that had begun by then explains that it is not there.
fn may_be_gone(story: &Story<'_>, life: &Life<'_>, by: Option<&Op>) -> bool {
    let begun = |op: &Op| op.client != DRAIN && by.is_none_or(|by| op.invoked <= by.returned);
    life.deletes.iter().any(|delete| begun(delete.op))
        || life.maybe_deleted().any(|act| begun(act.op))
        || story.maybe_cleared(life)
}

fn drained(life: &Life<'_>) -> bool {
    life.grants.iter().any(|grant| grant.op.client == DRAIN)
}

/// Whether it may have gone to the dead letters.
fn may_have_died(story: &Story<'_>, life: &Life<'_>) -> bool {
    let receives = story.queues.get(life.home).map(|queue| &queue.unknown_receives);
    let taken = receives.is_some_and(|receives| !receives.is_empty());
    max_deliveries(life.home).is_some() && (taken || !life.grants.is_empty())
}

/// Linearizable looks, begun after the acknowledgement, that did not find it.
fn not_found(story: &Story<'_>) -> Vec<String> {
    let mut lost = Vec::new();
    for op in &story.history.ops {
        let (Call::Get { id, queue, stale: false }, Outcome::Failed(why)) = (&op.call, &op.outcome)
        else {
            continue;
        };
        let Some(life) = story.lives.get(id.as_str()) else { continue };
        let Some(sent) = life.sent.filter(|sent| sent.op.returned <= op.invoked) else { continue };
        let gone_by_drain = life.deletes.iter().any(|delete| delete.op.invoked <= op.returned);
        if why == "MESSAGE_NOT_FOUND"
            && life.home == queue
            && sent.message.expires_at.is_none()
            && !gone_by_drain
            && !may_have_died(story, life)
            && !may_be_gone(story, life, Some(op))
        {
            lost.push(format!(
                "{id} was acknowledged at T {}, and a read said not found",
                life.inserted_at
            ));
        }
    }
    lost
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{History, NEVER};
    use crate::invariants::sample::Sample;

    fn broken(history: &History) -> Vec<String> {
        check(&Story::of(history))
    }

    #[test]
    fn a_message_that_the_drain_finds_is_kept() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.drain_finds("m", 2);
        assert_eq!(broken(&sample.ended()), Vec::<String>::new());
    }

    #[test]
    fn a_message_that_the_drain_does_not_find_is_lost() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        assert_eq!(broken(&sample.ended()).len(), 1);
    }

    #[test]
    fn a_delete_explains_its_absence_whether_acknowledged_or_unknown() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.delete("m", "r1", 2);
        assert!(broken(&sample.ended()).is_empty());

        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.unknown_delete("m", "r1", 2);
        assert!(broken(&sample.ended()).is_empty());
    }

    #[test]
    fn a_read_that_does_not_find_it_betrays_the_loss_before_the_drain() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.get_fails("m", 2);
        sample.drain_finds("m", 3);
        assert_eq!(broken(&sample.ended()).len(), 1);
    }

    #[test]
    fn a_send_that_never_returned_may_be_lost() {
        let mut sample = Sample::default();
        let op = sample.send("m", 1);
        op.outcome = Outcome::Unknown("lost".to_owned());
        op.returned = NEVER;
        assert!(broken(&sample.ended()).is_empty());
    }
}
