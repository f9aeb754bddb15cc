//! A whole region lost, the other promoted by force, and the way back to a pair.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{PATIENCE, PAUSE, Round, STEADY, Stage, millis, planned};
use crate::cli::drill::ledger::Fork;
use crate::cli::lab::files::{Lab, LabLock};
use crate::cli::lab::{self, line, pair, start};
use crate::cli::{output, tail};
use crate::client::ClientError;
use crate::proto::admin::v1 as pb;

/// What was lost with a region.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    /// Sends that were acknowledged and are in the exported tail.
    pub tail_found: u64,
    /// Messages of the tail, those of sends whose fate was not known among them.
    tail_messages: u64,
    pub tail_replayed: u64,
    /// From the last sync time to the last send that the lost region acknowledged.
    pub rpo_ms: f64,
    /// What was known of the loss before the promotion.
    known_entries: Option<u64>,
    known_ms: Option<f64>,
    /// From the start of the lost region to the moment when it was fenced.
    fenced_ms: f64,
    file: PathBuf,
}

impl Lost {
    pub(super) fn json(&self) -> Value {
        json!({
            "tail_found": self.tail_found,
            "tail_messages": self.tail_messages,
            "tail_replayed": self.tail_replayed,
            "tail_file": self.file.display().to_string(),
            "rpo_ms": self.rpo_ms,
            "known_entries_lost": self.known_entries,
            "known_ms_lost": self.known_ms,
            "fenced_ms": self.fenced_ms,
        })
    }

    pub(super) fn text(&self) -> String {
        let known = self.known_entries.map_or_else(
            || "nothing known of the loss before".to_owned(),
            |entries| format!("{entries} entries known to be lost before"),
        );
        format!(
            "; {} of {} messages in the tail were acknowledged, {:.0} ms of writes; {known}; \
             fenced {:.0} ms after its start",
            self.tail_found, self.tail_messages, self.rpo_ms, self.fenced_ms
        )
    }
}

/// Loses the primary region once, and brings the pair back to protected and live.
pub(super) async fn round(stage: &Stage<'_>, number: u32) -> anyhow::Result<Round> {
    let (lab, from, to) = stage.sides().await?;
    let load = stage.load;
    load.wait_acknowledged(STEADY, PATIENCE).await?;
    let epoch = stage.regions(&lab, &from)?.status().await?.epoch.map_or(0, |it| it.number);
    lose(stage, &from).await?;

    let new = stage.regions(&lab, &to)?;
    let last = new.status().await?;
    let sync = stage.sampler.sync(&last).unwrap_or(SystemTime::UNIX_EPOCH);
    let known = new.force_fail_over(true, false).await?;
    let since = load.now();
    force(&new).await?;
    let rto_ms = stage.first_acknowledged(&new, since).await?;
    let pause_ms = millis(load.gap.found(load.now()).longest);

    let mut lost = Lost {
        known_entries: known.entries_lost,
        known_ms: known
            .time_lost
            .map(|span| span.seconds as f64 * 1e3 + f64::from(span.nanos) / 1e6),
        file: stage.dir.join(format!("tail-{:x}-{number}.jsonl", stage.mark)),
        ..Lost::default()
    };
    let begun = Instant::now();
    bring_back(stage, &from).await?;
    lost.fenced_ms = begun.elapsed().as_millis() as f64;
    stage.sampler.set_lost(false);
    let tail = export(stage, &lab, &from, &lost.file).await?;
    {
        let mut ledger = load.ledger();
        lost.tail_messages = tail.len() as u64;
        lost.tail_found = ledger.sent_of(&tail);
        let end = ledger.span(epoch).map_or(sync, |span| span.last);
        lost.rpo_ms = end.duration_since(sync).unwrap_or_default().as_micros() as f64 / 1e3;
        ledger.forked(Fork { epoch, sync, tail });
    }
    let begun = Instant::now();
    protect_again(stage, &from, &to).await?;
    let protected_ms = begun.elapsed().as_millis() as f64;
    let mut round = Round { from, to, pause_ms, rto_ms, protected_ms, ..Round::default() };
    round.lost = Some(lost);
    if stage.drill.kind.failback {
        let (pause, home) = planned::hand_over(stage, &lab, &round.to, &round.from).await?;
        round.pause_ms = round.pause_ms.max(pause);
        round.home_ms = Some(protected_ms + home);
        pair::wait_live(&lab, PATIENCE).await?;
    }
    Ok(round)
}

