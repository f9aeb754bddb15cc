//! Row hashes for the digest: a 128-bit sum, so that it is kept up by adding and subtracting.
//!
//! Laws: a message hashes the same in a chunk and on its own, so replicas that cut their chunks
//! differently agree. Authority (the epoch in force) is left out: both regions have one digest.
//! Rows below a cleared mark and deleted queues have no part in it.

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::command::{AccountQuota, BackOff, DeadLetters, StringMap};
use super::dedup::Kept;
use super::error::Rejection;
use super::ids::{LogTime, Number, QueueId, Span};
use super::limits::{DEFAULT_DEDUPLICATION_WINDOW, DEFAULT_PRIORITY};
use super::message::Message;
use super::note::{DeadReason, Note};
use super::outcome::{DeleteOutcome, Outcome, ReleaseOutcome, Reply, Sent};
use super::redrive::Progress;
use super::rows::{CountersRow, QueueRow, RedriveRow};

const MESSAGE: u64 = 1;
const QUEUE: u64 = 2;
const SESSION: u64 = 3;
const OUTCOME: u64 = 4;
const COUNTERS: u64 = 5;
const NOTE: u64 = 6;
const KEY: u64 = 7;
const REDRIVE: u64 = 8;
const ACCOUNT: u64 = 9;

#[must_use]
pub fn message(queue: QueueId, m: &Message) -> u128 {
    let words = [
        queue.0,
        m.number.0,
        u64::from(m.epoch.0) << 32 | u64::from(m.receipt.epoch.0),
        u64::from(m.priority) | u64::from(m.last) << 8 | u64::from(m.released) << 9,
        m.inserted_at.0,
        m.expires_at.map_or(u64::MAX, |at| at.0),
        m.visible_at.0,
        u64::from(m.dequeue_count) << 32 | u64::from(m.size),
        m.receipt.counter,
        m.content.0,
    ];
    hash_words(&words, MESSAGE)
}

/// A message's note; added to the message's own hash.
#[must_use]
pub fn note(queue: QueueId, number: Number, note: &Note) -> u128 {
    let mut sink = Sink(Vec::with_capacity(128));
    sink.words(&[queue.0, number.0]);
    sink.note(note);
    xxh3_128_with_seed(&sink.0, NOTE)
}

#[must_use]
pub fn key(queue: QueueId, key: u128, kept: &Kept) -> u128 {
    let words = [
        queue.0,
        key as u64,
        (key >> 64) as u64,
        u64::from(kept.id.epoch.0),
        kept.id.number.0,
        kept.sent_at.0,
        kept.until.0,
    ];
    hash_words(&words, KEY)
}

/// The parts of the counters row that both regions share.
#[must_use]
pub fn counters(row: &CountersRow) -> u128 {
    let words = [row.log_time.0, u64::from(row.rules), row.next_number, row.next_queue];
    hash_words(&words, COUNTERS)
}

#[must_use]
pub fn session(client: u128, last_used: LogTime, forgotten_through: u64) -> u128 {
    let words = [client as u64, (client >> 64) as u64, last_used.0, forgotten_through];
    hash_words(&words, SESSION)
}

#[must_use]
pub fn queue(row: &QueueRow) -> u128 {
    let mut sink = Sink(Vec::with_capacity(256));
    sink.word(row.id.0);
    sink.text(&row.account);
    sink.text(&row.name);
    sink.map(&row.metadata);
    sink.maybe(row.settings.default_ttl.map(|span| span.0));
    sink.word(row.settings.default_visibility.0);
    sink.word(u64::from(row.settings.max_message_bytes));
    sink.word(row.created_at.0);
    sink.word(row.cleared_below.0);
    // What came later is hashed with a number of its own, and only where it is not the default.
    if row.paused {
        sink.word(1);
    }
    if let Some(DeadLetters { queue, max_deliveries }) = &row.settings.dead_letters {
        sink.words(&[2, u64::from(*max_deliveries)]);
        sink.text(queue);
    }
    if let Some(ttl) = row.settings.dead_letter_ttl {
        sink.words(&[3, ttl.0]);
    }
    let BackOff { first, most, factor } = row.settings.back_off;
    if row.settings.back_off != BackOff::default() {
        sink.words(&[5, first.0, most.0, u64::from(factor)]);
    }
    if row.settings.deduplication_window != DEFAULT_DEDUPLICATION_WINDOW {
        sink.words(&[6, row.settings.deduplication_window.0]);
    }
    if let Some(messages) = row.settings.quota.messages {
        sink.words(&[7, messages]);
    }
    if let Some(bytes) = row.settings.quota.bytes {
        sink.words(&[8, bytes]);
    }
    if let Some((message, since)) = row.dead_letter_refused {
        sink.words(&[4, message.0, since.0]);
    }
    if row.settings.undelete_window != Span::ZERO {
        sink.words(&[9, row.settings.undelete_window.0]);
    }
    if let Some(kept) = row.kept {
        sink.words(&[10, kept.at.0, kept.until.0]);
    }
    xxh3_128_with_seed(&sink.0, QUEUE)
}

