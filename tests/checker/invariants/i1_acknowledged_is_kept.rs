//! I1: a send that was acknowledged is present, deleted or expired, ever after; so is what a read
//! or a receive has shown. A dead letter may also have been sent back as another message, which is
//! kept in its turn, and a queue that was deleted and came back has all that it had.

use std::collections::BTreeMap;

use crate::history::{Answer, Applied, Call, Cluster, DRAIN, Micros, Outcome};
use crate::queues::max_deliveries;
use crate::story::{Life, Story};

/// What was sent with a time to live is I7's.
pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut lost = Vec::new();
    for (id, life) in &story.lives {
        let has_time = match life.sent {
            Some(sent) => sent.message.expires_at.is_none(),
            None => life.expires_at(life.home).is_none_or(|at| at > story.history.ending.at),
        };
        let is_known = life.sent.is_some() || life.shown().next().is_some();
        if !is_known || !has_time || may_be_gone(story, life) || !life.became.is_empty() {
            continue;
        }
        if story.history.ending.drained && !drained(life) {
            let what = if life.sent.is_some() { "acknowledged" } else { "shown" };
            lost.push(format!(
                "{id} of {} was {what}, inserted at T {}, and nobody deleted it, but the final \
                 drain did not find it",
                life.home, life.inserted_at
            ));
        }
    }
    lost.extend(not_found(story));
    lost.extend(elsewhere(story));
    lost
}

/// Positions that are said to be committed while another entry was applied there, and writes that
/// are said to be in fewer zones than must have them.
fn elsewhere(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut first: BTreeMap<(Cluster, u64), &Applied> = BTreeMap::new();
    for applied in &story.history.applied {
        first.entry((applied.cluster, applied.index)).or_insert(applied);
    }
    for op in &story.history.ops {
        let Outcome::Ok(Answer::Durable { committed, zones_at_least }) = &op.outcome else {
            continue;
        };
        let Call::Durability { position } = &op.call else { continue };
        let applied = first.get(&(op.site, position.index));
        let other = applied.filter(|at| (at.term, at.leader) != (position.term, position.node));
        if let Some(other) = other.filter(|_| *committed) {
            wrong.push(format!("{position:?} is said to be committed, and {other:?} was applied"));
        }
        if *zones_at_least < 2 {
            wrong.push(format!("{position:?} is said to be in {zones_at_least} zones at least"));
        }
    }
    wrong
}

/// Whether a delete or a clear of a client explains that it is not there.
fn may_be_gone(story: &Story<'_>, life: &Life<'_>) -> bool {
    let deletes = life.deletes.iter().map(|delete| delete.op);
    let mut deletes = deletes.chain(life.maybe_deleted().map(|act| act.op));
    deletes.any(|op| op.client != DRAIN) || story.maybe_cleared(life)
}

/// When the first delete began that explains that a message is not there: any that worked, and of
/// a client also one that may have.
fn first_delete(life: &Life<'_>) -> Option<Micros> {
    let maybe = life.maybe_deleted().map(|act| act.op).filter(|op| op.client != DRAIN);
    let all = life.deletes.iter().map(|delete| delete.op).chain(maybe);
    all.map(|op| op.invoked).min()
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
    let mut first: BTreeMap<&str, Option<Micros>> = BTreeMap::new();
    for op in &story.history.ops {
        let (Call::Get { id, queue, stale: false }, Outcome::Failed(why)) = (&op.call, &op.outcome)
        else {
            continue;
        };
        let Some(life) = story.lives.get(id.as_str()) else { continue };
        let Some(sent) = life.sent.filter(|sent| sent.op.returned <= op.invoked) else { continue };
        let gone = *first.entry(id).or_insert_with(|| first_delete(life));
        if why == "MESSAGE_NOT_FOUND"
            && life.home == queue
            && sent.message.expires_at.is_none()
            && gone.is_none_or(|first| first > op.returned)
            && !may_have_died(story, life)
            && !story.maybe_cleared(life)
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
    fn a_position_that_is_said_to_be_committed_is_the_one_that_was_applied() {
        let told = |committed, zones_at_least, term| {
            let mut sample = Sample::default();
            let cluster = crate::history::Cluster::default();
            let (node, index, leader, digest) = (1, 1, 1, 0);
            let applied = crate::history::Applied { cluster, node, index, term, leader, digest };
            sample.history.applied.push(applied);
            let position = crate::invariants::sample::mark(1);
            let answer = Answer::Durable { committed, zones_at_least };
            sample.add(2, 3, Call::Durability { position }, Outcome::Ok(answer));
            broken(&sample.ended()).len()
        };
        assert_eq!((told(true, 2, 1), told(false, 2, 2)), (0, 0));
        assert_eq!((told(true, 2, 2), told(true, 1, 1)), (1, 1));
    }

    #[test]
    fn what_was_shown_is_kept_whether_or_not_its_send_was_acknowledged() {
        let shown = |drained| {
            let mut sample = Sample::default();
            sample.send("m", 1).outcome = Outcome::Unknown("lost".to_owned());
            sample.receive("m", 2, 5, 1);
            if drained {
                sample.drain_finds("m", 9);
            }
            broken(&sample.ended()).len()
        };
        assert_eq!((shown(true), shown(false)), (0, 1));
    }

    #[test]
    fn a_dead_letter_that_a_redrive_took_and_that_became_nothing_is_lost() {
        let redriven = |becomes| {
            let mut sample = Sample::default();
            sample.dead_letter("m", 3);
            sample.redrive("gamma-dead", "job", 4);
            if becomes {
                sample.drain_finds_redriven("new", "m", 6);
            }
            broken(&sample.ended()).len()
        };
        assert_eq!((redriven(true), redriven(false)), (0, 1));
    }

    #[test]
    fn a_queue_that_came_back_without_a_message_has_lost_it() {
        let back = |found| {
            let queue = || "sigma".to_owned();
            let mut sample = Sample::default();
            sample.send_new("sigma", "m", 1, crate::invariants::sample::new(1));
            sample.done(3, Call::DeleteQueue { queue: queue() });
            sample.done(5, Call::Undelete { queue: queue() });
            if found {
                let message = crate::invariants::sample::shown("m", 1, "r7", 17, 1);
                sample.receive_from("sigma", DRAIN, vec![message], 7, 10);
            }
            broken(&sample.ended()).len()
        };
        assert_eq!((back(true), back(false)), (0, 1));
    }

    #[test]
    fn what_a_deleted_queue_had_may_be_gone_where_another_of_its_name_was_created_behind_it() {
        let lost = |created_at| {
            let queue = || "sigma".to_owned();
            let mut sample = Sample::default();
            sample.done(created_at, Call::Create { queue: queue() });
            sample.send_new("sigma", "m", 2, crate::invariants::sample::new(2));
            sample.done(4, Call::DeleteQueue { queue: queue() });
            sample.done(8, Call::DeleteQueue { queue: queue() });
            sample.done(9, Call::Undelete { queue: queue() });
            broken(&sample.ended()).len()
        };
        let (before, behind) = (1, 6);
        assert_eq!((lost(before), lost(behind)), (1, 0));
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
