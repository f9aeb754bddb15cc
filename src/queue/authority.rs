//! Which region may write: a cluster's part in a pair of regions, as its own group has agreed.
//!
//! Laws:
//! * A cluster without an [`Authority`] stands alone and is writable; that costs one branch an
//!   entry. What is here is no part of the data digest: the regions differ in it.
//! * Role, epoch, attachment and positions change only by commands of this room
//!   ([`command::RegionCommand`]), each alone in its entry, so a promotion or a seal has a place
//!   in the order of the sends. Only [`command::RegionVerb::RecordShipped`] rides with others.
//! * Where the role does not allow writes `apply` refuses every data command, before sessions
//!   and before log time: T rests. The refused entries stay in the log, and the other region
//!   must not run them: [`Authority::rested`] names them for the shipper.
//! * An epoch is (number, region) and a number is used once: for a promotion it must be above
//!   all that was seen, handed out or declined here.
//! * Positions are compared only inside one epoch; from one epoch to the next the line of the
//!   ledger says where they join.
//!
//! `plan.rs` says what is shipped next, `fork.rs` where two histories part, `transition.rs` what each
//! command does, `shipped.rs` how the other region's entries are applied, `seed.rs` how an empty
//! copy is given a whole state, `lease.rs` what both agreed about region leases, `loss.rs` what
//! a promotion by force was known to lose, `shape.rs` how
//! the line is made to behave, `bounds.rs` what may be set, `tail.rs` what a deposed side has
//! alone and `replay.rs` how it is taken from there, `wipe.rs` how a kept copy is given up,
//! `refusal.rs` why not.

pub mod ahead;
mod attach;
mod bounds;
pub mod command;
pub mod fork;
pub mod lease;
pub mod loss;
pub mod plan;
pub mod refusal;
pub mod replay;
pub mod seed;
pub mod shape;
mod shipped;
pub mod tail;
mod transition;
mod wipe;

use super::ids::{Epoch, LogTime, Position, Span};
use super::limits::{AUDIT_ROWS, LEDGER_LINES};
use super::rows::RowKey;
use super::state::State;
use lease::Leasing;
use loss::KeptLoss;
use refusal::RegionRefusal;
use replay::Replayed;
use seed::{SeedRow, Seeding};
use shape::Shape;

pub use bounds::check as check_settings;
pub(super) use transition::{record, run};

/// A region's generation. A higher number fences a lower; the same number from two regions is a
/// conflict, which a person decides.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RegionEpoch {
    pub number: Epoch,
    pub region: String,
}

/// What a cluster is in its pair of regions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// It has no second region.
    #[default]
    Standalone,
    /// Writable, and ships its log.
    Primary,
    /// A planned failover has begun at this entry; until it is released it may be taken back.
    Sealed { at: Position },
    /// Handed over at this entry: `to` begins when the other region has applied it.
    Released { to: RegionEpoch, at: Position },
    /// Follows the primary, and is promotable.
    Secondary,
    /// A higher epoch was seen; what was written between the fork and `at` is this side's tail.
    Fenced { by: RegionEpoch, fork: Option<Fork>, at: Position },
    /// The same epoch number was seen from this region.
    Conflict { with: String, fork: Option<Fork>, at: Position },
    /// A kept copy: readable, and follows nobody.
    Detached,
}

impl Role {
    /// Each word that [`Role::name`] says.
    pub const NAMES: [&str; 8] = [
        "standalone",
        "primary",
        "sealed",
        "released",
        "secondary",
        "fenced",
        "conflict",
        "detached",
    ];

    #[must_use]
    pub fn is_writable(&self) -> bool {
        matches!(self, Role::Standalone | Role::Primary)
    }

    /// One word, as `region status` shows it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Role::Standalone => "standalone",
            Role::Primary => "primary",
            Role::Sealed { .. } => "sealed",
            Role::Released { .. } => "released",
            Role::Secondary => "secondary",
            Role::Fenced { .. } => "fenced",
            Role::Conflict { .. } => "conflict",
            Role::Detached => "detached",
        }
    }
}

