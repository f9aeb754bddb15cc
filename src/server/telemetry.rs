//! What a node says about itself while it runs: lines on standard error.

use tracing_subscriber::EnvFilter;

/// Writes events to standard error. `ZONEQ_LOG` says which, in the words of `tracing`'s filter,
/// for example `info,zoneq::consensus=debug`; without it those of `info` and above, and of
/// openraft its errors only: it warns anew at each attempt to reach a peer that is down, which
/// the peer's client says once. What its handle says of a Raft that has stopped is left out: a
/// peer's last words come at every stop, and a stop that nobody asked for is told by the node.
/// A second call changes nothing, so that embedded nodes may share a process.
pub fn start(filter: Option<&str>) {
    let filter = filter
        .and_then(|filter| EnvFilter::try_new(filter).ok())
        .unwrap_or_else(|| EnvFilter::new("info,openraft=error,openraft::raft::raft_inner=off"));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
    if started.is_err() {
        tracing::debug!("events are already written elsewhere");
    }
}
