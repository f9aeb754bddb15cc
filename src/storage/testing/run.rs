//! A random run of the queue: entries, and beside the store a state and contents that know
//! nothing of disks.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::queue::State;
use crate::queue::command::{
    Command, Content, Entry, Envelope, NewMessage, Receive, SessionTag, Settings, StringMap,
    TimeToLive, Update,
};
use crate::queue::ids::{ContentId, Epoch, LogTime, MessageId, Position, Receipt, Span};
use crate::queue::outcome::{Changes, ContentEvent, Reply};

const QUEUES: [&str; 3] = ["alpha", "beta", "gamma"];

/// What a store must equal.
#[derive(Clone)]
pub struct Run {
    rng: SmallRng,
    pub state: State,
    pub contents: BTreeMap<u64, Content>,
    pub index: u64,
    known: Vec<(String, MessageId, Receipt)>,
    sequence: u64,
}

impl Run {
    pub fn new(seed: u64) -> Run {
        Run {
            rng: SmallRng::seed_from_u64(seed),
            state: State::new(),
            contents: BTreeMap::new(),
            index: 0,
            known: Vec::new(),
            sequence: 0,
        }
    }

    /// The next entry; the state beside has taken it already.
    pub fn entry(&mut self) -> Entry {
        let commands = (0..self.rng.random_range(1..4)).map(|_| self.command()).collect();
        self.entry_of(commands)
    }

    /// An entry of exactly these commands.
    pub fn entry_of(&mut self, commands: Vec<Command>) -> Entry {
        self.index += 1;
        let commands = commands.into_iter().map(|command| {
            self.sequence += 1;
            let tag = SessionTag {
                client: u128::from(self.sequence % 3),
                sequence: self.sequence,
                lowest_unanswered: self.sequence.saturating_sub(9),
            };
            let session = self.sequence.is_multiple_of(2).then_some(tag);
            Envelope { session, account: "default".into(), command }
        });
        let entry = Entry {
            position: Position { term: 1, node: 1, index: self.index },
            stamp: LogTime(1_000_000_000 + self.index * 1_000_000),
            epoch: Epoch(1),
            commands: commands.collect(),
        };
        let applied = self.state.apply(&entry);
        self.note(applied.changes);
        for (outcome, envelope) in applied.outcomes.into_iter().zip(&entry.commands) {
            self.learn(outcome.ok(), &envelope.command);
        }
        entry
    }

    /// The position of the last entry.
    pub fn state_position(&self) -> Position {
        Position { term: 1, node: 1, index: self.index }
    }

    fn learn(&mut self, reply: Option<Reply>, command: &Command) {
        match (reply, command) {
            (Some(Reply::Sent(sent)), Command::Send { queue, .. }) => {
                self.known.extend(sent.iter().map(|s| (queue.clone(), s.id, s.receipt)));
            }
            (Some(Reply::Received { messages, .. }), Command::Receive(receive)) => {
                let queue = &receive.queue;
                self.known.extend(messages.iter().map(|m| (queue.clone(), m.id, m.receipt)));
            }
            _ => {}
        }
        let forget = self.known.len().saturating_sub(60);
        self.known.drain(..forget);
    }

    /// What `reclaim` freed beside, as the store's own did.
    pub fn reclaim(&mut self, max: usize) {
        let changes = self.state.reclaim(max);
        self.note(changes);
    }

    fn note(&mut self, changes: Changes) {
        for event in changes.contents {
            match event {
                ContentEvent::Put(id, content) => self.contents.insert(id.0, content),
                ContentEvent::Drop(ContentId(id)) => self.contents.remove(&id),
                // No run of one cluster has a second state.
                ContentEvent::PutBeside(..)
                | ContentEvent::DropBeside(_)
                | ContentEvent::TakeBeside(_)
                | ContentEvent::Switch => None,
            };
        }
    }

    fn queue(&mut self) -> String {
        QUEUES[self.rng.random_range(0..QUEUES.len())].to_owned()
    }

    pub fn content(&mut self) -> Content {
        let len = self.rng.random_range(0..900);
        let mut body = vec![0; len];
        self.rng.fill(&mut body[..]);
        let headers: StringMap =
            if self.rng.random() { [("k".into(), "v".into())].into() } else { StringMap::new() };
        Content { body: Bytes::from(body), headers }
    }

    pub fn send(&mut self, queue: &str, count: usize) -> Command {
        let messages = (0..count).map(|_| {
            let delay = Span::from_secs(if self.rng.random_ratio(1, 4) { 5 } else { 0 });
            let ttl = match self.rng.random_range(0..3) {
                0 => TimeToLive::Default,
                1 => TimeToLive::Never,
                _ => TimeToLive::For(Span::from_secs(30)),
            };
            let priority = if self.rng.random() { 4 } else { self.rng.random_range(0..10) };
            let key = self.rng.random_ratio(1, 5).then(|| Box::new(self.rng.random_range(0..9)));
            let group = self
                .rng
                .random_ratio(1, 4)
                .then(|| format!("g{}", self.rng.random_range(0..3)).into());
            let content = self.content();
            NewMessage { content, delay, ttl, priority, key, group }
        });
        Command::Send { queue: queue.to_owned(), messages: messages.collect() }
    }

    pub fn create(queue: &str) -> Command {
        let settings = Settings::default();
        Command::CreateQueue {
            name: queue.to_owned(),
            metadata: StringMap::new(),
            settings: Box::new(settings),
        }
    }

    fn command(&mut self) -> Command {
        let queue = self.queue();
        let known = match self.known.len() {
            0 => None,
            len => Some(self.known[self.rng.random_range(0..len)].clone()),
        };
        match (self.rng.random_range(0..100), known) {
            (0..12, _) => Run::create(&queue),
            (12..50, _) => {
                let count = self.rng.random_range(1..8);
                self.send(&queue, count)
            }
            (50..65, _) => Command::Receive(Receive {
                queue,
                max_messages: self.rng.random_range(1..6),
                max_bytes: 1 << 20,
                visibility: Some(Span::from_secs(self.rng.random_range(0..20))),
            }),
            (65..74, Some((queue, id, receipt))) => {
                let content = self.rng.random_bool(0.5).then(|| self.content());
                let visibility = Some(Span::from_secs(self.rng.random_range(0..9)));
                Command::Update(Update { queue, id, receipt, visibility, content })
            }
            (74..92, Some((queue, id, receipt))) => {
                Command::Delete { queue, items: vec![(id, receipt)] }
            }
            (92..94, _) => Command::Clear { queue },
            (94..95, _) => Command::DeleteQueue { name: queue },
            _ => Command::Pulse,
        }
    }
}
