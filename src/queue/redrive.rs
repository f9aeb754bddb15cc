//! Redrive: sending the dead letters of a queue back, as a job in steps.
//!
//! Laws: a step is part of a pulse, looks at no more messages than the entry may move, and there
//! is one step of a job in an entry. A job takes the dead letters that were there when it began:
//! what dies again does not go round. Each becomes a *new* message, with the content, priority
//! and group it had, that names the one it was; the old one is gone in the same step, so nothing
//! is there twice or not at all. One that somebody holds, one behind such a one in its group, and
//! one that its target does not take stays where it is. A queue has at most one running job, and
//! remembers those that ended last; the jobs live and die with their queue.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::catalog::{Catalog, Queue};
use super::check;
use super::command::Redrive;
use super::digest;
use super::error::Rejection;
use super::ids::{LogTime, MessageId, Number, QueueId, Receipt, Span};
use super::limits::{REDRIVE_IDS, REDRIVE_RATE, REDRIVES_KEPT};
use super::message::Message;
use super::note::{Dead, Note, Redriven};
use super::outcome::{Changes, Outcome, Reply, Standing};
use super::quota;
use super::rows::{RedriveRow, RowKey};
use super::state::{State, Step};
use super::verbs::draw;
use crate::mutants;

const SECOND: u64 = 1_000_000;

/// How a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    #[default]
    Running,
    /// It has looked at all there was.
    Done,
    Cancelled,
}

/// What a job has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages sent back.
    pub moved: u64,
    /// Held by somebody, or behind such a one in its group: left alone.
    pub held: u64,
    /// Not taken by the target: missing, full, or set for smaller messages.
    pub refused: u64,
}

/// The jobs of one queue, by the number each began with.
#[derive(Clone, Debug)]
pub struct Jobs {
    queue: QueueId,
    jobs: BTreeMap<Number, RedriveRow>,
    sum: u128,
}

impl Jobs {
    #[must_use]
    pub fn new(queue: QueueId) -> Jobs {
        Jobs { queue, jobs: BTreeMap::new(), sum: 0 }
    }

    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum
    }

    #[must_use]
    pub fn running(&self) -> Option<&RedriveRow> {
        self.jobs.values().find(|job| job.progress == Progress::Running)
    }

    /// When the running job has its next step.
    #[must_use]
    pub fn next_step(&self) -> Option<LogTime> {
        self.running().map(|job| job.next_step)
    }

    #[must_use]
    pub fn row(&self, number: Number) -> Option<RedriveRow> {
        self.jobs.get(&number).cloned()
    }

    /// The newest first.
    pub fn all(&self) -> impl Iterator<Item = &RedriveRow> {
        self.jobs.values().rev()
    }

    pub fn row_keys(&self) -> impl Iterator<Item = RowKey> {
        let queue = self.queue;
        self.jobs.keys().map(move |number| RowKey::Redrive { queue, number: *number })
    }

    /// Takes in a job as it was stored; false when it is there already.
    #[must_use]
    pub fn load(&mut self, row: RedriveRow) -> bool {
        if self.jobs.contains_key(&row.number) {
            return false;
        }
        self.put(row, &mut Changes::default());
        true
    }

    /// Frees the jobs of a queue that nothing reads any more; answers how many there were.
    pub fn shed(&mut self, changes: &mut Changes) -> usize {
        let numbers: Vec<Number> = self.jobs.keys().copied().collect();
        numbers.iter().for_each(|number| self.forget(*number, changes));
        numbers.len()
    }

    fn put(&mut self, row: RedriveRow, changes: &mut Changes) {
        self.forget(row.number, changes);
        self.sum = self.sum.wrapping_add(digest::redrive(&row));
        self.jobs.insert(row.number, row);
    }

    fn forget(&mut self, number: Number, changes: &mut Changes) {
        if let Some(before) = self.jobs.remove(&number) {
            self.sum = self.sum.wrapping_sub(digest::redrive(&before));
        }
        changes.row(RowKey::Redrive { queue: self.queue, number });
    }

    /// Makes room for one more.
    fn drop_oldest(&mut self, changes: &mut Changes) {
        while self.jobs.len() >= REDRIVES_KEPT
            && let Some(number) = self.jobs.keys().next().copied()
        {
            self.forget(number, changes);
        }
    }
}

