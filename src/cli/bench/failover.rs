//! `bench failover`: the leader's process killed or silenced under load.
//!
//! One round is the classic run: steady load, SIGKILL, later a restart, a rest, a drain, and every
//! number compared. With several rounds each goes on when the cluster has healed, at a paced
//! rate so that the drain stays short. A gap is the longest time without any acknowledgement.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::Ground;
use super::flow::{Errors, Numbers};
use super::report::{Gap, middle_and_largest, put, slowest, tenths};
use super::workload::{Line, Maker, Receiver};
use crate::cli::Context;
use crate::cli::exit::Usage;
use crate::cli::lab::files::{Lab, LabLock};
use crate::cli::lab::table::{self, Eye};
use crate::cli::lab::{process, start};

const PATIENCE: Duration = Duration::from_secs(60);
/// After the cluster has healed.
const HALF_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Args)]
pub struct Failover {
    /// Leaders to lose, one after the other
    #[arg(long, env = "ZONEQ_BENCH_FAILOVER_ROUNDS", default_value_t = 1)]
    rounds: u32,
    /// Silence the leader (SIGSTOP) in the place of killing it
    #[arg(long, env = "ZONEQ_BENCH_FAILOVER_SILENT", value_parser = FalseyValueParser::new())]
    silent: bool,
    /// Messages a second of all senders [default: as they can for one round, else 2000]
    #[arg(long, env = "ZONEQ_BENCH_FAILOVER_RATE")]
    rate: Option<f64>,
}

struct Load {
    maker: Arc<Maker>,
    stop: AtomicBool,
    acked: AtomicU64,
    acked_numbers: Numbers,
    found: Numbers,
    twice: AtomicU64,
    last_found: AtomicU64,
    drained: AtomicBool,
    gap: Gap,
    errors: Errors,
    rest: Option<Duration>,
}

pub async fn run(ground: &Ground, verb: Failover, context: &Context) -> anyhow::Result<Value> {
    let Some(lab) = &ground.lab else {
        let text = "failover kills nodes, so it needs a lab; see `zoneq lab up`";
        return Err(Usage(text.to_owned()).into());
    };
    if verb.rounds == 0 {
        return Err(Usage("--rounds is 0; allowed: 1 and more".to_owned()).into());
    }
    let workers = ground.options.concurrency.unwrap_or(64);
    let kind = if verb.silent { "silent" } else { "killed" };
    let mut out = ground.head(&format!("failover {kind}"), "failover");
    let rate = verb.rate.or((verb.rounds > 1).then_some(2_000.0));
    let each = rate.filter(|rate| *rate > 0.0).map(|rate| workers as f64 / rate);
    let load = Arc::new(Load {
        maker: Maker::new(ground.options.payload),
        stop: AtomicBool::new(false),
        acked: AtomicU64::new(0),
        acked_numbers: Numbers::default(),
        found: Numbers::default(),
        twice: AtomicU64::new(0),
        last_found: AtomicU64::new(0),
        drained: AtomicBool::new(false),
        gap: Gap::default(),
        errors: Errors::default(),
        rest: each.map(Duration::from_secs_f64),
    });
    let senders: Vec<_> =
        (0..workers).map(|_| tokio::spawn(load.clone().sender(ground.line.clone()))).collect();
    let steady = Duration::from_secs_f64(if verb.rounds == 1 { 5.0 } else { 0.5 });
    let (mut gaps, mut halves) = (Vec::new(), Vec::new());
    let mut last = Value::Null;
    for round in 1..=verb.rounds {
        sleep(steady).await;
        last = load.round(lab, &verb).await?;
        gaps.push(last.get("gap_ms").and_then(Value::as_f64).unwrap_or(0.0));
        halves.push(last.get("ms_to_half_rate").and_then(Value::as_u64));
        put(&mut last, json!({ "round": round }));
        context.out.item(&last)?;
        context.out.say(&format!("round {round}: {last}"))?;
    }
    load.stop.store(true, Relaxed);
    for sender in senders {
        let _ = timeout(Duration::from_secs(30), sender).await;
    }
    load.drain(ground).await?;
    let (middle, largest) = middle_and_largest(gaps.clone());
    put(&mut out, last);
    put(
        &mut out,
        json!({
            "workers": workers,
            "rounds": verb.rounds,
            "fault": if verb.silent { "SIGSTOP" } else { "SIGKILL" },
            "gap_ms": { "p50": tenths(middle), "max": tenths(largest) },
            "longest_gap_ms": tenths(largest),
            "gaps_ms": gaps,
            "ms_to_half_rate": slowest(&halves),
            "ms_to_half_rates": halves,
            "acked": load.acked.load(Relaxed),
        }),
    );
    put(&mut out, load.errors.json());
    put(&mut out, load.compared());
    Ok(out)
}

impl Load {
    async fn sender(self: Arc<Self>, line: Line) {
        while !self.stop.load(Relaxed) {
            let begun = Instant::now();
            let (number, payload) = self.maker.make(self.maker.now());
            match line.send(vec![payload]).await {
                Ok(()) => {
                    self.acked_numbers.mark(number);
                    self.acked.fetch_add(1, Relaxed);
                    self.gap.acknowledged(self.maker.now());
                }
                Err(error) => {
                    self.errors.met(error);
                    sleep(Duration::from_millis(20)).await;
                }
            }
            if let Some(rest) = self.rest {
                tokio::time::sleep_until(begun + rest).await;
            }
        }
    }

