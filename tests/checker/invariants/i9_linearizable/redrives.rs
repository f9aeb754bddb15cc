//! A queue has one redrive at a time. It is as it was asked for, it moves on and never back, and
//! once it has ended it stays as it ended; a listing shows every one that was begun, but for those
//! that ended long ago.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::{Call, Job, LogTime, Outcome, Progress};
use crate::redrives::{Begun, Listing, Redrive, Redrives};
use crate::story::Story;

/// Redrives of one queue that a listing shows.
const KEPT: usize = 10;

pub fn check(story: &Story<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last: BTreeMap<&str, (LogTime, &Job)> = BTreeMap::new();
    for listing in &story.redrives.listings {
        let (queue, at) = (listing.queue, listing.at);
        let running = |job: &&Job| job.progress == Progress::Running;
        if listing.jobs.iter().filter(running).count() > 1 {
            wrong.push(format!("{queue} has two redrives that run at T {at}"));
        }
        if !listing.jobs.is_sorted_by_key(|job| std::cmp::Reverse(job.started_at)) {
            wrong.push(format!("a listing of {queue} at T {at} shows the newest not first"));
        }
        for job in listing.jobs {
            let before = last.insert(&job.id, (at, job));
            wrong.extend(before.and_then(|before| went_back(before, (at, job))));
            if job.ended_at.is_some_and(|ended| ended > at) || job.started_at > at {
                wrong.push(format!("a listing at T {at} shows what is to come: {job:?}"));
            }
        }
    }
    wrong.extend(of_others(&story.redrives));
    wrong.extend(refused(story));
    wrong
}

/// A redrive that a later state shows less far.
fn went_back((before, old): (LogTime, &Job), (at, new): (LogTime, &Job)) -> Option<String> {
    let sums = |job: &Job| (job.moved, job.held, job.refused);
    let (old_sums, new_sums) = (sums(old), sums(new));
    let fell = old_sums.0 > new_sums.0 || old_sums.1 > new_sums.1 || old_sums.2 > new_sums.2;
    let same = old.asked == new.asked && old.started_at == new.started_at;
    let changed = old.progress != Progress::Running && old != new;
    (!same || fell || changed)
        .then(|| format!("a redrive is {old:?} at T {before} and {new:?} at T {at}"))
}

/// What listings say of redrives that is not as those were begun: a listing is held against those
/// that it shows, and those that it must show.
fn of_others(redrives: &Redrives<'_>) -> Vec<String> {
    let mut by_id: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
    let mut begun: BTreeMap<&str, Vec<(LogTime, usize)>> = BTreeMap::new();
    for (number, redrive) in redrives.all.iter().enumerate() {
        by_id.entry((redrive.queue, redrive.id)).or_default().push(number);
        if !redrive.id.is_empty() {
            begun.entry(redrive.queue).or_default().push((redrive.start.when.by, number));
        }
    }
    begun.values_mut().for_each(|all| all.sort_unstable());
    let mut wrong = Vec::new();
    for (place, listing) in redrives.listings.iter().enumerate() {
        let ids = listing.jobs.iter().map(|job| (listing.queue, &*job.id));
        let shown = ids.filter_map(|id| by_id.get(&id)).flatten().copied();
        let all = begun.get(listing.queue).map_or(&[][..], Vec::as_slice);
        let from = all.partition_point(|(by, _)| *by < kept_from(listing));
        let to = all.partition_point(|(by, _)| *by <= listing.at);
        let due = all.get(from..to).unwrap_or_default().iter().map(|(_, number)| *number);
        for number in shown.chain(due).collect::<BTreeSet<usize>>() {
            let redrive = redrives.all.get(number);
            let words = redrive.and_then(|redrive| of_another(redrive, listing));
            wrong.extend(words.map(|words| (number, place, words)));
        }
    }
    wrong.sort_unstable();
    wrong.into_iter().map(|(_, _, words)| words).collect()
}

/// A listing shows all that began at this T or later.
fn kept_from(listing: &Listing<'_>) -> LogTime {
    let newest = listing.jobs.iter().map(|job| job.started_at).max();
    newest.filter(|_| listing.jobs.len() >= KEPT).unwrap_or(0)
}

