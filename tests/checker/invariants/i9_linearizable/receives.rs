//! A receive gives the first messages in the order of the queue: priority, visible time, number.
//! It gives fewer than it was asked for, or none, only where there is a moment at which no more
//! were visible.

use std::collections::{BTreeMap, BTreeSet};

use super::queues::{maybe_gone, maybe_paused};
use crate::history::{Answer, Call, LogTime, Op, Outcome};
use crate::known::Spans;
use crate::queues::max_deliveries;
use crate::story::{Life, Story};
use crate::times::When;

/// *Nothing is visible* is said of the stamp that a leader would give, which may be later than
/// the T of its state: a message that expires within so much may be gone by then.
const STAMP_AHEAD: u64 = 10_000_000;

/// A message's place in the order of its queue.
type Place = (u8, LogTime, u64);

/// Commands behind `after` and through `through` find a message visible, without any doubt.
struct Visible {
    place: Place,
    after: LogTime,
    through: LogTime,
    expires_at: Option<LogTime>,
}

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut by_queue: BTreeMap<&str, Vec<Visible>> = BTreeMap::new();
    for life in story.lives.values() {
        for (queue, visible) in visible(life, &story.heads) {
            by_queue.entry(queue).or_default().push(visible);
        }
    }
    type Bounded<'s> = (&'s Op, LogTime, LogTime);
    let mut calls: BTreeMap<&str, Vec<Bounded<'_>>> = BTreeMap::new();
    for ((op, floor), ceiling) in story.history.ops.iter().zip(&story.floors).zip(&story.ceilings) {
        if let Call::Receive { queue, .. } = &op.call {
            calls.entry(queue).or_default().push((op, *floor, *ceiling));
        }
    }
    let mut wrong = Vec::new();
    for (name, mut all) in by_queue {
        let paused = story.queues.get(name).map(maybe_paused).unwrap_or_default();
        let gone = story.queues.get(name).map(maybe_gone).unwrap_or_default();
        let mut receives: Vec<Given<'_>> = Vec::new();
        let covered = covered(&all);
        for (op, floor, ceiling) in calls.remove(name).into_iter().flatten() {
            let Some(given) = Given::of(story, op, floor) else { continue };
            if given.count == 0 && given.when != When::exact(given.when.by) {
                if !gone.touches(floor.saturating_sub(1), ceiling) {
                    wrong.extend(nothing(op, floor, ceiling, &covered, &paused));
                }
            } else if given.when == When::exact(given.when.by)
                && !paused.touches(given.when.after, given.when.by)
            {
                receives.push(given);
            }
        }
        wrong.extend(out_of_order(&mut receives, &mut all));
    }
    wrong
}

/// When a message was visible.
fn visible<'a>(life: &Life<'a>, heads: &BTreeMap<(&str, u64), LogTime>) -> Vec<(&'a str, Visible)> {
    let mut all = Vec::new();
    for known in &life.known {
        let expires_at = life.expires_at(known.queue);
        let spent = max_deliveries(known.queue).is_some_and(|most| known.count >= most);
        // Only the head of a group stands in the order.
        let head_from = match life.group {
            Some(_) => heads.get(&(known.queue, life.number)).copied(),
            None => Some(0),
        };
        let Some(head_from) = head_from.filter(|_| !spent) else { continue };
        let after = known.after.max(known.visible_at.saturating_sub(1)).max(head_from);
        let through = expires_at.map_or(known.through, |at| known.through.min(at - 1));
        if after < through {
            let place = (life.priority, known.visible_at, life.number);
            all.push((known.queue, Visible { place, after, through, expires_at }));
        }
    }
    all
}

