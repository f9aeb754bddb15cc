//! `RegionService`: what an operator asks of a pair of regions. Translation only.
//!
//! Laws: any node answers what it knows; a change is made by the leader, to which it is passed
//! on, once, and so is the question how far the copy is, which only the leader knows. A node that
//! cannot have confirmed that it still leads says so, and that the copy is not known.

mod epochs;
mod line;
mod loss;
mod tail;
mod trouble;

pub(super) use line::{change_in, limit_in};
pub(super) use tail::fate_in;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{self, BoxStream, Stream, StreamExt as _, TryStreamExt as _};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::call::Call;
use super::convert::{lasting, span, timestamp, wait};
use super::error::Refusal;
use super::forward::{self, Kind};
use crate::geo::error::PairError;
use crate::geo::pair::{Pair, PairStatus, Stranger};
use crate::geo::watermark;
use crate::proto::admin::v1 as pb;
use crate::proto::admin::v1::region_service_client::RegionServiceClient;
use crate::proto::admin::v1::region_service_server::{RegionService, RegionServiceServer};
use crate::queue::authority::{AuditRow, RegionEpoch, Role};
use crate::queue::ids::{Epoch, LogTime};

/// The longest that a failover is waited for when the caller gives no deadline.
const USUAL: Duration = Duration::from_secs(60);
/// So long a leader waits for a majority before it answers what it knows alone.
const CONFIRMS: Duration = Duration::from_secs(1);
/// A copy that was not heard for so long is not called live.
const SILENCE: Duration = Duration::from_secs(5);

/// The region service of one node. A clone is the same service.
#[derive(Clone)]
pub struct RegionFace {
    pair: Pair,
}

type Answered<T> = Result<Response<T>, Status>;

pub(super) fn refusal(error: PairError) -> Status {
    refused(error).into()
}

fn refused(error: PairError) -> Refusal {
    let reason = "REGION_REFUSED";
    match error {
        PairError::Group(error) => Refusal::from(error),
        PairError::Refused(why) => Refusal::Precondition { reason, why },
        PairError::NotConfigured => Refusal::Precondition { reason, why: error.to_string() },
        PairError::NotNow { why, fate } => Refusal::NotNow { why, fate, retry_after: None },
        PairError::Log(error) => Refusal::Fatal(error.to_string()),
    }
}

fn role_out(role: &Role) -> pb::RegionRole {
    match role {
        Role::Standalone => pb::RegionRole::Standalone,
        Role::Primary => pb::RegionRole::Primary,
        Role::Sealed { .. } => pb::RegionRole::Sealed,
        Role::Released { .. } => pb::RegionRole::Released,
        Role::Secondary => pb::RegionRole::Secondary,
        Role::Fenced { .. } => pb::RegionRole::Fenced,
        Role::Conflict { .. } => pb::RegionRole::Conflict,
        Role::Detached => pb::RegionRole::Detached,
    }
}

/// The role of the other region, by the word that it says.
fn role_said(word: &str) -> pb::RegionRole {
    let all = [
        pb::RegionRole::Standalone,
        pb::RegionRole::Primary,
        pb::RegionRole::Sealed,
        pb::RegionRole::Released,
        pb::RegionRole::Secondary,
        pb::RegionRole::Fenced,
        pb::RegionRole::Conflict,
        pb::RegionRole::Detached,
    ];
    let named = |role: &pb::RegionRole| {
        role.as_str_name()
            .strip_prefix("REGION_ROLE_")
            .is_some_and(|it| it.eq_ignore_ascii_case(word))
    };
    all.into_iter().find(named).unwrap_or(pb::RegionRole::Unspecified)
}

fn epoch_out(epoch: &RegionEpoch) -> pb::EpochId {
    pb::EpochId { number: epoch.number.0, region: epoch.region.clone() }
}

fn geo_status(status: watermark::GeoStatus) -> pb::GeoStatus {
    match status {
        watermark::GeoStatus::Live => pb::GeoStatus::Live,
        watermark::GeoStatus::Bootstrap => pb::GeoStatus::Bootstrap,
        watermark::GeoStatus::Unavailable => pb::GeoStatus::Unavailable,
    }
}

