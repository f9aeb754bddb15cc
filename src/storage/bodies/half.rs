//! Two states beside each other have contents of the same ids: one of them in the lower half of
//! the ids, the other in the upper one. A message's own number never reaches that far.

use std::ops::RangeInclusive;

use crate::queue::ids::ContentId;

/// The bit that tells the halves apart.
const HIGH: u64 = 1 << 63;

/// One half of the ids under which contents are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    pub is_high: bool,
}

/// Whether two ids under which contents are kept are one, but for the half.
#[must_use]
pub fn same(one: u64, other: u64) -> bool {
    one & !HIGH == other & !HIGH
}

impl Half {
    /// Under which id a content of a state in this half is kept.
    #[must_use]
    pub fn of(self, id: ContentId) -> ContentId {
        ContentId(if self.is_high { id.0 | HIGH } else { id.0 & !HIGH })
    }

    /// The content's own id, if what is kept under this one is of this half.
    #[must_use]
    pub fn own(self, kept: ContentId) -> Option<ContentId> {
        (self.is_high == (kept.0 & HIGH != 0)).then_some(ContentId(kept.0 & !HIGH))
    }

    /// Every id of this half.
    #[must_use]
    pub fn ids(self) -> RangeInclusive<u64> {
        if self.is_high { HIGH..=u64::MAX } else { 0..=HIGH - 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_half_knows_its_own() {
        let (low, high) = (Half { is_high: false }, Half { is_high: true });
        let id = ContentId(7);
        assert_eq!(low.of(id), id);
        assert_ne!(high.of(id), id);
        for (half, other) in [(low, high), (high, low)] {
            assert_eq!(half.own(half.of(id)), Some(id));
            assert_eq!(other.own(half.of(id)), None);
            assert!(half.ids().contains(&half.of(id).0));
            assert!(!other.ids().contains(&half.of(id).0));
        }
    }
}
