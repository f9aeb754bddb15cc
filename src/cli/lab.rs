//! `zoneq lab`: clusters of real processes of this same binary on this machine, one in each of two
//! regions, to try things with, and the means to hurt them.
//!
//! Laws: what a verb did is in `lab.json` before it returns; a lab that did not come up leaves
//! no process behind; everything is waited for by its condition. A layout that does not survive
//! the loss of a zone is refused, but for one zone, which must be asked for and is called LRS.

pub mod files;
pub mod line;
pub mod pair;
pub mod process;
pub mod start;
pub mod table;
mod up;

use std::path::Path;
use std::time::Duration;

use clap::{Args, Subcommand};
use rustix::process::Signal;
use serde_json::{Value, json};

use self::files::{Lab, LabLock};
use self::pair::RegionView;
use self::process::State;
use self::table::{Eye, NodeView};
pub use self::up::Up;
use super::Context;
use super::exit::{Exit, Usage};

const EXAMPLES: &str = "\
Examples:
  zoneq lab up                    two regions of three zones, protected, with a live table;
                                  Ctrl-C ends it
  zoneq lab up --detach           the same in the background
  zoneq lab up --regions 1        one region
  zoneq lab kill z1               SIGKILL of every node of a zone
  zoneq lab start z1
  zoneq lab kill east             of every node of a region
  zoneq lab pause node 2          SIGSTOP; `resume` continues it
  zoneq lab partition z3          cut a zone off from the others of its region
  zoneq lab cut east west         cut the line between the regions; `heal` ends both
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
    /// SIGKILL nodes: a number, a zone, a region, or `all`
    Kill(Target),
    /// Start nodes that are down
    Start(Target),
    /// SIGSTOP nodes: they hold their connections and say nothing
    Pause(Target),
    /// SIGCONT nodes
    Resume(Target),
    /// Cut nodes off from all others of their region, both ways
    Partition(Target),
    /// Cut the line between the two regions, both ways
    Cut(Cut),
    /// End partitions and the cut of the line: all, or those of these nodes or regions
    Heal(Heal),
    /// Carry what the regions have for each other; `lab up` starts it
    #[command(hide = true)]
    Carry(line::Carry),
}

