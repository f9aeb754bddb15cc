//! The naive model: a plain list of messages a queue, sorted and filtered afresh each time.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::queue::command::{
    AccountQuota, Command, Entry, Envelope, NewMessage, Receive, ReleaseAfter, Settings, StringMap,
    TimeToLive, Transact, Update,
};
use crate::queue::error::Rejection;
use crate::queue::ids::{ContentId, Epoch, LogTime, MessageId, Number, QueueId, Receipt, Span};
use crate::queue::message::Message;
use crate::queue::note::{Dead, DeadReason, Note};
use crate::queue::outcome::{
    Counts, DeleteOutcome, Granted, Outcome, ReleaseOutcome, Reply, Sent, Shown, Standing,
};
use crate::queue::rows::RedriveRow;
use crate::queue::{check, transact};

pub struct Model {
    pub now: LogTime,
    pub(super) epoch: Epoch,
    next_number: u64,
    next_queue: u64,
    pub queues: BTreeMap<String, Queue>,
    /// Deleted, and kept to come back.
    pub kept: Vec<Queue>,
    pub quota: AccountQuota,
    sessions: BTreeMap<u128, Session>,
}

pub struct Queue {
    pub id: QueueId,
    pub name: String,
    metadata: StringMap,
    pub(super) settings: Settings,
    pub paused: bool,
    refused: Option<(Number, LogTime)>,
    pub messages: Vec<Message>,
    pub(super) notes: BTreeMap<Number, Arc<Note>>,
    /// When it was deleted, and until when it is kept.
    pub(super) gone: Option<(LogTime, LogTime)>,
    /// In the order in which they began.
    pub jobs: Vec<RedriveRow>,
    /// Key to what was sent first, when, and until when it counts.
    keys: BTreeMap<u128, (MessageId, LogTime, LogTime)>,
}

struct Session {
    last_used: LogTime,
    forgotten: u64,
    outcomes: BTreeMap<u64, Outcome>,
}

impl Model {
    pub fn new() -> Model {
        let (queues, sessions) = (BTreeMap::new(), BTreeMap::new());
        let (now, epoch) = (LogTime(0), Epoch(1));
        let (kept, quota) = (Vec::new(), AccountQuota::default());
        Model { now, epoch, next_number: 1, next_queue: 1, queues, kept, quota, sessions }
    }

    pub fn apply(&mut self, entry: &Entry) -> Vec<Outcome> {
        self.now = LogTime((self.now.0 + 1).max(entry.stamp.0));
        entry.commands.iter().map(|envelope| self.envelope(envelope)).collect()
    }

    fn envelope(&mut self, envelope: &Envelope) -> Outcome {
        let Some(tag) = envelope.session else { return self.run(&envelope.command) };
        if !self.sessions.contains_key(&tag.client) && tag.lowest_unanswered > 1 {
            return Err(Rejection::SessionEnded);
        }
        let fresh = || Session { last_used: self.now, forgotten: 0, outcomes: BTreeMap::new() };
        let session = self.sessions.entry(tag.client).or_insert_with(fresh);
        session.last_used = self.now;
        session.forgotten = session.forgotten.max(tag.lowest_unanswered.saturating_sub(1));
        session.outcomes.retain(|sequence, _| *sequence > session.forgotten);
        if tag.sequence <= session.forgotten {
            return Err(Rejection::SessionEnded);
        }
        if let Some(outcome) = session.outcomes.get(&tag.sequence) {
            return outcome.clone();
        }
        let outcome = self.run(&envelope.command);
        let empty = matches!(&outcome, Ok(Reply::Received { messages, .. }) if messages.is_empty());
        if let Some(session) = self.sessions.get_mut(&tag.client).filter(|_| !empty) {
            session.outcomes.insert(tag.sequence, outcome.clone());
        }
        outcome
    }

