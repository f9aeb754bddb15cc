//! What of a primary's log comes next for a copy: the same answer from whichever node leads.
//!
//! Law: positions are compared inside one epoch, and the step from one epoch to the next is taken
//! only where the ledger says that the copy ends just there. Anything else needs a seed.

use super::refusal::place;
use super::{Authority, LedgerLine, RegionEpoch, Role};
use crate::queue::ids::Position;

/// Where a copy ends, as its own group says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyEnd {
    pub epoch: RegionEpoch,
    pub through: Option<Position>,
}

/// A part of this group's own log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Of the epoch that the part belongs to.
    pub line: LedgerLine,
    /// The part begins after this position.
    pub after: Option<Position>,
    /// Where it ends, if it does.
    pub last: Option<Position>,
    /// The epoch that is handed over to at `last`.
    pub release: Option<RegionEpoch>,
}

/// Why a copy cannot go on from this log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Parted {
    #[error("a cluster that is {0} ships nothing")]
    NotPrimary(&'static str),
    #[error("this region knows nothing of epoch {} of region {:?}", .0.number.0, .0.region)]
    UnknownEpoch(RegionEpoch),
    #[error("the copy ends at {}, and this region's history went on from {}", place(.copy), place(.here))]
    Diverged { copy: Option<Position>, here: Option<Position> },
    #[error("the copy is empty, and the log does not go back to the beginning")]
    Empty,
}

impl Part {
    /// Whether a position lies in this part, or beyond its end.
    #[must_use]
    pub fn is_past(&self, index: u64) -> bool {
        self.last.is_some_and(|last| index > last.index)
    }
}

impl Authority {
    /// What a copy that ends there is to be sent next.
    ///
    /// # Errors
    /// [`Parted`]: this cluster ships nothing, or the copy must be seeded.
    pub fn plan(&self, copy: &CopyEnd) -> Result<Part, Parted> {
        if !matches!(self.role, Role::Primary | Role::Sealed { .. } | Role::Released { .. }) {
            return Err(Parted::NotPrimary(self.role.name()));
        }
        let known = self.ledger.iter().position(|line| line.epoch == copy.epoch);
        let Some(at) = known else { return Err(Parted::UnknownEpoch(copy.epoch.clone())) };
        let (Some(line), next) = (self.ledger.get(at), self.ledger.get(at + 1)) else {
            return Err(Parted::UnknownEpoch(copy.epoch.clone()));
        };
        let ends_here = next.is_some_and(|next| next.previous == copy.through);
        if let Some(next) = next
            && ends_here
        {
            return self.part(at + 1, next, next.first);
        }
        if line.epoch.region != self.region {
            let here = next.and_then(|next| next.previous);
            return Err(Parted::Diverged { copy: copy.through, here });
        }
        if copy.through.is_none() && line.first.is_some() {
            return Err(Parted::Empty);
        }
        self.part(at, line, copy.through)
    }

    fn part(&self, at: usize, line: &LedgerLine, after: Option<Position>) -> Result<Part, Parted> {
        let line = line.clone();
        let (last, release) = match (self.ledger.get(at + 1), &self.role) {
            (Some(next), _) if next.epoch.region == self.region => (next.previous, None),
            (Some(next), _) => {
                return Err(Parted::Diverged { copy: after, here: next.previous });
            }
            (None, Role::Released { to, at }) => (Some(*at), Some(to.clone())),
            (None, _) => (None, None),
        };
        let index = |position: Option<Position>| position.map(|it| it.index);
        if last.is_some() && index(after) > index(last) {
            return Err(Parted::Diverged { copy: after, here: last });
        }
        Ok(Part { line, after, last, release })
    }
}
