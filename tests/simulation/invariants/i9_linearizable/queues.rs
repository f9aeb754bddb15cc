//! A queue is there, paused, and set as the last calls left it: nothing works in a queue that is
//! gone, none that is there is *not found*, none is received from while it is paused, and what a
//! look shows of its settings and metadata is what was set last.

use crate::history::{Answer, Call, LogTime, Looked, Op, Outcome};
use crate::known::Spans;
use crate::queues::takes_dead_letters;
use crate::story::{Act, QueueStory, Story, When};

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, queue) in &story.queues {
        let state = States::of(queue);
        for op in story.history.ops.iter().zip(&story.floors).zip(&story.ceilings) {
            let ((op, floor), ceiling) = op;
            if op.call.queue() == Some(name) {
                wrong.extend(state.refused(op, *floor, *ceiling));
                wrong.extend(state.answered(op, *floor));
            }
            if let (Call::List { .. }, Outcome::Ok(Answer::Listed { at, queues })) =
                (&op.call, &op.outcome)
            {
                wrong.extend(state.listed(name, *at, queues));
            }
        }
    }
    wrong.extend(registers(story));
    wrong
}

/// From when through when something was so without doubt, in order: for reads from the first
/// moment on, for commands behind it.
#[derive(Debug)]
struct Certain(Vec<(LogTime, LogTime)>);

impl Certain {
    /// It is so from each of these acts until anything that ends it may have acted. Where that
    /// may have been before the act was sure to be over, it is not known which came first.
    fn of<'a>(begins: impl Iterator<Item = &'a Act<'a>>, ends: &Spans) -> Certain {
        let sure = begins.filter(|act| !ends.touches(act.when.after, act.when.by));
        let begins = sure.map(|act| (act.when.by, ends.quiet_through(act.when.by)));
        let mut all: Vec<(LogTime, LogTime)> = begins.collect();
        all.sort_unstable();
        Certain(all)
    }

    /// Whether it was so all the time between these.
    fn holds(&self, from: LogTime, through: LogTime) -> bool {
        let last = self.0.partition_point(|(begin, _)| *begin <= from).checked_sub(1);
        last.and_then(|last| self.0.get(last)).is_some_and(|(_, end)| *end >= through)
    }

    fn holds_at(&self, at: LogTime) -> bool {
        self.holds(at, at)
    }
}

/// What one queue was.
#[derive(Debug)]
struct States {
    there: Certain,
    gone: Certain,
    paused: Certain,
    maybe_paused: Spans,
}

fn deletes(act: &&Act<'_>) -> bool {
    matches!(act.op.call, Call::DeleteQueue { .. })
}

fn pauses(act: &&Act<'_>) -> bool {
    matches!(act.op.call, Call::Pause { paused: true, .. })
}

impl States {
    fn of(queue: &QueueStory<'_>) -> States {
        let gone = || queue.clears.iter().filter(deletes);
        let maybe_gone = queue.maybe_clears.iter().filter(deletes);
        let created = Spans::of(queue.creates.iter().chain(&queue.maybe_creates));
        let deleted = Spans::of(gone().chain(maybe_gone.clone()));
        let all = queue.pauses.iter().chain(&queue.maybe_pauses);
        let resumed = all.filter(|act| !pauses(act));
        let ended = Spans::of(resumed.chain(gone()).chain(maybe_gone));
        States {
            there: Certain::of(queue.creates.iter(), &deleted),
            gone: Certain::of(gone(), &created),
            paused: Certain::of(queue.pauses.iter().filter(pauses), &ended),
            maybe_paused: maybe_paused(queue),
        }
    }

    /// *Queue not found*, of one that was there.
    fn refused(&self, op: &Op, floor: LogTime, ceiling: LogTime) -> Option<String> {
        let Outcome::Failed(why) = &op.outcome else { return None };
        let counts = why == "QUEUE_NOT_FOUND" && !op.call.is_stale();
        (counts && self.there.holds(floor, ceiling)).then(|| {
            format!("{:?} met no queue, which was there from T {floor} through {ceiling}", op.call)
        })
    }

