//! `ClusterService`: what an operator asks of a cluster.
//!
//! Laws: any node answers about itself; a change of the members is made by the leader, to which
//! it is passed on, once; draining and faults concern the node that is asked.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::BoxStream;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use super::call::Call;
use super::clock;
use super::convert;
use super::error::Refusal;
use super::forward::{self, Kind};
use super::redundancy;
use super::wishes;
use crate::consensus::error::Fate;
use crate::consensus::group::{Group, Role};
use crate::consensus::membership::{Demand, MembershipError};
use crate::consensus::transport::PeerClient;
use crate::consensus::zones::Wanted;
use crate::geo::pair::Pair;
use crate::proto::admin::v1 as pb;
use crate::proto::admin::v1::cluster_service_client::ClusterServiceClient;
use crate::proto::admin::v1::cluster_service_server::{ClusterService, ClusterServiceServer};
use crate::queue::ids::Digest;
use crate::queue::milestones::Comparison;

/// How long a node may take to catch up when the caller gives no deadline.
const CATCH_UP: Duration = Duration::from_secs(600);
/// How long one node may take to say its digest.
const DIGEST: Duration = Duration::from_secs(6);
/// A digest holds for one position, which passes quickly under load: so often it is tried.
const DIGEST_TRIES: usize = 20;
/// Between two tries: this node may have just started, and be behind what the others still know.
const DIGEST_PAUSE: Duration = Duration::from_millis(100);

/// The cluster service of one node. A clone is the same service.
#[derive(Clone)]
pub struct ClusterFace {
    group: Group,
    pair: Pair,
}

type Answered<T> = Result<Response<T>, Status>;

/// A change of the members that was not made.
pub(super) fn refusal(error: &MembershipError) -> Status {
    let why = error.to_string();
    match error {
        MembershipError::NotLeader(_) => Refusal::not_now(why).into(),
        MembershipError::Silent(_) => not_applied(Code::Unavailable, "NODE_SILENT", why),
        MembershipError::Unknown => {
            Refusal::NotNow { why, fate: Fate::Unknown, retry_after: None }.into()
        }
        MembershipError::Behind { .. } => Refusal::Late { why, fate: Fate::NotApplied }.into(),
        MembershipError::Stopped(_) => Refusal::Fatal(why).into(),
        MembershipError::Stranger(_) => precondition("NODE_NOT_FOUND", why),
        MembershipError::Zones(_)
        | MembershipError::Plan(_)
        | MembershipError::NotVoter(_)
        | MembershipError::IdTaken { .. }
        | MembershipError::AddressTaken { .. }
        | MembershipError::Leads(_)
        | MembershipError::Changed
        | MembershipError::Refused(_) => precondition("MEMBERSHIP_REFUSED", why),
    }
}

/// The cluster is not as the change needs it; nothing was changed.
pub(super) fn precondition(reason: &'static str, why: String) -> Status {
    not_applied(Code::FailedPrecondition, reason, why)
}

fn not_applied(code: Code, reason: &'static str, why: String) -> Status {
    use tonic_types::{ErrorDetails, StatusExt as _};
    let outcome =
        std::collections::HashMap::from([("outcome".to_owned(), "not_applied".to_owned())]);
    let details = ErrorDetails::with_error_info(reason, super::DOMAIN, outcome);
    Status::with_error_details(code, why, details)
}

fn demand(degraded: bool, group: &Group) -> Demand {
    // One zone was asked for when the cluster was formed so; it may stay so.
    let local = group.status().redundancy == "LRS";
    match (degraded, local) {
        (true, _) => Demand::Degraded,
        (false, true) => Demand::Keep(Wanted::Lrs),
        (false, false) => Demand::Keep(Wanted::Zrs),
    }
}

/// What a change does not keep.
fn said(demand: Demand) -> &'static str {
    if demand == Demand::Degraded { ", degraded if need be" } else { "" }
}

