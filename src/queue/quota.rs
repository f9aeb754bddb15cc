//! Quotas: how much a queue may hold, and all queues of an account together.
//!
//! Laws: what would take a queue over its quota is refused whole, before anything changes, and
//! what is there already stays, however small the quota is made. Messages that are due count
//! until they are removed. A duplicate takes no room.

use super::catalog::{Catalog, Queue};
use super::command::NewMessage;
use super::error::Rejection;
use super::ids::LogTime;
use super::limits::QUEUES;

/// Whether a queue has room for messages to be sent.
///
/// # Errors
/// [`Rejection::Full`].
pub fn check(queue: &Queue, messages: &[NewMessage], now: LogTime) -> Result<(), Rejection> {
    let quota = queue.row.settings.quota;
    if quota.messages.is_none() && quota.bytes.is_none() {
        return Ok(());
    }
    let new = || messages.iter().filter(|message| !is_seen(queue, message, now));
    room(queue, new().count() as u64, new().map(|message| message.content.size() as u64).sum())
}

/// Whether a queue has room for so many more messages and bytes.
///
/// # Errors
/// [`Rejection::Full`].
pub fn room(queue: &Queue, messages: u64, bytes: u64) -> Result<(), Rejection> {
    let quota = queue.row.settings.quota;
    let full = |what: &str, limit| {
        let what = format!("the number of {what} in queue {:?}", queue.row.name);
        Err(Rejection::Full { what, limit })
    };
    // Whoever sends nothing new is not refused by a queue that is over its quota.
    match (quota.messages, quota.bytes) {
        (Some(most), _) if messages > 0 && queue.lineup.total().saturating_add(messages) > most => {
            full("messages", most)
        }
        (_, Some(most)) if messages > 0 && queue.lineup.bytes().saturating_add(bytes) > most => {
            full("bytes", most)
        }
        _ => Ok(()),
    }
}

/// Whether an account has room for messages to be sent to its queues. A queue that is not there
/// counts nothing: it is refused by name.
///
/// # Errors
/// [`Rejection::Full`].
pub fn check_account<'a>(
    catalog: &Catalog,
    account: &str,
    sends: impl Iterator<Item = (&'a str, &'a [NewMessage])>,
    now: LogTime,
) -> Result<(), Rejection> {
    let quota = catalog.accounts.quota(account);
    if quota.messages.is_none() && quota.bytes.is_none() {
        return Ok(());
    }
    let (mut messages, mut bytes) = (0, 0);
    for (name, sent) in sends {
        let Some(queue) = catalog.find(account, name) else { continue };
        let new = sent.iter().filter(|message| !is_seen(queue, message, now));
        let sizes = new.map(|message| message.content.size() as u64);
        (messages, bytes) = sizes.fold((messages, bytes), |(n, sum), size| (n + 1, sum + size));
    }
    account_room(catalog, account, messages, bytes)
}

/// Whether an account has room for so many more messages and bytes.
///
/// # Errors
/// [`Rejection::Full`].
pub fn account_room(
    catalog: &Catalog,
    account: &str,
    messages: u64,
    bytes: u64,
) -> Result<(), Rejection> {
    let (quota, held) = (catalog.accounts.quota(account), catalog.accounts.held(account));
    let over = |most: Option<u64>, sum: u64| most.filter(|most| messages > 0 && sum > *most);
    let full = |what: &str, limit| {
        let what = format!("the number of {what} in account {account:?}");
        Err(Rejection::Full { what, limit })
    };
    if let Some(limit) = over(quota.messages, held.messages.saturating_add(messages)) {
        return full("messages", limit);
    }
    match over(quota.bytes, held.bytes.saturating_add(bytes)) {
        Some(limit) => full("bytes", limit),
        None => Ok(()),
    }
}

/// Whether an account may have one more queue.
///
/// # Errors
/// [`Rejection::LimitReached`].
pub fn queues(catalog: &Catalog, account: &str) -> Result<(), Rejection> {
    let own = catalog.accounts.quota(account).queues.unwrap_or(u64::MAX);
    let limit = own.min(QUEUES as u64);
    if (catalog.count_in(account) as u64) < limit {
        return Ok(());
    }
    let what = format!("the number of queues of account {account:?}");
    Err(Rejection::LimitReached { what, limit })
}

/// Whether a send is one of a message that was sent before.
fn is_seen(queue: &Queue, message: &NewMessage, now: LogTime) -> bool {
    message.key.as_deref().is_some_and(|key| queue.keys.find(*key, now).is_some())
}
