//! The operator's verbs: `zoneq.admin.v1.ClusterService`.
//!
//! Laws: status may be asked of any node and is retried; a change is retried only when it was
//! certainly not applied, because the service has no sessions. Verbs on one node need a client with
//! that one endpoint.

use std::time::Duration;

use tonic::Streaming;

use super::builder::Client;
use super::call::{Safety, run};
use super::epochs::Line;
use super::error::ClientError;
use crate::proto::admin::v1 as pb;
use pb::cluster_service_client::ClusterServiceClient;
use pb::mend_service_client::MendServiceClient;

/// A client's view of the cluster itself.
#[derive(Clone, Debug)]
pub struct Admin {
    pub(super) client: Client,
    /// Who asks, for the audit.
    who: String,
}

fn service(line: Line) -> ClusterServiceClient<Line> {
    ClusterServiceClient::new(line)
}

/// One call: `admin!(self, safety, at most this long in one attempt, method, request)`.
macro_rules! admin {
    ($admin:expr, $safety:expr, $attempt:expr, $method:ident, $request:expr) => {{
        let mut plan = $admin.client.plan($safety);
        plan.attempt = $attempt;
        let request = $request;
        run(&$admin.client.shared.pool, &plan, |attempt| {
            let message = attempt.request(request.clone());
            async move { service(attempt.line).$method(message).await }
        })
        .await
    }};
}

impl Client {
    /// The operator's verbs over the same connections.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin { client: self.clone(), who: String::new() }
    }
}

impl Admin {
    /// The same for somebody who is named in the audit, in at most 256 bytes.
    #[must_use]
    pub fn by(self, who: impl Into<String>) -> Admin {
        Admin { who: who.into(), ..self }
    }

    /// A change may take as long as the deadline: catching up and joint changes are slow.
    fn whole(&self) -> Duration {
        self.client.shared.deadline
    }

    /// Who is in the group, who leads, how far each node is; from any node.
    pub async fn status(&self) -> Result<pb::GetStatusResponse, ClientError> {
        let attempt = self.client.shared.attempt;
        admin!(self, Safety::Always, attempt, get_status, pb::GetStatusRequest::default())
    }

    /// The same as the node that leads knows it, by way of any node: it alone knows whose clock log
    /// time follows, and how far the others are.
    pub async fn leader_status(&self) -> Result<pb::GetStatusResponse, ClientError> {
        let attempt = self.client.shared.attempt;
        let request = pb::GetStatusRequest { of_leader: true };
        admin!(self, Safety::Always, attempt, get_status, request)
    }

    /// Lets log time follow the leader's wall clock while its term lasts, where no majority of the
    /// voters agrees with that clock. Where it does so already nothing is done.
    ///
    /// # Errors
    /// *Not now* where nobody leads, or leadership moves.
    pub async fn accept_clock(&self) -> Result<pb::AcceptClockResponse, ClientError> {
        let request = pb::AcceptClockRequest { who: self.who.clone() };
        admin!(self, Safety::OnlyIfNotApplied, self.whole(), accept_clock, request)
    }

    /// Adds a node that copies the log and does not vote; waits until it has caught up.
    pub async fn add_learner(&self, request: pb::AddLearnerRequest) -> Result<(), ClientError> {
        let request = pb::AddLearnerRequest { who: self.who.clone(), ..request };
        admin!(self, Safety::OnlyIfNotApplied, self.whole(), add_learner, request).map(|_| ())
    }

    /// Makes these nodes the voters, in one joint change.
    pub async fn change_voters(&self, voters: Vec<u64>, degraded: bool) -> Result<(), ClientError> {
        let request = pb::ChangeVotersRequest { voters, degraded, who: self.who.clone() };
        admin!(self, Safety::OnlyIfNotApplied, self.whole(), change_voters, request).map(|_| ())
    }

    /// Puts a caught-up learner in the place of a voter.
    pub async fn replace_node(&self, old_id: u64, new_id: u64) -> Result<(), ClientError> {
        let request = pb::ReplaceNodeRequest { old_id, new_id, who: self.who.clone() };
        admin!(self, Safety::OnlyIfNotApplied, self.whole(), replace_node, request).map(|_| ())
    }

