//! Who belongs to the group: adding, promoting, replacing and removing nodes.
//!
//! Laws: a node is first a learner and has caught up before it votes; a change of voters is one
//! joint change, from whatever number to whatever number; the voters it leads to obey the zone
//! rule (see [`super::zones`]), and while both sets count, so does the one left unless it broke
//! the rule already and the change mends it. Two changes at once do not mix: each is made only
//! upon the membership it was checked against.
//!
//! Refuses a change that breaks the zone rule unless it is said to be degraded, a voter that is
//! no member or far behind, an id that belongs to another address, and removing the leader,
//! which must hand over first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::alias::LogIdOf;
use openraft::async_runtime::{Instant as _, WatchReceiver as _};
use openraft::errors::{ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::storage::RaftStateMachine;
use openraft::{ChangeMembers, Precondition, Raft, RaftMetrics};
use tokio::time::Instant;

pub use super::admission::{
    Admission, AdmissionError, Found, OnDisk, admission_check, memory_check,
};
use super::redundancy::PlanError;
use super::types::{Member, SnapshotData, TypeConfig, scoped};
use super::zones::{self, Redundancy, Wanted, ZoneError};

/// A voter to be that is silent for so long does not answer.
const ANSWER: Duration = Duration::from_secs(3);
/// A voter to be may lack this many of the newest entries.
const NEARLY: u64 = 1_000;

/// No random number is drawn in these calls; openraft asks for a seed all the same.
const SEED: u64 = 0;

/// What a change of voters must keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// The redundancy wanted.
    Keep(Wanted),
    /// Nothing: the operator said so by name.
    Degraded,
}

/// Why a change of the membership was not made.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    #[error(transparent)]
    Zones(#[from] ZoneError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("node {0} is not a member; add it as a learner first")]
    Stranger(u64),
    #[error("node {0} is not a voter, so it cannot be replaced as one")]
    NotVoter(u64),
    #[error("node {node} is already a member at {address}; a new node needs a new id")]
    IdTaken { node: u64, address: String },
    #[error("peer address {address} already belongs to node {node}")]
    AddressTaken { node: u64, address: String },
    #[error(
        "node {node} has not caught up within {within:?}: it holds entries up to {held}, the log \
         reaches {last}; it stays a learner, and asking again waits on"
    )]
    Behind { node: u64, held: u64, last: u64, within: Duration },
    #[error("node {0} is to vote and does not answer; nothing was changed")]
    Silent(u64),
    #[error("node {0} leads; hand leadership over to another node first")]
    Leads(u64),
    #[error(
        "this node does not lead, so it cannot change the membership; {}",
        .0.map_or("no leader is known".to_owned(), |id| format!("ask node {id}"))
    )]
    NotLeader(Option<u64>),
    #[error("the membership changed meanwhile; look at it and ask again")]
    Changed,
    #[error("it is not known whether the change was made: this node lost leadership meanwhile")]
    Unknown,
    #[error("the change was refused: {0}")]
    Refused(String),
    #[error("this node has stopped: {0}")]
    Stopped(#[from] Box<Fatal<TypeConfig>>),
}

/// The members as this node knows them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    pub voters: BTreeMap<u64, Member>,
    pub learners: BTreeMap<u64, Member>,
    /// Two voter sets count: a change is under way.
    pub joint: bool,
    /// The entry it came from.
    pub log_id: Option<LogIdOf<TypeConfig>>,
}

impl Members {
    /// What the voters' zones amount to; none before the cluster is formed.
    #[must_use]
    pub fn redundancy(&self) -> Option<Redundancy> {
        zones::redundancy(self.voters.values().map(|member| member.zone.as_str())).ok()
    }

    fn get(&self, node: u64) -> Option<&Member> {
        self.voters.get(&node).or_else(|| self.learners.get(&node))
    }

    fn all(&self) -> impl Iterator<Item = (&u64, &Member)> {
        self.voters.iter().chain(&self.learners)
    }

