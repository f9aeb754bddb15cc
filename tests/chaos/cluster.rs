//! Three zones of real processes, the whole of a region, and what is seen of them from outside.
//!
//! Laws: a node that stops by itself is told of, unless a fault had hurt its disk, and is started
//! again a second later, as a service manager would; all time passes in [`Cluster::pass`], which
//! looks after that.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};
use zoneq::consensus::network::{ChannelOptions, TcpNetwork, channel};
use zoneq::proto::admin::v1 as pb;
use zoneq::proto::admin::v1::cluster_service_client::ClusterServiceClient;

use crate::disks::Disk;
use crate::history::{Applied, Cluster as Site, REGIONS, SharedHistory};
use crate::machine::Means;
use crate::node::{Node, OwnClock, Under};
use crate::session::Plan;
use crate::wires::Wires;
use crate::workload::Reached;
use crate::{now, say};

pub const ZONES: u64 = 3;
/// How long a node has for a look at it.
const LOOK: Duration = Duration::from_millis(500);
/// Between two looks.
pub const BEAT: Duration = Duration::from_millis(50);
/// How long a node that stopped by itself stays down.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Tables, log, bodies and reserve of a zone, with room.
const DISK_BYTES: u64 = 1 << 30;
const RESERVE_BYTES: u64 = 16 << 20;
/// How long a cluster whose faults have ended may take until it is whole.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Where clients reach a node, and of which region it is.
pub type Address = (usize, String);

/// Where a cluster is.
#[derive(Clone, Debug, Default)]
pub struct Place {
    pub region: usize,
    /// Of each node one for clients and one for peers; none = whichever are free.
    pub ports: Vec<u16>,
    /// Where the nodes of the other region are reached, if there is one.
    pub other: Vec<String>,
    /// Of nodes that have a network of their own each.
    pub wires: Option<Wires>,
}

impl Place {
    /// The machine of a node, or of clients.
    pub fn host(&self, id: u64) -> String {
        self.wires.as_ref().map_or_else(|| "127.0.0.1".to_owned(), |wires| wires.address(id))
    }
}

pub struct Cluster {
    pub region: usize,
    home: PathBuf,
    pub nodes: Vec<Node>,
    pub disks: Vec<Disk>,
    pub wires: Option<Wires>,
    channels: Vec<Channel>,
    /// What nodes are started under when no fault says otherwise.
    usual: Under,
    history: SharedHistory,
    /// Nodes that stopped by themselves, and when they start again.
    restarts: Vec<(Instant, u64)>,
}

impl Cluster {
    /// Starts one in a folder, with what the faults need.
    pub fn start(
        home: &Path,
        place: &Place,
        plan: &Plan<'_>,
        means: &[Means],
        history: SharedHistory,
    ) -> Result<Cluster, String> {
        let ports = match place.ports.is_empty() {
            true => free_ports(2 * ZONES as usize)?,
            false => place.ports.clone(),
        };
        let at = |id: u64, which: usize| {
            let port = ports.get(2 * (id as usize - 1) + which).copied().unwrap_or_default();
            format!("{}:{port}", place.host(id))
        };
        let peer = |id: u64| format!("{id}=z{id}@{}/{}", at(id, 1), at(id, 0));
        let peers = (1..=ZONES).map(peer).collect::<Vec<_>>().join(",");
        let usual = match plan.lying {
            true => Under::Strace("retval=0".to_owned()),
            false => Under::Nothing,
        };
        let (mut nodes, mut disks, mut channels) = (Vec::new(), Vec::new(), Vec::new());
        for id in 1..=ZONES {
            if means.contains(&Means::Disks) {
                disks.push(Disk::new(home, &format!("z{id}"), DISK_BYTES)?);
            }
            let data = data(home, disks.last(), id);
            let args = args(id, place, &data, (at(id, 0), at(id, 1)), &peers);
            let mut node = Node::new(id, at(id, 0), args, home.join(format!("z{id}.log")));
            node.namespace = place.wires.as_ref().map(|wires| wires.zone(id));
            if let (true, Some(library)) =
                (means.contains(&Means::Faketime), &plan.machine.faketime)
            {
                let clock =
                    OwnClock { library: library.clone(), file: home.join(format!("z{id}.clock")) };
                clock.set(0)?;
                node.clock = Some(clock);
            }
            node.start(&usual)?;
            let endpoint = Endpoint::from_shared(format!("http://{}", node.grpc));
            let endpoint = endpoint.map_err(|error| error.to_string())?.connect_timeout(LOOK);
            channels.push(endpoint.connect_lazy());
            nodes.push(node);
        }
        let (region, home, restarts) = (place.region, home.to_owned(), Vec::new());
        let wires = place.wires.clone();
        Ok(Cluster { region, home, nodes, disks, wires, channels, usual, history, restarts })
    }

