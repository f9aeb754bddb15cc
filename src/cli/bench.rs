//! `zoneq bench`: the workloads of a queue, measured from outside, one JSON line a run.
//!
//! Laws: a message counts when its acknowledgement arrived inside the window; latencies of an open
//! loop count from when a message was due; the servers' figures are of the lab's own processes
//! and are left out when they are not known. The runs are for comparing with other queues on the
//! same machine in the same hour: client and servers share its processors.

mod copy;
mod failover;
mod fill;
mod flow;
pub mod probe;
mod queues;
pub mod report;
mod timetable;
mod workload;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use self::copy::Copy;
use self::report::put;
use self::workload::{Calls, Line};
use super::Context;
use super::exit::{Exit, Usage};
use super::lab::files::Lab;
use super::lab::pair;
use super::lab::table::{self, Eye};
use crate::client::{Client, ClientError, QueueSettings, Reason, Ttl};
use crate::clock::{Clock as _, SystemClock};

const EXAMPLES: &str = "\
Examples:
  zoneq lab up --regions 1 --detach
  zoneq bench enqueue -c 64
  zoneq bench enqueue -c 16 --batch 100
  zoneq bench pipeline --batch 100 --secs 10
  zoneq bench pipeline --unary
  zoneq bench paced --rate 200
  zoneq bench enqueue --rate 10000 --secs 20
  zoneq bench failover --rounds 50
  zoneq bench failover --rounds 20 --silent
  zoneq bench backlog 1000000
  zoneq bench backlog 1000000 --leased --receives 2000
  zoneq bench queues 10000
  zoneq bench idle --json
  zoneq bench idle --waiters 10000 --connections 64 --secs 30";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Bench {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    run: Run,
}

/// Flags of every run.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Of every run")]
struct Options {
    /// Seconds that are measured
    #[arg(long, global = true, env = "ZONEQ_BENCH_SECS", default_value_t = 4.0)]
    secs: f64,
    /// Seconds before
    #[arg(long, global = true, env = "ZONEQ_BENCH_WARMUP", default_value_t = 1.0)]
    warmup: f64,
    /// Senders that each wait for their acknowledgement [default: 64 of single messages; a
    /// pipeline 32, or 8 with --batch]
    #[arg(long, short, global = true, env = "ZONEQ_BENCH_CONCURRENCY")]
    concurrency: Option<usize>,
    /// Messages in one send, 1 to 1000
    #[arg(long, global = true, env = "ZONEQ_BENCH_BATCH", default_value_t = 1)]
    batch: usize,
    /// Bytes of a message; the first 24 hold its number and time
    #[arg(long, global = true, env = "ZONEQ_BENCH_PAYLOAD", default_value_t = 1024)]
    payload: usize,
    /// Connections that all workers share
    #[arg(long, global = true, env = "ZONEQ_BENCH_CONNECTIONS", default_value_t = 4)]
    connections: usize,
    /// Unary calls in the place of streams
    #[arg(long, global = true, env = "ZONEQ_BENCH_UNARY", value_parser = FalseyValueParser::new())]
    unary: bool,
    /// The queue; it is deleted and made anew
    #[arg(long, global = true, env = "ZONEQ_BENCH_QUEUE", default_value = "bench")]
    queue: String,
    /// Copied into the result
    #[arg(long, global = true, env = "ZONEQ_BENCH_LABEL", default_value = "zoneq")]
    label: String,
}

#[derive(Debug, Subcommand)]
enum Run {
    /// Senders in a closed loop, or in an open one
    Enqueue(Enqueue),
    /// Send, receive and delete at once; then drain and compare the numbers
    Pipeline,
    /// An open loop at a fixed rate, for latencies
    Paced(Paced),
    /// Kill or silence the leader under load: how long until the next acknowledgement
    Failover(failover::Failover),
    /// Fill a queue, then measure memory, disk and idling
    Backlog(fill::Backlog),
    /// What an empty cluster uses
    Idle(fill::Idle),
    /// Create, list and send to many queues, and compare with one
    Queues(queues::Queues),
}

