//! `zoneq region`: the pair of regions, from protecting to failing over and back.

use std::time::{Duration, SystemTime};

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

mod limit;
mod line;
mod shape;
mod watch;

use super::Context;
use super::exit::Exit;
use super::failback::Failback;
use super::output;
use super::tail::TailVerb;
use crate::client::Regions;
use crate::proto::admin::v1 as pb;
pub(super) use limit::parse_limit;
pub use shape::parse_trace;

/// A failover waits until the copy has nearly all.
const USUAL: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub enum RegionVerb {
    /// Show what this cluster is in its pair, and how far the copy is
    #[command(after_help = "Examples:\n  zoneq region status --json\n  \
                            zoneq region status --watch")]
    Status(watch::Status),
    /// Show what was done to this cluster's part of the pair, and who did it
    #[command(after_help = "Example:\n  zoneq region audit")]
    Audit,
    /// Attach the other region, and ship to it: an empty one, a kept copy, or a deposed primary
    #[command(after_help = "Example:\n  zoneq region protect")]
    Protect(Protect),
    /// Stand alone again; the copy is kept. On a secondary: keep its copy and follow nobody
    #[command(after_help = "Examples:\n  zoneq region unprotect\n  zoneq region unprotect --wipe")]
    Unprotect(Unprotect),
    /// Make a kept copy a cluster of its own, which takes writes
    #[command(after_help = "Example:\n  zoneq region promote -e west")]
    Promote,
    /// Hand over to the other region without loss, or promote this secondary by force
    #[command(after_help = "Examples:\n  zoneq region failover --to west\n  \
                            zoneq region failover --force --dry-run\n  \
                            zoneq region failover --force")]
    Failover(Failover),
    /// Make the region where the data was at first the primary again; from either region
    #[command(after_help = "Examples:\n  zoneq region failback --dry-run\n  zoneq region failback")]
    Failback(Failback),
    /// Take back what was handed over and did not arrive there
    #[command(after_help = "Example:\n  zoneq region take-back")]
    TakeBack(TakeBack),
    /// Decide which of two regions at the same epoch goes on
    #[command(after_help = "Example:\n  zoneq region resolve --keep east")]
    Resolve(Resolve),
    /// Allow or refuse reads while this cluster is the secondary
    #[command(after_help = "Example:\n  zoneq region read-access on")]
    ReadAccess(ReadAccess),
    /// Limit how far the secondary may be behind
    #[command(after_help = "Examples:\n  zoneq region limit --max-lag 1m --alert\n  \
                            zoneq region limit --max-unshipped 64MiB --throttle\n  \
                            zoneq region limit --max-lag off --max-unshipped off")]
    Limit(limit::Limit),
    /// Make the line to the secondary slow, narrow or broken, live, for rehearsals
    #[command(
        after_help = "Examples:\n  zoneq region shape --delay 15m --jitter 30s --bandwidth 2MiB/s\n  \
                            zoneq region shape --outage 10s/5s/1m\n  \
                            zoneq region shape --off"
    )]
    Shape(shape::Shape),
    /// Let the primary acknowledge only what the secondary gives leave for, a while at a time
    #[command(after_help = "Examples:\n  zoneq region lease 5s\n  zoneq region lease off")]
    Lease(line::Lease),
    /// Compare the data of both regions at one position; exits 1 when they differ
    #[command(after_help = "Example:\n  zoneq region verify")]
    Verify,
    /// What a deposed primary acknowledged and the other region never got
    #[command(subcommand)]
    Tail(TailVerb),
}

#[derive(Debug, Args)]
pub struct Failover {
    /// The region that is to be the primary; where it is already, nothing is done [default: the
    /// one that is not]
    #[arg(long, conflicts_with = "force", env = "ZONEQ_REGION_FAILOVER_TO", value_name = "REGION")]
    to: Option<String>,
    /// Promote this secondary although its primary does not hand over; what it had not shipped
    /// is its tail
    #[arg(long, env = "ZONEQ_REGION_FAILOVER_FORCE", value_parser = FalseyValueParser::new())]
    force: bool,
    /// Only show what --force would lose, as far as it is known
    #[arg(long, requires = "force", env = "ZONEQ_REGION_FAILOVER_DRY_RUN",
          value_parser = FalseyValueParser::new())]
    dry_run: bool,
    /// Promote a copy that never had all that its primary had
    #[arg(long, requires = "force", env = "ZONEQ_REGION_FAILOVER_ACCEPT_INCOMPLETE",
          value_parser = FalseyValueParser::new())]
    accept_incomplete: bool,
}

