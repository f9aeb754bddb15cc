//! The faults: what is done to whom, and how it ends.

use std::time::Duration;

use rustix::process::Signal;
use zoneq::storage::disk::faulty::Dice;

use crate::cluster::{Cluster, PATIENCE, ZONES};
use crate::machine::Means;
use crate::node::Under;
use crate::wires::CLIENTS;

/// Who is hurt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    Leader,
    Follower,
    /// Any zone.
    Zone,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, then SIGCONT.
    Stop,
    /// Peers and node do not hear each other; clients reach both.
    Partition,
    /// Packets from it to its peers are lost, or those from them to it.
    OneWay,
    /// Nobody and the node hear each other, clients neither.
    Isolate,
    /// Some of the packets to it and from it are lost, those of clients too.
    Loss,
    PowerCut,
    FullDisk,
    SlowSync,
    FailingSync,
    ClockStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub name: &'static str,
    pub what: &'static str,
    pub whom: Whom,
    pub harm: Harm,
    /// How long it lasts, in milliseconds, at least and at most.
    lasts: (u64, u64),
}

pub const fn fault(
    name: &'static str,
    what: &'static str,
    whom: Whom,
    harm: Harm,
    lasts: (u64, u64),
) -> Fault {
    Fault { name, what, whom, harm, lasts }
}

pub const ALL: [Fault; 20] = [
    fault("kill-node", "SIGKILL of a follower", Whom::Follower, Harm::Kill, (300, 1_500)),
    fault("kill-leader", "SIGKILL of the leader", Whom::Leader, Harm::Kill, (900, 1_500)),
    fault("kill-zone", "SIGKILL of a zone, whoever is in it", Whom::Zone, Harm::Kill, (300, 2_500)),
    fault("kill-all", "SIGKILL of all nodes at once", Whom::All, Harm::Kill, (0, 800)),
    fault("stop-node", "SIGSTOP of a follower", Whom::Follower, Harm::Stop, (500, 3_000)),
    fault("stop-leader", "SIGSTOP of the leader", Whom::Leader, Harm::Stop, (2_000, 3_500)),
    fault(
        "cut-node",
        "a follower cut off from its peers",
        Whom::Follower,
        Harm::Partition,
        (1_000, 3_000),
    ),
    fault(
        "cut-leader",
        "the leader cut off from its peers",
        Whom::Leader,
        Harm::Partition,
        (2_000, 3_500),
    ),
    fault(
        "one-way-node",
        "packets lost one way at a follower",
        Whom::Follower,
        Harm::OneWay,
        (1_000, 3_000),
    ),
    fault(
        "one-way-leader",
        "packets lost one way at the leader",
        Whom::Leader,
        Harm::OneWay,
        (2_000, 3_500),
    ),
    fault(
        "isolate-leader",
        "the leader's packets lost, clients' too",
        Whom::Leader,
        Harm::Isolate,
        (2_000, 3_500),
    ),
    fault(
        "loss-node",
        "5 to 30 % of the packets of a follower lost",
        Whom::Follower,
        Harm::Loss,
        (1_000, 4_000),
    ),
    fault(
        "loss-leader",
        "5 to 30 % of the packets of the leader lost",
        Whom::Leader,
        Harm::Loss,
        (2_000, 5_000),
    ),
    fault("power-zone", "power cut of one zone", Whom::Zone, Harm::PowerCut, (300, 1_500)),
    fault("power-all", "power cut of all zones at once", Whom::All, Harm::PowerCut, (0, 800)),
    fault(
        "full-disk",
        "the disk of a zone is full, and then is not",
        Whom::Zone,
        Harm::FullDisk,
        (2_000, 4_000),
    ),
    fault(
        "full-disks",
        "all disks are full, and then are not",
        Whom::All,
        Harm::FullDisk,
        (2_000, 4_000),
    ),
    fault(
        "slow-fsync",
        "fsync of the leader takes 20 to 150 ms",
        Whom::Follower,
        Harm::SlowSync,
        (2_000, 4_000),
    ),
    fault(
        "failing-fsync",
        "fsync of a zone fails with EIO from some moment on",
        Whom::Zone,
        Harm::FailingSync,
        (1_000, 3_000),
    ),
    fault(
        "clock-step",
        "the wall clock of a zone jumps and jumps back",
        Whom::Zone,
        Harm::ClockStep,
        (1_000, 3_000),
    ),
];

/// Faults of which the time without an acknowledged write is asked to be short: milliseconds of
/// the middle and of 99 in 100.
pub fn asked(name: &str) -> Option<(u64, u64)> {
    match name {
        "kill-leader" => Some((200, 1_000)),
        "stop-leader" | "cut-leader" | "isolate-leader" => Some((1_000, 2_500)),
        _ => None,
    }
}

