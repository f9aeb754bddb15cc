//! The kept outcomes of sessions, in their rows.

use super::notes::{note_from, note_to};
use super::{
    CodecError, id_from, id_to, need, priority_from, priority_to, receipt_from, receipt_to,
};
use crate::proto::log::v1 as pb;
use crate::proto::log::v1::kept_outcome::Outcome as Wire;
use crate::queue::error::Rejection;
use crate::queue::ids::{ContentId, LogTime};
use crate::queue::outcome::{DeleteOutcome, Granted, Outcome, ReleaseOutcome, Reply, Sent};

pub(super) fn outcome_to(outcome: &Outcome) -> Wire {
    match outcome {
        Ok(reply) => reply_to(reply),
        Err(rejection) => rejection_to(rejection),
    }
}

fn reply_to(reply: &Reply) -> Wire {
    match reply {
        Reply::QueueCreated { created } => {
            Wire::QueueCreated(pb::QueueCreated { created: *created })
        }
        Reply::QueueDeleted => Wire::QueueDeleted(pb::QueueDeleted {}),
        Reply::MetadataSet => Wire::MetadataSet(pb::MetadataSet {}),
        Reply::SettingsSet => Wire::SettingsSet(pb::SettingsSet {}),
        Reply::PausedSet => Wire::PausedSet(pb::PausedSet {}),
        Reply::Sent(sent) => Wire::Sent(pb::Sent { messages: sent.iter().map(sent_to).collect() }),
        Reply::Received { messages, more } => Wire::Received(pb::Received {
            messages: messages.iter().map(granted_to).collect(),
            more: *more,
        }),
        Reply::Updated { receipt, visible_at } => Wire::Updated(pb::Updated {
            receipt: Some(receipt_to(*receipt)),
            visible_at_us: visible_at.0,
        }),
        Reply::Deleted(results) => Wire::Deleted(pb::Deleted {
            results: results.iter().map(|result| delete_to(*result).into()).collect(),
        }),
        Reply::Released(outcomes) => Wire::Released(pb::Released {
            messages: outcomes.iter().map(|outcome| released_to(*outcome)).collect(),
        }),
        Reply::Transacted(sent) => {
            Wire::Transacted(pb::Transacted { messages: sent.iter().map(sent_to).collect() })
        }
        Reply::Cleared { removed } => Wire::Cleared(pb::Cleared { removed: *removed }),
        Reply::Pulsed { more } => Wire::Pulsed(pb::Pulsed { more: *more }),
        Reply::RulesRaised => Wire::RulesRaised(pb::RulesRaised {}),
        Reply::QueueUndeleted => Wire::QueueUndeleted(pb::QueueUndeleted {}),
        Reply::RedriveStarted { id, started } => {
            Wire::RedriveStarted(pb::RedriveStarted { id: Some(id_to(*id)), started: *started })
        }
        Reply::RedriveCancelled { cancelled } => {
            Wire::RedriveCancelled(pb::RedriveCancelled { cancelled: *cancelled })
        }
        Reply::AccountQuotaSet => Wire::AccountQuotaSet(pb::AccountQuotaSet {}),
        Reply::Region(_) => Wire::RegionAnswered(pb::RegionAnswered {}),
    }
}

fn rejection_to(rejection: &Rejection) -> Wire {
    match rejection.clone() {
        Rejection::InvalidArgument { field, problem, allowed } => {
            Wire::InvalidArgument(pb::InvalidArgument { field, problem, allowed })
        }
        Rejection::QueueNotFound(queue) => Wire::QueueNotFound(pb::QueueNotFound { queue }),
        Rejection::QueueExists(queue) => Wire::QueueExists(pb::QueueExists { queue }),
        Rejection::QueueInUse { queue, of } => Wire::QueueInUse(pb::QueueInUse { queue, of }),
        Rejection::MessageNotFound { queue, id } => {
            Wire::MessageNotFound(pb::MessageNotFound { queue, id })
        }
        Rejection::ReceiptMismatch { id } => Wire::ReceiptMismatch(pb::ReceiptMismatch { id }),
        Rejection::LimitReached { what, limit } => {
            Wire::LimitReached(pb::LimitReached { what, limit })
        }
        Rejection::Full { what, limit } => Wire::Full(pb::Full { what, limit }),
        Rejection::RedriveRunning { queue, id } => {
            Wire::RedriveRunning(pb::RedriveRunning { queue, id })
        }
        Rejection::RedriveNotFound { queue, id } => {
            Wire::RedriveNotFound(pb::RedriveNotFound { queue, id })
        }
        Rejection::SessionEnded => Wire::SessionEnded(pb::SessionEnded {}),
        Rejection::WrongEpoch { seen, current } => {
            Wire::WrongEpoch(pb::WrongEpoch { seen, current })
        }
        Rejection::Region(_) => Wire::RegionAnswered(pb::RegionAnswered {}),
        Rejection::UnknownRules { asked, known } => {
            Wire::UnknownRules(pb::UnknownRules { asked, known })
        }
    }
}

