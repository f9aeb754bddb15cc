//! The one door by which commands, wall time and randomness enter the log.
//!
//! It takes whatever commands are waiting, at most 1,024 of them or 256 KiB, stamps them and
//! proposes them as one entry. It never lingers: four entries may be in flight, and while they
//! are, the next batch gathers. Bytes in flight are bounded; over the bound a command is refused
//! before it is queued.
//!
//! A command is answered once: with its outcome from `apply`, with *not applied* when it was
//! refused before it entered the log, and with *unknown* in every other case.

use std::sync::{Arc, Mutex, PoisonError};

use openraft::Raft;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::error::{GroupError, Reason};
use super::limits::{COMMAND_BYTES, WAITING_COMMANDS};
use super::log_clock::LogClock;
use super::machine::Machine;
use super::types::{Local, Proposal, TypeConfig, scoped};
use crate::queue::command::{Command, Content, Entry, Envelope};
use crate::queue::ids::{Epoch, LogTime, Position};
use crate::queue::outcome::Outcome;
use crate::storage::bodies::Found;
use crate::storage::codec;

/// Commands in one entry.
const BATCH_COMMANDS: usize = 1_024;
/// Bytes of commands after which an entry takes no more.
const BATCH_BYTES: usize = 256 << 10;
/// Entries proposed and not yet applied.
const ENTRIES_IN_FLIGHT: usize = 4;
/// [`COMMAND_BYTES`] in units of [`UNIT`].
const UNITS_IN_FLIGHT: usize = COMMAND_BYTES / UNIT;
const UNIT: usize = 256;

pub type RaftHandle = Raft<TypeConfig, Machine>;

/// What became of one command.
#[derive(Clone, Debug)]
pub struct Done {
    pub outcome: Outcome,
    pub position: Position,
    pub epoch: Epoch,
    pub log_time: LogTime,
    /// For a receive: the contents of the messages, in their order.
    pub contents: Vec<Content>,
}

/// The same, with contents that are yet to be read.
#[derive(Debug)]
pub struct Answered {
    pub outcome: Outcome,
    pub position: Position,
    pub epoch: Epoch,
    pub log_time: LogTime,
    /// For a receive: where the contents are; `None` = not in the store.
    pub found: Vec<Option<Found>>,
}

/// Who waits for a command. Dropped without an answer, the fate is unknown.
pub type Reply = oneshot::Sender<Result<Answered, GroupError>>;

struct Job {
    envelope: Envelope,
    size: usize,
    reply: Reply,
    /// Given back when the command was answered or given up.
    units: OwnedSemaphorePermit,
}

/// What the proposer must know of leadership to stamp.
pub struct Term {
    pub leader: openraft::alias::CommittedLeaderIdOf<TypeConfig>,
    pub epoch: Epoch,
    pub clock: LogClock,
}

/// The queue before the proposer.
#[derive(Clone, Debug)]
pub struct Proposer {
    jobs: mpsc::Sender<Job>,
    units: Arc<Semaphore>,
    seat: Seat,
}

/// What rides at the end of the next entry of data, if anything does.
type Seat = Arc<Mutex<Option<Envelope>>>;

impl Proposer {
    /// A queue and the loop that empties it; the loop ends when the queue is dropped.
    pub fn new(
        raft: RaftHandle,
        terms: tokio::sync::watch::Receiver<Option<Arc<Term>>>,
    ) -> (Proposer, impl Future<Output = ()>) {
        let (jobs, waiting) = mpsc::channel(WAITING_COMMANDS);
        let units = Arc::new(Semaphore::new(UNITS_IN_FLIGHT));
        // No random number is drawn when entries are proposed; openraft asks for a seed all the same.
        let seat = Seat::default();
        let run = scoped(0, run(raft, terms, waiting, Arc::clone(&seat)));
        (Proposer { jobs, units, seat }, run)
    }

