//! G6: a primary that was deposed lists what it has alone before anything is thrown away, every
//! message that is alive there and every delete (`gone`), and nothing of it ever shows in the
//! history that went on, unless it is sent there, which happens once (`replays`).

mod gone;
mod replays;

use std::collections::BTreeSet;

use crate::history::{Act, Answer, Call, Listed, LogTime, Op, Outcome, SentMessage, Verb};
use crate::lineage::PairStory;
use crate::queues::plan;

pub fn check(pair: &PairStory<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let acts = &pair.history.pair.acts;
    for act in acts.iter().filter(|act| act.verb == Verb::BeginAnew) {
        // A copy has nothing alone.
        let is_promoted = |it: &Act| it.verb == Verb::PromoteCopy && it.cluster == act.cluster;
        if !acts.iter().any(is_promoted)
            && !pair.history.pair.listed.iter().any(|listed| listed.cluster == act.cluster)
        {
            wrong.push(format!(
                "the tail of {:?} was thrown away before it was listed",
                act.cluster
            ));
        }
    }
    for listed in &pair.history.pair.listed {
        wrong.extend(gone::check(pair, listed));
        let ids: BTreeSet<&str> = listed.alive.iter().map(|it| &*it.id).collect();
        for (op, message) in lost(pair, listed) {
            if !ids.contains(&*message.id) && !may_be_gone(pair, listed, op, message) {
                let (id, at) = (&message.id, message.inserted_at);
                wrong.push(format!(
                    "{id} was acknowledged by {:?} at T {at} and left behind, and its tail of {} does not list it",
                    listed.cluster, listed.at
                ));
            }
        }
        let merged = pair.history.ops.iter().filter(|op| op.site != listed.cluster);
        for op in merged {
            if let Some(id) = shown(op).find(|id| ids.contains(id)) {
                wrong.push(format!(
                    "{id} is of the tail of {:?}, and {:?} showed it to {:?}",
                    listed.cluster, op.site, op.call
                ));
            }
        }
    }
    wrong.extend(replays::check(pair));
    wrong
}

/// Messages of this cluster whose sends were left behind.
fn lost<'a>(
    pair: &PairStory<'a>,
    listed: &Listed,
) -> impl Iterator<Item = (&'a Op, &'a SentMessage)> {
    let of_tail = pair.writes().filter(|(op, mark)| {
        op.site == listed.cluster
            && op.attempts == 1
            && op.returned <= listed.at
            && pair.lineage.left_behind(op.site, *mark).is_some()
            && pair
                .lineage
                .place(op.site, mark.index)
                .is_some_and(|(of, _)| of.epoch == listed.epoch)
    });
    let of_tail: Vec<&'a Op> = of_tail.map(|(op, _)| op).collect();
    of_tail.into_iter().flat_map(|op| match &op.outcome {
        Outcome::Ok(Answer::Sent { messages, .. }) => messages
            .iter()
            .filter(|message| !message.duplicate)
            .map(|message| (op, message))
            .collect::<Vec<_>>(),
        _ => Vec::new(),
    })
}

/// Whether it need not be alive there any more.
fn may_be_gone(pair: &PairStory<'_>, listed: &Listed, sent: &Op, message: &SentMessage) -> bool {
    let of_cluster = pair.history.pair.sighted.iter().filter(|it| it.cluster == listed.cluster);
    let time: LogTime = of_cluster.map(|it| it.log_time).max().unwrap_or_default();
    let queue = sent.call.sends().zip(match &sent.outcome {
        Outcome::Ok(Answer::Sent { messages, .. }) => messages.as_slice(),
        _ => &[],
    });
    let mut queue = queue.filter(|(_, it)| it.id == message.id).map(|((queue, _), _)| queue);
    let Some(queue) = queue.next() else { return true };
    let ends = |op: &Op| match &op.call {
        Call::Delete { items, .. } => items.iter().any(|(id, _)| *id == message.id),
        Call::Transact { deletes, .. } => deletes.iter().any(|(_, (id, _))| *id == message.id),
        Call::Clear { queue: of } | Call::DeleteQueue { queue: of } => of == queue,
        _ => false,
    };
    let may_act = |op: &Op| !matches!(op.outcome, Outcome::Failed(_));
    let is_told = || {
        listed.deleted.iter().any(|it| it.id == message.id)
            || listed.removed.iter().any(|it| it.queue == queue)
    };
    message.expires_at.is_some_and(|at| at <= time)
        // A dead letter that is sent back has another id.
        || plan(queue).dead_letters.is_some()
        || plan(queue).redriven
        || match listed.is_whole {
            true => is_told(),
            false => pair.history.ops.iter().any(|op| may_act(op) && ends(op)),
        }
}

/// The ids that an answer shows.
fn shown(op: &Op) -> impl Iterator<Item = &str> {
    let messages = match &op.outcome {
        Outcome::Ok(Answer::Received { messages, .. } | Answer::Seen { messages, .. }) => {
            messages.as_slice()
        }
        _ => &[],
    };
    messages.iter().map(|message| &*message.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::pair_sample::PairSample;

    fn broken(sample: &PairSample) -> usize {
        check(&PairStory::of(&sample.history)).len()
    }

    /// A message that was sent after what the promotion knows of.
    fn deposed() -> PairSample {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.send("m", 6);
        sample.fenced(7);
        sample
    }

    #[test]
    fn a_tail_that_lists_what_was_lost_is_right() {
        let mut sample = deposed();
        sample.listed(&["m"]);
        sample.begins_anew();
        assert_eq!(broken(&sample), 0);
    }

    #[test]
    fn a_message_that_the_tail_does_not_list_is_found() {
        let mut sample = deposed();
        sample.listed(&[]);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn a_message_that_the_tail_tells_as_deleted_need_not_be_alive() {
        let told = |is_told: bool| {
            let mut sample = deposed();
            sample.asked_to_delete("m");
            let queue = crate::invariants::sample::QUEUE.to_owned();
            let gone = crate::history::Gone { id: "m".to_owned(), queue, is_shared: false };
            sample.listed_with(&[], is_told.then_some(gone).into_iter().collect(), Vec::new());
            sample
        };
        assert_eq!((broken(&told(true)), broken(&told(false))), (0, 1));
        let mut cut_off = told(false);
        cut_off.history.pair.listed[0].is_whole = false;
        assert_eq!(broken(&cut_off), 0, "the log does not say so any more");
    }

    #[test]
    fn a_copy_that_was_promoted_is_given_up_without_a_tail() {
        let mut sample = PairSample::protected();
        sample.promotes_copy();
        sample.begins_anew();
        assert_eq!(broken(&sample), 0);
    }

    #[test]
    fn a_tail_that_is_thrown_away_unread_is_found() {
        let mut sample = deposed();
        sample.begins_anew();
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn a_message_of_the_tail_that_the_other_side_gives_out_is_found() {
        let mut sample = deposed();
        sample.listed(&["m"]);
        sample.given_out_by_the_other("m", 9);
        assert_eq!(broken(&sample), 1);
    }
}