/// Node ids as a sentence has them.
pub(super) fn listed(ids: &BTreeSet<u64>) -> String {
    let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
    format!("node {}", ids.join(", "))
}

impl ClusterFace {
    #[must_use]
    pub fn new(pair: Pair) -> ClusterFace {
        ClusterFace { group: pair.group().clone(), pair }
    }

    #[must_use]
    pub fn into_server(self) -> ClusterServiceServer<ClusterFace> {
        ClusterServiceServer::new(self)
    }

    fn status_here(&self) -> pb::GetStatusResponse {
        let status = self.group.status();
        let nodes = status
            .nodes
            .into_iter()
            .map(|node| pb::NodeStatus {
                id: node.id,
                zone: node.member.zone,
                region: node.member.region,
                grpc_address: node.member.grpc_address,
                peer_address: node.member.peer_address,
                voter: node.voter,
                role: role(node.role).into(),
                matched_index: node.matched.unwrap_or(0),
                disk: node.disk.map_or(String::new(), |disk| disk.stage.name().to_owned()),
                disk_free_bytes: node.disk.map_or(0, |disk| disk.free_bytes),
                clock_ahead_us: node.clock_ahead_us,
            })
            .collect();
        pb::GetStatusResponse {
            cluster_id: status.cluster_id,
            node_id: status.node,
            leader_id: status.leader.unwrap_or(0),
            term: status.term,
            last_log_index: status.last_log,
            committed_index: status.committed,
            applied_index: status.applied,
            durable_index: status.durable,
            purged_index: status.purged,
            log_time: Some(convert::timestamp(status.log_time)),
            nodes,
            overall_redundancy: self.pair.redundancy_of(&status.redundancy),
            redundancy: status.redundancy,
            queues: status.queues,
            messages: status.messages,
            bytes: status.bytes,
            draining: status.draining,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            clock: status.follows.map_or_else(String::new, |it| it.name().to_owned()),
        }
    }

    async fn add_learner_here(
        &self,
        request: pb::AddLearnerRequest,
    ) -> Answer<pb::AddLearnerResponse> {
        let who = request.who.clone();
        let (id, member) = wishes::learner(request, self.pair.region())?;
        let what = format!("add node {id} of zone {} at {}", member.zone, member.peer_address);
        let members = self.group.members();
        let added = members.add_learner(id, member, CATCH_UP);
        self.audited(&who, what, added).await?;
        Ok(pb::AddLearnerResponse {})
    }

    async fn change_voters_here(
        &self,
        request: pb::ChangeVotersRequest,
    ) -> Answer<pb::ChangeVotersResponse> {
        let voters = wishes::voters(request.voters)?;
        let demand = demand(request.degraded, &self.group);
        let what = format!("make {} the voters{}", listed(&voters), said(demand));
        let members = self.group.members();
        let changed = members.change_voters(voters, demand, CATCH_UP);
        self.audited(&request.who, what, changed).await?;
        Ok(pb::ChangeVotersResponse {})
    }

    async fn replace_here(
        &self,
        request: pb::ReplaceNodeRequest,
    ) -> Answer<pb::ReplaceNodeResponse> {
        let old = wishes::node_id("old_id", request.old_id)?;
        let new = wishes::node_id("new_id", request.new_id)?;
        let demand = demand(false, &self.group);
        let what = format!("replace node {old} by node {new}");
        let members = self.group.members();
        let replaced = members.replace(old, new, demand, CATCH_UP);
        self.audited(&request.who, what, replaced).await?;
        Ok(pb::ReplaceNodeResponse {})
    }

    async fn remove_here(&self, request: pb::RemoveNodeRequest) -> Answer<pb::RemoveNodeResponse> {
        let id = wishes::node_id("id", request.id)?;
        let demand = demand(request.degraded, &self.group);
        let what = format!("remove node {id}{}", said(demand));
        let members = self.group.members();
        let removed = members.remove(id, demand);
        self.audited(&request.who, what, removed).await?;
        Ok(pb::RemoveNodeResponse {})
    }

