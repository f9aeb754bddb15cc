//! How the operator's verbs change the settings of a pair.
//!
//! Law: each changes its own part of what is set, and no other's: a change counts only over the
//! settings that it was made from, and is made again from those that are there now.

use super::Pair;
use crate::consensus::error::GroupError;
use crate::geo::error::PairError;
use crate::queue::authority::RegionSettings;
use crate::queue::authority::command::{Reconfigure, RegionVerb};
use crate::queue::authority::refusal::RegionRefusal;
use crate::queue::error::Rejection;

/// A change is made again this often where others come between.
const TRIES: usize = 8;

impl Pair {
    /// Changes the settings as they are.
    ///
    /// # Errors
    /// Refused for a cluster that is in no pair, and where the change refuses; *not now* where the
    /// settings are others again and again.
    pub(super) async fn configure(
        &self,
        who: &str,
        mut change: impl FnMut(RegionSettings) -> Result<RegionSettings, PairError>,
    ) -> Result<(), PairError> {
        for _ in 0..TRIES {
            let before = self.in_pair()?.settings;
            let after = change(before.clone())?;
            let verb = RegionVerb::Reconfigure(Box::new(Reconfigure { before, after }));
            match self.propose(verb, who).await {
                Err(PairError::Group(GroupError::Rejected(Rejection::Region(
                    RegionRefusal::Mismatch { .. },
                )))) => {}
                done => return done.map(drop),
            }
        }
        Err(PairError::not_now("the settings of the pair are being changed by others: try again"))
    }
}