/// The faults that the ordinary tests bring about.
pub fn is_ordinary(fault: &Fault) -> bool {
    let few = ["kill-leader", "kill-all", "stop-leader", "cut-leader"];
    few.contains(&fault.name)
}

impl Fault {
    pub fn means(&self) -> Option<Means> {
        match self.harm {
            Harm::Kill | Harm::Stop | Harm::Partition => None,
            Harm::OneWay | Harm::Isolate => Some(Means::Namespaces),
            Harm::Loss => Some(Means::Loss),
            Harm::PowerCut | Harm::FullDisk => Some(Means::Disks),
            Harm::SlowSync | Harm::FailingSync => Some(Means::Strace),
            Harm::ClockStep => Some(Means::Faketime),
        }
    }

    /// Who it is this time.
    pub async fn victims(
        &self,
        cluster: &mut Cluster,
        dice: &mut Dice,
    ) -> Result<Vec<u64>, String> {
        let any = 1 + dice.below(ZONES);
        Ok(match self.whom {
            Whom::All => (1..=ZONES).collect(),
            Whom::Zone => vec![any],
            Whom::Leader => vec![cluster.leader().await?],
            Whom::Follower => {
                let leader = cluster.leader().await?;
                vec![if any == leader { any % ZONES + 1 } else { any }]
            }
        })
    }

    /// Hurts, lasts, and ends.
    pub async fn strike(
        &self,
        cluster: &mut Cluster,
        victims: &[u64],
        dice: &mut Dice,
    ) -> Result<(), String> {
        let (least, most) = self.lasts;
        let lasts = Duration::from_millis(least + dice.below(most - least + 1));
        match self.harm {
            Harm::Kill => {
                kill(cluster, victims)?;
                cluster.pass(lasts).await?;
                for id in victims {
                    cluster.release(*id)?;
                }
                Ok(())
            }
            Harm::Stop => {
                signal(cluster, victims, Signal::STOP)?;
                let passed = cluster.pass(lasts).await;
                signal(cluster, victims, Signal::CONT)?;
                passed
            }
            Harm::Partition => {
                partition(cluster, victims, true).await?;
                cluster.pass(lasts).await?;
                partition(cluster, victims, false).await
            }
            Harm::OneWay => {
                let inward = dice.below(2) == 0;
                let ways =
                    peers(victims).map(|(id, peer)| if inward { (peer, id) } else { (id, peer) });
                lose(cluster, &ways.collect::<Vec<_>>(), lasts).await
            }
            Harm::Isolate => {
                let with_clients = victims.iter().map(|id| (*id, CLIENTS));
                let ways = peers(victims).chain(with_clients);
                let both: Vec<_> = ways.flat_map(|(a, b)| [(a, b), (b, a)]).collect();
                lose(cluster, &both, lasts).await
            }
            Harm::Loss => lose_some(cluster, victims, lasts, dice).await,
            Harm::PowerCut => power_cut(cluster, victims, lasts).await,
            Harm::FullDisk => full_disk(cluster, victims, lasts, dice).await,
            Harm::SlowSync => slow_sync(cluster, victims, lasts, dice).await,
            Harm::FailingSync => failing_sync(cluster, victims, lasts, dice).await,
            Harm::ClockStep => clock_step(cluster, victims, lasts, dice).await,
        }
    }
}

async fn full_disk(
    cluster: &mut Cluster,
    victims: &[u64],
    lasts: Duration,
    dice: &mut Dice,
) -> Result<(), String> {
    for id in victims {
        // From nothing at all to what the node's own reserve brings back.
        let left = dice.below(64 << 10);
        cluster.disk(*id).ok_or("no disk")?.fill(left)?;
    }
    let passed = cluster.pass(lasts).await;
    for id in victims {
        cluster.disk(*id).ok_or("no disk")?.free();
    }
    passed
}

/// All of them by the same, as a time server that is wrong would.
async fn clock_step(
    cluster: &mut Cluster,
    victims: &[u64],
    lasts: Duration,
    dice: &mut Dice,
) -> Result<(), String> {
    let off = [-30_000, -2_500, -900, 900, 2_500, 30_000];
    let ms = off.get(dice.below(off.len() as u64) as usize).copied().unwrap_or(0);
    victims.iter().try_for_each(|id| set_clock(cluster, *id, ms))?;
    cluster.pass(lasts).await?;
    victims.iter().try_for_each(|id| set_clock(cluster, *id, 0))
}

