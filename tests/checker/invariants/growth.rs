//! To judge four times as many calls takes about four times as long, whatever they are: a loop
//! over all of a kind for each of another kind is found here, and not on a run of a day.

mod pairs;

use std::time::Duration;

use super::broken;
use super::pair_sample::PairSample;
use super::sample::{QUEUE, Sample, mark, new, shown};
use crate::history::{
    Answer, Applied, Asked, Call, Cluster, Deleted, Ending, History, Job, Outcome, Progress, Shown,
    Standing, Tenant,
};
use crate::queues::TENANT;
use crate::sampled::tests::Watched;

/// What four times as many may take at most, where a square takes sixteen times as long.
const MOST: u32 = 9;
/// A busy machine may disturb so many tries but one.
const TRIES: usize = 6;

/// Microseconds of T from one round to the next: longer than the shortest undelete window.
const ROUND: u64 = 1_000_000;

#[test]
fn four_times_as_many_calls_take_about_four_times_as_long_to_judge() {
    for (what, rounds, judged) in KINDS {
        let (mut short, mut long) = (Duration::MAX, Duration::MAX);
        for _ in 0..TRIES {
            short = short.min(judged(rounds));
            long = long.min(judged(4 * rounds));
            if long < MOST * short {
                break;
            }
        }
        assert!(long < MOST * short, "{what}: {short:?}, and of four times as many {long:?}");
    }
}

/// How long it takes to judge so many rounds of one kind.
type Judged = fn(u64) -> Duration;

/// Each with the rounds of the shorter history: so many that a loop over all pairs would be most of
/// the work.
const KINDS: [(&str, u64, Judged); 16] = [
    ("quotas", 500, |rounds| of_one(quotas(rounds))),
    ("clears", 1_500, |rounds| of_one(clears(rounds))),
    ("deletions of a queue", 500, |rounds| of_one(deletions(rounds))),
    ("redrives", 500, |rounds| of_one(redrives(rounds))),
    ("a long life", 500, |rounds| of_one(long_life(rounds))),
    ("durability", 6_000, |rounds| of_one(durability(rounds))),
    ("last sync times", 2_000, |rounds| of_pair(last_sync_times(rounds))),
    ("looks", 500, looks),
    ("a whole tail", 2_000, |rounds| of_pair(tail(rounds, true))),
    ("a tail that is not whole", 1_500, |rounds| of_pair(tail(rounds, false))),
    ("queues", 400, |rounds| of_one(queues(rounds))),
    ("a dead letter that is looked at", 500, dead_letter),
    ("epochs that are handed over", 400, |rounds| timed(&pairs::handed_over(rounds))),
    ("epochs that are forced", 300, |rounds| timed(&pairs::forced(rounds))),
    ("a tail that is listed again", 150, |rounds| timed(&pairs::listed_again(rounds))),
    ("epochs and looks", 40, epochs_and_looks),
];

fn of_one(sample: Sample) -> Duration {
    timed(&sample.ended())
}

fn of_pair(mut sample: PairSample) -> Duration {
    let (converged, served, steady, paired, drained) = (true, true, true, true, false);
    let ending = Ending { converged, served, steady, paired, drained, ..Ending::default() };
    sample.history.ending = ending;
    timed(&sample.history)
}

/// What breaks a promise takes longer; here nothing does.
fn timed(history: &History) -> Duration {
    let (took, broken) = measured(|| broken(history));
    let first = broken.iter().find(|(name, _)| *name != "I10");
    assert_eq!(first, None, "of {} calls", history.ops.len());
    took
}

/// What it takes of the processor: others that use the machine do not count.
fn measured<T>(judge: impl FnOnce() -> T) -> (Duration, T) {
    let now = || {
        let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(used.tv_sec as u64, used.tv_nsec as u32)
    };
    let began = now();
    let told = judge();
    (now() - began, told)
}

/// The T at which a round begins.
fn begin(round: u64) -> u64 {
    (round + 1) * ROUND
}

fn delete(sample: &mut Sample, queue: &str, id: &str, receipt: &str, at: u64) {
    let items = vec![(id.to_owned(), receipt.to_owned())];
    let call = Call::Delete { queue: queue.to_owned(), items };
    let answer = Answer::Deleted { mark: mark(at), outcomes: vec![Deleted::Done] };
    sample.add(2, at, call, Outcome::Ok(answer));
}

/// An account may hold one message, holds it, and is refused another.
fn quotas(rounds: u64) -> Sample {
    let mut sample = Sample::default();
    for round in 0..rounds {
        let (at, id, account) = (begin(round), format!("m{round}"), TENANT.to_owned());
        let quota = Some(1);
        sample.done(at, Call::SetQuota { account: account.clone(), messages: quota });
        sample.send_new("tau", &id, at + 1, new(at));
        let call = Call::Send { queue: "tau".to_owned(), messages: vec![new(at + 2)] };
        sample.add(1, at + 2, call, Outcome::Failed("FULL".to_owned()));
        let told = Tenant { quota, queues: 1, messages: 1 };
        let answer = Answer::Account { at: at + 3, account: told };
        sample.add(1, at + 3, Call::LookAtAccount { account, stale: false }, Outcome::Ok(answer));
        delete(&mut sample, "tau", &id, &format!("r{}", at + 1), at + 4);
    }
    sample
}

