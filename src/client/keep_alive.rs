//! Keeps a message's lease while it is worked on.
//!
//! Laws: the lease is extended at a third of its length, so that two extensions may fail before
//! it runs out; it is kept no longer than the bound that the caller gave; a refusal means that
//! the lease is lost, and the worker can wait for that. Dropping the keeper ends the extending,
//! and the lease runs out by itself.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::builder::Client;
use super::error::ClientError;
use super::types::{Message, Update};

/// What the keeper knows of its lease.
#[derive(Clone, Debug)]
struct Lease {
    pop_receipt: String,
    /// Why the lease is no longer kept.
    lost: Option<ClientError>,
}

/// Extends one message's lease until it is finished or dropped.
#[derive(Debug)]
pub struct KeepAlive {
    lease: watch::Receiver<Lease>,
    stop: watch::Sender<bool>,
    task: Option<JoinHandle<()>>,
}

impl Client {
    /// Keeps the lease of a received message, `visibility` at a time and for at most `bound`.
    pub fn keep_alive(
        &self,
        queue: &str,
        message: &Message,
        visibility: Duration,
        bound: Duration,
    ) -> Result<KeepAlive, ClientError> {
        if visibility < Duration::from_secs(1) {
            return Err(ClientError::Invalid(format!(
                "a lease of {visibility:?} cannot be kept; allowed: 1 s to 7 days"
            )));
        }
        let pop_receipt = message.pop_receipt.clone();
        let (tell, lease) = watch::channel(Lease { pop_receipt, lost: None });
        let (stop, stopped) = watch::channel(false);
        let work = Work {
            client: self.clone(),
            queue: queue.to_owned(),
            id: message.id.clone(),
            visibility,
            until: Instant::now() + bound,
            tell,
            stopped,
        };
        Ok(KeepAlive { lease, stop, task: Some(tokio::spawn(work.run())) })
    }
}

struct Work {
    client: Client,
    queue: String,
    id: String,
    visibility: Duration,
    until: Instant,
    tell: watch::Sender<Lease>,
    stopped: watch::Receiver<bool>,
}

impl Work {
    async fn run(mut self) {
        // When the lease last granted by the cluster runs out, as seen from here.
        let mut runs_out = Instant::now() + self.visibility;
        loop {
            let next = Instant::now() + self.visibility / 3;
            tokio::select! {
                () = tokio::time::sleep_until(next.min(self.until)) => {}
                _ = self.stopped.wait_for(|stop| *stop) => return,
            }
            if Instant::now() >= self.until {
                let error =
                    ClientError::not_now("the lease has been kept for as long as was asked");
                self.tell.send_modify(|lease| lease.lost = Some(error));
                return;
            }
            let asked = Instant::now();
            let receipt = self.tell.borrow().pop_receipt.clone();
            let change = Update { visibility_timeout: Some(self.visibility), ..Update::default() };
            // Not cut short by a stop: the new receipt is needed to delete the message.
            match self.client.update(&self.queue, &self.id, &receipt, change).await {
                Ok(updated) => {
                    runs_out = asked + self.visibility;
                    self.tell.send_modify(|lease| lease.pop_receipt = updated.pop_receipt);
                }
                // A write that was perhaps applied has perhaps changed the receipt: the next
                // extension tells, and until then the lease may still hold.
                Err(ClientError::NotNow { .. } | ClientError::Unknown { .. })
                    if Instant::now() < runs_out => {}
                Err(error) => {
                    self.tell.send_modify(|lease| lease.lost = Some(error));
                    return;
                }
            }
        }
    }
}

impl KeepAlive {
    /// The newest pop receipt.
    #[must_use]
    pub fn pop_receipt(&self) -> String {
        self.lease.borrow().pop_receipt.clone()
    }

    /// Returns when the lease is lost or its bound is reached; work on the message should stop.
    pub async fn lost(&self) -> ClientError {
        let mut lease = self.lease.clone();
        let lost = lease.wait_for(|lease| lease.lost.is_some()).await;
        let error = lost.ok().and_then(|lease| lease.lost.clone());
        error.unwrap_or_else(|| ClientError::not_now("the keeper has ended"))
    }

    /// Stops extending, and answers the receipt to delete the message with.
    pub async fn finish(mut self) -> Result<String, ClientError> {
        let _ = self.stop.send(true);
        if let Some(task) = self.task.take() {
            // The task ends by itself; it cannot fail.
            let _ = task.await;
        }
        let lease = self.lease.borrow();
        match &lease.lost {
            Some(error) => Err(error.clone()),
            None => Ok(lease.pop_receipt.clone()),
        }
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
