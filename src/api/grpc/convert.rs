//! Wire messages to commands, and what the state answers to wire messages.
//!
//! Laws: whatever cannot be read is refused with the field's name and what is allowed; what is
//! absent means what the proto says; nothing here asks the state.

use std::time::Duration;

use bytes::Bytes;

use super::error::Refusal;
use super::sizes;
use crate::consensus::proposer::Done;
use crate::proto::queue::v1 as pb;
use crate::queue::command::{
    BackOff, Command, Content, DeadLetters, Envelope, NewMessage, Quota, Receive, ReleaseAfter,
    SessionTag, Settings, TimeToLive, Transact,
};
use crate::queue::ids::{LogTime, MessageId, Position, Receipt, Span};
use crate::queue::note::{DeadReason, Note};
use crate::queue::outcome::{
    Counts, DeleteOutcome, Granted, ReleaseOutcome, Sent, Shown, Standing,
};
use crate::queue::{PeekToken, QueueView, check, limits};

type Read<T> = Result<T, Refusal>;

/// How often a message is given out where a queue names a dead-letter queue and no number.
const USUAL_DELIVERIES: u32 = 10;

/// The account that serves those who name none.
const DEFAULT_ACCOUNT: &str = "default";

pub(super) fn account(name: String) -> Read<String> {
    let name = if name.is_empty() { DEFAULT_ACCOUNT.to_owned() } else { name };
    check::account(&name)?;
    Ok(name)
}

pub(super) fn queue_name(name: &str) -> Read<()> {
    Ok(check::queue_name(name)?)
}

/// A command that may enter the log, or why not.
pub(super) fn envelope(
    account_name: String,
    session: Option<pb::Session>,
    command: Command,
) -> Read<Envelope> {
    let account = account(account_name)?;
    let session = session.map(session_tag).transpose()?;
    check::command(&command)?;
    Ok(Envelope { session, account, command })
}

fn session_tag(session: pb::Session) -> Read<SessionTag> {
    let bytes = session.client_id.len();
    let client: [u8; 16] = session.client_id.as_ref().try_into().map_err(|_| {
        Refusal::invalid("session.client_id", format!("has {bytes} bytes"), "16 bytes")
    })?;
    let (sequence, lowest) = (session.sequence, session.lowest_unanswered);
    if sequence == 0 {
        return Err(Refusal::invalid("session.sequence", "is 0", "1 and more"));
    }
    if lowest > sequence {
        let allowed = format!("0 to the sequence, {sequence}");
        let problem = format!("is {lowest}");
        return Err(Refusal::invalid("session.lowest_unanswered", problem, allowed));
    }
    Ok(SessionTag { client: u128::from_be_bytes(client), sequence, lowest_unanswered: lowest })
}

/// A duration of the wire, to the microsecond.
pub(super) fn span(field: &str, given: Option<prost_types::Duration>) -> Read<Option<Span>> {
    let Some(given) = given else { return Ok(None) };
    let wrong = |problem: String| Refusal::invalid(field, problem, "a duration of 0 and more");
    if given.seconds < 0 || given.nanos < 0 {
        return Err(wrong("is negative".to_owned()));
    }
    if given.nanos > 999_999_999 {
        return Err(wrong(format!("has {} nanoseconds", given.nanos)));
    }
    let micros = u64::try_from(given.seconds)
        .ok()
        .and_then(|seconds| seconds.checked_mul(1_000_000))
        .and_then(|micros| micros.checked_add(u64::try_from(given.nanos).ok()? / 1_000))
        .ok_or_else(|| wrong(format!("of {} seconds is too long", given.seconds)))?;
    Ok(Some(Span(micros)))
}

/// How old an answer may be; absent = linearizable.
pub(super) fn staleness(given: Option<prost_types::Duration>) -> Read<Option<Duration>> {
    Ok(span("max_staleness", given)?.map(|span| Duration::from_micros(span.0)))
}

/// How long a receive may wait for its first message.
pub(super) fn wait(given: Option<prost_types::Duration>) -> Read<Duration> {
    let wait = span("wait", given)?.unwrap_or(Span::ZERO);
    if wait > limits::MAX_WAIT {
        let allowed = format!("0 to {} seconds", limits::MAX_WAIT.0 / 1_000_000);
        let problem = format!("is {} seconds", wait.0.div_ceil(1_000_000));
        return Err(Refusal::invalid("wait", problem, allowed));
    }
    Ok(Duration::from_micros(wait.0))
}

