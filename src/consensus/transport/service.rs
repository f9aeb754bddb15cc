//! The answering side: peer.proto over this node's Raft handle.
//!
//! Laws: every call is checked for cluster and target before anything else; appends are
//! pipelined and answered in order; the first message that cannot be read ends its stream with
//! a status, nothing is skipped. The end of the leader's stream by a broken connection is news
//! for the fast path. A node that leaves ends the streams itself, before its Raft core.
//!
//! Refuses calls for another cluster or node, messages above the byte limit, and, before they
//! are appended, entries for which the disk has no room. Calls from a
//! cut peer hang until their deadline, as if the zone were lost.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use openraft::alias::VoteOf;
use openraft::async_runtime::WatchReceiver as _;
use openraft::errors::Fatal;
use openraft::raft::AppendEntriesRequest;
use openraft::storage::RaftStateMachine;
use openraft::{Raft, Snapshot};
use tonic::{Request, Response, Status, Streaming};

use super::super::fastpath::{LeaderLost, LostSignal};
use super::super::network::Remote;
use super::super::types::{SnapshotData, TypeConfig};
use super::peers::Peers;
use super::{MAX_MESSAGE_BYTES, convert, snapshot};
use crate::clock::SharedClock;
use crate::proto::log::v1 as log;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::peer_service_server::{PeerService as Contract, PeerServiceServer};
use crate::queue::ids::ContentId;
use crate::storage::disk::FlushMode;
use crate::storage::error::StorageError;
use crate::storage::snapshot::{SnapshotView, SnapshotWriter};
use crate::storage::store::StoreError;

/// What the service needs of this node beside its Raft handle.
#[async_trait::async_trait]
pub trait LocalNode: Send + Sync + 'static {
    /// Begins taking a snapshot beside the tables in use.
    fn begin_install(&self) -> Result<SnapshotWriter, StoreError>;
    /// Entries of this node's own log, from `from` up to and without `to`, at most
    /// `max_bytes` of them but at least one if any is there.
    async fn read_log(
        &self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<pb::LogEntry>, StorageError>;
    /// What this node has applied, durable and pinned.
    async fn snapshot(&self) -> Result<SnapshotView, StoreError>;
    /// The record of a content, as this store numbers it, once this entry was applied; and the entry
    /// that was applied when it was read.
    async fn content(&self, id: ContentId, applied: u64) -> Result<(Bytes, u64), String>;
    /// How this node's data compare with those of another replica.
    fn compare(&self, asked: log::Milestones) -> Result<log::ComparedMilestone, String>;
    /// The data digest once exactly `index` was applied; none when it is not known.
    async fn digest(&self, index: u64) -> Option<[u8; 16]>;
    /// Why entries of so many bytes are not taken now; asked before they are appended.
    fn refuses_entries(&self, bytes: u64) -> Option<String>;
    /// Why no snapshot is taken now.
    fn refuses_snapshot(&self) -> Option<String>;
    /// Whether the disk held neither vote nor log when this process started.
    fn began_empty(&self) -> bool;
    /// Whether disk work may hide behind a thread.
    fn flush_mode(&self) -> FlushMode;
}

/// Bytes of entries in one answer to ReadLog.
const READ_LOG_BYTES: usize = 8 << 20;

/// Why no entries are read: purged ones are *out of range*, so that the other node knows that they
/// were here, and that what they did is.
pub fn unread(error: &StorageError) -> Status {
    match error {
        StorageError::OutOfRange { .. } => Status::out_of_range(error.to_string()),
        _ => Status::unavailable(error.to_string()),
    }
}

/// The peer service of one node.
pub struct PeerService<SM>
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    raft: Raft<TypeConfig, SM>,
    peers: Peers,
    local: Arc<dyn LocalNode>,
    clock: SharedClock,
    lost: LostSignal,
}

impl<SM> PeerService<SM>
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    pub fn new(
        raft: Raft<TypeConfig, SM>,
        peers: Peers,
        local: Arc<dyn LocalNode>,
        clock: SharedClock,
        lost: LostSignal,
    ) -> PeerService<SM> {
        PeerService { raft, peers, local, clock, lost }
    }

    /// The service for a tonic router, with its byte limits.
    #[must_use]
    pub fn into_server(self) -> PeerServiceServer<PeerService<SM>> {
        PeerServiceServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The sender of a call that may be answered; hangs while the sender is cut off.
    async fn admit<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        let sender = self.peers.admit(request.metadata())?;
        self.peers.faults().until_healed(sender).await;
        Ok(sender)
    }
}