    /// Which cluster it is by now.
    pub fn site(&self) -> Site {
        let generation = self.history.lock().pair.generation(self.region);
        Site { region: self.region, generation }
    }

    /// What is written of a node before its number.
    fn of_region(&self) -> &'static str {
        REGIONS.get(self.region).copied().unwrap_or_default()
    }

    /// Where a node has its data.
    pub fn data(&self, id: u64) -> PathBuf {
        let disk = usize::try_from(id).ok().and_then(|id| self.disks.get(id.checked_sub(1)?));
        data(&self.home, disk, id)
    }

    /// Mounts all disks again, so that they show what they hold and no more; nodes have ended.
    pub async fn remount(&mut self) -> Result<(), String> {
        for disk in &mut self.disks {
            disk.unmount().await?;
            disk.power_on()?;
        }
        Ok(())
    }

    /// Ends all nodes and starts them with empty folders: another cluster. What they had is kept
    /// where this says, by node.
    pub fn begin_anew(&mut self) -> Result<Vec<PathBuf>, String> {
        (1..=ZONES).for_each(|id| self.hold_down(id));
        let was = self.site();
        let mut kept = Vec::new();
        for id in 1..=ZONES {
            let data = self.data(id);
            let beside = data.with_file_name(format!("z{id}.{}", was.generation));
            std::fs::rename(&data, &beside)
                .map_err(|error| format!("{}: {error}", data.display()))?;
            kept.push(beside);
        }
        self.history.lock().pair.begins_anew(self.region);
        say(&self.history, &format!("{} begins anew, with empty disks", self.of_region()));
        (1..=ZONES).try_for_each(|id| self.release(id))?;
        Ok(kept)
    }

    pub fn node(&mut self, id: u64) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.id == id)
    }

    pub fn disk(&mut self, id: u64) -> Option<&mut Disk> {
        self.disks.get_mut(usize::try_from(id).ok()?.checked_sub(1)?)
    }

    /// Lets time pass, and looks after nodes that stop by themselves.
    pub async fn pass(&mut self, span: Duration) -> Result<(), String> {
        let until = Instant::now() + span;
        loop {
            self.look_after()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            tokio::time::sleep(left.min(BEAT)).await;
        }
    }

    fn look_after(&mut self) -> Result<(), String> {
        let region = self.of_region();
        for node in &mut self.nodes {
            let Some(why) = node.ended() else { continue };
            say(&self.history, &format!("node {} of {region} stopped by itself: {why}", node.id));
            if !node.disk_failed {
                let at = now() / 1_000;
                let words = format!("at {at} ms node {} of {region} stopped: {why}", node.id);
                self.history.lock().unexpected_stops.push(words);
            }
            self.restarts.push((Instant::now() + RESTART_AFTER, node.id));
        }
        let due: Vec<u64> = self
            .restarts
            .extract_if(.., |(at, _)| *at <= Instant::now())
            .map(|(_, id)| id)
            .collect();
        let usual = self.usual.clone();
        for id in due {
            if let Some(node) = self.node(id).filter(|node| !node.is_held) {
                node.start(&usual)?;
            }
        }
        Ok(())
    }

    /// Lets a fault end a node, which stays down until [`Cluster::release`].
    pub fn hold_down(&mut self, id: u64) {
        self.restarts.retain(|(_, other)| *other != id);
        if let Some(node) = self.node(id) {
            node.is_held = true;
            node.kill();
        }
    }

    /// Starts a node that a fault held down, as usual.
    pub fn release(&mut self, id: u64) -> Result<(), String> {
        let usual = self.usual.clone();
        self.release_under(id, &usual)
    }

    /// The same under something else.
    pub fn release_under(&mut self, id: u64, under: &Under) -> Result<(), String> {
        match self.node(id) {
            Some(node) => {
                node.is_held = false;
                node.start(under)
            }
            None => Ok(()),
        }
    }

    /// What each node says of itself; who leads by its own word is written down.
    pub async fn statuses(&self) -> Vec<Option<pb::GetStatusResponse>> {
        let asked = self.channels.iter().map(|channel| async {
            let mut service = ClusterServiceClient::new(channel.clone());
            let asked = service.get_status(pb::GetStatusRequest::default());
            let answer = tokio::time::timeout(LOOK, asked).await.ok()?;
            answer.ok().map(tonic::Response::into_inner)
        });
        let site = self.site();
        let statuses = join_all(asked).await;
        let mut history = self.history.lock();
        for status in statuses.iter().flatten() {
            let led = (site, status.term, status.node_id);
            if status.leader_id == status.node_id && !history.leaders.contains(&led) {
                history.leads(now(), led.0, led.1, led.2);
            }
        }
        statuses
    }

    /// The leader by the word of the newest term.
    pub async fn leader(&mut self) -> Result<u64, String> {
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let statuses = self.statuses().await;
            let led = statuses.iter().flatten().filter(|status| status.leader_id != 0);
            if let Some((_, leader)) = led.map(|status| (status.term, status.leader_id)).max() {
                return Ok(leader);
            }
            self.pass(BEAT).await?;
        }
        Err(format!("nobody leads after {} s", PATIENCE.as_secs()))
    }

    /// Waits until every node runs, follows one leader, and has applied what was committed when
    /// this began.
    pub async fn whole(&mut self, patience: Duration) -> Result<(), String> {
        let until = Instant::now() + patience;
        let mut target = 0;
        loop {
            let statuses = self.statuses().await;
            let known = || statuses.iter().flatten();
            if target == 0 {
                target = known().map(|status| status.committed_index).max().unwrap_or(0);
            }
            let leader = known().next().map_or(0, |status| status.leader_id);
            let follows = |status: &pb::GetStatusResponse| {
                status.leader_id == leader && status.applied_index >= target
            };
            if leader != 0 && known().count() == self.nodes.len() && known().all(follows) {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(format!("after {} s: {}", patience.as_secs(), words(&statuses)));
            }
            self.pass(BEAT).await?;
        }
    }

    /// Waits until every node has applied all there is and holds the same, and writes down what
    /// each holds; without that, what they say.
    pub async fn converged(&mut self) -> Result<(), String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let statuses = self.statuses().await;
            let first = statuses.iter().flatten().next().cloned().unwrap_or_default();
            let same = |status: &pb::GetStatusResponse| {
                let at = (status.leader_id, status.term, status.applied_index);
                at == (first.leader_id, first.term, first.last_log_index)
            };
            let known = statuses.iter().flatten();
            let all = statuses.iter().flatten().count() == self.nodes.len();
            let mut why = words(&statuses);
            if all && first.leader_id != 0 && known.clone().all(same) {
                match self.verify(&first).await {
                    Ok(()) => return Ok(()),
                    Err(words) => why = words,
                }
            }
            if Instant::now() >= until {
                return Err(why);
            }
            self.pass(BEAT).await?;
        }
    }

    /// Asks for the digests of all nodes at one position; those that are told are judged by I11.
    pub async fn verify(&self, at: &pb::GetStatusResponse) -> Result<(), String> {
        let leader = usize::try_from(at.leader_id).unwrap_or_default();
        let channel = leader.checked_sub(1).and_then(|at| self.channels.get(at));
        let channel = channel.ok_or_else(|| "nobody leads".to_owned())?.clone();
        let mut service = ClusterServiceClient::new(channel);
        let asked = service.verify_digests(pb::VerifyDigestsRequest {});
        let answer = tokio::time::timeout(PATIENCE, asked).await;
        let answer = answer.map_err(|_| "no digests in time".to_owned())?;
        let answer = answer.map_err(|status| status.message().to_owned())?.into_inner();
        let cluster = self.site();
        let mut history = self.history.lock();
        for node in answer.nodes.iter().filter(|node| node.error.is_empty()) {
            let digest = u128::from_str_radix(&node.digest, 16).map_err(|e| e.to_string())?;
            let (node, index) = (node.node_id, answer.index);
            let (term, leader) = (at.term, at.leader_id);
            let applied = Applied { cluster, node, index, term, leader, digest };
            history.applied(now(), applied);
        }
        match answer.nodes.iter().find(|node| !node.error.is_empty()) {
            Some(node) => {
                Err(format!("node {} did not say its digest: {}", node.node_id, node.error))
            }
            None if !answer.equal => Err(format!("digests at {} differ", answer.index)),
            None => Ok(()),
        }
    }

    /// Cuts a node off from these peers, by the transport's own fault, and from no others.
    pub async fn cut(&self, id: u64, cut_peers: Vec<u64>) -> Result<(), String> {
        let channel = usize::try_from(id).ok().and_then(|id| self.channels.get(id.checked_sub(1)?));
        let mut service = ClusterServiceClient::new(channel.ok_or("no such node")?.clone());
        let asked = service.set_faults(pb::SetFaultsRequest { cut_peers, disk_free_bytes: None });
        match tokio::time::timeout(LOOK * 4, asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(format!("node {id}: {}", status.message())),
            Err(_) => Err(format!("node {id} does not answer")),
        }
    }

    /// Asks the leader to hand over to a node; whether it leads then.
    pub async fn hand_over(&mut self, to: u64) -> Result<bool, String> {
        let leader = self.leader().await?;
        let channel = usize::try_from(leader).ok().and_then(|id| self.channels.get(id - 1));
        let mut service = ClusterServiceClient::new(channel.ok_or("nobody leads")?.clone());
        let asked = service.transfer_leader(pb::TransferLeaderRequest { to });
        let answer = tokio::time::timeout(LOOK * 10, asked).await;
        Ok(answer.is_ok_and(|answer| answer.is_ok()))
    }

    /// The nodes as clients reach them, over connections of their own.
    pub fn reached(addresses: &[Address]) -> Vec<Reached> {
        let options = ChannelOptions::for_election(Duration::from_millis(400));
        let made = addresses.iter().filter_map(|(region, address)| {
            let channel = channel(Arc::new(TcpNetwork), address, &options).ok()?;
            Some(Reached { channel, region: *region })
        });
        made.collect()
    }

    pub fn addresses(&self) -> Vec<Address> {
        self.nodes.iter().map(|node| (self.region, node.grpc.clone())).collect()
    }

    /// What the nodes say, in words.
    pub async fn words(&self) -> String {
        words(&self.statuses().await)
    }
}

