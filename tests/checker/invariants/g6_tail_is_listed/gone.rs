//! What was deleted in a tail is told, as long as its log is whole: every delete that was
//! acknowledged there, with whether the new primary may still have the message; every queue that
//! was cleared or deleted; nothing that nobody asked to be deleted; and none of it as alive.

use std::collections::{BTreeMap, BTreeSet};

use zoneq::queue::ids::MessageId;

use super::left::{Deletion, Left};
use crate::history::{Answer, Call, Deleted, Gone, History, Listed, Op, Outcome};
use crate::retold::pair::{Case, Fact};

pub fn check<'p>(left: &Left<'p>, listed: &'p Listed, asked: &Asked<'_>) -> Vec<Case<'p>> {
    let mut wrong = alive(left, listed);
    if listed.is_whole {
        wrong.extend(untold(left, listed));
    }
    wrong.sort_by_key(|(place, is_untold, _)| (*place, *is_untold));
    let mut wrong: Vec<Case<'_>> = wrong.into_iter().map(|(_, _, case)| case).collect();
    if listed.is_whole {
        wrong.extend(not_emptied(left, listed));
    }
    wrong.extend(asked.beyond(listed));
    wrong
}

/// What is wrong with what a tail tells of a delete: its place among all, whether the tail does not
/// tell of it rightly, and the case.
type Wrong<'p> = (usize, bool, Case<'p>);

/// What was deleted and is listed as alive.
fn alive<'p>(left: &Left<'p>, listed: &'p Listed) -> Vec<Wrong<'p>> {
    let ids: BTreeSet<&str> = listed.alive.iter().map(|it| &*it.id).collect();
    let deletions = ids.into_iter().filter_map(|id| left.by_id.get(id)).flatten();
    let deletions = deletions.filter(|it| it.op.returned <= listed.at);
    let case = |it: &Deletion<'p>| {
        let (id, by) = (it.id, listed.cluster);
        let words = format!("{id} was deleted by {by:?}, and its tail lists it as alive");
        Case::new(words).about([id]).on([Fact::Listed(listed)])
    };
    deletions.map(|it| (it.place, false, case(it))).collect()
}

/// Deletes that the tail does not tell of, or not as what they are.
fn untold<'p>(left: &Left<'p>, listed: &'p Listed) -> Vec<Wrong<'p>> {
    let mut told: BTreeMap<(&str, &str), &Gone> = BTreeMap::new();
    for it in &listed.deleted {
        told.entry((&it.queue, &it.id)).or_insert(it);
    }
    let mut wrong = Vec::new();
    for Deletion { place, queue, id, .. } in left.deleted.by(listed.at, |()| false) {
        let is_shared = is_shared(listed, id);
        let words = match told.get(&(*queue, *id)) {
            None => format!(
                "{id} of {queue} was deleted by {:?} and that was left behind, and its tail of {} \
                 does not say so",
                listed.cluster, listed.at
            ),
            Some(told) if is_shared.is_some_and(|is| is != told.is_shared) => {
                let (is, first) = (told.is_shared, listed.first_number);
                format!("{id} is told as shared: {is}, and the tail begins at {first}")
            }
            Some(_) => continue,
        };
        let case = Case::new(words).about([*id]).on([Fact::Listed(listed)]);
        wrong.push((*place, true, case));
    }
    wrong
}

/// Queues that were emptied, and the tail does not say so.
fn not_emptied<'p>(left: &Left<'p>, listed: &'p Listed) -> Vec<Case<'p>> {
    let removed = listed.removed.iter().map(|it| (&*it.queue, it.with_queue));
    let removed: BTreeSet<(&str, bool)> = removed.collect();
    let mut due: Vec<_> = left.emptied.by(listed.at, |it| removed.contains(it)).collect();
    due.sort_by_key(|(place, _)| *place);
    let case = |(_, op): &(usize, &'p Op)| {
        let (queue, with_queue) = emptied(op).unwrap_or_default();
        let words = format!(
            "{queue} was emptied by {:?} (deleted: {with_queue}) and that was left behind, and \
             its tail of {} does not say so",
            listed.cluster, listed.at
        );
        Case::new(words).on([Fact::Call(op), Fact::Listed(listed)])
    };
    due.into_iter().map(case).collect()
}

/// The messages that a call deleted, each with its queue.
pub fn deleted(op: &Op) -> Vec<(&str, &str)> {
    match (&op.call, &op.outcome) {
        (Call::Delete { queue, items }, Outcome::Ok(Answer::Deleted { outcomes, .. })) => {
            let done = items.iter().zip(outcomes).filter(|(_, it)| **it == Deleted::Done);
            done.map(|((id, _), _)| (&**queue, &**id)).collect()
        }
        (Call::Transact { deletes, .. }, Outcome::Ok(_)) => {
            deletes.iter().map(|(queue, (id, _))| (&**queue, &**id)).collect()
        }
        _ => Vec::new(),
    }
}

pub fn emptied(op: &Op) -> Option<(&str, bool)> {
    match &op.call {
        Call::Clear { queue } => Some((queue, false)),
        Call::DeleteQueue { queue } => Some((queue, true)),
        _ => None,
    }
}

