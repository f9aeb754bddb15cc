//! Rows of the tables: a format version byte, then a message of `rows.proto`. A chunk row is
//! written in columns of differences, a few bytes a message.

use bytes::Bytes;

use super::notes::{note_from, note_to};
use super::outcomes::{outcome_from, outcome_to};
use super::redrives::{account_from, account_to, redrive_from, redrive_to};
use super::region;
use super::seeds;
use super::{
    CodecError, Mark, big, big_bytes, id_from, id_to, need, position_from, position_to,
    receipt_from, receipt_to, settings_from, settings_to,
};
use crate::proto::log::v1 as pb;
use crate::queue::ids::{ContentId, Digest, Epoch, LogTime, Number, QueueId};
use crate::queue::rows::{
    ChunkRow, CountersRow, Deleted, KeyRow, MessageRow, QueueRow, Row, RowKey, SessionRow,
    Untouched,
};

/// The format of every row so far.
pub const FORMAT: u8 = 1;

const CHUNK: &str = "a chunk row";

/// The value of a state row.
#[must_use]
pub fn encode_row(row: &Row) -> Vec<u8> {
    match row {
        Row::Counters(row) => versioned(&counters_to(row)),
        Row::Queue(row) => versioned(&queue_to(row)),
        Row::Chunk(row) => versioned(&chunk_to(row)),
        Row::Message(row) => versioned(&message_to(row)),
        Row::Session(row) => versioned(&session_to(row)),
        Row::Key(row) => versioned(&key_to(row)),
        Row::Authority(row) => versioned(&region::authority_to(row)),
        Row::Audit(row) => versioned(&region::audit_to(row)),
        Row::Seed(row) => versioned(&seeds::row_to(row)),
        Row::Redrive(row) => versioned(&redrive_to(row)),
        Row::Account(row) => versioned(&account_to(row)),
    }
}

/// Reads the value of the row that `key` names; a row that names itself otherwise is refused.
pub fn decode_row(key: &RowKey, value: &[u8]) -> Result<Row, CodecError> {
    let row = match key {
        RowKey::Counters => Row::Counters(counters_from(read("the counters row", value)?)?),
        RowKey::Queue(_) => Row::Queue(queue_from(read("a queue row", value)?)?),
        RowKey::Chunk { .. } => Row::Chunk(chunk_from(read(CHUNK, value)?)?),
        RowKey::Message { .. } => Row::Message(message_from(read("a message row", value)?)?),
        RowKey::Session(_) => Row::Session(session_from(read("a session row", value)?)?),
        RowKey::Key { .. } => Row::Key(key_from(read("a key row", value)?)?),
        RowKey::Authority => {
            let row = region::authority_from(read("the authority row", value)?)?;
            Row::Authority(Box::new(row))
        }
        RowKey::Audit(_) => Row::Audit(region::audit_from(read("an audit row", value)?)?),
        RowKey::Seed(_) => Row::Seed(seeds::row_from(read("a seed row", value)?)?),
        RowKey::Redrive { .. } => Row::Redrive(redrive_from(read("a redrive row", value)?)?),
        RowKey::Account(_) => Row::Account(account_from(read("an account row", value)?)?),
    };
    if row.key() == *key { Ok(row) } else { Err(CodecError::Wrong { what: "a row", field: "key" }) }
}

/// The value of the mark row.
#[must_use]
pub fn encode_mark(mark: &Mark) -> Vec<u8> {
    let mut message = mark_to(mark);
    message.crc32c = Some(crc(&message));
    versioned(&message)
}

/// Reads what [`encode_mark`] wrote.
///
/// # Errors
/// [`CodecError`]: among others where it is not what was written, which nothing else would tell: no
/// digest covers it.
pub fn decode_mark(value: &[u8]) -> Result<Mark, CodecError> {
    const WHAT: &str = "the mark row";
    let mut message: pb::Mark = read(WHAT, value)?;
    match message.crc32c.take() {
        Some(stored) if stored != crc(&message) => {
            Err(CodecError::Wrong { what: WHAT, field: "checksum" })
        }
        _ => Ok(mark_from(message)),
    }
}

fn crc(mark: &pb::Mark) -> u32 {
    crc32c::crc32c(&prost::Message::encode_to_vec(mark))
}

