//! Between the client's types and those of the wire: nothing is decided here.

use std::time::{Duration, SystemTime};

use super::{
    BackOff, DeadLetter, DeadLetters, DeleteItem, Deleted, Durability, Message, NewMessage, Queue,
    QueueCounts, QueueSettings, Redriven, ReleaseResult, Released, SentBatch, SentMessage, Ttl,
};
use crate::client::error::ClientError;
use crate::proto::queue::v1::{self as pb, DeleteOutcome};

/// A duration for the wire; refused when it does not fit.
pub(in crate::client) fn wire(span: Duration) -> Result<prost_types::Duration, ClientError> {
    prost_types::Duration::try_from(span).map_err(|_| {
        ClientError::Invalid(format!("a duration of {} s is too long", span.as_secs()))
    })
}

pub(in crate::client) fn wire_some(
    span: Option<Duration>,
) -> Result<Option<prost_types::Duration>, ClientError> {
    span.map(wire).transpose()
}

fn wire_ttl(ttl: Ttl) -> Result<Option<prost_types::Duration>, ClientError> {
    match ttl {
        Ttl::Default => Ok(None),
        Ttl::Never => Ok(Some(prost_types::Duration::default())),
        Ttl::After(Duration::ZERO) => Err(ClientError::Invalid(
            "a time to live of zero; say `Ttl::Never` for messages that never expire".to_owned(),
        )),
        Ttl::After(span) => wire(span).map(Some),
    }
}

/// A duration of the wire; `None` of one that is negative. It is looked at here because prost negates
/// it in order to say so, and the least number has no opposite.
pub(in crate::client) fn span(given: prost_types::Duration) -> Option<Duration> {
    let is_span = given.seconds >= 0 && given.nanos >= 0;
    is_span.then(|| Duration::try_from(given).ok()).flatten()
}

pub(in crate::client) fn time(stamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    stamp.and_then(|stamp| SystemTime::try_from(stamp).ok())
}

pub(in crate::client) fn token(token: String) -> Option<String> {
    (!token.is_empty()).then_some(token)
}

impl QueueSettings {
    pub(in crate::client) fn to_wire(&self) -> Result<pb::QueueSettings, ClientError> {
        let dead = self.dead_letters.as_ref();
        Ok(pb::QueueSettings {
            default_ttl: wire_ttl(self.default_ttl)?,
            default_visibility_timeout: wire_some(self.default_visibility_timeout)?,
            max_message_bytes: self.max_message_bytes.unwrap_or(0),
            dead_letter_queue: dead.map(|target| target.queue.clone()).unwrap_or_default(),
            max_deliveries: dead.and_then(|target| target.max_deliveries).unwrap_or(0),
            dead_letter_ttl: wire_some(self.dead_letter_ttl)?,
            back_off: self.back_off.map(BackOff::to_wire).transpose()?,
            deduplication_window: wire_some(self.deduplication_window)?,
            max_messages: self.max_messages.unwrap_or(0),
            max_bytes: self.max_bytes.unwrap_or(0),
            undelete_window: wire_some(self.undelete_window)?,
        })
    }
}

impl BackOff {
    fn to_wire(self) -> Result<pb::BackOff, ClientError> {
        let (first, most) = (Some(wire(self.first)?), Some(wire(self.most)?));
        Ok(pb::BackOff { first, most, factor: self.factor })
    }
}

impl From<pb::QueueSettings> for QueueSettings {
    fn from(settings: pb::QueueSettings) -> QueueSettings {
        QueueSettings {
            default_ttl: match settings.default_ttl.and_then(span) {
                None => Ttl::Default,
                Some(Duration::ZERO) => Ttl::Never,
                Some(span) => Ttl::After(span),
            },
            default_visibility_timeout: settings.default_visibility_timeout.and_then(span),
            max_message_bytes: (settings.max_message_bytes > 0)
                .then_some(settings.max_message_bytes),
            dead_letters: (!settings.dead_letter_queue.is_empty()).then_some(DeadLetters {
                queue: settings.dead_letter_queue,
                max_deliveries: (settings.max_deliveries > 0).then_some(settings.max_deliveries),
            }),
            dead_letter_ttl: settings.dead_letter_ttl.and_then(span),
            deduplication_window: settings.deduplication_window.and_then(span),
            max_messages: (settings.max_messages > 0).then_some(settings.max_messages),
            max_bytes: (settings.max_bytes > 0).then_some(settings.max_bytes),
            undelete_window: settings.undelete_window.and_then(span),
            back_off: settings.back_off.map(|it| BackOff {
                first: it.first.and_then(span).unwrap_or_default(),
                most: it.most.and_then(span).unwrap_or_default(),
                factor: it.factor,
            }),
        }
    }
}