/// Checks what does not depend on the state.
///
/// # Errors
/// [`Rejection::InvalidArgument`].
pub fn check(asked: &Redrive) -> Result<(), Rejection> {
    let refuse = |field: &str, problem: String, allowed: String| {
        Err(Rejection::InvalidArgument { field: field.to_owned(), problem, allowed })
    };
    check::queue_name(&asked.queue)?;
    asked.target.iter().chain(&asked.filter.source).try_for_each(|name| check::queue_name(name))?;
    if asked.target.as_ref() == Some(&asked.queue) {
        let problem = "is the queue itself".to_owned();
        return refuse("target", problem, "another queue".to_owned());
    }
    if let Some(rate) = asked.rate
        && !REDRIVE_RATE.contains(&rate)
    {
        let allowed = format!("{} to {}, or none", REDRIVE_RATE.start(), REDRIVE_RATE.end());
        return refuse("max_messages_per_second", format!("is {rate}"), allowed);
    }
    let ids = asked.filter.ids.len();
    if ids > REDRIVE_IDS {
        return refuse("ids", format!("has {ids}"), format!("0 to {REDRIVE_IDS}"));
    }
    Ok(())
}

/// Begins a job; one that runs with the same wish is answered again.
pub(super) fn start(state: &mut State, account: &str, asked: &Redrive, step: &mut Step) -> Outcome {
    let queue = state.catalog.find(account, &asked.queue);
    let queue = queue.ok_or_else(|| Rejection::QueueNotFound(asked.queue.clone()))?;
    if let Some(job) = queue.redrives.running() {
        if job.asked == *asked {
            return Ok(Reply::RedriveStarted { id: job.id(), started: false });
        }
        let (queue, id) = (asked.queue.clone(), job.id().to_string());
        return Err(Rejection::RedriveRunning { queue, id });
    }
    if let Some(target) = &asked.target
        && state.catalog.find(account, target).is_none()
    {
        return Err(Rejection::QueueNotFound(target.clone()));
    }
    let number = Number(draw(&mut state.counters));
    let job = RedriveRow {
        queue: queue.row.id,
        number,
        epoch: state.counters.epoch,
        asked: asked.clone(),
        started_at: step.now,
        progress: Progress::Running,
        ended_at: None,
        looked_through: Number(0),
        next_step: step.now.after(Span(1)),
        tally: Tally::default(),
    };
    let queue = state.catalog.open(account, &asked.queue)?;
    let (id, answer) = (queue.row.id, job.id());
    queue.redrives.drop_oldest(&mut step.changes);
    queue.redrives.put(job, &mut step.changes);
    state.catalog.settle(id);
    Ok(Reply::RedriveStarted { id: answer, started: true })
}

/// Ends a job where it is; one that has ended stays as it ended.
pub(super) fn cancel(
    state: &mut State,
    account: &str,
    queue: &str,
    id: MessageId,
    step: &mut Step,
) -> Outcome {
    let found = state.catalog.open(account, queue)?;
    let job = found.redrives.row(id.number).filter(|job| job.id() == id);
    let Some(mut job) = job else {
        let (queue, id) = (queue.to_owned(), id.to_string());
        return Err(Rejection::RedriveNotFound { queue, id });
    };
    let runs = job.progress == Progress::Running;
    if runs {
        (job.progress, job.ended_at) = (Progress::Cancelled, Some(step.now));
        found.redrives.put(job, &mut step.changes);
        let id = found.row.id;
        state.catalog.settle(id);
    }
    Ok(Reply::RedriveCancelled { cancelled: runs })
}

/// The next step of the job of a queue, if it has one now.
pub(super) fn advance(state: &mut State, id: QueueId, step: &mut Step) {
    let Some(queue) = state.catalog.by_id(id) else { return };
    let Some(mut job) = queue.redrives.running().filter(|job| job.next_step <= step.now).cloned()
    else {
        return;
    };
    let most = allowed(&job, step.now);
    let numbers = numbers(&job.asked);
    let mut spent = 0;
    while step.budget > 0 && spent < most {
        let next = state
            .catalog
            .by_id(id)
            .and_then(|queue| next_number(queue, &numbers, job.looked_through));
        let Some(number) = next else {
            (job.progress, job.ended_at) = (Progress::Done, Some(step.now));
            break;
        };
        step.budget -= 1;
        job.looked_through = number;
        let Some(what) = state.catalog.by_id(id).and_then(|q| wanted(q, number, &job, step.now))
        else {
            continue;
        };
        match what {
            Wanted::Held => job.tally.held += 1,
            Wanted::Letter(message, dead) => {
                spent += 1;
                if send_back(state, id, &message, &dead, &job, step) {
                    job.tally.moved += 1;
                } else {
                    job.tally.refused += 1;
                }
            }
        }
    }
    job.next_step = pause(&job, spent, step.now);
    if let Some(queue) = state.catalog.by_id_mut(id) {
        queue.redrives.put(job, &mut step.changes);
    }
}

