//! A whole region lost, the other promoted by force, and the way back to a pair.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::record::Replaying;
use super::sampler::time;
use super::{PATIENCE, PAUSE, Round, STEADY, Stage, cluster, millis};
use crate::cli::drill::history::Verb;
use crate::cli::drill::ledger::Fork;
use crate::cli::lab::files::{Lab, LabLock};
use crate::cli::lab::{self, line, pair, start};
use crate::cli::tail;
use crate::client::{ClientError, Regions};
use crate::proto::admin::v1 as pb;

/// Between the look at the lag, before a write enters, and the stamp of the entry that it is in.
const STAMP_MS: f64 = 250.0;

/// What was lost with a region.
#[derive(Clone, Debug, Default)]
pub(super) struct Lost {
    /// Sends that were acknowledged and are in the exported tail.
    pub tail_found: u64,
    /// Messages of the tail, those of sends whose fate was not known among them.
    tail_messages: u64,
    /// Messages of the tail that were sent to the new primary, and that were not, with a reason.
    pub tail_replayed: u64,
    pub tail_skipped: u64,
    /// From the last sync time to the last send that the lost region acknowledged.
    pub rpo_ms: f64,
    /// What was known of the loss before the promotion.
    known_entries: Option<u64>,
    known_messages: Option<u64>,
    known_ms: Option<f64>,
    bytes_at_most: Option<u64>,
    /// Messages that were sent there alone and bytes of their bodies, deleted ones too.
    true_messages: u64,
    pub true_bytes: u64,
    /// By the stamps of the log: from the copy's newest entry to the newest message of the tail,
    /// sent or deleted; `None` = there is none.
    pub true_ms: Option<f64>,
    /// The same to the newest entry of any kind.
    log_ms: f64,
    /// The limit of the lag that the drill set.
    limit_ms: Option<f64>,
    /// How long the promotion had to wait for a region lease, as it was said before.
    lease_wait_ms: Option<f64>,
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
            "tail_skipped": self.tail_skipped,
            "tail_file": self.file.display().to_string(),
            "rpo_ms": self.rpo_ms,
            "known_entries_lost": self.known_entries,
            "known_messages_lost": self.known_messages,
            "true_messages_lost": self.true_messages,
            "bytes_lost_at_most": self.bytes_at_most,
            "true_bytes_lost": self.true_bytes,
            "known_ms_lost": self.known_ms,
            "true_ms_lost": self.true_ms,
            "limit_ms": self.limit_ms,
            "lease_wait_ms": self.lease_wait_ms,
            "fenced_ms": self.fenced_ms,
        })
    }

    /// What was said of the loss before the promotion, and is not so.
    pub(super) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.known_messages > Some(self.true_messages) {
            let (known, lost) = (self.known_messages.unwrap_or(0), self.true_messages);
            broken.push(format!("{known} messages were known to be lost, and {lost} are"));
        }
        if let Some(most) = self.bytes_at_most
            && self.true_bytes > most
        {
            let lost = self.true_bytes;
            broken.push(format!("{lost} bytes are lost, and the limit was {most}"));
        }
        if let (Some(lost), Some(most)) = (self.true_ms, self.limit_ms)
            && lost > most + STAMP_MS
        {
            broken.push(format!("{lost} ms are lost, and the limit was {most}"));
        }
        if let Some(known) = self.known_ms
            && known > self.log_ms
        {
            let lost = self.log_ms;
            broken.push(format!("{known} ms were known to be lost, and {lost} are"));
        }
        broken
    }

    pub(super) fn text(&self) -> String {
        let known = self.known_entries.map_or_else(
            || "nothing known of the loss before".to_owned(),
            |entries| {
                format!(
                    "{entries} entries and {} of its {} messages known to be lost before",
                    self.known_messages.unwrap_or(0),
                    self.true_messages
                )
            },
        );
        let mut limit = self.limit_ms.map_or_else(String::new, |most| {
            format!(
                "; {:.0} of at most {most:.0} ms lost, by the stamps",
                self.true_ms.unwrap_or(0.0)
            )
        });
        if let Some(most) = self.bytes_at_most {
            limit += &format!("; {} of at most {most} bytes lost", self.true_bytes);
        }
        if let Some(wait) = self.lease_wait_ms {
            limit += &format!("; {wait:.0} ms of that for the region lease");
        }
        format!(
            "{limit}; {} of {} messages in the tail were acknowledged, {:.0} ms of writes, {} were sent \
             again from it; {known}; fenced {:.0} ms after its start",
            self.tail_found, self.tail_messages, self.rpo_ms, self.tail_replayed, self.fenced_ms
        )
    }
}