#[derive(Debug, Args)]
pub struct Protect {
    /// Give up what a deposed primary has alone, if it was neither replayed nor exported
    #[arg(long, env = "ZONEQ_REGION_PROTECT_DISCARD_TAIL", value_parser = FalseyValueParser::new())]
    discard_tail: bool,
}

#[derive(Debug, Args)]
pub struct TakeBack {
    /// Without the other region's word: what it wrote may be lost to its tail
    #[arg(long, env = "ZONEQ_REGION_TAKE_BACK_FORCE", value_parser = FalseyValueParser::new())]
    force: bool,
}

#[derive(Debug, Args)]
pub struct Resolve {
    /// The region that goes on
    #[arg(long, env = "ZONEQ_REGION_RESOLVE_KEEP", value_name = "REGION")]
    keep: String,
}

#[derive(Debug, Args)]
pub struct Unprotect {
    /// Delete the copy: its cluster is as if it had never been written to
    #[arg(long, env = "ZONEQ_REGION_UNPROTECT_WIPE", value_parser = FalseyValueParser::new())]
    wipe: bool,
}

#[derive(Debug, Args)]
pub struct ReadAccess {
    #[arg(value_enum)]
    to: OnOff,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OnOff {
    On,
    Off,
}

/// Who asks, for the audit: the login name.
pub(super) fn who() -> String {
    let name = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    name.ok().filter(|name| !name.is_empty() && name.len() <= 256).unwrap_or_default()
}

impl RegionVerb {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let regions = context.client_within(USUAL)?.admin().regions(who());
        match self {
            RegionVerb::Status(status) => return status.run(context, &regions).await,
            RegionVerb::Audit => return audit(context, regions.audit().await?),
            RegionVerb::Verify => return verify(context, &regions.verify().await?),
            RegionVerb::Tail(verb) => return verb.run(context, &regions).await,
            RegionVerb::Failback(verb) => return verb.run(context, &regions).await,
            _ => {}
        }
        let spinner = context.out.progress(None, "waiting for the regions");
        let ended = self.change(&regions).await;
        spinner.finish_and_clear();
        let (value, text) = ended?;
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }

    async fn change(self, regions: &Regions) -> anyhow::Result<(Value, String)> {
        let done = |verb: &str, text: &str| (json!({ "ok": true, "done": verb }), text.to_owned());
        Ok(match self {
            RegionVerb::Protect(Protect { discard_tail }) => {
                regions.protect(discard_tail).await?;
                done("protect", "protected: the other region is being given the data")
            }
            RegionVerb::Unprotect(Unprotect { wipe }) => {
                regions.unprotect(wipe).await?;
                let what = if wipe { "wiped" } else { "kept" };
                done("unprotect", &format!("the regions are apart; the copy is {what} there"))
            }
            RegionVerb::Promote => {
                regions.promote_copy().await?;
                done("promote", "this cluster stands alone, and takes writes")
            }
            RegionVerb::Failover(Failover { force: false, to, .. }) => {
                regions.fail_over(to.as_deref()).await?;
                match to {
                    Some(to) => done("failover", &format!("region {to} is the primary")),
                    None => done("failover", "the other region is the primary now"),
                }
            }
            RegionVerb::Failover(Failover { dry_run, accept_incomplete, .. }) => {
                forced(&regions.force_fail_over(dry_run, accept_incomplete).await?)
            }
            RegionVerb::TakeBack(TakeBack { force }) => {
                regions.take_back(force).await?;
                done("take-back", "taken back: writes go on here")
            }
            RegionVerb::Resolve(Resolve { keep }) => {
                regions.resolve_conflict(&keep).await?;
                done("resolve", &format!("region {keep:?} goes on"))
            }
            RegionVerb::ReadAccess(ReadAccess { to }) => {
                let on = matches!(to, OnOff::On);
                regions.set_read_access(on).await?;
                let word = if on { "on" } else { "off" };
                done("read-access", &format!("reads at this cluster, while secondary, are {word}"))
            }
            RegionVerb::Lease(lease) => return lease.run(regions).await,
            RegionVerb::Shape(shape) => return shape.run(regions).await,
            RegionVerb::Limit(limit) => return limit.run(regions).await,
            RegionVerb::Status(_)
            | RegionVerb::Audit
            | RegionVerb::Verify
            | RegionVerb::Failback(_)
            | RegionVerb::Tail(_) => done("nothing", "nothing was changed"),
        })
    }
}

