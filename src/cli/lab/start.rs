//! Starts a lab's nodes and waits until they serve.
//!
//! Laws: ports are chosen by one lab at a time on this machine, from the choice to the moment the
//! nodes listen on them. Nodes that do not come up are killed, and what their log ends with is in
//! the error.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use futures::future::join_all;
use tokio::time::Instant;

use super::files::{self, Lab, LabLock, LabNode};
use super::line;
use super::pair;
use super::process::{self, State};
use super::table::Eye;
use crate::cli::exit::Usage;
use crate::clock::{Clock as _, SystemClock};

/// The regions of a lab, in the order in which they are taken.
const REGIONS: [&str; 2] = ["east", "west"];
const HEARTBEAT_MS: u64 = 100;
const ELECTION_MS: &str = "200..400";
/// A lab may lie on a small disk, and all its nodes on one.
const DISK_RESERVE_BYTES: u64 = 16 << 20;
/// Of one region.
const MOST_NODES: u32 = 15;
/// How long nodes may take until they serve.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How a lab is to be laid out; what is not given is as it was, or as usual.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub regions: Option<u32>,
    pub zones: Option<u32>,
    pub nodes_per_zone: Option<u32>,
    pub grpc_port: u16,
    pub peer_port: u16,
    pub metrics_port: u16,
}

/// The first port for metrics where nobody says another.
const METRICS_PORT: u16 = 7601;

impl Default for Layout {
    fn default() -> Self {
        Layout {
            regions: None,
            zones: None,
            nodes_per_zone: None,
            grpc_port: 7401,
            peer_port: 7501,
            metrics_port: METRICS_PORT,
        }
    }
}

/// The most zones that a region of the lab has.
#[must_use]
pub fn widest(lab: &Lab) -> usize {
    lab.regions().iter().map(|region| lab.part(region).zones().len()).max().unwrap_or(0)
}

/// A lab that is up.
#[derive(Debug)]
pub struct Started {
    pub lab: Lab,
    /// What the user should know.
    pub notes: Vec<String>,
    pub took: Duration,
}

/// The zone rule: a majority of the voters is left when any one zone is lost.
#[must_use]
pub fn survives_a_zone(nodes_of_each_zone: &[u64]) -> bool {
    let voters: u64 = nodes_of_each_zone.iter().sum();
    let largest = nodes_of_each_zone.iter().max().copied().unwrap_or(0);
    voters - largest > voters / 2
}

impl Layout {
    /// Refuses what makes no sense, and what differs from a lab that is there.
    pub fn checked(self, dir: &Path) -> anyhow::Result<Layout> {
        let usage = |text: String| Err(Usage(text).into());
        let (zones, each) = (self.zones.unwrap_or(3), self.nodes_per_zone.unwrap_or(1));
        if let Some(regions) = self.regions.filter(|many| !(1..=2).contains(many)) {
            return usage(format!("--regions is {regions}; allowed: 1 and 2"));
        }
        let nodes = zones.saturating_mul(each);
        if nodes == 0 || nodes > MOST_NODES {
            return usage(format!(
                "--zones {zones} times --nodes-per-zone {each} is {nodes}; allowed: 1 to \
                 {MOST_NODES} nodes a region"
            ));
        }
        let layout = vec![u64::from(each); zones as usize];
        if zones != 1 && !survives_a_zone(&layout) {
            return usage(format!(
                "--zones {zones}: no majority is left when one of {zones} zones is lost; use 3 or \
                 more, or 1 for LRS"
            ));
        }
        if !Lab::exists(dir) {
            return Ok(self);
        }
        let lab = Lab::load(dir)?;
        let there = lab.zones();
        let largest = there.iter().map(|zone| lab.in_zone(zone).len()).max().unwrap_or(0);
        for (flag, asked, is) in [
            ("--regions", self.regions, lab.regions().len()),
            ("--zones", self.zones, widest(&lab)),
            ("--nodes-per-zone", self.nodes_per_zone, largest),
        ] {
            if asked.is_some_and(|asked| asked as usize != is) {
                return usage(format!(
                    "{flag} is {}, and the lab in {} has {is}; use another --dir, or remove it",
                    asked.unwrap_or(0),
                    dir.display()
                ));
            }
        }
        Ok(self)
    }

