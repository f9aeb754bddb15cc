//! What the state of each message was, wherever the history leaves no doubt.
//!
//! Laws: a state is known from the call that made it until the first moment at which anything
//! else may have acted on the message: calls that name it, calls of unknown outcome included,
//! and what concerns its queue as a whole. At one T the order of calls is not known, so the
//! state before and the state after are both in doubt there. What is in doubt is left out: a
//! check that uses this never blames a right history.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::LogTime;
use crate::queues::{ALL, max_deliveries, plan, takes_dead_letters, takes_redriven};
use crate::story::{Act, Life, QueueStory, Story};
use crate::times::When;

/// A state of a message: for reads at T from `after` through `through`, for commands at T behind
/// `after`.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    pub queue: &'a str,
    pub after: LogTime,
    pub through: LogTime,
    /// The newest receipt; `None` = nobody has it.
    pub receipt: Option<&'a str>,
    pub visible_at: LogTime,
    pub count: u32,
}

/// A message was in a queue, without doubt, from `from` through `through`; it may have been there
/// until `until`.
#[derive(Clone, Copy, Debug)]
pub struct Presence<'a> {
    pub queue: &'a str,
    pub from: LogTime,
    pub through: LogTime,
    pub until: LogTime,
}

/// Stretches of T, merged and in order.
#[derive(Clone, Debug, Default)]
pub struct Spans(Vec<When>);

impl Spans {
    pub fn of<'a>(acts: impl Iterator<Item = &'a Act<'a>>) -> Spans {
        let mut all: Vec<When> = acts.map(|act| act.when).collect();
        all.sort_unstable();
        let mut merged: Vec<When> = Vec::new();
        for span in all {
            match merged.last_mut() {
                Some(last) if span.after <= last.by => last.by = last.by.max(span.by),
                _ => merged.push(span),
            }
        }
        Spans(merged)
    }

    /// Through which T nothing in here can act on what happened at `from`.
    pub fn quiet_through(&self, from: LogTime) -> LogTime {
        let next = self.0.partition_point(|span| span.by < from);
        self.0.get(next).map_or(LogTime::MAX, |span| span.after.max(from))
    }

    /// By when the first of them is over.
    pub fn earliest(&self) -> Option<LogTime> {
        self.0.first().map(|span| span.by)
    }

    /// Whether anything in here may act after the first T and not after the second.
    pub fn touches(&self, after: LogTime, by: LogTime) -> bool {
        let next = self.0.partition_point(|span| span.by <= after);
        self.0.get(next).is_some_and(|span| span.after < by)
    }
}

/// A moment in the life of a message, and the state that it left, if that is known.
struct Point<'a> {
    queue: &'a str,
    when: When,
    left: Option<(Option<&'a str>, LogTime, u32)>,
}

/// Fills in what is known of every message.
pub fn fill(story: &mut Story<'_>) {
    for queue in story.queues.values_mut() {
        let clears = queue.clears.iter().chain(&queue.maybe_clears);
        queue.disturbed = Spans::of(clears.clone().chain(&queue.unknown_receives));
        queue.last_cleared = clears.clone().map(|act| act.when.by).max();
        queue.emptied = Spans::of(clears);
        queue.taken_from = Spans::of(queue.unknown_receives.iter());
        queue.find_final_clears();
    }
    for plan in ALL.iter().filter(|plan| plan.redriven) {
        let spans = story.redrives.spans(plan.name);
        story.queues.entry(plan.name).or_default().redriven = spans;
    }
    let none = QueueStory::default();
    let all_seen = story.all_seen;
    for life in story.lives.values_mut() {
        life.find_expiry();
        let arrivals = arrivals(life);
        let seen = last_seen(life);
        let of = |name: &str| story.queues.get(name).unwrap_or(&none);
        let stays = |name: &str, from| {
            let seen = if all_seen { None } else { Some(seen.get(name).copied().unwrap_or(0)) };
            stays_through(life, of(name), name, from, seen)
        };
        let stays_in = &stays;
        let known = states(points(life, &arrivals), of, stays_in);
        let mut stays: Vec<(&str, LogTime)> = Vec::new();
        if life.inserted_at > 0 && !life.home.is_empty() {
            stays.push((life.home, life.inserted_at));
        }
        stays.extend(arrivals.iter().map(|(at, queue)| (*queue, *at)));
        let leaves = stays.iter().skip(1).map(|(_, at)| *at).chain([LogTime::MAX]);
        let stays = stays.iter().zip(leaves.collect::<Vec<_>>());
        let presence = stays.map(|((queue, from), leaves)| {
            let leaves = leaves.min(life.sent_back(queue).unwrap_or(LogTime::MAX));
            let through = stays_in(queue, *from);
            presence(life, of(queue), queue, *from, (leaves, through))
        });
        let presence: Vec<Presence<'_>> = presence.collect();
        (life.known, life.presence) = (known, presence);
    }
    story.ghosts = ghosts(story);
    story.heads = heads(story);
}