/// How a secondary does, as it knows itself.
fn status_of_copy(status: &PairStatus, is_complete: bool) -> pb::GeoStatus {
    let near = status.heard.as_ref().is_some_and(|(_, age)| *age < SILENCE);
    let down = status.shaped.as_ref().is_some_and(|it| it.is_down);
    let takes = near && !down && status.refuses.is_none();
    match (takes, is_complete) {
        (false, _) => pb::GeoStatus::Unavailable,
        (true, false) => pb::GeoStatus::Bootstrap,
        (true, true) => pb::GeoStatus::Live,
    }
}

fn stranger_out(stranger: &Stranger) -> pb::Stranger {
    pb::Stranger { region: stranger.region.clone(), ago: Some(lasting(stranger.ago)) }
}

fn status_out(own: &str, status: PairStatus) -> pb::GetRegionResponse {
    let heard_ago = status.heard.as_ref().map(|(_, age)| lasting(*age));
    let theirs = status.heard.as_ref().map(|(theirs, _)| role_said(&theirs.role));
    let base = pb::GetRegionResponse {
        region: own.to_owned(),
        role: pb::RegionRole::Standalone.into(),
        redundancy: status.redundancy.clone(),
        writable: true,
        stranger: status.stranger.as_ref().map(stranger_out),
        ..pb::GetRegionResponse::default()
    };
    let Some(standing) = &status.standing else { return base };
    let authority = &standing.authority;
    let mut out = pb::GetRegionResponse {
        region: authority.region.clone(),
        role: role_out(&authority.role).into(),
        epoch: Some(epoch_out(&authority.epoch)),
        lineage: format!("{:032x}", authority.lineage),
        peer: authority.attachment.as_ref().map(|it| it.peer.clone()).unwrap_or_default(),
        writable: authority.role.is_writable(),
        read_access: authority.settings.read_access,
        log_time: Some(timestamp(standing.log_time)),
        complete: authority.is_complete,
        tail: tail::fate_out(authority.tail).into(),
        heard_ago,
        peer_role: theirs.unwrap_or_default().into(),
        lease: line::lease_out(&status, authority),
        shape: status.shaped.as_ref().map(line::shape_out),
        limit: line::limit_out(&status, authority),
        last_forced: authority.loss.as_deref().map(loss::loss_out),
        trouble: trouble::of(&status, authority),
        clock_ahead: status.clock.map(|it| signed(it.by_us)),
        clock_within: status.clock.map(|it| lasting(it.within)),
        ..base
    };
    epochs::tell(&mut out, standing);
    let (copy, mut drain) = (&status.copy, status.copy.drain);
    match &authority.role {
        Role::Primary | Role::Sealed { .. } | Role::Released { .. } => {
            let mark = &status.watermark;
            out.status = geo_status(mark.status).into();
            out.last_sync_time = mark.last_sync.map(timestamp);
            out.copied_bytes = mark.copied_bytes;
            out.shipped_bytes = mark.shipped_bytes;
            out.copy_bytes_total = mark.copy_total.map(|total| total.max(mark.copied_bytes));
        }
        Role::Secondary => {
            let known = status_of_copy(&status, authority.is_complete);
            out.status = known.into();
            out.last_sync_time =
                (standing.log_time > LogTime(0)).then(|| timestamp(standing.log_time));
            // What does not come now takes no time that is known.
            drain = drain.filter(|_| known != pb::GeoStatus::Unavailable);
        }
        _ => return out,
    }
    out.entries_behind = copy.entries;
    out.bytes_behind = copy.bytes;
    out.messages_behind = status.messages_behind;
    out.stalled = status.stalled.map(lasting);
    out.drain = drain.map(|it| lasting(Duration::from_secs(it)));
    out.applied_through = copy
        .through
        .as_ref()
        .map(|(epoch, at)| pb::LogPlace { epoch: Some(epoch_out(epoch)), index: at.index });
    out
}