#[derive(Debug, Args)]
pub struct Target {
    /// Node numbers, zones, regions, or `all`
    #[arg(required = true, value_name = "NODE|ZONE|REGION")]
    what: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Cut {
    /// The two regions
    #[arg(required = true, num_args = 2, value_name = "REGION")]
    regions: Vec<String>,
}

#[derive(Debug, Args)]
pub struct Heal {
    /// Node numbers, zones, or the two regions of the line [default: all]
    #[arg(value_name = "NODE|ZONE|REGION")]
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
            LabVerb::Cut(cut) => sever(context, &dir, &cut.regions).await,
            LabVerb::Heal(heal) => mend(context, &dir, &heal.what).await,
            LabVerb::Carry(carry) => carry.run().await,
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

/// Asks every node and every region at once.
async fn look(lab: &Lab, eyes: &[Eye]) -> (Vec<NodeView>, Vec<RegionView>) {
    futures::join!(table::look(lab, eyes), pair::look(lab, eyes))
}

/// What is there, as scripts read it, with the fields of `more`.
fn value_of(lab: &Lab, views: &[NodeView], regions: &[RegionView], more: Value) -> Value {
    let mut value = more;
    value["nodes"] = table::nodes_json(views);
    if !regions.is_empty() {
        value["regions"] = pair::json(lab, views, regions);
    }
    value
}

/// The result that most verbs end with: the nodes as they are now.
async fn ended(context: &Context, lab: &Lab, text: &str) -> anyhow::Result<Exit> {
    let (views, regions) = look(lab, &Eye::all(lab)?).await;
    let value = value_of(lab, &views, &regions, json!({ "ok": true }));
    context.out.result(&value, text)?;
    Ok(Exit::Done)
}

async fn status(context: &Context, dir: &Path) -> anyhow::Result<Exit> {
    let lab = Lab::load(dir)?;
    let (views, regions) = look(&lab, &Eye::all(&lab)?).await;
    context.out.table(&table::head(&views), table::rows(&views))?;
    let value = value_of(&lab, &views, &regions, json!({}));
    context.out.result(&value, &foot(&lab, &views, &regions))?;
    Ok(Exit::Done)
}

/// One sentence on the whole.
fn foot(lab: &Lab, views: &[NodeView], regions: &[RegionView]) -> String {
    let mut text = if regions.is_empty() {
        let region = lab.regions().into_iter().next().unwrap_or_default();
        let leader = table::leader(views, &region).and_then(|id| lab.node(id));
        let leader = leader.map_or_else(
            || "nobody leads".to_owned(),
            |node| format!("node {} in zone {} leads", node.id, node.zone),
        );
        format!("{}: {leader}", redundancy(lab, regions))
    } else {
        pair::sentence(lab, views, regions)
    };
    if !lab.file.partitions.is_empty() {
        text.push_str(&format!("; cut off: {:?}", lab.file.partitions));
    }
    text
}

/// The name of what the lab survives, were each zone and region a place of its own.
fn redundancy(lab: &Lab, regions: &[RegionView]) -> String {
    let writes = regions.iter().find(|view| view.is_writable());
    match writes.and_then(|view| view.status.as_ref()) {
        Some(status) => status.redundancy.clone(),
        None if start::widest(lab) == 1 => "LRS".to_owned(),
        None => "ZRS".to_owned(),
    }
}

/// Ends every node: asks first, and kills what has not ended in time.
pub async fn down(dir: &Path) -> anyhow::Result<Lab> {
    let mut lab = Lab::load(dir)?;
    let _lock = LabLock::take(dir).await?;
    lab = Lab { file: Lab::load(dir)?.file, ..lab };
    let ids: Vec<u64> = lab.file.nodes.iter().map(|node| node.id).collect();
    stop(&mut lab, &ids).await?;
    line::end(&mut lab).await?;
    lab.file.partitions.clear();
    if let Some(line) = &mut lab.file.line {
        line.cut = false;
    }
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
        if ids.len() == lab.file.nodes.len() {
            line::end(&mut lab).await?;
        }
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
    line::ensure(&mut lab).await?;
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
    for region in lab.regions() {
        let (all, cut) = (lab.in_region(&region), |id: &u64| ids.contains(id));
        if all.iter().all(cut) {
            let text = format!(
                "a partition of all nodes of region {region} cuts nobody off; the line between \
                 two regions is cut by `zoneq lab cut`"
            );
            return Err(Usage(text).into());
        }
    }
    lab.file.partitions.push(ids.clone());
    lab.save()?;
    set_faults(&lab).await?;
    ended(context, &lab, &format!("{} cut off from the others", these(&ids))).await
}

/// Cuts the line between the regions that words name.
async fn sever(context: &Context, dir: &Path, words: &[String]) -> anyhow::Result<Exit> {
    Lab::load(dir)?;
    let _lock = LabLock::take(dir).await?;
    let mut lab = Lab::load(dir)?;
    let regions = lab.regions();
    if regions.len() < 2 || !names_all(&regions, words) {
        let text = format!("the line is between two regions; this lab has {regions:?}");
        return Err(Usage(text).into());
    }
    line::set_cut(&mut lab, true).await?;
    let text = format!("the line between {} is cut", regions.join(" and "));
    ended(context, &lab, &text).await
}

fn names_all(regions: &[String], words: &[String]) -> bool {
    regions.iter().all(|region| words.contains(region))
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
    let line = lab.file.line.as_ref().is_some_and(|line| line.cut)
        && (words.is_empty() || names_all(&lab.regions(), words));
    if line {
        line::set_cut(&mut lab, false).await?;
    }
    set_faults(&lab).await?;
    let line = if line { "; the line between the regions is healed" } else { "" };
    ended(context, &lab, &format!("partitions healed: {healed}{line}")).await
}

/// Tells every running node whom it is cut off from.
pub async fn set_faults(lab: &Lab) -> anyhow::Result<()> {
    for node in lab.file.nodes.iter().filter(|node| node.state() == State::Running) {
        Eye::new(node)?.set_faults(lab.cut_peers(node.id)).await?;
    }
    Ok(())
}
