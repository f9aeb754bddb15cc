//! The queues, by account and name and by id, with what is summed over all of them.
//!
//! Laws: a name leads to one queue; a queue deleted and made again has a new id. After a change
//! to a queue [`Catalog::settle`] brings the sums and the expiry index up to date. What was
//! cleared or deleted goes to a [`Grave`] in one move and has no part in sums, reads or digest
//! from then on; `reclaim.rs` frees it.

mod by_id;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use hashbrown::HashTable;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use by_id::Queues;

use super::accounts::{Accounts, Held};
use super::command::Settings;
use super::dedup::Keys;
use super::digest;
use super::error::Rejection;
use super::feeds::Feeds;
use super::ids::{LogTime, QueueId};
use super::order::Lineup;
use super::redrive::Jobs;
use super::rows::{Deleted, QueueRow};

#[derive(Clone, Debug, Default)]
pub struct Catalog {
    names: BTreeMap<String, BTreeMap<String, QueueId>>,
    /// The same by a hash of account and name: each step of a search in `names` is a string
    /// elsewhere in memory, and with thousands of queues none of them is near.
    hashed: HashTable<(u64, QueueId)>,
    queues: Queues,
    /// When the first message or key of each queue becomes due.
    expiries: BTreeSet<(LogTime, QueueId)>,
    totals: Settled,
    feeds: Feeds,
    /// Account, name and id of each queue that was deleted and is kept.
    deleted: BTreeSet<(String, String, QueueId)>,
    /// Of each account that keeps deleted queues: when each one's window ends.
    windows: BTreeMap<String, BTreeSet<(LogTime, QueueId)>>,
    pub(super) accounts: Accounts,
    pub(super) graves: BTreeMap<QueueId, Grave>,
}

#[derive(Clone, Debug)]
pub struct Queue {
    pub row: QueueRow,
    pub lineup: Lineup,
    pub keys: Keys,
    pub redrives: Jobs,
    settled: Settled,
}

impl Queue {
    /// Whether receives find nothing.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.row.paused && !crate::mutants::is_chosen("pause-ignored")
    }

    /// The sum of the hashes of its row and of all in it.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.settled.sum.wrapping_add(self.settled.row_hash)
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
    pub redrives: Option<Jobs>,
}

impl Catalog {
    pub fn id(&self, account: &str, name: &str) -> Option<QueueId> {
        let hash = name_hash(account, name);
        let is_named = |(of, id): &(u64, QueueId)| {
            let row = || self.by_id(*id).map(|queue| &queue.row);
            *of == hash && row().is_some_and(|row| row.name == name && row.account == account)
        };
        self.hashed.find(hash, is_named).map(|(_, id)| *id)
    }

    /// A queue with this hash of account and name: most likely the one.
    pub fn hashed(&self, hash: u64) -> Option<QueueId> {
        self.hashed.find(hash, |(of, _)| *of == hash).map(|(_, id)| *id)
    }

    pub fn find(&self, account: &str, name: &str) -> Option<&Queue> {
        self.by_id(self.id(account, name)?)
    }

    /// The queue, to be changed; [`Catalog::settle`] must follow.
    ///
    /// # Errors
    /// [`Rejection::QueueNotFound`].
    pub fn open(&mut self, account: &str, name: &str) -> Result<&mut Queue, Rejection> {
        let id = self.id(account, name);
        id.and_then(|id| self.by_id_mut(id))
            .ok_or_else(|| Rejection::QueueNotFound(name.to_owned()))
    }

    pub fn by_id(&self, id: QueueId) -> Option<&Queue> {
        self.queues.get(id)
    }

    pub fn by_id_mut(&mut self, id: QueueId) -> Option<&mut Queue> {
        self.queues.get_mut(id)
    }

    /// The queues by id.
    pub fn all(&self) -> impl Iterator<Item = &Queue> {
        self.behind(None)
    }

    /// How many there are, deleted ones that are kept too.
    pub fn count(&self) -> usize {
        self.queues.len()
    }

    /// The queues behind an id, by id.
    pub fn behind(&self, after: Option<QueueId>) -> impl Iterator<Item = &Queue> {
        self.queues.behind(after)
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
        // Behind all that begin so: no name is above this one. A look at each would fetch it from
        // memory, one after the other.
        let end = format!("{prefix}\u{10ffff}");
        let names = self.names.get(account).filter(|_| after.is_none_or(|after| after < &*end));
        names
            .into_iter()
            .flat_map(move |names| names.range::<str, _>((from, Bound::Excluded(&*end))))
            .filter_map(|(_, id)| self.by_id(*id))
    }

