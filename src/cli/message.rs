//! The verbs on messages: send, receive, peek, get, update, delete, clear.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use super::exit::{Exit, Usage};
use super::output::{
    self, durability_json, durability_text, message_json, message_row, messages, sent_json,
};
use super::{Context, pairs, parse_pair, parse_span, parse_ttl};
use crate::client::{
    Client, DeleteItem, DeleteOutcome, MessageState, NewMessage, PeekOptions, ReceiveOptions,
    ReleaseAfter, SentBatch, StringMap, Transaction, Ttl,
};

/// Messages in one request of `send --lines`.
const LINES_A_BATCH: usize = 100;
/// Bytes in one request of `send --lines`; a request is at most 4 MiB.
const BYTES_A_BATCH: usize = 2 << 20;
/// The largest body that is read; the server's own limit is lower or equal.
const LARGEST_BODY: u64 = 1 << 20;

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  zoneq send orders 'one order' 'another order'
  zoneq send orders --file order.json --header kind=book --delay 30s --ttl 7d
  seq 1000 | zoneq send orders --lines")]
pub struct Send {
    queue: String,
    /// Bodies, one message each; none reads one body from standard input
    #[arg(conflicts_with_all = ["file", "lines"])]
    body: Vec<String>,
    /// Read the body from a file
    #[arg(long, env = "ZONEQ_SEND_FILE")]
    file: Option<PathBuf>,
    /// One message a line, from standard input or --file, in batches of 100
    #[arg(long, env = "ZONEQ_SEND_LINES", value_parser = FalseyValueParser::new())]
    lines: bool,
    /// A header as NAME=VALUE; may be given more than once
    #[arg(long, env = "ZONEQ_SEND_HEADER", value_name = "NAME=VALUE", value_parser = parse_pair)]
    header: Vec<(String, String)>,
    /// Not visible before this has passed; at most 7d
    #[arg(long, env = "ZONEQ_SEND_DELAY", value_parser = parse_span)]
    delay: Option<Duration>,
    /// Lifetime, or `never` [default: the queue's]
    #[arg(long, env = "ZONEQ_SEND_TTL", value_parser = parse_ttl)]
    ttl: Option<Ttl>,
    /// 0 is given out first, 9 last [default: 4]
    #[arg(long, env = "ZONEQ_SEND_PRIORITY", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: Option<u8>,
    /// Send nothing if a message with this key was sent inside the queue's window; for one message
    #[arg(long, env = "ZONEQ_SEND_KEY", value_name = "KEY", conflicts_with = "lines")]
    key: Option<String>,
    /// Give out only the first message of this group at a time, in the order of sending
    #[arg(long, env = "ZONEQ_SEND_GROUP")]
    group: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  zoneq receive orders --max 10 --visibility 2m --wait 20s
  zoneq receive orders --delete --raw       print the body, then delete the message")]
pub struct Receive {
    queue: String,
    /// At most this many messages, 1 to 1000
    #[arg(long, env = "ZONEQ_RECEIVE_MAX", default_value_t = 1)]
    max: u32,
    /// The lease, 0 to 7d [default: the queue's]
    #[arg(long, env = "ZONEQ_RECEIVE_VISIBILITY", value_parser = parse_span)]
    visibility: Option<Duration>,
    /// Wait so long for the first message; at most 60s
    #[arg(long, env = "ZONEQ_RECEIVE_WAIT", value_parser = parse_span, default_value = "0s")]
    wait: Duration,
    /// Delete the messages after they have been printed
    #[arg(long, env = "ZONEQ_RECEIVE_DELETE", value_parser = FalseyValueParser::new())]
    delete: bool,
    /// Print bodies only, one a line
    #[arg(long, env = "ZONEQ_RECEIVE_RAW", value_parser = FalseyValueParser::new(),
          conflicts_with = "json")]
    raw: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum State {
    Visible,
    Leased,
    Delayed,
    /// Behind the first message of their group
    Blocked,
    /// Came here as dead letters, whatever their state is
    Dead,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  zoneq peek orders --max 32 --state leased")]
pub struct Peek {
    queue: String,
    /// At most this many messages, 1 to 1000
    #[arg(long, env = "ZONEQ_PEEK_MAX", default_value_t = 1)]
    max: u32,
    /// Which messages
    #[arg(long, env = "ZONEQ_PEEK_STATE", value_enum, default_value_t = State::Visible)]
    state: State,
    /// Go on from the page before
    #[arg(long, env = "ZONEQ_PEEK_PAGE_TOKEN")]
    page_token: Option<String>,
    /// Let any node answer, from a state at most this old
    #[arg(long, env = "ZONEQ_PEEK_MAX_STALENESS", value_parser = parse_span)]
    max_staleness: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  zoneq get orders 0190a7c2-...")]
pub struct Get {
    queue: String,
    id: String,
    /// Let any node answer, from a state at most this old
    #[arg(long, env = "ZONEQ_GET_MAX_STALENESS", value_parser = parse_span)]
    max_staleness: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  zoneq update orders ID RECEIPT --visibility 5m     keep the lease longer
  zoneq update orders ID RECEIPT --visibility 0s     give it back at once")]
pub struct Update {
    queue: String,
    id: String,
    pop_receipt: String,
    /// The lease from now; 0s makes the message visible at once
    #[arg(long, env = "ZONEQ_UPDATE_VISIBILITY", value_parser = parse_span)]
    visibility: Option<Duration>,
    /// A new body
    #[arg(long, env = "ZONEQ_UPDATE_BODY", conflicts_with = "file")]
    body: Option<String>,
    /// A new body from a file
    #[arg(long, env = "ZONEQ_UPDATE_FILE")]
    file: Option<PathBuf>,
    /// The new headers as NAME=VALUE; those not given are removed
    #[arg(long, env = "ZONEQ_UPDATE_HEADER", value_name = "NAME=VALUE", value_parser = parse_pair)]
    header: Vec<(String, String)>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  zoneq release orders ID RECEIPT                    give it back at once
  zoneq release orders ID RECEIPT --delay 5m
  zoneq release orders ID RECEIPT --back-off         as the settings of the queue say")]
pub struct Release {
    queue: String,
    id: String,
    pop_receipt: String,
    /// Not visible before this has passed; at most 7d
    #[arg(long, env = "ZONEQ_RELEASE_DELAY", value_parser = parse_span)]
    delay: Option<Duration>,
    /// Wait as the back-off of the queue says, the longer the more often it was received
    #[arg(long, env = "ZONEQ_RELEASE_BACK_OFF", value_parser = FalseyValueParser::new(),
          conflicts_with = "delay")]
    back_off: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  zoneq delete orders ID RECEIPT")]
pub struct Delete {
    queue: String,
    id: String,
    pop_receipt: String,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  zoneq transact --delete orders/ID/RECEIPT --send bills='bill 7' --send mails='mail 7'")]
pub struct Transact {
    /// A received message as QUEUE/ID/RECEIPT; may be given more than once
    #[arg(long, env = "ZONEQ_TRANSACT_DELETE", value_name = "QUEUE/ID/RECEIPT",
          value_parser = parse_item)]
    delete: Vec<(String, DeleteItem)>,
    /// A message as QUEUE=BODY; may be given more than once
    #[arg(long, env = "ZONEQ_TRANSACT_SEND", value_name = "QUEUE=BODY", value_parser = parse_pair)]
    send: Vec<(String, String)>,
}

/// Reads `queue/id/receipt`.
fn parse_item(text: &str) -> Result<(String, DeleteItem), String> {
    let parts: Vec<&str> = text.split('/').collect();
    let [queue, id, pop_receipt] = parts.as_slice() else {
        return Err(format!("{text:?} is no message; write QUEUE/ID/RECEIPT"));
    };
    let item = DeleteItem { id: (*id).to_owned(), pop_receipt: (*pop_receipt).to_owned() };
    Ok(((*queue).to_owned(), item))
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  zoneq clear orders")]
pub struct Clear {
    queue: String,
}

/// One whole body from a reader, refused when it is larger than any queue may allow.
async fn read_body(reader: impl tokio::io::AsyncRead + Unpin, from: &str) -> anyhow::Result<Bytes> {
    let mut body = Vec::new();
    let mut limited = reader.take(LARGEST_BODY + 1);
    limited.read_to_end(&mut body).await.with_context(|| format!("reading {from}"))?;
    if body.len() as u64 > LARGEST_BODY {
        let text = format!("the body from {from} is larger than {LARGEST_BODY} bytes");
        return Err(Usage(text).into());
    }
    Ok(body.into())
}

async fn open(path: &Path) -> anyhow::Result<tokio::fs::File> {
    let opened = tokio::fs::File::open(path).await;
    opened.map_err(|error| Usage(format!("--file {}: {error}", path.display())).into())
}

impl Send {
    pub async fn run(mut self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let headers = pairs(std::mem::take(&mut self.header))?;
        if self.lines {
            return self.run_lines(context, &client, &headers).await;
        }
        let bodies = self.bodies().await?;
        if self.key.is_some() && bodies.len() != 1 {
            let text = format!("--key is for one message, and {} are given", bodies.len());
            return Err(Usage(text).into());
        }
        let messages: Vec<_> = bodies.into_iter().map(|b| self.message(b, &headers)).collect();
        let sent = client.send_batch(&self.queue, messages).await?;
        let value = json!({
            "ok": true,
            "queue": self.queue,
            "sent": sent.messages.len(),
            "messages": sent.messages.iter().map(sent_json).collect::<Vec<_>>(),
            "durability": durability_json(&sent.durability),
        });
        let rows =
            sent.messages.iter().map(|m| vec![m.id.clone(), m.pop_receipt.clone()]).collect();
        context.out.table(&["id", "pop receipt"], rows)?;
        context.out.result(&value, &summary(sent.messages.len(), &self.queue, &sent))?;
        Ok(Exit::Done)
    }

    fn message(&self, body: Bytes, headers: &StringMap) -> NewMessage {
        let ttl = self.ttl.unwrap_or_default();
        let headers = headers.clone();
        NewMessage {
            body,
            headers,
            delay: self.delay,
            ttl,
            priority: self.priority,
            deduplication_key: self.key.clone(),
            group: self.group.clone(),
        }
    }

    /// The bodies from the arguments, the file or standard input.
    async fn bodies(&mut self) -> anyhow::Result<Vec<Bytes>> {
        if !self.body.is_empty() {
            let given = std::mem::take(&mut self.body);
            return Ok(given.into_iter().map(|text| text.into_bytes().into()).collect());
        }
        if let Some(path) = &self.file {
            return Ok(vec![read_body(open(path).await?, &path.display().to_string()).await?]);
        }
        if io::stdin().is_terminal() {
            let text = "nothing to send: give a BODY, --file, or pipe one into standard input";
            return Err(Usage(text.to_owned()).into());
        }
        Ok(vec![read_body(tokio::io::stdin(), "standard input").await?])
    }

    async fn run_lines(
        self,
        context: &Context,
        client: &Client,
        headers: &StringMap,
    ) -> anyhow::Result<Exit> {
        let (mut reader, size): (Box<dyn AsyncBufRead + Unpin>, _) = match &self.file {
            Some(path) => {
                let file = open(path).await?;
                let size = file.metadata().await.ok().map(|about| about.len());
                (Box::new(tokio::io::BufReader::new(file)), size)
            }
            None => (Box::new(tokio::io::BufReader::new(tokio::io::stdin())), None),
        };
        let progress = context.out.progress(size, "sending");
        let mut sent = 0usize;
        let mut last = SentBatch::default();
        loop {
            let (batch, bytes) = read_batch(&mut *reader).await?;
            if batch.is_empty() {
                break;
            }
            let messages = batch.into_iter().map(|body| self.message(body, headers)).collect();
            last = client
                .send_batch(&self.queue, messages)
                .await
                .with_context(|| format!("{sent} messages were sent before this batch"))?;
            sent += last.messages.len();
            let ids: Vec<&str> = last.messages.iter().map(|m| m.id.as_str()).collect();
            context.out.item(&json!({ "sent": ids }))?;
            progress.inc(bytes);
            progress.set_message(format!("sending: {sent} messages"));
        }
        progress.finish_and_clear();
        let value = json!({ "ok": true, "queue": self.queue, "sent": sent,
            "durability": durability_json(&last.durability) });
        context.out.result(&value, &summary(sent, &self.queue, &last))?;
        Ok(Exit::Done)
    }
}

fn summary(sent: usize, queue: &str, last: &SentBatch) -> String {
    if sent == 0 {
        return format!("sent 0 messages to {queue}");
    }
    // A key is for one message.
    if last.messages.iter().any(|message| message.duplicate) {
        let durability = durability_text(&last.durability);
        return format!("sent nothing: {queue} was sent this message before; {durability}");
    }
    format!("sent {} to {queue}; {}", messages(sent as u64), durability_text(&last.durability))
}

/// The next lines without their ends, and how many bytes were read.
async fn read_batch(reader: &mut (dyn AsyncBufRead + Unpin)) -> anyhow::Result<(Vec<Bytes>, u64)> {
    let mut batch = Vec::new();
    let (mut read, mut held) = (0u64, 0usize);
    while batch.len() < LINES_A_BATCH && held < BYTES_A_BATCH {
        let mut line = Vec::new();
        let mut limited = (&mut *reader).take(LARGEST_BODY + 2);
        let length = limited.read_until(b'\n', &mut line).await.context("reading the lines")?;
        if length == 0 {
            break;
        }
        read += length as u64;
        if line.last() == Some(&b'\n') {
            line.pop();
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if line.len() as u64 > LARGEST_BODY {
            return Err(Usage(format!("a line is longer than {LARGEST_BODY} bytes")).into());
        }
        held += line.len();
        batch.push(Bytes::from(line));
    }
    Ok((batch, read))
}

impl Receive {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let options = ReceiveOptions {
            max_messages: self.max,
            visibility_timeout: self.visibility,
            wait: self.wait,
        };
        let spinner = context.out.progress(None, "waiting for a message");
        let received = client.receive(&self.queue, options).await;
        spinner.finish_and_clear();
        let received = received?;
        for message in &received.messages {
            if self.raw {
                output::raw(&message.body)?;
            }
            context.out.item(&message_json(message))?;
        }
        if !self.raw {
            let rows = received.messages.iter().map(message_row).collect();
            context.out.table(&output::MESSAGE_HEAD, rows)?;
        }
        let count = received.messages.len();
        let mut deleted = 0;
        if self.delete && count > 0 {
            let items = received.messages.iter().map(DeleteItem::from).collect();
            let outcomes = client.delete_batch(&self.queue, items).await?.outcomes;
            deleted = outcomes.iter().filter(|o| **o == DeleteOutcome::Deleted).count();
        }
        let value =
            json!({ "ok": true, "received": count, "deleted": deleted, "more": received.more });
        if !self.raw {
            let tail = if self.delete { format!(", deleted {deleted}") } else { String::new() };
            context.out.result(&value, &format!("received {}{tail}", messages(count as u64)))?;
        }
        // Printed and not deleted: its lease had run out, so it will be delivered again.
        Ok(if self.delete && deleted < count { Exit::Failed } else { Exit::Done })
    }
}

impl Peek {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let state = match self.state {
            State::Visible => MessageState::Visible,
            State::Leased => MessageState::Leased,
            State::Delayed => MessageState::Delayed,
            State::Blocked => MessageState::Blocked,
            State::Dead => MessageState::Dead,
        };
        let options = PeekOptions {
            max_messages: self.max,
            state: Some(state),
            page_token: self.page_token,
            max_staleness: self.max_staleness,
        };
        let page = context.client()?.peek(&self.queue, options).await?;
        for message in &page.messages {
            context.out.item(&message_json(message))?;
        }
        context
            .out
            .table(&output::MESSAGE_HEAD, page.messages.iter().map(message_row).collect())?;
        let count = page.messages.len();
        let value =
            json!({ "ok": true, "messages": count, "next_page_token": page.next_page_token });
        let more = page.next_page_token.map(|token| format!("; more: --page-token {token}"));
        let text = format!("{}{}", messages(count as u64), more.unwrap_or_default());
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }
}

impl Get {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let shown = context.client()?.get_within(&self.queue, &self.id, self.max_staleness).await?;
        let state = match shown.state {
            MessageState::Visible => "visible",
            MessageState::Leased => "leased",
            MessageState::Delayed => "delayed",
            MessageState::Blocked => "blocked",
            MessageState::Unspecified | MessageState::Dead => "unknown",
        };
        let value = json!({ "ok": true, "state": state, "message": message_json(&shown.message) });
        context.out.table(&output::MESSAGE_HEAD, vec![message_row(&shown.message)])?;
        context.out.result(&value, &format!("message {} is {state}", shown.message.id))?;
        Ok(Exit::Done)
    }
}

impl Update {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let body = match (self.body, &self.file) {
            (Some(text), _) => Some(Bytes::from(text.into_bytes())),
            (None, Some(path)) => {
                Some(read_body(open(path).await?, &path.display().to_string()).await?)
            }
            (None, None) => None,
        };
        let headers = if self.header.is_empty() { None } else { Some(pairs(self.header)?) };
        if body.is_none() && headers.is_none() && self.visibility.is_none() {
            let text = "nothing to change: give --visibility, --body, --file or --header";
            return Err(Usage(text.to_owned()).into());
        }
        let change = crate::client::Update { visibility_timeout: self.visibility, body, headers };
        let client = context.client()?;
        let updated = client.update(&self.queue, &self.id, &self.pop_receipt, change).await?;
        let value = json!({
            "ok": true,
            "id": self.id,
            "pop_receipt": updated.pop_receipt,
            "visible_at": updated.visible_at.map(|at| output::time(Some(at))),
            "durability": durability_json(&updated.durability),
        });
        let text = format!(
            "message {} updated, visible at {}; its new pop receipt: {}",
            self.id,
            output::time(updated.visible_at),
            updated.pop_receipt
        );
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }
}

