//! Who writes when: one thread or task takes what waits, oldest first, folds appends into one
//! record, and calls back in order.
//!
//! Entries that need a segment which the full disk does not give wait here, before a byte of
//! them is written: nobody is told that they are durable, and no write has failed.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use super::record::Kind;
use super::rewrite::Filling;
use super::view::View;
use super::writer::{Writer, entry_bytes};
use super::{Done, LogEntry, LogOptions, LogState};
use crate::queue::ids::Position;
use crate::storage::disk::FlushMode;
use crate::storage::error::{StorageError, during};
use crate::storage::heard;
use crate::storage::mend::{Hole, Trouble};
use crate::storage::timings::Timings;
use crate::storage::vote::VoteRecord;

/// Between two looks whether a full disk has space again.
const FULL_PAUSE: Duration = Duration::from_millis(100);

type Repaired = oneshot::Sender<Result<LogState, StorageError>>;

/// What waits for the flusher.
pub(super) enum Work {
    Append { entries: VecDeque<LogEntry>, age: u64, done: Done },
    Truncate { last: Option<Position>, done: Done },
    Purge { through: Position, last: Option<Position>, done: Done },
    Vote { vote: VoteRecord, done: Done },
    Heard { word: Bytes, done: Done },
    Barrier { done: Done },
    Mend { hole: Hole, filling: Filling, done: Repaired },
    CutDoubt { done: Repaired },
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Work::Append { .. } => "Append",
            Work::Truncate { .. } => "Truncate",
            Work::Purge { .. } => "Purge",
            Work::Vote { .. } => "Vote",
            Work::Heard { .. } => "Heard",
            Work::Barrier { .. } => "Barrier",
            Work::Mend { .. } => "Mend",
            Work::CutDoubt { .. } => "CutDoubt",
        })
    }
}

impl Work {
    fn fail(self, error: &StorageError) {
        match self {
            Work::Append { done, .. }
            | Work::Truncate { done, .. }
            | Work::Purge { done, .. }
            | Work::Vote { done, .. }
            | Work::Heard { done, .. }
            | Work::Barrier { done } => done(Err(error.clone())),
            Work::Mend { done, .. } | Work::CutDoubt { done } => {
                drop(done.send(Err(error.clone())));
            }
        }
    }
}

/// What one turn of the flusher does.
enum Turn {
    Group { entries: Vec<LogEntry>, age: u64, done: Vec<Done>, committed: Option<Position> },
    One(Work, Option<Position>),
}

impl Turn {
    fn fail(self, error: &StorageError) {
        match self {
            Turn::Group { done, .. } => done.into_iter().for_each(|done| done(Err(error.clone()))),
            Turn::One(work, _) => work.fail(error),
        }
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    view: Mutex<View>,
    work: Condvar,
    notify: Notify,
    options: LogOptions,
    /// When the flush that runs began, in microseconds; 0 when none runs.
    flushing_since: AtomicU64,
    /// How long each group of entries took to be written and made durable.
    flushes: Timings,
    room: AtomicU64,
    /// Whether spares are made before they are needed.
    ahead: AtomicBool,
}

impl Shared {
    pub fn new(view: View, mut options: LogOptions, room: u64) -> Shared {
        // What waited together is no record that only a segment longer than usual takes.
        let most = usize::try_from(entry_bytes(options.segment_bytes)).unwrap_or(usize::MAX);
        options.group_bytes = options.group_bytes.min(most);
        Shared {
            view: Mutex::new(view),
            work: Condvar::new(),
            notify: Notify::new(),
            options,
            flushing_since: AtomicU64::new(0),
            flushes: Timings::default(),
            room: AtomicU64::new(room),
            ahead: AtomicBool::new(true),
        }
    }

    pub fn set_ahead(&self, ahead: bool) {
        if self.ahead.swap(ahead, Ordering::Relaxed) != ahead {
            self.wake();
        }
    }

    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn wake(&self) {
        self.work.notify_one();
        self.notify.notify_one();
    }

    pub fn segment_bytes(&self) -> u64 {
        self.options.segment_bytes
    }

    pub fn room(&self) -> u64 {
        self.room.load(Ordering::Relaxed)
    }

    pub fn flushes(&self) -> &Timings {
        &self.flushes
    }

    pub fn stalled_for(&self) -> Duration {
        match self.flushing_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_micros(self.options.clock.monotonic_us().saturating_sub(since)),
        }
    }

    fn flush_begins(&self) {
        let now = self.options.clock.monotonic_us().max(1);
        self.flushing_since.store(now, Ordering::Relaxed);
    }

