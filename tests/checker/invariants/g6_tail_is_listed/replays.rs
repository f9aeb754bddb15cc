//! A tail that is sent to the new primary is sent once, however often that is asked for: each
//! message that it lists as alive comes under one new id, or is not sent and told; nothing else
//! comes of it; and how far it is does not change once it is done.

use std::collections::{BTreeMap, BTreeSet};

use zoneq::queue::authority::RegionEpoch;
use zoneq::queue::authority::replay::Replayed;
use zoneq::queue::ids::MessageId;

use crate::history::{Alive, Answer, Call, Cluster, History, Listed, Micros, Outcome, Shown};
use crate::lineage::PairStory;
use crate::queues::plan;
use crate::retold::pair::{Case, Fact};
use crate::surviving;
use crate::tails::{LeftBehind, all_replayed, changes, left_behind};

pub fn check<'p>(pair: &'p PairStory<'_>) -> Vec<Case<'p>> {
    let mut wrong = changed(pair);
    let mut states = pair.history.pair.sighted.iter();
    if states.all(|seen| seen.authority.replayed.is_empty()) {
        return wrong;
    }
    let Some(rest) = surviving::of(pair.history) else { return wrong };
    let seen = Seen::of(&rest);
    let mut newest: BTreeMap<_, &Listed> = BTreeMap::new();
    for listed in &pair.history.pair.listed {
        newest.insert(&listed.epoch, listed);
    }
    let left = left_behind(pair.history, &pair.lineage);
    let known = Known::of(pair, &rest);
    for listed in newest.into_values() {
        wrong.extend(seen.twice(listed));
        wrong.extend(seen.brought_back(left.get(&listed.epoch).into_iter().flatten(), listed));
        wrong.extend(seen.missing(&known, listed));
    }
    wrong
}

/// Replays that went on after their end, or back.
fn changed<'p>(pair: &'p PairStory<'_>) -> Vec<Case<'p>> {
    let mut wrong = Vec::new();
    for (before, after) in changes(pair.history) {
        if before.authority.epoch != after.authority.epoch {
            continue;
        }
        let replayed = all_replayed(after);
        for known in &before.authority.replayed {
            let Some(now) = replayed.get(&known.epoch).copied() else { continue };
            let fell = now.through < known.through || now.sent < known.sent;
            if fell || (known.done && now != known) {
                let words = format!(
                    "the replay of a tail stood at {known:?} at {} of {:?}, and then at {now:?}",
                    before.index, before.cluster
                );
                let looks = [Fact::Seen(before), Fact::Seen(after), Fact::Replays(&known.epoch)];
                wrong.push(Case::new(words).on(looks));
            }
        }
    }
    wrong
}

/// What the history that went on showed of each body, but for what redrives made there.
struct Seen<'a> {
    rest: &'a History,
    ids: BTreeMap<u64, BTreeSet<&'a str>>,
    /// Bodies of messages that redrives made.
    redriven: BTreeSet<u64>,
    /// Bodies of sends that clients know of.
    sent: BTreeSet<u64>,
}

fn shown(history: &History) -> impl Iterator<Item = &Shown> {
    history.ops.iter().flat_map(|op| match &op.outcome {
        Outcome::Ok(Answer::Received { messages, .. } | Answer::Seen { messages, .. }) => {
            messages.as_slice()
        }
        _ => &[],
    })
}

