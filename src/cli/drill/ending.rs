//! The end of a history: what the nodes are once a drill is over, and whether they stay so.
//!
//! Law: it is looked at only where a history is written, and asks of nobody to change anything.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::PATIENCE;
use super::history::{Applied, Cluster, Line};
use super::recorder::Recorder;
use crate::cli::lab::files::Lab;
use crate::cli::lab::start;
use crate::cli::lab::table::{self, Eye};
use crate::client::Client;

/// For so long nobody may begin to lead.
const IDLE: Duration = Duration::from_secs(1);
/// How often that may begin anew: a machine that is busy with something else lets a leader miss its
/// time.
const IDLE_TRIES: u32 = 10;
/// Between two questions for digests.
const PAUSE: Duration = Duration::from_millis(100);

/// Which node leads in which term, as it says itself.
type Led = Vec<(Cluster, u64, u64)>;

/// Looks at these regions, the only cluster or both of a pair, and ends the history.
pub async fn end(
    lab: &Lab,
    regions: &[String],
    recorder: &Recorder,
    paired: bool,
) -> anyhow::Result<()> {
    let parts: Vec<(Cluster, Lab)> = (0..)
        .zip(regions)
        .map(|(region, name)| (Cluster { region, generation: 0 }, lab.part(name)))
        .collect();
    for (cluster, part) in &parts {
        start::wait_healed(part, PATIENCE).await?;
        digests(*cluster, part, recorder).await?;
    }
    let mut steady = false;
    for _ in 0..IDLE_TRIES {
        let before = led(&parts, recorder).await?;
        sleep(IDLE).await;
        steady = led(&parts, recorder).await? == before;
        if steady {
            break;
        }
    }
    recorder.end(steady, paired)
}

/// Writes down who leads.
pub async fn led(parts: &[(Cluster, Lab)], recorder: &Recorder) -> anyhow::Result<Led> {
    let mut all = Led::new();
    for (cluster, part) in parts {
        let views = table::look(part, &Eye::all(part)?).await;
        let told = views.iter().filter_map(|view| view.status.as_ref());
        let leads = told.filter(|status| status.leader_id == status.node_id);
        all.extend(leads.map(|status| (*cluster, status.term, status.node_id)));
    }
    for (cluster, term, node) in &all {
        recorder.write(&Line::Leads(*cluster, *term, *node));
    }
    Ok(all)
}

/// Writes down the digests of all nodes at one position.
async fn digests(cluster: Cluster, part: &Lab, recorder: &Recorder) -> anyhow::Result<()> {
    let client = Client::builder().endpoints(part.urls()).deadline(PATIENCE).build()?;
    let until = Instant::now() + PATIENCE;
    loop {
        let told = client.admin().verify_digests().await?;
        let nodes = told.nodes.iter().filter(|node| node.error.is_empty());
        for node in nodes {
            let digest = u128::from_str_radix(&node.digest, 16)?;
            // Which entry it is, is not told of: only the states are compared.
            let (index, node, term, leader) = (told.index, node.node_id, 0, 0);
            let applied = Applied { cluster, node, index, term, leader, digest };
            recorder.write(&Line::Digest(applied));
        }
        if told.nodes.iter().all(|node| node.error.is_empty()) {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < until, "a node of the lab does not say its digest");
        sleep(PAUSE).await;
    }
}