    /// The members who would vote, checked against the demand.
    fn checked(&self, voters: &BTreeSet<u64>, demand: Demand) -> Result<(), MembershipError> {
        let mut zones = Vec::with_capacity(voters.len());
        for id in voters {
            zones.push(self.get(*id).ok_or(MembershipError::Stranger(*id))?.zone.as_str());
        }
        let wanted = match demand {
            Demand::Keep(wanted) => wanted,
            Demand::Degraded => Wanted::Lrs,
        };
        Ok(zones::check(zones, wanted)?)
    }
}

/// The verbs, on one node's Raft handle.
#[derive(Clone, Debug)]
pub struct Membership<SM>
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    raft: Raft<TypeConfig, SM>,
}

impl<SM> Membership<SM>
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    #[must_use]
    pub fn new(raft: Raft<TypeConfig, SM>) -> Self {
        Membership { raft }
    }

    /// The members now.
    #[must_use]
    pub fn members(&self) -> Members {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let stored = &metrics.membership_config;
        let voters: BTreeSet<u64> = stored.voter_ids().collect();
        let (voters, learners) = stored
            .nodes()
            .map(|(id, member)| (*id, member.clone()))
            .partition(|(id, _)| voters.contains(id));
        let joint = stored.get_joint_config().len() > 1;
        Members { voters, learners, joint, log_id: *stored.log_id() }
    }

    /// Forms the cluster. Every node may ask it with the same members; only the first does it.
    /// Call it after [`admission_check`] answered [`Admission::Forming`].
    pub async fn form(
        &self,
        members: BTreeMap<u64, Member>,
        wanted: Wanted,
    ) -> Result<(), MembershipError> {
        zones::check(members.values().map(|member| member.zone.as_str()), wanted)?;
        match scoped(SEED, self.raft.initialize(members)).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(MembershipError::Refused(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(Box::new(fatal).into()),
        }
    }

    /// Adds a node that receives the log without a vote, and waits until it has caught up.
    pub async fn add_learner(
        &self,
        node: u64,
        member: Member,
        within: Duration,
    ) -> Result<(), MembershipError> {
        let members = self.leading()?;
        for (id, known) in members.all() {
            let address = known.peer_address.clone();
            if *id == node && *known != member {
                return Err(MembershipError::IdTaken { node, address });
            }
            if *id != node && known.peer_address == member.peer_address {
                return Err(MembershipError::AddressTaken { node: *id, address });
            }
        }
        if members.get(node).is_none() {
            let add = ChangeMembers::AddNodes(BTreeMap::from([(node, member)]));
            self.change(add, &members).await?;
        }
        self.caught_up(node, within).await
    }

    /// Makes exactly these members the voters, in one joint change. Who voted and no longer
    /// does stays as a learner.
    pub async fn change_voters(
        &self,
        voters: BTreeSet<u64>,
        demand: Demand,
        within: Duration,
    ) -> Result<(), MembershipError> {
        let members = self.leading()?;
        self.checked_change(&members, voters, demand, within, true).await
    }

    /// As [`Membership::change_voters`], upon exactly these members.
    pub(super) async fn change_upon(
        &self,
        members: &Members,
        voters: BTreeSet<u64>,
        demand: Demand,
        within: Duration,
    ) -> Result<(), MembershipError> {
        self.leading()?;
        self.checked_change(members, voters, demand, within, true).await
    }

    /// The first of these nodes that has not answered since then, or lacks more than the newest
    /// entries; what it holds, and where the log ends.
    pub(super) fn lacks(
        &self,
        nodes: impl Iterator<Item = u64>,
        since: Instant,
    ) -> Result<Option<(u64, u64, u64)>, MembershipError> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let Some(replication) = &now.replication else {
            return Err(MembershipError::NotLeader(now.current_leader));
        };
        let last = now.last_log_index.unwrap_or(0);
        let held = |node: &u64| replication.get(node).cloned().flatten().map(|id| id.index);
        let answered = |node: &u64| has_answered(&now, *node, since);
        let fit = |(node, held): &(u64, Option<u64>)| answered(node) && nearly(*held, last);
        let lacking = nodes.map(|node| (node, held(&node))).find(|it| !fit(it));
        Ok(lacking.map(|(node, held)| (node, held.unwrap_or(0), last)))
    }

    /// Puts one member in a voter's place, in one joint change; the old one leaves the cluster.
    pub async fn replace(
        &self,
        old: u64,
        new: u64,
        demand: Demand,
        within: Duration,
    ) -> Result<(), MembershipError> {
        let members = self.leading()?;
        let mut voters: BTreeSet<u64> = members.voters.keys().copied().collect();
        if !voters.remove(&old) {
            return Err(MembershipError::NotVoter(old));
        }
        self.not_leader(old)?;
        voters.insert(new);
        self.checked_change(&members, voters, demand, within, false).await
    }

    /// Takes a node out of the cluster.
    pub async fn remove(&self, node: u64, demand: Demand) -> Result<(), MembershipError> {
        let members = self.leading()?;
        self.not_leader(node)?;
        if members.learners.contains_key(&node) {
            return self.change(ChangeMembers::RemoveNodes([node].into()), &members).await;
        }
        let mut voters: BTreeSet<u64> = members.voters.keys().copied().collect();
        if !voters.remove(&node) {
            return Err(MembershipError::Stranger(node));
        }
        self.checked_change(&members, voters, demand, Duration::ZERO, false).await
    }

    async fn checked_change(
        &self,
        members: &Members,
        voters: BTreeSet<u64>,
        demand: Demand,
        within: Duration,
        keep_as_learners: bool,
    ) -> Result<(), MembershipError> {
        members.checked(&voters, demand)?;
        let gained = || voters.iter().copied().filter(|id| members.learners.contains_key(id));
        self.all_answer(gained()).await?;
        for id in gained() {
            self.caught_up(id, within).await?;
        }
        // Copying takes its time, in which one may have gone; with it the change could stand still.
        self.all_answer(gained()).await?;
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.change_keeping(change, members, keep_as_learners).await
    }

    /// Waits until each of these nodes has answered once more than when it was asked.
    async fn all_answer(&self, nodes: impl Iterator<Item = u64>) -> Result<(), MembershipError> {
        let (mut metrics, since) = (self.raft.metrics(), Instant::now());
        for node in nodes {
            let waiting = async {
                while !has_answered(&metrics.borrow_watched(), node, since) {
                    if metrics.changed().await.is_err() {
                        return Err(MembershipError::from(Box::new(Fatal::Stopped)));
                    }
                }
                Ok(())
            };
            let waited = tokio::time::timeout_at(since + ANSWER, waiting).await;
            waited.map_err(|_| MembershipError::Silent(node))??;
        }
        Ok(())
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, Member>,
        checked: &Members,
    ) -> Result<(), MembershipError> {
        self.change_keeping(change, checked, true).await
    }

    /// Proposes the change upon exactly the membership that was checked.
    async fn change_keeping(
        &self,
        change: ChangeMembers<u64, Member>,
        checked: &Members,
        keep_as_learners: bool,
    ) -> Result<(), MembershipError> {
        let unchanged =
            Precondition::LastMembershipLogId { last_membership_log_id: checked.log_id };
        let change = self.raft.change_membership_if(change, keep_as_learners, [unchanged]);
        match scoped(SEED, change).await {
            Ok(_) => Ok(()),
            Err(RaftError::Fatal(fatal)) => Err(Box::new(fatal).into()),
            Err(RaftError::APIError(error)) => Err(match error {
                ClientWriteError::ForwardToLeader(to) => MembershipError::NotLeader(to.leader_id),
                ClientWriteError::LogEntryDiscarded(_) => MembershipError::Unknown,
                ClientWriteError::PreconditionFailed(_) => MembershipError::Changed,
                error @ ClientWriteError::ChangeMembershipError(_) => {
                    MembershipError::Refused(error.to_string())
                }
            }),
        }
    }

    /// The members, if this node leads.
    fn leading(&self) -> Result<Members, MembershipError> {
        let leader = self.raft.metrics().borrow_watched().current_leader;
        if leader != Some(*self.raft.node_id()) {
            return Err(MembershipError::NotLeader(leader));
        }
        Ok(self.members())
    }

    fn not_leader(&self, node: u64) -> Result<(), MembershipError> {
        if *self.raft.node_id() == node { Err(MembershipError::Leads(node)) } else { Ok(()) }
    }

    /// Waits until a learner holds nearly all of the log.
    async fn caught_up(&self, node: u64, within: Duration) -> Result<(), MembershipError> {
        let mut metrics = self.raft.metrics();
        let mut lag = (0, 0);
        let waiting = async {
            loop {
                {
                    let now = metrics.borrow_watched();
                    let Some(replication) = &now.replication else {
                        return Err(MembershipError::NotLeader(now.current_leader));
                    };
                    let held = replication.get(&node).cloned().flatten().map(|id| id.index);
                    let last = now.last_log_index.unwrap_or(0);
                    lag = (held.unwrap_or(0), last);
                    if nearly(held, last) {
                        return Ok(());
                    }
                }
                if metrics.changed().await.is_err() {
                    return Err(Box::new(Fatal::Stopped).into());
                }
            }
        };
        match tokio::time::timeout(within, waiting).await {
            Ok(result) => result,
            Err(_) => {
                let (held, last) = lag;
                Err(MembershipError::Behind { node, held, last, within })
            }
        }
    }
}