impl Release {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let after = match self.delay {
            Some(delay) => ReleaseAfter::Delay(delay),
            None if self.back_off => ReleaseAfter::BackOff,
            None => ReleaseAfter::Now,
        };
        let client = context.client()?;
        let released = client.release_one(&self.queue, &self.id, &self.pop_receipt, after).await?;
        let value = json!({
            "ok": true,
            "id": self.id,
            "visible_at": released.0.map(|at| output::time(Some(at))),
            "durability": durability_json(&released.1),
        });
        let text = format!("message {} released, visible at {}", self.id, output::time(released.0));
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }
}

impl Delete {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let durability = client.delete(&self.queue, &self.id, &self.pop_receipt).await?;
        let value =
            json!({ "ok": true, "id": self.id, "durability": durability_json(&durability) });
        let text = format!("message {} deleted; {}", self.id, durability_text(&durability));
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }
}

impl Transact {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        if self.delete.is_empty() && self.send.is_empty() {
            return Err(Usage("nothing to do: give --delete or --send".to_owned()).into());
        }
        let mut transaction = Transaction { deletes: self.delete, ..Transaction::default() };
        let deleted = transaction.deletes.len();
        for (queue, body) in self.send {
            transaction = transaction.send(queue, body.as_str());
        }
        let done = context.client()?.transact(transaction).await?;
        for message in &done.messages {
            context.out.item(&sent_json(message))?;
        }
        let sent = done.messages.len();
        let value = json!({ "ok": true, "deleted": deleted, "sent": sent,
            "durability": durability_json(&done.durability) });
        let durable = durability_text(&done.durability);
        let sent = messages(sent as u64);
        let text = format!("deleted {deleted} and sent {sent} in one step; {durable}");
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }
}