/// A span that may be negative, of microseconds.
fn signed(us: i64) -> prost_types::Duration {
    let nanos = i32::try_from(us % 1_000_000 * 1_000).unwrap_or_default();
    prost_types::Duration { seconds: us / 1_000_000, nanos }
}

fn audit_out(row: AuditRow) -> pb::AuditEntry {
    pb::AuditEntry {
        number: row.number,
        at: Some(timestamp(LogTime(row.at_us))),
        who: row.who,
        what: row.what,
        epoch: Some(epoch_out(&row.epoch)),
    }
}

fn who(name: String) -> String {
    if name.is_empty() { "an operator".to_owned() } else { name }
}

/// A change, or a question that only the leader can answer.
macro_rules! leader_verb {
    ($self:ident, $request:ident, $kind:ident, $verb:ident, |$call:ident, $message:ident| $here:expr) => {{
        let $call = Call::patient($request.metadata(), USUAL);
        let $message = $request.into_inner();
        let Some(way) = forward::place($self.pair.group(), &$call).await? else {
            return $here.map(Response::new);
        };
        let mut client = RegionServiceClient::new(way.channel.clone());
        let answer = client.$verb(forward::signed(&way, &$call, $message)).await;
        answer
            .map(|answer| Response::new(answer.into_inner()))
            .map_err(|status| way.failure(status, Kind::$kind))
    }};
}

/// Pages as one stream.
fn flat<T: Send + 'static>(
    pages: impl Stream<Item = Result<Vec<T>, Status>> + Send + 'static,
) -> BoxStream<'static, Result<T, Status>> {
    pages.map_ok(|page| stream::iter(page.into_iter().map(Ok::<T, Status>))).try_flatten().boxed()
}

impl RegionFace {
    #[must_use]
    pub fn new(pair: Pair) -> RegionFace {
        RegionFace { pair }
    }

    /// What this node knows of the pair; how far the copy is only the leader does.
    #[must_use]
    pub fn here(&self) -> pb::GetRegionResponse {
        status_out(self.pair.region(), self.pair.status())
    }

    /// The same, of a node that leads. Another one may have taken its place unknown to it, and
    /// what it was told of the copy is old then.
    async fn confirmed(&self, deadline: Instant) -> Result<pb::GetRegionResponse, Status> {
        let group = self.pair.group();
        let confirmed = group.confirm(deadline.min(Instant::now() + CONFIRMS)).await;
        let mut answer = self.here();
        if let Err(error) = confirmed {
            if !group.leadership().borrow().is_me {
                return Err(refusal(PairError::Group(error)));
            }
            answer.set_status(pb::GeoStatus::Unavailable);
            (answer.last_sync_time, answer.trouble) = (None, error.to_string());
        }
        Ok(answer)
    }

    fn knows_of_fence(&self) -> bool {
        let standing = self.pair.group().standing();
        standing.is_some_and(|it| matches!(it.authority.role, Role::Fenced { .. }))
    }

    /// Waits until this node, which leads, has applied all that its group agreed on by now.
    async fn catch_up(&self, deadline: Instant) -> Result<(), Status> {
        let confirmed = self.pair.group().confirm(deadline).await;
        confirmed.map_err(|error| refusal(PairError::Group(error)))
    }

    #[must_use]
    pub fn into_server(self) -> RegionServiceServer<RegionFace> {
        RegionServiceServer::new(self)
    }

    async fn force(
        &self,
        asked: pb::ForceFailOverRequest,
        deadline: Instant,
    ) -> Result<pb::ForceFailOverResponse, Refusal> {
        let from = (asked.from_epoch > 0).then_some(Epoch(asked.from_epoch));
        let loss = if asked.dry_run {
            self.pair.loss()
        } else {
            let who = who(asked.who);
            self.pair.force_from(&who, asked.accept_incomplete, from, deadline).await
        };
        let loss = loss.map_err(refused)?;
        Ok(pb::ForceFailOverResponse {
            entries_lost: loss.positions,
            time_lost: loss.time.map(lasting),
            heard_ago: loss.age.map(lasting),
            complete: loss.is_complete,
            promoted: !asked.dry_run,
            lease_wait: loss.lease_wait.map(lasting),
            messages_lost: loss.messages(),
            more_queues: loss.queues.as_ref().map_or(0, |it| it.more_queues),
            more_messages: loss.queues.as_ref().map_or(0, |it| it.more_messages),
            queues_lost: loss.queues.map(loss::queues_out).unwrap_or_default(),
            bytes_lost_at_most: loss.bytes_at_most,
            clock_ahead: loss.clock.map(|it| signed(it.by_us)),
            clock_within: loss.clock.map(|it| lasting(it.within)),
        })
    }
}

