//! `zoneq region tail`: what a deposed primary has alone.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

mod new_file;

use super::Context;
use super::exit::Exit;
use super::output::{base64, from_base64, messages};
use crate::client::Regions;
use crate::proto::admin::v1 as pb;
use new_file::NewFile;
use pb::list_tail_response::Item;

#[derive(Debug, Subcommand)]
pub enum TailVerb {
    /// Show the messages of the tail; run it on the region that is fenced
    #[command(after_help = "Example:\n  zoneq region tail list")]
    List,
    /// Write the messages of the tail, with their bodies, as JSON lines, and what was deleted; the
    /// file is there once it is whole
    #[command(after_help = "Example:\n  zoneq region tail export tail.jsonl")]
    Export(Export),
    /// Send the messages of the tail to the new primary, each once; again where it broke off
    #[command(after_help = "Example:\n  zoneq region tail replay")]
    Replay(Replay),
}

#[derive(Debug, Args)]
pub struct Replay {
    /// Send those too that expired, that their clients may have sent again, and those of queues
    /// that are gone or were made anew
    #[arg(long, env = "ZONEQ_REGION_TAIL_REPLAY_ALL", value_parser = FalseyValueParser::new())]
    all: bool,
}

#[derive(Debug, Args)]
pub struct Export {
    /// A file that is not there yet
    file: PathBuf,
}

impl TailVerb {
    pub async fn run(self, context: &Context, regions: &Regions) -> anyhow::Result<Exit> {
        match self {
            TailVerb::List => list(context, regions).await,
            TailVerb::Export(Export { file }) => export(context, regions, file).await,
            TailVerb::Replay(Replay { all }) => replay(context, regions, all).await,
        }
    }
}

/// Walks over the tail; answers what it was found to hold.
async fn walk(
    regions: &Regions,
    mut each: impl FnMut(pb::TailMessage) -> anyhow::Result<()>,
) -> anyhow::Result<Exported> {
    let mut stream = regions.tail().await?;
    let mut found = Exported::default();
    while let Some(part) = stream.message().await.context("the tail broke off")? {
        match part.item {
            Some(Item::Head(first)) => found.head = first,
            Some(Item::Deleted(one)) => found.deleted.push(one),
            Some(Item::Removed(all)) => found.removed.push(all),
            Some(Item::Message(message)) => {
                found.due += u64::from(message.due != 0);
                each(message)?;
                found.count += 1;
            }
            None => {}
        }
    }
    Ok(found)
}

fn deleted_json(one: &pb::TailDelete) -> Value {
    json!({
        "account": one.account,
        "queue": one.queue,
        "id": one.id,
        "deleted_at": time(one.at.as_ref()),
        "shared": one.shared,
    })
}

fn removed_json(all: &pb::TailRemoval) -> Value {
    let what = if all.with_queue { "queue_deleted_at" } else { "cleared_at" };
    json!({ "account": all.account, "queue": all.queue, what: time(all.at.as_ref()) })
}

fn time(at: Option<&prost_types::Timestamp>) -> Option<String> {
    at.map(ToString::to_string)
}

fn summary(found: &Exported) -> (Value, String) {
    let Exported { head, count, deleted, removed, .. } = found;
    let count = *count;
    let by = head.fenced_by.as_ref();
    let value = json!({
        "ok": true,
        "messages": count,
        "deleted": deleted.len(),
        "removed": removed.len(),
        "epoch": head.epoch.as_ref().map(|epoch| epoch.number),
        "fenced_by_epoch": by.map(|epoch| epoch.number),
        "fenced_by_region": by.map(|epoch| &epoch.region),
        "log_entries": head.log_entries,
        "whole": head.whole,
        "fork_index": head.fork_index,
        "whole_from": head.whole_from,
        "due": found.due,
    });
    let region = by.map_or("", |epoch| epoch.region.as_str());
    let due = match found.due {
        0 => String::new(),
        due => format!(" ({due} of them due to be removed or moved)"),
    };
    let text = format!(
        "{} alive{due} that region {region} never got; the tail has {} log entries{}",
        messages(count),
        head.log_entries,
        held(head)
    );
    (value, text)
}