impl Clear {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let cleared = context.client()?.clear(&self.queue).await?;
        let value = json!({ "ok": true, "queue": self.queue, "removed": cleared.removed,
            "durability": durability_json(&cleared.durability) });
        let text = format!("{} removed from {}", messages(cleared.removed), self.queue);
        context.out.result(&value, &text)?;
        Ok(Exit::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_in_batches_without_their_ends() {
        let text: String = (0..250).map(|n| format!("line {n}\r\n")).collect();
        let mut reader = tokio::io::BufReader::new(text.as_bytes());
        let (first, bytes) = read_batch(&mut reader).await.expect("lines");
        assert_eq!((first.len(), first[0].as_ref()), (100, &b"line 0"[..]));
        assert_eq!(bytes as usize, text.find("line 100").expect("there"));
        let (_, _) = read_batch(&mut reader).await.expect("lines");
        let (rest, _) = read_batch(&mut reader).await.expect("lines");
        assert_eq!((rest.len(), rest[49].as_ref()), (50, &b"line 249"[..]));
        assert!(read_batch(&mut reader).await.expect("the end").0.is_empty());
    }

    #[tokio::test]
    async fn a_last_line_without_an_end_and_an_empty_line_are_messages() {
        let mut reader = tokio::io::BufReader::new(&b"\nlast"[..]);
        let (lines, _) = read_batch(&mut reader).await.expect("lines");
        assert_eq!(lines, [&b""[..], &b"last"[..]]);
    }

    #[tokio::test]
    async fn a_line_or_body_beyond_every_limit_is_refused_as_usage() {
        let long = vec![b'x'; LARGEST_BODY as usize + 10];
        let mut reader = tokio::io::BufReader::new(&long[..]);
        let error = read_batch(&mut reader).await.expect_err("too long");
        assert_eq!(Exit::of(&error), Exit::Usage);
        let error = read_body(&long[..], "a test").await.expect_err("too long");
        assert_eq!(Exit::of(&error), Exit::Usage);
    }
}
