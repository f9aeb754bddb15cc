//! Log entries as an operator reads them: position, time, and what each command was to do.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Finding, first, membership_json};
use crate::cli::{Context, output};
use crate::clock::SystemClock;
use crate::queue::authority::replay::ReplayTail;
use crate::queue::command::{Command, Envelope, NewMessage, Receive, ReleaseAfter, Update};
use crate::queue::ids::Span;
use crate::storage::codec;
use crate::storage::disk::Disk;
use crate::storage::log::{Hole, Inspection, Log, LogEntry, LogOptions, Payload, Trouble};

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 4 << 20;

/// Indexes of entries, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    from: Option<u64>,
    to: Option<u64>,
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let wrong = || format!("{text:?} is no range of entries; write for example 100..120 or ..");
        let end = |text: &str| match text.trim() {
            "" => Ok(None),
            number => number.parse().map(Some).map_err(|_| wrong()),
        };
        let range = match text.split_once("..") {
            Some((from, to)) => Range { from: end(from)?, to: end(to)? },
            None => {
                let one = text.trim().parse().map_err(|_| wrong())?;
                Range { from: Some(one), to: Some(one) }
            }
        };
        match (range.from, range.to) {
            (Some(from), Some(to)) if from > to => Err(wrong()),
            _ => Ok(range),
        }
    }
}

/// Prints the entries of a range that are there; what cannot be read becomes a finding.
pub(super) fn list(
    context: &Context,
    overlay: &Arc<dyn Disk>,
    dir: &Path,
    known: &Inspection,
    range: Range,
    findings: &mut Vec<Finding>,
) -> anyhow::Result<()> {
    let (Some(begin), Some(last)) = (first(known), known.last) else { return Ok(()) };
    let from = range.from.unwrap_or(begin).max(begin);
    let end = range.to.unwrap_or(last.index).min(last.index).saturating_add(1);
    let options = LogOptions::new(0, Arc::new(SystemClock::default()));
    let (log, _) = match Log::open(Arc::clone(overlay), dir, options) {
        Ok(opened) => opened,
        Err(error) => {
            findings.push(Finding::new("log", format!("no entry can be listed: {error}")));
            return Ok(());
        }
    };
    let holes: Vec<Hole> = known.trouble.iter().filter_map(Trouble::hole).collect();
    let mut rows = Vec::new();
    let mut next = from;
    while next < end {
        if let Some(hole) = holes.iter().find(|h| (h.first()..=h.last.index).contains(&next)) {
            next = hole.last.index.saturating_add(1);
            continue;
        }
        match log.read(next, end, READ_BYTES) {
            Ok(entries) if !entries.is_empty() => {
                for entry in &entries {
                    next = entry.position.index.saturating_add(1);
                    show(context, entry, &mut rows)?;
                }
            }
            Ok(_) => break,
            Err(error) => {
                findings.push(Finding::new("log", format!("entry {next}: {error}")));
                next += 1;
            }
        }
    }
    context.out.table(&["index", "term", "node", "time", "what"], rows)?;
    Ok(())
}

fn show(context: &Context, entry: &LogEntry, rows: &mut Vec<Vec<String>>) -> anyhow::Result<()> {
    let position = entry.position;
    let (kind, stamp, details, text) = decoded(entry);
    let mut value = json!({
        "index": position.index, "term": position.term, "node": position.node, "kind": kind,
        "bytes": entry.payload.bytes().len(), "stamp": stamp,
    });
    if let (Value::Object(fields), Some((name, details))) = (&mut value, details) {
        fields.insert(name.to_owned(), details);
    }
    context.out.item(&value)?;
    // Only a table keeps them: thousands of lines of JSON need no memory.
    if !context.out.is_json() {
        rows.push(vec![
            position.index.to_string(),
            position.term.to_string(),
            position.node.to_string(),
            stamp.unwrap_or_default(),
            text,
        ]);
    }
    Ok(())
}

/// What kind of entry it is, its time, what it holds under a name, and the same in words.
pub type Decoded = (&'static str, Option<String>, Option<(&'static str, Value)>, String);