pub(super) fn settings(given: Option<pb::QueueSettings>) -> Read<Settings> {
    let undelete_window = limits::DEFAULT_UNDELETE_WINDOW;
    let mut settings = Settings { undelete_window, ..Settings::default() };
    let Some(given) = given else { return Ok(settings) };
    if let Some(ttl) = span("settings.default_ttl", given.default_ttl)? {
        settings.default_ttl = (ttl != Span::ZERO).then_some(ttl);
    }
    let visibility = "settings.default_visibility_timeout";
    if let Some(lease) = span(visibility, given.default_visibility_timeout)? {
        settings.default_visibility = lease;
    }
    if given.max_message_bytes != 0 {
        settings.max_message_bytes = given.max_message_bytes;
    }
    settings.dead_letters = dead_letters(given.dead_letter_queue, given.max_deliveries)?;
    let ttl = span("settings.dead_letter_ttl", given.dead_letter_ttl)?;
    settings.dead_letter_ttl = ttl.filter(|ttl| *ttl != Span::ZERO);
    let quota = |most: u64| (most > 0).then_some(most);
    settings.quota = Quota { messages: quota(given.max_messages), bytes: quota(given.max_bytes) };
    let window = span("settings.deduplication_window", given.deduplication_window)?;
    settings.deduplication_window = window.unwrap_or(settings.deduplication_window);
    let window = span("settings.undelete_window", given.undelete_window)?;
    settings.undelete_window = window.unwrap_or(settings.undelete_window);
    if let Some(given) = given.back_off {
        let span = |part: &str, given| {
            let field = format!("settings.back_off.{part}");
            Ok::<Span, Refusal>(span(&field, given)?.unwrap_or(Span::ZERO))
        };
        let (first, most) = (span("first", given.first)?, span("most", given.most)?);
        settings.back_off = BackOff { first, most, factor: given.factor };
    }
    Ok(settings)
}

fn dead_letters(queue: String, max_deliveries: u32) -> Read<Option<DeadLetters>> {
    match (queue.is_empty(), max_deliveries) {
        (true, 0) => Ok(None),
        (true, given) => {
            let allowed = "0 without settings.dead_letter_queue";
            Err(Refusal::invalid("settings.max_deliveries", format!("is {given}"), allowed))
        }
        (false, 0) => Ok(Some(DeadLetters { queue, max_deliveries: USUAL_DELIVERIES })),
        (false, max_deliveries) => Ok(Some(DeadLetters { queue, max_deliveries })),
    }
}

fn new_message(message: pb::NewMessage) -> Read<NewMessage> {
    let ttl = match span("ttl", message.ttl)? {
        None => TimeToLive::Default,
        Some(Span::ZERO) => TimeToLive::Never,
        Some(ttl) => TimeToLive::For(ttl),
    };
    let key = Some(message.deduplication_key).filter(|key| !key.is_empty());
    let key = key.map(|key| check::deduplication_key(&key).map(Box::new)).transpose()?;
    Ok(NewMessage {
        content: Content { body: message.body, headers: message.headers },
        delay: span("delay", message.delay)?.unwrap_or(Span::ZERO),
        ttl,
        priority: priority(message.priority)?,
        key,
        group: (!message.group.is_empty()).then(|| message.group.into()),
    })
}

/// Absent = the usual one. What fits no byte is refused here, the rest by the queue's own check.
fn priority(given: Option<u32>) -> Read<u8> {
    let Some(given) = given else { return Ok(limits::DEFAULT_PRIORITY) };
    u8::try_from(given).map_err(|_| Refusal::invalid("priority", format!("is {given}"), "0 to 9"))
}

pub(super) fn send(request: pb::SendRequest) -> Read<Envelope> {
    let messages = request.messages.into_iter().map(new_message).collect::<Read<Vec<_>>>()?;
    let command = Command::Send { queue: request.queue, messages };
    envelope(request.account, request.session, command)
}

pub(super) fn receive(
    queue: String,
    max_messages: u32,
    visibility: Option<prost_types::Duration>,
) -> Read<Receive> {
    let receive = Receive {
        queue,
        max_messages,
        max_bytes: sizes::contents(max_messages),
        visibility: span("visibility_timeout", visibility)?,
    };
    let command = Command::Receive(receive);
    check::command(&command)?;
    match command {
        Command::Receive(receive) => Ok(receive),
        _ => Err(Refusal::Fatal("a receive became another command".to_owned())),
    }
}

