//! What a command prints: JSON objects one a line, the last one the result, or tables and
//! sentences for people.
//!
//! Laws: standard output carries results only; progress and errors for people go to standard
//! error. A closed pipe is an error to return, not a panic.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, SystemTime};

use comfy_table::Table;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::exit::Exit;
use crate::client::{
    BackOff, DeadLetter, DeadLetterReason, Durability, Message, Position, Queue, Ttl,
};
use crate::queue::ids::LogTime;

/// Where results go.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    #[must_use]
    pub fn new(json: bool) -> Output {
        Output { json }
    }

    /// True under `--json`.
    #[must_use]
    pub fn is_json(self) -> bool {
        self.json
    }

    /// One object that comes before the result; people see nothing of it.
    pub fn item(self, value: &Value) -> io::Result<()> {
        if self.json { raw(value.to_string().as_bytes()) } else { Ok(()) }
    }

    /// The result: the last line. `text` is what people read.
    pub fn result(self, value: &Value, text: &str) -> io::Result<()> {
        if self.json { raw(value.to_string().as_bytes()) } else { raw(text.as_bytes()) }
    }

    /// A sentence for people only.
    pub fn say(self, text: &str) -> io::Result<()> {
        if self.json { Ok(()) } else { raw(text.as_bytes()) }
    }

    /// A table for people only; nothing when it has no rows.
    pub fn table(self, head: &[&str], rows: Vec<Vec<String>>) -> io::Result<()> {
        if self.json || rows.is_empty() {
            return Ok(());
        }
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header(head.to_vec());
        for row in rows {
            table.add_row(row);
        }
        raw(table.to_string().as_bytes())
    }

    /// The error: an object as the last line of output, or a sentence on standard error.
    pub fn error(self, error: &anyhow::Error, exit: Exit) {
        let text = chain(error);
        if self.json {
            let reason = error.chain().find_map(|cause| {
                let error = cause.downcast_ref::<crate::client::ClientError>()?;
                error.reason().map(|reason| reason.as_str().to_owned())
            });
            let value = json!({
                "ok": false,
                "error": { "class": exit.class(), "reason": reason, "message": text },
                "exit": exit.code(),
            });
            let _ = raw(value.to_string().as_bytes());
        } else {
            let _ = writeln!(io::stderr(), "error: {text}");
        }
    }

    /// A progress bar on standard error, when a person looks at it. Without a total it spins.
    #[must_use]
    pub fn progress(self, total: Option<u64>, what: &str) -> ProgressBar {
        if self.json || !io::stderr().is_terminal() {
            return ProgressBar::hidden();
        }
        let (bar, template) = match total {
            Some(total) => {
                (ProgressBar::new(total), "{msg} {wide_bar} {percent:>3}% {elapsed} (eta {eta})")
            }
            None => (ProgressBar::new_spinner(), "{spinner} {msg} {elapsed}"),
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }
}

/// The error and its causes in one sentence; what was said already is not said again.
#[must_use]
pub fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let next = cause.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
    }
    text
}

/// One line on standard output, at once.
pub fn raw(line: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(line)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// A time as RFC 3339; `-` when there is none.
#[must_use]
pub fn time(at: Option<SystemTime>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| prost_types::Timestamp::from(at).to_string())
}

/// A time of the log as RFC 3339.
#[must_use]
pub fn log_time(at: LogTime) -> String {
    time(SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(at.0)))
}

pub(super) fn time_json(at: Option<SystemTime>) -> Value {
    at.map_or(Value::Null, |at| Value::from(prost_types::Timestamp::from(at).to_string()))
}

#[must_use]
pub fn durability_json(durability: &Durability) -> Value {
    json!({
        "position": position_text(&durability.position),
        "term": durability.position.term,
        "node": durability.position.node,
        "index": durability.position.index,
        "epoch": durability.epoch,
        "log_time": time_json(durability.log_time),
        "zones_at_least": durability.zones_at_least,
        "zones": durability.zones,
    })
}

/// A position in one word, as `zoneq durability` takes it: `TERM:NODE:INDEX`.
#[must_use]
pub fn position_text(position: &Position) -> String {
    format!("{}:{}:{}", position.term, position.node, position.index)
}

/// `at least 2 zones`.
#[must_use]
pub fn zones_text(at_least: u32) -> String {
    format!("at least {}", counted(at_least.into(), "zone"))
}