pub(super) fn mark_to(mark: &Mark) -> pb::Mark {
    let membership = mark.membership.as_ref();
    pb::Mark {
        applied: mark.applied.map(position_to),
        membership_at: membership.map(|(at, _)| position_to(*at)),
        membership: membership.map(|(_, bytes)| bytes.clone()).unwrap_or_default(),
        crc32c: None,
    }
}

pub(super) fn mark_from(mark: pb::Mark) -> Mark {
    Mark {
        applied: mark.applied.map(position_from),
        membership: mark.membership_at.map(|at| (position_from(at), mark.membership)),
    }
}

fn versioned(message: &impl prost::Message) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + message.encoded_len());
    bytes.push(FORMAT);
    message.encode_raw(&mut bytes);
    bytes
}

fn read<M: prost::Message + Default>(what: &'static str, value: &[u8]) -> Result<M, CodecError> {
    match value.split_first() {
        Some((&FORMAT, rest)) => {
            M::decode(rest).map_err(|source| CodecError::Proto { what, source })
        }
        Some((&found, _)) => Err(CodecError::Version { what, found, known: FORMAT }),
        None => Err(CodecError::Missing { what, field: "format version" }),
    }
}

fn counters_to(row: &CountersRow) -> pb::CountersRow {
    pb::CountersRow {
        log_time_us: row.log_time.0,
        epoch: row.epoch.0,
        rules: row.rules,
        next_number: row.next_number,
        next_queue: row.next_queue,
        digest: big_bytes(row.digest.0),
        authority_revision: row.authority,
    }
}

fn counters_from(row: pb::CountersRow) -> Result<CountersRow, CodecError> {
    Ok(CountersRow {
        log_time: LogTime(row.log_time_us),
        epoch: Epoch(row.epoch),
        rules: row.rules,
        next_number: row.next_number,
        next_queue: row.next_queue,
        digest: Digest(big(&row.digest, "the counters row", "digest")?),
        authority: row.authority_revision,
    })
}

fn queue_to(row: &QueueRow) -> pb::QueueRow {
    pb::QueueRow {
        id: row.id.0,
        account: row.account.clone(),
        name: row.name.clone(),
        metadata: row.metadata.clone(),
        settings: Some(settings_to(&row.settings)),
        created_at_us: row.created_at.0,
        cleared_below: row.cleared_below.0,
        deleted: row.deleted,
        paused: row.paused,
        dead_letter_refused: row.dead_letter_refused.map(|(message, _)| message.0),
        dead_letter_refused_at_us: row.dead_letter_refused.map(|(_, since)| since.0),
        deleted_at_us: row.kept.map(|kept| kept.at.0),
        kept_until_us: row.kept.map(|kept| kept.until.0),
    }
}

fn queue_from(row: pb::QueueRow) -> Result<QueueRow, CodecError> {
    Ok(QueueRow {
        id: QueueId(row.id),
        account: row.account,
        name: row.name,
        metadata: row.metadata,
        settings: settings_from(need(row.settings, "a queue row", "settings")?),
        created_at: LogTime(row.created_at_us),
        cleared_below: Number(row.cleared_below),
        deleted: row.deleted,
        paused: row.paused,
        dead_letter_refused: row
            .dead_letter_refused
            .zip(row.dead_letter_refused_at_us)
            .map(|(message, since)| (Number(message), LogTime(since))),
        kept: row
            .deleted_at_us
            .zip(row.kept_until_us)
            .map(|(at, until)| Deleted { at: LogTime(at), until: LogTime(until) }),
    })
}

/// The difference as it is stored: any two values have one, and adding it gives the value back.
fn difference(value: u64, base: u64) -> i64 {
    value.wrapping_sub(base) as i64
}

fn sum(base: u64, difference: i64) -> u64 {
    base.wrapping_add(difference as u64)
}

