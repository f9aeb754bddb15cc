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

/// Runs until Raft stops.
pub(super) async fn run(
    group: Group,
    clock: SharedClock,
    news: watch::Sender<Leadership>,
    terms: watch::Sender<Option<Arc<Term>>>,
) {
    let mut metrics = group.raft().server_metrics();
    let mut prepared = None;
    loop {
        let (term, leader) = {
            let now = metrics.borrow_watched();
            (now.vote.leader_id.term, now.current_leader)
        };
        let mine = leader == Some(group.node());
        if !mine || prepared != Some(term) {
            terms.send_replace(None);
            prepared = None;
            tell(&news, Leadership { term, leader, is_me: false, since: Instant::now() });
        }
        if mine && prepared.is_none() {
            tokio::select! {
                ready = prepare(&group, &clock, term) => {
                    if let Some(ready) = ready {
                        terms.send_replace(Some(Arc::new(ready)));
                        prepared = Some(term);
                        tell(&news, Leadership { term, leader, is_me: true, since: Instant::now() });
                    }
                }
                changed = metrics.changed() => if changed.is_err() { break },
            }
        } else if metrics.changed().await.is_err() {
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

async fn prepare(group: &Group, clock: &SharedClock, term: u64) -> Option<Term> {
    let mut applied = group.applied();
    let first = |position: &crate::queue::ids::Position| {
        position.term == term && position.node == group.node()
    };
    applied.wait_for(|mark| mark.position.as_ref().is_some_and(first)).await.ok()?;
    let leader = group.raft().as_leader().ok()?.to_committed_leader_id();
    let wall = agreed_wall(group, clock).await;
    let (last, epoch) = {
        let store = group.store().read();
        (store.state().log_time(), store.state().epoch())
    };
    if wall.is_none() {
        tracing::warn!(
            "no majority agrees with this node's wall clock: log time runs on by itself"
        );
    }
    Some(Term { leader, epoch, clock: LogClock::start(Arc::clone(clock), last, wall) })
}

/// This node's wall time, if a majority of the voters agrees with it within the bound.
async fn agreed_wall(group: &Group, clock: &SharedClock) -> Option<u64> {
    let bound = group.config().clock_bound;
    // A voter that does not answer by then has no say; the others may be a majority.
    let within = group.config().heartbeat.max(Duration::from_millis(50));
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
            Some(i128::from(theirs) - i128::from(clock.wall_us()))
        })
        .collect();
    let bound = u64::try_from(bound.as_micros()).unwrap_or(u64::MAX);
    let mut ahead = Vec::with_capacity(voters);
    loop {
        let own = clock.wall_us();
        let theirs = |by: &i128| u64::try_from(i128::from(own) + by).unwrap_or(0);
        let others: Vec<u64> = ahead.iter().map(theirs).collect();
        // A majority is enough: nobody waits for a zone that is gone.
        if log_clock::is_agreed(own, &others, voters, bound) {
            return Some(own);
        }
        match asked.next().await {
            Some(answer) => ahead.extend(answer),
            None => return None,
        }
    }
}
