//! Stopping a node so that nobody notices: leadership goes first, then the clients' listener,
//! then the peers', and last the tables are made durable.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::{Node, ServerError};

/// How long calls in progress have to end.
const CALLS: Duration = Duration::from_secs(2);
/// How long the peers' streams have to end.
const PEERS: Duration = Duration::from_millis(500);
/// How long the last commit may take.
const COMMIT: Duration = Duration::from_secs(30);

/// The two listeners' tasks. Dropped, they stop at once.
pub(super) struct Servers {
    pub(super) peer: JoinHandle<()>,
    pub(super) grpc: JoinHandle<()>,
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.peer.abort();
        self.grpc.abort();
    }
}

impl Node {
    /// Hands leadership over, refuses new work, ends what is in progress and makes the tables
    /// durable.
    ///
    /// # Errors
    /// [`ServerError::Fatal`] when that took too long; nothing acknowledged is lost by it.
    pub async fn shutdown(mut self) -> Result<(), ServerError> {
        tracing::info!("stopping: leadership is handed over and new work refused");
        self.group.drain(true).await;
        // From here on ends are no failures.
        self.grpc_stop.send_replace(true);
        if tokio::time::timeout(CALLS, &mut self.servers.grpc).await.is_err() {
            tracing::info!("streams of clients were cut");
        }
        self.servers.grpc.abort();
        self.peer_stop.send_replace(true);
        if tokio::time::timeout(PEERS, &mut self.servers.peer).await.is_err() {
            tracing::debug!("streams of peers were cut");
        }
        self.servers.peer.abort();
        let ended = tokio::time::timeout(COMMIT, self.group.shutdown()).await;
        self.tasks.shutdown().await;
        tracing::info!("stopped");
        ended
            .map_err(|late| ServerError::fatal("the last commit of the tables took too long", late))
    }
}