/// Where this cluster's history left the one that another epoch goes on with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fork {
    /// The last entry of this group's own log that both have; `None` = none.
    pub after: Option<Position>,
    /// The first message number that only this side gave.
    pub next_number: u64,
}

/// Where an epoch joins the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LedgerLine {
    pub epoch: RegionEpoch,
    /// The last position of the epoch before, in the log of *its* region; `None` for the first
    /// epoch of a lineage.
    pub previous: Option<Position>,
    /// The entry that began the epoch, in the log of its own region: the epoch's entries are
    /// those after it. `None` = from the beginning of the log.
    pub first: Option<Position>,
    /// The first message number of the epoch.
    pub next_number: u64,
}

/// How far the primary was when it sent the newest batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    pub position: Position,
    pub log_time: LogTime,
}

/// The relation of two regions. Protecting again makes a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub id: u128,
    /// The other region.
    pub peer: String,
}

/// Entries of this group's log that `apply` refused because of the role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// The entry that ended writing; those after it are refused.
    pub after: u64,
    /// The entry that allowed it again; `None` = not yet.
    pub until: Option<u64>,
}

impl Rest {
    /// Whether the entry at an index is one of those.
    #[must_use]
    pub fn holds(&self, index: u64) -> bool {
        self.after < index && self.until.is_none_or(|until| index < until)
    }
}

/// What operators set for the pair, replicated in each group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegionSettings {
    /// Reads are allowed while this cluster is a secondary.
    pub read_access: bool,
    pub shape: Shape,
    /// A lag beyond this is alarmed, or throttled.
    pub max_lag: Option<Span>,
    /// Bytes of log that may wait to be shipped.
    pub max_unshipped_bytes: Option<u64>,
    /// Beyond a limit writes are slowed down; without, there is an alarm only.
    pub throttle: bool,
    /// How long a grant of the other region lets this one write; `None` = no region lease.
    pub lease: Option<Span>,
}

/// A cluster's part in a pair of regions: one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authority {
    /// Grows with every change of this row, and is in the counters row too: a restart that finds
    /// them different has lost a row, and must not take itself for writable.
    pub revision: u64,
    pub lineage: u128,
    pub region: String,
    pub role: Role,
    pub epoch: RegionEpoch,
    /// The highest epoch ever seen or handed out here.
    pub seen: RegionEpoch,
    /// Numbers up to this one were declined: no release to them promotes any more.
    pub declined: Epoch,
    /// Newest last.
    pub ledger: Vec<LedgerLine>,
    pub attachment: Option<Attachment>,
    /// Of a secondary: the last position of the primary's log that this state covers.
    pub applied_through: Option<Position>,
    /// Of a secondary: how far the primary was, as of its last batch.
    pub head: Option<Head>,
    /// Of a secondary: it has had all that its primary had, at one time at least.
    pub is_complete: bool,
    /// A whole state is under way to it.
    pub seeding: Option<Seeding>,
    /// Of a primary: the last position of its own log that the other region's group has applied.
    pub shipped: Option<Position>,
    pub leasing: Leasing,
    pub rests: Vec<Rest>,
    pub settings: RegionSettings,
    pub next_audit: u64,
    /// Of each fenced epoch whose tail came here, for ever.
    pub replayed: Vec<Replayed>,
    /// Of a fenced side: what became of its tail; `None` = nothing yet.
    pub tail: Option<TailFate>,
    /// What the newest promotion by force here was known to lose; `None` = there was none, or it
    /// was not kept.
    pub loss: Option<KeptLoss>,
    /// Which half of the ids its contents have; see `seed.rs`.
    pub high_contents: bool,
}

/// What became of the tail of a fenced side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailFate {
    /// The new primary has taken it.
    Replayed,
    /// A person has it in a file.
    Exported,
    /// A person gave it up.
    Discarded,
}

impl TailFate {
    /// One word, as `region status` shows it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TailFate::Replayed => "replayed",
            TailFate::Exported => "exported",
            TailFate::Discarded => "discarded",
        }
    }
}