    fn run(&mut self, command: &Command) -> Outcome {
        match command {
            Command::CreateQueue { name, metadata, settings } => {
                self.create(name, metadata, settings)
            }
            Command::DeleteQueue { name } => {
                let feeds = |queue: &&Queue| goes_to(&queue.settings) == Some(name);
                if let Some(source) = self.queues.values().filter(feeds).min_by_key(|q| q.id) {
                    let (queue, of) = (name.clone(), source.name.clone());
                    return Err(Rejection::QueueInUse { queue, of });
                }
                let gone = self.queues.remove(name);
                let mut queue = gone.ok_or(Rejection::QueueNotFound(name.clone()))?;
                let window = queue.settings.undelete_window;
                if window > Span::ZERO {
                    queue.gone = Some((self.now, self.now.after(window)));
                    self.kept.push(queue);
                }
                Ok(Reply::QueueDeleted)
            }
            Command::SetMetadata { name, metadata } => {
                self.queue(name)?.metadata = metadata.clone();
                Ok(Reply::MetadataSet)
            }
            Command::SetSettings { name, settings } => {
                self.queue(name)?;
                self.check_chain(name, settings)?;
                let queue = self.queue(name)?;
                (queue.settings, queue.refused) = (Settings::clone(settings), None);
                Ok(Reply::SettingsSet)
            }
            Command::SetPaused { name, paused } => {
                self.queue(name)?.paused = *paused;
                Ok(Reply::PausedSet)
            }
            Command::Send { queue, messages } => self.send(queue, messages),
            Command::Receive(asked) => self.receive(asked),
            Command::Update(asked) => self.update(asked),
            Command::Delete { queue, items } => self.delete(queue, items),
            Command::Release { queue, items, after } => {
                let one = |item| self.release(queue, item, *after);
                Ok(Reply::Released(items.iter().map(one).collect::<Result<_, _>>()?))
            }
            Command::Transact(asked) => self.transact(asked),
            Command::Clear { queue } => {
                let queue = self.queue(queue)?;
                queue.notes.clear();
                let removed = std::mem::take(&mut queue.messages).len() as u64;
                Ok(Reply::Cleared { removed })
            }
            Command::Pulse => {
                let now = self.now;
                // The queue where something was due first, and all that is due in it.
                while let Some(name) = self.first_due() {
                    let Some(name) = name else {
                        self.end_first_window();
                        continue;
                    };
                    let mut due = self.queues[&name].messages.clone();
                    due.retain(|message| message.is_due(now));
                    due.sort_by_key(|m| (m.due_at(), m.number));
                    for message in due {
                        self.retire(&name, message.number);
                    }
                    let queue = self.queues.get_mut(&name).expect("the queue");
                    queue.keys.retain(|_, first| first.2 > now);
                    self.step_redrive(&name);
                }
                self.sessions.retain(|_, session| now.0 < session.last_used.0 + 600_000_000);
                Ok(Reply::Pulsed { more: false })
            }
            Command::RaiseRules { .. } => Ok(Reply::RulesRaised),
            Command::Region(_) | Command::ReplayTail(_) => {
                unreachable!("the runs of one cluster have none")
            }
            Command::UndeleteQueue { name, id, new_name } => {
                self.undelete(name, *id, new_name.as_ref().unwrap_or(name))
            }
            Command::StartRedrive(asked) => self.start_redrive(asked),
            Command::CancelRedrive { queue, id } => self.cancel_redrive(queue, *id),
            Command::SetAccountQuota(quota) => {
                self.quota = *quota;
                Ok(Reply::AccountQuotaSet)
            }
        }
    }

    fn create(&mut self, name: &str, metadata: &StringMap, settings: &Settings) -> Outcome {
        if let Some(queue) = self.queues.get(name) {
            let equal = queue.metadata == *metadata && queue.settings == *settings;
            let created = Ok(Reply::QueueCreated { created: false });
            return if equal { created } else { Err(Rejection::QueueExists(name.to_owned())) };
        }
        self.check_queues()?;
        self.check_chain(name, settings)?;
        let (metadata, settings) = (metadata.clone(), settings.clone());
        let id = QueueId(self.next_queue);
        self.next_queue += 1;
        let queue = Queue {
            id,
            name: name.to_owned(),
            metadata,
            settings,
            paused: false,
            refused: None,
            messages: Vec::new(),
            notes: BTreeMap::new(),
            gone: None,
            jobs: Vec::new(),
            keys: BTreeMap::new(),
        };
        self.queues.insert(name.to_owned(), queue);
        Ok(Reply::QueueCreated { created: true })
    }

