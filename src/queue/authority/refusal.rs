//! Why a command about regions, or a write, was refused because of the cluster's role.

use super::RegionEpoch;
use crate::queue::ids::{Position, Span};

/// A refusal: nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionRefusal {
    #[error("this is the secondary region and read-only; the primary is {primary:?}")]
    ReadOnly { primary: String },
    #[error("this is the secondary region, where reads are off; the primary is {primary:?}")]
    NoReads { primary: String },
    #[error("this secondary region has nothing to read yet: its copy of {primary:?} is under way")]
    NothingYet { primary: String },
    #[error(
        "this is the secondary region, and what is read here may not be the newest: ask the \
         primary {primary:?}, or say how old the answer may be"
    )]
    NotNewest { primary: String },
    #[error(
        "what is here is {} behind region {newer:?} by this node's clock, and the read allows {}",
        seconds(.behind), seconds(.allowed)
    )]
    TooOld { newer: String, behind: Span, allowed: Span },
    #[error("a failover is under way: writes go on in a moment, here or in the other region")]
    FailingOver,
    #[error("this region has handed over to {}", named(.to))]
    HandedOver { to: RegionEpoch },
    #[error("this region is fenced: {} is in force", named(.by))]
    Fenced { by: RegionEpoch },
    #[error("two regions are at the same epoch, {} is the other: decide by region resolve", named(.with))]
    Conflict { with: RegionEpoch },
    #[error("this cluster is a kept copy: it is read-only until it is promoted")]
    Detached,
    #[error("a cluster that is {role} cannot {verb}")]
    WrongRole { role: String, verb: String },
    #[error("{what} is not the one in force here")]
    Mismatch { what: String },
    #[error("epoch number {asked} is used up; the next is {next}")]
    UsedNumber { asked: u32, next: u32 },
    #[error("{} is no longer in force; {} is", named(.asked), named(.current))]
    StaleEpoch { asked: RegionEpoch, current: RegionEpoch },
    #[error("the entries do not continue the copy; they must start after {}", place(.expected))]
    Gap { expected: Option<Position> },
    #[error("the entries are of another history: the copy ends at {}, and theirs at {}", place(.expected), place(.found))]
    Diverged { expected: Option<Position>, found: Option<Position> },
    #[error(
        "this copy never had all that its primary had: who accepts that says --accept-incomplete"
    )]
    Incomplete,
    #[error("a whole state is under way to this copy: it is empty until that is there")]
    Seeding,
    #[error("another seed is under way: it must be given up first")]
    OtherSeed,
    #[error("chunk {expected} of the seed is next")]
    SeedGap { expected: u64 },
    #[error("the seed is not a whole state: {why}")]
    SeedBroken { why: String },
    #[error(
        "the tail of region {region:?} is neither replayed nor exported: do so there, or give it up by --discard-tail"
    )]
    TailUnsettled { region: String },
    #[error("the tail is replayed through number {expected}: go on from there")]
    ReplayGap { expected: u64 },
    #[error("the other region has not acknowledged all through the seal")]
    NotAcknowledged,
    #[error("the entries raise the rules to version {asked}, and this node knows up to {known}")]
    UnknownRules { asked: u32, known: u32 },
    #[error("region leases are still granted: stop granting first")]
    StillGranting,
    #[error("this primary relies on a region lease: end that first")]
    ReliesOnLease,
    #[error("no region leases are granted any more: a promotion by force was begun")]
    StoppedGranting,
    #[error("this cluster holds data of another lineage, and a secondary must be empty")]
    NotEmpty,
    #[error("a command about regions must be alone in its entry")]
    NotAlone,
    #[error("{what} has reached its limit of {limit}")]
    Limit { what: String, limit: u64 },
    #[error("{field} {problem}")]
    BadField { field: String, problem: String },
}

fn named(epoch: &RegionEpoch) -> String {
    format!("epoch {} of region {:?}", epoch.number.0, epoch.region)
}

fn seconds(span: &Span) -> String {
    format!("{}.{:03} s", span.0 / 1_000_000, span.0 / 1_000 % 1_000)
}

pub(super) fn place(position: &Option<Position>) -> String {
    position.map_or("the beginning".to_owned(), |position| position.to_string())
}
