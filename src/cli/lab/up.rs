//! `zoneq lab up`: a lab that serves, and the view of it until somebody ends it.

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::files::Lab;
use super::start::{self, Layout};
use super::table::{self, Eye, Live};
use super::{down, ended, foot, look, redundancy, value_of};
use crate::cli::Context;
use crate::cli::exit::Exit;

#[derive(Debug, Args)]
pub struct Up {
    /// Regions, each a cluster of its own: 1, or 2, of which the second protects the first
    /// [default: 2]
    #[arg(long, env = "ZONEQ_LAB_UP_REGIONS")]
    regions: Option<u32>,
    /// Zones of each region [default: 3]; 1 is LRS and survives no loss of a zone
    #[arg(long, env = "ZONEQ_LAB_UP_ZONES")]
    zones: Option<u32>,
    /// Nodes in each zone [default: 1]
    #[arg(long, env = "ZONEQ_LAB_UP_NODES_PER_ZONE")]
    nodes_per_zone: Option<u32>,
    /// First port for clients; taken ones are passed over
    #[arg(long, env = "ZONEQ_LAB_UP_GRPC_PORT", default_value_t = 7401, value_name = "PORT")]
    grpc_port: u16,
    /// First port between nodes, and of the line between the regions; taken ones are passed over
    #[arg(long, env = "ZONEQ_LAB_UP_PEER_PORT", default_value_t = 7501, value_name = "PORT")]
    peer_port: u16,
    /// First port for metrics; taken ones are passed over
    #[arg(long, env = "ZONEQ_LAB_UP_METRICS_PORT", default_value_t = 7601, value_name = "PORT")]
    metrics_port: u16,
    /// Return once every node serves and the pair is live, and leave them running
    #[arg(long, env = "ZONEQ_LAB_UP_DETACH", value_parser = FalseyValueParser::new())]
    detach: bool,
}

impl Up {
    fn layout(&self, dir: &Path) -> anyhow::Result<Layout> {
        Layout {
            regions: self.regions,
            zones: self.zones,
            nodes_per_zone: self.nodes_per_zone,
            grpc_port: self.grpc_port,
            peer_port: self.peer_port,
            metrics_port: self.metrics_port,
        }
        .checked(dir)
    }

    pub(super) async fn run(self, context: &Context, dir: &Path) -> anyhow::Result<Exit> {
        let layout = self.layout(dir)?;
        let spinner = context.out.progress(None, "starting the lab");
        let up = start::up(dir, &layout).await;
        spinner.finish_and_clear();
        let up = up?;
        for note in &up.notes {
            context.out.say(note)?;
        }
        let lab = up.lab;
        let (views, regions) = look(&lab, &Eye::all(&lab)?).await;
        let writes = regions.iter().find(|view| view.is_writable()).map(|view| view.name.clone());
        let writes = writes.or_else(|| lab.regions().into_iter().next()).unwrap_or_default();
        let head = json!({
            "ok": true,
            "dir": dir.display().to_string(),
            "cluster_id": lab.file.cluster_id,
            "redundancy": redundancy(&lab, &regions),
            "leader": table::leader(&views, &writes),
            "ready_ms": u64::try_from(up.took.as_millis()).unwrap_or(u64::MAX),
            "notes": up.notes,
        });
        let value = value_of(&lab, &views, &regions, head);
        let text = format!(
            "{} nodes in {} serve after {:.1} s",
            lab.file.nodes.len(),
            dir.display(),
            up.took.as_secs_f64()
        );
        if self.detach {
            context.out.table(&table::head(&views), table::rows(&views))?;
            let text = format!("{text}; {}", foot(&lab, &views, &regions));
            context.out.result(&value, &text)?;
            return Ok(Exit::Done);
        }
        context.out.item(&value)?;
        context.out.say(&format!("{text}; Ctrl-C ends it"))?;
        watch(context, dir).await?;
        let lab = down(dir).await?;
        ended(context, &lab, "the lab is down; its data stays").await
    }
}

/// Shows the nodes until somebody ends it.
async fn watch(context: &Context, dir: &Path) -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut every = tokio::time::interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let live = !context.out.is_json() && io::stdout().is_terminal();
    let mut drawn = Live::default();
    let mut eyes: Option<(Lab, Vec<Eye>)> = None;
    loop {
        tokio::select! {
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = every.tick() => {}
        }
        // Other verbs change the lab meanwhile. The states are asked for without a terminal
        // too: that reaps the processes that ended.
        let Ok(lab) = Lab::load(dir) else { continue };
        let known = eyes.take().filter(|(before, _)| before.file.nodes == lab.file.nodes);
        let looking = match known {
            Some((_, eyes)) => eyes,
            None => Eye::all(&lab)?,
        };
        if live {
            let (views, regions) = look(&lab, &looking).await;
            drawn.draw(&views, &foot(&lab, &views, &regions))?;
        } else {
            lab.file.nodes.iter().for_each(|node| {
                let _ = node.state();
            });
            lab.file.line.iter().for_each(|line| {
                let _ = line.state();
            });
        }
        eyes = Some((lab, looking));
    }
}
