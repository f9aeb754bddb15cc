//! The secondary's end of the stream: proposes what comes into its own group.
//!
//! Laws: whether a batch counts is decided by `apply`; what is turned away here is turned away
//! out of courtesy. Batches are proposed in the order in which they come, a few at a time, and
//! answered in that order once applied whole (`arrivals`). The first refusal ends the stream.

mod arrivals;
mod replay;

use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, future};
use tokio::time::Instant;
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status, Streaming};

use super::error::PairError;
use super::inventory;
use super::pair::{Pair, way_to};
use super::wire;
use crate::consensus::error::{Fate, GroupError};
use crate::consensus::group::Group;
use crate::proto::geo::v1 as pb;
use crate::proto::geo::v1::carry_request::Verb;
use crate::proto::geo::v1::geo_service_server::{GeoService, GeoServiceServer};
use crate::proto::geo::v1::ship_request::Message;
use crate::queue::authority::command::{Actor, RegionCommand, RegionReply, RegionVerb};
use crate::queue::authority::{Authority, Role};
use crate::queue::command::{Command, Envelope};
use crate::queue::error::Rejection;
use crate::queue::ids::{Epoch, Span};
use crate::queue::outcome::Reply;
use crate::storage::codec;

/// Batches proposed and not yet answered.
const IN_FLIGHT: usize = 4;
/// Who is behind what no person asked for.
const PEER: &str = "the other region";
/// A failover that does not end by then goes on without this call.
const HAND_OVER: Duration = Duration::from_secs(30);
/// A batch that is not applied by then is in doubt, and the stream ends.
const WITHIN: Duration = Duration::from_secs(10);

type Answer = Result<pb::ShipResponse, Status>;

/// The service; one for a node.
#[derive(Clone)]
pub struct Receiver {
    group: Group,
    pair: Pair,
}

impl Receiver {
    #[must_use]
    pub fn new(group: Group, pair: Pair) -> Receiver {
        Receiver { group, pair }
    }

    #[must_use]
    pub fn into_server(self) -> GeoServiceServer<Receiver> {
        GeoServiceServer::new(self)
            .max_decoding_message_size(wire::MESSAGE_BYTES)
            .accept_compressed(CompressionEncoding::Zstd)
            .send_compressed(CompressionEncoding::Zstd)
    }

    /// Whether the caller is whom this cluster is attached to, and where the copy ends.
    fn greet(&self, hello: &pb::Hello) -> Answer {
        self.check_leads()?;
        let refuse = |why: &str| Err(Status::failed_precondition(why.to_owned()));
        let Some(standing) = self.group.standing() else {
            self.pair.note_knock(&hello.region, &hello.lineage);
            return refuse("this cluster is attached to no primary");
        };
        let authority = standing.authority;
        let attached = authority.attachment.as_ref();
        if hello.lineage != wire::wide(authority.lineage)
            || attached.is_none_or(|it| hello.attachment != wire::wide(it.id))
        {
            self.pair.note_knock(&hello.region, &hello.lineage);
            return refuse("this cluster is attached to another primary, or anew");
        }
        Ok(pb::ShipResponse {
            next_message: self.next_message(),
            ..answer(&authority, standing.log_time.0, false)
        })
    }

    fn next_message(&self) -> u64 {
        self.group.store().read().state().next_message()
    }

    #[allow(clippy::result_large_err, reason = "tonic's own error type")]
    fn check_leads(&self) -> Result<(), Status> {
        let leads = self.group.leadership().borrow().is_me;
        if leads { Ok(()) } else { Err(not_leading(&self.group)) }
    }

    /// A call that is meant for a cluster of another lineage, or for none, is not for this one.
    #[allow(clippy::result_large_err, reason = "tonic's own error type")]
    fn check_lineage(&self, lineage: &[u8]) -> Result<(), Status> {
        let asked = wire::narrow(lineage, "the lineage").map_err(|status| *status)?;
        match self.group.standing() {
            Some(standing) if standing.authority.lineage == asked => Ok(()),
            _ => Err(Status::failed_precondition("this cluster is of another lineage")),
        }
    }