/// Where a node has its data: on a disk of its own, or beside the others'.
fn data(home: &Path, disk: Option<&Disk>, id: u64) -> PathBuf {
    match disk {
        Some(disk) => disk.mount.join("data"),
        None => home.join(format!("z{id}.data")),
    }
}

/// The command line of a node, which listens for clients and for peers.
fn args(
    id: u64,
    place: &Place,
    data: &Path,
    (grpc, peer): (String, String),
    peers: &str,
) -> Vec<String> {
    let region = REGIONS.get(place.region).copied().unwrap_or_default();
    let cluster =
        if place.other.is_empty() { "chaos".to_owned() } else { format!("chaos-{region}") };
    let mut args = vec!["serve".to_owned(), "--json".to_owned()];
    args.extend(["--enable-faults".to_owned(), "--insecure-listen".to_owned()]);
    for (flag, value) in [
        ("--node-id", id.to_string()),
        ("--cluster-id", cluster),
        ("--region", region.to_owned()),
        ("--zone", format!("z{id}")),
        ("--data-dir", data.display().to_string()),
        ("--grpc-listen", grpc),
        ("--peer-listen", peer),
        ("--peers", peers.to_owned()),
        // As in a lab.
        ("--heartbeat-ms", "100".to_owned()),
        ("--election-ms", "200..400".to_owned()),
        ("--disk-reserve-bytes", RESERVE_BYTES.to_string()),
    ] {
        args.extend([flag.to_owned(), value]);
    }
    if !place.other.is_empty() {
        args.extend(["--other-region".to_owned(), place.other.join(",")]);
    }
    args
}

fn words(statuses: &[Option<pb::GetStatusResponse>]) -> String {
    let of = |(id, status): (usize, &Option<pb::GetStatusResponse>)| match status {
        Some(status) => format!(
            "node {}: leader {}, term {}, log {}, committed {}, applied {}",
            id + 1,
            status.leader_id,
            status.term,
            status.last_log_index,
            status.committed_index,
            status.applied_index
        ),
        None => format!("node {}: silent", id + 1),
    };
    statuses.iter().enumerate().map(of).collect::<Vec<_>>().join("; ")
}

/// Below those that the system gives to outgoing connections.
pub fn free_ports(count: usize) -> Result<Vec<u16>, String> {
    let first = 23_000 + (std::process::id() % 80) as u16 * 100;
    let mut ports: Vec<u16> = Vec::new();
    for _ in 0..count {
        let from = ports.last().map_or(first, |last| last + 1);
        let found = zoneq::cli::lab::files::free_port(from, &ports, &mut Vec::new());
        ports.push(found.map_err(|error| error.to_string())?);
    }
    Ok(ports)
}
