//! G6: a primary that was deposed lists what it has alone before anything is thrown away, every
//! message that is alive there and every delete (`gone`), and nothing of it ever shows in the
//! history that went on, unless it is sent there, which happens once (`replays`).

mod gone;
mod left;
mod replays;

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Act, Answer, Cluster, Listed, Op, Outcome, Verb};
use crate::lineage::PairStory;
use crate::retold::pair::{Case, Fact};
use left::Left;

pub fn check<'p>(pair: &'p PairStory<'_>) -> Vec<Case<'p>> {
    let mut wrong = unread(pair);
    let asked = gone::Asked::of(pair.history);
    let left = left::all(pair);
    let none = Left::default();
    let mut merged = merged(pair);
    for (place, listed) in pair.history.pair.listed.iter().enumerate() {
        let of_epoch = left.get(&listed.epoch);
        let left = of_epoch.and_then(|left| left.get(&listed.cluster)).unwrap_or(&none);
        wrong.extend(gone::check(left, listed, &asked));
        wrong.extend(unlisted(left, listed));
        wrong.extend(merged.remove(&place).unwrap_or_default());
    }
    wrong.extend(replays::check(pair));
    wrong
}

/// Tails that were thrown away before anybody listed them.
fn unread<'p>(pair: &'p PairStory<'_>) -> Vec<Case<'p>> {
    let acts = &pair.history.pair.acts;
    // A copy has nothing alone.
    let promoted = acts.iter().filter(|it| it.verb == Verb::PromoteCopy).map(|it| it.cluster);
    let read = promoted.chain(pair.history.pair.listed.iter().map(|listed| listed.cluster));
    let read: BTreeSet<Cluster> = read.collect();
    let anew = acts.iter().filter(|it| it.verb == Verb::BeginAnew);
    let unread = anew.filter(|it| !read.contains(&it.cluster));
    let words = |cluster| format!("the tail of {cluster:?} was thrown away before it was listed");
    let case = |act: &'p Act| {
        Case::new(words(act.cluster)).on([Fact::Fenced(act.cluster), Fact::Act(act)])
    };
    unread.map(case).collect()
}

/// Messages whose sends were left behind, and that are not alive at the end of the tail though
/// nothing became of them.
fn unlisted<'p>(left: &Left<'p>, listed: &'p Listed) -> Vec<Case<'p>> {
    let alive: BTreeSet<&str> = listed.alive.iter().map(|it| &*it.id).collect();
    let deleted: BTreeSet<&str> = listed.deleted.iter().map(|it| &*it.id).collect();
    let removed: BTreeSet<&str> = listed.removed.iter().map(|it| &*it.queue).collect();
    let is_told = |id: &str| alive.contains(id) || (listed.is_whole && deleted.contains(id));
    let mut due: Vec<_> = if listed.is_whole {
        left.sent.by(listed.at, |queue| removed.contains(queue)).collect()
    } else {
        left.kept.by(listed.at, |()| false).collect()
    };
    due.retain(|lost| !is_told(&lost.message.id));
    due.sort_by_key(|lost| lost.place);
    let case = |lost: &left::Lost<'p>| {
        let (id, at) = (&*lost.message.id, lost.message.inserted_at);
        let words = format!(
            "{id} was acknowledged by {:?} at T {at} and left behind, and its tail of {} does not list it",
            listed.cluster, listed.at
        );
        let next = Fact::Began(&listed.fenced_by);
        Case::new(words).about([id]).on([next, Fact::Listed(listed)])
    };
    due.into_iter().map(case).collect()
}

/// By tail, in the order in which they were listed: what of it others showed.
fn merged<'p>(pair: &'p PairStory<'_>) -> BTreeMap<usize, Vec<Case<'p>>> {
    let all = &pair.history.pair.listed;
    // What a cluster shows of its own tail says nothing, however often that is listed.
    let mut tails: BTreeMap<&str, BTreeMap<Cluster, BTreeSet<usize>>> = BTreeMap::new();
    for (place, listed) in all.iter().enumerate() {
        for it in &listed.alive {
            let of = tails.entry(&it.id).or_default();
            of.entry(listed.cluster).or_default().insert(place);
        }
    }
    let mut wrong: BTreeMap<usize, Vec<Case<'_>>> = BTreeMap::new();
    for op in &pair.history.ops {
        let mut told = BTreeSet::new();
        for (id, of) in shown(op).filter_map(|id| Some((id, tails.get(id)?))) {
            let others = of.iter().filter(|(cluster, _)| **cluster != op.site);
            for (cluster, place) in others.flat_map(|(of, all)| all.iter().map(move |it| (of, *it)))
            {
                if told.insert(place) {
                    let words = format!(
                        "{id} is of the tail of {cluster:?}, and {:?} showed it to {:?}",
                        op.site, op.call
                    );
                    let listed = all.get(place).map(Fact::Listed);
                    let case = Case::new(words).about([id]).on(listed);
                    wrong.entry(place).or_default().push(case);
                }
            }
        }
    }
    wrong
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

    #[test]
    fn the_calls_of_the_message_are_told_with_the_tail_that_does_not_list_it() {
        let mut sample = deposed();
        sample.send("other", 8);
        sample.asked_to_delete("m");
        sample.listed(&["other"]);
        assert_eq!(
            sample.told_of("G6"),
            [
                "0.000020 s, node 4 of west: is standalone in epoch 2 of west, at index 100 \
                 and T 50",
                "0.000030 s to 0.000040 s, client 1: sends it to queue, answered by east, at T \
                 6",
                "0.000080 s to 0.000090 s, client 1: deletes it from queue with r; nobody \
                 knows what became of it: no answer",
                "0.000100 s, east: lists its tail of epoch 1 of east, whole: 1 alive, 0 \
                 deleted, 0 queues emptied",
            ]
        );
        let mut sample = deposed();
        sample.begins_anew();
        assert_eq!(
            sample.told_of("G6"),
            [
                "0.000050 s, node 1 of east: is fenced in epoch 1 of east, since 7, at index 7 \
                 and T 70",
                "0.000060 s to 0.000060 s, the operator of east: region begins anew, with \
                 empty disks",
            ]
        );
    }
}
