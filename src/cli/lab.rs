//! `zoneq lab`: a cluster of real processes of this same binary on this machine, to try things
//! with, and the means to hurt it.
//!
//! Laws: what a verb did is in `lab.json` before it returns; a lab that did not come up leaves
//! no process behind; everything is waited for by its condition. A layout that does not survive
//! the loss of a zone is refused, but for one zone, which must be asked for and is called LRS.

pub mod files;
pub mod process;
pub mod start;
pub mod table;

use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{Args, Subcommand};
use rustix::process::Signal;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::files::{Lab, LabLock};
use self::process::State;
use self::start::Layout;
use self::table::{Eye, Live, NodeView};
use super::Context;
use super::exit::{Exit, Usage};

const EXAMPLES: &str = "\
Examples:
  zoneq lab up                    three zones, with a live table; Ctrl-C ends it
  zoneq lab up --detach           the same in the background
  zoneq lab kill z1               SIGKILL of every node of a zone
  zoneq lab start z1
  zoneq lab pause node 2          SIGSTOP; `resume` continues it
  zoneq lab partition z3          cut a zone off from the others; `heal` ends it
  zoneq lab down                  end it and keep its data";

/// How long nodes may take to end by themselves.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, Subcommand)]
#[command(after_help = EXAMPLES)]
pub enum LabVerb {
    /// Start a lab, or start again one that is there with its data
    Up(Up),
    /// Show the nodes
    Status,
    /// End all nodes gracefully; the data stays
    Down,
    /// SIGKILL nodes: a number, a zone, or `all`
    Kill(Target),
    /// Start nodes that are down
    Start(Target),
    /// SIGSTOP nodes: they hold their connections and say nothing
    Pause(Target),
    /// SIGCONT nodes
    Resume(Target),
    /// Cut nodes off from all others, both ways
    Partition(Target),
    /// End partitions: all, or those of these nodes
    Heal(Heal),
}

#[derive(Debug, Args)]
pub struct Up {
    /// Regions; one for now
    #[arg(long, env = "ZONEQ_LAB_UP_REGIONS", default_value_t = 1)]
    regions: u32,
    /// Zones [default: 3]; 1 is LRS and survives no loss of a zone
    #[arg(long, env = "ZONEQ_LAB_UP_ZONES")]
    zones: Option<u32>,
    /// Nodes in each zone [default: 1]
    #[arg(long, env = "ZONEQ_LAB_UP_NODES_PER_ZONE")]
    nodes_per_zone: Option<u32>,
    /// First port for clients; taken ones are passed over
    #[arg(long, env = "ZONEQ_LAB_UP_GRPC_PORT", default_value_t = 7401, value_name = "PORT")]
    grpc_port: u16,
    /// First port between nodes; taken ones are passed over
    #[arg(long, env = "ZONEQ_LAB_UP_PEER_PORT", default_value_t = 7501, value_name = "PORT")]
    peer_port: u16,
    /// Return once every node serves, and leave them running
    #[arg(long, env = "ZONEQ_LAB_UP_DETACH", value_parser = FalseyValueParser::new())]
    detach: bool,
}

#[derive(Debug, Args)]
pub struct Target {
    /// Node numbers, zones, or `all`
    #[arg(required = true, value_name = "NODE|ZONE")]
    what: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Heal {
    /// Node numbers or zones [default: all]
    #[arg(value_name = "NODE|ZONE")]
    what: Vec<String>,
}

impl LabVerb {
    pub async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let dir = context.lab_dir();
        match self {
            LabVerb::Up(up) => up.run(context, &dir).await,
            LabVerb::Status => status(context, &dir).await,
            LabVerb::Down => {
                let lab = down(&dir).await?;
                let text = format!("the lab in {} is down; its data stays", dir.display());
                ended(context, &lab, &text).await
            }
            LabVerb::Kill(target) => hurt(context, &dir, &target.what, Signal::KILL).await,
            LabVerb::Pause(target) => hurt(context, &dir, &target.what, Signal::STOP).await,
            LabVerb::Resume(target) => hurt(context, &dir, &target.what, Signal::CONT).await,
            LabVerb::Start(target) => {
                let (lab, ids) = start_nodes(&dir, &target.what).await?;
                ended(context, &lab, &format!("{} serving", these(&ids))).await
            }
            LabVerb::Partition(target) => partition(context, &dir, &target.what).await,
            LabVerb::Heal(heal) => mend(context, &dir, &heal.what).await,
        }
    }
}

