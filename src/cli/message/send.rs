//! `zoneq send`: bodies from arguments, a file or standard input, or one message a line.
//!
//! Laws: what is read is bounded, a body by the largest that any queue may allow, and lines by a
//! batch; a batch is sent whole or not at all.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::json;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

use super::{key_is_for_one, open, read_body};
use crate::cli::exit::{Exit, Usage};
use crate::cli::limits::BODY_BYTES;
use crate::cli::output::{durability_json, durability_text, messages, sent_json};
use crate::cli::{Context, pairs, parse_pair, parse_span, parse_ttl};
use crate::client::{Client, NewMessage, SentBatch, Ttl};

/// Messages in one request of `send --lines`.
const LINES_A_BATCH: usize = 100;
/// Bytes in one request of `send --lines`; a request is at most 4 MiB.
const BYTES_A_BATCH: usize = 2 << 20;

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

impl Send {
    pub async fn run(mut self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let form = self.form()?;
        if self.lines {
            return self.run_lines(context, &client, &form).await;
        }
        let bodies = self.bodies().await?;
        key_is_for_one(&form, bodies.len())?;
        let messages = bodies.into_iter().map(|body| form.with_body(body)).collect();
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

    /// What the flags say of every message.
    fn form(&mut self) -> anyhow::Result<NewMessage> {
        Ok(NewMessage {
            body: Bytes::new(),
            headers: pairs(std::mem::take(&mut self.header))?,
            delay: self.delay,
            ttl: self.ttl.unwrap_or_default(),
            priority: self.priority,
            deduplication_key: self.key.take(),
            group: self.group.take(),
        })
    }

    /// The bodies from the arguments, the file or standard input.
    async fn bodies(&mut self) -> anyhow::Result<Vec<Bytes>> {
        if !self.body.is_empty() {
            let given = std::mem::take(&mut self.body);
            return Ok(given.into_iter().map(|text| text.into_bytes().into()).collect());
        }
        if let Some(path) = &self.file {
            let file = open("--file", path).await?;
            return Ok(vec![read_body(file, &path.display().to_string()).await?]);
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
        form: &NewMessage,
    ) -> anyhow::Result<Exit> {
        let (mut reader, size): (Box<dyn AsyncBufRead + Unpin>, _) = match &self.file {
            Some(path) => {
                let file = open("--file", path).await?;
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
            let messages = batch.into_iter().map(|body| form.with_body(body)).collect();
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
        let mut limited = (&mut *reader).take(BODY_BYTES + 2);
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
        if line.len() as u64 > BODY_BYTES {
            return Err(Usage(format!("a line is longer than {BODY_BYTES} bytes")).into());
        }
        held += line.len();
        batch.push(Bytes::from(line));
    }
    Ok((batch, read))
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
        let long = vec![b'x'; BODY_BYTES as usize + 10];
        let mut reader = tokio::io::BufReader::new(&long[..]);
        let error = read_batch(&mut reader).await.expect_err("too long");
        assert_eq!(Exit::of(&error), Exit::Usage);
        let error = read_body(&long[..], "a test").await.expect_err("too long");
        assert_eq!(Exit::of(&error), Exit::Usage);
    }
}
