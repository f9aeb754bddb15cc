//! Log entries. `Send` is written by hand from lengths computed first; every other command is
//! small and goes through its generated type.

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::redrives::{asked_from, asked_to, quota_from, quota_to};
use super::region;
use super::replay::{decode_replay, encode_replay};
use super::{
    CodecError, big, big_bytes, content_from, content_to, id_from, id_to, need, priority_from,
    priority_to, receipt_from, receipt_to, settings_from, settings_to,
};
use crate::proto::log::v1 as pb;
use crate::proto::log::v1::envelope::Command as Wire;
use crate::queue::command::{
    Command, Content, Entry, Envelope, NewMessage, Receive, ReleaseAfter, SessionTag, StringMap,
    TimeToLive, Transact, Update,
};
use crate::queue::ids::{Epoch, LogTime, MessageId, Position, QueueId, Receipt, Span};

const ENTRY: &str = "a log entry";

/// The bytes of an entry; its position is the log's to keep. The bodies of its sends become
/// slices of these bytes, as they are where the entry is decoded, and let go of the calls they
/// came in.
#[must_use]
pub fn encode_entry(entry: &mut Entry) -> Bytes {
    let parts: Vec<Part<'_>> = entry.commands.iter().map(Part::of).collect();
    let mut len = field_uint_len(1, entry.stamp.0) + field_uint_len(2, entry.epoch.0.into());
    for part in &parts {
        len += nested_len(3, part.len());
    }
    let mut out = BytesMut::with_capacity(len);
    put_uint(1, entry.stamp.0, &mut out);
    put_uint(2, entry.epoch.0.into(), &mut out);
    let mut bodies = Vec::with_capacity(parts.len());
    for part in &parts {
        part.put(&mut out, &mut bodies);
    }
    debug_assert_eq!(out.len(), len, "lengths and writes agree");
    drop(parts);
    let bytes = out.freeze();
    let sends = entry.commands.iter_mut().filter_map(|envelope| match &mut envelope.command {
        Command::Send { messages, .. } => Some(messages),
        _ => None,
    });
    for (message, at) in sends.flatten().zip(bodies) {
        message.content.body = bytes.slice(at);
    }
    bytes
}

/// An envelope on its way into the buffer, with the lengths that its parts need in front.
enum Part<'a> {
    Send {
        envelope: &'a Envelope,
        session: Option<pb::Session>,
        queue: &'a str,
        messages: &'a [NewMessage],
        /// For each message: its own length, its content's.
        lens: Vec<(usize, usize)>,
        send_len: usize,
        len: usize,
    },
    Other {
        message: pb::Envelope,
        len: usize,
    },
}

