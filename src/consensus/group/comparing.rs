//! Compares what this node holds with what the others hold.
//!
//! Laws: digests are compared only where both were seen after one and the same entry: of the newest
//! that both have of their [milestones](crate::queue::milestones) and their present states. The
//! leader compares every few seconds; data that differ are told once in the log, with the queue, and
//! in the metrics until they are seen equal again. Nothing is changed by it: which of the two is
//! right nobody knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::super::transport::{CallError, PeerClient};
use super::super::types::NodeId;
use super::Group;
use crate::proto::log::v1 as log;
use crate::queue::authority::Role;
use crate::queue::ids::Position;
use crate::queue::milestones::{Comparison, Mark, Milestone};
use crate::storage::codec::{self, CodecError};
use crate::storage::store::Store;

/// How often a leader compares.
const EVERY: Duration = Duration::from_secs(10);
/// One node has this long to answer.
const WITHIN: Duration = Duration::from_secs(5);

/// What is known of another replica's data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The newest entry after which both were compared.
    pub index: u64,
    /// What differs there, in words; empty = nothing.
    pub differs: Vec<String>,
}

/// Of each replica that this node has compared itself with, by a name such as `node 2`.
pub type Agreements = Arc<Mutex<BTreeMap<String, Agreement>>>;

/// Why a node could not be compared with.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("what the node said of its data is not readable")]
    Answer(#[from] CodecError),
}

/// The last entry whose effects a store holds, in the log that its data come from. A copy that was
/// given nothing yet has none: its own entries stand at places of another log.
fn data_through(store: &Store) -> Option<Position> {
    match store.state().authority() {
        Some(it) if matches!(it.role, Role::Secondary | Role::Detached) => it.applied_through,
        _ => store.applied(),
    }
}

impl Group {
    /// This node's milestones, and its present state.
    #[must_use]
    pub fn milestones(&self) -> Vec<Milestone> {
        let store = self.store().read();
        let state = store.state();
        let mut own = state.milestones().to_vec();
        own.extend(data_through(&store).map(|at| state.milestone(state.epoch(), at)));
        own
    }

    /// Answers another replica that asks how it compares.
    ///
    /// # Errors
    /// [`CodecError`] of what it says.
    pub fn compared(&self, asked: log::Milestones) -> Result<log::ComparedMilestone, CodecError> {
        codec::compared_to(&self.milestones(), asked)
    }

    /// Compares with another node of the group.
    ///
    /// # Errors
    /// [`CompareError`] where it does not answer.
    pub async fn compare_with(
        &self,
        (node, address): (NodeId, &str),
        own: &[Milestone],
    ) -> Result<Comparison, CompareError> {
        let mut peer = PeerClient::new(self.peers().clone(), node, address);
        let answer = peer.compare(codec::milestones_to(own), WITHIN).await?;
        Ok(codec::compared_from(own, answer)?)
    }

    /// What parts of the state are of, in words.
    #[must_use]
    pub fn part_names(&self, parts: &[usize]) -> Vec<String> {
        let store = self.store().read();
        parts.iter().map(|part| store.state().part_name(*part)).collect()
    }

    /// Keeps what came of comparing with another replica, and tells of what differs.
    pub fn note_comparison(&self, with: String, comparison: &Comparison) {
        let (mark, differs): (Mark, Vec<String>) = match comparison {
            Comparison::NothingInCommon => return,
            Comparison::Equal(mark) => (*mark, Vec::new()),
            Comparison::Differ { own, parts, .. } => {
                let mut names = self.part_names(parts);
                if names.is_empty() {
                    names.push(
                        "something of which the other side did not say what it is".to_owned(),
                    );
                }
                (*own, names)
            }
        };
        let index = mark.at.index;
        let now = Agreement { index, differs };
        let mut known = self.inner.agreements.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.insert(with.clone(), now.clone());
        drop(known);
        let before = before.map(|it| it.differs).unwrap_or_default();
        if before == now.differs {
            return;
        }
        if now.differs.is_empty() {
            tracing::info!(index, "the data of {with} are equal again");
        } else {
            let what = now.differs.join("; ");
            tracing::error!(index, "this node and {with} hold different data: {what}");
        }
    }

    /// What is known of the data of other replicas, while this node leads.
    #[must_use]
    pub fn agreed(&self) -> BTreeMap<String, Agreement> {
        self.inner.agreements.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Compares with all other nodes, and keeps what came of it.
    async fn compare_all(&self) {
        let status = self.status();
        let others = status.nodes.iter().filter(|it| it.id != status.node);
        let own = self.milestones();
        for node in others {
            match self.compare_with((node.id, &node.member.peer_address), &own).await {
                Ok(comparison) => self.note_comparison(format!("node {}", node.id), &comparison),
                Err(error) => {
                    tracing::debug!(%error, node = node.id, "a node was not compared with")
                }
            }
        }
    }
}

/// Compares until Raft stops, while this node leads.
pub(super) async fn run(group: Group) {
    let mut leadership = group.leadership();
    while group.is_running() {
        let leads = leadership.borrow_and_update().is_me;
        if leads {
            group.compare_all().await;
        } else {
            group.inner.agreements.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        let ended = tokio::select! {
            changed = leadership.changed() => changed.is_err(),
            () = tokio::time::sleep(EVERY), if leads => false,
        };
        if ended {
            return;
        }
    }
}
