//! The load of a drill: senders and workers that write down in the ledger what they do before
//! they do it, and what came of it.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::calls::{Calls, Who};
use super::ledger::{Ledger, Mark};
use super::recorder::Recorder;
use crate::cli::bench::report::Gap;
use crate::client::{Client, ClientError, DeleteItem, DeleteOutcome, Message, Reason};

const SENDERS: u32 = 16;
const WORKERS: u32 = 8;
const BATCH: u32 = 16;
/// Bytes of a message, unless told, and what may be told: its number and the drill's mark must fit.
pub const BODY: u32 = 256;
pub const BODIES: RangeInclusive<i64> = 16..=65_536;
/// Short, so that lapsed leases are redelivered within a round.
const LEASE: Duration = Duration::from_secs(2);
/// Each sender rests so long after an acknowledgement: a drill looks for loss, not for speed.
const REST: Duration = Duration::from_millis(8);

/// Senders and workers on one queue.
#[derive(Debug)]
pub struct Load {
    calls: Calls,
    begun: Instant,
    mark: u64,
    /// Bytes of each message.
    body: usize,
    next: AtomicU64,
    ledger: Mutex<Ledger>,
    pub gap: Gap,
    sending: AtomicBool,
    working: AtomicBool,
    /// Calls that ended in an error, after the client library's own retries.
    failed: AtomicU64,
    first_error: Mutex<Option<String>>,
}