/// `durable in at least 2 zones (z1, z3; position 3:1:2041)`.
#[must_use]
pub fn durability_text(durability: &Durability) -> String {
    let mut known = durability.zones.join(", ");
    if !known.is_empty() {
        known.push_str("; ");
    }
    let position = position_text(&durability.position);
    format!("durable in {} ({known}position {position})", zones_text(durability.zones_at_least))
}

/// "1 change", "2 changes".
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

#[must_use]
pub fn messages(count: u64) -> String {
    counted(count, "message")
}

#[must_use]
pub fn sent_json(message: &crate::client::SentMessage) -> Value {
    json!({
        "id": message.id,
        "pop_receipt": message.pop_receipt,
        "inserted_at": time_json(message.inserted_at),
        "expires_at": time_json(message.expires_at),
        "visible_at": time_json(message.visible_at),
        "duplicate": message.duplicate,
    })
}

/// A message; a body that is not UTF-8 is given as `body_base64`.
#[must_use]
pub fn message_json(message: &Message) -> Value {
    let mut value = json!({
        "id": message.id,
        "headers": message.headers,
        "inserted_at": time_json(message.inserted_at),
        "expires_at": time_json(message.expires_at),
        "visible_at": time_json(message.visible_at),
        "dequeue_count": message.dequeue_count,
        "priority": message.priority,
        "group": message.group,
    });
    if let Value::Object(fields) = &mut value {
        if let Some(dead) = &message.dead_letter {
            fields.insert("dead_letter".to_owned(), dead_letter_json(dead));
        }
        if let Some(before) = &message.redriven {
            let before = json!({ "id": before.id, "queue": before.queue });
            fields.insert("redriven".to_owned(), before);
        }
        if !message.pop_receipt.is_empty() {
            fields.insert("pop_receipt".to_owned(), message.pop_receipt.clone().into());
        }
        match std::str::from_utf8(&message.body) {
            Ok(text) => fields.insert("body".to_owned(), text.into()),
            Err(_) => fields.insert("body_base64".to_owned(), base64(&message.body).into()),
        };
    }
    value
}

#[must_use]
pub fn dead_letter_reason(reason: DeadLetterReason) -> &'static str {
    match reason {
        DeadLetterReason::MaxDeliveries => "max_deliveries",
        DeadLetterReason::Unspecified => "unknown",
    }
}

fn dead_letter_json(dead: &DeadLetter) -> Value {
    json!({
        "reason": dead_letter_reason(dead.reason),
        "source": dead.source,
        "dead_lettered_at": time_json(dead.dead_lettered_at),
        "first_received_at": time_json(dead.first_received_at),
        "last_received_at": time_json(dead.last_received_at),
        "deliveries": dead.deliveries,
    })
}

pub const MESSAGE_HEAD: [&str; 5] = ["id", "count", "visible at", "pop receipt", "body"];

#[must_use]
pub fn message_row(message: &Message) -> Vec<String> {
    vec![
        message.id.clone(),
        message.dequeue_count.to_string(),
        time(message.visible_at),
        message.pop_receipt.clone(),
        preview(&message.body),
    ]
}

/// The beginning of a body, fit for a table.
fn preview(body: &[u8]) -> String {
    const MOST: usize = 60;
    match std::str::from_utf8(body) {
        Ok(text) => {
            let mut short: String =
                text.chars().take(MOST).map(|c| if c.is_control() { ' ' } else { c }).collect();
            if text.chars().nth(MOST).is_some() {
                short.push('…');
            }
            short
        }
        Err(_) => format!("({} bytes, not text)", body.len()),
    }
}

#[must_use]
pub fn span_text(span: Duration) -> String {
    match (span.as_secs(), span.subsec_millis()) {
        (secs, 0) if secs > 0 && secs % 86_400 == 0 => format!("{}d", secs / 86_400),
        (secs, 0) if secs > 0 && secs % 3_600 == 0 => format!("{}h", secs / 3_600),
        (secs, 0) if secs > 0 && secs % 60 == 0 => format!("{}m", secs / 60),
        (secs, 0) => format!("{secs}s"),
        _ => format!("{}ms", span.as_millis()),
    }
}

