//! The Raft log on disk: segments, group commit, the vote in the same order.
//!
//! Laws:
//! * [`Log::append`] returns when the entries are readable through every clone, and calls `done`
//!   after one write and one fsync that they share with whatever else waited. Calls come in the
//!   order of the appends.
//! * Appends, truncations, purges and votes take effect on disk in the order of the calls. A
//!   truncation, a purge and a vote each have their own fsync before anything after them.
//! * What a purge frees is deleted or reused only when the purge is durable.
//! * A failed write or fsync is final: never tried again, every waiting and later call fails.
//! * Entries for which a full disk has no segment wait, unwritten, until it has.
//! * A log with a hole takes nothing until [`Log::mend`], [`Log::let_go`] or [`Log::cut_doubt`]
//!   closed it.
//!
//! Over a real disk a standing thread flushes, and no runtime is needed. Over a simulated one a
//! task of the runtime that opened the log does, and ends with the last clone.

mod flusher;
mod inspect;
mod record;
mod rewrite;
mod scan;
mod segment;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use self::flusher::{Guard, Shared, Work};
use self::record::{Found, HEADER, TRAILER, inspect as look};
use self::rewrite::Filling;
use self::segment::{Run, Segment};
use self::view::{View, within};
use self::writer::Writer;
use super::disk::Disk;
use super::error::{StorageError, during};
pub use super::mend::{Hole, Trouble};
pub use super::vote::VoteRecord;
use crate::clock::SharedClock;
use crate::queue::ids::Position;
use crate::storage::timings::Timed;
pub use inspect::{InspectedRecord, Inspection, inspect};
pub use record::Kind;

/// Called once when an append is durable, or is known not to be.
pub type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// What the log carries; it looks into none of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// A leader's first entry.
    Blank,
    Membership(Bytes),
    Commands(Bytes),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub position: Position,
    pub payload: Payload,
}

#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Newest entries kept in memory; what is not flushed yet is kept above it.
    pub cache_bytes: usize,
    /// One flush writes at most this, and at most what fits into a segment; or one entry.
    pub group_bytes: usize,
    /// Segments kept ready.
    pub spares: usize,
    /// For the generations of segments: random on a real node, a run's seed in the simulator.
    pub seed: u64,
    pub clock: SharedClock,
}

impl LogOptions {
    #[must_use]
    pub fn new(seed: u64, clock: SharedClock) -> LogOptions {
        LogOptions {
            segment_bytes: 64 << 20,
            cache_bytes: 32 << 20,
            group_bytes: 4 << 20,
            spares: 2,
            seed,
            clock,
        }
    }
}

/// What a log held when it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogState {
    pub vote: Option<VoteRecord>,
    /// The last entry; the last purged one when the log is empty.
    pub last: Option<Position>,
    pub last_purged: Option<Position>,
    /// A lower bound: the commit index is written with the next flush, not by itself.
    pub committed: Option<Position>,
    pub trouble: Vec<Trouble>,
}

impl LogState {
    /// What must be mended before the log takes entries.
    #[must_use]
    pub fn holes(&self) -> Vec<Hole> {
        self.trouble.iter().filter_map(Trouble::hole).collect()
    }
}

impl Payload {
    fn tag(&self) -> u32 {
        match self {
            Payload::Blank => 1,
            Payload::Membership(_) => 2,
            Payload::Commands(_) => 3,
        }
    }

    /// The bytes that it carries.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        static EMPTY: Bytes = Bytes::new();
        match self {
            Payload::Blank => &EMPTY,
            Payload::Membership(bytes) | Payload::Commands(bytes) => bytes,
        }
    }

    fn from_parts(tag: u32, bytes: Bytes) -> Option<Payload> {
        match tag {
            1 => bytes.is_empty().then_some(Payload::Blank),
            2 => Some(Payload::Membership(bytes)),
            3 => Some(Payload::Commands(bytes)),
            _ => None,
        }
    }
}

impl LogEntry {
    /// What it counts against byte budgets.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.payload.bytes().len() + 64
    }
}

/// The end of something that was put in order when this was made, polled or not.
#[must_use = "nothing says that it is durable before this ends"]
#[derive(Debug)]
pub struct Durable<T> {
    refused: Option<StorageError>,
    receive: oneshot::Receiver<Result<T, StorageError>>,
}

impl<T> Future for Durable<T> {
    type Output = Result<T, StorageError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(error) = self.refused.take() {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.receive).poll(cx).map(|done| done.unwrap_or(Err(StorageError::Closed)))
    }
}