    /// Makes a change of the members, and has it in the audit.
    async fn audited(
        &self,
        who: &str,
        what: String,
        change: impl Future<Output = Result<(), MembershipError>>,
    ) -> Answer<()> {
        let made = self.pair.audited(who, what, change).await;
        made.map_err(super::region::refusal)?.map_err(|error| refusal(&error))
    }

    async fn transfer_here(
        &self,
        request: pb::TransferLeaderRequest,
    ) -> Answer<pb::TransferLeaderResponse> {
        let to = (request.to != 0).then_some(request.to);
        if to == Some(self.group.node()) {
            return Ok(pb::TransferLeaderResponse { leader_id: self.group.node() });
        }
        if let Some(id) = to
            && !self.group.status().nodes.iter().any(|node| node.voter && node.id == id)
        {
            return Err(precondition("NODE_NOT_FOUND", format!("node {id} is not a voter")));
        }
        let leader = self.group.hand_over(to).await.map_err(Refusal::from)?;
        Ok(pb::TransferLeaderResponse { leader_id: leader })
    }

    /// The digests of all nodes at one position, the one this node holds now; again while the
    /// position passes before all have said, and then at the newest fixed positions that they have.
    async fn verify_here(&self, deadline: Instant) -> Answer<pb::VerifyDigestsResponse> {
        let mut last = pb::VerifyDigestsResponse::default();
        for attempt in 0..DIGEST_TRIES {
            if attempt > 0 {
                tokio::time::sleep(DIGEST_PAUSE).await;
            }
            last = self.digests_once().await;
            let whole = last.nodes.iter().all(|node| node.error.is_empty());
            if whole || Instant::now() >= deadline {
                break;
            }
        }
        if !last.equal {
            last = self.compared(last).await;
        }
        Ok(last)
    }

    async fn digests_once(&self) -> pb::VerifyDigestsResponse {
        let status = self.group.status();
        let index = status.applied;
        let own = pb::NodeDigest {
            node_id: status.node,
            index,
            digest: status.digest.to_string(),
            ..pb::NodeDigest::default()
        };
        let others = status.nodes.iter().filter(|node| node.id != status.node);
        let asked = others.map(|node| self.digest_of(node.id, &node.member.peer_address, index));
        let mut nodes = vec![own];
        nodes.extend(futures::future::join_all(asked).await);
        nodes.sort_by_key(|node| node.node_id);
        let said = |node: &&pb::NodeDigest| node.error.is_empty();
        let digests: BTreeSet<&str> =
            nodes.iter().filter(said).map(|node| node.digest.as_str()).collect();
        let equal = digests.len() == 1 && nodes.iter().all(|node| node.error.is_empty());
        pb::VerifyDigestsResponse { equal, index, nodes }
    }

    async fn digest_of(&self, id: u64, address: &str, index: u64) -> pb::NodeDigest {
        let mut peer = PeerClient::new(self.group.peers().clone(), id, address);
        let (digest, error) = match peer.digest(index, DIGEST).await {
            Ok(answer) => match <[u8; 16]>::try_from(answer.digest.as_ref()) {
                Ok(bytes) => (Digest(u128::from_be_bytes(bytes)).to_string(), String::new()),
                Err(_) => (String::new(), "its digest has not 16 bytes".to_owned()),
            },
            Err(error) => (String::new(), error.to_string()),
        };
        pb::NodeDigest { node_id: id, index, digest, error, differs: Vec::new() }
    }

