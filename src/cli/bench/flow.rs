//! The runs that count messages a second and latencies: `enqueue`, `pipeline`, `paced`.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::Ground;
use super::probe::Probe;
use super::report::{Latency, put, tenths};
use super::timetable::Timetable;
use super::workload::{Maker, Receiver, Sender};

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

struct Enqueue {
    maker: Arc<Maker>,
    batch: usize,
    phase: AtomicU8,
    acked: AtomicU64,
    errors: Errors,
}

impl Enqueue {
    async fn sender(self: Arc<Self>, mut sender: Sender) -> Latency {
        let mut latency = Latency::default();
        while self.phase.load(Relaxed) != STOP {
            let begun = Instant::now();
            let sent = sender.send(self.maker.batch(self.batch, self.maker.now())).await;
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

/// Each of the senders waits for the acknowledgement of its one send before the next.
pub async fn enqueue(ground: &Ground) -> anyhow::Result<Value> {
    let workers = ground.options.concurrency.unwrap_or(64);
    let batch = ground.options.batch;
    let name = if batch == 1 {
        format!("enqueue C={workers}")
    } else {
        format!("enqueue {workers}x{batch}")
    };
    let mut out = ground.head(&name, "enqueue");
    let run = Arc::new(Enqueue {
        maker: Maker::new(ground.options.payload),
        batch,
        phase: AtomicU8::new(WARM),
        acked: AtomicU64::new(0),
        errors: Errors::default(),
    });
    let senders = (0..workers).map(|worker| run.clone().sender(ground.line.sender(worker)));
    let tasks: Vec<_> = senders.map(tokio::spawn).collect();
    sleep(ground.warmup()).await;
    let probe = Probe::start(&ground.pids());
    run.phase.store(MEASURE, Relaxed);
    let begun = Instant::now();
    sleep(ground.window()).await;
    let acked = run.acked.load(Relaxed);
    let seconds = begun.elapsed().as_secs_f64();
    let used = probe.end(acked);
    run.phase.store(STOP, Relaxed);
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
        if self.rate <= 0.0 {
            return Ok(None);
        }
        let gap = Duration::from_secs_f64(self.producers as f64 * batch as f64 / self.rate);
        let first = gap.mul_f64(worker as f64 / self.producers as f64);
        Timetable::start(Instant::now() + first, gap).map(Some)
    }
}

struct Pipeline {
    maker: Arc<Maker>,
    batch: usize,
    phase: AtomicU8,
    drained: AtomicBool,
    sent: AtomicU64,
    done: AtomicU64,
    counted: AtomicU64,
    again: AtomicU64,
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
    if !rate.is_finite() || rate <= 0.0 || rate > 1e7 {
        let text = format!("--rate is {rate}; allowed: more than 0, at most 10000000");
        return Err(crate::cli::exit::Usage(text).into());
    }
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
    let run = Arc::new(Pipeline::new(ground, &plan));
    let mut consumers = Vec::new();
    for worker in 0..plan.consumers {
        let receiver = ground.line.receiver(worker, plan.receive_batch);
        consumers.push(tokio::spawn(run.clone().consumer(receiver.map_err(anyhow::Error::msg)?)));
    }
    let mut producers = Vec::new();
    for worker in 0..plan.producers {
        let timetable = plan.timetable(worker, batch)?;
        producers.push(tokio::spawn(run.clone().producer(ground.line.sender(worker), timetable)));
    }
    sleep(ground.warmup()).await;
    let probe = Probe::start(&ground.pids());
    run.phase.store(MEASURE, Relaxed);
    let begun = Instant::now();
    sleep(ground.window()).await;
    let completed = run.counted.load(Relaxed);
    let seconds = begun.elapsed().as_secs_f64();
    let used = probe.end(completed);
    run.phase.store(STOP, Relaxed);
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
    fn new(ground: &Ground, plan: &Plan) -> Pipeline {
        let batch = ground.options.batch;
        let permits =
            if plan.window == 0 { Semaphore::MAX_PERMITS / 2 } else { plan.window.max(batch) };
        Pipeline {
            maker: Maker::new(ground.options.payload),
            batch,
            phase: AtomicU8::new(WARM),
            drained: AtomicBool::new(false),
            sent: AtomicU64::new(0),
            done: AtomicU64::new(0),
            counted: AtomicU64::new(0),
            again: AtomicU64::new(0),
            seen: Numbers::default(),
            window: Semaphore::new(permits),
            errors: Errors::default(),
        }
    }

    async fn producer(
        self: Arc<Self>,
        mut sender: Sender,
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
            match sender.send(self.maker.batch(self.batch, at)).await {
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
        (delivered, ended): &mut (Latency, Latency),
    ) -> Result<(), String> {
        let deliveries = receiver.receive(Duration::from_secs(1)).await?;
        if deliveries.is_empty() {
            return Ok(());
        }
        let received = self.maker.now();
        let read = |delivery: &super::workload::Delivery| self.maker.read(&delivery.body);
        let numbers: Vec<(u64, u64)> = deliveries.iter().filter_map(read).collect();
        receiver.delete(deliveries).await?;
        let now = self.maker.now();
        let measured = self.phase.load(Relaxed) == MEASURE;
        for (number, sent) in numbers {
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
        Ok(())
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
}
