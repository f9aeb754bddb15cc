//! Freeing what was cleared or deleted, in the background of each node.
//!
//! Laws: this is the node's own work and is not replicated; it changes neither digest nor
//! counts, for those rows do not exist any more. Until a row is freed [`State::row`] still gives
//! it, so that a table never loses a message row whose content it has not dropped. After a
//! restart the rows below a mark or of a deleted queue are found again and freed then.

use super::outcome::Changes;
use super::rows::RowKey;
use super::state::State;

impl State {
    /// Frees up to `max` messages and names their rows and contents. Nothing to free: no
    /// changes.
    pub fn reclaim(&mut self, max: usize) -> Changes {
        let mut changes = Changes::default();
        let mut left = max;
        while left > 0
            && let Some(mut entry) = self.catalog.graves.first_entry()
        {
            let grave = entry.get_mut();
            if let Some(lineup) = grave.lineups.last_mut() {
                let freed = lineup.shed(left, &mut changes);
                left -= freed;
                if freed == 0 {
                    grave.lineups.pop();
                }
                continue;
            }
            if let Some(keys) = &mut grave.keys {
                let freed = keys.shed(left, &mut changes);
                left -= freed;
                if freed == 0 {
                    grave.keys = None;
                }
                continue;
            }
            if let Some(mut redrives) = grave.redrives.take() {
                // A few of each queue.
                left = left.saturating_sub(redrives.shed(&mut changes));
                continue;
            }
            let (id, grave) = entry.remove_entry();
            if grave.deleted.is_some() {
                changes.row(RowKey::Queue(id));
            }
        }
        changes
    }

    /// The keys of the rows that wait to be freed.
    #[must_use]
    pub(super) fn grave_keys(&self) -> Vec<RowKey> {
        let mut keys = Vec::new();
        for (id, grave) in &self.catalog.graves {
            keys.extend(grave.deleted.iter().map(|_| RowKey::Queue(*id)));
            keys.extend(grave.lineups.iter().flat_map(|lineup| lineup.row_keys()));
            keys.extend(grave.keys.iter().flat_map(|kept| kept.row_keys()));
            keys.extend(grave.redrives.iter().flat_map(|jobs| jobs.row_keys()));
        }
        keys
    }

    /// Whether [`State::reclaim`] has work.
    #[must_use]
    pub fn has_garbage(&self) -> bool {
        !self.catalog.graves.is_empty()
    }
}