    fn send(&mut self, name: &str, new: &[NewMessage]) -> Outcome {
        self.check_account(&[(name.to_owned(), new.to_vec())])?;
        let settings = self.queue(name)?.settings.clone();
        new.iter().try_for_each(|new| check::content(&new.content, &settings))?;
        self.check_quota(name, new)?;
        let mut sent = Vec::new();
        for new in new {
            let now = self.now;
            let queue = self.queue(name)?;
            let first = new
                .key
                .as_deref()
                .and_then(|key| queue.keys.get(key))
                .filter(|first| first.2 > now);
            if let Some((id, sent_at, _)) = first.copied() {
                let message = queue.messages.iter().find(|m| m.number == id.number);
                sent.push(Sent {
                    id,
                    receipt: Receipt { epoch: id.epoch, counter: id.number.0 },
                    inserted_at: sent_at,
                    expires_at: message.and_then(|m| m.expires_at),
                    visible_at: message.map_or(sent_at, |m| m.visible_at),
                    duplicate: true,
                });
                continue;
            }
            let number = self.draw();
            let ttl = match new.ttl {
                TimeToLive::Default => settings.default_ttl,
                TimeToLive::Never => None,
                TimeToLive::For(span) => Some(span),
            };
            let message = Message {
                number: Number(number),
                epoch: self.epoch,
                priority: new.priority,
                inserted_at: self.now,
                expires_at: ttl.map(|ttl| self.now.after(ttl)),
                visible_at: self.now.after(new.delay),
                dequeue_count: 0,
                receipt: Receipt { epoch: self.epoch, counter: number },
                content: ContentId(number),
                size: new.content.size() as u32,
                last: false,
                released: false,
            };
            let queue = self.queue(name)?;
            queue.messages.push(message);
            if let Some(group) = &new.group {
                let note = Note { group: Some((&**group).into()), ..Note::default() };
                queue.notes.insert(message.number, Arc::new(note));
            }
            let until = now.after(settings.deduplication_window);
            queue.keys.extend(new.key.as_deref().map(|key| (*key, (message.id(), now, until))));
            sent.push(Sent {
                id: message.id(),
                receipt: message.receipt,
                inserted_at: message.inserted_at,
                expires_at: message.expires_at,
                visible_at: message.visible_at,
                duplicate: false,
            });
        }
        Ok(Reply::Sent(sent))
    }

    fn receive(&mut self, asked: &Receive) -> Outcome {
        let (now, epoch) = (self.now, self.epoch);
        let queue = self.queue(&asked.queue)?;
        if queue.paused {
            return Ok(Reply::Received { messages: Vec::new(), more: false });
        }
        let span = asked.visibility.unwrap_or(queue.settings.default_visibility);
        let most = queue.settings.dead_letters.as_ref().map(|target| target.max_deliveries);
        let (mut picked, mut bytes) = (Vec::new(), 0);
        while (picked.len() as u32) < asked.max_messages {
            let queue = self.queue(&asked.queue)?;
            let stands = |m: &Message| {
                m.visible_at <= now && !picked.contains(&m.number) && !queue.is_blocked(m)
            };
            let Some(message) = queue.sorted(stands).first().copied() else { break };
            let spent = most.is_some_and(|most| message.dequeue_count >= most);
            if (message.is_due(now) || spent) && !self.retire(&asked.queue, message.number) {
                continue;
            }
            bytes += message.size;
            if bytes > asked.max_bytes && !picked.is_empty() {
                break;
            }
            picked.push(message.number);
        }
        let visible = self.queue(&asked.queue)?.counts(now).visible as usize;
        let more = visible > picked.len();
        let mut messages = Vec::new();
        for number in picked {
            let counter = self.draw();
            let queue = self.queue(&asked.queue)?;
            let message = queue.messages.iter_mut().find(|m| m.number == number).expect("picked");
            message.dequeue_count += 1;
            message.visible_at = now.after(span);
            message.receipt = Receipt { epoch, counter };
            message.released = false;
            message.last = most.is_some_and(|most| message.dequeue_count >= most);
            if most.is_some() {
                let mut note = queue.notes.get(&number).map(|n| Note::clone(n)).unwrap_or_default();
                note.received = Some((note.received.map_or(now, |times| times.0), now));
                queue.notes.insert(number, Arc::new(note));
            }
            messages.push(Granted {
                id: message.id(),
                receipt: message.receipt,
                content: message.content,
                inserted_at: message.inserted_at,
                expires_at: message.expires_at,
                visible_at: message.visible_at,
                dequeue_count: message.dequeue_count,
                priority: message.priority,
                note: queue.notes.get(&number).cloned(),
            });
        }
        Ok(Reply::Received { messages, more })
    }

