//! Runs table commits: on a standing thread over a real disk, in place over a simulated one,
//! so that a seed decides the order.
//!
//! One commit at a time. A failed one is reported once; the store never sends another. One for
//! which the disk has no room comes back untouched, to be begun again.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::watch;

use super::StoreError;
use crate::storage::bodies::{Flush, SegmentFiles};
use crate::storage::disk::{Disk, FlushMode};
use crate::storage::space::Space;
use crate::storage::tables::{Batch, Tables, TablesError};

/// One durable step of the tables: bodies first, then the transaction that names them.
#[derive(Debug)]
pub struct Job {
    pub tables: Arc<dyn Tables>,
    pub files: Arc<SegmentFiles>,
    pub flush: Flush,
    pub batch: Batch,
    pub space: Space,
    /// What it takes of the disk, about, and what of that the tables.
    pub needs_bytes: u64,
    pub tables_bytes: u64,
    /// What earlier commits made needless.
    pub rubbish: Vec<Rubbish>,
}

/// Files that nothing names any more. Should a removal be lost, the next open repeats it.
#[derive(Debug)]
pub enum Rubbish {
    Segment(Arc<SegmentFiles>, u32),
    Folder(Arc<dyn Disk>, PathBuf),
}

/// How a commit ended that did not fail.
#[derive(Debug)]
pub enum Ended {
    Committed,
    /// The disk has no room for it: it is to be made again.
    NoRoom(Box<Job>),
}

impl Job {
    fn run(mut self) -> Result<Ended, StoreError> {
        for rubbish in std::mem::take(&mut self.rubbish) {
            match rubbish {
                Rubbish::Segment(files, number) => files.remove(number)?,
                Rubbish::Folder(disk, path) => {
                    disk.remove_dir_all(&path).map_err(|source| StoreError::Io {
                        doing: "removed",
                        path: path.display().to_string(),
                        source,
                    })?;
                }
            }
        }
        if !self.space.make_room(self.needs_bytes)? {
            return Ok(Ended::NoRoom(Box::new(self)));
        }
        match self.files.write(&self.flush) {
            Err(error) if error.is_full() => return Ok(Ended::NoRoom(Box::new(self))),
            written => written?,
        }
        // Others may have taken the rest meanwhile.
        if !self.space.make_room(self.tables_bytes)? {
            return Ok(Ended::NoRoom(Box::new(self)));
        }
        if self.batch.is_empty() {
            return Ok(Ended::Committed);
        }
        match self.tables.commit(&self.batch) {
            // What it takes is an estimate: pages are changed, not rows.
            Err(TablesError::NoRoom) => Ok(Ended::NoRoom(Box::new(self))),
            committed => Ok(committed.map(|()| Ended::Committed)?),
        }
    }
}

#[derive(Debug, Default)]
struct Slot {
    done: Mutex<Option<Result<Ended, StoreError>>>,
    filled: Condvar,
}

#[derive(Debug)]
struct Standing {
    jobs: Option<SyncSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// The table writer.
#[derive(Debug)]
pub struct Writer {
    standing: Option<Standing>,
    slot: Arc<Slot>,
    busy: bool,
    finished: watch::Sender<u64>,
}

impl Writer {
    /// Starts the thread if the disk may hide one.
    pub fn start(mode: FlushMode) -> Result<Writer, StoreError> {
        let slot = Arc::<Slot>::default();
        let finished = watch::Sender::new(0);
        let standing = match mode {
            FlushMode::Inline => None,
            FlushMode::Threads => {
                let (jobs, queue) = sync_channel(1);
                let (slot, finished) = (Arc::clone(&slot), finished.clone());
                let thread = std::thread::Builder::new()
                    .name("zoneq-tables".into())
                    .spawn(move || work(&queue, &slot, &finished))
                    .map_err(StoreError::Thread)?;
                Some(Standing { jobs: Some(jobs), thread: Some(thread) })
            }
        };
        Ok(Writer { standing, slot, busy: false, finished })
    }

    /// Whether a commit is running, or has ended and was not picked up.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.busy
    }

    /// Counts ended commits: a change says that [`Writer::poll`] has something.
    #[must_use]
    pub fn finished(&self) -> watch::Receiver<u64> {
        self.finished.subscribe()
    }

    /// Starts a commit; the one before it must have been picked up.
    pub fn begin(&mut self, job: Job) {
        self.busy = true;
        let job = match self.standing.as_ref().and_then(|standing| standing.jobs.as_ref()) {
            Some(jobs) => match jobs.send(job) {
                Ok(()) => return,
                Err(unsent) => unsent.0,
            },
            None => job,
        };
        self.slot.fill(job.run());
        self.finished.send_modify(|count| *count += 1);
    }

    /// Picks up the result of a commit that has ended.
    pub fn poll(&mut self) -> Option<Result<Ended, StoreError>> {
        let result = self.slot.done.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.busy = false;
        Some(result)
    }

    /// Waits for the running commit, if there is one.
    pub fn wait(&mut self) -> Option<Result<Ended, StoreError>> {
        if !self.busy {
            return None;
        }
        let mut done = self.slot.done.lock().unwrap_or_else(PoisonError::into_inner);
        while done.is_none() {
            done = self.slot.filled.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
        self.busy = false;
        done.take()
    }
}

impl Slot {
    fn fill(&self, result: Result<Ended, StoreError>) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.filled.notify_all();
    }
}

fn work(queue: &Receiver<Job>, slot: &Slot, finished: &watch::Sender<u64>) {
    while let Ok(job) = queue.recv() {
        // Whoever waits must learn of a panic too.
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job.run()));
        slot.fill(ran.unwrap_or_else(|_| Err(StoreError::Failed("the writer panicked".into()))));
        finished.send_modify(|count| *count += 1);
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        // The thread ends when the channel does; a running commit is let finish.
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