impl<'a> Seen<'a> {
    fn of(rest: &'a History) -> Seen<'a> {
        let mut ids: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        let mut redriven = BTreeSet::new();
        for it in shown(rest) {
            let Some(tag) = it.tag else { continue };
            match it.redriven {
                Some(_) => {
                    redriven.insert(tag);
                }
                None => {
                    ids.entry(tag).or_default().insert(&it.id);
                }
            }
        }
        let answered = rest.ops.iter().filter(|op| matches!(op.outcome, Outcome::Ok(_)));
        let sent = answered.flat_map(|op| op.call.sends().map(|(_, new)| new.tag)).collect();
        Seen { rest, ids, redriven, sent }
    }

    /// One that came twice.
    fn twice<'p>(&self, listed: &'p Listed) -> Vec<Case<'p>> {
        let of = listed.alive.iter().filter_map(|it| Some((it, self.ids.get(&it.tag?)?)));
        let twice = of.filter(|(_, ids)| ids.len() > 1);
        let case = |(it, ids): (&Alive, &BTreeSet<&str>)| {
            let epoch = &listed.epoch;
            let words = format!("{} of the tail of {epoch:?} was sent again as {ids:?}", it.id);
            let sent_again = [Fact::Listed(listed), Fact::Replays(epoch)];
            Case::new(words).about([&*it.id]).about(ids.iter().copied()).on(sent_again)
        };
        twice.map(case).collect()
    }

    /// One that was not alive at the tail's end. What had its last lease may have been.
    fn brought_back<'l, 'p>(
        &self,
        left: impl Iterator<Item = &'l LeftBehind<'l>>,
        listed: &'p Listed,
    ) -> Vec<Case<'p>> {
        let alive: BTreeSet<&str> = listed.alive.iter().map(|it| &*it.id).collect();
        let gone = left.filter(|(op, queue, new, id)| {
            let is_own = MessageId::parse(id).is_none_or(|it| it.number.0 >= listed.first_number);
            op.site == listed.cluster
                && op.attempts == 1
                && is_own
                && op.returned <= listed.at
                && plan(queue).dead_letters.is_none()
                && !alive.contains(id)
                && !self.sent.contains(&new.tag)
        });
        let back = gone.filter_map(|(_, _, new, id)| Some((*id, self.ids.get(&new.tag)?)));
        let case = |(id, ids): (&str, &BTreeSet<&str>)| {
            let epoch = &listed.epoch;
            let words = format!(
                "{id} was not alive at the end of the tail of {epoch:?}, and came as {ids:?}"
            );
            let sent_again = [Fact::Listed(listed), Fact::Replays(epoch)];
            Case::new(words).about([id]).about(ids.iter().copied()).on(sent_again)
        };
        back.map(case).collect()
    }

    /// Those that are nowhere at the end, though nothing became of them.
    fn missing<'p>(&self, known: &Known<'_>, listed: &'p Listed) -> Vec<Case<'p>> {
        let Some(done) = known.done.get(&listed.epoch).filter(|it| it.done) else {
            return Vec::new();
        };
        let mut wrong = Vec::new();
        // What a queue holds that was deleted there, and might have come back, is not sent.
        let told = listed.removed.iter().filter(|it| it.with_queue).map(|it| &*it.queue);
        let told: BTreeSet<&str> = told.collect();
        let is_deleted =
            |queue: &str| told.contains(queue) || known.may_be_deleted(listed.cluster, queue);
        let alive = listed.alive.iter().filter(|it| !is_deleted(&it.queue));
        let count = alive.clone().count();
        if done.sent + done.skipped < count as u64 {
            let epoch = &listed.epoch;
            let words = format!("the tail of {epoch:?} lists {count}, and its replay {done:?}");
            wrong.push(Case::new(words).on([Fact::Listed(listed), Fact::Replays(epoch)]));
        }
        let told = known.skipped.get(&listed.epoch).into_iter().flatten();
        let told: BTreeSet<&str> = told.copied().collect();
        let since = pair_since(known.pair, &listed.epoch);
        let missing = alive.filter(|it| {
            !told.contains(&*it.id) && !self.is_seen(it) && !self.may_be_gone(it, known, since)
        });
        let missing: Vec<&str> = missing.map(|it| &*it.id).collect();
        let untold = done.skipped.saturating_sub(told.len() as u64);
        if missing.len() as u64 > untold {
            let words = format!(
                "{missing:?} of the tail of {:?} are nowhere, {} were sent and of {} others it is \
                 not known which they are",
                listed.epoch, done.sent, untold
            );
            let sent_again = [Fact::Listed(listed), Fact::Replays(&listed.epoch)];
            wrong.push(Case::new(words).about(missing).on(sent_again));
        }
        wrong
    }

    fn is_seen(&self, it: &Alive) -> bool {
        // What a redrive made of a message that both had is not told from that one.
        it.tag.is_none_or(|tag| {
            self.ids.contains_key(&tag) || self.redriven.contains(&tag) || self.sent.contains(&tag)
        })
    }

    fn may_be_gone(&self, it: &Alive, known: &Known<'_>, since: Micros) -> bool {
        let ending = &self.rest.ending;
        !ending.drained
            || it.expires_at.is_some_and(|at| at <= ending.at)
            || known.emptied.get(&*it.queue).is_some_and(|last| *last >= since)
    }
}

/// When the epoch began that went on after this one.
fn pair_since(pair: &PairStory<'_>, epoch: &RegionEpoch) -> Micros {
    let line = pair.lineage.line(epoch);
    line.and_then(|line| pair.lineage.after(line)).map_or(0, |next| next.began)
}