    /// A lab that is laid out and not started. Zones are taken in turn, so that the first nodes of
    /// a region are in different ones; numbers and zones go on over the regions, so that each names
    /// one thing.
    fn lab(self, dir: &Path, notes: &mut Vec<String>) -> anyhow::Result<Lab> {
        let (zones, each) = (self.zones.unwrap_or(3), self.nodes_per_zone.unwrap_or(1));
        let regions = self.regions.unwrap_or(2);
        let (mut grpc, mut peer, mut metrics) = (self.grpc_port, self.peer_port, self.metrics_port);
        let (mut taken, mut passed) = (Vec::new(), Vec::new());
        let mut nodes = Vec::new();
        let zones = u64::from(zones);
        let size = zones * u64::from(each);
        for at in 0..size * u64::from(regions) {
            let grpc_port = files::free_port(grpc, &taken, &mut passed)?;
            taken.push(grpc_port);
            let peer_port = files::free_port(peer, &taken, &mut passed)?;
            taken.push(peer_port);
            let metrics_port = files::free_port(metrics, &taken, &mut passed)?;
            taken.push(metrics_port);
            (grpc, peer) = (grpc_port.saturating_add(1), peer_port.saturating_add(1));
            metrics = metrics_port.saturating_add(1);
            let (region, within) = (at / size, at % size);
            let name = usize::try_from(region).ok().and_then(|at| REGIONS.get(at));
            nodes.push(LabNode {
                id: at + 1,
                region: name.copied().unwrap_or_default().to_owned(),
                zone: format!("z{}", region * zones + within % zones + 1),
                grpc_port,
                peer_port,
                metrics_port,
                args: Vec::new(),
                process: None,
            });
        }
        let line = match regions {
            1 => None,
            _ => Some(line::lay(&nodes, peer, &mut taken, &mut passed)?),
        };
        if !passed.is_empty() {
            notes.push(format!("ports in use by others were passed over: {passed:?}"));
        }
        let mark = SystemClock::default().wall_us();
        let mut lab = Lab::new(dir.to_path_buf(), format!("lab-{mark:x}"), nodes);
        lab.file.line = line;
        Ok(lab)
    }
}

/// The command line of a node.
fn args(lab: &Lab, node: &LabNode) -> Vec<String> {
    let peer =
        |node: &LabNode| format!("{}={}@{}/{}", node.id, node.zone, node.peer(), node.grpc());
    let peers = lab.file.nodes.iter().filter(|it| it.region == node.region).map(peer);
    let peers: Vec<String> = peers.collect();
    let data = lab.data_dir(node.id).display().to_string();
    let mut args = vec!["serve".to_owned(), "--json".to_owned(), "--enable-faults".to_owned()];
    for (flag, value) in [
        ("--node-id", node.id.to_string()),
        ("--cluster-id", lab.cluster_of(node)),
        ("--region", node.region.clone()),
        ("--zone", node.zone.clone()),
        ("--data-dir", data),
        ("--grpc-listen", node.grpc()),
        ("--peer-listen", node.peer()),
        ("--peers", peers.join(",")),
        ("--heartbeat-ms", HEARTBEAT_MS.to_string()),
        ("--election-ms", ELECTION_MS.to_owned()),
        ("--disk-reserve-bytes", DISK_RESERVE_BYTES.to_string()),
    ] {
        args.extend([flag.to_owned(), value]);
    }
    if let Some(metrics) = node.metrics() {
        args.extend(["--metrics-listen".to_owned(), metrics]);
    }
    if let (Some(line), Some(other)) = (&lab.file.line, lab.beside(&node.region)) {
        let other = line.to(&lab.in_region(&other)).join(",");
        args.extend(["--other-region".to_owned(), other]);
    }
    args
}