    fn next_turn(&self, view: &mut View) -> Option<Turn> {
        let work = view.queue.pop_front()?;
        let committed = view.committed;
        let Work::Append { entries, age, done } = work else {
            return Some(Turn::One(work, committed));
        };
        let mut group = Vec::new();
        let mut calls = Vec::new();
        let mut bytes = 0;
        let (mut entries, mut done) = (entries, done);
        loop {
            while let Some(entry) = entries.front() {
                let weight = entry.weight();
                if bytes + weight > self.options.group_bytes && !group.is_empty() {
                    view.queue.push_front(Work::Append { entries, age, done });
                    view.queued_bytes = view.queued_bytes.saturating_sub(bytes as u64);
                    return Some(Turn::Group { entries: group, age, done: calls, committed });
                }
                bytes += weight;
                group.extend(entries.pop_front());
            }
            calls.push(done);
            match view.queue.pop_front() {
                Some(Work::Append { entries: more, age: same, done: then }) if same == age => {
                    entries = more;
                    done = then;
                }
                Some(other) => {
                    view.queue.push_front(other);
                    break;
                }
                None => break,
            }
        }
        view.queued_bytes = view.queued_bytes.saturating_sub(bytes as u64);
        Some(Turn::Group { entries: group, age, done: calls, committed })
    }

    /// Does one turn and calls back; a failure ends the log.
    fn execute(&self, writer: &mut Writer, turn: Turn) {
        match turn {
            Turn::Group { entries, age, done, committed } => {
                let result = self.write_group(writer, &entries, age, committed);
                self.finish(writer, result, done);
            }
            Turn::One(work, committed) => self.execute_one(writer, work, committed),
        }
    }

    fn execute_one(&self, writer: &mut Writer, work: Work, committed: Option<Position>) {
        match work {
            Work::Append { entries, age, done } => {
                let entries: Vec<LogEntry> = entries.into();
                let result = self.write_group(writer, &entries, age, committed);
                self.finish(writer, result, vec![done]);
            }
            Work::Truncate { last, done } => {
                let result = self.truncate(writer, last, committed);
                self.finish(writer, result, vec![done]);
            }
            Work::Purge { through, last, done } => {
                let result = self.purge(writer, through, last, committed);
                self.finish(writer, result, vec![done]);
            }
            Work::Vote { vote, done } => {
                let result = writer.vote.save(vote);
                self.finish(writer, result, vec![done]);
            }
            Work::Heard { word, done } => {
                // No failure of the log: what is not kept is heard again.
                let kept = heard::save(writer.disk.as_ref(), &writer.dir, &word);
                self.flushing_since.store(0, Ordering::Relaxed);
                done(kept);
            }
            Work::Barrier { done } => self.finish(writer, Ok(()), vec![done]),
            Work::Mend { hole, filling, done } => {
                let result = self.mend(writer, &hole, &filling);
                self.flushing_since.store(0, Ordering::Relaxed);
                drop(done.send(result));
            }
            Work::CutDoubt { done } => {
                let result = self.cut_doubt(writer);
                self.flushing_since.store(0, Ordering::Relaxed);
                drop(done.send(result));
            }
        }
    }

    fn write_group(
        &self,
        writer: &mut Writer,
        entries: &[LogEntry],
        age: u64,
        committed: Option<Position>,
    ) -> Result<(), StorageError> {
        let Some(last) = entries.last().map(|entry| entry.position) else { return Ok(()) };
        let purged = writer.purged;
        let begun = self.options.clock.monotonic_us();
        let placed = writer.write(Kind::Entries, entries, Some(last), purged, committed)?;
        self.flushes.note(self.options.clock.monotonic_us().saturating_sub(begun));
        let mut view = self.view();
        if let Some(opened) = placed.opened {
            view.segments.insert(opened.number, opened);
        }
        if let Some(run) = placed.run
            && view.purged.is_none_or(|purged| run.last > purged.index)
        {
            view.runs.add(run);
        }
        if view.age == age {
            view.flushed = last.index + 1;
        }
        view.trim(self.options.cache_bytes);
        Ok(())
    }

    fn truncate(
        &self,
        writer: &mut Writer,
        last: Option<Position>,
        committed: Option<Position>,
    ) -> Result<(), StorageError> {
        let purged = writer.purged;
        let placed = writer.write(Kind::Truncate, &[], last, purged, committed)?;
        let mut view = self.view();
        if let Some(opened) = placed.opened {
            view.segments.insert(opened.number, opened);
        }
        view.runs.truncate(last.map(|last| last.index));
        Ok(())
    }

