//! The operator's verbs about a pair of regions, as the node that leads carries them out.
//!
//! Laws: every step is an entry of a group, asked for by name and answered again when it is so
//! already, so a verb may be begun anew, from either side, after any node has ended at any step.
//! Where the other region has its part it is asked before anything here is final. What is only
//! known of the other side is said to be known as of its last word.

mod apart;
mod attach;
mod audit;
mod behind;
mod decide;
mod failback;
mod force;
mod knocks;
mod lease;
mod limit;
mod redundancy;
mod replay;
mod senders;
mod settings;
mod shape;
mod toward;
mod verify;

pub use behind::CopyBehind;
pub use failback::{Return, Stage, Way, way_from, way_to};
pub use knocks::Stranger;
pub use replay::{Replay, ReplayStep, Replaying, SkippedMessage, not_sent_from, result_to};

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

pub use force::{Loss, all as all_lacking, lacking};
pub use limit::LimitChange;
pub use shape::{ShapeChange, Shaped};
pub use toward::toward;

use super::error::PairError;
use super::failover::MAX_PAUSE;
use super::herald::{ClockAhead, Heard};
use super::lag;
use super::other::OtherRegion;
use super::shaper;
use super::watermark::{GeoStatus, Watermark};
use super::wire;
use crate::clock::SharedClock;
use crate::consensus::error::GroupError;
use crate::consensus::group::{Agreement, Group, Limits, Standing};
use crate::proto::geo::v1 as pb;
use crate::queue::authority::command::{Actor, RegionCommand, RegionReply, RegionVerb};
use crate::queue::authority::{AuditRow, Authority, RegionSettings, Role};
use crate::queue::command::{Command, Envelope};
use crate::queue::outcome::Reply;
use crate::storage::codec;

/// One step has this long.
const STEP: Duration = Duration::from_secs(10);
/// Bytes that cross any line in the time that writes may rest.
const LITTLE: u64 = 256 << 10;

/// What a cluster says that never was in a pair.
const ALONE: &str = "this cluster stands alone: `zoneq region protect` attaches the other region";

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
    knocks: knocks::Knocks,
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
    /// How far that region's clock is ahead, by the same word.
    pub clock: Option<ClockAhead>,
    pub redundancy: String,
    /// For how long shipping has stood still, on both sides.
    pub stalled: Option<Duration>,
    /// Of a secondary: why it takes nothing that is shipped.
    pub refuses: Option<String>,
    /// Messages that the primary has and the copy lacks, as of the other side's last word.
    pub messages_behind: Option<u64>,
    /// Of a primary: why the copy is too far behind, where it is.
    pub lag_trouble: Option<String>,
    /// Of a primary: what differs in the other region, by its name, as of the last comparison.
    pub differs: Option<(String, Agreement)>,
    /// How the line is shaped, on both sides.
    pub shaped: Option<Shaped>,
    /// What is left of the region lease that this node leads by.
    pub lease_left: Option<Duration>,
    /// Why it holds none, where it relies on one.
    pub lease_trouble: Option<String>,
    /// Who was turned away here lately.
    pub stranger: Option<Stranger>,
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
        let knocks = knocks::Knocks::default();
        Pair { group, region, other, watermark, heard, clock, memory, arrivals, knocks }
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
        let follows = self.follows_since(heard.as_ref());
        let now = self.clock.monotonic_us();
        let clock = heard.as_ref().and_then(|it| it.clock);
        let heard = heard.map(|it| {
            let age = Duration::from_micros(now.saturating_sub(it.at_us));
            ((*it.status).clone(), age)
        });
        let zoned = self.group.status().redundancy;
        let word = heard.as_ref().map(|(it, _)| it);
        let redundancy = redundancy::named(&zoned, standing.as_ref(), word, follows);
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
        let refused = own.filter(|it| it.role == Role::Secondary);
        let refused = refused.and_then(|_| self.group.refuses_shipped());
        let since = watermark.stalled_since_us;
        let stalled = since.map(|at| Duration::from_micros(now.saturating_sub(at)));
        let stalled = stalled.or(refused.as_ref().map(|(_, lasted)| *lasted));
        PairStatus {
            stalled,
            refuses: refused.map(|(why, _)| why),
            copy,
            messages_behind,
            lag_trouble,
            differs: own.and_then(|own| self.differs(own)),
            shaped,
            lease_left,
            lease_trouble,
            standing,
            watermark,
            heard,
            clock,
            redundancy,
            stranger: self.stranger(),
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
        let alone = || PairError::Refused(ALONE.to_owned());
        self.authority().ok_or_else(alone)
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
            return Err(toward::elsewhere(&why, &began, "failback"));
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
            // Who takes nothing would let writes rest for nothing.
            let goes_out = mark.trouble.is_none();
            goes_out && crosses && (is_little || mark.drain_seconds().is_some_and(|it| it < most))
        };
        let mut watermark = self.watermark.clone();
        let is_near = tokio::select! {
            waited = watermark.wait_for(near) => waited.is_ok(),
            () = self.stands_still() => false,
            () = tokio::time::sleep_until(deadline) => false,
        };
        if is_near {
            return Ok(());
        }
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

    /// Returns once shipping has stood still for as long as writes may rest.
    async fn stands_still(&self) {
        let mut watermark = self.watermark.clone();
        loop {
            let since = watermark.borrow_and_update().stalled_since_us;
            let lasts = since.map(|at| self.clock.monotonic_us().saturating_sub(at));
            let left = lasts.map(|it| MAX_PAUSE.saturating_sub(Duration::from_micros(it)));
            tokio::select! {
                () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => return,
                changed = watermark.changed() => if changed.is_err() { return },
            }
        }
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

    /// Allows or refuses reads while this cluster is a secondary.
    ///
    /// # Errors
    /// Refused for a cluster that is in no pair.
    pub async fn set_read_access(&self, who: &str, on: bool) -> Result<(), PairError> {
        self.configure(who, |settings| Ok(RegionSettings { read_access: on, ..settings })).await
    }
}
