//! Keeps the regions informed of each other: once a second the node that leads asks the other
//! region what it is, and tells it of an epoch that it does not know.
//!
//! Laws: who hears of a higher epoch proposes to be fenced by it, here or there; the same number
//! from two regions is told to both. Nothing here decides anything: `apply` does. Clusters of
//! other lineages are none of each other's business.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::error::PairError;
use super::other::OtherRegion;
use super::wire;
use crate::clock::SharedClock;
use crate::consensus::group::{Group, Standing};
use crate::proto::geo::v1 as pb;
use crate::queue::authority::{Authority, LedgerLine, Role};
use crate::storage::codec;

/// How often the other region is asked.
const EVERY: Duration = Duration::from_secs(1);
/// It has this long to answer.
const WITHIN: Duration = Duration::from_secs(3);

/// The newest word of the other region.
#[derive(Clone, Debug)]
pub struct Heard {
    /// This node's monotonic time when it came.
    pub at_us: u64,
    pub status: Arc<pb::GetStatusResponse>,
    /// How far its clock was ahead of this node's; `None` = it did not say.
    pub clock: Option<ClockAhead>,
}

/// How far another clock is ahead of this node's, as one question and its answer tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockAhead {
    /// Microseconds; negative = it is behind.
    pub by_us: i64,
    /// It is wrong by this much at most: half of the time that the answer took.
    pub within: Duration,
}

impl ClockAhead {
    /// Of a clock that said `theirs` some time in the last `took`, when this one says `own`; all in
    /// microseconds.
    fn of(theirs: u64, own: u64, took: u64) -> ClockAhead {
        let middle = i128::from(own) - i128::from(took / 2);
        let by = i128::from(theirs) - middle;
        let most = if by < 0 { i64::MIN } else { i64::MAX };
        let within = Duration::from_micros(took.div_ceil(2));
        ClockAhead { by_us: i64::try_from(by).unwrap_or(most), within }
    }
}

/// The herald of one node.
pub struct Herald {
    group: Group,
    other: OtherRegion,
    clock: SharedClock,
    heard: watch::Sender<Option<Heard>>,
}

impl Herald {
    #[must_use]
    pub fn new(
        group: Group,
        other: OtherRegion,
        clock: SharedClock,
    ) -> (Herald, watch::Receiver<Option<Heard>>) {
        let (heard, news) = watch::channel(None);
        (Herald { group, other, clock, heard }, news)
    }

    /// Runs until the group ends.
    pub async fn run(self) {
        let mut leadership = self.group.leadership();
        let mut footing = self.group.store().footing();
        loop {
            let leads = leadership.borrow_and_update().is_me;
            footing.borrow_and_update();
            let standing = if leads { self.group.standing() } else { None };
            if let (Some(standing), true) = (standing, self.other.is_configured()) {
                self.meet(&standing).await;
                tokio::select! {
                    () = tokio::time::sleep(EVERY) => {}
                    // A promotion is told at once.
                    changed = footing.changed() => if changed.is_err() { return },
                }
                continue;
            }
            let ended = tokio::select! {
                changed = leadership.changed() => changed.is_err(),
                // What is applied first tells that this cluster is in a pair.
                changed = footing.changed() => changed.is_err(),
                () = tokio::time::sleep(EVERY) => leadership.has_changed().is_err(),
            };
            if ended {
                return;
            }
        }
    }

    async fn meet(&self, standing: &Standing) {
        let asked = self.clock.monotonic_us();
        let Ok(status) = self.other.status(Instant::now() + WITHIN).await else { return };
        let status = Arc::new(status);
        let (at_us, wall) = (self.clock.monotonic_us(), self.clock.wall_us());
        let took = at_us.saturating_sub(asked);
        let clock = status.wall_us.map(|theirs| ClockAhead::of(theirs, wall, took));
        self.heard.send_replace(Some(Heard { at_us, status: Arc::clone(&status), clock }));
        let own = &standing.authority;
        if status.lineage != wire::wide(own.lineage) {
            return;
        }
        let told = match news(own, &status) {
            News::None => Ok(()),
            News::ForUs(ledger) => {
                let deadline = Instant::now() + WITHIN;
                let heard =
                    self.group.hear(own.lineage, ledger, "the other region", deadline).await;
                heard.map(drop).map_err(PairError::from)
            }
            News::ForThem => {
                let deadline = Instant::now() + WITHIN;
                self.other.fence(own.lineage, &own.ledger, deadline).await.map(drop)
            }
        };
        if let Err(error) = told {
            tracing::debug!(%error, "an epoch is not told yet");
        }
    }
}

/// Who is to learn what.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    None,
    ForUs(Vec<LedgerLine>),
    ForThem,
}

/// Compares what both are. A side that follows, or was handed over to, needs no telling.
pub(super) fn news(own: &Authority, theirs: &pb::GetStatusResponse) -> News {
    let Ok(ledger) = wire::ledger_from(theirs.ledger.clone()) else { return News::None };
    let Some(line) = ledger.last() else { return News::None };
    let epoch = theirs.epoch.clone().map(codec::epoch_from).unwrap_or_default();
    if line.epoch != epoch || epoch == own.epoch {
        return News::None;
    }
    if epoch.number >= own.epoch.number {
        let known = match &own.role {
            Role::Secondary | Role::Detached | Role::Conflict { .. } => {
                epoch.number == own.epoch.number || !matches!(own.role, Role::Conflict { .. })
            }
            Role::Released { to, at } => *to == epoch && line.previous == Some(*at),
            Role::Fenced { by, .. } => by.number >= epoch.number,
            _ => false,
        };
        return if known { News::None } else { News::ForUs(ledger) };
    }
    let writes = matches!(theirs.role.as_str(), "standalone" | "primary" | "sealed" | "conflict");
    let handed = theirs.role == "released" && !was_released(own, theirs);
    if writes || handed { News::ForThem } else { News::None }
}

/// Whether this side's epoch began with what the other released.
fn was_released(own: &Authority, theirs: &pb::GetStatusResponse) -> bool {
    let at = theirs.role_at.map(wire::position_from);
    at.is_some() && own.line().is_some_and(|line| line.previous == at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_ahead_of_the_middle_between_question_and_answer() {
        let ahead = |theirs, own, took| {
            let ahead = ClockAhead::of(theirs, own, took);
            (ahead.by_us, ahead.within.as_micros())
        };
        assert_eq!(ahead(2_000, 1_000, 0), (1_000, 0));
        assert_eq!(ahead(1_000, 1_100, 201), (0, 101));
        assert_eq!(ahead(1_000, 5_000, 2_000), (-3_000, 1_000));
        assert_eq!(ahead(0, u64::MAX, 0).0, i64::MIN);
    }
}