/// Whether a node has answered this leader since then.
fn has_answered(now: &RaftMetrics<TypeConfig>, node: u64, since: Instant) -> bool {
    let heard = now.heartbeat.as_ref().and_then(|heard| heard.get(&node).copied().flatten());
    heard.is_some_and(|at| at.elapsed() < since.elapsed())
}

/// Whether a node that holds so much may vote.
fn nearly(held: Option<u64>, last: u64) -> bool {
    held.is_some_and(|held| held + NEARLY >= last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(voters: &[(u64, &str)], learners: &[(u64, &str)]) -> Members {
        let place = |nodes: &[(u64, &str)]| {
            nodes
                .iter()
                .map(|(id, zone)| (*id, Member { zone: (*zone).to_owned(), ..Member::default() }))
                .collect()
        };
        let (voters, learners) = (place(voters), place(learners));
        Members { voters, learners, joint: false, log_id: None }
    }

    #[test]
    fn a_set_of_voters_is_checked_before_it_is_proposed() {
        let now = members(&[(1, "a"), (2, "b"), (3, "c")], &[(4, "a"), (5, "b"), (6, "a")]);
        assert_eq!(now.redundancy(), Some(Redundancy::Zone));
        let zrs = Demand::Keep(Wanted::Zrs);
        let table: &[(&[u64], bool)] = &[
            (&[1, 2, 3], true),
            (&[1, 2, 3, 4, 5], true),
            (&[1, 2, 3, 4, 6], false),
            (&[2, 3, 4], true),
            (&[1, 2, 4], false),
            (&[1, 2], false),
        ];
        for (voters, passes) in table {
            let voters = voters.iter().copied().collect();
            assert_eq!(now.checked(&voters, zrs).is_ok(), *passes, "{voters:?}");
            assert!(now.checked(&voters, Demand::Degraded).is_ok(), "{voters:?}");
        }
    }

    #[test]
    fn nobody_and_strangers_never_vote() {
        let now = members(&[(1, "a")], &[]);
        let error = now.checked(&BTreeSet::from([1, 9]), Demand::Degraded).unwrap_err();
        assert_eq!(error.to_string(), "node 9 is not a member; add it as a learner first");
        assert!(now.checked(&BTreeSet::new(), Demand::Degraded).is_err());
    }

    #[test]
    fn refusals_say_whom_to_ask() {
        let error = MembershipError::NotLeader(Some(3));
        assert!(error.to_string().ends_with("ask node 3"));
        assert!(MembershipError::NotLeader(None).to_string().ends_with("no leader is known"));
    }
}