/// An entry as it is shown, whatever its bytes are.
#[must_use]
pub fn decoded(entry: &LogEntry) -> Decoded {
    match &entry.payload {
        Payload::Blank => ("blank", None, None, "a leader's first entry".to_owned()),
        Payload::Membership(bytes) => {
            let value = membership_json(bytes).unwrap_or(Value::Null);
            let text = format!("members: {value}");
            ("membership", None, Some(("membership", value)), text)
        }
        Payload::Commands(bytes) => match codec::decode_entry(entry.position, bytes.clone()) {
            Ok(decoded) => {
                let commands: Vec<Value> = decoded.commands.iter().map(command_json).collect();
                let words: Vec<String> = decoded.commands.iter().map(command_text).collect();
                let stamp = output::log_time(decoded.stamp);
                let details = ("commands", Value::from(commands));
                ("commands", Some(stamp), Some(details), words.join("\n"))
            }
            Err(error) => {
                let text = output::chain(&anyhow::Error::new(error));
                ("unreadable", None, Some(("error", text.clone().into())), text)
            }
        },
    }
}

fn ms(span: Span) -> u64 {
    span.0 / 1_000
}

fn release_text(after: ReleaseAfter) -> String {
    match after {
        ReleaseAfter::Now => "now".to_owned(),
        ReleaseAfter::Delay(delay) => format!("in {} ms", ms(delay)),
        ReleaseAfter::BackOff => "by back-off".to_owned(),
    }
}

fn bytes_of(messages: &[NewMessage]) -> usize {
    messages.iter().map(|message| message.content.size()).sum()
}

/// A command in words; bodies are not shown.
fn command_json(envelope: &Envelope) -> Value {
    let mut value = match &envelope.command {
        Command::CreateQueue { name, metadata, .. } => {
            json!({ "verb": "create_queue", "queue": name, "metadata": metadata })
        }
        Command::DeleteQueue { name } => json!({ "verb": "delete_queue", "queue": name }),
        Command::SetMetadata { name, metadata } => {
            json!({ "verb": "set_metadata", "queue": name, "metadata": metadata })
        }
        Command::SetSettings { name, .. } => json!({ "verb": "set_settings", "queue": name }),
        Command::SetPaused { name, paused } => {
            json!({ "verb": "set_paused", "queue": name, "paused": paused })
        }
        Command::Send { queue, messages } => json!({
            "verb": "send", "queue": queue, "messages": messages.len(),
            "message_bytes": bytes_of(messages),
        }),
        Command::Receive(Receive { queue, max_messages, max_bytes, visibility }) => json!({
            "verb": "receive", "queue": queue, "max_messages": max_messages,
            "max_bytes": max_bytes, "visibility_ms": visibility.map(ms),
        }),
        Command::Update(Update { queue, id, receipt, visibility, content }) => json!({
            "verb": "update", "queue": queue, "id": id.to_string(),
            "pop_receipt": receipt.to_string(), "visibility_ms": visibility.map(ms),
            "content_bytes": content.as_ref().map(|content| content.size()),
        }),
        Command::Delete { queue, items } => json!({
            "verb": "delete", "queue": queue,
            "ids": items.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(),
        }),
        Command::Release { queue, items, after } => json!({
            "verb": "release", "queue": queue,
            "ids": items.iter().map(|(id, _)| id.to_string()).collect::<Vec<_>>(),
            "after": release_text(*after),
        }),
        Command::Transact(asked) => json!({
            "verb": "transact",
            "deletes": asked.deletes.iter().map(|(queue, id, _)| {
                json!({ "queue": queue, "id": id.to_string() })
            }).collect::<Vec<_>>(),
            "sends": asked.sends.iter().map(|(queue, messages)| {
                json!({ "queue": queue, "messages": messages.len() })
            }).collect::<Vec<_>>(),
        }),
        Command::Clear { queue } => json!({ "verb": "clear", "queue": queue }),
        Command::UndeleteQueue { name, new_name, .. } => {
            json!({ "verb": "undelete_queue", "queue": name, "new_name": new_name })
        }
        Command::StartRedrive(asked) => json!({
            "verb": "start_redrive", "queue": asked.queue, "target": asked.target,
            "max_messages_per_second": asked.rate,
        }),
        Command::CancelRedrive { queue, id } => {
            json!({ "verb": "cancel_redrive", "queue": queue, "id": id.to_string() })
        }
        Command::SetAccountQuota(quota) => json!({
            "verb": "set_account_quota", "max_messages": quota.messages,
            "max_bytes": quota.bytes, "max_queues": quota.queues,
        }),
        Command::Pulse => json!({ "verb": "pulse" }),
        Command::RaiseRules { version } => json!({ "verb": "raise_rules", "version": version }),
        Command::ReplayTail(asked) => replay_json(asked),
        Command::Region(asked) => {
            json!({ "verb": "region", "what": asked.said(), "who": asked.by.who })
        }
    };
    add_sender(&mut value, envelope);
    value
}

