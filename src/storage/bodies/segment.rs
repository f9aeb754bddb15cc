//! The body files: append-only, one record a content.
//!
//! A record is a head of 24 bytes (CRC-32C of all that follows, length of the body, length of
//! the headers, content id, format), the body, and the headers as a `zoneq.log.v1.Content`
//! without its body. What lies behind the length that the tables record is not there: it is
//! cut at the next open. Nothing before it is ever changed.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{BufMut, Bytes};

use super::directory::Place;
use super::half::same;
use crate::queue::command::Content;
use crate::queue::ids::ContentId;
use crate::storage::codec;
use crate::storage::disk::{Disk, DiskFile, OpenMode};
use crate::storage::store::StoreError;

const HEAD: usize = 24;
const FORMAT: u8 = 1;
/// Files kept open for reading and appending.
const OPEN_FILES: usize = 64;
/// Damaged contents that are noted; what is beyond is found again when it is read.
const ROTTEN: usize = 1_024;
/// Records are gathered up to this before they are written.
const WRITE_BYTES: usize = 1 << 20;

/// How long the record of a content is.
#[must_use]
pub fn record_len(content: &Content) -> usize {
    HEAD + content.body.len() + codec::headers_len(&content.headers)
}

/// The head and the headers of a record; the body lies between them.
fn encode_around(id: ContentId, content: &Content) -> ([u8; HEAD], Vec<u8>) {
    let mut headers = Vec::with_capacity(codec::headers_len(&content.headers));
    codec::put_headers(&content.headers, &mut headers);
    let mut head = [0; HEAD];
    let (checksum, rest) = head.split_at_mut(4);
    let mut fields = &mut *rest;
    fields.put_u32_le(content.body.len() as u32);
    fields.put_u32_le(headers.len() as u32);
    fields.put_u64_le(id.0);
    fields.put_u32_le(FORMAT.into());
    let crc = [&content.body, headers.as_slice()]
        .into_iter()
        .fold(crc32c::crc32c(rest), crc32c::crc32c_append);
    checksum.copy_from_slice(&crc.to_le_bytes());
    (head, headers)
}

/// The record of a content, as it lies in a segment.
#[must_use]
pub fn encode_record(id: ContentId, content: &Content) -> Bytes {
    let (head, headers) = encode_around(id, content);
    [&head, &content.body[..], &headers].concat().into()
}

/// Reads a record and checks it.
///
/// # Errors
/// Why its bytes are not the content asked for.
pub fn decode_record(id: ContentId, record: &Bytes) -> Result<Content, &'static str> {
    let word = |at: usize| {
        let bytes = record.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or("it is too short")
    };
    let crc = record.get(4..).map_or(0, crc32c::crc32c);
    if word(0)? != crc {
        return Err("its checksum does not match");
    }
    let (body, headers) = (word(4)? as usize, word(8)? as usize);
    let found = u64::from(word(12)?) | u64::from(word(16)?) << 32;
    // A content may have come to be in the other half.
    if !same(found, id.0) {
        return Err("another content lies there");
    }
    if word(20)? != u32::from(FORMAT) {
        return Err("its format is not known");
    }
    if record.len() != HEAD + body + headers {
        return Err("its lengths do not add up");
    }
    let headers = codec::decode_headers(record.slice(HEAD + body..))
        .map_err(|_| "its headers are not readable")?;
    Ok(Content { body: record.slice(HEAD..HEAD + body), headers })
}

/// The files of one folder of body segments.
#[derive(Debug)]
pub struct SegmentFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    open: Mutex<VecDeque<(u32, Arc<dyn DiskFile>)>>,
    /// Contents that were found damaged and are to be mended.
    rotten: Mutex<BTreeSet<ContentId>>,
}

