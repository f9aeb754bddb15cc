//! The lab's folder: `lab.json` with the nodes, one folder a node with its data and its log.
//!
//! Laws: `lab.json` is replaced as a whole, under the folder's lock, so that two verbs at once do
//! not lose each other's changes. A process id counts only together with the start time of the
//! process, so that a number that was given away again is never signalled.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::line::Line;
use super::process;
use crate::cli::exit::Usage;

/// Where a lab is when nobody says.
pub const DEFAULT_DIR: &str = "zoneq-lab";
const FILE: &str = "lab.json";
/// Version 1 knew one region only.
const VERSION: u32 = 2;
/// How long a verb waits for another verb on the same lab.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// What `lab.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct LabFile {
    pub version: u32,
    pub cluster_id: String,
    pub nodes: Vec<LabNode>,
    /// Groups of nodes that are cut off from all others.
    #[serde(default)]
    pub partitions: Vec<Vec<u64>>,
    /// The line between two regions; a lab of one has none.
    #[serde(default)]
    pub line: Option<Line>,
}

/// One node of a lab.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct LabNode {
    pub id: u64,
    pub region: String,
    pub zone: String,
    pub grpc_port: u16,
    pub peer_port: u16,
    /// Where metrics are; 0 = nowhere yet, in labs from before there were any.
    #[serde(default)]
    pub metrics_port: u16,
    /// The command line after the name of the binary.
    pub args: Vec<String>,
    pub process: Option<process::Id>,
}

impl LabNode {
    #[must_use]
    pub fn grpc(&self) -> String {
        format!("127.0.0.1:{}", self.grpc_port)
    }

    #[must_use]
    pub fn peer(&self) -> String {
        format!("127.0.0.1:{}", self.peer_port)
    }

    /// Where metrics, liveness and readiness are asked for.
    #[must_use]
    pub fn metrics(&self) -> Option<String> {
        (self.metrics_port > 0).then(|| format!("127.0.0.1:{}", self.metrics_port))
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.grpc())
    }

    #[must_use]
    pub fn state(&self) -> process::State {
        self.process.map_or(process::State::Down, process::state)
    }
}

/// A lab and where it is.
#[derive(Clone, Debug)]
pub struct Lab {
    pub dir: PathBuf,
    pub file: LabFile,
}

/// The right to change a lab, until dropped.
#[derive(Debug)]
pub struct LabLock {
    _file: File,
}

impl LabLock {
    /// Waits for other verbs on the same lab.
    pub async fn take(dir: &Path) -> anyhow::Result<LabLock> {
        let path = dir.join("lab.lock");
        let file = File::options()
            .create(true)
            .write(true)
            .truncate(false)
            .open(&path)
            .with_context(|| format!("the lab's lock {} cannot be opened", path.display()))?;
        let until = tokio::time::Instant::now() + LOCK_PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(LabLock { _file: file }),
                Err(rustix::io::Errno::WOULDBLOCK) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => anyhow::bail!(
                    "another command has been changing the lab in {} for {} s",
                    dir.display(),
                    LOCK_PATIENCE.as_secs()
                ),
                Err(error) => {
                    let error = io::Error::from(error);
                    return Err(error)
                        .with_context(|| format!("{} cannot be locked", path.display()));
                }
            }
        }
    }
}

impl Lab {
    /// A new lab; nothing is written yet.
    #[must_use]
    pub fn new(dir: PathBuf, cluster_id: String, nodes: Vec<LabNode>) -> Lab {
        let (partitions, line) = (Vec::new(), None);
        let file = LabFile { version: VERSION, cluster_id, nodes, partitions, line };
        Lab { dir, file }
    }

    /// Whether a folder holds a lab.
    #[must_use]
    pub fn exists(dir: &Path) -> bool {
        dir.join(FILE).is_file()
    }

