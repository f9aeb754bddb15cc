//! In which session the messages of a tail were sent, where the state of the deposed side has
//! forgotten it: its log tells.
//!
//! A session forgets a send once its client says that it has the answer. But the client may have it
//! from the new primary, where it tried again, and say so here, in a call that reaches this side
//! before it is fenced. Whether the send ran there too is known there, by the session and its
//! number.
//!
//! Laws: a message and a command belong together when T, queue and content are the same. What is
//! not found, because the log does not reach back to it, is sent as what nobody sent again. A
//! session that is found has no answer to give: its client has one.

use crate::consensus::error::GroupError;
use crate::consensus::group::Group;
use crate::geo::error::PairError;
use crate::queue::authority::Role;
use crate::queue::authority::replay::{ReplayTail, TailQueue, TailSession, TailUnit};
use crate::queue::command::{Command, Content, Entry, SessionTag};
use crate::queue::ids::LogTime;
use crate::queue::log_time::advance;
use crate::storage::codec;
use crate::storage::error::StorageError;
use crate::storage::log::{LogEntry, Payload};

/// Bytes of log read at once.
const READ: usize = 1 << 20;

/// One message that a command with a session sends.
struct Sender<'a> {
    tag: &'a SessionTag,
    transacted: bool,
    account: &'a str,
    queue: &'a str,
    content: &'a Content,
}

/// Finds the sessions of the units that have none; each unit was sent at its time of `sent_at`.
///
/// # Errors
/// When the log cannot be read.
pub(super) async fn find(
    group: &Group,
    sent_at: &[LogTime],
    part: &mut ReplayTail,
) -> Result<(), PairError> {
    let role = group.standing().map(|it| it.authority.role);
    let (Some(Role::Fenced { fork: Some(fork), at, .. }), Some(held)) = (role, group.log_first())
    else {
        return Ok(());
    };
    let first = fork.after.map_or(0, |after| after.index.saturating_add(1)).max(held);
    let ReplayTail { queues, units, .. } = part;
    let unknown = sent_at.iter().copied().zip(units).filter(|(_, unit)| unit.session.is_none());
    let unknown: Vec<(LogTime, &mut TailUnit)> = unknown.collect();
    match look_up(group, (first, at.index), unknown, queues).await {
        // It was purged meanwhile.
        Err(PairError::Log(StorageError::OutOfRange { .. })) => Ok(()),
        done => done,
    }
}

async fn look_up(
    group: &Group,
    (first, last): (u64, u64),
    mut unknown: Vec<(LogTime, &mut TailUnit)>,
    queues: &[TailQueue],
) -> Result<(), PairError> {
    unknown.sort_by_key(|(at, _)| *at);
    let Some((oldest, _)) = unknown.first() else { return Ok(()) };
    let mut next = last_before(group, (first, last), *oldest)?;
    let mut unknown = unknown.into_iter().peekable();
    let mut now = LogTime(0);
    while next <= last && unknown.peek().is_some() {
        let entries = group.log_entries(next, last.saturating_add(1), READ)?;
        let Some(end) = entries.last().map(|entry| entry.position.index) else { break };
        for entry in entries {
            let Some(entry) = decoded(entry)? else { continue };
            now = advance(now, entry.stamp);
            // No command of this log sent what is older.
            while unknown.next_if(|(at, _)| *at < now).is_some() {}
            let mut senders = senders(&entry);
            while let Some((_, unit)) = unknown.next_if(|(at, _)| *at == now) {
                unit.session = taken(&mut senders, unit, queues);
            }
        }
        next = end.saturating_add(1);
        // It may be much reading: others get their turn.
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// The last entry that is not stamped later than `at`; the first one, where all are.
fn last_before(group: &Group, (first, last): (u64, u64), at: LogTime) -> Result<u64, PairError> {
    let (mut from, mut to) = (first, last.saturating_add(1));
    while from < to {
        let middle = from + (to - from) / 2;
        if stamp(group, middle, last)?.is_some_and(|stamp| stamp <= at) {
            from = middle.saturating_add(1);
        } else {
            to = middle;
        }
    }
    Ok(from.saturating_sub(1).max(first))
}

/// The stamp of the first entry with commands from here on.
fn stamp(group: &Group, from: u64, last: u64) -> Result<Option<LogTime>, PairError> {
    for index in from..=last {
        let entry = group.log_entries(index, index.saturating_add(1), 0)?.pop();
        let Some(entry) = entry else { break };
        if let Some(entry) = decoded(entry)? {
            return Ok(Some(entry.stamp));
        }
    }
    Ok(None)
}

fn decoded(entry: LogEntry) -> Result<Option<Entry>, PairError> {
    let Payload::Commands(bytes) = entry.payload else { return Ok(None) };
    let entry = codec::decode_entry(entry.position, bytes);
    Ok(Some(entry.map_err(|error| GroupError::Fatal(error.to_string()))?))
}

fn senders(entry: &Entry) -> Vec<Sender<'_>> {
    let mut all = Vec::new();
    for envelope in &entry.commands {
        let Some(tag) = &envelope.session else { continue };
        let (transacted, sends) = match &envelope.command {
            Command::Send { queue, messages } => (false, vec![(queue, messages)]),
            Command::Transact(asked) => {
                (true, asked.sends.iter().map(|(queue, messages)| (queue, messages)).collect())
            }
            _ => continue,
        };
        let account = envelope.account.as_str();
        all.extend(sends.into_iter().flat_map(|(queue, messages)| {
            messages.iter().map(move |message| Sender {
                tag,
                transacted,
                account,
                queue: queue.as_str(),
                content: &message.content,
            })
        }));
    }
    all
}

/// The session of the command that sent this, which sends nothing else with that.
fn taken(
    senders: &mut Vec<Sender<'_>>,
    unit: &TailUnit,
    queues: &[TailQueue],
) -> Option<TailSession> {
    let message = unit.messages.first()?;
    let queue = queues.get(message.queue as usize)?;
    let at = senders.iter().position(|sender| {
        sender.account == queue.account
            && sender.queue == queue.name
            && *sender.content == message.content
    })?;
    let Sender { tag, transacted, .. } = senders.remove(at);
    let (client, sequence) = (tag.client, tag.sequence);
    Some(TailSession { client, sequence, transacted, answer: Vec::new(), ran: None })
}
