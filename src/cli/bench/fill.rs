//! The runs about what a cluster uses while nothing or little happens: `backlog` and `idle`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::flow::Errors;
use super::probe::{self, Probe};
use super::report::{Latency, put, tenths};
use super::workload::{Line, Maker};
use super::{Ground, data_dirs};
use crate::client::{Client, ReceiveOptions};

/// A cluster at rest is given so long to come to rest.
const SETTLE: Duration = Duration::from_secs(5);
/// The longest that a receive may wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Leases outlast every run.
const LEASE: Duration = Duration::from_secs(3_600);
/// The most that one receive gives.
const MOST: u32 = 1_000;

#[derive(Clone, Copy, Debug, Args)]
pub struct Backlog {
    /// Messages to fill it with
    messages: u64,
    /// Seconds after which filling ends
    #[arg(long, env = "ZONEQ_BENCH_BACKLOG_MAX_SECS", default_value_t = 300.0)]
    max_secs: f64,
    /// Lease them before memory is measured, 1000 with one receive, for an hour; not those that
    /// --receives takes
    #[arg(long, env = "ZONEQ_BENCH_BACKLOG_LEASED", value_parser = FalseyValueParser::new())]
    leased: bool,
    /// Receives measured at the end, one after the other, each with the delete of its message, 0
    /// to 100000
    #[arg(long, env = "ZONEQ_BENCH_BACKLOG_RECEIVES", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=100_000))]
    receives: u32,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Idle {
    /// Receives that wait for messages meanwhile, each a call of its own, 0 to 20000
    #[arg(long, env = "ZONEQ_BENCH_IDLE_WAITERS", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=20_000))]
    waiters: u32,
}

async fn fill(
    line: Line,
    maker: Arc<Maker>,
    acked: Arc<AtomicU64>,
    errors: Arc<Errors>,
    (messages, batch, end): (u64, usize, Instant),
) {
    while Instant::now() < end && maker.made() < messages {
        match line.send(maker.batch(batch, maker.now())).await {
            Ok(()) => {
                acked.fetch_add(batch as u64, Relaxed);
            }
            Err(error) => {
                errors.met(error);
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Leases so many messages, or all there are; answers how many those were.
async fn lease(ground: &Ground, count: u64, errors: &Errors) -> u64 {
    let mut leased = 0;
    while leased < count {
        let most = count.saturating_sub(leased).min(u64::from(MOST));
        let options = ReceiveOptions {
            max_messages: u32::try_from(most).unwrap_or(MOST),
            visibility_timeout: Some(LEASE),
            ..ReceiveOptions::default()
        };
        match ground.line.client.receive(&ground.line.queue, options).await {
            Ok(received) if received.messages.is_empty() => break,
            Ok(received) => leased += received.messages.len() as u64,
            Err(error) => {
                errors.met(error.to_string());
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
    leased
}

/// Receives and deletes messages one by one; what is measured is the receive.
async fn receive(ground: &Ground, receives: u32, errors: &Errors) -> Latency {
    let (client, queue) = (&ground.line.client, &ground.line.queue);
    let mut latency = Latency::default();
    for _ in 0..receives {
        let begun = Instant::now();
        match client.receive(queue, ReceiveOptions::default()).await {
            Ok(received) => {
                latency.record(begun.elapsed());
                for message in received.messages {
                    let deleted = client.delete(queue, &message.id, &message.pop_receipt).await;
                    deleted.map(drop).unwrap_or_else(|error| errors.met(error.to_string()));
                }
            }
            Err(error) => errors.met(error.to_string()),
        }
    }
    latency
}

pub async fn backlog(ground: &Ground, verb: Backlog) -> anyhow::Result<Value> {
    let workers = ground.options.concurrency.unwrap_or(64);
    let batch = if ground.options.batch == 1 { 50 } else { ground.options.batch };
    let mut out = ground.head(&format!("backlog {}", verb.messages), "backlog");
    let maker = Maker::new(ground.options.payload);
    let acked = Arc::new(AtomicU64::new(0));
    let errors = Arc::new(Errors::default());
    let dirs = ground.lab.as_ref().map(data_dirs).unwrap_or_default();
    let disk = || dirs.iter().map(|dir| probe::disk_bytes(dir)).sum::<u64>();
    let disk_before = disk();
    let pids = ground.pids();
    let probe = Probe::start(&pids);
    let empty = probe.memory();
    let begun = Instant::now();
    let end = begun + Duration::from_secs_f64(verb.max_secs.clamp(1.0, 86_400.0));
    let tasks: Vec<_> = (0..workers)
        .map(|_| {
            let (line, what) = (ground.line.clone(), (verb.messages, batch, end));
            tokio::spawn(fill(line, maker.clone(), acked.clone(), errors.clone(), what))
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    let count = acked.load(Relaxed);
    let seconds = begun.elapsed().as_secs_f64();
    let used = probe.end(count);
    if verb.leased {
        let begun = Instant::now();
        let leased = lease(ground, count.saturating_sub(verb.receives.into()), &errors).await;
        let took = tenths(begun.elapsed().as_secs_f64());
        put(&mut out, json!({ "leased": leased, "lease_s": took }));
    }
    sleep(SETTLE).await;
    let grown = disk().saturating_sub(disk_before);
    let probe = Probe::start(&pids);
    sleep(ground.window()).await;
    put(
        &mut out,
        json!({
            "workers": workers,
            "batch": batch,
            "acked": count,
            "fill_s": tenths(seconds),
            "fill_msgs_per_s": tenths(count as f64 / seconds),
            "fill": used,
            "rss_mib_empty": empty,
            "rss_mib_full": probe.memory(),
            "disk_bytes_per_msg": tenths(grown as f64 / count.max(1) as f64),
            "idle_with_backlog": probe.end(0),
        }),
    );
    if verb.receives > 0 {
        let latency = receive(ground, verb.receives, &errors).await;
        put(&mut out, json!({ "receive_latency": latency.json() }));
    }
    put(&mut out, errors.json());
    Ok(out)
}

/// Waits for messages again and again, as long as the server lets it.
async fn wait(client: Client, queue: Arc<str>, errors: Arc<Errors>) {
    let options = ReceiveOptions { wait: LONGEST_WAIT, ..ReceiveOptions::default() };
    loop {
        if let Err(error) = client.receive(&queue, options).await {
            errors.met(error.to_string());
            sleep(Duration::from_millis(50)).await;
        }
    }
}

pub async fn idle(ground: &Ground, verb: Idle) -> anyhow::Result<Value> {
    let run = if verb.waiters == 0 { "idle".into() } else { format!("idle {}", verb.waiters) };
    let mut out = ground.head(&run, "idle");
    let errors = Arc::new(Errors::default());
    let mut waits = JoinSet::new();
    for _ in 0..verb.waiters {
        let (client, queue) = (ground.line.client.clone(), ground.line.queue.clone());
        waits.spawn(wait(client, queue, errors.clone()));
    }
    sleep(Duration::from_secs(3)).await;
    let probe = Probe::start(&ground.pids());
    sleep(ground.window()).await;
    put(&mut out, json!({ "waiters": verb.waiters }));
    put(&mut out, probe.end(0));
    put(&mut out, errors.json());
    Ok(out)
}
