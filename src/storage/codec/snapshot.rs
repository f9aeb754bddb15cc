//! The parts of a snapshot's stream.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::rows::{mark_from, mark_to};
use super::{CodecError, Mark, big, big_bytes, content_from, content_to, need};
use crate::proto::log::v1 as pb;
use crate::proto::log::v1::snapshot_part::Part as Wire;
use crate::queue::command::Content;
use crate::queue::ids::{ContentId, Digest};

const PART: &str = "a part of a snapshot";

/// What a snapshot's stream is made of, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    Header {
        format: u32,
        mark: Mark,
        digest: Digest,
    },
    /// A row as it is stored.
    Row {
        key: Bytes,
        value: Bytes,
    },
    Content {
        id: ContentId,
        content: Content,
    },
    End {
        rows: u64,
        contents: u64,
    },
}

/// Appends a part with its length in front.
pub fn encode_part(part: Part, out: &mut BytesMut) {
    let part = pb::SnapshotPart { part: Some(part_to(part)) };
    let len = part.encoded_len();
    out.reserve(4 + len);
    out.extend_from_slice(&(len as u32).to_le_bytes());
    part.encode_raw(out);
}

/// Reads a part, without the length that stood in front of it.
pub fn decode_part(bytes: Bytes) -> Result<Part, CodecError> {
    let part = pb::SnapshotPart::decode(bytes)
        .map_err(|source| CodecError::Proto { what: PART, source })?;
    Ok(match need(part.part, PART, "kind")? {
        Wire::Header(header) => Part::Header {
            format: header.format,
            mark: mark_from(need(header.mark, PART, "position")?),
            digest: Digest(big(&header.digest, PART, "digest")?),
        },
        Wire::Row(row) => Part::Row { key: row.key, value: row.value },
        Wire::Content(stored) => Part::Content {
            id: ContentId(stored.id),
            content: content_from(need(stored.content, PART, "content")?),
        },
        Wire::End(end) => Part::End { rows: end.rows, contents: end.contents },
    })
}

fn part_to(part: Part) -> Wire {
    match part {
        Part::Header { format, mark, digest } => Wire::Header(pb::SnapshotHeader {
            format,
            mark: Some(mark_to(&mark)),
            digest: big_bytes(digest.0),
        }),
        Part::Row { key, value } => Wire::Row(pb::StoredRow { key, value }),
        Part::Content { id, content } => {
            Wire::Content(pb::StoredContent { id: id.0, content: Some(content_to(&content)) })
        }
        Part::End { rows, contents } => Wire::End(pb::SnapshotEnd { rows, contents }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ids::Position;
    use proptest::prelude::*;

    #[test]
    fn every_part_survives_its_bytes() {
        let at = Position { term: 1, node: 2, index: 3 };
        let mark = Mark { applied: Some(at), membership: Some((at, Bytes::from_static(b"m"))) };
        let headers = [("a".to_owned(), "b".to_owned())].into();
        let content = Content { body: Bytes::from_static(b"body"), headers };
        let parts = [
            Part::Header { format: 1, mark, digest: Digest(9) },
            Part::Row { key: Bytes::from_static(b"k"), value: Bytes::from_static(b"v") },
            Part::Content { id: ContentId(7), content },
            Part::End { rows: 1, contents: 1 },
        ];
        for part in parts {
            let mut bytes = BytesMut::new();
            encode_part(part.clone(), &mut bytes);
            let bytes = bytes.freeze();
            assert_eq!(
                u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize,
                bytes.len() - 4
            );
            assert_eq!(decode_part(bytes.slice(4..)).unwrap(), part);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = decode_part(Bytes::from(bytes));
        }
    }
}