#[tonic::async_trait]
impl RegionService for RegionFace {
    type FailBackStream = BoxStream<'static, Result<pb::FailBackResponse, Status>>;
    type ReplayTailStream = BoxStream<'static, Result<pb::ReplayTailResponse, Status>>;
    type ListTailStream = BoxStream<'static, Result<pb::ListTailResponse, Status>>;

    async fn get_region(
        &self,
        request: Request<pb::GetRegionRequest>,
    ) -> Answered<pb::GetRegionResponse> {
        leader_verb!(self, request, Read, get_region, |call, _message| {
            self.confirmed(call.deadline).await
        })
    }

    async fn list_audit(
        &self,
        request: Request<pb::ListAuditRequest>,
    ) -> Answered<pb::ListAuditResponse> {
        leader_verb!(self, request, Read, list_audit, |_call, _message| {
            let entries = self.pair.status().audit.into_iter().map(audit_out).collect();
            Ok::<_, Status>(pb::ListAuditResponse { entries })
        })
    }

    async fn protect(&self, request: Request<pb::ProtectRequest>) -> Answered<pb::ProtectResponse> {
        leader_verb!(self, request, Write, protect, |_call, message| {
            let done = self.pair.protect(&who(message.who), message.discard_tail).await;
            done.map(|()| pb::ProtectResponse {}).map_err(refusal)
        })
    }

    async fn unprotect(
        &self,
        request: Request<pb::UnprotectRequest>,
    ) -> Answered<pb::UnprotectResponse> {
        leader_verb!(self, request, Write, unprotect, |_call, message| {
            let done = self.pair.unprotect(&who(message.who), message.wipe).await;
            done.map(|()| pb::UnprotectResponse {}).map_err(refusal)
        })
    }

    async fn promote_copy(
        &self,
        request: Request<pb::PromoteCopyRequest>,
    ) -> Answered<pb::PromoteCopyResponse> {
        leader_verb!(self, request, Write, promote_copy, |_call, message| {
            let done = self.pair.promote_copy(&who(message.who)).await;
            done.map(|()| pb::PromoteCopyResponse {}).map_err(refusal)
        })
    }

    async fn fail_over(
        &self,
        request: Request<pb::FailOverRequest>,
    ) -> Answered<pb::FailOverResponse> {
        leader_verb!(self, request, Write, fail_over, |call, message| {
            let to = (!message.to.is_empty()).then_some(message.to.as_str());
            let done = self.pair.fail_over(&who(message.who), to, call.deadline).await;
            done.map(|()| pb::FailOverResponse {}).map_err(refusal)
        })
    }

    async fn force_fail_over(
        &self,
        request: Request<pb::ForceFailOverRequest>,
    ) -> Answered<pb::ForceFailOverResponse> {
        let call = Call::patient(request.metadata(), USUAL);
        let mut message = request.into_inner();
        if message.from_epoch == 0 {
            message.from_epoch = self.pair.epoch().map_or(0, |epoch| epoch.0);
        }
        // By the epoch it is repeatable: a hop that breaks on a busy machine is no doubt.
        let is_named = message.from_epoch > 0;
        let kind = if is_named { Kind::Repeatable } else { Kind::Write };
        forward::unary(
            self.pair.group(),
            &call,
            kind,
            message,
            |message| self.force(message, call.deadline).boxed(),
            |channel, passed| {
                let mut client = RegionServiceClient::new(channel);
                async move { client.force_fail_over(passed).await }.boxed()
            },
        )
        .await
    }

