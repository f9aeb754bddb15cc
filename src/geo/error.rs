//! Why shipping stops, and why a verb about regions was not done. That shipping stops is always
//! *not now*: nothing that was acknowledged is lost by it.

use super::wire;
use crate::consensus::error::{Fate, GroupError};
use crate::queue::authority::plan::Parted;
use crate::queue::ids::Position;
use crate::storage::codec::CodecError;
use crate::storage::error::StorageError;
use crate::storage::store::StoreError;

#[derive(Debug, thiserror::Error)]
pub enum ShipError {
    #[error("no node of the other region is configured")]
    NoEndpoints,
    #[error("the endpoint {endpoint:?} cannot be used")]
    Endpoint { endpoint: String, source: crate::consensus::network::ChannelError },
    /// The copy cannot go on from this log at all.
    #[error(transparent)]
    Parted(#[from] Parted),
    #[error(
        "this node's log no longer has the entries after {0}: another node may, or the copy must be seeded"
    )]
    Purged(Position),
    #[error("this region's log has another entry at {0}: the histories differ")]
    Diverged(Position),
    #[error("the log could not be read")]
    Log(#[from] StorageError),
    #[error("the other region answered {}: {}", .0.code(), .0.message())]
    Refused(#[from] Box<tonic::Status>),
    #[error("the other region did not answer in time")]
    Silent,
    #[error("the other region closed the stream")]
    Closed,
    #[error("the answer of the other region cannot be read")]
    Answer(#[from] CodecError),
    #[error("the copy is not given a whole state: {0}")]
    Seed(#[from] SeedError),
}

impl ShipError {
    /// Whether a node of the other region has looked and refused, as only one that leads does.
    pub(super) fn is_of_leader(&self) -> bool {
        matches!(self, ShipError::Refused(status) if status.code() != tonic::Code::Unavailable)
    }
}

/// Why a verb about regions was not done.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// This region's group refused, or could not now.
    #[error(transparent)]
    Group(#[from] GroupError),
    /// Nothing was changed, here or there.
    #[error("{0}")]
    Refused(String),
    #[error("{why}")]
    NotNow { why: String, fate: Fate },
    #[error("no node of the other region is configured: set other_region")]
    NotConfigured,
    #[error("this node's log could not be read")]
    Log(#[from] StorageError),
}

impl PairError {
    /// Nothing was changed, and it may be tried again.
    pub(super) fn not_now(why: impl Into<String>) -> PairError {
        PairError::NotNow { why: why.into(), fate: Fate::NotApplied }
    }

    /// Whether it may be otherwise a little later.
    #[must_use]
    pub fn is_not_now(&self) -> bool {
        matches!(self, PairError::NotNow { .. } | PairError::Group(GroupError::NotNow { .. }))
    }

    /// A failover of which this node sees no more: the time is over, or its group has ended.
    pub(super) fn goes_on() -> PairError {
        let why = "the failover is under way and goes on by itself".to_owned();
        PairError::NotNow { why, fate: Fate::Unknown }
    }
}

/// Why a seed did not come to its end. It is gone on with, or begins anew.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error("the tables could not be read")]
    Store(#[from] StoreError),
    #[error("the tables hold what cannot be read")]
    Codec(#[from] CodecError),
    #[error("the tables do not say yet what this cluster is in its pair")]
    NotInView,
    #[error("what the other region has changed while it was compared")]
    Moved,
    #[error("another node leads")]
    LeadsNoMore,
    #[error("the other region did not take it: {0}")]
    Other(Box<PairError>),
}

impl SeedError {
    /// Whether what was given before may be gone on with: nothing is wrong with it.
    pub(super) fn may_be_gone_on_with(&self) -> bool {
        match self {
            SeedError::Other(error) => match &**error {
                PairError::Refused(why) => wire::is_of_the_moment(why),
                _ => true,
            },
            SeedError::LeadsNoMore | SeedError::Moved => true,
            SeedError::Store(_) | SeedError::Codec(_) | SeedError::NotInView => false,
        }
    }
}
