//! The calling side: openraft's network over gRPC channels.
//!
//! Laws: log entries, heartbeats and snapshots each have a channel of their own, so that none
//! delays another; answers come in the order of the requests; every call ends by its deadline
//! and a stream without an answer to what was sent ends too; a stream that the peer closed
//! without an error ends without one (an error would put the peer into backoff). A connection at
//! whose end is another node is given up, and the address dialled anew. A peer that
//! does not answer is *unreachable*, never granted for.
//!
//! Refuses to send to a peer that is cut off: such calls hang until their deadline.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use openraft::alias::{SnapshotOf, VoteOf};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Code, Response, Status, Streaming};

use super::super::types::{Member, SnapshotData, TypeConfig};
use super::acknowledged::FellBack;
use super::outgoing::outgoing;
use super::peers::Peers;
use super::{MAX_MESSAGE_BYTES, convert, snapshot};
use crate::proto::log::v1 as log;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::peer_service_client::PeerServiceClient;

/// A stream whose peer answered nothing for this long, with something sent, has failed. Longer
/// than a slow fsync: breaking the stream over one would only send the same entries again.
const STREAM_STALL: Duration = Duration::from_secs(2);
/// Pauses between attempts to reach a peer that is not reachable.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LAST_BACKOFF: Duration = Duration::from_secs(1);
/// openraft waits only between requests of an open stream; before a stream is opened anew this
/// side waits itself, no longer than this, since a new leader has to wait for it too.
const LAST_PAUSE: Duration = Duration::from_millis(200);
/// A peer that is out of reach for less than this is not worth a word: a disk or a machine that
/// stalls for a moment, and a node that starts again, would else be reported as lost peers.
const SILENT_FOR: Duration = Duration::from_secs(1);

/// Why a call to a peer failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("node {target} did not answer {call} within {within:?}")]
    Late { target: u64, call: &'static str, within: Duration },
    #[error("node {target} failed {call}: {}", status.message())]
    Status {
        target: u64,
        call: &'static str,
        #[source]
        status: Box<Status>,
    },
    #[error(
        "node {target} acknowledged entry {acknowledged} and does not hold entry {refused}: it \
         lost what was durable, and counts for nothing until it is replaced under a new id"
    )]
    FellBack { target: u64, acknowledged: u64, refused: u64 },
    #[error("the address of node {target} cannot be used")]
    Address {
        target: u64,
        #[source]
        source: super::super::network::ChannelError,
    },
}

impl From<CallError> for RPCError<TypeConfig> {
    fn from(error: CallError) -> RPCError<TypeConfig> {
        RPCError::Unreachable(Unreachable::new(&error))
    }
}

/// Makes a client for each peer.
#[derive(Clone, Debug)]
pub struct PeerNetworkFactory {
    peers: Peers,
}

impl PeerNetworkFactory {
    #[must_use]
    pub fn new(peers: Peers) -> PeerNetworkFactory {
        PeerNetworkFactory { peers }
    }
}

impl RaftNetworkFactory<TypeConfig> for PeerNetworkFactory {
    type Network = PeerClient;

    // openraft asks for one client each for entries, heartbeats and snapshots; each has its
    // own connection because each has its own channel.
    async fn new_client(&mut self, target: u64, node: &Member) -> PeerClient {
        PeerClient::new(self.peers.clone(), target, &node.peer_address)
    }
}

/// Calls to one peer over one channel.
#[derive(Clone, Debug)]
pub struct PeerClient {
    peers: Peers,
    target: u64,
    address: String,
    service: Option<PeerServiceClient<Channel>>,
    pace: Pace,
    /// The last append stream ended because the peer has no room for entries.
    refused: Arc<AtomicBool>,
}

impl PeerClient {
    /// A client that connects at its first call.
    #[must_use]
    pub fn new(peers: Peers, target: u64, address: &str) -> PeerClient {
        PeerClient {
            peers,
            target,
            address: address.to_owned(),
            service: None,
            pace: Pace::default(),
            refused: Arc::default(),
        }
    }