    /// Reads a lab; a folder without one is the user's mistake.
    pub fn load(dir: &Path) -> anyhow::Result<Lab> {
        let path = dir.join(FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let text = format!(
                    "there is no lab in {}; start one with `zoneq lab up --dir {}`",
                    dir.display(),
                    dir.display()
                );
                return Err(Usage(text).into());
            }
            Err(error) => {
                return Err(error).with_context(|| format!("{} cannot be read", path.display()));
            }
        };
        Lab::read(dir, &text)
    }

    /// Reads the text of a `lab.json`.
    ///
    /// # Errors
    /// It is none, or of a newer version.
    pub fn read(dir: &Path, text: &str) -> anyhow::Result<Lab> {
        let path = dir.join(FILE);
        let file: LabFile = serde_json::from_str(text)
            .with_context(|| format!("{} is not the file of a lab", path.display()))?;
        if !(1..=VERSION).contains(&file.version) {
            let text = format!(
                "{} has version {}, and this binary knows 1 to {VERSION}",
                path.display(),
                file.version
            );
            return Err(Usage(text).into());
        }
        Ok(Lab { dir: dir.to_path_buf(), file: LabFile { version: VERSION, ..file } })
    }

    /// What `lab.json` is to hold.
    ///
    /// # Errors
    /// None that is known: it is JSON of plain fields.
    pub fn text(&self) -> anyhow::Result<String> {
        let mut text = serde_json::to_string_pretty(&self.file)?;
        text.push('\n');
        Ok(text)
    }

    /// Replaces `lab.json`.
    pub fn save(&self) -> anyhow::Result<()> {
        let path = self.dir.join(FILE);
        let beside = self.dir.join(format!("{FILE}.new"));
        std::fs::write(&beside, self.text()?)
            .and_then(|()| std::fs::rename(&beside, &path))
            .with_context(|| format!("{} cannot be written", path.display()))
    }

    #[must_use]
    pub fn node_dir(&self, id: u64) -> PathBuf {
        self.dir.join(format!("node-{id}"))
    }

    #[must_use]
    pub fn log_path(&self, id: u64) -> PathBuf {
        self.node_dir(id).join("log")
    }

    #[must_use]
    pub fn data_dir(&self, id: u64) -> PathBuf {
        self.node_dir(id).join("data")
    }

    #[must_use]
    pub fn node(&self, id: u64) -> Option<&LabNode> {
        self.file.nodes.iter().find(|node| node.id == id)
    }

    pub fn node_mut(&mut self, id: u64) -> Option<&mut LabNode> {
        self.file.nodes.iter_mut().find(|node| node.id == id)
    }

    /// Regions in the order of their first node.
    #[must_use]
    pub fn regions(&self) -> Vec<String> {
        let mut regions: Vec<String> = Vec::new();
        for node in &self.file.nodes {
            if !regions.contains(&node.region) {
                regions.push(node.region.clone());
            }
        }
        regions
    }

    /// The ids of the nodes of a region.
    #[must_use]
    pub fn in_region(&self, region: &str) -> Vec<u64> {
        self.file.nodes.iter().filter(|node| node.region == region).map(|node| node.id).collect()
    }

    /// The other region than this one, in a lab of two.
    #[must_use]
    pub fn beside(&self, region: &str) -> Option<String> {
        self.regions().into_iter().find(|other| other != region)
    }

    /// One region alone, to look at: what is saved must be the whole.
    #[must_use]
    pub fn part(&self, region: &str) -> Lab {
        let mut part = self.clone();
        part.file.nodes.retain(|node| node.region == region);
        part
    }

    /// The name of the cluster that a node belongs to: each region has its own.
    #[must_use]
    pub fn cluster_of(&self, node: &LabNode) -> String {
        match &self.file.line {
            None => self.file.cluster_id.clone(),
            Some(_) => format!("{}-{}", self.file.cluster_id, node.region),
        }
    }

    /// Zones in the order of their first node.
    #[must_use]
    pub fn zones(&self) -> Vec<String> {
        let mut zones: Vec<String> = Vec::new();
        for node in &self.file.nodes {
            if !zones.contains(&node.zone) {
                zones.push(node.zone.clone());
            }
        }
        zones
    }

    /// The ids of the nodes of a zone.
    #[must_use]
    pub fn in_zone(&self, zone: &str) -> Vec<u64> {
        self.file.nodes.iter().filter(|node| node.zone == zone).map(|node| node.id).collect()
    }

    #[must_use]
    pub fn urls(&self) -> Vec<String> {
        self.file.nodes.iter().map(LabNode::url).collect()
    }

    /// Process ids of the nodes that run.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let running = self.file.nodes.iter().filter(|node| node.state() != process::State::Down);
        running.filter_map(|node| node.process.map(|process| process.pid)).collect()
    }

    /// The nodes that words on a command line mean: `z1`, `2`, `node 2`, `west`, `all`, several of
    /// them.
    pub fn targets(&self, words: &[String]) -> anyhow::Result<Vec<u64>> {
        let mut ids = Vec::new();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let word = match word.as_str() {
                "node" | "zone" | "region" => words
                    .next()
                    .ok_or_else(|| Usage(format!("`{word}` needs a name or number behind it")))?,
                _ => word,
            };
            let found = match (word.as_str(), word.parse::<u64>()) {
                ("all", _) => self.file.nodes.iter().map(|node| node.id).collect(),
                (_, Ok(id)) if self.node(id).is_some() => vec![id],
                (place, _) => {
                    let mut found = self.in_region(place);
                    found.extend(self.in_zone(place));
                    found
                }
            };
            if found.is_empty() {
                let ids: Vec<u64> = self.file.nodes.iter().map(|node| node.id).collect();
                let zones = self.zones().join(", ");
                let regions = self.regions().join(", ");
                let text = format!(
                    "{word:?} is no node, zone or region of this lab; its nodes: {ids:?}, zones: \
                     {zones}, regions: {regions}"
                );
                return Err(Usage(text).into());
            }
            for id in found {
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        Ok(ids)
    }

    /// The peers that a node must be cut off from, both ways, under the partitions in force. The
    /// other region is none of them: what is between the regions is the line.
    #[must_use]
    pub fn cut_peers(&self, id: u64) -> Vec<u64> {
        let region = self.node(id).map_or("", |node| node.region.as_str());
        let others = self.in_region(region).into_iter().filter(|other| *other != id);
        let parted = |other: &u64| {
            let apart = |group: &Vec<u64>| group.contains(&id) != group.contains(other);
            self.file.partitions.iter().any(apart)
        };
        others.filter(parted).collect()
    }
}

