//! What operators set for the pair, and its bounds.
//!
//! Law: settings are set all at once, so who changes one of them says which ones it read. Where they
//! are others by now nothing is changed, and nobody's change is lost.

use super::refusal::RegionRefusal;
use super::{Authority, RegionSettings, lease};
use crate::queue::limits::{MAX_LAG, MAX_UNSHIPPED};

/// Whether settings are within their bounds.
///
/// # Errors
/// The field that is not.
pub fn check(settings: &RegionSettings) -> Result<(), RegionRefusal> {
    lease::check_length(settings.lease)?;
    settings.shape.check()?;
    let refuse = |field: &str, problem: &str| {
        Err(RegionRefusal::BadField { field: field.to_owned(), problem: problem.to_owned() })
    };
    if settings.max_lag.is_some_and(|lag| !MAX_LAG.contains(&lag)) {
        return refuse("max_lag", "is not between 2 seconds and 7 days");
    }
    if settings.max_unshipped_bytes.is_some_and(|bytes| !MAX_UNSHIPPED.contains(&bytes)) {
        return refuse("max_unshipped", "is not between 1 MiB and 1 TiB");
    }
    Ok(())
}

/// Sets them, where they are still those of `before`; `None` = whatever they are.
///
/// # Errors
/// As [`check`], and [`RegionRefusal::Mismatch`] where they are others.
pub fn configure(
    next: &mut Authority,
    before: Option<&RegionSettings>,
    after: &RegionSettings,
) -> Result<(), RegionRefusal> {
    check(after)?;
    if before.is_some_and(|before| *before != next.settings) {
        let what = "what the settings of the pair were when they were read".to_owned();
        return Err(RegionRefusal::Mismatch { what });
    }
    next.settings = after.clone();
    Ok(())
}