/// The last T at which a message was seen, of each queue.
fn last_seen<'a>(life: &Life<'a>) -> BTreeMap<&'a str, LogTime> {
    let mut last: BTreeMap<&str, LogTime> = BTreeMap::new();
    for seen in life.shown() {
        let at = last.entry(seen.queue).or_default();
        *at = seen.at.max(*at);
    }
    last
}

/// Through which T no redrive took a message out of a queue in which it was at `from`, and `seen`
/// last; `None`: what had become of it would have been seen.
fn stays_through(
    life: &Life<'_>,
    story: &QueueStory<'_>,
    queue: &str,
    from: LogTime,
    seen: Option<LogTime>,
) -> LogTime {
    if !plan(queue).redriven {
        return LogTime::MAX;
    }
    if let Some(at) = life.sent_back(queue) {
        return at.saturating_sub(1);
    }
    seen.map_or(LogTime::MAX, |seen| story.redriven.quiet_through(from).max(seen))
}

/// Sends of unknown outcome of which nothing was ever seen, and messages that a redrive made of
/// which it is not known where they came to.
fn ghosts<'a>(story: &Story<'a>) -> Vec<(&'a str, Option<u64>, LogTime)> {
    let lives = story.lives.values();
    let seen: BTreeSet<u64> = lives.filter_map(|life| Some(life.new?.tag)).collect();
    let attempts = story.attempts.values();
    let unseen = attempts.filter(|it| it.answer.is_none() && !seen.contains(&it.new.tag));
    let mut ghosts: Vec<_> = unseen.map(|it| (it.queue, it.new.group, it.act.when.after)).collect();
    let sent_back = |life: &&Life<'_>| life.redriven.is_some() || !life.became.is_empty();
    let lost = story.lives.values().filter(|life| life.home.is_empty());
    for life in lost.filter(sent_back) {
        let targets = ALL.iter().filter(|plan| takes_redriven(plan.name));
        let after = life.inserted_at.saturating_sub(1);
        ghosts.extend(targets.map(|plan| (plan.name, life.group, after)));
    }
    ghosts
}