impl<'a> Part<'a> {
    fn of(envelope: &'a Envelope) -> Part<'a> {
        let Command::Send { queue, messages } = &envelope.command else {
            let message = envelope_to(envelope);
            let len = message.encoded_len();
            return Part::Other { message, len };
        };
        let lens: Vec<_> = messages
            .iter()
            .map(|message| {
                let content = content_len(&message.content);
                (message_len(message, content), content)
            })
            .collect();
        let send_len = field_bytes_len(1, queue.len())
            + lens.iter().map(|(len, _)| nested_len(2, *len)).sum::<usize>();
        let session = envelope.session.as_ref().map(session_to);
        let len = session.as_ref().map_or(0, |session| nested_len(1, session.encoded_len()))
            + field_bytes_len(2, envelope.account.len())
            + nested_len(7, send_len);
        Part::Send { envelope, session, queue, messages, lens, send_len, len }
    }

    fn len(&self) -> usize {
        match self {
            Part::Send { len, .. } | Part::Other { len, .. } => *len,
        }
    }

    /// `bodies` takes where the body of each message of a send lies.
    fn put(&self, out: &mut BytesMut, bodies: &mut Vec<Range<usize>>) {
        put_head(3, self.len(), out);
        match self {
            Part::Other { message, .. } => message.encode_raw(out),
            Part::Send { envelope, session, queue, messages, lens, send_len, .. } => {
                if let Some(session) = session {
                    put_head(1, session.encoded_len(), out);
                    session.encode_raw(out);
                }
                put_bytes(2, envelope.account.as_bytes(), out);
                put_head(7, *send_len, out);
                put_bytes(1, queue.as_bytes(), out);
                for (message, (len, content)) in messages.iter().zip(lens) {
                    put_head(2, *len, out);
                    bodies.push(put_message(message, *content, out));
                }
            }
        }
    }
}

fn content_len(content: &Content) -> usize {
    field_bytes_len(1, content.body.len()) + headers_len(&content.headers)
}

/// How long headers are as [`put_headers`] writes them.
#[must_use]
pub fn headers_len(headers: &StringMap) -> usize {
    headers.iter().map(|(key, value)| nested_len(2, header_len(key, value))).sum()
}

/// Writes headers as a `Content` without its body.
pub fn put_headers(headers: &StringMap, out: &mut impl BufMut) {
    for (key, value) in headers {
        put_head(2, header_len(key, value), out);
        put_bytes(1, key.as_bytes(), out);
        put_bytes(2, value.as_bytes(), out);
    }
}

/// Reads what [`put_headers`] wrote.
pub fn decode_headers(bytes: Bytes) -> Result<StringMap, CodecError> {
    let content = pb::Content::decode(bytes);
    Ok(content.map_err(|source| CodecError::Proto { what: "headers", source })?.headers)
}

fn header_len(key: &str, value: &str) -> usize {
    field_bytes_len(1, key.len()) + field_bytes_len(2, value.len())
}

fn message_len(message: &NewMessage, content: usize) -> usize {
    let (ttl, ttl_us) = ttl_to(message.ttl);
    nested_len(1, content)
        + field_uint_len(2, message.delay.0)
        + field_uint_len(3, ttl as u64)
        + field_uint_len(4, ttl_us)
        + priority_to(message.priority).map_or(0, |it| key_len(5) + encoded_len_varint(it.into()))
        + field_bytes_len(6, message.key.as_ref().map_or(0, |_| 16))
        + field_bytes_len(7, message.group.as_ref().map_or(0, |group| group.len()))
}

/// Answers where the body lies.
fn put_message(message: &NewMessage, content_len: usize, out: &mut BytesMut) -> Range<usize> {
    put_head(1, content_len, out);
    put_bytes(1, &message.content.body, out);
    let end = out.len();
    let body = end - message.content.body.len()..end;
    put_headers(&message.content.headers, out);
    let (ttl, ttl_us) = ttl_to(message.ttl);
    put_uint(2, message.delay.0, out);
    put_uint(3, ttl as u64, out);
    put_uint(4, ttl_us, out);
    if let Some(priority) = priority_to(message.priority) {
        encode_key(5, WireType::Varint, out);
        encode_varint(priority.into(), out);
    }
    if let Some(key) = &message.key {
        put_bytes(6, &key.to_be_bytes(), out);
    }
    put_bytes(7, message.group.as_deref().unwrap_or_default().as_bytes(), out);
    body
}

// The field writers leave out what has its default value, as proto3 does.

fn field_uint_len(tag: u32, value: u64) -> usize {
    if value == 0 { 0 } else { key_len(tag) + encoded_len_varint(value) }
}

fn field_bytes_len(tag: u32, len: usize) -> usize {
    if len == 0 { 0 } else { nested_len(tag, len) }
}

fn nested_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

fn put_uint(tag: u32, value: u64, out: &mut BytesMut) {
    if value != 0 {
        encode_key(tag, WireType::Varint, out);
        encode_varint(value, out);
    }
}

fn put_head(tag: u32, len: usize, out: &mut impl BufMut) {
    encode_key(tag, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

fn put_bytes(tag: u32, bytes: &[u8], out: &mut impl BufMut) {
    if !bytes.is_empty() {
        put_head(tag, bytes.len(), out);
        out.put_slice(bytes);
    }
}

fn ttl_to(ttl: TimeToLive) -> (pb::TimeToLive, u64) {
    match ttl {
        TimeToLive::Default => (pb::TimeToLive::QueueDefault, 0),
        TimeToLive::Never => (pb::TimeToLive::Never, 0),
        TimeToLive::For(span) => (pb::TimeToLive::Given, span.0),
    }
}

fn session_to(tag: &SessionTag) -> pb::Session {
    pb::Session {
        client: big_bytes(tag.client),
        sequence: tag.sequence,
        lowest_unanswered: tag.lowest_unanswered,
    }
}

fn envelope_to(envelope: &Envelope) -> pb::Envelope {
    pb::Envelope {
        session: envelope.session.as_ref().map(session_to),
        account: envelope.account.clone(),
        command: Some(command_to(&envelope.command)),
    }
}

fn command_to(command: &Command) -> Wire {
    match command {
        Command::CreateQueue { name, metadata, settings } => Wire::CreateQueue(pb::CreateQueue {
            name: name.clone(),
            metadata: metadata.clone(),
            settings: Some(settings_to(settings)),
        }),
        Command::DeleteQueue { name } => Wire::DeleteQueue(pb::DeleteQueue { name: name.clone() }),
        Command::SetMetadata { name, metadata } => {
            Wire::SetMetadata(pb::SetMetadata { name: name.clone(), metadata: metadata.clone() })
        }
        Command::SetSettings { name, settings } => Wire::SetSettings(pb::SetSettings {
            name: name.clone(),
            settings: Some(settings_to(settings)),
        }),
        Command::SetPaused { name, paused } => {
            Wire::SetPaused(pb::SetPaused { name: name.clone(), paused: *paused })
        }
        Command::Send { queue, messages } => Wire::Send(pb::Send {
            queue: queue.clone(),
            messages: messages.iter().map(message_to).collect(),
        }),
        Command::Receive(receive) => Wire::Receive(pb::Receive {
            queue: receive.queue.clone(),
            max_messages: receive.max_messages,
            max_bytes: receive.max_bytes,
            visibility_us: receive.visibility.map(|span| span.0),
        }),
        Command::Update(update) => Wire::Update(pb::Update {
            queue: update.queue.clone(),
            id: Some(id_to(update.id)),
            receipt: Some(receipt_to(update.receipt)),
            visibility_us: update.visibility.map(|span| span.0),
            content: update.content.as_ref().map(content_to),
        }),
        Command::Delete { queue, items } => {
            Wire::Delete(pb::Delete { queue: queue.clone(), items: items_to(items) })
        }
        Command::Release { queue, items, after } => {
            let (after, delay) = match after {
                ReleaseAfter::Now => (pb::ReleaseAfter::Now, Span::ZERO),
                ReleaseAfter::Delay(delay) => (pb::ReleaseAfter::Delay, *delay),
                ReleaseAfter::BackOff => (pb::ReleaseAfter::BackOff, Span::ZERO),
            };
            let (queue, items) = (queue.clone(), items_to(items));
            Wire::Release(pb::Release { queue, items, after: after.into(), delay_us: delay.0 })
        }
        Command::Transact(asked) => Wire::Transact(transact_to(asked)),
        Command::Clear { queue } => Wire::Clear(pb::Clear { queue: queue.clone() }),
        Command::Pulse => Wire::Pulse(pb::Pulse {}),
        Command::UndeleteQueue { name, id, new_name } => Wire::UndeleteQueue(pb::UndeleteQueue {
            name: name.clone(),
            id: id.map(|id| id.0),
            new_name: new_name.clone().unwrap_or_default(),
        }),
        Command::StartRedrive(asked) => Wire::StartRedrive(asked_to(asked)),
        Command::CancelRedrive { queue, id } => {
            Wire::CancelRedrive(pb::CancelRedrive { queue: queue.clone(), id: Some(id_to(*id)) })
        }
        Command::SetAccountQuota(quota) => Wire::SetAccountQuota(quota_to(quota)),
        Command::RaiseRules { version } => Wire::RaiseRules(pb::RaiseRules { version: *version }),
        Command::ReplayTail(asked) => Wire::ReplayTail(encode_replay(asked)),
        Command::Region(asked) => Wire::Region(Box::new(region::command_to(asked))),
    }
}

fn transact_to(asked: &Transact) -> pb::Transact {
    let delete = |(queue, id, receipt): &(String, MessageId, Receipt)| pb::TransactDelete {
        queue: queue.clone(),
        item: Some(pb::DeleteItem { id: Some(id_to(*id)), receipt: Some(receipt_to(*receipt)) }),
    };
    let send = |(queue, messages): &(String, Vec<NewMessage>)| pb::Send {
        queue: queue.clone(),
        messages: messages.iter().map(message_to).collect(),
    };
    pb::Transact {
        deletes: asked.deletes.iter().map(delete).collect(),
        sends: asked.sends.iter().map(send).collect(),
    }
}

fn transact_from(it: pb::Transact) -> Result<Transact, CodecError> {
    let delete = |it: pb::TransactDelete| {
        let item = need(it.item, ENTRY, "message of a delete")?;
        let id = id_from(need(item.id, ENTRY, "message id")?);
        Ok((it.queue, id, receipt_from(need(item.receipt, ENTRY, "receipt")?)))
    };
    let send = |it: pb::Send| {
        let messages = it.messages.into_iter().map(message_from);
        Ok((it.queue, messages.collect::<Result<_, CodecError>>()?))
    };
    Ok(Transact {
        deletes: it.deletes.into_iter().map(delete).collect::<Result<_, CodecError>>()?,
        sends: it.sends.into_iter().map(send).collect::<Result<_, CodecError>>()?,
    })
}

fn items_to(items: &[Item]) -> Vec<pb::DeleteItem> {
    let item = |(id, receipt): &Item| pb::DeleteItem {
        id: Some(id_to(*id)),
        receipt: Some(receipt_to(*receipt)),
    };
    items.iter().map(item).collect()
}

fn message_to(message: &NewMessage) -> pb::NewMessage {
    let (ttl, ttl_us) = ttl_to(message.ttl);
    pb::NewMessage {
        content: Some(content_to(&message.content)),
        delay_us: message.delay.0,
        ttl: ttl.into(),
        ttl_us,
        priority: priority_to(message.priority),
        key: message.key.as_deref().copied().map(big_bytes).unwrap_or_default(),
        group: message.group.as_deref().unwrap_or_default().to_owned(),
    }
}

/// Reads what [`encode_entry`] wrote. Bodies are slices of `bytes`.
pub fn decode_entry(position: Position, bytes: Bytes) -> Result<Entry, CodecError> {
    let entry =
        pb::Entry::decode(bytes).map_err(|source| CodecError::Proto { what: ENTRY, source })?;
    let commands = entry.commands.into_iter().map(envelope_from).collect::<Result<_, _>>()?;
    Ok(Entry { position, stamp: LogTime(entry.stamp_us), epoch: Epoch(entry.epoch), commands })
}

fn envelope_from(envelope: pb::Envelope) -> Result<Envelope, CodecError> {
    let session = envelope.session.map(|session| {
        Ok(SessionTag {
            client: big(&session.client, ENTRY, "session client")?,
            sequence: session.sequence,
            lowest_unanswered: session.lowest_unanswered,
        })
    });
    Ok(Envelope {
        session: session.transpose()?,
        account: envelope.account,
        command: command_from(need(envelope.command, ENTRY, "command")?)?,
    })
}

fn command_from(command: Wire) -> Result<Command, CodecError> {
    Ok(match command {
        Wire::CreateQueue(it) => Command::CreateQueue {
            name: it.name,
            metadata: it.metadata,
            settings: Box::new(settings_from(need(it.settings, ENTRY, "settings")?)),
        },
        Wire::DeleteQueue(it) => Command::DeleteQueue { name: it.name },
        Wire::SetMetadata(it) => Command::SetMetadata { name: it.name, metadata: it.metadata },
        Wire::SetSettings(it) => Command::SetSettings {
            name: it.name,
            settings: Box::new(settings_from(need(it.settings, ENTRY, "settings")?)),
        },
        Wire::SetPaused(it) => Command::SetPaused { name: it.name, paused: it.paused },
        Wire::Send(it) => Command::Send {
            queue: it.queue,
            messages: it.messages.into_iter().map(message_from).collect::<Result<_, _>>()?,
        },
        Wire::Receive(it) => Command::Receive(Receive {
            queue: it.queue,
            max_messages: it.max_messages,
            max_bytes: it.max_bytes,
            visibility: it.visibility_us.map(Span),
        }),
        Wire::Update(it) => Command::Update(Update {
            queue: it.queue,
            id: id_from(need(it.id, ENTRY, "message id")?),
            receipt: receipt_from(need(it.receipt, ENTRY, "receipt")?),
            visibility: it.visibility_us.map(Span),
            content: it.content.map(content_from),
        }),
        Wire::Delete(it) => Command::Delete { queue: it.queue, items: items_from(it.items)? },
        Wire::Release(it) => release_from(it)?,
        Wire::Transact(it) => Command::Transact(transact_from(it)?),
        Wire::Clear(it) => Command::Clear { queue: it.queue },
        Wire::Pulse(pb::Pulse {}) => Command::Pulse,
        Wire::UndeleteQueue(it) => Command::UndeleteQueue {
            name: it.name,
            id: it.id.map(QueueId),
            new_name: (!it.new_name.is_empty()).then_some(it.new_name),
        },
        Wire::StartRedrive(it) => Command::StartRedrive(Box::new(asked_from(it)?)),
        Wire::CancelRedrive(it) => Command::CancelRedrive {
            queue: it.queue,
            id: id_from(need(it.id, ENTRY, "id of a redrive")?),
        },
        Wire::SetAccountQuota(it) => Command::SetAccountQuota(quota_from(it)),
        Wire::RaiseRules(it) => Command::RaiseRules { version: it.version },
        Wire::ReplayTail(it) => Command::ReplayTail(Box::new(decode_replay(it)?)),
        Wire::Region(it) => Command::Region(Box::new(region::command_from(*it)?)),
    })
}

fn release_from(it: pb::Release) -> Result<Command, CodecError> {
    let after = match it.after() {
        pb::ReleaseAfter::Now => ReleaseAfter::Now,
        pb::ReleaseAfter::Delay => ReleaseAfter::Delay(Span(it.delay_us)),
        pb::ReleaseAfter::BackOff => ReleaseAfter::BackOff,
        pb::ReleaseAfter::Unspecified => {
            return Err(CodecError::Wrong { what: ENTRY, field: "time of a release" });
        }
    };
    Ok(Command::Release { queue: it.queue, items: items_from(it.items)?, after })
}

type Item = (MessageId, Receipt);

fn items_from(items: Vec<pb::DeleteItem>) -> Result<Vec<Item>, CodecError> {
    items
        .into_iter()
        .map(|item| {
            Ok((
                id_from(need(item.id, ENTRY, "message id")?),
                receipt_from(need(item.receipt, ENTRY, "receipt")?),
            ))
        })
        .collect()
}

fn message_from(message: pb::NewMessage) -> Result<NewMessage, CodecError> {
    let ttl = match message.ttl() {
        pb::TimeToLive::QueueDefault => TimeToLive::Default,
        pb::TimeToLive::Never => TimeToLive::Never,
        pb::TimeToLive::Given => TimeToLive::For(Span(message.ttl_us)),
        pb::TimeToLive::Unspecified => {
            return Err(CodecError::Wrong { what: ENTRY, field: "time to live" });
        }
    };
    let key = match message.key.is_empty() {
        true => None,
        false => Some(Box::new(big(&message.key, ENTRY, "deduplication key")?)),
    };
    Ok(NewMessage {
        content: content_from(need(message.content, ENTRY, "content")?),
        delay: Span(message.delay_us),
        ttl,
        priority: priority_from(message.priority, ENTRY)?,
        key,
        group: (!message.group.is_empty()).then(|| message.group.into()),
    })
}

/// Writes a whole entry through its generated type: one inside another, which only a secondary's
/// leader does, and the tests.
pub(super) fn encode_inner(entry: &Entry) -> Vec<u8> {
    pb::Entry {
        stamp_us: entry.stamp.0,
        epoch: entry.epoch.0,
        commands: entry.commands.iter().map(envelope_to).collect(),
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::testing::{entry, region_entry};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_survives_its_bytes(mut entry in entry()) {
            let before = entry.clone();
            let bytes = encode_entry(&mut entry);
            prop_assert_eq!(&entry, &before);
            prop_assert_eq!(decode_entry(entry.position, bytes).unwrap(), entry);
        }

        #[test]
        fn an_entry_about_regions_survives_its_bytes(mut entry in region_entry()) {
            let bytes = encode_entry(&mut entry);
            prop_assert_eq!(decode_entry(entry.position, bytes).unwrap(), entry);
        }

        #[test]
        fn the_hand_written_form_is_the_generated_one(mut entry in entry()) {
            prop_assert_eq!(encode_entry(&mut entry).to_vec(), encode_inner(&entry));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_entry(Position::default(), Bytes::from(bytes));
        }
    }

    #[test]
    fn a_body_is_a_slice_of_the_entry() {
        let content = Content { body: Bytes::from(vec![7; 1000]), headers: StringMap::new() };
        let message = NewMessage { content, ..NewMessage::default() };
        let command = Command::Send { queue: "work".into(), messages: vec![message] };
        let mut entry = Entry {
            position: Position::default(),
            stamp: LogTime(1),
            epoch: Epoch(1),
            commands: vec![Envelope { session: None, account: "default".into(), command }],
        };
        let bytes = encode_entry(&mut entry);
        let decoded = decode_entry(entry.position, bytes.clone()).unwrap();
        for entry in [&entry, &decoded] {
            let Command::Send { messages, .. } = &entry.commands[0].command else {
                panic!("a send");
            };
            assert!(bytes.as_ptr_range().contains(&messages[0].content.body.as_ptr()));
        }
    }
}
