//! G5: a primary that has seen a higher epoch acknowledges nothing any more, and answers nothing
//! as if it still led: no write, and no linearizable read.
//!
//! What a primary acknowledges before it hears of a promotion is its tail. One that relies on a
//! region lease acknowledges nothing that was committed after the promotion, heard or not: so
//! nothing that was asked for after a node was seen to be promoted.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use zoneq::queue::authority::{RegionEpoch, Role};

use crate::highest::Highest;
use crate::history::{Call, Cluster, Micros, Op, Outcome, Sighted};
use crate::lineage::{PairStory, Write};
use crate::retold::pair::{Case, Fact};

/// A time in which a cluster was fenced, or in conflict.
struct Fence<'a> {
    first: &'a Sighted,
    cluster: Cluster,
    /// What it acknowledged may stand up to this index of its log, and from the other one on.
    end: u64,
    again: Option<u64>,
    /// When it was first seen so, and when it was something else again.
    since: Micros,
    until: Micros,
}

pub fn check<'p>(pair: &'p PairStory<'_>) -> Vec<Case<'p>> {
    let mut wrong = Vec::new();
    let of_clusters = Answered::of(pair);
    for fence in fences(pair) {
        let Fence { cluster, end, since, first, .. } = fence;
        let by = match &first.authority.role {
            Role::Fenced { by, .. } => Some(Fact::Began(by)),
            _ => None,
        };
        let Some(answered) = of_clusters.get(&cluster) else { continue };
        wrong.extend(answered.writes_behind(&fence).into_iter().map(|(_, (op, mark))| {
            let words = format!(
                "{cluster:?} was fenced at {end}, and {:?} was acknowledged at {mark:?}",
                op.call
            );
            Case::new(words).on(by).on([Fact::Seen(first), Fact::Call(op)])
        }));
        wrong.extend(answered.reads_behind(&fence).into_iter().map(|(_, op)| {
            let (call, at) = (&op.call, op.invoked);
            let words = format!(
                "{cluster:?} was fenced at {since} us, and answered {call:?} of {at} us as if it led"
            );
            Case::new(words).on(by).on([Fact::Seen(first), Fact::Call(op)])
        }));
    }
    wrong.extend(beyond_the_lease(pair));
    wrong
}

