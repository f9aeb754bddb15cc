//! Reads the contents of messages, and mends what rotted on this node's disk.
//!
//! A content that does not check is asked of the other voters. Laws: who answers has applied what
//! this node had applied when it asked; and this node has applied what the other one had when it
//! answered, and finds the damaged record where it lay before it puts the new one in its place. So
//! between the two nothing removed it, and what was given is the content of that message. Asking is
//! bounded in time. Where there is no other voter the damage is final; where none answers, it is
//! *not now*.

use std::time::Duration;

use tokio::time::Instant;

use super::super::error::{Fate, GroupError, Reason};
use super::super::proposer::{Answered, Done};
use super::super::transport::{CallError, PeerClient};
use super::super::types::NodeId;
use super::Group;
use crate::proto::peer::v1 as pb;
use crate::queue::command::Content;
use crate::queue::ids::ContentId;
use crate::storage::bodies::{Found, Place, decode_record};
use crate::storage::store::StoreError;

/// One other voter has this long for a content.
const WITHIN: Duration = Duration::from_secs(2);
/// Contents that upkeep mends at one look.
const AT_ONCE: usize = 64;

/// Why a content could not be had from one of the others.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("node {node} gave another record: {why}")]
    Record { node: NodeId, why: &'static str },
    #[error("this node has not applied what node {node} had when it answered")]
    Ahead { node: NodeId },
}

impl Group {
    /// A content that was found, mended by another node where it rotted here.
    ///
    /// # Errors
    /// *Not now* with this fate, where it rotted and none of the others has given it by the
    /// deadline; fatal where there is none, and when the disk does not read.
    pub async fn content(
        &self,
        found: &Found,
        deadline: Instant,
        fate: Fate,
    ) -> Result<Content, GroupError> {
        let (id, place, error) = match (found.read(), found) {
            (Ok(content), _) => return Ok(content),
            (Err(error @ StoreError::Content { .. }), Found::Stored { id, place, .. }) => {
                (*id, *place, error)
            }
            (Err(error), _) => return Err(GroupError::Fatal(error.to_string())),
        };
        let others = self.other_voters();
        if others.is_empty() {
            return Err(GroupError::Fatal(error.to_string()));
        }
        tracing::warn!(%error, "a content rotted: the other nodes are asked for it");
        let content = self.content_of_others(id, (place, others), deadline).await;
        content.ok_or(GroupError::NotNow {
            reason: Reason::Rotten,
            fate,
            retry_after: Duration::from_millis(50),
            leader: None,
        })
    }

    /// What became of a command, with the contents that it gave out.
    pub(super) async fn done(
        &self,
        answered: Answered,
        deadline: Instant,
    ) -> Result<Done, GroupError> {
        let Answered { outcome, position, epoch, log_time, found } = answered;
        let mut contents = Vec::with_capacity(found.len());
        for one in found {
            let lost = || GroupError::Fatal("the body of a message is not in the store".into());
            contents.push(self.content(&one.ok_or_else(lost)?, deadline, Fate::Unknown).await?);
        }
        Ok(Done { outcome, position, epoch, log_time, contents })
    }

    /// Mends what readers that do not wait, of snapshots and for the other region, found rotten.
    pub(super) async fn mend_rotten(&self) {
        let rotten = self.store().read().take_rotten();
        if rotten.is_empty() {
            return;
        }
        for id in rotten.into_iter().take(AT_ONCE) {
            let found = self.store().read().find_kept(id);
            let Some(Found::Stored { place, .. }) = &found else { continue };
            let others = self.other_voters();
            if found.as_ref().is_some_and(|it| it.read().is_err()) && !others.is_empty() {
                self.content_of_others(id, (*place, others), Instant::now() + WITHIN).await;
            }
        }
    }

    fn other_voters(&self) -> Vec<(NodeId, String)> {
        use openraft::async_runtime::WatchReceiver as _;
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let members = &metrics.membership_config;
        let others = members.voter_ids().filter(|id| *id != self.node());
        others.filter_map(|id| Some((id, members.get_node(&id)?.peer_address.clone()))).collect()
    }

    async fn content_of_others(
        &self,
        id: ContentId,
        (place, others): (Place, Vec<(NodeId, String)>),
        deadline: Instant,
    ) -> Option<Content> {
        for (node, address) in others {
            let within = WITHIN.min(deadline.saturating_duration_since(Instant::now()));
            let mut peer = PeerClient::new(self.peers().clone(), node, &address);
            match self.content_of(&mut peer, (node, id), within).await {
                Ok(content) => {
                    let is_mended = self.store().write().mend(id, place, content.clone());
                    tracing::info!(
                        content = id.0,
                        node,
                        is_mended,
                        "a content was given by another node"
                    );
                    if is_mended {
                        return Some(content);
                    }
                }
                Err(error) => tracing::warn!(%error, content = id.0, "a content was not mended"),
            }
        }
        None
    }

    /// Asks one of the others, and waits until this node has applied what that one had.
    async fn content_of(
        &self,
        peer: &mut PeerClient,
        (node, id): (NodeId, ContentId),
        within: Duration,
    ) -> Result<Content, Missed> {
        let own = self.store().read().applied().map_or(0, |at| at.index);
        let answer = peer.read_content(id.0, own, within).await?;
        let pb::ReadContentResponse { record, applied_index } = answer;
        let content = decode_record(id, &record).map_err(|why| Missed::Record { node, why })?;
        let mut applied = self.applied();
        let reached =
            applied.wait_for(|it| it.position.is_some_and(|at| at.index >= applied_index));
        match tokio::time::timeout(within, reached).await {
            Ok(Ok(_)) => Ok(content),
            _ => Err(Missed::Ahead { node }),
        }
    }
}
