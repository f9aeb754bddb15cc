//! `zoneq inspect`: what the data directory of a stopped node holds.
//!
//! Laws: it changes nothing: what has to open the tables or the log in order to read them does so
//! over an overlay whose writes stay in memory. A directory that a node uses is refused. What is
//! found wrong is a finding, and the rest is shown all the same; with findings it exits with 1.

mod entries;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use self::entries::Range;
pub use self::entries::decoded;
use super::Context;
use super::exit::{Exit, Usage};
use super::output;
use crate::clock::SystemClock;
use crate::queue::ids::Position;
use crate::queue::rows::{Row, RowKey};
use crate::storage::disk::overlay::OverlayDisk;
use crate::storage::disk::real::RealDisk;
use crate::storage::disk::{Disk, DiskLock};
use crate::storage::error::StorageError;
use crate::storage::format::{FORMAT, Identity, read_identity};
use crate::storage::log::{Inspection, Trouble, inspect};
use crate::storage::store::{Store, StoreOptions};

const EXAMPLES: &str = "\
Examples:
  zoneq inspect /var/lib/zoneq
  zoneq inspect zoneq-lab/node-1/data --entries 100..120
  zoneq inspect zoneq-lab/node-1/data --entries ..  | less";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Inspect {
    /// The data directory of a node that is stopped
    data_dir: PathBuf,
    /// List log entries, decoded: FROM..TO, both included; either may be left out
    #[arg(long, env = "ZONEQ_INSPECT_ENTRIES", value_name = "FROM..TO")]
    entries: Option<Range>,
}

/// Something that is not as it should be.
struct Finding {
    kind: &'static str,
    text: String,
}

impl Finding {
    fn new(kind: &'static str, text: impl Into<String>) -> Finding {
        Finding { kind, text: text.into() }
    }

    /// A record cut short by a crash is expected after one, and is nothing wrong.
    fn is_wrong(&self) -> bool {
        self.kind != "torn"
    }
}

impl Inspect {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let dir = &self.data_dir;
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let mut findings = Vec::new();
        let identity = identity(&*disk, dir, &mut findings)?;
        let _lock = lock(&*disk, dir)?;
        let overlay: Arc<dyn Disk> = Arc::new(OverlayDisk::new(Arc::clone(&disk)));
        let log = match disk.exists(&dir.join("log")) {
            true => look_at_log(&*disk, &dir.join("log"), &mut findings),
            false => None,
        };
        let tables = match disk.exists(&dir.join("tables")) {
            true => look_at_tables(&overlay, &dir.join("tables"), &mut findings),
            false => None,
        };
        if let (Some(range), Some(log)) = (&self.entries, &log) {
            entries::list(context, &overlay, &dir.join("log"), log, *range, &mut findings)?;
        }
        let log = log.as_ref().map(log_json);
        self.show(context, identity.as_ref(), log.as_ref(), tables.as_ref(), &findings)
    }

    fn show(
        &self,
        context: &Context,
        identity: Option<&Identity>,
        log: Option<&Value>,
        tables: Option<&Tables>,
        findings: &[Finding],
    ) -> anyhow::Result<Exit> {
        let wrong = findings.iter().any(Finding::is_wrong);
        if self.entries.is_none() {
            people(context, identity, log, tables)?;
        }
        for finding in findings {
            context.out.say(&format!("{}: {}", finding.kind, finding.text))?;
        }
        let found: Vec<Value> =
            findings.iter().map(|f| json!({ "kind": f.kind, "text": f.text })).collect();
        let value = json!({
            "ok": !wrong,
            "data_dir": self.data_dir.display().to_string(),
            "identity": identity.map(|identity| json!({
                "format": FORMAT,
                "cluster_id": identity.cluster_id,
                "node_id": identity.node_id,
                "region": identity.region,
                "zone": identity.zone,
            })),
            "log": log,
            "tables": tables.map(|tables| &tables.value),
            "findings": found,
        });
        let verdict = if wrong { "something is wrong: see above" } else { "all of it is sound" };
        context.out.result(&value, &format!("{}: {verdict}", self.data_dir.display()))?;
        Ok(if wrong { Exit::Failed } else { Exit::Done })
    }
}

