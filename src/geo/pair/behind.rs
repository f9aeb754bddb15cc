//! How far the copy is behind, on both sides, as far as this node knows.
//!
//! Laws: a primary counts in its own log; a secondary says what a node of its primary counted
//! there, as of its last word, and how fast batches came to it. What nobody told is not known, and
//! never made up; a word of another epoch or lineage tells nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Pair, Standing};
use crate::geo::watermark::{GeoStatus, Pace, Watermark, drain_seconds};
use crate::geo::wire;
use crate::proto::geo::v1 as pb;
use crate::queue::authority::{Authority, RegionEpoch, Role};
use crate::queue::ids::Position;
use crate::storage::codec;

/// How far the copy is behind; `None` = not known to this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyBehind {
    /// Entries of the primary's log that it lacks, bookkeeping included.
    pub entries: Option<u64>,
    /// What they take in the primary's log, 64 KiB too many at most.
    pub bytes: Option<u64>,
    /// About how many seconds that takes to ship.
    pub drain: Option<u64>,
    /// Up to where it has the primary's log: in the log of that epoch's region.
    pub through: Option<(RegionEpoch, Position)>,
}

/// How fast batches come to this node, while it leads a secondary.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals(Arc<Mutex<Pace>>);

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, Pace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pair {
    /// A stream of batches begins: nothing is known of its pace.
    pub(in crate::geo) fn begin_arrivals(&self) {
        *self.arrivals.lock() = Pace::default();
    }

    /// A batch of so many bytes came, and is applied.
    pub(in crate::geo) fn note_arrival(&self, bytes: u64) {
        self.arrivals.lock().count(bytes, self.clock.monotonic_us());
    }

    /// What this node's log has behind the place where the copy of the one who asks ends; `None` =
    /// that is no place in it.
    pub(in crate::geo) fn bytes_ahead(&self, asked: &pb::GetStatusRequest) -> Option<u64> {
        let Standing { authority, applied, .. } = self.group.standing()?;
        let ships =
            matches!(authority.role, Role::Primary | Role::Sealed { .. } | Role::Released { .. });
        let epoch = asked.epoch.clone().map(codec::epoch_from)?;
        let through = asked.applied_through?.index;
        if !ships || epoch != authority.epoch {
            return None;
        }
        let has_all = through >= applied.index;
        Some(if has_all { 0 } else { self.group.log_bytes_from(through.saturating_add(1)) })
    }

    /// How far the copy is behind. Of a primary the watermark says how far the copy is.
    pub(super) fn copy_behind(
        &self,
        own: &Authority,
        mark: &Watermark,
        word: Option<&pb::GetStatusResponse>,
    ) -> CopyBehind {
        match own.role {
            Role::Primary | Role::Sealed { .. } | Role::Released { .. } => {
                let through = own.shipped.into_iter().chain(mark.shipped).max_by_key(|at| at.index);
                // What does not go out takes no time that is known.
                let goes_out = mark.status != GeoStatus::Unavailable || mark.bytes_behind == 0;
                CopyBehind {
                    entries: Some(mark.positions_behind),
                    bytes: Some(mark.bytes_behind),
                    drain: mark.drain_seconds().filter(|_| goes_out),
                    through: through.map(|at| (own.epoch.clone(), at)),
                }
            }
            Role::Secondary => self.of_secondary(own, word),
            _ => CopyBehind::default(),
        }
    }

    fn of_secondary(&self, own: &Authority, word: Option<&pb::GetStatusResponse>) -> CopyBehind {
        let is_of_ours = |it: &&pb::GetStatusResponse| {
            it.lineage == wire::wide(own.lineage)
                && it.epoch.clone().map(codec::epoch_from).as_ref() == Some(&own.epoch)
        };
        let word = word.filter(is_of_ours);
        let through = own.applied_through.map_or(0, |at| at.index);
        // A batch may have told of more than the word that was heard last.
        let told = own.head.map(|head| head.position.index);
        let head = word.and_then(|it| it.applied).map(|at| at.index).max(told);
        let entries = head.map(|head| head.saturating_sub(through));
        let bytes = word.and_then(|it| if entries == Some(0) { Some(0) } else { it.bytes_ahead });
        let pace = self.arrivals.lock().per_second();
        CopyBehind {
            entries,
            bytes,
            drain: bytes.and_then(|bytes| drain_seconds(bytes, pace)),
            through: own.applied_through.map(|at| (own.epoch.clone(), at)),
        }
    }
}