/// Messages that the rate of a job lets go now. What was left out in the last second is made up
/// for, so that a pulse that comes late slows nothing down; more is not.
fn allowed(job: &RedriveRow, now: LogTime) -> u64 {
    let Some(rate) = job.asked.rate.map(u64::from) else { return u64::MAX };
    let open = now.since(job.next_step).0.min(SECOND);
    1 + open.saturating_mul(rate) / SECOND
}

/// When the step after one that took `spent` messages may be.
fn pause(job: &RedriveRow, spent: u64, now: LogTime) -> LogTime {
    let soonest = now.after(Span(1));
    let Some(rate) = job.asked.rate.map(u64::from) else { return soonest };
    let from = job.next_step.max(LogTime(now.0.saturating_sub(SECOND)));
    soonest.max(from.after(Span(spent.saturating_mul(SECOND).div_ceil(rate))))
}

enum Wanted {
    Letter(Message, Dead),
    Held,
}

/// The numbers of the ids that are asked for: in this order they are looked at.
fn numbers(asked: &Redrive) -> BTreeSet<Number> {
    asked.filter.ids.iter().map(|id| id.number).collect()
}

/// The number to be looked at next; `asked` is empty where any will do.
fn next_number(queue: &Queue, asked: &BTreeSet<Number>, after: Number) -> Option<Number> {
    if asked.is_empty() {
        return queue.lineup.next_note(after);
    }
    asked.range((Bound::Excluded(after), Bound::Unbounded)).next().copied()
}

/// What a job does with a message: `None` = it is no dead letter, or not one of those wanted.
fn wanted(queue: &Queue, number: Number, job: &RedriveRow, now: LogTime) -> Option<Wanted> {
    let letter = letter(queue, number, &job.asked, now)?;
    if let Wanted::Letter(_, dead) = &letter
        && dead.arrived >= job.number
    {
        return None;
    }
    Some(letter)
}

fn letter(queue: &Queue, number: Number, asked: &Redrive, now: LogTime) -> Option<Wanted> {
    let message = queue.lineup.find(number)?;
    let note = queue.lineup.note(number)?;
    let dead = note.dead.as_ref()?;
    let filter = &asked.filter;
    let fits = (filter.ids.is_empty() || filter.ids.contains(&message.id()))
        && filter.source.as_ref().is_none_or(|source| *source == dead.source)
        && filter.reason.is_none_or(|reason| reason == dead.reason)
        && filter.group.as_deref().is_none_or(|group| note.group.as_deref() == Some(group))
        && filter.dead_before.is_none_or(|before| dead.at < before)
        && filter.dead_since.is_none_or(|since| dead.at >= since);
    if !fits {
        return None;
    }
    match queue.lineup.standing(&message, now) {
        Standing::Due => None,
        Standing::Leased => Some(Wanted::Held),
        Standing::Blocked if queue.lineup.is_behind_a_lease(number, now) => Some(Wanted::Held),
        _ => Some(Wanted::Letter(message, dead.clone())),
    }
}

/// Puts a new message into the target in the place of a dead letter. False: it stays.
fn send_back(
    state: &mut State,
    id: QueueId,
    message: &Message,
    dead: &Dead,
    job: &RedriveRow,
    step: &mut Step,
) -> bool {
    let Some(queue) = state.catalog.by_id(id) else { return false };
    let name = job.asked.target.as_ref().unwrap_or(&dead.source);
    let Some(target) = target(&state.catalog, queue, name, message) else { return false };
    let number = draw(&mut state.counters);
    let epoch = state.counters.epoch;
    let Some(queue) = state.catalog.by_id_mut(id) else { return false };
    let note = queue.lineup.note(message.number);
    let first = note.and_then(|note| Some(note.redriven.as_ref()?.origin()));
    let group = note.and_then(|note| note.group.clone());
    let name = queue.row.name.as_str().into();
    let redriven = Some(Redriven { id: message.id(), queue: name, first });
    if !mutants::is_chosen("redrive-copies") {
        queue.lineup.remove(message, &mut step.changes);
    }
    let Some(queue) = state.catalog.by_id_mut(target) else { return false };
    let ttl = queue.row.settings.default_ttl;
    let new = Message {
        number: Number(number),
        epoch,
        inserted_at: step.now,
        expires_at: ttl.map(|ttl| step.now.after(ttl)).filter(|at| at.0 != u64::MAX),
        visible_at: step.now,
        dequeue_count: 0,
        receipt: Receipt { epoch, counter: number },
        last: false,
        released: false,
        ..*message
    };
    let group = group.map(|group| queue.lineup.group_name(&group));
    queue.lineup.set_note(new.number, Note { group, redriven, ..Note::default() });
    queue.lineup.add_touched(new, &mut step.changes);
    state.catalog.settle(target);
    true
}

