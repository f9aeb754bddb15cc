//! The run about many queues: what creating, listing and sending cost with them, and without.
//!
//! Laws: whatever is compared runs in the same minutes with the same workers. Sends to one queue
//! and to each take turns, window by window, so that a machine that changes pace does not decide;
//! all queues are there in all of these windows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Ground;
use super::flow::Errors;
use super::probe::Probe;
use super::report::{Latency, mean, put, ratio, tenths};
use super::workload::Maker;
use crate::client::{Client, ClientError, ListQueues, QueueSettings, StringMap};

/// Queues created at once where that is measured.
const CREATORS: usize = 16;
/// Of so many queues the first and the last are compared; they are one page of a listing.
const SOME: usize = 1_000;
/// Who met an error waits so long.
const REST: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Debug, Args)]
pub struct Queues {
    /// How many queues, 1000 to 100000
    #[arg(value_parser = clap::value_parser!(u32).range(1_000..=100_000))]
    queues: u32,
    /// Leave the queues there
    #[arg(long, env = "ZONEQ_BENCH_QUEUES_KEEP", value_parser = FalseyValueParser::new())]
    keep: bool,
}

/// What the workers share.
#[derive(Clone)]
struct Many {
    client: Client,
    names: Arc<Vec<String>>,
    errors: Arc<Errors>,
}

/// Listings of all queues, over and over.
#[derive(Clone, Debug, Default)]
struct Listing {
    /// Queues of the last listing.
    listed: usize,
    /// Queues of all listings, in these seconds.
    queues: u64,
    seconds: f64,
    /// Processor time of the servers for each queue; `None` when they are not known.
    cpu_us: Option<f64>,
    pages: Latency,
}

impl Listing {
    fn per_second(&self) -> Option<f64> {
        (self.queues > 0).then(|| self.queues as f64 / self.seconds.max(1e-9))
    }

    fn us_each(&self) -> Option<f64> {
        self.per_second().map(|rate| 1e6 / rate)
    }
}

impl Many {
    /// Does something with each of some queues, sixteen at a time; answers how many a second.
    async fn each<F, T>(
        &self,
        from: usize,
        to: usize,
        work: impl Fn(Client, String) -> F,
    ) -> Option<f64>
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
        (to > from).then(|| (to - from) as f64 / begun.elapsed().as_secs_f64().max(1e-9))
    }

    /// Lists all queues page by page; answers how many it saw, and notes how long a page took.
    async fn list_once(&self, prefix: &str, pages: &mut Latency) -> usize {
        let (mut seen, mut page_token) = (0, None);
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
                    pages.record(begun.elapsed());
                    seen += page.queues.len();
                    page_token = page.next_page_token;
                }
                Err(error) => {
                    self.errors.met(error.to_string());
                    sleep(REST).await;
                }
            }
            if page_token.is_none() {
                return seen;
            }
        }
    }

    /// Lists them again and again for a window, and once at least.
    async fn list(&self, ground: &Ground, prefix: &str) -> Listing {
        let (probe, begun) = (Probe::start(&ground.pids()), Instant::now());
        let mut listing = Listing::default();
        loop {
            listing.listed = self.list_once(prefix, &mut listing.pages).await;
            listing.queues += listing.listed as u64;
            if begun.elapsed() >= ground.window() {
                break;
            }
        }
        listing.seconds = begun.elapsed().as_secs_f64();
        listing.cpu_us = figure(&probe.end(listing.queues), CPU);
        listing
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
            let (line, batch) = (ground.line.clone(), ground.options.batch);
            senders.spawn(async move {
                while !stop.load(Relaxed) {
                    let next = turn.fetch_add(1, Relaxed) % count.max(1);
                    let Some(name) = many.names.get(next) else { return };
                    match line.send_to(name, maker.batch(batch, maker.now())).await {
                        Ok(()) => drop(acked.fetch_add(batch as u64, Relaxed)),
                        Err(error) => {
                            many.errors.met(error);
                            sleep(REST).await;
                        }
                    }
                }
            });
        }
        sleep(ground.warmup()).await;
        let (probe, begun, before) =
            (Probe::start(&ground.pids()), Instant::now(), acked.load(Relaxed));
        sleep(ground.window()).await;
        let sent_now = acked.load(Relaxed) - before;
        let seconds = begun.elapsed().as_secs_f64();
        let used = probe.end(sent_now);
        stop.store(true, Relaxed);
        while senders.join_next().await.is_some() {}
        let mut sent = json!({ "queues": count, RATE: tenths(sent_now as f64 / seconds) });
        put(&mut sent, used);
        sent
    }
}

