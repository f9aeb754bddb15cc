//! The notes of messages, in rows and in kept outcomes.

use std::sync::Arc;

use super::{CodecError, id_from, id_to, need};
use crate::proto::log::v1 as pb;
use crate::queue::ids::{LogTime, Number};
use crate::queue::note::{Dead, DeadReason, Note, Redriven};

pub(super) fn note_to(note: &Note) -> pb::Note {
    pb::Note {
        first_received_us: note.received.map(|(first, _)| first.0),
        last_received_us: note.received.map(|(_, last)| last.0),
        dead: note.dead.as_ref().map(dead_to),
        group: note.group.as_deref().unwrap_or_default().to_owned(),
        redriven: note.redriven.as_ref().map(|before| pb::Redriven {
            id: Some(id_to(before.id)),
            queue: before.queue.as_ref().to_owned(),
            first: before.first.map(id_to),
        }),
    }
}

pub(super) fn note_from(note: pb::Note) -> Result<Arc<Note>, CodecError> {
    Ok(Arc::new(Note {
        received: times(note.first_received_us, note.last_received_us),
        dead: note.dead.map(dead_from).transpose()?,
        group: (!note.group.is_empty()).then(|| note.group.into()),
        redriven: note.redriven.map(redriven_from).transpose()?,
    }))
}

fn redriven_from(before: pb::Redriven) -> Result<Redriven, CodecError> {
    let id = id_from(need(before.id, "a redriven message", "id")?);
    Ok(Redriven { id, queue: before.queue.into(), first: before.first.map(id_from) })
}

pub(super) fn reason_to(reason: DeadReason) -> pb::DeadReason {
    match reason {
        DeadReason::MaxDeliveries => pb::DeadReason::MaxDeliveries,
    }
}

pub(super) fn reason_from(reason: i32) -> Result<DeadReason, CodecError> {
    match pb::DeadReason::try_from(reason) {
        Ok(pb::DeadReason::MaxDeliveries) => Ok(DeadReason::MaxDeliveries),
        Ok(pb::DeadReason::Unspecified) | Err(_) => {
            Err(CodecError::Wrong { what: "a dead letter", field: "reason" })
        }
    }
}

fn dead_to(dead: &Dead) -> pb::Dead {
    pb::Dead {
        reason: reason_to(dead.reason).into(),
        source: dead.source.clone(),
        at_us: dead.at.0,
        arrived: dead.arrived.0,
        deliveries: dead.deliveries,
        first_received_us: dead.received.map(|(first, _)| first.0),
        last_received_us: dead.received.map(|(_, last)| last.0),
    }
}

fn dead_from(dead: pb::Dead) -> Result<Dead, CodecError> {
    Ok(Dead {
        reason: reason_from(dead.reason)?,
        source: dead.source,
        at: LogTime(dead.at_us),
        arrived: Number(dead.arrived),
        deliveries: dead.deliveries,
        received: times(dead.first_received_us, dead.last_received_us),
    })
}

fn times(first: Option<u64>, last: Option<u64>) -> Option<(LogTime, LogTime)> {
    first.zip(last).map(|(first, last)| (LogTime(first), LogTime(last)))
}
