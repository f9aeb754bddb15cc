//! The operator's verbs about a pair of regions, as the node that leads carries them out.
//!
//! Laws: every step is an entry of a group, asked for by name and answered again when it is so
//! already, so a verb may be begun anew, from either side, after any node has ended at any step.
//! Where the other region has its part it is asked before anything here is final. What is only
//! known of the other side is said to be known as of its last word.

mod apart;
mod audit;
mod behind;
mod failback;
mod force;
mod lease;
mod limit;
mod redundancy;
mod replay;
mod shape;
mod verify;

pub use behind::CopyBehind;
pub use failback::{Return, Stage, Way};
pub use replay::{Replay, ReplayStep, SkippedMessage, result_to};

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub use force::{Loss, all as all_lacking, lacking};
pub use limit::LimitChange;
pub use shape::{ShapeChange, Shaped};

use super::batch;
use super::error::PairError;
use super::failover::MAX_PAUSE;
use super::herald::Heard;
use super::lag;
use super::other::OtherRegion;
use super::shaper;
use super::watermark::{GeoStatus, Watermark};
use super::wire;
use crate::clock::SharedClock;
use crate::consensus::error::GroupError;
use crate::consensus::group::{Group, Limits, Standing};
use crate::proto::geo::v1 as pb;
use crate::queue::authority::command::{Actor, RegionCommand, RegionReply, RegionVerb};
use crate::queue::authority::plan::CopyEnd;
use crate::queue::authority::{AuditRow, Authority, RegionSettings, Role};
use crate::queue::command::{Command, Envelope};
use crate::queue::ids::Epoch;
use crate::queue::outcome::Reply;
use crate::storage::codec;

/// One step has this long.
const STEP: Duration = Duration::from_secs(10);
/// Bytes that cross any line in the time that writes may rest.
const LITTLE: u64 = 256 << 10;

/// What a primary says that relies on a region lease and holds none.
const NO_LEASE: &str = "there is no region lease, and nothing is acknowledged without";

/// One node's view of the pair, and its verbs. A clone is the same.
#[derive(Clone)]
pub struct Pair {
    group: Group,
    region: String,
    other: OtherRegion,
    watermark: watch::Receiver<Watermark>,
    heard: watch::Receiver<Option<Heard>>,
    clock: SharedClock,
    memory: force::Memory,
    arrivals: behind::Arrivals,
}

/// What a pair of regions is, as one node knows it.
#[derive(Clone, Debug)]
pub struct PairStatus {
    pub standing: Option<Standing>,
    /// Of a primary: how far the copy is.
    pub watermark: Watermark,
    /// How far the copy is behind, on both sides.
    pub copy: CopyBehind,
    /// The other region's last word, and how long ago it came.
    pub heard: Option<(pb::GetStatusResponse, Duration)>,
    pub redundancy: String,
    /// Messages that the primary has and the copy lacks, as of the other side's last word.
    pub messages_behind: Option<u64>,
    /// Of a primary: why the copy is too far behind, where it is.
    pub lag_trouble: Option<String>,
    /// How the line is shaped, on both sides.
    pub shaped: Option<Shaped>,
    /// What is left of the region lease that this node leads by.
    pub lease_left: Option<Duration>,
    /// Why it holds none, where it relies on one.
    pub lease_trouble: Option<String>,
    pub audit: Vec<AuditRow>,
}

impl Pair {
    #[must_use]
    pub fn new(
        group: Group,
        region: String,
        other: OtherRegion,
        watermark: watch::Receiver<Watermark>,
        heard: watch::Receiver<Option<Heard>>,
        clock: SharedClock,
    ) -> Pair {
        let (memory, arrivals) = (force::Memory::default(), behind::Arrivals::default());
        Pair { group, region, other, watermark, heard, clock, memory, arrivals }
    }

