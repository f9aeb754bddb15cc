//! Follows who leads, and prepares a term when it is this node: it stamps only after its first
//! entry of the term has applied, with its wall clock anchored by a majority.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::super::log_clock::{self, LogClock};
use super::super::proposer::Term;
use super::super::transport::PeerClient;
use super::super::types::NodeId;
use super::Group;
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

/// Between two attempts to have this node's wall clock confirmed in a term.
const ANCHOR_AGAIN: Duration = Duration::from_secs(1);
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
    let mut prepared = None;
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
            prepared = None;
            tell(&news, Leadership { term, leader, is_me: false, since: Instant::now() });
        }
        let anchored = terms.borrow().as_ref().is_some_and(|term| term.clock.is_anchored());
        let changed = if mine && prepared.is_none() {
            tokio::select! {
                ready = prepare(&group, &clock, term) => {
                    terms.send_replace(Some(Arc::new(ready)));
                    prepared = Some(term);
                    tell(&news, Leadership { term, leader, is_me: true, since: Instant::now() });
                    continue;
                }
                changed = metrics.changed() => changed,
            }
        } else if mine && !anchored {
            tokio::select! {
                wall = anchor_later(&group, &clock) => {
                    let known = terms.borrow().clone();
                    let later = known.map(|known| reanchored(&group, &clock, &known, wall));
                    terms.send_replace(later.map(Arc::new));
                    continue;
                }
                changed = metrics.changed() => changed,
                _ = footing.changed() => continue,
            }
        } else {
            tokio::select! {
                changed = metrics.changed() => changed,
                _ = footing.changed() => continue,
            }
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
            let wall = agreed_wall(group, clock).await;
            // Together: a promotion brings both.
            let (last, epoch) = {
                let store = group.store().read();
                (store.state().log_time(), store.state().epoch())
            };
            attempt += 1;
            // A time that nobody ever vouched for must not begin: the first true one would
            // be a jump over the life of every message.
            if wall.is_some() || (attempt >= ATTEMPTS && last > LogTime::default()) {
                if wall.is_none() {
                    tracing::warn!(
                        "no majority agrees with this node's wall clock: log time runs on by itself"
                    );
                }
                return Term {
                    leader: leader.to_committed_leader_id(),
                    epoch,
                    clock: LogClock::start(Arc::clone(clock), last, wall),
                };
            }
            if attempt % ATTEMPTS == 0 {
                tracing::error!(
                    "no majority agrees with this node's wall clock, and the cluster has no time \
                     yet: nothing is written until the clocks agree"
                );
            }
        }
        tokio::time::sleep(group.config().heartbeat).await;
    }
}

/// The wall time, once a majority agrees after all.
async fn anchor_later(group: &Group, clock: &SharedClock) -> u64 {
    loop {
        tokio::time::sleep(ANCHOR_AGAIN).await;
        if let Some(wall) = agreed_wall(group, clock).await {
            return wall;
        }
    }
}

/// The same term with its clock anchored; it goes on from the stamps given so far.
fn reanchored(group: &Group, clock: &SharedClock, known: &Term, wall: u64) -> Term {
    let last = group.store().read().state().log_time().max(known.clock.stamp());
    tracing::info!("a majority agrees with this node's wall clock again");
    let clock = LogClock::start(Arc::clone(clock), last, Some(wall));
    Term { leader: known.leader, epoch: known.epoch, clock }
}

/// This node's wall time, if a majority of the voters agrees with it within the bound. If one
/// agrees with another voter instead, that one is asked to lead.
async fn agreed_wall(group: &Group, clock: &SharedClock) -> Option<u64> {
    // A voter that does not answer by then has no say; the others may be a majority.
    let within = group.config().heartbeat.max(Duration::from_millis(250));
    let (voters, others) = {
        let metrics = group.raft().metrics();
        let metrics = metrics.borrow_watched();
        let members = &metrics.membership_config;
        let voters: Vec<NodeId> = members.voter_ids().collect();
        let others: Vec<(NodeId, String)> = voters
            .iter()
            .filter(|id| **id != group.node())
            .filter_map(|id| Some((*id, members.get_node(id)?.peer_address.clone())))
            .collect();
        (voters.len(), others)
    };
    let mut asked: FuturesUnordered<_> = others
        .into_iter()
        .map(|(id, address)| async move {
            let mut peer = PeerClient::new(group.peers().clone(), id, &address);
            let theirs = peer.read_clock(within).await.ok()?;
            // How far ahead theirs is, at the moment it answered.
            Some((id, i128::from(theirs) - i128::from(clock.wall_us())))
        })
        .collect();
    let bound = u64::try_from(group.config().clock_bound.as_micros()).unwrap_or(u64::MAX);
    let mut ahead: Vec<(NodeId, i128)> = Vec::with_capacity(voters);
    loop {
        let offsets: Vec<i128> = ahead.iter().map(|(_, by)| *by).collect();
        // A majority is enough: nobody waits for a zone that is gone.
        if log_clock::is_agreed(0, &offsets, voters, bound) {
            return Some(clock.wall_us());
        }
        match asked.next().await {
            Some(answer) => ahead.extend(answer),
            None => break,
        }
    }
    if let Some(heir) = log_clock::agreed_other(&ahead, voters, bound) {
        tracing::error!(heir, "a majority's wall clocks disagree with this node's: it hands over");
        if let Err(error) = group.hand_over(Some(heir)).await {
            tracing::warn!(%error, "leadership was not handed over");
        }
    }
    None
}
