//! Redrives as a history tells of them: when each began and by when it had ended.
//!
//! Laws: of a start of unknown outcome a redrive may come at any time until its session went on.
//! A redrive has surely ended where a listing says so, where it was cancelled, and where none ran:
//! a queue has one at a time.

use std::collections::{BTreeMap, BTreeSet};

use crate::highest::Highest;
use crate::history::{Answer, Asked, Call, History, Job, LogTime, Op, Outcome, Progress};
use crate::known::Spans;
use crate::story::Act;
use crate::times::{When, when};

/// One redrive, or one that may have been.
#[derive(Clone, Debug)]
pub struct Redrive<'a> {
    /// Empty where the start was not answered.
    pub id: &'a str,
    pub queue: &'a str,
    pub asked: &'a Asked,
    /// The ids that it asked for; none = any.
    pub ids: BTreeSet<&'a str>,
    pub start: Act<'a>,
    /// By when it had ended, surely.
    pub ended: LogTime,
    /// As a listing showed it after its end.
    pub told: Option<&'a Job>,
}

impl Redrive<'_> {
    /// Whether it may have had a step at this T.
    pub fn may_run_at(&self, at: LogTime) -> bool {
        self.start.when.after < at && at <= self.ended
    }
}

/// Redrives in the order in which they began, as far as is known.
#[derive(Debug, Default)]
pub struct Begun<'s, 'a> {
    all: Vec<&'s Redrive<'a>>,
    ended: Highest<LogTime, LogTime>,
}

impl<'s, 'a> Begun<'s, 'a> {
    pub fn of(all: impl Iterator<Item = &'s Redrive<'a>>) -> Begun<'s, 'a> {
        let span = |one: &&Redrive<'_>| (one.start.when.after, one.ended);
        let mut all: Vec<&Redrive<'_>> = all.collect();
        all.sort_by_key(span);
        let ended = all.iter().map(span).collect();
        Begun { all, ended }
    }

    /// Those that may have had a step at this T, the newest first.
    pub fn at(&self, at: LogTime) -> impl Iterator<Item = &'s Redrive<'a>> {
        let begun = self.all.get(self.ended.places(&at, at.saturating_sub(1)));
        let begun = begun.into_iter().flatten().rev().copied();
        begun.filter(move |one| one.may_run_at(at))
    }

    /// Whether one may have run after the first T and not after the second.
    pub fn touches(&self, after: LogTime, by: LogTime) -> bool {
        self.ended.below(&by).is_some_and(|ended| after <= ended)
    }
}

/// What a listing showed.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    pub queue: &'a str,
    pub at: LogTime,
    pub jobs: &'a [Job],
}

#[derive(Clone, Debug, Default)]
pub struct Redrives<'a> {
    pub all: Vec<Redrive<'a>>,
    /// In the order of T.
    pub listings: Vec<Listing<'a>>,
}

impl<'a> Redrives<'a> {
    /// `end_of`: the last T at which a call of unknown outcome can have taken effect.
    pub fn of(
        history: &'a History,
        floors: &[LogTime],
        end_of: impl Fn(&Op) -> LogTime,
    ) -> Redrives<'a> {
        let mut redrives = Redrives::default();
        let mut cancelled: BTreeMap<&str, LogTime> = BTreeMap::new();
        for (op, floor) in history.ops.iter().zip(floors) {
            match (&op.call, &op.outcome) {
                (Call::Redrive { queue, asked }, outcome) => {
                    let (id, when) = match outcome {
                        Outcome::Ok(answer @ Answer::Redriving { id, started: true, .. }) => {
                            (&**id, when(op, answer, *floor))
                        }
                        Outcome::Unknown(_) => ("", When { after: *floor, by: end_of(op) }),
                        _ => continue,
                    };
                    let (start, ended) = (Act { op, when }, LogTime::MAX);
                    let ids = asked.ids.iter().map(|id| &**id).collect();
                    let redrive = Redrive { id, queue, asked, ids, start, ended, told: None };
                    redrives.all.push(redrive);
                }
                (
                    Call::CancelRedrive { id, .. },
                    Outcome::Ok(Answer::Cancelled { mark, cancelled: true }),
                ) => {
                    cancelled.insert(id, mark.at);
                }
                (Call::Redrives { queue, .. }, Outcome::Ok(Answer::Redrives { at, jobs })) => {
                    redrives.listings.push(Listing { queue, at: *at, jobs });
                }
                _ => {}
            }
        }
        redrives.listings.sort_by_key(|listing| listing.at);
        redrives.find_ends(&cancelled);
        redrives
    }

    fn find_ends(&mut self, cancelled: &BTreeMap<&str, LogTime>) {
        let mut told: BTreeMap<&str, &'a Job> = BTreeMap::new();
        let mut quiet: BTreeMap<&str, Vec<LogTime>> = BTreeMap::new();
        for listing in &self.listings {
            let ended = listing.jobs.iter().filter(|job| job.progress != Progress::Running);
            told.extend(ended.clone().map(|job| (&*job.id, job)));
            if ended.count() == listing.jobs.len() {
                quiet.entry(listing.queue).or_default().push(listing.at);
            }
        }
        // Where one begins, none runs.
        for redrive in &self.all {
            if redrive.start.when == When::exact(redrive.start.when.by) {
                quiet.entry(redrive.queue).or_default().push(redrive.start.when.after);
            }
        }
        quiet.values_mut().for_each(|times| times.sort_unstable());
        for redrive in &mut self.all {
            redrive.told = told.get(redrive.id).copied();
            let by = redrive.start.when.by;
            let times = quiet.get(redrive.queue).map_or(&[][..], Vec::as_slice);
            let next = times.get(times.partition_point(|at| *at < by)).copied();
            let known = redrive.told.and_then(|job| job.ended_at);
            let known = known.or_else(|| cancelled.get(redrive.id).copied());
            redrive.ended = known.or(next).unwrap_or(LogTime::MAX);
            if let Some(began) = redrive.told.map(|job| job.started_at) {
                redrive.start.when = When::exact(began);
            }
        }
    }

    /// Those of each queue.
    pub fn by_queue(&self) -> BTreeMap<&'a str, Vec<&Redrive<'a>>> {
        let mut all: BTreeMap<&str, Vec<&Redrive<'_>>> = BTreeMap::new();
        for redrive in &self.all {
            all.entry(redrive.queue).or_default().push(redrive);
        }
        all
    }

    /// When a redrive of this queue may have run.
    pub fn spans(&self, queue: &str) -> Spans {
        let of = self.all.iter().filter(|redrive| redrive.queue == queue);
        let acts = of.map(|redrive| {
            let when = When { after: redrive.start.when.after, by: redrive.ended };
            Act { op: redrive.start.op, when }
        });
        Spans::of(acts.collect::<Vec<_>>().iter())
    }
}
