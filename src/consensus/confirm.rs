//! Confirmations by a majority that this node leads (ReadIndex), shared by all who wait.
//!
//! The law: a round answers only those who asked before it began. While one runs the next
//! gathers, so ten thousand readers cost as many heartbeats as one. A round ends by itself when
//! no majority answers; each asker has its own deadline besides.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::errors::{LinearizableReadError, RaftError};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::error::{Fate, GroupError, Reason};
use super::limits::WAITING_READS;
use super::proposer::RaftHandle;
use super::transport::Peers;

type Answer = Result<(), GroupError>;

/// Where to ask.
#[derive(Clone, Debug)]
pub struct Confirmer {
    asks: mpsc::Sender<oneshot::Sender<Answer>>,
    confirmed: Confirmed,
}

/// When the newest round began in which a majority confirmed.
type Confirmed = Arc<Mutex<Option<Instant>>>;

impl Confirmer {
    /// The asking end, and the loop that runs the rounds; it ends when nobody can ask any more.
    pub fn new(
        raft: RaftHandle,
        peers: Peers,
        within: Duration,
    ) -> (Confirmer, impl Future<Output = ()>) {
        let (asks, waiting) = mpsc::channel(WAITING_READS);
        let confirmed = Confirmed::default();
        let rounds = run(raft, peers, within, waiting, Arc::clone(&confirmed));
        (Confirmer { asks, confirmed }, rounds)
    }

    /// Whether a majority has confirmed in a round that began after `then`: as good as an answer
    /// to one who asked then.
    #[must_use]
    pub fn has_confirmed_since(&self, then: Instant) -> bool {
        let newest = *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        newest.is_some_and(|began| began > then)
    }

    /// Returns when a majority has confirmed that this node leads, and it has applied all that
    /// was acknowledged before the call.
    ///
    /// # Errors
    /// *Not now* when that could not be had by the deadline.
    pub async fn confirm(&self, deadline: Instant) -> Answer {
        let (ask, answer) = oneshot::channel();
        self.asks.try_send(ask).map_err(|_| GroupError::not_applied(Reason::Overloaded))?;
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(answer) => answer.unwrap_or_else(|_| Err(stopped())),
            Err(_) => Err(GroupError::not_applied(Reason::Deadline)),
        }
    }
}

async fn run(
    raft: RaftHandle,
    peers: Peers,
    within: Duration,
    mut waiting: mpsc::Receiver<oneshot::Sender<Answer>>,
    confirmed: Confirmed,
) {
    let mut asked = Vec::new();
    while waiting.recv_many(&mut asked, WAITING_READS).await > 0 {
        // Who has given up needs no round.
        asked.retain(|ask| !ask.is_closed());
        if asked.is_empty() {
            continue;
        }
        let began = Instant::now();
        let round = tokio::time::timeout(within, peers.scoped(round(&raft))).await;
        let answer = round.unwrap_or_else(|_| Err(GroupError::not_applied(Reason::NoQuorum)));
        if answer.is_ok() {
            *confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(began);
        }
        for ask in asked.drain(..) {
            let _ = ask.send(answer.clone());
        }
    }
}

async fn round(raft: &RaftHandle) -> Answer {
    let linearizer =
        raft.get_read_linearizer(ReadPolicy::ReadIndex).await.map_err(|error| match error {
            RaftError::APIError(LinearizableReadError::ForwardToLeader(to)) => GroupError::NotNow {
                reason: Reason::NotLeader,
                fate: Fate::NotApplied,
                retry_after: Duration::from_millis(50),
                leader: to.leader_id,
            },
            RaftError::APIError(_) => GroupError::not_applied(Reason::NoQuorum),
            RaftError::Fatal(_) => stopped(),
        })?;
    linearizer.await_ready(raft).await.map(|_| ()).map_err(|_| stopped())
}

fn stopped() -> GroupError {
    GroupError::Fatal("its Raft core ended".into())
}