    fn answered(&self, op: &Op, floor: LogTime) -> Option<String> {
        let Outcome::Ok(answer) = &op.outcome else { return None };
        if let Answer::Looked { at, queue } = answer
            && let Some(words) = self.looked(*at, queue)
        {
            return Some(words);
        }
        let when = crate::story::when(op, answer, floor);
        let exact = (when == When::exact(when.by)).then_some(when.after);
        // A command is behind what it meets; a read is not before.
        let at = answer.read_at().or(exact)?;
        let call = &op.call;
        if matches!(call, Call::DeleteQueue { queue } if takes_dead_letters(queue)) {
            return Some(format!("{call:?} worked, though another queue sends its dead letters"));
        }
        let creates = matches!(call, Call::Create { .. } | Call::DeleteQueue { .. });
        if !creates && self.gone.holds_at(at) && self.gone.holds_at(at + 1) {
            return Some(format!("{call:?} worked at T {at} in a queue that was deleted"));
        }
        let gives = matches!(answer, Answer::Received { messages, .. } if !messages.is_empty());
        (gives && self.paused.holds(when.after, when.by))
            .then(|| format!("{call:?} was given messages at T {} while paused", when.by))
    }

    fn looked(&self, at: LogTime, queue: &Looked) -> Option<String> {
        let certain = self.paused.holds_at(at);
        let never = !self.maybe_paused.touches(at.saturating_sub(1), at + 1);
        let wrong = (certain && !queue.paused) || (never && queue.paused);
        wrong.then(|| format!("a look at T {at} shows paused = {}", queue.paused))
    }

    fn listed(&self, name: &str, at: LogTime, queues: &[String]) -> Option<String> {
        let shown = queues.iter().any(|queue| queue == name);
        let wrong = (shown && self.gone.holds_at(at)) || (!shown && self.there.holds_at(at));
        wrong.then(|| format!("a listing at T {at} shows {name}: {shown}"))
    }
}

/// When a queue may have been paused: from each pause until a resumption that surely came later.
pub fn maybe_paused(queue: &QueueStory<'_>) -> Spans {
    let mut resumed: Vec<When> =
        queue.pauses.iter().filter(|act| !pauses(act)).map(|act| act.when).collect();
    resumed.sort_unstable();
    let all = queue.pauses.iter().chain(&queue.maybe_pauses).filter(pauses);
    let spans: Vec<Act<'_>> = all
        .map(|act| {
            let next = resumed.partition_point(|when| when.after < act.when.by);
            let by = resumed.get(next).map_or(LogTime::MAX, |when| when.by);
            Act { op: act.op, when: When { after: act.when.after, by } }
        })
        .collect();
    Spans::of(spans.iter())
}

/// What was set of a queue, and which part.
fn set(call: &Call) -> Option<(&str, bool, u64)> {
    match call {
        Call::SetMetadata { queue, value } => Some((queue, true, *value)),
        Call::SetSettings { queue, value } => Some((queue, false, *value)),
        _ => None,
    }
}