    /// Removes a node.
    pub async fn remove_node(&self, id: u64, degraded: bool) -> Result<(), ClientError> {
        let request = pb::RemoveNodeRequest { id, degraded, who: self.who.clone() };
        admin!(self, Safety::OnlyIfNotApplied, self.whole(), remove_node, request).map(|_| ())
    }

    /// What the cluster survives, by name, and the change to what is wanted: one answer a stage, the
    /// last that it is so. With `dry_run`, or nothing wanted, there is only the first. `zone` is
    /// where the voters of LRS are; without it the leader's. It may be run again, and goes on from
    /// where it is.
    ///
    /// # Errors
    /// Refused where the members at hand do not allow it.
    pub async fn redundancy(
        &self,
        wanted: pb::WantedRedundancy,
        zone: Option<String>,
        dry_run: bool,
    ) -> Result<Streaming<pb::SetRedundancyResponse>, ClientError> {
        let (wanted, zone) = (wanted.into(), zone.unwrap_or_default());
        let request = pb::SetRedundancyRequest { wanted, dry_run, zone, who: self.who.clone() };
        admin!(self, Safety::OnlyIfNotApplied, self.whole(), set_redundancy, request)
    }

    /// Hands leadership over; 0 = the most caught-up voter in another zone. Answers who leads.
    pub async fn transfer_leader(&self, to: u64) -> Result<u64, ClientError> {
        let request = pb::TransferLeaderRequest { to };
        admin!(self, Safety::OnlyIfNotApplied, self.whole(), transfer_leader, request)
            .map(|answer| answer.leader_id)
    }

    /// Makes the tables durable now and lets the log below them go. Answers the durable index.
    pub async fn take_snapshot(&self) -> Result<u64, ClientError> {
        let request = pb::TakeSnapshotRequest {};
        admin!(self, Safety::Always, self.whole(), take_snapshot, request)
            .map(|answer| answer.durable_index)
    }

    /// Starts or ends the drain of the node that is asked. Give the client one endpoint.
    pub async fn drain(&self, on: bool) -> Result<(), ClientError> {
        admin!(self, Safety::Always, self.whole(), drain, pb::DrainRequest { on }).map(|_| ())
    }

    /// What the asked node misses before it takes part. Give the client one endpoint.
    ///
    /// # Errors
    /// A node that takes part does not know the question.
    pub async fn mending(&self) -> Result<pb::GetMendingResponse, ClientError> {
        let plan = self.client.plan(Safety::Always);
        run(&self.client.shared.pool, &plan, |attempt| {
            let request = attempt.request(pb::GetMendingRequest {});
            async move { MendServiceClient::new(attempt.line).get_mending(request).await }
        })
        .await
    }

    /// Lets the asked node cut these entries, which are in doubt. Give the client one endpoint.
    pub async fn accept_loss(&self, first_index: u64, last_index: u64) -> Result<(), ClientError> {
        let plan = self.client.plan(Safety::Always);
        let message = pb::AcceptLossRequest { first_index, last_index };
        run(&self.client.shared.pool, &plan, |attempt| {
            let request = attempt.request(message);
            async move { MendServiceClient::new(attempt.line).accept_loss(request).await }
        })
        .await
        .map(drop)
    }

    /// Compares the data digest of all nodes at one position.
    pub async fn verify_digests(&self) -> Result<pb::VerifyDigestsResponse, ClientError> {
        let request = pb::VerifyDigestsRequest {};
        admin!(self, Safety::Always, self.whole(), verify_digests, request)
    }

    /// Cuts the asked node off from these peers, and lets its disk count as if no more than
    /// `disk_free_bytes` were free; refused unless it runs with `--enable-faults`. Give the client
    /// one endpoint.
    pub async fn set_faults(
        &self,
        cut_peers: Vec<u64>,
        disk_free_bytes: Option<u64>,
    ) -> Result<(), ClientError> {
        let request = pb::SetFaultsRequest { cut_peers, disk_free_bytes };
        admin!(self, Safety::Always, self.client.shared.attempt, set_faults, request).map(|_| ())
    }
}