    /// The region that this node was configured for.
    #[must_use]
    pub fn region(&self) -> &str {
        &self.region
    }

    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// What the other region is told of this one.
    #[must_use]
    pub fn word(&self) -> pb::GetStatusResponse {
        let store = self.group.store().read();
        let state = store.state();
        let plain = pb::GetStatusResponse {
            region: self.region.clone(),
            role: Role::Standalone.name().to_owned(),
            log_time_us: state.log_time().0,
            applied: store.applied().map(wire::position),
            digest: wire::wide(state.digest().0),
            is_empty: state.is_empty(),
            next_message: state.next_message(),
            wall_us: Some(self.clock.wall_us()),
            ..pb::GetStatusResponse::default()
        };
        let Some(authority) = state.authority() else { return plain };
        let role_at = match &authority.role {
            Role::Sealed { at }
            | Role::Released { at, .. }
            | Role::Fenced { at, .. }
            | Role::Conflict { at, .. } => Some(*at),
            Role::Standalone | Role::Primary | Role::Secondary | Role::Detached => None,
        };
        let shaped = self.shaped(Some(authority), None);
        pb::GetStatusResponse {
            max_unshipped_bytes: Limits::throttling(authority)
                .and_then(|it| it.max_unshipped_bytes),
            line_is_down: shaped.as_ref().is_some_and(|it| it.is_down),
            shape: shaped.map(|it| codec::shape_to(&it.shape)),
            lineage: wire::wide(authority.lineage),
            region: authority.region.clone(),
            role: authority.role.name().to_owned(),
            epoch: Some(codec::epoch_to(&authority.epoch)),
            applied_through: authority.applied_through.map(wire::position),
            shipped: authority.shipped.map(wire::position),
            declined: authority.declined.0,
            ledger: wire::ledger_to(&authority.ledger),
            role_at: role_at.map(wire::position),
            next_number: authority.next_number().0,
            read_access: authority.settings.read_access,
            is_complete: authority.is_complete,
            attachment: authority
                .attachment
                .as_ref()
                .map(|it| wire::wide(it.id))
                .unwrap_or_default(),
            tail: authority.tail.map(|fate| fate.name().to_owned()).unwrap_or_default(),
            ..plain
        }
    }

    #[must_use]
    pub fn status(&self) -> PairStatus {
        let standing = self.group.standing();
        let audit = self.group.store().read().state().audit().cloned().collect();
        let heard = self.heard.borrow().clone();
        let now = self.clock.monotonic_us();
        let heard = heard.map(|it| {
            let age = Duration::from_micros(now.saturating_sub(it.at_us));
            ((*it.status).clone(), age)
        });
        let zoned = self.group.status().redundancy;
        let redundancy =
            redundancy::named(&zoned, standing.as_ref(), heard.as_ref().map(|(it, _)| it));
        let lease_left = self.group.region_lease_left();
        let relies = standing.as_ref().is_some_and(|it| it.authority.leasing.in_force.is_some());
        let lease_trouble = (relies && lease_left.is_none()).then(|| {
            let why = self.group.region_lease().trouble();
            why.map_or(NO_LEASE.to_owned(), |why| format!("{NO_LEASE}: {why}"))
        });
        let own = standing.as_ref().map(|it| &it.authority);
        let shaped = self.shaped(own, heard.as_ref().map(|(it, _)| it));
        // The newest word of the copy may be old; how far the log is now is not.
        let mut watermark = self.watermark.borrow().clone();
        let behind = own.filter(|it| it.role != Role::Secondary).and_then(|_| self.group.behind());
        if let Some(behind) = behind {
            (watermark.positions_behind, watermark.bytes_behind) = (behind.positions, behind.bytes);
        }
        let lag_trouble = own.zip(behind).and_then(|(own, behind)| lag::passed(own, &behind));
        let word = heard.as_ref().map(|(it, _)| it);
        let messages_behind = self.messages_behind(own, word, watermark.next_message);
        let copy = own.map(|own| self.copy_behind(own, &watermark, word)).unwrap_or_default();
        PairStatus {
            copy,
            messages_behind,
            lag_trouble,
            shaped,
            lease_left,
            lease_trouble,
            standing,
            watermark,
            heard,
            redundancy,
            audit,
        }
    }

    async fn propose(&self, verb: RegionVerb, who: &str) -> Result<RegionReply, PairError> {
        let by = Actor { who: who.to_owned(), at_us: 0 };
        let command = Command::Region(Box::new(RegionCommand { by, verb }));
        let envelope = Envelope { session: None, account: String::new(), command };
        let done = self.group.propose(envelope, Instant::now() + STEP).await?;
        match done.outcome {
            Ok(Reply::Region(reply)) => Ok(reply),
            Ok(other) => {
                let why = format!("a command about regions was answered by {other:?}");
                Err(GroupError::Fatal(why).into())
            }
            Err(rejection) => Err(GroupError::Rejected(rejection).into()),
        }
    }

    fn authority(&self) -> Option<Authority> {
        self.group.standing().map(|standing| standing.authority)
    }

