//! The region lease that a drill relies on: set before each round, for a promotion by force ends
//! what was agreed, and put back at the end.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{PATIENCE, PAUSE, Region, Stage};
use crate::cli::lab::files::Lab;
use crate::cli::lab::pair;
use crate::client::Regions;

impl Stage<'_> {
    /// Waits until the primary relies on the lease, where this drill sets one.
    pub(super) async fn lease(&self, lab: &Lab, primary: &str) -> anyhow::Result<()> {
        match self.drill.lease {
            Some(lease) => agree(&self.regions(lab, primary)?, Some(lease)).await,
            None => Ok(()),
        }
    }
}

async fn agree(primary: &Regions, lease: Option<Duration>) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while !primary.set_lease(lease, false).await? {
        anyhow::ensure!(Instant::now() < until, "the secondary does not agree to a region lease");
        sleep(PAUSE).await;
    }
    Ok(())
}

/// The lease of the pair before a drill that sets one.
#[derive(Debug)]
pub(super) struct LeaseBefore {
    is_set: bool,
    lease: Option<Duration>,
}

impl LeaseBefore {
    pub(super) async fn of(lab: &Lab, drill: Region) -> anyhow::Result<LeaseBefore> {
        let is_set = drill.lease.is_some();
        if !is_set {
            return Ok(LeaseBefore { is_set, lease: None });
        }
        let primary = pair::primary(lab).await?;
        let status = pair::regions_of(lab, &primary, PATIENCE)?.status().await?;
        let wanted = status.lease.and_then(|lease| lease.wanted);
        Ok(LeaseBefore { is_set, lease: wanted.and_then(|span| span.try_into().ok()) })
    }

    /// Both regions keep what the primary sets.
    pub(super) async fn restore(&self, lab: &Lab) -> anyhow::Result<()> {
        if !self.is_set {
            return Ok(());
        }
        pair::wait_live(lab, PATIENCE).await?;
        let primary = pair::primary(lab).await?;
        agree(&pair::regions_of(lab, &primary, PATIENCE)?, self.lease).await
    }
}