    fn purge(
        &self,
        writer: &mut Writer,
        through: Position,
        last: Option<Position>,
        committed: Option<Position>,
    ) -> Result<(), StorageError> {
        let placed = writer.write(Kind::Purge, &[], last, Some(through), committed)?;
        let mut view = self.view();
        if let Some(opened) = placed.opened {
            view.segments.insert(opened.number, opened);
        }
        view.runs.purge(through.index);
        // Only the front goes, so that the numbers that stay have no gap.
        let needed = view.runs.first_segment().unwrap_or(u64::MAX).min(writer.active());
        let kept = view.segments.split_off(&needed);
        let freed = std::mem::replace(&mut view.segments, kept);
        drop(view);
        writer.retire(freed.into_values().collect())
    }

    fn mend(
        &self,
        writer: &mut Writer,
        hole: &Hole,
        filling: &Filling,
    ) -> Result<LogState, StorageError> {
        let scanned = {
            let mut view = self.view();
            check_fill(&view.trouble, hole, filling)?;
            std::mem::take(&mut view.scanned)
        };
        let filled = match scanned.iter().find(|one| one.number == hole.segment) {
            Some(one) => writer.fill(one, hole, filling),
            None => Err(StorageError::Unmended { what: "its segment is gone".to_owned() }),
        };
        if let Err(error) = filled {
            self.view().scanned = scanned;
            return Err(error);
        }
        self.reopen(writer)
    }

    fn cut_doubt(&self, writer: &mut Writer) -> Result<LogState, StorageError> {
        let doubt = self.view().trouble.iter().any(|trouble| matches!(trouble, Trouble::Doubt(_)));
        if !doubt {
            let what = "no record is in doubt".to_owned();
            return Err(StorageError::Unmended { what });
        }
        writer.cut_tail()?;
        self.reopen(writer)
    }

    /// Takes over what the disk holds after a mend.
    fn reopen(&self, writer: &mut Writer) -> Result<LogState, StorageError> {
        let (reopened, opened) = writer.reopen()?;
        *writer = reopened;
        self.room.store(writer.room(), Ordering::Relaxed);
        let mut view = self.view();
        let waiting = std::mem::take(&mut view.queue);
        let closing = view.closing;
        *view = View::of(writer, opened);
        view.queue = waiting;
        view.closing = closing;
        Ok(view.state())
    }

    fn finish(&self, writer: &Writer, result: Result<(), StorageError>, done: Vec<Done>) {
        self.flushing_since.store(0, Ordering::Relaxed);
        self.room.store(writer.room(), Ordering::Relaxed);
        match result {
            Ok(()) => done.into_iter().for_each(|done| done(Ok(()))),
            Err(error) => self.fail(error, done),
        }
    }

    /// A failed write is final: who waits hears the failure, who comes later that it stopped.
    fn fail(&self, error: StorageError, done: Vec<Done>) {
        tracing::error!(%error, "the log stops");
        let stopped = StorageError::Stopped { first: Arc::new(error.clone()) };
        let mut view = self.view();
        view.failed = Some(stopped);
        let waiting = std::mem::take(&mut view.queue);
        view.queued_bytes = 0;
        drop(view);
        done.into_iter().for_each(|done| done(Err(error.clone())));
        waiting.into_iter().for_each(|work| work.fail(&error));
    }

    /// What is left when the flusher goes away.
    fn abandon(&self) {
        let mut view = self.view();
        view.failed.get_or_insert(StorageError::Closed);
        let waiting = std::mem::take(&mut view.queue);
        drop(view);
        waiting.into_iter().for_each(|work| work.fail(&StorageError::Closed));
    }

    fn prepare(&self, writer: &mut Writer) -> bool {
        if !self.ahead.load(Ordering::Relaxed) {
            writer.try_again();
            return false;
        }
        let stopped = self.view().failed.is_some();
        if stopped || !writer.wants_spare() {
            return false;
        }
        match writer.prepare_step() {
            Ok(()) => {
                self.room.store(writer.room(), Ordering::Relaxed);
                true
            }
            Err(error) => {
                self.fail(error, Vec::new());
                false
            }
        }
    }

    /// Whether a turn can be written. What fails here fails again when it is, and is told then.
    fn has_room(&self, writer: &mut Writer, turn: &Turn) -> bool {
        let Turn::Group { entries, .. } = turn else { return true };
        let bytes = entries.iter().map(|entry| entry.weight() as u64).sum();
        let has = writer.make_room(bytes).unwrap_or(true);
        self.room.store(writer.room(), Ordering::Relaxed);
        has
    }

