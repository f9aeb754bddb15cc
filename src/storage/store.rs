//! The store: the queue's state in memory, its contents, and the tables that a restart reads.
//!
//! Laws: what the tables hold is the state after exactly the entry in their mark, all kinds of
//! rows and the contents included, in one transaction; body files are fsynced before it. A row
//! changed many times between two commits is written once, and a content that came and went is
//! not written at all. Where a commit would have many rows for few bytes, bodies are written ahead
//! of it, a few times, and the commit waits. A commit that fails is fatal: the store takes no further one. One for
//! which the disk has no room is not begun, and is tried again until it has.
//!
//! The store is synchronous. Over a real disk commits run on a thread and are picked up by the
//! next call; over a simulated one they run in place. Who applies asks [`Store::must_wait`]
//! first, and waits on [`Store::commits`] when it says so.

mod due;
mod error;
mod generation;
mod options;
mod writer;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashSet;
use tokio::sync::watch;

pub use error::StoreError;
use generation::note_damage;
pub(super) use generation::{Generation, read_mark};
pub use generation::{decode, noted_damage, read_pointer};
pub use options::StoreOptions;

use super::bodies::{self, Found, Half, Place};
use super::codec::{self, Mark};
use super::disk::Disk;
use super::keys;
use super::snapshot::{ReadySnapshot, SnapshotView, SnapshotWriter};
use super::space::Space;
use super::tables::Batch;
use crate::queue::State;
use crate::queue::command::{Content, Entry};
use crate::queue::ids::{ContentId, LogTime, Position};
use crate::queue::outcome::{Applied, Changes, ContentEvent};
use crate::queue::rows::RowKey;
use due::Due;
use writer::{Ended, Job, Rubbish, Writer};

/// What the tables may take for a commit beside its rows.
const TABLES_BYTES: u64 = 1 << 20;
/// Between two attempts at a commit for which there was no room.
const NO_ROOM_PAUSE_US: u64 = 100_000;

/// About what an untouched message takes in the row of its chunk.
const UNTOUCHED_BYTES: usize = 16;

/// About what a changed row takes in a commit; of a chunk, without the messages in it.
fn row_cost(key: &RowKey) -> usize {
    match key {
        RowKey::Counters | RowKey::Message { .. } | RowKey::Key { .. } | RowKey::Account(_) => 128,
        RowKey::Chunk { .. } => 128,
        RowKey::Queue(_) | RowKey::Redrive { .. } | RowKey::Authority | RowKey::Audit(_) => 512,
        RowKey::Session(_) => 3 << 10,
        RowKey::Seed(_) => 256 << 10,
    }
}

/// The state of one node with its contents and tables.
#[derive(Debug)]
pub struct Store {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    options: StoreOptions,
    state: State,
    generation: Generation,
    next_generation: u64,
    writer: Writer,
    /// Rows changed since the last commit was planned.
    dirty: HashSet<RowKey>,
    dirty_cost: usize,
    mark: Mark,
    mark_dirty: bool,
    /// The mark of the commit that runs.
    committing: Option<Mark>,
    /// The commit for which there was no room, and when it was tried.
    held_up: Option<(u64, Box<Job>)>,
    /// What the running commit, or that one, takes of the disk.
    running_bytes: u64,
    durable: Option<Position>,
    last_commit_us: u64,
    /// How often bodies were written since the last commit was planned.
    ahead: usize,
    /// When the first change after that came.
    changed_at_us: Option<u64>,
    /// Generations replaced by a snapshot, kept while a view reads them.
    retired: Vec<(PathBuf, Arc<()>)>,
    failed: Option<String>,
}

