//! Whether both regions hold the same data.
//!
//! Law: digests are compared only where both were seen at the same entry of one epoch; anything
//! else is no answer.

use std::time::Duration;

use tokio::time::Instant;

use super::Pair;
use crate::geo::error::PairError;
use crate::proto::geo::v1 as pb;
use crate::queue::authority::Role;
use crate::queue::ids::Digest;

/// Between two looks at both regions.
const AGAIN: Duration = Duration::from_millis(50);

/// The data of both regions at one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    pub index: u64,
    pub own: Digest,
    pub other: Digest,
}

impl Pair {
    /// Compares the data of both regions at one entry of the primary's log; where neither is
    /// written to, that is soon.
    ///
    /// # Errors
    /// Refused where this cluster is in no pair; *not now* when both were never seen at one
    /// entry before the deadline.
    pub async fn verify(&self, deadline: Instant) -> Result<Compared, PairError> {
        let own = self.in_pair()?;
        if own.attachment.is_none() {
            return Err(PairError::Refused("no second region is attached".to_owned()));
        }
        while Instant::now() < deadline {
            let before = self.word();
            let theirs = self.other.status(deadline).await?;
            let (primary, copy) =
                if own.role == Role::Secondary { (&theirs, &before) } else { (&before, &theirs) };
            let same_epoch = primary.epoch == copy.epoch;
            if let (true, Some(at)) = (same_epoch, copy.applied_through)
                && primary.applied == Some(at)
            {
                let digest = |it: &pb::GetStatusResponse| {
                    let bytes = <[u8; 16]>::try_from(it.digest.as_ref()).unwrap_or_default();
                    Digest(u128::from_be_bytes(bytes))
                };
                let (own, other) = (digest(&before), digest(&theirs));
                return Ok(Compared { index: at.index, own, other });
            }
            tokio::time::sleep(AGAIN).await;
        }
        Err(PairError::not_now("the regions were never seen at one entry: try while it is quiet"))
    }
}