/// What a listing says of a redrive that is not as it was begun.
fn of_another(redrive: &Redrive<'_>, listing: &Listing<'_>) -> Option<String> {
    let at = listing.at;
    let shown = listing.jobs.iter().find(|job| job.id == redrive.id);
    match shown {
        Some(job) if job.asked != *redrive.asked => {
            let asked = redrive.asked;
            Some(format!("a redrive was asked for as {asked:?} and is shown as {job:?}"))
        }
        Some(job) if job.progress == Progress::Running && redrive.ended <= at => {
            let ended = redrive.ended;
            Some(format!("redrive {} had ended by T {ended}, and runs at T {at}", redrive.id))
        }
        None if !redrive.id.is_empty() && redrive.start.when.by <= at => {
            let forgotten = redrive.start.when.by < kept_from(listing);
            (!forgotten).then(|| format!("redrive {} is not shown at T {at}", redrive.id))
        }
        _ => None,
    }
}

/// *Another redrive runs*, where none can have.
fn refused(story: &Story<'_>) -> Vec<String> {
    let of_queues = story.redrives.by_queue().into_iter();
    let of_queues: BTreeMap<&str, Begun<'_, '_>> =
        of_queues.map(|(queue, all)| (queue, Begun::of(all.into_iter()))).collect();
    let mut wrong = Vec::new();
    for ((op, floor), ceiling) in story.history.ops.iter().zip(&story.floors).zip(&story.ceilings) {
        let (Call::Redrive { queue, .. }, Outcome::Failed(why)) = (&op.call, &op.outcome) else {
            continue;
        };
        let of = of_queues.get(queue.as_str());
        if why == "REDRIVE_RUNNING" && !of.is_some_and(|of| of.touches(*floor, *ceiling)) {
            wrong.push(format!("{:?} met another between T {floor} and {ceiling}", op.call));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Answer, Asked};
    use crate::invariants::sample::Sample;

    fn broken(sample: Sample) -> usize {
        check(&Story::of(&sample.ended())).len()
    }

    fn listed(jobs: &[(u64, Job)]) -> usize {
        let mut sample = Sample::default();
        sample.redrive("gamma-dead", "job", 4);
        for (at, job) in jobs {
            sample.list_redrive(*at, job.clone());
        }
        broken(sample)
    }

    #[test]
    fn a_redrive_moves_on_and_stays_as_it_ended() {
        let runs = |moved| Sample::job("job", Progress::Running, moved);
        let done = |moved| Sample::job("job", Progress::Done, moved);
        assert_eq!(listed(&[(5, runs(0)), (6, runs(2)), (9, done(2)), (10, done(2))]), 0);
        assert_eq!(listed(&[(5, runs(2)), (6, runs(1))]), 1, "it fell");
        assert_eq!(listed(&[(9, done(2)), (10, done(3))]), 1, "it went on after its end");
        assert!(listed(&[(9, done(2)), (10, runs(2))]) > 0, "it rose");
        assert_eq!(listed(&[(5, done(2))]), 1, "it ends at T 8");
    }

    #[test]
    fn a_redrive_that_a_listing_does_not_show_or_shows_as_another_is_found() {
        assert_eq!(listed(&[(6, Sample::job("other", Progress::Running, 0))]), 1);
        let mut job = Sample::job("job", Progress::Running, 0);
        job.asked.rate = Some(1);
        assert_eq!(listed(&[(6, job)]), 1);
    }

    #[test]
    fn two_that_run_at_once_are_found() {
        let mut sample = Sample::default();
        sample.redrive("gamma-dead", "job", 4);
        let op = sample.list_redrive(6, Sample::job("job", Progress::Running, 0));
        if let Outcome::Ok(Answer::Redrives { jobs, .. }) = &mut op.outcome {
            jobs.push(Sample::job("other", Progress::Running, 0));
        }
        assert_eq!(broken(sample), 1);
    }

    #[test]
    fn a_refusal_because_of_another_is_found_where_none_runs() {
        let refused = |ended| {
            let mut sample = Sample::default();
            sample.redrive("gamma-dead", "job", 4);
            let progress = if ended { Progress::Done } else { Progress::Running };
            sample.list_redrive(12, Sample::job("job", progress, 0));
            let (queue, asked) = ("gamma-dead".to_owned(), Asked::default());
            let why = Outcome::Failed("REDRIVE_RUNNING".to_owned());
            sample.add(3, 14, Call::Redrive { queue, asked }, why);
            broken(sample)
        };
        assert_eq!((refused(false), refused(true)), (0, 1));
    }
}