/// What a cluster answered, each call with its number.
#[derive(Default)]
struct Answered<'a> {
    /// In the order of its log.
    writes: Vec<(usize, Write<'a>)>,
    /// Answers that must be the newest, in the order in which they were given.
    reads: Vec<(usize, &'a Op)>,
    /// Of these: when each was given, and when it was asked for.
    asked: Highest<Micros, Micros>,
}

impl<'a> Answered<'a> {
    fn of(pair: &PairStory<'a>) -> BTreeMap<Cluster, Answered<'a>> {
        let mut all: BTreeMap<Cluster, Answered<'_>> = BTreeMap::new();
        for (number, op) in pair.history.ops.iter().enumerate() {
            let Outcome::Ok(answer) = &op.outcome else { continue };
            let own = all.entry(op.site).or_default();
            own.writes.extend(answer.mark().map(|mark| (number, (op, mark))));
            own.reads.extend(is_read(op).then_some((number, op)));
        }
        for own in all.values_mut() {
            own.writes.sort_by_key(|(_, (_, mark))| mark.index);
            own.reads.sort_by_key(|(_, op)| (op.returned, op.invoked));
            own.asked = own.reads.iter().map(|(_, op)| (op.returned, op.invoked)).collect();
        }
        all
    }

    fn writes_behind(&self, fence: &Fence<'_>) -> Vec<(usize, Write<'a>)> {
        let through = |last: u64| self.writes.partition_point(|(_, (_, mark))| mark.index <= last);
        let late = through(fence.end)..through(fence.again.unwrap_or(u64::MAX));
        let mut late = self.writes.get(late).unwrap_or_default().to_vec();
        late.sort_unstable_by_key(|(number, _)| *number);
        late
    }

    fn reads_behind(&self, fence: &Fence<'_>) -> Vec<(usize, &'a Op)> {
        let near = self.reads.get(self.asked.places(&fence.until, fence.since));
        let late = near.into_iter().flatten().filter(|(_, op)| op.invoked > fence.since).copied();
        let mut late: Vec<(usize, &Op)> = late.collect();
        late.sort_unstable_by_key(|(number, _)| *number);
        late
    }
}

/// What a deposed primary acknowledged though its lease had ended before the promotion.
fn beyond_the_lease<'p>(pair: &'p PairStory<'_>) -> Vec<Case<'p>> {
    let mut wrong = Vec::new();
    let primaries = primaries(&pair.history.pair.sighted);
    for (deposed, next) in pair.lineage.forced() {
        let Some(cluster) = deposed.cluster else { continue };
        let own = primaries.get(&(cluster, &deposed.epoch)).map_or(&[][..], Vec::as_slice);
        let lease = relies_on_lease(own, next.began).filter(|_| next.cluster != Some(cluster));
        let Some(lease) = lease else { continue };
        let began = next.began;
        let own = pair.writes_of(&deposed.epoch).filter(|(op, _)| op.site == cluster);
        let late = own.filter(|(op, _)| op.invoked > began);
        wrong.extend(late.map(|(op, mark)| {
            let (call, at) = (&op.call, op.invoked);
            let words = format!(
                "{cluster:?} relied on a lease, the other region was promoted at {began} us, and \
                 {call:?} of {at} us was acknowledged at {mark:?}"
            );
            Case::new(words).on([Fact::Seen(lease), Fact::Began(&next.epoch), Fact::Call(op)])
        }));
    }
    wrong
}

/// What was seen of each cluster as the primary of each epoch.
fn primaries(sighted: &[Sighted]) -> BTreeMap<(Cluster, &RegionEpoch), Vec<&Sighted>> {
    let mut all: BTreeMap<(Cluster, &RegionEpoch), Vec<&Sighted>> = BTreeMap::new();
    for seen in sighted.iter().filter(|seen| seen.authority.role == Role::Primary) {
        all.entry((seen.cluster, &seen.authority.epoch)).or_default().push(seen);
    }
    all
}

/// What shows that a cluster, of which this was seen, relied on a region lease when the epoch after
/// its own began, and until its own ended.
fn relies_on_lease<'p>(own: &[&'p Sighted], until: Micros) -> Option<&'p Sighted> {
    let own = own.iter().copied();
    let lease = |seen: &Sighted| seen.authority.leasing.in_force;
    // A restart goes back to what its tables held: what counts is the order of the log.
    let last = own.clone().filter(|it| it.at <= until).max_by_key(|it| it.index)?;
    let mut later = own.filter(|it| it.index > last.index);
    (lease(last).is_some() && later.all(|it| lease(it).is_some())).then_some(last)
}

/// Where a role that answers nothing began.
fn end_of(role: &Role) -> Option<u64> {
    match role {
        Role::Fenced { at, .. } | Role::Conflict { at, .. } => Some(at.index),
        _ => None,
    }
}

fn fences<'p>(pair: &'p PairStory<'_>) -> Vec<Fence<'p>> {
    let sighted = &pair.history.pair.sighted;
    // A restart goes back to what its tables held: once is enough.
    let mut begun: BTreeMap<(Cluster, u64), &Sighted> = BTreeMap::new();
    // What is no fence, from the end of the log to its beginning: the first look beyond a place.
    let mut others: BTreeMap<Cluster, Vec<_>> = BTreeMap::new();
    for (number, seen) in sighted.iter().enumerate() {
        if let Some(end) = end_of(&seen.authority.role) {
            begun.entry((seen.cluster, end)).or_insert(seen);
        } else {
            let of = others.entry(seen.cluster).or_default();
            of.push((Reverse(seen.index), Reverse(number)));
        }
    }
    let others: BTreeMap<Cluster, Highest<_, _>> =
        others.into_iter().map(|(of, all)| (of, all.into_iter().collect())).collect();
    let mut firsts: BTreeMap<Cluster, Vec<u64>> = BTreeMap::new();
    for line in pair.lineage.all() {
        if let (Some(cluster), Some(first)) = (line.cluster, line.first) {
            firsts.entry(cluster).or_default().push(first);
        }
    }
    firsts.values_mut().for_each(|firsts| firsts.sort_unstable());
    let all = begun.into_iter().map(|((cluster, end), first)| {
        let own = firsts.get(&cluster).map_or(&[][..], Vec::as_slice);
        let again = own.get(own.partition_point(|first| *first <= end)).copied();
        let other = others.get(&cluster).and_then(|all| all.below(&Reverse(first.index)));
        let until = other.and_then(|Reverse(number)| sighted.get(number));
        let until = until.map_or(Micros::MAX, |it| it.at);
        Fence { first, cluster, end, again, since: first.at, until }
    });
    all.collect()
}