/// Stretches of T in whose states something was visible, merged and in order; both ends count. One
/// ends where an entry takes what was visible, though it makes something else so: a receive of that
/// entry, between the two, finds nothing.
fn covered(all: &[Visible]) -> Vec<(LogTime, LogTime)> {
    let ends = |visible: &Visible| {
        let sure = visible.expires_at.map(|at| at.saturating_sub(STAMP_AHEAD));
        let through = sure.map_or(visible.through, |sure| sure.min(visible.through));
        // The state of the entry that made it visible shows it; one before its time does not.
        let from = visible.after.max(visible.place.1);
        (from <= through).then_some((from, through))
    };
    let mut stretches: Vec<(LogTime, LogTime)> = all.iter().filter_map(ends).collect();
    stretches.sort_unstable();
    let mut merged: Vec<(LogTime, LogTime)> = Vec::new();
    for (from, through) in stretches {
        match merged.last_mut() {
            Some(last) if from <= last.1 => last.1 = last.1.max(through),
            _ => merged.push((from, through)),
        }
    }
    merged
}

/// A receive that found nothing, though something was visible all the time.
fn nothing(
    op: &Op,
    floor: LogTime,
    ceiling: LogTime,
    covered: &[(LogTime, LogTime)],
    paused: &Spans,
) -> Option<String> {
    let at = covered.partition_point(|(from, _)| *from <= floor).checked_sub(1)?;
    let (from, through) = *covered.get(at)?;
    (through >= ceiling && !paused.touches(floor.saturating_sub(1), ceiling)).then(|| {
        format!(
            "{:?}, between T {floor} and {ceiling}, found nothing, though something was visible \
             from T {from} through {through}",
            op.call
        )
    })
}

/// What one receive gave.
struct Given<'a> {
    op: &'a Op,
    when: When,
    count: usize,
    wanted: usize,
    more: bool,
    /// The last in the order, of those of which the place is known.
    last: Option<Place>,
}

impl<'a> Given<'a> {
    fn of(story: &Story<'_>, op: &'a Op, floor: LogTime) -> Option<Given<'a>> {
        let (Call::Receive { max, .. }, Outcome::Ok(answer)) = (&op.call, &op.outcome) else {
            return None;
        };
        let Answer::Received { messages, more, .. } = answer else { return None };
        let when = crate::times::when(op, answer, floor);
        let place = |id: &str| {
            let life = story.lives.get(id)?;
            let at = life.known.partition_point(|known| known.after < when.by).checked_sub(1)?;
            let known = life.known.get(at).filter(|known| known.through >= when.after)?;
            Some((life.priority, known.visible_at, life.number))
        };
        let last = messages.iter().filter_map(|shown| place(&shown.id)).max();
        let (count, wanted) = (messages.len(), *max as usize);
        Some(Given { op, when, count, wanted, more: *more, last })
    }
}