#[derive(Clone, Copy, Debug, Args)]
struct Enqueue {
    /// Messages a second that are due, in the place of a closed loop; a sender that falls behind
    /// catches up
    #[arg(long, env = "ZONEQ_BENCH_ENQUEUE_RATE")]
    rate: Option<f64>,
}

#[derive(Clone, Copy, Debug, Args)]
struct Paced {
    /// Messages a second
    #[arg(long, env = "ZONEQ_BENCH_PACED_RATE", default_value_t = 200.0)]
    rate: f64,
}

/// What a run works with.
struct Ground {
    options: Options,
    line: Line,
    lab: Option<Lab>,
    /// The copy in the other region, where the lab has one.
    copy: Option<Copy>,
    head: Value,
}

impl Ground {
    fn pids(&self) -> Vec<u32> {
        self.lab.as_ref().map(Lab::pids).unwrap_or_default()
    }

    fn warmup(&self) -> Duration {
        Duration::from_secs_f64(self.options.warmup)
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.options.secs)
    }

    /// The beginning of a result.
    fn head(&self, run: &str, workload: &str) -> Value {
        let mut head = self.head.clone();
        put(&mut head, json!({ "run": run, "workload": workload }));
        head
    }
}

impl Options {
    fn calls(&self) -> Calls {
        if self.unary { Calls::Unary } else { Calls::Streams }
    }

    fn checked(&self) -> anyhow::Result<()> {
        let usage = |text: String| -> anyhow::Result<()> { Err(Usage(text).into()) };
        for (flag, seconds) in [("--secs", self.secs), ("--warmup", self.warmup)] {
            if !seconds.is_finite() || !(0.0..=86_400.0).contains(&seconds) {
                return usage(format!("{flag} is {seconds}; allowed: 0 to 86400"));
            }
        }
        for (flag, value, least, most) in [
            ("--concurrency", self.concurrency.unwrap_or(1), 1, 10_000),
            ("--batch", self.batch, 1, 1_000),
            ("--payload", self.payload, 24, 1 << 20),
            ("--connections", self.connections, 1, 64),
        ] {
            if value < least || value > most {
                return usage(format!("{flag} is {value}; allowed: {least} to {most}"));
            }
        }
        Ok(())
    }
}

impl Bench {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        self.options.checked()?;
        let deadline = match self.run {
            Run::Failover(_) => Duration::from_secs(2),
            _ => Duration::from_secs(10),
        };
        let ground = prepare(context, self.options, deadline).await?;
        let spinner = context.out.progress(None, "measuring");
        let result = match self.run {
            Run::Enqueue(verb) => flow::enqueue(&ground, verb.rate).await,
            Run::Pipeline => flow::pipeline(&ground).await,
            Run::Paced(paced) => flow::paced(&ground, paced.rate).await,
            Run::Failover(verb) => failover::run(&ground, verb, context).await,
            Run::Backlog(verb) => fill::backlog(&ground, verb).await,
            Run::Idle(verb) => fill::idle(&ground, verb).await,
            Run::Queues(verb) => queues::queues(&ground, verb).await,
        };
        spinner.finish_and_clear();
        let result = result?;
        context.out.result(&result, &report::text(&result))?;
        let lost = |field: &str| result.get(field).and_then(Value::as_u64).unwrap_or(0) > 0;
        let bad = lost("acked_lost") || lost("not_delivered");
        Ok(if bad { Exit::Failed } else { Exit::Done })
    }
}

/// The lab that is meant, when the endpoints are not given by hand.
fn lab_of(context: &Context) -> Option<Lab> {
    let lab = Lab::load(&context.lab_dir()).ok()?;
    let urls = lab.urls();
    context.global.endpoint.iter().all(|endpoint| urls.contains(endpoint)).then_some(lab)
}

