//! Gives the other region a whole state of this cluster, where the log alone does not do: an empty
//! one that the log does not reach back for, or one whose history went another way.
//!
//! Laws: the state is a pinned view of the tables, read as it is, while the primary serves on. The
//! log after the view's position is kept until it is shipped, as for any copy. How many bytes were
//! given is shown. They cross a shaped line as its shape says. What does not come to its end is gone
//! on with by [`super::patch`], from whichever node leads then.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::crossing::Crossing;
use super::error::{PairError, SeedError};
use super::other::OtherRegion;
use super::watermark::Watermark;
use super::wire;
use crate::clock::SharedClock;
use crate::consensus::group::{Group, Standing};
use crate::proto::geo::v1 as pb;
use crate::queue::authority::command::{RegionVerb, SeedChunk};
use crate::queue::authority::{Authority, Role};
use crate::queue::command::Content;
use crate::queue::ids::{ContentId, Position};
use crate::queue::rows::{Row, RowKey};
use crate::storage::bodies::Half;
use crate::storage::codec::{self, Part};
use crate::storage::keys;
use crate::storage::snapshot::{SnapshotReader, SnapshotView};

/// Bytes of rows and contents after which a chunk takes no more.
pub(super) const CHUNK_BYTES: usize = 512 << 10;
/// One step has this long, leader changes there included.
pub(super) const STEP: Duration = Duration::from_secs(20);
/// Building the state at the end takes longer.
pub(super) const COMMIT: Duration = Duration::from_secs(120);

/// What one chunk holds.
pub(super) type Held = (Vec<Row>, Vec<(ContentId, Content)>);

/// A view, cut into chunks of rows and contents.
pub(super) struct Chunks {
    /// Where this side's contents are; others are not of the state.
    half: Half,
    reader: SnapshotReader,
    buffer: BytesMut,
    parts: VecDeque<Part>,
}

impl Chunks {
    pub(super) fn new(view: &SnapshotView, half: Half) -> Chunks {
        Chunks { half, reader: view.reader(), buffer: BytesMut::new(), parts: VecDeque::new() }
    }

    pub(super) fn next_part(&mut self) -> Result<Option<Part>, SeedError> {
        loop {
            if let Some(part) = self.parts.pop_front() {
                return Ok(Some(part));
            }
            let Some(chunk) = self.reader.next_chunk()? else { return Ok(None) };
            self.buffer.extend_from_slice(&chunk.data);
            while let Some(bytes) = framed(&mut self.buffer) {
                self.parts.push_back(codec::decode_part(bytes)?);
            }
        }
    }

