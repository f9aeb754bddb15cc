//! The faults of two regions: what is done to the pair, and what its operator does meanwhile.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::transport::Channel;
use zoneq::proto::admin::v1 as admin;
use zoneq::proto::queue::v1 as pb;
use zoneq::proto::queue::v1::queue_service_client::QueueServiceClient;
use zoneq::queue::authority::RegionEpoch;
use zoneq::storage::disk::faulty::Dice;

use crate::cluster::{Address, Cluster};
use crate::faults::Fault;
use crate::history::{Micros, Verb};
use crate::machine::Means;
use crate::operator::Client;
use crate::prober::{ACCOUNT, QUEUE};
use crate::regions::{Regions, Task};
use crate::zone_faults::{self, At};
use crate::{now, say};

/// How long it may take until a promoted region acknowledges a write.
const PROMOTED: Duration = Duration::from_secs(20);
/// One try of the one who waits for that, and the time between two.
const TRY: Duration = Duration::from_millis(300);
const EVERY: Duration = Duration::from_millis(5);

/// What happens to the primary before its copy is promoted by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It is killed, and started again later.
    Killed,
    /// The line to it is cut, and it goes on.
    Cut,
    /// It stands still, and goes on later as if nothing had been.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    Forced {
        before: Before,
        /// The leader of the copy is killed while it is promoted.
        kills_heir: bool,
    },
    Planned {
        /// Whose leader is killed meanwhile: the old primary's, or the new one's.
        kills: Option<Whose>,
    },
    Cut,
    Kill(Whose),
    Stop(Whose),
    /// A fault of one region.
    Zones(At, Fault),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    Primary,
    Copy,
}

#[derive(Clone, Copy, Debug)]
pub struct RegionFault {
    pub name: &'static str,
    pub what: &'static str,
    pub harm: Harm,
}

pub const fn fault(name: &'static str, what: &'static str, harm: Harm) -> RegionFault {
    RegionFault { name, what, harm }
}

const fn forced(before: Before, kills_heir: bool) -> Harm {
    Harm::Forced { before, kills_heir }
}

/// All of them, those of whole regions first.
pub static ALL: LazyLock<Vec<RegionFault>> =
    LazyLock::new(|| OF_REGIONS.into_iter().chain(zone_faults::all()).collect());

const OF_REGIONS: [RegionFault; 12] = [
    fault(
        "forced-killed",
        "SIGKILL of the primary region, the other promoted by force",
        forced(Before::Killed, false),
    ),
    fault("planned", "a planned failover", Harm::Planned { kills: None }),
    fault("line", "the line between the regions cut and healed", Harm::Cut),
    fault(
        "forced-cut",
        "the line cut and the copy promoted by force, while the primary goes on",
        forced(Before::Cut, false),
    ),
    fault(
        "planned-kill-old",
        "a planned failover, and SIGKILL of the leader that hands over",
        Harm::Planned { kills: Some(Whose::Primary) },
    ),
    fault("stop-primary", "SIGSTOP of the primary region", Harm::Stop(Whose::Primary)),
    fault(
        "forced-stopped",
        "SIGSTOP of the primary region, the other promoted by force",
        forced(Before::Stopped, false),
    ),
    fault(
        "planned-kill-new",
        "a planned failover, and SIGKILL of the leader that takes over",
        Harm::Planned { kills: Some(Whose::Copy) },
    ),
    fault("stop-copy", "SIGSTOP of the secondary region", Harm::Stop(Whose::Copy)),
    fault(
        "forced-kill-new",
        "the primary killed, the other promoted by force, and SIGKILL of its leader meanwhile",
        forced(Before::Killed, true),
    ),
    fault(
        "kill-primary",
        "SIGKILL of the primary region, which comes back",
        Harm::Kill(Whose::Primary),
    ),
    fault(
        "kill-copy",
        "SIGKILL of the secondary region, which comes back",
        Harm::Kill(Whose::Copy),
    ),
];

/// The faults that the ordinary tests bring about.
pub fn is_ordinary(fault: &RegionFault) -> bool {
    ["forced-killed", "planned"].contains(&fault.name)
}