/// A queue is cleared of what was sent to it.
fn clears(rounds: u64) -> Sample {
    let mut sample = Sample::default();
    for round in 0..rounds {
        let at = begin(round);
        sample.send(&format!("m{round}"), at);
        sample.clear(at + 1);
    }
    sample
}

/// A queue is deleted and brought back, and listed meanwhile.
fn deletions(rounds: u64) -> Sample {
    let mut sample = Sample::default();
    let queue = || "delta".to_owned();
    sample.done(1, Call::Create { queue: queue() });
    let list = |sample: &mut Sample, at, deleted, queues| {
        let call = Call::List { account: "default".to_owned(), deleted, stale: false };
        sample.add(3, at, call, Outcome::Ok(Answer::Listed { at, queues }));
    };
    for round in 0..rounds {
        let (at, id) = (begin(round), format!("m{round}"));
        sample.send_new("delta", &id, at, new(at));
        sample.done(at + 1, Call::DeleteQueue { queue: queue() });
        list(&mut sample, at + 2, true, vec![queue()]);
        sample.done(at + 3, Call::Undelete { queue: queue() });
        list(&mut sample, at + 4, false, vec![queue()]);
        delete(&mut sample, "delta", &id, &format!("r{at}"), at + 5);
    }
    sample
}

/// A dead letter is sent back, and a listing shows that.
fn redrives(rounds: u64) -> Sample {
    let mut sample = Sample::default();
    let mut jobs: Vec<Job> = Vec::new();
    let queue = || "gamma-dead".to_owned();
    for round in 0..rounds {
        let (at, was, id) = (begin(round), format!("m{round}"), format!("n{round}"));
        let job = format!("job{round}");
        sample.send_new("gamma", &was, at, new(at));
        let dead = Shown { inserted_at: at, ..shown(&was, at, "", at + 1, 0) };
        let dead = Sample::dead("gamma", 3, at + 1, dead);
        let call = Call::Peek { queue: queue(), standing: Standing::Dead, stale: false };
        let answer = Answer::Seen { at: at + 2, messages: vec![dead] };
        sample.add(2, at + 2, call, Outcome::Ok(answer));
        sample.redrive("gamma-dead", &job, at + 4);
        let call = Call::Redrive { queue: queue(), asked: Asked::default() };
        sample.add(3, at + 5, call, Outcome::Failed("REDRIVE_RUNNING".to_owned()));
        let receipt = format!("r{}", at + 9);
        let back = Sample::redriven(&was, at + 8, shown(&id, at, &receipt, at + 12, 1));
        sample.receive_from("gamma", 2, vec![back], at + 9, 3);
        let (asked, started_at, ended_at) = (Asked::default(), at + 4, Some(at + 8));
        let (progress, moved, held, refused) = (Progress::Done, 1, 0, 0);
        let job = Job { id: job, asked, progress, started_at, ended_at, moved, held, refused };
        jobs.insert(0, job);
        jobs.truncate(10);
        let call = Call::Redrives { queue: queue(), stale: false };
        let answer = Answer::Redrives { at: at + 10, jobs: jobs.clone() };
        sample.add(3, at + 10, call, Outcome::Ok(answer));
        delete(&mut sample, "gamma", &id, &receipt, at + 11);
    }
    sample
}

/// One queue after the other is made, listed, used and deleted.
fn queues(rounds: u64) -> Sample {
    let mut sample = Sample::default();
    for round in 0..rounds {
        let (at, name, id) = (begin(round), format!("queue{round}"), format!("m{round}"));
        let queue = || name.clone();
        let list = |sample: &mut Sample, at, queues| {
            let (account, deleted, stale) = ("default".to_owned(), false, false);
            let call = Call::List { account, deleted, stale };
            sample.add(3, at, call, Outcome::Ok(Answer::Listed { at, queues }));
        };
        sample.done(at, Call::Create { queue: queue() });
        list(&mut sample, at + 1, vec![queue()]);
        sample.send_new(&name, &id, at + 2, new(at));
        let receipt = format!("r{}", at + 3);
        let message = Shown { inserted_at: at + 2, ..shown(&id, at, &receipt, at + 12, 1) };
        sample.receive_from(&name, 2, vec![message], at + 3, 9);
        delete(&mut sample, &name, &id, &receipt, at + 4);
        sample.done(at + 5, Call::DeleteQueue { queue: queue() });
        list(&mut sample, at + 6, Vec::new());
    }
    sample
}

