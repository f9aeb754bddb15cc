//! Whether both regions hold the same data.
//!
//! Law: digests are compared only where both were seen after the same entry of one epoch; anything
//! else is no answer.

use std::time::Duration;

use tokio::time::Instant;

use super::Pair;
use crate::geo::error::PairError;
use crate::geo::wire;
use crate::proto::geo::v1 as pb;
use crate::queue::ids::Digest;
use crate::queue::milestones::Comparison;
use crate::storage::codec;

/// Between two looks at both regions.
const AGAIN: Duration = Duration::from_millis(50);
/// So long the present states are tried for, which are equal only while nothing is written.
const PRESENT: Duration = Duration::from_secs(1);

/// The data of both regions after one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    pub index: u64,
    pub own: Digest,
    pub other: Digest,
    /// What differs, in words.
    pub differs: Vec<String>,
}

impl Pair {
    /// Compares the data of both regions after one entry of the primary's log: the present one
    /// where neither is written to, else the newest fixed position that both have.
    ///
    /// # Errors
    /// Refused where this cluster is in no pair; *not now* when both were never seen after one
    /// entry before the deadline.
    pub async fn verify(&self, deadline: Instant) -> Result<Compared, PairError> {
        if self.in_pair()?.attachment.is_none() {
            return Err(PairError::Refused("no second region is attached".to_owned()));
        }
        let present_until = Instant::now() + PRESENT;
        while Instant::now() < deadline {
            let (comparison, present) = self.compare_now(deadline).await?;
            let may_do = |index: u64| index >= present || Instant::now() >= present_until;
            match comparison {
                Comparison::Equal(mark) if may_do(mark.at.index) => {
                    let (own, other, differs) = (mark.digest, mark.digest, Vec::new());
                    return Ok(Compared { index: mark.at.index, own, other, differs });
                }
                Comparison::Differ { own, other, parts } => {
                    let differs = self.group.part_names(&parts);
                    let (index, own) = (own.at.index, own.digest);
                    return Ok(Compared { index, own, other, differs });
                }
                Comparison::Equal(_) | Comparison::NothingInCommon => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
        Err(PairError::not_now(
            "the regions were never seen after one entry: try while it is quiet",
        ))
    }

    /// Compares with whichever node of the other region answers.
    ///
    /// # Errors
    /// As [`crate::geo::other::OtherRegion::ask`].
    pub async fn compare(&self, deadline: Instant) -> Result<Comparison, PairError> {
        Ok(self.compare_now(deadline).await?.0)
    }

    /// The same, and the index of this side's present state.
    async fn compare_now(&self, deadline: Instant) -> Result<(Comparison, u64), PairError> {
        let own = self.group.milestones();
        let request = pb::CompareRequest {
            lineage: wire::wide(self.in_pair()?.lineage),
            milestones: Some(codec::milestones_to(&own)),
        };
        let answer = self.other.ask(deadline, |mut client| {
            let request = request.clone();
            async move { client.compare(request).await }
        });
        let compared = answer.await?.compared.unwrap_or_default();
        let comparison = codec::compared_from(&own, compared);
        let comparison = comparison.map_err(|error| PairError::Refused(error.to_string()))?;
        Ok((comparison, own.last().map_or(0, |it| it.at.index)))
    }
}
