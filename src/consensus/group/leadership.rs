//! Follows who leads, and prepares a term when it is this node: it stamps only after its first
//! entry of the term has applied, with its wall clock anchored by a majority, or by an operator.

use std::sync::Arc;

use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::log_clock::{LogClock, StepAlarm, Voucher};
use super::super::proposer::Term;
use super::super::types::NodeId;
use super::{Group, clocks};
use crate::clock::SharedClock;
use crate::queue::ids::LogTime;

/// Who leads, as this node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leadership {
    pub term: u64,
    pub leader: Option<NodeId>,
    /// This node leads and is ready to propose.
    pub is_me: bool,
    /// When this became so here.
    pub since: Instant,
}

impl Default for Leadership {
    fn default() -> Self {
        Leadership { term: 0, leader: None, is_me: false, since: Instant::now() }
    }
}

/// Attempts before a term begins without.
const ATTEMPTS: u32 = 5;

/// Runs until Raft stops.
pub(super) async fn run(
    group: Group,
    clock: SharedClock,
    news: watch::Sender<Leadership>,
    terms: watch::Sender<Option<Arc<Term>>>,
) {
    let mut metrics = group.raft().server_metrics();
    let mut footing = group.store().footing();
    let (mut prepared, mut alarm) = (None, StepAlarm::default());
    loop {
        let (term, leader) = {
            let now = metrics.borrow_watched();
            (now.vote.leader_id.term, now.current_leader)
        };
        let mine = leader == Some(group.node());
        // A term that stamps another epoch than the one in force is prepared anew, with an anchor
        // for the T that came with it.
        let in_force = footing.borrow_and_update().epoch;
        let stale = terms.borrow().as_ref().is_some_and(|term| term.epoch != in_force);
        if !mine || prepared != Some(term) || stale {
            terms.send_replace(None);
            (prepared, alarm) = (None, StepAlarm::default());
            tell(&news, Leadership { term, leader, is_me: false, since: Instant::now() });
        }
        let known = terms.borrow().clone();
        let is_preparing = mine && known.is_none();
        let next = async {
            match &known {
                _ if !mine => std::future::pending().await,
                None => prepare(&group, &clock, term).await,
                Some(known) if known.clock.voucher().is_none() => {
                    clocks::anchored_later(&group, term, known).await
                }
                Some(known) => clocks::steered(&group, known, &mut alarm).await,
            }
        };
        let changed = tokio::select! {
            next = next => {
                terms.send_replace(Some(Arc::new(next)));
                prepared = Some(term);
                tell(&news, Leadership { term, leader, is_me: true, since: Instant::now() });
                continue;
            }
            changed = metrics.changed() => changed,
            _ = footing.changed(), if !is_preparing => continue,
        };
        if changed.is_err() {
            break;
        }
    }
    terms.send_replace(None);
}

fn tell(news: &watch::Sender<Leadership>, now: Leadership) {
    news.send_if_modified(|old| {
        let same = (old.term, old.leader, old.is_me) == (now.term, now.leader, now.is_me);
        if !same {
            *old = now;
        }
        !same
    });
}

/// What this node needs to propose in its term; it takes as long as it takes.
async fn prepare(group: &Group, clock: &SharedClock, term: u64) -> Term {
    let first = |position: &crate::queue::ids::Position| {
        position.term == term && position.node == group.node()
    };
    let mut applied = group.applied();
    let own = applied.wait_for(|mark| mark.position.as_ref().is_some_and(first)).await.map(|_| ());
    let mut attempt = 0;
    loop {
        let leader = group.raft().as_leader();
        if let (Ok(leader), Ok(())) = (leader, &own) {
            let agreed = clocks::agreed_or_handed_over(group, term).await;
            // Together: a promotion brings both.
            let (last, epoch) = {
                let store = group.store().read();
                (store.state().log_time(), store.state().epoch())
            };
            attempt += 1;
            let anchor = agreed.map(|wall_us| (wall_us, Voucher::Majority)).or_else(|| {
                let wall_us = group.inner.clocks.accepted(term, last)?;
                clocks::tell_accepted();
                Some((wall_us, Voucher::Operator))
            });
            // A time that nobody ever vouched for must not begin: the first true one would
            // be a jump over the life of every message.
            if anchor.is_some() || (attempt >= ATTEMPTS && last > LogTime::default()) {
                if anchor.is_none() {
                    tracing::warn!(
                        "no majority agrees with this node's wall clock: log time runs on by itself"
                    );
                }
                return Term {
                    leader: leader.to_committed_leader_id(),
                    epoch,
                    clock: LogClock::start(Arc::clone(clock), last, anchor),
                };
            }
            if attempt % ATTEMPTS == 0 {
                tracing::error!(
                    "no majority agrees with this node's wall clock, and the cluster has no time \
                     yet: nothing is written until the clocks agree or an operator accepts this one"
                );
            }
        }
        tokio::time::sleep(group.config().heartbeat).await;
    }
}
