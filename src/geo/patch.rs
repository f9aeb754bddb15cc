//! Gives a side whose history went another way what differs of this one's, in the place of all; and
//! a side that was given a part of a state, by this node or another, what it lacks of it.
//!
//! Laws: what differs is found from sums of both sides' rows, so neither log need reach back to
//! where they parted. Rows that differ are given from one pinned view, with the contents that the
//! other side lacks: one that a message got after the histories parted is always given, for both
//! gave the same numbers. What comes of it has the view's digest, or nothing is changed there. Who
//! goes on has a view of its own: rows that changed since are given again, and the rest not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::crossing::Crossing;
use super::error::{PairError, SeedError};
use super::inventory::{self, Counting, Runs};
use super::other::OtherRegion;
use super::seed::{self, COMMIT, Chunks, STEP};
use super::watermark::Watermark;
use super::wire;
use crate::clock::SharedClock;
use crate::consensus::group::{Group, Standing};
use crate::proto::geo::v1 as pb;
use crate::queue::authority::command::{RegionVerb, SeedChunk};
use crate::queue::authority::fork::first_unshared;
use crate::queue::authority::seed::contents_of;
use crate::queue::authority::{Authority, LedgerLine};
use crate::queue::command::Content;
use crate::queue::ids::{ContentId, Digest};
use crate::queue::rows::{Row, RowKey};
use crate::storage::bodies::Half;
use crate::storage::codec::{self, CodecError, Part};
use crate::storage::keys;
use crate::storage::snapshot::SnapshotView;

/// Groups whose rows are asked for at once.
const GROUPS: usize = 16_384;

/// What is given: a row, a content that it needs, or the key of a row that is no more.
enum Piece {
    Row(Box<Row>),
    Content(ContentId, Content),
    Removed(RowKey),
}

/// What differs between a view and what the other side has, a piece at a time.
struct Differences<'a> {
    view: &'a SnapshotView,
    half: Half,
    chunks: Chunks,
    counting: Counting,
    /// Groups of rows that differ.
    groups: BTreeSet<Bytes>,
    /// Rows of the other side in those groups, with their sums; what is left in the end goes.
    theirs: BTreeMap<Bytes, u64>,
    has: Runs,
    /// Contents that came with a seed under way.
    given: Runs,
    /// Contents from this id on are of either side alone.
    fork: u64,
    ready: VecDeque<Piece>,
}