fn set_clock(cluster: &mut Cluster, id: u64, ms: i64) -> Result<(), String> {
    let node = cluster.node(id).ok_or("no such node")?;
    node.clock.as_ref().ok_or("it has no clock of its own")?.set(ms)
}

fn peers(victims: &[u64]) -> impl Iterator<Item = (u64, u64)> {
    let others = |id: u64| (1..=ZONES).filter(move |peer| *peer != id);
    victims.iter().flat_map(move |id| others(*id).map(|peer| (*id, peer)))
}

/// All of them at once, and then waits for each.
fn kill(cluster: &mut Cluster, victims: &[u64]) -> Result<(), String> {
    signal(cluster, victims, Signal::KILL)?;
    for id in victims {
        cluster.hold_down(*id);
    }
    Ok(())
}

fn signal(cluster: &Cluster, victims: &[u64], signal: Signal) -> Result<(), String> {
    let hurt = |id: &u64| victims.contains(id);
    cluster.nodes.iter().filter(|node| hurt(&node.id)).try_for_each(|node| node.signal(signal))
}

async fn partition(cluster: &Cluster, victims: &[u64], cut: bool) -> Result<(), String> {
    for id in 1..=ZONES {
        let from: Vec<u64> = peers(victims)
            .flat_map(|(a, b)| [(a, b), (b, a)])
            .filter(|(a, _)| cut && *a == id)
            .map(|(_, b)| b)
            .collect();
        cluster.cut(id, from).await?;
    }
    Ok(())
}

async fn lose(cluster: &mut Cluster, ways: &[(u64, u64)], lasts: Duration) -> Result<(), String> {
    let set = |cluster: &Cluster, drops: bool| {
        let wires = cluster.wires.as_ref().ok_or("no namespaces")?;
        ways.iter().try_for_each(|(from, to)| wires.drop_packets(*from, *to, drops))
    };
    set(cluster, true)?;
    cluster.pass(lasts).await?;
    set(cluster, false)
}

async fn lose_some(
    cluster: &mut Cluster,
    victims: &[u64],
    lasts: Duration,
    dice: &mut Dice,
) -> Result<(), String> {
    let wires = cluster.wires.clone().ok_or("no namespaces")?;
    wires.lose_some(victims, 5 + dice.below(26))?;
    let passed = cluster.pass(lasts).await;
    wires.lose_none()?;
    passed
}

/// The file systems stop first, all at once, and the processes die after them, as they may still
/// have answered what they had in memory.
async fn power_cut(cluster: &mut Cluster, victims: &[u64], lasts: Duration) -> Result<(), String> {
    for id in victims {
        if let Some(node) = cluster.node(*id) {
            node.disk_failed = true;
        }
    }
    for id in victims {
        cluster.disk(*id).ok_or("no disk")?.cut_power()?;
    }
    kill(cluster, victims)?;
    cluster.pass(lasts).await?;
    for id in victims {
        let disk = cluster.disk(*id).ok_or("no disk")?;
        disk.unmount().await?;
        disk.power_on()?;
        if let Some(node) = cluster.node(*id) {
            node.disk_failed = false;
        }
        cluster.release(*id)?;
    }
    Ok(())
}

/// A node is started again under a slow disk and made the leader.
async fn slow_sync(
    cluster: &mut Cluster,
    victims: &[u64],
    lasts: Duration,
    dice: &mut Dice,
) -> Result<(), String> {
    let us = 20_000 + dice.below(130_000);
    let slow = Under::Strace(format!("delay_enter={us}"));
    for id in victims {
        cluster.hold_down(*id);
        cluster.release_under(*id, &slow)?;
    }
    cluster.whole(PATIENCE).await?;
    if let [id] = victims {
        cluster.hand_over(*id).await?;
    }
    cluster.pass(lasts).await?;
    for id in victims {
        cluster.hold_down(*id);
        cluster.release(*id)?;
    }
    Ok(())
}

/// A node is started again on a disk that fails after so many calls that sync, each from then on.
async fn failing_sync(
    cluster: &mut Cluster,
    victims: &[u64],
    lasts: Duration,
    dice: &mut Dice,
) -> Result<(), String> {
    let failing = Under::Strace(format!("error=EIO:when={}+", 1 + dice.below(150)));
    for id in victims {
        cluster.hold_down(*id);
        if let Some(node) = cluster.node(*id) {
            node.disk_failed = true;
        }
        cluster.release_under(*id, &failing)?;
    }
    cluster.pass(lasts).await?;
    for id in victims {
        cluster.hold_down(*id);
        if let Some(node) = cluster.node(*id) {
            node.disk_failed = false;
        }
        cluster.release(*id)?;
    }
    Ok(())
}
