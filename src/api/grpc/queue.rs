//! `QueueService`: each verb turned into a command or a read, and the outcome into an answer.
//!
//! Laws: a command passes the queue's own checks before it may enter the log; a request is
//! counted against the node's budget until it is answered; reads are linearizable unless the
//! caller allows staleness, and carry the T of the state that answered.

use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::BoxStream;
use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::call::Call;
use super::convert;
use super::error::Refusal;
use super::forward::{self, Kind};
use super::questions::{self, OneMessage, Peek};
use super::receive_stream;
use super::requests;
use super::send_stream::SendAnswers;
use super::sizes::{self, FRAME_BYTES, Filling};
use crate::api::admission::Admission;
use crate::consensus::error::Fate;
use crate::consensus::group::{Freshness, Group};
use crate::consensus::proposer::Done;
use crate::proto::queue::v1 as pb;
use crate::proto::queue::v1::queue_service_client::QueueServiceClient;
use crate::proto::queue::v1::queue_service_server::{QueueService, QueueServiceServer};
use crate::queue::PeekToken;
use crate::queue::command::{Content, Envelope};
use crate::queue::ids::LogTime;
use crate::queue::outcome::{Reply, Shown};
use crate::storage::bodies::Found;
use crate::storage::store::Store;

/// What a call costs beside its bytes, for admission.
const CALL_BYTES: usize = 256;

/// The queue service of one node. A clone is the same service.
#[derive(Clone)]
pub struct QueueFace {
    pub(super) group: Group,
    pub(super) admission: Admission,
}

pub(super) type Answer<T> = Result<T, Refusal>;
type Answered<T> = Result<Response<T>, Status>;

/// A client of the leader's node that takes answers as large as we give.
pub(super) fn client(channel: Channel) -> QueueServiceClient<Channel> {
    QueueServiceClient::new(channel)
        .max_decoding_message_size(FRAME_BYTES)
        .max_encoding_message_size(FRAME_BYTES)
}

impl QueueFace {
    #[must_use]
    pub fn new(group: Group, admission: Admission) -> QueueFace {
        QueueFace { group, admission }
    }

    /// The service for a tonic router, with its byte limits.
    #[must_use]
    pub fn into_server(self) -> QueueServiceServer<QueueFace> {
        QueueServiceServer::new(self).max_decoding_message_size(FRAME_BYTES)
    }

    /// Proposes a write and takes its outcome apart from its receipt.
    pub(super) async fn write(
        &self,
        call: &Call,
        envelope: Envelope,
        bytes: usize,
    ) -> Answer<(Reply, pb::Durability)> {
        let _permit = self.admission.admit(bytes + CALL_BYTES)?;
        let done = self.group.propose(envelope, call.deadline).await?;
        let durability = self.durability(&done);
        Ok((done.outcome?, durability))
    }

    /// What is known of a write at the moment its answer leaves.
    pub(super) fn durability(&self, done: &Done) -> pb::Durability {
        let (zones_at_least, zones) = self.group.durability(done.position);
        convert::durability(done, zones_at_least, zones)
    }

    /// Reads the state that is fresh enough.
    pub(super) async fn look<T: Send>(
        &self,
        call: &Call,
        staleness: Option<Duration>,
        read: impl FnOnce(&Store) -> T + Send,
    ) -> Answer<(T, LogTime)> {
        let _permit = self.admission.admit(CALL_BYTES)?;
        let freshness = staleness.map_or(Freshness::Linearizable, Freshness::Stale);
        Ok(self.group.read(freshness, call.deadline, |store, _| read(store)).await?)
    }

    async fn send_here(&self, call: &Call, request: pb::SendRequest) -> Answer<pb::SendResponse> {
        let bytes = convert::send_bytes(&request);
        let envelope = convert::send(request)?;
        let (reply, durability) = self.write(call, envelope, bytes).await?;
        let Reply::Sent(sent) = reply else { return Err(other_write()) };
        let messages = sent.iter().map(convert::sent_out).collect();
        Ok(pb::SendResponse { messages, durability: Some(durability) })
    }

