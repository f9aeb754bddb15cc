//! `zoneq region failback`: the way back after a failover, shown and gone.

use anyhow::Context as _;
use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::json;

use super::Context;
use super::exit::Exit;
use crate::client::Regions;
use crate::proto::admin::v1 as pb;

#[derive(Debug, Args)]
pub struct Failback {
    /// The region that is to be the primary [default: the one where the data was at first]
    #[arg(long, env = "ZONEQ_REGION_FAILBACK_TO", value_name = "REGION")]
    to: Option<String>,
    /// Only show what is to be done
    #[arg(long, env = "ZONEQ_REGION_FAILBACK_DRY_RUN", value_parser = FalseyValueParser::new())]
    dry_run: bool,
    /// Give up what a deposed primary has alone, instead of sending it to the new one
    #[arg(long, env = "ZONEQ_REGION_FAILBACK_DISCARD_TAIL", value_parser = FalseyValueParser::new())]
    discard_tail: bool,
}

fn name(stage: i32) -> String {
    let stage = pb::FailBackStage::try_from(stage).unwrap_or_default();
    let name = stage.as_str_name().trim_start_matches("FAIL_BACK_STAGE_");
    name.to_ascii_lowercase().replace('_', "-")
}

fn names(way: &pb::FailBackResponse) -> Vec<String> {
    way.stages.iter().map(|stage| name(*stage)).collect()
}

impl Failback {
    pub async fn run(self, context: &Context, regions: &Regions) -> anyhow::Result<Exit> {
        let Failback { to, dry_run, discard_tail } = self;
        let mut ways = regions.fail_back(to.as_deref(), dry_run, discard_tail).await?;
        let mut last = pb::FailBackResponse::default();
        let mut shown: Option<Vec<String>> = None;
        while let Some(way) = ways.message().await.context("broken off: run it again to go on")? {
            let stages = names(&way);
            if shown.as_ref() != Some(&stages) {
                context.out.item(&json!({ "to": way.to, "stages": stages }))?;
                if !stages.is_empty() {
                    context.out.say(&format!("to region {}: {}", way.to, stages.join(", ")))?;
                }
                shown = Some(stages);
            }
            last = way;
        }
        let stages = names(&last);
        let value = json!({
            "ok": dry_run || stages.is_empty(),
            "to": last.to,
            "stages": stages,
            "replayed": last.replayed,
            "skipped": last.skipped,
            "copied_bytes": last.copied_bytes,
        });
        let text = match (stages.is_empty(), dry_run) {
            (true, _) => format!("region {} is the primary", last.to),
            (false, _) => format!("to region {}: {}", last.to, stages.join(", ")),
        };
        context.out.result(&value, &text)?;
        Ok(if dry_run || stages.is_empty() { Exit::Done } else { Exit::Failed })
    }
}