pub(super) fn delete(
    account_name: String,
    queue: String,
    items: &[pb::DeleteItem],
    session: Option<pb::Session>,
) -> Read<Envelope> {
    let items = items
        .iter()
        .map(|item| Ok((message_id(&item.id)?, receipt(&item.pop_receipt)?)))
        .collect::<Read<Vec<_>>>()?;
    envelope(account_name, session, Command::Delete { queue, items })
}

pub(super) fn release(request: pb::ReleaseRequest) -> Read<Envelope> {
    use pb::release_request::After;
    let after = match request.after {
        None => ReleaseAfter::Now,
        Some(After::Delay(delay)) => {
            ReleaseAfter::Delay(span("delay", Some(delay))?.unwrap_or(Span::ZERO))
        }
        Some(After::BackOff(true)) => ReleaseAfter::BackOff,
        Some(After::BackOff(false)) => {
            return Err(Refusal::invalid("back_off", "is false", "true, or not given"));
        }
    };
    let items = request
        .items
        .iter()
        .map(|item| Ok((message_id(&item.id)?, receipt(&item.pop_receipt)?)))
        .collect::<Read<Vec<_>>>()?;
    let command = Command::Release { queue: request.queue, items, after };
    envelope(request.account, request.session, command)
}

pub(super) fn transact(request: pb::TransactRequest) -> Read<Envelope> {
    let delete =
        |it: pb::TransactDelete| Ok((it.queue, message_id(&it.id)?, receipt(&it.pop_receipt)?));
    let send = |it: pb::TransactSend| {
        let messages = it.messages.into_iter().map(new_message);
        Ok((it.queue, messages.collect::<Read<Vec<_>>>()?))
    };
    let command = Command::Transact(Transact {
        deletes: request.deletes.into_iter().map(delete).collect::<Read<Vec<_>>>()?,
        sends: request.sends.into_iter().map(send).collect::<Read<Vec<_>>>()?,
    });
    envelope(request.account, request.session, command)
}

pub(super) fn released_out(outcome: ReleaseOutcome) -> pb::ReleaseResult {
    let (outcome, visible_at) = match outcome {
        ReleaseOutcome::Released { visible_at } => {
            (pb::ReleaseOutcome::Released, Some(timestamp(visible_at)))
        }
        ReleaseOutcome::MessageNotFound => (pb::ReleaseOutcome::MessageNotFound, None),
        ReleaseOutcome::ReceiptMismatch => (pb::ReleaseOutcome::ReceiptMismatch, None),
    };
    pb::ReleaseResult { outcome: outcome.into(), visible_at }
}

pub(super) fn message_id(text: &str) -> Read<MessageId> {
    MessageId::parse(text).ok_or_else(|| {
        Refusal::invalid("id", format!("is {}", quoted(text)), "an id that a send answered")
    })
}

pub(super) fn receipt(text: &str) -> Read<Receipt> {
    Receipt::parse(text).ok_or_else(|| {
        let allowed = "the newest receipt of the message, as it was answered";
        Refusal::invalid("pop_receipt", format!("is {}", quoted(text)), allowed)
    })
}

/// A page's size; 0 = the default.
pub(super) fn page_size(field: &str, given: u32, default: u32) -> Read<usize> {
    let size = if given == 0 { default } else { given } as usize;
    if size > limits::PAGE {
        let allowed = format!("1 to {}, or 0 for {default}", limits::PAGE);
        return Err(Refusal::invalid(field, format!("is {size}"), allowed));
    }
    Ok(size)
}

pub(super) fn peek_token(text: &str) -> Read<Option<PeekToken>> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || Refusal::invalid("page_token", "cannot be read", "that of the page before");
    PeekToken::parse(text).map(Some).ok_or_else(wrong)
}

/// The standing that a peek asks for; `None` = dead letters, however they stand.
pub(super) fn peeked(state: i32) -> Read<Option<Standing>> {
    match pb::MessageState::try_from(state) {
        Ok(pb::MessageState::Unspecified | pb::MessageState::Visible) => {
            Ok(Some(Standing::Visible))
        }
        Ok(pb::MessageState::Leased) => Ok(Some(Standing::Leased)),
        Ok(pb::MessageState::Delayed) => Ok(Some(Standing::Delayed)),
        Ok(pb::MessageState::Blocked) => Ok(Some(Standing::Blocked)),
        Ok(pb::MessageState::Dead) => Ok(None),
        Err(_) => {
            let allowed = "visible, leased, delayed, blocked or dead";
            Err(Refusal::invalid("state", format!("is {state}"), allowed))
        }
    }
}