    async fn receive_here(
        &self,
        call: &Call,
        request: pb::ReceiveRequest,
    ) -> Answer<pb::ReceiveResponse> {
        let wait = call.rest_of_wait().min(call.remaining());
        let (envelope, receive) = requests::receive(request)?;
        let _permit = self.admission.admit(CALL_BYTES)?;
        let (account, session) = (envelope.account, envelope.session);
        let done = self.group.receive(&account, &receive, session, wait, call.deadline).await?;
        done.map_or_else(|| Ok(pb::ReceiveResponse::default()), |done| self.received(done))
    }

    /// The messages of a receive, whose contents came with its outcome.
    pub(super) fn received(&self, done: Done) -> Answer<pb::ReceiveResponse> {
        let durability = self.durability(&done);
        let Reply::Received { messages, more } = done.outcome? else { return Err(other_write()) };
        let messages = messages
            .iter()
            .zip(done.contents)
            .map(|(granted, content)| convert::granted_out(granted, content))
            .collect();
        Ok(pb::ReceiveResponse { messages, more, durability: Some(durability) })
    }

    async fn update_here(
        &self,
        call: &Call,
        request: pb::UpdateRequest,
    ) -> Answer<pb::UpdateResponse> {
        let bytes = request.encoded_len();
        let mut asked = requests::update(request)?;
        let content = match (asked.body.take(), asked.headers.take()) {
            (None, None) => None,
            (Some(body), Some(headers)) => Some(Content { body, headers: headers.values }),
            (body, headers) => {
                // A half is kept. Should another update come between, the receipt is stale.
                self.group.check_writable()?;
                let (queue, id) = (&asked.update.queue, asked.update.id);
                let kept = self.shown(call, None, &asked.account, queue, id).await;
                // A state that became a copy meanwhile may be older than what it was a copy of.
                self.group.check_writable()?;
                Some(convert::changed(kept?.0.1, body, headers))
            }
        };
        let (reply, durability) = self.write(call, asked.with(content)?, bytes).await?;
        let Reply::Updated { receipt, visible_at } = reply else { return Err(other_write()) };
        Ok(pb::UpdateResponse {
            pop_receipt: receipt.to_string(),
            visible_at: Some(convert::timestamp(visible_at)),
            durability: Some(durability),
        })
    }

    async fn delete_here(
        &self,
        call: &Call,
        request: pb::DeleteRequest,
    ) -> Answer<pb::DeleteResponse> {
        let bytes = request.items.len() * 64;
        let envelope =
            convert::delete(request.account, request.queue, &request.items, request.session)?;
        let _permit = self.admission.admit(bytes + CALL_BYTES)?;
        let done = self.group.propose(envelope, call.deadline).await?;
        self.deleted(done)
    }

    pub(super) fn deleted(&self, done: Done) -> Answer<pb::DeleteResponse> {
        let durability = self.durability(&done);
        let Reply::Deleted(outcomes) = done.outcome? else { return Err(other_write()) };
        let outcomes = outcomes.into_iter().map(convert::deleted_out).collect();
        Ok(pb::DeleteResponse { outcomes, durability: Some(durability) })
    }

    async fn release_here(
        &self,
        call: &Call,
        request: pb::ReleaseRequest,
    ) -> Answer<pb::ReleaseResponse> {
        let bytes = request.items.len() * 64;
        let envelope = convert::release(request)?;
        let (reply, durability) = self.write(call, envelope, bytes).await?;
        let Reply::Released(outcomes) = reply else { return Err(other_write()) };
        let results = outcomes.into_iter().map(convert::released_out).collect();
        Ok(pb::ReleaseResponse { results, durability: Some(durability) })
    }

    async fn transact_here(
        &self,
        call: &Call,
        request: pb::TransactRequest,
    ) -> Answer<pb::TransactResponse> {
        let bytes = request.encoded_len();
        let envelope = convert::transact(request)?;
        let (reply, durability) = self.write(call, envelope, bytes).await?;
        let Reply::Transacted(sent) = reply else { return Err(other_write()) };
        let messages = sent.iter().map(convert::sent_out).collect();
        Ok(pb::TransactResponse { messages, durability: Some(durability) })
    }

