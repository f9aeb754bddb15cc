//! Dead letters: messages that were given out as often as their queue allows.
//!
//! Laws: a message goes to the dead-letter queue whole, with its id and content, and says there
//! where it came from, why, and when it was received. It goes when its last lease has run out:
//! by a pulse, or by the receive that meets it, and counts as due until then. Where the target
//! cannot take it, it stays and is given out again, and its queue says since when (an alarm):
//! nothing is dropped. Chains of queues are short and have no cycles, so one message is moved
//! once in an entry that meets it.

use super::catalog::{Catalog, Queue};
use super::command::Settings;
use super::error::Rejection;
use super::ids::{LogTime, Number, QueueId, Receipt};
use super::limits::DEAD_LETTER_CHAIN;
use super::message::Message;
use super::note::{Dead, DeadReason, Note};
use super::quota;
use super::rows::RowKey;
use super::state::{State, Step};
use super::verbs::draw;

/// Whether a queue of this name may have these settings, as far as other queues go. Where its dead
/// letters already go there, it may.
///
/// # Errors
/// [`Rejection::QueueNotFound`]: the dead-letter queue is not there.
/// [`Rejection::InvalidArgument`]: its own dead letters come back here, or the chain is too long,
/// counted from its first queue to its last.
pub fn check(
    catalog: &Catalog,
    account: &str,
    name: &str,
    settings: &Settings,
) -> Result<(), Rejection> {
    let refuse = |problem: String, allowed: String| {
        let field = "settings.dead_letter_queue".to_owned();
        Err(Rejection::InvalidArgument { field, problem, allowed })
    };
    let now = catalog.find(account, name).and_then(|queue| target(&queue.row.settings));
    let mut next = target(settings);
    if next == now {
        return Ok(());
    }
    let mut below = 0;
    while let Some(queue) = next.filter(|_| below <= DEAD_LETTER_CHAIN) {
        if queue == name {
            let problem = format!("leads back to queue {name:?}");
            return refuse(problem, "a queue whose own dead letters do not come here".to_owned());
        }
        let found = catalog.find(account, queue);
        let found = found.ok_or_else(|| Rejection::QueueNotFound(queue.to_owned()))?;
        next = target(&found.row.settings);
        below += 1;
    }
    let above = catalog.levels_above(account, name);
    if below == 0 || above + below <= DEAD_LETTER_CHAIN {
        return Ok(());
    }
    let allowed = format!("at most {DEAD_LETTER_CHAIN} dead-letter queues one behind the other");
    refuse("makes a longer chain".to_owned(), allowed)
}

/// Where the dead letters of a queue with these settings go.
fn target(settings: &Settings) -> Option<&str> {
    settings.dead_letters.as_ref().map(|target| target.queue.as_str())
}

/// Whether a message was given out as often as its queue allows.
#[must_use]
pub fn is_spent(settings: &Settings, message: &Message) -> bool {
    let most = settings.dead_letters.as_ref().map(|target| target.max_deliveries);
    let spent = most.is_some_and(|most| message.dequeue_count >= most);
    spent && !crate::mutants::is_chosen("spent-given-out")
}

/// What a grant notes of a message in a queue that has a dead-letter queue.
#[must_use]
pub fn received(before: Option<&Note>, now: LogTime) -> Note {
    let mut note = before.cloned().unwrap_or_default();
    note.received = Some((note.received.map_or(now, |(first, _)| first), now));
    note
}

