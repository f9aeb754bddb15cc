//! How far each node had applied its log, how far that log was, and when that was seen: nodes are
//! asked all the time.
//!
//! Laws: an answer counts from the moment at which it was asked for to the one at which it came;
//! what nobody answered is not known. Both sides of a pair are looked at meanwhile as an operator
//! does, so that whatever is shown of the last sync time is judged.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tonic::transport::Channel;
use zoneq::proto::admin::v1 as pb;
use zoneq::proto::admin::v1::cluster_service_client::ClusterServiceClient;

use crate::cluster::ZONES;
use crate::history::{Cluster, SharedHistory};
use crate::now;
use crate::operator::Operator;
use crate::seen::{Look, Seen};

/// Between two looks at a node, and how long it has for one.
const EVERY: Duration = Duration::from_millis(15);
const WITHIN: Duration = Duration::from_millis(300);
/// Between two looks at both sides.
const SIDES_EVERY: Duration = Duration::from_millis(150);

#[derive(Clone, Debug, Default)]
pub struct Looks(Arc<Mutex<Vec<Look>>>);

impl Looks {
    fn add(&self, look: Look) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(look);
    }

    pub fn of(&self, cluster: Cluster) -> Seen {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Seen::of(&looks, cluster, ZONES)
    }
}

/// Looks until it is ended.
pub struct Watch {
    stop: Arc<AtomicBool>,
    watching: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Begins with these nodes, each with its region, and an operator of their pair.
    pub fn begin(
        nodes: Vec<(usize, Channel)>,
        operator: Operator,
        history: &SharedHistory,
        looks: &Looks,
    ) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let of_node = |(region, channel)| {
            let at = (history.clone(), looks.clone());
            tokio::spawn(watch_node(region, channel, at, Arc::clone(&stop)))
        };
        let mut watching: Vec<JoinHandle<()>> = nodes.into_iter().map(of_node).collect();
        watching.push(tokio::spawn(watch_sides(operator, Arc::clone(&stop))));
        Watch { stop, watching }
    }

    pub async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for watching in self.watching {
            // One that panicked has said so.
            let _ = watching.await;
        }
    }
}

async fn watch_node(
    region: usize,
    channel: Channel,
    (history, looks): (SharedHistory, Looks),
    stop: Arc<AtomicBool>,
) {
    let mut service = ClusterServiceClient::new(channel);
    let cluster = || Cluster { region, generation: history.lock().pair.generation(region) };
    while !stop.load(Ordering::Relaxed) {
        let before = cluster();
        let asked = now();
        let answer = service.get_status(pb::GetStatusRequest::default());
        let answer = tokio::time::timeout(WITHIN, answer).await;
        // A generation begins while no node of the one before lives.
        if let Ok(Ok(answer)) = answer
            && cluster() == before
        {
            let answer = answer.into_inner();
            let (node, applied, end) =
                (answer.node_id, answer.applied_index, answer.last_log_index);
            looks.add(Look { asked, by: now(), cluster: before, node, applied, end });
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn watch_sides(mut operator: Operator, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        operator.see(0).await;
        operator.see(1).await;
        tokio::time::sleep(SIDES_EVERY).await;
    }
}