    async fn peek_here(&self, call: &Call, request: pb::PeekRequest) -> Answer<pb::PeekResponse> {
        let asked = Peek::of(request)?;
        let (staleness, size) = (asked.staleness, asked.size);
        let page = |store: &Store, size: usize| -> Result<Page, Refusal> {
            let (shown, next) = asked.look(store.state(), size)?;
            let find = |one: Shown| store.find(one.content).map(|found| (one, found));
            Ok((shown.len(), shown.into_iter().filter_map(find).collect(), next))
        };
        let (first, at) = self.look(call, staleness, |store| page(store, size)).await?;
        let (count, found, mut next) = first?;
        let mut messages = Vec::with_capacity(found.len());
        let (mut filling, mut full) = (Filling::new(), false);
        for (shown, found) in found {
            let content = self.content(call, &found).await?;
            let message = convert::shown_out(&shown, content);
            full = !filling.takes(&message);
            if full {
                break;
            }
            messages.push(message);
        }
        if full && messages.len() < count {
            // The answer is full: the next page begins behind what is in it.
            let size = messages.len();
            let local = Some(staleness.unwrap_or(Duration::from_secs(60)));
            next = self.look(call, local, |store| page(store, size)).await?.0?.2;
        }
        Ok(pb::PeekResponse {
            messages,
            next_page_token: next.map(|token| token.to_string()).unwrap_or_default(),
            log_time: Some(convert::timestamp(at)),
        })
    }

    async fn get_message_here(
        &self,
        call: &Call,
        request: pb::GetMessageRequest,
    ) -> Answer<pb::GetMessageResponse> {
        let OneMessage { queue, id } = OneMessage::of(request)?;
        let found = self.shown(call, queue.staleness, &queue.account, &queue.name, id);
        let ((shown, content), at) = found.await?;
        Ok(pb::GetMessageResponse {
            message: Some(convert::shown_out(&shown, content)),
            state: convert::state_out(shown.standing).into(),
            log_time: Some(convert::timestamp(at)),
        })
    }

    /// A content that was looked up.
    async fn content(&self, call: &Call, found: &Found) -> Answer<Content> {
        Ok(self.group.content(found, call.deadline, Fate::NotApplied).await?)
    }

    /// One message and its content.
    async fn shown(
        &self,
        call: &Call,
        staleness: Option<Duration>,
        account: &str,
        queue: &str,
        id: crate::queue::ids::MessageId,
    ) -> Answer<((Shown, Content), LogTime)> {
        let look = |store: &Store| -> Result<(Shown, Option<Found>), Refusal> {
            let shown = store.state().message(account, queue, id)?;
            let found = store.find(shown.content);
            Ok((shown, found))
        };
        let (found, at) = self.look(call, staleness, look).await?;
        let (shown, found) = found?;
        let found = found.ok_or_else(|| no_body(&id.to_string()))?;
        Ok(((shown, self.content(call, &found).await?), at))
    }

    async fn durability_here(
        &self,
        call: &Call,
        request: pb::GetDurabilityRequest,
    ) -> Answer<pb::GetDurabilityResponse> {
        let position = questions::position(request)?;
        let _permit = self.admission.admit(CALL_BYTES)?;
        self.group.confirm_own_log(call.deadline).await?;
        let (zones_at_least, zones) = self.group.durability(position);
        let committed = self.group.has_applied(position);
        let other_region = match self.group.is_in_other_region(position) {
            None => pb::OtherRegion::Unspecified,
            Some(false) => pb::OtherRegion::NotYet,
            Some(true) => pb::OtherRegion::HasIt,
        };
        let other_region = other_region.into();
        Ok(pb::GetDurabilityResponse { committed, zones_at_least, zones, other_region })
    }
}

/// Messages looked at, those with contents, and where the next page begins.
type Page = (usize, Vec<(Shown, Found)>, Option<PeekToken>);

/// A session answered with the outcome of another kind of write.
pub(super) fn other_write() -> Refusal {
    let allowed = "a new sequence for each write, and the same only for a retry of it";
    Refusal::invalid("session.sequence", "was used for another write", allowed)
}

fn no_body(id: &str) -> Refusal {
    Refusal::Fatal(format!("the body of message {id} is not in the store"))
}