impl SegmentFiles {
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf) -> SegmentFiles {
        SegmentFiles { disk, dir, open: Mutex::default(), rotten: Mutex::default() }
    }

    #[must_use]
    pub fn path(&self, number: u32) -> PathBuf {
        self.dir.join(format!("{number:010}.bodies"))
    }

    fn failed(&self, doing: &'static str, path: &Path, source: io::Error) -> StoreError {
        StoreError::Io { doing, path: path.display().to_string(), source }
    }

    /// Makes the folder and brings its files to the lengths that the tables record; files that
    /// they do not name are removed.
    pub fn settle(&self, lengths: &[(u32, u64)]) -> Result<(), StoreError> {
        let made = self.disk.create_dir_all(&self.dir);
        made.map_err(|e| self.failed("made", &self.dir, e))?;
        let found = self.disk.list(&self.dir).map_err(|e| self.failed("listed", &self.dir, e))?;
        let known: BTreeSet<PathBuf> =
            lengths.iter().map(|(number, _)| self.path(*number)).collect();
        for path in found.iter().filter(|path| !known.contains(*path)) {
            self.disk.remove_file(path).map_err(|e| self.failed("removed", path, e))?;
        }
        for (number, len) in lengths {
            let path = self.path(*number);
            let file = self.disk.open(&path, OpenMode::ReadWrite);
            let file = file.map_err(|e| self.failed("opened", &path, e))?;
            let real = file.len().map_err(|e| self.failed("measured", &path, e))?;
            if real < *len {
                let why = format!("it has {real} bytes of {len}");
                return Err(StoreError::Damaged { what: path.display().to_string(), why });
            }
            if real > *len {
                file.set_len(*len).map_err(|e| self.failed("cut", &path, e))?;
            }
        }
        Ok(())
    }

    fn file(&self, number: u32) -> Result<Arc<dyn DiskFile>, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(open, _)| *open == number)
            && let Some(entry) = open.remove(at)
        {
            let file = Arc::clone(&entry.1);
            open.push_back(entry);
            return Ok(file);
        }
        let path = self.path(number);
        let file = self.disk.open_streamed(&path, OpenMode::ReadWrite);
        let file = file.map_err(|e| self.failed("opened", &path, e))?;
        if open.len() >= OPEN_FILES {
            open.pop_front();
        }
        open.push_back((number, Arc::clone(&file)));
        Ok(file)
    }

    fn create(&self, number: u32) -> Result<(), StoreError> {
        let path = self.path(number);
        // It may be there from an attempt that found no room.
        let file = self.disk.open(&path, OpenMode::OpenOrCreate);
        file.map(drop).map_err(|e| self.failed("made", &path, e))
    }

    /// Removes a segment's file.
    pub fn remove(&self, number: u32) -> Result<(), StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(open, _)| *open != number);
        drop(open);
        let path = self.path(number);
        self.disk.remove_file(&path).map_err(|e| self.failed("removed", &path, e))
    }

    fn bytes(&self, place: Place) -> Result<Vec<u8>, StoreError> {
        let mut record = vec![0; place.len as usize];
        let read = self.file(place.segment)?.read_exact_at(&mut record, place.offset.into());
        read.map_err(|e| self.failed("read", &self.path(place.segment), e))?;
        Ok(record)
    }

    /// Reads a content and checks it. One that rotted is noted, to be mended.
    pub fn read(&self, id: ContentId, place: Place) -> Result<Content, StoreError> {
        let record = Bytes::from(self.bytes(place)?);
        decode_record(id, &record).map_err(|why| {
            let mut rotten = self.rotten.lock().unwrap_or_else(PoisonError::into_inner);
            if rotten.len() < ROTTEN {
                rotten.insert(id);
            }
            let path = self.path(place.segment);
            let what = format!("content {} at {} of {}", id.0, place.offset, path.display());
            StoreError::Content { id, what, why }
        })
    }

    /// Contents that were found damaged since this was asked last.
    pub fn take_rotten(&self) -> BTreeSet<ContentId> {
        std::mem::take(&mut *self.rotten.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes a flush durable: its records, the lengths of the files and their names. What it
    /// writes lies behind all that the tables name, so it may be tried again after a write, not a
    /// sync, that found the disk full.
    pub fn write(&self, flush: &Flush) -> Result<(), StoreError> {
        for number in &flush.created {
            self.create(*number)?;
        }
        let mut buffer = Gathered::default();
        let mut touched: BTreeSet<u32> = flush.created.iter().copied().collect();
        for Placing { id, content, to } in flush.new.iter() {
            self.lead_to(&mut buffer, *to, &mut touched)?;
            let (head, headers) = encode_around(*id, content);
            buffer.push(Piece::Head(head));
            buffer.push(Piece::Body(&content.body));
            buffer.push(Piece::Own(headers));
        }
        for (from, to) in &flush.copies {
            self.lead_to(&mut buffer, *to, &mut touched)?;
            // As it is: a damaged record stays damaged, and is found out when it is read.
            buffer.push(Piece::Own(self.bytes(*from)?));
        }
        self.put(&mut buffer)?;
        for number in touched {
            let synced = self.file(number)?.sync_data();
            synced.map_err(|e| self.failed("synced", &self.path(number), e))?;
        }
        if !flush.created.is_empty() {
            let synced = self.disk.sync_dir(&self.dir);
            synced.map_err(|e| self.failed("synced", &self.dir, e))?;
        }
        Ok(())
    }

    /// Makes the next byte of the buffer the one at `to`.
    fn lead_to(
        &self,
        buffer: &mut Gathered<'_>,
        to: Place,
        touched: &mut BTreeSet<u32>,
    ) -> Result<(), StoreError> {
        if !buffer.continues(to) {
            self.put(buffer)?;
            buffer.start = Some((to.segment, to.offset.into()));
            touched.insert(to.segment);
        }
        Ok(())
    }

    fn put(&self, buffer: &mut Gathered<'_>) -> Result<(), StoreError> {
        if let Some((segment, offset)) = buffer.start.take() {
            let slices: Vec<&[u8]> = buffer.pieces.iter().map(Piece::bytes).collect();
            let written = self.file(segment)?.write_vectored_at(&slices, offset);
            written.map_err(|e| self.failed("written", &self.path(segment), e))?;
            buffer.pieces.clear();
            buffer.len = 0;
        }
        Ok(())
    }
}

/// A part of a record. Bodies are not copied on their way to the file.
enum Piece<'a> {
    Head([u8; HEAD]),
    Body(&'a [u8]),
    Own(Vec<u8>),
}

impl Piece<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Head(head) => head,
            Piece::Body(body) => body,
            Piece::Own(bytes) => bytes,
        }
    }
}

