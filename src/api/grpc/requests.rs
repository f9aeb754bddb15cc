//! Requests that change queues as wholes, to commands; and every such way from bytes to a command
//! in one place, for those who try bytes that nobody wrote so.
//!
//! Laws: as in `convert.rs`.

use bytes::Bytes;
use prost::Message;

use super::convert;
use super::error::Refusal;
use super::redrive::asked;
use super::sizes;
use crate::proto::queue::v1 as pb;
use crate::queue::command::{AccountQuota, Command, Content, Envelope, Receive, Update};
use crate::queue::ids::QueueId;
use crate::queue::redrive;

/// Messages of one answer of a stream of receives that names no number.
const USUAL_BATCH: u32 = 100;

type Read<T> = Result<T, Refusal>;

pub(super) fn create_queue(request: pb::CreateQueueRequest) -> Read<Envelope> {
    let settings = Box::new(convert::settings(request.settings)?);
    let (name, metadata) = (request.name, request.metadata);
    let command = Command::CreateQueue { name, metadata, settings };
    convert::envelope(request.account, request.session, command)
}

pub(super) fn set_metadata(request: pb::SetQueueMetadataRequest) -> Read<Envelope> {
    let command = Command::SetMetadata { name: request.name, metadata: request.metadata };
    convert::envelope(request.account, request.session, command)
}

pub(super) fn set_settings(request: pb::SetQueueSettingsRequest) -> Read<Envelope> {
    let settings = Box::new(convert::settings(request.settings)?);
    let command = Command::SetSettings { name: request.name, settings };
    convert::envelope(request.account, request.session, command)
}

pub(super) fn undelete_queue(request: pb::UndeleteQueueRequest) -> Read<Envelope> {
    let command = Command::UndeleteQueue {
        name: request.name,
        id: (request.id > 0).then_some(QueueId(request.id)),
        new_name: (!request.new_name.is_empty()).then_some(request.new_name),
    };
    convert::envelope(request.account, request.session, command)
}

pub(super) fn delete_queue(request: pb::DeleteQueueRequest) -> Read<Envelope> {
    let command = Command::DeleteQueue { name: request.name };
    convert::envelope(request.account, request.session, command)
}

pub(super) fn pause(request: pb::PauseQueueRequest) -> Read<Envelope> {
    let command = Command::SetPaused { name: request.name, paused: true };
    convert::envelope(request.account, request.session, command)
}

pub(super) fn resume(request: pb::ResumeQueueRequest) -> Read<Envelope> {
    let command = Command::SetPaused { name: request.name, paused: false };
    convert::envelope(request.account, request.session, command)
}

pub(super) fn clear(request: pb::ClearRequest) -> Read<Envelope> {
    let command = Command::Clear { queue: request.queue };
    convert::envelope(request.account, request.session, command)
}

pub(super) fn set_account_quota(request: pb::SetAccountQuotaRequest) -> Read<Envelope> {
    let given = request.quota.unwrap_or_default();
    let most = |limit: u64| (limit > 0).then_some(limit);
    let quota = AccountQuota {
        messages: most(given.max_messages),
        bytes: most(given.max_bytes),
        queues: most(given.max_queues),
    };
    convert::envelope(request.account, request.session, Command::SetAccountQuota(quota))
}

pub(super) fn cancel_redrive(request: pb::CancelRedriveRequest) -> Read<Envelope> {
    let id = convert::message_id(&request.id)?;
    let command = Command::CancelRedrive { queue: request.queue, id };
    convert::envelope(request.account, request.session, command)
}

fn start_redrive(mut request: pb::StartRedriveRequest) -> Read<Envelope> {
    let (account, session) = (std::mem::take(&mut request.account), request.session.take());
    let asked = asked(request)?;
    redrive::check(&asked)?;
    convert::envelope(account, session, Command::StartRedrive(Box::new(asked)))
}

/// One message where no number is named.
pub(super) fn receive(request: pb::ReceiveRequest) -> Read<(Envelope, Receive)> {
    convert::wait(request.wait)?;
    let most = request.max_messages.max(1);
    let receive = convert::receive(request.queue, most, request.visibility_timeout)?;
    let command = Command::Receive(receive.clone());
    Ok((convert::envelope(request.account, request.session, command)?, receive))
}

/// The account and what each receive of a stream asks for.
pub(super) fn open_stream(open: pb::ReceiveStreamOpen) -> Read<(String, Receive)> {
    let account = convert::account(open.account)?;
    convert::queue_name(&open.queue)?;
    let batch = if open.max_batch == 0 { USUAL_BATCH } else { open.max_batch };
    Ok((account, convert::receive(open.queue, batch, open.visibility_timeout)?))
}

/// The send of one item of a stream, and about how many bytes it holds in memory.
pub(super) fn stream_item(item: pb::SendStreamItem) -> Read<(Envelope, usize)> {
    let send = item.send.ok_or_else(|| {
        Refusal::invalid("send", "is missing", "the messages to send, in every item")
    })?;
    sizes::check("send", &send)?;
    let bytes = convert::send_bytes(&send);
    Ok((convert::send(send)?, bytes))
}

