//! The newtypes of the queue room: every id, counter and time has its own.

use std::fmt;

/// Log time T in microseconds since the Unix epoch: strictly growing, stamped by the leader,
/// the only time that `apply` knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogTime(pub u64);

/// A span of log time in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub u64);

/// A place in the log: term and node name the leader that wrote it. Ordered by index only
/// inside one term and node; comparing across leaders is for the log itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    pub term: u64,
    pub node: u64,
    pub index: u64,
}

/// A region's generation; grows at every promotion.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// A queue's internal id. A queue deleted and made again has a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId(pub u64);

/// A message's number inside an epoch, from one counter shared by all queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(pub u64);

/// What names a message to a client: the epoch that made it and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    pub epoch: Epoch,
    pub number: Number,
}

/// A pop receipt: the grant or send that may still change the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Receipt {
    pub epoch: Epoch,
    pub counter: u64,
}

/// Names one content (body and headers) in the body store; a replaced body gets a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentId(pub u64);

/// A 128-bit sum of row hashes: equal states have equal digests on every replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Digest(pub u128);

impl LogTime {
    /// The time `span` later; saturates at the end of time.
    #[must_use]
    pub fn after(self, span: Span) -> LogTime {
        LogTime(self.0.saturating_add(span.0))
    }

    /// How much later this is than `before`; nothing when it is not.
    #[must_use]
    pub fn since(self, before: LogTime) -> Span {
        Span(self.0.saturating_sub(before.0))
    }
}

impl Span {
    pub const ZERO: Span = Span(0);

    /// A span of whole seconds.
    #[must_use]
    pub const fn from_secs(secs: u64) -> Span {
        Span(secs * 1_000_000)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.term, self.node, self.index)
    }
}

/// On every face a message id is a lower-case UUID: version 8 (RFC 9562, section 5.8), the
/// epoch in the first 32 bits and the number in the last 62 and a few more bits.
impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number.0;
        let high = (number >> 60) as u16 & 0xf;
        let low = number & ((1 << 60) - 1);
        let bits = (u128::from(self.epoch.0) << 96)
            | (u128::from(0x8000 | high) << 64)
            | (0b10 << 62)
            | u128::from(low);
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        f.write_str(uuid::Uuid::from_u128(bits).hyphenated().encode_lower(&mut text))
    }
}

impl MessageId {
    /// Reads what `Display` wrote. `None` for anything else, other UUIDs included.
    #[must_use]
    pub fn parse(text: &str) -> Option<MessageId> {
        if text.len() != 36 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return None;
        }
        let mut bits: u128 = 0;
        for (at, byte) in text.bytes().enumerate() {
            if matches!(at, 8 | 13 | 18 | 23) {
                if byte != b'-' {
                    return None;
                }
                continue;
            }
            bits = (bits << 4) | u128::from((byte as char).to_digit(16)?);
        }
        let low = (bits as u64) & ((1 << 60) - 1);
        let high = ((bits >> 64) as u64) & 0xf;
        let id =
            MessageId { epoch: Epoch((bits >> 96) as u32), number: Number((high << 60) | low) };
        (id.to_string() == text).then_some(id)
    }
}

/// A receipt is opaque to clients: `r<epoch>-<counter>` in hex.
impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{:x}-{:x}", self.epoch.0, self.counter)
    }
}

impl Receipt {
    /// Reads what `Display` wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Receipt> {
        let (epoch, counter) = text.strip_prefix('r')?.split_once('-')?;
        let receipt = Receipt {
            epoch: Epoch(u32::from_str_radix(epoch, 16).ok()?),
            counter: u64::from_str_radix(counter, 16).ok()?,
        };
        (receipt.to_string() == text).then_some(receipt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_survives_its_text_and_is_a_version_8_uuid() {
        for number in [0, 1, 0xffff, 1 << 59, 1 << 60, u64::MAX] {
            for epoch in [0, 1, u32::MAX] {
                let id = MessageId { epoch: Epoch(epoch), number: Number(number) };
                let text = id.to_string();
                assert_eq!(MessageId::parse(&text), Some(id), "{text}");
                let uuid = uuid::Uuid::parse_str(&text).expect("a UUID");
                assert_eq!(uuid.get_version_num(), 8, "{text}");
                assert_eq!(uuid.get_variant(), uuid::Variant::RFC4122, "{text}");
            }
        }
        assert_eq!(MessageId::parse("550e8400-e29b-41d4-a716-446655440000"), None);
        assert_eq!(MessageId::parse(""), None);
    }

    #[test]
    fn a_receipt_survives_its_text() {
        let receipt = Receipt { epoch: Epoch(3), counter: 0xabc };
        assert_eq!(Receipt::parse(&receipt.to_string()), Some(receipt));
        assert_eq!(Receipt::parse("r03-abc"), None, "only the canonical form");
    }
}