fn chunk_to(row: &ChunkRow) -> pb::ChunkRow {
    let count = row.messages.len();
    let base = row.messages.first().map_or(0, |message| message.inserted_at.0);
    let mut expires = vec![0u8; count.div_ceil(8)];
    let mut out = pb::ChunkRow {
        queue: row.queue.0,
        priority: row.priority.into(),
        first: row.first.0,
        epoch: row.epoch.0,
        number: Vec::with_capacity(count),
        inserted_base_us: base,
        inserted_us: Vec::with_capacity(count),
        expires: Bytes::new(),
        lifetime_us: Vec::with_capacity(count),
        size: Vec::with_capacity(count),
    };
    let (mut number, mut inserted) = (row.first.0, base);
    for (at, message) in row.messages.iter().enumerate() {
        out.number.push(difference(message.number.0, number));
        out.inserted_us.push(difference(message.inserted_at.0, inserted));
        (number, inserted) = (message.number.0, message.inserted_at.0);
        if let Some(expires_at) = message.expires_at {
            if let Some(byte) = expires.get_mut(at / 8) {
                *byte |= 1 << (at % 8);
            }
            out.lifetime_us.push(difference(expires_at.0, inserted));
        }
        out.size.push(message.size);
    }
    out.expires = expires.into();
    out
}

fn chunk_from(row: pb::ChunkRow) -> Result<ChunkRow, CodecError> {
    let wrong = |field| CodecError::Wrong { what: CHUNK, field };
    let count = row.number.len();
    if row.inserted_us.len() != count || row.size.len() != count {
        return Err(wrong("number of columns"));
    }
    if row.expires.len() != count.div_ceil(8) {
        return Err(wrong("expiry bits"));
    }
    let mut lifetimes = row.lifetime_us.into_iter();
    let mut messages = Vec::with_capacity(count);
    let (mut number, mut inserted) = (row.first, row.inserted_base_us);
    let columns = row.number.into_iter().zip(row.inserted_us).zip(row.size);
    for (at, ((number_difference, inserted_difference), size)) in columns.enumerate() {
        number = sum(number, number_difference);
        inserted = sum(inserted, inserted_difference);
        let expires = row.expires.get(at / 8).is_some_and(|byte| byte >> (at % 8) & 1 == 1);
        let expires_at = if expires {
            let lifetime = lifetimes.next().ok_or_else(|| wrong("lifetimes"))?;
            Some(LogTime(sum(inserted, lifetime)))
        } else {
            None
        };
        let (number, inserted_at) = (Number(number), LogTime(inserted));
        messages.push(Untouched { number, inserted_at, expires_at, size });
    }
    if lifetimes.next().is_some() {
        return Err(wrong("lifetimes"));
    }
    Ok(ChunkRow {
        queue: QueueId(row.queue),
        priority: row.priority.try_into().map_err(|_| wrong("priority"))?,
        first: Number(row.first),
        epoch: Epoch(row.epoch),
        messages,
    })
}

fn message_to(row: &MessageRow) -> pb::MessageRow {
    pb::MessageRow {
        queue: row.queue.0,
        number: row.number.0,
        epoch: row.epoch.0,
        priority: row.priority.into(),
        inserted_at_us: row.inserted_at.0,
        expires_at_us: row.expires_at.map(|at| at.0),
        visible_at_us: row.visible_at.0,
        dequeue_count: row.dequeue_count,
        receipt: Some(receipt_to(row.receipt)),
        content: row.content.0,
        size: row.size,
        last: row.last,
        released: row.released,
        note: row.note.as_deref().map(note_to),
    }
}

fn message_from(row: pb::MessageRow) -> Result<MessageRow, CodecError> {
    let what = "a message row";
    Ok(MessageRow {
        queue: QueueId(row.queue),
        number: Number(row.number),
        epoch: Epoch(row.epoch),
        priority: row
            .priority
            .try_into()
            .map_err(|_| CodecError::Wrong { what, field: "priority" })?,
        inserted_at: LogTime(row.inserted_at_us),
        expires_at: row.expires_at_us.map(LogTime),
        visible_at: LogTime(row.visible_at_us),
        dequeue_count: row.dequeue_count,
        receipt: receipt_from(need(row.receipt, what, "receipt")?),
        content: ContentId(row.content),
        size: row.size,
        last: row.last,
        released: row.released,
        note: row.note.map(note_from).transpose()?,
    })
}

fn key_to(row: &KeyRow) -> pb::KeyRow {
    pb::KeyRow {
        queue: row.queue.0,
        key: big_bytes(row.key),
        id: Some(id_to(row.id)),
        sent_at_us: row.sent_at.0,
        until_us: row.until.0,
    }
}