    /// The rows and contents of the next chunk, which takes no more after so many bytes; `None`
    /// after the last.
    pub(super) fn next(&mut self, most: usize) -> Result<Option<Held>, SeedError> {
        let (mut rows, mut contents, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < most {
            let Some(part) = self.next_part()? else { break };
            match part {
                Part::Row { key, value } => {
                    bytes += key.len() + value.len();
                    rows.extend(shared_row(&key, &value)?);
                }
                Part::Content { id, content } => {
                    let Some(id) = self.half.own(id) else { continue };
                    bytes += content.size();
                    contents.push((id, content));
                }
                Part::Header { .. } | Part::End { .. } => {}
            }
        }
        Ok((bytes > 0).then_some((rows, contents)))
    }
}

/// Takes a part with its length in front out of the buffer, if it is whole.
fn framed(buffer: &mut BytesMut) -> Option<Bytes> {
    let len = u32::from_le_bytes(*buffer.first_chunk::<4>()?) as usize;
    if buffer.len() < 4 + len {
        return None;
    }
    buffer.advance(4);
    Some(buffer.split_to(len).freeze())
}

/// A row that both regions have. What this cluster is in the pair is its own.
pub(super) fn shared_row(key: &[u8], value: &[u8]) -> Result<Option<Row>, SeedError> {
    let wrong = codec::CodecError::Wrong { what: "a row", field: "key" };
    let key = keys::parse_row(key).ok_or(wrong)?;
    if matches!(key, RowKey::Authority | RowKey::Audit(_) | RowKey::Seed(_)) {
        return Ok(None);
    }
    Ok(Some(codec::decode_row(&key, value)?))
}

/// Gives the other region the state of this node's tables, from beginning to end.
///
/// # Errors
/// [`SeedError`]: what was given stays there, to be gone on with.
pub async fn give(
    group: &Group,
    other: &OtherRegion,
    clock: &SharedClock,
    news: &watch::Sender<Watermark>,
) -> Result<(), SeedError> {
    let Some(Standing { authority, .. }) = group.standing() else { return Ok(()) };
    let Some(attachment) = authority.attachment.as_ref().map(|it| it.id) else { return Ok(()) };
    // What the copy is attached to must be in the view.
    group.store().commit().await?;
    let view = group.store().read().view()?;
    let authority = authority_of(&view)?;
    let position = end_of(&view, &authority);
    let mut line = Crossing::new(group, clock, news, position);
    let Authority { ledger, replayed, high_contents, .. } = authority;
    let id = fresh_id(group, clock);
    // What is of another history, or was refused, is freed a chunk at a time.
    while step(other, &RegionVerb::SeedDrop { attachment }, STEP).await? > 0 {}
    let (base, resumes) = (None, None);
    let begin = RegionVerb::SeedBegin { attachment, id, position, ledger, replayed, base, resumes };
    let (needed, _) = group.store().read().space();
    begin_there(other, &begin, needed).await?;
    news.send_modify(|mark| {
        mark.begin_copy();
        mark.expect_copy(needed);
    });
    let half = Half { is_high: high_contents };
    let (mut chunks, mut number) = (Chunks::new(&view, half), 0);
    while let Some((rows, contents)) = chunks.next(line.chunk_bytes())? {
        let chunk = RegionVerb::SeedChunk(SeedChunk {
            attachment,
            id,
            number,
            rows,
            contents,
            removed: Vec::new(),
        });
        let Some(request) = wire::seed_request(&chunk) else { continue };
        let bytes = request.encoded_len();
        line.cross(bytes).await?;
        number = ask(other, request, STEP).await?;
        news.send_modify(|mark| {
            mark.copied_bytes += bytes as u64;
            mark.go_on();
        });
        // A chunk is much reading: others get their turn between two.
        tokio::task::yield_now().await;
    }
    let digest = view.digest();
    let commit = RegionVerb::SeedCommit { attachment, id, chunks: number, digest };
    line.cross(0).await?;
    step(other, &commit, COMMIT).await?;
    news.send_modify(|mark| mark.copy_total = None);
    tracing::info!(chunks = number, %position, "the other region was given a whole state");
    Ok(())
}

/// A number that no other seed has.
pub(super) fn fresh_id(group: &Group, clock: &SharedClock) -> u128 {
    u128::from(clock.wall_us()) << 64 | u128::from(group.node())
}

pub(super) async fn step(
    other: &OtherRegion,
    verb: &RegionVerb,
    within: Duration,
) -> Result<u64, SeedError> {
    match wire::seed_request(verb) {
        Some(request) => ask(other, request, within).await,
        None => Ok(0),
    }
}

/// The other region says at once where it has no room for so many bytes beside what it has.
pub(super) async fn begin_there(
    other: &OtherRegion,
    verb: &RegionVerb,
    bytes: u64,
) -> Result<u64, SeedError> {
    match wire::seed_request(verb) {
        Some(request) => ask(other, pb::SeedRequest { bytes, ..request }, STEP).await,
        None => Ok(0),
    }
}

pub(super) async fn ask(
    other: &OtherRegion,
    request: pb::SeedRequest,
    within: Duration,
) -> Result<u64, SeedError> {
    let answer = other.ask_patiently(Instant::now() + within, within, |client| {
        let request = request.clone();
        let mut client = client.max_encoding_message_size(wire::MESSAGE_BYTES);
        async move { client.seed(request).await }
    });
    Ok(answer.await.map_err(|error: PairError| SeedError::Other(Box::new(error)))?.next)
}

/// Where a copy ends that is given this view. Nothing counted between the seal and the release, so
/// after that it ends before the release, which it is still to be told of.
pub(super) fn end_of(view: &SnapshotView, authority: &Authority) -> Position {
    match (&authority.role, authority.before_release()) {
        (Role::Released { .. }, Some(before)) => before,
        (Role::Released { at, .. }, None) => *at,
        _ => view.position(),
    }
}

/// What this cluster is, as the view has it.
pub(super) fn authority_of(view: &SnapshotView) -> Result<Authority, SeedError> {
    match view.row(&RowKey::Authority)? {
        Some(Row::Authority(authority)) => Ok(*authority),
        _ => Err(SeedError::NotInView),
    }
}