impl Differences<'_> {
    /// Whether the other side has that row, where its sum there is this one.
    fn is_known(&self, key: &[u8], value: &[u8], sum: Option<u64>) -> bool {
        !self.groups.contains(inventory::group_of(key))
            || sum == Some(inventory::row_sum(key, value))
    }

    /// Of a row that came with a seed the content may have been still to come.
    fn must_give(&self, id: ContentId, is_known: bool) -> bool {
        let has = self.has.has(id) && (is_known || id.0 < self.fork);
        !(has || self.given.has(id))
    }

    /// About how many bytes all of them take.
    async fn bytes(&mut self) -> Result<u64, SeedError> {
        let (mut chunks, mut counting) = (Chunks::new(self.view, self.half), Counting::default());
        let (mut bytes, mut kept) = (0_u64, 0_usize);
        let mut walk = Walk::default();
        // Contents that are near each other in their number are so in the walk.
        let (mut near, mut lengths) = (None, BTreeMap::new());
        while let Some((key, value, row)) = next_row(&mut chunks, &mut counting)? {
            walk.step().await;
            let sum = self.theirs.get(&key).copied();
            kept += usize::from(sum.is_some());
            let is_known = self.is_known(&key, &value, sum);
            for id in contents_of(&row) {
                if self.must_give(id, is_known) {
                    let id = self.half.of(id);
                    if near != Some(id.0 >> 8) {
                        (near, lengths) = (Some(id.0 >> 8), self.view.lengths_near(id)?);
                    }
                    bytes = bytes.saturating_add(lengths.get(&id).copied().unwrap_or(0));
                }
            }
            if !is_known {
                bytes = bytes.saturating_add((key.len() + value.len()) as u64);
            }
        }
        let removed = self.theirs.len().saturating_sub(kept) * KEY_BYTES;
        Ok(bytes.saturating_add(removed as u64))
    }

    fn next(&mut self) -> Result<Option<Piece>, SeedError> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            let Some((key, value, row)) = next_row(&mut self.chunks, &mut self.counting)? else {
                let Some((key, _)) = self.theirs.pop_first() else { return Ok(None) };
                let wrong = CodecError::Wrong { what: "an inventory", field: "key" };
                return Ok(Some(Piece::Removed(keys::parse_row(&key).ok_or(wrong)?)));
            };
            let sum = self.theirs.remove(&key);
            let is_known = self.is_known(&key, &value, sum);
            for id in contents_of(&row) {
                if self.must_give(id, is_known) {
                    let content = self.view.content(self.half.of(id))?;
                    let content = content.ok_or(SeedError::NotInView)?;
                    self.ready.push_back(Piece::Content(id, content));
                }
            }
            if !is_known {
                self.ready.push_back(Piece::Row(Box::new(row)));
            }
        }
    }

    /// The pieces of the next chunk, which takes no more after so many bytes; `None` after the last.
    fn chunk(
        &mut self,
        attachment: u128,
        id: u128,
        most: usize,
    ) -> Result<Option<SeedChunk>, SeedError> {
        let (number, rows, contents, removed) = (0, Vec::new(), Vec::new(), Vec::new());
        let mut chunk = SeedChunk { attachment, id, number, rows, contents, removed };
        let mut bytes = 0;
        while bytes < most {
            bytes += match self.next()? {
                Some(Piece::Row(row)) => {
                    let size = codec::encode_row(&row).len();
                    chunk.rows.push(*row);
                    size
                }
                Some(Piece::Content(id, content)) => {
                    let size = content.size();
                    chunk.contents.push((id, content));
                    size
                }
                Some(Piece::Removed(key)) => {
                    chunk.removed.push(key);
                    KEY_BYTES
                }
                None => break,
            };
        }
        Ok((bytes > 0).then_some(chunk))
    }
}

/// About what a key takes.
const KEY_BYTES: usize = 20;

/// The next row that counts, as it is stored.
/// A walk over all rows, which lets others have their turn between some and the next: a leader
/// that does not is none when the walk is over.
#[derive(Default)]
struct Walk {
    rows: u64,
}

impl Walk {
    /// Rows that are read at once.
    const AT_ONCE: u64 = 128;

    async fn step(&mut self) {
        self.rows += 1;
        if self.rows.is_multiple_of(Self::AT_ONCE) {
            tokio::task::yield_now().await;
        }
    }
}

fn next_row(
    chunks: &mut Chunks,
    counting: &mut Counting,
) -> Result<Option<(Bytes, Bytes, Row)>, SeedError> {
    loop {
        match chunks.next_part()? {
            Some(Part::Row { key, value }) => {
                if let Some(row) = seed::shared_row(&key, &value)?
                    && counting.counts(&row)
                {
                    return Ok(Some((key, value, row)));
                }
            }
            Some(Part::Header { .. }) => {}
            // Contents come after the rows.
            Some(Part::Content { .. } | Part::End { .. }) | None => return Ok(None),
        }
    }
}

/// The conversation with the side that is given to.
struct Talk<'a> {
    other: &'a OtherRegion,
    lineage: u128,
    attachment: u128,
    news: &'a watch::Sender<Watermark>,
    line: Crossing,
}