    /// Lets a command ride at the end of the next entry of data. It causes none, and has no
    /// answer; a newer one takes its seat.
    pub fn ride(&self, envelope: Envelope) {
        *self.seat.lock().unwrap_or_else(PoisonError::into_inner) = Some(envelope);
    }

    /// Bytes accepted and not yet answered, rounded up.
    #[must_use]
    pub fn bytes_in_flight(&self) -> u64 {
        (UNITS_IN_FLIGHT.saturating_sub(self.units.available_permits()) * UNIT) as u64
    }

    /// Queues a command, and calls `first` when it is sure to be queued and before it is. What it
    /// resolves to is its answer; when the sender's end is gone, the outcome is unknown.
    ///
    /// # Errors
    /// `NotNow`, not applied, when too much is in flight.
    pub fn submit(
        &self,
        envelope: Envelope,
        first: impl FnOnce(&Envelope),
    ) -> Result<oneshot::Receiver<Result<Answered, GroupError>>, GroupError> {
        let size = envelope.command.size();
        let overloaded = || GroupError::not_applied(Reason::Overloaded);
        let count = u32::try_from(size.div_ceil(UNIT)).map_err(|_| overloaded())?;
        let units =
            Arc::clone(&self.units).try_acquire_many_owned(count).map_err(|_| overloaded())?;
        let place = self.jobs.try_reserve().map_err(|_| overloaded())?;
        first(&envelope);
        let (reply, answer) = oneshot::channel();
        place.send(Job { envelope, size, reply, units });
        Ok(answer)
    }
}

async fn run(
    raft: RaftHandle,
    terms: tokio::sync::watch::Receiver<Option<Arc<Term>>>,
    mut waiting: mpsc::Receiver<Job>,
    seat: Seat,
) {
    let window = Arc::new(Semaphore::new(ENTRIES_IN_FLIGHT));
    let mut jobs = Vec::new();
    loop {
        if jobs.is_empty() && waiting.recv_many(&mut jobs, BATCH_COMMANDS).await == 0 {
            return;
        }
        let Ok(slot) = Arc::clone(&window).acquire_owned().await else { return };
        // What came while the window was full joins this entry.
        while jobs.len() < BATCH_COMMANDS {
            let Ok(job) = waiting.try_recv() else { break };
            jobs.push(job);
        }
        // Who has given up was told that the outcome is unknown; it need not happen.
        jobs.retain(|job| !job.reply.is_closed());
        if jobs.is_empty() {
            continue;
        }
        let rest = jobs.split_off(batch_len(&jobs));
        let batch = std::mem::replace(&mut jobs, rest);
        let term = terms.borrow().clone();
        match term {
            Some(term) => propose(&raft, &term, batch, slot, &seat).await,
            None => refuse(batch.into_iter().map(|job| job.reply), Reason::NotLeader),
        }
    }
}

/// How many of the jobs fit in one entry: at least one. One about regions goes alone.
fn batch_len(jobs: &[Job]) -> usize {
    let is_alone = |job: &Job| matches!(job.envelope.command, Command::Region(_));
    if jobs.first().is_some_and(is_alone) {
        return 1;
    }
    let mut bytes = 0;
    let fits = |job: &&Job| {
        let fits = bytes < BATCH_BYTES && !is_alone(job);
        bytes += job.size;
        fits
    };
    jobs.iter().take(BATCH_COMMANDS).take_while(fits).count().max(1)
}

fn refuse(replies: impl Iterator<Item = Reply>, reason: Reason) {
    for reply in replies {
        let _ = reply.send(Err(GroupError::not_applied(reason)));
    }
}