fn replay_json(asked: &ReplayTail) -> Value {
    json!({
        "verb": "replay_tail", "epoch": asked.epoch.number.0, "region": asked.epoch.region,
        "through": asked.through.0,
        "messages": asked.units.iter().map(|unit| unit.messages.len()).sum::<usize>(),
    })
}

fn add_sender(value: &mut Value, envelope: &Envelope) {
    let Value::Object(fields) = value else { return };
    if !envelope.account.is_empty() {
        fields.insert("account".to_owned(), envelope.account.clone().into());
    }
    if let Some(session) = &envelope.session {
        let client = format!("{:032x}", session.client);
        let session = json!({ "client": client, "sequence": session.sequence });
        fields.insert("session".to_owned(), session);
    }
}

/// A command in one line.
fn command_text(envelope: &Envelope) -> String {
    let account = &envelope.account;
    let on = |verb: &str, queue: &str| format!("{verb} {account}/{queue}");
    match &envelope.command {
        Command::CreateQueue { name, .. } => on("create queue", name),
        Command::DeleteQueue { name } => on("delete queue", name),
        Command::SetMetadata { name, .. } => on("set metadata", name),
        Command::SetSettings { name, .. } => on("set settings", name),
        Command::SetPaused { name, paused: true } => on("pause", name),
        Command::SetPaused { name, paused: false } => on("resume", name),
        Command::Send { queue, messages } => {
            let (many, bytes) = (messages.len(), bytes_of(messages));
            format!("{}: {many} messages, {bytes} bytes", on("send", queue))
        }
        Command::Receive(receive) => {
            format!("{}: at most {}", on("receive", &receive.queue), receive.max_messages)
        }
        Command::Update(update) => format!("{}: {}", on("update", &update.queue), update.id),
        Command::Delete { queue, items } => match items.as_slice() {
            [(id, _)] => format!("{}: {id}", on("delete", queue)),
            many => format!("{}: {} messages", on("delete", queue), many.len()),
        },
        Command::Release { queue, items, after } => {
            let (many, after) = (items.len(), release_text(*after));
            format!("{}: {many} messages, {after}", on("release", queue))
        }
        Command::Transact(asked) => {
            let sent: usize = asked.sends.iter().map(|(_, messages)| messages.len()).sum();
            format!("transact {account}: {} deletes, {sent} messages", asked.deletes.len())
        }
        Command::Clear { queue } => on("clear", queue),
        Command::UndeleteQueue { name, .. } => on("undelete queue", name),
        Command::StartRedrive(asked) => on("start redrive", &asked.queue),
        Command::CancelRedrive { queue, id } => format!("{}: {id}", on("cancel redrive", queue)),
        Command::SetAccountQuota(_) => format!("set quota of account {account}"),
        Command::Pulse => "pulse".to_owned(),
        Command::RaiseRules { version } => format!("raise the rules to version {version}"),
        Command::ReplayTail(asked) => {
            let (number, through) = (asked.epoch.number.0, asked.through.0);
            format!("replay the tail of epoch {number} through number {through}")
        }
        Command::Region(asked) => format!("region: {}", asked.said()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_two_ends_or_leaves_them_out() {
        for (text, from, to) in [
            ("3..5", Some(3), Some(5)),
            ("3..", Some(3), None),
            ("..5", None, Some(5)),
            ("..", None, None),
            ("4", Some(4), Some(4)),
        ] {
            assert_eq!(text.parse(), Ok(Range { from, to }), "{text}");
        }
        for text in ["", "a..b", "5..3", "1..2..3", "-1..2"] {
            assert!(text.parse::<Range>().is_err(), "{text}");
        }
    }
}
