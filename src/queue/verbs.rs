//! What each command does to the state.
//!
//! Laws: a command is checked whole before it changes anything, so a refusal leaves no trace. A
//! batch send is all or nothing; a batch delete has an outcome for each item. Message numbers,
//! receipts and contents come from one counter, which only grows.

use super::accounts;
use super::authority;
use super::catalog::Queue;
use super::check;
use super::command::{Command, NewMessage, Receive, Settings, StringMap, TimeToLive, Update};
use super::dead_letters;
use super::dedup::Kept;
use super::error::Rejection;
use super::ids::{ContentId, Epoch, LogTime, MessageId, Number, QueueId, Receipt};
use super::message::Message;
use super::note::Note;
use super::outcome::{DeleteOutcome, Granted, Outcome, Reply, Sent};
use super::quota;
use super::receipt::{self, Closed};
use super::redrive;
use super::release;
use super::rows::{CountersRow, QueueRow, RowKey};
use super::rules;
use super::state::{State, Step};
use super::transact;
use super::undelete;

pub(super) fn run(state: &mut State, account: &str, command: &Command, step: &mut Step) -> Outcome {
    check::command(command)?;
    match command {
        Command::CreateQueue { name, metadata, settings } => {
            create_queue(state, account, name, (metadata, settings), step)
        }
        Command::DeleteQueue { name } => undelete::delete(state, account, name, step),
        Command::SetMetadata { name, metadata } => {
            change_row(state, account, name, step, |row| row.metadata.clone_from(metadata))?;
            Ok(Reply::MetadataSet)
        }
        Command::SetSettings { name, settings } => {
            set_settings(state, account, name, settings, step)
        }
        Command::SetPaused { name, paused } => {
            change_row(state, account, name, step, |row| row.paused = *paused)?;
            Ok(Reply::PausedSet)
        }
        Command::Send { queue, messages } => send(state, account, queue, messages, step),
        Command::Receive(asked) => receive(state, account, asked, step),
        Command::Update(asked) => update(state, account, asked, step),
        Command::Delete { queue, items } => delete(state, account, queue, items, step),
        Command::Release { queue, items, after } => {
            release::run(state, account, queue, items, *after, step)
        }
        Command::Transact(asked) => transact::run(state, account, asked, step),
        Command::Clear { queue } => clear(state, account, queue, step),
        Command::UndeleteQueue { name, id, new_name } => {
            undelete::run(state, account, name, (*id, new_name.as_deref()), step)
        }
        Command::StartRedrive(asked) => redrive::start(state, account, asked, step),
        Command::CancelRedrive { queue, id } => redrive::cancel(state, account, queue, *id, step),
        Command::SetAccountQuota(quota) => accounts::set_quota(state, account, *quota, step),
        Command::ReplayTail(asked) => authority::replay::run(state, asked, step),
        Command::Pulse => Ok(pulse(state, step)),
        Command::RaiseRules { version } => {
            state.counters.rules = rules::raise(state.counters.rules, *version)?;
            Ok(Reply::RulesRaised)
        }
        // Any other is alone in its entry, and does not come here.
        Command::Region(asked) => {
            Ok(Reply::Region(authority::record(state, &asked.verb, &mut step.changes)?))
        }
    }
}

/// The next number of the shared counter.
pub(super) fn draw(counters: &mut CountersRow) -> u64 {
    let number = counters.next_number;
    counters.next_number = number.saturating_add(1);
    number
}

pub(super) fn create_queue(
    state: &mut State,
    account: &str,
    name: &str,
    (metadata, settings): (&StringMap, &Settings),
    step: &mut Step,
) -> Outcome {
    check::account(account)?;
    if let Some(queue) = state.catalog.find(account, name) {
        if queue.row.metadata == *metadata && queue.row.settings == *settings {
            return Ok(Reply::QueueCreated { created: false });
        }
        return Err(Rejection::QueueExists(name.to_owned()));
    }
    quota::queues(&state.catalog, account)?;
    dead_letters::check(&state.catalog, account, name, settings)?;
    let id = QueueId(state.counters.next_queue);
    state.counters.next_queue = id.0.saturating_add(1);
    state.catalog.insert(QueueRow {
        id,
        account: account.to_owned(),
        name: name.to_owned(),
        metadata: metadata.clone(),
        settings: settings.clone(),
        created_at: step.now,
        cleared_below: Number(0),
        deleted: false,
        paused: false,
        dead_letter_refused: None,
        kept: None,
    });
    step.changes.row(RowKey::Queue(id));
    Ok(Reply::QueueCreated { created: true })
}

