//! What monitoring reads of a node, over HTTP: `GET /metrics` as Prometheus text, `GET /healthz`,
//! `GET /readyz`.
//!
//! Laws: values are gathered when they are asked for, from the state and from what is counted
//! anyway, so that nobody pays for metrics whom nobody asks; one page is gathered at a time. What
//! only the leader knows is told by the leader alone: elsewhere it is absent, never a zero. Labels
//! have few values; queues are named only up to the number that the configuration says. Each name
//! is `zoneq_<room>_<noun>_<unit>` in base units and stands in `docs/reference/metrics.md`.
//!
//! Before a node takes part it is alive, not ready, and tells of its process only.

mod node;
mod page;
mod process;
mod queues;
mod regions;
mod requests;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::{Mutex, watch};

use self::page::Page;
pub use self::requests::Requests;
use super::admission::Admission;
use super::grpc::RegionFace;
use crate::consensus::group::Group;

/// Who a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: String,
    pub node: u64,
    pub region: String,
    pub zone: String,
}

/// What the values come from, once the node takes part.
#[derive(Clone)]
pub struct Sources {
    pub group: Group,
    pub region: RegionFace,
    pub admission: Admission,
    pub requests: Requests,
    /// As gRPC health says it.
    pub ready: watch::Receiver<bool>,
}

/// The metrics of one node. A clone is the same.
#[derive(Clone)]
pub struct MetricsFace(Arc<Inner>);

struct Inner {
    identity: Identity,
    /// Queues that are named, at most.
    most_queues: usize,
    /// When the process started, in seconds since 1970.
    started: Option<f64>,
    sources: OnceLock<Sources>,
    /// Who gathers.
    turn: Mutex<()>,
}

impl MetricsFace {
    #[must_use]
    pub fn new(identity: Identity, most_queues: usize) -> MetricsFace {
        let (sources, turn) = (OnceLock::new(), Mutex::new(()));
        let started = process::started();
        MetricsFace(Arc::new(Inner { identity, most_queues, started, sources, turn }))
    }

    /// From now on the node takes part. Only the first sources count.
    pub fn begin(&self, sources: Sources) {
        let _ = self.0.sources.set(sources);
    }

    /// The HTTP service.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(|| async { (StatusCode::OK, "ok\n") }))
            .route("/readyz", get(readiness))
            .with_state(self.clone())
    }

    /// All metrics of this moment, as Prometheus text.
    ///
    /// # Errors
    /// When a value cannot be written as text, which is a defect.
    pub async fn text(&self) -> Result<String, prometheus::Error> {
        let inner = &self.0;
        let _turn = inner.turn.lock().await;
        let mut page = Page::default();
        node::identity(&mut page, &inner.identity);
        process::fill(&mut page, inner.started);
        if let Some(sources) = inner.sources.get() {
            node::fill(&mut page, sources);
            requests::fill(&mut page, sources);
            regions::fill(&mut page, sources);
            queues::fill(&mut page, &sources.group, inner.most_queues).await;
        } else {
            node::not_ready(&mut page);
        }
        page.text()
    }

    /// Why this node cannot be used now; `None` = it can.
    fn unready(&self) -> Option<&'static str> {
        let Some(sources) = self.0.sources.get() else {
            return Some("it does not take part yet: its data is opened or made whole");
        };
        if *sources.ready.borrow() {
            None
        } else if sources.group.is_draining() {
            Some("it drains")
        } else if sources.group.leader_heard().is_none() {
            Some("no leader is known")
        } else {
            Some("it has not caught up yet")
        }
    }
}

async fn metrics(State(face): State<MetricsFace>) -> Response {
    match face.text().await {
        Ok(text) => ([(header::CONTENT_TYPE, page::CONTENT_TYPE)], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
        }
    }
}

async fn readiness(State(face): State<MetricsFace>) -> (StatusCode, String) {
    match face.unready() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}