fn is_shared(listed: &Listed, id: &str) -> Option<bool> {
    Some(MessageId::parse(id)?.number.0 < listed.first_number)
}

/// What anybody asked to be deleted: messages, and queues, cleared or with all they held.
pub struct Asked<'a> {
    ids: BTreeSet<&'a str>,
    queues: BTreeSet<(&'a str, bool)>,
}

impl<'a> Asked<'a> {
    pub fn of(history: &'a History) -> Asked<'a> {
        let (mut ids, mut queues) = (BTreeSet::new(), BTreeSet::new());
        for op in &history.ops {
            match &op.call {
                Call::Delete { items, .. } => ids.extend(items.iter().map(|(id, _)| &**id)),
                Call::Transact { deletes, .. } => {
                    ids.extend(deletes.iter().map(|(_, (id, _))| &**id));
                }
                _ => {}
            }
            queues.extend(emptied(op));
        }
        Asked { ids, queues }
    }

    /// What a tail tells of as deleted, and nobody asked for.
    fn beyond<'p>(&self, listed: &'p Listed) -> Vec<Case<'p>> {
        let case = |what: &dyn std::fmt::Debug| {
            let by = listed.cluster;
            let words = format!("the tail of {by:?} tells of {what:?}, and nobody asked for that");
            Case::new(words).on([Fact::Listed(listed)])
        };
        let deletes = listed.deleted.iter().filter(|it| !self.ids.contains(&*it.id));
        let deletes = deletes.map(|it| case(it).about([&*it.id]));
        let queues = listed.removed.iter();
        let queues = queues.filter(|it| !self.queues.contains(&(&*it.queue, it.with_queue)));
        deletes.chain(queues.map(|it| case(it))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zoneq::queue::ids::{Epoch, Number};

    use crate::history::{Emptied, Gone};
    use crate::invariants::pair_sample::PairSample;
    use crate::lineage::PairStory;

    /// Before the fork, where the tail begins with 6, and behind it.
    const SHARED: u64 = 3;
    const OWN: u64 = 9;

    fn id(number: u64) -> String {
        MessageId { epoch: Epoch(1), number: Number(number) }.to_string()
    }

    fn broken(sample: &PairSample) -> usize {
        super::super::check(&PairStory::of(&sample.history)).len()
    }

    /// East deletes a message, and clears the queue, after the place to which west has all.
    fn deposed(number: u64) -> PairSample {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.delete(&id(number), 6);
        sample.clear(7);
        sample.fenced(8);
        sample
    }

    fn gone(number: u64, is_shared: bool) -> Gone {
        Gone { id: id(number), queue: crate::invariants::sample::QUEUE.to_owned(), is_shared }
    }

    fn listed(number: u64, is_shared: bool) -> PairSample {
        let mut sample = deposed(number);
        let queue = crate::invariants::sample::QUEUE.to_owned();
        sample.listed_with(
            &[],
            vec![gone(number, is_shared)],
            vec![Emptied { queue, with_queue: false }],
        );
        sample
    }

    #[test]
    fn a_tail_that_tells_of_all_that_was_deleted_is_right() {
        assert_eq!(broken(&listed(OWN, false)), 0);
        assert_eq!(broken(&listed(SHARED, true)), 0);
    }

    #[test]
    fn a_delete_or_a_clear_that_the_tail_does_not_tell_of_is_found() {
        let mut sample = deposed(OWN);
        sample.listed(&[]);
        assert_eq!(broken(&sample), 2);
    }

    #[test]
    fn a_tail_whose_log_is_cut_off_need_not_tell() {
        let mut sample = deposed(OWN);
        sample.listed(&[]);
        sample.history.pair.listed[0].is_whole = false;
        assert_eq!(broken(&sample), 0);
    }

    #[test]
    fn a_deletion_that_is_undone_and_not_told_as_such_is_found() {
        assert_eq!(broken(&listed(SHARED, false)), 1);
        assert_eq!(broken(&listed(OWN, true)), 1);
    }

    #[test]
    fn what_was_deleted_and_is_listed_as_alive_is_found() {
        let mut sample = listed(OWN, false);
        let alive = PairSample::alive(&id(OWN), 6);
        sample.history.pair.listed[0].alive.push(alive);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn what_is_told_as_deleted_and_nobody_deleted_is_found() {
        let mut sample = listed(OWN, false);
        let listed = &mut sample.history.pair.listed[0];
        listed.deleted.push(gone(10, false));
        listed.removed.push(Emptied { queue: "beta".to_owned(), with_queue: true });
        assert_eq!(broken(&sample), 2);
    }

    #[test]
    fn the_delete_is_told_with_the_tail_that_does_not_say_so() {
        let mut sample = deposed(OWN);
        sample.listed(&[]);
        assert_eq!(
            sample.told_of("G6"),
            [
                "0.000030 s to 0.000040 s, client 1: deletes it from queue with r, answered by \
                 east, at T 6",
                "0.000080 s, east: lists its tail of epoch 1 of east, whole: 0 alive, 0 \
                 deleted, 0 queues emptied",
            ]
        );
    }
}