fn set_settings(
    state: &mut State,
    account: &str,
    name: &str,
    settings: &Settings,
    step: &mut Step,
) -> Outcome {
    let id = state.catalog.open(account, name)?.row.id;
    dead_letters::check(&state.catalog, account, name, settings)?;
    state.catalog.set_settings(id, settings);
    // Whether they are refused still, the next dead letter will show.
    change_row(state, account, name, step, |row| row.dead_letter_refused = None)?;
    Ok(Reply::SettingsSet)
}

fn change_row(
    state: &mut State,
    account: &str,
    name: &str,
    step: &mut Step,
    change: impl FnOnce(&mut QueueRow),
) -> Result<(), Rejection> {
    let row = &mut state.catalog.open(account, name)?.row;
    change(row);
    let id = row.id;
    state.catalog.settle_row(id);
    step.changes.row(RowKey::Queue(id));
    Ok(())
}

pub(super) fn send(
    state: &mut State,
    account: &str,
    queue: &str,
    messages: &[NewMessage],
    step: &mut Step,
) -> Outcome {
    let name = queue;
    quota::check_account(&state.catalog, account, [(name, messages)].into_iter(), step.now)?;
    let queue = state.catalog.open(account, name)?;
    check_send(queue, messages, step.now)?;
    let mut sent = Vec::with_capacity(messages.len());
    for new in messages {
        if let Some(key) = &new.key
            && let Some(first) = queue.keys.find(**key, step.now)
        {
            sent.push(duplicate(queue, &first));
            continue;
        }
        let number = draw(&mut state.counters);
        let message = fresh(new, &queue.row.settings, (state.counters.epoch, number), step.now);
        if let Some(group) = &new.group {
            let group = Some(queue.lineup.group_name(group));
            queue.lineup.set_note(message.number, Note { group, ..Note::default() });
            queue.lineup.add_touched(message, &mut step.changes);
        } else if message.visible_at == step.now {
            queue.lineup.add_untouched(&message, &mut step.changes);
        } else {
            queue.lineup.add_touched(message, &mut step.changes);
        }
        if let Some(key) = &new.key {
            let until = step.now.after(queue.row.settings.deduplication_window);
            let kept = Kept { id: message.id(), sent_at: step.now, until };
            queue.keys.keep(**key, kept, &mut step.changes);
        }
        step.changes.put(message.content, &new.content);
        sent.push(Sent {
            id: message.id(),
            receipt: message.receipt,
            inserted_at: message.inserted_at,
            expires_at: message.expires_at,
            visible_at: message.visible_at,
            duplicate: false,
        });
    }
    let id = queue.row.id;
    state.catalog.settle(id);
    Ok(Reply::Sent(sent))
}

/// What a queue must allow before messages are sent to it.
pub(super) fn check_send(
    queue: &Queue,
    messages: &[NewMessage],
    now: LogTime,
) -> Result<(), Rejection> {
    for message in messages {
        check::content(&message.content, &queue.row.settings)?;
    }
    quota::check(queue, messages, now)?;
    queue.keys.check_room(messages, &queue.row.name)
}

fn fresh(
    new: &NewMessage,
    settings: &Settings,
    (epoch, number): (Epoch, u64),
    now: LogTime,
) -> Message {
    let ttl = match new.ttl {
        TimeToLive::Default => settings.default_ttl,
        TimeToLive::Never => None,
        TimeToLive::For(span) => Some(span),
    };
    Message {
        number: Number(number),
        epoch,
        priority: new.priority,
        inserted_at: now,
        // The end of time is never.
        expires_at: ttl.map(|ttl| now.after(ttl)).filter(|at| at.0 != u64::MAX),
        visible_at: now.after(new.delay),
        dequeue_count: 0,
        receipt: Receipt { epoch, counter: number },
        content: ContentId(number),
        size: u32::try_from(new.content.size()).unwrap_or(u32::MAX),
        last: false,
        released: false,
    }
}

