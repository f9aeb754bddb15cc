//! Deleting a queue so that it can come back, and bringing it back.
//!
//! Laws: delete frees the name at once. Where the queue's settings have an undelete window, the
//! queue is kept whole under its id until the window ends: messages, keys, groups, jobs. It has
//! no name meanwhile, so no verb reaches it; nothing in it expires or moves, and it counts in no
//! total and against no quota. A pulse ends the window, and from then on it is freed in the
//! background as any deleted queue. An account keeps a bounded number: one more ends the window
//! that would end first.

use super::catalog::{Catalog, Queue};
use super::check;
use super::dead_letters;
use super::error::Rejection;
use super::ids::{LogTime, QueueId, Span};
use super::limits::{DELETED_QUEUES, PAGE};
use super::outcome::{Outcome, Reply};
use super::quota;
use super::rows::{Deleted, RowKey};
use super::state::{State, Step};

pub(super) fn delete(state: &mut State, account: &str, name: &str, step: &mut Step) -> Outcome {
    if let Some(source) = state.catalog.fed_by(account, name) {
        let (queue, of) = (name.to_owned(), source.row.name.clone());
        return Err(Rejection::QueueInUse { queue, of });
    }
    let row = &state.catalog.open(account, name)?.row;
    let (id, window) = (row.id, row.settings.undelete_window);
    if window == Span::ZERO {
        state.catalog.bury(id);
    } else {
        while state.catalog.count_deleted(account) >= DELETED_QUEUES
            && let Some(first) = state.catalog.first_to_go(account)
        {
            end_window(state, first, step);
        }
        let deleted = Deleted { at: step.now, until: step.now.after(window) };
        state.catalog.set_deleted(id, Some(deleted), name);
    }
    step.changes.row(RowKey::Queue(id));
    Ok(Reply::QueueDeleted)
}

/// Gives a deleted queue up for good.
pub(super) fn end_window(state: &mut State, id: QueueId, step: &mut Step) {
    state.catalog.bury(id);
    step.changes.row(RowKey::Queue(id));
}

/// Brings back the queue of this name that was deleted last, or the one with this id.
pub(super) fn run(
    state: &mut State,
    account: &str,
    name: &str,
    (id, new_name): (Option<QueueId>, Option<&str>),
    step: &mut Step,
) -> Outcome {
    check::account(account)?;
    let found = find(&state.catalog, account, name, id, step.now)?;
    let (id, row) = (found.row.id, found.row.clone());
    let (messages, bytes) = (found.lineup.total(), found.lineup.bytes());
    let new_name = new_name.unwrap_or(name);
    if state.catalog.id(account, new_name).is_some() {
        return Err(Rejection::QueueExists(new_name.to_owned()));
    }
    quota::queues(&state.catalog, account)?;
    quota::account_room(&state.catalog, account, messages, bytes)?;
    dead_letters::check(&state.catalog, account, new_name, &row.settings)?;
    state.catalog.set_deleted(id, None, new_name);
    step.changes.row(RowKey::Queue(id));
    Ok(Reply::QueueUndeleted)
}

/// A queue whose window has ended is gone, whether or not a pulse has ended it.
fn find<'a>(
    catalog: &'a Catalog,
    account: &str,
    name: &'a str,
    id: Option<QueueId>,
    now: LogTime,
) -> Result<&'a Queue, Rejection> {
    let deleted_at = |queue: &&Queue| queue.row.kept.map(|kept| (kept.at, queue.row.id));
    catalog
        .deleted(account, name)
        .filter(|queue| queue.row.kept.is_some_and(|kept| kept.until > now))
        .filter(|queue| id.is_none_or(|id| id == queue.row.id))
        .max_by_key(deleted_at)
        .ok_or_else(|| Rejection::QueueNotFound(name.to_owned()))
}

impl State {
    /// The deleted queues of an account that can come back, by name and id, behind `after`; and
    /// whether there are more.
    #[must_use]
    pub fn deleted_queues(
        &self,
        account: &str,
        prefix: &str,
        after: Option<(&str, QueueId)>,
        max: usize,
    ) -> (Vec<super::QueueView>, bool) {
        let (max, now) = (max.clamp(1, PAGE), self.log_time());
        let mut found = self
            .catalog
            .list_deleted(account, prefix, after)
            .filter(|queue| queue.row.kept.is_some_and(|kept| kept.until > now));
        let page = found.by_ref().take(max).map(|queue| self.view(queue)).collect();
        (page, found.next().is_some())
    }
}