    async fn take_back(
        &self,
        request: Request<pb::TakeBackRequest>,
    ) -> Answered<pb::TakeBackResponse> {
        leader_verb!(self, request, Write, take_back, |_call, message| {
            let done = self.pair.take_back(&who(message.who), message.force).await;
            done.map(|()| pb::TakeBackResponse {}).map_err(refusal)
        })
    }

    async fn resolve_conflict(
        &self,
        request: Request<pb::ResolveConflictRequest>,
    ) -> Answered<pb::ResolveConflictResponse> {
        leader_verb!(self, request, Write, resolve_conflict, |_call, message| {
            let done = self.pair.resolve(&who(message.who), &message.keep).await;
            done.map(|()| pb::ResolveConflictResponse {}).map_err(refusal)
        })
    }

    async fn set_read_access(
        &self,
        request: Request<pb::SetReadAccessRequest>,
    ) -> Answered<pb::SetReadAccessResponse> {
        leader_verb!(self, request, Write, set_read_access, |_call, message| {
            let done = self.pair.set_read_access(&who(message.who), message.on).await;
            done.map(|()| pb::SetReadAccessResponse {}).map_err(refusal)
        })
    }

    async fn set_region_lease(
        &self,
        request: Request<pb::SetRegionLeaseRequest>,
    ) -> Answered<pb::SetRegionLeaseResponse> {
        leader_verb!(self, request, Write, set_region_lease, |call, message| {
            let lease = span("lease", message.lease)?;
            // The answer that the other region was not reached must come in time.
            let within = call.remaining() * 3 / 4;
            let who = who(message.who);
            let done = self.pair.set_lease(&who, lease, message.force, within).await;
            done.map(|in_force| pb::SetRegionLeaseResponse { in_force }).map_err(refusal)
        })
    }

    async fn shape_line(
        &self,
        request: Request<pb::ShapeLineRequest>,
    ) -> Answered<pb::ShapeLineResponse> {
        leader_verb!(self, request, Write, shape_line, |_call, message| {
            let who = who(message.who.clone());
            let change = change_in(message).map_err(|status| *status)?;
            let done = self.pair.shape(&who, change).await;
            done.map(|()| pb::ShapeLineResponse {}).map_err(refusal)
        })
    }

    async fn set_lag_limit(
        &self,
        request: Request<pb::SetLagLimitRequest>,
    ) -> Answered<pb::SetLagLimitResponse> {
        leader_verb!(self, request, Write, set_lag_limit, |_call, message| {
            let change = limit_in(&message).map_err(|status| *status)?;
            let done = self.pair.limit(&who(message.who), change).await;
            done.map(|()| pb::SetLagLimitResponse {}).map_err(refusal)
        })
    }

    async fn verify_regions(
        &self,
        request: Request<pb::VerifyRegionsRequest>,
    ) -> Answered<pb::VerifyRegionsResponse> {
        leader_verb!(self, request, Read, verify_regions, |call, _message| {
            let compared = self.pair.verify(call.deadline).await.map_err(refusal)?;
            Ok::<_, Status>(pb::VerifyRegionsResponse {
                equal: compared.own == compared.other,
                differs: compared.differs,
                index: compared.index,
                own_digest: compared.own.to_string(),
                other_digest: compared.other.to_string(),
            })
        })
    }

    async fn await_writable(
        &self,
        request: Request<pb::AwaitWritableRequest>,
    ) -> Answered<pb::AwaitWritableResponse> {
        let wait = wait(request.get_ref().wait).map_err(Status::from)?;
        let call = Call::of(request.metadata(), wait);
        let until = Instant::now() + wait.min(call.remaining());
        let writable = self.pair.group().until_writable(until).await;
        Ok(Response::new(pb::AwaitWritableResponse { writable }))
    }