async fn propose(
    raft: &RaftHandle,
    term: &Term,
    batch: Vec<Job>,
    slot: OwnedSemaphorePermit,
    seat: &Seat,
) {
    let mut commands = Vec::with_capacity(batch.len());
    let mut replies = Vec::with_capacity(batch.len());
    let mut units = Vec::with_capacity(batch.len());
    for job in batch {
        commands.push(job.envelope);
        replies.push(job.reply);
        units.push(job.units);
    }
    // A command about regions goes alone.
    if !matches!(commands.as_slice(), [Envelope { command: Command::Region(_), .. }]) {
        // Nobody waits for the last one: there is an answer for each command before it.
        commands.extend(seat.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
    // The position is set when the entry is applied.
    for envelope in &mut commands {
        if let Command::Region(asked) = &mut envelope.command {
            asked.by.at_us = term.clock.stamp().0;
        }
    }
    let position = Position::default();
    let mut entry = Entry { position, stamp: term.clock.stamp(), epoch: term.epoch, commands };
    let encoded = codec::encode_entry(&mut entry);
    let proposal = Proposal::local(encoded, Local { entry, replies });
    let kept = proposal.clone();
    let (responder, answer) = ProgressResponder::complete_only();
    let sent = raft.write(proposal).with_leader(term.leader).responder(responder).await;
    if let Err(fatal) = sent {
        fail(&kept, &GroupError::Fatal(fatal.to_string()));
        return;
    }
    tokio::spawn(async move {
        let error = match answer.await {
            Ok(Ok(_)) => None,
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => {
                Some(GroupError::not_applied(Reason::NoQuorum))
            }
            // The entry was in the log; another leader may have committed it.
            Ok(Err(_)) | Err(_) => Some(GroupError::unknown(Reason::LeaderChanged)),
        };
        if let Some(error) = error {
            fail(&kept, &error);
        }
        drop((slot, units));
    });
}

/// Answers everybody of an entry that was not applied here.
fn fail(proposal: &Proposal, error: &GroupError) {
    for reply in proposal.take_local().into_iter().flat_map(|local| local.replies) {
        let _ = reply.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::authority::command::{Actor, RegionCommand, RegionVerb};
    use crate::queue::command::NewMessage;

    fn job(command: Command) -> Job {
        let units = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a unit");
        let envelope = Envelope { session: None, account: String::new(), command };
        Job { size: envelope.command.size(), envelope, reply: oneshot::channel().0, units }
    }

    fn seal() -> Job {
        let command = RegionCommand { by: Actor::default(), verb: RegionVerb::Seal };
        job(Command::Region(Box::new(command)))
    }

    #[test]
    fn nothing_is_said_of_a_command_that_is_not_queued() {
        let (jobs, mut waiting) = mpsc::channel(1);
        let units = Arc::new(Semaphore::new(UNITS_IN_FLIGHT));
        let proposer = Proposer { jobs, units: Arc::clone(&units), seat: Seat::default() };
        let mut said = 0;
        let mut submit = |bytes: usize| {
            let content = Content { body: vec![0; bytes].into(), ..Content::default() };
            let messages = vec![NewMessage { content, ..NewMessage::default() }];
            let command = Command::Send { queue: "orders".to_owned(), messages };
            let envelope = Envelope { session: None, account: String::new(), command };
            let queued = proposer.submit(envelope, |_| said += 1).is_ok();
            (queued, said)
        };
        assert_eq!(submit(UNITS_IN_FLIGHT * UNIT), (false, 0), "more than may be in flight");
        assert_eq!(submit(1), (true, 1));
        assert_eq!(submit(1), (false, 1), "the queue is full");
        assert!(waiting.try_recv().is_ok() && waiting.try_recv().is_err());
        assert_eq!(units.available_permits(), UNITS_IN_FLIGHT, "all is given back");
    }

    #[test]
    fn a_command_about_regions_goes_alone_and_data_goes_together() {
        let pulse = || job(Command::Pulse);
        assert_eq!(batch_len(&[pulse(), pulse(), seal(), pulse()]), 2);
        assert_eq!(batch_len(&[seal(), pulse(), pulse()]), 1);
        assert_eq!(batch_len(&[seal(), seal()]), 1);
        assert_eq!(batch_len(&[pulse(), pulse()]), 2);
    }
}