pub(super) fn state_out(standing: Standing) -> pb::MessageState {
    match standing {
        Standing::Visible => pb::MessageState::Visible,
        Standing::Leased => pb::MessageState::Leased,
        Standing::Delayed => pb::MessageState::Delayed,
        Standing::Blocked => pb::MessageState::Blocked,
        // Shown by no read: an expired message is not found.
        Standing::Due => pb::MessageState::Unspecified,
    }
}

/// What a client sent, short enough for a message.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    format!("{short:?}")
}

pub(super) fn timestamp(at: LogTime) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(at.0 / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(at.0 % 1_000_000).unwrap_or(0).saturating_mul(1_000),
    }
}

pub(super) fn lasting(span: std::time::Duration) -> prost_types::Duration {
    duration(Span(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
}

pub(super) fn duration(span: Span) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.0 / 1_000_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.0 % 1_000_000).unwrap_or(0).saturating_mul(1_000),
    }
}

pub(super) fn position_out(position: Position) -> pb::Position {
    pb::Position { term: position.term, node: position.node, index: position.index }
}

/// The receipt of a write. `held` is asked when the answer leaves, never guessed.
pub(super) fn durability(done: &Done, zones_at_least: u32, zones: Vec<String>) -> pb::Durability {
    pb::Durability {
        position: Some(position_out(done.position)),
        epoch: done.epoch.0,
        log_time: Some(timestamp(done.log_time)),
        zones_at_least,
        zones,
    }
}

pub(super) fn settings_out(settings: &Settings) -> pb::QueueSettings {
    let (dead, back_off) = (settings.dead_letters.as_ref(), settings.back_off);
    pb::QueueSettings {
        default_ttl: Some(duration(settings.default_ttl.unwrap_or(Span::ZERO))),
        default_visibility_timeout: Some(duration(settings.default_visibility)),
        max_message_bytes: settings.max_message_bytes,
        dead_letter_queue: dead.map(|target| target.queue.clone()).unwrap_or_default(),
        max_deliveries: dead.map_or(0, |target| target.max_deliveries),
        dead_letter_ttl: settings.dead_letter_ttl.map(duration),
        deduplication_window: Some(duration(settings.deduplication_window)),
        max_messages: settings.quota.messages.unwrap_or(0),
        max_bytes: settings.quota.bytes.unwrap_or(0),
        undelete_window: Some(duration(settings.undelete_window)),
        back_off: Some(pb::BackOff {
            first: Some(duration(back_off.first)),
            most: Some(duration(back_off.most)),
            factor: back_off.factor,
        }),
    }
}

pub(super) fn queue_out(view: QueueView) -> pb::Queue {
    pb::Queue {
        name: view.row.name,
        metadata: view.row.metadata,
        settings: Some(settings_out(&view.row.settings)),
        counts: Some(counts_out(view.counts, view.oldest_age)),
        created_at: Some(timestamp(view.row.created_at)),
        paused: view.row.paused,
        dead_letters_refused_since: view.dead_letters_refused_at.map(timestamp),
        id: view.row.id.0,
        deleted_at: view.row.kept.map(|kept| timestamp(kept.at)),
        kept_until: view.row.kept.map(|kept| timestamp(kept.until)),
    }
}

fn counts_out(counts: Counts, oldest_age: Option<Span>) -> pb::QueueCounts {
    let Counts { visible, leased, delayed, blocked, due, total, bytes } = counts;
    let oldest_age = oldest_age.map(duration);
    pb::QueueCounts { visible, leased, delayed, blocked, due, total, bytes, oldest_age }
}

pub(super) fn sent_out(sent: &Sent) -> pb::SentMessage {
    pb::SentMessage {
        id: sent.id.to_string(),
        pop_receipt: sent.receipt.to_string(),
        inserted_at: Some(timestamp(sent.inserted_at)),
        expires_at: sent.expires_at.map(timestamp),
        visible_at: Some(timestamp(sent.visible_at)),
        duplicate: sent.duplicate,
    }
}

pub(super) fn granted_out(granted: &Granted, content: Content) -> pb::Message {
    pb::Message {
        id: granted.id.to_string(),
        body: content.body,
        headers: content.headers,
        pop_receipt: granted.receipt.to_string(),
        inserted_at: Some(timestamp(granted.inserted_at)),
        expires_at: granted.expires_at.map(timestamp),
        visible_at: Some(timestamp(granted.visible_at)),
        dequeue_count: granted.dequeue_count,
        priority: granted.priority.into(),
        dead_letter: dead_letter_out(granted.note.as_deref()),
        group: group_out(granted.note.as_deref()),
        redriven: redriven_out(granted.note.as_deref()),
    }
}