/// Whose folder it is. A folder that is not a node's, or of a newer format, is the user's mistake.
fn identity(
    disk: &dyn Disk,
    dir: &Path,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<Option<Identity>> {
    let usage = |text: String| Err(Usage(text).into());
    if !dir.is_dir() {
        return usage(format!("there is no folder {}", dir.display()));
    }
    let not_one = || format!("{} is not the data directory of a node", dir.display());
    match read_identity(disk, dir) {
        Ok(Some(identity)) => Ok(Some(identity)),
        Ok(None) => usage(format!("{}: it is empty", not_one())),
        Err(error @ StorageError::NewerFormat { .. }) => usage(error.to_string()),
        Err(_) if !dir.join("log").is_dir() && !dir.join("tables").is_dir() => {
            let below = dir.join("data");
            let hint = match disk.exists(&below.join("identity.json")) {
                true => format!("; {} is one", below.display()),
                false => String::new(),
            };
            usage(format!("{}: it has no identity{hint}", not_one()))
        }
        Err(error) => {
            findings.push(Finding::new("identity", error.to_string()));
            Ok(None)
        }
    }
}

/// Keeps a node from starting meanwhile. A lock that is not there is not made, and one that may
/// not be taken, on a disk that is only to be read, is not needed.
fn lock(disk: &dyn Disk, dir: &Path) -> anyhow::Result<Option<Box<dyn DiskLock>>> {
    if !disk.exists(&dir.join("LOCK")) {
        return Ok(None);
    }
    match disk.lock(dir) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let text = format!(
                "{} is in use by a running node; stop it first, or ask it with `zoneq cluster \
                 status`",
                dir.display()
            );
            Err(Usage(text).into())
        }
        Err(_) => Ok(None),
    }
}

fn look_at_log(disk: &dyn Disk, dir: &Path, findings: &mut Vec<Finding>) -> Option<Inspection> {
    let log = match inspect(disk, dir) {
        Ok(log) => log,
        Err(error) => {
            findings.push(Finding::new("log", error.to_string()));
            return None;
        }
    };
    if let Err(error) = &log.vote {
        findings.push(Finding::new("vote", error.to_string()));
    }
    findings.extend(log.trouble.iter().map(describe));
    Some(log)
}

fn describe(trouble: &Trouble) -> Finding {
    let (kind, what, hole) = match trouble {
        Trouble::Torn { segment, offset } => {
            let text = format!(
                "segment {segment} ends at byte {offset} with a record that a crash cut short; it \
                 was never acknowledged, and the node cuts it off when it starts"
            );
            return Finding::new("torn", text);
        }
        Trouble::Doubt(hole) => ("doubt", "are whole in frame and wrong in checksum", hole),
        Trouble::Damage(hole) => ("damage", "were durable and are not readable", hole),
    };
    let text = format!(
        "entries {} to {} (segment {}, byte {}) {what}; the node asks its peers for them when it \
         starts",
        hole.first(),
        hole.last.index,
        hole.segment,
        hole.offset
    );
    Finding::new(kind, text)
}

/// What the tables hold.
struct Tables {
    value: Value,
    queues: Vec<Vec<String>>,
}

fn look_at_tables(
    overlay: &Arc<dyn Disk>,
    dir: &Path,
    findings: &mut Vec<Finding>,
) -> Option<Tables> {
    if !is_redb(&**overlay, dir) {
        let text = format!("{} is not of the redb engine, which alone is read", dir.display());
        findings.push(Finding::new("tables", text));
        return None;
    }
    let options = StoreOptions::new(Arc::new(SystemClock::default()));
    match Store::open(Arc::clone(overlay), dir, options) {
        Ok(store) => Some(tables(&store)),
        Err(error) => {
            let text = format!(
                "{}; the log and the vote are not affected by it",
                output::chain(&anyhow::Error::new(error))
            );
            findings.push(Finding::new("tables", text));
            None
        }
    }
}

/// Tables that were never committed have no folder yet.
fn is_redb(disk: &dyn Disk, dir: &Path) -> bool {
    let folders = disk.list(dir).unwrap_or_default();
    let mut generations =
        folders.iter().filter(|path| path.file_name().is_some_and(|n| n != "CURRENT")).peekable();
    generations.peek().is_none() || generations.any(|path| disk.exists(&path.join("rows.redb")))
}

fn tables(store: &Store) -> Tables {
    let state = store.state();
    let mut queues = Vec::new();
    let mut rows = Vec::new();
    for key in state.row_keys() {
        let (RowKey::Queue(_), Some(Row::Queue(row))) = (key, state.row(&key)) else { continue };
        let Some(view) =
            state.queue(&row.account, &row.name).filter(|_| !row.deleted && row.kept.is_none())
        else {
            continue;
        };
        let counts = view.counts;
        let numbers = [counts.visible, counts.leased, counts.delayed, counts.due, counts.total];
        let mut line = vec![row.account.clone(), row.name.clone()];
        line.extend(numbers.iter().map(u64::to_string));
        line.push(counts.bytes.to_string());
        rows.push(line);
        queues.push(json!({
            "account": row.account,
            "name": row.name,
            "created_at": output::log_time(row.created_at),
            "counts": {
                "visible": counts.visible, "leased": counts.leased, "delayed": counts.delayed,
                "due": counts.due, "total": counts.total, "bytes": counts.bytes,
            },
        }));
    }
    let (count, messages, bytes) = state.totals();
    let (live, held) = store.space();
    let value = json!({
        "applied": store.applied().map(position_json),
        "membership": store.membership().and_then(|(_, bytes)| membership_json(&bytes)),
        "log_time": output::log_time(state.log_time()),
        "epoch": state.epoch().0,
        "rules": state.rules(),
        "digest": state.digest().to_string(),
        "queues": queues,
        "queue_count": count,
        "messages": messages,
        "bytes": bytes,
        "bodies": { "live_bytes": live, "file_bytes": held },
    });
    Tables { value, queues: rows }
}