    fn service(&mut self) -> Result<PeerServiceClient<Channel>, CallError> {
        if let Some(service) = &self.service {
            return Ok(service.clone());
        }
        let channel = self
            .peers
            .channel(&self.address)
            .map_err(|source| CallError::Address { target: self.target, source })?;
        let service = PeerServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES);
        self.service = Some(service.clone());
        Ok(service)
    }

    /// The same. Where the address leads to another node, the connection to that one is given up:
    /// it would last as long as that node lives, though the address may be the peer's again.
    fn heard<T>(&mut self, answer: Result<T, CallError>) -> Result<T, CallError> {
        if let Err(CallError::Status { status, .. }) = &answer
            && status.code() == Code::FailedPrecondition
        {
            self.service = None;
        }
        answer
    }

    /// Waits for the answer no longer than `within`; a cut peer's answer never comes.
    async fn bounded<T>(
        &self,
        call: &'static str,
        within: Duration,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, CallError> {
        let target = self.target;
        let guarded = async {
            tokio::select! {
                biased;
                () = self.peers.faults().until_cut(target) => std::future::pending().await,
                answer = answer => answer,
            }
        };
        match tokio::time::timeout(within, guarded).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(CallError::Status { target, call, status: Box::new(status) }),
            Err(_) => Err(CallError::Late { target, call, within }),
        }
    }

    /// What the peer's wall clock says, in microseconds since the Unix epoch.
    pub async fn read_clock(&mut self, within: Duration) -> Result<u64, CallError> {
        let mut service = self.service()?;
        let request = self.peers.request(self.target, pb::ReadClockRequest {});
        let answer = self.bounded("the clock question", within, service.read_clock(request)).await;
        Ok(self.heard(answer)?.wall_time_us)
    }

    /// Entries of the peer's log, from `from` up to and without `to`; it may hold fewer.
    pub async fn read_log(
        &mut self,
        from: u64,
        to: u64,
        within: Duration,
    ) -> Result<Vec<pb::LogEntry>, CallError> {
        let mut service = self.service()?;
        let message = pb::ReadLogRequest { from_index: from, to_index: to };
        let request = self.peers.request(self.target, message);
        let answer = self.bounded("reading the log", within, service.read_log(request)).await;
        Ok(self.heard(answer)?.entries)
    }

    /// What the peer has applied, entry `from` at least, as the chunks of a snapshot. `within`
    /// bounds the wait for the first.
    pub async fn read_snapshot(
        &mut self,
        from: u64,
        within: Duration,
    ) -> Result<Streaming<pb::ReadSnapshotResponse>, CallError> {
        let mut service = self.service()?;
        let message = pb::ReadSnapshotRequest { from_index: from };
        let request = self.peers.request(self.target, message);
        let answer = self.bounded("reading a snapshot", within, service.read_snapshot(request));
        let answer = answer.await;
        self.heard(answer)
    }

    /// The record of a content, from a peer that has applied this entry at least.
    pub async fn read_content(
        &mut self,
        content_id: u64,
        applied_index: u64,
        within: Duration,
    ) -> Result<pb::ReadContentResponse, CallError> {
        let mut service = self.service()?;
        let message = pb::ReadContentRequest { content_id, applied_index };
        let request = self.peers.request(self.target, message);
        let answer = self.bounded("reading a content", within, service.read_content(request)).await;
        self.heard(answer)
    }

    /// How the peer's data compare with these.
    pub async fn compare(
        &mut self,
        milestones: log::Milestones,
        within: Duration,
    ) -> Result<log::ComparedMilestone, CallError> {
        let mut service = self.service()?;
        let message = pb::CompareRequest { milestones: Some(milestones) };
        let request = self.peers.request(self.target, message);
        let answer = self.bounded("comparing", within, service.compare(request)).await;
        Ok(self.heard(answer)?.compared.unwrap_or_default())
    }

    /// The peer's data digest at `index`.
    pub async fn digest(
        &mut self,
        index: u64,
        within: Duration,
    ) -> Result<pb::GetDigestResponse, CallError> {
        let mut service = self.service()?;
        let request = self.peers.request(self.target, pb::GetDigestRequest { index });
        let answer = self.bounded("the digest question", within, service.get_digest(request));
        let answer = answer.await;
        self.heard(answer)
    }

    /// What the peer knows of this node.
    pub async fn standing(
        &mut self,
        within: Duration,
    ) -> Result<pb::GetStandingResponse, CallError> {
        let mut service = self.service()?;
        let request = self.peers.request(self.target, pb::GetStandingRequest {});
        let answer = self.bounded("the standing question", within, service.get_standing(request));
        let answer = answer.await;
        self.heard(answer)
    }

    async fn ask_vote(
        &mut self,
        request: &VoteRequest<TypeConfig>,
        pre_vote: bool,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut service = self.service()?;
        let message = convert::vote_request_out(request, pre_vote);
        let request = self.peers.request(self.target, message);
        let call = if pre_vote { "a pre-vote" } else { "a vote" };
        let answer = self.bounded(call, option.soft_ttl(), service.vote(request)).await;
        convert::vote_response_in(self.heard(answer)?).map_err(|e| NetworkError::new(&e).into())
    }

    /// Sends what `input` yields; the answers come in the same order.
    async fn open_append<S>(
        &mut self,
        input: S,
        option: RPCOption,
    ) -> Result<impl Stream<Item = AppendAnswer> + use<S>, CallError>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let mut service = self.service()?;
        let (sent, term) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, led) = (Arc::clone(&sent), Arc::clone(&term));
        let input = input.inspect(move |request| {
            led.store(request.vote.leader_id.term, Ordering::Relaxed);
        });
        let requests = outgoing(input, self.peers.clone(), self.target, counted);
        let request = self.peers.request(self.target, requests);
        let setup = self.setup(&option);
        let answers = self.bounded("an append", setup, service.append(request)).await;
        let answers = self.heard(answers)?;
        let peers = self.peers.clone();
        let (target, refused) = (self.target, Arc::clone(&self.refused));
        let answers = Answers { peers, target, answers, term, sent, received: 0, refused };
        Ok(futures::stream::unfold(Some(answers), |answers| async move {
            let mut answers = answers?;
            let answer = answers.next().await?;
            let goes_on = matches!(answer, Ok(Ok(_)));
            Some((answer, goes_on.then_some(answers)))
        }))
    }

    /// Counts the streams that could not be opened, and says when that begins and ends.
    fn note_append(&mut self, failed: Option<&CallError>) {
        let node = self.target;
        let Some(error) = failed else {
            if self.pace.is_told {
                tracing::info!(node, "a peer is reached again");
            }
            self.pace = Pace::default();
            return;
        };
        if self.pace.failed(Instant::now()) {
            tracing::warn!(node, %error, "a peer cannot be reached");
        }
    }

    /// How long a stream's beginning may take: a connection may have to be made first.
    fn setup(&self, option: &RPCOption) -> Duration {
        option.soft_ttl().max(self.peers.channel_options().connect_timeout)
    }
}