/// Behind which T each message of a group was the first of it in its home.
fn heads<'a>(story: &Story<'a>) -> BTreeMap<(&'a str, u64), LogTime> {
    let mut ghosts: BTreeMap<(&str, u64), LogTime> = BTreeMap::new();
    for (queue, group, after) in &story.ghosts {
        let Some(group) = group else { continue };
        let first = ghosts.entry((*queue, *group)).or_insert(*after);
        *first = (*first).min(*after);
    }
    /// Number, when it came and by when it was gone.
    type Member = (u64, LogTime, LogTime);
    let mut groups: BTreeMap<(&str, u64), Vec<Member>> = BTreeMap::new();
    for life in story.lives.values() {
        let stay = life.presence.first().filter(|stay| stay.queue == life.home);
        // What died elsewhere comes between those that were sent here.
        if let (Some(group), Some(stay)) = (life.group, stay)
            && !takes_dead_letters(life.home)
        {
            let member = (life.number, stay.from, stay.until);
            groups.entry((life.home, group)).or_default().push(member);
        }
    }
    let mut heads = BTreeMap::new();
    for ((queue, group), mut members) in groups {
        members.sort_unstable();
        let ghost = ghosts.get(&(queue, group)).copied().unwrap_or(LogTime::MAX);
        let mut gone = 0;
        for (number, from, until) in members {
            if gone < LogTime::MAX && ghost >= from {
                heads.insert((queue, number), gone);
            }
            gone = gone.max(until);
        }
    }
    heads
}

/// Where and when it was seen to have come as a dead letter.
fn arrivals<'a>(life: &Life<'a>) -> Vec<(LogTime, &'a str)> {
    let dead = life.shown().filter_map(|seen| Some((seen.shown.dead.as_ref()?.at, seen.queue)));
    // What died in a tail was dead when it was sent again.
    let dead = dead.filter(|(at, _)| !life.is_replayed || *at > life.inserted_at);
    dead.collect::<BTreeSet<_>>().into_iter().collect()
}