/// The addresses for clients of the lab in a folder, those of the first region first; `None` when
/// there is no lab.
#[must_use]
pub fn endpoints(dir: &Path) -> Option<Vec<String>> {
    Lab::exists(dir).then(|| Lab::load(dir).ok()).flatten().map(|lab| lab.urls())
}

/// These endpoints, where a name of a region of the lab in a folder stands for all its nodes.
#[must_use]
pub fn resolved(given: Vec<String>, dir: &Path) -> Vec<String> {
    let is_name = |it: &String| !it.contains([':', '/', '.']);
    if !given.iter().any(is_name) || !Lab::exists(dir) {
        return given;
    }
    let Ok(lab) = Lab::load(dir) else { return given };
    let meant = given.into_iter().flat_map(|it| match lab.part(&it).urls() {
        none if none.is_empty() => vec![it],
        urls => urls,
    });
    meant.collect()
}

/// The first free port from `from` on, not one of `taken`. Says which were passed over.
pub fn free_port(from: u16, taken: &[u16], passed: &mut Vec<u16>) -> anyhow::Result<u16> {
    for port in from..=u16::MAX {
        if taken.contains(&port) {
            continue;
        }
        if is_free(port) {
            return Ok(port);
        }
        passed.push(port);
    }
    anyhow::bail!("no port from {from} on is free")
}

