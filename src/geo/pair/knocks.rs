//! Which cluster wanted this one for its copy and was turned away, for whoever reads the status.
//!
//! Laws: it is told by the node that turned it away, for a minute, and decides nothing. A side of
//! this pair is no stranger, whatever it may have missed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Pair;
use crate::geo::wire;

/// Characters of a name that are kept: it is anybody's word.
const NAME: usize = 64;
/// After this long it has given up.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// A cluster that was turned away last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// The region that it says it is.
    pub region: String,
    pub ago: Duration,
}

/// The region of the last one, and this node's monotonic time, in microseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Knocks(Arc<Mutex<Option<(String, u64)>>>);

impl Pair {
    /// Notes that the primary of a region and a lineage was turned away, unless it is of this pair.
    pub(in crate::geo) fn note_knock(&self, region: &str, lineage: &[u8]) {
        let own = self.group.standing().map(|it| it.authority);
        let is_of_pair = own.is_some_and(|own| {
            let peer = own.attachment.as_ref().map(|it| it.peer.as_str());
            lineage == wire::wide(own.lineage)
                && (peer.is_none() || peer == Some(region) || own.epoch.region == region)
        });
        if !is_of_pair {
            let region = region.chars().take(NAME).collect();
            let at = self.clock.monotonic_us();
            *self.knocks.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((region, at));
        }
    }

    pub(super) fn stranger(&self) -> Option<Stranger> {
        let known = self.knocks.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (region, at) = known?;
        let ago = Duration::from_micros(self.clock.monotonic_us().saturating_sub(at));
        (ago < TOLD_FOR).then_some(Stranger { region, ago })
    }
}
