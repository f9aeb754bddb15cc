//! Says SERVING only while this node can be useful: it has applied what was committed when it
//! started, a leader is known, and it does not drain.

use std::time::Duration;

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::consensus::group::Group;
use crate::proto::queue::v1::queue_service_server::QueueServiceServer;

/// How often what cannot be watched is looked at.
const EVERY: Duration = Duration::from_millis(50);

/// Runs until the node ends it; `ready` says what the reporter does.
pub(super) async fn run(group: Group, reporter: HealthReporter, ready: watch::Sender<bool>) {
    let name =
        <QueueServiceServer<crate::api::grpc::QueueFace> as tonic::server::NamedService>::NAME;
    let mut caught_up = false;
    let mut last = None;
    let mut leadership = group.leadership();
    loop {
        if !caught_up {
            let status = group.status();
            caught_up = status.leader.is_some() && status.applied >= status.committed;
        }
        leadership.borrow_and_update();
        let led = group.leader_heard().is_some();
        let serving = caught_up && led && !group.is_draining();
        if last != Some(serving) {
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status("", status).await;
            reporter.set_service_status(name, status).await;
            ready.send_replace(serving);
            tracing::info!(serving, "health");
            last = Some(serving);
        }
        tokio::select! {
            changed = leadership.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