fn ttl_text(ttl: Ttl) -> String {
    match ttl {
        Ttl::Default => "default".to_owned(),
        Ttl::Never => "never".to_owned(),
        Ttl::After(span) => span_text(span),
    }
}

/// As the command line takes it.
fn back_off_text(back_off: BackOff) -> String {
    let (first, most) = (span_text(back_off.first), span_text(back_off.most));
    format!("{first},{most},{}", back_off.factor)
}

#[must_use]
pub fn queue_json(queue: &Queue) -> Value {
    let counts = queue.counts;
    let dead = queue.settings.dead_letters.as_ref();
    json!({
        "name": queue.name,
        "id": queue.id,
        "metadata": queue.metadata,
        "settings": {
            "default_ttl": ttl_text(queue.settings.default_ttl),
            "default_visibility_timeout":
                queue.settings.default_visibility_timeout.map(span_text),
            "max_message_bytes": queue.settings.max_message_bytes,
            "dead_letter_queue": dead.map(|target| target.queue.as_str()),
            "max_deliveries": dead.and_then(|target| target.max_deliveries),
            "dead_letter_ttl": queue.settings.dead_letter_ttl.map(span_text),
            "back_off": queue.settings.back_off.map(back_off_text),
            "deduplication_window": queue.settings.deduplication_window.map(span_text),
            "max_messages": queue.settings.max_messages,
            "max_bytes": queue.settings.max_bytes,
            "undelete_window": queue.settings.undelete_window.map(span_text),
        },
        "counts": {
            "visible": counts.visible,
            "leased": counts.leased,
            "delayed": counts.delayed,
            "blocked": counts.blocked,
            "due": counts.due,
            "total": counts.total,
            "bytes": counts.bytes,
            "oldest_age_ms": counts.oldest_age.map(|age| age.as_millis() as u64),
        },
        "created_at": time_json(queue.created_at),
        "paused": queue.paused,
        "deleted_at": time_json(queue.deleted_at),
        "kept_until": time_json(queue.kept_until),
        "dead_letters_refused_since": time_json(queue.dead_letters_refused_since),
    })
}

pub const QUEUE_HEAD: [&str; 8] =
    ["queue", "visible", "leased", "delayed", "blocked", "due", "total", "bytes"];

#[must_use]
pub fn queue_row(queue: &Queue) -> Vec<String> {
    let counts = queue.counts;
    let mut row = vec![queue.name.clone()];
    let numbers = [
        counts.visible,
        counts.leased,
        counts.delayed,
        counts.blocked,
        counts.due,
        counts.total,
        counts.bytes,
    ];
    row.extend(numbers.iter().map(u64::to_string));
    row
}

pub const DELETED_HEAD: [&str; 5] = ["queue", "id", "total", "deleted at", "kept until"];

#[must_use]
pub fn deleted_row(queue: &Queue) -> Vec<String> {
    let (id, total) = (queue.id.to_string(), queue.counts.total.to_string());
    vec![queue.name.clone(), id, total, time(queue.deleted_at), time(queue.kept_until)]
}

/// Settings and metadata, one a line.
#[must_use]
pub fn queue_details(queue: &Queue) -> Vec<Vec<String>> {
    let settings = &queue.settings;
    let or_default = |text: Option<String>| text.unwrap_or_else(|| "default".to_owned());
    let mut rows = vec![
        vec!["default time to live".to_owned(), ttl_text(settings.default_ttl)],
        vec![
            "default visibility timeout".to_owned(),
            or_default(settings.default_visibility_timeout.map(span_text)),
        ],
        vec![
            "largest message".to_owned(),
            or_default(settings.max_message_bytes.map(|bytes| format!("{bytes} bytes"))),
        ],
        vec!["created at".to_owned(), time(queue.created_at)],
        vec!["receives".to_owned(), if queue.paused { "paused" } else { "open" }.to_owned()],
        vec![
            "age of the oldest message".to_owned(),
            queue.counts.oldest_age.map_or_else(|| "-".to_owned(), span_text),
        ],
    ];
    if let Some(target) = &settings.dead_letters {
        let most = target.max_deliveries.map_or_else(|| "default".to_owned(), |n| n.to_string());
        rows.push(vec!["dead letters go to".to_owned(), target.queue.clone()]);
        rows.push(vec!["after deliveries".to_owned(), most]);
    }
    if let Some(ttl) = settings.dead_letter_ttl {
        rows.push(vec!["time to live of dead letters here".to_owned(), span_text(ttl)]);
    }
    for (what, most) in [("messages", settings.max_messages), ("bytes", settings.max_bytes)] {
        if let Some(most) = most {
            rows.push(vec![format!("quota of {what}"), most.to_string()]);
        }
    }
    if let Some(window) = settings.undelete_window {
        rows.push(vec!["undelete window".to_owned(), span_text(window)]);
    }
    if let Some(window) = settings.deduplication_window {
        rows.push(vec!["deduplication window".to_owned(), span_text(window)]);
    }
    if let Some(back_off) = settings.back_off {
        rows.push(vec!["back-off".to_owned(), back_off_text(back_off)]);
    }
    if let Some(since) = queue.dead_letters_refused_since {
        let text = format!("refused by the dead-letter queue since {}", time(Some(since)));
        rows.push(vec!["ALARM: dead letters".to_owned(), text]);
    }
    for (name, value) in &queue.metadata {
        rows.push(vec![format!("metadata {name}"), value.clone()]);
    }
    rows
}