/// SIGKILL of every node of a region, with the line cut before where the drill says so.
async fn lose(stage: &Stage<'_>, region: &str) -> anyhow::Result<()> {
    let _lock = LabLock::take(stage.dir).await?;
    let mut lab = stage.lab()?;
    let behind = stage.drill.behind;
    if !behind.is_zero() {
        line::set_cut(&mut lab, true).await?;
        sleep(behind).await;
    }
    stage.load.gap.arm(stage.load.now());
    stage.sampler.set_lost(true);
    let ids = lab.in_region(region);
    lab::kill(&mut lab, &ids).await?;
    lab.save()?;
    if !behind.is_zero() {
        line::set_cut(&mut lab, false).await?;
    }
    Ok(())
}

async fn force(regions: &crate::client::Regions) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    loop {
        match regions.force_fail_over(false, false).await {
            Ok(_) => return Ok(()),
            Err(ClientError::NotNow { .. }) if Instant::now() < until => sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Starts a region that was lost, and waits until it knows that it was deposed.
async fn bring_back(stage: &Stage<'_>, region: &str) -> anyhow::Result<()> {
    let lab = {
        let _lock = LabLock::take(stage.dir).await?;
        let mut lab = stage.lab()?;
        let ids = lab.in_region(region);
        start::nodes(&mut lab, &ids).await?;
        lab
    };
    let what = format!("region {region} is not fenced");
    let fenced = |view: &pair::RegionView| {
        view.name == region && view.role() == Some(pb::RegionRole::Fenced)
    };
    pair::until(&lab, PATIENCE, &what, |views| views.iter().any(fenced)).await?;
    Ok(())
}

/// Writes the tail of a fenced region to a file, and reads the drill's own messages from it.
async fn export(
    stage: &Stage<'_>,
    lab: &Lab,
    region: &str,
    file: &Path,
) -> anyhow::Result<BTreeSet<u64>> {
    let regions = stage.regions(lab, region)?;
    let head = tail::write(&regions, file).await?.head;
    anyhow::ensure!(head.whole, "the log of region {region} no longer holds all of its tail");
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the file {} cannot be read", file.display()))?;
    let mut numbers = BTreeSet::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line)?;
        let queue = line.get("queue").and_then(Value::as_str).unwrap_or_default();
        if queue != stage.load.queue() {
            continue;
        }
        let body = line.get("body_base64").and_then(Value::as_str).unwrap_or_default();
        let body = output::from_base64(body).context("a body of the exported tail is no base64")?;
        let number = stage.load.number(&body);
        numbers.insert(number.context("a message of the exported tail is not whole")?);
    }
    Ok(numbers)
}

/// Makes the fenced region the secondary of the one that was promoted.
async fn protect_again(stage: &Stage<'_>, old: &str, new: &str) -> anyhow::Result<()> {
    let lab = {
        let _lock = LabLock::take(stage.dir).await?;
        let mut lab = stage.lab()?;
        let ids = lab.in_region(old);
        lab::stop(&mut lab, &ids).await?;
        lab.save()?;
        for id in &ids {
            let data = lab.data_dir(*id);
            std::fs::remove_dir_all(&data)
                .with_context(|| format!("{} cannot be removed", data.display()))?;
        }
        start::nodes(&mut lab, &ids).await?;
        start::wait_serving(&lab, &ids, PATIENCE).await?;
        lab
    };
    let (regions, until) = (stage.regions(&lab, new)?, Instant::now() + PATIENCE);
    loop {
        match regions.protect(false).await {
            Ok(()) => break,
            Err(ClientError::NotNow { .. } | ClientError::Unknown { .. })
                if Instant::now() < until =>
            {
                sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    pair::wait_live(&lab, PATIENCE).await?;
    Ok(())
}