    fn in_pair(&self) -> Result<Authority, PairError> {
        let alone = || PairError::Refused("this cluster stands alone: protect it first".to_owned());
        self.authority().ok_or_else(alone)
    }

    /// Attaches the other region, and begins to ship: an empty one, a kept copy of this lineage, or
    /// the primary that this side deposed. What the last has alone must have been replayed or
    /// exported, unless it is to be given up by `discard_tail`.
    ///
    /// # Errors
    /// Refused by either side, with nothing changed; or *not now*: run it again.
    pub async fn protect(&self, who: &str, discard_tail: bool) -> Result<(), PairError> {
        let theirs = self.other.status(Instant::now() + STEP).await?;
        let own = self.authority();
        let region = own.as_ref().map_or(self.region.clone(), |it| it.region.clone());
        if theirs.region == region {
            let why = format!("both clusters are of region {region:?}: give one another name");
            return Err(PairError::Refused(why));
        }
        let reseed = self.must_seed(own.as_ref(), &theirs)?;
        let (lineage, attachment) = match &own {
            Some(it) => {
                let known = it.attachment.as_ref().map(|attached| attached.id);
                (it.lineage, known.unwrap_or_else(|| self.fresh_id()))
            }
            None => (self.fresh_id(), self.fresh_id()),
        };
        let was_primary = own.is_some_and(|it| it.role == Role::Primary);
        let verb = RegionVerb::Protect { region, lineage, attachment, peer: theirs.region };
        self.propose(verb, who).await?;
        let authority = self.in_pair()?;
        let request = pb::AttachRequest {
            lineage: wire::wide(authority.lineage),
            attachment: wire::wide(attachment),
            ledger: wire::ledger_to(&authority.ledger),
            who: who.to_owned(),
            reseed,
            discard_tail,
        };
        let attached = self
            .other
            .ask(Instant::now() + STEP, |mut client| {
                let request = request.clone();
                async move { client.attach(request).await }
            })
            .await;
        if let (Err(PairError::Refused(_)), false) = (&attached, was_primary) {
            self.propose(RegionVerb::Unprotect, who).await?;
        }
        attached.map(drop)
    }

    /// Whether what the other region has must be replaced by a whole state: it went another way, or
    /// this node's log does not reach back to where it ends.
    fn must_seed(
        &self,
        own: Option<&Authority>,
        theirs: &pb::GetStatusResponse,
    ) -> Result<bool, PairError> {
        let cannot = |why: String| Err(PairError::Refused(why));
        let gives_way = matches!(theirs.role.as_str(), "released" | "fenced" | "detached");
        if !theirs.is_empty && own.is_none_or(|own| theirs.lineage != wire::wide(own.lineage)) {
            return cannot(format!(
                "region {:?} holds data of its own: only an empty cluster, or one of the same history, can be attached",
                theirs.region
            ));
        }
        // An empty one is given a whole state where the log does not reach back.
        if let (Some(own), false) = (own, theirs.is_empty) {
            let has_handed_over = theirs.role == "released";
            let through = if has_handed_over { theirs.role_at } else { theirs.applied_through };
            let end = CopyEnd {
                epoch: theirs.epoch.clone().map(codec::epoch_from).unwrap_or_default(),
                through: through.map(wire::position_from),
            };
            // What follows already is given what it lacks, be that a state.
            let known = own.attachment.as_ref().map(|it| wire::wide(it.id));
            let follows = theirs.role == "secondary" && known.as_ref() == Some(&theirs.attachment);
            let primary = Authority { role: Role::Primary, ..own.clone() };
            let reach = batch::reach(&self.group, &primary, &end);
            return match reach {
                _ if theirs.role == "fenced" => Ok(true),
                Ok(()) => Ok(false),
                Err(_) if follows => Ok(false),
                Err(_) if gives_way => Ok(true),
                Err(parted) => cannot(format!("the kept copy cannot go on from here: {parted}")),
            };
        }
        Ok(false)
    }

    /// A number that no cluster has had: made of the time, and of who makes it.
    fn fresh_id(&self) -> u128 {
        let leadership = *self.group.leadership().borrow();
        let name = crc32c::crc32c(self.group.config().cluster_id.as_bytes());
        let maker = [self.group.node(), leadership.term, self.clock.monotonic_us()];
        let maker: Vec<u8> = maker.iter().flat_map(|number| number.to_be_bytes()).collect();
        let low = u64::from(name) << 32 | u64::from(crc32c::crc32c(&maker));
        u128::from(self.clock.wall_us()) << 64 | u128::from(low)
    }