/// `node 2 is`, `nodes 1 and 3 are`.
fn these(ids: &[u64]) -> String {
    let names: Vec<String> = ids.iter().map(u64::to_string).collect();
    match names.as_slice() {
        [] => "no node is".to_owned(),
        [one] => format!("node {one} is"),
        [most @ .., last] => format!("nodes {} and {last} are", most.join(", ")),
    }
}

/// The result that most verbs end with: the nodes as they are now.
async fn ended(context: &Context, lab: &Lab, text: &str) -> anyhow::Result<Exit> {
    let views = table::look(lab, &Eye::all(lab)?).await;
    context.out.result(&json!({ "ok": true, "nodes": table::nodes_json(&views) }), text)?;
    Ok(Exit::Done)
}

async fn status(context: &Context, dir: &Path) -> anyhow::Result<Exit> {
    let lab = Lab::load(dir)?;
    let views = table::look(&lab, &Eye::all(&lab)?).await;
    context.out.table(&table::HEAD, table::rows(&views))?;
    let value = json!({ "nodes": table::nodes_json(&views) });
    context.out.result(&value, &foot(&lab, &views))?;
    Ok(Exit::Done)
}

/// One sentence on the whole.
fn foot(lab: &Lab, views: &[NodeView]) -> String {
    let leader = table::leader(views).and_then(|id| lab.node(id));
    let leader = leader.map_or_else(
        || "nobody leads".to_owned(),
        |node| format!("node {} in zone {} leads", node.id, node.zone),
    );
    let redundancy = if lab.zones().len() == 1 { "LRS" } else { "ZRS" };
    let mut text = format!("{redundancy}: {leader}");
    if !lab.file.partitions.is_empty() {
        text.push_str(&format!("; cut off: {:?}", lab.file.partitions));
    }
    text
}

impl Up {
    fn layout(&self, dir: &Path) -> anyhow::Result<Layout> {
        if self.regions != 1 {
            let text = format!("--regions is {}; this version has one region only", self.regions);
            return Err(Usage(text).into());
        }
        Layout {
            zones: self.zones,
            nodes_per_zone: self.nodes_per_zone,
            grpc_port: self.grpc_port,
            peer_port: self.peer_port,
        }
        .checked(dir)
    }

    async fn run(self, context: &Context, dir: &Path) -> anyhow::Result<Exit> {
        let layout = self.layout(dir)?;
        let spinner = context.out.progress(None, "starting the lab");
        let up = start::up(dir, &layout).await;
        spinner.finish_and_clear();
        let up = up?;
        for note in &up.notes {
            context.out.say(note)?;
        }
        let lab = up.lab;
        let views = table::look(&lab, &Eye::all(&lab)?).await;
        let value = json!({
            "ok": true,
            "dir": dir.display().to_string(),
            "cluster_id": lab.file.cluster_id,
            "redundancy": if lab.zones().len() == 1 { "LRS" } else { "ZRS" },
            "leader": table::leader(&views),
            "ready_ms": u64::try_from(up.took.as_millis()).unwrap_or(u64::MAX),
            "notes": up.notes,
            "nodes": table::nodes_json(&views),
        });
        let text = format!(
            "{} nodes in {} serve after {:.1} s",
            lab.file.nodes.len(),
            dir.display(),
            up.took.as_secs_f64()
        );
        if self.detach {
            context.out.table(&table::HEAD, table::rows(&views))?;
            let text = format!("{text}; {}", foot(&lab, &views));
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
            let views = table::look(&lab, &looking).await;
            drawn.draw(&views, &foot(&lab, &views))?;
        } else {
            lab.file.nodes.iter().for_each(|node| {
                let _ = node.state();
            });
        }
        eyes = Some((lab, looking));
    }
}

/// Ends every node: asks first, and kills what has not ended in time.
pub async fn down(dir: &Path) -> anyhow::Result<Lab> {
    let mut lab = Lab::load(dir)?;
    let _lock = LabLock::take(dir).await?;
    lab = Lab { file: Lab::load(dir)?.file, ..lab };
    let ids: Vec<u64> = lab.file.nodes.iter().map(|node| node.id).collect();
    stop(&mut lab, &ids).await?;
    lab.file.partitions.clear();
    lab.save()?;
    Ok(lab)
}