    /// Where the present position passes too quickly, or the nodes differ: the newest that each has
    /// in common with this one, and what differs there.
    async fn compared(&self, last: pb::VerifyDigestsResponse) -> pb::VerifyDigestsResponse {
        let status = self.group.status();
        let own = self.group.milestones();
        let mut nodes = Vec::with_capacity(last.nodes.len());
        let mut here = None;
        for node in last.nodes {
            let member = status.nodes.iter().find(|it| it.id == node.node_id);
            let Some(member) = member.filter(|it| it.id != status.node) else {
                nodes.push(node);
                continue;
            };
            let with = (member.id, member.member.peer_address.as_str());
            let node_id = node.node_id;
            nodes.push(match self.group.compare_with(with, &own).await {
                Ok(Comparison::Equal(mark)) => {
                    here = Some(mark);
                    let digest = mark.digest.to_string();
                    pb::NodeDigest { node_id, index: mark.at.index, digest, ..Default::default() }
                }
                Ok(Comparison::Differ { own, other, parts }) => {
                    here = Some(own);
                    let (digest, differs) = (other.to_string(), self.group.part_names(&parts));
                    let index = own.at.index;
                    pb::NodeDigest { node_id, index, digest, differs, ..Default::default() }
                }
                Ok(Comparison::NothingInCommon) | Err(_) => node,
            });
        }
        if let Some(mark) = here
            && let Some(own) = nodes.iter_mut().find(|it| it.node_id == status.node)
        {
            (own.index, own.digest) = (mark.at.index, mark.digest.to_string());
        }
        let own = nodes.iter().find(|it| it.node_id == status.node).cloned().unwrap_or_default();
        let agrees = |it: &pb::NodeDigest| {
            it.error.is_empty()
                && it.differs.is_empty()
                && (it.index != own.index || it.digest == own.digest)
        };
        let equal = nodes.iter().all(agrees);
        let index = nodes.iter().map(|it| it.index).min().unwrap_or(0);
        pb::VerifyDigestsResponse { equal, index, nodes }
    }
}

type Answer<T> = Result<T, Status>;

/// A change that the leader makes.
macro_rules! leader_verb {
    ($self:ident, $request:ident, $verb:ident, $here:ident) => {{
        let call = patient(&$request);
        let request = $request.into_inner();
        let Some(way) = forward::place(&$self.group, &call).await? else {
            let made = tokio::time::timeout_at(call.deadline, $self.$here(request)).await;
            return made.map_err(|_| late())?.map(Response::new);
        };
        let mut client = ClusterServiceClient::new(way.channel.clone());
        let answer = client.$verb(forward::signed(&way, &call, request)).await;
        answer
            .map(|answer| Response::new(answer.into_inner()))
            .map_err(|status| way.failure(status, Kind::Write))
    }};
}

/// Changes of members take as long as the caller allows: a node may have much to copy.
fn patient<T>(request: &Request<T>) -> Call {
    Call::patient(request.metadata(), CATCH_UP)
}

fn late() -> Status {
    let why = "the change was under way when the deadline passed".to_owned();
    Refusal::Late { why, fate: Fate::Unknown }.into()
}

#[tonic::async_trait]
impl ClusterService for ClusterFace {
    type SetRedundancyStream = BoxStream<'static, Result<pb::SetRedundancyResponse, Status>>;

    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> Answered<pb::GetStatusResponse> {
        if request.get_ref().of_leader {
            let call = Call::of(request.metadata(), Duration::ZERO);
            if let Some(way) = forward::place_of_leader(&self.group, &call).await? {
                let mut client = ClusterServiceClient::new(way.channel.clone());
                let asked = forward::signed(&way, &call, request.into_inner());
                let answer = client.get_status(asked).await;
                return answer
                    .map(|answer| Response::new(answer.into_inner()))
                    .map_err(|status| way.failure(status, Kind::Read));
            }
        }
        Ok(Response::new(self.status_here()))
    }

    async fn accept_clock(
        &self,
        request: Request<pb::AcceptClockRequest>,
    ) -> Answered<pb::AcceptClockResponse> {
        let call = Call::of(request.metadata(), Duration::ZERO);
        let request = request.into_inner();
        let Some(way) = forward::place_of_leader(&self.group, &call).await? else {
            let made = clock::accept(&self.pair, request, &call);
            let made = tokio::time::timeout_at(call.deadline, made).await;
            return made.map_err(|_| late())?.map(Response::new);
        };
        let mut client = ClusterServiceClient::new(way.channel.clone());
        let answer = client.accept_clock(forward::signed(&way, &call, request)).await;
        answer
            .map(|answer| Response::new(answer.into_inner()))
            .map_err(|status| way.failure(status, Kind::Write))
    }

