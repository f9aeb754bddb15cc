//! The end of a run: one more send, and then everything is received and deleted.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::Worker;
use crate::history::{Ending, New};
use crate::queues::{ALL, SHORT};

/// Messages of one receive of the drain, and their lease: longer than the drain takes.
const DRAINED_AT_ONCE: u32 = 100;
const DRAIN_LEASE: u64 = 3_600_000_000;
/// The queue that a last send goes to.
const PROOF_OF_SERVICE: &str = "alpha";

/// Closes a run whose faults have healed; how far it has come stands in `ending` at any moment.
pub async fn close(mut worker: Worker, ending: &Mutex<Ending>) {
    let tell =
        |what: fn(&mut Ending)| what(&mut ending.lock().unwrap_or_else(PoisonError::into_inner));
    worker.enter().await;
    // Tags that no worker uses.
    for tag in 1.. {
        let new = New { tag, ..New::default() };
        if worker.send_messages(PROOF_OF_SERVICE, vec![new]).await {
            break;
        }
    }
    tell(|ending| ending.served = true);
    for plan in ALL.iter().filter(|plan| plan.is_paused) {
        while !worker.resume(plan.name).await {}
    }
    for plan in ALL.iter().filter(|plan| plan.is_deleted) {
        worker.create(plan.name).await;
    }
    for plan in ALL.iter().filter(|plan| plan.comes_back) {
        while worker.look(plan.name, None).await.is_none() {
            worker.undelete(plan.name).await;
        }
    }
    // What a redrive sends back must not come after the last look at its target.
    for plan in ALL.iter().filter(|plan| plan.redriven) {
        while !worker.end_redrives(plan.name).await {}
    }
    // Its leases are longer than anybody waits.
    while !worker.clear(SHORT).await {}
    // Where dead letters come from first, and then where they go to.
    for plan in ALL.iter().rev() {
        let at = drain(&mut worker, plan.name).await;
        ending.lock().unwrap_or_else(PoisonError::into_inner).at = at;
    }
    tell(|ending| ending.drained = true);
}

/// Receives and deletes until a queue holds nothing any more, visible or not; T of the last look.
async fn drain(worker: &mut Worker, queue: &str) -> u64 {
    loop {
        let given = worker.receive_for(queue, DRAINED_AT_ONCE, DRAIN_LEASE, 0).await;
        if !given.is_empty() {
            while !worker.delete(queue, given.clone()).await {}
            continue;
        }
        if let Some((looked, at)) = worker.look(queue, None).await
            && looked.total == 0
        {
            return at;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