/// A message that died is looked at and kept under a lease, and nobody takes it.
fn dead_letter(rounds: u64) -> Duration {
    let mut sample = Sample::default();
    sample.send_new("gamma", "m", 1, new(1));
    let dead = |at: u64, receipt: &str, until: u64, count: u32| {
        let dead = Shown { inserted_at: 1, ..shown("m", 1, receipt, until, count) };
        Sample::dead("gamma", 3, at, dead)
    };
    let queue = || "gamma-dead".to_owned();
    sample.receive_from(
        "gamma-dead",
        2,
        vec![dead(2, "r", begin(rounds), 1)],
        3,
        begin(rounds) - 3,
    );
    for round in 0..rounds {
        let (at, until) = (begin(round), begin(rounds) + round);
        let used = if round == 0 { "r".to_owned() } else { format!("u{}", round - 1) };
        let (id, visibility, tag) = ("m".to_owned(), Some(until - at), None);
        let call = Call::Update { queue: queue(), id, receipt: used, visibility, tag };
        let answer =
            Answer::Updated { mark: mark(at), receipt: format!("u{round}"), visible_at: until };
        sample.add(2, at, call, Outcome::Ok(answer));
        let call = Call::Peek { queue: queue(), standing: Standing::Dead, stale: false };
        let answer = Answer::Seen { at: at + 1, messages: vec![dead(2, "", until, 1)] };
        sample.add(3, at + 1, call, Outcome::Ok(answer));
    }
    let mut history = sample.ended();
    history.ending.drained = false;
    timed(&history)
}

/// One message is given out, updated and released, again and again.
fn long_life(rounds: u64) -> Sample {
    let mut sample = Sample::default();
    sample.send("m", 1);
    for round in 0..rounds {
        let at = begin(round);
        let message = Shown { inserted_at: 1, ..shown("m", 1, &format!("r{at}"), at + 9, 0) };
        let message = Shown { dequeue_count: round as u32 + 1, ..message };
        sample.receive_shown(2, message, at, 9);
        sample.update("m", &format!("r{at}"), at + 1, at + 8);
        sample.under(7, 2 * round, 1);
        sample.delete_is_refused("m", &format!("r{at}"), at + 2, Deleted::Mismatch);
        sample.release("m", &format!("r{}", at + 1), at + 3, at + 5);
        sample.unknown_update("m", &format!("r{}", at + 1), at + 4);
        sample.under(7, 2 * round + 1, 1);
    }
    let at = begin(rounds);
    let message = Shown { inserted_at: 1, ..shown("m", 1, "last", at + 9, rounds as u32 + 1) };
    sample.receive_shown(2, message, at, 9);
    sample.delete("m", "last", at + 1);
    sample
}

/// Somebody asks of each write whether it stands where it was said to.
fn durability(rounds: u64) -> Sample {
    let mut sample = Sample::default();
    for round in 0..rounds {
        let (at, id) = (begin(round), format!("m{round}"));
        sample.send(&id, at);
        let (cluster, digest) = (Cluster::default(), 0);
        let applied = Applied { cluster, node: 1, index: at, term: 1, leader: 1, digest };
        sample.history.applied.push(applied);
        let answer = Answer::Durable { committed: true, zones_at_least: 2 };
        sample.add(1, at + 1, Call::Durability { position: mark(at) }, Outcome::Ok(answer));
        delete(&mut sample, QUEUE, &id, &format!("r{at}"), at + 2);
    }
    sample
}

/// A primary tells how far its copy is.
fn last_sync_times(rounds: u64) -> PairSample {
    let mut sample = PairSample::protected();
    for at in 1..=rounds {
        sample.write(at, 10 * at);
        sample.seen(at, 10 * at);
        sample.copied(at, 10 * at);
        sample.told(10 * at);
    }
    sample
}

/// Who asks both regions of a pair again and again is told how far the copy is.
fn looks(rounds: u64) -> Duration {
    let mut watched = Watched::default();
    for index in 1..=rounds {
        watched.is(1, "secondary", 1, index, None);
        watched.is(0, "primary", 1, index, Some(10 * index));
    }
    let (took, broken) = measured(|| watched.judged());
    assert_eq!(broken, Vec::<&str>::new());
    took
}

/// Who asks both regions again and again is told each time of many epochs.
fn epochs_and_looks(rounds: u64) -> Duration {
    let mut watched = Watched::default();
    watched.tells(rounds);
    let index = 10 * rounds;
    for round in 1..=rounds {
        watched.is_as_before(1, "secondary", rounds, index + round, None);
        watched.is_as_before(0, "primary", rounds, index + round, Some(10 * round));
    }
    let (took, broken) = measured(|| watched.judged());
    assert_eq!(broken, Vec::<&str>::new());
    took
}

/// What a deposed primary has alone is listed, and sent again; a half was deleted there.
fn tail(rounds: u64, is_whole: bool) -> PairSample {
    let mut sample = PairSample::protected();
    sample.copied(5, 5);
    let (mut alive, mut deleted) = (Vec::new(), Vec::new());
    for at in 1..=rounds {
        let (id, gone) = (format!("m{at}"), format!("d{at}"));
        let index = 10 + 3 * at;
        sample.send(&id, index);
        sample.send(&gone, index + 1);
        sample.delete(&gone, index + 2);
        alive.push((id, index));
        deleted.push(gone);
    }
    let end = 20 + 3 * rounds;
    sample.seen(end, end);
    sample.promoted(5);
    sample.fenced(end);
    sample.lists(is_whole, &alive, &deleted);
    sample
}