    async fn add_learner(
        &self,
        request: Request<pb::AddLearnerRequest>,
    ) -> Answered<pb::AddLearnerResponse> {
        leader_verb!(self, request, add_learner, add_learner_here)
    }

    async fn change_voters(
        &self,
        request: Request<pb::ChangeVotersRequest>,
    ) -> Answered<pb::ChangeVotersResponse> {
        leader_verb!(self, request, change_voters, change_voters_here)
    }

    async fn replace_node(
        &self,
        request: Request<pb::ReplaceNodeRequest>,
    ) -> Answered<pb::ReplaceNodeResponse> {
        leader_verb!(self, request, replace_node, replace_here)
    }

    async fn remove_node(
        &self,
        request: Request<pb::RemoveNodeRequest>,
    ) -> Answered<pb::RemoveNodeResponse> {
        leader_verb!(self, request, remove_node, remove_here)
    }

    async fn set_redundancy(
        &self,
        request: Request<pb::SetRedundancyRequest>,
    ) -> Answered<Self::SetRedundancyStream> {
        let call = patient(&request);
        let message = request.into_inner();
        if let Some(way) = forward::place(&self.group, &call).await? {
            let mut client = ClusterServiceClient::new(way.channel.clone());
            let stream =
                way.opened(client.set_redundancy(forward::signed(&way, &call, message))).await?;
            return Ok(Response::new(way.answers(stream)));
        }
        let steps = redundancy::steps(self.pair.clone(), message, call.remaining());
        steps.map(Response::new).map_err(|status| *status)
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Answered<pb::TransferLeaderResponse> {
        leader_verb!(self, request, transfer_leader, transfer_here)
    }

    async fn take_snapshot(
        &self,
        _request: Request<pb::TakeSnapshotRequest>,
    ) -> Answered<pb::TakeSnapshotResponse> {
        let made = self.group.store().commit().await;
        made.map_err(|error| Refusal::Fatal(error.to_string()))?;
        let durable_index = self.group.status().durable;
        Ok(Response::new(pb::TakeSnapshotResponse { durable_index }))
    }

    async fn drain(&self, request: Request<pb::DrainRequest>) -> Answered<pb::DrainResponse> {
        self.group.drain(request.into_inner().on).await;
        Ok(Response::new(pb::DrainResponse {}))
    }

    async fn verify_digests(
        &self,
        request: Request<pb::VerifyDigestsRequest>,
    ) -> Answered<pb::VerifyDigestsResponse> {
        let call = Call::of(request.metadata(), Duration::from_secs(50));
        let verified = tokio::time::timeout_at(call.deadline, self.verify_here(call.deadline));
        let late = || {
            let why = "the nodes did not say their digests in time".to_owned();
            Status::from(Refusal::Late { why, fate: Fate::NotApplied })
        };
        verified.map(|answer| answer.map_err(|_| late())?.map(Response::new)).await
    }

    async fn set_faults(
        &self,
        request: Request<pb::SetFaultsRequest>,
    ) -> Answered<pb::SetFaultsResponse> {
        let pb::SetFaultsRequest { cut_peers, disk_free_bytes } = request.into_inner();
        let set = self.group.peers().faults().set_cut(cut_peers.into_iter().collect());
        set.map_err(|error| precondition("FAULTS_DISABLED", error.to_string()))?;
        self.group.pretend_disk_free(disk_free_bytes);
        Ok(Response::new(pb::SetFaultsResponse {}))
    }
}

fn role(role: Role) -> pb::NodeRole {
    match role {
        Role::Leader => pb::NodeRole::Leader,
        Role::Follower => pb::NodeRole::Follower,
        Role::Learner => pb::NodeRole::Learner,
        Role::Candidate => pb::NodeRole::Candidate,
    }
}
