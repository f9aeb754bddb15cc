//! Between the queue's types and the bytes in the log, the tables and snapshots.
//!
//! Entries are `zoneq.log.v1.Entry`. Encoding is on the path of every write, so a `Send` goes
//! straight into the buffer, without a copy of its strings and maps in between; the result is
//! what prost would write, byte for byte. Decoding keeps bodies as slices of the entry's bytes.
//!
//! Refused: bytes that are no message, a message that lacks what a command needs, a command of
//! a newer version. Nothing here checks limits: that is `apply`'s.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these bytes came from a disk or a peer: no content of theirs may end the process"
)]

mod entry;
mod losses;
mod milestones;
mod notes;
mod outcomes;
mod redrives;
mod region;
mod replay;
mod rows;
mod seeds;
mod shapes;
mod snapshot;

pub use entry::{decode_entry, decode_headers, encode_entry, headers_len, put_headers};
pub use milestones::{compared_from, compared_to, milestones_to};
pub use region::{batch_from, batch_to, epoch_from, epoch_to, head_to, line_from, line_to};
pub use replay::{decode_replay, encode_replay};
pub use rows::{decode_mark, decode_row, encode_mark, encode_row};
pub use seeds::{verb_from as seed_from, verb_to as seed_to};
pub use shapes::{shape_from, shape_to};
pub use snapshot::{Part, decode_part, encode_part};

use bytes::Bytes;

use crate::proto::log::v1 as pb;
use crate::queue::command::{BackOff, Content, DeadLetters, Quota, Settings};
use crate::queue::ids::{Epoch, MessageId, Number, Position, Receipt, Span};
use crate::queue::limits::{DEFAULT_DEDUPLICATION_WINDOW, DEFAULT_PRIORITY};

/// Why bytes could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("{what} is not readable as protobuf")]
    Proto { what: &'static str, source: prost::DecodeError },
    #[error("{what} lacks its {field}")]
    Missing { what: &'static str, field: &'static str },
    #[error("{what} has a wrong {field}")]
    Wrong { what: &'static str, field: &'static str },
    #[error("{what} has format {found}, and this version knows {known}")]
    Version { what: &'static str, found: u8, known: u8 },
}

/// What the table writer must keep besides the rows: which entries they hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub applied: Option<Position>,
    /// The newest membership, opaque here, and the entry it came from.
    pub membership: Option<(Position, Bytes)>,
}

fn need<T>(value: Option<T>, what: &'static str, field: &'static str) -> Result<T, CodecError> {
    value.ok_or(CodecError::Missing { what, field })
}

fn big(bytes: &[u8], what: &'static str, field: &'static str) -> Result<u128, CodecError> {
    let bytes = bytes.try_into().map_err(|_| CodecError::Wrong { what, field })?;
    Ok(u128::from_be_bytes(bytes))
}

fn big_bytes(value: u128) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

fn id_to(id: MessageId) -> pb::MessageId {
    pb::MessageId { epoch: id.epoch.0, number: id.number.0 }
}

fn id_from(id: pb::MessageId) -> MessageId {
    MessageId { epoch: Epoch(id.epoch), number: Number(id.number) }
}

fn receipt_to(receipt: Receipt) -> pb::Receipt {
    pb::Receipt { epoch: receipt.epoch.0, counter: receipt.counter }
}

fn receipt_from(receipt: pb::Receipt) -> Receipt {
    Receipt { epoch: Epoch(receipt.epoch), counter: receipt.counter }
}

fn settings_to(settings: &Settings) -> pb::Settings {
    let (back_off, window) = (settings.back_off, settings.deduplication_window);
    pb::Settings {
        default_ttl_us: settings.default_ttl.map(|span| span.0),
        default_visibility_us: settings.default_visibility.0,
        max_message_bytes: settings.max_message_bytes,
        dead_letters: settings.dead_letters.as_ref().map(|target| pb::DeadLetters {
            queue: target.queue.clone(),
            max_deliveries: target.max_deliveries,
        }),
        deduplication_window_us: (window != DEFAULT_DEDUPLICATION_WINDOW).then_some(window.0),
        quota_messages: settings.quota.messages,
        quota_bytes: settings.quota.bytes,
        undelete_window_us: (settings.undelete_window != Span::ZERO)
            .then_some(settings.undelete_window.0),
        dead_letter_ttl_us: settings.dead_letter_ttl.map(|span| span.0),
        back_off: (back_off != BackOff::default()).then_some(pb::BackOff {
            first_us: back_off.first.0,
            most_us: back_off.most.0,
            factor: back_off.factor,
        }),
    }
}

fn settings_from(settings: pb::Settings) -> Settings {
    Settings {
        default_ttl: settings.default_ttl_us.map(Span),
        default_visibility: Span(settings.default_visibility_us),
        max_message_bytes: settings.max_message_bytes,
        dead_letters: settings.dead_letters.map(|target| DeadLetters {
            queue: target.queue,
            max_deliveries: target.max_deliveries,
        }),
        dead_letter_ttl: settings.dead_letter_ttl_us.map(Span),
        quota: Quota { messages: settings.quota_messages, bytes: settings.quota_bytes },
        undelete_window: settings.undelete_window_us.map_or(Span::ZERO, Span),
        deduplication_window: settings
            .deduplication_window_us
            .map_or(DEFAULT_DEDUPLICATION_WINDOW, Span),
        back_off: settings.back_off.map_or_else(BackOff::default, |it| BackOff {
            first: Span(it.first_us),
            most: Span(it.most_us),
            factor: it.factor,
        }),
    }
}

/// The usual priority is left out.
fn priority_to(priority: u8) -> Option<u32> {
    (priority != DEFAULT_PRIORITY).then_some(priority.into())
}

fn priority_from(priority: Option<u32>, what: &'static str) -> Result<u8, CodecError> {
    let wrong = |_| CodecError::Wrong { what, field: "priority" };
    priority.map_or(Ok(DEFAULT_PRIORITY), |given| given.try_into().map_err(wrong))
}

fn content_to(content: &Content) -> pb::Content {
    pb::Content { body: content.body.clone(), headers: content.headers.clone() }
}

fn content_from(content: pb::Content) -> Content {
    Content { body: content.body, headers: content.headers }
}

fn position_to(position: Position) -> pb::Position {
    pb::Position { term: position.term, node: position.node, index: position.index }
}

fn position_from(position: pb::Position) -> Position {
    Position { term: position.term, node: position.node, index: position.index }
}
