//! Drives a planned failover from its seal to its end, on whichever node leads.
//!
//! Laws: each stage is an entry, so who begins to lead goes on from where the log is. A seal ends
//! within [`MAX_PAUSE`]: released once the other region's group has acknowledged all through it,
//! taken back otherwise. What was released is never taken back from here.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::watermark::Watermark;
use crate::consensus::group::Group;
use crate::queue::authority::command::{Actor, RegionCommand, RegionVerb};
use crate::queue::authority::{Authority, RegionEpoch, Role};
use crate::queue::command::{Command, Envelope};
use crate::queue::ids::Position;

/// Writes rest at most this long for a failover that does not come to its release.
pub const MAX_PAUSE: Duration = Duration::from_secs(2);
/// A proposal that is not applied by then is tried again.
const WITHIN: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// Runs until the group ends.
pub async fn run(group: Group, watermark: watch::Receiver<Watermark>) {
    let (mut leadership, mut footing) = (group.leadership(), group.store().footing());
    loop {
        leadership.borrow_and_update();
        footing.borrow_and_update();
        if let Some((authority, seal)) = sealed(&group) {
            drive(&group, watermark.clone(), &authority, seal).await;
            tokio::time::sleep(PAUSE).await;
            continue;
        }
        let ended = tokio::select! {
            changed = leadership.changed() => changed.is_err(),
            changed = footing.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}

/// Where this cluster is sealed, if this node leads it.
fn sealed(group: &Group) -> Option<(Authority, Position)> {
    if !group.leadership().borrow().is_me || group.store().footing_now().is_writable {
        return None;
    }
    let authority = group.standing()?.authority;
    match authority.role {
        Role::Sealed { at } => Some((authority, at)),
        _ => None,
    }
}

/// How far the other side has acknowledged, once that is through the seal; `None` = not in time.
async fn acknowledged(
    mut watermark: watch::Receiver<Watermark>,
    seal: Position,
) -> Option<Position> {
    let has_seal = |mark: &Watermark| mark.shipped.is_some_and(|at| at.index >= seal.index);
    match tokio::time::timeout(MAX_PAUSE, watermark.wait_for(has_seal)).await {
        Ok(Ok(mark)) => mark.shipped,
        _ => None,
    }
}

async fn drive(
    group: &Group,
    watermark: watch::Receiver<Watermark>,
    authority: &Authority,
    seal: Position,
) {
    let acknowledged = acknowledged(watermark, seal).await;
    let verb = match (acknowledged, &authority.attachment) {
        (Some(acknowledged), Some(attachment)) => RegionVerb::Release {
            to: RegionEpoch { number: authority.next_number(), region: attachment.peer.clone() },
            seal,
            acknowledged,
        },
        _ => RegionVerb::Unseal,
    };
    let by = Actor { who: "the failover under way".to_owned(), at_us: 0 };
    let command = Command::Region(Box::new(RegionCommand { by, verb }));
    let envelope = Envelope { session: None, account: String::new(), command };
    if let Err(error) = group.propose(envelope, Instant::now() + WITHIN).await {
        tracing::debug!(%error, "a stage of the failover is tried again");
    }
}
