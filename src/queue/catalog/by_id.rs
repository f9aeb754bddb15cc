//! The queues by their ids: found in one step, and walked in the order of the ids.
//!
//! Law: the table is never walked, so its order decides nothing.

use std::collections::BTreeSet;
use std::ops::Bound;

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::Queue;
use crate::queue::ids::QueueId;

#[derive(Clone, Debug, Default)]
pub struct Queues {
    table: HashTable<(QueueId, Box<Queue>)>,
    ids: BTreeSet<QueueId>,
}

fn hash(id: QueueId) -> u64 {
    xxh3_64(&id.0.to_le_bytes())
}

impl Queues {
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    #[must_use]
    pub fn get(&self, id: QueueId) -> Option<&Queue> {
        self.table.find(hash(id), |(of, _)| *of == id).map(|(_, queue)| &**queue)
    }

    pub fn get_mut(&mut self, id: QueueId) -> Option<&mut Queue> {
        self.table.find_mut(hash(id), |(of, _)| *of == id).map(|(_, queue)| &mut **queue)
    }

    /// Adds a queue; none of its id is there.
    pub fn insert(&mut self, queue: Queue) {
        let id = queue.row.id;
        self.table.insert_unique(hash(id), (id, Box::new(queue)), |(id, _)| hash(*id));
        self.ids.insert(id);
    }

    pub fn remove(&mut self, id: QueueId) -> Option<Queue> {
        let entry = self.table.find_entry(hash(id), |(of, _)| *of == id).ok()?;
        self.ids.remove(&id);
        Some(*entry.remove().0.1)
    }

    /// The queues behind an id, by id.
    pub fn behind(&self, after: Option<QueueId>) -> impl Iterator<Item = &Queue> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.ids.range((from, Bound::Unbounded)).filter_map(|id| self.get(*id))
    }
}
