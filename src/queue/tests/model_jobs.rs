//! The naive model, continued: redrives, deleted queues and the quota of the account.

use std::sync::Arc;

use super::model::{Model, Queue};
use crate::queue::command::{NewMessage, Redrive};
use crate::queue::error::Rejection;
use crate::queue::ids::{LogTime, MessageId, Number, QueueId, Receipt};
use crate::queue::message::Message;
use crate::queue::note::{Note, Redriven};
use crate::queue::outcome::{Outcome, Reply, Standing};
use crate::queue::redrive::{Progress, Tally};
use crate::queue::rows::RedriveRow;

impl Model {
    pub(super) fn check_queues(&self) -> Result<(), Rejection> {
        match self.quota.queues {
            Some(limit) if self.queues.len() as u64 >= limit => {
                let what = "the number of queues of account \"default\"".to_owned();
                Err(Rejection::LimitReached { what, limit })
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_account(
        &self,
        sends: &[(String, Vec<NewMessage>)],
    ) -> Result<(), Rejection> {
        let known = sends.iter().filter_map(|(name, new)| Some((self.queues.get(name)?, new)));
        let sizes: Vec<u64> =
            known.flat_map(|(queue, new)| queue.sizes_of_new(new, self.now)).collect();
        self.check_room(sizes.len() as u64, sizes.iter().sum())
    }

    /// What all queues hold with so much more.
    fn check_room(&self, messages: u64, bytes: u64) -> Result<(), Rejection> {
        let all = || self.queues.values().map(|queue| queue.counts(self.now));
        let full = |what: &str, limit| {
            let what = format!("the number of {what} in account \"default\"");
            Err(Rejection::Full { what, limit })
        };
        if messages == 0 {
            return Ok(());
        }
        if let Some(limit) = self.quota.messages
            && all().map(|counts| counts.total).sum::<u64>() + messages > limit
        {
            return full("messages", limit);
        }
        match self.quota.bytes {
            Some(limit) if all().map(|counts| counts.bytes).sum::<u64>() + bytes > limit => {
                full("bytes", limit)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn undelete(&mut self, name: &str, id: Option<QueueId>, to: &str) -> Outcome {
        let now = self.now;
        let fits = |queue: &&Queue| {
            queue.name == name
                && id.is_none_or(|id| id == queue.id)
                && queue.gone.is_some_and(|(_, until)| until > now)
        };
        let last = self.kept.iter().filter(fits).max_by_key(|queue| (queue.gone, queue.id));
        let found = last.ok_or_else(|| Rejection::QueueNotFound(name.to_owned()))?;
        let (id, settings, counts) = (found.id, found.settings.clone(), found.counts(now));
        if self.queues.contains_key(to) {
            return Err(Rejection::QueueExists(to.to_owned()));
        }
        self.check_queues()?;
        self.check_room(counts.total, counts.bytes)?;
        self.check_chain(to, &settings)?;
        let at = self.kept.iter().position(|queue| queue.id == id).expect("found");
        let mut queue = self.kept.remove(at);
        (queue.name, queue.gone) = (to.to_owned(), None);
        self.queues.insert(to.to_owned(), queue);
        Ok(Reply::QueueUndeleted)
    }

    pub(super) fn end_first_window(&mut self) {
        let ends = |(_, queue): &(usize, &Queue)| (queue.gone.map(|gone| gone.1), queue.id);
        let first = self.kept.iter().enumerate().min_by_key(ends);
        let (at, _) = first.expect("a deleted queue");
        self.kept.remove(at);
    }

    pub(super) fn start_redrive(&mut self, asked: &Redrive) -> Outcome {
        let now = self.now;
        let queue = self.queue(&asked.queue)?;
        if let Some(job) = queue.running() {
            let (queue, id) = (asked.queue.clone(), job.id());
            return if job.asked == *asked {
                Ok(Reply::RedriveStarted { id, started: false })
            } else {
                Err(Rejection::RedriveRunning { queue, id: id.to_string() })
            };
        }
        asked.target.iter().try_for_each(|target| self.queue(target).map(drop))?;
        let (number, epoch) = (Number(self.draw()), self.epoch);
        let queue = self.queue(&asked.queue)?;
        let job = RedriveRow {
            queue: queue.id,
            number,
            epoch,
            asked: asked.clone(),
            started_at: now,
            progress: Progress::Running,
            ended_at: None,
            looked_through: Number(0),
            next_step: LogTime(now.0 + 1),
            tally: Tally::default(),
        };
        let id = job.id();
        queue.jobs.push(job);
        let from = queue.jobs.len().saturating_sub(10);
        queue.jobs.drain(..from);
        Ok(Reply::RedriveStarted { id, started: true })
    }

    pub(super) fn cancel_redrive(&mut self, name: &str, id: MessageId) -> Outcome {
        let now = self.now;
        let queue = self.queue(name)?;
        let Some(job) = queue.jobs.iter_mut().find(|job| job.id() == id) else {
            let (queue, id) = (name.to_owned(), id.to_string());
            return Err(Rejection::RedriveNotFound { queue, id });
        };
        let cancelled = job.progress == Progress::Running;
        if cancelled {
            (job.progress, job.ended_at) = (Progress::Cancelled, Some(now));
        }
        Ok(Reply::RedriveCancelled { cancelled })
    }

    /// One step of a queue's job, which has at most a thousand messages to look at here.
    pub(super) fn step_redrive(&mut self, name: &str) {
        let now = self.now;
        let queue = &self.queues[name];
        let Some(mut job) = queue.running().filter(|job| job.next_step <= now).cloned() else {
            return;
        };
        let second = 1_000_000;
        let rate = job.asked.rate.map(u64::from);
        let open = (now.0 - job.next_step.0).min(second);
        let most = rate.map_or(u64::MAX, |rate| 1 + open * rate / second);
        let mut taken = 0;
        while taken < most {
            let Some(number) = self.queues[name].next_letter(&job) else {
                (job.progress, job.ended_at) = (Progress::Done, Some(now));
                break;
            };
            job.looked_through = number;
            match self.queues[name].wants(number, &job, now) {
                None => {}
                Some(false) => job.tally.held += 1,
                Some(true) => {
                    taken += 1;
                    if self.send_back(name, number, &job) {
                        job.tally.moved += 1;
                    } else {
                        job.tally.refused += 1;
                    }
                }
            }
        }
        let from = job.next_step.0.max(now.0.saturating_sub(second));
        let next = rate.map_or(0, |rate| from + (taken * second).div_ceil(rate));
        job.next_step = LogTime(next.max(now.0 + 1));
        let queue = self.queues.get_mut(name).expect("the queue");
        let at = queue.jobs.iter().position(|one| one.number == job.number).expect("the job");
        queue.jobs[at] = job;
    }

    fn send_back(&mut self, name: &str, number: Number, job: &RedriveRow) -> bool {
        let (now, epoch) = (self.now, self.epoch);
        let from = &self.queues[name];
        let at = from.messages.iter().position(|m| m.number == number).expect("the message");
        let (message, note) = (from.messages[at], Note::clone(&from.notes[&number]));
        let source = note.dead.expect("a dead letter").source;
        let to = job.asked.target.clone().unwrap_or(source);
        let Some(target) = self.queues.get(&to).filter(|target| target.id != from.id) else {
            return false;
        };
        let (quota, counts) = (target.settings.quota, target.counts(now));
        if message.size > target.settings.max_message_bytes
            || quota.messages.is_some_and(|most| counts.total + 1 > most)
            || quota.bytes.is_some_and(|most| counts.bytes + u64::from(message.size) > most)
        {
            return false;
        }
        let counter = self.draw();
        let from = self.queues.get_mut(name).expect("the queue");
        from.messages.remove(at);
        from.notes.remove(&number);
        let first = note.redriven.as_ref().map(|before| before.first.unwrap_or(before.id));
        let redriven = Some(Redriven { id: message.id(), queue: name.into(), first });
        let target = self.queues.get_mut(&to).expect("the target");
        let new = Message {
            number: Number(counter),
            epoch,
            inserted_at: now,
            expires_at: target.settings.default_ttl.map(|ttl| now.after(ttl)),
            visible_at: now,
            dequeue_count: 0,
            receipt: Receipt { epoch, counter },
            last: false,
            released: false,
            ..message
        };
        target.messages.push(new);
        let note = Note { group: note.group, redriven, ..Note::default() };
        target.notes.insert(new.number, Arc::new(note));
        true
    }
}

impl Queue {
    pub(super) fn running(&self) -> Option<&RedriveRow> {
        self.jobs.iter().find(|job| job.progress == Progress::Running)
    }

    fn next_letter(&self, job: &RedriveRow) -> Option<Number> {
        let ids = &job.asked.filter.ids;
        let all: Vec<Number> = if ids.is_empty() {
            self.notes.keys().copied().collect()
        } else {
            ids.iter().map(|id| id.number).collect()
        };
        all.into_iter().filter(|number| *number > job.looked_through).min()
    }

    /// Whether a message is to be sent back, or is held by somebody; `None` = neither.
    fn wants(&self, number: Number, job: &RedriveRow, now: LogTime) -> Option<bool> {
        let message = self.messages.iter().find(|m| m.number == number)?;
        let note = self.notes.get(&number)?;
        let dead = note.dead.as_ref()?;
        let filter = &job.asked.filter;
        if filter.source.as_ref().is_some_and(|source| *source != dead.source)
            || filter.dead_before.is_some_and(|at| dead.at >= at)
            || filter.dead_since.is_some_and(|at| dead.at < at)
            || filter.group.as_deref().is_some_and(|group| note.group.as_deref() != Some(group))
            || !(filter.ids.is_empty() || filter.ids.contains(&message.id()))
        {
            return None;
        }
        match self.standing(message, now) {
            Standing::Due => None,
            Standing::Leased => Some(false),
            Standing::Blocked => {
                let place = |m: &&Message| {
                    let other = self.notes.get(&m.number)?;
                    (other.group == note.group).then(|| other.place(m.number))
                };
                let group = self.messages.iter().filter(|m| place(m).is_some());
                let head = group.min_by_key(|m| place(m)).expect("itself");
                let held = head.standing(now) == Standing::Leased;
                if held { Some(false) } else { (dead.arrived < job.number).then_some(true) }
            }
            _ => (dead.arrived < job.number).then_some(true),
        }
    }
}
