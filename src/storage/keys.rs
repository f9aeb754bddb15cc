//! The keys of the tables: one byte of kind, then the parts in big endian, so that the byte
//! order is the order of [`RowKey`].
//!
//! A tag is permanent: once released it never changes its meaning and is never used again for
//! another kind. Replicated rows have tags in [`REPLICATED`] and make up a snapshot; the
//! others are this node's own bookkeeping.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these bytes came from a disk or a peer: no content of theirs may end the process"
)]

use std::ops::Range;

use crate::queue::ids::{Number, QueueId};
use crate::queue::rows::{AccountName, RowKey};

/// The position and the membership that the tables hold.
pub const MARK_TAG: u8 = 0x01;
pub const COUNTERS_TAG: u8 = 0x10;
pub const QUEUE_TAG: u8 = 0x11;
pub const CHUNK_TAG: u8 = 0x12;
pub const MESSAGE_TAG: u8 = 0x13;
pub const SESSION_TAG: u8 = 0x14;
pub const KEY_TAG: u8 = 0x15;
pub const REDRIVE_TAG: u8 = 0x18;
pub const ACCOUNT_TAG: u8 = 0x19;
pub const AUTHORITY_TAG: u8 = 0x20;
pub const AUDIT_TAG: u8 = 0x21;
pub const SEED_TAG: u8 = 0x22;
/// Where the contents of 256 consecutive ids lie.
pub const CONTENTS_TAG: u8 = 0x40;
/// How long a body segment is.
pub const SEGMENT_TAG: u8 = 0x41;

/// Every tag with its name, for the test that they differ and for `inspect`.
pub const TAGS: [(u8, &str); 14] = [
    (MARK_TAG, "mark"),
    (COUNTERS_TAG, "counters"),
    (QUEUE_TAG, "queue"),
    (CHUNK_TAG, "chunk"),
    (MESSAGE_TAG, "message"),
    (SESSION_TAG, "session"),
    (KEY_TAG, "key"),
    (REDRIVE_TAG, "redrive"),
    (ACCOUNT_TAG, "account"),
    (AUTHORITY_TAG, "authority"),
    (AUDIT_TAG, "audit"),
    (SEED_TAG, "seed"),
    (CONTENTS_TAG, "contents"),
    (SEGMENT_TAG, "segment"),
];

/// The tags of replicated rows, those of later versions included.
pub const REPLICATED: Range<u8> = 0x10..0x40;

