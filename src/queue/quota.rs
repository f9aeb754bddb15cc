//! Quotas: how much a queue may hold.
//!
//! Laws: what would take a queue over its quota is refused whole, before anything changes, and
//! what is there already stays, however small the quota is made. Messages that are due count
//! until they are removed. A duplicate takes no room.

use super::catalog::Queue;
use super::command::NewMessage;
use super::error::Rejection;
use super::ids::LogTime;

/// Whether a queue has room for messages to be sent.
///
/// # Errors
/// [`Rejection::Full`].
pub fn check(queue: &Queue, messages: &[NewMessage], now: LogTime) -> Result<(), Rejection> {
    let quota = queue.row.settings.quota;
    if quota.messages.is_none() && quota.bytes.is_none() {
        return Ok(());
    }
    let seen = |message: &&NewMessage| {
        message.key.as_deref().is_some_and(|key| queue.keys.find(*key, now).is_some())
    };
    let new = || messages.iter().filter(|message| !seen(message));
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
