//! Reads a view as a stream of chunks, a page of rows at a time.

use bytes::BytesMut;

use super::{CHUNK_BYTES, Chunk, FORMAT, SnapshotView};
use crate::queue::ids::ContentId;
use crate::storage::bodies::{Group, Place};
use crate::storage::codec::{CodecError, Part, encode_part};
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
            self.add(Part::Content { id, content });
            return Ok(());
        }
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Header => {
                let (mark, digest) = (self.view.mark.clone(), self.view.digest);
                self.add(Part::Header { format: FORMAT, mark, digest });
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
                    self.add(Part::Row { key: key.into(), value: value.into() });
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
                self.add(Part::End { rows: self.rows, contents: self.contents });
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
        encode_part(part, &mut self.buffer);
    }
}
