//! What operators ask of a cluster and of a pair of regions, read and checked as far as that takes
//! no state; and every such request in one place, for those who try bytes that nobody wrote so.
//!
//! Laws: as in `convert.rs`.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use tonic::Status;

use super::convert::{span, wait};
use super::error::Refusal;
use super::redundancy::wanted;
use super::region::{change_in, fate_in, limit_in};
use crate::consensus::types::Member;
use crate::proto::admin::v1 as pb;
use crate::queue::authority::RegionSettings;
use crate::queue::ids::LogTime;

type Read<T> = Result<T, Refusal>;

const HOST_PORT: &str = "host:port";

/// The id of a node.
pub(super) fn node_id(field: &str, id: u64) -> Read<u64> {
    if id == 0 {
        return Err(Refusal::invalid(field, "is 0", "1 and more"));
    }
    Ok(id)
}

fn address(field: &str, text: &str, needed: bool) -> Read<()> {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let good = port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port != 0));
    if good || (text.is_empty() && !needed) {
        return Ok(());
    }
    Err(Refusal::invalid(field, format!("is {:?}", short(text)), HOST_PORT))
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A node to add, of the region of the cluster that is asked.
pub(super) fn learner(request: pb::AddLearnerRequest, region: &str) -> Read<(u64, Member)> {
    let id = node_id("id", request.id)?;
    address("peer_address", &request.peer_address, true)?;
    address("grpc_address", &request.grpc_address, false)?;
    if request.zone.is_empty() || request.zone.len() > 63 {
        let problem = format!("is {:?}", short(&request.zone));
        return Err(Refusal::invalid("zone", problem, "1 to 63 letters"));
    }
    let member = Member {
        zone: request.zone,
        region: region.to_owned(),
        peer_address: request.peer_address,
        grpc_address: request.grpc_address,
    };
    Ok((id, member))
}

/// The voters to be.
pub(super) fn voters(ids: Vec<u64>) -> Read<BTreeSet<u64>> {
    let voters: BTreeSet<u64> = ids.into_iter().collect();
    if voters.is_empty() || voters.contains(&0) {
        let allowed = "the ids of all voters to be, from 1";
        return Err(Refusal::invalid("voters", "is empty or names 0", allowed));
    }
    Ok(voters)
}

/// What a request makes of the settings of a pair that has the usual ones.
type Way = fn(Bytes) -> Option<Result<RegionSettings, Status>>;

fn way<M: Message + Default>(
    bytes: Bytes,
    read: impl FnOnce(M) -> Result<RegionSettings, Status>,
) -> Option<Result<RegionSettings, Status>> {
    Some(read(M::decode(bytes).ok()?))
}

fn usual<T>(_: T) -> RegionSettings {
    RegionSettings::default()
}

fn shaped(request: pb::ShapeLineRequest) -> Result<RegionSettings, Status> {
    let change = change_in(request).map_err(|status| *status)?;
    let usual = RegionSettings::default();
    let shape = change.over(&usual.shape, LogTime(1));
    let checked = shape.check();
    checked.map_err(|refusal| Status::failed_precondition(refusal.to_string()))?;
    Ok(RegionSettings { shape, ..usual })
}

macro_rules! ways {
    ($($message:ident => $read:expr,)*) => {
        /// Messages of the wire by which operators ask for something, in the order of their numbers
        /// in [`read`].
        pub const MESSAGES: &[&str] = &[$(concat!("admin.", stringify!($message))),*];
        const WAYS: &[Way] = &[$(|bytes| way::<pb::$message>(bytes, $read)),*];
    };
}

ways! {
    AddLearnerRequest => |it| Ok(learner(it, "east").map(usual)?),
    ChangeVotersRequest => |it| Ok(voters(it.voters).map(usual)?),
    ReplaceNodeRequest => |it| {
        node_id("old_id", it.old_id)?;
        Ok(node_id("new_id", it.new_id).map(usual)?)
    },
    RemoveNodeRequest => |it| Ok(node_id("id", it.id).map(usual)?),
    SetRedundancyRequest => |it| Ok(usual(wanted(it.wanted()))),
    ShapeLineRequest => shaped,
    SetLagLimitRequest => |it| {
        let change = limit_in(&it).map_err(|status| *status)?;
        Ok(change.over(RegionSettings::default()))
    },
    SetRegionLeaseRequest => |it| {
        Ok(RegionSettings { lease: span("lease", it.lease)?, ..RegionSettings::default() })
    },
    SettleTailRequest => |it| fate_in(it.fate()).map(usual),
    AwaitWritableRequest => |it| Ok(wait(it.wait).map(usual)?),
}

/// What an operator's request comes to: the settings of the pair that it leaves, where they were
/// the usual ones. The first byte is its number in [`MESSAGES`]. `None` when the rest is no such
/// message, or is refused.
#[must_use]
pub fn read(bytes: &Bytes) -> Option<RegionSettings> {
    let way = WAYS.get(usize::from(*bytes.first()?))?;
    way(bytes.slice(1..))?.ok()
}
