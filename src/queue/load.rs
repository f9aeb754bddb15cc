//! The state as rows, and the state rebuilt from them.
//!
//! Laws: `load` of all rows gives the same state, with the same digest, which it compares with
//! the one in the counters row: tables that lost or changed a row are found out at the restart.
//! Rows must come in the order of their keys. Rows of cleared messages and deleted queues are
//! welcome: they wait to be freed, as they did before.

use super::dedup::Keys;
use super::ids::{Digest, Number, QueueId};
use super::order::Lineup;
use super::redrive::Jobs;
use super::rows::{ChunkRow, CountersRow, KeyRow, MessageRow, QueueRow, RedriveRow, Row, RowKey};
use super::rules;
use super::state::State;

/// Why rows are not a state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("the rows have no counters row, or not before all others")]
    NoCounters,
    #[error("row {0:?} is there twice, out of order or not well formed")]
    BadRow(RowKey),
    #[error("row {0:?} belongs to a queue that is not there")]
    NoQueue(RowKey),
    #[error("the rows are of rules version {found}, and this build knows up to {known}")]
    NewerRules { found: u32, known: u32 },
    #[error("the authority row has revision {found}, and {expected} was stored with the counters")]
    WrongAuthority { expected: u64, found: u64 },
    #[error("the rows have the digest {computed}, and {stored} was stored with them")]
    WrongDigest { stored: Digest, computed: Digest },
}

impl State {
    /// Rebuilds a state. No rows at all make a new one.
    ///
    /// # Errors
    /// [`LoadError`]: the rows are not those of one state, or not all of them.
    pub fn load(rows: impl IntoIterator<Item = Row>) -> Result<State, LoadError> {
        let mut rows = rows.into_iter();
        let mut state = State::new();
        let (stored, expected) = match rows.next() {
            None => return Ok(state),
            Some(Row::Counters(row)) => {
                if row.rules > rules::KNOWN {
                    let (found, known) = (row.rules, rules::KNOWN);
                    return Err(LoadError::NewerRules { found, known });
                }
                let stored = (row.digest, row.authority);
                state.counters = row;
                stored
            }
            Some(_) => return Err(LoadError::NoCounters),
        };
        // Messages come queue by queue, so the sums are settled at the end of each.
        let mut open: Option<QueueId> = None;
        for row in rows {
            let (key, queue) = (row.key(), queue_of(&row));
            if open != queue {
                open.into_iter().for_each(|id| state.catalog.settle(id));
                open = queue;
            }
            let taken = match row {
                Row::Counters(_) => false,
                Row::Queue(row) => state.load_queue(row),
                Row::Chunk(row) => state.load_chunk(&row)?,
                Row::Message(row) => state.load_message(&row)?,
                Row::Session(_) if crate::mutants::is_chosen("rows-without-sessions") => true,
                Row::Session(row) => state.sessions.load(row),
                Row::Key(row) => state.load_key(&row)?,
                Row::Authority(row) => state.load_authority(row),
                Row::Audit(row) => state.load_audit(row),
                Row::Seed(row) => state.load_seed(row),
                Row::Redrive(row) => state.load_redrive(row)?,
                Row::Account(row) => state.catalog.accounts.load(&row),
            };
            if !taken {
                return Err(LoadError::BadRow(key));
            }
        }
        open.into_iter().for_each(|id| state.catalog.settle(id));
        let found = state.authority().map_or(0, |authority| authority.revision);
        if found != expected {
            return Err(LoadError::WrongAuthority { expected, found });
        }
        let computed = state.digest();
        if computed != stored {
            return Err(LoadError::WrongDigest { stored, computed });
        }
        Ok(state)
    }

    /// How many messages the row of a chunk holds.
    #[must_use]
    pub fn untouched_in(&self, queue: QueueId, priority: u8, first: Number) -> usize {
        self.lineups(queue).find_map(|lineup| lineup.chunk_len(priority, first)).unwrap_or(0)
    }

    /// The row that the tables must hold under `key`; `None` = none.
    #[must_use]
    pub fn row(&self, key: &RowKey) -> Option<Row> {
        match *key {
            RowKey::Counters => Some(Row::Counters(self.counters_row())),
            RowKey::Queue(id) => {
                let live = self.catalog.by_id(id).map(|queue| &queue.row);
                let dead = || self.catalog.graves.get(&id)?.deleted.as_ref();
                live.or_else(dead).cloned().map(Row::Queue)
            }
            RowKey::Chunk { queue, priority, first } => self
                .lineups(queue)
                .find_map(|lineup| lineup.chunk_row(priority, first))
                .map(Row::Chunk),
            RowKey::Message { queue, number } => {
                self.lineups(queue).find_map(|lineup| lineup.message_row(number)).map(Row::Message)
            }
            RowKey::Session(client) => self.sessions.row(client).map(Row::Session),
            RowKey::Key { queue, key } => {
                let live = self.catalog.by_id(queue).map(|queue| &queue.keys);
                let dead = || self.catalog.graves.get(&queue)?.keys.as_ref();
                live.or_else(dead)?.row(key).map(Row::Key)
            }
            RowKey::Authority => self.authority.clone().map(Row::Authority),
            RowKey::Audit(number) => self.audit_row(number).cloned().map(Row::Audit),
            RowKey::Seed(number) => self.seed_row(number).cloned().map(Row::Seed),
            RowKey::Redrive { queue, number } => {
                let live = self.catalog.by_id(queue).map(|queue| &queue.redrives);
                let dead = || self.catalog.graves.get(&queue)?.redrives.as_ref();
                live.or_else(dead)?.row(number).map(Row::Redrive)
            }
            RowKey::Account(name) => self.catalog.accounts.row(name).map(Row::Account),
        }
    }