/// Whether a listener could be bound now.
#[must_use]
pub fn is_free(port: u16) -> bool {
    std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lab() -> Lab {
        let node = |id: u64, region: &str, zone: &str| LabNode {
            id,
            region: region.to_owned(),
            zone: zone.to_owned(),
            grpc_port: 1,
            peer_port: 2,
            metrics_port: 3,
            args: Vec::new(),
            process: None,
        };
        let nodes = vec![
            node(1, "east", "z1"),
            node(2, "east", "z2"),
            node(3, "east", "z3"),
            node(4, "east", "z1"),
            node(5, "west", "z4"),
        ];
        Lab::new(PathBuf::from("/nowhere"), "c".to_owned(), nodes)
    }

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_target_is_a_node_a_zone_a_region_or_all_of_them() {
        let lab = lab();
        for (line, ids) in [
            ("2", vec![2]),
            ("node 2", vec![2]),
            ("z1", vec![1, 4]),
            ("zone z1 3", vec![1, 4, 3]),
            ("z1 1", vec![1, 4]),
            ("west", vec![5]),
            ("region east 5", vec![1, 2, 3, 4, 5]),
            ("all", vec![1, 2, 3, 4, 5]),
        ] {
            assert_eq!(lab.targets(&words(line)).expect(line), ids, "{line}");
        }
        for line in ["z9", "9", "north", "node", "region", "node z9"] {
            let error = lab.targets(&words(line)).expect_err(line);
            assert!(error.is::<Usage>(), "{line}: {error}");
        }
    }

    #[test]
    fn a_partition_cuts_both_ways_and_keeps_a_zone_together() {
        let mut lab = lab();
        lab.file.partitions = vec![vec![1, 4]];
        assert_eq!(lab.cut_peers(1), [2, 3]);
        assert_eq!(lab.cut_peers(4), [2, 3]);
        assert_eq!(lab.cut_peers(2), [1, 4]);
        lab.file.partitions.push(vec![2]);
        assert_eq!(lab.cut_peers(2), [1, 3, 4]);
        assert_eq!(lab.cut_peers(3), [1, 2, 4]);
        assert!(lab.cut_peers(5).is_empty(), "the other region is no peer");
    }

    #[test]
    fn each_region_is_a_cluster_of_its_own() {
        let mut lab = lab();
        assert_eq!(lab.cluster_of(&lab.file.nodes[0]), "c", "a lab of one region");
        lab.file.line = Some(Line::default());
        assert_eq!(lab.regions(), ["east", "west"]);
        assert_eq!(lab.beside("east").as_deref(), Some("west"));
        let names: Vec<String> = lab.file.nodes.iter().map(|node| lab.cluster_of(node)).collect();
        assert_eq!(names, ["c-east", "c-east", "c-east", "c-east", "c-west"]);
        let west = lab.part("west");
        assert_eq!((west.in_zone("z4"), west.regions().len()), (vec![5], 1));
    }

    #[tokio::test]
    async fn a_lab_survives_its_file_and_gives_its_endpoints() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(endpoints(dir.path()), None);
        assert!(Lab::load(dir.path()).expect_err("no lab").is::<Usage>());
        let _lock = LabLock::take(dir.path()).await.expect("nobody else");
        let lab = Lab { dir: dir.path().to_path_buf(), ..lab() };
        lab.save().expect("saved");
        assert_eq!(Lab::load(dir.path()).expect("loaded").file, lab.file);
        assert_eq!(endpoints(dir.path()).expect("a lab").len(), 5);
        let given = vec!["west".to_owned(), "http://a:1".to_owned(), "host".to_owned()];
        let meant = resolved(given, dir.path());
        assert_eq!(meant, ["http://127.0.0.1:1", "http://a:1", "host"]);
    }

    #[test]
    fn a_taken_port_is_passed_over() {
        let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = held.local_addr().expect("bound").port();
        let mut passed = Vec::new();
        let found = free_port(port, &[port.saturating_add(1)], &mut passed).expect("another");
        assert!(found > port.saturating_add(1) || port >= u16::MAX - 1);
        assert_eq!(passed.first(), Some(&port));
    }
}
