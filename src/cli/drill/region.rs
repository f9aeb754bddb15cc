//! `zoneq drill region`: hands over, loses and gets back a whole region under load, and proves what
//! was promised.
//!
//! Laws: a drill begins from any healthy pair and ends protected and live, so that drills chain.
//! The client's ledger is the witness, and what the regions say of themselves is sampled all the
//! while ([`sampler`]). It exits with 1 when a promise was broken: an acknowledged send that is
//! neither there nor in the exported tail, one that was lost though the last sync time covered it,
//! a last sync time later than the truth, two writable sides where no region was lost. How long
//! things took is reported and breaks no promise.

mod forced;
mod lease;
mod limit;
mod planned;
mod record;
mod sampler;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::{Value, json};

use self::lease::LeaseBefore;
use self::limit::Before;
use self::sampler::{Findings, Sampler};
use super::ending;
use super::history::{Act, Cluster, Line, REGIONS, Verb};
use super::ledger::Verdict;
use super::load::{BODIES, BODY, Load, Running};
use super::recorder::Recorder;
use crate::cli::Context;
use crate::cli::exit::{Exit, Usage};
use crate::cli::lab::files::Lab;
use crate::cli::lab::{pair, start};
use crate::cli::parse_span;
use crate::cli::region::parse_limit;
use crate::client::{Client, Regions};
use crate::clock::{Clock as _, SystemClock};

const PATIENCE: Duration = Duration::from_secs(60);
/// Between two tries of what is *not now*.
const PAUSE: Duration = Duration::from_millis(50);
/// Sends that must be acknowledged before and after each step.
const STEADY: u64 = 300;

#[derive(Clone, Copy, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Kind {
    /// Hand over to the other region: nothing may be lost
    #[arg(long, env = "ZONEQ_DRILL_REGION_PLANNED", value_parser = FalseyValueParser::new())]
    planned: bool,
    /// SIGKILL of the whole primary region, promotion of the other by force, the old one fenced,
    /// its tail exported, compared and replayed, and protected again
    #[arg(long, env = "ZONEQ_DRILL_REGION_FORCED", value_parser = FalseyValueParser::new())]
    forced: bool,
    /// As --forced, and then home again to the region that was lost
    #[arg(long, env = "ZONEQ_DRILL_REGION_FAILBACK", value_parser = FalseyValueParser::new())]
    failback: bool,
}

#[derive(Clone, Copy, Debug, Args)]
#[group(skip)]
pub struct Region {
    #[command(flatten)]
    kind: Kind,
    /// How many times
    #[arg(long, env = "ZONEQ_DRILL_REGION_ROUNDS", default_value_t = 1)]
    rounds: u32,
    /// Cut the line so long before the region is lost, so that there is a tail
    #[arg(long, env = "ZONEQ_DRILL_REGION_BEHIND", value_name = "SPAN", default_value = "0ms",
          value_parser = parse_span)]
    behind: Duration,
    /// Let writes wait while the copy is further behind than that, 2s to 7d: what is lost must be
    /// within it
    #[arg(long, env = "ZONEQ_DRILL_REGION_MAX_LAG", value_name = "SPAN", value_parser = parse_span)]
    max_lag: Option<Duration>,
    /// The same in bytes of log, such as 1MiB
    #[arg(long, env = "ZONEQ_DRILL_REGION_MAX_UNSHIPPED", value_name = "BYTES",
          value_parser = parse_limit)]
    max_unshipped: Option<u64>,
    /// Let the primary acknowledge only by a region lease of this length, 1s to 30s: a promotion by
    /// force waits until it has run out
    #[arg(long, env = "ZONEQ_DRILL_REGION_LEASE", value_name = "SPAN", value_parser = parse_span)]
    lease: Option<Duration>,
    /// Bytes of each message, 16 to 65536: with larger ones a limit in bytes is met sooner
    #[arg(long, env = "ZONEQ_DRILL_REGION_BODY", value_name = "BYTES", default_value_t = BODY,
          value_parser = clap::value_parser!(u32).range(BODIES))]
    body: u32,
}

