//! Which members vote so that a cluster has a redundancy, and the way there.
//!
//! Laws: the voters are worked out from the members at hand: as many as now where that goes, the
//! leader among them, then those that vote and answer, then those that answer. A cluster that has
//! the redundancy is left as it is. The change is made as one joint change, upon exactly the
//! membership that it was worked out from, and only once who begins to vote has caught up and has
//! answered since the change was asked for: with one that is gone it might never end. Who votes no
//! longer stays as a learner, so that the way back is as short. It may be begun again at any time
//! and goes on from where it is.
//!
//! Refuses what the members at hand do not give, and says what must be added.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::storage::RaftStateMachine;
use tokio::time::Instant;

use super::membership::{Demand, Members, Membership, MembershipError};
use super::types::{NodeId, SnapshotData, TypeConfig};
use super::zones::{self, Redundancy, Wanted};

/// Between two looks at who catches up.
const LOOK: Duration = Duration::from_millis(200);

/// The smallest set of voters that any zone may be taken from.
const ZONES: usize = 3;

/// Why the members at hand do not give a redundancy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error(
        "zrs takes voters in {} zones, and the members that answer are in {}: {}{}; add a node in \
         {} more (zoneq cluster add), and ask again",
        ZONES,
        zones.len(),
        spread(zones),
        silence(silent),
        ZONES.saturating_sub(zones.len())
    )]
    TooFewZones { zones: BTreeMap<String, Vec<NodeId>>, silent: Vec<NodeId> },
    #[error("no member that answers is in zone {zone}: they are in {}", spread(zones))]
    NobodyThere { zone: String, zones: BTreeMap<String, Vec<NodeId>> },
    #[error(
        "node {leader} leads and is in zone {there}, not in {zone}: hand leadership over to a \
         voter in {zone} first (zoneq cluster transfer --to ID)"
    )]
    LeadsElsewhere { leader: NodeId, there: String, zone: String },
}

fn spread(zones: &BTreeMap<String, Vec<NodeId>>) -> String {
    let zone = |(zone, ids): (&String, &Vec<NodeId>)| {
        let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
        format!("{zone} (node {})", ids.join(", "))
    };
    zones.iter().map(zone).collect::<Vec<_>>().join(", ")
}

fn silence(silent: &[NodeId]) -> String {
    if silent.is_empty() {
        return String::new();
    }
    let ids: Vec<String> = silent.iter().map(u64::to_string).collect();
    format!("; node {} does not answer", ids.join(", "))
}

/// What is to be changed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub wanted: Wanted,
    /// Who votes, and who is to.
    pub before: BTreeSet<NodeId>,
    pub voters: BTreeSet<NodeId>,
    /// What the voters' zones will amount to.
    pub redundancy: Redundancy,
    members: Members,
}

impl Plan {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.before == self.voters
    }

    /// Who begins to vote.
    fn gains(&self) -> impl Iterator<Item = NodeId> {
        self.voters.difference(&self.before).copied()
    }
}

/// A member that may vote.
#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    id: NodeId,
    zone: &'a str,
    votes: bool,
    answers: bool,
    leads: bool,
}

/// Works out who shall vote. `answering` are the members that answered lately.
///
/// # Errors
/// [`PlanError`] where the members at hand do not allow it.
pub fn plan(
    members: Members,
    leader: NodeId,
    answering: &BTreeSet<NodeId>,
    wanted: Wanted,
    zone: Option<&str>,
) -> Result<Plan, PlanError> {
    let before: BTreeSet<NodeId> = members.voters.keys().copied().collect();
    let all = members.voters.iter().chain(&members.learners);
    let mut candidates: Vec<Candidate<'_>> = all
        .map(|(id, member)| Candidate {
            id: *id,
            zone: &member.zone,
            votes: before.contains(id),
            answers: *id == leader || answering.contains(id),
            leads: *id == leader,
        })
        .collect();
    candidates.sort_by_key(|it| (!it.leads, !(it.votes && it.answers), !it.answers, it.id));
    let has = match (members.redundancy(), wanted) {
        (Some(Redundancy::Zone), Wanted::Zrs) => true,
        (Some(Redundancy::Local), Wanted::Lrs) => {
            zone.is_none_or(|zone| members.voters.values().any(|member| member.zone == zone))
        }
        _ => false,
    };
    let voters = match wanted {
        _ if has => before.clone(),
        Wanted::Zrs => over_zones(&candidates, before.len())?,
        Wanted::Lrs => in_one_zone(&candidates, before.len(), zone)?,
    };
    let held = candidates.iter().filter(|it| voters.contains(&it.id)).map(|it| it.zone);
    let redundancy = zones::redundancy(held).unwrap_or(Redundancy::Degraded);
    Ok(Plan { wanted, before, voters, redundancy, members })
}

