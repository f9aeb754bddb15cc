//! The redundancy of a cluster: its name, and the change to another, as a stream of what is done.

use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt as _};
use tonic::Status;

use super::admin::{listed, refusal};
use crate::consensus::group::Group;
use crate::consensus::membership::MembershipError;
use crate::consensus::redundancy::{Plan, Step};
use crate::consensus::zones::Wanted;
use crate::geo::pair::Pair;
use crate::proto::admin::v1 as pb;

type Steps = BoxStream<'static, Result<pb::SetRedundancyResponse, Status>>;

pub(super) fn wanted(word: pb::WantedRedundancy) -> Option<Wanted> {
    match word {
        pb::WantedRedundancy::Unspecified => None,
        pb::WantedRedundancy::Lrs => Some(Wanted::Lrs),
        pb::WantedRedundancy::Zrs => Some(Wanted::Zrs),
    }
}

/// What there is, and what was planned, as the first answer says it.
fn head(pair: &Pair, plan: Option<&Plan>) -> pb::SetRedundancyResponse {
    let status = pair.group().status();
    let voters = || status.nodes.iter().filter(|node| node.voter).map(|node| node.id);
    let redundancy = pair.redundancy_of(&status.redundancy);
    pb::SetRedundancyResponse {
        stage: pb::RedundancyStage::Planned.into(),
        wanted_redundancy: plan
            .map_or_else(|| redundancy.clone(), |plan| pair.redundancy_of(plan.redundancy.name())),
        redundancy,
        voters_before: plan.map_or_else(|| voters().collect(), |it| ids(&it.before)),
        voters: plan.map_or_else(|| voters().collect(), |it| ids(&it.voters)),
        ..pb::SetRedundancyResponse::default()
    }
}

fn ids(set: &std::collections::BTreeSet<u64>) -> Vec<u64> {
    set.iter().copied().collect()
}

fn step_out(
    pair: &Pair,
    head: &pb::SetRedundancyResponse,
    step: Step,
) -> pb::SetRedundancyResponse {
    let (stage, at) = match step {
        Step::Planned => (pb::RedundancyStage::Planned, None),
        Step::CatchingUp { node, held, last } => {
            (pb::RedundancyStage::CatchingUp, Some((node, held, last)))
        }
        Step::Changing => (pb::RedundancyStage::Changing, None),
        Step::Done => (pb::RedundancyStage::Done, None),
    };
    let (node_id, held_index, last_index) = at.unwrap_or_default();
    let redundancy = pair.redundancy_of(&pair.group().status().redundancy);
    let stage = stage.into();
    pb::SetRedundancyResponse { stage, redundancy, node_id, held_index, last_index, ..head.clone() }
}

fn said(plan: &Plan) -> String {
    let word = if plan.wanted == Wanted::Zrs { "zrs" } else { "lrs" };
    format!("change the redundancy to {word}: {} to vote", listed(&plan.voters))
}

/// What the audit is told of a change; nothing where none is made.
struct Line {
    who: String,
    what: Option<String>,
}

impl Line {
    /// Before the first stage is answered nothing is done yet.
    async fn note(
        &self,
        pair: &Pair,
        step: &Result<Option<Step>, MembershipError>,
    ) -> Result<(), Status> {
        let Some(what) = self.what.clone() else { return Ok(()) };
        match step {
            Ok(Some(Step::Planned)) => {
                let begun = pair.note(&self.who, format!("begin to {what}")).await;
                begun.map_err(super::region::refusal)?;
            }
            Ok(Some(Step::Done)) => {
                pair.note_end(&self.who, what, None::<&MembershipError>).await;
            }
            Ok(_) => {}
            Err(error) => pair.note_end(&self.who, what, Some(error)).await,
        }
        Ok(())
    }
}

/// What is done, step by step; where nothing is wanted, or it is a dry run, only what there is.
pub(super) fn steps(
    pair: Pair,
    asked: pb::SetRedundancyRequest,
    within: Duration,
) -> Result<Steps, Box<Status>> {
    let Some(wanted) = wanted(asked.wanted()) else {
        return Ok(stream::iter([Ok(head(&pair, None))]).boxed());
    };
    let group: &Group = pair.group();
    let zone = (!asked.zone.is_empty()).then_some(asked.zone.as_str());
    let refused = |error: &MembershipError| Box::new(refusal(error));
    let course = group.redundancy(wanted, zone, within).map_err(|error| refused(&error))?;
    let head = head(&pair, Some(&course.plan));
    let is_change = !(asked.dry_run || course.plan.is_done());
    let what = is_change.then(|| said(&course.plan));
    let begun = (pair, course, head, Line { who: asked.who, what });
    let steps = stream::try_unfold(begun, |(pair, mut course, head, line)| async move {
        let step = course.next().await;
        line.note(&pair, &step).await?;
        let step = step.map_err(|error| refusal(&error))?;
        Ok::<_, Status>(step.map(|step| (step_out(&pair, &head, step), (pair, course, head, line))))
    });
    Ok(steps.take(if asked.dry_run { 1 } else { usize::MAX }).boxed())
}