impl RaftNetworkV2<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let silent = Unreachable::from_string(format!(
            "node {} closed the stream without an answer",
            self.target
        ));
        let one = Box::pin(futures::stream::once(std::future::ready(rpc)));
        let mut answers = Box::pin(self.open_append(one, option).await?);
        match answers.next().await {
            Some(answer) => Ok(answer?.into()),
            None => Err(silent.into()),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let refused = self.refused.swap(false, Ordering::Relaxed);
            let due = refused.then(|| Instant::now() + LAST_PAUSE).max(self.pace.due);
            if let Some(due) = due {
                tokio::time::sleep_until(due).await;
            }
            let opened = self.open_append(input, option).await;
            self.note_append(opened.as_ref().err());
            let stream: BoxStream<'s, _> = Box::pin(opened?);
            Ok(stream)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(&rpc, false, &option).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_vote(&rpc, true, &option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: VoteOf<TypeConfig>,
        snapshot: SnapshotOf<TypeConfig, SnapshotData>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let network = |text: String| NetworkError::<TypeConfig>::from_string(text);
        let SnapshotData::View(view) = snapshot.snapshot else {
            return Err(network("a received snapshot cannot be sent on".to_owned()).into());
        };
        let head = convert::head_out(&vote, &snapshot.meta).map_err(|e| NetworkError::new(&e))?;
        let mut service = self.service().map_err(RPCError::from)?;
        let (parts, progress) = snapshot::outgoing(head, view);
        let request = self.peers.request(self.target, parts);
        let call = async {
            tokio::select! {
                biased;
                () = self.peers.faults().until_cut(self.target) => std::future::pending().await,
                answer = service.install_snapshot(request) => answer,
            }
        };
        let answer = tokio::select! {
            closed = cancel => return Err(closed.into()),
            () = progress.stalled(option.soft_ttl()) => {
                let within = option.soft_ttl();
                let late = CallError::Late { target: self.target, call: "a snapshot", within };
                return Err(RPCError::from(late).into());
            }
            answer = call => answer,
        };
        let answer = answer.map_err(|status| {
            let (target, status) = (self.target, Box::new(status));
            CallError::Status { target, call: "a snapshot", status }
        });
        let answer = self.heard(answer).map_err(RPCError::from)?;
        let vote = convert::vote_in(answer.into_inner().vote, "a snapshot's answer")
            .map_err(|e| NetworkError::new(&e))?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let mut service = self.service()?;
        let request = self.peers.request(self.target, convert::transfer_out(&req));
        let answer = service.transfer_leader(request);
        let answer = self.bounded("a leadership transfer", option.soft_ttl(), answer).await;
        let answer = self.heard(answer)?;
        if answer.accepted {
            return Ok(Ok(()));
        }
        // The reason is a sentence, not openraft's error; the leader goes on leading either way.
        Err(NetworkError::from_string(answer.reason).into())
    }

    fn backoff(&self) -> Option<Backoff> {
        let pauses = std::iter::successors(Some(FIRST_BACKOFF), |pause| {
            Some((*pause * 2).min(LAST_BACKOFF))
        });
        Some(Backoff::new(pauses))
    }
}

