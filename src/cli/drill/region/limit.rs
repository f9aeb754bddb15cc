//! Limits of the lag that a drill sets before it loses a region, and what each region had before.
//!
//! Laws: a limit is set at the primary of each round, with writes that wait beyond it. In the end
//! both regions have again what they had.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{PATIENCE, PAUSE, Region, Stage};
use crate::cli::lab::files::Lab;
use crate::cli::lab::pair;
use crate::proto::admin::v1 as pb;

/// What a drill sets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub max_lag: Option<Duration>,
    pub max_unshipped: Option<u64>,
}

impl Region {
    pub(super) fn limit(self) -> Option<Limit> {
        let limit = Limit { max_lag: self.max_lag, max_unshipped: self.max_unshipped };
        (limit.max_lag.is_some() || limit.max_unshipped.is_some()).then_some(limit)
    }
}

impl Stage<'_> {
    /// Limits the lag at the primary, where this drill does, and waits until the other region, which
    /// is to say what may be lost, has heard of it.
    pub(super) async fn limit(&self, lab: &Lab, primary: &str, other: &str) -> anyhow::Result<()> {
        let Some(limit) = self.drill.limit() else { return Ok(()) };
        let asked = pb::SetLagLimitRequest {
            max_lag: limit.max_lag.and_then(|lag| lag.try_into().ok()),
            max_unshipped_bytes: limit.max_unshipped,
            throttle: Some(true),
            ..pb::SetLagLimitRequest::default()
        };
        self.regions(lab, primary)?.limit_lag(asked).await?;
        let (other, until) = (self.regions(lab, other)?, Instant::now() + PATIENCE);
        while other.force_fail_over(true, false).await?.bytes_lost_at_most != limit.max_unshipped {
            anyhow::ensure!(Instant::now() < until, "the secondary does not hear of the limit");
            sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// The limits of each region before a drill.
#[derive(Debug, Default)]
pub(super) struct Before(BTreeMap<String, pb::LagLimit>);

impl Before {
    pub(super) async fn of(lab: &Lab, drill: Region) -> anyhow::Result<Before> {
        let mut before = BTreeMap::new();
        if drill.limit().is_some() {
            for name in lab.regions() {
                let status = pair::regions_of(lab, &name, PATIENCE)?.status().await?;
                before.insert(name, status.limit.unwrap_or_default());
            }
        }
        Ok(Before(before))
    }

    pub(super) async fn restore(&self, lab: &Lab) -> anyhow::Result<()> {
        for (name, limit) in &self.0 {
            let asked = pb::SetLagLimitRequest {
                max_lag: Some(limit.max_lag.unwrap_or_default()),
                max_unshipped_bytes: Some(limit.max_unshipped_bytes.unwrap_or(0)),
                throttle: Some(limit.throttle),
                ..pb::SetLagLimitRequest::default()
            };
            pair::regions_of(lab, name, PATIENCE)?.limit_lag(asked).await?;
        }
        Ok(())
    }
}
