//! The run about many queues: what creating, listing and sending cost with them, and without.
//!
//! Law: whatever is compared runs in the same minute with the same workers; first with the queue
//! of the bench alone, then with all of them there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Ground;
use super::flow::Errors;
use super::probe::Probe;
use super::report::{Latency, put, tenths};
use super::workload::Maker;
use crate::client::{Client, ClientError, ListQueues, NewMessage, QueueSettings, StringMap};

/// Queues created at once where that is measured.
const CREATORS: usize = 16;
/// Of so many queues the first and the last are compared.
const SOME: usize = 1_000;

#[derive(Clone, Copy, Debug, Args)]
pub struct Queues {
    /// How many queues, 1000 to 100000
    #[arg(value_parser = clap::value_parser!(u32).range(1_000..=100_000))]
    queues: u32,
    /// Leave the queues there
    #[arg(long, env = "ZONEQ_BENCH_QUEUES_KEEP")]
    keep: bool,
}

/// What the workers share.
#[derive(Clone)]
struct Many {
    client: Client,
    names: Arc<Vec<String>>,
    errors: Arc<Errors>,
}

impl Many {
    /// Does something with each of some queues, sixteen at a time; answers how many a second.
    async fn each<F, T>(&self, from: usize, to: usize, work: impl Fn(Client, String) -> F) -> f64
    where
        F: Future<Output = Result<T, ClientError>> + Send + 'static,
        T: Send + 'static,
    {
        let begun = Instant::now();
        let mut running = JoinSet::new();
        for name in self.names.get(from..to).unwrap_or_default() {
            if running.len() >= CREATORS {
                running.join_next().await;
            }
            let done = work(self.client.clone(), name.clone());
            let errors = Arc::clone(&self.errors);
            running.spawn(async move {
                if let Err(error) = done.await {
                    errors.met(error.to_string());
                }
            });
        }
        while running.join_next().await.is_some() {}
        (to - from) as f64 / begun.elapsed().as_secs_f64().max(1e-9)
    }

    /// Lists all queues page by page; answers how many it saw and how long a page took.
    async fn list(&self, prefix: &str) -> (usize, Latency) {
        let (mut seen, mut latency, mut page_token) = (0, Latency::default(), None);
        loop {
            let options = ListQueues {
                prefix: prefix.to_owned(),
                page_size: SOME as u32,
                page_token: page_token.take(),
                ..ListQueues::default()
            };
            let begun = Instant::now();
            match self.client.list_queues(options).await {
                Ok(page) => {
                    latency.record(begun.elapsed());
                    seen += page.queues.len();
                    page_token = page.next_page_token;
                }
                Err(error) => self.errors.met(error.to_string()),
            }
            if page_token.is_none() {
                return (seen, latency);
            }
        }
    }

    /// Senders in a closed loop, each send to the next of the first `count` queues.
    async fn send(&self, ground: &Ground, count: usize) -> Value {
        let maker = Maker::new(ground.options.payload);
        let (turn, acked) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let mut senders = JoinSet::new();
        for _ in 0..ground.options.concurrency.unwrap_or(64) {
            let (many, maker, turn) = (self.clone(), maker.clone(), turn.clone());
            let (acked, stop) = (acked.clone(), stop.clone());
            senders.spawn(async move {
                while !stop.load(Relaxed) {
                    let next = turn.fetch_add(1, Relaxed) % count.max(1);
                    let Some(name) = many.names.get(next) else { return };
                    let body = maker.make(maker.now()).1;
                    match many.client.send(name, NewMessage::new(body)).await {
                        Ok(_) => drop(acked.fetch_add(1, Relaxed)),
                        Err(error) => many.errors.met(error.to_string()),
                    }
                }
            });
        }
        sleep(ground.warmup()).await;
        let (probe, begun, before) =
            (Probe::start(&ground.pids()), Instant::now(), acked.load(Relaxed));
        sleep(ground.window()).await;
        let count = acked.load(Relaxed) - before;
        let seconds = begun.elapsed().as_secs_f64();
        let used = probe.end(count);
        stop.store(true, Relaxed);
        while senders.join_next().await.is_some() {}
        let mut sent = json!({ "msgs_per_s": tenths(count as f64 / seconds) });
        put(&mut sent, used);
        sent
    }
}

pub async fn queues(ground: &Ground, verb: Queues) -> anyhow::Result<Value> {
    let mut out = ground.head(&format!("queues {}", verb.queues), "queues");
    let count = verb.queues as usize;
    let prefix = format!("{}-q", ground.line.queue);
    let many = Many {
        client: ground.line.client.clone(),
        names: Arc::new((0..count).map(|number| format!("{prefix}{number:05}")).collect()),
        errors: Arc::new(Errors::default()),
    };
    let create = |client: Client, name: String| async move {
        client.create_queue(&name, StringMap::new(), QueueSettings::default()).await
    };
    let first = many.each(0, SOME, create).await;
    let (_, page_of_few) = many.list(&prefix).await;
    let to_one = many.send(ground, 1).await;
    many.each(SOME, count.saturating_sub(SOME).max(SOME), create).await;
    let last = many.each(count.saturating_sub(SOME).max(SOME), count, create).await;
    let (listed, page_of_many) = many.list(&prefix).await;
    let to_all = many.send(ground, count).await;
    let to_one_of_all = many.send(ground, 1).await;
    put(
        &mut out,
        json!({
            "queues": count,
            "listed": listed,
            "creates_per_s": { "first": tenths(first), "last": tenths(last) },
            "list_page_latency": { "few": page_of_few.json(), "all": page_of_many.json() },
            "send": { "one_of_few": to_one, "one_of_all": to_one_of_all, "each_of_all": to_all },
        }),
    );
    if !verb.keep {
        let delete = |client: Client, name: String| async move { client.delete_queue(&name).await };
        many.each(0, count, delete).await;
    }
    put(&mut out, many.errors.json());
    Ok(out)
}