/// Where the tail begins, and from where on the log holds it.
fn held(head: &pb::TailHead) -> String {
    let fork = match head.fork_index {
        Some(fork) => format!(" after log index {fork}"),
        None => String::new(),
    };
    match (head.whole, head.whole_from) {
        (true, _) => fork,
        (false, Some(from)) => format!(
            "{fork}; its log holds it only from index {from} on, and what was deleted before is \
             not listed"
        ),
        (false, None) => {
            format!("{fork}; its log no longer holds any of it, and nothing deleted is listed")
        }
    }
}

/// Why a message is due, in one word.
fn due(message: &pb::TailMessage) -> Option<&'static str> {
    match message.due() {
        pb::TailDue::Unspecified => None,
        pb::TailDue::Expired => Some("expired"),
        pb::TailDue::LastDeliveryOver => Some("last-delivery-over"),
    }
}

async fn list(context: &Context, regions: &Regions) -> anyhow::Result<Exit> {
    let mut rows = Vec::new();
    let found = walk(regions, |message| {
        context.out.item(&json!({
            "account": message.account,
            "queue": message.queue,
            "id": message.id,
            "bytes": message.body.len(),
            "inserted_at": time(message.inserted_at.as_ref()),
            "expires_at": time(message.expires_at.as_ref()),
            "due": due(&message),
        }))?;
        let at = time(message.inserted_at.as_ref()).unwrap_or_default();
        let (bytes, due) = (message.body.len().to_string(), due(&message).unwrap_or_default());
        rows.push(vec![message.account, message.queue, message.id, bytes, at, due.to_owned()]);
        Ok(())
    })
    .await?;
    context.out.table(&["account", "queue", "id", "bytes", "inserted", "due"], rows)?;
    let mut rows = Vec::new();
    for one in &found.deleted {
        let (account, queue, id) = (one.account.clone(), one.queue.clone(), one.id.clone());
        let at = time(one.at.as_ref()).unwrap_or_default();
        context.out.item(&deleted_json(one))?;
        let what = if one.shared { "undone there" } else { "never there" };
        rows.push(vec![account, queue, id, at, what.to_owned()]);
    }
    context.out.table(&["account", "queue", "deleted", "at", "the new primary"], rows)?;
    let mut rows = Vec::new();
    for all in &found.removed {
        context.out.item(&removed_json(all))?;
        let what = if all.with_queue { "deleted" } else { "cleared" };
        let at = time(all.at.as_ref()).unwrap_or_default();
        rows.push(vec![all.account.clone(), all.queue.clone(), what.to_owned(), at]);
    }
    context.out.table(&["account", "queue", "was", "at"], rows)?;
    let (value, text) = summary(&found);
    context.out.result(&value, &text)?;
    Ok(Exit::Done)
}

async fn export(context: &Context, regions: &Regions, path: PathBuf) -> anyhow::Result<Exit> {
    let (mut value, text) = summary(&write(regions, &path).await?);
    value["file"] = json!(path.display().to_string());
    context.out.result(&value, &format!("{text}; written to {}", path.display()))?;
    Ok(Exit::Done)
}

/// What a tail was found to hold.
#[derive(Debug, Default)]
pub struct Exported {
    pub head: pb::TailHead,
    /// Messages that are alive.
    pub count: u64,
    /// How many of those were due to be removed or moved.
    pub due: u64,
    pub deleted: Vec<pb::TailDelete>,
    /// Queues that were cleared or deleted.
    pub removed: Vec<pb::TailRemoval>,
}

/// A message of the tail as one line of the file.
#[must_use]
pub fn exported(message: &pb::TailMessage) -> Value {
    json!({
        "account": message.account,
        "queue": message.queue,
        "id": message.id,
        "body_base64": base64(&message.body),
        "headers": message.headers,
        "inserted_at": time(message.inserted_at.as_ref()),
        "expires_at": time(message.expires_at.as_ref()),
        "visible_at": time(message.visible_at.as_ref()),
        "priority": message.priority,
        "group": Some(&message.group).filter(|group| !group.is_empty()),
        "dequeue_count": message.dequeue_count,
        "due": due(message),
    })
}

