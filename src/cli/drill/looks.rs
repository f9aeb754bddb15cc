//! What a region says of itself, as a history has it. Translation only.

use std::time::SystemTime;

use super::history::{Cluster, EpochId, Join, Look, Micros, Part, Place, REGIONS, Taken, Told};
use super::recorder::{micros, moment};
use crate::cli::region::role_name;
use crate::proto::admin::v1 as pb;
use crate::queue::authority::RegionEpoch;
use crate::queue::ids::Epoch;

fn epoch(id: Option<&pb::EpochId>) -> EpochId {
    id.map(|id| (id.number, id.region.clone())).unwrap_or_default()
}

/// An epoch of which a node told.
#[must_use]
pub fn epoch_told(id: Option<&pb::EpochId>) -> RegionEpoch {
    let (number, region) = epoch(id);
    RegionEpoch { number: Epoch(number), region }
}

/// A time of the log of which a node told.
#[must_use]
pub fn time(at: Option<prost_types::Timestamp>) -> Option<u64> {
    at.and_then(|at| SystemTime::try_from(at).ok()).map(|at| moment(Some(at)))
}

fn at(index: u64) -> Place {
    Place { index, ..Place::default() }
}

fn part(status: &pb::GetRegionResponse) -> Part {
    let join = |join: &pb::EpochJoin| Join {
        epoch: epoch(join.epoch.as_ref()),
        previous: join.previous.map(at),
        first: join.first.map(at),
    };
    let taken = |it: &pb::TailTaken| Taken {
        epoch: epoch(it.epoch.as_ref()),
        through: it.through,
        sent: it.sent,
        skipped: it.skipped,
        done: it.done,
    };
    let role = status.role();
    let ended = matches!(role, pb::RegionRole::Fenced | pb::RegionRole::Conflict);
    let through = status.applied_through.as_ref().filter(|_| role == pb::RegionRole::Secondary);
    let lease = status.lease.as_ref().and_then(|lease| lease.in_force);
    Part {
        lineage: u128::from_str_radix(&status.lineage, 16).unwrap_or_default(),
        region: status.region.clone(),
        role: role_name(status.role).to_owned(),
        // It ended here or before.
        role_at: ended.then(|| at(status.applied_index)),
        other: None,
        epoch: epoch(status.epoch.as_ref()),
        ledger: status.epochs.iter().map(join).collect(),
        applied_through: through.map(|through| at(through.index)),
        lease: lease.and_then(|lease| lease.try_into().ok()).map(micros),
        replayed: status.tails_taken.iter().map(taken).collect(),
    }
}

/// A look at a region that is in a pair; nothing of one that never was, or has no place here.
#[must_use]
pub fn look((invoked, returned): (Micros, Micros), status: &pb::GetRegionResponse) -> Option<Look> {
    let region = REGIONS.iter().position(|name| *name == status.region)?;
    if status.lineage.is_empty() {
        return None;
    }
    let told = Told {
        invoked,
        returned,
        cluster: Cluster { region, generation: 0 },
        role: role_name(status.role).to_owned(),
        epoch: epoch_told(status.epoch.as_ref()),
        last_sync: time(status.last_sync_time),
        is_live: status.status() == pb::GeoStatus::Live,
        trouble: status.trouble.clone(),
        is_complete: status.complete,
        peer: status.peer.clone(),
    };
    let (index, log_time) = (status.applied_index, time(status.log_time).unwrap_or_default());
    Some(Look { told, index, log_time, part: part(status) })
}
