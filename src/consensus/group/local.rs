//! What this node's peers may ask of it beside Raft: its log, its digest, room for a snapshot.

use std::time::Duration;

use bytes::Bytes;

use super::super::transport::LocalNode;
use super::super::transport::convert::stored_out;
use super::Group;
use crate::proto::log::v1 as log;
use crate::proto::peer::v1 as pb;
use crate::queue::ids::ContentId;
use crate::storage::bodies::encode_record;
use crate::storage::disk::FlushMode;
use crate::storage::error::StorageError;
use crate::storage::snapshot::{SnapshotView, SnapshotWriter};
use crate::storage::store::StoreError;

/// How long who asks for a state at an entry waits until that is applied.
const APPLY_WAIT: Duration = Duration::from_secs(5);

pub(super) struct Local {
    group: Group,
    began_empty: bool,
    mode: FlushMode,
}

impl Local {
    pub(super) fn new(group: Group, began_empty: bool, mode: FlushMode) -> Local {
        Local { group, began_empty, mode }
    }
}

impl Local {
    /// Whether an entry is applied, after a while at the latest.
    async fn reaches(&self, index: u64) -> bool {
        let mut applied = self.group.applied();
        let reached = applied
            .wait_for(|mark| index == 0 || mark.position.is_some_and(|at| at.index >= index));
        matches!(tokio::time::timeout(APPLY_WAIT, reached).await, Ok(Ok(_)))
    }
}

#[async_trait::async_trait]
impl LocalNode for Local {
    fn begin_install(&self) -> Result<SnapshotWriter, StoreError> {
        self.group.inner.store.write().begin_install()
    }

    async fn read_log(
        &self,
        from: u64,
        to: u64,
        max_bytes: usize,
    ) -> Result<Vec<pb::LogEntry>, StorageError> {
        let entries = self.group.inner.log.read(from, to, max_bytes)?;
        Ok(entries.into_iter().map(stored_out).collect())
    }

    async fn snapshot(&self) -> Result<SnapshotView, StoreError> {
        let store = &self.group.inner.store;
        match store.commit().await {
            // What is durable may do.
            Ok(()) | Err(StoreError::NoRoom) => store.read().view(),
            Err(error) => Err(error),
        }
    }

    async fn content(&self, id: ContentId, applied: u64) -> Result<(Bytes, u64), String> {
        if !self.reaches(applied).await {
            return Err(format!("entry {applied} is not applied here"));
        }
        let (found, at) = {
            let store = self.group.inner.store.read();
            (store.find_kept(id), store.applied().map_or(0, |at| at.index))
        };
        let found = found.ok_or_else(|| format!("content {} is not here", id.0))?;
        let content = found.read().map_err(|error| error.to_string())?;
        Ok((encode_record(id, &content), at))
    }

    fn compare(&self, asked: log::Milestones) -> Result<log::ComparedMilestone, String> {
        self.group.compared(asked).map_err(|error| error.to_string())
    }

    async fn digest(&self, index: u64) -> Option<[u8; 16]> {
        if !self.reaches(index).await {
            return None;
        }
        let store = self.group.inner.store.read();
        let exact = store.applied().is_some_and(|at| at.index == index);
        exact.then(|| store.state().digest().0.to_be_bytes())
    }

    fn refuses_entries(&self, bytes: u64) -> Option<String> {
        self.group.refuses_entries(bytes)
    }

    fn refuses_snapshot(&self) -> Option<String> {
        let short = self.group.disk_is_short(self.group.node());
        short.then(|| format!("the disk of node {} is nearly full", self.group.node()))
    }

    fn began_empty(&self) -> bool {
        self.began_empty
    }

    fn flush_mode(&self) -> FlushMode {
        self.mode
    }
}