/// SIGTERM, and SIGKILL for those that do not end in time. The caller saves the lab.
pub async fn stop(lab: &mut Lab, ids: &[u64]) -> anyhow::Result<()> {
    let mut running = Vec::new();
    for node in lab.file.nodes.iter_mut().filter(|node| ids.contains(&node.id)) {
        if let Some(id) = node.process.take() {
            process::signal(id, Signal::CONT)?;
            process::signal(id, Signal::TERM)?;
            running.push(id);
        }
    }
    for id in process::wait_gone(&running, GRACE).await {
        process::signal(id, Signal::KILL)?;
    }
    let left = process::wait_gone(&running, GRACE).await;
    match left.first() {
        Some(id) => anyhow::bail!("process {} does not end", id.pid),
        None => Ok(()),
    }
}

/// SIGKILL, and waits until they are gone. The caller saves the lab.
pub async fn kill(lab: &mut Lab, ids: &[u64]) -> anyhow::Result<()> {
    let nodes = lab.file.nodes.iter_mut().filter(|node| ids.contains(&node.id));
    let processes: Vec<process::Id> = nodes.filter_map(|node| node.process.take()).collect();
    for id in &processes {
        process::signal(*id, Signal::KILL)?;
    }
    let left = process::wait_gone(&processes, GRACE).await;
    match left.first() {
        Some(id) => anyhow::bail!("process {} does not end", id.pid),
        None => Ok(()),
    }
}

async fn hurt(
    context: &Context,
    dir: &Path,
    words: &[String],
    what: Signal,
) -> anyhow::Result<Exit> {
    Lab::load(dir)?;
    let _lock = LabLock::take(dir).await?;
    let mut lab = Lab::load(dir)?;
    let ids = lab.targets(words)?;
    let text = if what == Signal::KILL {
        kill(&mut lab, &ids).await?;
        lab.save()?;
        "killed"
    } else {
        let expected = if what == Signal::STOP { State::Paused } else { State::Running };
        for node in lab.file.nodes.iter().filter(|node| ids.contains(&node.id)) {
            let Some(id) = node.process else {
                let text = format!("node {} is down; start it first", node.id);
                return Err(Usage(text).into());
            };
            process::signal(id, what)?;
            while !matches!(process::state(id), state if state == expected || state == State::Down)
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        if what == Signal::STOP { "paused" } else { "running" }
    };
    ended(context, &lab, &format!("{} {text}", these(&ids))).await
}

/// Starts the nodes that words mean, and waits until they serve.
async fn start_nodes(dir: &Path, words: &[String]) -> anyhow::Result<(Lab, Vec<u64>)> {
    Lab::load(dir)?;
    let _lock = LabLock::take(dir).await?;
    let mut lab = Lab::load(dir)?;
    let ids = lab.targets(words)?;
    start::nodes(&mut lab, &ids).await?;
    start::wait_serving(&lab, &ids, start::PATIENCE).await?;
    set_faults(&lab).await?;
    Ok((lab, ids))
}

async fn partition(context: &Context, dir: &Path, words: &[String]) -> anyhow::Result<Exit> {
    Lab::load(dir)?;
    let _lock = LabLock::take(dir).await?;
    let mut lab = Lab::load(dir)?;
    let ids = lab.targets(words)?;
    if ids.len() == lab.file.nodes.len() {
        return Err(Usage("a partition of all nodes cuts nobody off".to_owned()).into());
    }
    lab.file.partitions.push(ids.clone());
    lab.save()?;
    set_faults(&lab).await?;
    ended(context, &lab, &format!("{} cut off from the others", these(&ids))).await
}

async fn mend(context: &Context, dir: &Path, words: &[String]) -> anyhow::Result<Exit> {
    Lab::load(dir)?;
    let _lock = LabLock::take(dir).await?;
    let mut lab = Lab::load(dir)?;
    let ids = lab.targets(words)?;
    let before = lab.file.partitions.len();
    lab.file
        .partitions
        .retain(|group| !words.is_empty() && !group.iter().any(|id| ids.contains(id)));
    let healed = before - lab.file.partitions.len();
    lab.save()?;
    set_faults(&lab).await?;
    ended(context, &lab, &format!("partitions healed: {healed}")).await
}

/// Tells every running node whom it is cut off from.
pub async fn set_faults(lab: &Lab) -> anyhow::Result<()> {
    for node in lab.file.nodes.iter().filter(|node| node.state() == State::Running) {
        Eye::new(node)?.set_faults(lab.cut_peers(node.id)).await?;
    }
    Ok(())
}