pub(super) fn shown_out(shown: &Shown, content: Content) -> pb::Message {
    pb::Message {
        id: shown.id.to_string(),
        body: content.body,
        headers: content.headers,
        pop_receipt: String::new(),
        inserted_at: Some(timestamp(shown.inserted_at)),
        expires_at: shown.expires_at.map(timestamp),
        visible_at: Some(timestamp(shown.visible_at)),
        dequeue_count: shown.dequeue_count,
        priority: shown.priority.into(),
        dead_letter: dead_letter_out(shown.note.as_deref()),
        group: group_out(shown.note.as_deref()),
        redriven: redriven_out(shown.note.as_deref()),
    }
}

fn group_out(note: Option<&Note>) -> String {
    note.and_then(|note| note.group.as_deref()).unwrap_or_default().to_owned()
}

fn redriven_out(note: Option<&Note>) -> Option<pb::Redriven> {
    let before = note?.redriven.as_ref()?;
    Some(pb::Redriven { id: before.id.to_string(), queue: before.queue.as_ref().to_owned() })
}

fn dead_letter_out(note: Option<&Note>) -> Option<pb::DeadLetter> {
    let dead = note?.dead.as_ref()?;
    let reason = match dead.reason {
        DeadReason::MaxDeliveries => pb::DeadLetterReason::MaxDeliveries,
    };
    Some(pb::DeadLetter {
        reason: reason.into(),
        source: dead.source.clone(),
        dead_lettered_at: Some(timestamp(dead.at)),
        first_received_at: dead.received.map(|(first, _)| timestamp(first)),
        last_received_at: dead.received.map(|(_, last)| timestamp(last)),
        deliveries: dead.deliveries,
    })
}

pub(super) fn deleted_out(outcome: DeleteOutcome) -> i32 {
    let outcome = match outcome {
        DeleteOutcome::Deleted => pb::DeleteOutcome::Deleted,
        DeleteOutcome::MessageNotFound => pb::DeleteOutcome::MessageNotFound,
        DeleteOutcome::ReceiptMismatch => pb::DeleteOutcome::ReceiptMismatch,
    };
    outcome.into()
}

/// About what a send holds in memory, for admission.
pub(super) fn send_bytes(request: &pb::SendRequest) -> usize {
    let message = |message: &pb::NewMessage| {
        let headers = message.headers.iter().map(|(name, value)| name.len() + value.len());
        64 + message.body.len() + headers.sum::<usize>()
    };
    request.messages.iter().map(message).sum::<usize>() + request.queue.len()
}

