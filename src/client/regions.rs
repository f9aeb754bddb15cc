//! The operator's verbs on a pair of regions: `zoneq.admin.v1.RegionService`.
//!
//! Laws: each verb may be run again, for each step is so already or is done now; it is tried again
//! by itself only when it was certainly not applied.

use std::time::Duration;

use tonic::Streaming;

use super::admin::Admin;
use super::call::{Safety, run};
use super::epochs::Line;
use super::error::ClientError;
use crate::proto::admin::v1 as pb;
use pb::region_service_client::RegionServiceClient;

/// A client's view of a pair of regions, from the cluster that it talks to.
#[derive(Clone, Debug)]
pub struct Regions {
    admin: Admin,
    who: String,
}

fn service(line: Line) -> RegionServiceClient<Line> {
    RegionServiceClient::new(line)
}

/// One call: `region!(self, safety, at most this long in one attempt, method, request)`.
macro_rules! region {
    ($regions:expr, $safety:expr, $attempt:expr, $method:ident, $request:expr) => {{
        let client = &$regions.admin.client;
        let mut plan = client.plan($safety);
        plan.attempt = $attempt;
        let request = $request;
        run(&client.shared.pool, &plan, |attempt| {
            let message = attempt.request(request.clone());
            async move { service(attempt.line).$method(message).await }
        })
        .await
    }};
}

impl Admin {
    /// The verbs on a pair of regions; `who` asks, for the audit, in at most 256 bytes.
    #[must_use]
    pub fn regions(&self, who: impl Into<String>) -> Regions {
        Regions { admin: self.clone(), who: who.into() }
    }
}

impl Regions {
    fn whole(&self) -> Duration {
        self.admin.client.shared.deadline
    }

    /// What this cluster is in its pair, and how far the copy is.
    pub async fn status(&self) -> Result<pb::GetRegionResponse, ClientError> {
        let attempt = self.admin.client.shared.attempt;
        region!(self, Safety::Always, attempt, get_region, pb::GetRegionRequest {})
    }

    /// What was done to this cluster's part of the pair, the oldest of at most 1,000 first.
    pub async fn audit(&self) -> Result<Vec<pb::AuditEntry>, ClientError> {
        let attempt = self.admin.client.shared.attempt;
        region!(self, Safety::Always, attempt, list_audit, pb::ListAuditRequest {})
            .map(|answer| answer.entries)
    }