impl Talk<'_> {
    fn copied(&self, bytes: usize) {
        self.news.send_modify(|mark| {
            mark.copied_bytes += bytes as u64;
            mark.go_on();
        });
    }

    async fn inventory(
        &mut self,
        groups: Vec<Bytes>,
        of_seed: bool,
    ) -> Result<pb::InventoryResponse, SeedError> {
        let request = pb::InventoryRequest {
            lineage: wire::wide(self.lineage),
            attachment: wire::wide(self.attachment),
            groups,
            of_seed,
        };
        let asked = self.other.ask_patiently(Instant::now() + STEP, STEP, |client| {
            let request = request.clone();
            let mut client = client.max_encoding_message_size(wire::MESSAGE_BYTES);
            async move { client.inventory(request).await }
        });
        let answer = asked.await.map_err(|error: PairError| SeedError::Other(Box::new(error)))?;
        let bytes = request.encoded_len() + answer.encoded_len();
        self.line.cross(bytes).await?;
        self.copied(bytes);
        Ok(answer)
    }

    /// What differs between the view and what is there by `all`.
    async fn compare<'v>(
        &mut self,
        view: &'v SnapshotView,
        (half, fork): (Half, u64),
        all: &pb::InventoryResponse,
    ) -> Result<Differences<'v>, SeedError> {
        let mut sums: BTreeMap<Bytes, u64> = BTreeMap::new();
        let (mut chunks, mut counting) = (Chunks::new(view, half), Counting::default());
        let mut walk = Walk::default();
        while let Some((key, value, _)) = next_row(&mut chunks, &mut counting)? {
            walk.step().await;
            let group = key.slice_ref(inventory::group_of(&key));
            let sum = sums.entry(Bytes::copy_from_slice(&group)).or_default();
            *sum = sum.wrapping_add(inventory::row_sum(&key, &value));
        }
        let mut groups: BTreeSet<Bytes> = BTreeSet::new();
        let mut shared = Vec::new();
        for sum in &all.sums {
            if sums.remove(&sum.key) != Some(sum.sum) {
                groups.insert(sum.key.clone());
                shared.push(sum.key.clone());
            }
        }
        groups.extend(sums.into_keys());
        let mut theirs = BTreeMap::new();
        for groups in shared.chunks(GROUPS) {
            let rows = self.inventory(groups.to_vec(), all.seed.is_some()).await?;
            let chunks = |of: &pb::InventoryResponse| of.seed.as_ref().map(|it| it.chunks);
            if rows.digest != all.digest || chunks(&rows) != chunks(all) {
                return Err(SeedError::Moved);
            }
            theirs.extend(rows.sums.into_iter().map(|row| (row.key, row.sum)));
        }
        Ok(Differences {
            view,
            half,
            chunks: Chunks::new(view, half),
            counting: Counting::default(),
            groups,
            theirs,
            has: Runs::from(&all.runs),
            given: all.seed.as_ref().map(|seed| Runs::from(&seed.runs)).unwrap_or_default(),
            fork,
            ready: VecDeque::new(),
        })
    }

    /// From which content on this history and what the other region has went their own ways.
    async fn fork(&self, ledger: &[LedgerLine]) -> Result<u64, SeedError> {
        let theirs = self.other.status(Instant::now() + STEP).await;
        let theirs = theirs.map_err(|error| SeedError::Other(Box::new(error)))?;
        let theirs = wire::ledger_from(theirs.ledger)?;
        Ok(first_unshared(ledger, &theirs).unwrap_or(u64::MAX))
    }

    /// Gives all that differs, from that chunk on, and ends the seed.
    async fn give_all(
        &mut self,
        mut differences: Differences<'_>,
        (id, mut number): (u128, u64),
    ) -> Result<(), SeedError> {
        let (attachment, position) = (self.attachment, differences.view.position());
        while let Some(chunk) = differences.chunk(attachment, id, self.line.chunk_bytes())? {
            number = self.give(SeedChunk { number, ..chunk }).await?;
            tokio::task::yield_now().await;
        }
        let digest = differences.view.digest();
        let commit = RegionVerb::SeedCommit { attachment, id, chunks: number, digest };
        self.line.cross(0).await?;
        seed::step(self.other, &commit, COMMIT).await?;
        self.news.send_modify(|mark| mark.copy_total = None);
        let bytes = self.news.borrow().copied_bytes;
        tracing::info!(chunks = number, bytes, %position, "the other region was given what differs");
        Ok(())
    }

    async fn give(&mut self, chunk: SeedChunk) -> Result<u64, SeedError> {
        let verb = RegionVerb::SeedChunk(chunk);
        let Some(request) = wire::seed_request(&verb) else { return Ok(0) };
        let bytes = request.encoded_len();
        self.line.cross(bytes).await?;
        let next = seed::ask(self.other, request, STEP).await?;
        self.copied(bytes);
        Ok(next)
    }
}