/// What a send is answered whose key was seen: the first message, as far as it is known still.
fn duplicate(queue: &Queue, first: &Kept) -> Sent {
    let message = queue.lineup.find(first.id.number);
    Sent {
        id: first.id,
        receipt: Receipt { epoch: first.id.epoch, counter: first.id.number.0 },
        inserted_at: first.sent_at,
        expires_at: message.and_then(|message| message.expires_at),
        visible_at: message.map_or(first.sent_at, |message| message.visible_at),
        duplicate: true,
    }
}

fn receive(state: &mut State, account: &str, asked: &Receive, step: &mut Step) -> Outcome {
    let queue = state.catalog.open(account, &asked.queue)?;
    if queue.is_paused() {
        return Ok(Reply::Received { messages: Vec::new(), more: false });
    }
    let id = queue.row.id;
    let visibility = asked.visibility.unwrap_or(queue.row.settings.default_visibility);
    let visible_at = step.now.after(visibility);
    // All are picked before the first is put back, or a visibility of 0 would give one twice.
    let picked = in_order(pick(state, id, asked, step));
    let queue = state.catalog.open(account, &asked.queue)?;
    let most = queue.row.settings.dead_letters.as_ref().map(|target| target.max_deliveries);
    let mut messages = Vec::with_capacity(picked.len());
    let mut again = 0;
    for before in picked {
        let counter = draw(&mut state.counters);
        let dequeue_count = before.dequeue_count.saturating_add(1);
        let message = Message {
            visible_at,
            dequeue_count,
            receipt: Receipt { epoch: state.counters.epoch, counter },
            last: most.is_some_and(|most| dequeue_count >= most),
            released: false,
            ..before
        };
        again += u64::from(visible_at <= step.now && !message.last);
        queue.lineup.put_back(&before, message, &mut step.changes);
        if most.is_some() {
            let before = queue.lineup.note(message.number);
            let note = dead_letters::received(before.map(|note| &**note), step.now);
            queue.lineup.set_note(message.number, note);
        }
        messages.push(Granted {
            id: message.id(),
            receipt: message.receipt,
            content: message.content,
            inserted_at: message.inserted_at,
            expires_at: message.expires_at,
            visible_at,
            dequeue_count: message.dequeue_count,
            priority: message.priority,
            note: queue.lineup.note(message.number).cloned(),
        });
    }
    let more = queue.lineup.visible(step.now) > again;
    state.catalog.settle(id);
    Ok(Reply::Received { messages, more })
}

/// The messages as they were picked. Only under the mutant they come in the order of a hash map,
/// which is another one on each node.
fn in_order(picked: Vec<Message>) -> Vec<Message> {
    if !crate::mutants::is_chosen("unordered-map") {
        return picked;
    }
    crate::mutants::without_order(picked)
}

/// Takes the messages to be given out of the order. Those found due on the way are removed or
/// become dead letters, as many as the entry may; where it may not, the receive stops.
fn pick(state: &mut State, id: QueueId, asked: &Receive, step: &mut Step) -> Vec<Message> {
    let (most, most_bytes) = (asked.max_messages as usize, u64::from(asked.max_bytes));
    let mut picked: Vec<Message> = Vec::new();
    let mut bytes = 0;
    while picked.len() < most
        && let Some(queue) = state.catalog.by_id_mut(id)
        && let Some(mut message) = queue.lineup.head(step.now)
    {
        if message.is_due(step.now) || dead_letters::is_spent(&queue.row.settings, &message) {
            if step.budget == 0 {
                break;
            }
            match retire(state, id, &message, &picked, step) {
                Some(stays) => message = stays,
                None => continue,
            }
        }
        bytes += u64::from(message.size);
        if bytes > most_bytes && !picked.is_empty() {
            break;
        }
        if let Some(queue) = state.catalog.by_id_mut(id) {
            queue.lineup.unlink(&message, &mut step.changes);
        }
        picked.push(message);
    }
    picked
}

/// Does with a message that is due, or spent, what has to be done: one that expired is removed,
/// any other becomes a dead letter. One that could not is answered, and may be given out. `out`
/// are those of the queue that were picked before it.
fn retire(
    state: &mut State,
    id: QueueId,
    message: &Message,
    out: &[Message],
    step: &mut Step,
) -> Option<Message> {
    step.budget = step.budget.saturating_sub(1);
    if !message.is_expired(step.now) {
        return dead_letters::bury(state, id, message, out, step);
    }
    state.catalog.by_id_mut(id)?.lineup.remove(message, &mut step.changes);
    step.changes.drop_content(message.content);
    None
}

