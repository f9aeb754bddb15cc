//! Each dead letter that a redrive took appears exactly once as a new message; each that appears
//! was asked for, as the filter, the target and the rate say, and not by a dry run; and a redrive
//! that has ended tells how many there were.

use std::collections::BTreeMap;

use crate::history::{LogTime, Redriven};
use crate::queues::{plan, takes_dead_letters};
use crate::redrives::{Begun, Redrive};
use crate::story::{Life, Story};

/// A message that a redrive made.
struct New<'a> {
    id: &'a str,
    life: &'a Life<'a>,
    was: &'a Redriven,
}

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut by_queue: BTreeMap<&str, Vec<New<'_>>> = BTreeMap::new();
    for (id, life) in &story.lives {
        if let [first, second, ..] = life.became.as_slice() {
            let (first, second) = (first.id, second.id);
            wrong.push(format!("dead letter {id} was sent back as {first} and as {second}"));
        }
        let Some(was) = life.redriven else { continue };
        let mut shown = life.shown().map(|seen| seen.shown.redriven.as_ref());
        if let Some(other) = shown.find(|other| *other != Some(was)) {
            wrong.push(format!("{id} says that it was {was:?}, and {other:?}"));
        }
        by_queue.entry(&was.queue).or_default().push(New { id, life, was });
    }
    let of_queues = story.redrives.by_queue();
    let of_queues: BTreeMap<&str, OfQueue<'_>> =
        of_queues.into_iter().map(|(queue, all)| (queue, OfQueue::of(all))).collect();
    let none = OfQueue::default();
    for (queue, news) in &mut by_queue {
        if !takes_dead_letters(queue) {
            wrong.push(format!("{} names a dead letter of {queue}, which has none", news[0].id));
        }
        let redrives = of_queues.get(queue).unwrap_or(&none);
        wrong.extend(news.iter().filter_map(|new| unasked(story, new, redrives)));
        news.sort_by_key(|new| new.life.inserted_at);
    }
    for redrive in &story.redrives.all {
        let news = by_queue.get(redrive.queue).map_or(&[][..], Vec::as_slice);
        let others = of_queues.get(redrive.queue).unwrap_or(&none);
        wrong.extend(tally(story, redrive, news, others));
        wrong.extend(too_fast(redrive, news, others));
    }
    wrong
}

/// The redrives of one queue.
#[derive(Default)]
struct OfQueue<'s> {
    all: Vec<&'s Redrive<'s>>,
    begun: Begun<'s, 's>,
}

impl<'s> OfQueue<'s> {
    fn of(all: Vec<&'s Redrive<'s>>) -> OfQueue<'s> {
        let begun = Begun::of(all.iter().copied());
        OfQueue { all, begun }
    }
}

/// One that no redrive of its queue can have made, as each was asked.
fn unasked(story: &Story<'_>, new: &New<'_>, redrives: &OfQueue<'_>) -> Option<String> {
    let at = new.life.inserted_at;
    let made = redrives.begun.at(at).any(|one| fits(story, new, one));
    (!made).then(|| {
        let running = redrives.all.iter().filter(|one| one.may_run_at(at));
        let running: Vec<_> = running.map(|one| (one.id, one.asked)).collect();
        let (id, was, home) = (new.id, new.was, new.life.home);
        format!("{id} was sent back at T {at} to {home:?} from {was:?}, and there ran {running:?}")
    })
}

fn fits(story: &Story<'_>, new: &New<'_>, redrive: &Redrive<'_>) -> bool {
    let asked = redrive.asked;
    let old = story.lives.get(new.was.id.as_str());
    let dead = old.and_then(|old| {
        let here = old.shown().filter(|seen| seen.queue == redrive.queue);
        here.filter_map(|seen| seen.shown.dead.as_ref()).next()
    });
    let home = new.life.home;
    let came_back = plan(home).dead_letters.is_some_and(|(to, _)| to == redrive.queue);
    let at_target = match &asked.target {
        Some(target) => home == target,
        None => dead.map_or(came_back, |dead| dead.source == home),
    };
    (redrive.ids.is_empty() || redrive.ids.contains(&*new.was.id))
        && (asked.group.is_none() || asked.group == new.life.group)
        && (at_target || home.is_empty())
        && dead.is_none_or(|dead| {
            asked.source.as_ref().is_none_or(|source| *source == dead.source)
                && asked.dead_before.is_none_or(|before| dead.at < before)
        })
}