/// The queue a dead letter goes to, if it is there and takes it.
fn target(catalog: &Catalog, from: &Queue, name: &str, message: &Message) -> Option<QueueId> {
    let target = catalog.find(&from.row.account, name)?;
    let takes = target.row.id != from.row.id
        && message.size <= target.row.settings.max_message_bytes
        && quota::room(target, 1, message.size.into()).is_ok();
    takes.then_some(target.row.id)
}

/// A dry run as far as one read goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Preview {
    /// Would be sent back.
    pub matching: u64,
    pub held: u64,
    /// Where the next read goes on; `None` = this was all.
    pub next: Option<Number>,
}

impl State {
    /// Counts what a redrive would take, of the messages behind `after`, looking at `most`.
    ///
    /// # Errors
    /// [`Rejection::QueueNotFound`].
    pub fn preview_redrive(
        &self,
        account: &str,
        asked: &Redrive,
        after: Number,
        most: usize,
    ) -> Result<Preview, Rejection> {
        let find = |name: &str| self.catalog.find(account, name);
        let queue =
            find(&asked.queue).ok_or_else(|| Rejection::QueueNotFound(asked.queue.clone()))?;
        if let Some(target) = &asked.target
            && find(target).is_none()
        {
            return Err(Rejection::QueueNotFound(target.clone()));
        }
        let (mut preview, mut at) = (Preview::default(), after);
        let numbers = numbers(asked);
        for _ in 0..most {
            let Some(number) = next_number(queue, &numbers, at) else {
                return Ok(preview);
            };
            at = number;
            match letter(queue, number, asked, self.log_time()) {
                Some(Wanted::Letter(..)) => preview.matching += 1,
                Some(Wanted::Held) => preview.held += 1,
                None => {}
            }
        }
        preview.next = Some(at);
        Ok(preview)
    }

    /// The running job of a queue and those that ended last, the newest first.
    ///
    /// # Errors
    /// [`Rejection::QueueNotFound`].
    pub fn redrives(&self, account: &str, queue: &str) -> Result<Vec<RedriveRow>, Rejection> {
        let found = self.catalog.find(account, queue);
        let found = found.ok_or_else(|| Rejection::QueueNotFound(queue.to_owned()))?;
        Ok(found.redrives.all().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::command::RedriveFilter;
    use crate::queue::ids::Epoch;

    fn job(rate: Option<u32>, next_step: u64) -> RedriveRow {
        RedriveRow {
            queue: QueueId(1),
            number: Number(9),
            epoch: Epoch(1),
            asked: Redrive {
                queue: "dead".into(),
                target: None,
                rate,
                filter: RedriveFilter::default(),
            },
            started_at: LogTime(0),
            progress: Progress::Running,
            ended_at: None,
            looked_through: Number(0),
            next_step: LogTime(next_step),
            tally: Tally::default(),
        }
    }

    #[test]
    fn a_rate_holds_over_many_steps_and_makes_up_for_a_second_at_most() {
        let (mut sent, mut it) = (0, job(Some(25), 1));
        // Ten pulses a second, for ten seconds.
        for pulse in 1..=100 {
            let now = LogTime(pulse * SECOND / 10);
            if it.next_step > now {
                continue;
            }
            let most = allowed(&it, now);
            it.next_step = pause(&it, most, now);
            sent += most;
        }
        assert!((245..=251).contains(&sent), "{sent} messages in 10 s at 25/s");
        assert_eq!(allowed(&job(Some(25), 0), LogTime(60 * SECOND)), 26, "not a minute's worth");
    }

    #[test]
    fn without_a_rate_there_is_one_step_an_entry() {
        assert_eq!(allowed(&job(None, 5), LogTime(5)), u64::MAX);
        assert_eq!(pause(&job(None, 5), 1_000, LogTime(5)), LogTime(6));
    }
}