impl<SM> PeerService<SM>
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    /// Whether this node may vote and hold entries: not while its disk is empty and it is not
    /// known that it always was.
    fn takes_part(&self) -> bool {
        !self.local.began_empty() || self.peers.admitted()
    }

    /// The sender of a call that changes this node.
    async fn admit_change<T>(&self, request: &Request<T>) -> Result<u64, Status> {
        let sender = self.admit(request).await?;
        if self.takes_part() {
            return Ok(sender);
        }
        Err(Status::unavailable(format!(
            "node {} has an empty disk and has not yet heard from all others that it may take part",
            self.peers.node()
        )))
    }
}

fn unreadable(error: &convert::ConvertError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(error: &(impl std::fmt::Display + ?Sized)) -> Status {
    Status::unavailable(format!("this node does not take part: {error}"))
}

fn leaving(node: u64) -> Status {
    Status::unavailable(format!("node {node} is stopping"))
}

#[tonic::async_trait]
impl<SM> Contract for PeerService<SM>
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    type AppendStream = BoxStream<'static, Result<pb::AppendResponse, Status>>;
    type ReadSnapshotStream = BoxStream<'static, Result<pb::ReadSnapshotResponse, Status>>;

    async fn append(
        &self,
        request: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let sender = self.admit_change(&request).await?;
        let remote = request.extensions().get::<Remote>().and_then(|remote| remote.0);
        let failure = Failure::default();
        let incoming = Incoming {
            requests: request.into_inner(),
            peers: self.peers.clone(),
            sender,
            remote,
            vote: None,
            failure: failure.clone(),
            local: Arc::clone(&self.local),
            lost: self.lost.clone(),
        };
        let raft = self.raft.clone();
        let answers = self
            .peers
            .scoped(async move {
                let answers: BoxStream<'static, Answered> =
                    Box::pin(raft.stream_append(incoming.stream()));
                answers
            })
            .await;
        Ok(Response::new(answering(answers, failure, self.peers.clone(), sender).boxed()))
    }

    async fn vote(
        &self,
        request: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        self.admit_change(&request).await?;
        let message = request.into_inner();
        let pre_vote = message.pre_vote;
        let vote = convert::vote_request_in(message).map_err(|e| unreadable(&e))?;
        let answer = if pre_vote {
            self.peers.scoped(self.raft.pre_vote(vote)).await
        } else {
            self.peers.scoped(self.raft.vote(vote)).await
        };
        let answer = answer.map_err(|error| stopped(&error))?;
        Ok(Response::new(convert::vote_response_out(&answer)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<pb::InstallSnapshotResponse>, Status> {
        self.admit_change(&request).await?;
        if let Some(why) = self.local.refuses_snapshot() {
            return Err(Status::resource_exhausted(why));
        }
        let mut stream = request.into_inner();
        let head = snapshot::take_head(&mut stream).await?;
        let (vote, meta) = convert::head_in(head).map_err(|e| unreadable(&e))?;
        let (local, mode) = (Arc::clone(&self.local), self.local.flush_mode());
        let writer = snapshot::off_thread(mode, move || local.begin_install()).await?;
        if meta.last_log_id.is_some_and(|id| id.leader_id > vote.leader_id) {
            return Err(Status::invalid_argument(
                "the snapshot is newer than the leader that sends it",
            ));
        }
        let ready = snapshot::take_chunks(&mut stream, writer, mode).await?;
        let named = meta.last_log_id.as_ref().map(|id| id.index);
        let held = ready.position().map(|position| position.index);
        if named != held {
            return Err(Status::data_loss(format!(
                "the snapshot's head names entry {named:?}, but its rows stand at {held:?}"
            )));
        }
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Received(ready) };
        let installed = self.peers.scoped(self.raft.install_full_snapshot(vote, snapshot)).await;
        let answer = installed.map_err(|error| stopped(&error))?;
        let vote = Some(convert::vote_out(&answer.vote));
        Ok(Response::new(pb::InstallSnapshotResponse { vote }))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        self.admit_change(&request).await?;
        let transfer = convert::transfer_in(request.into_inner()).map_err(|e| unreadable(&e))?;
        let answer = self.peers.scoped(self.raft.handle_transfer_leader(transfer)).await;
        let (accepted, reason) = match answer.map_err(|error| stopped(&error))? {
            Ok(()) => (true, String::new()),
            Err(refusal) => (false, refusal.to_string()),
        };
        Ok(Response::new(pb::TransferLeaderResponse { accepted, reason }))
    }

    async fn read_clock(
        &self,
        request: Request<pb::ReadClockRequest>,
    ) -> Result<Response<pb::ReadClockResponse>, Status> {
        self.admit(&request).await?;
        Ok(Response::new(pb::ReadClockResponse { wall_time_us: self.clock.wall_us() }))
    }

    async fn read_log(
        &self,
        request: Request<pb::ReadLogRequest>,
    ) -> Result<Response<pb::ReadLogResponse>, Status> {
        self.admit(&request).await?;
        let pb::ReadLogRequest { from_index, to_index } = request.into_inner();
        if from_index > to_index {
            return Err(Status::invalid_argument(format!(
                "entries from {from_index} to {to_index} are no range"
            )));
        }
        let entries = self.local.read_log(from_index, to_index, READ_LOG_BYTES).await;
        let entries = entries.map_err(|error| unread(&error))?;
        Ok(Response::new(pb::ReadLogResponse { entries }))
    }

    async fn read_snapshot(
        &self,
        request: Request<pb::ReadSnapshotRequest>,
    ) -> Result<Response<Self::ReadSnapshotStream>, Status> {
        self.admit(&request).await?;
        let from = request.into_inner().from_index;
        let view = self.local.snapshot().await;
        let view = view.map_err(|error| Status::unavailable(error.to_string()))?;
        let held = view.position().index;
        if held < from {
            return Err(Status::unavailable(format!(
                "entry {from} is not applied here, only {held} is"
            )));
        }
        Ok(Response::new(snapshot::read_out(view).boxed()))
    }

    async fn read_content(
        &self,
        request: Request<pb::ReadContentRequest>,
    ) -> Result<Response<pb::ReadContentResponse>, Status> {
        self.admit(&request).await?;
        let pb::ReadContentRequest { content_id, applied_index } = request.into_inner();
        let read = self.local.content(ContentId(content_id), applied_index).await;
        let (record, applied_index) = read.map_err(Status::unavailable)?;
        Ok(Response::new(pb::ReadContentResponse { record, applied_index }))
    }

    async fn compare(
        &self,
        request: Request<pb::CompareRequest>,
    ) -> Result<Response<pb::CompareResponse>, Status> {
        self.admit(&request).await?;
        let asked = request.into_inner().milestones.unwrap_or_default();
        let compared = self.local.compare(asked).map_err(Status::invalid_argument)?;
        Ok(Response::new(pb::CompareResponse { compared: Some(compared) }))
    }

    async fn get_digest(
        &self,
        request: Request<pb::GetDigestRequest>,
    ) -> Result<Response<pb::GetDigestResponse>, Status> {
        self.admit(&request).await?;
        let index = request.into_inner().index;
        let digest = self.local.digest(index).await.ok_or_else(|| {
            Status::unavailable(format!("the digest at entry {index} is not known here"))
        })?;
        let digest = digest.to_vec().into();
        Ok(Response::new(pb::GetDigestResponse { index, digest }))
    }

    async fn get_standing(
        &self,
        request: Request<pb::GetStandingRequest>,
    ) -> Result<Response<pb::GetStandingResponse>, Status> {
        let sender = self.admit(&request).await?;
        let standing = self.standing(sender).ok_or_else(|| {
            Status::unavailable(format!("node {} is still starting", self.peers.node()))
        })?;
        Ok(Response::new(standing))
    }
}

impl<SM> PeerService<SM>
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    /// What this node knows of `node`; none while it has data that is not read yet.
    fn standing(&self, node: u64) -> Option<pb::GetStandingResponse> {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let members = &metrics.membership_config;
        let formed = members.log_id().is_some() || members.voter_ids().next().is_some();
        if !formed && !self.local.began_empty() {
            return None;
        }
        let standing = if members.voter_ids().any(|id| id == node) {
            pb::NodeStanding::Voter
        } else if members.get_node(&node).is_some() {
            pb::NodeStanding::Learner
        } else {
            pb::NodeStanding::Stranger
        };
        let held = metrics.replication.as_ref().and_then(|known| known.get(&node).cloned());
        let held_index = held.flatten().map_or(0, |id| id.index);
        let held_term = if held_index > 0 { metrics.current_term } else { 0 };
        let (standing, admitted) = (standing.into(), self.takes_part());
        Some(pb::GetStandingResponse { formed, standing, held_index, admitted, held_term })
    }
}

/// Why an append stream ended early, told to the sender after its last answer.
#[derive(Clone, Debug, Default)]
struct Failure(Arc<Mutex<Option<Status>>>);

impl Failure {
    fn set(&self, status: Status) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(status);
    }

    fn take(&self) -> Option<Status> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The requests of one append stream.
struct Incoming {
    requests: Streaming<pb::AppendRequest>,
    peers: Peers,
    sender: u64,
    remote: Option<std::net::SocketAddr>,
    vote: Option<VoteOf<TypeConfig>>,
    failure: Failure,
    local: Arc<dyn LocalNode>,
    lost: LostSignal,
}

impl Incoming {
    fn stream(self) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static {
        futures::stream::unfold(self, |mut incoming| async move {
            let request = incoming.next().await?;
            Some((request, incoming))
        })
    }

    async fn next(&mut self) -> Option<AppendEntriesRequest<TypeConfig>> {
        let received = tokio::select! {
            biased;
            () = self.peers.until_left() => return None,
            received = self.requests.message() => received,
        };
        self.peers.faults().until_healed(self.sender).await;
        match received {
            Ok(message) => match self.taken(message?) {
                Ok(request) => {
                    if self.vote != Some(request.vote) {
                        self.vote = Some(request.vote);
                        let leader = &request.vote.leader_id;
                        self.peers.note_leader((leader.term, leader.node_id));
                    }
                    Some(request)
                }
                Err(status) => {
                    self.failure.set(status);
                    None
                }
            },
            Err(status) => {
                self.leader_may_be_lost();
                self.failure.set(status);
                None
            }
        }
    }

    /// A message that this node can append. Refused before it is tried, it may come again; an
    /// append that failed would be the end of this node.
    #[allow(clippy::result_large_err, reason = "tonic's own error type")]
    fn taken(
        &self,
        message: pb::AppendRequest,
    ) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
        if !message.entries.is_empty() {
            let bytes = message.entries.iter().map(|entry| entry.payload.len() as u64 + 64).sum();
            if let Some(why) = self.local.refuses_entries(bytes) {
                return Err(Status::resource_exhausted(why));
            }
        }
        convert::append_in(message).map_err(|error| unreadable(&error))
    }

    fn leader_may_be_lost(&self) {
        if let Some(vote) = self.vote
            && vote.committed
            && vote.leader_id.node_id == self.sender
        {
            self.lost.tell(LeaderLost { vote, remote: self.remote });
        }
    }
}

type Answered = Result<openraft::raft::StreamAppendResult<TypeConfig>, Fatal<TypeConfig>>;

/// openraft's answers as they leave, and the failure that ended the stream, if one did.
fn answering(
    answers: impl Stream<Item = Answered> + Send + 'static,
    failure: Failure,
    peers: Peers,
    sender: u64,
) -> impl Stream<Item = Result<pb::AppendResponse, Status>> + Send + 'static {
    let (answerer, parting) = (peers.clone(), peers.clone());
    let answers = answers.then(move |answer| {
        let peers = answerer.clone();
        async move {
            peers.faults().until_healed(sender).await;
            if matches!(answer, Ok(Ok(_))) {
                peers.set_heard(tokio::time::Instant::now());
            }
            let answer = answer.map_err(|error| stopped(&error))?;
            Ok(convert::appended_out(&answer, peers.disk_of(peers.node())))
        }
    });
    let answers = answers.take_until(async move { parting.until_left().await });
    let end = futures::stream::once(async move {
        failure.take().or_else(|| peers.has_left().then(|| leaving(peers.node())))
    });
    answers.chain(end.filter_map(|status| std::future::ready(status.map(Err))))
}
