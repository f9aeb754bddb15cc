//! The tail of a deposed primary on its way: `replay.proto`.

use bytes::Bytes;
use prost::Message as _;

use super::notes::{note_from, note_to};
use super::outcomes::{sent_from, sent_to};
use super::region::{epoch_from, epoch_to};
use super::{
    CodecError, big, big_bytes, content_from, content_to, id_from, id_to, need, priority_from,
    priority_to, settings_from, settings_to,
};
use crate::proto::log::v1 as pb;
use crate::queue::authority::command::Actor;
use crate::queue::authority::replay::{
    ReplayTail, Replayed, TailQueue, TailSend, TailSession, TailUnit,
};
use crate::queue::ids::{LogTime, Number, QueueId};
use crate::queue::note::Note;

const WHAT: &str = "a part of a tail";

/// A part of a tail as it travels and as it is kept.
#[must_use]
pub fn encode_replay(part: &ReplayTail) -> Bytes {
    let message = pb::ReplayTail {
        who: part.by.who.clone(),
        at_us: part.by.at_us,
        epoch: Some(epoch_to(&part.epoch)),
        after: part.after.0,
        through: part.through.0,
        first: part.first.0,
        ended_at_us: part.ended_at.0,
        last: part.last,
        all: part.all,
        queues: part.queues.iter().map(queue_to).collect(),
        units: part.units.iter().map(unit_to).collect(),
    };
    message.encode_to_vec().into()
}

/// Reads what [`encode_replay`] wrote.
pub fn decode_replay(bytes: Bytes) -> Result<ReplayTail, CodecError> {
    let part =
        pb::ReplayTail::decode(bytes).map_err(|source| CodecError::Proto { what: WHAT, source })?;
    Ok(ReplayTail {
        by: Actor { who: part.who, at_us: part.at_us },
        epoch: epoch_from(need(part.epoch, WHAT, "epoch")?),
        after: Number(part.after),
        through: Number(part.through),
        first: Number(part.first),
        ended_at: LogTime(part.ended_at_us),
        last: part.last,
        all: part.all,
        queues: part.queues.into_iter().map(queue_from).collect::<Result<_, _>>()?,
        units: part.units.into_iter().map(unit_from).collect::<Result<_, _>>()?,
    })
}

fn queue_to(queue: &TailQueue) -> pb::TailQueue {
    pb::TailQueue {
        id: queue.id.0,
        account: queue.account.clone(),
        name: queue.name.clone(),
        created_at_us: queue.created_at.0,
        make: queue.make.as_ref().map(|make| pb::CreateQueue {
            name: queue.name.clone(),
            metadata: make.0.clone(),
            settings: Some(settings_to(&make.1)),
        }),
    }
}

fn queue_from(queue: pb::TailQueue) -> Result<TailQueue, CodecError> {
    let make = |make: pb::CreateQueue| {
        let settings = settings_from(need(make.settings, WHAT, "settings")?);
        Ok(Box::new((make.metadata, settings)))
    };
    Ok(TailQueue {
        id: QueueId(queue.id),
        account: queue.account,
        name: queue.name,
        created_at: LogTime(queue.created_at_us),
        make: queue.make.map(make).transpose()?,
    })
}

fn unit_to(unit: &TailUnit) -> pb::TailUnit {
    let session = |session: &TailSession| pb::TailSession {
        client: big_bytes(session.client),
        sequence: session.sequence,
        transacted: session.transacted,
        answer: session.answer.iter().map(sent_to).collect(),
        ran: session.ran,
    };
    pb::TailUnit {
        session: unit.session.as_ref().map(session),
        messages: unit.messages.iter().map(message_to).collect(),
    }
}

fn unit_from(unit: pb::TailUnit) -> Result<TailUnit, CodecError> {
    let session = |session: pb::TailSession| {
        Ok(TailSession {
            client: big(&session.client, WHAT, "client")?,
            sequence: session.sequence,
            transacted: session.transacted,
            answer: session.answer.into_iter().map(sent_from).collect::<Result<_, _>>()?,
            ran: session.ran,
        })
    };
    Ok(TailUnit {
        session: unit.session.map(session).transpose()?,
        messages: unit.messages.into_iter().map(message_from).collect::<Result<_, _>>()?,
    })
}

fn message_to(message: &TailSend) -> pb::TailMessage {
    pb::TailMessage {
        queue: message.queue,
        id: Some(id_to(message.id)),
        content: Some(content_to(&message.content)),
        priority: priority_to(message.priority),
        expires_at_us: message.expires_at.map(|at| at.0),
        visible_at_us: message.visible_at.0,
        key: message.key.map(big_bytes).unwrap_or_default(),
        note: (!message.note.is_empty()).then(|| note_to(&message.note)),
    }
}

fn message_from(message: pb::TailMessage) -> Result<TailSend, CodecError> {
    let key = match message.key.is_empty() {
        true => None,
        false => Some(big(&message.key, WHAT, "deduplication key")?),
    };
    let note = message.note.map(note_from).transpose()?;
    Ok(TailSend {
        queue: message.queue,
        id: id_from(need(message.id, WHAT, "message id")?),
        content: content_from(need(message.content, WHAT, "content")?),
        priority: priority_from(message.priority, WHAT)?,
        expires_at: message.expires_at_us.map(LogTime),
        visible_at: LogTime(message.visible_at_us),
        key,
        note: note.map_or_else(Note::default, |note| (*note).clone()),
    })
}

pub(super) fn replayed_to(replayed: &Replayed) -> pb::Replayed {
    pb::Replayed {
        epoch: Some(epoch_to(&replayed.epoch)),
        through: replayed.through.0,
        sent: replayed.sent,
        skipped: replayed.skipped,
        done: replayed.done,
    }
}

pub(super) fn replayed_from(replayed: pb::Replayed) -> Result<Replayed, CodecError> {
    Ok(Replayed {
        epoch: epoch_from(need(replayed.epoch, "a replayed tail", "epoch")?),
        through: Number(replayed.through),
        sent: replayed.sent,
        skipped: replayed.skipped,
        done: replayed.done,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::testing::replay;

    proptest! {
        #[test]
        fn a_part_of_a_tail_survives_its_bytes(part in replay()) {
            prop_assert_eq!(decode_replay(encode_replay(&part)).unwrap(), part);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_replay(bytes.into());
        }
    }
}