/// An empty queue, and a client that asks the leader first, as one in use for a while does.
async fn prepare(
    context: &Context,
    options: Options,
    deadline: Duration,
) -> anyhow::Result<Ground> {
    // Of two regions the one that takes writes is measured.
    let (lab, copy) = match lab_of(context) {
        Some(whole) => {
            let primary = pair::primary(&whole).await?;
            (Some(whole.part(&primary)), Copy::of(&whole, &primary).await?)
        }
        None => (None, None),
    };
    let mut endpoints = context.global.endpoint.clone();
    let mut replicas = endpoints.len();
    if let Some(lab) = &lab {
        let urls = lab.urls();
        endpoints.retain(|endpoint| urls.contains(endpoint));
        if endpoints.is_empty() {
            endpoints = urls;
        }
        let views = table::look(lab, &Eye::all(lab)?).await;
        replicas = lab.file.nodes.len();
        let region = lab.regions().into_iter().next().unwrap_or_default();
        if let Some(leader) = table::leader(&views, &region).and_then(|id| lab.node(id)) {
            let url = leader.url();
            endpoints.sort_by_key(|endpoint| *endpoint != url);
        }
    }
    let mut builder = Client::builder()
        .endpoints(endpoints)
        .account(context.global.account.clone())
        .deadline(context.global.deadline.unwrap_or(deadline))
        .connections(options.connections);
    if let Some(path) = &context.global.tls_ca {
        let pem = std::fs::read(path)
            .map_err(|error| Usage(format!("--tls-ca {}: {error}", path.display())))?;
        builder = builder.tls_ca(pem);
    }
    let client = builder.build()?;
    empty_queue(&client, &options.queue, &options).await?;
    let status = client.admin().status().await?;
    let durability = match status.redundancy.as_str() {
        "ZRS" => "fsynced by a majority of voters, in at least two zones",
        _ => "fsynced by a majority of voters, in one zone",
    };
    let calls = options.calls();
    let line = Line { client, queue: options.queue.as_str().into(), calls };
    let now = std::time::UNIX_EPOCH + Duration::from_micros(SystemClock::default().wall_us());
    let head = json!({
        "peer": "zoneq",
        "at": super::output::time(Some(now)),
        "label": options.label,
        "driver": format!("zoneq-{}", calls.name()),
        "calls": calls.name(),
        "durability": durability,
        "replicas": replicas,
        "payload": options.payload,
        "conns": options.connections,
        "batch": options.batch,
        "notes": "the leader's endpoint first; batches are one send; deletes are answered",
        "loadavg_before": probe::load_average(),
    });
    Ok(Ground { options, line, lab, copy, head })
}

/// Deletes the queue if it is there, then makes it empty and ready.
async fn empty_queue(client: &Client, queue: &str, options: &Options) -> anyhow::Result<()> {
    match client.delete_queue(queue).await {
        Ok(_) | Err(ClientError::Rejected { reason: Reason::QueueNotFound, .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let settings = QueueSettings {
        default_ttl: Ttl::Never,
        default_visibility_timeout: Some(Duration::from_secs(30)),
        max_message_bytes: u32::try_from(options.payload.max(65_536)).ok(),
        ..QueueSettings::default()
    };
    client.create_queue(queue, BTreeMap::new(), settings).await?;
    Ok(())
}

/// The folders with the nodes' data.
fn data_dirs(lab: &Lab) -> Vec<PathBuf> {
    lab.file.nodes.iter().map(|node| lab.data_dir(node.id)).collect()
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches as _;

    use super::*;

    fn options(line: &str) -> Options {
        let command = Bench::augment_args(clap::Command::new("bench"));
        let matches = command.try_get_matches_from(line.split_whitespace()).expect(line);
        Bench::from_arg_matches(&matches).expect(line).options
    }

    #[test]
    fn calls_are_streams_until_unary_is_asked_for_with_any_run() {
        for run in ["enqueue", "pipeline --batch 100", "paced", "failover", "queues 1000"] {
            assert_eq!(options(&format!("bench {run}")).calls().name(), "streams", "{run}");
            for line in [format!("bench {run} --unary"), format!("bench --unary {run}")] {
                assert_eq!(options(&line).calls().name(), "unary", "{line}");
            }
        }
    }

    #[test]
    fn flags_out_of_range_are_refused_by_name() {
        assert!(options("bench pipeline --batch 1000 --connections 64").checked().is_ok());
        for (flag, value) in [("--batch", "1001"), ("--connections", "65"), ("--secs", "-1")] {
            let line = format!("bench {flag}={value} pipeline");
            let refused = options(&line).checked().expect_err(&line).to_string();
            assert!(refused.starts_with(&format!("{flag} is {value}")), "{refused}");
        }
    }
}