/// A verb that is answered where the leader is. A read that may be stale is tried here first.
macro_rules! verb {
    ($self:ident, $request:ident, $kind:ident, $verb:ident, $here:ident) => {{
        let call = Call::of($request.metadata(), Duration::ZERO);
        let request = $request.into_inner();
        sizes::check("request", &request)?;
        verb!(@stale $kind, $self, call, request, $here);
        let here = |request| $self.$here(&call, request).boxed();
        let there = |channel, request| {
            async move { client(channel).$verb(request).await }.boxed()
        };
        forward::unary(&$self.group, &call, verb!(@kind $kind), request, here, there).await
    }};
    (@kind write) => { Kind::Write };
    (@kind read) => { Kind::Read };
    (@kind fresh) => { Kind::Read };
    (@stale write, $($rest:tt)*) => {};
    (@stale fresh, $($rest:tt)*) => {};
    (@stale read, $self:ident, $call:ident, $request:ident, $here:ident) => {
        if $request.max_staleness.is_some() {
            match $self.$here(&$call, $request.clone()).await {
                Ok(answer) => return Ok(Response::new(answer)),
                Err(refusal) if refusal.may_be_read_elsewhere() => {}
                Err(refusal) => return Err(refusal.into()),
            }
        }
    };
}

#[tonic::async_trait]
impl QueueService for QueueFace {
    type SendStreamStream = BoxStream<'static, Result<pb::SendStreamResponse, Status>>;
    type ReceiveStreamStream = BoxStream<'static, Result<pb::ReceiveStreamResponse, Status>>;

    async fn create_queue(
        &self,
        request: Request<pb::CreateQueueRequest>,
    ) -> Answered<pb::CreateQueueResponse> {
        verb!(self, request, write, create_queue, create_here)
    }

    async fn delete_queue(
        &self,
        request: Request<pb::DeleteQueueRequest>,
    ) -> Answered<pb::DeleteQueueResponse> {
        verb!(self, request, write, delete_queue, delete_queue_here)
    }

    async fn get_queue(
        &self,
        request: Request<pb::GetQueueRequest>,
    ) -> Answered<pb::GetQueueResponse> {
        verb!(self, request, read, get_queue, get_queue_here)
    }

    async fn list_queues(
        &self,
        request: Request<pb::ListQueuesRequest>,
    ) -> Answered<pb::ListQueuesResponse> {
        verb!(self, request, read, list_queues, list_here)
    }

    async fn set_queue_metadata(
        &self,
        request: Request<pb::SetQueueMetadataRequest>,
    ) -> Answered<pb::SetQueueMetadataResponse> {
        verb!(self, request, write, set_queue_metadata, set_metadata_here)
    }

    async fn set_queue_settings(
        &self,
        request: Request<pb::SetQueueSettingsRequest>,
    ) -> Answered<pb::SetQueueSettingsResponse> {
        verb!(self, request, write, set_queue_settings, set_settings_here)
    }

    async fn pause_queue(
        &self,
        request: Request<pb::PauseQueueRequest>,
    ) -> Answered<pb::PauseQueueResponse> {
        verb!(self, request, write, pause_queue, pause_here)
    }

    async fn resume_queue(
        &self,
        request: Request<pb::ResumeQueueRequest>,
    ) -> Answered<pb::ResumeQueueResponse> {
        verb!(self, request, write, resume_queue, resume_here)
    }

    async fn send(&self, request: Request<pb::SendRequest>) -> Answered<pb::SendResponse> {
        verb!(self, request, write, send, send_here)
    }

    async fn send_stream(
        &self,
        request: Request<Streaming<pb::SendStreamRequest>>,
    ) -> Answered<Self::SendStreamStream> {
        let call = Call::of(request.metadata(), Duration::ZERO);
        let Some(way) = forward::place_of_writer(&self.group, &call).await? else {
            let answers = SendAnswers::new(self.clone(), request.into_inner());
            return Ok(Response::new(forward::stream_of_pair(&self.group, &call, answers)));
        };
        let passed = forward::signed_stream(&way, &call, request.into_inner());
        let from = way.opened(client(way.channel.clone()).send_stream(passed)).await?;
        Ok(Response::new(way.answers(from)))
    }