    /// Proposes a change that the other region asks for.
    async fn change(&self, verb: RegionVerb, who: String) -> Result<(), Status> {
        self.check_leads()?;
        let done = self.group.propose(self.region(verb, who), Instant::now() + WITHIN).await;
        match done.map_err(|error| not_now(&error))?.outcome {
            Ok(_) => Ok(()),
            Err(Rejection::Region(refusal)) => Err(wire::status(&refusal)),
            Err(other) => Err(Status::failed_precondition(other.to_string())),
        }
    }

    fn region(&self, verb: RegionVerb, who: String) -> Envelope {
        let by = Actor { who, at_us: 0 };
        let command = Command::Region(Box::new(RegionCommand { by, verb }));
        Envelope { session: None, account: String::new(), command }
    }
}

fn answer(authority: &Authority, log_time_us: u64, promoted: bool) -> pb::ShipResponse {
    pb::ShipResponse {
        epoch: Some(codec::epoch_to(&authority.epoch)),
        through: authority.end().map(wire::position),
        log_time_us,
        promoted,
        seeding: authority.seeding.is_some(),
        // What is attached in these roles waits for a whole state.
        must_seed: matches!(authority.role, Role::Fenced { .. } | Role::Detached),
        next_message: 0,
    }
}

fn not_now(error: &GroupError) -> Status {
    match error {
        GroupError::Rejected(rejection) => Status::failed_precondition(rejection.to_string()),
        GroupError::NotNow { .. } => Status::unavailable(error.to_string()),
        GroupError::Fatal(_) => Status::internal(error.to_string()),
    }
}

/// What the other region reads of a verb that was not done.
fn refusal(error: PairError) -> Box<Status> {
    Box::new(match error {
        PairError::Group(error) => not_now(&error),
        PairError::Refused(why) => Status::failed_precondition(why),
        PairError::NotConfigured | PairError::Log(_) => {
            Status::failed_precondition(error.to_string())
        }
        PairError::NotNow { why, fate: Fate::NotApplied } => Status::unavailable(why),
        PairError::NotNow { why, fate: Fate::Unknown } => Status::deadline_exceeded(why),
    })
}

fn not_leading(group: &Group) -> Status {
    match group.other_leader() {
        Some(leader) => Status::unavailable(format!("this node does not lead; node {leader} does")),
        None => Status::unavailable("no leader is known"),
    }
}

#[tonic::async_trait]
impl GeoService for Receiver {
    type ShipStream = BoxStream<'static, Answer>;