/// What all tails are held against, put in order once.
struct Known<'a> {
    pair: &'a PairStory<'a>,
    /// What the replay of each tail came to, as the history that went on has it.
    done: BTreeMap<&'a RegionEpoch, &'a Replayed>,
    /// Ids of messages of each tail that were told as not sent.
    skipped: BTreeMap<&'a RegionEpoch, Vec<&'a str>>,
    /// Of each queue: when a clear or a deletion was over last that may have emptied it.
    emptied: BTreeMap<&'a str, Micros>,
    /// Queues that may have been deleted, in the tails of one cluster or, of `None`, of any.
    deleted: BTreeSet<(Option<Cluster>, &'a str)>,
}

impl<'a> Known<'a> {
    fn of(pair: &'a PairStory<'a>, rest: &'a History) -> Known<'a> {
        let mut skipped: BTreeMap<&RegionEpoch, Vec<&str>> = BTreeMap::new();
        for replay in &pair.history.pair.replays {
            let ids = replay.skipped.iter().map(|(id, _)| &**id);
            skipped.entry(&replay.epoch).or_default().extend(ids);
        }
        let mut emptied: BTreeMap<&str, Micros> = BTreeMap::new();
        for op in rest.ops.iter().filter(|op| !matches!(op.outcome, Outcome::Failed(_))) {
            if let Call::Clear { queue } | Call::DeleteQueue { queue } = &op.call {
                let last = emptied.entry(queue).or_default();
                *last = op.returned.max(*last);
            }
        }
        let (done, deleted) = (done(pair), deleted_queues(pair));
        Known { pair, done, skipped, emptied, deleted }
    }

    fn may_be_deleted(&self, cluster: Cluster, queue: &str) -> bool {
        self.deleted.contains(&(None, queue)) || self.deleted.contains(&(Some(cluster), queue))
    }
}

/// Queues that were deleted in the tails of clusters, or may have been.
fn deleted_queues<'a>(pair: &PairStory<'a>) -> BTreeSet<(Option<Cluster>, &'a str)> {
    let asked = pair.history.ops.iter().filter_map(|op| {
        let Call::DeleteQueue { queue } = &op.call else { return None };
        match &op.outcome {
            Outcome::Ok(answer) => {
                let left = pair.lineage.left_behind(op.site, answer.mark()?);
                left.map(|_| (Some(op.site), &**queue))
            }
            Outcome::Unknown(_) => Some((None, &**queue)),
            Outcome::Failed(_) => None,
        }
    });
    asked.collect()
}

