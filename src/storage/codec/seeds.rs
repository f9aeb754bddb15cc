//! Seeds: a state on its way to an empty secondary, in commands and in rows.

use std::sync::Arc;

use super::region::{self, line_from, line_to};
use super::replay::{replayed_from, replayed_to};
use super::rows::{decode_row, encode_row};
use super::{CodecError, big, big_bytes, need, position_from, position_to};
use crate::proto::log::v1 as pb;
use crate::proto::log::v1::region_command::Verb as Wire;
use crate::queue::authority::command::{RegionVerb, SeedChunk};
use crate::queue::authority::seed::{SeedRow, Seeding};
use crate::queue::command::Content;
use crate::queue::ids::{ContentId, Digest};
use crate::queue::rows::{Row, RowKey};
use crate::storage::keys;

const SEED: &str = "a seed";

/// A verb about regions as it travels; those that are of no seed are written elsewhere.
#[must_use]
pub fn verb_to(verb: &RegionVerb) -> Wire {
    match verb {
        RegionVerb::SeedBegin { attachment, id, position, ledger, replayed, base, resumes } => {
            Wire::SeedBegin(pb::SeedBegin {
                attachment: big_bytes(*attachment),
                id: big_bytes(*id),
                position: Some(position_to(*position)),
                ledger: ledger.iter().map(line_to).collect(),
                replayed: replayed.iter().map(replayed_to).collect(),
                base: base.map(|base| big_bytes(base.0)).unwrap_or_default(),
                resumes: resumes.map(big_bytes).unwrap_or_default(),
            })
        }
        RegionVerb::SeedChunk(chunk) => Wire::SeedChunk(pb::SeedChunk {
            attachment: big_bytes(chunk.attachment),
            id: big_bytes(chunk.id),
            number: chunk.number,
            rows: chunk.rows.iter().map(stored_to).collect(),
            contents: chunk.contents.iter().map(content_to).collect(),
            removed: chunk.removed.iter().map(|key| keys::row(key).into()).collect(),
        }),
        RegionVerb::SeedCommit { attachment, id, chunks, digest } => {
            Wire::SeedCommit(pb::SeedCommit {
                attachment: big_bytes(*attachment),
                id: big_bytes(*id),
                chunks: *chunks,
                digest: big_bytes(digest.0),
            })
        }
        RegionVerb::SeedDrop { attachment } => {
            Wire::SeedDrop(pb::SeedDrop { attachment: big_bytes(*attachment) })
        }
        RegionVerb::SeedFree => Wire::SeedFree(pb::SeedFree {}),
        other => region::verb_to(other),
    }
}

/// Reads what [`verb_to`] wrote of a seed.
pub fn verb_from(verb: Wire) -> Result<RegionVerb, CodecError> {
    let wide = |bytes: &[u8], field| big(bytes, SEED, field);
    Ok(match verb {
        Wire::SeedBegin(it) => RegionVerb::SeedBegin {
            attachment: wide(&it.attachment, "attachment")?,
            id: wide(&it.id, "id")?,
            position: position_from(need(it.position, SEED, "position")?),
            ledger: it.ledger.into_iter().map(line_from).collect::<Result<_, _>>()?,
            replayed: it.replayed.into_iter().map(replayed_from).collect::<Result<_, _>>()?,
            base: wide_from(&it.base, "base")?.map(Digest),
            resumes: wide_from(&it.resumes, "seed to go on with")?,
        },
        Wire::SeedChunk(it) => RegionVerb::SeedChunk(SeedChunk {
            attachment: wide(&it.attachment, "attachment")?,
            id: wide(&it.id, "id")?,
            number: it.number,
            rows: it.rows.iter().map(stored_from).collect::<Result<_, _>>()?,
            contents: it.contents.into_iter().map(content_from).collect(),
            removed: it.removed.iter().map(|key| key_from(key)).collect::<Result<_, _>>()?,
        }),
        Wire::SeedCommit(it) => RegionVerb::SeedCommit {
            attachment: wide(&it.attachment, "attachment")?,
            id: wide(&it.id, "id")?,
            chunks: it.chunks,
            digest: Digest(wide(&it.digest, "digest")?),
        },
        Wire::SeedDrop(it) => {
            RegionVerb::SeedDrop { attachment: wide(&it.attachment, "attachment")? }
        }
        Wire::SeedFree(pb::SeedFree {}) => RegionVerb::SeedFree,
        _ => return Err(CodecError::Wrong { what: SEED, field: "verb" }),
    })
}

