//! What a node answers its clients while it makes its data whole: that it is not there yet, what
//! it misses, and whether it may go on without.
//!
//! Laws: every call but `MendService` and health is *not now*, *not applied*, so that clients go
//! to another node; only a record in doubt can be given up, only by the name of its entries, and
//! only after the others were asked.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::{Arc, Mutex, PoisonError};

use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::error::Refusal;
use crate::proto::admin::v1 as pb;
use crate::proto::admin::v1::mend_service_server::{MendService, MendServiceServer};

/// What a node misses before it takes part, as the operator sees it. A clone is the same.
#[derive(Clone, Debug)]
pub struct Mending {
    node: u64,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    report: pb::GetMendingResponse,
    accepted: bool,
}

impl Mending {
    #[must_use]
    pub fn of_node(node: u64) -> Mending {
        Mending { node, known: Arc::default() }
    }

    /// Of a node that takes part.
    #[must_use]
    pub fn nothing(node: u64) -> Mending {
        let mending = Mending::of_node(node);
        let trouble = pb::MendingTrouble::None.into();
        mending.tell(pb::GetMendingResponse { trouble, ..Default::default() });
        mending
    }

    /// Says what is missing and what the others said of it. Another record than before was not
    /// given up.
    pub fn tell(&self, report: pb::GetMendingResponse) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.accepted &= entries(&known.report) == entries(&report);
        known.report = pb::GetMendingResponse { node_id: self.node, ..report };
    }

    /// Whether the entries that were told last may be cut.
    #[must_use]
    pub fn is_loss_accepted(&self) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).accepted
    }

    /// The service alone.
    #[must_use]
    pub fn into_server(self) -> MendServiceServer<Mending> {
        MendServiceServer::new(self)
    }

    /// The services for clients while this node mends.
    #[must_use]
    pub fn routes(self) -> Routes {
        let not_yet = format!("node {} makes its data whole before it takes part", self.node);
        let refusal = Refusal::not_now(not_yet);
        let mut routes = Routes::new(self.into_server());
        let router = std::mem::take(routes.axum_router_mut());
        let router = router.fallback(move || {
            std::future::ready(Status::from(refusal.clone()).into_http::<tonic::body::Body>())
        });
        Routes::from(router)
    }
}

fn entries(report: &pb::GetMendingResponse) -> (u64, u64) {
    (report.first_index, report.last_index)
}

#[tonic::async_trait]
impl MendService for Mending {
    async fn get_mending(
        &self,
        _: Request<pb::GetMendingRequest>,
    ) -> Result<Response<pb::GetMendingResponse>, Status> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Response::new(known.report.clone()))
    }

    async fn accept_loss(
        &self,
        request: Request<pb::AcceptLossRequest>,
    ) -> Result<Response<pb::AcceptLossResponse>, Status> {
        let asked = request.into_inner();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.report.trouble() != pb::MendingTrouble::Doubt {
            return Err(Status::failed_precondition(
                "no record of this node is in doubt, and what was durable is not given up: \
                 replace the node under a new id where no other has its entries",
            ));
        }
        let (first, last) = entries(&known.report);
        if (asked.first_index, asked.last_index) != (first, last) {
            return Err(Status::failed_precondition(format!(
                "entries {} to {} are not in doubt, but {first} to {last} are",
                asked.first_index, asked.last_index
            )));
        }
        known.accepted = true;
        Ok(Response::new(pb::AcceptLossResponse {}))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn told(trouble: pb::MendingTrouble, first_index: u64, last_index: u64) -> Mending {
        let mending = Mending::of_node(3);
        let trouble = trouble.into();
        mending.tell(pb::GetMendingResponse {
            trouble,
            first_index,
            last_index,
            ..Default::default()
        });
        mending
    }

    async fn accept(mending: &Mending, first_index: u64, last_index: u64) -> Result<(), Status> {
        let asked = pb::AcceptLossRequest { first_index, last_index };
        mending.accept_loss(Request::new(asked)).await.map(drop)
    }

    #[tokio::test]
    async fn only_a_doubt_is_given_up_and_only_by_its_entries() {
        let damage = told(pb::MendingTrouble::Damage, 5, 9);
        assert!(accept(&damage, 5, 9).await.is_err(), "damage was durable");
        let doubt = told(pb::MendingTrouble::Doubt, 5, 9);
        let other = accept(&doubt, 5, 8).await.unwrap_err();
        assert!(other.message().contains("but 5 to 9 are"), "{other}");
        assert!(!doubt.is_loss_accepted());
        accept(&doubt, 5, 9).await.unwrap();
        assert!(doubt.is_loss_accepted());
    }

    #[tokio::test]
    async fn what_was_accepted_holds_for_those_entries_alone() {
        let doubt = told(pb::MendingTrouble::Doubt, 5, 9);
        accept(&doubt, 5, 9).await.unwrap();
        let again = doubt.known.lock().unwrap().report.clone();
        doubt.tell(again.clone());
        assert!(doubt.is_loss_accepted(), "the same told again");
        doubt.tell(pb::GetMendingResponse { last_index: 10, ..again });
        assert!(!doubt.is_loss_accepted());
    }
}
