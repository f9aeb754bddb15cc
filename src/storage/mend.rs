//! What can be wrong with a log that is opened, and how a segment is written anew with what a
//! peer gave for the hole in it.
//!
//! Torn: the last write was cut short and never counted; opening cuts it. Damage: something
//! that was durable is bad. Doubt: the last record is whole and its checksum bad; it may have
//! counted. Until damage and doubt are mended the log takes no entries, so that this node says
//! nothing to Raft that it may have to take back. A mend is a new file beside the segment,
//! fsynced and renamed over it: a cut in the middle leaves the hole as it was.

use crate::queue::ids::Position;

/// Entries that are missing: those after `after`, up to `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// The last entry before the hole; `None` when it starts at the log's beginning.
    pub after: Option<Position>,
    /// The last entry in it: index, term and node name all of them.
    pub last: Position,
    /// Where in the files, for the operator.
    pub segment: u64,
    pub offset: u64,
}

/// What opening found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Cut already; nothing that counted is missing.
    Torn { segment: u64, offset: u64 },
    /// To be mended, or cut when every voter answers and none has it.
    Doubt(Hole),
    /// To be mended.
    Damage(Hole),
}

impl Hole {
    /// The first missing index.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.after.map_or(0, |after| after.index.saturating_add(1))
    }
}

impl Trouble {
    /// What must be filled before the log takes entries; a torn tail needs nothing.
    #[must_use]
    pub fn hole(&self) -> Option<Hole> {
        match self {
            Trouble::Torn { .. } => None,
            Trouble::Doubt(hole) | Trouble::Damage(hole) => Some(*hole),
        }
    }
}