    async fn ship(
        &self,
        request: Request<Streaming<pb::ShipRequest>>,
    ) -> Result<Response<Self::ShipStream>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.and_then(|it| it.message);
        let Some(Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("the first message is a hello"));
        };
        let greeting = self.greet(&hello)?;
        self.pair.begin_arrivals();
        let answers = self.clone().take_in(inbound);
        Ok(Response::new(stream::once(future::ready(Ok(greeting))).chain(answers).boxed()))
    }

    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Result<Response<pb::GetStatusResponse>, Status> {
        let asked = request.into_inner();
        let from = asked.next_message;
        let ahead = (from > 0).then(|| self.pair.ahead(from));
        let bytes_ahead = self.pair.bytes_ahead(&asked);
        Ok(Response::new(pb::GetStatusResponse { ahead, bytes_ahead, ..self.pair.word() }))
    }

    async fn attach(
        &self,
        request: Request<pb::AttachRequest>,
    ) -> Result<Response<pb::AttachResponse>, Status> {
        let asked = request.into_inner();
        let who = asked.who.clone();
        let lineage = asked.lineage.clone();
        let attach = wire::attach(asked, self.pair.region().to_owned());
        let mut attach = attach.map_err(|status| *status)?;
        attach.discard_tail |= self.pair.has_no_tail();
        let from = attach.ledger.last().map(|line| line.epoch.region.clone()).unwrap_or_default();
        let done = self.change(RegionVerb::Attach(attach), who).await;
        if done.as_ref().is_err_and(|status| status.code() == tonic::Code::FailedPrecondition) {
            self.pair.note_knock(&from, &lineage);
        }
        done?;
        Ok(Response::new(pb::AttachResponse {}))
    }

    async fn detach(
        &self,
        request: Request<pb::DetachRequest>,
    ) -> Result<Response<pb::DetachResponse>, Status> {
        let asked = request.into_inner();
        let is_wiped = || self.group.store().read().state().is_empty();
        if asked.wipe
            && is_wiped()
            && self.group.standing().is_none_or(|it| it.authority.lineage == 0)
        {
            return Ok(Response::new(pb::DetachResponse {}));
        }
        self.check_lineage(&asked.lineage)?;
        self.change(RegionVerb::Detach, asked.who.clone()).await?;
        if asked.wipe {
            self.change(RegionVerb::Wipe, asked.who).await?;
        }
        Ok(Response::new(pb::DetachResponse {}))
    }

    async fn hand_over(
        &self,
        request: Request<pb::HandOverRequest>,
    ) -> Result<Response<pb::HandOverResponse>, Status> {
        let asked = request.into_inner();
        self.check_lineage(&asked.lineage)?;
        self.check_leads()?;
        let handed = self.pair.hand_over(&asked.who, &asked.to, Instant::now() + HAND_OVER).await;
        handed.map_err(|error| *refusal(error))?;
        Ok(Response::new(pb::HandOverResponse {}))
    }

    async fn decline(
        &self,
        request: Request<pb::DeclineRequest>,
    ) -> Result<Response<pb::DeclineResponse>, Status> {
        let asked = request.into_inner();
        self.check_lineage(&asked.lineage)?;
        self.change(RegionVerb::Decline { number: Epoch(asked.number) }, asked.who).await?;
        Ok(Response::new(pb::DeclineResponse {}))
    }

    async fn accept_lease(
        &self,
        request: Request<pb::AcceptLeaseRequest>,
    ) -> Result<Response<pb::AcceptLeaseResponse>, Status> {
        let asked = request.into_inner();
        self.check_lineage(&asked.lineage)?;
        let verb = wire::accept_lease(&asked).map_err(|status| *status)?;
        self.change(verb, asked.who).await?;
        Ok(Response::new(pb::AcceptLeaseResponse {}))
    }

    async fn grant_lease(
        &self,
        request: Request<pb::GrantLeaseRequest>,
    ) -> Result<Response<pb::GrantLeaseResponse>, Status> {
        let asked = request.into_inner();
        self.check_leads()?;
        let attachment =
            wire::narrow(&asked.attachment, "the attachment").map_err(|status| *status)?;
        // What is looked at afterwards has all that was committed before the request came.
        self.group.confirm(Instant::now() + WITHIN).await.map_err(|error| not_now(&error))?;
        self.check_lineage(&asked.lineage)?;
        let store = self.group.store().read();
        let Some(authority) = store.state().authority() else {
            return Err(Status::failed_precondition("this cluster follows no primary"));
        };
        let granted = authority.check_grant(attachment, Epoch(asked.epoch), Span(asked.lease_us));
        granted.map_err(|refusal| wire::status(&refusal))?;
        Ok(Response::new(pb::GrantLeaseResponse {}))
    }

    async fn seed(
        &self,
        request: Request<pb::SeedRequest>,
    ) -> Result<Response<pb::SeedResponse>, Status> {
        self.check_leads()?;
        let request = request.into_inner();
        let room = self.group.store().read().disk_space().beyond_reserves(1);
        if request.bytes > room.unwrap_or(u64::MAX) {
            return Err(Status::failed_precondition(wire::no_room(request.bytes)));
        }
        let step = request.step;
        let step = step.ok_or_else(|| Status::invalid_argument("a step is missing"))?;
        let verb = codec::seed_from(wire::seed_step(step));
        let verb = verb.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let done = self.group.propose(self.region(verb, PEER.to_owned()), Instant::now() + WITHIN);
        match done.await.map_err(|error| not_now(&error))?.outcome {
            Ok(Reply::Region(RegionReply::Seeded { next })) => {
                Ok(Response::new(pb::SeedResponse { next }))
            }
            Ok(other) => Err(Status::internal(format!("a seed was answered by {other:?}"))),
            Err(Rejection::Region(refusal)) => Err(wire::status(&refusal)),
            Err(other) => Err(Status::failed_precondition(other.to_string())),
        }
    }

    async fn resolve(
        &self,
        request: Request<pb::ResolveRequest>,
    ) -> Result<Response<pb::ResolveResponse>, Status> {
        let asked = request.into_inner();
        self.check_lineage(&asked.lineage)?;
        let verb = RegionVerb::Resolve { keep: asked.keep, number: Epoch(asked.number) };
        self.change(verb, asked.who).await?;
        Ok(Response::new(pb::ResolveResponse {}))
    }

    async fn replay_tail(
        &self,
        request: Request<pb::ReplayTailRequest>,
    ) -> Result<Response<pb::ReplayTailResponse>, Status> {
        let asked = request.into_inner();
        self.check_leads()?;
        self.check_lineage(&asked.lineage)?;
        self.take_tail(asked).await.map(Response::new)
    }

    async fn send_tail(
        &self,
        request: Request<pb::SendTailRequest>,
    ) -> Result<Response<pb::SendTailResponse>, Status> {
        let asked = request.into_inner();
        self.check_leads()?;
        self.check_lineage(&asked.lineage)?;
        let sent = self.pair.send_tail(&asked, Instant::now() + WITHIN).await;
        sent.map(Response::new).map_err(|error| *refusal(error))
    }

    async fn carry(
        &self,
        request: Request<pb::CarryRequest>,
    ) -> Result<Response<pb::CarryResponse>, Status> {
        let pb::CarryRequest { lineage, who, verb } = request.into_inner();
        self.check_leads()?;
        // What was agreed on before this one leads must be known to it.
        self.group.confirm(Instant::now() + WITHIN).await.map_err(|error| not_now(&error))?;
        let is_new = lineage.is_empty() && matches!(verb, Some(Verb::Protect(_)));
        if !is_new {
            self.check_lineage(&lineage)?;
        }
        let pair = &self.pair;
        let done = match verb {
            Some(Verb::Protect(asked)) => {
                pair.protect_here(&who, asked.discard_tail).await.map(|()| None)
            }
            Some(Verb::TakeBack(asked)) => {
                pair.take_back_here(&who, asked.force).await.map(|()| None)
            }
            Some(Verb::FailBack(asked)) => pair.step_back(&who, asked).await.map(Some),
            None => return Err(Status::invalid_argument("a verb is missing")),
        };
        let way = done.map_err(|error| *refusal(error))?.map(way_to);
        Ok(Response::new(pb::CarryResponse { way }))
    }

    async fn inventory(
        &self,
        request: Request<pb::InventoryRequest>,
    ) -> Result<Response<pb::InventoryResponse>, Status> {
        let asked = request.into_inner();
        self.check_leads()?;
        self.check_lineage(&asked.lineage)?;
        let attached = self.group.standing().and_then(|it| it.authority.attachment);
        if attached.is_none_or(|it| wire::wide(it.id) != asked.attachment) {
            return Err(Status::failed_precondition("this cluster is attached to another primary"));
        }
        let store = self.group.store().read();
        let taken = if asked.of_seed { inventory::of_seed } else { inventory::of };
        Ok(Response::new(taken(store.state(), &asked.groups)))
    }

    async fn compare(
        &self,
        request: Request<pb::CompareRequest>,
    ) -> Result<Response<pb::CompareResponse>, Status> {
        let asked = request.into_inner();
        self.check_lineage(&asked.lineage)?;
        let compared = self.group.compared(asked.milestones.unwrap_or_default());
        let compared = compared.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(pb::CompareResponse { compared: Some(compared) }))
    }

    async fn fence(
        &self,
        request: Request<pb::FenceRequest>,
    ) -> Result<Response<pb::FenceResponse>, Status> {
        let verb = wire::fence(request.into_inner()).map_err(|status| *status)?;
        if let RegionVerb::Fence { lineage, ledger } = &verb {
            // Heard is heard, whether or not this node leads.
            self.group.keep_heard(*lineage, ledger).await;
        }
        self.change(verb, PEER.to_owned()).await?;
        let role = self.group.standing().map_or("standalone", |it| it.authority.role.name());
        Ok(Response::new(pb::FenceResponse { role: role.to_owned() }))
    }
}
