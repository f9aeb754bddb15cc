//! A state with a table beside it, kept from the changes alone, as the real table writer does.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::queue::State;
use crate::queue::command::{
    Command, Content, Entry, Envelope, NewMessage, Receive, SessionTag, Settings, StringMap, Update,
};
use crate::queue::ids::{ContentId, Epoch, LogTime, MessageId, Position, Receipt, Span};
use crate::queue::outcome::{Applied, Changes, ContentEvent, Granted, Outcome, Reply, Sent};
use crate::queue::rows::{Row, RowKey};

pub const ACCOUNT: &str = "default";
pub const QUEUE: &str = "orders";

pub struct Stage {
    pub state: State,
    pub table: BTreeMap<RowKey, Row>,
    pub contents: BTreeMap<ContentId, Content>,
    /// Of a second state that is under way.
    pub beside: BTreeMap<ContentId, Content>,
    index: u64,
}

impl Stage {
    pub fn new() -> Stage {
        let (table, contents, beside) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Stage { state: State::new(), table, contents, beside, index: 0 }
    }

    /// A stage with one empty queue.
    pub fn with_queue() -> Stage {
        let mut stage = Stage::new();
        stage.run(create(QUEUE)).expect("created");
        stage
    }

    pub fn entry(&mut self, stamp: LogTime, commands: Vec<Envelope>) -> Entry {
        self.index += 1;
        let position = Position { term: 1, node: 1, index: self.index };
        Entry { position, stamp, epoch: self.state.epoch(), commands }
    }

    pub fn apply(&mut self, stamp: LogTime, commands: Vec<Envelope>) -> Applied {
        let entry = self.entry(stamp, commands);
        self.apply_entry(&entry)
    }

    pub fn apply_entry(&mut self, entry: &Entry) -> Applied {
        let applied = self.state.apply(entry);
        self.record(&applied.changes);
        applied
    }

    /// One command at once.
    pub fn run(&mut self, command: Command) -> Outcome {
        let now = self.state.log_time();
        self.run_at(now, command)
    }

    pub fn run_at(&mut self, stamp: LogTime, command: Command) -> Outcome {
        self.apply(stamp, vec![plain(command)]).outcomes.remove(0)
    }

    pub fn run_in(&mut self, tag: SessionTag, command: Command) -> Outcome {
        let now = self.state.log_time();
        let envelope = Envelope { session: Some(tag), ..plain(command) };
        self.apply(now, vec![envelope]).outcomes.remove(0)
    }

    pub fn send(&mut self, bodies: &[&str]) -> Vec<Sent> {
        match self.run(send(bodies.iter().map(|body| text(body)).collect())) {
            Ok(Reply::Sent(sent)) => sent,
            other => panic!("not sent: {other:?}"),
        }
    }

    pub fn receive(&mut self, max_messages: u32, visibility: Option<Span>) -> Vec<Granted> {
        match self.run(receive(max_messages, visibility)) {
            Ok(Reply::Received { messages, .. }) => messages,
            other => panic!("not received: {other:?}"),
        }
    }

    /// Does what the table writer does with changes.
    pub fn record(&mut self, changes: &Changes) {
        for event in &changes.contents {
            match event {
                ContentEvent::Put(id, content) => {
                    let before = self.contents.insert(*id, content.clone());
                    assert_eq!(before, None, "content {id:?} is put once");
                }
                ContentEvent::Drop(id) => {
                    assert!(self.contents.remove(id).is_some(), "{id:?} is dropped once");
                }
                ContentEvent::PutBeside(id, content) => {
                    let before = self.beside.insert(*id, content.clone());
                    assert_eq!(before, None, "content {id:?} is put beside once");
                }
                ContentEvent::DropBeside(id) => {
                    assert!(self.beside.remove(id).is_some(), "{id:?} is dropped once");
                }
                ContentEvent::TakeBeside(id) => {
                    let content = self.beside.remove(id).expect("it was put beside");
                    let before = self.contents.insert(*id, content);
                    assert_eq!(before, None, "content {id:?} takes no other's place");
                }
                ContentEvent::Switch => self.contents = std::mem::take(&mut self.beside),
            }
        }
        for key in &changes.rows {
            match self.state.row(key) {
                Some(row) => self.table.insert(*key, row),
                None => self.table.remove(key),
            };
        }
    }