/// Loses the primary region once, and brings the pair back to protected and live.
pub(super) async fn round(stage: &Stage<'_>, number: u32) -> anyhow::Result<Round> {
    let (lab, from, to) = stage.sides().await?;
    let load = stage.load;
    load.wait_acknowledged(STEADY, PATIENCE).await?;
    let epoch = stage.regions(&lab, &from)?.status().await?.epoch.map_or(0, |it| it.number);
    stage.limit(&lab, &from, &to).await?;
    stage.lease(&lab, &from).await?;
    lose(stage, &from).await?;

    let new = stage.regions(&lab, &to)?;
    let last = stage.look(&new).await?;
    let sync = stage.sampler.sync(&last).unwrap_or(SystemTime::UNIX_EPOCH);
    let known = new.force_fail_over(true, false).await?;
    let since = load.now();
    force(stage, &to, &new).await?;
    let rto_ms = stage.first_acknowledged(&new, since).await?;
    let pause_ms = millis(load.gap.found(load.now()).longest);
    heal(stage).await?;

    let mut lost = Lost {
        known_entries: known.entries_lost,
        known_messages: known.messages_lost,
        bytes_at_most: known.bytes_lost_at_most,
        known_ms: known.time_lost.map(span_ms),
        lease_wait_ms: known.lease_wait.map(span_ms),
        file: stage.dir.join(format!("tail-{:x}-{number}.jsonl", stage.mark)),
        ..Lost::default()
    };
    let begun = Instant::now();
    bring_back(stage, &from).await?;
    lost.fenced_ms = begun.elapsed().as_millis() as f64;
    stage.sampler.set_lost(false);
    let Tail { numbers: tail, completed, bytes, messages, newest } =
        export(stage, &lab, &from, &lost.file).await?;
    (lost.true_messages, lost.true_bytes) = (messages, bytes);
    let copy = time(last.log_time).unwrap_or(SystemTime::UNIX_EPOCH);
    lost.true_ms = newest.map(|newest| since_ms(newest, copy));
    let end = stage.regions(&lab, &from)?.status().await?.log_time;
    lost.log_ms = time(end).map_or(0.0, |end| since_ms(end, copy));
    lost.limit_ms = stage.drill.max_lag.map(|lag| lag.as_secs_f64() * 1e3);
    {
        let mut ledger = load.ledger();
        lost.tail_messages = tail.len() as u64;
        lost.tail_found = ledger.sent_of(&tail, epoch);
        let end = ledger.span(epoch).map_or(sync, |span| span.last);
        lost.rpo_ms = end.duration_since(sync).unwrap_or_default().as_micros() as f64 / 1e3;
        ledger.forked(Fork { epoch, sync, tail, completed });
    }
    let begun = Instant::now();
    let mut round = Round { pause_ms, rto_ms, ..Round::default() };
    (lost.tail_replayed, lost.tail_skipped) = if stage.drill.kind.failback {
        let home = go_home(stage, &from, &to).await?;
        (round.home_ms, round.home_pause_ms) = (Some(home.home_ms), Some(home.pause_ms));
        home.dealt
    } else {
        protect_again(stage, &from, &to).await?
    };
    round.protected_ms = begun.elapsed().as_millis() as f64;
    Ok(Round { from, to, lost: Some(lost), ..round })
}

fn span_ms(span: prost_types::Duration) -> f64 {
    span.seconds as f64 * 1e3 + f64::from(span.nanos) / 1e6
}

