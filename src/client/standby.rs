//! Standing by: consumers of a region that takes no writes wait until it is promoted.
//!
//! Laws: a receive is refused at once where data are not written; who knows both regions finds the
//! other one so. Only when every node refused is one of them asked to say when its cluster takes
//! writes, and all are asked again after a second at the latest, for the other region may be promoted.

use std::time::Duration;

use tokio::time::Instant;

use super::endpoints::{Choice, Pool};
use super::error::{ClientError, Reason};
use crate::proto::admin::v1 as pb;
use crate::proto::admin::v1::region_service_client::RegionServiceClient;

/// So long one node is waited at; then all are asked again.
const SLICE: Duration = Duration::from_secs(1);
/// What the answer may take beyond the wait.
const GRACE: Duration = Duration::from_millis(500);
/// At least so long, where the node asked does not answer.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether every node refused because of the region that it is of.
pub(super) fn is_refused(error: &ClientError) -> bool {
    matches!(error.reason(), Some(Reason::ReadOnly | Reason::Fenced))
}

/// Waits at the node that is asked first, and no longer than until then.
pub(super) async fn wait(pool: &Pool, until: Instant) {
    let began = Instant::now();
    let slice = SLICE.min(until.saturating_duration_since(began));
    let Choice::Node(pick) = pool.pick(None) else {
        tokio::time::sleep(slice.min(PAUSE)).await;
        return;
    };
    let mut service = RegionServiceClient::new(pick.line.clone());
    let request = pb::AwaitWritableRequest { wait: prost_types::Duration::try_from(slice).ok() };
    let asked = tokio::time::timeout(slice + GRACE, service.await_writable(request)).await;
    if matches!(asked, Ok(Ok(_))) {
        return;
    }
    tokio::time::sleep_until((began + PAUSE).min(until)).await;
}
