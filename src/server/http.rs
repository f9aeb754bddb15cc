//! The HTTP listener: metrics, liveness and readiness, from the moment the ports are taken.
//!
//! Laws: everything is bounded: connections, the bytes of a request's head, and the time of a
//! connection, which carries one request. What is over is turned away, and never delays the
//! node. It is plain HTTP, so that off loopback it must be asked for by `insecure_listen`.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use futures::StreamExt as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::config::Config;
use super::{Parts, ServerError, listen};
use crate::api::admission::Admission;
use crate::api::grpc::RegionFace;
use crate::api::metrics::{Identity, MetricsFace, Requests, Sources};
use crate::consensus::network::{Io, Listener};
use crate::geo::pair::Pair;

/// Connections at once; more are closed at once.
const CONNECTIONS: usize = 16;
/// The head of a request takes no more; no body is read.
const HEAD_BYTES: usize = 16 << 10;
/// A request's head must be there by then.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// A connection lives no longer.
const WITHIN: Duration = Duration::from_secs(20);

/// The listener at work. Dropped, it ends at once.
pub(super) struct Http {
    pub(super) local: SocketAddr,
    face: MetricsFace,
    serving: JoinHandle<()>,
}

impl Drop for Http {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Http {
    /// Listens where the configuration says; `None` = it says nowhere.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub(super) async fn open(config: &Config, parts: &Parts) -> Result<Option<Http>, ServerError> {
        let Some(address) = config.metrics_listen else { return Ok(None) };
        let listener = listen(parts, "metrics_listen", address).await?;
        let identity = Identity {
            cluster_id: config.cluster_id.clone(),
            node: config.node_id,
            region: config.region.clone(),
            zone: config.zone.clone(),
        };
        let face = MetricsFace::new(identity, config.metrics_queues);
        let local = listener.local;
        let serving = tokio::spawn(serve(listener, face.router()));
        Ok(Some(Http { local, face, serving }))
    }
}

/// The node takes part from now on. Answers the layer that counts the calls of clients.
pub(super) fn begin(
    http: Option<&Http>,
    pair: &Pair,
    admission: Admission,
    ready: watch::Receiver<bool>,
) -> Requests {
    let requests = Requests::new();
    if let Some(http) = http {
        let (group, region) = (pair.group().clone(), RegionFace::new(pair.clone()));
        let requests = requests.clone();
        http.face.begin(Sources { group, region, admission, requests, ready });
    }
    requests
}

async fn serve(listener: Listener, router: Router) {
    let mut incoming = listener.incoming;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = incoming.next() => match accepted {
                Some(Ok(io)) if connections.len() < CONNECTIONS => {
                    connections.spawn(answer(io, router.clone()));
                }
                Some(Ok(_)) => tracing::debug!("too many connections for metrics: one is closed"),
                // It concerns that connection.
                Some(Err(error)) => tracing::debug!(%error, "a connection for metrics failed"),
                None => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Answers the one request of a connection.
async fn answer(io: Io, router: Router) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .keep_alive(false)
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES);
    let service = TowerToHyperService::new(router);
    let answered = http.serve_connection(TokioIo::new(io), service);
    match tokio::time::timeout(WITHIN, answered).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a request for metrics failed"),
        Err(_) => tracing::debug!("a request for metrics took too long"),
    }
}