/// Brings a lab up: a new one, or the one that is there with its data.
pub async fn up(dir: &Path, layout: &Layout) -> anyhow::Result<Started> {
    std::fs::create_dir_all(dir)
        .with_context(|| format!("the lab's folder {} cannot be made", dir.display()))?;
    let dir = dir.canonicalize().with_context(|| format!("{} cannot be read", dir.display()))?;
    let _lock = LabLock::take(&dir).await?;
    let choosing = std::env::temp_dir().join("zoneq-lab-ports");
    std::fs::create_dir_all(&choosing)
        .with_context(|| format!("{} cannot be made", choosing.display()))?;
    let _ports = LabLock::take(&choosing).await?;
    let begun = Instant::now();
    let mut notes = Vec::new();
    let mut lab = if Lab::exists(&dir) {
        let mut lab = Lab::load(&dir)?;
        lab.file.partitions.clear();
        if let Some(line) = &mut lab.file.line {
            line.cut = false;
        }
        move_ports(&mut lab, &mut notes)?;
        lab
    } else {
        layout.lab(&dir, &mut notes)?
    };
    if widest(&lab) == 1 {
        notes.push(
            "one zone: this lab is LRS; an acknowledged write survives the loss of a node at \
             most, not of the zone"
                .to_owned(),
        );
    }
    let ids: Vec<u64> = lab.file.nodes.iter().map(|node| node.id).collect();
    let down = |lab: &Lab| -> Vec<u64> {
        let down = lab.file.nodes.iter().filter(|node| node.state() == State::Down);
        down.map(|node| node.id).collect()
    };
    let mine = down(&lab);
    if mine.is_empty() {
        notes.push("every node was running already".to_owned());
    }
    let ready = async {
        line::ensure(&mut lab).await?;
        nodes(&mut lab, &mine).await?;
        wait_serving(&lab, &ids, PATIENCE).await?;
        // Nodes that were running may still be cut off.
        if mine.len() < ids.len() {
            super::set_faults(&lab).await?;
        }
        if lab.file.line.is_none() {
            return Ok(());
        }
        let views = pair::settle(&lab, PATIENCE).await?;
        if !pair::is_live(&views) {
            notes.push("the regions are no live pair; see `zoneq region status`".to_owned());
        }
        Ok(())
    };
    if let Err(error) = ready.await {
        super::kill(&mut lab, &mine).await?;
        if mine.len() == ids.len() {
            line::end(&mut lab).await?;
        }
        lab.save()?;
        return Err(error);
    }
    Ok(Started { lab, notes, took: begun.elapsed() })
}

/// Nodes of a lab that was down know each other by their peer ports, so those must be free;
/// ports for clients and for metrics may move.
fn move_ports(lab: &mut Lab, notes: &mut Vec<String>) -> anyhow::Result<()> {
    let of_node = |node: &LabNode| [node.grpc_port, node.peer_port, node.metrics_port];
    let mut taken: Vec<u16> = lab.file.nodes.iter().flat_map(of_node).collect();
    taken.extend(lab.file.line.iter().flat_map(|line| line.ports.iter().map(|it| it.port)));
    for node in lab.file.nodes.iter_mut().filter(|node| node.state() == State::Down) {
        if !files::is_free(node.peer_port) {
            let text = format!(
                "port {} of node {} is in use by another process, and the other nodes know it by \
                 that port; end that process, or start a lab in another --dir",
                node.peer_port, node.id
            );
            return Err(Usage(text).into());
        }
        if !files::is_free(node.grpc_port) {
            let port = files::free_port(node.grpc_port, &taken, &mut Vec::new())?;
            notes.push(format!(
                "port {} is in use by another process; node {} serves on {port}",
                node.grpc_port, node.id
            ));
            node.grpc_port = port;
            taken.push(port);
        }
        if node.metrics_port == 0 || !files::is_free(node.metrics_port) {
            let first = if node.metrics_port == 0 { METRICS_PORT } else { node.metrics_port };
            node.metrics_port = files::free_port(first, &taken, &mut Vec::new())?;
            taken.push(node.metrics_port);
        }
    }
    Ok(())
}

/// Starts those of the nodes that are down and saves the lab; they may not serve yet.
pub async fn nodes(lab: &mut Lab, ids: &[u64]) -> anyhow::Result<()> {
    for id in ids {
        let Some(node) = lab.node(*id).cloned() else { continue };
        if node.state() != State::Down {
            continue;
        }
        std::fs::create_dir_all(lab.node_dir(*id))
            .with_context(|| format!("{} cannot be made", lab.node_dir(*id).display()))?;
        let args = args(lab, &node);
        let started = process::start(&args, &lab.log_path(*id))?;
        if let Some(node) = lab.node_mut(*id) {
            node.args = args;
            node.process = Some(started);
        }
        // Before anything is waited for, so that no process is ever forgotten.
        lab.save()?;
    }
    Ok(())
}