pub(super) fn outcome_from(outcome: Wire) -> Result<Outcome, CodecError> {
    let what = "a kept outcome";
    Ok(Ok(match outcome {
        Wire::QueueCreated(it) => Reply::QueueCreated { created: it.created },
        Wire::QueueDeleted(_) => Reply::QueueDeleted,
        Wire::MetadataSet(_) => Reply::MetadataSet,
        Wire::SettingsSet(_) => Reply::SettingsSet,
        Wire::PausedSet(_) => Reply::PausedSet,
        Wire::Sent(it) => {
            Reply::Sent(it.messages.into_iter().map(sent_from).collect::<Result<_, _>>()?)
        }
        Wire::Received(it) => Reply::Received {
            messages: it.messages.into_iter().map(granted_from).collect::<Result<_, _>>()?,
            more: it.more,
        },
        Wire::Updated(it) => Reply::Updated {
            receipt: receipt_from(need(it.receipt, what, "receipt")?),
            visible_at: LogTime(it.visible_at_us),
        },
        Wire::Deleted(it) => {
            Reply::Deleted(it.results.into_iter().map(delete_from).collect::<Result<_, _>>()?)
        }
        Wire::Released(it) => {
            Reply::Released(it.messages.iter().map(released_from).collect::<Result<_, _>>()?)
        }
        Wire::Transacted(it) => {
            Reply::Transacted(it.messages.into_iter().map(sent_from).collect::<Result<_, _>>()?)
        }
        Wire::Cleared(it) => Reply::Cleared { removed: it.removed },
        Wire::Pulsed(it) => Reply::Pulsed { more: it.more },
        Wire::RulesRaised(_) => Reply::RulesRaised,
        Wire::QueueUndeleted(_) => Reply::QueueUndeleted,
        Wire::RedriveStarted(it) => {
            Reply::RedriveStarted { id: id_from(need(it.id, what, "id")?), started: it.started }
        }
        Wire::RedriveCancelled(it) => Reply::RedriveCancelled { cancelled: it.cancelled },
        Wire::AccountQuotaSet(_) => Reply::AccountQuotaSet,
        Wire::RegionAnswered(_) => return Err(CodecError::Wrong { what, field: "command" }),
        refusal => return rejection_from(refusal).map(Err),
    }))
}

fn rejection_from(outcome: Wire) -> Result<Rejection, CodecError> {
    Ok(match outcome {
        Wire::InvalidArgument(it) => {
            Rejection::InvalidArgument { field: it.field, problem: it.problem, allowed: it.allowed }
        }
        Wire::QueueNotFound(it) => Rejection::QueueNotFound(it.queue),
        Wire::QueueInUse(it) => Rejection::QueueInUse { queue: it.queue, of: it.of },
        Wire::QueueExists(it) => Rejection::QueueExists(it.queue),
        Wire::MessageNotFound(it) => Rejection::MessageNotFound { queue: it.queue, id: it.id },
        Wire::ReceiptMismatch(it) => Rejection::ReceiptMismatch { id: it.id },
        Wire::LimitReached(it) => Rejection::LimitReached { what: it.what, limit: it.limit },
        Wire::Full(it) => Rejection::Full { what: it.what, limit: it.limit },
        Wire::RedriveRunning(it) => Rejection::RedriveRunning { queue: it.queue, id: it.id },
        Wire::RedriveNotFound(it) => Rejection::RedriveNotFound { queue: it.queue, id: it.id },
        Wire::SessionEnded(_) => Rejection::SessionEnded,
        Wire::WrongEpoch(it) => Rejection::WrongEpoch { seen: it.seen, current: it.current },
        Wire::UnknownRules(it) => Rejection::UnknownRules { asked: it.asked, known: it.known },
        _ => return Err(CodecError::Wrong { what: "a kept outcome", field: "kind" }),
    })
}