fn seconds(span: Option<&prost_types::Duration>) -> Option<f64> {
    span.map(|span| span.seconds as f64 + f64::from(span.nanos) / 1e9)
}

fn forced(answer: &pb::ForceFailOverResponse) -> (Value, String) {
    let (time, heard) = (seconds(answer.time_lost.as_ref()), seconds(answer.heard_ago.as_ref()));
    let value = json!({
        "ok": true,
        "promoted": answer.promoted,
        "complete": answer.complete,
        "entries_lost": answer.entries_lost,
        "seconds_lost": time,
        "heard_seconds_ago": heard,
        "lease_wait_seconds": seconds(answer.lease_wait.as_ref()),
        "messages_lost": answer.messages_lost,
        "queues_lost": line::queues_lost(answer),
        "more_queues": answer.more_queues,
        "more_messages": answer.more_messages,
        "bytes_lost_at_most": answer.bytes_lost_at_most,
        "clock_ahead_seconds": seconds(answer.clock_ahead.as_ref()),
        "clock_within_seconds": seconds(answer.clock_within.as_ref()),
    });
    let lost = match answer.entries_lost {
        Some(entries) => {
            let messages = line::messages_lost(answer);
            format!("{entries} entries, {messages}{:.1} s", time.unwrap_or(0.0))
        }
        None => "not known".to_owned(),
    };
    let age = match heard {
        Some(age) => {
            let most = line::at_most(answer);
            format!("as the primary said {age:.1} s ago; what it took since then is lost too{most}")
        }
        None => "as of the last batch; the primary was not heard since".to_owned(),
    };
    let head = if answer.promoted { "promoted; the loss is" } else { "it would lose" };
    let whole = if answer.complete { "" } else { "; this copy never had all" };
    let (wait, unknown) = (line::lease_wait(answer), line::queues_unknown(answer));
    let clock = line::clock(answer);
    (value, format!("{head} {lost}, {age}{unknown}{whole}{wait}{clock}"))
}

/// The word for a role.
#[must_use]
pub fn role_name(role: i32) -> String {
    let role = pb::RegionRole::try_from(role).unwrap_or_default();
    role.as_str_name().trim_start_matches("REGION_ROLE_").to_ascii_lowercase()
}

/// The word for how a copy does, where there is one.
#[must_use]
pub fn status_name(status: i32) -> Option<String> {
    match pb::GeoStatus::try_from(status).unwrap_or_default() {
        pb::GeoStatus::Unspecified => None,
        known => Some(known.as_str_name().trim_start_matches("GEO_STATUS_").to_ascii_lowercase()),
    }
}

fn tail_name(fate: i32) -> Option<String> {
    match pb::TailFate::try_from(fate).unwrap_or_default() {
        pb::TailFate::Unspecified => None,
        known => Some(known.as_str_name().trim_start_matches("TAIL_FATE_").to_ascii_lowercase()),
    }
}

/// Rounded down to the second: it is never later than the truth.
fn sync_time(at: Option<&prost_types::Timestamp>) -> Option<String> {
    let seconds = u64::try_from(at?.seconds).ok()?;
    Some(output::time(Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))))
}

