//! What the group looks like from this node, and where a write is durable.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver as _;

use super::super::error::{GroupError, Reason};
use super::super::transport::DiskReport;
use super::super::types::{Member, NodeId};
use super::super::zones;
use super::{Follows, Group};
use crate::queue::ids::{Digest, LogTime, Position};

/// What a node does in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
}

/// A member as this node sees it.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub id: NodeId,
    pub member: Member,
    pub voter: bool,
    pub role: Role,
    /// Known to hold the log up to here; only the leader knows it of others.
    pub matched: Option<u64>,
    /// What it last said of its disk; only the leader knows it of others.
    pub disk: Option<DiskReport>,
    /// How far ahead of the leader's its wall clock was, in microseconds, when the leader last
    /// asked in its term; only the leader knows it.
    pub clock_ahead_us: Option<i64>,
}

#[derive(Clone, Debug)]
pub struct Status {
    pub cluster_id: String,
    pub node: NodeId,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub last_log: u64,
    pub committed: u64,
    pub applied: u64,
    pub durable: u64,
    pub purged: u64,
    pub log_time: LogTime,
    pub nodes: Vec<NodeView>,
    pub redundancy: String,
    pub queues: u64,
    pub messages: u64,
    pub bytes: u64,
    pub draining: bool,
    pub digest: Digest,
    /// What T follows; only the leader knows it.
    pub follows: Option<Follows>,
}

impl Group {
    /// The group as this node sees it now.
    #[must_use]
    pub fn status(&self) -> Status {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let leader = self.leader_heard();
        let members = &metrics.membership_config;
        let voters: Vec<NodeId> = members.voter_ids().collect();
        let index = |id: &Option<super::super::types::LogId>| id.map_or(0, |id| id.index());
        let nodes = members
            .nodes()
            .map(|(id, member)| {
                let voter = voters.contains(id);
                let own = *id == metrics.id;
                let role = match metrics.state {
                    _ if leader == Some(*id) => Role::Leader,
                    ServerState::Candidate if own => Role::Candidate,
                    _ if voter => Role::Follower,
                    _ => Role::Learner,
                };
                let matched = self.matched(&metrics, *id);
                NodeView {
                    id: *id,
                    member: member.clone(),
                    voter,
                    role,
                    matched,
                    disk: self.disk_of(*id),
                    clock_ahead_us: self.clock_ahead_us(metrics.current_term, *id),
                }
            })
            .collect::<Vec<_>>();
        let follows = self.follows();
        let store = self.inner.store.read();
        let (queues, messages, bytes) = store.state().totals();
        Status {
            cluster_id: self.inner.config.cluster_id.clone(),
            node: metrics.id,
            leader,
            term: metrics.current_term,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: index(&metrics.local_committed),
            applied: store.applied().map_or(0, |at| at.index),
            durable: store.durable().map_or(0, |at| at.index),
            purged: index(&metrics.purged),
            log_time: store.state().log_time(),
            redundancy: redundancy(&nodes),
            nodes,
            queues,
            messages,
            bytes,
            draining: self.is_draining(),
            digest: store.state().digest(),
            follows,
        }
    }

    fn matched(
        &self,
        metrics: &openraft::RaftMetrics<super::super::types::TypeConfig>,
        id: NodeId,
    ) -> Option<u64> {
        let replication = metrics.replication.as_ref()?;
        replication.get(&id).copied().flatten().map(|matched| matched.index())
    }

    /// Zones whose voters are known to hold a position, fsynced, and how many must by the rule
    /// of the layout. Never more than is known: on a follower no zone is named.
    #[must_use]
    pub fn durability(&self, position: Position) -> (u32, Vec<String>) {
        let watched = self.inner.raft.metrics();
        let metrics = watched.borrow_watched();
        let members = &metrics.membership_config;
        let voters: Vec<(NodeId, &Member)> = members
            .voter_ids()
            .filter_map(|id| members.get_node(&id).map(|member| (id, member)))
            .collect();
        let holds = |id: &NodeId| {
            self.matched(&metrics, *id).is_some_and(|matched| matched >= position.index)
        };
        let mut held: Vec<String> =
            voters.iter().filter(|(id, _)| holds(id)).map(|(_, m)| m.zone.clone()).collect();
        held.sort();
        held.dedup();
        let zone_of = |id: &NodeId| members.get_node(id).map(|member| member.zone.as_str());
        let at_least = zones_at_least(members.get_joint_config(), zone_of);
        (at_least, held)
    }

    /// Hands leadership to a voter: the one named, or the one that holds most of the log in
    /// another zone, or in this.
    ///
    /// # Errors
    /// *Not now* when this node does not lead or nobody took over.
    pub async fn hand_over(&self, to: Option<NodeId>) -> Result<NodeId, GroupError> {
        /// A hand-over takes milliseconds where it succeeds at all.
        const WITHIN: Duration = Duration::from_secs(2);
        if self.inner.leadership.borrow().leader != Some(self.node()) {
            return Err(self.not_leader());
        }
        let status = self.status();
        let own_zone = status.nodes.iter().find(|n| n.id == status.node).map(|n| &n.member.zone);
        let others = status.nodes.iter().filter(|node| node.voter && node.id != status.node);
        let best = match to {
            Some(id) => others.into_iter().find(|node| node.id == id),
            None => others.max_by_key(|node| {
                let other_zone = Some(&node.member.zone) != own_zone;
                (!self.disk_is_short(node.id), node.matched, other_zone)
            }),
        };
        let target = best.ok_or_else(|| GroupError::not_applied(Reason::NoQuorum))?.id;
        let stopped = |_| super::stopped();
        self.inner
            .peers
            .scoped(self.inner.raft.trigger().transfer_leader(target))
            .await
            .map_err(stopped)?;
        let mut leadership = self.leadership();
        let moved = leadership.wait_for(|now| now.leader.is_some_and(|id| id != status.node));
        match tokio::time::timeout(WITHIN, moved).await {
            Ok(Ok(now)) => Ok(now.leader.unwrap_or(target)),
            _ => Err(GroupError::not_applied(Reason::NoLeader)),
        }
    }
}

fn redundancy(nodes: &[NodeView]) -> String {
    let zones = nodes.iter().filter(|node| node.voter).map(|node| node.member.zone.as_str());
    zones::redundancy(zones).map_or_else(|error| error.to_string(), |name| name.name().to_owned())
}

/// In how many zones all is that is committed, by the rule of the layout. While two sets of voters
/// count, it is on a majority of the first as well.
fn zones_at_least<'a>(
    sets: &[BTreeSet<NodeId>],
    zone_of: impl Fn(&NodeId) -> Option<&'a str>,
) -> u32 {
    let zones = sets.first().into_iter().flatten().filter_map(zone_of);
    if matches!(zones::redundancy(zones), Ok(zones::Redundancy::Zone)) { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_voters_change_what_is_committed_is_where_the_old_ones_demand() {
        let zone_of = |id: &NodeId| ["a", "b", "c", "a"].get(usize::try_from(*id).ok()?).copied();
        let (old, new) = (BTreeSet::from([0, 1, 2]), BTreeSet::from([0, 1, 2, 3]));
        assert_eq!(zones_at_least(std::slice::from_ref(&old), zone_of), 2);
        assert_eq!(zones_at_least(&[old, new], zone_of), 2);
        let (one_zone, three) = (BTreeSet::from([0, 3]), BTreeSet::from([0, 1, 2]));
        assert_eq!(zones_at_least(&[one_zone, three], zone_of), 1);
        assert_eq!(zones_at_least(&[], zone_of), 1);
    }
}
