//! When a commit is due, and when bodies alone.
//!
//! A commit writes a row for each queue that has changed, and in it the newest messages of that
//! queue, however few are new. With thousands of queues a commit has as many rows, and they cost
//! more than its bodies. So bodies go ahead of it when memory is to be had back, a few times, and
//! it waits; what that saves is in `benches/README.md`.

use super::Store;

/// So often, at most, are bodies written ahead of one commit: a restart takes them in again from
/// the log.
pub(super) const MOST_AHEAD: usize = 3;
/// A commit is this much smaller where space is scarce.
const THRIFTY: usize = 16;

/// What may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Bodies are to be written, and all else can wait.
    Bodies,
    Commit,
}

impl Store {
    /// What is due now: by bytes, by time, or for what there is to clear away.
    pub(super) fn due(&self) -> Option<Due> {
        let bodies = &self.generation.bodies;
        let share = if self.options.space.is_scarce() { THRIFTY } else { 1 };
        if self.dirty_bytes() >= self.options.commit_bytes / share
            || bodies.held_bytes() >= self.options.body_bytes
        {
            return Some(if self.can_wait() { Due::Bodies } else { Due::Commit });
        }
        let now = self.options.clock.monotonic_us();
        let interval = u64::try_from(self.options.commit_interval.as_micros()).unwrap_or(u64::MAX);
        let waited = |since: u64| now.saturating_sub(since) >= interval;
        let is_due = self.changed_at_us.is_some_and(waited)
            || (waited(self.last_commit_us)
                && (bodies.has_sparse(self.may_copy()) || self.has_rubbish()));
        is_due.then_some(Due::Commit)
    }

    /// Whether the rows of a commit are too many for the bytes in it, and bodies are most of what
    /// waits.
    fn can_wait(&self) -> bool {
        self.ahead < MOST_AHEAD.min(self.dirty.len() / self.options.many_rows.max(1))
            && self.generation.bodies.unplaced_bytes() > self.dirty_bytes() / 2
            && !self.options.space.is_scarce()
    }
}
