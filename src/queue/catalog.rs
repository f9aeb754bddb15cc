//! The queues, by account and name and by id, with what is summed over all of them.
//!
//! Laws: a name leads to one queue; a queue deleted and made again has a new id. After a change
//! to a queue [`Catalog::settle`] brings the sums and the expiry index up to date. What was
//! cleared or deleted goes to a [`Grave`] in one move and has no part in sums, reads or digest
//! from then on; `reclaim.rs` frees it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::command::Settings;
use super::dedup::Keys;
use super::digest;
use super::error::Rejection;
use super::ids::{LogTime, QueueId};
use super::order::Lineup;
use super::rows::QueueRow;

#[derive(Clone, Debug, Default)]
pub struct Catalog {
    names: BTreeMap<String, BTreeMap<String, QueueId>>,
    queues: BTreeMap<QueueId, Queue>,
    /// When the first message or key of each queue becomes due.
    expiries: BTreeSet<(LogTime, QueueId)>,
    totals: Settled,
    /// Account and name of each dead-letter queue, with whose it is.
    feeds: BTreeSet<(String, String, QueueId)>,
    pub(super) graves: BTreeMap<QueueId, Grave>,
}

#[derive(Clone, Debug)]
pub struct Queue {
    pub row: QueueRow,
    pub lineup: Lineup,
    pub keys: Keys,
    settled: Settled,
}

impl Queue {
    /// Whether receives find nothing.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.row.paused && !crate::mutants::is_chosen("pause-ignored")
    }
}

/// What the sums hold of one queue, or of all.
#[derive(Clone, Copy, Debug, Default)]
struct Settled {
    sum: u128,
    row_hash: u128,
    messages: u64,
    bytes: u64,
    earliest: Option<LogTime>,
}

/// What is left to free of a queue: cleared messages, or all of a deleted one.
#[derive(Clone, Debug, Default)]
pub struct Grave {
    /// The row of a deleted queue, kept until its messages are freed.
    pub deleted: Option<QueueRow>,
    pub lineups: Vec<Lineup>,
    pub keys: Option<Keys>,
}

impl Catalog {
    pub fn id(&self, account: &str, name: &str) -> Option<QueueId> {
        self.names.get(account)?.get(name).copied()
    }

    pub fn find(&self, account: &str, name: &str) -> Option<&Queue> {
        self.queues.get(&self.id(account, name)?)
    }

    /// The queue, to be changed; [`Catalog::settle`] must follow.
    ///
    /// # Errors
    /// [`Rejection::QueueNotFound`].
    pub fn open(&mut self, account: &str, name: &str) -> Result<&mut Queue, Rejection> {
        let id = self.id(account, name);
        id.and_then(|id| self.queues.get_mut(&id))
            .ok_or_else(|| Rejection::QueueNotFound(name.to_owned()))
    }

    pub fn by_id(&self, id: QueueId) -> Option<&Queue> {
        self.queues.get(&id)
    }

    pub fn by_id_mut(&mut self, id: QueueId) -> Option<&mut Queue> {
        self.queues.get_mut(&id)
    }

    pub fn all(&self) -> impl Iterator<Item = &Queue> {
        self.queues.values()
    }

    pub fn count_in(&self, account: &str) -> usize {
        self.names.get(account).map_or(0, BTreeMap::len)
    }

