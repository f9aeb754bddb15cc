//! Who works on a pair of regions: looks at both sides, does what it is told by the verbs that
//! operators have, lists tails, and mends what came of it until the pair is whole.
//!
//! Simulator and chaos have the same operator: how nodes are reached and what time it is, it is
//! told. When and what it does beyond mending is theirs.
//!
//! Of an operator with dice for tails it also depends on these what becomes of tails and of kept
//! copies: sent to the new primary, wiped, or promoted (`tails`). What it sets meanwhile, the shape
//! of the line and the region lease, has dice of its own (`settings`).
//!
//! Laws: what is asked may be asked twice, from both sides, at any moment. A region that was
//! fenced has its tail listed before anything becomes of it. Clients are kept away from a region
//! that is in no pair yet, as a guide for operators says. Whatever it asks and is told is in the
//! history.

mod settings;
mod tails;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::transport::Channel;
use zoneq::proto::admin::v1 as pb;
use zoneq::proto::admin::v1::region_service_client::RegionServiceClient;
use zoneq::queue::authority::RegionEpoch;
use zoneq::queue::ids::Epoch;
use zoneq::storage::disk::faulty::Dice;

use crate::history::{Act, Cluster, Micros, REGIONS, SharedHistory, Told, Verb};
pub use settings::Settings;

/// The verbs of a region, at one node.
pub type Client = RegionServiceClient<Channel>;

const WHO: &str = "the operator";
/// One verb has this long at one node.
const WITHIN: Duration = Duration::from_secs(4);
/// Once all faults have healed the pair is whole after this many looks at the latest.
const LOOKS: usize = 240;
/// Between two of them.
const LOOK: Duration = Duration::from_millis(250);

/// The line is as it is.
pub const UNSHAPED: Verb = Verb::Shape { bytes_per_second: 0, delay_ms: 0 };

/// Regions that an operator wants to begin anew; whoever has their disks does it.
#[derive(Clone, Debug, Default)]
pub struct Wishes(Arc<Mutex<Vec<usize>>>);

impl Wishes {
    fn wish(&self, region: usize) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(region);
    }

    pub fn next(&self) -> Option<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).first().copied()
    }

    pub fn done(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(0);
    }
}

pub struct Operator {
    pub dice: Dice,
    pub history: SharedHistory,
    /// The nodes of each region.
    regions: Vec<Vec<Client>>,
    now: fn() -> Micros,
    wishes: Wishes,
    /// Decides what becomes of tails and of kept copies, where that is more than the usual.
    tails: Option<Dice>,
    pub settings: Settings,
    /// Whether each side was seen to shape the line.
    shaped: [bool; 2],
}

fn word(role: pb::RegionRole) -> String {
    role.as_str_name().trim_start_matches("REGION_ROLE_").to_lowercase()
}

fn epoch(id: Option<pb::EpochId>) -> RegionEpoch {
    let id = id.unwrap_or_default();
    RegionEpoch { number: Epoch(id.number), region: id.region }
}

fn micros(at: &prost_types::Timestamp) -> u64 {
    at.seconds as u64 * 1_000_000 + at.nanos as u64 / 1_000
}

/// A refusal is final; anything else is tried at the next node.
fn is_refusal(status: &tonic::Status) -> bool {
    matches!(status.code(), tonic::Code::FailedPrecondition | tonic::Code::InvalidArgument)
}

impl Operator {
    /// One that reaches these nodes of both regions, and does with tails what their dice say.
    pub fn new(
        seed: u64,
        regions: Vec<Vec<Client>>,
        now: fn() -> Micros,
        history: SharedHistory,
        wishes: Wishes,
        tails: Option<Dice>,
    ) -> Operator {
        let dice = Dice::new(seed ^ 0x6f70_6572);
        let settings = Settings::of(seed);
        Operator { dice, history, regions, now, wishes, tails, settings, shaped: [false; 2] }
    }

    fn now(&self) -> Micros {
        (self.now)()
    }

    pub async fn look_at_both(&mut self) -> [Option<Told>; 2] {
        [self.look(0).await, self.look(1).await]
    }

    pub async fn protect(&mut self, region: usize) {
        self.act(region, Verb::Protect).await;
    }

