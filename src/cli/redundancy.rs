//! `zoneq cluster redundancy`: what the cluster survives, by name, and the change to another.

use anyhow::Context as _;
use clap::builder::FalseyValueParser;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::Context;
use super::exit::{Exit, Usage};
use crate::client::Admin;
use crate::proto::admin::v1 as pb;

#[derive(Debug, Args)]
pub struct Redundancy {
    /// What the cluster shall survive: `zrs`, the loss of any one zone; `lrs`, not that of the zone
    /// that its voters are in [default: only show what it is]
    #[arg(value_enum)]
    wanted: Option<Wanted>,
    /// Of `lrs`: the zone of the voters [default: the leader's]
    #[arg(long, env = "ZONEQ_CLUSTER_REDUNDANCY_ZONE")]
    zone: Option<String>,
    /// Only show what would be changed
    #[arg(long, env = "ZONEQ_CLUSTER_REDUNDANCY_DRY_RUN", value_parser = FalseyValueParser::new())]
    dry_run: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wanted {
    Lrs,
    Zrs,
}

fn stage_name(stage: i32) -> String {
    let stage = pb::RedundancyStage::try_from(stage).unwrap_or_default();
    let name = stage.as_str_name().trim_start_matches("REDUNDANCY_STAGE_");
    name.to_ascii_lowercase().replace('_', "-")
}

fn list(ids: &[u64]) -> String {
    ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

/// Who begins to vote and who no longer does.
fn change(step: &pb::SetRedundancyResponse) -> (Vec<u64>, Vec<u64>) {
    let without = |these: &[u64], those: &[u64]| -> Vec<u64> {
        these.iter().copied().filter(|id| !those.contains(id)).collect()
    };
    (without(&step.voters, &step.voters_before), without(&step.voters_before, &step.voters))
}

/// The way, as people read it.
fn way(step: &pb::SetRedundancyResponse) -> String {
    let (begin, end) = change(step);
    let mut text = format!("{} to {}", step.redundancy, step.wanted_redundancy);
    if !begin.is_empty() {
        text += &format!("; node {} begins to vote", list(&begin));
    }
    if !end.is_empty() {
        text += &format!("; node {} votes no longer and stays as a learner", list(&end));
    }
    text
}

fn value(step: &pb::SetRedundancyResponse) -> Value {
    let (begin, end) = change(step);
    json!({
        "ok": true,
        "stage": stage_name(step.stage),
        "redundancy": step.redundancy,
        "wanted_redundancy": step.wanted_redundancy,
        "voters_before": step.voters_before,
        "voters": step.voters,
        "begin_to_vote": begin,
        "vote_no_longer": end,
        "node": (step.node_id > 0).then_some(step.node_id),
        "held_index": (step.node_id > 0).then_some(step.held_index),
        "last_index": (step.node_id > 0).then_some(step.last_index),
    })
}

impl Redundancy {
    pub async fn run(self, context: &Context, admin: &Admin) -> anyhow::Result<Exit> {
        let Redundancy { wanted, zone, dry_run } = self;
        if zone.is_some() && wanted != Some(Wanted::Lrs) {
            let text = "--zone says where the voters of `lrs` are; `zrs` takes several zones";
            return Err(Usage(text.to_owned()).into());
        }
        let word = match wanted {
            None => pb::WantedRedundancy::Unspecified,
            Some(Wanted::Lrs) => pb::WantedRedundancy::Lrs,
            Some(Wanted::Zrs) => pb::WantedRedundancy::Zrs,
        };
        let mut steps = admin.redundancy(word, zone, dry_run).await?;
        let mut last = pb::SetRedundancyResponse::default();
        let spinner = context.out.progress(None, "waiting for the cluster");
        let ended = async {
            while let Some(step) = steps.message().await? {
                context.out.item(&value(&step))?;
                match step.stage() {
                    pb::RedundancyStage::Planned if step.voters != step.voters_before => {
                        spinner.suspend(|| context.out.say(&way(&step)))?;
                    }
                    pb::RedundancyStage::CatchingUp => spinner.set_message(format!(
                        "node {} holds entries up to {} of {}",
                        step.node_id, step.held_index, step.last_index
                    )),
                    pb::RedundancyStage::Changing => {
                        spinner.set_message("the voters are changed, in one step");
                    }
                    _ => {}
                }
                last = step;
            }
            anyhow::Ok(())
        };
        let ended = ended.await;
        spinner.finish_and_clear();
        ended.context("broken off: run it again to go on")?;
        let same = last.voters == last.voters_before;
        let text = match (wanted, dry_run, same) {
            (None, ..) => format!("{}; node {} votes", last.redundancy, list(&last.voters)),
            (_, _, true) => format!("{} already; nothing is changed", last.redundancy),
            (_, true, false) => format!("nothing was changed: {}", way(&last)),
            (_, false, false) => format!("{}; node {} votes", last.redundancy, list(&last.voters)),
        };
        context.out.result(&value(&last), &text)?;
        Ok(Exit::Done)
    }
}