/// Records that lie one after another, on their way to the disk.
#[derive(Default)]
struct Gathered<'a> {
    start: Option<(u32, u64)>,
    pieces: Vec<Piece<'a>>,
    /// Of all pieces together.
    len: usize,
}

impl<'a> Gathered<'a> {
    fn push(&mut self, piece: Piece<'a>) {
        let len = piece.bytes().len();
        if len > 0 {
            self.len += len;
            self.pieces.push(piece);
        }
    }

    fn continues(&self, to: Place) -> bool {
        self.len < WRITE_BYTES
            && self.start.is_some_and(|(segment, offset)| {
                segment == to.segment && offset + self.len as u64 == u64::from(to.offset)
            })
    }
}

/// A content on its way to its place.
#[derive(Debug)]
pub struct Placing {
    pub id: ContentId,
    pub content: Content,
    pub to: Place,
}

/// The body files' part of one table commit.
#[derive(Debug, Default)]
pub struct Flush {
    pub created: Vec<u32>,
    /// In the order of their ids and places.
    pub new: Arc<[Placing]>,
    /// From where to where.
    pub copies: Vec<(Place, Place)>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_flipped_bit_is_found(body in prop::collection::vec(any::<u8>(), 0..64), at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let headers = [("a".to_owned(), "b".to_owned())].into();
            let content = Content { body: body.into(), headers };
            let mut record = encode_record(ContentId(9), &content).to_vec();
            prop_assert_eq!(record.len(), record_len(&content));
            let whole = decode_record(ContentId(9), &Bytes::from(record.clone())).unwrap();
            prop_assert_eq!(whole, content);
            let at = at.index(record.len());
            record[at] ^= 1 << bit;
            prop_assert!(decode_record(ContentId(9), &Bytes::from(record)).is_err());
        }
    }
}