    /// The queue in which something was due first; `Some(None)` = the window of a deleted one.
    fn first_due(&self) -> Option<Option<String>> {
        let first = |queue: &Queue| {
            let messages = queue.messages.iter().filter_map(Message::due_at);
            let keys = queue.keys.values().map(|first| first.2);
            let job = queue.running().map(|job| job.next_step);
            messages.chain(keys).chain(job).min()
        };
        let live = self
            .queues
            .values()
            .filter_map(|queue| Some((first(queue)?, queue.id, Some(queue.name.clone()))));
        let kept = self.kept.iter().map(|queue| (queue.gone.expect("deleted").1, queue.id, None));
        let (at, _, name) = live.chain(kept).min_by_key(|(at, id, _)| (*at, *id))?;
        (at <= self.now).then_some(name)
    }

    /// Removes what expired, moves a dead letter; true when the message stays, to be given out.
    fn retire(&mut self, name: &str, number: Number) -> bool {
        let (now, epoch) = (self.now, self.epoch);
        let queue = self.queues.get_mut(name).expect("the queue");
        let at = queue.messages.iter().position(|m| m.number == number).expect("the message");
        if queue.messages[at].is_expired(now) {
            queue.messages.remove(at);
            queue.notes.remove(&number);
            return false;
        }
        queue.messages[at].last = false;
        let message = queue.messages[at];
        let target = queue.settings.dead_letters.clone();
        let Some(target) = target.filter(|to| message.dequeue_count >= to.max_deliveries) else {
            return true;
        };
        let to = &self.queues[&target.queue];
        let (quota, counts) = (to.settings.quota, to.counts(now));
        if message.size > to.settings.max_message_bytes
            || quota.messages.is_some_and(|most| counts.total >= most)
            || quota.bytes.is_some_and(|most| counts.bytes + u64::from(message.size) > most)
        {
            let queue = self.queues.get_mut(name).expect("the queue");
            queue.refused = queue.refused.filter(|_| queue.refused_since().is_some());
            queue.refused = queue.refused.or(Some((number, now)));
            return true;
        }
        let counter = self.draw();
        let queue = self.queues.get_mut(name).expect("the queue");
        queue.messages.remove(at);
        queue.refused = queue.refused.filter(|(refused, _)| *refused != number);
        let before = queue.notes.remove(&number);
        let mut note = before.map(|note| Note::clone(&note)).unwrap_or_default();
        note.dead = Some(Dead {
            reason: DeadReason::MaxDeliveries,
            source: name.to_owned(),
            at: now,
            arrived: Number(counter),
            deliveries: message.dequeue_count,
            received: note.received.take(),
        });
        let target = self.queues.get_mut(&target.queue).expect("a target is not deleted");
        target.notes.insert(number, Arc::new(note));
        target.messages.push(Message {
            expires_at: target.settings.dead_letter_ttl.map(|ttl| now.after(ttl)),
            visible_at: now,
            dequeue_count: 0,
            receipt: Receipt { epoch, counter },
            released: false,
            ..message
        });
        false
    }

    /// At most eight queues behind this one, each there, and none of them this one.
    pub(super) fn check_chain(&self, name: &str, settings: &Settings) -> Result<(), Rejection> {
        let mut next = goes_to(settings);
        while let Some(to) = next {
            if to == name {
                return Err(Rejection::InvalidArgument {
                    field: "settings.dead_letter_queue".to_owned(),
                    problem: format!("leads back to queue {name:?}"),
                    allowed: "a queue whose own dead letters do not come here".to_owned(),
                });
            }
            let queue = self.queues.get(to);
            next = goes_to(&queue.ok_or_else(|| Rejection::QueueNotFound(to.clone()))?.settings);
        }
        Ok(())
    }