fn update(state: &mut State, account: &str, asked: &Update, step: &mut Step) -> Outcome {
    let queue = state.catalog.open(account, &asked.queue)?;
    let before = receipt::open(&queue.lineup, asked.id, asked.receipt, step.now)
        .map_err(|closed| refusal(closed, &asked.queue, asked.id))?;
    if let Some(content) = &asked.content {
        check::content(content, &queue.row.settings)?;
    }
    let counter = draw(&mut state.counters);
    let mut message = Message {
        visible_at: asked.visibility.map_or(before.visible_at, |span| step.now.after(span)),
        receipt: Receipt { epoch: state.counters.epoch, counter },
        ..before
    };
    if let Some(content) = &asked.content {
        message.content = ContentId(counter);
        message.size = u32::try_from(content.size()).unwrap_or(u32::MAX);
        step.changes.put(message.content, content);
        step.changes.drop_content(before.content);
    }
    queue.lineup.unlink(&before, &mut step.changes);
    queue.lineup.put_back(&before, message, &mut step.changes);
    let id = queue.row.id;
    state.catalog.settle(id);
    Ok(Reply::Updated { receipt: message.receipt, visible_at: message.visible_at })
}

pub(super) fn refusal(closed: Closed, queue: &str, id: MessageId) -> Rejection {
    let id = id.to_string();
    match closed {
        Closed::NotFound => Rejection::MessageNotFound { queue: queue.to_owned(), id },
        Closed::Mismatch => Rejection::ReceiptMismatch { id },
    }
}

pub(super) fn delete(
    state: &mut State,
    account: &str,
    queue: &str,
    items: &[(MessageId, Receipt)],
    step: &mut Step,
) -> Outcome {
    let queue = state.catalog.open(account, queue)?;
    let mut outcomes = Vec::with_capacity(items.len());
    for (id, given) in items {
        outcomes.push(match receipt::open(&queue.lineup, *id, *given, step.now) {
            Ok(message) => {
                queue.lineup.remove(&message, &mut step.changes);
                step.changes.drop_content(message.content);
                DeleteOutcome::Deleted
            }
            Err(Closed::NotFound) => DeleteOutcome::MessageNotFound,
            Err(Closed::Mismatch) => DeleteOutcome::ReceiptMismatch,
        });
    }
    let id = queue.row.id;
    state.catalog.settle(id);
    Ok(Reply::Deleted(outcomes))
}

fn clear(state: &mut State, account: &str, queue: &str, step: &mut Step) -> Outcome {
    let below = Number(state.counters.next_number);
    let queue = state.catalog.open(account, queue)?;
    let removed = queue.lineup.total();
    let id = queue.row.id;
    if removed > 0 {
        queue.row.cleared_below = below;
        state.catalog.bury_messages(id);
        state.catalog.settle_row(id);
        step.changes.row(RowKey::Queue(id));
    }
    Ok(Reply::Cleared { removed })
}

/// Ends idle sessions (with half of what the entry may do, so that neither starves the other),
/// then removes expired messages and keys, moves dead letters, redrives and ends undelete
/// windows, the earliest queue first.
fn pulse(state: &mut State, step: &mut Step) -> Reply {
    let share = step.budget.div_ceil(2);
    step.budget -= state.sessions.end_idle(step.now, share, &mut step.changes);
    while step.budget > 0
        && let Some((at, id)) = state.catalog.next_expiry()
        && at <= step.now
    {
        retire_due(state, id, step);
    }
    Reply::Pulsed { more: has_due(state, step.now) }
}

fn retire_due(state: &mut State, id: QueueId, step: &mut Step) {
    if state.catalog.by_id(id).is_some_and(|queue| queue.row.kept.is_some()) {
        step.budget -= 1;
        undelete::end_window(state, id, step);
        return;
    }
    while step.budget > 0
        && let Some(queue) = state.catalog.by_id(id)
        && let Some(number) = queue.lineup.first_due(step.now)
        && let Some(message) = queue.lineup.find(number)
    {
        retire(state, id, &message, &[], step);
    }
    if let Some(queue) = state.catalog.by_id_mut(id) {
        step.budget -= queue.keys.lapse(step.now, step.budget, &mut step.changes);
    }
    redrive::advance(state, id, step);
    state.catalog.settle(id);
}

fn has_due(state: &State, now: LogTime) -> bool {
    state.next_due().is_some_and(|at| at <= now)
}