pub(super) fn sent_to(sent: &Sent) -> pb::SentMessage {
    pb::SentMessage {
        id: Some(id_to(sent.id)),
        receipt: Some(receipt_to(sent.receipt)),
        inserted_at_us: sent.inserted_at.0,
        expires_at_us: sent.expires_at.map(|at| at.0),
        visible_at_us: sent.visible_at.0,
        duplicate: sent.duplicate,
    }
}

pub(super) fn sent_from(sent: pb::SentMessage) -> Result<Sent, CodecError> {
    let what = "a kept send";
    Ok(Sent {
        id: id_from(need(sent.id, what, "id")?),
        receipt: receipt_from(need(sent.receipt, what, "receipt")?),
        inserted_at: LogTime(sent.inserted_at_us),
        expires_at: sent.expires_at_us.map(LogTime),
        visible_at: LogTime(sent.visible_at_us),
        duplicate: sent.duplicate,
    })
}

fn granted_to(granted: &Granted) -> pb::GrantedMessage {
    pb::GrantedMessage {
        id: Some(id_to(granted.id)),
        receipt: Some(receipt_to(granted.receipt)),
        content: granted.content.0,
        inserted_at_us: granted.inserted_at.0,
        expires_at_us: granted.expires_at.map(|at| at.0),
        visible_at_us: granted.visible_at.0,
        dequeue_count: granted.dequeue_count,
        priority: priority_to(granted.priority),
        note: granted.note.as_deref().map(note_to),
    }
}

fn granted_from(granted: pb::GrantedMessage) -> Result<Granted, CodecError> {
    let what = "a kept receive";
    Ok(Granted {
        id: id_from(need(granted.id, what, "id")?),
        receipt: receipt_from(need(granted.receipt, what, "receipt")?),
        content: ContentId(granted.content),
        inserted_at: LogTime(granted.inserted_at_us),
        expires_at: granted.expires_at_us.map(LogTime),
        visible_at: LogTime(granted.visible_at_us),
        dequeue_count: granted.dequeue_count,
        priority: priority_from(granted.priority, what)?,
        note: granted.note.map(note_from).transpose()?,
    })
}

fn delete_to(outcome: DeleteOutcome) -> pb::DeleteResult {
    match outcome {
        DeleteOutcome::Deleted => pb::DeleteResult::Deleted,
        DeleteOutcome::MessageNotFound => pb::DeleteResult::MessageNotFound,
        DeleteOutcome::ReceiptMismatch => pb::DeleteResult::ReceiptMismatch,
    }
}

fn released_to(outcome: ReleaseOutcome) -> pb::ReleasedMessage {
    let (result, visible_at) = match outcome {
        ReleaseOutcome::Released { visible_at } => (pb::ReleaseResult::Released, visible_at),
        ReleaseOutcome::MessageNotFound => (pb::ReleaseResult::MessageNotFound, LogTime(0)),
        ReleaseOutcome::ReceiptMismatch => (pb::ReleaseResult::ReceiptMismatch, LogTime(0)),
    };
    pb::ReleasedMessage { result: result.into(), visible_at_us: visible_at.0 }
}

fn released_from(message: &pb::ReleasedMessage) -> Result<ReleaseOutcome, CodecError> {
    match message.result() {
        pb::ReleaseResult::Released => {
            Ok(ReleaseOutcome::Released { visible_at: LogTime(message.visible_at_us) })
        }
        pb::ReleaseResult::MessageNotFound => Ok(ReleaseOutcome::MessageNotFound),
        pb::ReleaseResult::ReceiptMismatch => Ok(ReleaseOutcome::ReceiptMismatch),
        pb::ReleaseResult::Unspecified => {
            Err(CodecError::Wrong { what: "a kept release", field: "result" })
        }
    }
}

fn delete_from(result: i32) -> Result<DeleteOutcome, CodecError> {
    match pb::DeleteResult::try_from(result) {
        Ok(pb::DeleteResult::Deleted) => Ok(DeleteOutcome::Deleted),
        Ok(pb::DeleteResult::MessageNotFound) => Ok(DeleteOutcome::MessageNotFound),
        Ok(pb::DeleteResult::ReceiptMismatch) => Ok(DeleteOutcome::ReceiptMismatch),
        _ => Err(CodecError::Wrong { what: "a kept delete", field: "result" }),
    }
}