/// RFC 4648 base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let joined = group.iter().fold(0u32, |sum, byte| (sum << 8) | u32::from(*byte));
        let joined = joined << (8 * (3 - group.len()));
        for place in 0..4 {
            if place > group.len() {
                text.push('=');
                continue;
            }
            let six = (joined >> (18 - 6 * place)) & 63;
            text.push(LETTERS.get(six as usize).map_or('=', |letter| char::from(*letter)));
        }
    }
    text
}

/// The bytes of RFC 4648 base64 with padding; `None` when it is none.
#[must_use]
pub fn from_base64(text: &str) -> Option<Vec<u8>> {
    let six = |letter: u8| match letter {
        b'A'..=b'Z' => Some(letter - b'A'),
        b'a'..=b'z' => Some(letter - b'a' + 26),
        b'0'..=b'9' => Some(letter - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let letters = text.trim_end_matches('=');
    if text.len() - letters.len() > 2 {
        return None;
    }
    let mut bytes = Vec::with_capacity(letters.len() * 3 / 4);
    for group in letters.as_bytes().chunks(4) {
        let mut joined = 0u32;
        for letter in group {
            joined = (joined << 6) | u32::from(six(*letter)?);
        }
        joined <<= 6 * (4 - group.len());
        let [_, whole @ ..] = joined.to_be_bytes();
        bytes.extend_from_slice(whole.get(..group.len().saturating_sub(1))?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_is_no_text_is_given_in_base64() {
        for (bytes, text) in [
            (&b""[..], ""),
            (b"f", "Zg=="),
            (b"fo", "Zm8="),
            (b"foo", "Zm9v"),
            (b"\xff\xfe\xfd\xfc", "//79/A=="),
        ] {
            assert_eq!(base64(bytes), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes));
        }
        let message = Message { body: vec![0xff].into(), ..Message::default() };
        let value = message_json(&message);
        assert_eq!(value["body_base64"], "/w==");
        assert!(value.get("body").is_none());
    }

    #[test]
    fn a_write_names_its_position_in_one_word() {
        let position = Position { term: 3, node: 1, index: 2_041 };
        let mut durability = Durability { position, zones_at_least: 1, ..Durability::default() };
        assert_eq!(durability_text(&durability), "durable in at least 1 zone (position 3:1:2041)");
        durability.zones_at_least = 2;
        durability.zones = vec!["z1".to_owned(), "z3".to_owned()];
        let text = "durable in at least 2 zones (z1, z3; position 3:1:2041)";
        assert_eq!(durability_text(&durability), text);
        assert_eq!(durability_json(&durability)["position"], "3:1:2041");
    }

    #[test]
    fn a_preview_is_one_short_line() {
        assert_eq!(preview(b"a\nb"), "a b");
        assert_eq!(preview("é".repeat(100).as_bytes()).chars().count(), 61);
        assert_eq!(preview(&[0xff, 0xff]), "(2 bytes, not text)");
    }

    #[test]
    fn spans_read_as_they_are_written() {
        for text in ["30s", "5m", "2h", "7d", "1500ms", "90s"] {
            let span = super::super::parse_span(text).expect(text);
            assert_eq!(span_text(span), text);
        }
    }
}
