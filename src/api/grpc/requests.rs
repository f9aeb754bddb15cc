//! Requests that change queues as wholes, to commands; and every such way from bytes to a command
//! in one place, for those who try bytes that nobody wrote so.
//!
//! Laws: as in `convert.rs`.

use bytes::Bytes;
use prost::Message;

use super::convert;
use super::error::Refusal;
use super::redrive::asked;
use crate::proto::queue::v1 as pb;
use crate::queue::command::{Command, Envelope};
use crate::queue::ids::QueueId;
use crate::queue::redrive;

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

fn start_redrive(mut request: pb::StartRedriveRequest) -> Read<Envelope> {
    let (account, session) = (std::mem::take(&mut request.account), request.session.take());
    let asked = asked(request)?;
    redrive::check(&asked)?;
    convert::envelope(account, session, Command::StartRedrive(Box::new(asked)))
}

fn receive(request: pb::ReceiveRequest) -> Read<Envelope> {
    convert::wait(request.wait)?;
    let receive =
        convert::receive(request.queue, request.max_messages, request.visibility_timeout)?;
    convert::envelope(request.account, request.session, Command::Receive(receive))
}

fn delete(request: pb::DeleteRequest) -> Read<Envelope> {
    convert::delete(request.account, request.queue, &request.items, request.session)
}

/// `None` when the bytes are no such message.
type Way = fn(Bytes) -> Option<Read<Envelope>>;

/// Messages of the wire that become a command, in the order of their numbers in [`read`].
const WAYS: [Way; 10] = [
    |bytes| way(bytes, convert::send),
    |bytes| way(bytes, receive),
    |bytes| way(bytes, delete),
    |bytes| way(bytes, convert::release),
    |bytes| way(bytes, convert::transact),
    |bytes| way(bytes, create_queue),
    |bytes| way(bytes, set_metadata),
    |bytes| way(bytes, set_settings),
    |bytes| way(bytes, undelete_queue),
    |bytes| way(bytes, start_redrive),
];

fn way<M: Message + Default>(
    bytes: Bytes,
    read: impl FnOnce(M) -> Read<Envelope>,
) -> Option<Read<Envelope>> {
    Some(read(M::decode(bytes).ok()?))
}

/// What a writing request of `zoneq.queue.v1` comes to. The first byte says which it is: 0 a send,
/// 1 a receive, 2 a delete, 3 a release, 4 a transaction, 5 to 8 create, metadata, settings and
/// undelete of a queue, 9 a redrive. `None` when the rest is no such message, or is refused.
#[must_use]
pub fn read(bytes: &Bytes) -> Option<Envelope> {
    let way = WAYS.get(usize::from(*bytes.first()?))?;
    way(bytes.slice(1..))?.ok()
}