/// What replays came to, as the newest look at the history that went on has it.
fn done<'a>(pair: &PairStory<'a>) -> BTreeMap<&'a RegionEpoch, &'a Replayed> {
    let last = pair.lineage.lines.last().map(|line| &line.epoch);
    let sighted = pair.history.pair.sighted.iter();
    let newest = sighted.filter(|it| Some(&it.authority.epoch) == last).max_by_key(|it| it.at);
    newest.map(all_replayed).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::pair_sample::PairSample;

    fn broken(sample: &PairSample) -> usize {
        super::super::check(&PairStory::of(&sample.history)).len()
    }

    /// East had two messages alone, bodies 6 and 7, and west took as many.
    fn sent_again(sent: u64) -> PairSample {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.send("m6", 6);
        sample.send("m7", 7);
        sample.fenced(8);
        sample.listed(&["m6", "m7"]);
        sample.replayed(200, sent);
        sample.history.ending.drained = true;
        sample
    }

    #[test]
    fn a_tail_of_which_each_message_came_once_is_right() {
        let mut sample = sent_again(2);
        sample.given_again("n6", 6, 210);
        sample.given_again("n7", 7, 211);
        sample.given_again("n6", 6, 230);
        assert_eq!(broken(&sample), 0);
    }

    #[test]
    fn one_that_came_twice_is_found() {
        let mut sample = sent_again(2);
        sample.given_again("n6", 6, 210);
        sample.given_again("n7", 7, 211);
        sample.given_again("twin", 6, 230);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn one_that_is_nowhere_is_found_unless_it_was_told_as_not_sent() {
        let with = |skipped: Option<&str>| {
            let mut sample = sent_again(2);
            sample.given_again("n6", 6, 210);
            if let Some(id) = skipped {
                sample.replay_told(&[id]);
            }
            broken(&sample)
        };
        assert_eq!((with(None), with(Some("m7")), with(Some("m6"))), (1, 0, 1));
    }

    #[test]
    fn one_that_expired_or_was_cleared_since_may_be_nowhere() {
        let mut sample = sent_again(2);
        sample.given_again("n6", 6, 210);
        sample.history.pair.listed[0].alive[1].expires_at = Some(300);
        sample.history.ending.at = 299;
        assert_eq!(broken(&sample), 1);
        sample.history.ending.at = 300;
        assert_eq!(broken(&sample), 0);
        sample.history.ending.at = 0;
        sample.clear_of_the_other(220);
        assert_eq!(broken(&sample), 0);
    }

    #[test]
    fn a_replay_that_took_fewer_than_are_listed_is_found() {
        let mut sample = sent_again(1);
        sample.given_again("n6", 6, 210);
        sample.given_again("n7", 7, 211);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn what_a_deleted_queue_had_need_not_be_taken() {
        let mut sample = sent_again(1);
        sample.given_again("n6", 6, 210);
        let (queue, with_queue) = ("sigma".to_owned(), true);
        sample.history.pair.listed[0].alive[1].queue.clone_from(&queue);
        assert_eq!(broken(&sample), 2, "fewer than are listed, and one is nowhere");
        sample.history.pair.listed[0].is_whole = false;
        let emptied = crate::history::Emptied { queue: queue.clone(), with_queue };
        sample.history.pair.listed[0].removed.push(emptied);
        sample.unknown_deletion_of_queue(&queue);
        assert_eq!(broken(&sample), 0);
    }

    #[test]
    fn a_replay_that_goes_on_after_its_end_is_found() {
        let mut sample = sent_again(2);
        sample.given_again("n6", 6, 210);
        sample.given_again("n7", 7, 211);
        sample.replayed(210, 2);
        assert_eq!(broken(&sample), 0, "it is as it was");
        sample.replayed(220, 4);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn what_was_deleted_in_the_tail_and_comes_again_is_found() {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.send("m6", 6);
        sample.delete("m6", 7);
        sample.fenced(8);
        let gone = |id: &str| crate::history::Gone {
            id: id.to_owned(),
            queue: crate::invariants::sample::QUEUE.to_owned(),
            is_shared: false,
        };
        sample.listed_with(&[], vec![gone("m6")], Vec::new());
        sample.replayed(200, 0);
        assert_eq!(broken(&sample), 0);
        sample.given_again("n6", 6, 210);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn the_calls_under_all_its_ids_are_told_with_the_tail_and_its_replays() {
        let mut sample = sent_again(2);
        sample.replay_told(&[]);
        sample.given_again("n6", 6, 210);
        sample.given_again("n7", 7, 211);
        sample.given_again("twin", 6, 230);
        assert_eq!(
            sample.told_of("G6"),
            [
                "0.000030 s to 0.000040 s, client 1: sends it to queue (m6), answered by east, \
                 at T 6",
                "0.000080 s, east: lists its tail of epoch 1 of east, whole: 2 alive, 0 \
                 deleted, 0 queues emptied",
                "0.000110 s to 0.000120 s, the operator of east: sends the tail of epoch 1 of \
                 east again, 0 sent, 0 not",
                "0.000130 s to 0.000140 s, client 1: receives it from queue, time 1, until T \
                 211, with r (n6), answered by west, at T 210",
                "0.000170 s to 0.000180 s, client 1: receives it from queue, time 1, until T \
                 231, with r (twin), answered by west, at T 230",
            ]
        );
    }

    #[test]
    fn a_replay_that_went_on_is_told_by_the_looks_before_and_behind() {
        let mut sample = sent_again(2);
        sample.replayed(220, 4);
        assert_eq!(
            sample.told_of("G6"),
            [
                "0.000110 s, node 4 of west: is standalone in epoch 2 of west; took the tail \
                 of epoch 1 of east, 2 sent, 0 not, to its end, at index 218 and T 218",
                "0.000120 s, node 4 of west: is standalone in epoch 2 of west; took the tail \
                 of epoch 1 of east, 4 sent, 0 not, to its end, at index 220 and T 220",
            ]
        );
    }

    #[test]
    fn of_many_lines_the_first_and_the_last_are_told() {
        let mut sample = sent_again(2);
        (0..20).for_each(|at| sample.given_again("n6", 6, 210 + at));
        sample.given_again("twin", 6, 300);
        let lines = sample.told_of("G6");
        assert_eq!((lines.len(), lines[8].as_str()), (17, "… 7 more …"));
    }
}
