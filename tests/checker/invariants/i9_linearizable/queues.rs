//! A queue is there, paused, and set as the last calls left it: nothing works in a queue that is
//! gone, none that is there is *not found*, none is received from while it is paused, and what a
//! look shows of its settings and metadata is what was set last. A queue that was deleted comes
//! back when it is asked for inside its window, and not behind it.

mod listings;

use std::collections::BTreeMap;

use crate::highest::Highest;
use crate::history::{Answer, Call, LogTime, Looked, Op, Outcome};
use crate::known::Spans;
use crate::queues::{plan, takes_dead_letters};
use crate::story::{Act, QueueStory, Story};
use crate::times::When;

pub fn check(story: &Story<'_>) -> Vec<String> {
    let states: BTreeMap<&str, States> =
        story.queues.iter().map(|(name, queue)| (*name, States::of(queue))).collect();
    let mut wrong = listings::check(story, &states);
    let calls = story.history.ops.iter().zip(&story.floors).zip(&story.ceilings).enumerate();
    for (number, ((op, floor), ceiling)) in calls {
        let Some((name, state)) = op.call.queue().and_then(|name| states.get_key_value(name))
        else {
            continue;
        };
        let refused = state.refused(op, *floor, *ceiling);
        let words = refused.into_iter().chain(state.answered(op, *floor));
        wrong.extend(words.map(|words| (*name, number, words)));
    }
    // By queue, and of each in the order of the calls.
    wrong.sort_by_key(|(name, number, _)| (*name, *number));
    wrong.into_iter().map(|(_, _, words)| words).chain(registers(story)).collect()
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

    /// The last time that it became so by then.
    fn begun(&self, by: LogTime) -> Option<LogTime> {
        let last = self.0.partition_point(|(begin, _)| *begin <= by).checked_sub(1)?;
        self.0.get(last).map(|(begin, _)| *begin)
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
    /// All deletions, and those that may have been: behind which T, and by when.
    deletions: Highest<LogTime, LogTime>,
    /// All that made it, or may have.
    creates: Highest<LogTime, LogTime>,
}

fn span(act: &Act<'_>) -> (LogTime, LogTime) {
    (act.when.after, act.when.by)
}

fn pauses(act: &&Act<'_>) -> bool {
    matches!(act.op.call, Call::Pause { paused: true, .. })
}

impl States {
    fn of(queue: &QueueStory<'_>) -> States {
        let gone = queue.deletions.iter();
        let maybe_gone = queue.maybe_deletions.iter();
        let made = queue.creates.iter().chain(&queue.undeletes);
        let maybe_made = queue.maybe_creates.iter().chain(&queue.maybe_undeletes);
        let made_at = Spans::of(made.clone().chain(maybe_made));
        let deleted = Spans::of(gone.clone().chain(maybe_gone.clone()));
        let all = queue.pauses.iter().chain(&queue.maybe_pauses);
        let resumed = all.filter(|act| !pauses(act));
        let ended = Spans::of(resumed.chain(gone.clone()).chain(maybe_gone.clone()));
        States {
            there: Certain::of(made, &deleted),
            gone: Certain::of(gone.clone(), &made_at),
            paused: Certain::of(queue.pauses.iter().filter(pauses), &ended),
            maybe_paused: maybe_paused(queue),
            deletions: gone.chain(maybe_gone).map(span).collect(),
            creates: queue.creates.iter().chain(&queue.maybe_creates).map(span).collect(),
        }
    }

    /// *Queue not found*, of one that was there, or that could come back.
    fn refused(&self, op: &Op, floor: LogTime, ceiling: LogTime) -> Option<String> {
        let Outcome::Failed(why) = &op.outcome else { return None };
        if let Call::Undelete { queue } = &op.call {
            return self.not_back(queue, why, floor, ceiling);
        }
        let counts = why == "QUEUE_NOT_FOUND" && !op.call.is_stale();
        (counts && self.there.holds(floor, ceiling)).then(|| {
            format!("{:?} met no queue, which was there from T {floor} through {ceiling}", op.call)
        })
    }

    /// An undelete that was refused while the queue was gone and its window lasted.
    fn not_back(&self, queue: &str, why: &str, floor: LogTime, ceiling: LogTime) -> Option<String> {
        let counts = matches!(why, "QUEUE_NOT_FOUND" | "QUEUE_EXISTS");
        let deleted = self.gone.begun(floor).filter(|_| self.gone.holds(floor, ceiling))?;
        // T may be far ahead of what was answered to anybody.
        let lasts = deleted.saturating_add(plan(queue).undelete_window) > ceiling;
        (counts && lasts).then(|| {
            format!("{queue}, deleted by T {deleted}, did not come back by T {ceiling}: {why}")
        })
    }

    /// What is wrong with an undelete that worked at this T.
    fn back(&self, queue: &str, when: When) -> Option<String> {
        let at = when.by;
        if when == When::exact(at) && self.there.holds_at(at - 1) && self.there.holds_at(at) {
            return Some(format!("{queue} came back at T {at}, and was there"));
        }
        let window = plan(queue).undelete_window;
        let deleted = self.deletions.below(&at);
        let lasts = deleted.is_some_and(|by| by.saturating_add(window) > when.after + 1);
        (!lasts).then(|| {
            format!("{queue} came back by T {at}, more than {window} us after it was deleted")
        })
    }

    fn answered(&self, op: &Op, floor: LogTime) -> Option<String> {
        let Outcome::Ok(answer) = &op.outcome else { return None };
        if let Answer::Looked { at, queue } = answer
            && let Some(words) = self.looked(*at, queue)
        {
            return Some(words);
        }
        let when = crate::times::when(op, answer, floor);
        let exact = (when == When::exact(when.by)).then_some(when.after);
        // A command is behind what it meets; a read is not before.
        let at = answer.read_at().or(exact)?;
        let call = &op.call;
        if let Call::Undelete { queue } = call {
            return self.back(queue, when);
        }
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

    /// Whether it may have been created behind a deletion by then.
    fn may_be_made_again_by(&self, at: LogTime) -> bool {
        let last = self.creates.below(&at);
        last.is_some_and(|last| self.deletions.below(&last).is_some())
    }

    /// A listing of what is there, or of what was deleted and can come back.
    fn listed(&self, name: &str, at: LogTime, shown: bool, deleted: bool) -> Option<String> {
        let (is, is_not) =
            if deleted { (&self.gone, &self.there) } else { (&self.there, &self.gone) };
        // Of a queue that was made again an older one may be among the deleted, and of one that
        // is gone the window may have ended.
        let counts = !deleted || (plan(name).comes_back && !self.may_be_made_again_by(at));
        let wrong = counts && ((shown && is_not.holds_at(at)) || (!shown && is.holds_at(at)));
        wrong.then(|| format!("a listing (deleted: {deleted}) at T {at} shows {name}: {shown}"))
    }
}

/// When a queue may have been paused: from each pause until a resumption that surely came later.
pub fn maybe_paused(queue: &QueueStory<'_>) -> Spans {
    let all = queue.pauses.iter().chain(&queue.maybe_pauses).filter(pauses);
    until(all, queue.pauses.iter().filter(|act| !pauses(act)))
}

/// When it may have been gone: from each deletion until it surely was made or came back later.
pub fn maybe_gone(queue: &QueueStory<'_>) -> Spans {
    let all = queue.deletions.iter().chain(&queue.maybe_deletions);
    until(all, queue.creates.iter().chain(&queue.undeletes))
}

fn until<'s, 'a: 's>(
    begins: impl Iterator<Item = &'s Act<'a>>,
    ends: impl Iterator<Item = &'s Act<'a>>,
) -> Spans {
    let mut ends: Vec<When> = ends.map(|act| act.when).collect();
    ends.sort_unstable();
    let spans: Vec<Act<'_>> = begins
        .map(|act| {
            let next = ends.partition_point(|when| when.after < act.when.by);
            let by = ends.get(next).map_or(LogTime::MAX, |when| when.by);
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
            let account = "default".to_owned();
            let call = Call::List { account, deleted: false, stale: false };
            sample.add(2, 6, call, Outcome::Ok(answer));
            broken(sample).len()
        };
        assert_eq!(list(&[]), 0);
        assert_eq!(list(&["delta"]), 1);
    }

    fn sigma() -> String {
        "sigma".to_owned()
    }

    /// A queue that was deleted at T 5.
    fn away() -> Sample {
        let mut sample = Sample::default();
        sample.done(1, Call::Create { queue: sigma() });
        sample.done(5, Call::DeleteQueue { queue: sigma() });
        sample
    }

    #[test]
    fn a_queue_works_again_once_it_came_back() {
        let sent = |back: Option<u64>| {
            let mut sample = away();
            if let Some(at) = back {
                sample.done(at, Call::Undelete { queue: sigma() });
            }
            sample.send_new("sigma", "m", 9, new(9));
            broken(sample).len()
        };
        assert_eq!((sent(Some(7)), sent(None)), (0, 1));
    }

    #[test]
    fn a_queue_that_could_come_back_and_is_not_found_betrays_it() {
        let refused = |away: Sample| {
            let mut sample = away;
            let why = Outcome::Failed("QUEUE_NOT_FOUND".to_owned());
            sample.add(2, 7, Call::Undelete { queue: sigma() }, why);
            sample.send("later", 9);
            broken(sample).len()
        };
        assert_eq!(refused(away()), 1);
        let mut there = Sample::default();
        there.done(1, Call::Create { queue: sigma() });
        assert_eq!(refused(there), 0, "there is none to come back");
    }

    #[test]
    fn a_queue_that_comes_back_behind_its_window_is_found() {
        // Delta's window is a second.
        let back = |at| {
            let mut sample = made_and_deleted();
            sample.done(at, Call::Undelete { queue: delta() });
            broken(sample).len()
        };
        assert_eq!((back(1_000_004), back(1_000_005)), (0, 1));
    }

    #[test]
    fn a_queue_that_comes_back_though_it_is_there_is_found() {
        let mut sample = away();
        sample.done(7, Call::Undelete { queue: sigma() });
        sample.done(9, Call::Undelete { queue: sigma() });
        assert_eq!(broken(sample).len(), 1);
    }

    #[test]
    fn the_deleted_are_listed_while_they_can_come_back() {
        let list = |queues: &[&str], back| {
            let mut sample = away();
            if back {
                sample.done(6, Call::Undelete { queue: sigma() });
            }
            let queues = queues.iter().map(|queue| (*queue).to_owned()).collect();
            let account = "default".to_owned();
            let call = Call::List { account, deleted: true, stale: false };
            sample.add(2, 7, call, Outcome::Ok(Answer::Listed { at: 7, queues }));
            broken(sample).len()
        };
        assert_eq!((list(&["sigma"], false), list(&[], false)), (0, 1));
        assert_eq!((list(&[], true), list(&["sigma"], true)), (0, 1));
    }

    #[test]
    fn of_a_queue_that_was_made_again_the_older_one_may_be_listed_among_the_deleted() {
        let mut sample = away();
        sample.done(6, Call::Create { queue: sigma() });
        let (account, queues) = ("default".to_owned(), vec![sigma()]);
        let call = Call::List { account, deleted: true, stale: false };
        sample.add(2, 7, call, Outcome::Ok(Answer::Listed { at: 7, queues }));
        assert_eq!(broken(sample), Vec::<String>::new());
    }
}
