//! G6: a primary that was deposed lists what it has alone before anything is thrown away, every
//! message that is alive there and every delete (`gone`), and nothing of it ever shows in the
//! history that went on, unless it is sent there, which happens once (`replays`).

mod gone;
mod replays;

use std::collections::{BTreeMap, BTreeSet};

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
    let asked = gone::Asked::of(pair.history);
    let mut merged = merged(pair);
    for (place, listed) in pair.history.pair.listed.iter().enumerate() {
        wrong.extend(gone::check(pair, listed, &asked));
        let ids: BTreeSet<&str> = listed.alive.iter().map(|it| &*it.id).collect();
        let ended = Ended::of(pair, listed);
        for (op, message) in lost(pair, listed) {
            if !ids.contains(&*message.id) && !ended.may_hold(op, message) {
                let (id, at) = (&message.id, message.inserted_at);
                wrong.push(format!(
                    "{id} was acknowledged by {:?} at T {at} and left behind, and its tail of {} does not list it",
                    listed.cluster, listed.at
                ));
            }
        }
        wrong.extend(merged.remove(&place).unwrap_or_default());
    }
    wrong.extend(replays::check(pair));
    wrong
}

/// By tail, in the order in which they were listed: what of it others showed.
fn merged(pair: &PairStory<'_>) -> BTreeMap<usize, Vec<String>> {
    let mut tails: BTreeMap<&str, BTreeSet<usize>> = BTreeMap::new();
    for (place, listed) in pair.history.pair.listed.iter().enumerate() {
        for it in &listed.alive {
            tails.entry(&it.id).or_default().insert(place);
        }
    }
    let mut wrong: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for op in &pair.history.ops {
        let mut told = BTreeSet::new();
        for (id, place) in shown(op).filter_map(|id| Some((id, tails.get(id)?))).flat_map(each) {
            let Some(listed) = pair.history.pair.listed.get(place) else { continue };
            if op.site != listed.cluster && told.insert(place) {
                wrong.entry(place).or_default().push(format!(
                    "{id} is of the tail of {:?}, and {:?} showed it to {:?}",
                    listed.cluster, op.site, op.call
                ));
            }
        }
    }
    wrong
}

fn each<'a>(
    (id, places): (&'a str, &'a BTreeSet<usize>),
) -> impl Iterator<Item = (&'a str, usize)> {
    places.iter().map(move |place| (id, *place))
}

/// Messages of this cluster whose sends were left behind.
fn lost<'a>(
    pair: &PairStory<'a>,
    listed: &Listed,
) -> impl Iterator<Item = (&'a Op, &'a SentMessage)> {
    let of_tail: Vec<&'a Op> = gone::of_tail(pair, listed).collect();
    of_tail.into_iter().flat_map(|op| match &op.outcome {
        Outcome::Ok(Answer::Sent { messages, .. }) => messages
            .iter()
            .filter(|message| !message.duplicate)
            .map(|message| (op, message))
            .collect::<Vec<_>>(),
        _ => Vec::new(),
    })
}

/// What need not be alive at the end of a tail any more.
struct Ended<'a> {
    /// The latest T that was seen there.
    time: LogTime,
    ids: BTreeSet<&'a str>,
    queues: BTreeSet<&'a str>,
}

impl<'a> Ended<'a> {
    fn of(pair: &PairStory<'a>, listed: &'a Listed) -> Ended<'a> {
        let of_cluster = pair.history.pair.sighted.iter().filter(|it| it.cluster == listed.cluster);
        let time = of_cluster.map(|it| it.log_time).max().unwrap_or_default();
        let (mut ids, mut queues) = (BTreeSet::new(), BTreeSet::new());
        if listed.is_whole {
            ids.extend(listed.deleted.iter().map(|it| &*it.id));
            queues.extend(listed.removed.iter().map(|it| &*it.queue));
            return Ended { time, ids, queues };
        }
        let may_act = |op: &&Op| !matches!(op.outcome, Outcome::Failed(_));
        for op in pair.history.ops.iter().filter(may_act) {
            match &op.call {
                Call::Delete { items, .. } => ids.extend(items.iter().map(|(id, _)| &**id)),
                Call::Transact { deletes, .. } => {
                    ids.extend(deletes.iter().map(|(_, (id, _))| &**id));
                }
                Call::Clear { queue } | Call::DeleteQueue { queue } => {
                    queues.insert(queue);
                }
                _ => {}
            }
        }
        Ended { time, ids, queues }
    }

    /// Whether that may be so of a message.
    fn may_hold(&self, sent: &Op, message: &SentMessage) -> bool {
        let queue = sent.call.sends().zip(match &sent.outcome {
            Outcome::Ok(Answer::Sent { messages, .. }) => messages.as_slice(),
            _ => &[],
        });
        let mut queue = queue.filter(|(_, it)| it.id == message.id).map(|((queue, _), _)| queue);
        let Some(queue) = queue.next() else { return true };
        message.expires_at.is_some_and(|at| at <= self.time)
            // A dead letter that is sent back has another id.
            || plan(queue).dead_letters.is_some()
            || plan(queue).redriven
            || self.ids.contains(&*message.id)
            || self.queues.contains(queue)
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