fn key_from(row: pb::KeyRow) -> Result<KeyRow, CodecError> {
    let what = "a key row";
    Ok(KeyRow {
        queue: QueueId(row.queue),
        key: big(&row.key, what, "key")?,
        id: id_from(need(row.id, what, "message id")?),
        sent_at: LogTime(row.sent_at_us),
        until: LogTime(row.until_us),
    })
}

fn session_to(row: &SessionRow) -> pb::SessionRow {
    pb::SessionRow {
        client: big_bytes(row.client),
        last_used_us: row.last_used.0,
        forgotten_through: row.forgotten_through,
        outcomes: row
            .outcomes
            .iter()
            .map(|(sequence, outcome)| pb::KeptOutcome {
                sequence: *sequence,
                outcome: Some(outcome_to(outcome)),
            })
            .collect(),
    }
}

fn session_from(row: pb::SessionRow) -> Result<SessionRow, CodecError> {
    let what = "a session row";
    let outcomes = row
        .outcomes
        .into_iter()
        .map(|kept| Ok((kept.sequence, outcome_from(need(kept.outcome, what, "outcome")?)?)));
    Ok(SessionRow {
        client: big(&row.client, what, "client")?,
        last_used: LogTime(row.last_used_us),
        forgotten_through: row.forgotten_through,
        outcomes: outcomes.collect::<Result<_, CodecError>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ids::Position;
    use crate::storage::testing::{row, row_key};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_kind_of_row_survives_its_bytes(row in row()) {
            let bytes = encode_row(&row);
            prop_assert_eq!(bytes[0], FORMAT);
            prop_assert_eq!(decode_row(&row.key(), &bytes).unwrap(), row);
        }

        #[test]
        fn any_bytes_are_read_or_refused(key in row_key(), mut bytes in prop::collection::vec(any::<u8>(), 1..100)) {
            bytes[0] = FORMAT;
            let _ = decode_row(&key, &bytes);
        }
    }

    #[test]
    fn a_row_of_a_newer_format_is_refused_by_name() {
        let error = decode_row(&RowKey::Counters, &[FORMAT + 1]).unwrap_err();
        assert!(error.to_string().contains("has format 2, and this version knows 1"), "{error}");
        assert!(decode_row(&RowKey::Counters, &[]).is_err());
    }

    #[test]
    fn a_mark_that_rotted_is_never_read_as_another() {
        let at = |index| Position { term: 3, node: 2, index };
        let membership = Bytes::from_static(br#"{"log_id":{"leader_id":{"term":3},"index":7}}"#);
        let mark = Mark { applied: Some(at(900)), membership: Some((at(7), membership)) };
        let whole = encode_mark(&mark);
        let mut unread = 0;
        for bit in 8..whole.len() * 8 {
            let mut rotten = whole.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            match decode_mark(&rotten) {
                Ok(read) => assert_eq!(read, mark, "bit {bit}"),
                Err(error) => unread += usize::from(!matches!(error, CodecError::Version { .. })),
            }
        }
        assert!(unread > whole.len() * 7, "{unread} of {} bits", whole.len() * 8);
    }

    #[test]
    fn a_mark_survives_its_bytes() {
        let at = |index| Position { term: 3, node: 2, index };
        for applied in [None, Some(at(9))] {
            for membership in [None, Some((at(4), Bytes::from_static(b"{}")))] {
                let mark = Mark { applied, membership: membership.clone() };
                assert_eq!(decode_mark(&encode_mark(&mark)).unwrap(), mark);
            }
        }
    }

    #[test]
    fn an_untouched_message_takes_few_bytes() {
        let messages = (0..256).map(|at| Untouched {
            number: Number(1_000_000 + at * 2),
            inserted_at: LogTime(1_700_000_000_000_000 + at * 40),
            expires_at: Some(LogTime(1_700_600_000_000_000 + at * 40)),
            size: 512,
        });
        let row = Row::Chunk(ChunkRow {
            queue: QueueId(7),
            priority: 4,
            first: Number(1_000_000),
            epoch: Epoch(1),
            messages: messages.collect(),
        });
        let len = encode_row(&row).len();
        assert!(len < 256 * 12, "{len} bytes for 256 messages");
    }
}