/// Milliseconds between two times of the log, rounded down to microseconds.
fn since_ms(later: SystemTime, earlier: SystemTime) -> f64 {
    later.duration_since(earlier).unwrap_or_default().as_micros() as f64 / 1e3
}

/// SIGKILL of every node of a region, with the line cut before where the drill says so.
async fn lose(stage: &Stage<'_>, region: &str) -> anyhow::Result<()> {
    let _lock = LabLock::take(stage.dir).await?;
    let mut lab = stage.lab()?;
    let behind = stage.drill.behind;
    if !behind.is_zero() {
        stage.load.event("the line is cut");
        line::set_cut(&mut lab, true).await?;
        sleep(behind).await;
    }
    stage.load.gap.arm(stage.load.now());
    stage.sampler.set_lost(true);
    let ids = lab.in_region(region);
    stage.load.event(format!("region {region} is killed"));
    lab::kill(&mut lab, &ids).await?;
    lab.save()?;
    Ok(())
}

/// The line carries again. What was on the way when it was cut arrives late, so the other region
/// must be promoted: the loss that was told of would else become less.
async fn heal(stage: &Stage<'_>) -> anyhow::Result<()> {
    if stage.drill.behind.is_zero() {
        return Ok(());
    }
    let _lock = LabLock::take(stage.dir).await?;
    stage.load.event("the line carries again");
    line::set_cut(&mut stage.lab()?, false).await
}