    /// Does what the state of both sides asks for; false when that is nothing.
    pub async fn mend(&mut self, sides: &[Option<Told>; 2]) -> bool {
        let [Some(east), Some(west)] = sides else { return false };
        let of = |region: usize| if region == 0 { east } else { west };
        let newest = usize::from(west.epoch > east.epoch);
        let role = |region: usize| of(region).role.as_str();
        if let Some(region) = (0..2).find(|region| role(*region) == "fenced") {
            if matches!(role(1 - region), "standalone" | "primary") {
                self.give_up(region).await;
            }
            return true;
        }
        if let Some(region) = (0..2).find(|region| role(*region) == "conflict") {
            let keep = self.dice.below(2) as usize;
            self.act(region, Verb::Resolve { keep }).await;
            return true;
        }
        match (role(newest), role(1 - newest)) {
            // Until it hears of the newer epoch the older one is writable, too.
            ("standalone" | "primary", "standalone" | "primary") => {
                self.protect(newest).await;
                true
            }
            // Kept, or not yet followed when the one that it was handed to stood alone.
            ("standalone", "detached" | "released") => {
                self.protect(newest).await;
                true
            }
            ("detached", "standalone") => {
                self.protect(1 - newest).await;
                true
            }
            // The word that it is followed no more did not reach the copy.
            ("standalone", "secondary") => {
                self.part_and_protect(newest).await;
                true
            }
            ("secondary", "standalone") => {
                self.part_and_protect(1 - newest).await;
                true
            }
            // A protection that did not come to its end.
            ("primary", "detached") => {
                self.protect(newest).await;
                true
            }
            ("detached", "primary") => {
                self.protect(1 - newest).await;
                true
            }
            _ => false,
        }
    }

    /// Ends at the copy what a region has ended alone, and protects that one anew.
    async fn part_and_protect(&mut self, region: usize) {
        self.history.lock().pair.close(1 - region);
        self.act(1 - region, Verb::Unprotect).await;
        self.protect(region).await;
    }

    /// Lists what a fenced region has alone, and protects the other by it: as it is, or with empty
    /// disks.
    async fn give_up(&mut self, region: usize) {
        let Some(listed) = self.list_tail(region).await else { return };
        if self.send_tail(region, listed).await {
            return;
        }
        if self.dice.below(2) == 0 {
            self.begin_anew(region).await;
        } else {
            self.history.lock().pair.close(region);
            self.act(region, Verb::SettleTail).await;
        }
        self.protect(1 - region).await;
    }

    /// Lets a region begin with empty disks.
    async fn begin_anew(&mut self, region: usize) {
        self.history.lock().pair.close(region);
        let cluster = self.cluster(region);
        self.wishes.wish(region);
        while self.wishes.next().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (verb, at) = (Verb::BeginAnew, self.now());
        let act = Act { invoked: at, returned: at, cluster, verb, outcome: Ok(()) };
        self.history.lock().pair.acts.push(act);
    }

    fn cluster(&self, region: usize) -> Cluster {
        Cluster { region, generation: self.history.lock().pair.generation(region) }
    }

    /// Looks until both sides are what they should be.
    pub async fn settle(&mut self) -> bool {
        for _ in 0..LOOKS {
            tokio::time::sleep(LOOK).await;
            let sides = self.look_at_both().await;
            let begun = promotion_begun(&sides);
            if is_whole(&sides) && self.shaped == [false; 2] && begun.is_none() {
                return true;
            }
            if let Some(region) = begun {
                self.act(region, Verb::TakeBack { force: false }).await;
            }
            if let Some(region) = primary(&sides).filter(|_| self.shaped != [false; 2]) {
                self.act(region, UNSHAPED).await;
            }
            self.mend(&sides).await;
        }
        false
    }

