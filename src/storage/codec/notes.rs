//! The notes of messages, in rows and in kept outcomes.

use std::sync::Arc;

use super::{CodecError, need};
use crate::proto::log::v1 as pb;
use crate::queue::ids::{LogTime, Number};
use crate::queue::note::{Dead, DeadReason, Note};

pub(super) fn note_to(note: &Note) -> pb::Note {
    pb::Note {
        first_received_us: note.received.map(|(first, _)| first.0),
        last_received_us: note.received.map(|(_, last)| last.0),
        dead: note.dead.as_ref().map(dead_to),
        group: note.group.as_deref().unwrap_or_default().to_owned(),
    }
}

pub(super) fn note_from(note: pb::Note) -> Result<Arc<Note>, CodecError> {
    Ok(Arc::new(Note {
        received: times(note.first_received_us, note.last_received_us),
        dead: note.dead.map(dead_from).transpose()?,
        group: (!note.group.is_empty()).then(|| note.group.into()),
    }))
}

fn dead_to(dead: &Dead) -> pb::Dead {
    let reason = match dead.reason {
        DeadReason::MaxDeliveries => pb::DeadReason::MaxDeliveries,
    };
    pb::Dead {
        reason: reason.into(),
        source: dead.source.clone(),
        at_us: dead.at.0,
        arrived: dead.arrived.0,
        deliveries: dead.deliveries,
        first_received_us: dead.received.map(|(first, _)| first.0),
        last_received_us: dead.received.map(|(_, last)| last.0),
    }
}

fn dead_from(dead: pb::Dead) -> Result<Dead, CodecError> {
    let reason = match pb::DeadReason::try_from(dead.reason) {
        Ok(pb::DeadReason::MaxDeliveries) => Some(DeadReason::MaxDeliveries),
        Ok(pb::DeadReason::Unspecified) | Err(_) => None,
    };
    Ok(Dead {
        reason: need(reason, "a dead letter", "reason")?,
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