/// What a round showed. Times are in milliseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Round {
    from: String,
    to: String,
    /// The longest time without an acknowledged send.
    pause_ms: f64,
    /// From the command to the first send that the new primary acknowledged.
    rto_ms: f64,
    lost: Option<forced::Lost>,
    /// From the command to the first write in the region that was lost, and the longest time
    /// without an acknowledged send on the way.
    home_ms: Option<f64>,
    home_pause_ms: Option<f64>,
    protected_ms: f64,
}

/// What the steps of a drill work with.
pub(super) struct Stage<'a> {
    context: &'a Context,
    dir: &'a Path,
    load: &'a Load,
    sampler: &'a Sampler,
    drill: Region,
    mark: u64,
}

impl Stage<'_> {
    fn lab(&self) -> anyhow::Result<Lab> {
        Lab::load(self.dir)
    }

    fn regions(&self, lab: &Lab, name: &str) -> anyhow::Result<Regions> {
        pair::regions_of(lab, name, PATIENCE)
    }

    /// The region that takes writes, and the other one, once the pair is live.
    async fn sides(&self) -> anyhow::Result<(Lab, String, String)> {
        let lab = self.lab()?;
        let views = pair::wait_live(&lab, PATIENCE).await?;
        let primary = views.iter().find(|view| view.is_writable());
        let primary = primary.map(|view| view.name.clone()).unwrap_or_default();
        let other = lab.beside(&primary).unwrap_or_default();
        Ok((lab, primary, other))
    }

    /// Asks a verb of a region, and writes down what came of it.
    async fn told<T, E: std::fmt::Display>(
        &self,
        region: &str,
        verb: Verb,
        call: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let Some(recorder) = self.load.recorder() else { return call.await };
        let invoked = recorder.now();
        let answer = call.await;
        let (returned, cluster) = (recorder.now(), cluster(region));
        let outcome = answer.as_ref().map(|_| ()).map_err(ToString::to_string);
        recorder.write(&Line::Act(Act { invoked, returned, cluster, verb, outcome }));
        answer
    }

    /// Milliseconds from a moment of the load's clock to the first send acknowledged under the
    /// epoch of a region that has just become the primary.
    async fn first_acknowledged(&self, new: &Regions, since: u64) -> anyhow::Result<f64> {
        self.load.wait_acknowledged(STEADY, PATIENCE).await?;
        let epoch = new.status().await?.epoch.map_or(0, |epoch| epoch.number);
        let span = self.load.ledger().span(epoch);
        let began = span.map(|span| span.began).ok_or_else(|| {
            anyhow::anyhow!("no send was acknowledged under epoch {epoch}, and others were")
        })?;
        Ok(millis(began.saturating_sub(since)))
    }
}

/// The place of a region in a history.
fn cluster(region: &str) -> Cluster {
    let region = REGIONS.iter().position(|name| *name == region).unwrap_or_default();
    Cluster { region, generation: 0 }
}

/// Nanoseconds as milliseconds with one decimal.
fn millis(nanos: u64) -> f64 {
    (nanos as f64 / 1e5).round() / 10.0
}

impl Region {
    pub fn checked(self) -> anyhow::Result<Region> {
        if self.rounds == 0 {
            return Err(Usage("--rounds is 0; allowed: 1 and more".to_owned()).into());
        }
        if self.kind.planned && !self.behind.is_zero() {
            let text = "--behind is for a region that is lost, and --planned loses none";
            return Err(Usage(text.to_owned()).into());
        }
        if self.kind.planned && self.limit().is_some() {
            let text = "a limit of the lag is for a region that is lost, and --planned loses none";
            return Err(Usage(text.to_owned()).into());
        }
        Ok(self)
    }

