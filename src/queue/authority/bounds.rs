//! Bounds of what operators set for the pair.

use super::refusal::RegionRefusal;
use super::{RegionSettings, lease};
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
