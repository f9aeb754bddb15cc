//! `zoneq drill`: loses a zone or a region on purpose under load, and proves what was promised.
//!
//! Laws: the client's own ledger is the witness, not the servers; a drill that found a loss, an
//! early redelivery or a resurrection exits with 1. It works on a queue of its own and removes
//! it. Without a lab it makes one in a temporary folder, says so, and takes it down again.

mod calls;
mod ending;
#[doc(hidden)]
pub mod history;
pub mod ledger;
mod load;
mod looks;
mod recorder;
mod region;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};
use serde_json::json;
use tokio::time::Instant;

use self::ledger::Verdict;
use self::load::{BODY, Load, Running};
use self::recorder::Recorder;
use super::Context;
use super::exit::{Exit, Usage};
use super::lab;
use super::lab::files::{Lab, LabLock};
use super::lab::pair;
use super::lab::process::State;
use super::lab::start::{self, Layout};
use super::lab::table::{self, Eye};
use crate::client::Client;
use crate::clock::{Clock as _, SystemClock};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Subcommand)]
pub enum DrillVerb {
    /// Lose the leader's zone under load, heal it, drain, and compare
    #[command(after_help = "\
Examples:
  zoneq drill zone                   SIGKILL of the leader's zone, once
  zoneq drill zone --rounds 20
  zoneq drill zone --graceful        as an operator stops a zone
  zoneq drill zone --dir /tmp/lab    on a lab of one's own
  zoneq drill zone --history drill.jsonl
                                     every call for the checker: `cargo chaos --judge drill.jsonl`")]
    Zone {
        #[command(flatten)]
        zone: Zone,
        /// Write every call with its answer to this file, which is not there yet, one line of JSON
        /// each: the checker of the tests judges it
        #[arg(long, env = "ZONEQ_DRILL_ZONE_HISTORY", value_name = "FILE")]
        history: Option<PathBuf>,
    },
    /// Hand over, lose or get back the primary region under load, drain, and compare
    #[command(after_help = "\
Examples:
  zoneq drill region --planned --rounds 20
  zoneq drill region --forced            SIGKILL of the whole primary region
  zoneq drill region --forced --behind 500ms
  zoneq drill region --forced --behind 6s --max-lag 2s
                                         with the line cut so long before
  zoneq drill region --forced --behind 3s --max-unshipped 1MiB --body 4096
  zoneq drill region --failback          and home again
  zoneq drill region --forced --history drill.jsonl
                                         every call and look for the checker: `cargo chaos --judge
                                         drill.jsonl`")]
    Region {
        #[command(flatten)]
        region: region::Region,
        /// Write every call with its answer, and what the regions say of themselves, to this file,
        /// which is not there yet, one line of JSON each: the checker of the tests judges it
        #[arg(long, env = "ZONEQ_DRILL_REGION_HISTORY", value_name = "FILE")]
        history: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, Args)]
#[group(skip)]
pub struct Zone {
    /// Stop the zone's nodes with SIGTERM in the place of SIGKILL
    #[arg(long, env = "ZONEQ_DRILL_ZONE_GRACEFUL", value_parser = FalseyValueParser::new())]
    graceful: bool,
    /// How many times
    #[arg(long, env = "ZONEQ_DRILL_ZONE_ROUNDS", default_value_t = 1)]
    rounds: u32,
}

impl DrillVerb {
    fn checked(self) -> anyhow::Result<DrillVerb> {
        match self {
            DrillVerb::Zone { zone: Zone { rounds: 0, .. }, .. } => {
                Err(Usage("--rounds is 0; allowed: 1 and more".to_owned()).into())
            }
            DrillVerb::Region { region, history } => {
                region.checked().map(|region| DrillVerb::Region { region, history })
            }
            DrillVerb::Zone { .. } => Ok(self),
        }
    }

    /// The file that its history goes to.
    fn recorder(&self) -> anyhow::Result<Option<Arc<Recorder>>> {
        let (file, is_pair) = match self {
            DrillVerb::Zone { history, .. } => (history, false),
            DrillVerb::Region { history, .. } => (history, true),
        };
        let made = file.as_deref().map(|file| Recorder::create(file, is_pair)).transpose()?;
        Ok(made.map(Arc::new))
    }

    async fn on(
        self,
        context: &Context,
        dir: &Path,
        recorder: Option<Arc<Recorder>>,
    ) -> anyhow::Result<Exit> {
        match self {
            DrillVerb::Zone { zone, .. } => zone.on(context, dir, recorder).await,
            DrillVerb::Region { region, .. } => region.on(context, dir, recorder).await,
        }
    }

    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let verb = self.checked()?;
        let dir = context.lab_dir();
        let running = Lab::load(&dir)
            .is_ok_and(|lab| lab.file.nodes.iter().any(|node| node.state() != State::Down));
        if running {
            let recorder = verb.recorder()?;
            return verb.on(context, &dir, recorder).await;
        }
        if context.global.dir.is_some() {
            Lab::load(&dir)?;
            let text = format!("the lab in {} is down; start it with `lab up`", dir.display());
            return Err(Usage(text).into());
        }
        let recorder = verb.recorder()?;
        let own = own_dir();
        context.out.say(&format!("no lab is running: starting one in {}", own.display()))?;
        let regions = if matches!(verb, DrillVerb::Zone { .. }) { 1 } else { 2 };
        let layout = Layout { regions: Some(regions), ..Layout::default() };
        let up = start::up(&own, &layout).await?;
        for note in &up.notes {
            context.out.say(note)?;
        }
        let drilled = verb.on(context, &own, recorder).await;
        let down = lab::down(&own).await;
        let exit = drilled?;
        down?;
        if exit == Exit::Done {
            std::fs::remove_dir_all(&own)?;
        }
        Ok(exit)
    }
}