    /// Waits until the disk has space for a turn; false when the log closes first.
    fn until_room(&self, writer: &mut Writer, turn: &Turn) -> bool {
        if self.has_room(writer, turn) {
            return true;
        }
        tracing::warn!("the disk is full: the log waits until there is space for a segment");
        loop {
            let view = self.view();
            if view.closing {
                return false;
            }
            drop(self.work.wait_timeout(view, FULL_PAUSE));
            if self.has_room(writer, turn) {
                tracing::info!("there is space again: the log goes on");
                return true;
            }
        }
    }

    /// The standing thread. Ends when the log closes and nothing waits.
    fn run_thread(&self, mut writer: Writer) {
        loop {
            let mut view = self.view();
            let turn = match self.next_turn(&mut view) {
                Some(turn) => turn,
                None if view.closing => return,
                None => {
                    drop(view);
                    if self.prepare(&mut writer) {
                        continue;
                    }
                    let view = self.view();
                    if view.queue.is_empty() && !view.closing {
                        drop(self.work.wait(view));
                    }
                    continue;
                }
            };
            drop(view);
            self.flush_begins();
            if !self.until_room(&mut writer, &turn) {
                return turn.fail(&StorageError::Closed);
            }
            self.execute(&mut writer, turn);
        }
    }

    async fn run_task(&self, mut writer: Writer) {
        loop {
            let turn = self.next_turn(&mut self.view());
            let Some(turn) = turn else {
                if !self.prepare(&mut writer) {
                    self.notify.notified().await;
                }
                continue;
            };
            self.flush_begins();
            while !self.has_room(&mut writer, &turn) {
                tokio::time::sleep(FULL_PAUSE).await;
            }
            let delay = writer.disk.sync_delay();
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            self.execute(&mut writer, turn);
            // Others of the simulation come between two flushes.
            tokio::task::yield_now().await;
        }
    }
}

/// There must be such a hole; the entries must be its own, all of them and nothing else, and of
/// what is let go nothing may come before it.
fn check_fill(troubles: &[Trouble], hole: &Hole, filling: &Filling) -> Result<(), StorageError> {
    let mut holes = troubles.iter().filter(|trouble| trouble.hole().is_some());
    let is_held = match filling {
        Filling::Entries(_) => holes.any(|trouble| trouble.hole() == Some(*hole)),
        Filling::Purge => holes.next() == Some(&Trouble::Damage(*hole)),
    };
    if !is_held {
        return Err(StorageError::Unmended { what: "there is no such hole".to_owned() });
    }
    let Filling::Entries(entries) = filling else { return Ok(()) };
    for (next, entry) in (hole.first()..).zip(entries) {
        if entry.position.index != next {
            let index = entry.position.index;
            return Err(StorageError::OutOfRange { index, why: "it is not the next of the hole" });
        }
    }
    match entries.last() {
        Some(last) if last.position == hole.last => Ok(()),
        _ => Err(StorageError::OutOfRange {
            index: hole.last.index,
            why: "the entries do not end with the hole's last",
        }),
    }
}

/// Ends the flusher with the last clone of the log.
#[derive(Debug)]
pub(super) struct Guard {
    shared: Arc<Shared>,
    flusher: Option<Flusher>,
}

#[derive(Debug)]
enum Flusher {
    Thread(JoinHandle<()>),
    Task(tokio::task::AbortHandle),
}

impl Guard {
    pub fn start(shared: Arc<Shared>, writer: Writer, dir: &Path) -> Result<Guard, StorageError> {
        let with = Arc::clone(&shared);
        let flusher = match writer.disk.flush_mode() {
            FlushMode::Threads => {
                let thread = std::thread::Builder::new()
                    .name("zoneq-log".to_owned())
                    .spawn(move || with.run_thread(writer))
                    .map_err(during("start the flush thread of", dir))?;
                Flusher::Thread(thread)
            }
            FlushMode::Inline => {
                let runtime = tokio::runtime::Handle::try_current()
                    .map_err(io::Error::other)
                    .map_err(during("find the runtime for", dir))?;
                let task = runtime.spawn(async move { with.run_task(writer).await });
                Flusher::Task(task.abort_handle())
            }
        };
        Ok(Guard { shared, flusher: Some(flusher) })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        match self.flusher.take() {
            Some(Flusher::Thread(thread)) => {
                self.shared.view().closing = true;
                self.shared.wake();
                // A callback may hold the last clone: then this is the thread itself.
                if thread.thread().id() != std::thread::current().id() {
                    drop(thread.join());
                }
            }
            Some(Flusher::Task(task)) => task.abort(),
            None => {}
        }
        self.shared.abandon();
    }
}
