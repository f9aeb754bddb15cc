//! How far the copy in the other region is behind while a run goes on, seen from outside.
//!
//! Laws: a sample asks the primary for the time of its state, and then the secondary until its
//! own is as late; what that took, the asking included, is the lag, and never less than it. A
//! sample that has begun is brought to its end, so that the longest ones count.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::report::{Latency, tenths};
use crate::cli::lab::files::Lab;
use crate::cli::lab::pair;
use crate::client::Regions;

/// Between the end of a sample and the next, and between two looks at the secondary.
const REST: Duration = Duration::from_millis(20);
const LOOK: Duration = Duration::from_millis(2);
/// A copy that is not there by then has a lag of at least that.
const PATIENCE: Duration = Duration::from_secs(60);

/// A pair of regions, the primary and its copy.
#[derive(Clone, Debug)]
pub struct Copy {
    primary: Regions,
    secondary: Regions,
    /// Processes of the copy's nodes.
    pub pids: Vec<u32>,
}

/// A watch that was begun.
#[derive(Debug)]
pub struct Watch {
    copy: Copy,
    shipped: Option<u64>,
    ended: Arc<AtomicBool>,
    lags: JoinHandle<Latency>,
}

type Seconds = (i64, i32);

async fn time_of(regions: &Regions) -> Option<Seconds> {
    let at = regions.status().await.ok()?.log_time?;
    Some((at.seconds, at.nanos))
}

impl Copy {
    /// The pair of a lab of two regions that is protected; `None` for another lab.
    pub async fn of(whole: &Lab, primary: &str) -> anyhow::Result<Option<Copy>> {
        let other = whole.regions().into_iter().find(|name| name != primary);
        let Some(other) = other else { return Ok(None) };
        let deadline = Duration::from_secs(2);
        let of = |name: &str| pair::regions_of(whole, name, deadline);
        let (primary, secondary) = (of(primary)?, of(&other)?);
        if primary.status().await?.peer != other {
            return Ok(None);
        }
        Ok(Some(Copy { primary, secondary, pids: whole.part(&other).pids() }))
    }

    async fn shipped(&self) -> Option<u64> {
        self.primary.status().await.ok().map(|status| status.shipped_bytes)
    }

    /// Begins to watch.
    pub async fn watch(&self) -> Watch {
        let ended = Arc::new(AtomicBool::new(false));
        let lags = tokio::spawn(self.clone().sample(Arc::clone(&ended)));
        Watch { copy: self.clone(), shipped: self.shipped().await, ended, lags }
    }

    async fn sample(self, ended: Arc<AtomicBool>) -> Latency {
        let mut lags = Latency::default();
        while !ended.load(Relaxed) {
            let begun = Instant::now();
            if let Some(newest) = time_of(&self.primary).await {
                while time_of(&self.secondary).await < Some(newest) && begun.elapsed() < PATIENCE {
                    sleep(LOOK).await;
                }
                lags.record(begun.elapsed());
            }
            sleep(REST).await;
        }
        lags
    }
}

impl Watch {
    /// Ends it, at the end of a window in which messages of that size were acknowledged.
    pub async fn end(self, messages: u64, payload: usize) -> Value {
        let shipped = self.copy.shipped().await;
        self.ended.store(true, Relaxed);
        // Less than before: another node leads, and counts anew.
        let shipped = shipped.zip(self.shipped).and_then(|(now, then)| now.checked_sub(then));
        let each = shipped.filter(|_| messages > 0).map(|bytes| bytes as f64 / messages as f64);
        let ratio = each.map(|each| (each / payload as f64 * 1000.0).round() / 1000.0);
        let lags = self.lags.await.unwrap_or_default();
        json!({
            "copy_lag": lags.json(),
            "shipped_bytes_per_msg": each.map(tenths),
            "shipped_bytes_per_payload_byte": ratio,
        })
    }
}
