//! Reads a view as a stream of chunks, a page of rows at a time.

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::{CHUNK_BYTES, Chunk, FORMAT, SnapshotView};
use crate::proto::log::v1 as pb;
use crate::proto::log::v1::snapshot_part::Part;
use crate::queue::ids::ContentId;
use crate::storage::bodies::{Group, Place};
use crate::storage::codec::{CodecError, content_to, mark_to};
use crate::storage::keys;
use crate::storage::store::StoreError;
use crate::storage::tables::{Page, Span};

const PAGE_BYTES: usize = 256 << 10;

#[derive(Debug)]
enum Phase {
    Header,
    Rows(Span),
    Contents(Span),
    End,
    Done,
}

/// The stream of one view.
#[derive(Debug)]
pub struct SnapshotReader {
    view: SnapshotView,
    phase: Phase,
    /// Places of the contents page at hand, the next one last.
    places: Vec<(ContentId, Place)>,
    buffer: BytesMut,
    offset: u64,
    rows: u64,
    contents: u64,
}

impl SnapshotReader {
    pub(super) fn new(view: SnapshotView) -> SnapshotReader {
        SnapshotReader {
            view,
            phase: Phase::Header,
            places: Vec::new(),
            buffer: BytesMut::new(),
            offset: 0,
            rows: 0,
            contents: 0,
        }
    }

    /// Where the next chunk begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    #[must_use]
    pub fn view(&self) -> &SnapshotView {
        &self.view
    }

    /// The next chunk; `None` after the last.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk>, StoreError> {
        while self.buffer.len() < CHUNK_BYTES && !matches!(self.phase, Phase::Done) {
            self.fill()?;
        }
        if self.buffer.is_empty() {
            return Ok(None);
        }
        let len = self.buffer.len().min(CHUNK_BYTES);
        let chunk = Chunk::new(self.offset, self.buffer.split_to(len).freeze());
        self.offset += len as u64;
        Ok(Some(chunk))
    }

    /// Adds at least one part, or moves to the next phase.
    fn fill(&mut self) -> Result<(), StoreError> {
        if let Some((id, place)) = self.places.pop() {
            let content = self.view.files.read(id, place)?;
            self.contents += 1;
            let content = Some(content_to(&content));
            self.add(Part::Content(pb::StoredContent { id: id.0, content }));
            return Ok(());
        }
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Header => {
                self.add(Part::Header(pb::SnapshotHeader {
                    format: FORMAT,
                    mark: Some(mark_to(&self.view.mark)),
                    digest: Bytes::copy_from_slice(&self.view.digest.0.to_be_bytes()),
                }));
                self.phase = Phase::Rows(Span::tags(keys::REPLICATED));
            }
            Phase::Rows(mut span) => {
                let page = self.page(&mut span)?;
                self.phase = match page.is_empty() {
                    true => Phase::Contents(Span::tag(keys::CONTENTS_TAG)),
                    false => Phase::Rows(span),
                };
                self.rows += page.len() as u64;
                for (key, value) in page {
                    self.add(Part::Row(pb::StoredRow { key: key.into(), value: value.into() }));
                }
            }
            Phase::Contents(mut span) => {
                let page = self.page(&mut span)?;
                self.phase = match page.is_empty() {
                    true => Phase::End,
                    false => Phase::Contents(span),
                };
                self.take_places(page)?;
            }
            Phase::End => {
                self.add(Part::End(pb::SnapshotEnd { rows: self.rows, contents: self.contents }));
            }
            Phase::Done => {}
        }
        Ok(())
    }

    fn page(&self, span: &mut Span) -> Result<Page, StoreError> {
        let page = self.view.tables.page(span, PAGE_BYTES)?;
        if let Some((key, _)) = page.last() {
            span.skip_to_after(key);
        }
        Ok(page)
    }

    fn take_places(&mut self, page: Page) -> Result<(), StoreError> {
        for (key, value) in page {
            let wrong = CodecError::Wrong { what: "a contents row", field: "key" };
            let number = keys::parse_contents(&key).ok_or(wrong)?;
            let group = Group::decode(&value)?;
            let places = group.iter();
            self.places
                .extend(places.map(|(low, at)| (ContentId(number << 8 | u64::from(low)), at)));
        }
        self.places.reverse();
        Ok(())
    }

    fn add(&mut self, part: Part) {
        let part = pb::SnapshotPart { part: Some(part) };
        let len = part.encoded_len();
        self.buffer.reserve(4 + len);
        self.buffer.extend_from_slice(&(len as u32).to_le_bytes());
        part.encode_raw(&mut self.buffer);
    }
}
