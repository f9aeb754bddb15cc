//! Says that the other region is further behind than an operator wants it to be.
//!
//! Law: said once when it begins and once when it ends, by the node that leads; the status says it
//! as long as it is so.

use std::time::Duration;

use crate::consensus::group::{Behind, Group, Limits};
use crate::queue::authority::{Authority, Role};

/// How often a leader looks.
const LOOK: Duration = Duration::from_millis(500);

/// Why a copy that is so far behind is too far; `None` = it is not.
#[must_use]
pub fn passed(authority: &Authority, behind: &Behind) -> Option<String> {
    let settings = &authority.settings;
    let limits =
        Limits { max_lag: settings.max_lag, max_unshipped_bytes: settings.max_unshipped_bytes };
    if authority.role != Role::Primary || limits.allow(behind, 0) {
        return None;
    }
    let lag = behind.lag.map_or(0, |lag| lag.0 / 1_000_000);
    let what = if settings.throttle { "writes wait" } else { "that is over the limit" };
    Some(format!("the copy is {lag} s and {} bytes behind: {what}", behind.bytes))
}

/// Looks until the group ends.
pub async fn run(group: Group) {
    let mut leadership = group.leadership();
    let mut is_over = false;
    loop {
        let leads = leadership.borrow_and_update().is_me;
        let now = if leads { look(&group) } else { None };
        match (&now, is_over) {
            (Some(why), false) => tracing::warn!("{why}"),
            (None, true) => tracing::info!("the other region is within the limit of its lag again"),
            _ => {}
        }
        is_over = now.is_some();
        let ended = tokio::select! {
            changed = leadership.changed() => changed.is_err(),
            () = tokio::time::sleep(LOOK), if leads => false,
        };
        if ended {
            return;
        }
    }
}

fn look(group: &Group) -> Option<String> {
    let authority = group.standing()?.authority;
    passed(&authority, &group.behind()?)
}