fn delete(request: pb::DeleteRequest) -> Read<Envelope> {
    convert::delete(request.account, request.queue, &request.items, request.session)
}

/// An update as it is asked for. Of the content a half that is not given is kept.
pub(super) struct UpdateAsked {
    pub(super) account: String,
    /// Without a content.
    pub(super) update: Update,
    pub(super) body: Option<Bytes>,
    pub(super) headers: Option<pb::Headers>,
    session: Option<pb::Session>,
}

pub(super) fn update(request: pb::UpdateRequest) -> Read<UpdateAsked> {
    let account = convert::account(request.account)?;
    convert::queue_name(&request.queue)?;
    let update = Update {
        id: convert::message_id(&request.id)?,
        receipt: convert::receipt(&request.pop_receipt)?,
        visibility: convert::span("visibility_timeout", request.visibility_timeout)?,
        queue: request.queue,
        content: None,
    };
    let (body, headers, session) = (request.body, request.headers, request.session);
    Ok(UpdateAsked { account, update, body, headers, session })
}

impl UpdateAsked {
    /// The command that gives the message this content; `None` = it keeps what it has.
    pub(super) fn with(self, content: Option<Content>) -> Read<Envelope> {
        let update = Update { content, ..self.update };
        convert::envelope(self.account, self.session, Command::Update(update))
    }
}

/// As if the message had neither body nor headers until now.
fn whole_update(request: pb::UpdateRequest) -> Read<Envelope> {
    let mut asked = update(request)?;
    let content = match (asked.body.take(), asked.headers.take()) {
        (None, None) => None,
        (body, headers) => Some(convert::changed(Content::default(), body, headers)),
    };
    asked.with(content)
}

fn frame_of_receives(frame: pb::ReceiveStreamRequest) -> Read<Vec<Envelope>> {
    use pb::receive_stream_request::Request;
    match frame.request {
        Some(Request::Open(open)) => {
            let (account, receive) = open_stream(open)?;
            Ok(vec![convert::envelope(account, None, Command::Receive(receive))?])
        }
        Some(Request::Delete(asked)) => {
            let (account, queue) = (String::new(), "orders".to_owned());
            Ok(vec![convert::delete(account, queue, &asked.items, asked.session)?])
        }
        Some(Request::Credit(_)) | None => Ok(Vec::new()),
    }
}

fn frame_of_sends(frame: pb::SendStreamRequest) -> Read<Vec<Envelope>> {
    frame.items.into_iter().map(|item| Ok(stream_item(item)?.0)).collect()
}

/// `None` when the bytes are no such message.
type Way = fn(Bytes) -> Option<Read<Vec<Envelope>>>;

fn way<M: Message + Default>(
    bytes: Bytes,
    read: impl FnOnce(M) -> Read<Vec<Envelope>>,
) -> Option<Read<Vec<Envelope>>> {
    Some(read(M::decode(bytes).ok()?))
}

/// The way of a message that comes to one command.
fn one<M>(read: impl FnOnce(M) -> Read<Envelope>) -> impl FnOnce(M) -> Read<Vec<Envelope>> {
    |request| Ok(vec![read(request)?])
}

macro_rules! ways {
    ($($message:ident => $read:expr,)*) => {
        /// Messages of the wire that become commands, in the order of their numbers in [`read`].
        pub const MESSAGES: &[&str] = &[$(concat!("queue.", stringify!($message))),*];
        const WAYS: &[Way] = &[$(|bytes| way::<pb::$message>(bytes, $read)),*];
    };
}

ways! {
    SendRequest => one(convert::send),
    ReceiveRequest => one(|it| Ok(receive(it)?.0)),
    DeleteRequest => one(delete),
    ReleaseRequest => one(convert::release),
    TransactRequest => one(convert::transact),
    CreateQueueRequest => one(create_queue),
    SetQueueMetadataRequest => one(set_metadata),
    SetQueueSettingsRequest => one(set_settings),
    UndeleteQueueRequest => one(undelete_queue),
    StartRedriveRequest => one(start_redrive),
    UpdateRequest => one(whole_update),
    ClearRequest => one(clear),
    DeleteQueueRequest => one(delete_queue),
    PauseQueueRequest => one(pause),
    ResumeQueueRequest => one(resume),
    CancelRedriveRequest => one(cancel_redrive),
    SetAccountQuotaRequest => one(set_account_quota),
    SendStreamRequest => frame_of_sends,
    ReceiveStreamRequest => frame_of_receives,
}

/// The commands that a writing request of `zoneq.queue.v1` comes to: one, or as many as a frame of
/// a stream has. The first byte is its number in [`MESSAGES`]. `None` when the rest is no such
/// message, or is refused.
#[must_use]
pub fn read(bytes: &Bytes) -> Option<Vec<Envelope>> {
    let way = WAYS.get(usize::from(*bytes.first()?))?;
    way(bytes.slice(1..))?.ok()
}