/// Moves a message that is spent to its dead-letter queue. Where it cannot, the message is
/// answered as it stays: receivable. `out` are those of the queue that are out of its order for
/// the moment, to be put back.
pub(super) fn bury(
    state: &mut State,
    id: QueueId,
    message: &Message,
    out: &[Message],
    step: &mut Step,
) -> Option<Message> {
    let queue = state.catalog.by_id(id)?;
    let target = queue.row.settings.dead_letters.as_ref().filter(|_| {
        // The settings may have changed since its last lease began.
        is_spent(&queue.row.settings, message)
    });
    let Some(target) = target else { return stay(&mut state.catalog, id, message, step) };
    let target = state.catalog.find(&queue.row.account, &target.queue);
    let Some(target) = target.filter(|target| takes(target, message)).map(|it| it.row.id) else {
        if raise_alarm(&mut state.catalog, id, message.number, out, step.now) {
            step.changes.row(RowKey::Queue(id));
        }
        return stay(&mut state.catalog, id, message, step);
    };
    let arrived = draw(&mut state.counters);
    let receipt = Receipt { epoch: state.counters.epoch, counter: arrived };
    let queue = state.catalog.by_id_mut(id)?;
    let source = queue.row.name.clone();
    let before = queue.lineup.note(message.number).map(|note| Note::clone(note));
    queue.lineup.remove(message, &mut step.changes);
    let mut note = before.unwrap_or_default();
    note.dead = Some(Dead {
        reason: DeadReason::MaxDeliveries,
        source,
        at: step.now,
        arrived: Number(arrived),
        deliveries: message.dequeue_count,
        received: note.received.take(),
    });
    if let Some(queue) = state.catalog.by_id_mut(target) {
        let ttl = queue.row.settings.dead_letter_ttl;
        let message = Message {
            expires_at: ttl.map(|ttl| step.now.after(ttl)).filter(|at| at.0 != u64::MAX),
            visible_at: step.now,
            dequeue_count: 0,
            receipt,
            last: false,
            released: false,
            ..*message
        };
        note.group = note.group.map(|group| queue.lineup.group_name(&group));
        queue.lineup.set_note(message.number, note);
        queue.lineup.add_touched(message, &mut step.changes);
    }
    state.catalog.settle(target);
    if end_alarm(&mut state.catalog, id, message.number) {
        step.changes.row(RowKey::Queue(id));
    }
    None
}

/// Whether a queue takes a message as a dead letter.
fn takes(target: &Queue, message: &Message) -> bool {
    message.size <= target.row.settings.max_message_bytes
        && quota::room(target, 1, message.size.into()).is_ok()
}

/// The message is under no last lease any more.
fn stay(catalog: &mut Catalog, id: QueueId, message: &Message, step: &mut Step) -> Option<Message> {
    let after = Message { last: false, ..*message };
    if message.last {
        let lineup = &mut catalog.by_id_mut(id)?.lineup;
        lineup.unlink(message, &mut step.changes);
        lineup.put_back(message, after, &mut step.changes);
    }
    Some(after)
}

/// Says in the queue's row that a message was refused, unless an earlier one still is. One that
/// is out of the order for the moment is still there.
fn raise_alarm(
    catalog: &mut Catalog,
    id: QueueId,
    message: Number,
    out: &[Message],
    now: LogTime,
) -> bool {
    let Some(queue) = catalog.by_id_mut(id) else { return false };
    let refused = queue.row.dead_letter_refused.map(|(refused, _)| refused);
    if refused_since(queue).is_some() || out.iter().any(|m| Some(m.number) == refused) {
        return false;
    }
    queue.row.dead_letter_refused = Some((message, now));
    catalog.settle_row(id);
    true
}

/// The message was taken after all.
fn end_alarm(catalog: &mut Catalog, id: QueueId, message: Number) -> bool {
    let Some(queue) = catalog.by_id_mut(id) else { return false };
    if queue.row.dead_letter_refused.is_none_or(|(refused, _)| refused != message) {
        return false;
    }
    queue.row.dead_letter_refused = None;
    catalog.settle_row(id);
    true
}

/// An alarm: since when a message that is still there is refused by the dead-letter queue.
#[must_use]
pub fn refused_since(queue: &Queue) -> Option<LogTime> {
    let (message, since) = queue.row.dead_letter_refused?;
    queue.lineup.find(message).map(|_| since)
}