/// What was done to a cluster's authority, by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRow {
    pub number: u64,
    /// Wall time of the node that proposed it, microseconds since 1970.
    pub at_us: u64,
    pub log_time: LogTime,
    pub who: String,
    /// A sentence without its full stop.
    pub what: String,
    /// The epoch after it.
    pub epoch: RegionEpoch,
}

impl Authority {
    /// Whether data may change here.
    ///
    /// # Errors
    /// The refusal that the writer is to read.
    pub fn check_write(&self) -> Result<(), RegionRefusal> {
        match &self.role {
            Role::Standalone | Role::Primary => Ok(()),
            Role::Secondary => Err(RegionRefusal::ReadOnly { primary: self.epoch.region.clone() }),
            Role::Sealed { .. } => Err(RegionRefusal::FailingOver),
            Role::Released { to, .. } => Err(RegionRefusal::HandedOver { to: to.clone() }),
            Role::Fenced { by, .. } => Err(RegionRefusal::Fenced { by: by.clone() }),
            Role::Conflict { with, .. } => {
                let with = RegionEpoch { number: self.epoch.number, region: with.clone() };
                Err(RegionRefusal::Conflict { with })
            }
            Role::Detached => Err(RegionRefusal::Detached),
        }
    }

    /// Whether data may be read here.
    ///
    /// # Errors
    /// The refusal that the reader is to read.
    pub fn check_read(&self) -> Result<(), RegionRefusal> {
        if self.role == Role::Secondary && !self.settings.read_access {
            return Err(RegionRefusal::NoReads { primary: self.epoch.region.clone() });
        }
        // Its empty state is of no moment of the primary's history.
        if self.role == Role::Secondary && self.applied_through.is_none() {
            return Err(RegionRefusal::NothingYet { primary: self.epoch.region.clone() });
        }
        Ok(())
    }

    /// Whether what is read here may be called the newest: another region may write already where
    /// this one handed over, and does where this one is fenced, or follows.
    ///
    /// # Errors
    /// The refusal that the reader is to read.
    pub fn check_newest(&self) -> Result<(), RegionRefusal> {
        match &self.role {
            Role::Released { .. } | Role::Fenced { .. } | Role::Conflict { .. } => {
                self.check_write()
            }
            Role::Secondary if self.settings.read_access => {
                Err(RegionRefusal::NotNewest { primary: self.epoch.region.clone() })
            }
            _ => self.check_read(),
        }
    }

    /// The region that may have written more than this one knows; `None` = there is none, or what
    /// it writes is another history.
    fn newer(&self) -> Option<&str> {
        match &self.role {
            Role::Secondary => Some(&self.epoch.region),
            Role::Released { to, .. } => Some(&to.region),
            Role::Fenced { by, .. } => Some(&by.region),
            Role::Conflict { with, .. } => Some(with),
            Role::Standalone | Role::Primary | Role::Sealed { .. } | Role::Detached => None,
        }
    }

    /// Whether the state of the time `at` may be read by who allows it to be so old. The time
    /// `now` is that of the clock of the node which answers, and `at` was another region's: how
    /// far their clocks differ is not known, and counts as age where that is behind.
    ///
    /// # Errors
    /// The refusal that the reader is to read.
    pub fn check_age(&self, at: LogTime, now: LogTime, allowed: Span) -> Result<(), RegionRefusal> {
        self.check_read()?;
        let behind = now.since(at);
        match self.newer() {
            Some(newer) if behind > allowed => {
                Err(RegionRefusal::TooOld { newer: newer.to_owned(), behind, allowed })
            }
            _ => Ok(()),
        }
    }

    /// Whether `apply` refused the data of this entry of the group's own log, as far as the
    /// state knows: ask a state that has applied the entry.
    #[must_use]
    pub fn rested(&self, index: u64) -> bool {
        self.rests.iter().any(|rest| rest.holds(index))
    }

    /// The line of the epoch in force.
    #[must_use]
    pub fn line(&self) -> Option<&LedgerLine> {
        self.ledger.last().filter(|line| line.epoch == self.epoch)
    }