const RATE: &str = "msgs_per_s";
const CPU: &str = "server_cpu_us_per_msg";

fn figure(figures: &Value, name: &str) -> Option<f64> {
    figures.get(name).and_then(Value::as_f64)
}

fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// What is compared, and how many times the one with many queues is the one with few. A ratio of
/// rates is less than 1 where many are slower; one of costs is more than 1 where many are dearer.
fn compared(
    (first, last): (Option<f64>, Option<f64>),
    (few, all): (&Listing, &Listing),
    (one, each): (&Value, &Value),
) -> Value {
    let (one_rate, each_rate) = (figure(one, RATE), figure(each, RATE));
    let (one_cpu, each_cpu) = (figure(one, CPU), figure(each, CPU));
    json!({
        "creates_per_s": { "first": first.map(tenths), "last": last.map(tenths) },
        "listed_per_s": {
            "few": few.per_second().map(tenths),
            "all": all.per_second().map(tenths),
        },
        "list_us_per_queue": {
            "few": few.us_each().map(hundredths),
            "all": all.us_each().map(hundredths),
        },
        "list_cpu_us_per_queue": { "few": few.cpu_us, "all": all.cpu_us },
        "sends_per_s": { "one": one_rate, "each": each_rate },
        "send_cpu_us_per_msg": { "one": one_cpu, "each": each_cpu },
        "ratios": {
            "create_rate": ratio(last, first),
            "list_rate": ratio(all.per_second(), few.per_second()),
            "list_cost": ratio(all.us_each(), few.us_each()),
            "list_cpu": ratio(all.cpu_us, few.cpu_us),
            "send_rate": ratio(each_rate, one_rate),
            "send_cpu": ratio(each_cpu, one_cpu),
        },
    })
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
    let few = many.list(ground, &prefix).await;
    let one_of_few = many.send(ground, 1).await;
    let rest = count.saturating_sub(SOME).max(SOME);
    many.each(SOME, rest, create).await;
    let last = many.each(rest, count, create).await;
    let all = many.list(ground, &prefix).await;
    let (mut one, mut each) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        one.push(many.send(ground, 1).await);
        each.push(many.send(ground, count).await);
    }
    let (one_of_all, each_of_all) = (mean(&one), mean(&each));
    put(&mut out, json!({ "queues": count, "listed": all.listed }));
    put(&mut out, compared((first, last), (&few, &all), (&one_of_all, &each_of_all)));
    put(
        &mut out,
        json!({
            "list_page_latency": { "few": few.pages.json(), "all": all.pages.json() },
            "send": {
                "one_of_few": one_of_few,
                "one_of_all": one_of_all,
                "each_of_all": each_of_all,
                "windows": { "one_of_all": one, "each_of_all": each },
            },
        }),
    );
    if !verb.keep {
        let delete = |client: Client, name: String| async move { client.delete_queue(&name).await };
        many.each(0, count, delete).await;
    }
    put(&mut out, many.errors.json());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_with_many_queues_are_told_as_times_those_with_few() {
        let listing =
            |queues, cpu_us| Listing { queues, seconds: 2.0, cpu_us, ..Listing::default() };
        let (few, all) = (listing(1_000_000, Some(4.0)), listing(800_000, Some(5.0)));
        let one = json!({ RATE: 40_000.0, CPU: 30.0 });
        let each = json!({ RATE: 34_000.0, CPU: 36.0 });
        let found = compared((Some(10_000.0), Some(9_000.0)), (&few, &all), (&one, &each));
        assert_eq!(found["listed_per_s"], json!({ "few": 500_000.0, "all": 400_000.0 }));
        assert_eq!(found["list_us_per_queue"], json!({ "few": 2.0, "all": 2.5 }));
        let ratios = json!({
            "create_rate": 0.9,
            "list_rate": 0.8,
            "list_cost": 1.25,
            "list_cpu": 1.25,
            "send_rate": 0.85,
            "send_cpu": 1.2,
        });
        assert_eq!(found["ratios"], ratios);
    }

    #[test]
    fn what_was_not_measured_has_no_ratio() {
        let none = Listing::default();
        let (one, each) = (json!({ RATE: 40_000.0 }), json!({ RATE: 40_000.0 }));
        let found = compared((Some(10_000.0), None), (&none, &none), (&one, &each));
        assert_eq!(found["ratios"]["send_rate"], 1.0);
        for name in ["create_rate", "list_rate", "list_cost", "list_cpu", "send_cpu"] {
            assert_eq!(found["ratios"][name], Value::Null, "{name}");
        }
    }
}