fn wide_from(bytes: &[u8], field: &'static str) -> Result<Option<u128>, CodecError> {
    if bytes.is_empty() { Ok(None) } else { big(bytes, SEED, field).map(Some) }
}

fn stored_to(row: &Row) -> pb::SeedStoredRow {
    pb::SeedStoredRow { key: keys::row(&row.key()).into(), value: encode_row(row).into() }
}

fn stored_from(row: &pb::SeedStoredRow) -> Result<Row, CodecError> {
    let key = key_from(&row.key)?;
    decode_row(&key, &row.value)
}

fn key_from(key: &[u8]) -> Result<RowKey, CodecError> {
    let wrong = || CodecError::Wrong { what: SEED, field: "key" };
    // A seed in a seed would be read without an end.
    keys::parse_row(key).filter(|key| !matches!(key, RowKey::Seed(_))).ok_or_else(wrong)
}

fn content_to((id, content): &(ContentId, Content)) -> pb::SeedContent {
    pb::SeedContent { id: id.0, body: content.body.clone(), headers: content.headers.clone() }
}

fn content_from(content: pb::SeedContent) -> (ContentId, Content) {
    (ContentId(content.id), Content { body: content.body, headers: content.headers })
}

pub(super) fn seeding_to(seeding: &Seeding) -> pb::Seeding {
    pb::Seeding {
        id: big_bytes(seeding.id),
        position: Some(position_to(seeding.position)),
        ledger: seeding.ledger.iter().map(line_to).collect(),
        replayed: seeding.replayed.iter().map(replayed_to).collect(),
        base: seeding.base.map(|base| big_bytes(base.0)).unwrap_or_default(),
        next: seeding.next,
    }
}

pub(super) fn seeding_from(seeding: pb::Seeding) -> Result<Seeding, CodecError> {
    Ok(Seeding {
        id: big(&seeding.id, SEED, "id")?,
        position: position_from(need(seeding.position, SEED, "position")?),
        ledger: seeding.ledger.into_iter().map(line_from).collect::<Result<_, _>>()?,
        replayed: seeding.replayed.into_iter().map(replayed_from).collect::<Result<_, _>>()?,
        base: wide_from(&seeding.base, "base")?.map(Digest),
        next: seeding.next,
    })
}

pub(super) fn row_to(row: &SeedRow) -> pb::SeedRow {
    pb::SeedRow {
        number: row.number,
        rows: row.rows.iter().map(stored_to).collect(),
        contents: row.contents.iter().map(|id| id.0).collect(),
        removed: row.removed.iter().map(|key| keys::row(key).into()).collect(),
    }
}

pub(super) fn row_from(row: pb::SeedRow) -> Result<SeedRow, CodecError> {
    let rows: Result<Vec<Row>, CodecError> = row.rows.iter().map(stored_from).collect();
    let removed: Result<Vec<RowKey>, CodecError> =
        row.removed.iter().map(|key| key_from(key)).collect();
    Ok(SeedRow {
        number: row.number,
        rows: Arc::new(rows?),
        contents: Arc::new(row.contents.into_iter().map(ContentId).collect()),
        removed: Arc::new(removed?),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::testing::row;

    proptest! {
        #[test]
        fn a_seed_survives_its_bytes(
            rows in prop::collection::vec(row(), 0..4),
            wide in any::<(u128, u128)>(),
            number in any::<u64>(),
            contents in prop::collection::vec(any::<(u64, Vec<u8>)>(), 0..4),
        ) {
            let content = |(id, body): (u64, Vec<u8>)| {
                (ContentId(id), Content { body: body.into(), ..Content::default() })
            };
            let contents: Vec<_> = contents.into_iter().map(content).collect();
            let ids = contents.iter().map(|(id, _)| *id).collect();
            let (attachment, id) = wide;
            let removed: Vec<RowKey> = rows.iter().map(Row::key).collect();
            let kept = SeedRow {
                number,
                rows: Arc::new(rows.clone()),
                contents: Arc::new(ids),
                removed: Arc::new(removed.clone()),
            };
            prop_assert_eq!(row_from(row_to(&kept)).unwrap(), kept);
            let chunk = SeedChunk { attachment, id, number, rows, contents, removed };
            let verb = RegionVerb::SeedChunk(chunk);
            prop_assert_eq!(verb_from(verb_to(&verb)).unwrap(), verb);
        }
    }
}