/// The key of a state row.
#[must_use]
pub fn row(key: &RowKey) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(18);
    match key {
        RowKey::Counters => bytes.push(COUNTERS_TAG),
        RowKey::Queue(queue) => {
            bytes.push(QUEUE_TAG);
            bytes.extend_from_slice(&queue.0.to_be_bytes());
        }
        RowKey::Chunk { queue, priority, first } => {
            bytes.push(CHUNK_TAG);
            bytes.extend_from_slice(&queue.0.to_be_bytes());
            bytes.push(*priority);
            bytes.extend_from_slice(&first.0.to_be_bytes());
        }
        RowKey::Message { queue, number } => {
            bytes.push(MESSAGE_TAG);
            bytes.extend_from_slice(&queue.0.to_be_bytes());
            bytes.extend_from_slice(&number.0.to_be_bytes());
        }
        RowKey::Session(client) => {
            bytes.push(SESSION_TAG);
            bytes.extend_from_slice(&client.to_be_bytes());
        }
        RowKey::Key { queue, key } => {
            bytes.push(KEY_TAG);
            bytes.extend_from_slice(&queue.0.to_be_bytes());
            bytes.extend_from_slice(&key.to_be_bytes());
        }
        RowKey::Authority => bytes.push(AUTHORITY_TAG),
        RowKey::Audit(number) => {
            bytes.push(AUDIT_TAG);
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        RowKey::Seed(number) => {
            bytes.push(SEED_TAG);
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        RowKey::Redrive { queue, number } => {
            bytes.push(REDRIVE_TAG);
            bytes.extend_from_slice(&queue.0.to_be_bytes());
            bytes.extend_from_slice(&number.0.to_be_bytes());
        }
        RowKey::Account(name) => {
            bytes.push(ACCOUNT_TAG);
            bytes.extend_from_slice(name.as_bytes());
        }
    }
    bytes
}

/// Reads what [`row`] wrote; `None` for any other key.
#[must_use]
pub fn parse_row(bytes: &[u8]) -> Option<RowKey> {
    let (tag, rest) = bytes.split_first()?;
    match *tag {
        COUNTERS_TAG => rest.is_empty().then_some(RowKey::Counters),
        QUEUE_TAG => Some(RowKey::Queue(QueueId(number(rest)?))),
        CHUNK_TAG => {
            let (queue, rest) = rest.split_at_checked(8)?;
            let (priority, first) = rest.split_first()?;
            Some(RowKey::Chunk {
                queue: QueueId(number(queue)?),
                priority: *priority,
                first: Number(number(first)?),
            })
        }
        MESSAGE_TAG => {
            let (queue, rest) = rest.split_at_checked(8)?;
            Some(RowKey::Message { queue: QueueId(number(queue)?), number: Number(number(rest)?) })
        }
        SESSION_TAG => Some(RowKey::Session(u128::from_be_bytes(rest.try_into().ok()?))),
        KEY_TAG => {
            let (queue, rest) = rest.split_at_checked(8)?;
            let key = u128::from_be_bytes(rest.try_into().ok()?);
            Some(RowKey::Key { queue: QueueId(number(queue)?), key })
        }
        AUTHORITY_TAG => rest.is_empty().then_some(RowKey::Authority),
        AUDIT_TAG => Some(RowKey::Audit(number(rest)?)),
        SEED_TAG => Some(RowKey::Seed(number(rest)?)),
        REDRIVE_TAG => {
            let (queue, rest) = rest.split_at_checked(8)?;
            Some(RowKey::Redrive { queue: QueueId(number(queue)?), number: Number(number(rest)?) })
        }
        ACCOUNT_TAG => Some(RowKey::Account(AccountName::from_bytes(rest.try_into().ok()?)?)),
        _ => None,
    }
}

/// The key of the row for the contents with ids `group * 256 ..`.
#[must_use]
pub fn contents(group: u64) -> Vec<u8> {
    tagged(CONTENTS_TAG, &group.to_be_bytes())
}

/// The key of a body segment's length.
#[must_use]
pub fn segment(number: u32) -> Vec<u8> {
    tagged(SEGMENT_TAG, &number.to_be_bytes())
}

/// The group in a [`contents`] key.
#[must_use]
pub fn parse_contents(bytes: &[u8]) -> Option<u64> {
    number(bytes.strip_prefix(&[CONTENTS_TAG])?)
}

/// The number in a [`segment`] key.
#[must_use]
pub fn parse_segment(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.strip_prefix(&[SEGMENT_TAG])?.try_into().ok()?))
}

fn tagged(tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + rest.len());
    bytes.push(tag);
    bytes.extend_from_slice(rest);
    bytes
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::row_key;
    use proptest::prelude::*;

    #[test]
    fn every_tag_is_unique() {
        let tags: std::collections::BTreeSet<u8> = TAGS.iter().map(|(tag, _)| *tag).collect();
        assert_eq!(tags.len(), TAGS.len());
    }

    #[test]
    fn tags_never_change() {
        let known =
            [0x01, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x18, 0x19, 0x20, 0x21, 0x22, 0x40, 0x41];
        assert_eq!(TAGS.map(|(tag, _)| tag), known, "a released tag is permanent");
    }

    proptest! {
        #[test]
        fn a_row_key_survives_its_bytes(key in row_key()) {
            prop_assert_eq!(parse_row(&row(&key)), Some(key));
        }

        #[test]
        fn bytes_sort_as_the_keys_do(a in row_key(), b in row_key()) {
            prop_assert_eq!(row(&a).cmp(&row(&b)), a.cmp(&b));
        }

        #[test]
        fn any_bytes_are_refused_or_the_one_form_of_a_key(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            if let Some(key) = parse_row(&bytes) {
                prop_assert_eq!(row(&key), bytes);
            }
        }
    }
}
