//! One record of the log: what a flush wrote, framed.
//!
//! ```text
//! header 144: what it is, which segment and generation, the log before and after, own checksum
//! payload   : entries, each framed in 24 bytes; padded to 16
//! trailer 16: checksum over header and payload, seeded by the record before; magic; a repeat
//! ```
//!
//! The header has a checksum of its own, so that a record with a bad payload still says which
//! entries it held; the trailer repeats what names the header, so that a write cut short shows.
//! Refused: anything whose lengths do not fit what is there.

use bytes::{Bytes, BytesMut};

use super::{LogEntry, Payload};
use crate::queue::ids::Position;

pub(super) const HEADER: usize = 144;
pub(super) const TRAILER: usize = 16;
/// Records start at multiples of this.
pub(super) const ALIGN: usize = 16;
const FRAME: usize = 24;
const MAGIC: u32 = 0x3152_515a;
const TRAILER_MAGIC: u32 = 0x3154_515a;
const VERSION: u8 = 1;
/// Payloads from this size are written from where they are, without a copy.
const BY_REFERENCE: usize = 4096;
/// No record is longer; a length above it is not believed.
pub(super) const MAX_PAYLOAD: usize = 1 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Entries that follow the log before.
    Entries,
    /// The log ends at `last` from here on.
    Truncate,
    /// All up to `purged` is no longer needed.
    Purge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    pub segment: u64,
    pub generation: u64,
    /// The checksum of the record before.
    pub seed: u32,
    pub count: u32,
    pub payload: u32,
    pub before: Option<Position>,
    pub last: Option<Position>,
    pub purged: Option<Position>,
    pub committed: Option<Position>,
}

/// What stands at a place of a segment.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    /// Nothing of this segment's generation.
    Nothing,
    BadHeader,
    BadBody {
        header: Header,
        trailer_good: bool,
    },
    Good {
        header: Header,
        checksum: u32,
    },
}

/// A record ready to be written as slices.
#[derive(Debug)]
pub(super) struct Encoded {
    parts: Vec<Bytes>,
    pub checksum: u32,
    pub len: u64,
}

impl Encoded {
    pub fn slices(&self) -> Vec<&[u8]> {
        self.parts.iter().map(|part| part.as_ref()).collect()
    }
}

pub(super) fn put_position(out: &mut Vec<u8>, position: Option<Position>) {
    let position = position.unwrap_or_default();
    out.extend_from_slice(&position.term.to_le_bytes());
    out.extend_from_slice(&position.node.to_le_bytes());
    out.extend_from_slice(&position.index.to_le_bytes());
}

pub(super) fn word32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn word64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

pub(super) fn position_at(bytes: &[u8], at: usize) -> Option<Position> {
    Some(Position {
        term: word64(bytes, at)?,
        node: word64(bytes, at + 8)?,
        index: word64(bytes, at + 16)?,
    })
}

/// Whether another index can follow: a log does not reach the end of the numbers, and what says
/// so is not believed.
pub(super) fn has_next(position: Option<Position>) -> bool {
    position.is_none_or(|position| position.index < u64::MAX)
}

fn padding(len: usize) -> usize {
    len.next_multiple_of(ALIGN) - len
}

impl Header {
    /// Bytes of the whole record.
    pub fn total(&self) -> usize {
        HEADER + (self.payload as usize).next_multiple_of(ALIGN) + TRAILER
    }

    /// Index of the first entry; meaningful for entries only.
    pub fn first(&self) -> u64 {
        self.last.map_or(0, |last| (last.index + 1).saturating_sub(u64::from(self.count)))
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        let positions = [self.before, self.last, self.purged, self.committed];
        let flags = positions
            .iter()
            .rev()
            .fold(0u16, |flags, some| (flags << 1) | u16::from(some.is_some()));
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.push(self.kind as u8 + 1);
        out.push(VERSION);
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.seed.to_le_bytes());
        out.extend_from_slice(&self.count.to_le_bytes());
        out.extend_from_slice(&self.payload.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for position in positions {
            put_position(&mut out, position);
        }
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out
    }

    /// `None` unless the header's own checksum is good.
    pub fn decode(bytes: &[u8]) -> Option<Header> {
        let summed = bytes.get(..136)?;
        if word32(bytes, 0)? != MAGIC || crc32c::crc32c(summed) != word32(bytes, 136)? {
            return None;
        }
        let kind = match *bytes.get(4)? {
            1 => Kind::Entries,
            2 => Kind::Truncate,
            3 => Kind::Purge,
            _ => return None,
        };
        let flags = (word32(bytes, 4)? >> 16) as u16;
        let position = |number: usize| {
            let held = flags & (1 << number) != 0;
            position_at(bytes, 40 + number * 24).filter(|_| held)
        };
        let header = Header {
            kind,
            segment: word64(bytes, 8)?,
            generation: word64(bytes, 16)?,
            seed: word32(bytes, 24)?,
            count: word32(bytes, 28)?,
            payload: word32(bytes, 32)?,
            before: position(0),
            last: position(1),
            purged: position(2),
            committed: position(3),
        };
        let positions = [header.before, header.last, header.purged, header.committed];
        let sound = *bytes.get(5)? == VERSION
            && positions.into_iter().all(has_next)
            && header.payload as usize <= MAX_PAYLOAD
            && (header.kind != Kind::Entries || (header.count > 0 && header.last.is_some()));
        sound.then_some(header)
    }
}

/// The seed of a segment's first record.
pub(super) fn first_seed(segment: u64, generation: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&generation.to_le_bytes()), &segment.to_le_bytes())
}

