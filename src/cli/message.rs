//! The verbs on messages. Those that are one call and its answer are here: peek, get, update,
//! clear; the others have a file each.
//!
//! Laws: what is read into memory is bounded; flags that make no sense together are usage.

mod many;
mod receive;
mod send;
mod stream;
mod transact;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::io::AsyncReadExt as _;

pub use self::many::{Delete, Release};
pub use self::receive::Receive;
pub use self::send::Send;
pub use self::transact::Transact;
use super::exit::{Exit, Usage};
use super::limits::BODY_BYTES;
use super::output::{self, durability_json, message_json, message_row, messages};
use super::{Context, pairs, parse_pair, parse_span};
use crate::client::{MessageState, NewMessage, PeekOptions};

/// Messages in one delete or release; the server takes no more.
const BATCH: usize = 1_000;

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
#[command(after_help = "Example:\n  zoneq clear orders")]
pub struct Clear {
    queue: String,
}

/// One whole body from a reader, refused when it is larger than any queue may allow.
async fn read_body(reader: impl tokio::io::AsyncRead + Unpin, from: &str) -> anyhow::Result<Bytes> {
    let mut body = Vec::new();
    let mut limited = reader.take(BODY_BYTES + 1);
    limited.read_to_end(&mut body).await.with_context(|| format!("reading {from}"))?;
    if body.len() as u64 > BODY_BYTES {
        let text = format!("the body from {from} is larger than {BODY_BYTES} bytes");
        return Err(Usage(text).into());
    }
    Ok(body.into())
}

async fn open(flag: &str, path: &Path) -> anyhow::Result<tokio::fs::File> {
    let opened = tokio::fs::File::open(path).await;
    opened.map_err(|error| Usage(format!("{flag} {}: {error}", path.display())).into())
}

/// A deduplication key names one message.
fn key_is_for_one(form: &NewMessage, count: usize) -> anyhow::Result<()> {
    if form.deduplication_key.is_some() && count != 1 {
        return Err(Usage(format!("--key is for one message, and {count} are given")).into());
    }
    Ok(())
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
        let client = context.client()?;
        let shown = client.get_within(&self.queue, &self.id, self.max_staleness).await?;
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
                Some(read_body(open("--file", path).await?, &path.display().to_string()).await?)
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
