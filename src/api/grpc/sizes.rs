//! How large a request and an answer may be on the wire.
//!
//! Laws: a request above [`REQUEST_BYTES`] is refused by name, and so is one send of a stream, by
//! itself: what came with it goes on. An answer with messages, queues or accounts is no larger
//! either, whatever they hold: more than that many clients do not take. Sizes are those of the
//! encoded message.

use prost::Message;

use super::error::Refusal;
use crate::queue::limits::{BATCH, HEADER_BYTES, REQUEST_BYTES};

/// What tonic reads at most; what is over [`REQUEST_BYTES`] is refused here, by name.
pub(super) const FRAME_BYTES: usize = 2 * REQUEST_BYTES;
/// Kept of an answer for what stands beside its items.
const BESIDE: usize = 16 << 10;
/// What a message has on the wire beside its content: id, receipt, times and notes.
const NOTED: usize = 800;
/// What a byte of the headers needs on the wire beside itself, where they are many short ones.
const SPREAD: usize = 2;
/// Tag and length of one item.
const FRAMING: usize = 6;
/// The largest result of one send.
const RESULT: usize = 256 << 10;

/// Refuses what is too large for one request.
pub(super) fn check(field: &str, request: &impl Message) -> Result<(), Refusal> {
    let bytes = request.encoded_len();
    if bytes <= REQUEST_BYTES {
        return Ok(());
    }
    let allowed = format!("0 to {REQUEST_BYTES} bytes");
    Err(Refusal::invalid(field, format!("has {bytes} bytes"), allowed))
}

/// Bytes of bodies and headers that so many messages may have together, for their answer to be
/// small enough. What a receive takes is leased: nothing can be left out afterwards.
pub(super) fn contents(most: u32) -> u32 {
    let most = (most as usize).min(BATCH);
    let room = (REQUEST_BYTES - BESIDE).saturating_sub(most * NOTED);
    // Either all headers are as large as they may be, or there is nothing but headers.
    let large = room.saturating_sub(SPREAD * HEADER_BYTES * most);
    u32::try_from(large.max(room / (1 + SPREAD))).unwrap_or(u32::MAX)
}

/// What is left of an answer that is being filled.
pub(super) struct Filling {
    left: usize,
    empty: bool,
}

impl Filling {
    pub(super) fn new() -> Filling {
        Filling { left: REQUEST_BYTES - BESIDE, empty: true }
    }

    /// Whether the item goes into the answer. The first always does.
    pub(super) fn takes(&mut self, item: &impl Message) -> bool {
        let bytes = item.encoded_len() + FRAMING;
        if bytes > self.left && !self.empty {
            return false;
        }
        self.left = self.left.saturating_sub(bytes);
        self.empty = false;
        true
    }

    /// Whether the result of any send still goes into it.
    pub(super) fn has_room(&self) -> bool {
        self.left >= RESULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::grpc::convert;
    use crate::proto::queue::v1 as pb;
    use crate::queue::command::Content;
    use crate::queue::ids::{ContentId, Epoch, LogTime, MessageId, Number, Receipt};
    use crate::queue::limits;
    use crate::queue::note::{Dead, DeadReason, Note, Redriven};
    use crate::queue::outcome::Granted;

    /// A message with everything beside its content as long as it can be.
    fn noted(content: Content) -> pb::Message {
        let id = MessageId { epoch: Epoch(u32::MAX), number: Number(u64::MAX >> 8) };
        let (at, queue) = (LogTime(u64::MAX), "q".repeat(*limits::QUEUE_NAME.end()));
        let dead = Dead {
            reason: DeadReason::MaxDeliveries,
            source: queue.clone(),
            at,
            arrived: Number(1),
            deliveries: u32::MAX,
            received: Some((at, at)),
        };
        let note = Note {
            received: None,
            dead: Some(dead),
            group: Some("g".repeat(*limits::GROUP_NAME.end()).into()),
            redriven: Some(Redriven { id, queue: queue.into(), first: None }),
        };
        let granted = Granted {
            id,
            receipt: Receipt { epoch: Epoch(u32::MAX), counter: u64::MAX },
            content: ContentId(1),
            inserted_at: at,
            expires_at: Some(at),
            visible_at: at,
            dequeue_count: u32::MAX,
            priority: 9,
            note: Some(std::sync::Arc::new(note)),
        };
        convert::granted_out(&granted, content)
    }

    fn body(bytes: usize) -> Content {
        Content { body: vec![0; bytes].into(), ..Content::default() }
    }

    /// As many headers as fit, the shortest first, whose values have so many bytes.
    fn headers(value: usize, bytes: usize) -> Content {
        let letters = || (1u8..=127).map(char::from);
        let short = letters().map(String::from);
        let long = letters().flat_map(|a| letters().map(move |b| format!("{a}{b}")));
        let (mut headers, mut left) = (std::collections::BTreeMap::new(), bytes);
        for name in short.chain(long) {
            let Some(rest) = left.checked_sub(name.len() + value) else { break };
            left = rest;
            headers.insert(name, "v".repeat(value));
        }
        Content { headers, ..Content::default() }
    }

    #[test]
    fn no_receive_answers_more_than_four_mebibytes_whatever_its_messages_hold() {
        let header_bytes = limits::HEADER_BYTES;
        let both = |bytes| Content { body: vec![0; bytes].into(), ..headers(0, header_bytes) };
        let all = [
            body(0),
            body(4_200),
            body(64 << 10),
            body(1 << 20),
            headers(0, 256),
            headers(1, 256),
            headers(0, header_bytes),
            headers(1, header_bytes),
            both(4_200),
            both(60 << 10),
            both((1 << 20) - header_bytes),
        ];
        for content in all {
            let (size, message) = (content.size(), noted(content));
            for most in [1, 2, 3, 10, 64, 100, 150, 200, 500, 1_000u32] {
                let fits = (contents(most) as usize).checked_div(size).unwrap_or(usize::MAX);
                let count = fits.clamp(1, most as usize);
                let messages = vec![message.clone(); count];
                let answer = pb::ReceiveResponse { messages, more: true, durability: None };
                let bytes = answer.encoded_len() + BESIDE;
                assert!(bytes <= REQUEST_BYTES, "{most} asked, {count} of {size}: {bytes} bytes");
            }
        }
        assert!(contents(1_000) > limits::MAX_MESSAGE_BYTES, "the largest message is not alone");
    }

    #[test]
    fn an_answer_is_filled_as_far_as_it_goes_and_never_left_empty() {
        let message = noted(body(64 << 10));
        let mut filling = Filling::new();
        let taken: Vec<pb::Message> =
            std::iter::repeat(message).take_while(|one| filling.takes(one)).collect();
        let bytes = pb::PeekResponse { messages: taken, ..Default::default() }.encoded_len();
        assert!(bytes <= REQUEST_BYTES && bytes + (80 << 10) > REQUEST_BYTES, "{bytes}");
        assert!(!filling.has_room(), "no result of a send would go into it");
        assert!(Filling::new().takes(&noted(body(2 * REQUEST_BYTES))), "the first always goes");
    }
}