/// A folder that nobody else has.
fn own_dir() -> PathBuf {
    let mark = SystemClock::default().wall_us();
    std::env::temp_dir().join(format!("zoneq-drill-{mark:x}-{}", std::process::id()))
}

/// What a round showed.
#[derive(Clone, Debug)]
struct Round {
    zone: String,
    gap_ms: f64,
    healed_ms: u128,
}

impl Zone {
    async fn on(
        self,
        context: &Context,
        dir: &Path,
        recorder: Option<Arc<Recorder>>,
    ) -> anyhow::Result<Exit> {
        let whole = Lab::load(dir)?;
        let region = pair::primary(&whole).await?;
        let lab = whole.part(&region);
        if lab.zones().len() < 3 {
            let text = "the lab has one zone only; a drill needs three to lose one";
            return Err(Usage(text.to_owned()).into());
        }
        let mark = SystemClock::default().wall_us();
        let client = Client::builder()
            .endpoints(lab.urls())
            .account(context.global.account.clone())
            .deadline(context.global.deadline.unwrap_or(Duration::from_secs(30)))
            .connections(2)
            .build()?;
        start::wait_healed(&lab, PATIENCE).await?;
        let running = Load::start(client, (mark, BODY), recorder).await?;
        let bar = context.out.progress(Some(u64::from(self.rounds)), "losing zones");
        let mut longest: f64 = 0.0;
        for number in 1..=self.rounds {
            let round = self.round(dir, &region, &running).await?;
            longest = longest.max(round.gap_ms);
            let value = json!({
                "round": number, "zone": round.zone, "graceful": self.graceful,
                "gap_ms": round.gap_ms, "healed_ms": u64::try_from(round.healed_ms).ok(),
                "failed_requests": running.load.failed(),
            });
            context.out.item(&value)?;
            let how = if self.graceful { "stopped" } else { "killed" };
            let line = format!(
                "round {number}: zone {} {how}; no acknowledgement for {:.0} ms; healed after {} ms",
                round.zone, round.gap_ms, round.healed_ms
            );
            bar.suspend(|| context.out.say(&line))?;
            bar.inc(1);
        }
        bar.set_message("draining");
        let load = running.load.clone();
        let verdict = running.finish(PATIENCE * 2).await?;
        bar.finish_and_clear();
        if let Some(recorder) = load.recorder() {
            ending::end(&Lab::load(dir)?, &[region], recorder, false).await?;
        }
        self.conclude(context, &verdict, &load, longest)
    }

    /// Loses the leader's zone of a region once, and waits until all is well again.
    async fn round(self, dir: &Path, region: &str, running: &Running) -> anyhow::Result<Round> {
        let load = &running.load;
        load.wait_acknowledged(300, PATIENCE).await?;
        let _lock = LabLock::take(dir).await?;
        let mut lab = Lab::load(dir)?;
        let views = table::look(&lab, &Eye::all(&lab)?).await;
        let leader = table::leader(&views, region).and_then(|id| lab.node(id));
        let zone = leader
            .map(|node| node.zone.clone())
            .ok_or_else(|| anyhow::anyhow!("nobody leads, so there is no leader's zone to lose"))?;
        let ids = lab.in_zone(&zone);
        load.gap.arm(load.now());
        let how = if self.graceful { "stopped" } else { "killed" };
        load.event(format!("zone {zone} is {how}"));
        if self.graceful {
            lab::stop(&mut lab, &ids).await?;
        } else {
            lab::kill(&mut lab, &ids).await?;
        }
        lab.save()?;
        load.wait_acknowledged(300, PATIENCE).await?;
        let back = Instant::now();
        start::nodes(&mut lab, &ids).await?;
        load.event(format!("zone {zone} is started"));
        start::wait_healed(&lab, PATIENCE).await?;
        let healed_ms = back.elapsed().as_millis();
        load.wait_acknowledged(100, PATIENCE).await?;
        let gap = load.gap.found(load.now());
        let gap_ms = (gap.longest as f64 / 1e5).round() / 10.0;
        Ok(Round { zone, gap_ms, healed_ms })
    }

    fn conclude(
        self,
        context: &Context,
        verdict: &Verdict,
        load: &Load,
        longest: f64,
    ) -> anyhow::Result<Exit> {
        for finding in &verdict.findings {
            context.out.item(&json!({ "finding": finding }))?;
            context.out.say(finding)?;
        }
        let value = json!({
            "ok": verdict.ok(),
            "rounds": self.rounds,
            "acknowledged": verdict.acknowledged,
            "lost": verdict.lost,
            "duplicated_while_leased": verdict.duplicated_while_leased,
            "resurrected": verdict.resurrected,
            "longest_gap_ms": longest,
            "rpo_messages": verdict.lost,
            "rpo_ms": 0,
            "rto_ms": longest,
            "tail_found": 0,
            "tail_replayed": 0,
            "never_sent": verdict.never_sent,
            "unknown": verdict.unknown,
            "unknown_found": verdict.unknown_found,
            "failed_requests": load.failed(),
            "first_error": load.first_error(),
        });
        let word = if verdict.ok() { "nothing was lost" } else { "THE DRILL FAILED" };
        let text = format!(
            "{word}: {} acknowledged, {} lost, {} given again while leased, {} resurrected; {} \
             requests failed; longest pause {longest:.0} ms over {} {}",
            verdict.acknowledged,
            verdict.lost,
            verdict.duplicated_while_leased,
            verdict.resurrected,
            load.failed(),
            self.rounds,
            if self.rounds == 1 { "round" } else { "rounds" },
        );
        context.out.result(&value, &text)?;
        Ok(if verdict.ok() { Exit::Done } else { Exit::Failed })
    }
}
