//! What a node says about itself while it runs: lines on standard error.

use tracing_subscriber::EnvFilter;

/// Writes events to standard error. `ZONEQ_LOG` says which, in the words of `tracing`'s filter,
/// for example `info,zoneq::consensus=debug`; without it those of `info` and above. A second
/// call changes nothing, so that embedded nodes may share a process.
pub fn start() {
    let filter = EnvFilter::try_from_env("ZONEQ_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,openraft=warn"));
    let started = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .try_init();
    if started.is_err() {
        tracing::debug!("events are already written elsewhere");
    }
}
