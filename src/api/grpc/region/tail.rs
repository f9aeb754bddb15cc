//! The tail of a deposed primary, and the way back, as the service shows them. Translation only.

use tonic::Status;

use super::{epoch_out, timestamp};
use crate::geo::pair::{ReplayStep, SkippedMessage, Stage, Way};
use crate::geo::tail::{Gone, TailDelete, TailHead, TailPage, TailRemoval};
use crate::proto::admin::v1 as pb;
use crate::queue::authority::TailFate;
use crate::queue::authority::replay::Skip;
use crate::queue::authority::tail::{Due, TailCursor};

pub fn head_out(head: TailHead) -> pb::ListTailResponse {
    let head = pb::TailHead {
        epoch: Some(epoch_out(&head.epoch)),
        fenced_by: Some(epoch_out(&head.fenced_by)),
        first_number: head.fork.next_number,
        log_entries: head.log_entries,
        whole: head.is_whole,
        fork_index: head.fork.after.map(|after| after.index),
        whole_from: head.whole_from,
    };
    pb::ListTailResponse { item: Some(pb::list_tail_response::Item::Head(head)) }
}

pub fn page_out((messages, next): TailPage) -> (Vec<pb::ListTailResponse>, Option<TailCursor>) {
    let messages = messages.into_iter().map(|(message, content)| {
        let shown = message.shown;
        let group = shown.note.as_ref().and_then(|note| note.group.as_deref());
        let due = match message.due {
            None => pb::TailDue::Unspecified,
            Some(Due::Expired) => pb::TailDue::Expired,
            Some(Due::LastDeliveryOver) => pb::TailDue::LastDeliveryOver,
        };
        let message = pb::TailMessage {
            due: due.into(),
            account: message.account,
            queue: message.queue,
            id: shown.id.to_string(),
            body: content.body,
            headers: content.headers,
            inserted_at: Some(timestamp(shown.inserted_at)),
            expires_at: shown.expires_at.map(timestamp),
            visible_at: Some(timestamp(shown.visible_at)),
            priority: shown.priority.into(),
            dequeue_count: shown.dequeue_count,
            group: group.unwrap_or_default().to_owned(),
        };
        pb::ListTailResponse { item: Some(pb::list_tail_response::Item::Message(message)) }
    });
    (messages.collect(), next)
}

pub fn gone_out(gone: Gone) -> pb::ListTailResponse {
    match gone {
        Gone::Message(deleted) => delete_out(deleted),
        Gone::Queue(removed) => removal_out(removed),
    }
}

fn removal_out(removed: TailRemoval) -> pb::ListTailResponse {
    let removed = pb::TailRemoval {
        account: removed.account,
        queue: removed.queue,
        at: Some(timestamp(removed.at)),
        with_queue: removed.with_queue,
    };
    pb::ListTailResponse { item: Some(pb::list_tail_response::Item::Removed(removed)) }
}

fn delete_out(deleted: TailDelete) -> pb::ListTailResponse {
    let deleted = pb::TailDelete {
        account: deleted.account,
        queue: deleted.queue,
        id: deleted.id.to_string(),
        at: Some(timestamp(deleted.at)),
        shared: deleted.is_shared,
    };
    pb::ListTailResponse { item: Some(pb::list_tail_response::Item::Deleted(deleted)) }
}

pub fn step_out(step: ReplayStep) -> pb::ReplayTailResponse {
    pb::ReplayTailResponse {
        found: step.found,
        sent: step.sent,
        skipped: step.skipped.into_iter().map(skipped_out).collect(),
        done: step.done,
        total_sent: step.total_sent,
        total_skipped: step.total_skipped,
    }
}

fn skipped_out(message: SkippedMessage) -> pb::SkippedMessage {
    let reason = match message.why {
        Skip::Expired => pb::TailSkip::Expired,
        Skip::QueueGone => pb::TailSkip::QueueGone,
        Skip::QueueMadeAnew => pb::TailSkip::QueueMadeAnew,
        Skip::Duplicate => pb::TailSkip::Duplicate,
        Skip::SentAgain => pb::TailSkip::SentAgain,
        Skip::MayBeSentAgain => pb::TailSkip::MayBeSentAgain,
        Skip::StillHere => pb::TailSkip::StillHere,
    };
    pb::SkippedMessage {
        account: message.account,
        queue: message.queue,
        id: message.id,
        reason: reason.into(),
    }
}

pub fn fate_out(fate: Option<TailFate>) -> pb::TailFate {
    match fate {
        None => pb::TailFate::Unspecified,
        Some(TailFate::Replayed) => pb::TailFate::Replayed,
        Some(TailFate::Exported) => pb::TailFate::Exported,
        Some(TailFate::Discarded) => pb::TailFate::Discarded,
    }
}

/// What an operator may say of a tail: that it was replayed only a replay says.
#[allow(clippy::result_large_err, reason = "tonic's own error type")]
pub fn fate_in(fate: pb::TailFate) -> Result<TailFate, Status> {
    match fate {
        pb::TailFate::Exported => Ok(TailFate::Exported),
        pb::TailFate::Discarded => Ok(TailFate::Discarded),
        pb::TailFate::Unspecified | pb::TailFate::Replayed => {
            Err(Status::invalid_argument("fate: it is exported or discarded"))
        }
    }
}

pub fn way_out(way: Way) -> pb::FailBackResponse {
    let stage = |stage: Stage| match stage {
        Stage::ReplayTail => pb::FailBackStage::ReplayTail,
        Stage::Protect => pb::FailBackStage::Protect,
        Stage::AwaitCopy => pb::FailBackStage::AwaitCopy,
        Stage::HandOver => pb::FailBackStage::HandOver,
    };
    pb::FailBackResponse {
        to: way.to,
        stages: way.stages.into_iter().map(|it| stage(it).into()).collect(),
        replayed: way.replayed,
        skipped: way.skipped,
        copied_bytes: way.copied_bytes,
    }
}
