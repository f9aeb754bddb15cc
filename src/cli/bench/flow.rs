//! The runs that count messages a second and latencies: `enqueue`, `pipeline`, `paced`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::Ground;
use super::copy::Watch;
use super::probe::Probe;
use super::report::{Latency, put, tenths};
use super::timetable::Timetable;
use super::workload::{Delivery, Line, Maker, Receiver};
use crate::client::DeleteOutcome;

const WARM: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;
/// How long a worker may take to end.
const END: Duration = Duration::from_secs(30);
/// A sender that met an error waits so long.
const REST: Duration = Duration::from_millis(20);

/// Errors of all workers: how many, and what the first one said.
#[derive(Debug, Default)]
pub struct Errors {
    count: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Errors {
    pub fn met(&self, error: String) {
        self.count.fetch_add(1, Relaxed);
        self.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    #[must_use]
    pub fn json(&self) -> Value {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({ "errors": self.count.load(Relaxed), "first_error": first })
    }
}

/// One bit for each message number; grows as it must.
#[derive(Debug, Default)]
pub struct Numbers(Mutex<Vec<u64>>);

impl Numbers {
    /// Marks a number; true when it was marked already.
    pub fn mark(&self, number: u64) -> bool {
        let mut words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(number / 64).unwrap_or(usize::MAX);
        if at >= words.len() {
            words.resize(at.saturating_add(1).next_multiple_of(1_024), 0);
        }
        let Some(word) = words.get_mut(at) else { return false };
        let bit = 1 << (number % 64);
        let was = *word & bit != 0;
        *word |= bit;
        was
    }

    #[must_use]
    pub fn has(&self, number: u64) -> bool {
        let words = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(number / 64).unwrap_or(usize::MAX);
        words.get(at).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }
}

/// The most leases of one message that are noted.
const LEASES: u32 = 1_000;

/// Leases that ran out before their message was deleted: message number and which of its leases.
/// Each counts once, whether the late delete showed it, the next receive, or both.
#[derive(Debug, Default)]
pub struct Expired(Mutex<BTreeSet<(u64, u32)>>);

impl Expired {
    /// A message was received under this lease, so those before are over.
    pub fn received(&self, number: u64, lease: u32) {
        if lease > 1 {
            let over = (1..lease.min(LEASES)).map(|lease| (number, lease));
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(over);
        }
    }

    /// Its delete came too late.
    pub fn too_late(&self, number: u64, lease: u32) {
        let mut leases = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leases.insert((number, lease.min(LEASES)));
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

struct Enqueue {
    maker: Arc<Maker>,
    batch: usize,
    phase: AtomicU8,
    acked: AtomicU64,
    errors: Errors,
}

impl Enqueue {
    async fn sender(self: Arc<Self>, line: Line, mut timetable: Option<Timetable>) -> Latency {
        let mut latency = Latency::default();
        while self.phase.load(Relaxed) != STOP {
            let begun = match &mut timetable {
                None => Instant::now(),
                // Counted from when it should have gone out, so that a stall is not hidden.
                Some(timetable) => match timetable.next().await {
                    Some(due) => due,
                    None => break,
                },
            };
            let sent = line.send(self.maker.batch(self.batch, self.maker.now())).await;
            if self.phase.load(Relaxed) != MEASURE {
                continue;
            }
            match sent {
                Ok(()) => {
                    self.acked.fetch_add(self.batch as u64, Relaxed);
                    latency.record(begun.elapsed());
                }
                Err(error) => {
                    self.errors.met(error);
                    sleep(REST).await;
                }
            }
        }
        latency
    }
}

/// Each of the senders waits for the acknowledgement of its one send before the next, and for the
/// time at which that is due, where there is a rate.
pub async fn enqueue(ground: &Ground, rate: Option<f64>) -> anyhow::Result<Value> {
    let workers = ground.options.concurrency.unwrap_or(64);
    let batch = ground.options.batch;
    let rate = rate.map(checked).transpose()?;
    let mut name = if batch == 1 {
        format!("enqueue C={workers}")
    } else {
        format!("enqueue {workers}x{batch}")
    };
    if let Some(rate) = rate {
        name = format!("{name} {rate}/s");
    }
    let mut out = ground.head(&name, "enqueue");
    let run = Arc::new(Enqueue {
        maker: Maker::new(ground.options.payload),
        batch,
        phase: AtomicU8::new(WARM),
        acked: AtomicU64::new(0),
        errors: Errors::default(),
    });
    let mut tasks = Vec::new();
    for worker in 0..workers {
        let timetable = rate.map(|rate| timetable(rate, (worker, workers), batch)).transpose()?;
        tasks.push(tokio::spawn(run.clone().sender(ground.line.clone(), timetable)));
    }
    sleep(ground.warmup()).await;
    let window = Window::begin(ground).await;
    run.phase.store(MEASURE, Relaxed);
    let begun = Instant::now();
    sleep(ground.window()).await;
    let acked = run.acked.load(Relaxed);
    let seconds = begun.elapsed().as_secs_f64();
    let used = window.end(acked);
    run.phase.store(STOP, Relaxed);
    let used = used.await;
    let mut latency = Latency::default();
    for task in tasks {
        if let Ok(Ok(one)) = timeout(END, task).await {
            latency.add(&one);
        }
    }
    put(
        &mut out,
        json!({
            "workers": workers,
            "rate": rate,
            "secs": tenths(seconds),
            "acked": acked,
            "msgs_per_s": tenths(acked as f64 / seconds),
            "send_latency": latency.json(),
        }),
    );
    put(&mut out, run.errors.json());
    put(&mut out, used);
    Ok(out)
}

/// How a pipeline is laid out.
struct Plan {
    name: String,
    producers: usize,
    consumers: usize,
    receive_batch: usize,
    /// Messages sent and not yet completed at most; 0 = any number.
    window: usize,
    /// Messages a second; 0 = a closed loop.
    rate: f64,
}

impl Plan {
    /// When a producer's batches are due, where there is a rate.
    fn timetable(&self, worker: usize, batch: usize) -> std::io::Result<Option<Timetable>> {
        let rate = Some(self.rate).filter(|rate| *rate > 0.0);
        rate.map(|rate| timetable(rate, (worker, self.producers), batch)).transpose()
    }
}

/// When the batches of one of some senders are due, at a rate of messages of them all.
fn timetable(
    rate: f64,
    (worker, workers): (usize, usize),
    batch: usize,
) -> std::io::Result<Timetable> {
    let gap = Duration::from_secs_f64(workers as f64 * batch as f64 / rate);
    let first = gap.mul_f64(worker as f64 / workers as f64);
    Timetable::start(Instant::now() + first, gap)
}

fn checked(rate: f64) -> anyhow::Result<f64> {
    if rate.is_finite() && rate > 0.0 && rate <= 1e7 {
        return Ok(rate);
    }
    let text = format!("--rate is {rate}; allowed: more than 0, at most 10000000");
    Err(crate::cli::exit::Usage(text).into())
}

/// What is used, and how far the copy is behind, while messages are counted.
struct Window {
    probe: Probe,
    /// Of the nodes of the copy.
    copying: Option<Probe>,
    watch: Option<Watch>,
    payload: usize,
}

impl Window {
    async fn begin(ground: &Ground) -> Window {
        let watch = match &ground.copy {
            Some(copy) => Some(copy.watch().await),
            None => None,
        };
        let copying = ground.copy.as_ref().map(|copy| Probe::start(&copy.pids));
        let probe = Probe::start(&ground.pids());
        Window { probe, copying, watch, payload: ground.options.payload }
    }

    /// The window ends with this call; what it answers is to be waited for when the load rests.
    fn end(self, messages: u64) -> impl Future<Output = Value> {
        let mut used = self.probe.end(messages);
        if let Some(copying) = self.copying {
            let each = copying.end(messages);
            put(&mut used, json!({ "copy_cpu_us_per_msg": each.get("server_cpu_us_per_msg") }));
        }
        async move {
            if let Some(watch) = self.watch {
                put(&mut used, watch.end(messages, self.payload).await);
            }
            used
        }
    }
}

/// Number and send time of a message of this run, and which of its leases it was received under.
type Head = (Option<(u64, u64)>, u32);

struct Pipeline {
    maker: Arc<Maker>,
    batch: usize,
    phase: AtomicU8,
    drained: AtomicBool,
    sent: AtomicU64,
    done: AtomicU64,
    counted: AtomicU64,
    again: AtomicU64,
    expired: Expired,
    seen: Numbers,
    window: Semaphore,
    errors: Errors,
}

/// 32 senders of one message and 32 receivers of up to 10; with `--batch N` 8 of each, of N.
pub async fn pipeline(ground: &Ground) -> anyhow::Result<Value> {
    let batch = ground.options.batch;
    let workers = ground.options.concurrency.unwrap_or(if batch == 1 { 32 } else { 8 });
    let plan = if batch == 1 {
        Plan {
            name: format!("pipeline {workers}+{workers}"),
            producers: workers,
            consumers: workers,
            receive_batch: 10,
            window: 256,
            rate: 0.0,
        }
    } else {
        Plan {
            name: format!("pipeline batch {batch}"),
            producers: workers,
            consumers: workers,
            receive_batch: batch,
            window: 4_000,
            rate: 0.0,
        }
    };
    flow(ground, plan).await
}

/// 8 senders on a timetable and 8 receivers of one message.
pub async fn paced(ground: &Ground, rate: f64) -> anyhow::Result<Value> {
    let rate = checked(rate)?;
    let workers = ground.options.concurrency.unwrap_or(8);
    let plan = Plan {
        name: format!("paced {rate}/s"),
        producers: workers,
        consumers: workers,
        receive_batch: 1,
        window: 0,
        rate,
    };
    flow(ground, plan).await
}

async fn flow(ground: &Ground, plan: Plan) -> anyhow::Result<Value> {
    let batch = ground.options.batch;
    let mut out = ground.head(&plan.name, "pipeline");
    let run = Arc::new(Pipeline::new(ground.options.payload, batch, plan.window));
    let mut consumers = Vec::new();
    for _ in 0..plan.consumers {
        let receiver = ground.line.receiver(plan.receive_batch);
        consumers.push(tokio::spawn(run.clone().consumer(receiver.map_err(anyhow::Error::msg)?)));
    }
    let mut producers = Vec::new();
    for worker in 0..plan.producers {
        let timetable = plan.timetable(worker, batch)?;
        producers.push(tokio::spawn(run.clone().producer(ground.line.clone(), timetable)));
    }
    sleep(ground.warmup()).await;
    let window = Window::begin(ground).await;
    run.phase.store(MEASURE, Relaxed);
    let begun = Instant::now();
    sleep(ground.window()).await;
    let completed = run.counted.load(Relaxed);
    let seconds = begun.elapsed().as_secs_f64();
    let used = window.end(completed);
    run.phase.store(STOP, Relaxed);
    let used = used.await;
    run.window.add_permits(plan.producers * batch);
    let (mut sends, mut late) = (Latency::default(), Latency::default());
    for task in producers {
        if let Ok(Ok((one, two))) = timeout(END, task).await {
            sends.add(&one);
            late.add(&two);
        }
    }
    let drain = run.drain().await;
    let (mut delivered, mut ended) = (Latency::default(), Latency::default());
    for task in consumers {
        if let Ok(Ok((one, two))) = timeout(END, task).await {
            delivered.add(&one);
            ended.add(&two);
        }
    }
    put(
        &mut out,
        json!({
            "producers": plan.producers,
            "consumers": plan.consumers,
            "recv_batch": plan.receive_batch,
            "window": plan.window,
            "rate": plan.rate,
            "sender_lateness": late.json(),
            "confirm_ack": true,
            "secs": tenths(seconds),
            "completed": completed,
            "msgs_per_s": tenths(completed as f64 / seconds),
            "drain_s": tenths(drain.as_secs_f64()),
            "not_delivered": run.sent.load(Relaxed).saturating_sub(run.done.load(Relaxed)),
            "redelivered": run.again.load(Relaxed),
            "lease_expired": run.expired.count(),
            "send_latency": sends.json(),
            "deliver_latency": delivered.json(),
            "end_to_end_latency": ended.json(),
        }),
    );
    put(&mut out, run.errors.json());
    put(&mut out, used);
    Ok(out)
}

impl Pipeline {
    /// Payloads of so many bytes; `window` as in a plan.
    fn new(payload: usize, batch: usize, window: usize) -> Pipeline {
        let permits = if window == 0 { Semaphore::MAX_PERMITS / 2 } else { window.max(batch) };
        Pipeline {
            maker: Maker::new(payload),
            batch,
            phase: AtomicU8::new(WARM),
            drained: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            done: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            again: AtomicU64::new(0),
            expired: Expired::default(),
            seen: Numbers::default(),
            window: Semaphore::new(permits),
            errors: Errors::default(),
        }
    }

    async fn producer(
        self: Arc<Self>,
        line: Line,
        mut timetable: Option<Timetable>,
    ) -> (Latency, Latency) {
        let mut latencies = (Latency::default(), Latency::default());
        let (latency, lateness) = (&mut latencies.0, &mut latencies.1);
        let batch = u32::try_from(self.batch).unwrap_or(1);
        while self.phase.load(Relaxed) != STOP {
            let mut at = None;
            if let Some(timetable) = &mut timetable {
                let Some(due) = timetable.next().await else { break };
                // Counted from when it should have gone out, so that a stall is not hidden.
                let late = due.elapsed();
                lateness.record(late);
                let late = u64::try_from(late.as_nanos()).unwrap_or(0);
                at = Some(self.maker.now().saturating_sub(late));
            }
            let Ok(permit) = self.window.acquire_many(batch).await else { break };
            permit.forget();
            let at = at.unwrap_or_else(|| self.maker.now());
            match line.send(self.maker.batch(self.batch, at)).await {
                Ok(()) => {
                    self.sent.fetch_add(self.batch as u64, Relaxed);
                    if self.phase.load(Relaxed) == MEASURE {
                        let nanos = self.maker.now().saturating_sub(at);
                        latency.record(Duration::from_nanos(nanos));
                    }
                }
                Err(error) => {
                    self.errors.met(format!("send: {error}"));
                    self.window.add_permits(self.batch);
                    sleep(REST).await;
                }
            }
        }
        latencies
    }

    async fn consumer(self: Arc<Self>, mut receiver: Receiver) -> (Latency, Latency) {
        let mut latencies = (Latency::default(), Latency::default());
        while !self.drained.load(Relaxed) {
            if let Err(error) = self.consume(&mut receiver, &mut latencies).await {
                self.errors.met(format!("receive: {error}"));
                sleep(REST).await;
            }
        }
        latencies
    }

    async fn consume(
        &self,
        receiver: &mut Receiver,
        latencies: &mut (Latency, Latency),
    ) -> Result<(), String> {
        let deliveries = receiver.receive(Duration::from_secs(1)).await?;
        if deliveries.is_empty() {
            return Ok(());
        }
        let received = self.maker.now();
        let read = |delivery: &Delivery| (self.maker.read(&delivery.body), delivery.lease);
        let heads: Vec<Head> = deliveries.iter().map(read).collect();
        for (head, lease) in &heads {
            if let Some((number, _)) = head {
                self.expired.received(*number, *lease);
            }
        }
        let outcomes = receiver.delete(deliveries).await?;
        self.settle(heads, outcomes, received, latencies);
        Ok(())
    }

    /// Counts those whose delete was made. One that came too late leaves its message to whoever
    /// received it next, and says nothing about the others of the batch.
    fn settle(
        &self,
        heads: Vec<Head>,
        outcomes: Vec<DeleteOutcome>,
        received: u64,
        (delivered, ended): &mut (Latency, Latency),
    ) {
        let now = self.maker.now();
        let measured = self.phase.load(Relaxed) == MEASURE;
        for ((head, lease), outcome) in heads.into_iter().zip(outcomes) {
            let Some((number, sent)) = head else { continue };
            match outcome {
                DeleteOutcome::Deleted => {}
                DeleteOutcome::MessageNotFound | DeleteOutcome::ReceiptMismatch => {
                    self.expired.too_late(number, lease);
                    continue;
                }
                DeleteOutcome::Unspecified => {
                    self.errors.met("a delete was answered with nothing".to_owned());
                    continue;
                }
            }
            if self.seen.mark(number) {
                self.again.fetch_add(1, Relaxed);
                continue;
            }
            self.done.fetch_add(1, Relaxed);
            self.window.add_permits(1);
            if measured {
                self.counted.fetch_add(1, Relaxed);
                delivered.record(Duration::from_nanos(received.saturating_sub(sent)));
                ended.record(Duration::from_nanos(now.saturating_sub(sent)));
            }
        }
    }

    /// Waits until all that was sent has come, or nothing comes any more.
    async fn drain(&self) -> Duration {
        let begun = Instant::now();
        let (mut last, mut moved) = (0, Instant::now());
        while self.done.load(Relaxed) < self.sent.load(Relaxed)
            && moved.elapsed() < Duration::from_secs(35)
            && begun.elapsed() < Duration::from_secs(120)
        {
            let done = self.done.load(Relaxed);
            if done != last {
                (last, moved) = (done, Instant::now());
            }
            sleep(Duration::from_millis(5)).await;
        }
        self.drained.store(true, Relaxed);
        begun.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_marked_once() {
        let numbers = Numbers::default();
        for number in [0, 63, 64, 1_000_000] {
            assert!(!numbers.has(number));
            assert!(!numbers.mark(number));
            assert!(numbers.mark(number) && numbers.has(number));
        }
        assert!(!numbers.has(u64::MAX));
    }

    #[test]
    fn a_delete_that_came_too_late_is_a_lease_that_ran_out_and_no_error() {
        use DeleteOutcome::{Deleted, MessageNotFound, ReceiptMismatch};
        let run = Pipeline::new(64, 1, 10);
        run.phase.store(MEASURE, Relaxed);
        let heads = vec![(Some((0, 0)), 1), (Some((1, 0)), 1), (None, 1), (Some((2, 0)), 1)];
        let mut latencies = (Latency::default(), Latency::default());
        let outcomes = vec![ReceiptMismatch, Deleted, Deleted, MessageNotFound];
        run.settle(heads, outcomes, 5, &mut latencies);
        assert_eq!((run.done.load(Relaxed), run.counted.load(Relaxed)), (1, 1), "the others count");
        assert_eq!((run.expired.count(), run.window.available_permits()), (2, 11));
        assert_eq!(run.errors.json()["errors"], 0);
        // The other receiver of the first message deletes it, once.
        run.expired.received(0, 2);
        run.settle(vec![(Some((0, 0)), 2)], vec![Deleted], 9, &mut latencies);
        assert_eq!((run.done.load(Relaxed), run.again.load(Relaxed)), (2, 0));
        assert_eq!(run.expired.count(), 2, "the same lease, seen from both sides");
    }

    #[test]
    fn a_lease_that_ran_out_counts_once_however_it_is_noticed() {
        let expired = Expired::default();
        expired.received(7, 1);
        assert_eq!(expired.count(), 0, "a first lease is none that ran out");
        expired.received(7, 2);
        expired.too_late(7, 1);
        assert_eq!(expired.count(), 1, "the same lease, seen by both of its receivers");
        expired.received(7, 4);
        assert_eq!(expired.count(), 3, "the third was lost on its way");
        expired.too_late(8, 1);
        expired.too_late(8, 0);
        expired.received(9, u32::MAX);
        assert_eq!(expired.count(), 5 + LEASES as usize - 1);
    }
}