/// What a promotion by force said that it would lose, and what it took.
#[derive(Clone, Debug)]
pub struct Forced {
    pub epoch: RegionEpoch,
    /// Messages of clients that the copy lacked, as of the primary's last word; `None` = not
    /// known.
    pub known_lost: Option<u64>,
    /// From the command to the first write that the new primary acknowledged.
    pub rto: Micros,
    /// A region lease was set: it may have had to wait for that.
    pub leased: bool,
}

/// What came of a fault.
#[derive(Clone, Debug)]
pub enum Came {
    Done,
    Forced(Forced),
    /// The operator's verb was refused.
    NotRun(String),
}

impl RegionFault {
    pub fn means(&self) -> Option<Means> {
        match &self.harm {
            Harm::Zones(_, fault) => fault.means(),
            _ => None,
        }
    }

    /// Hurts, lasts, and ends; the operator has not mended yet.
    pub async fn strike(&self, regions: &mut Regions, dice: &mut Dice) -> Result<Came, String> {
        let (primary, copy) = regions.roles().await?;
        // Such a pair is not whole for longer than a moment.
        regions.run(Task::Set).await?;
        let of = |whose| if whose == Whose::Primary { primary } else { copy };
        let lasts = Duration::from_millis(700 + dice.below(2_500));
        match self.harm {
            Harm::Cut => {
                regions.cut(true)?;
                let passed = regions.pass(lasts).await;
                regions.cut(false)?;
                passed.map(|()| Came::Done)
            }
            Harm::Stop(whose) => {
                regions.stop(of(whose), true)?;
                let passed = regions.pass(lasts).await;
                regions.stop(of(whose), false)?;
                passed.map(|()| Came::Done)
            }
            Harm::Kill(whose) => {
                regions.kill(of(whose))?;
                regions.pass(lasts).await?;
                regions.bring_back(of(whose))?;
                Ok(Came::Done)
            }
            Harm::Planned { kills } => {
                let from = if dice.below(2) == 0 { primary } else { copy };
                planned(regions, (from, copy), kills.map(of), dice).await
            }
            Harm::Zones(at, fault) => {
                let at = at.regions((primary, copy), dice);
                zone_faults::strike(regions, &at, &fault, dice).await?;
                Ok(Came::Done)
            }
            Harm::Forced { before, kills_heir } => {
                hurt(regions, primary, before)?;
                regions.pass(Duration::from_millis(dice.below(1_500))).await?;
                let came = force(regions, copy, kills_heir, dice).await;
                regions.pass(lasts).await?;
                heal(regions, primary, before)?;
                came
            }
        }
    }
}

fn hurt(regions: &mut Regions, primary: usize, before: Before) -> Result<(), String> {
    match before {
        Before::Killed => regions.kill(primary),
        Before::Cut => regions.cut(true),
        Before::Stopped => regions.stop(primary, true),
    }
}

fn heal(regions: &mut Regions, primary: usize, before: Before) -> Result<(), String> {
    match before {
        Before::Killed => regions.bring_back(primary),
        Before::Cut => regions.cut(false),
        Before::Stopped => regions.stop(primary, false),
    }
}

/// Hands over, asked of `from`; a leader is killed meanwhile.
async fn planned(
    regions: &mut Regions,
    (from, to): (usize, usize),
    killed: Option<usize>,
    dice: &mut Dice,
) -> Result<Came, String> {
    let leader = match killed {
        Some(region) => Some((region, regions.sides[region].leader().await?)),
        None => None,
    };
    let working = regions.begin(Task::Act(from, Verb::FailOver { to }))?;
    if let Some((region, leader)) = leader {
        regions.pass(Duration::from_millis(dice.below(250))).await?;
        regions.kill_node(region, leader);
    }
    let done = regions.end(working).await?;
    if let Some((region, _)) = leader {
        regions.pass(Duration::from_millis(500 + dice.below(1_000))).await?;
        regions.bring_back(region)?;
    }
    // What was asked while a leader died may have been answered by nobody, and done.
    Ok(if done || leader.is_some() { Came::Done } else { Came::NotRun(refused(regions)) })
}

/// What the last verb was answered.
fn refused(regions: &Regions) -> String {
    let history = regions.history.lock();
    let last = history.pair.acts.last().map(|act| act.outcome.clone());
    last.and_then(Result::err).unwrap_or_else(|| "nobody answered".to_owned())
}