    /// Compares the data of both, from whichever side is the primary.
    pub async fn verify(&mut self) -> bool {
        for _ in 0..20 {
            let sides = self.look_at_both().await;
            if let Some(region) = primary(&sides)
                && self.act(region, Verb::Verify).await
            {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        false
    }

    /// The nodes of a region, from a random one on.
    fn nodes(&mut self, region: usize) -> Vec<Client> {
        let mut nodes = self.regions.get(region).cloned().unwrap_or_default();
        let count = nodes.len();
        let first = self.dice.below(count.max(1) as u64) as usize;
        nodes.rotate_left(first.min(count));
        nodes
    }

    /// A look at one side, by the first node that answers. From a secondary on clients may go
    /// there.
    pub async fn look(&mut self, region: usize) -> Option<Told> {
        let told = self.see(region).await?;
        // Until then it may be given all it has to have.
        if told.role == "secondary" || (told.role == "primary" && self.tails.is_some()) {
            self.history.lock().pair.open(region);
        }
        Some(told)
    }

    /// The same, and nothing follows from it.
    pub async fn see(&mut self, region: usize) -> Option<Told> {
        for mut node in self.nodes(region) {
            let (invoked, cluster) = (self.now(), self.cluster(region));
            let asked = node.get_region(limited(pb::GetRegionRequest {}, WITHIN / 2));
            let Ok(Ok(answer)) = tokio::time::timeout(WITHIN / 2, asked).await else { continue };
            let answer = answer.into_inner();
            if let Some(shaped) = self.shaped.get_mut(region) {
                *shaped = answer.shape.is_some();
            }
            let told = Told {
                invoked,
                returned: self.now(),
                cluster,
                role: word(answer.role()),
                is_live: answer.status() == pb::GeoStatus::Live,
                is_complete: answer.complete,
                last_sync: answer.last_sync_time.as_ref().map(micros),
                trouble: answer.trouble,
                peer: answer.peer,
                epoch: epoch(answer.epoch),
            };
            let mut history = self.history.lock();
            history.event(self.now(), format_args!("the operator is told {told:?}"));
            history.pair.told.push(told.clone());
            return Some(told);
        }
        None
    }

    pub async fn act(&mut self, region: usize, verb: Verb) -> bool {
        let mut nodes = self.nodes(region);
        let last = nodes.pop();
        let mut done = false;
        for node in nodes.into_iter().chain(last) {
            match self.ask(node, region, verb).await {
                Some(outcome) => {
                    done = outcome;
                    break;
                }
                None => continue,
            }
        }
        done
    }

    /// As [`Operator::act`], at the first node alone.
    pub async fn asked(&self, region: usize, verb: Verb) -> bool {
        let node = self.regions.get(region).and_then(|nodes| nodes.first()).cloned();
        match node {
            Some(node) => self.ask(node, region, verb).await.unwrap_or(false),
            None => false,
        }
    }

    /// One call; `None` when the node said nothing of it.
    async fn ask(&self, node: Client, region: usize, verb: Verb) -> Option<bool> {
        let (invoked, cluster) = (self.now(), self.cluster(region));
        self.history
            .lock()
            .event(invoked, format_args!("the operator asks {verb:?} of {cluster:?}"));
        let within = match verb {
            Verb::FailOver { .. } => WITHIN * 2,
            Verb::FailBack { .. } => WITHIN * 3,
            _ => WITHIN,
        };
        let answer = tokio::time::timeout(within, call(node, verb, within)).await;
        let (outcome, is_final) = match answer {
            Ok(Ok(())) => (Ok(()), true),
            Ok(Err(status)) => (Err(status.message().to_owned()), is_refusal(&status)),
            Err(_) => (Err("no answer in time".to_owned()), false),
        };
        let act = Act { invoked, returned: self.now(), cluster, verb, outcome };
        let mut history = self.history.lock();
        history.event(self.now(), format_args!("the operator has {act:?}"));
        let done = act.outcome.is_ok();
        history.pair.acts.push(act);
        (done || is_final).then_some(done)
    }
}

/// One side is the primary and the other its live and complete copy.
pub fn is_whole(sides: &[Option<Told>; 2]) -> bool {
    let [Some(east), Some(west)] = sides else { return false };
    let whole = |primary: &Told, copy: &Told| {
        primary.role == "primary"
            && primary.is_live
            && copy.role == "secondary"
            && copy.is_complete
            && copy.epoch == primary.epoch
    };
    whole(east, west) || whole(west, east)
}

/// The secondary that grants no region lease any more, since its promotion by force was begun and
/// broke off; the primary waits for an operator then.
fn promotion_begun(sides: &[Option<Told>; 2]) -> Option<usize> {
    let begun = |told: &Told| told.trouble.contains("a promotion by force was begun");
    let region = primary(sides)?;
    sides.get(region)?.as_ref().filter(|told| begun(told))?;
    sides.get(1 - region)?.as_ref().filter(|told| told.role == "secondary")?;
    Some(1 - region)
}

/// The side that says that it is the primary.
pub fn primary(sides: &[Option<Told>; 2]) -> Option<usize> {
    sides.iter().position(|side| side.as_ref().is_some_and(|it| it.role == "primary"))
}

fn limited<T>(message: T, within: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(within);
    request
}

async fn call(mut node: Client, verb: Verb, within: Duration) -> Result<(), tonic::Status> {
    let who = WHO.to_owned();
    match verb {
        Verb::Protect => {
            let request = pb::ProtectRequest { who, discard_tail: false };
            node.protect(limited(request, within)).await.map(drop)
        }
        Verb::SettleTail => {
            let request = pb::SettleTailRequest { who, fate: pb::TailFate::Exported.into() };
            node.settle_tail(limited(request, within)).await.map(drop)
        }
        Verb::Unprotect | Verb::Wipe => {
            let request = pb::UnprotectRequest { who, wipe: verb == Verb::Wipe };
            node.unprotect(limited(request, within)).await.map(drop)
        }
        Verb::PromoteCopy => {
            node.promote_copy(limited(pb::PromoteCopyRequest { who }, within)).await.map(drop)
        }
        Verb::FailBack { to } => {
            let to = REGIONS[to].to_owned();
            let request = pb::FailBackRequest { who, to, ..pb::FailBackRequest::default() };
            let mut ways = node.fail_back(limited(request, within)).await?.into_inner();
            while ways.message().await?.is_some() {}
            Ok(())
        }
        Verb::FailOver { to } => {
            let request = pb::FailOverRequest { who, to: REGIONS[to].to_owned() };
            node.fail_over(limited(request, within)).await.map(drop)
        }
        Verb::Force { accept_incomplete } => {
            let request = pb::ForceFailOverRequest {
                who,
                accept_incomplete,
                ..pb::ForceFailOverRequest::default()
            };
            node.force_fail_over(limited(request, within)).await.map(drop)
        }
        Verb::TakeBack { force } => {
            node.take_back(limited(pb::TakeBackRequest { who, force }, within)).await.map(drop)
        }
        Verb::Resolve { keep } => {
            let request = pb::ResolveConflictRequest { who, keep: REGIONS[keep].to_owned() };
            node.resolve_conflict(limited(request, within)).await.map(drop)
        }
        Verb::ReadAccess { on } => {
            let request = pb::SetReadAccessRequest { who, on };
            node.set_read_access(limited(request, within)).await.map(drop)
        }
        Verb::Shape { bytes_per_second, delay_ms } => {
            let request = shape_request(who, bytes_per_second, delay_ms);
            node.shape_line(limited(request, within)).await.map(drop)
        }
        Verb::Lease { ms } => {
            let lease = prost_types::Duration::try_from(Duration::from_millis(ms)).ok();
            let lease = lease.filter(|_| ms > 0);
            let request = pb::SetRegionLeaseRequest { who, lease, force: false };
            node.set_region_lease(limited(request, within)).await.map(drop)
        }
        Verb::Verify => {
            let answer = node.verify_regions(limited(pb::VerifyRegionsRequest {}, within)).await?;
            let answer = answer.into_inner();
            if answer.equal {
                return Ok(());
            }
            Err(tonic::Status::failed_precondition(format!("the regions differ: {answer:?}")))
        }
        Verb::BeginAnew => Ok(()),
    }
}

fn shape_request(who: String, bytes_per_second: u64, delay_ms: u64) -> pb::ShapeLineRequest {
    let is_shaped = Verb::Shape { bytes_per_second, delay_ms } != UNSHAPED;
    let delay = prost_types::Duration::try_from(Duration::from_millis(delay_ms)).ok();
    pb::ShapeLineRequest {
        who,
        off: true,
        delay: delay.filter(|_| is_shaped),
        bytes_per_second: is_shaped.then_some(bytes_per_second),
        ..Default::default()
    }
}