    /// Hands over without loss to region `to`, or to the one that is not the primary; called on
    /// the secondary, the primary is asked to. Ends when that region is the primary; where it is so
    /// already nothing is done, so that a call of unknown outcome can be made again by name.
    ///
    /// # Errors
    /// Refused by the role; *not now* while the copy is too far behind, and when the failover was
    /// taken back because the other side did not acknowledge in time: then writes go on here.
    pub async fn fail_over(
        &self,
        who: &str,
        to: Option<&str>,
        deadline: Instant,
    ) -> Result<(), PairError> {
        let authority = self.in_pair()?;
        let peer = authority.attachment.as_ref().map_or("", |it| it.peer.as_str());
        if let Some(to) = to {
            if to != authority.region && to != peer {
                return Err(PairError::Refused(format!("region {to:?} is not in this pair")));
            }
            let is_primary = authority.role == Role::Primary && to == authority.region;
            let follows = authority.role == Role::Secondary && to == authority.epoch.region;
            if is_primary || follows {
                return Ok(());
            }
            if to == authority.region && authority.role != Role::Secondary {
                let why = format!("region {to:?} is handing over just now, or was deposed");
                return Err(PairError::not_now(why));
            }
        }
        if authority.role != Role::Secondary {
            return self.hand_over(who, peer, deadline).await;
        }
        let request = pb::HandOverRequest {
            lineage: wire::wide(authority.lineage),
            who: who.to_owned(),
            to: authority.region.clone(),
        };
        let within = deadline.saturating_duration_since(Instant::now());
        let asked = self.other.ask_patiently(deadline, within, |mut client| {
            let request = request.clone();
            async move { client.hand_over(request).await }
        });
        asked.await?;
        self.until(deadline, |authority| authority.role == Role::Primary).await
    }

    /// The primary's part of [`Pair::fail_over`].
    ///
    /// # Errors
    /// As there.
    pub async fn hand_over(&self, who: &str, to: &str, deadline: Instant) -> Result<(), PairError> {
        let began = self.in_pair()?;
        if began.role == Role::Secondary && began.epoch.region == to {
            return Ok(());
        }
        let at_first = began.epoch.clone();
        if began.role == Role::Primary {
            self.check_line(&began)?;
            self.drain(deadline).await?;
            self.propose(RegionVerb::Seal, who).await?;
        } else if !matches!(began.role, Role::Sealed { .. } | Role::Released { .. }) {
            let why = format!("a cluster that is {} hands over nothing", began.role.name());
            return Err(PairError::Refused(why));
        }
        let mut watermark = self.watermark.clone();
        loop {
            watermark.borrow_and_update();
            let now = self.in_pair()?;
            let promoted = self.watermark.borrow().promoted;
            match now.role {
                Role::Secondary => return Ok(()),
                Role::Released { .. } if promoted => return Ok(()),
                Role::Sealed { .. } | Role::Released { .. } if now.epoch == at_first => {}
                Role::Primary => {
                    return Err(PairError::not_now(
                        "the other region did not acknowledge all in time: the failover was \
                         taken back, and writes go on here",
                    ));
                }
                role => {
                    let why = format!("the failover ended otherwise: this side is {}", role.name());
                    return Err(PairError::Refused(why));
                }
            }
            let mut footing = self.group.applied();
            let ended = tokio::select! {
                changed = watermark.changed() => changed.is_err(),
                changed = footing.changed() => changed.is_err(),
                () = tokio::time::sleep_until(deadline) => true,
            };
            if ended {
                return Err(PairError::goes_on());
            }
        }
    }

    /// Waits until what the copy lacks is shipped in less time than writes may rest.
    async fn drain(&self, deadline: Instant) -> Result<(), PairError> {
        let weather = shaper::weather(&self.group, &self.in_pair()?);
        let rate = weather.and_then(|it| it.bytes_per_second);
        let near = |mark: &Watermark| {
            let most = MAX_PAUSE.as_secs();
            // In half of that time: the seal and the release must cross as well.
            let takes = |rate: u64| u128::from(mark.bytes_behind) * 1_000 / u128::from(rate.max(1));
            let crosses = rate.is_none_or(|rate| takes(rate) <= MAX_PAUSE.as_millis() / 2);
            // Of little the pace says nothing: it is that of the load, not of the line.
            let is_little = mark.status == GeoStatus::Live && mark.bytes_behind <= LITTLE;
            crosses && (is_little || mark.drain_seconds().is_some_and(|it| it < most))
        };
        let mut watermark = self.watermark.clone();
        let waited = tokio::time::timeout_at(deadline, watermark.wait_for(near)).await;
        if matches!(waited, Ok(Ok(_))) {
            return Ok(());
        }
        drop(waited);
        let mark = self.watermark.borrow().clone();
        let why = match mark.trouble {
            Some(trouble) => format!("the other region does not follow: {trouble}"),
            None => {
                let drain = mark.drain_seconds().map(|it| format!(", about {it} s"));
                let drain = drain.unwrap_or_default();
                format!("the copy is {} bytes behind{drain}", mark.bytes_behind)
            }
        };
        Err(PairError::not_now(why))
    }