/// A redrive with all it has done.
#[must_use]
pub fn redrive(row: &RedriveRow) -> u128 {
    let mut sink = Sink(Vec::with_capacity(256));
    let progress = match row.progress {
        Progress::Running => 1,
        Progress::Done => 2,
        Progress::Cancelled => 3,
    };
    sink.words(&[row.queue.0, row.number.0, u64::from(row.epoch.0), row.started_at.0, progress]);
    sink.maybe(row.ended_at.map(|at| at.0));
    sink.words(&[row.looked_through.0, row.next_step.0]);
    sink.words(&[row.tally.moved, row.tally.held, row.tally.refused]);
    sink.text(&row.asked.queue);
    sink.maybe_text(row.asked.target.as_deref());
    sink.maybe(row.asked.rate.map(u64::from));
    let filter = &row.asked.filter;
    sink.maybe_text(filter.source.as_deref());
    sink.maybe(filter.reason.map(reason));
    sink.maybe(filter.dead_since.map(|at| at.0));
    sink.maybe(filter.dead_before.map(|at| at.0));
    sink.maybe_text(filter.group.as_deref());
    sink.word(filter.ids.len() as u64);
    for id in &filter.ids {
        sink.words(&[u64::from(id.epoch.0), id.number.0]);
    }
    xxh3_128_with_seed(&sink.0, REDRIVE)
}

#[must_use]
pub fn account(name: &str, quota: &AccountQuota) -> u128 {
    let mut sink = Sink(Vec::with_capacity(96));
    sink.text(name);
    sink.maybe(quota.messages);
    sink.maybe(quota.bytes);
    sink.maybe(quota.queues);
    xxh3_128_with_seed(&sink.0, ACCOUNT)
}

fn reason(reason: DeadReason) -> u64 {
    match reason {
        DeadReason::MaxDeliveries => 1,
    }
}

/// One kept outcome of a session. `scratch` saves an allocation a command.
#[must_use]
pub fn outcome(client: u128, sequence: u64, outcome: &Outcome, scratch: &mut Vec<u8>) -> u128 {
    let mut sink = Sink(std::mem::take(scratch));
    sink.0.clear();
    sink.word(client as u64);
    sink.word((client >> 64) as u64);
    sink.word(sequence);
    match outcome {
        Ok(reply) => sink.reply(reply),
        Err(rejection) => sink.rejection(rejection),
    }
    let hash = xxh3_128_with_seed(&sink.0, OUTCOME);
    *scratch = sink.0;
    hash
}

fn hash_words<const N: usize>(words: &[u64; N], seed: u64) -> u128 {
    let mut bytes = [0_u8; 80];
    for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    xxh3_128_with_seed(bytes.get(..N * 8).unwrap_or(&bytes), seed)
}

/// Bytes to be hashed: every part has its length or a fixed width, so no two values share them.
struct Sink(Vec<u8>);

impl Sink {
    fn word(&mut self, word: u64) {
        self.0.extend_from_slice(&word.to_le_bytes());
    }

    fn maybe(&mut self, word: Option<u64>) {
        self.word(u64::from(word.is_some()));
        self.word(word.unwrap_or(0));
    }

