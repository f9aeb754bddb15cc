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

/// Lets a server's task end, and ends it when that takes too long; says whether it did. A task
/// keeps its port until it is gone, so this waits for that in any case.
pub(super) async fn end_within<T>(patience: Duration, serving: &mut JoinHandle<T>) -> bool {
    if tokio::time::timeout(patience, &mut *serving).await.is_ok() {
        return false;
    }
    serving.abort();
    let _ = serving.await;
    true
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
        if end_within(CALLS, &mut self.servers.grpc).await {
            tracing::info!("streams of clients were cut");
        }
        self.group.peers().leave();
        if end_within(PEERS, &mut self.servers.peer).await {
            tracing::debug!("streams of peers were cut");
        }
        let ended = tokio::time::timeout(COMMIT, self.group.shutdown()).await;
        self.tasks.shutdown().await;
        tracing::info!("stopped");
        ended
            .map_err(|late| ServerError::fatal("the last commit of the tables took too long", late))
    }
}