    /// The queues of an account behind `after` whose names begin with `prefix`, by name.
    pub fn list<'a>(
        &'a self,
        account: &str,
        prefix: &'a str,
        after: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Queue> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.names
            .get(account)
            .into_iter()
            .flat_map(move |names| names.range::<str, _>((from, Bound::Unbounded)))
            .take_while(move |(name, _)| name.starts_with(prefix))
            .filter_map(|(_, id)| self.queues.get(id))
    }

    /// Adds a queue. False, and nothing is done, when its name or id is taken.
    pub fn insert(&mut self, row: QueueRow) -> bool {
        let id = row.id;
        if self.queues.contains_key(&id) || self.id(&row.account, &row.name).is_some() {
            return false;
        }
        self.names.entry(row.account.clone()).or_default().insert(row.name.clone(), id);
        self.feeds.extend(feed(&row));
        let (lineup, keys, settled) = (Lineup::new(id), Keys::new(id), Settled::default());
        self.queues.insert(id, Queue { row, lineup, keys, settled });
        self.settle_row(id);
        true
    }

    /// Takes a queue out and puts it into its grave.
    pub fn bury(&mut self, account: &str, name: &str) -> Option<QueueId> {
        let names = self.names.get_mut(account)?;
        let id = names.remove(name)?;
        if names.is_empty() {
            self.names.remove(account);
        }
        let mut queue = self.queues.remove(&id)?;
        self.totals.take(&queue.settled);
        if let Some(at) = queue.settled.earliest {
            self.expiries.remove(&(at, id));
        }
        if let Some(feed) = feed(&queue.row) {
            self.feeds.remove(&feed);
        }
        queue.row.deleted = true;
        let grave = self.graves.entry(id).or_default();
        grave.deleted = Some(queue.row);
        grave.lineups.push(queue.lineup);
        grave.keys = Some(queue.keys);
        Some(id)
    }

    /// Replaces a queue's settings; [`Catalog::settle_row`] must follow.
    pub fn set_settings(&mut self, id: QueueId, settings: &Settings) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        if let Some(feed) = feed(&queue.row) {
            self.feeds.remove(&feed);
        }
        queue.row.settings.clone_from(settings);
        self.feeds.extend(feed(&queue.row));
    }

    /// A queue whose dead letters go to the one of this name.
    pub fn fed_by(&self, account: &str, name: &str) -> Option<&Queue> {
        let first = (account.to_owned(), name.to_owned(), QueueId(0));
        let (of, to, id) = self.feeds.range(first..).next()?;
        if of == account && to == name { self.queues.get(id) } else { None }
    }

    /// Moves all messages of a queue into its grave; the caller moves its mark and settles.
    pub fn bury_messages(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let lineup = std::mem::replace(&mut queue.lineup, Lineup::new(id));
        self.graves.entry(id).or_default().lineups.push(lineup);
    }

    /// Brings sums and expiry index up to date after the messages of a queue changed.
    pub fn settle(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(&id) else { return };
        let now = Settled {
            sum: queue.lineup.sum().wrapping_add(queue.keys.sum()),
            row_hash: queue.settled.row_hash,
            messages: queue.lineup.total(),
            bytes: queue.lineup.bytes(),
            earliest: first(queue.lineup.earliest_end(), queue.keys.first_end()),
        };
        let before = std::mem::replace(&mut queue.settled, now);
        self.totals.take(&before);
        self.totals.give(&now);
        if before.earliest != now.earliest {
            if let Some(at) = before.earliest {
                self.expiries.remove(&(at, id));
            }
            if let Some(at) = now.earliest {
                self.expiries.insert((at, id));
            }
        }
    }

    /// As [`Catalog::settle`], after the queue's row changed too.
    pub fn settle_row(&mut self, id: QueueId) {
        if let Some(queue) = self.queues.get_mut(&id) {
            let hash = digest::queue(&queue.row);
            let before = std::mem::replace(&mut queue.settled.row_hash, hash);
            self.totals.row_hash = self.totals.row_hash.wrapping_sub(before).wrapping_add(hash);
        }
        self.settle(id);
    }

    /// The queue in which something becomes due first.
    pub fn next_expiry(&self) -> Option<(LogTime, QueueId)> {
        self.expiries.first().copied()
    }

    /// The sum of the hashes of all queues and messages.
    pub fn sum(&self) -> u128 {
        self.totals.sum.wrapping_add(self.totals.row_hash)
    }

    /// Queues, messages and their bytes.
    pub fn totals(&self) -> (u64, u64, u64) {
        (self.queues.len() as u64, self.totals.messages, self.totals.bytes)
    }
}

fn first(a: Option<LogTime>, b: Option<LogTime>) -> Option<LogTime> {
    a.into_iter().chain(b).min()
}

/// Where the dead letters of a queue go.
fn feed(row: &QueueRow) -> Option<(String, String, QueueId)> {
    let target = row.settings.dead_letters.as_ref()?;
    Some((row.account.clone(), target.queue.clone(), row.id))
}

impl Settled {
    fn take(&mut self, part: &Settled) {
        self.sum = self.sum.wrapping_sub(part.sum);
        self.row_hash = self.row_hash.wrapping_sub(part.row_hash);
        self.messages -= part.messages;
        self.bytes -= part.bytes;
    }

    fn give(&mut self, part: &Settled) {
        self.sum = self.sum.wrapping_add(part.sum);
        self.row_hash = self.row_hash.wrapping_add(part.row_hash);
        self.messages += part.messages;
        self.bytes += part.bytes;
    }
}