fn by_zone<'a>(
    candidates: impl Iterator<Item = &'a Candidate<'a>>,
) -> BTreeMap<String, Vec<NodeId>> {
    let mut zones: BTreeMap<String, Vec<NodeId>> = BTreeMap::new();
    for candidate in candidates {
        zones.entry(candidate.zone.to_owned()).or_default().push(candidate.id);
    }
    zones
}

/// Takes so many, the first come first, but from no zone more than `most`.
fn pick(candidates: &[&Candidate<'_>], size: usize, most: usize) -> Option<BTreeSet<NodeId>> {
    let mut zones: BTreeMap<&str, usize> = BTreeMap::new();
    let mut picked = BTreeSet::new();
    for candidate in candidates {
        let held = zones.entry(candidate.zone).or_default();
        if *held < most && picked.len() < size {
            *held += 1;
            picked.insert(candidate.id);
        }
    }
    (picked.len() == size).then_some(picked)
}

/// An odd number of voters, as near to the present as goes, of which any one zone may be lost.
fn over_zones(candidates: &[Candidate<'_>], present: usize) -> Result<BTreeSet<NodeId>, PlanError> {
    // One that is silent must not begin to vote; one that votes already is no worse than it was.
    let fit: Vec<&Candidate<'_>> = candidates.iter().filter(|it| it.answers || it.votes).collect();
    let mut sizes: Vec<usize> = (ZONES..=fit.len()).step_by(2).collect();
    sizes.sort_by_key(|size| (size.abs_diff(present), Reverse(*size)));
    let found = sizes.into_iter().find_map(|size| pick(&fit, size, size / 2));
    found.ok_or_else(|| {
        let silent = |it: &&Candidate<'_>| !it.answers && !it.votes;
        PlanError::TooFewZones {
            zones: by_zone(fit.into_iter()),
            silent: candidates.iter().filter(silent).map(|it| it.id).collect(),
        }
    })
}

/// Voters of one zone, the leader's, an odd number: as many as now, or three, where it has them.
fn in_one_zone(
    candidates: &[Candidate<'_>],
    present: usize,
    zone: Option<&str>,
) -> Result<BTreeSet<NodeId>, PlanError> {
    let answering = || candidates.iter().filter(|it| it.answers);
    let leads = candidates.iter().find(|it| it.leads);
    let chosen = zone.or(leads.map(|it| it.zone)).unwrap_or_default();
    let there: Vec<&Candidate<'_>> = answering().filter(|it| it.zone == chosen).collect();
    if there.is_empty() {
        let zone = chosen.to_owned();
        return Err(PlanError::NobodyThere { zone, zones: by_zone(answering()) });
    }
    if let Some(leads) = leads.filter(|it| it.zone != chosen) {
        let (leader, there) = (leads.id, leads.zone.to_owned());
        return Err(PlanError::LeadsElsewhere { leader, there, zone: chosen.to_owned() });
    }
    let most = there.len().min(present.max(ZONES));
    let size = if most.is_multiple_of(2) { most - 1 } else { most };
    Ok(there.into_iter().take(size).map(|it| it.id).collect())
}

/// Where a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It was worked out, and nothing was done.
    Planned,
    /// A node that is to vote lacks entries.
    CatchingUp { node: NodeId, held: u64, last: u64 },
    /// The joint change is made.
    Changing,
    /// The cluster is as it was asked to be.
    Done,
}

/// A change under way.
#[derive(Debug)]
pub struct Course<SM>
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    membership: Membership<SM>,
    pub plan: Plan,
    within: Duration,
    begun: Instant,
    last: Option<Step>,
}

impl<SM> Course<SM>
where
    SM: RaftStateMachine<TypeConfig, SnapshotData = SnapshotData>,
{
    /// Nothing is done before [`Course::next`]; who is to vote has so long to catch up.
    #[must_use]
    pub fn new(membership: Membership<SM>, plan: Plan, within: Duration) -> Course<SM> {
        Course { membership, plan, within, begun: Instant::now(), last: None }
    }

    /// Goes on; answers where it is then. `None` = it has ended.
    ///
    /// # Errors
    /// As every change of members: not caught up in time, leadership or the members moved.
    pub async fn next(&mut self) -> Result<Option<Step>, MembershipError> {
        let step = match self.last {
            None => Step::Planned,
            Some(Step::Planned) if self.plan.is_done() => Step::Done,
            Some(Step::Planned | Step::CatchingUp { .. }) => self.catching_up().await?,
            Some(Step::Changing) => {
                self.change().await?;
                Step::Done
            }
            Some(Step::Done) => return Ok(None),
        };
        self.last = Some(step);
        Ok(Some(step))
    }

    /// Looks whether all hold enough; a while after the last look.
    async fn catching_up(&self) -> Result<Step, MembershipError> {
        if matches!(self.last, Some(Step::CatchingUp { .. })) {
            tokio::time::sleep(LOOK).await;
        }
        let Some((node, held, last)) = self.membership.lacks(self.plan.gains(), self.begun)? else {
            return Ok(Step::Changing);
        };
        if self.begun.elapsed() >= self.within {
            let within = self.within;
            return Err(MembershipError::Behind { node, held, last, within });
        }
        Ok(Step::CatchingUp { node, held, last })
    }

    async fn change(&self) -> Result<(), MembershipError> {
        let demand = match self.plan.wanted {
            Wanted::Zrs => Demand::Keep(Wanted::Zrs),
            // One zone was asked for by name.
            Wanted::Lrs => Demand::Degraded,
        };
        let within = self.within.saturating_sub(self.begun.elapsed());
        let voters = self.plan.voters.clone();
        self.membership.change_upon(&self.plan.members, voters, demand, within).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::types::Member;
    use super::*;

    /// Voters and learners as `id zone`, the leader first among the voters.
    fn planned(
        voters: &[(u64, &str)],
        learners: &[(u64, &str)],
        silent: &[u64],
        wanted: Wanted,
        zone: Option<&str>,
    ) -> Result<Vec<u64>, PlanError> {
        let place = |nodes: &[(u64, &str)]| {
            let member = |zone: &str| Member { zone: zone.to_owned(), ..Member::default() };
            nodes.iter().map(|(id, zone)| (*id, member(zone))).collect::<BTreeMap<_, _>>()
        };
        let members = Members {
            voters: place(voters),
            learners: place(learners),
            joint: false,
            log_id: None,
        };
        let all = voters.iter().chain(learners).map(|(id, _)| *id);
        let answering = all.filter(|id| !silent.contains(id)).collect();
        let plan = plan(members, voters[0].0, &answering, wanted, zone)?;
        let expected = if wanted == Wanted::Zrs { Redundancy::Zone } else { Redundancy::Local };
        assert_eq!(plan.redundancy, expected, "{voters:?} {learners:?} {:?}", plan.voters);
        assert!(plan.voters.contains(&voters[0].0) || plan.is_done(), "the leader goes on voting");
        Ok(plan.voters.into_iter().collect())
    }

    #[test]
    fn the_voters_are_as_many_as_now_where_that_goes() {
        type Nodes<'a> = &'a [(u64, &'a str)];
        let table: &[(Nodes, Nodes, &[u64])] = &[
            // One node and two learners: three zones.
            (&[(1, "a")], &[(2, "b"), (3, "c")], &[1, 2, 3]),
            // Three in one zone: two of them give way.
            (&[(2, "a"), (1, "a"), (3, "a")], &[(4, "b"), (5, "c")], &[2, 4, 5]),
            (&[(1, "a"), (2, "a"), (3, "b")], &[(4, "c")], &[1, 3, 4]),
            // Five with three in one zone, and one more zone at hand.
            (&[(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b")], &[(6, "c")], &[1, 2, 4, 5, 6]),
            // Without it fewer must do.
            (&[(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "c")], &[], &[1, 4, 5]),
            // Four are made five rather than three.
            (&[(1, "a"), (2, "a"), (3, "b"), (4, "b")], &[(5, "c")], &[1, 2, 3, 4, 5]),
            // It is so already: nobody is asked to change, learners or not.
            (&[(1, "a"), (2, "b"), (3, "c")], &[(4, "d")], &[1, 2, 3]),
            (&[(1, "a"), (2, "b"), (3, "c"), (4, "d")], &[(5, "e")], &[1, 2, 3, 4]),
        ];
        for (voters, learners, expected) in table {
            let found = planned(voters, learners, &[], Wanted::Zrs, None).unwrap();
            assert_eq!(found, *expected, "{voters:?} {learners:?}");
        }
    }

    #[test]
    fn who_does_not_answer_begins_no_vote_and_is_the_first_to_give_way() {
        let voters = [(1, "a"), (2, "a"), (3, "b"), (4, "b"), (5, "a")];
        let learners = [(6, "c"), (7, "c"), (8, "b")];
        let found = planned(&voters, &learners, &[4, 6], Wanted::Zrs, None).unwrap();
        assert_eq!(found, [1, 2, 3, 7, 8], "8 in the place of 4, 7 in that of 6");
        let refused = planned(&[(1, "a")], &[(2, "b"), (3, "c")], &[3], Wanted::Zrs, None);
        let told = refused.unwrap_err().to_string();
        assert!(told.contains("a (node 1), b (node 2); node 3 does not answer"), "{told}");
        assert!(told.contains("add a node in 1 more"), "{told}");
    }

    #[test]
    fn too_few_zones_are_refused_with_what_is_missing() {
        let voters = [(1, "a"), (2, "a"), (3, "a")];
        let told = planned(&voters, &[], &[], Wanted::Zrs, None).unwrap_err().to_string();
        assert!(told.contains("are in 1: a (node 1, 2, 3); add a node in 2 more"), "{told}");
    }

    #[test]
    fn one_zone_is_the_leaders_with_as_many_as_it_has() {
        let voters = [(2, "b"), (1, "a"), (3, "c")];
        assert_eq!(planned(&voters, &[], &[], Wanted::Lrs, None).unwrap(), [2]);
        let learners = [(4, "b"), (5, "b"), (6, "b")];
        assert_eq!(planned(&voters, &learners, &[], Wanted::Lrs, None).unwrap(), [2, 4, 5]);
        assert_eq!(planned(&voters, &learners, &[5, 6], Wanted::Lrs, None).unwrap(), [2]);
        let local = [(1, "a"), (2, "a")];
        assert_eq!(planned(&local, &[(3, "a")], &[], Wanted::Lrs, None).unwrap(), [1, 2], "it is");
        let elsewhere = planned(&voters, &[], &[], Wanted::Lrs, Some("c")).unwrap_err();
        assert!(elsewhere.to_string().starts_with("node 2 leads and is in zone b"), "{elsewhere}");
        let nowhere = planned(&voters, &[], &[], Wanted::Lrs, Some("z")).unwrap_err();
        assert!(matches!(nowhere, PlanError::NobodyThere { .. }), "{nowhere}");
    }

    #[test]
    fn every_layout_of_seven_members_over_three_zones_is_planned_by_the_zone_rule() {
        let zones = ["a", "b", "c"];
        for code in 0..3_usize.pow(7) {
            let nodes: Vec<(u64, &str)> =
                (0..7).map(|at| (at as u64 + 1, zones[code / 3_usize.pow(at) % 3])).collect();
            let (voters, learners) = nodes.split_at(3);
            let distinct: BTreeSet<&str> = nodes.iter().map(|(_, zone)| *zone).collect();
            let found = planned(voters, learners, &[], Wanted::Zrs, None);
            assert_eq!(found.is_ok(), distinct.len() == 3, "{nodes:?}");
            assert!(found.is_err() || found.unwrap().len() == 3, "as many as before: {nodes:?}");
            planned(voters, learners, &[], Wanted::Lrs, None).unwrap();
        }
    }
}