fn points<'a>(life: &Life<'a>, arrivals: &[(LogTime, &'a str)]) -> Vec<Point<'a>> {
    let mut points = Vec::new();
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    if life.inserted_at > 0 && !life.home.is_empty() {
        let sent = life.sent.map(|sent| (Some(&*sent.message.receipt), sent.message.visible_at));
        let tried = || match life.redriven {
            Some(_) => Some((None, life.inserted_at)),
            // When it is visible was said where nobody asks any more.
            None if life.is_replayed => None,
            None => Some((life.first_receipt, life.inserted_at + life.new?.delay)),
        };
        let left = sent.or_else(tried).map(|(receipt, visible_at)| (receipt, visible_at, 0));
        points.push(Point { queue: life.home, when: When::exact(life.inserted_at), left });
        let first = sent.map_or(life.first_receipt, |(receipt, _)| receipt);
        counts.extend(first.map(|receipt| (receipt, 0)));
    }
    for grant in &life.grants {
        let (shown, when) = (grant.shown, When::exact(grant.at));
        let left = Some((Some(&*shown.receipt), shown.visible_at, shown.dequeue_count));
        points.push(Point { queue: grant.queue, when, left });
        counts.insert(&shown.receipt, shown.dequeue_count);
    }
    for change in &life.changes {
        let count = counts.get(change.used).copied();
        let left = count.map(|count| (change.gave, change.visible_at, count));
        points.push(Point { queue: change.queue, when: change.when, left });
        if let (Some(receipt), Some(count)) = (change.gave, count) {
            counts.insert(receipt, count);
        }
    }
    for (at, queue) in arrivals {
        points.push(Point { queue, when: When::exact(*at), left: Some((None, *at, 0)) });
    }
    let deletes = life.deletes.iter().map(|delete| delete.when);
    let sent_back = life.became.iter().map(|new| When::exact(new.at));
    let ends = deletes.chain(life.unknown.iter().map(|act| act.when)).chain(sent_back);
    points.extend(ends.map(|when| Point { queue: "", when, left: None }));
    points
}

fn states<'a, 's>(
    mut points: Vec<Point<'a>>,
    of: impl Fn(&str) -> &'s QueueStory<'s>,
    stays: impl Fn(&str, LogTime) -> LogTime,
) -> Vec<Known<'a>> {
    points.sort_by_key(|point| point.when.by);
    let mut next = LogTime::MAX;
    let mut known = Vec::new();
    // From the last to the first: `next` is where those behind may begin to act.
    for at in (0..points.len()).rev() {
        let Some(point) = points.get(at) else { continue };
        let start = point.when.by;
        let tied = at.checked_sub(1).and_then(|before| points.get(before));
        let is_tied = tied.is_some_and(|before| before.when.by == start);
        // Of a call whose T is not known it is not known either what it came behind.
        let is_exact = point.when == When::exact(start);
        if let Some((receipt, visible_at, count)) = point.left.filter(|_| is_exact)
            && !is_tied
        {
            let mut through = next.min(of(point.queue).disturbed.quiet_through(start));
            through = through.min(stays(point.queue, start));
            if max_deliveries(point.queue).is_some_and(|most| count >= most) {
                through = through.min(visible_at.saturating_sub(1));
            }
            if through > start {
                let (queue, after) = (point.queue, start);
                known.push(Known { queue, after, through, receipt, visible_at, count });
            }
        }
        next = next.min(point.when.after);
    }
    known.reverse();
    known
}

/// How long a message that came to a queue at `from` stayed there; it came elsewhere at `left`,
/// and no redrive took it through `stays`.
fn presence<'a>(
    life: &Life<'_>,
    story: &QueueStory<'_>,
    queue: &'a str,
    from: LogTime,
    (left, stays): (LogTime, LogTime),
) -> Presence<'a> {
    let deletes = life.deletes.iter().map(|delete| delete.when);
    let deleted = || deletes.clone().filter(|when| when.by >= from);
    let maybe = life.maybe_deleted().map(|act| act.when).filter(|when| when.by >= from);
    let mut through = story.emptied.quiet_through(from).min(left.saturating_sub(1)).min(stays);
    through = deleted().chain(maybe).map(|when| when.after.max(from)).fold(through, u64::min);
    if let Some(expires) = life.expires_at(queue) {
        through = through.min(expires.saturating_sub(1));
    }
    if let Some(most) = max_deliveries(queue) {
        let last = |grant: &&crate::story::Grant<'_>| {
            grant.queue == queue && grant.shown.dequeue_count >= most
        };
        through = life.grants.iter().find(last).map_or(through, |grant| through.min(grant.at));
        through = through.min(story.taken_from.quiet_through(from));
    }
    let cleared = story.cleared_behind(from).map(|act| act.when.by);
    let until = deleted().map(|when| when.by).chain(cleared).fold(left, u64::min);
    Presence { queue, from, through, until }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariants::sample::Sample;

    fn known(sample: Sample) -> Vec<(LogTime, LogTime, u32)> {
        let history = sample.ended();
        let story = Story::of(&history);
        let life = story.lives.get("m").expect("the message");
        life.known.iter().map(|known| (known.after, known.through, known.count)).collect()
    }

    #[test]
    fn a_state_is_known_until_the_next_call_may_have_changed_it() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.receive("m", 5, 9, 1);
        sample.delete("m", "r5", 7);
        assert_eq!(known(sample), [(1, 4, 0), (5, 6, 1)]);
    }

    #[test]
    fn a_call_of_unknown_outcome_ends_what_is_known() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.send("other", 3);
        sample.unknown_receive(4);
        assert_eq!(known(sample), [(1, 3, 0)]);
    }

    #[test]
    fn two_calls_at_one_time_leave_nothing_known() {
        let mut sample = Sample::default();
        sample.send("m", 1);
        sample.receive("m", 5, 9, 1);
        sample.receive("m", 5, 9, 2);
        assert_eq!(known(sample), [(1, 4, 0)]);
    }

    #[test]
    fn spans_are_quiet_up_to_the_next_one() {
        let when = |after, by| When { after, by };
        let spans = Spans(vec![when(3, 5), when(9, 10)]);
        let quiet = [1, 3, 4, 5, 6, 11].map(|from| spans.quiet_through(from));
        assert_eq!(quiet, [3, 3, 4, 5, 9, LogTime::MAX]);
        assert!(spans.touches(4, 5) && !spans.touches(5, 9) && spans.touches(5, 10));
    }
}