/// Receives that passed over a message that stood before what they gave, or left one.
fn out_of_order(receives: &mut [Given<'_>], all: &mut [Visible]) -> Vec<String> {
    receives.sort_by_key(|given| given.when.by);
    all.sort_by_key(|visible| visible.after);
    let mut wrong = Vec::new();
    let mut standing: BTreeSet<(Place, LogTime)> = BTreeSet::new();
    let mut ends: BTreeSet<(LogTime, Place)> = BTreeSet::new();
    let mut coming = all.iter().peekable();
    for given in receives {
        let at = given.when.by;
        while let Some(visible) = coming.next_if(|visible| visible.after < at) {
            standing.insert((visible.place, visible.through));
            ends.insert((visible.through, visible.place));
        }
        while let Some((through, place)) = ends.first().copied().filter(|(t, _)| *t < at) {
            ends.remove(&(through, place));
            standing.remove(&(place, through));
        }
        let Some((first, _)) = standing.first() else { continue };
        let call = &given.op.call;
        if given.last.is_some_and(|last| *first < last) {
            let last = given.last;
            wrong.push(format!(
                "{call:?} at T {at} gave {last:?} (priority, visible time, number), and {first:?} \
                 stood before it"
            ));
        } else if given.count < given.wanted && !given.more {
            wrong.push(format!("{call:?} at T {at} gave {}, and left {first:?}", given.count));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{New, Shown};
    use crate::invariants::sample::{QUEUE, Sample, new, shown};

    fn broken(sample: Sample) -> Vec<String> {
        check(&Story::of(&sample.ended()))
    }

    fn two() -> Sample {
        let mut sample = Sample::default();
        sample.send_new(QUEUE, "m1", 1, New { priority: 5, ..new(1) });
        sample.send_new(QUEUE, "m2", 2, New { priority: 3, ..new(2) });
        sample
    }

    fn given(id: &str, at: u64) -> Shown {
        shown(id, 1, &format!("r{id}{at}"), at + 9, 1)
    }

    #[test]
    fn the_first_in_the_order_is_given() {
        let mut sample = two();
        sample.receive_from(QUEUE, 2, vec![given("m2", 5)], 5, 9);
        assert_eq!(broken(sample), Vec::<String>::new());
    }

    #[test]
    fn a_message_given_before_one_that_stands_before_it_is_found() {
        let mut sample = two();
        sample.receive_from(QUEUE, 2, vec![given("m1", 5)], 5, 9);
        assert_eq!(broken(sample).len(), 1);
    }

    #[test]
    fn a_receive_that_leaves_what_it_was_asked_for_is_found() {
        let take = |more| {
            let mut sample = two();
            let op = sample.receive_from(QUEUE, 2, vec![given("m2", 5)], 5, 9);
            if let Call::Receive { max, .. } = &mut op.call {
                *max = 2;
            }
            if let Outcome::Ok(Answer::Received { more: said, .. }) = &mut op.outcome {
                *said = more;
            }
            broken(sample).len()
        };
        assert_eq!((take(false), take(true)), (1, 0));
    }

    #[test]
    fn an_empty_answer_is_found_where_something_is_visible_all_the_time() {
        let mut sample = two();
        sample.receive_nothing(QUEUE, 5);
        assert_eq!(broken(sample).len(), 1);
    }

    #[test]
    fn an_empty_answer_is_right_if_there_is_a_moment_at_which_nothing_is_visible() {
        let leased = |at: u64, returned: u64| {
            let mut sample = two();
            sample.receive_from(QUEUE, 2, vec![given("m2", 4), given("m1", 4)], 4, 9);
            let op = sample.receive_nothing(QUEUE, at);
            op.returned = returned;
            sample.send_new(QUEUE, "m3", 30, new(30));
            broken(sample)
        };
        assert_eq!(leased(6, 61), Vec::<String>::new(), "both are leased");
        assert_eq!(leased(3, 61), Vec::<String>::new(), "it may have come after the grants");
    }

    #[test]
    fn between_a_grant_and_a_send_of_one_entry_nothing_is_visible() {
        let sent = |at: u64| {
            let mut sample = two();
            sample.receive_from(QUEUE, 2, vec![given("m2", 5), given("m1", 5)], 5, 9);
            let op = sample.receive_nothing(QUEUE, 3);
            op.returned = 61;
            sample.send_new(QUEUE, "m3", at, new(30));
            broken(sample).iter().any(|case| case.contains("found nothing"))
        };
        assert_eq!((sent(5), sent(4)), (false, true), "at 4 it comes before the grant");
    }

    #[test]
    fn in_a_paused_queue_nothing_is_right() {
        let mut sample = two();
        sample.done(3, Call::Pause { queue: QUEUE.to_owned(), paused: true });
        sample.receive_nothing(QUEUE, 5);
        assert_eq!(broken(sample), Vec::<String>::new());
    }

    #[test]
    fn a_call_of_unknown_outcome_may_have_taken_it() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.unknown_receive(3);
        sample.receive_nothing(QUEUE, 5);
        assert_eq!(broken(sample), Vec::<String>::new());
    }
}