/// A load that runs.
#[derive(Debug)]
pub struct Running {
    pub load: Arc<Load>,
    senders: Vec<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Makes the queue and starts, with messages of so many bytes that bear the drill's mark.
    pub async fn start(
        client: Client,
        (mark, body): (u64, u32),
        recorder: Option<Arc<Recorder>>,
    ) -> anyhow::Result<Running> {
        let calls = Calls::new(client, format!("drill-{mark:x}"), recorder);
        calls.create().await?;
        let load = Arc::new(Load {
            calls,
            begun: Instant::now(),
            mark,
            body: body as usize,
            next: AtomicU64::new(1),
            ledger: Mutex::new(Ledger::default()),
            gap: Gap::default(),
            sending: AtomicBool::new(true),
            working: AtomicBool::new(true),
            failed: AtomicU64::new(0),
            first_error: Mutex::new(None),
        });
        // The drill itself is 0.
        let senders = (1..=SENDERS).map(|who| tokio::spawn(load.clone().sender(who))).collect();
        let workers = (1..=WORKERS).map(|who| SENDERS + who);
        let workers = workers.map(|who| tokio::spawn(load.clone().worker(who))).collect();
        Ok(Running { load, senders, workers })
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nanoseconds since the load began.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    #[must_use]
    pub fn queue(&self) -> &str {
        self.calls.queue()
    }

    /// Where the history goes, if it is asked for.
    #[must_use]
    pub fn recorder(&self) -> Option<&Arc<Recorder>> {
        self.calls.recorder()
    }

    /// Writes down a fault or a phase.
    pub fn event(&self, what: impl Into<String>) {
        if let Some(recorder) = self.recorder() {
            recorder.event(what);
        }
    }

    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    #[must_use]
    pub fn first_error(&self) -> Option<String> {
        self.first_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for more acknowledged sends.
    pub async fn wait_acknowledged(&self, more: u64, patience: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + patience;
        let target = self.ledger().acknowledged() + more;
        while self.ledger().acknowledged() < target {
            self.check_recorder()?;
            if Instant::now() >= until {
                let why = self.first_error().unwrap_or_else(|| "no call has failed".to_owned());
                anyhow::bail!("no {more} sends were acknowledged in {patience:?}; {why}");
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    fn check_recorder(&self) -> anyhow::Result<()> {
        self.recorder().map_or(Ok(()), |recorder| recorder.check())
    }

    fn met(&self, error: &ClientError) {
        self.failed.fetch_add(1, Relaxed);
        let mut first = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| error.to_string());
    }

    fn body(&self, number: u64) -> Bytes {
        let mut body = BytesMut::with_capacity(self.body);
        body.put_u64_le(number);
        body.put_u64_le(self.mark);
        body.resize(self.body, (number % 251) as u8);
        body.freeze()
    }

    /// The number of one of this drill's messages, if the body is whole.
    #[must_use]
    pub fn number(&self, body: &[u8]) -> Option<u64> {
        let number = u64::from_le_bytes(body.get(..8)?.try_into().ok()?);
        (self.body(number) == body).then_some(number)
    }

    async fn sender(self: Arc<Self>, who: Who) {
        while self.sending.load(Relaxed) {
            let number = self.next.fetch_add(1, Relaxed);
            self.ledger().sending(number);
            match self.calls.send(who, number, self.body(number)).await {
                Ok(sent) => {
                    let now = self.now();
                    self.ledger().sent(number, Mark::of(&sent.durability), now);
                    self.gap.acknowledged(now);
                }
                Err(error) => {
                    if error.is_not_applied() {
                        self.ledger().not_sent(number);
                    }
                    self.met(&error);
                }
            }
            sleep(REST).await;
        }
    }

    async fn worker(self: Arc<Self>, who: Who) {
        let options = (BATCH, LEASE, Duration::from_millis(500));
        while self.working.load(Relaxed) {
            let received = self.calls.receive(who, options, |body| self.number(body)).await;
            let received = match received {
                Ok(received) => received,
                Err(error) => {
                    self.met(&error);
                    sleep(Duration::from_millis(20)).await;
                    continue;
                }
            };
            let mark = received.durability.as_ref().and_then(Mark::of);
            let Some(mark) = mark else { continue };
            let mut taken = Vec::with_capacity(received.messages.len());
            for message in received.messages {
                let number = self.number(&message.body).unwrap_or(u64::MAX);
                let ends = message.visible_at.unwrap_or(mark.at);
                self.ledger().granted(number, message.dequeue_count, mark, ends);
                self.ledger().named(number, &message.id);
                taken.push((number, message));
            }
            self.work(who, taken, mark).await;
        }
    }

    /// Most messages are deleted at once; some are worked on longer, some are dropped.
    async fn work(&self, who: Who, taken: Vec<(u64, Message)>, at: Mark) {
        let draining = !self.sending.load(Relaxed);
        let mut deletes = Vec::with_capacity(taken.len());
        for (number, mut message) in taken {
            let first = message.dequeue_count == 1;
            // A worker that died: its lease lapses and another one gets the message.
            if number % 29 == 0 && first && !draining {
                continue;
            }
            if number % 13 == 0 && first && !self.update(who, number, &mut message, at).await {
                continue;
            }
            deletes.push((number, message));
        }
        if deletes.is_empty() {
            return;
        }
        let items = deletes.iter().map(|(_, message)| DeleteItem::from(message)).collect();
        match self.calls.delete(who, items).await {
            Ok(deleted) => {
                let deleted_by = Mark::of(&deleted.durability).unwrap_or(at);
                for ((number, _), outcome) in deletes.iter().zip(&deleted.outcomes) {
                    // Else it is gone by an earlier delete of unknown fate, or another's.
                    if *outcome == DeleteOutcome::Deleted {
                        self.ledger().deleted(*number, deleted_by);
                    }
                }
            }
            Err(error) => {
                self.met(&error);
                if !error.is_not_applied() {
                    for (number, _) in &deletes {
                        self.ledger().delete_unknown(*number);
                    }
                }
            }
        }
    }

    /// Makes the lease longer or gives the message back; true when it is still ours.
    async fn update(&self, who: Who, number: u64, message: &mut Message, at: Mark) -> bool {
        let longer = number.is_multiple_of(2);
        let span = if longer { LEASE * 2 } else { Duration::ZERO };
        let updated = self.calls.update(who, message, span).await;
        let count = message.dequeue_count;
        match updated {
            Ok(updated) => {
                let by = Mark::of(&updated.durability).unwrap_or(at);
                self.ledger().moved(number, count, by, updated.visible_at);
                message.pop_receipt = updated.pop_receipt;
                longer
            }
            Err(ClientError::Rejected { reason: Reason::ReceiptMismatch, .. }) => false,
            Err(error) => {
                self.met(&error);
                if !error.is_not_applied() {
                    self.ledger().moved(number, count, at, None);
                }
                false
            }
        }
    }
}

impl Running {
    /// Ends the senders, lets the workers empty the queue, and judges the book.
    pub async fn finish(self, patience: Duration) -> anyhow::Result<super::ledger::Verdict> {
        self.load.sending.store(false, Relaxed);
        for sender in self.senders {
            timeout(patience, sender).await??;
        }
        let until = Instant::now() + patience;
        loop {
            let total = self.load.calls.left().await?;
            if total == 0 {
                break;
            }
            self.load.check_recorder()?;
            if Instant::now() >= until {
                anyhow::bail!(
                    "{total} messages are left after {} s of draining",
                    patience.as_secs()
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
        self.load.working.store(false, Relaxed);
        for worker in self.workers {
            timeout(patience, worker).await??;
        }
        let verdict = self.load.ledger().judge();
        self.load.calls.remove().await?;
        Ok(verdict)
    }
}