/// A status as the JSON that scripts read.
#[must_use]
pub fn status_json(status: &pb::GetRegionResponse) -> Value {
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "ok": true,
        "region": status.region,
        "role": role_name(status.role),
        "epoch": status.epoch.as_ref().map(|epoch| epoch.number),
        "epoch_region": status.epoch.as_ref().map(|epoch| &epoch.region),
        "lineage": text(&status.lineage),
        "peer": text(&status.peer),
        "peer_role": (status.peer_role != 0).then(|| role_name(status.peer_role)),
        "redundancy": status.redundancy,
        "writable": status.writable,
        "read_access": status.read_access,
        "status": status_name(status.status),
        "last_sync_time": sync_time(status.last_sync_time.as_ref()),
        "entries_behind": status.entries_behind,
        "bytes_behind": status.bytes_behind,
        "drain_seconds": seconds(status.drain.as_ref()),
        "applied_through": status.applied_through.as_ref().map(line::place_json),
        "heard_seconds_ago": seconds(status.heard_ago.as_ref()),
        "complete": status.complete,
        "trouble": text(&status.trouble),
        "stalled_seconds": seconds(status.stalled.as_ref()),
        "tail": tail_name(status.tail),
        "copied_bytes": status.copied_bytes,
        "copy_bytes_total": status.copy_bytes_total,
        "shipped_bytes": status.shipped_bytes,
        "messages_behind": status.messages_behind,
        "limit": status.limit.as_ref().map(limit::limit_json),
        "shape": status.shape.as_ref().map(shape::shape_json),
        "lease": status.lease.as_ref().map(line::lease_json),
        "last_forced": status.last_forced.as_ref().map(line::last_forced_json),
        "clock_ahead_seconds": seconds(status.clock_ahead.as_ref()),
        "clock_within_seconds": seconds(status.clock_within.as_ref()),
        "stranger": status.stranger.as_ref().map(line::stranger_json),
        "applied_index": (status.applied_index > 0).then_some(status.applied_index),
        "epochs": status.epochs.iter().map(line::epoch_json).collect::<Value>(),
        "tails_taken": status.tails_taken.iter().map(line::taken_json).collect::<Value>(),
    })
}

/// A status as people read it.
fn status_text(status: &pb::GetRegionResponse) -> String {
    let mut text =
        format!("region {} ({}): {}", status.region, status.redundancy, role_name(status.role));
    // A copy that was wiped is in none.
    if let Some(epoch) = status.epoch.as_ref().filter(|epoch| epoch.number > 0) {
        text += &format!(", epoch {} of {}", epoch.number, epoch.region);
    }
    if !status.peer.is_empty() {
        text += &format!("; the other region is {}", status.peer);
    }
    if let Some(word) = status_name(status.status) {
        let sync = sync_time(status.last_sync_time.as_ref());
        text += &format!("; {word}, last sync {}", sync.as_deref().unwrap_or("not known"));
    }
    text += &line::behind(status);
    text += &line::copied(status);
    if let Some(fate) = tail_name(status.tail) {
        text += &format!("; its tail is {fate}");
    }
    text += &line::said(status);
    if let Some(last) = &status.last_forced {
        text += &line::last_forced_said(last);
    }
    text += &line::clocks_apart(status);
    text += &line::turned_away(status);
    if let Some(lasts) = seconds(status.stalled.as_ref()) {
        text += &format!("; shipping has stood still for {lasts:.0} s");
    }
    if !status.trouble.is_empty() {
        text += &format!("; {}", status.trouble);
    }
    text
}

fn audit(context: &Context, entries: Vec<pb::AuditEntry>) -> anyhow::Result<Exit> {
    let mut rows = Vec::with_capacity(entries.len());
    for entry in &entries {
        let epoch = entry.epoch.as_ref().map_or(0, |epoch| epoch.number);
        let at = sync_time(entry.at.as_ref()).unwrap_or_default();
        context.out.item(&json!({
            "number": entry.number,
            "at": at,
            "who": entry.who,
            "what": entry.what,
            "epoch": epoch,
        }))?;
        let (who, what) = (entry.who.clone(), entry.what.clone());
        rows.push(vec![entry.number.to_string(), at, who, what, epoch.to_string()]);
    }
    context.out.table(&["number", "at", "who", "what", "epoch"], rows)?;
    let text = output::counted(entries.len() as u64, "change");
    context.out.result(&json!({ "ok": true, "entries": entries.len() }), &text)?;
    Ok(Exit::Done)
}

fn verify(context: &Context, answer: &pb::VerifyRegionsResponse) -> anyhow::Result<Exit> {
    let value = json!({
        "ok": answer.equal,
        "equal": answer.equal,
        "index": answer.index,
        "own_digest": answer.own_digest,
        "other_digest": answer.other_digest,
        "differs": answer.differs,
    });
    let text = if answer.equal {
        format!("both regions hold the same data at entry {} of the primary", answer.index)
    } else {
        let text =
            format!("the regions hold different data at entry {} of the primary", answer.index);
        match answer.differs.as_slice() {
            [] => text,
            differs => format!("{text}: {} differs", differs.join("; ")),
        }
    };
    context.out.result(&value, &text)?;
    Ok(if answer.equal { Exit::Done } else { Exit::Failed })
}