    async fn list_tail(
        &self,
        request: Request<pb::ListTailRequest>,
    ) -> Answered<Self::ListTailStream> {
        let call = Call::patient(request.metadata(), USUAL);
        // Any node that knows of the fence has it: a side that is fenced changes no more.
        if !self.knows_of_fence() {
            if let Some(way) = forward::place(self.pair.group(), &call).await? {
                let mut client = RegionServiceClient::new(way.channel.clone());
                let asked = forward::signed(&way, &call, request.into_inner());
                let stream = way.opened(client.list_tail(asked)).await?;
                return Ok(Response::new(way.answers(stream)));
            }
            self.catch_up(call.deadline).await?;
        }
        let head = self.pair.tail_head().map_err(refusal)?;
        let (pair, of) = (self.pair.clone(), Arc::new(head.clone()));
        let pages = stream::try_unfold(Some(None), move |cursor| {
            let (pair, of) = (pair.clone(), Arc::clone(&of));
            async move {
                let Some(cursor) = cursor else { return Ok(None) };
                let page = pair.tail_page(&of, cursor).await.map_err(refusal)?;
                let (page, next) = tail::page_out(page);
                tokio::task::yield_now().await;
                Ok::<_, Status>(Some((page, next.map(Some))))
            }
        });
        let pair = self.pair.clone();
        let deletes = stream::try_unfold(Some(0), move |from| {
            let pair = pair.clone();
            async move {
                let Some(from) = from else { return Ok(None) };
                let (page, next) = pair.tail_deletes(from).map_err(refusal)?;
                tokio::task::yield_now().await;
                let page: Vec<_> = page.into_iter().map(tail::gone_out).collect();
                Ok::<_, Status>(Some((page, next)))
            }
        });
        let head = stream::once(std::future::ready(Ok(tail::head_out(head))));
        Ok(Response::new(head.chain(flat(pages)).chain(flat(deletes)).boxed()))
    }

    async fn replay_tail(
        &self,
        request: Request<pb::ReplayTailRequest>,
    ) -> Answered<Self::ReplayTailStream> {
        let call = Call::patient(request.metadata(), USUAL);
        let message = request.into_inner();
        if let Some(way) = forward::place(self.pair.group(), &call).await? {
            let mut client = RegionServiceClient::new(way.channel.clone());
            let stream =
                way.opened(client.replay_tail(forward::signed(&way, &call, message))).await?;
            return Ok(Response::new(way.answers(stream)));
        }
        self.catch_up(call.deadline).await?;
        let replay =
            self.pair.replay_tail(&who(message.who), message.all).await.map_err(refusal)?;
        let steps = stream::try_unfold(replay, |mut replay| async move {
            let step = replay.next().await.map_err(refusal)?;
            Ok::<_, Status>(step.map(|step| (tail::step_out(step), replay)))
        });
        Ok(Response::new(steps.boxed()))
    }

    async fn fail_back(
        &self,
        request: Request<pb::FailBackRequest>,
    ) -> Answered<Self::FailBackStream> {
        let call = Call::patient(request.metadata(), USUAL);
        let message = request.into_inner();
        if let Some(way) = forward::place(self.pair.group(), &call).await? {
            let mut client = RegionServiceClient::new(way.channel.clone());
            let stream =
                way.opened(client.fail_back(forward::signed(&way, &call, message))).await?;
            return Ok(Response::new(way.answers(stream)));
        }
        let to = (!message.to.is_empty()).then_some(message.to);
        let name = who(message.who);
        let mut way = self.pair.fail_back(&name, to, message.discard_tail, call.deadline);
        let first = way.next().await.map_err(refusal)?.map(tail::way_out);
        let ways = stream::try_unfold(way, |mut way| async move {
            let left = way.next().await.map_err(refusal)?;
            Ok::<_, Status>(left.map(|left| (tail::way_out(left), way)))
        });
        let first = stream::iter(first.map(Ok));
        let rest = if message.dry_run { 0 } else { usize::MAX };
        Ok(Response::new(first.chain(ways.take(rest)).boxed()))
    }

    async fn settle_tail(
        &self,
        request: Request<pb::SettleTailRequest>,
    ) -> Answered<pb::SettleTailResponse> {
        leader_verb!(self, request, Write, settle_tail, |_call, message| {
            let fate = fate_in(message.fate())?;
            let done = self.pair.settle_tail(&who(message.who), fate).await;
            done.map(|()| pb::SettleTailResponse {}).map_err(refusal)
        })
    }
}