    fn update(&mut self, asked: &Update) -> Outcome {
        let (now, epoch, next) = (self.now, self.epoch, self.next_number);
        let queue = self.queue(&asked.queue)?;
        let settings = queue.settings.clone();
        let id = asked.id.to_string();
        let Some(message) = queue.live(asked.id, now) else {
            return Err(Rejection::MessageNotFound { queue: asked.queue.clone(), id });
        };
        if message.receipt != asked.receipt {
            return Err(Rejection::ReceiptMismatch { id });
        }
        if let Some(content) = &asked.content {
            check::content(content, &settings)?;
        }
        message.receipt = Receipt { epoch, counter: next };
        if let Some(span) = asked.visibility {
            message.visible_at = now.after(span);
        }
        if let Some(content) = &asked.content {
            (message.content, message.size) = (ContentId(next), content.size() as u32);
        }
        let reply = Reply::Updated { receipt: message.receipt, visible_at: message.visible_at };
        self.draw();
        Ok(reply)
    }

    /// Counts what comes in addition, those of a batch with one key each by itself.
    fn check_quota(&self, name: &str, new: &[NewMessage]) -> Result<(), Rejection> {
        let (queue, now) = (&self.queues[name], self.now);
        let new = queue.sizes_of_new(new, now);
        let counts = queue.counts(now);
        let over = |most: Option<u64>, sum: u64| most.filter(|most| sum > *most);
        let quota = queue.settings.quota;
        let full = |what: &str, limit| {
            let what = format!("the number of {what} in queue {name:?}");
            Err(Rejection::Full { what, limit })
        };
        if new.is_empty() {
            return Ok(());
        }
        if let Some(limit) = over(quota.messages, counts.total + new.len() as u64) {
            return full("messages", limit);
        }
        match over(quota.bytes, counts.bytes + new.iter().sum::<u64>()) {
            Some(limit) => full("bytes", limit),
            None => Ok(()),
        }
    }

    fn transact(&mut self, asked: &Transact) -> Outcome {
        transact::check(asked)?;
        let now = self.now;
        for (name, id, receipt) in &asked.deletes {
            let queue = self.queue(name)?;
            let text = id.to_string();
            match queue.live(*id, now) {
                None => return Err(Rejection::MessageNotFound { queue: name.clone(), id: text }),
                Some(message) if message.receipt != *receipt => {
                    return Err(Rejection::ReceiptMismatch { id: text });
                }
                Some(_) => {}
            }
        }
        self.check_account(&asked.sends)?;
        for (name, messages) in &asked.sends {
            let settings = self.queue(name)?.settings.clone();
            messages.iter().try_for_each(|new| check::content(&new.content, &settings))?;
            self.check_quota(name, messages)?;
        }
        for (name, id, receipt) in &asked.deletes {
            self.delete(name, &[(*id, *receipt)])?;
        }
        let mut all = Vec::new();
        for (name, messages) in &asked.sends {
            let Ok(Reply::Sent(sent)) = self.send(name, messages) else { panic!("checked") };
            all.extend(sent);
        }
        Ok(Reply::Transacted(all))
    }

    fn release(
        &mut self,
        name: &str,
        (id, receipt): &(MessageId, Receipt),
        after: ReleaseAfter,
    ) -> Result<ReleaseOutcome, Rejection> {
        let (now, epoch, next) = (self.now, self.epoch, self.next_number);
        let queue = self.queue(name)?;
        let back_off = queue.settings.back_off;
        let Some(message) = queue.live(*id, now) else {
            return Ok(ReleaseOutcome::MessageNotFound);
        };
        if message.receipt != *receipt {
            return Ok(ReleaseOutcome::ReceiptMismatch);
        }
        let mut wait = match after {
            ReleaseAfter::Now => Span::ZERO,
            ReleaseAfter::Delay(delay) => delay,
            ReleaseAfter::BackOff => back_off.first,
        };
        if after == ReleaseAfter::BackOff {
            for _ in 1..message.dequeue_count {
                wait = Span((wait.0 * u64::from(back_off.factor)).min(back_off.most.0));
            }
        }
        if !message.last {
            message.visible_at = now.after(wait);
        } else {
            message.visible_at = now;
        }
        (message.released, message.receipt) = (true, Receipt { epoch, counter: next });
        let visible_at = message.visible_at;
        self.draw();
        Ok(ReleaseOutcome::Released { visible_at })
    }