/// The membership is JSON of the room above, shown as it is.
fn membership_json(bytes: &[u8]) -> Option<Value> {
    serde_json::from_slice(bytes).ok()
}

fn position_json(position: Position) -> Value {
    json!({ "term": position.term, "node": position.node, "index": position.index })
}

fn log_json(log: &Inspection) -> Value {
    let mut segments: Vec<Value> = Vec::new();
    for chunk in log.records.chunk_by(|a, b| a.segment == b.segment) {
        let bytes: u64 = chunk.iter().map(|record| record.bytes).sum();
        let entries: u64 = chunk.iter().map(|record| u64::from(record.entries)).sum();
        let held = || chunk.iter().filter(|record| record.entries > 0);
        segments.push(json!({
            "file": chunk.first().map(|record| record.segment.display().to_string()),
            "records": chunk.len(),
            "entries": entries,
            "bytes": bytes,
            "first": held().map(|record| record.first).min(),
            "last": held().filter_map(|record| record.last).map(|last| last.index).max(),
        }));
    }
    let vote = log.vote.as_ref().ok().copied().flatten();
    json!({
        "vote": vote.map(|vote| json!({
            "term": vote.term, "node": vote.node, "committed": vote.committed,
        })),
        "first": first(log),
        "last": log.last.map(position_json),
        "committed": log.committed.map(position_json),
        "purged": log.last_purged.map(position_json),
        "segments": segments,
    })
}

/// The first entry that is still there.
fn first(log: &Inspection) -> Option<u64> {
    let last = log.last?;
    let begin = match log.last_purged {
        Some(purged) => purged.index + 1,
        None => log.records.iter().filter(|r| r.entries > 0).map(|r| r.first).min()?,
    };
    (begin <= last.index).then_some(begin)
}

fn people(
    context: &Context,
    identity: Option<&Identity>,
    log: Option<&Value>,
    tables: Option<&Tables>,
) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: String| lines.push(vec![name.to_owned(), text]);
    if let Some(identity) = identity {
        let Identity { cluster_id, node_id, region, zone } = identity;
        line("node", format!("{node_id} of cluster {cluster_id}, region {region}, zone {zone}"));
    }
    if let Some(log) = log {
        let vote = &log["vote"];
        line(
            "vote",
            match vote.is_null() {
                true => "none".to_owned(),
                false => format!(
                    "for node {} in term {}{}",
                    vote["node"],
                    vote["term"],
                    if vote["committed"] == true { ", which was elected" } else { "" }
                ),
            },
        );
        line(
            "log entries",
            match log["first"].is_null() {
                true => "none".to_owned(),
                false => format!("{} to {}", log["first"], at(&log["last"])),
            },
        );
        line("log committed", at(&log["committed"]));
        line("log purged", at(&log["purged"]));
    }
    if let Some(Tables { value, .. }) = tables {
        line(
            "tables hold",
            match value["applied"].is_null() {
                true => "nothing yet".to_owned(),
                false => format!("entries up to {}", at(&value["applied"])),
            },
        );
        line("log time", value["log_time"].as_str().unwrap_or("-").to_owned());
        line("digest", value["digest"].as_str().unwrap_or("-").to_owned());
        let (queues, messages) = (&value["queue_count"], &value["messages"]);
        line("content", format!("{queues} queues, {messages} messages, {} bytes", value["bytes"]));
    }
    context.out.table(&["what", "value"], lines)?;
    if let Some(log) = log {
        let segments = log["segments"].as_array().cloned().unwrap_or_default();
        let names = ["file", "records", "entries", "bytes", "first", "last"];
        let cell = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let rows = segments
            .iter()
            .map(|segment| names.iter().map(|name| cell(&segment[*name])).collect())
            .collect();
        context.out.table(&names, rows)?;
    }
    if let Some(tables) = tables {
        let head = ["account", "queue", "visible", "leased", "delayed", "due", "total", "bytes"];
        context.out.table(&head, tables.queues.clone())?;
    }
    Ok(())
}

/// A position as people read it.
fn at(position: &Value) -> String {
    match position.is_null() {
        true => "-".to_owned(),
        false => format!(
            "{} (term {} of node {})",
            position["index"], position["term"], position["node"]
        ),
    }
}