impl Store {
    /// Opens the tables in `dir`, or makes them, and rebuilds the state at their mark.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: StoreOptions,
    ) -> Result<Store, StoreError> {
        let generation = Generation::open_current(&disk, dir, &options)?;
        let mark = generation.mark()?;
        let state = generation.load()?;
        Ok(Store {
            writer: Writer::start(disk.flush_mode())?,
            disk,
            dir: dir.to_path_buf(),
            state,
            next_generation: generation.number.saturating_add(1),
            generation,
            dirty: HashSet::new(),
            dirty_cost: 0,
            durable: mark.applied,
            mark,
            mark_dirty: false,
            committing: None,
            held_up: None,
            running_bytes: 0,
            last_commit_us: options.clock.monotonic_us(),
            ahead: 0,
            changed_at_us: None,
            retired: Vec::new(),
            failed: None,
            options,
        })
    }

    /// Applies one entry. The changes go to the tables with a later commit; the answer still names
    /// the rows, but has no contents.
    pub fn apply(&mut self, entry: &Entry) -> Applied {
        let mut applied = if crate::mutants::is_chosen("local-clock") {
            let stamp = LogTime(self.options.clock.wall_us());
            self.state.apply(&Entry { stamp, ..entry.clone() })
        } else {
            self.state.apply(entry)
        };
        let bytes = entry.commands.iter().map(|envelope| envelope.command.size()).sum();
        self.generation.bodies.note_entry(bytes);
        self.note(&mut applied.changes);
        self.mark(entry.position);
        applied
    }

    /// An entry that holds no commands was passed.
    pub fn mark(&mut self, position: Position) {
        self.mark.applied = Some(position);
        self.mark_dirty = true;
        self.changed_now();
    }

    /// A membership entry was passed; `membership` is consensus's and opaque here.
    pub fn set_membership(&mut self, position: Position, membership: Bytes) {
        self.mark.membership = Some((position, membership));
        self.mark(position);
    }

    /// The newest membership and the entry it came from.
    #[must_use]
    pub fn membership(&self) -> Option<(Position, Bytes)> {
        self.mark.membership.clone()
    }

    /// The last entry that the state holds.
    #[must_use]
    pub fn applied(&self) -> Option<Position> {
        self.mark.applied
    }

    /// The last entry that the tables are known to hold.
    #[must_use]
    pub fn durable(&self) -> Option<Position> {
        self.durable
    }

    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Frees up to `max` rows of cleared and deleted queues; says whether it found any. It
    /// changes this node's tables only, never the digest.
    pub fn reclaim(&mut self, max: usize) -> bool {
        let mut changes = self.state.reclaim(max);
        let found = !changes.rows.is_empty() || !changes.contents.is_empty();
        if found {
            self.note(&mut changes);
            self.changed_now();
        }
        found
    }

    fn changed_now(&mut self) {
        let clock = &self.options.clock;
        self.changed_at_us.get_or_insert_with(|| clock.monotonic_us());
    }

    /// Takes the contents; the rows stay, for those who want to know what has changed.
    fn note(&mut self, changes: &mut Changes) {
        for key in &changes.rows {
            let is_new = self.dirty.insert(*key);
            if is_new {
                self.dirty_cost += row_cost(key);
            }
            if let RowKey::Chunk { queue, priority, first } = *key {
                // One that was noted before may have grown by a message since.
                let held = || self.state.untouched_in(queue, priority, first);
                self.dirty_cost += UNTOUCHED_BYTES * if is_new { held() } else { 1 };
            }
        }
        let (own, beside) = self.halves();
        for event in changes.contents.drain(..) {
            let bodies = &mut self.generation.bodies;
            match event {
                ContentEvent::Put(id, content) => bodies.put(own.of(id), content),
                ContentEvent::Drop(id) => bodies.remove(own.of(id)),
                ContentEvent::PutBeside(id, content) => bodies.put(beside.of(id), content),
                ContentEvent::DropBeside(id) => bodies.remove(beside.of(id)),
                ContentEvent::TakeBeside(id) => bodies.rename(beside.of(id), own.of(id)),
                // The state has changed its half already.
                ContentEvent::Switch => bodies.remove_half(beside),
            }
        }
    }

    /// The half of the ids that the state's contents have, and the other one.
    fn halves(&self) -> (Half, Half) {
        let is_high = self.state.authority().is_some_and(|it| it.high_contents);
        (Half { is_high }, Half { is_high: !is_high })
    }

    /// Where a content is; reading what is found needs no lock on the store.
    #[must_use]
    pub fn find(&self, id: ContentId) -> Option<Found> {
        self.generation.bodies.find(self.halves().0.of(id))
    }

    /// The same of a content as the segments number it, whichever half it is of.
    #[must_use]
    pub fn find_kept(&self, kept: ContentId) -> Option<Found> {
        self.generation.bodies.find(kept)
    }

    /// Contents that were found damaged since this was asked last, as the segments number them.
    #[must_use]
    pub fn take_rotten(&self) -> BTreeSet<ContentId> {
        self.generation.bodies.files().take_rotten()
    }

    /// Puts a content in the place of what rotted; the next commit writes it. False where nothing
    /// lies there any more: it was removed, or moved, meanwhile.
    pub fn mend(&mut self, kept: ContentId, rotten: Place, content: Content) -> bool {
        let is_mended = self.generation.bodies.mend(kept, rotten, content);
        if is_mended {
            self.changed_now();
        }
        is_mended
    }

    /// A content, from memory or from its segment, checked. `None` when it is gone.
    pub fn content(&self, id: ContentId) -> Result<Option<Content>, StoreError> {
        self.find(id).map(|found| found.read()).transpose()
    }

    /// About how many bytes the next commit writes.
    #[must_use]
    pub fn dirty_bytes(&self) -> usize {
        self.dirty_cost + self.generation.bodies.waiting_bytes()
    }

    /// About what of the disk is still to be written for what was applied.
    #[must_use]
    pub fn owed_bytes(&self) -> u64 {
        let dirty = self.dirty_bytes() as u64;
        dirty.saturating_add(dirty / 2).saturating_add(self.running_bytes)
    }

    /// Whether so much waits that nothing may be applied until a commit ends.
    #[must_use]
    pub fn must_wait(&self) -> bool {
        let beyond = |bytes: usize, at: usize| bytes >= at.saturating_add(self.options.hold_bytes);
        beyond(self.dirty_bytes(), self.options.commit_bytes)
            || beyond(self.generation.bodies.held_bytes(), self.options.body_bytes)
    }

    /// Changes whenever a commit ends; then [`Store::commit_if_due`] picks it up.
    #[must_use]
    pub fn commits(&self) -> watch::Receiver<u64> {
        self.writer.finished()
    }

    /// The space on the disk that holds this.
    #[must_use]
    pub fn disk_space(&self) -> &Space {
        &self.options.space
    }

    /// Live bytes and file bytes of the body segments.
    #[must_use]
    pub fn space(&self) -> (u64, u64) {
        self.generation.bodies.space()
    }

    /// Picks up what has ended and begins a commit, or writes bodies ahead of it, if enough waits
    /// or enough time has passed. Says whether anything began.
    pub fn commit_if_due(&mut self) -> Result<bool, StoreError> {
        self.pick_up()?;
        if self.held_up.is_some() {
            return self.try_again();
        }
        if self.writer.busy() {
            return Ok(false);
        }
        match self.due() {
            None => return Ok(false),
            Some(Due::Bodies) => self.write_ahead(),
            Some(Due::Commit) => self.begin_commit(),
        }
        // In place it has ended already.
        self.pick_up()?;
        Ok(true)
    }

    /// Begins a commit of what is not durable yet, unless one is running. Says whether all that
    /// was applied up to `target` is durable; when it is not, wait for [`Store::commits`] and
    /// ask again.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`] while the disk is full. The failure of a commit: the node must
    /// stop.
    pub fn commit_through(&mut self, target: Option<Position>) -> Result<bool, StoreError> {
        let index = |position: Option<Position>| position.map(|at| at.index);
        self.pick_up()?;
        if self.held_up.is_some() {
            return Err(StoreError::NoRoom);
        }
        if index(self.durable) < index(target) && !self.writer.busy() && self.changed() {
            self.begin_commit();
            // In place it has ended already.
            self.pick_up()?;
        }
        Ok(index(self.durable) >= index(target))
    }

    /// Begins the commit again for which there was no room, now and then.
    fn try_again(&mut self) -> Result<bool, StoreError> {
        let now = self.options.clock.monotonic_us();
        let due = |at: u64| now.saturating_sub(at) >= NO_ROOM_PAUSE_US;
        let Some((_, job)) = self.held_up.take_if(|(at, _)| due(*at)) else { return Ok(false) };
        self.writer.begin(*job);
        self.pick_up()?;
        Ok(true)
    }

    /// Where space is scarce: how much of a segment may be written anew to empty it. It must fit
    /// in what is left, with something for everything else, until the segment is gone.
    fn may_copy(&self) -> Option<u64> {
        let space = &self.options.space;
        space.is_scarce().then(|| space.beyond_reserves(0).unwrap_or(0) / 4)
    }

    fn changed(&self) -> bool {
        self.mark_dirty || !self.dirty.is_empty() || self.generation.bodies.waiting_bytes() > 0
    }

    fn has_rubbish(&self) -> bool {
        self.generation.bodies.has_deletable()
            || self.retired.iter().any(|(_, pin)| Arc::strong_count(pin) == 1)
    }

    /// Commits everything applied so far and waits until it is durable.
    pub fn commit_now(&mut self) -> Result<(), StoreError> {
        self.finish_running()?;
        if let Some((_, job)) = self.held_up.take() {
            self.writer.begin(*job);
            self.finish_running()?;
        }
        if self.held_up.is_none() && (self.changed() || self.has_rubbish()) {
            self.begin_commit();
            self.finish_running()?;
        }
        if self.held_up.is_some() { Err(StoreError::NoRoom) } else { Ok(()) }
    }

    /// Writes the bodies in memory; the commit that is still to come tells the tables where.
    fn write_ahead(&mut self) {
        self.ahead += 1;
        tracing::debug!(rows = self.dirty.len(), "bodies are written ahead of their commit");
        let needs_bytes = self.generation.bodies.unplaced_bytes() as u64;
        self.running_bytes = needs_bytes;
        let flush = self.generation.bodies.plan_ahead();
        self.writer.begin(Job {
            tables: Arc::clone(&self.generation.tables),
            files: self.generation.bodies.files(),
            flush,
            batch: Batch::new(),
            space: self.options.space.clone(),
            needs_bytes,
            tables_bytes: 0,
            rubbish: Vec::new(),
        });
    }

    fn begin_commit(&mut self) {
        self.ahead = 0;
        let mut batch = Batch::new();
        if self.mark_dirty {
            self.dirty.insert(RowKey::Counters);
        }
        let mut dirty: Vec<RowKey> = std::mem::take(&mut self.dirty).into_iter().collect();
        let scarce = self.may_copy();
        let bodies = &self.generation.bodies;
        let most = u64::from(self.options.bodies.copy_bytes).min(scarce.unwrap_or(u64::MAX));
        let copied = if bodies.has_sparse(scarce) { most } else { 0 };
        // The tables write whole pages for changed rows, and the old ones are free only later.
        let tables_bytes = (self.dirty_cost as u64).saturating_mul(2).saturating_add(TABLES_BYTES);
        let needs_bytes =
            tables_bytes.saturating_add(bodies.waiting_bytes() as u64).saturating_add(copied);
        self.running_bytes = needs_bytes.saturating_sub(copied + TABLES_BYTES);
        self.dirty_cost = 0;
        // In key order: the engine finds its pages warm, and a simulation repeats.
        dirty.sort_unstable();
        for key in dirty {
            let value = self.state.row(&key).map(|row| codec::encode_row(&row));
            batch.push((keys::row(&key), value));
        }
        let flush = self.generation.bodies.plan(&mut batch, scarce);
        if self.mark_dirty {
            batch.push((vec![keys::MARK_TAG], Some(codec::encode_mark(&self.mark))));
        }
        self.mark_dirty = false;
        self.committing = Some(self.mark.clone());
        self.last_commit_us = self.options.clock.monotonic_us();
        self.changed_at_us = None;
        let rubbish = self.take_rubbish();
        self.writer.begin(Job {
            tables: Arc::clone(&self.generation.tables),
            files: self.generation.bodies.files(),
            flush,
            batch,
            space: self.options.space.clone(),
            needs_bytes,
            tables_bytes,
            rubbish,
        });
    }

    fn take_rubbish(&mut self) -> Vec<Rubbish> {
        let files = self.generation.bodies.files();
        let segments = self.generation.bodies.take_deletable().into_iter();
        let mut rubbish: Vec<_> =
            segments.map(|number| Rubbish::Segment(Arc::clone(&files), number)).collect();
        for (path, pin) in std::mem::take(&mut self.retired) {
            if Arc::strong_count(&pin) == 1 {
                rubbish.push(Rubbish::Folder(Arc::clone(&self.disk), path));
            } else {
                self.retired.push((path, pin));
            }
        }
        rubbish
    }

    fn pick_up(&mut self) -> Result<(), StoreError> {
        let ended = self.writer.poll();
        self.settle(ended)
    }

    fn finish_running(&mut self) -> Result<(), StoreError> {
        let ended = self.writer.wait();
        self.settle(ended)
    }

    fn settle(&mut self, ended: Option<Result<Ended, StoreError>>) -> Result<(), StoreError> {
        match ended {
            Some(Ok(Ended::NoRoom(job))) => {
                self.held_up = Some((self.options.clock.monotonic_us(), job));
            }
            Some(Ok(Ended::Committed)) => {
                self.running_bytes = 0;
                self.generation.bodies.committed();
                if let Some(mark) = self.committing.take() {
                    self.durable = mark.applied;
                }
            }
            Some(Err(error)) => {
                self.failed = Some(error.to_string());
                if error.is_damage()
                    && let Err(unnoted) = note_damage(&self.disk, &self.dir, &error.to_string())
                {
                    tracing::warn!(%unnoted, "the damage of the tables is not noted");
                }
                return Err(error);
            }
            None => {}
        }
        match &self.failed {
            Some(first) => Err(StoreError::Failed(first.clone())),
            None => Ok(()),
        }
    }

    /// A view of what the tables hold, pinned: it never changes, and what it needs stays.
    pub fn view(&self) -> Result<SnapshotView, StoreError> {
        let tables = self.generation.tables.snapshot()?;
        let segments = bodies::lengths(&*tables)?;
        let pins =
            self.generation.bodies.pin_all(&segments).ok_or_else(|| StoreError::Damaged {
                what: "the list of body segments".to_owned(),
                why: "the tables name a segment that is not there".to_owned(),
            })?;
        SnapshotView::new(tables, self.generation.bodies.files(), pins)
    }

    /// Begins to take a snapshot, beside the tables that are in use. One at a time: another
    /// call makes the writer before it useless.
    pub fn begin_install(&mut self) -> Result<SnapshotWriter, StoreError> {
        let number = self.next_generation;
        let made = Generation::create(&self.disk, &self.dir, number, &self.options);
        self.next_generation = number.saturating_add(1);
        Ok(SnapshotWriter::new(made?, Arc::clone(&self.disk)))
    }

    /// Replaces everything by a finished snapshot, atomically and durably.
    pub fn install(&mut self, ready: ReadySnapshot) -> Result<(), StoreError> {
        self.finish_running()?;
        let ReadySnapshot { generation, mut beside, state, mark } = ready;
        // Whatever comes of it: a folder that may be the one in use stays.
        beside.keep();
        if let Err(error) = generation.make_current(&self.disk, &self.dir) {
            // Which of the two counts is not known now.
            self.failed = Some(error.to_string());
            return Err(error);
        }
        let old = std::mem::replace(&mut self.generation, generation);
        self.retired.push((old.dir, old.pin));
        self.state = state;
        self.dirty.clear();
        self.dirty_cost = 0;
        self.durable = mark.applied;
        self.mark = mark;
        self.mark_dirty = false;
        self.changed_at_us = None;
        self.committing = None;
        self.held_up = None;
        self.running_bytes = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