/// What openraft takes as the answer to one append.
type AppendAnswer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// When the next append stream may be opened: at a moment that is fixed when one could not be. A
/// heartbeat has less time than the longest pause; if each began a pause of its own, none would
/// ever be sent again.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Append streams that could not be opened since the last that could.
    failures: u32,
    /// When the first of them failed.
    since: Option<Instant>,
    /// That the peer cannot be reached has been said.
    is_told: bool,
    due: Option<Instant>,
}

impl Pace {
    /// Notes a stream that could not be opened; whether that is to be told now.
    fn failed(&mut self, now: Instant) -> bool {
        let pause = (FIRST_BACKOFF * (1 << self.failures.min(8))).min(LAST_PAUSE);
        self.failures = self.failures.saturating_add(1);
        self.due = Some(now + pause);
        let since = *self.since.get_or_insert(now);
        let is_due = now.duration_since(since) >= SILENT_FOR;
        let is_news = is_due && !self.is_told;
        self.is_told |= is_due;
        is_news
    }
}

/// The answers of one append stream.
struct Answers {
    peers: Peers,
    target: u64,
    answers: Streaming<pb::AppendResponse>,
    /// Of the leadership that the requests speak for.
    term: Arc<AtomicU64>,
    sent: Arc<AtomicU64>,
    received: u64,
    refused: Arc<AtomicBool>,
}

type Answer = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

impl Answers {
    async fn next(&mut self) -> Option<Answer> {
        let target = self.target;
        let mut sent_before = self.received;
        let answer = loop {
            match tokio::time::timeout(STREAM_STALL, self.message()).await {
                Ok(answer) => break answer,
                // Nothing came for a whole period; it is a stall only if something was already
                // waiting for its answer when the period began.
                Err(_) if sent_before > self.received => {
                    let (call, within) = ("an append", STREAM_STALL);
                    return Some(Err(CallError::Late { target, call, within }.into()));
                }
                Err(_) => sent_before = self.sent.load(Ordering::Relaxed),
            }
        };
        match answer {
            Ok(Some(message)) => {
                self.received += 1;
                if let Some(report) = convert::disk_in(&message) {
                    self.peers.note_disk(self.target, report);
                }
                let answer = convert::appended_in(message);
                Some(match answer {
                    Ok(answer) => self.believed(answer),
                    Err(error) => Err(NetworkError::new(&error).into()),
                })
            }
            Ok(None) => None,
            Err(status) if status.code() == Code::Ok => None,
            Err(status) => {
                if status.code() == Code::ResourceExhausted {
                    self.refused.store(true, Ordering::Relaxed);
                }
                let (call, status) = ("an append", Box::new(status));
                Some(Err(CallError::Status { target, call, status }.into()))
            }
        }
    }

    /// An answer as openraft may see it: not one that takes an acknowledgement back.
    fn believed(&self, answer: StreamAppendResult<TypeConfig>) -> Answer {
        let (target, term) = (self.target, self.term.load(Ordering::Relaxed));
        let acknowledged = self.peers.acknowledged();
        match &answer {
            Ok(Some(held)) => acknowledged.note(target, term, held.index),
            Err(StreamAppendError::Conflict(refused)) if !crate::mutants::is_any_chosen() => {
                let refused = refused.index;
                if let Some(fell_back) = acknowledged.fell_back(target, term, refused) {
                    let FellBack { acknowledged, first } = fell_back;
                    let error = CallError::FellBack { target, acknowledged, refused };
                    if first {
                        tracing::error!(%error, "a peer is turned away");
                    }
                    return Err(error.into());
                }
            }
            Ok(None) | Err(_) => {}
        }
        Ok(answer)
    }

    async fn message(&mut self) -> Result<Option<pb::AppendResponse>, Status> {
        let faults = self.peers.faults();
        loop {
            faults.until_healed(self.target).await;
            tokio::select! {
                biased;
                () = faults.until_cut(self.target) => {}
                message = self.answers.message() => return message,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_attempt_has_its_moment_and_comes_no_later_for_being_asked_for_again() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert_eq!(pace.due, None);
        pace.failed(now);
        assert_eq!(pace.due, Some(now + FIRST_BACKOFF));
        for _ in 0..99 {
            pace.failed(now);
        }
        assert_eq!(pace.due, Some(now + LAST_PAUSE));
    }

    #[test]
    fn a_peer_that_is_out_of_reach_for_a_moment_is_not_told_of_and_later_once() {
        let now = Instant::now();
        let mut pace = Pace::default();
        assert!(!pace.failed(now));
        assert!(!pace.failed(now + SILENT_FOR - Duration::from_millis(1)));
        assert!(pace.failed(now + SILENT_FOR), "it has been away for long enough");
        assert!(!pace.failed(now + 2 * SILENT_FOR), "once is enough");
    }
}