/// What is read back of a line of such a file.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportedMessage {
    pub id: String,
    pub queue: String,
    pub body: Vec<u8>,
    pub inserted_at: Option<prost_types::Timestamp>,
    pub expires_at: Option<prost_types::Timestamp>,
}

/// Reads a line that [`exported`] made; none for a line that names what was deleted.
///
/// # Errors
/// It is no JSON, or its body or its time is none.
pub fn read_exported(line: &str) -> anyhow::Result<Option<ExportedMessage>> {
    let line: Value = serde_json::from_str(line)?;
    let Some(body) = line.get("body_base64") else { return Ok(None) };
    let body = from_base64(body.as_str().unwrap_or_default());
    let body = body.context("a body of the exported tail is no base64")?;
    let text = |key: &str| line.get(key).and_then(Value::as_str);
    let at = |key: &str| text(key).map(str::parse).transpose().context("a time of the tail");
    let (inserted_at, expires_at) = (at("inserted_at")?, at("expires_at")?);
    let word = |key: &str| text(key).unwrap_or_default().to_owned();
    let (id, queue) = (word("id"), word("queue"));
    Ok(Some(ExportedMessage { id, queue, body, inserted_at, expires_at }))
}

/// Writes the tail to a file that is not there yet, and notes there that it is in one. The file is
/// there once it is whole, so that an export that broke off can be run again.
pub async fn write(regions: &Regions, path: &Path) -> anyhow::Result<Exported> {
    let mut out = NewFile::begin(path)?;
    let walked = walk(regions, |message| out.line(&exported(&message))).await;
    let found = walked?;
    let gone = found.deleted.iter().map(deleted_json);
    for line in gone.chain(found.removed.iter().map(removed_json)) {
        out.line(&line)?;
    }
    out.finish()?;
    regions.settle_tail(pb::TailFate::Exported).await?;
    Ok(found)
}

fn reason(reason: i32) -> String {
    let reason = pb::TailSkip::try_from(reason).unwrap_or_default();
    reason.as_str_name().trim_start_matches("TAIL_SKIP_").to_ascii_lowercase().replace('_', "-")
}

async fn replay(context: &Context, regions: &Regions, all: bool) -> anyhow::Result<Exit> {
    let spinner = context.out.progress(None, "replaying the tail");
    let mut stream = regions.replay_tail(all).await?;
    let (mut found, mut sent, mut last) = (0, 0, pb::ReplayTailResponse::default());
    let (mut items, mut rows) = (Vec::new(), Vec::new());
    while let Some(part) = stream.message().await.context("the replay broke off: run it again")? {
        found += part.found;
        sent += part.sent;
        for message in &part.skipped {
            let why = reason(message.reason);
            items.push(json!({
                "account": message.account,
                "queue": message.queue,
                "id": message.id,
                "reason": why,
            }));
            let (account, queue) = (message.account.clone(), message.queue.clone());
            rows.push(vec![account, queue, message.id.clone(), why]);
        }
        last = part;
    }
    spinner.finish_and_clear();
    for item in &items {
        context.out.item(item)?;
    }
    context.out.table(&["account", "queue", "id", "not sent"], rows)?;
    let value = json!({
        "ok": last.done,
        "found": found,
        "replayed": sent,
        "skipped": items.len(),
        "total_replayed": last.total_sent,
        "total_skipped": last.total_skipped,
        "done": last.done,
    });
    let text = format!(
        "{} found, {sent} sent to the new primary, {} not; in all runs {} sent, {} not",
        messages(found),
        items.len(),
        last.total_sent,
        last.total_skipped,
    );
    context.out.result(&value, &text)?;
    Ok(if last.done { Exit::Done } else { Exit::Failed })
}