    fn text(&mut self, text: &str) {
        self.word(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn maybe_text(&mut self, text: Option<&str>) {
        self.word(u64::from(text.is_some()));
        self.text(text.unwrap_or_default());
    }

    fn map(&mut self, map: &StringMap) {
        self.word(map.len() as u64);
        for (name, value) in map {
            self.text(name);
            self.text(value);
        }
    }

    /// Each part with a number of its own, and only where it is there.
    fn note(&mut self, note: &Note) {
        if let Some((first, last)) = note.received {
            self.words(&[1, first.0, last.0]);
        }
        if let Some(dead) = &note.dead {
            self.words(&[
                2,
                reason(dead.reason),
                dead.at.0,
                dead.arrived.0,
                u64::from(dead.deliveries),
            ]);
            self.text(&dead.source);
            self.maybe(dead.received.map(|(first, _)| first.0));
            self.maybe(dead.received.map(|(_, last)| last.0));
        }
        if let Some(group) = &note.group {
            self.word(3);
            self.text(group);
        }
        if let Some(before) = &note.redriven {
            self.words(&[4, u64::from(before.id.epoch.0), before.id.number.0]);
            self.text(&before.queue);
            if let Some(first) = before.first {
                self.words(&[5, u64::from(first.epoch.0), first.number.0]);
            }
        }
    }

    fn sent(&mut self, sent: &[Sent]) {
        self.word(sent.len() as u64);
        for s in sent {
            let duplicate = u64::from(s.duplicate) << 32;
            self.words(&[u64::from(s.id.epoch.0) | duplicate, s.id.number.0]);
            self.words(&[u64::from(s.receipt.epoch.0), s.receipt.counter]);
            self.words(&[s.inserted_at.0, s.visible_at.0]);
            self.maybe(s.expires_at.map(|at| at.0));
        }
    }

    fn reply(&mut self, reply: &Reply) {
        match reply {
            Reply::QueueCreated { created } => self.words(&[1, u64::from(*created)]),
            Reply::QueueDeleted => self.word(2),
            Reply::MetadataSet => self.word(3),
            Reply::SettingsSet => self.word(4),
            Reply::Sent(sent) => {
                self.word(5);
                self.sent(sent);
            }
            Reply::Received { messages, more } => {
                self.words(&[6, messages.len() as u64, u64::from(*more)]);
                for g in messages {
                    self.words(&[u64::from(g.id.epoch.0), g.id.number.0, g.content.0]);
                    self.words(&[u64::from(g.receipt.epoch.0), g.receipt.counter]);
                    // As a difference from the usual one, which hashes as if there were none.
                    let priority = u64::from(g.priority ^ DEFAULT_PRIORITY) << 32;
                    let count = u64::from(g.dequeue_count) | priority;
                    self.words(&[g.inserted_at.0, g.visible_at.0, count]);
                    self.maybe(g.expires_at.map(|at| at.0));
                    if let Some(note) = &g.note {
                        self.note(note);
                    }
                }
            }
            Reply::Updated { receipt, visible_at } => {
                self.words(&[7, u64::from(receipt.epoch.0), receipt.counter, visible_at.0]);
            }
            Reply::Deleted(outcomes) => {
                self.words(&[8, outcomes.len() as u64]);
                self.0.extend(outcomes.iter().map(|outcome| match outcome {
                    DeleteOutcome::Deleted => 1_u8,
                    DeleteOutcome::MessageNotFound => 2,
                    DeleteOutcome::ReceiptMismatch => 3,
                }));
            }
            Reply::Cleared { removed } => self.words(&[9, *removed]),
            Reply::Pulsed { more } => self.words(&[10, u64::from(*more)]),
            Reply::RulesRaised => self.word(11),
            // No session keeps it.
            Reply::Region(_) => self.word(50),
            Reply::PausedSet => self.word(12),
            Reply::QueueUndeleted => self.word(15),
            Reply::RedriveStarted { id, started } => {
                self.words(&[16, u64::from(id.epoch.0), id.number.0, u64::from(*started)]);
            }
            Reply::RedriveCancelled { cancelled } => self.words(&[17, u64::from(*cancelled)]),
            Reply::AccountQuotaSet => self.word(18),
            Reply::Transacted(sent) => {
                self.word(14);
                self.sent(sent);
            }
            Reply::Released(outcomes) => {
                self.words(&[13, outcomes.len() as u64]);
                for outcome in outcomes {
                    match outcome {
                        ReleaseOutcome::Released { visible_at } => self.words(&[1, visible_at.0]),
                        ReleaseOutcome::MessageNotFound => self.words(&[2, 0]),
                        ReleaseOutcome::ReceiptMismatch => self.words(&[3, 0]),
                    }
                }
            }
        }
    }

    fn rejection(&mut self, rejection: &Rejection) {
        match rejection {
            Rejection::InvalidArgument { field, problem, allowed } => {
                self.word(101);
                self.text(field);
                self.text(problem);
                self.text(allowed);
            }
            Rejection::QueueNotFound(name) => {
                self.word(102);
                self.text(name);
            }
            Rejection::QueueExists(name) => {
                self.word(103);
                self.text(name);
            }
            Rejection::MessageNotFound { queue, id } => {
                self.word(104);
                self.text(queue);
                self.text(id);
            }
            Rejection::ReceiptMismatch { id } => {
                self.word(105);
                self.text(id);
            }
            Rejection::LimitReached { what, limit } => {
                self.words(&[106, *limit]);
                self.text(what);
            }
            Rejection::SessionEnded => self.word(107),
            Rejection::WrongEpoch { seen, current } => {
                self.words(&[108, u64::from(*seen), u64::from(*current)]);
            }
            Rejection::Full { what, limit } => {
                self.words(&[111, *limit]);
                self.text(what);
            }
            Rejection::QueueInUse { queue, of } => {
                self.word(110);
                self.text(queue);
                self.text(of);
            }
            // No session keeps it.
            Rejection::Region(_) => self.word(150),
            Rejection::RedriveRunning { queue, id } => {
                self.word(112);
                self.text(queue);
                self.text(id);
            }
            Rejection::RedriveNotFound { queue, id } => {
                self.word(113);
                self.text(queue);
                self.text(id);
            }
            Rejection::UnknownRules { asked, known } => {
                self.words(&[109, u64::from(*asked), u64::from(*known)]);
            }
        }
    }

    fn words(&mut self, words: &[u64]) {
        for word in words {
            self.word(*word);
        }
    }
}
