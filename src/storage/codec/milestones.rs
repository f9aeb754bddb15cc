//! Milestones between replicas.

use bytes::Bytes;

use super::{CodecError, position_from, position_to};
use crate::proto::log::v1 as pb;
use crate::queue::ids::{Digest, Epoch};
use crate::queue::milestones::{Comparison, Mark, Milestone, in_common};

/// More than a replica ever has is not looked at.
const MOST: usize = 256;

fn mark_to(mark: Mark) -> pb::Milestone {
    let Mark { epoch, at, digest } = mark;
    let digest = Bytes::copy_from_slice(&digest.0.to_be_bytes());
    pb::Milestone { epoch: epoch.0, at: Some(position_to(at)), digest }
}

fn mark_from(it: pb::Milestone) -> Result<Mark, CodecError> {
    let missing = CodecError::Missing { what: "a milestone", field: "position" };
    let wrong = |_| CodecError::Wrong { what: "a milestone", field: "digest" };
    let digest = <[u8; 16]>::try_from(it.digest.as_ref()).map_err(wrong)?;
    let at = position_from(it.at.ok_or(missing)?);
    Ok(Mark { epoch: Epoch(it.epoch), at, digest: Digest(u128::from_be_bytes(digest)) })
}

/// The question of a replica that has these.
#[must_use]
pub fn milestones_to(own: &[Milestone]) -> pb::Milestones {
    pb::Milestones { known: own.iter().map(|it| mark_to(it.mark())).collect() }
}

/// The answer of a replica that has these.
///
/// # Errors
/// [`CodecError`] of the question.
pub fn compared_to(
    own: &[Milestone],
    asked: pb::Milestones,
) -> Result<pb::ComparedMilestone, CodecError> {
    let asked = asked.known.into_iter().take(MOST).map(mark_from).collect::<Result<Vec<_>, _>>()?;
    let Some((milestone, theirs)) = in_common(own, &asked) else {
        return Ok(pb::ComparedMilestone::default());
    };
    let differ = milestone.digest != theirs.digest;
    let parts = if differ { milestone.part_bytes().into() } else { Bytes::new() };
    Ok(pb::ComparedMilestone { common: Some(mark_to(milestone.mark())), parts })
}

/// What the answer says to who has these.
///
/// # Errors
/// [`CodecError`] of the answer.
pub fn compared_from(
    own: &[Milestone],
    answer: pb::ComparedMilestone,
) -> Result<Comparison, CodecError> {
    let Some(common) = answer.common else { return Ok(Comparison::NothingInCommon) };
    let theirs = mark_from(common)?;
    let same = |it: &&Milestone| (it.epoch, it.at) == (theirs.epoch, theirs.at);
    let compared = own.iter().find(same).map(|it| it.compared(theirs.digest, &answer.parts));
    Ok(compared.unwrap_or(Comparison::NothingInCommon))
}
