//! What a promotion by force was known to lose, as the service shows it. Translation only.

use std::time::Duration;

use super::epoch_out;
use crate::api::grpc::convert::lasting;
use crate::proto::admin::v1 as pb;
use crate::queue::authority::loss::{ForcedLoss, LostMessages, LostQueue};
use crate::queue::ids::Span;

pub fn queues_out(lost: LostMessages) -> Vec<pb::QueueLoss> {
    let queue = |it: LostQueue| pb::QueueLoss {
        account: it.account,
        queue: it.queue,
        messages: it.messages,
    };
    lost.queues.into_iter().map(queue).collect()
}

/// What the newest promotion by force here was known to lose.
pub fn loss_out(loss: &ForcedLoss) -> pb::LastForced {
    let span = |span: Span| lasting(Duration::from_micros(span.0));
    let messages = loss.messages.as_ref();
    pb::LastForced {
        epoch: Some(epoch_out(&loss.epoch)),
        entries_lost: loss.entries,
        time_lost: loss.time.map(span),
        heard_ago: loss.age.map(span),
        complete: loss.is_complete,
        messages_lost: messages.map(LostMessages::total),
        bytes_lost_at_most: loss.bytes_at_most,
        queues_lost: messages.cloned().map(queues_out).unwrap_or_default(),
        more_queues: messages.map_or(0, |it| it.more_queues),
        more_messages: messages.map_or(0, |it| it.more_messages),
    }
}
