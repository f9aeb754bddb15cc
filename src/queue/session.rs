//! Sessions: a retried write is answered again, never run again.
//!
//! A client numbers its writes from 1 and says with each the lowest number it has no answer to.
//!
//! Laws:
//! * A kept outcome is answered again, word for word.
//! * A number at or below `forgotten_through` is refused with `SessionEnded`: whether it ran is
//!   not known any more, and it never runs again.
//! * A session opens only for a client that has had no answer yet (`lowest_unanswered` <= 1).
//!   Anyone else without a session had one that ended: `SessionEnded`. So a client must take a
//!   new id for a new life, and must not retry its very first writes for longer than a session
//!   lives idle (10 minutes of T).
//! * At most 1,024 outcomes, and 16,384 messages named in them, are kept a session; the lowest
//!   numbers are forgotten first.
//! * Idle sessions end in pulses, a bounded number at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::command::SessionTag;
use super::digest;
use super::error::Rejection;
use super::ids::LogTime;
use super::limits::{SESSION_IDLE, SESSION_ITEMS, SESSION_OUTCOMES};
use super::outcome::{Changes, Outcome, Reply};
use super::rows::{RowKey, SessionRow};

#[derive(Clone, Debug, Default)]
pub struct Sessions {
    sessions: BTreeMap<u128, Session>,
    idle: BTreeSet<(LogTime, u128)>,
    sum: u128,
    scratch: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Session {
    last_used: LogTime,
    forgotten_through: u64,
    /// Ascending by sequence.
    kept: VecDeque<Kept>,
    items: usize,
}

#[derive(Clone, Debug)]
struct Kept {
    sequence: u64,
    hash: u128,
    outcome: Outcome,
}

/// What to do with a command of a session.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    Run,
    /// It is a retry, or is refused.
    Answer(Outcome),
}

/// What is known of a sequence of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The client has no session.
    NoSession,
    /// It ran, and its outcome is kept.
    Kept,
    /// It was answered, here or elsewhere, or will never run.
    Forgotten,
    /// It may still come.
    Open,
}

/// How many messages an outcome names: its weight.
fn items(outcome: &Outcome) -> usize {
    match outcome {
        Ok(Reply::Sent(sent) | Reply::Transacted(sent)) => sent.len(),
        Ok(Reply::Received { messages, .. }) => messages.len(),
        Ok(Reply::Deleted(outcomes)) => outcomes.len(),
        Ok(Reply::Released(outcomes)) => outcomes.len(),
        _ => 0,
    }
}

impl Session {
    fn header_hash(&self, client: u128) -> u128 {
        digest::session(client, self.last_used, self.forgotten_through)
    }

    /// Forgets the lowest kept outcome; answers its hash.
    fn forget_first(&mut self) -> Option<u128> {
        let kept = self.kept.pop_front()?;
        self.forgotten_through = self.forgotten_through.max(kept.sequence);
        self.items -= items(&kept.outcome);
        Some(kept.hash)
    }
}

impl Sessions {
    /// Called before a command runs: opens or renews its session and finds a kept outcome.
    pub fn begin(&mut self, tag: &SessionTag, now: LogTime, changes: &mut Changes) -> Turn {
        if tag.sequence == 0 {
            return Turn::Answer(Err(Rejection::InvalidArgument {
                field: "session.sequence".to_owned(),
                problem: "is 0".to_owned(),
                allowed: "1 and more".to_owned(),
            }));
        }
        if !self.sessions.contains_key(&tag.client) {
            if tag.lowest_unanswered > 1 {
                return Turn::Answer(Err(Rejection::SessionEnded));
            }
            self.open(tag.client, now);
        }
        let Some(session) = self.sessions.get_mut(&tag.client) else { return Turn::Run };
        changes.row(RowKey::Session(tag.client));
        let mut sum = self.sum.wrapping_sub(session.header_hash(tag.client));
        if session.last_used != now {
            self.idle.remove(&(session.last_used, tag.client));
            self.idle.insert((now, tag.client));
            session.last_used = now;
        }
        let answered = tag.lowest_unanswered.saturating_sub(1);
        while session.kept.front().is_some_and(|kept| kept.sequence <= answered) {
            sum = sum.wrapping_sub(session.forget_first().unwrap_or(0));
        }
        session.forgotten_through = session.forgotten_through.max(answered);
        self.sum = sum.wrapping_add(session.header_hash(tag.client));
        if tag.sequence <= session.forgotten_through {
            return Turn::Answer(Err(Rejection::SessionEnded));
        }
        match session.kept.binary_search_by_key(&tag.sequence, |kept| kept.sequence) {
            Ok(at) => {
                session.kept.get(at).map_or(Turn::Run, |kept| Turn::Answer(kept.outcome.clone()))
            }
            Err(_) => Turn::Run,
        }
    }

    /// Whether [`Sessions::begin`] would answer this without running it.
    #[must_use]
    pub fn answers(&self, tag: &SessionTag) -> bool {
        let Some(session) = self.sessions.get(&tag.client) else {
            return tag.sequence == 0 || tag.lowest_unanswered > 1;
        };
        let answered = tag.lowest_unanswered.saturating_sub(1).max(session.forgotten_through);
        let kept = || session.kept.binary_search_by_key(&tag.sequence, |kept| kept.sequence);
        tag.sequence <= answered || kept().is_ok()
    }