    fn word(self) -> &'static str {
        match self.kind {
            Kind { planned: true, .. } => "planned",
            Kind { failback: true, .. } => "failback",
            _ => "forced",
        }
    }

    pub async fn on(
        self,
        context: &Context,
        dir: &Path,
        recorder: Option<Arc<Recorder>>,
    ) -> anyhow::Result<Exit> {
        let lab = Lab::load(dir)?;
        if lab.regions().len() < 2 {
            let text = "the lab has one region only; this drill needs two: see `zoneq lab up`";
            return Err(Usage(text.to_owned()).into());
        }
        start::wait_healed(&lab, PATIENCE).await?;
        pair::wait_live(&lab, PATIENCE).await?;
        let before = Before::of(&lab, self).await?;
        let lease_before = LeaseBefore::of(&lab, self).await?;
        let mark = SystemClock::default().wall_us();
        let client = Client::builder()
            .endpoints(lab.urls())
            .account(context.global.account.clone())
            .deadline(context.global.deadline.unwrap_or(Duration::from_secs(30)))
            .connections(2)
            .build()?;
        let running = Load::start(client, (mark, self.body), recorder.clone()).await?;
        let sampler = Sampler::start(lab, recorder.clone())?;
        let load = running.load.clone();
        let stage = Stage { context, dir, load: &load, sampler: &sampler, drill: self, mark };
        let rounds = self.run_rounds(&stage).await;
        // The sampler ends whatever came of the rounds.
        let lab = Lab::load(dir)?;
        let sampled = sampler.finish().await?;
        let restored = before.restore(&lab).await;
        let lease_restored = lease_before.restore(&lab).await;
        let rounds = rounds?;
        restored?;
        lease_restored?;
        let verdict = self.drain(context, running).await?;
        pair::wait_live(&lab, PATIENCE).await?;
        let primary = pair::primary(&lab).await?;
        let equal = pair::regions_of(&lab, &primary, PATIENCE)?.verify().await?.equal;
        if let Some(recorder) = &recorder {
            ending::end(&lab, &lab.regions(), recorder, equal).await?;
            pair::wait_live(&lab, PATIENCE).await?;
        }
        self.conclude(context, &load, &rounds, &verdict, &sampled, equal)
    }

    async fn run_rounds(self, stage: &Stage<'_>) -> anyhow::Result<Vec<Round>> {
        let context = stage.context;
        let bar = context.out.progress(Some(u64::from(self.rounds)), "changing regions");
        let mut rounds = Vec::new();
        for number in 1..=self.rounds {
            let round = if self.kind.planned {
                planned::round(stage).await?
            } else {
                forced::round(stage, number).await?
            };
            let mut value = round.json(self.word());
            value["round"] = number.into();
            context.out.item(&value)?;
            let line = format!("round {number}: {}", round.text());
            bar.suspend(|| context.out.say(&line))?;
            bar.inc(1);
            rounds.push(round);
        }
        bar.finish_and_clear();
        Ok(rounds)
    }

    async fn drain(self, context: &Context, running: Running) -> anyhow::Result<Verdict> {
        let spinner = context.out.progress(None, "draining");
        let verdict = running.finish(PATIENCE * 2).await;
        spinner.finish_and_clear();
        verdict
    }

    fn conclude(
        self,
        context: &Context,
        load: &Load,
        rounds: &[Round],
        verdict: &Verdict,
        sampled: &Findings,
        equal: bool,
    ) -> anyhow::Result<Exit> {
        let mut findings = verdict.findings.clone();
        findings.extend(sampled.texts.iter().cloned());
        if self.kind.planned && verdict.lost_in_tail + verdict.undone > 0 {
            findings.push("a planned failover undid what was acknowledged".to_owned());
        }
        // What was not sent again from a tail was listed there with a reason.
        let skipped = rounds.iter().filter_map(|round| round.lost.as_ref());
        let skipped: u64 = skipped.map(|lost| lost.tail_skipped).sum();
        if verdict.lost_in_tail > skipped {
            let (gone, listed) = (verdict.lost_in_tail, skipped);
            findings.push(format!(
                "{gone} messages of the tails are not there, and {listed} were listed as not sent"
            ));
        }
        let lost = rounds.iter().filter_map(|round| round.lost.as_ref());
        findings.extend(lost.flat_map(forced::Lost::broken));
        if !equal {
            findings.push("the regions hold different data at the end".to_owned());
        }
        for finding in &findings {
            context.out.item(&json!({ "finding": finding }))?;
            context.out.say(finding)?;
        }
        let ok = verdict.ok() && findings.is_empty();
        let value = self.result(ok, load, rounds, verdict, sampled, equal);
        context.out.result(&value, &self.text(ok, &value))?;
        Ok(if ok { Exit::Done } else { Exit::Failed })
    }

    fn result(
        self,
        ok: bool,
        load: &Load,
        rounds: &[Round],
        verdict: &Verdict,
        sampled: &Findings,
        equal: bool,
    ) -> Value {
        let most = |of: &dyn Fn(&Round) -> f64| rounds.iter().map(of).fold(0.0, f64::max);
        let lost = || rounds.iter().filter_map(|round| round.lost.as_ref());
        json!({
            "ok": ok,
            "kind": self.word(),
            "rounds": rounds.len(),
            "acknowledged": verdict.acknowledged,
            "lost": verdict.lost,
            "duplicated_while_leased": verdict.duplicated_while_leased,
            "resurrected": verdict.resurrected,
            "undone": verdict.undone,
            "longest_gap_ms": most(&|round| round.pause_ms),
            "rpo_messages": verdict.lost + lost().map(|lost| lost.tail_found).sum::<u64>(),
            "rpo_ms": lost().map(|lost| lost.rpo_ms).fold(0.0, f64::max),
            "true_ms_lost": lost().filter_map(|lost| lost.true_ms).reduce(f64::max),
            "true_bytes_lost": lost().map(|lost| lost.true_bytes).max(),
            "rto_ms": most(&|round| round.rto_ms),
            "home_pause_ms": rounds.iter().filter_map(|round| round.home_pause_ms).reduce(f64::max),
            "home_ms": rounds.iter().filter_map(|round| round.home_ms).reduce(f64::max),
            "protected_ms": most(&|round| round.protected_ms),
            "tail_found": lost().map(|lost| lost.tail_found).sum::<u64>(),
            "tail_replayed": lost().map(|lost| lost.tail_replayed).sum::<u64>(),
            "tail_skipped": lost().map(|lost| lost.tail_skipped).sum::<u64>(),
            "lost_in_tail": verdict.lost_in_tail,
            "completed_in_tail": verdict.completed_in_tail,
            "samples": sampled.samples,
            "two_writable": sampled.two_writable,
            "sync_later_than_truth": sampled.sync_later_than_truth,
            "never_sent": verdict.never_sent,
            "unknown": verdict.unknown,
            "unknown_found": verdict.unknown_found,
            "failed_requests": load.failed(),
            "first_error": load.first_error(),
            "equal": equal,
        })
    }

    fn text(self, ok: bool, value: &Value) -> String {
        let word = if ok { "every promise was kept" } else { "THE DRILL FAILED" };
        let many = |field: &str| value.get(field).and_then(Value::as_u64).unwrap_or(0);
        let span = |field: &str| value.get(field).and_then(Value::as_f64).unwrap_or(0.0);
        format!(
            "{word}: {} acknowledged, {} lost; {} in exported tails ({:.0} ms of writes at most), \
             {} sent again from there; {} given again while leased, {} resurrected, {} undone with \
             a tail; longest pause {:.0} ms, first write {:.0} ms after the command at \
             most; in {} samples {} with two writable sides, {} with a last sync time later than \
             the truth; {} requests failed",
            many("acknowledged"),
            many("lost"),
            many("tail_found"),
            span("rpo_ms"),
            many("tail_replayed"),
            many("duplicated_while_leased"),
            many("resurrected"),
            many("undone"),
            span("longest_gap_ms"),
            span("rto_ms"),
            many("samples"),
            many("two_writable"),
            many("sync_later_than_truth"),
            many("failed_requests"),
        )
    }
}

impl Round {
    fn json(&self, kind: &str) -> Value {
        let mut value = json!({
            "kind": kind,
            "from": self.from,
            "to": self.to,
            "pause_ms": self.pause_ms,
            "rto_ms": self.rto_ms,
            "protected_ms": self.protected_ms,
        });
        if let (Some(home), Some(pause)) = (self.home_ms, self.home_pause_ms) {
            value["home_ms"] = home.into();
            value["home_pause_ms"] = pause.into();
        }
        if let (Some(lost), Some(fields)) = (&self.lost, value.as_object_mut()) {
            let more = lost.json();
            fields.extend(more.as_object().cloned().unwrap_or_default());
        }
        value
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} to {}: writes paused {:.0} ms, first write {:.0} ms after the command",
            self.from, self.to, self.pause_ms, self.rto_ms
        );
        if let Some(lost) = &self.lost {
            text += &lost.text();
        }
        if let (Some(home), Some(pause)) = (self.home_ms, self.home_pause_ms) {
            text += &format!("; home again {home:.0} ms after the command, paused {pause:.0} ms");
        }
        text += &format!("; protected and live after {:.1} s", self.protected_ms / 1e3);
        text
    }
}