    /// Loses the leader of the region that is measured once, and waits until all is well again.
    async fn round(&self, part: &Lab, verb: &Failover) -> anyhow::Result<Value> {
        let _lock = LabLock::take(&part.dir).await?;
        let mut lab = Lab::load(&part.dir)?;
        let region = part.regions().into_iter().next().unwrap_or_default();
        let views = table::look(part, &Eye::all(part)?).await;
        let leader = table::leader(&views, &region)
            .ok_or_else(|| anyhow::anyhow!("nobody leads, so there is no leader to lose"))?;
        let victim = lab.node(leader).and_then(|node| node.process);
        let victim = victim.ok_or_else(|| anyhow::anyhow!("node {leader} is down already"))?;
        let before = self.acked.load(Relaxed) as f64 / (self.maker.now() as f64 / 1e9);
        self.gap.arm(self.maker.now());
        let armed = Instant::now();
        process::signal(victim, if verb.silent { Signal::STOP } else { Signal::KILL })?;
        self.recovered(&lab.part(&region), leader, armed).await?;
        let classic = verb.rounds == 1;
        let pause = Duration::from_secs(if classic { 10 } else { 1 });
        sleep(pause.saturating_sub(armed.elapsed())).await;
        let restarted = self.maker.now() as f64 / 1e9;
        if verb.silent {
            process::signal(victim, Signal::CONT)?;
        } else {
            if process::wait_gone(&[victim], PATIENCE).await.is_empty() {
                start::nodes(&mut lab, &[leader]).await?;
            }
            lab.save()?;
        }
        start::wait_healed(&lab.part(&region), PATIENCE).await?;
        if classic {
            sleep(Duration::from_secs(5)).await;
        }
        let half = self.half_rate(before).await;
        let gap = self.gap.found(self.maker.now());
        Ok(json!({
            "killed_node": leader,
            "rate_before_kill": tenths(before),
            "gap_ms": tenths(gap.longest as f64 / 1e6),
            "gap_began_ms_after_kill": tenths((gap.began as f64 - gap.armed as f64) / 1e6),
            "recovered": gap.recovered,
            "ms_to_half_rate": half,
            "restart_at_s": tenths(restarted),
        }))
    }

    /// Milliseconds from the fault until half of the rate came back. The half second in which it
    /// did must be over to be seen; `None` when that is not so soon after the cluster has healed.
    async fn half_rate(&self, before: f64) -> Option<u64> {
        let begun = Instant::now();
        loop {
            let half = self.gap.half_rate(self.maker.now(), before);
            if half.is_some() || begun.elapsed() > HALF_PATIENCE {
                return half;
            }
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until another node leads and writes are acknowledged again.
    async fn recovered(&self, lab: &Lab, lost: u64, armed: Instant) -> anyhow::Result<()> {
        let eyes = Eye::all(lab)?;
        let others: Vec<&Eye> = eyes.iter().filter(|eye| eye.id != lost).collect();
        let mut led = false;
        while !led {
            for eye in &others {
                let status = eye.status().await;
                led |= status.is_some_and(|s| s.leader_id != 0 && s.leader_id != lost);
            }
            if armed.elapsed() > PATIENCE {
                anyhow::bail!("nobody leads {} s after the fault", PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(5)).await;
        }
        // Those acknowledged just before the fault are not the proof.
        let before = self.gap.since();
        while self.gap.since() < before + 20 {
            if armed.elapsed() > PATIENCE {
                anyhow::bail!("no write is acknowledged {} s after the fault", PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// Receives all that is there and deletes it.
    async fn drain(self: &Arc<Self>, ground: &Ground) -> anyhow::Result<()> {
        self.last_found.store(self.maker.now(), Relaxed);
        let mut drainers = Vec::new();
        for _ in 0..8 {
            let receiver = ground.line.receiver(100).map_err(anyhow::Error::msg)?;
            drainers.push(tokio::spawn(self.clone().drainer(receiver)));
        }
        loop {
            let idle = self.maker.now().saturating_sub(self.last_found.load(Relaxed));
            let left = ground.line.client.queue(&ground.line.queue).await;
            let left = left.map_or(u64::MAX, |queue| queue.counts.total);
            // A lease that was lost on the way comes back after 30 s.
            if left == 0 || idle > 75_000_000_000 {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.drained.store(true, Relaxed);
        for drainer in drainers {
            let _ = timeout(Duration::from_secs(30), drainer).await;
        }
        Ok(())
    }

    async fn drainer(self: Arc<Self>, mut receiver: Receiver) {
        while !self.drained.load(Relaxed) {
            let received = receiver.receive(Duration::from_millis(500)).await;
            let Ok(deliveries) = received else { return };
            for (number, _) in deliveries.iter().filter_map(|d| self.maker.read(&d.body)) {
                if self.found.mark(number) {
                    self.twice.fetch_add(1, Relaxed);
                }
                self.last_found.store(self.maker.now(), Relaxed);
            }
            if !deliveries.is_empty() {
                // What was not deleted comes again and is counted as delivered twice.
                let _ = receiver.delete(deliveries).await;
            }
        }
    }

    fn compared(&self) -> Value {
        let (mut lost, mut kept, mut unknown) = (0u64, 0u64, 0u64);
        for number in 0..self.maker.made() {
            match (self.acked_numbers.has(number), self.found.has(number)) {
                (true, false) => lost += 1,
                (true, true) => kept += 1,
                (false, true) => unknown += 1,
                (false, false) => {}
            }
        }
        json!({
            "acked_lost": lost,
            "acked_found": kept,
            "unacked_found": unknown,
            "delivered_twice": self.twice.load(Relaxed),
        })
    }
}
