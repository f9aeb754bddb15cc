//! Deletes and sends of one account as one step: all happen, or none.
//!
//! Laws: everything is checked before anything is changed: each message to be deleted is there
//! under its newest receipt, each queue is there, each content fits, each key has room. What is
//! checked cannot fail afterwards, because no queue and no message is named twice.

use std::collections::BTreeSet;

use super::check;
use super::command::Transact;
use super::error::Rejection;
use super::limits;
use super::outcome::{Outcome, Reply};
use super::quota;
use super::receipt;
use super::state::{State, Step};
use super::verbs;

/// Checks what does not depend on the state.
///
/// # Errors
/// [`Rejection::InvalidArgument`].
pub fn check(transact: &Transact) -> Result<(), Rejection> {
    let refuse = |field: &str, problem: String, allowed: String| {
        Err(Rejection::InvalidArgument { field: field.to_owned(), problem, allowed })
    };
    let messages: usize = transact.sends.iter().map(|(_, messages)| messages.len()).sum();
    let items = transact.deletes.len() + messages;
    if !(1..=limits::BATCH).contains(&items) {
        let allowed = format!("1 to {} deletes and messages in all", limits::BATCH);
        return refuse("transaction", format!("has {items}"), allowed);
    }
    let mut seen = BTreeSet::new();
    for (queue, id, _) in &transact.deletes {
        check::queue_name(queue)?;
        if !seen.insert(*id) {
            return refuse("deletes", format!("name message {id} twice"), "each once".to_owned());
        }
    }
    let mut seen = BTreeSet::new();
    for (queue, messages) in &transact.sends {
        check::queue_name(queue)?;
        if !seen.insert(queue) {
            return refuse("sends", format!("name queue {queue:?} twice"), "each once".to_owned());
        }
        if messages.is_empty() {
            let problem = format!("have no message for queue {queue:?}");
            return refuse("sends", problem, "1 message and more for each queue".to_owned());
        }
        messages.iter().try_for_each(check::message)?;
    }
    Ok(())
}

pub(super) fn run(state: &mut State, account: &str, asked: &Transact, step: &mut Step) -> Outcome {
    for (queue, id, given) in &asked.deletes {
        let found = state.catalog.open(account, queue)?;
        receipt::open(&found.lineup, *id, *given, step.now)
            .map_err(|closed| verbs::refusal(closed, queue, *id))?;
    }
    let sends = asked.sends.iter().map(|(queue, messages)| (queue.as_str(), messages.as_slice()));
    quota::check_account(&state.catalog, account, sends, step.now)?;
    for (queue, messages) in &asked.sends {
        verbs::check_send(state.catalog.open(account, queue)?, messages, step.now)?;
    }
    for (queue, id, given) in &asked.deletes {
        verbs::delete(state, account, queue, &[(*id, *given)], step)?;
    }
    let mut sent = Vec::new();
    for (queue, messages) in &asked.sends {
        if let Reply::Sent(part) = verbs::send(state, account, queue, messages, step)? {
            sent.extend(part);
        }
    }
    Ok(Reply::Transacted(sent))
}