    /// Attaches the other region and begins to ship. What a deposed primary has alone is given up
    /// by `discard_tail`; otherwise it must have been replayed or exported.
    pub async fn protect(&self, discard_tail: bool) -> Result<(), ClientError> {
        let request = pb::ProtectRequest { who: self.who.clone(), discard_tail };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), protect, request).map(drop)
    }

    /// Stands alone again; the copy is kept, or wiped.
    pub async fn unprotect(&self, wipe: bool) -> Result<(), ClientError> {
        let request = pb::UnprotectRequest { who: self.who.clone(), wipe };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), unprotect, request).map(drop)
    }

    /// Makes a kept copy a cluster of its own, which takes writes.
    pub async fn promote_copy(&self) -> Result<(), ClientError> {
        let request = pb::PromoteCopyRequest { who: self.who.clone() };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), promote_copy, request).map(drop)
    }

    /// Hands over without loss, from either side, to the region named, or to the one that is not
    /// the primary. Named, the call may be made again when its outcome is not known.
    pub async fn fail_over(&self, to: Option<&str>) -> Result<(), ClientError> {
        let to = to.unwrap_or_default().to_owned();
        let request = pb::FailOverRequest { who: self.who.clone(), to };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), fail_over, request).map(drop)
    }

    /// Promotes a secondary by force, or says with `dry_run` what that would lose.
    pub async fn force_fail_over(
        &self,
        dry_run: bool,
        accept_incomplete: bool,
    ) -> Result<pb::ForceFailOverResponse, ClientError> {
        // By the epoch that it follows the promotion may be asked for again.
        let from_epoch = match dry_run {
            true => 0,
            false => {
                let known = self.status().await?;
                let follows = known.role() == pb::RegionRole::Secondary;
                known.epoch.filter(|_| follows).map_or(0, |epoch| epoch.number)
            }
        };
        let safety = match from_epoch {
            0 => Safety::OnlyIfNotApplied,
            _ => Safety::Repeatable,
        };
        let who = self.who.clone();
        let request = pb::ForceFailOverRequest { who, dry_run, accept_incomplete, from_epoch };
        region!(self, safety, self.whole(), force_fail_over, request)
    }

    /// Takes back what was handed over and did not arrive.
    pub async fn take_back(&self, force: bool) -> Result<(), ClientError> {
        let request = pb::TakeBackRequest { who: self.who.clone(), force };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), take_back, request).map(drop)
    }

    /// Decides which of two regions at the same epoch goes on.
    pub async fn resolve_conflict(&self, keep: &str) -> Result<(), ClientError> {
        let request = pb::ResolveConflictRequest { who: self.who.clone(), keep: keep.to_owned() };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), resolve_conflict, request).map(drop)
    }

    /// Allows or refuses reads while this cluster is a secondary.
    pub async fn set_read_access(&self, on: bool) -> Result<(), ClientError> {
        let request = pb::SetReadAccessRequest { who: self.who.clone(), on };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), set_read_access, request).map(drop)
    }

    /// Shapes the line from the primary, live; who asks is filled in.
    pub async fn shape_line(&self, change: pb::ShapeLineRequest) -> Result<(), ClientError> {
        let request = pb::ShapeLineRequest { who: self.who.clone(), ..change };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), shape_line, request).map(drop)
    }

    /// Limits how far the secondary may be behind; what is absent stays, 0 is no limit, and who
    /// asks is filled in.
    pub async fn limit_lag(&self, change: pb::SetLagLimitRequest) -> Result<(), ClientError> {
        let request = pb::SetLagLimitRequest { who: self.who.clone(), ..change };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), set_lag_limit, request).map(drop)
    }

    /// Sets the region lease of the primary, 1 to 30 seconds, or turns it off; by `force` without
    /// the other region's word. Answers whether both regions agree by now.
    pub async fn set_lease(
        &self,
        lease: Option<Duration>,
        force: bool,
    ) -> Result<bool, ClientError> {
        let lease = lease.and_then(|lease| lease.try_into().ok());
        let request = pb::SetRegionLeaseRequest { who: self.who.clone(), lease, force };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), set_region_lease, request)
            .map(|answer| answer.in_force)
    }

    /// Compares the data of both regions at one position.
    pub async fn verify(&self) -> Result<pb::VerifyRegionsResponse, ClientError> {
        let request = pb::VerifyRegionsRequest {};
        region!(self, Safety::Always, self.whole(), verify_regions, request)
    }

    /// The tail of a deposed primary: its head, then its messages, by queue and number.
    pub async fn tail(&self) -> Result<Streaming<pb::ListTailResponse>, ClientError> {
        let request = pb::ListTailRequest {};
        region!(self, Safety::Always, self.whole(), list_tail, request)
    }

    /// Sends the tail of a deposed primary, asked of it, to the new one: part after part, until
    /// one is `done`. It may be run again: nothing is sent twice. `all` sends those too that
    /// expired, that may have been sent again, and those of queues that are gone.
    pub async fn replay_tail(
        &self,
        all: bool,
    ) -> Result<Streaming<pb::ReplayTailResponse>, ClientError> {
        let request = pb::ReplayTailRequest { who: self.who.clone(), all };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), replay_tail, request)
    }

    /// Notes that the tail of a deposed primary, asked of it, is in a file or given up.
    pub async fn settle_tail(&self, fate: pb::TailFate) -> Result<(), ClientError> {
        let request = pb::SettleTailRequest { who: self.who.clone(), fate: fate.into() };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), settle_tail, request).map(drop)
    }

    /// Makes the region where the data was at first, or `to`, the primary again, asked of the one
    /// that is. Each answer says what is left to do, the last that nothing is; with `dry_run` there
    /// is only the first. It may be run again, and goes on from where it is.
    pub async fn fail_back(
        &self,
        to: Option<&str>,
        dry_run: bool,
        discard_tail: bool,
    ) -> Result<Streaming<pb::FailBackResponse>, ClientError> {
        let (who, to) = (self.who.clone(), to.unwrap_or_default().to_owned());
        let request = pb::FailBackRequest { who, to, dry_run, discard_tail };
        region!(self, Safety::OnlyIfNotApplied, self.whole(), fail_back, request)
    }
}