/// A look shows a value that no later one had surely replaced by then.
fn registers(story: &Story<'_>) -> Vec<String> {
    use std::collections::BTreeMap;
    let mut all: BTreeMap<(&str, bool), Vec<(When, u64)>> = BTreeMap::new();
    let mut when: BTreeMap<(&str, bool, u64), When> = BTreeMap::new();
    for set_by in &story.sets {
        let Some((queue, part, value)) = set(&set_by.act.op.call) else { continue };
        when.insert((queue, part, value), set_by.act.when);
        if set_by.certain {
            all.entry((queue, part)).or_default().push((set_by.act.when, value));
        }
    }
    // Behind each, the earliest by which another had come.
    for sets in all.values_mut() {
        sets.sort_unstable();
        let mut earliest = LogTime::MAX;
        for (when, _) in sets.iter_mut().rev() {
            earliest = earliest.min(when.by);
            when.by = earliest;
        }
    }
    let mut wrong = Vec::new();
    for op in &story.history.ops {
        let (Call::Look { queue, .. }, Outcome::Ok(Answer::Looked { at, queue: looked })) =
            (&op.call, &op.outcome)
        else {
            continue;
        };
        for (part, shown) in [(true, looked.metadata), (false, looked.settings)] {
            let set = shown.map(|value| when.get(&(queue, part, value)).copied());
            let what = if part { "metadata" } else { "settings" };
            let from = match set {
                Some(None) => {
                    wrong.push(format!("a look at {queue} shows {what} {shown:?}, never set"));
                    continue;
                }
                Some(Some(set)) if set.after >= *at => {
                    wrong.push(format!("a look at T {at} shows {what} set after T {}", set.after));
                    continue;
                }
                Some(Some(set)) => set.by,
                None => 0,
            };
            let Some(sets) = all.get(&(queue.as_str(), part)) else { continue };
            let later = sets.partition_point(|(when, _)| when.after < from);
            if let Some((newer, _)) = sets.get(later).filter(|(newer, _)| newer.by <= *at) {
                wrong.push(format!(
                    "a look at {queue} at T {at} shows {what} {shown:?}, replaced by T {}",
                    newer.by
                ));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::sample::{Sample, new, shown};

    fn broken(sample: Sample) -> Vec<String> {
        check(&Story::of(&sample.ended()))
    }

    fn delta() -> String {
        "delta".to_owned()
    }

    fn made_and_deleted() -> Sample {
        let mut sample = Sample::default();
        sample.done(1, Call::Create { queue: delta() });
        sample.done(5, Call::DeleteQueue { queue: delta() });
        sample
    }

    #[test]
    fn a_send_to_a_queue_that_is_gone_is_found() {
        let mut sample = made_and_deleted();
        sample.send_new("delta", "m", 7, new(7));
        assert_eq!(broken(sample).len(), 1);
        let mut sample = made_and_deleted();
        sample.done(6, Call::Create { queue: delta() });
        sample.send_new("delta", "m", 7, new(7));
        assert_eq!(broken(sample), Vec::<String>::new());
    }

    #[test]
    fn a_queue_that_is_there_and_is_not_found_betrays_it() {
        let refuse = |sample: &mut Sample, at| {
            let call = Call::Receive { queue: delta(), max: 1, visibility: 1 };
            sample.add(2, at, call, Outcome::Failed("QUEUE_NOT_FOUND".to_owned()));
        };
        let mut gone = made_and_deleted();
        refuse(&mut gone, 6);
        assert_eq!(broken(gone), Vec::<String>::new());
        let mut there = made_and_deleted();
        there.done(6, Call::Create { queue: delta() });
        refuse(&mut there, 7);
        assert_eq!(broken(there).len(), 1);
    }

    #[test]
    fn a_message_given_out_while_its_queue_is_paused_is_found() {
        let paused = |at| {
            let mut sample = Sample::default();
            sample.send("m", 1);
            sample.done(2, Call::Pause { queue: "queue".to_owned(), paused: true });
            sample.done(6, Call::Pause { queue: "queue".to_owned(), paused: false });
            sample.receive_shown(2, shown("m", 1, "r", at + 2, 1), at, 2);
            broken(sample).len()
        };
        assert_eq!(paused(4), 1);
        assert_eq!(paused(7), 0);
    }

    #[test]
    fn a_pause_that_was_tried_twice_may_have_come_before_a_resumption() {
        let paused = |resumed| {
            let queue = || "queue".to_owned();
            let mut sample = Sample::default();
            sample.send("m", 1);
            let op = sample.done(6, Call::Pause { queue: queue(), paused: true });
            (op.invoked, op.attempts) = (20, 2);
            sample.done(resumed, Call::Pause { queue: queue(), paused: false });
            sample.receive_shown(2, shown("m", 1, "r", 11, 1), 9, 2);
            broken(sample).len()
        };
        assert_eq!(paused(4), 0, "both between T 1 and 6");
        assert_eq!(paused(12), 1, "resumed too late");
    }

    #[test]
    fn a_look_that_shows_what_was_replaced_is_found() {
        let look = |value, at| {
            let mut sample = Sample::default();
            let queue = || "alpha".to_owned();
            sample.done(2, Call::SetMetadata { queue: queue(), value: 1 });
            sample.done(4, Call::SetMetadata { queue: queue(), value: 2 });
            let looked = Looked { metadata: value, ..Looked::default() };
            let call = Call::Look { queue: queue(), stale: true };
            sample.add(2, at, call, Outcome::Ok(Answer::Looked { at, queue: looked }));
            broken(sample).len()
        };
        assert_eq!((look(Some(1), 3), look(Some(2), 4), look(None, 1)), (0, 0, 0));
        assert_eq!((look(Some(1), 4), look(Some(2), 3), look(None, 2)), (1, 1, 1));
        assert_eq!(look(Some(9), 4), 1, "nobody set it");
    }

    #[test]
    fn a_listing_shows_what_is_there() {
        let list = |queues: &[&str]| {
            let mut sample = made_and_deleted();
            let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
            let answer = Answer::Listed { at: 6, queues };
            sample.add(2, 6, Call::List { stale: false }, Outcome::Ok(answer));
            broken(sample).len()
        };
        assert_eq!(list(&[]), 0);
        assert_eq!(list(&["delta"]), 1);
    }
}