/// Frames entries; sets the header's count and payload length.
pub(super) fn encode(mut header: Header, entries: &[LogEntry]) -> Encoded {
    let payload: usize = entries.iter().map(|entry| FRAME + entry.payload.bytes().len()).sum();
    header.count = entries.len() as u32;
    header.payload = payload as u32;
    let head = header.encode();
    let header_sum = word32(&head, 136).unwrap_or_default();
    let mut parts = Vec::with_capacity(3);
    let mut arena = BytesMut::with_capacity(HEADER + TRAILER + ALIGN + entries.len() * 256);
    arena.extend_from_slice(&head);
    for entry in entries {
        let (kind, body) = (entry.payload.tag(), entry.payload.bytes());
        arena.extend_from_slice(&entry.position.term.to_le_bytes());
        arena.extend_from_slice(&entry.position.node.to_le_bytes());
        arena.extend_from_slice(&kind.to_le_bytes());
        arena.extend_from_slice(&(body.len() as u32).to_le_bytes());
        if body.len() < BY_REFERENCE {
            arena.extend_from_slice(body);
        } else {
            parts.push(arena.split().freeze());
            parts.push(body.clone());
        }
    }
    arena.extend_from_slice(&[0; ALIGN][..padding(payload)]);
    parts.push(arena.split().freeze());
    let checksum = parts.iter().fold(header.seed, |sum, part| crc32c::crc32c_append(sum, part));
    arena.extend_from_slice(&checksum.to_le_bytes());
    arena.extend_from_slice(&TRAILER_MAGIC.to_le_bytes());
    arena.extend_from_slice(&header.payload.to_le_bytes());
    arena.extend_from_slice(&header_sum.to_le_bytes());
    parts.push(arena.freeze());
    Encoded { parts, checksum, len: header.total() as u64 }
}

/// A record of entries that are lost: whole but for its checksum, so that it is found as a hole.
pub(super) fn encode_lost(header: Header) -> (Vec<u8>, u32) {
    let mut bytes = header.encode();
    let header_sum = word32(&bytes, 136).unwrap_or_default();
    bytes.extend_from_slice(&[0; ALIGN][..padding(0)]);
    let checksum = !crc32c::crc32c_append(header.seed, &bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes.extend_from_slice(&TRAILER_MAGIC.to_le_bytes());
    bytes.extend_from_slice(&header.payload.to_le_bytes());
    bytes.extend_from_slice(&header_sum.to_le_bytes());
    (bytes, checksum)
}

/// Looks at one place of a segment. Only bytes of this segment's generation count: what
/// recycling left behind is nothing.
pub(super) fn inspect(bytes: &[u8], at: usize, segment: u64, generation: u64) -> Found {
    let Some(rest) = bytes.get(at..) else { return Found::Nothing };
    if word32(rest, 0) != Some(MAGIC) {
        return Found::Nothing;
    }
    if word64(rest, 8) != Some(segment) || word64(rest, 16) != Some(generation) {
        return Found::Nothing;
    }
    let Some(header) = Header::decode(rest) else { return Found::BadHeader };
    let trailer_at = header.total() - TRAILER;
    let summed = rest.get(..trailer_at);
    if header.kind != Kind::Entries {
        // All it says is in the header, whose own checksum is good.
        let checksum = summed.map(|summed| crc32c::crc32c_append(header.seed, summed));
        return match checksum {
            Some(checksum) => Found::Good { header, checksum },
            None => Found::BadBody { header, trailer_good: false },
        };
    }
    let trailer_good = word32(rest, trailer_at + 4) == Some(TRAILER_MAGIC)
        && word32(rest, trailer_at + 8) == Some(header.payload)
        && word32(rest, trailer_at + 12) == word32(rest, 136);
    let mut checksum = summed.map(|summed| crc32c::crc32c_append(header.seed, summed));
    if crate::mutants::is_chosen("checksum-off") {
        checksum = checksum.and(word32(rest, trailer_at));
    }
    match checksum {
        Some(checksum) if trailer_good && word32(rest, trailer_at) == Some(checksum) => {
            Found::Good { header, checksum }
        }
        _ => Found::BadBody { header, trailer_good },
    }
}

/// The entries of a good record; payloads are slices of `record`. `None` if frames and lengths
/// do not fit.
pub(super) fn entries(header: &Header, record: &Bytes) -> Option<Vec<LogEntry>> {
    let end = HEADER.checked_add(header.payload as usize)?;
    let mut at = HEADER;
    let first = header.first();
    let mut entries = Vec::with_capacity((header.count as usize).min(1 << 16));
    for number in 0..u64::from(header.count) {
        let position = Position {
            term: word64(record, at)?,
            node: word64(record, at + 8)?,
            index: first.checked_add(number)?,
        };
        let kind = word32(record, at + 16)?;
        let length = word32(record, at + 20)? as usize;
        let from = at + FRAME;
        at = from.checked_add(length).filter(|at| *at <= end && *at <= record.len())?;
        let payload = Payload::from_parts(kind, record.slice(from..at))?;
        entries.push(LogEntry { position, payload });
    }
    (at == end && entries.last().map(|entry| entry.position) == header.last).then_some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_says_it_reaches_the_end_of_the_numbers_is_not_believed() {
        let at = |index| Some(Position { term: 1, node: 1, index });
        let header = |index| Header {
            kind: Kind::Entries,
            segment: 1,
            generation: 1,
            seed: 0,
            count: 1,
            payload: 0,
            before: None,
            last: at(index),
            purged: None,
            committed: None,
        };
        let last = header(u64::MAX - 1);
        assert_eq!(Header::decode(&last.encode()), Some(last));
        assert_eq!(last.first(), u64::MAX - 1);
        assert_eq!(Header::decode(&header(u64::MAX).encode()), None);
        let purged = Header { purged: at(u64::MAX), ..header(7) };
        assert_eq!(Header::decode(&purged.encode()), None);
    }
}
