//! A planned failover under load.

use tokio::time::{Instant, sleep};

use super::{PATIENCE, PAUSE, Round, STEADY, Stage, cluster, millis};
use crate::cli::drill::history::Verb;
use crate::cli::lab::files::Lab;
use crate::cli::lab::pair;
use crate::client::ClientError;

/// Hands over once, and waits until the pair is live the other way round.
pub(super) async fn round(stage: &Stage<'_>) -> anyhow::Result<Round> {
    let (lab, from, to) = stage.sides().await?;
    stage.lease(&lab, &from).await?;
    stage.load.wait_acknowledged(STEADY, PATIENCE).await?;
    let (pause_ms, rto_ms) = hand_over(stage, &lab, &from, &to).await?;
    let begun = Instant::now();
    pair::wait_live(&lab, PATIENCE).await?;
    let protected_ms = begun.elapsed().as_millis() as f64;
    Ok(Round { from, to, pause_ms, rto_ms, protected_ms, ..Round::default() })
}

/// Hands over from the primary; answers the write pause, and from the command to the first write.
pub(super) async fn hand_over(
    stage: &Stage<'_>,
    lab: &Lab,
    from: &str,
    to: &str,
) -> anyhow::Result<(f64, f64)> {
    let load = stage.load;
    let regions = stage.regions(lab, from)?;
    let (until, since) = (Instant::now() + PATIENCE, load.now());
    load.gap.arm(since);
    loop {
        let verb = Verb::FailOver { to: cluster(to).region };
        match stage.told(from, verb, regions.fail_over(Some(to))).await {
            Ok(()) => break,
            // Taken back, or its answer was lost with a leader: asked again by name, as an
            // operator does.
            Err(ClientError::NotNow { .. } | ClientError::Unknown { .. })
                if Instant::now() < until =>
            {
                sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    let rto_ms = stage.first_acknowledged(&stage.regions(lab, to)?, since).await?;
    let pause = load.gap.found(load.now());
    Ok((millis(pause.longest), rto_ms))
}