async fn force(stage: &Stage<'_>, to: &str, regions: &Regions) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    let verb = Verb::Force { accept_incomplete: false };
    loop {
        match stage.told(to, verb, regions.force_fail_over(false, false)).await {
            Ok(_) => return Ok(()),
            Err(error) if is_worth_a_try(&error) && Instant::now() < until => sleep(PAUSE).await,
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
        stage.load.event(format!("region {region} is started"));
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

/// What a fenced region has alone.
struct Tail {
    /// The drill's own messages that are alive there.
    numbers: BTreeSet<u64>,
    /// Ids of those that were sent and deleted there.
    completed: BTreeSet<String>,
    /// Bodies of all that were sent there; of deleted ones as far as they are the drill's own.
    bytes: u64,
    /// All that were sent there, deleted ones too.
    messages: u64,
    /// When the last of all that was sent, or deleted, by the log.
    newest: Option<SystemTime>,
}

/// Writes the tail of a fenced region to a file, and reads it.
async fn export(stage: &Stage<'_>, lab: &Lab, region: &str, file: &Path) -> anyhow::Result<Tail> {
    let (regions, at) = (stage.regions(lab, region)?, stage.clock());
    let exported = tail::write(&regions, file).await?;
    anyhow::ensure!(
        exported.head.whole,
        "the log of region {region} no longer holds all of its tail"
    );
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("the file {} cannot be read", file.display()))?;
    let (mut numbers, mut bytes, mut alive) = (BTreeSet::new(), 0, Vec::new());
    let deleted = exported.deleted.iter().filter_map(|one| time(one.at));
    let mut newest = deleted.max();
    for line in text.lines() {
        // What was deleted comes last, and is no message.
        let Some(message) = tail::read_exported(line)? else { continue };
        bytes += message.body.len() as u64;
        newest = newest.max(time(message.inserted_at));
        let Some(own) = stage.alive(&message) else { continue };
        numbers.insert(own.tag.context("a message of the exported tail is not whole")?);
        alive.push(own);
    }
    stage.listed(at, region, &exported, alive);
    let own = |one: &&pb::TailDelete| !one.shared && one.queue == stage.load.queue();
    bytes += exported.deleted.iter().filter(own).count() as u64 * u64::from(stage.drill.body);
    let completed = exported.deleted.into_iter().filter(|one| !one.shared).map(|one| one.id);
    let completed: BTreeSet<String> = completed.collect();
    let messages = exported.count + completed.len() as u64;
    Ok(Tail { numbers, completed, bytes, messages, newest })
}

/// Sends the tail of the old primary to the new one, and attaches it again.
async fn protect_again(stage: &Stage<'_>, old: &str, new: &str) -> anyhow::Result<(u64, u64)> {
    let lab = stage.lab()?;
    let dealt = replay(stage, old, &stage.regions(&lab, old)?).await?;
    let (regions, until) = (stage.regions(&lab, new)?, Instant::now() + PATIENCE);
    loop {
        match stage.told(new, Verb::Protect, regions.protect(false)).await {
            Ok(()) => break,
            Err(error) if is_worth_a_try(&error) && Instant::now() < until => sleep(PAUSE).await,
            Err(error) => return Err(error.into()),
        }
    }
    pair::wait_live(&lab, PATIENCE).await?;
    Ok(dealt)
}

/// Messages that were sent to the new primary, and that were not, each with a reason.
async fn replay(stage: &Stage<'_>, old: &str, regions: &Regions) -> anyhow::Result<(u64, u64)> {
    let until = Instant::now() + PATIENCE;
    loop {
        match replay_once(stage, old, regions).await {
            Ok(dealt) => return Ok(dealt),
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

async fn replay_once(
    stage: &Stage<'_>,
    old: &str,
    regions: &Regions,
) -> anyhow::Result<(u64, u64)> {
    let mut replaying = Replaying::begin(stage, regions).await?;
    let last = replay_parts(regions, &mut replaying).await;
    let outcome = last.as_ref().map(|_| ()).map_err(ToString::to_string);
    replaying.end(stage, old, outcome);
    let last = last?;
    Ok((last.total_sent, last.total_skipped))
}

async fn replay_parts(
    regions: &Regions,
    replaying: &mut Replaying,
) -> anyhow::Result<pb::ReplayTailResponse> {
    let mut stream = regions.replay_tail(false).await?;
    let mut last = pb::ReplayTailResponse::default();
    while let Some(part) = stream.message().await? {
        replaying.part(&part);
        last = part;
    }
    anyhow::ensure!(last.done, "the replay of the tail broke off");
    Ok(last)
}

/// What a way home showed.
struct Home {
    dealt: (u64, u64),
    pause_ms: f64,
    home_ms: f64,
}

/// The whole way back to the region that was lost, in one: tail, protection, handing over.
async fn go_home(stage: &Stage<'_>, old: &str, new: &str) -> anyhow::Result<Home> {
    let (lab, load) = (stage.lab()?, stage.load);
    let (regions, until) = (stage.regions(&lab, new)?, Instant::now() + PATIENCE);
    let since = load.now();
    load.gap.arm(since);
    let mut dealt = (0, 0);
    loop {
        let verb = Verb::FailBack { to: cluster(old).region };
        match stage.told(new, verb, way(&regions, old, &mut dealt)).await {
            Ok(()) => break,
            // As an operator does: it goes on from where it is.
            Err(error) if Instant::now() >= until => return Err(error),
            Err(_) => sleep(PAUSE).await,
        }
    }
    let home_ms = stage.first_acknowledged(&stage.regions(&lab, old)?, since).await?;
    let pause_ms = millis(load.gap.found(load.now()).longest);
    pair::wait_live(&lab, PATIENCE).await?;
    Ok(Home { dealt, pause_ms, home_ms })
}

async fn way(regions: &Regions, home: &str, dealt: &mut (u64, u64)) -> anyhow::Result<()> {
    let mut stream = regions.fail_back(Some(home), false, false).await?;
    let mut last = pb::FailBackResponse::default();
    let mut left = true;
    while let Some(part) = stream.message().await? {
        // Of one call, all its stages together.
        dealt.0 += part.replayed.saturating_sub(last.replayed);
        dealt.1 += part.skipped.saturating_sub(last.skipped);
        left = !part.stages.is_empty();
        last = part;
    }
    anyhow::ensure!(!left, "the way back broke off");
    Ok(())
}

fn is_worth_a_try(error: &ClientError) -> bool {
    matches!(error, ClientError::NotNow { .. } | ClientError::Unknown { .. })
}
