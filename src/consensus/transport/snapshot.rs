//! Snapshots between nodes: a pinned view leaves as a head and checksummed chunks, and arrives
//! beside the tables in use.
//!
//! Laws: the receiver switches to a snapshot only when it is whole, its checksums and totals
//! fit and its rows have the digest it names; a stream that breaks leaves the old tables as
//! they were. Slow disk work stays off the async threads where there are threads.
//!
//! Refuses a stream that does not begin with a head, or has a second one; a newer head from a
//! leader makes a new stream.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::Stream;
use tonic::{Status, Streaming};

use super::convert;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::install_snapshot_request::Part;
use crate::storage::disk::FlushMode;
use crate::storage::snapshot::{Chunk, ReadySnapshot, SnapshotView, SnapshotWriter};
use crate::storage::store::StoreError;

/// How long the receiver may take to check and switch once the last chunk was sent.
const SWITCH: Duration = Duration::from_secs(120);

/// How far a snapshot on its way out has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    parts: Arc<AtomicU64>,
    all_sent: Arc<AtomicBool>,
}

impl Progress {
    /// Returns once no part left for `period`, or the receiver took too long after the last.
    pub async fn stalled(&self, period: Duration) {
        let mut before = u64::MAX;
        loop {
            let now = self.parts.load(Ordering::Relaxed);
            if self.all_sent.load(Ordering::Relaxed) {
                return tokio::time::sleep(SWITCH).await;
            }
            if now == before {
                return;
            }
            before = now;
            tokio::time::sleep(period).await;
        }
    }
}

/// The parts of a snapshot as they leave, and how far they have come. A view that cannot be
/// read ends the stream early, which the receiver refuses.
pub fn outgoing(
    head: pb::SnapshotHead,
    view: SnapshotView,
) -> (impl Stream<Item = pb::InstallSnapshotRequest> + Send + 'static, Progress) {
    let progress = Progress::default();
    let counted = progress.clone();
    let head = Some(pb::InstallSnapshotRequest { part: Some(Part::Head(head)) });
    let start = (head, view.reader(), counted);
    let parts = futures::stream::unfold(start, |(head, mut reader, counted)| async move {
        if let Some(head) = head {
            return Some((head, (None, reader, counted)));
        }
        let chunk = reader
            .next_chunk()
            .inspect_err(|error| tracing::error!(%error, "a snapshot cannot be read"))
            .ok()?;
        let Some(chunk) = chunk else {
            counted.all_sent.store(true, Ordering::Relaxed);
            return None;
        };
        counted.parts.fetch_add(1, Ordering::Relaxed);
        // A chunk is a mebibyte of reading: others get their turn between two.
        tokio::task::yield_now().await;
        let part = Some(Part::Chunk(convert::chunk_out(chunk)));
        Some((pb::InstallSnapshotRequest { part }, (None, reader, counted)))
    });
    (parts, progress)
}

/// The chunks of a snapshot that a peer asked for. A view that cannot be read ends the stream
/// with an error.
pub fn read_out(
    view: SnapshotView,
) -> impl Stream<Item = Result<pb::ReadSnapshotResponse, Status>> + Send + 'static {
    futures::stream::try_unfold(view.reader(), |mut reader| async move {
        let chunk = reader.next_chunk();
        let chunk = chunk.map_err(|error| {
            tracing::error!(%error, "a snapshot cannot be read");
            Status::data_loss(error.to_string())
        })?;
        tokio::task::yield_now().await;
        Ok(chunk.map(|chunk| {
            let chunk = Some(convert::chunk_out(chunk));
            (pb::ReadSnapshotResponse { chunk }, reader)
        }))
    })
}

/// The chunk of an answer to ReadSnapshot.
#[must_use]
pub fn incoming_chunk(part: pb::ReadSnapshotResponse) -> Option<Chunk> {
    part.chunk.map(convert::chunk_in)
}

/// The head that every snapshot stream begins with.
pub async fn take_head(
    stream: &mut Streaming<pb::InstallSnapshotRequest>,
) -> Result<pb::SnapshotHead, Status> {
    match stream.message().await?.and_then(|request| request.part) {
        Some(Part::Head(head)) => Ok(head),
        Some(Part::Chunk(_)) | None => {
            Err(Status::invalid_argument("a snapshot must begin with its head"))
        }
    }
}

/// Takes the chunks up to the end of the stream and checks the whole.
pub async fn take_chunks(
    stream: &mut Streaming<pb::InstallSnapshotRequest>,
    mut writer: SnapshotWriter,
    mode: FlushMode,
) -> Result<ReadySnapshot, Status> {
    while let Some(request) = stream.message().await? {
        let Some(Part::Chunk(chunk)) = request.part else {
            return Err(Status::invalid_argument("a snapshot has one head, then only chunks"));
        };
        let chunk = convert::chunk_in(chunk);
        writer = off_thread(mode, move || {
            writer.push(&chunk)?;
            Ok(writer)
        })
        .await?;
    }
    off_thread(mode, move || writer.finish()).await
}

/// Runs disk work on a thread that may block, or inline where a seed decides the order.
pub async fn off_thread<T: Send + 'static>(
    mode: FlushMode,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Status> {
    let result = match mode {
        FlushMode::Inline => work(),
        FlushMode::Threads => tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Status::internal(format!("taking a snapshot stopped: {error}")))?,
    };
    result.map_err(|error| match error {
        StoreError::Snapshot(why) => {
            Status::data_loss(format!("the snapshot received is not whole: {why}"))
        }
        error => Status::internal(format!("the snapshot cannot be stored: {error}")),
    })
}