/// An answer that must be the newest.
fn is_read(op: &Op) -> bool {
    let Outcome::Ok(answer) = &op.outcome else { return false };
    answer.mark().is_none() && !op.call.is_stale() && !matches!(op.call, Call::Durability { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::pair_sample::PairSample;

    fn broken(sample: &PairSample) -> usize {
        check(&PairStory::of(&sample.history)).len()
    }

    #[test]
    fn what_came_before_the_fence_is_the_tail() {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.write(6, 60);
        sample.fenced(7);
        assert_eq!(broken(&sample), 0);
    }

    #[test]
    fn a_write_after_the_fence_is_found() {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.fenced(7);
        sample.write(8, 80);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn what_it_acknowledges_as_the_primary_that_it_is_again_is_right() {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.fenced(7);
        sample.handed_back(20);
        sample.write(21, 210);
        sample.read(210);
        assert_eq!(broken(&sample), 0);
        sample.write(8, 80);
        assert_eq!(broken(&sample), 1, "it was fenced then");
    }

    #[test]
    fn a_write_that_was_asked_for_after_the_promotion_is_found_where_a_lease_was_relied_on() {
        for (is_leased, found) in [(true, 1), (false, 0)] {
            let mut sample = PairSample::protected();
            if is_leased {
                sample.leased(4);
            }
            sample.write(5, 50);
            sample.promoted(5);
            assert_eq!(broken(&sample), 0, "it was acknowledged before");
            sample.write(6, 60);
            assert_eq!(broken(&sample), found);
        }
        let mut sample = PairSample::protected();
        sample.leased(3);
        sample.seen(4, 40);
        sample.promoted(5);
        sample.write(6, 60);
        assert_eq!(broken(&sample), 0, "the lease had ended by agreement");
    }

    #[test]
    fn a_read_after_the_fence_is_found() {
        let mut sample = PairSample::protected();
        sample.promoted(5);
        sample.fenced(7);
        sample.read(80);
        assert_eq!(broken(&sample), 1);
    }

    #[test]
    fn the_promotion_the_fence_and_the_answer_behind_it_are_told() {
        let mut sample = PairSample::protected();
        sample.write(5, 50);
        sample.forces();
        sample.promoted(5);
        sample.fenced(7);
        sample.write(8, 80);
        assert_eq!(
            sample.told_of("G5"),
            [
                "0.000040 s to 0.000040 s, the operator of east: region failover --force",
                "0.000050 s, node 4 of west: is standalone in epoch 2 of west, at index 100 \
                 and T 50",
                "0.000060 s, node 1 of east: is fenced in epoch 1 of east, since 7, at index 7 \
                 and T 70",
                "0.000070 s to 0.000080 s, client 1: CreateQueue of queue, answered by east, \
                 at T 80",
            ]
        );
        let mut sample = PairSample::protected();
        sample.leased(4);
        sample.promoted(5);
        sample.write(6, 60);
        assert_eq!(
            sample.told_of("G5"),
            [
                "0.000020 s, node 1 of east: is primary in epoch 1 of east, relies on a lease, \
                 at index 4 and T 40",
                "0.000030 s, node 4 of west: is standalone in epoch 2 of west, at index 100 \
                 and T 50",
                "0.000040 s to 0.000050 s, client 1: CreateQueue of queue, answered by east, \
                 at T 60",
            ]
        );
    }
}