    /// The keys of all rows, in order, without those that only wait to be freed.
    #[must_use]
    pub fn row_keys(&self) -> Vec<RowKey> {
        let mut keys = vec![RowKey::Counters];
        for queue in self.catalog.all() {
            keys.push(RowKey::Queue(queue.row.id));
            keys.extend(queue.lineup.row_keys());
            keys.extend(queue.keys.row_keys());
            keys.extend(queue.redrives.row_keys());
        }
        keys.extend(self.catalog.accounts.row_keys());
        keys.extend(self.sessions.clients().map(RowKey::Session));
        keys.extend(self.authority_keys());
        keys.sort_unstable();
        keys
    }

    fn counters_row(&self) -> CountersRow {
        let authority = self.authority().map_or(0, |authority| authority.revision);
        CountersRow { digest: self.digest(), authority, ..self.counters.clone() }
    }

    /// The live messages of a queue, then those that wait to be freed.
    fn lineups(&self, id: QueueId) -> impl Iterator<Item = &Lineup> {
        let live = self.catalog.by_id(id).map(|queue| &queue.lineup);
        let dead = self.catalog.graves.get(&id).map(|grave| grave.lineups.iter());
        live.into_iter().chain(dead.into_iter().flatten())
    }

    fn load_queue(&mut self, row: QueueRow) -> bool {
        if !row.deleted {
            return self.catalog.insert(row);
        }
        let grave = self.catalog.graves.entry(row.id).or_default();
        grave.deleted.replace(row).is_none()
    }

    fn load_chunk(&mut self, row: &ChunkRow) -> Result<bool, LoadError> {
        if let Some(queue) = self.catalog.by_id_mut(row.queue)
            && row.first >= queue.row.cleared_below
        {
            return Ok(queue.lineup.load_chunk(row));
        }
        let key = RowKey::Chunk { queue: row.queue, priority: row.priority, first: row.first };
        Ok(self.dead_lineup(row.queue, key)?.load_chunk(row))
    }

    fn load_message(&mut self, row: &MessageRow) -> Result<bool, LoadError> {
        if let Some(queue) = self.catalog.by_id_mut(row.queue)
            && row.arrived() >= queue.row.cleared_below
        {
            return Ok(queue.lineup.load_message(row));
        }
        let key = RowKey::Message { queue: row.queue, number: row.number };
        Ok(self.dead_lineup(row.queue, key)?.load_message(row))
    }

    fn load_key(&mut self, row: &KeyRow) -> Result<bool, LoadError> {
        if let Some(queue) = self.catalog.by_id_mut(row.queue) {
            return Ok(queue.keys.load(row));
        }
        let key = RowKey::Key { queue: row.queue, key: row.key };
        let grave = self.catalog.graves.get_mut(&row.queue).ok_or(LoadError::NoQueue(key))?;
        Ok(grave.keys.get_or_insert_with(|| Keys::new(row.queue)).load(row))
    }

    fn load_redrive(&mut self, row: RedriveRow) -> Result<bool, LoadError> {
        let key = RowKey::Redrive { queue: row.queue, number: row.number };
        if let Some(queue) = self.catalog.by_id_mut(row.queue) {
            return Ok(queue.redrives.load(row));
        }
        let grave = self.catalog.graves.get_mut(&row.queue).ok_or(LoadError::NoQueue(key))?;
        Ok(grave.redrives.get_or_insert_with(|| Jobs::new(row.queue)).load(row))
    }

    /// Where rows below a mark, or of a deleted queue, wait to be freed.
    fn dead_lineup(&mut self, id: QueueId, key: RowKey) -> Result<&mut Lineup, LoadError> {
        let known = self.catalog.by_id(id).is_some() || self.catalog.graves.contains_key(&id);
        if !known {
            return Err(LoadError::NoQueue(key));
        }
        let grave = self.catalog.graves.entry(id).or_default();
        if grave.lineups.is_empty() {
            grave.lineups.push(Lineup::new(id));
        }
        grave.lineups.last_mut().ok_or(LoadError::NoQueue(key))
    }
}

fn queue_of(row: &Row) -> Option<QueueId> {
    match row {
        Row::Chunk(row) => Some(row.queue),
        Row::Message(row) => Some(row.queue),
        Row::Key(row) => Some(row.queue),
        Row::Redrive(row) => Some(row.queue),
        _ => None,
    }
}