    /// Adds a queue. False, and nothing is done, when its name or id is taken.
    pub fn insert(&mut self, row: QueueRow) -> bool {
        let id = row.id;
        let named = row.kept.is_none();
        if self.queues.get(id).is_some() || named && self.id(&row.account, &row.name).is_some() {
            return false;
        }
        self.enter(&row);
        let (lineup, keys, redrives) = (Lineup::new(id), Keys::new(id), Jobs::new(id));
        let settled = Settled::default();
        self.queues.insert(Queue { row, lineup, keys, redrives, settled });
        self.settle_row(id);
        true
    }

    /// The name of a queue leads to it, and its dead letters go where they go; or it is among
    /// the deleted.
    fn enter(&mut self, row: &QueueRow) {
        if let Some(kept) = row.kept {
            self.deleted.insert((row.account.clone(), row.name.clone(), row.id));
            self.windows.entry(row.account.clone()).or_default().insert((kept.until, row.id));
            return;
        }
        self.names.entry(row.account.clone()).or_default().insert(row.name.clone(), row.id);
        let hashed = (name_hash(&row.account, &row.name), row.id);
        self.hashed.insert_unique(hashed.0, hashed, |(hash, _)| *hash);
        self.change_feeds(row, Feeds::add);
    }

    fn leave(&mut self, row: &QueueRow) {
        if let Some(kept) = row.kept {
            self.deleted.remove(&(row.account.clone(), row.name.clone(), row.id));
            if let Some(windows) = self.windows.get_mut(&row.account) {
                windows.remove(&(kept.until, row.id));
                if windows.is_empty() {
                    self.windows.remove(&row.account);
                }
            }
            return;
        }
        if let Some(names) = self.names.get_mut(&row.account) {
            names.remove(&row.name);
            if names.is_empty() {
                self.names.remove(&row.account);
            }
        }
        let hash = name_hash(&row.account, &row.name);
        if let Ok(entry) = self.hashed.find_entry(hash, |(_, id)| *id == row.id) {
            entry.remove();
        }
        self.change_feeds(row, Feeds::remove);
    }

    /// Takes a queue out and puts it into its grave.
    pub fn bury(&mut self, id: QueueId) {
        let Some(mut queue) = self.queues.remove(id) else { return };
        self.leave(&queue.row);
        self.totals.take(&queue.settled);
        self.accounts.change(&queue.row.account, queue.settled.held(), Held::default());
        if let Some(at) = queue.settled.earliest {
            self.expiries.remove(&(at, id));
        }
        queue.row.deleted = true;
        let grave = self.graves.entry(id).or_default();
        grave.deleted = Some(queue.row);
        grave.lineups.push(queue.lineup);
        grave.keys = Some(queue.keys);
        grave.redrives = Some(queue.redrives);
    }

    /// Makes a queue one that was deleted and is kept, or one that has a name again.
    pub fn set_deleted(&mut self, id: QueueId, kept: Option<Deleted>, name: &str) {
        let Some(before) = self.queues.get(id).map(|queue| queue.row.clone()) else { return };
        self.leave(&before);
        let row = QueueRow { kept, name: name.to_owned(), ..before };
        self.enter(&row);
        if let Some(queue) = self.queues.get_mut(id) {
            queue.row = row;
        }
        self.settle_row(id);
    }

    #[must_use]
    pub fn count_deleted(&self, account: &str) -> usize {
        self.windows.get(account).map_or(0, BTreeSet::len)
    }

    /// The deleted queue of an account whose window ends first.
    pub fn first_to_go(&self, account: &str) -> Option<QueueId> {
        self.windows.get(account)?.first().map(|(_, id)| *id)
    }

    /// The deleted queues that had this name.
    pub fn deleted<'a>(&'a self, account: &str, name: &'a str) -> impl Iterator<Item = &'a Queue> {
        self.list_deleted(account, name, None).take_while(move |queue| queue.row.name == name)
    }

