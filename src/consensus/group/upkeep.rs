//! What a node does by itself, a few times a second: commits and reclaims, purges the log,
//! proposes pulses, frees states that were given up, mends contents that rotted, and hands leadership over when its disk stalls or fills, or its zone is not
//! the preferred one. Where space is short less of the log is kept.

use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::time::Instant;

use super::super::types::LogId;
use super::Group;
use crate::queue::State;
use crate::queue::authority::Role;
use crate::queue::authority::command::{Actor, RegionCommand, RegionVerb};
use crate::queue::command::{Command, Envelope};
use crate::queue::ids::{LogTime, Span};
use crate::storage::horizon::{Claim, Holder, horizon};

/// How often it looks.
const EVERY: Duration = Duration::from_millis(100);
/// The newest part of the log that is kept in any case, for followers that lag a moment.
const KEEP_BYTES: u64 = 128 << 20;
/// What is kept for a voter that is behind or gone; beyond it the voter is seeded by a snapshot.
const KEEP_FOR_A_VOTER_BYTES: u64 = 2 << 30;
/// What is kept for the other region; beyond it the copy must be seeded again.
const KEEP_FOR_THE_OTHER_REGION_BYTES: u64 = 8 << 30;
/// A flush that runs this long is a stalled disk.
const STALLED: Duration = Duration::from_secs(2);
/// The preferred zone must look healthy this long before leadership moves there.
const STEADY: Duration = Duration::from_secs(10);
/// What is proposed and gets no answer by then is tried again by the next look.
const WITHIN: Duration = Duration::from_secs(1);
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
        free_seed(&group).await;
        group.mend_rotten().await;
        let stalled = group.inner.log.stalled_for() >= STALLED;
        let heir = group.heir_of_a_full_disk();
        // A zone is preferred, a disk that does not write must go.
        let pause = if stalled || heir.is_some() { STALLED } else { STEADY };
        if handed_over.elapsed() >= pause && should_hand_over(&group, stalled, heir) {
            handed_over = Instant::now();
            let to = heir.or_else(|| preferred(&group));
            if let Err(error) = group.hand_over(to).await {
                tracing::warn!(%error, "leadership was not handed over");
            }
        }
    }
}

/// Lets the log go below what the tables hold durably, but for its newest part and, on the
/// leader, for what a voter still needs within its budget. Segments that are given back are
/// written again, which costs the disk and the page cache less than new ones.
async fn purge(group: &Group) {
    let metrics = group.raft().metrics().borrow_watched().clone();
    let log = &group.inner.log;
    // What is kept for others must not be what this node itself runs out of.
    let spare_bytes = group.space().beyond_reserves(2).unwrap_or(u64::MAX);
    let durable = group.store().read().durable().map(|at| at.index);
    let index = |id: &Option<LogId>| id.as_ref().map(LogId::index);
    let claims: Vec<Claim> = metrics
        .replication
        .iter()
        .flat_map(|voters| voters.values())
        .map(|matched| Claim {
            holder: Holder::SlowestVoter,
            after: index(matched),
            budget_bytes: KEEP_FOR_A_VOTER_BYTES.min(spare_bytes),
        })
        .collect();
    let claims = claims.into_iter().chain(shipping_claim(group, spare_bytes)).collect::<Vec<_>>();
    let allowed = horizon(durable, &claims, |after| log.bytes_after(after)).through;
    let keep = KEEP_BYTES.min(spare_bytes).max(log.segment_bytes());
    let through = allowed.min(log.before_newest(keep));
    let (Some(through), purged) = (through, index(&metrics.purged)) else { return };
    let frees = log.bytes_after(purged).saturating_sub(log.bytes_after(Some(through)));
    if purged.is_some_and(|purged| through <= purged) || frees == 0 {
        return;
    }
    let trigger = group.raft().trigger();
    let work = async {
        trigger.snapshot().await?;
        trigger.purge_log(through).await
    };
    // An error here means that Raft has stopped, which the loop sees next.
    let _ = group.peers().scoped(work).await;
}

/// What the other region has not acknowledged; on every node, for any may have to ship it.
fn shipping_claim(group: &Group, spare_bytes: u64) -> Option<Claim> {
    let standing = group.standing()?;
    standing.authority.attachment.as_ref()?;
    let ships = !matches!(standing.authority.role, Role::Secondary | Role::Detached);
    ships.then(|| Claim {
        holder: Holder::Shipping,
        // With that entry itself, which shows that both logs mean the same one.
        after: standing.authority.shipped.and_then(|at| at.index.checked_sub(1)),
        budget_bytes: KEEP_FOR_THE_OTHER_REGION_BYTES.min(spare_bytes),
    })
}

/// Proposes to do what time made due, if this node leads.
async fn pulse(group: &Group) {
    let Ok(term) = group.term() else { return };
    let now = term.clock.stamp();
    let is_due = {
        let store = group.store().read();
        let state = store.state();
        let due = state.next_due().is_some_and(|due| due <= now);
        state.is_writable() && (due || has_rested(state, now))
    };
    if is_due {
        let envelope = Envelope { session: None, account: String::new(), command: Command::Pulse };
        let _ = group.propose(envelope, Instant::now() + WITHIN).await;
    }
}

/// Proposes to free a part of what is left of a state that was given up, if this node leads: in
/// whatever role, for nothing else frees it.
async fn free_seed(group: &Group) {
    if !(group.leadership().borrow().is_me && group.store().read().state().has_abandoned_seed()) {
        return;
    }
    let by = Actor { who: "the cluster itself".to_owned(), at_us: 0 };
    let command = Command::Region(Box::new(RegionCommand { by, verb: RegionVerb::SeedFree }));
    let envelope = Envelope { session: None, account: String::new(), command };
    let _ = group.propose(envelope, Instant::now() + WITHIN).await;
}

/// Whether the other region has had nothing to learn the time from for a while: its last sync
/// time follows entries only.
fn has_rested(state: &State, now: LogTime) -> bool {
    const WHILE: Span = Span::from_secs(1);
    let is_protected = state.authority().is_some_and(|it| it.attachment.is_some());
    is_protected && now.since(state.log_time()) >= WHILE
}

fn should_hand_over(group: &Group, stalled: bool, heir: Option<u64>) -> bool {
    if !group.inner.leadership.borrow().is_me {
        return false;
    }
    if stalled {
        tracing::warn!("a flush of the log has stalled: leadership goes to another node");
        return true;
    }
    if let Some(heir) = heir {
        tracing::warn!(heir, "the disk is nearly full: leadership goes to a node with space");
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
        .filter(|node| node.voter && node.member.zone == zone && !group.disk_is_short(node.id))
        .find(|node| node.matched.is_some_and(|held| held + NEARLY >= status.last_log))
        .map(|node| node.id)
}
