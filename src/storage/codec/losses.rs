//! What a promotion by force was known to lose: `region.proto`.

use std::sync::Arc;

use super::region::{epoch_from, epoch_to};
use super::{position_from, position_to};
use crate::proto::log::v1 as pb;
use crate::queue::authority::command::RegionVerb;
use crate::queue::authority::loss::{ForcedLoss, KeptLoss, LostMessages, LostQueue};
use crate::queue::ids::{Epoch, Position, Span};

pub(super) fn promote_to(
    number: Epoch,
    accepted: bool,
    stopped: Option<Position>,
    loss: Option<&KeptLoss>,
) -> pb::RegionPromote {
    pb::RegionPromote {
        number: number.0,
        accepted,
        stopped: stopped.map(position_to),
        loss: loss.map(|loss| loss_to(loss)),
    }
}

pub(super) fn promote_from(it: pb::RegionPromote) -> RegionVerb {
    RegionVerb::Promote {
        number: Epoch(it.number),
        accepted: it.accepted,
        stopped: it.stopped.map(position_from),
        loss: it.loss.map(loss_from).map(Arc::new),
    }
}

pub(super) fn loss_to(loss: &ForcedLoss) -> pb::ForcedLoss {
    pb::ForcedLoss {
        epoch: Some(epoch_to(&loss.epoch)),
        entries: loss.entries,
        time_us: loss.time.map(|span| span.0),
        heard_ago_us: loss.age.map(|span| span.0),
        messages: loss.messages.as_ref().map(messages_to),
        bytes_at_most: loss.bytes_at_most,
        complete: loss.is_complete,
    }
}

pub(super) fn loss_from(loss: pb::ForcedLoss) -> ForcedLoss {
    ForcedLoss {
        epoch: loss.epoch.map(epoch_from).unwrap_or_default(),
        entries: loss.entries,
        time: loss.time_us.map(Span),
        age: loss.heard_ago_us.map(Span),
        messages: loss.messages.map(messages_from),
        bytes_at_most: loss.bytes_at_most,
        is_complete: loss.complete,
    }
}

fn messages_to(lost: &LostMessages) -> pb::LostMessages {
    let queue = |it: &LostQueue| pb::LostQueue {
        account: it.account.clone(),
        queue: it.queue.clone(),
        messages: it.messages,
    };
    pb::LostMessages {
        queues: lost.queues.iter().map(queue).collect(),
        more_queues: lost.more_queues,
        more_messages: lost.more_messages,
    }
}

fn messages_from(lost: pb::LostMessages) -> LostMessages {
    let queue = |it: pb::LostQueue| LostQueue {
        account: it.account,
        queue: it.queue,
        messages: it.messages,
    };
    LostMessages {
        queues: lost.queues.into_iter().map(queue).collect(),
        more_queues: lost.more_queues,
        more_messages: lost.more_messages,
    }
}
