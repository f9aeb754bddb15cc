//! Compares the data of the two regions every few seconds, from the node that leads the primary.
//!
//! Law: as [between nodes](crate::consensus::group::Group::note_comparison): after one and the same
//! entry of the primary's log, and nothing is changed by it. What differs the status says, until the
//! regions are seen equal again.

use std::time::Duration;

use tokio::time::Instant;

use super::pair::Pair;
use crate::consensus::group::Agreement;
use crate::queue::authority::{Authority, Role};

/// How often it compares.
const EVERY: Duration = Duration::from_secs(10);
/// The other region has this long to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// Compares until the group ends.
pub async fn run(pair: Pair) {
    let mut leadership = pair.group().leadership();
    loop {
        let leads = leadership.borrow_and_update().is_me;
        if leads {
            look(&pair).await;
        }
        let ended = tokio::select! {
            changed = leadership.changed() => changed.is_err(),
            () = tokio::time::sleep(EVERY), if leads => false,
        };
        if ended {
            return;
        }
    }
}

/// What comparisons with that region are kept under.
fn replica(peer: &str) -> String {
    format!("region {peer}")
}

impl Pair {
    /// What differed in the copy of this primary when it was compared last.
    pub(super) fn differs(&self, own: &Authority) -> Option<(String, Agreement)> {
        let peer = own.attachment.as_ref().filter(|_| own.role == Role::Primary)?.peer.clone();
        let found = self.group().agreed().remove(&replica(&peer))?;
        (!found.differs.is_empty()).then_some((peer, found))
    }
}

async fn look(pair: &Pair) {
    let Some(standing) = pair.group().standing() else { return };
    let Some(attached) = standing.authority.attachment else { return };
    if standing.authority.role != Role::Primary {
        return;
    }
    match pair.compare(Instant::now() + WITHIN).await {
        Ok(comparison) => {
            pair.group().note_comparison(replica(&attached.peer), &comparison);
        }
        Err(error) => tracing::debug!(%error, "the other region was not compared with"),
    }
}
