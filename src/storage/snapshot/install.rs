//! Takes a snapshot's stream into a generation of its own, beside the one in use.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};

use super::{Chunk, FORMAT};
use crate::queue::State;
use crate::queue::ids::{Digest, Position};
use crate::storage::codec::{self, Mark, Part, decode_part};
use crate::storage::disk::Disk;
use crate::storage::keys;
use crate::storage::store::{Generation, StoreError, decode};
use crate::storage::tables::Batch;

/// Rows and contents in memory before they are committed to the new tables.
const COMMIT_BYTES: usize = 8 << 20;
/// A part longer than this is no part: a session's outcomes, the longest row, stay far below.
const PART_BYTES: usize = 256 << 20;

/// The folder of tables that are not in use yet. It goes with them when they come to nothing,
/// because the disk may be full of them.
#[derive(Debug)]
pub(in crate::storage) struct Beside {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    kept: bool,
}

impl Beside {
    /// The tables are in use now.
    pub(in crate::storage) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.disk.remove_dir_all(&self.dir)
        {
            tracing::debug!(%error, "an unfinished snapshot stays until the next start");
        }
    }
}

/// A snapshot on its way in. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    generation: Generation,
    beside: Beside,
    buffer: BytesMut,
    offset: u64,
    header: Option<(Mark, Digest)>,
    ended: bool,
    rows: u64,
    contents: u64,
    batch: Batch,
    batch_bytes: usize,
}

/// A whole, checked snapshot: [`Store::install`](crate::storage::store::Store::install) makes
/// it the tables in use.
#[derive(Debug)]
pub struct ReadySnapshot {
    pub(in crate::storage) generation: Generation,
    pub(in crate::storage) beside: Beside,
    pub(in crate::storage) state: State,
    pub(in crate::storage) mark: Mark,
}

impl ReadySnapshot {
    /// The last entry in the snapshot.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.mark.applied
    }
}

fn refused<T>(why: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Snapshot(why.into()))
}

impl SnapshotWriter {
    pub(in crate::storage) fn new(generation: Generation, disk: Arc<dyn Disk>) -> SnapshotWriter {
        let beside = Beside { disk, dir: generation.dir.clone(), kept: false };
        SnapshotWriter {
            generation,
            beside,
            buffer: BytesMut::new(),
            offset: 0,
            header: None,
            ended: false,
            rows: 0,
            contents: 0,
            batch: Batch::new(),
            batch_bytes: 0,
        }
    }

    /// Where the next chunk must begin: a stream that broke goes on there.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes a chunk. One that was taken before is passed over; a refused one changes nothing.
    pub fn push(&mut self, chunk: &Chunk) -> Result<(), StoreError> {
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        if end <= self.offset {
            return Ok(());
        }
        if chunk.offset != self.offset {
            return refused(format!(
                "a chunk begins at byte {} and byte {} is next",
                chunk.offset, self.offset
            ));
        }
        if crc32c::crc32c(&chunk.data) != chunk.checksum {
            return refused(format!("the chunk at byte {} is damaged", chunk.offset));
        }
        self.buffer.extend_from_slice(&chunk.data);
        self.offset = end;
        while let Some(part) = self.next_part()? {
            self.take(part)?;
        }
        Ok(())
    }

    fn next_part(&mut self) -> Result<Option<Part>, StoreError> {
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*head) as usize;
        if len > PART_BYTES {
            return refused(format!("a part claims {len} bytes"));
        }
        if self.buffer.len() < 4 + len {
            return Ok(None);
        }
        self.buffer.advance(4);
        let bytes = self.buffer.split_to(len).freeze();
        Ok(Some(decode_part(bytes)?))
    }

    fn take(&mut self, part: Part) -> Result<(), StoreError> {
        if self.ended || self.header.is_none() != matches!(part, Part::Header { .. }) {
            return refused("its parts are out of order");
        }
        match part {
            Part::Header { format, mark, digest } => {
                if format != FORMAT {
                    return refused(format!(
                        "its format is {format}, and this version knows {FORMAT}"
                    ));
                }
                self.header = Some((mark, digest));
            }
            Part::Row { key, value } => {
                decode(&key, &value)?;
                self.rows += 1;
                self.batch_bytes += key.len() + value.len();
                self.batch.push((key.into(), Some(value.into())));
            }
            Part::Content { id, content } => {
                self.contents += 1;
                self.generation.bodies.put(id, content);
            }
            Part::End { rows, contents } => {
                if (rows, contents) != (self.rows, self.contents) {
                    return refused(format!(
                        "it has {} rows and {} contents, and should have {rows} and {contents}",
                        self.rows, self.contents
                    ));
                }
                self.ended = true;
            }
        }
        if self.batch_bytes + self.generation.bodies.held_bytes() >= COMMIT_BYTES {
            self.commit()?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        let mut batch = std::mem::take(&mut self.batch);
        self.batch_bytes = 0;
        let flush = self.generation.bodies.plan(&mut batch, None);
        self.generation.bodies.files().write(&flush)?;
        self.generation.tables.commit(&batch)?;
        self.generation.bodies.committed();
        Ok(())
    }

    /// Ends the taking: everything is durable beside the tables in use, and checked.
    pub fn finish(mut self) -> Result<ReadySnapshot, StoreError> {
        let Some((mark, digest)) = self.header.take().filter(|_| self.ended) else {
            return refused("it ended early");
        };
        if !self.buffer.is_empty() {
            return refused("there are bytes behind its end");
        }
        self.batch.push((vec![keys::MARK_TAG], Some(codec::encode_mark(&mark))));
        self.commit()?;
        let state = self.generation.load()?;
        if state.digest() != digest {
            return refused(format!("its digest is {} and should be {digest}", state.digest()));
        }
        Ok(ReadySnapshot { generation: self.generation, beside: self.beside, state, mark })
    }
}