/// What a redrive made, if it is known which it was; `news` are in the order of T.
fn made<'s, 'a>(redrive: &Redrive<'_>, news: &'s [New<'a>]) -> &'s [New<'a>] {
    let until = |last: LogTime| news.partition_point(|new| new.life.inserted_at <= last);
    news.get(until(redrive.start.when.after)..until(redrive.ended)).unwrap_or_default()
}

/// Whether another redrive may have made it: at the T at which one ends the next may begin. That
/// other one may be known by a start of unknown outcome only.
fn may_be_of_another(redrive: &Redrive<'_>, new: &New<'_>, others: &OfQueue<'_>) -> bool {
    let at = new.life.inserted_at;
    let is_edge = at == redrive.start.when.by || at == redrive.ended;
    is_edge && others.begun.at(at).any(|other| other.id != redrive.id)
}

/// A redrive that tells of fewer or more than there are.
fn tally(
    story: &Story<'_>,
    redrive: &Redrive<'_>,
    news: &[New<'_>],
    others: &OfQueue<'_>,
) -> Option<String> {
    let told = redrive.told?;
    let made = made(redrive, news);
    let surely = made.iter().filter(|new| !may_be_of_another(redrive, new, others));
    let (surely, made) = (surely.count() as u64, made.len() as u64);
    let wrong = surely > told.moved || (story.all_seen && made < told.moved);
    let (id, queue, moved) = (redrive.id, redrive.queue, told.moved);
    wrong.then(|| format!("redrive {id} of {queue} sent {moved} back, and {made} appeared"))
}

/// A redrive that was to be slower.
fn too_fast(redrive: &Redrive<'_>, news: &[New<'_>], others: &OfQueue<'_>) -> Option<String> {
    let rate = redrive.asked.rate.map(u64::from)?;
    let began = redrive.told?.started_at;
    let own = made(redrive, news).iter().filter(|new| !may_be_of_another(redrive, new, others));
    let mut times: Vec<LogTime> = own.map(|new| new.life.inserted_at).collect();
    times.sort_unstable();
    let ahead = (0..).zip(&times).find(|(before, at)| {
        let allowed = at.saturating_sub(began).saturating_mul(rate) / 1_000_000;
        *before > allowed
    });
    ahead.map(|(before, at)| {
        let (id, after) = (redrive.id, at.saturating_sub(began));
        format!("redrive {id} may send {rate} back a second, and {} after {after} us", before + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Asked, Call, Job, Outcome, Progress};
    use crate::invariants::sample::{Sample, shown};

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    /// A dead letter, and a redrive of its queue that began at T 4.
    fn redriving(asked: Asked) -> Sample {
        let mut sample = Sample::default();
        sample.dead_letter("m", 3);
        sample.redrive_some("gamma-dead", "job", 4, asked);
        sample
    }

    #[test]
    fn a_dead_letter_that_appears_once_is_right_and_twice_is_found() {
        let mut sample = redriving(Asked::default());
        sample.receive_redriven("new", "m", 6, 9);
        assert_eq!(broken(sample), 0);
        let mut sample = redriving(Asked::default());
        sample.receive_redriven("new", "m", 6, 9);
        sample.receive_redriven("twin", "m", 7, 9);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn one_that_nobody_asked_for_is_found() {
        let mut sample = Sample::default();
        sample.dead_letter("m", 3);
        sample.receive_redriven("new", "m", 6, 9);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_dry_run_sends_nothing_back() {
        let mut sample = Sample::default();
        sample.dead_letter("m", 3);
        let (queue, asked) = ("gamma-dead".to_owned(), Asked::default());
        let answer = crate::history::Answer::Counted { matching: 1, held: 0 };
        sample.add(3, 4, Call::DryRun { queue, asked }, Outcome::Ok(answer));
        sample.receive_redriven("new", "m", 6, 9);
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn one_that_was_not_wanted_is_found() {
        let wanted = |asked| {
            let mut sample = redriving(asked);
            sample.receive_redriven("new", "m", 6, 9);
            broken(sample)
        };
        let gamma = || Some("gamma".to_owned());
        let of = |id: &str| Asked { ids: vec![id.to_owned()], ..Asked::default() };
        assert_eq!((wanted(of("m")), wanted(of("other"))), (0, 1));
        let before = |at| Asked { dead_before: Some(at), ..Asked::default() };
        assert_eq!((wanted(before(4)), wanted(before(3))), (0, 1));
        assert_eq!(wanted(Asked { group: Some(1), ..Asked::default() }), 1);
        assert_eq!(wanted(Asked { target: gamma(), ..Asked::default() }), 0);
        assert_eq!(wanted(Asked { target: Some("aside".to_owned()), ..Asked::default() }), 1);
        assert_eq!(wanted(Asked { source: gamma(), ..Asked::default() }), 0);
        assert_eq!(wanted(Asked { source: Some("beta".to_owned()), ..Asked::default() }), 1);
    }

    #[test]
    fn a_redrive_goes_on_after_its_end_no_more() {
        let late = |at| {
            let mut sample = redriving(Asked::default());
            sample.list_redrive(10, Sample::job("job", Progress::Cancelled, 1));
            sample.receive_redriven("new", "m", at, at + 3);
            broken(sample)
        };
        assert_eq!(late(9), 0);
        assert_eq!(late(10), 2, "nothing made it, and the redrive says that it made one");
    }

    #[test]
    fn what_a_redrive_says_that_it_sent_back_is_there() {
        let told = |moved| {
            let mut sample = redriving(Asked::default());
            sample.receive_redriven("new", "m", 6, 9);
            sample.list_redrive(10, Sample::job("job", Progress::Done, moved));
            broken(sample)
        };
        assert_eq!((told(1), told(0), told(2)), (0, 1, 1));
    }

    #[test]
    fn what_appeared_where_one_ended_and_the_next_began_may_be_of_either() {
        let next = |began, ended| {
            let mut sample = redriving(Asked::default());
            sample.redrive("gamma-dead", "next", began);
            sample.receive_redriven("new", "m", 9, 12);
            sample.list_redrive(20, Sample::job("job", Progress::Done, 1));
            let (started_at, ended_at) = (began, Some(ended));
            let job = Sample::job("next", Progress::Done, 0);
            sample.list_redrive(21, Job { started_at, ended_at, ..job });
            broken(sample)
        };
        assert_eq!((next(8, 9), next(10, 11)), (0, 0));
        assert_eq!(next(5, 20), 1, "it ran, and says that it made none");
    }

    #[test]
    fn what_appeared_where_the_next_began_may_be_of_one_whose_start_was_not_answered() {
        let before = |is_asked: bool| {
            let mut sample = Sample::default();
            sample.dead_letter("m", 3);
            if is_asked {
                let (queue, asked) = ("gamma-dead".to_owned(), Asked::default());
                let unknown = Outcome::Unknown("nobody said".to_owned());
                sample.add(4, 5, Call::Redrive { queue, asked }, unknown);
            }
            sample.redrive("gamma-dead", "next", 8);
            sample.receive_redriven("new", "m", 9, 12);
            let job = Sample::job("next", Progress::Done, 0);
            sample.list_redrive(21, Job { started_at: 8, ended_at: Some(9), ..job });
            broken(sample)
        };
        assert_eq!((before(true), before(false)), (0, 1));
    }

    #[test]
    fn a_redrive_that_is_faster_than_it_may_be_is_found() {
        let second = |at| {
            let mut sample = redriving(Asked { rate: Some(2), ..Asked::default() });
            sample.send_new("gamma", "m2", 2, crate::invariants::sample::new(2));
            sample.receive_redriven("new", "m", 6, 9);
            let message = Sample::redriven("m2", at, shown("new2", 2, "r", at + 9, 1));
            sample.receive_from("gamma", 2, vec![message], at + 1, 8);
            let mut job = Sample::job("job", Progress::Done, 2);
            job.ended_at = Some(600_000);
            sample.list_redrive(700_000, job);
            broken(sample)
        };
        assert_eq!((second(500_004), second(400_000)), (0, 1));
    }
}