    async fn receive(&self, request: Request<pb::ReceiveRequest>) -> Answered<pb::ReceiveResponse> {
        let wait = convert::wait(request.get_ref().wait)?;
        let call = Call::of(request.metadata(), wait);
        let request = request.into_inner();
        sizes::check("request", &request)?;
        // Whoever waits goes on at the next leader: a grant that was made is answered again.
        let kind = if request.session.is_some() { Kind::Repeatable } else { Kind::Write };
        let here = |request| self.receive_here(&call, request).boxed();
        let there = |channel, mut request: Request<pb::ReceiveRequest>| {
            request.get_mut().wait = prost_types::Duration::try_from(call.rest_of_wait()).ok();
            async move { client(channel).receive(request).await }.boxed()
        };
        forward::unary(&self.group, &call, kind, request, here, there).await
    }

    async fn receive_stream(
        &self,
        request: Request<Streaming<pb::ReceiveStreamRequest>>,
    ) -> Answered<Self::ReceiveStreamStream> {
        let call = Call::of(request.metadata(), Duration::ZERO);
        let Some(way) = forward::place_of_writer(&self.group, &call).await? else {
            let answers = receive_stream::open(self.clone(), request.into_inner());
            return Ok(Response::new(forward::stream_of_pair(&self.group, &call, answers)));
        };
        let passed = forward::signed_stream(&way, &call, request.into_inner());
        let from = way.opened(client(way.channel.clone()).receive_stream(passed)).await?;
        Ok(Response::new(way.answers(from)))
    }

    async fn update(&self, request: Request<pb::UpdateRequest>) -> Answered<pb::UpdateResponse> {
        verb!(self, request, write, update, update_here)
    }

    async fn delete(&self, request: Request<pb::DeleteRequest>) -> Answered<pb::DeleteResponse> {
        verb!(self, request, write, delete, delete_here)
    }

    async fn release(&self, request: Request<pb::ReleaseRequest>) -> Answered<pb::ReleaseResponse> {
        verb!(self, request, write, release, release_here)
    }

    async fn transact(
        &self,
        request: Request<pb::TransactRequest>,
    ) -> Answered<pb::TransactResponse> {
        verb!(self, request, write, transact, transact_here)
    }

    async fn peek(&self, request: Request<pb::PeekRequest>) -> Answered<pb::PeekResponse> {
        verb!(self, request, read, peek, peek_here)
    }

    async fn get_message(
        &self,
        request: Request<pb::GetMessageRequest>,
    ) -> Answered<pb::GetMessageResponse> {
        verb!(self, request, read, get_message, get_message_here)
    }

    async fn clear(&self, request: Request<pb::ClearRequest>) -> Answered<pb::ClearResponse> {
        verb!(self, request, write, clear, clear_here)
    }

    async fn get_durability(
        &self,
        request: Request<pb::GetDurabilityRequest>,
    ) -> Answered<pb::GetDurabilityResponse> {
        verb!(self, request, fresh, get_durability, durability_here)
    }

    async fn undelete_queue(
        &self,
        request: Request<pb::UndeleteQueueRequest>,
    ) -> Answered<pb::UndeleteQueueResponse> {
        verb!(self, request, write, undelete_queue, undelete_here)
    }

    async fn start_redrive(
        &self,
        request: Request<pb::StartRedriveRequest>,
    ) -> Answered<pb::StartRedriveResponse> {
        verb!(self, request, write, start_redrive, start_redrive_here)
    }

    async fn cancel_redrive(
        &self,
        request: Request<pb::CancelRedriveRequest>,
    ) -> Answered<pb::CancelRedriveResponse> {
        verb!(self, request, write, cancel_redrive, cancel_redrive_here)
    }

    async fn list_redrives(
        &self,
        request: Request<pb::ListRedrivesRequest>,
    ) -> Answered<pb::ListRedrivesResponse> {
        verb!(self, request, read, list_redrives, list_redrives_here)
    }

    async fn set_account_quota(
        &self,
        request: Request<pb::SetAccountQuotaRequest>,
    ) -> Answered<pb::SetAccountQuotaResponse> {
        verb!(self, request, write, set_account_quota, set_account_quota_here)
    }

    async fn get_account(
        &self,
        request: Request<pb::GetAccountRequest>,
    ) -> Answered<pb::GetAccountResponse> {
        verb!(self, request, read, get_account, get_account_here)
    }

    async fn list_accounts(
        &self,
        request: Request<pb::ListAccountsRequest>,
    ) -> Answered<pb::ListAccountsResponse> {
        verb!(self, request, read, list_accounts, list_accounts_here)
    }
}