/// The whole content of an update that replaces a half, or all.
pub(super) fn changed(kept: Content, body: Option<Bytes>, headers: Option<pb::Headers>) -> Content {
    Content {
        body: body.unwrap_or(kept.body),
        headers: headers.map_or(kept.headers, |headers| headers.values),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ids::{Epoch, Number};
    use crate::queue::note::Dead;

    fn text(refusal: Refusal) -> String {
        tonic::Status::from(refusal).message().to_owned()
    }

    fn wire(seconds: i64, nanos: i32) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos })
    }

    #[test]
    fn settings_survive_the_wire() {
        let all = [
            Settings::default(),
            Settings {
                default_ttl: None,
                default_visibility: Span(1_500_000),
                max_message_bytes: 1 << 20,
                dead_letters: Some(DeadLetters { queue: "dead".into(), max_deliveries: 3 }),
                dead_letter_ttl: Some(Span(7_000_000)),
                deduplication_window: Span(8_000_000),
                quota: Quota { messages: Some(7), bytes: Some(8) },
                back_off: BackOff { first: Span(0), most: Span(9_000_000), factor: 3 },
                undelete_window: Span(60_000_000),
            },
        ];
        for one in all {
            let back = settings(Some(settings_out(&one))).map_err(text);
            assert_eq!(back, Ok(one));
        }
        let undelete_window = limits::DEFAULT_UNDELETE_WINDOW;
        let usual = Settings { undelete_window, ..Settings::default() };
        assert_eq!(settings(None).map_err(text), Ok(usual));
    }

    #[test]
    fn a_position_in_time_keeps_its_microseconds() {
        let at = timestamp(LogTime(1_700_000_000_123_456));
        assert_eq!((at.seconds, at.nanos), (1_700_000_000, 123_456_000));
        assert_eq!(span("x", wire(1, 500_000_999)).map_err(text), Ok(Some(Span(1_500_000))));
    }

    #[test]
    fn every_refusal_names_the_field_and_the_range() {
        let table: [(&str, Read<()>, &str); 11] = [
            ("delay", span("delay", wire(-1, 0)).map(drop), "delay is negative; allowed: a dur"),
            ("nanos", span("ttl", wire(0, i32::MAX)).map(drop), "ttl has 2147483647 nanosec"),
            ("long", span("ttl", wire(i64::MAX, 0)).map(drop), "seconds is too long"),
            ("wait", wait(wire(61, 0)).map(drop), "wait is 61 seconds; allowed: 0 to 60 seconds"),
            ("id", message_id("7").map(drop), "id is \"7\"; allowed: an id that a send answered"),
            ("receipt", receipt("x").map(drop), "pop_receipt is \"x\"; allowed: the newest"),
            (
                "page",
                page_size("page_size", 1_001, 100).map(drop),
                "page_size is 1001; allowed: 1 to 1000, or 0 for 100",
            ),
            ("token", peek_token("?").map(drop), "page_token cannot be read; allowed: that of"),
            ("dead", dead_letters(String::new(), 3).map(drop), "settings.max_deliveries is 3; all"),
            ("priority", priority(Some(256)).map(drop), "priority is 256; allowed: 0 to 9"),
            ("batch", receive("orders".into(), 1_001, None).map(drop), "max_messages is 1001; al"),
        ];
        for (name, outcome, expected) in table {
            let said = text(outcome.expect_err(name));
            assert!(said.contains(expected), "{name} said {said}");
        }
    }

    #[test]
    fn a_session_is_read_strictly() {
        let session = |bytes: usize, sequence, lowest_unanswered| pb::Session {
            client_id: vec![7; bytes].into(),
            sequence,
            lowest_unanswered,
        };
        assert!(session_tag(session(16, 2, 1)).is_ok());
        for (bad, field) in [
            (session(15, 1, 1), "session.client_id has 15 bytes; allowed: 16 bytes"),
            (session(16, 0, 0), "session.sequence is 0; allowed: 1 and more"),
            (session(16, 1, 2), "session.lowest_unanswered is 2; allowed: 0 to the sequence, 1"),
        ] {
            assert_eq!(text(session_tag(bad).expect_err(field)), field);
        }
    }

    #[test]
    fn an_update_keeps_the_half_that_is_not_given() {
        let kept = Content {
            body: Bytes::from_static(b"body"),
            headers: [("k".to_owned(), "v".to_owned())].into(),
        };
        let new = changed(kept.clone(), Some(Bytes::from_static(b"new")), None);
        assert_eq!((new.body.as_ref(), &new.headers), (&b"new"[..], &kept.headers));
        let new = changed(kept.clone(), None, Some(pb::Headers::default()));
        assert_eq!((&new.body, new.headers.len()), (&kept.body, 0));
    }

    #[test]
    fn a_granted_message_carries_id_receipt_and_content() {
        let id = MessageId { epoch: Epoch(1), number: Number(9) };
        let dead = Dead {
            reason: DeadReason::MaxDeliveries,
            source: "orders".into(),
            at: LogTime(4),
            arrived: Number(11),
            deliveries: 3,
            received: Some((LogTime(1), LogTime(3))),
        };
        let granted = Granted {
            id,
            receipt: Receipt { epoch: Epoch(1), counter: 12 },
            content: crate::queue::ids::ContentId(9),
            inserted_at: LogTime(5),
            expires_at: None,
            visible_at: LogTime(6),
            dequeue_count: 1,
            priority: 9,
            note: Some(std::sync::Arc::new(Note {
                dead: Some(dead),
                received: None,
                group: Some("customer-7".into()),
                redriven: None,
            })),
        };
        let message = granted_out(&granted, Content::default());
        assert_eq!(message_id(&message.id).map_err(text), Ok(id));
        assert_eq!(receipt(&message.pop_receipt).map_err(text), Ok(granted.receipt));
        assert_eq!((message.expires_at, message.priority), (None, 9));
        assert_eq!(message.group, "customer-7");
        let dead = message.dead_letter.expect("it is a dead letter");
        assert_eq!((dead.source.as_str(), dead.deliveries), ("orders", 3));
        assert_eq!(dead.first_received_at, Some(timestamp(LogTime(1))));
        assert_eq!(dead.last_received_at, Some(timestamp(LogTime(3))));
    }
}