/// Gives the other region what differs.
///
/// # Errors
/// [`SeedError`]: the next call goes on with it; where the other region refused, gives all.
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
    let authority = seed::authority_of(&view)?;
    let position = seed::end_of(&view, &authority);
    let Authority { ledger, replayed, high_contents, lineage, .. } = authority;
    let id = seed::fresh_id(group, clock);
    // What is of another history, or was refused, is freed a chunk at a time.
    while seed::step(other, &RegionVerb::SeedDrop { attachment }, STEP).await? > 0 {}
    let half = Half { is_high: high_contents };
    news.send_modify(Watermark::begin_copy);
    let line = Crossing::new(group, clock, news, position);
    let mut talk = Talk { other, lineage, attachment, news, line };
    let fork = talk.fork(&ledger).await?;
    let all = talk.inventory(Vec::new(), false).await?;
    let mut differences = talk.compare(&view, (half, fork), &all).await?;
    let base = Some(Digest(wire::narrow(&all.digest, "the digest").unwrap_or_default()));
    let resumes = None;
    let begin = RegionVerb::SeedBegin { attachment, id, position, ledger, replayed, base, resumes };
    let bytes = differences.bytes().await?;
    seed::begin_there(other, &begin, bytes).await?;
    news.send_modify(|mark| mark.expect_copy(bytes));
    talk.give_all(differences, (id, 0)).await
}

/// Goes on with a state that was begun to be given and is not whole, be it all or what differs:
/// gives what it lacks of this node's own view. False = there is nothing of this history.
///
/// # Errors
/// [`SeedError`]: the next call goes on with it; where the other region refused, it must be given
/// up.
pub async fn go_on(
    group: &Group,
    other: &OtherRegion,
    clock: &SharedClock,
    news: &watch::Sender<Watermark>,
) -> Result<bool, SeedError> {
    let Some(Standing { authority, .. }) = group.standing() else { return Ok(false) };
    let Some(attachment) = authority.attachment.as_ref().map(|it| it.id) else { return Ok(false) };
    // What the copy is attached to must be in the view.
    group.store().commit().await?;
    let view = group.store().read().view()?;
    let authority = seed::authority_of(&view)?;
    let position = seed::end_of(&view, &authority);
    let Authority { ledger, replayed, high_contents, lineage, .. } = authority;
    news.send_modify(Watermark::begin_copy);
    let line = Crossing::new(group, clock, news, position);
    let mut talk = Talk { other, lineage, attachment, news, line };
    let mut all = talk.inventory(Vec::new(), true).await?;
    let Some(seed) = all.seed.clone() else { return Ok(false) };
    if seed.chunks == 0 || wire::ledger_from(seed.ledger)? != ledger {
        return Ok(false);
    }
    let resumes = Some(wire::narrow(&seed.id, "the seed").unwrap_or_default());
    let base = wire::narrow(&seed.base, "the digest").ok().map(Digest);
    let fork = if base.is_some() { talk.fork(&ledger).await? } else { u64::MAX };
    let id = seed::fresh_id(group, clock);
    let begin = RegionVerb::SeedBegin { attachment, id, position, ledger, replayed, base, resumes };
    let half = Half { is_high: high_contents };
    let mut differences = talk.compare(&view, (half, fork), &all).await?;
    let bytes = differences.bytes().await?;
    let number = seed::begin_there(other, &begin, bytes).await?;
    news.send_modify(|mark| mark.expect_copy(bytes));
    if number != seed.chunks {
        // Its old giver gave one more meanwhile, and cannot any more.
        all = talk.inventory(Vec::new(), true).await?;
        differences = talk.compare(&view, (half, fork), &all).await?;
    }
    tracing::info!(chunks = number, %position, "a state that was under way is gone on with");
    talk.give_all(differences, (id, number)).await?;
    Ok(true)
}