/// Whether a region lease was set last.
fn is_leased(regions: &Regions) -> bool {
    let history = regions.history.lock();
    let set = history.pair.acts.iter().rev().filter(|act| act.outcome.is_ok());
    set.map(|act| act.verb).find_map(|verb| match verb {
        Verb::Lease { ms } => Some(ms > 0),
        _ => None,
    }) == Some(true)
}

/// Promotes a copy by force.
async fn force(
    regions: &mut Regions,
    copy: usize,
    kills_heir: bool,
    dice: &mut Dice,
) -> Result<Came, String> {
    let leader = regions.sides[copy].leader().await?;
    let known_lost = known_loss(&regions.sides[copy], leader).await;
    let leased = is_leased(regions);
    let asked = now();
    let first = first_acknowledged(regions.sides[copy].addresses());
    let working = regions.begin(Task::Act(copy, Verb::Force { accept_incomplete: false }))?;
    if kills_heir {
        regions.pass(Duration::from_millis(dice.below(150))).await?;
        regions.kill_node(copy, leader);
    }
    let mut done = regions.end(working).await?;
    if kills_heir {
        regions.pass(Duration::from_millis(300 + dice.below(700))).await?;
        // It may be asked for again, where nobody said that it was done.
        done =
            regions.run(Task::Act(copy, Verb::Force { accept_incomplete: false })).await? || done;
        regions.bring_back(copy)?;
    }
    let told = regions.told_of(copy).await?;
    let promoted = told.filter(|it| matches!(it.role.as_str(), "standalone" | "primary"));
    let Some(promoted) = promoted else {
        first.abort();
        return if done {
            Err("the copy was promoted, and is no primary".to_owned())
        } else {
            Ok(Came::NotRun(refused(regions)))
        };
    };
    while !first.is_finished() {
        regions.pass(Duration::from_millis(10)).await?;
    }
    let at = first.await.map_err(|error| error.to_string())?;
    let Some(at) = at else {
        return Err(format!("{} was promoted and acknowledges no write", promoted.epoch.region));
    };
    let rto = at.saturating_sub(asked);
    say(&regions.history, &format!("{:?} acknowledges after {} ms", promoted.epoch, rto / 1_000));
    Ok(Came::Forced(Forced { epoch: promoted.epoch, known_lost, rto, leased }))
}

/// What a promotion of this copy would lose of clients' messages, by its own word.
async fn known_loss(copy: &Cluster, leader: u64) -> Option<u64> {
    let at = usize::try_from(leader).ok()?.checked_sub(1)?;
    let reached = Cluster::reached(&copy.addresses()).into_iter().nth(at)?;
    let request = admin::ForceFailOverRequest {
        who: "chaos".to_owned(),
        dry_run: true,
        ..Default::default()
    };
    let mut node = Client::new(reached.channel);
    let answer = tokio::time::timeout(TRY * 4, node.force_fail_over(request)).await.ok()?.ok()?;
    let answer = answer.into_inner();
    let probes = answer.queues_lost.iter().filter(|lost| lost.account == ACCOUNT);
    let probes: u64 = probes.map(|lost| lost.messages).sum();
    Some(answer.messages_lost?.saturating_sub(probes))
}

/// When the first write is acknowledged by one of these nodes, from now on.
fn first_acknowledged(addresses: Vec<Address>) -> JoinHandle<Option<Micros>> {
    let nodes: Vec<Channel> =
        Cluster::reached(&addresses).into_iter().map(|node| node.channel).collect();
    tokio::spawn(async move {
        let ttl = prost_types::Duration { seconds: 5, nanos: 0 };
        let message =
            pb::NewMessage { body: "first".into(), ttl: Some(ttl), ..pb::NewMessage::default() };
        let request = pb::SendRequest {
            account: ACCOUNT.to_owned(),
            queue: QUEUE.to_owned(),
            messages: vec![message],
            session: None,
        };
        let until = now() + PROMOTED.as_micros() as u64;
        for node in nodes.iter().cycle() {
            let mut node = QueueServiceClient::new(node.clone());
            let answer = tokio::time::timeout(TRY, node.send(request.clone())).await;
            let at = now();
            if matches!(answer, Ok(Ok(_))) {
                return Some(at);
            }
            if at >= until {
                return None;
            }
            tokio::time::sleep(EVERY).await;
        }
        None
    })
}
