//! How the operator limits the lag of the other region.

use super::Pair;
use super::toward::elsewhere;
use crate::geo::error::PairError;
use crate::queue::authority::{RegionSettings, Role, check_settings};
use crate::queue::ids::Span;

/// What changes of the limits; what is not named stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LimitChange {
    /// `Some(None)` = no limit, here and below.
    pub max_lag: Option<Option<Span>>,
    pub max_unshipped_bytes: Option<Option<u64>>,
    pub throttle: Option<bool>,
}

impl LimitChange {
    /// The settings after this change of them. Their bounds are not checked.
    #[must_use]
    pub fn over(self, mut settings: RegionSettings) -> RegionSettings {
        settings.max_lag = self.max_lag.unwrap_or(settings.max_lag);
        settings.max_unshipped_bytes =
            self.max_unshipped_bytes.unwrap_or(settings.max_unshipped_bytes);
        settings.throttle = self.throttle.unwrap_or(settings.throttle);
        settings
    }
}

impl Pair {
    /// Limits how far the secondary of this primary may be behind; at a secondary, for when it is
    /// the primary.
    ///
    /// # Errors
    /// Refused by the role, or for what is out of its bounds.
    pub async fn limit(&self, who: &str, change: LimitChange) -> Result<(), PairError> {
        let authority = self.in_pair()?;
        if !matches!(authority.role, Role::Primary | Role::Secondary) {
            let why = format!(
                "the lag is limited at the primary: this cluster is {}",
                authority.role.name()
            );
            return Err(elsewhere(&why, &authority, "limit"));
        }
        self.configure(who, |settings| {
            let settings = change.over(settings);
            check_settings(&settings).map_err(|refusal| PairError::Refused(refusal.to_string()))?;
            Ok(settings)
        })
        .await
    }
}