    /// What is known of a sequence of a client.
    #[must_use]
    pub fn fate(&self, client: u128, sequence: u64) -> Fate {
        let Some(session) = self.sessions.get(&client) else { return Fate::NoSession };
        if session.kept.binary_search_by_key(&sequence, |kept| kept.sequence).is_ok() {
            return Fate::Kept;
        }
        if sequence <= session.forgotten_through { Fate::Forgotten } else { Fate::Open }
    }

    /// Gives an open sequence of a client its outcome, though the client did not ask.
    pub fn answer_for(
        &mut self,
        client: u128,
        sequence: u64,
        outcome: &Outcome,
        changes: &mut Changes,
    ) {
        if self.fate(client, sequence) == Fate::Open {
            changes.row(RowKey::Session(client));
            self.keep(&SessionTag { client, sequence, lowest_unanswered: 0 }, outcome);
        }
    }

    /// What the kept sends and transactions of all clients were answered: client, sequence and
    /// outcome.
    pub fn kept_sends(&self) -> impl Iterator<Item = (u128, u64, &Reply)> {
        self.sessions.iter().flat_map(|(client, session)| {
            session.kept.iter().filter_map(|kept| match &kept.outcome {
                Ok(reply @ (Reply::Sent(_) | Reply::Transacted(_))) => {
                    Some((*client, kept.sequence, reply))
                }
                _ => None,
            })
        })
    }

    /// Keeps the outcome of a command that [`Sessions::begin`] let run.
    pub fn keep(&mut self, tag: &SessionTag, outcome: &Outcome) {
        let Some(session) = self.sessions.get_mut(&tag.client) else { return };
        let hash = digest::outcome(tag.client, tag.sequence, outcome, &mut self.scratch);
        let Err(at) = session.kept.binary_search_by_key(&tag.sequence, |kept| kept.sequence) else {
            return;
        };
        let kept = Kept { sequence: tag.sequence, hash, outcome: outcome.clone() };
        session.kept.insert(at, kept);
        session.items += items(outcome);
        let mut sum = self.sum.wrapping_add(hash);
        if session.kept.len() > SESSION_OUTCOMES || session.items > SESSION_ITEMS {
            sum = sum.wrapping_sub(session.header_hash(tag.client));
            while session.kept.len() > SESSION_OUTCOMES || session.items > SESSION_ITEMS {
                sum = sum.wrapping_sub(session.forget_first().unwrap_or(0));
            }
            sum = sum.wrapping_add(session.header_hash(tag.client));
        }
        self.sum = sum;
    }

    /// Ends up to `max` sessions that have been idle too long; answers how many.
    pub fn end_idle(&mut self, now: LogTime, max: usize, changes: &mut Changes) -> usize {
        let mut ended = 0;
        while ended < max {
            let Some((last_used, client)) = self.idle.first().copied() else { break };
            if last_used.after(SESSION_IDLE) > now {
                break;
            }
            self.idle.remove(&(last_used, client));
            if let Some(session) = self.sessions.remove(&client) {
                self.sum = self.sum.wrapping_sub(session.header_hash(client));
                for kept in &session.kept {
                    self.sum = self.sum.wrapping_sub(kept.hash);
                }
            }
            changes.row(RowKey::Session(client));
            ended += 1;
        }
        ended
    }

    /// When the next idle session ends.
    #[must_use]
    pub fn next_end(&self) -> Option<LogTime> {
        self.idle.first().map(|(last_used, _)| last_used.after(SESSION_IDLE))
    }

    #[must_use]
    pub fn sum(&self) -> u128 {
        self.sum
    }

    #[must_use]
    pub fn row(&self, client: u128) -> Option<SessionRow> {
        let session = self.sessions.get(&client)?;
        let outcomes = session.kept.iter().map(|k| (k.sequence, k.outcome.clone())).collect();
        Some(SessionRow {
            client,
            last_used: session.last_used,
            forgotten_through: session.forgotten_through,
            outcomes,
        })
    }

    pub fn clients(&self) -> impl Iterator<Item = u128> {
        self.sessions.keys().copied()
    }

    /// Takes in a session as it was stored; false when it is there already or out of order.
    #[must_use]
    pub fn load(&mut self, row: SessionRow) -> bool {
        let numbers = || row.outcomes.iter().map(|(sequence, _)| *sequence);
        let ascending = numbers().zip(numbers().skip(1)).all(|(a, b)| a < b);
        if !ascending || self.sessions.contains_key(&row.client) {
            return false;
        }
        let mut session = Session {
            last_used: row.last_used,
            forgotten_through: row.forgotten_through,
            kept: VecDeque::with_capacity(row.outcomes.len()),
            items: 0,
        };
        self.sum = self.sum.wrapping_add(session.header_hash(row.client));
        for (sequence, outcome) in row.outcomes {
            let hash = digest::outcome(row.client, sequence, &outcome, &mut self.scratch);
            self.sum = self.sum.wrapping_add(hash);
            session.items += items(&outcome);
            session.kept.push_back(Kept { sequence, hash, outcome });
        }
        self.idle.insert((row.last_used, row.client));
        self.sessions.insert(row.client, session);
        true
    }

    fn open(&mut self, client: u128, now: LogTime) {
        let session =
            Session { last_used: now, forgotten_through: 0, kept: VecDeque::new(), items: 0 };
        self.sum = self.sum.wrapping_add(session.header_hash(client));
        self.idle.insert((now, client));
        self.sessions.insert(client, session);
    }
}