    async fn until(
        &self,
        deadline: Instant,
        is_so: impl Fn(&Authority) -> bool,
    ) -> Result<(), PairError> {
        let mut applied = self.group.applied();
        loop {
            applied.borrow_and_update();
            if self.authority().as_ref().is_some_and(&is_so) {
                return Ok(());
            }
            // In time, and by a group that has not ended.
            if !matches!(tokio::time::timeout_at(deadline, applied.changed()).await, Ok(Ok(()))) {
                return Err(PairError::goes_on());
            }
        }
    }

    /// Takes back what was handed over and did not arrive: the other side declines, or, by
    /// `force`, is fenced by a new epoch, which may lose what it wrote. On a secondary: grants
    /// region leases again where a promotion by force was begun and did not come to its end.
    ///
    /// # Errors
    /// Refused by the role, or by the other side, which may have been promoted already.
    pub async fn take_back(&self, who: &str, force: bool) -> Result<(), PairError> {
        let authority = self.in_pair()?;
        let number = match &authority.role {
            role if matches!(role, Role::Sealed { .. })
                || crate::mutants::is_chosen("unseal-after-release") =>
            {
                return self.propose(RegionVerb::Unseal, who).await.map(drop);
            }
            Role::Released { to, .. } => to.number,
            // A promotion by force was begun here, and is not wanted after all.
            Role::Secondary if authority.leasing.stopped.is_some() => {
                let verb = RegionVerb::SetGranting { on: true };
                return self.propose(verb, who).await.map(drop);
            }
            role => {
                let why = format!("a cluster that is {} takes nothing back", role.name());
                return Err(PairError::Refused(why));
            }
        };
        if force {
            let number = authority.next_number();
            return self.propose(RegionVerb::TakeBack { number }, who).await.map(drop);
        }
        let request = pb::DeclineRequest {
            lineage: wire::wide(authority.lineage),
            number: number.0,
            who: who.to_owned(),
        };
        self.other
            .ask(Instant::now() + STEP, |mut client| {
                let request = request.clone();
                async move { client.decline(request).await }
            })
            .await?;
        self.propose(RegionVerb::Declined { number }, who).await.map(drop)
    }

    /// Decides a conflict, on both sides.
    ///
    /// # Errors
    /// Refused where there is none. Where the other side is not reached it is decided here, and
    /// the higher epoch decides it there.
    pub async fn resolve(&self, who: &str, keep: &str) -> Result<(), PairError> {
        let own = self.in_pair()?;
        let theirs = self.other.status(Instant::now() + STEP).await.ok();
        let number = theirs.as_ref().map_or(0, |it| it.next_number).max(own.next_number().0);
        let verb = RegionVerb::Resolve { keep: keep.to_owned(), number: Epoch(number) };
        self.propose(verb, who).await?;
        if theirs.is_none_or(|it| it.role != "conflict") {
            return Ok(());
        }
        let request = pb::ResolveRequest {
            lineage: wire::wide(own.lineage),
            keep: keep.to_owned(),
            number,
            who: who.to_owned(),
        };
        self.other
            .ask(Instant::now() + STEP, |mut client| {
                let request = request.clone();
                async move { client.resolve(request).await }
            })
            .await
            .map(drop)
    }

    /// Allows or refuses reads while this cluster is a secondary.
    ///
    /// # Errors
    /// Refused for a cluster that is in no pair.
    pub async fn set_read_access(&self, who: &str, on: bool) -> Result<(), PairError> {
        let settings = self.in_pair()?.settings;
        let settings = RegionSettings { read_access: on, ..settings };
        self.propose(RegionVerb::Configure(settings), who).await.map(drop)
    }
}
