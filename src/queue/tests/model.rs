//! The naive model: a plain list of messages a queue, sorted and filtered afresh each time.

use std::collections::BTreeMap;

use crate::queue::command::{
    Command, Entry, Envelope, NewMessage, Receive, Settings, StringMap, TimeToLive, Update,
};
use crate::queue::error::Rejection;
use crate::queue::ids::{ContentId, Epoch, LogTime, MessageId, Number, QueueId, Receipt};
use crate::queue::message::Message;
use crate::queue::outcome::{
    Counts, DeleteOutcome, Granted, Outcome, Reply, Sent, Shown, Standing,
};

pub struct Model {
    pub now: LogTime,
    epoch: Epoch,
    next_number: u64,
    next_queue: u64,
    pub queues: BTreeMap<String, Queue>,
    sessions: BTreeMap<u128, Session>,
}

pub struct Queue {
    pub id: QueueId,
    metadata: StringMap,
    settings: Settings,
    pub paused: bool,
    pub messages: Vec<Message>,
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
        Model { now, epoch, next_number: 1, next_queue: 1, queues, sessions }
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
        if let Some(session) = self.sessions.get_mut(&tag.client) {
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
                let gone = self.queues.remove(name);
                gone.map(|_| Reply::QueueDeleted).ok_or(Rejection::QueueNotFound(name.clone()))
            }
            Command::SetMetadata { name, metadata } => {
                self.queue(name)?.metadata = metadata.clone();
                Ok(Reply::MetadataSet)
            }
            Command::SetSettings { name, settings } => {
                self.queue(name)?.settings = settings.clone();
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
            Command::Clear { queue } => {
                let removed = std::mem::take(&mut self.queue(queue)?.messages).len() as u64;
                Ok(Reply::Cleared { removed })
            }
            Command::Pulse => {
                let now = self.now;
                for queue in self.queues.values_mut() {
                    queue.messages.retain(|message| !message.is_due(now));
                }
                self.sessions.retain(|_, session| now.0 < session.last_used.0 + 600_000_000);
                Ok(Reply::Pulsed { more: false })
            }
            Command::RaiseRules { .. } => Ok(Reply::RulesRaised),
        }
    }

    fn create(&mut self, name: &str, metadata: &StringMap, settings: &Settings) -> Outcome {
        if let Some(queue) = self.queues.get(name) {
            let equal = queue.metadata == *metadata && queue.settings == *settings;
            let created = Ok(Reply::QueueCreated { created: false });
            return if equal { created } else { Err(Rejection::QueueExists(name.to_owned())) };
        }
        let (metadata, settings) = (metadata.clone(), settings.clone());
        let id = QueueId(self.next_queue);
        self.next_queue += 1;
        let queue = Queue { id, metadata, settings, paused: false, messages: Vec::new() };
        self.queues.insert(name.to_owned(), queue);
        Ok(Reply::QueueCreated { created: true })
    }

    fn send(&mut self, name: &str, new: &[NewMessage]) -> Outcome {
        let settings = self.queue(name)?.settings.clone();
        let mut sent = Vec::new();
        for new in new {
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
            };
            self.queue(name)?.messages.push(message);
            sent.push(Sent {
                id: message.id(),
                receipt: message.receipt,
                inserted_at: message.inserted_at,
                expires_at: message.expires_at,
                visible_at: message.visible_at,
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
        let (mut picked, mut met, mut bytes) = (Vec::new(), Vec::new(), 0);
        for message in queue.sorted(|m| m.visible_at <= now) {
            if picked.len() as u32 >= asked.max_messages {
                break;
            }
            if message.is_due(now) {
                met.push(message.number);
                continue;
            }
            bytes += message.size;
            if bytes > asked.max_bytes && !picked.is_empty() {
                break;
            }
            picked.push(message.number);
        }
        queue.messages.retain(|m| !met.contains(&m.number));
        let visible = queue.counts(now).visible as usize;
        let more = visible > picked.len();
        let mut messages = Vec::new();
        for number in picked {
            let counter = self.draw();
            let queue = self.queue(&asked.queue)?;
            let message = queue.messages.iter_mut().find(|m| m.number == number).expect("picked");
            message.dequeue_count += 1;
            message.visible_at = now.after(span);
            message.receipt = Receipt { epoch, counter };
            messages.push(Granted {
                id: message.id(),
                receipt: message.receipt,
                content: message.content,
                inserted_at: message.inserted_at,
                expires_at: message.expires_at,
                visible_at: message.visible_at,
                dequeue_count: message.dequeue_count,
                priority: message.priority,
            });
        }
        Ok(Reply::Received { messages, more })
    }

    fn update(&mut self, asked: &Update) -> Outcome {
        let (now, epoch, next) = (self.now, self.epoch, self.next_number);
        let queue = self.queue(&asked.queue)?;
        let id = asked.id.to_string();
        let Some(message) = queue.live(asked.id, now) else {
            return Err(Rejection::MessageNotFound { queue: asked.queue.clone(), id });
        };
        if message.receipt != asked.receipt {
            return Err(Rejection::ReceiptMismatch { id });
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

    fn delete(&mut self, name: &str, items: &[(MessageId, Receipt)]) -> Outcome {
        let now = self.now;
        let queue = self.queue(name)?;
        let one = |(id, receipt): &(MessageId, Receipt)| match queue.live(*id, now) {
            None => DeleteOutcome::MessageNotFound,
            Some(message) if message.receipt != *receipt => DeleteOutcome::ReceiptMismatch,
            Some(_) => {
                queue.messages.retain(|m| m.number != id.number);
                DeleteOutcome::Deleted
            }
        };
        Ok(Reply::Deleted(items.iter().map(one).collect()))
    }

    fn queue(&mut self, name: &str) -> Result<&mut Queue, Rejection> {
        self.queues.get_mut(name).ok_or_else(|| Rejection::QueueNotFound(name.to_owned()))
    }

    fn draw(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number - 1
    }
}

impl Queue {
    fn live(&mut self, id: MessageId, now: LogTime) -> Option<&mut Message> {
        self.messages.iter_mut().find(|m| m.id() == id && !m.is_due(now))
    }

    pub fn sorted(&self, keep: impl Fn(&Message) -> bool) -> Vec<Message> {
        let mut found: Vec<Message> = self.messages.iter().copied().filter(keep).collect();
        found.sort_by_key(|m| (m.priority, m.visible_at, m.number));
        found
    }

    pub fn counts(&self, now: LogTime) -> Counts {
        let standing = |s| self.messages.iter().filter(|m| m.standing(now) == s).count() as u64;
        Counts {
            visible: standing(Standing::Visible),
            leased: standing(Standing::Leased),
            delayed: standing(Standing::Delayed),
            due: standing(Standing::Due),
            total: self.messages.len() as u64,
            bytes: self.messages.iter().map(|m| u64::from(m.size)).sum(),
        }
    }

    pub fn peek(&self, standing: Standing, now: LogTime) -> Vec<Shown> {
        let mut found = self.sorted(|m| m.standing(now) == standing);
        if standing == Standing::Due {
            found.sort_by_key(|m| (m.expires_at, m.number));
        }
        found.iter().map(|m| m.shown(self.id, now)).collect()
    }

    /// When the first waiting message stops waiting.
    pub fn next_change(&self, now: LogTime) -> Option<LogTime> {
        let waits = |m: &&Message| matches!(m.standing(now), Standing::Leased | Standing::Delayed);
        let end = |m: &Message| m.expires_at.map_or(m.visible_at, |at| at.min(m.visible_at));
        self.messages.iter().filter(waits).map(end).min()
    }
}