/// Cheap to clone; the last clone's drop ends the flusher.
#[derive(Clone, Debug)]
pub struct Log {
    shared: Arc<Shared>,
    _guard: Arc<Guard>,
}

impl Log {
    /// Opens or makes the log in `dir`, which must be locked by the caller.
    ///
    /// # Errors
    /// When the disk fails, both slots of the vote are bad, or the format is newer. Damage that can be mended is no error: see [`LogState::trouble`].
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
    ) -> Result<(Log, LogState), StorageError> {
        let (writer, opened) = Writer::open(disk, dir, options.clone())?;
        let view = View::of(&writer, opened);
        let state = view.state();
        let shared = Arc::new(Shared::new(view, options, writer.room()));
        let guard = Guard::start(Arc::clone(&shared), writer, dir)?;
        Ok((Log { shared, _guard: Arc::new(guard) }, state))
    }

    fn view(&self) -> MutexGuard<'_, View> {
        self.shared.view()
    }

    /// Adds entries that continue the log; `done` is called once, also when this fails.
    ///
    /// # Errors
    /// When the entries do not continue the log, or the log has failed or waits to be mended.
    pub fn append(&self, entries: Vec<LogEntry>, done: Done) -> Result<(), StorageError> {
        let mut view = self.view();
        if let Err(error) = view.ready().and_then(|()| view.check_next(&entries)) {
            drop(view);
            done(Err(error.clone()));
            return Err(error);
        }
        let weight: usize = entries.iter().map(LogEntry::weight).sum();
        view.last = entries.last().map(|entry| entry.position).or(view.last);
        view.cache_bytes += weight;
        view.queued_bytes += weight as u64;
        view.cache.extend(entries.iter().cloned());
        let age = view.age;
        view.queue.push_back(Work::Append { entries: entries.into(), age, done });
        drop(view);
        self.shared.wake();
        Ok(())
    }

    /// Removes all entries after `last` (all, for `None`): at once for readers; the future ends
    /// when that is durable.
    pub fn truncate_after(&self, last: Option<Position>) -> Durable<()> {
        self.order(move |view, done| {
            view.ready()?;
            let last = last.or(view.purged);
            if let (Some(wanted), Some(purged)) = (last, view.purged)
                && wanted.index < purged.index
            {
                return Err(StorageError::OutOfRange {
                    index: wanted.index,
                    why: "what comes after it is purged already",
                });
            }
            if last.map(|last| last.index) < view.last.map(|last| last.index) {
                view.cut(last);
                view.queue.push_back(Work::Truncate { last, done });
            } else {
                view.queue.push_back(Work::Barrier { done });
            }
            Ok(())
        })
    }

    /// Forgets all entries up to `through`, which may lie beyond the log's end (a snapshot's
    /// position). The future ends when that is durable and the files are given back.
    pub fn purge(&self, through: Position) -> Durable<()> {
        self.order(move |view, done| {
            view.ready()?;
            if view.purged.is_some_and(|purged| purged.index >= through.index) {
                view.queue.push_back(Work::Barrier { done });
                return Ok(());
            }
            view.forget(through);
            view.queue.push_back(Work::Purge { through, last: view.last, done });
            Ok(())
        })
    }

    /// Keeps a vote; the future ends when it is durable.
    pub fn save_vote(&self, vote: &VoteRecord) -> Durable<()> {
        let vote = *vote;
        self.order(move |view, done| {
            if let Some(error) = &view.failed {
                return Err(error.clone());
            }
            view.vote = Some(vote);
            view.queue.push_back(Work::Vote { vote, done });
            Ok(())
        })
    }

    /// Keeps what was heard of the other region beside the vote; the future ends when it is
    /// durable. A failure does not end the log.
    pub fn save_heard(&self, word: Bytes) -> Durable<()> {
        self.order(move |view, done| {
            if let Some(error) = &view.failed {
                return Err(error.clone());
            }
            view.queue.push_back(Work::Heard { word, done });
            Ok(())
        })
    }

    /// Ends when all that was asked before is durable.
    pub fn flush(&self) -> Durable<()> {
        self.order(move |view, done| {
            if let Some(error) = &view.failed {
                return Err(error.clone());
            }
            view.queue.push_back(Work::Barrier { done });
            Ok(())
        })
    }

    /// Puts work in its place in the order of things and gives the future of its end.
    fn order(&self, put: impl FnOnce(&mut View, Done) -> Result<(), StorageError>) -> Durable<()> {
        let (send, receive) = oneshot::channel();
        let done: Done = Box::new(move |result| drop(send.send(result)));
        let refused = put(&mut self.view(), done).err();
        self.shared.wake();
        Durable { refused, receive }
    }

    /// Fills a hole that opening reported with the entries that a peer gave: all of it, from
    /// [`Hole::first`] to [`Hole::last`]. Gives what is still wrong after that.
    ///
    /// # Errors
    /// [`StorageError::OutOfRange`] when the entries are not exactly the hole's; nothing is
    /// changed then.
    pub fn mend(&self, hole: Hole, entries: Vec<LogEntry>) -> Durable<LogState> {
        self.repair(move |done| Work::Mend { hole, filling: Filling::Entries(entries), done })
    }

    /// Lets a damaged hole go for good, with all before it: the log begins behind it. Only when
    /// the tables hold what its entries did. Gives what is still wrong after that.
    ///
    /// # Errors
    /// When it is not the first hole, or a record in doubt; nothing is changed then.
    pub fn let_go(&self, hole: Hole) -> Durable<LogState> {
        self.repair(move |done| Work::Mend { hole, filling: Filling::Purge, done })
    }

    /// Cuts the record in doubt: only when it is known that it never was on a majority.
    ///
    /// # Errors
    /// When the log has no record in doubt.
    pub fn cut_doubt(&self) -> Durable<LogState> {
        self.repair(|done| Work::CutDoubt { done })
    }

    fn repair(
        &self,
        work: impl FnOnce(oneshot::Sender<Result<LogState, StorageError>>) -> Work,
    ) -> Durable<LogState> {
        let (send, receive) = oneshot::channel();
        let mut view = self.view();
        let refused = view.failed.clone();
        if refused.is_none() {
            view.queue.push_back(work(send));
        }
        drop(view);
        self.shared.wake();
        Durable { refused, receive }
    }

    /// Notes what is committed; it becomes durable with some later flush.
    pub fn save_committed(&self, committed: Position) {
        let mut view = self.view();
        view.committed = scan::newer(view.committed, Some(committed));
    }

    #[must_use]
    pub fn committed(&self) -> Option<Position> {
        self.view().committed
    }

    /// The index of the first entry held: of what follows the last purged one, where there is
    /// one, and of the first appended otherwise.
    #[must_use]
    pub fn first(&self) -> Option<u64> {
        let view = self.view();
        let newest = view.cache.front().map(|entry| entry.position.index);
        let held = view.runs.first().into_iter().chain(newest).min()?;
        // A run may begin with entries that were purged.
        Some(view.purged.map_or(held, |purged| held.max(purged.index.saturating_add(1))))
    }

    /// The last entry; the last purged one when the log is empty.
    #[must_use]
    pub fn last(&self) -> Option<Position> {
        self.view().last
    }

    #[must_use]
    pub fn last_purged(&self) -> Option<Position> {
        self.view().purged
    }

    #[must_use]
    pub fn vote(&self) -> Option<VoteRecord> {
        self.view().vote
    }

    /// What had been heard of the other region when the log was opened.
    #[must_use]
    pub fn heard(&self) -> Option<Bytes> {
        self.view().heard.clone()
    }

    /// All of it as one consistent answer.
    #[must_use]
    pub fn state(&self) -> LogState {
        self.view().state()
    }

    /// The failure that stopped the log.
    #[must_use]
    pub fn failure(&self) -> Option<StorageError> {
        self.view().failed.clone()
    }

    /// How long the flush that runs now has been running.
    #[must_use]
    pub fn stalled_for(&self) -> Duration {
        self.shared.stalled_for()
    }

    /// How long the groups of entries took, since it was opened, to be written and fsynced.
    #[must_use]
    pub fn flushes(&self) -> Timed {
        self.shared.flushes().seen()
    }

    /// Bytes that can be appended without new space on the disk.
    #[must_use]
    pub fn room(&self) -> u64 {
        self.shared.room().saturating_sub(self.view().queued_bytes)
    }

    /// Whether spare segments are made before they are needed, which is the usual; not where
    /// space is scarce. A segment that must be had is made all the same.
    pub fn make_spares_ahead(&self, ahead: bool) {
        self.shared.set_ahead(ahead);
    }

    /// Bytes of one segment file.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.shared.segment_bytes()
    }

    /// Bytes of all segments, for the purge horizon.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.view().segments.values().map(|segment| segment.len()).sum()
    }

    /// Bytes of the entries from an index on, to the grain of a run: 64 KiB too many at most.
    #[must_use]
    pub fn unread_bytes(&self, from: u64) -> u64 {
        let view = self.view();
        view.runs.bytes_from(from).saturating_add(view.queued_bytes)
    }

    /// Bytes of the segments that hold entries after an index: what keeping them costs.
    #[must_use]
    pub fn bytes_after(&self, index: Option<u64>) -> u64 {
        let view = self.view();
        let next = index.map_or(0, |index| index.saturating_add(1));
        let next = next.max(view.purged.map_or(0, |purged| purged.index + 1));
        let first = view.runs.find(next).map(|run| run.segment);
        let first = first.or_else(|| view.segments.keys().next_back().copied());
        view.segments.range(first.unwrap_or(0)..).map(|(_, segment)| segment.len()).sum()
    }

    /// The last entry before the newest segments that together take no more than `bytes`; `None`
    /// when all entries are in those, or none is.
    #[must_use]
    pub fn before_newest(&self, bytes: u64) -> Option<u64> {
        let view = self.view();
        let mut held = 0;
        let newest = view.segments.iter().rev().take_while(|(_, segment)| {
            held += segment.len();
            held <= bytes
        });
        let oldest_kept = newest.last().map(|(number, _)| *number)?;
        view.runs.first_from(oldest_kept)?.checked_sub(1)
    }

    /// Entries from `from` up to and without `to`, as many as fit in `max_bytes` and at least
    /// one if the log holds it; shorter answers are normal. Empty only if there is none.
    ///
    /// # Errors
    /// [`StorageError::OutOfRange`] when `from` is purged; a damaged record; a failed read.
    pub fn read(
        &self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<LogEntry>, StorageError> {
        let view = self.view();
        let Some(to) = view.readable(from, to)? else { return Ok(Vec::new()) };
        if let Some(entries) = view.cached(from, to, max_bytes) {
            return Ok(entries);
        }
        let held = view.runs.find(from);
        let held = held.and_then(|run| Some((run, Arc::clone(view.segments.get(&run.segment)?))));
        drop(view);
        let Some((run, segment)) = held else {
            return Err(StorageError::Unmended { what: format!("entry {from} is not there") });
        };
        let to = to.min(run.last + 1);
        let entries = read_run(&segment, &run, from, to, max_bytes);
        drop(segment);
        // What was purged meanwhile may have been reused under our feet.
        self.view().readable(from, to)?;
        entries
    }

    /// The entry at an index.
    ///
    /// # Errors
    /// As [`Log::read`].
    pub fn entry(&self, index: u64) -> Result<Option<LogEntry>, StorageError> {
        Ok(self.read(index, index.saturating_add(1), 0)?.pop())
    }
}