    /// The deleted queues of an account whose names begin with `prefix`, by name and id.
    pub fn list_deleted<'a>(
        &'a self,
        account: &str,
        prefix: &'a str,
        after: Option<(&str, QueueId)>,
    ) -> impl Iterator<Item = &'a Queue> {
        let account = account.to_owned();
        let from = match after {
            Some((name, id)) if name >= prefix => {
                Bound::Excluded((account.clone(), name.to_owned(), id))
            }
            _ => Bound::Included((account.clone(), prefix.to_owned(), QueueId(0))),
        };
        self.deleted
            .range((from, Bound::Unbounded))
            .take_while(move |(of, name, _)| *of == account && name.starts_with(prefix))
            .filter_map(|(_, _, id)| self.by_id(*id))
    }

    /// Accounts that have queues.
    pub fn accounts_after<'a>(
        &'a self,
        from: (Bound<&'a str>, Bound<&'a str>),
    ) -> impl Iterator<Item = &'a str> {
        self.names.range::<str, _>(from).map(|(name, _)| name.as_str())
    }

    /// The first accounts behind a name that keep deleted queues.
    pub fn accounts_with_deleted(&self, after: Option<&str>, most: usize) -> Vec<&str> {
        let mut found: Vec<&str> = Vec::new();
        let mut last = after.map(str::to_owned);
        while found.len() < most {
            // Behind all queues of the last one: no name is above this one.
            let from = last.map_or(Bound::Unbounded, |name| {
                Bound::Excluded((name, "\u{10ffff}".to_owned(), QueueId(u64::MAX)))
            });
            let Some((name, _, _)) = self.deleted.range((from, Bound::Unbounded)).next() else {
                break;
            };
            found.push(name);
            last = Some(name.clone());
        }
        found
    }

    /// Replaces a queue's settings; [`Catalog::settle_row`] must follow.
    pub fn set_settings(&mut self, id: QueueId, settings: &Settings) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let before = queue.row.clone();
        queue.row.settings.clone_from(settings);
        let after = queue.row.clone();
        self.change_feeds(&before, Feeds::remove);
        self.change_feeds(&after, Feeds::add);
    }

    /// Adds or removes where the dead letters of a queue go.
    fn change_feeds<F>(&mut self, row: &QueueRow, change: F)
    where
        F: Fn(&mut Feeds, &QueueRow, &dyn Fn(&str) -> Option<String>),
    {
        let mut feeds = std::mem::take(&mut self.feeds);
        change(&mut feeds, row, &|name| {
            let settings = &self.find(&row.account, name)?.row.settings;
            settings.dead_letters.as_ref().map(|target| target.queue.clone())
        });
        self.feeds = feeds;
    }

    /// A queue whose dead letters go to the one of this name.
    pub fn fed_by(&self, account: &str, name: &str) -> Option<&Queue> {
        self.by_id(self.feeds.first(account, name)?)
    }

    /// How many queues, one behind the other, send their dead letters on to the one of this name.
    pub fn levels_above(&self, account: &str, name: &str) -> usize {
        self.feeds.above(account, name)
    }

    /// Moves all messages of a queue into its grave; the caller moves its mark and settles.
    pub fn bury_messages(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let lineup = std::mem::replace(&mut queue.lineup, Lineup::new(id));
        self.graves.entry(id).or_default().lineups.push(lineup);
    }

    /// Brings sums and expiry index up to date after the messages of a queue changed.
    pub fn settle(&mut self, id: QueueId) {
        let Some(queue) = self.queues.get_mut(id) else { return };
        let rows = queue.lineup.sum().wrapping_add(queue.keys.sum());
        let sum = rows.wrapping_add(queue.redrives.sum());
        let row_hash = queue.settled.row_hash;
        let now = if let Some(kept) = queue.row.kept {
            Settled { sum, row_hash, messages: 0, bytes: 0, earliest: Some(kept.until) }
        } else {
            let ends =
                [queue.lineup.earliest_end(), queue.keys.first_end(), queue.redrives.next_step()];
            let earliest = ends.into_iter().flatten().min();
            let (messages, bytes) = (queue.lineup.total(), queue.lineup.bytes());
            Settled { sum, row_hash, messages, bytes, earliest }
        };
        let before = std::mem::replace(&mut queue.settled, now);
        self.accounts.change(&queue.row.account, before.held(), now.held());
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
        if let Some(queue) = self.queues.get_mut(id) {
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
        let queues = self.totals.sum.wrapping_add(self.totals.row_hash);
        queues.wrapping_add(self.accounts.sum())
    }

    /// Queues, messages and their bytes; deleted queues that are kept do not count.
    pub fn totals(&self) -> (u64, u64, u64) {
        let queues = self.queues.len() - self.deleted.len();
        (queues as u64, self.totals.messages, self.totals.bytes)
    }
}

/// Of an account and a name; each side by itself, so that a shift between them is no collision.
pub fn name_hash(account: &str, name: &str) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), xxh3_64(account.as_bytes()))
}

impl Settled {
    fn held(&self) -> Held {
        Held { messages: self.messages, bytes: self.bytes }
    }

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