    /// The end of what this cluster has of the epoch in force, in the log of that epoch's region.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        match &self.role {
            Role::Released { at, .. } => Some(*at),
            _ => self.applied_through,
        }
    }

    /// Of a side that handed over: an entry between its seal and its release, of which its group
    /// knows that the copy had it. What comes after it, up to the release, changed nothing.
    #[must_use]
    pub fn before_release(&self) -> Option<Position> {
        let Role::Released { at, .. } = &self.role else { return None };
        self.shipped.filter(|shipped| shipped.index < at.index)
    }

    /// The lowest number that a promotion may have.
    #[must_use]
    pub fn next_number(&self) -> Epoch {
        let highest = self.epoch.number.max(self.seen.number).max(self.declined);
        Epoch(highest.0.saturating_add(1))
    }

    fn see(&mut self, epoch: &RegionEpoch) {
        if epoch.number > self.seen.number {
            self.seen = epoch.clone();
        }
    }

    /// Takes a role at the entry `index`, and notes from where to where data is refused.
    fn become_role(&mut self, role: Role, index: u64) {
        match (self.role.is_writable(), role.is_writable()) {
            (true, false) => self.rests.push(Rest { after: index, until: None }),
            (false, true) => {
                if let Some(rest) = self.rests.last_mut()
                    && rest.until.is_none()
                {
                    rest.until = Some(index);
                }
            }
            _ => {}
        }
        self.role = role;
    }

    /// Begins to live in an epoch. What was agreed about leases was so of the one before.
    fn enter(&mut self, line: LedgerLine) {
        self.leasing = Leasing::default();
        self.see(&line.epoch);
        self.epoch = line.epoch.clone();
        self.ledger.push(line);
        if self.ledger.len() > LEDGER_LINES {
            self.ledger.remove(0);
        }
    }
}

impl State {
    /// The cluster's part in a pair of regions; `None` = it stands alone and always did.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_deref()
    }

    /// Whether data may change here at all.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.authority.as_ref().is_none_or(|authority| authority.role.is_writable())
    }

    /// Whether no data command was ever applied.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        transition::is_empty(&self.counters)
    }

    /// The number that the next message sent will have: those before it were sent.
    #[must_use]
    pub fn next_message(&self) -> u64 {
        self.counters.next_number
    }

    /// What was done to the authority, the oldest of at most 1,000 first.
    pub fn audit(&self) -> impl DoubleEndedIterator<Item = &AuditRow> {
        self.audit.iter()
    }

    pub(super) fn audit_row(&self, number: u64) -> Option<&AuditRow> {
        let first = self.audit.front()?.number;
        self.audit.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// Takes in an authority row; false when there is one already.
    pub(super) fn load_authority(&mut self, row: Box<Authority>) -> bool {
        self.authority.replace(row).is_none()
    }

    /// Takes in an audit row; false when it is not the next one.
    pub(super) fn load_audit(&mut self, row: AuditRow) -> bool {
        let next =
            self.audit.back().is_none_or(|last| last.number.checked_add(1) == Some(row.number));
        let room = self.audit.len() < AUDIT_ROWS;
        if next && room {
            self.audit.push_back(row);
        }
        next && room
    }

    pub(super) fn authority_keys(&self) -> impl Iterator<Item = RowKey> {
        let authority = self.authority.iter().map(|_| RowKey::Authority);
        let audit = self.audit.iter().map(|row| RowKey::Audit(row.number));
        authority.chain(audit).chain(self.seed.iter().map(|row| RowKey::Seed(row.number)))
    }

    /// Whether chunks of a seed are left that nobody waits for any more.
    #[must_use]
    pub fn has_abandoned_seed(&self) -> bool {
        let is_under_way = self.authority.as_ref().is_some_and(|it| it.seeding.is_some());
        !(self.seed.is_empty() || is_under_way)
    }

    pub(super) fn seed_row(&self, number: u64) -> Option<&SeedRow> {
        self.seed.get(usize::try_from(number).ok()?)
    }

    /// Takes in a chunk of a seed; false when it is not the next one.
    pub(super) fn load_seed(&mut self, row: SeedRow) -> bool {
        let next = row.number == self.seed.len() as u64;
        if next {
            self.seed.push(row);
        }
        next
    }
}