/// Reads some entries of a run, checking every record on the way.
fn read_run(
    segment: &Segment,
    run: &Run,
    from: u64,
    to: u64,
    max_bytes: usize,
) -> Result<Vec<LogEntry>, StorageError> {
    let mut bytes = vec![0; (run.end - run.offset) as usize];
    let read = segment.file.read_exact_at(&mut bytes, run.offset);
    read.map_err(during("read", &segment.path))?;
    let bytes = Bytes::from(bytes);
    let bad = |at: usize| {
        let at = run.offset + at as u64;
        StorageError::damaged(&segment.path, format!("the record at {at} does not check"))
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at + HEADER + TRAILER <= bytes.len() {
        let Found::Good { header, .. } = look(&bytes, at, segment.number, segment.generation)
        else {
            return Err(bad(at));
        };
        let end = at + header.total();
        if header.last.is_some_and(|last| last.index >= from) {
            let record = bytes.slice(at..end.min(bytes.len()));
            let entries = record::entries(&header, &record).ok_or_else(|| bad(at))?;
            found.extend(
                entries.into_iter().filter(|entry| (from..to).contains(&entry.position.index)),
            );
            let weight: usize = found.iter().map(LogEntry::weight).sum();
            if weight >= max_bytes && !found.is_empty() {
                break;
            }
        }
        at = end;
    }
    if found.first().is_none_or(|entry| entry.position.index != from) {
        return Err(bad(0));
    }
    Ok(within(found.into_iter(), max_bytes))
}