impl NewMessage {
    pub(in crate::client) fn into_wire(self) -> Result<pb::NewMessage, ClientError> {
        Ok(pb::NewMessage {
            body: self.body,
            headers: self.headers,
            delay: wire_some(self.delay)?,
            ttl: wire_ttl(self.ttl)?,
            priority: self.priority.map(u32::from),
            deduplication_key: self.deduplication_key.unwrap_or_default(),
            group: self.group.unwrap_or_default(),
        })
    }
}

impl From<pb::Durability> for Durability {
    fn from(durability: pb::Durability) -> Durability {
        Durability {
            position: durability.position.unwrap_or_default(),
            epoch: durability.epoch,
            log_time: time(durability.log_time),
            zones_at_least: durability.zones_at_least,
            zones: durability.zones,
        }
    }
}

pub(in crate::client) fn durability(durability: Option<pb::Durability>) -> Durability {
    durability.map(Durability::from).unwrap_or_default()
}

impl From<pb::Queue> for Queue {
    fn from(queue: pb::Queue) -> Queue {
        let counts = queue.counts.unwrap_or_default();
        Queue {
            name: queue.name,
            metadata: queue.metadata,
            settings: queue.settings.map(QueueSettings::from).unwrap_or_default(),
            counts: QueueCounts {
                visible: counts.visible,
                leased: counts.leased,
                delayed: counts.delayed,
                blocked: counts.blocked,
                due: counts.due,
                total: counts.total,
                bytes: counts.bytes,
                oldest_age: counts.oldest_age.and_then(span),
            },
            created_at: time(queue.created_at),
            paused: queue.paused,
            dead_letters_refused_since: time(queue.dead_letters_refused_since),
            id: queue.id,
            deleted_at: time(queue.deleted_at),
            kept_until: time(queue.kept_until),
        }
    }
}

impl From<pb::SentMessage> for SentMessage {
    fn from(message: pb::SentMessage) -> SentMessage {
        SentMessage {
            id: message.id,
            pop_receipt: message.pop_receipt,
            inserted_at: time(message.inserted_at),
            expires_at: time(message.expires_at),
            visible_at: time(message.visible_at),
            duplicate: message.duplicate,
        }
    }
}

impl From<pb::SendResponse> for SentBatch {
    fn from(response: pb::SendResponse) -> SentBatch {
        SentBatch {
            messages: response.messages.into_iter().map(SentMessage::from).collect(),
            durability: durability(response.durability),
        }
    }
}

impl From<pb::Message> for Message {
    fn from(message: pb::Message) -> Message {
        Message {
            id: message.id,
            body: message.body,
            headers: message.headers,
            pop_receipt: message.pop_receipt,
            inserted_at: time(message.inserted_at),
            expires_at: time(message.expires_at),
            visible_at: time(message.visible_at),
            dequeue_count: message.dequeue_count,
            priority: message.priority,
            dead_letter: message.dead_letter.map(DeadLetter::from),
            group: token(message.group),
            redriven: message.redriven.map(|it| Redriven { id: it.id, queue: it.queue }),
        }
    }
}

impl From<pb::DeadLetter> for DeadLetter {
    fn from(dead: pb::DeadLetter) -> DeadLetter {
        DeadLetter {
            reason: dead.reason(),
            source: dead.source,
            dead_lettered_at: time(dead.dead_lettered_at),
            first_received_at: time(dead.first_received_at),
            last_received_at: time(dead.last_received_at),
            deliveries: dead.deliveries,
        }
    }
}

impl From<pb::DeleteResponse> for Deleted {
    fn from(response: pb::DeleteResponse) -> Deleted {
        Deleted {
            outcomes: response
                .outcomes
                .into_iter()
                .map(|outcome| DeleteOutcome::try_from(outcome).unwrap_or_default())
                .collect(),
            durability: durability(response.durability),
        }
    }
}

impl From<pb::ReleaseResponse> for Released {
    fn from(response: pb::ReleaseResponse) -> Released {
        let result = |result: pb::ReleaseResult| ReleaseResult {
            outcome: result.outcome(),
            visible_at: time(result.visible_at),
        };
        Released {
            results: response.results.into_iter().map(result).collect(),
            durability: durability(response.durability),
        }
    }
}

pub(in crate::client) fn wire_items(items: Vec<DeleteItem>) -> Vec<pb::DeleteItem> {
    items
        .into_iter()
        .map(|item| pb::DeleteItem { id: item.id, pop_receipt: item.pop_receipt })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_before_now_is_none_down_to_the_least_number() {
        let wire = |seconds, nanos| prost_types::Duration { seconds, nanos };
        assert_eq!(span(wire(1, 500_000_000)), Some(Duration::from_millis(1_500)));
        assert_eq!(span(wire(0, 0)), Some(Duration::ZERO));
        for (seconds, nanos) in [(-1, 0), (0, -1), (i64::MIN, 0), (i64::MIN, i32::MIN)] {
            assert_eq!(span(wire(seconds, nanos)), None, "{seconds} s and {nanos} ns");
        }
        assert!(span(wire(i64::MAX, i32::MAX)).is_some(), "the end of the numbers is long enough");
    }
}
