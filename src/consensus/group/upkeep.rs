//! What a node does by itself, a few times a second: commits and reclaims, purges the log,
//! proposes pulses, and hands leadership over when its disk stalls or its zone is not the
//! preferred one.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::time::Instant;

use super::Group;
use crate::queue::command::{Command, Envelope};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(100);
/// Entries that the log keeps below the durable position, for followers that lag.
const KEEP_ENTRIES: u64 = 50_000;
/// Bytes of log files above which it keeps fewer.
const KEEP_BYTES: u64 = 2 << 30;
/// Purges are made in steps of at least this many entries.
const PURGE_STEP: u64 = 10_000;
/// A flush that runs this long is a stalled disk.
const STALLED: Duration = Duration::from_secs(2);
/// The preferred zone must look healthy this long before leadership moves there.
const STEADY: Duration = Duration::from_secs(10);
/// How far the preferred zone's voter may be behind.
const NEARLY: u64 = 1_000;

/// Runs until Raft stops.
pub(super) async fn run(group: Group) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut handed_over = Instant::now();
    while group.is_running() {
        ticks.tick().await;
        if let Err(error) = group.inner.store.keep_house() {
            tracing::error!(%error, "the tables cannot be written: this node stops");
            let _ = group.inner.peers.scoped(group.inner.raft.shutdown()).await;
            return;
        }
        purge(&group).await;
        pulse(&group).await;
        let stalled = group.inner.log.stalled_for() >= STALLED;
        // A zone is preferred, a disk that does not write must go.
        let pause = if stalled { STALLED } else { STEADY };
        if handed_over.elapsed() >= pause && should_hand_over(&group, stalled) {
            handed_over = Instant::now();
            let to = preferred(&group);
            if let Err(error) = group.hand_over(to).await {
                tracing::warn!(%error, "leadership was not handed over");
            }
        }
    }
}

/// Lets the log go below what the tables hold durably, keeping some for followers that lag and
/// all that a reachable voter still needs.
async fn purge(group: &Group) {
    let metrics = group.raft().metrics().borrow_watched().clone();
    let durable = group.store().read().durable().map_or(0, |at| at.index);
    let purged = metrics.purged.map_or(0, |id| id.index());
    let slowest = metrics.replication.as_ref().map_or(u64::MAX, |replication| {
        replication.values().map(|m| m.map_or(0, |id| id.index())).min().unwrap_or(u64::MAX)
    });
    // A voter that is gone for long does not hold the log for ever: it is seeded by snapshot.
    let held = metrics.last_log_index.unwrap_or(0).saturating_sub(purged);
    let keep = keep(held, group.inner.log.disk_bytes());
    let horizon = durable
        .saturating_sub(keep)
        .min(slowest.max(durable.saturating_sub(keep.saturating_mul(4))));
    if horizon < purged.saturating_add(PURGE_STEP.min(keep / 4 + 1)) {
        return;
    }
    let trigger = group.raft().trigger();
    let work = async {
        trigger.snapshot().await?;
        trigger.purge_log(horizon).await
    };
    // An error here means that Raft has stopped, which the loop sees next.
    let _ = group.peers().scoped(work).await;
}

/// How many entries to keep of a log that holds `entries` in files of `bytes`.
fn keep(entries: u64, bytes: u64) -> u64 {
    if bytes <= KEEP_BYTES {
        return KEEP_ENTRIES;
    }
    let average = (bytes / entries.max(1)).max(1);
    KEEP_ENTRIES.min(KEEP_BYTES / average)
}

/// Proposes to do what time made due, if this node leads.
async fn pulse(group: &Group) {
    /// A pulse that gets no answer by then is tried again by the next look.
    const WITHIN: Duration = Duration::from_secs(1);
    let Ok(term) = group.term() else { return };
    let now = term.clock.stamp();
    let due = group.store().read().state().next_due();
    if due.is_some_and(|due| due <= now) {
        let envelope = Envelope { session: None, account: String::new(), command: Command::Pulse };
        let _ = group.propose(envelope, Instant::now() + WITHIN).await;
    }
}

fn should_hand_over(group: &Group, stalled: bool) -> bool {
    if !group.inner.leadership.borrow().is_me {
        return false;
    }
    if stalled {
        tracing::warn!("a flush of the log has stalled: leadership goes to another node");
        return true;
    }
    preferred(group).is_some()
}

/// A voter in the preferred zone that could lead, when this node is not in it.
fn preferred(group: &Group) -> Option<u64> {
    let zone = group.config().preferred_zone.as_deref()?;
    let status = group.status();
    let own = status.nodes.iter().find(|node| node.id == status.node)?;
    if own.member.zone == zone {
        return None;
    }
    status
        .nodes
        .iter()
        .filter(|node| node.voter && node.member.zone == zone)
        .find(|node| node.matched.is_some_and(|held| held + NEARLY >= status.last_log))
        .map(|node| node.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_of_large_entries_is_kept_by_bytes() {
        assert_eq!(keep(1_000_000, 1 << 30), KEEP_ENTRIES, "within the bytes");
        let quarter = 256 << 10;
        assert_eq!(keep(50_000, 50_000 * quarter), KEEP_BYTES / quarter);
        assert_eq!(keep(0, u64::MAX), 0);
    }
}