    fn delete(&mut self, name: &str, items: &[(MessageId, Receipt)]) -> Outcome {
        let now = self.now;
        let queue = self.queue(name)?;
        let one = |(id, receipt): &(MessageId, Receipt)| match queue.live(*id, now) {
            None => DeleteOutcome::MessageNotFound,
            Some(message) if message.receipt != *receipt => DeleteOutcome::ReceiptMismatch,
            Some(_) => {
                queue.messages.retain(|m| m.number != id.number);
                queue.notes.remove(&id.number);
                DeleteOutcome::Deleted
            }
        };
        Ok(Reply::Deleted(items.iter().map(one).collect()))
    }

    pub(super) fn queue(&mut self, name: &str) -> Result<&mut Queue, Rejection> {
        self.queues.get_mut(name).ok_or_else(|| Rejection::QueueNotFound(name.to_owned()))
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

fn goes_to(settings: &Settings) -> Option<&String> {
    settings.dead_letters.as_ref().map(|target| &target.queue)
}

impl Queue {
    /// Of the messages that are no duplicates.
    pub(super) fn sizes_of_new(&self, new: &[NewMessage], now: LogTime) -> Vec<u64> {
        let first = |new: &NewMessage| self.keys.get(new.key.as_deref()?);
        let seen = |new: &&NewMessage| first(new).is_some_and(|first| first.2 > now);
        new.iter().filter(|new| !seen(new)).map(|new| new.content.size() as u64).collect()
    }

    fn live(&mut self, id: MessageId, now: LogTime) -> Option<&mut Message> {
        self.messages.iter_mut().find(|m| m.id() == id && !m.is_due(now))
    }

    fn is_blocked(&self, message: &Message) -> bool {
        let place = |m: &Message| {
            let note = self.notes.get(&m.number)?;
            Some((note.group.clone()?, note.place(m.number)))
        };
        let Some((group, own)) = place(message) else { return false };
        let before = |m| place(m).is_some_and(|(other, at)| other == group && at < own);
        self.messages.iter().any(before)
    }

    pub(super) fn standing(&self, message: &Message, now: LogTime) -> Standing {
        match message.standing(now) {
            Standing::Due => Standing::Due,
            _ if self.is_blocked(message) => Standing::Blocked,
            standing => standing,
        }
    }

    pub fn refused_since(&self) -> Option<LogTime> {
        let (number, since) = self.refused?;
        self.messages.iter().any(|m| m.number == number).then_some(since)
    }

    pub fn sorted(&self, keep: impl Fn(&Message) -> bool) -> Vec<Message> {
        let mut found: Vec<Message> = self.messages.iter().copied().filter(keep).collect();
        found.sort_by_key(|m| (m.priority, m.visible_at, m.number));
        found
    }

    pub fn counts(&self, now: LogTime) -> Counts {
        let standing =
            |s| self.messages.iter().filter(|m| self.standing(m, now) == s).count() as u64;
        Counts {
            visible: standing(Standing::Visible),
            leased: standing(Standing::Leased),
            delayed: standing(Standing::Delayed),
            blocked: standing(Standing::Blocked),
            due: standing(Standing::Due),
            total: self.messages.len() as u64,
            bytes: self.messages.iter().map(|m| u64::from(m.size)).sum(),
        }
    }

    pub fn peek(&self, standing: Standing, now: LogTime) -> Vec<Shown> {
        let mut found = self.sorted(|m| self.standing(m, now) == standing);
        if standing == Standing::Blocked {
            found.sort_by_key(|m| m.number);
        }
        if standing == Standing::Due {
            found.sort_by_key(|m| (m.due_at(), m.number));
        }
        let shown = |m: &Message| m.shown(self.id, standing, self.notes.get(&m.number).cloned());
        found.iter().map(shown).collect()
    }

    /// When the first waiting message stops waiting.
    pub fn next_change(&self, now: LogTime) -> Option<LogTime> {
        let waits =
            |m: &&Message| matches!(self.standing(m, now), Standing::Leased | Standing::Delayed);
        let end = |m: &Message| m.expires_at.map_or(m.visible_at, |at| at.min(m.visible_at));
        self.messages.iter().filter(waits).map(end).min()
    }
}