    pub fn reload(&self) -> State {
        State::load(self.table.values().cloned()).expect("the table is a state")
    }

    /// The table rebuilds the state, and holds just its rows and what waits to be freed; the
    /// contents are those that the rows name.
    pub fn check(&self) {
        let again = self.reload();
        assert_eq!(again.digest(), self.state.digest(), "digest after a rebuild");
        let keys = self.state.row_keys();
        assert_eq!(again.row_keys(), keys, "rows after a rebuild");
        for key in &keys {
            let row = self.state.row(key);
            assert!(row.is_some(), "{key:?} has a row");
            assert_eq!(again.row(key), row, "row {key:?} after a rebuild");
            assert_eq!(self.table.get(key), row.as_ref(), "row {key:?} in the table");
        }
        let live: BTreeSet<RowKey> = keys.into_iter().collect();
        for (key, row) in self.table.iter().filter(|(key, _)| !live.contains(key)) {
            assert!(self.state.has_garbage(), "{key:?} is nobody's and will not be freed");
            assert_eq!(self.state.row(key).as_ref(), Some(row), "row {key:?} waits to be freed");
        }
        let named: BTreeSet<ContentId> = self.table.values().flat_map(contents_of).collect();
        assert_eq!(named, self.contents.keys().copied().collect(), "contents that rows name");
        let seeds = self.table.values().filter_map(|row| match row {
            Row::Seed(row) => Some(row.contents.to_vec()),
            _ => None,
        });
        let named: BTreeSet<ContentId> = seeds.flatten().collect();
        assert_eq!(named, self.beside.keys().copied().collect(), "contents that a seed names");
    }

    /// Frees everything that waits to be freed; nothing that counts may change.
    pub fn reclaim_all(&mut self) {
        let digest = self.state.digest();
        while self.state.has_garbage() {
            let changes = self.state.reclaim(7);
            self.record(&changes);
        }
        assert_eq!(self.state.digest(), digest, "freeing changes no digest");
    }
}

fn contents_of(row: &Row) -> Vec<ContentId> {
    match row {
        Row::Chunk(row) => row.messages.iter().map(|m| ContentId(m.number.0)).collect(),
        Row::Message(row) => vec![row.content],
        _ => Vec::new(),
    }
}

pub fn plain(command: Command) -> Envelope {
    Envelope { session: None, account: ACCOUNT.to_owned(), command }
}

pub fn create(name: &str) -> Command {
    let (metadata, settings) = (StringMap::new(), Settings::default());
    Command::CreateQueue { name: name.to_owned(), metadata, settings: Box::new(settings) }
}

pub fn text(body: &str) -> NewMessage {
    let body = Bytes::copy_from_slice(body.as_bytes());
    let content = Content { body, headers: StringMap::new() };
    NewMessage { content, ..NewMessage::default() }
}

pub fn send(messages: Vec<NewMessage>) -> Command {
    Command::Send { queue: QUEUE.to_owned(), messages }
}

pub fn receive(max_messages: u32, visibility: Option<Span>) -> Command {
    let queue = QUEUE.to_owned();
    Command::Receive(Receive { queue, max_messages, max_bytes: 4 << 20, visibility })
}

pub fn delete(items: Vec<(MessageId, Receipt)>) -> Command {
    Command::Delete { queue: QUEUE.to_owned(), items }
}

pub fn update(id: MessageId, receipt: Receipt, visibility: Option<Span>) -> Command {
    let queue = QUEUE.to_owned();
    Command::Update(Update { queue, id, receipt, visibility, content: None })
}

/// When the next message of a queue stops waiting.
pub fn next_visible(state: &State, queue: &str) -> Option<LogTime> {
    let queue = state.queue_id(ACCOUNT, queue).ok()?;
    state.next_visible_in(queue, state.log_time())
}

pub fn secs(secs: u64) -> LogTime {
    LogTime(secs * 1_000_000)
}

pub fn other_epoch() -> Epoch {
    Epoch(9)
}