/// Waits until each of these nodes serves and knows a leader.
pub async fn wait_serving(lab: &Lab, ids: &[u64], patience: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + patience;
    let waiting = lab.file.nodes.iter().filter(|node| ids.contains(&node.id)).map(|node| {
        let log = lab.log_path(node.id);
        async move {
            let eye = Eye::new(node)?;
            loop {
                let knows = eye.status().await.is_some_and(|status| status.leader_id != 0);
                if knows && eye.is_serving().await {
                    return Ok(());
                }
                if node.state() == State::Down {
                    let end = process::tail(&log, 5);
                    anyhow::bail!("node {} ended; its log {} says\n{end}", node.id, log.display());
                }
                if Instant::now() >= until {
                    anyhow::bail!(
                        "node {} does not serve after {} s; see {}",
                        node.id,
                        patience.as_secs(),
                        log.display()
                    );
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    });
    join_all(waiting).await.into_iter().collect()
}

/// Waits until every node serves and has applied all that its region had committed when this
/// began.
pub async fn wait_healed(lab: &Lab, patience: Duration) -> anyhow::Result<()> {
    let parts: Vec<Lab> = lab.regions().iter().map(|region| lab.part(region)).collect();
    let waiting = parts.iter().map(|part| wait_region_healed(part, patience));
    join_all(waiting).await.into_iter().collect()
}

async fn wait_region_healed(lab: &Lab, patience: Duration) -> anyhow::Result<()> {
    let ids: Vec<u64> = lab.file.nodes.iter().map(|node| node.id).collect();
    wait_serving(lab, &ids, patience).await?;
    let until = Instant::now() + patience;
    let eyes = Eye::all(lab)?;
    let mut target = 0;
    loop {
        let statuses = join_all(eyes.iter().map(Eye::status)).await;
        if target == 0 {
            let committed = statuses.iter().flatten().map(|status| status.committed_index);
            target = committed.max().unwrap_or(0);
        }
        let there = |status: &Option<_>| {
            status.as_ref().is_some_and(|status: &crate::proto::admin::v1::GetStatusResponse| {
                status.applied_index >= target && status.leader_id != 0
            })
        };
        if target > 0 && statuses.iter().all(there) {
            return Ok(());
        }
        if Instant::now() >= until {
            anyhow::bail!("not every node has caught up after {} s", patience.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_zone_rule_holds_for_equal_zones_from_three_on_and_never_for_two() {
        for each in 1..=5 {
            assert!(survives_a_zone(&[each; 3]), "3 x {each}");
            assert!(survives_a_zone(&[each; 5]), "5 x {each}");
            assert!(!survives_a_zone(&[each; 2]), "2 x {each}");
            assert!(!survives_a_zone(&[each]), "1 x {each}");
        }
        assert!(!survives_a_zone(&[2, 1, 1]));
        assert!(survives_a_zone(&[2, 2, 1]));
    }

    #[test]
    fn layouts_that_cannot_stand_are_refused_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let check = |zones, nodes_per_zone| {
            Layout { zones, nodes_per_zone, ..Layout::default() }.checked(dir.path())
        };
        assert!(check(None, None).is_ok());
        assert!(check(Some(1), None).is_ok(), "LRS, asked for by name");
        for (zones, each, part) in
            [(2, 1, "--zones 2"), (0, 1, "--zones 0"), (5, 4, "allowed: 1 to 15")]
        {
            let error = check(Some(zones), Some(each)).expect_err(part);
            assert!(error.is::<Usage>() && error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn a_new_lab_takes_zones_in_turn_and_a_node_is_told_of_all() {
        let layout = Layout { regions: Some(1), nodes_per_zone: Some(2), ..Layout::default() };
        let lab = layout.lab(Path::new("/nowhere"), &mut Vec::new()).expect("ports are free");
        let zones: Vec<&str> = lab.file.nodes.iter().map(|node| node.zone.as_str()).collect();
        assert_eq!(zones, ["z1", "z2", "z3", "z1", "z2", "z3"]);
        let line = args(&lab, &lab.file.nodes[0]).join(" ");
        assert!(line.contains("--peers 1=z1@127.0.0.1:"), "{line}");
        assert!(line.contains("--election-ms 200..400 ") || line.ends_with("200..400"), "{line}");
    }
    #[test]
    fn two_regions_are_two_clusters_that_reach_each_other_over_the_line() {
        let lab = Layout::default().lab(Path::new("/nowhere"), &mut Vec::new()).expect("ports");
        assert_eq!(lab.regions(), REGIONS);
        let zones: Vec<&str> = lab.file.nodes.iter().map(|node| node.zone.as_str()).collect();
        assert_eq!(zones, ["z1", "z2", "z3", "z4", "z5", "z6"]);
        let line = lab.file.line.clone().expect("a line");
        let words = args(&lab, &lab.file.nodes[3]);
        let value = |flag: &str| {
            let at = words.iter().position(|word| word == flag).expect(flag);
            words[at + 1].clone()
        };
        assert_eq!(value("--region"), "west");
        assert_eq!(value("--cluster-id"), format!("{}-west", lab.file.cluster_id));
        assert_eq!(value("--other-region"), line.to(&[1, 2, 3]).join(","));
        assert!(!value("--peers").contains("1=z1"), "{words:?}");
    }
}
