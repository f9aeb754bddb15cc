//! Bringing queues near before they are worked on.
//!
//! With thousands of queues the memory of each is cold, and to send to one, or to list it, takes
//! some ten lines of it, some found through others. Worked on one after the other, queues wait for
//! each of these lines in turn. Read here first, by short steps that are independent of each other,
//! the lines of many queues come at once: the processor asks for the next while it waits for the
//! one before. What that saves is in `benches/README.md`.
//!
//! Law: it only reads, and nothing depends on it.

use std::hint::black_box;

use super::catalog::{Catalog, Queue, name_hash};
use super::command::{Command, Envelope};
use super::ids::QueueId;
use super::state::State;

/// So many queues at once: more would not stay near.
pub const NEAR: usize = 32;

impl State {
    /// Brings near what the sends among the next commands will change.
    pub(super) fn touch(&self, next: &[Envelope]) {
        if next.len() < 2 || self.catalog.count() < 2 {
            return;
        }
        let catalog: &Catalog = &self.catalog;
        let sends = next.iter().filter_map(|envelope| match &envelope.command {
            Command::Send { queue, .. } => Some(name_hash(&envelope.account, queue)),
            _ => None,
        });
        // One thing for all queues, then the next for all: one queue is not waited for.
        let hashes: Vec<u64> = sends.collect();
        let ids: Vec<QueueId> = hashes.iter().filter_map(|hash| catalog.hashed(*hash)).collect();
        let near: Vec<&Queue> = ids.iter().filter_map(|id| catalog.by_id(*id)).collect();
        queues(&near);
    }
}

/// Brings queues near, [`NEAR`] of them at most.
pub fn queues(near: &[&Queue]) {
    black_box(near.iter().map(|queue| queue.touch()).fold(0, u64::wrapping_add));
    black_box(near.iter().map(|queue| queue.lineup.touch()).fold(0, u64::wrapping_add));
}

impl Queue {
    /// Reads something of each line that it takes, and its names.
    fn touch(&self) -> u64 {
        let Queue { row, lineup, keys, redrives, .. } = self;
        let first = |name: &String| name.as_bytes().first().map_or(0, |byte| u64::from(*byte));
        let settings = &row.settings;
        let numbers = [
            settings.quota.messages.unwrap_or(0),
            settings.undelete_window.0,
            u64::from(settings.max_message_bytes),
            row.cleared_below.0,
            row.metadata.len() as u64,
            row.kept.map_or(0, |kept| kept.until.0),
            lineup.total(),
        ];
        let sums = [lineup.sum(), keys.sum(), redrives.sum(), self.digest()];
        let sum = sums.into_iter().fold(0, u128::wrapping_add) as u64;
        let names = [&row.account, &row.name].map(first);
        numbers.into_iter().chain(names).fold(sum, u64::wrapping_add)
    }
}
