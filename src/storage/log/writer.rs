//! The one hand that writes the log: records, new segments, spare segments.
//!
//! Laws: a record is one write and one fdatasync. A segment gets its name after its header is
//! durable, and its first record after its name is. A spare is written full of zeros before it
//! is used, so that later fsyncs change no metadata; it is made in steps between flushes. After
//! any error the writer must not be used again.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::record::{self, Header, Kind, first_seed};
use super::rewrite::{self, Filling};
use super::scan::{Scan, Scanned, read_file, read_header, scan};
use super::segment::{
    HeaderFound, Run, SEGMENT_HEADER, Segment, SegmentHeader, segment_path, spare_number,
    spare_path,
};
use super::{LogEntry, LogOptions};
use crate::mutants;
use crate::queue::ids::Position;
use crate::storage::disk::{Disk, DiskFile, OpenMode};
use crate::storage::error::{StorageError, during};
use crate::storage::heard;
use crate::storage::mend::{Hole, Trouble};
use crate::storage::vote::VoteFile;

/// Zeros written in one step of making a spare.
const STEP: u64 = 1 << 20;
/// The end of a segment that only truncations and purges use when there is no spare.
const KEPT_BYTES: u64 = 64 << 10;

#[derive(Debug)]
pub(super) struct Writer {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub vote: VoteFile,
    options: LogOptions,
    active: Arc<Segment>,
    offset: u64,
    seed: u32,
    /// As the records written so far tell it.
    pub last: Option<Position>,
    pub purged: Option<Position>,
    spares: VecDeque<PathBuf>,
    next_spare: u64,
    making: Option<Making>,
    /// A purge has given a segment back.
    returns: bool,
    /// The disk was full when a spare was made; asked again after a purge.
    no_space: bool,
}

#[derive(Debug)]
struct Making {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    written: u64,
}

/// Where a record of entries went.
#[derive(Debug)]
pub(super) struct Placed {
    pub run: Option<Run>,
    /// Set when the record opened a segment.
    pub opened: Option<Arc<Segment>>,
}

/// What opening gives to the log beside the writer.
#[derive(Debug)]
pub(super) struct Opened {
    pub scan: Scan,
    pub segments: Vec<Arc<Segment>>,
    pub heard: Option<Bytes>,
}

impl Writer {
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: LogOptions,
    ) -> Result<(Writer, Opened), StorageError> {
        disk.create_dir_all(dir).map_err(during("create", dir))?;
        let vote = VoteFile::open(disk.as_ref(), dir)?;
        let heard = heard::load(disk.as_ref(), dir)?;
        let mut found = scan(disk.as_ref(), dir)?;
        let (mut spares, mut next_spare) = find_spares(disk.as_ref(), dir, &options)?;
        for leftover in std::mem::take(&mut found.leftovers) {
            let spare = spare_path(dir, next_spare);
            disk.rename(&leftover, &spare).map_err(during("rename", &leftover))?;
            sync_names(disk.as_ref(), dir)?;
            next_spare += 1;
            spares.push_back(spare);
        }
        let mut segments = open_segments(disk.as_ref(), &found)?;
        let (active, offset, seed) = match (segments.last(), found.segments.last()) {
            (Some(active), Some(tail)) => (Arc::clone(active), tail.end, tail.seed),
            _ => {
                let header = SegmentHeader {
                    number: 1,
                    generation: generation(options.seed, 1, 0),
                    before: None,
                    purged: None,
                    committed: None,
                };
                let first = new_segment(disk.as_ref(), dir, &header, options.segment_bytes)?;
                segments.push(Arc::clone(&first));
                (first, SEGMENT_HEADER, first_seed(1, header.generation))
            }
        };
        let (last, purged) = (found.replay.last, found.replay.purged);
        let mut writer = Writer {
            disk,
            dir: dir.to_path_buf(),
            vote,
            options,
            active,
            offset,
            seed,
            last,
            purged,
            spares,
            next_spare,
            making: None,
            returns: false,
            no_space: false,
        };
        if found.trouble.iter().any(|trouble| matches!(trouble, Trouble::Torn { .. })) {
            writer.wipe_tail()?;
        }
        Ok((writer, Opened { scan: found, segments, heard }))
    }

    /// Makes sure that nothing at the end can be taken for a record.
    fn wipe_tail(&mut self) -> Result<(), StorageError> {
        let path = &self.active.path;
        let zeros = [0; record::HEADER];
        self.active.file.write_all_at(&zeros, self.offset).map_err(during("write", path))?;
        self.active.file.sync_data().map_err(during("sync", path))
    }

    /// Bytes that records may take without new space on the disk.
    pub fn room(&self) -> u64 {
        let spares = self.spares.len() as u64 * (self.options.segment_bytes - SEGMENT_HEADER);
        self.active.len().saturating_sub(self.offset) + spares
    }

    /// Whether entries of so many bytes can be written: they fit in the segment, or there is
    /// another to go on in. Makes that if it must, and one that takes an entry larger than a
    /// usual segment longer than usual. The end of the segment is left to the records that give
    /// space back.
    ///
    /// # Errors
    /// When the disk fails; a full one is no error.
    pub fn make_room(&mut self, bytes: u64) -> Result<bool, StorageError> {
        let kept = kept_bytes(self.active.len());
        if self.offset.saturating_add(bytes).saturating_add(kept) <= self.active.len() {
            return Ok(true);
        }
        let needed = SEGMENT_HEADER.saturating_add(bytes).saturating_add(KEPT_BYTES);
        if self.offset == SEGMENT_HEADER {
            let active = Arc::clone(&self.active);
            let has = self.lengthen(&*active.file, &active.path, active.len(), needed)?;
            if has {
                active.set_len(needed);
            }
            return Ok(has);
        }
        while self.spares.is_empty() {
            self.no_space = false;
            self.prepare_step()?;
            if self.no_space {
                return Ok(false);
            }
        }
        let usual = self.options.segment_bytes;
        if bytes <= entry_bytes(usual) {
            return Ok(true);
        }
        let Some(spare) = self.spares.front().cloned() else { return Ok(false) };
        let open = self.disk.open_streamed(&spare, OpenMode::ReadWrite);
        let file = open.map_err(during("open", &spare))?;
        self.lengthen(&*file, &spare, usual, needed)
    }

    /// Writes a file on with zeros; false when the disk has no space for that.
    fn lengthen(
        &self,
        file: &dyn DiskFile,
        path: &Path,
        from: u64,
        to: u64,
    ) -> Result<bool, StorageError> {
        let more = to.saturating_sub(from);
        let free = self.disk.free_bytes(&self.dir);
        if free.map_err(during("measure the space of", &self.dir))? < more + more / 8 {
            return Ok(false);
        }
        let written = write_zeros(file, from, more).map_err(during("write", path));
        let synced = written.and_then(|()| file.sync_data().map_err(during("sync", path)));
        match synced {
            Ok(()) => Ok(true),
            Err(StorageError::Full { .. }) => {
                file.set_len(from).map_err(during("cut", path))?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    pub fn active(&self) -> u64 {
        self.active.number
    }

    /// One record, one write, one fsync.
    pub fn write(
        &mut self,
        kind: Kind,
        entries: &[LogEntry],
        last: Option<Position>,
        purged: Option<Position>,
        committed: Option<Position>,
    ) -> Result<Placed, StorageError> {
        let mut header = Header {
            kind,
            segment: self.active.number,
            generation: self.active.generation,
            seed: self.seed,
            count: 0,
            payload: 0,
            before: self.last,
            last,
            purged,
            // Never beyond what the log holds after this record.
            committed: committed.filter(|c| last.is_some_and(|last| c.index <= last.index)),
        };
        let mut encoded = record::encode(header, entries);
        let mut opened = None;
        let fits = self.offset + encoded.len <= self.active.len();
        if !fits && self.offset > SEGMENT_HEADER {
            self.rotate(committed)?;
            opened = Some(Arc::clone(&self.active));
            header.segment = self.active.number;
            header.generation = self.active.generation;
            header.seed = self.seed;
            encoded = record::encode(header, entries);
        }
        let path = &self.active.path;
        let file = &self.active.file;
        file.write_vectored_at(&encoded.slices(), self.offset).map_err(during("write", path))?;
        if !mutants::is_chosen("no-fsync") {
            file.sync_data().map_err(during("sync", path))?;
        }
        let run = entries.first().map(|first| Run {
            first: first.position.index,
            last: first.position.index + entries.len() as u64 - 1,
            segment: self.active.number,
            offset: self.offset,
            end: self.offset + encoded.len,
        });
        self.offset += encoded.len;
        self.seed = encoded.checksum;
        self.last = last;
        self.purged = purged;
        Ok(Placed { run, opened })
    }

    fn rotate(&mut self, committed: Option<Position>) -> Result<(), StorageError> {
        while self.spares.is_empty() {
            self.no_space = false;
            self.prepare_step()?;
            if self.no_space {
                let source = io::Error::from(io::ErrorKind::StorageFull);
                return Err(StorageError::io("make a segment in", &self.dir, source));
            }
        }
        let Some(spare) = self.spares.pop_front() else { return Err(StorageError::Closed) };
        let number = self.active.number + 1;
        let header = SegmentHeader {
            number,
            generation: generation(self.options.seed, number, self.active.generation),
            before: self.last,
            purged: self.purged,
            committed,
        };
        self.active = name_segment(self.disk.as_ref(), &self.dir, &spare, &header)?;
        self.offset = SEGMENT_HEADER;
        self.seed = first_seed(number, header.generation);
        Ok(())
    }

    /// Forgets that the disk was full.
    pub fn try_again(&mut self) {
        self.no_space = false;
    }

    /// Whether a spare is missing that could be made. Where purges give segments back, all but
    /// the last are waited for: a new one costs as many bytes of the disk as it will hold records.
    pub fn wants_spare(&self) -> bool {
        let wanted = if self.returns { 1 } else { self.options.spares.max(1) };
        !self.no_space && self.spares.len() < wanted
    }

    /// Writes some zeros of the next spare. A full disk is no error here.
    pub fn prepare_step(&mut self) -> Result<(), StorageError> {
        match self.step() {
            Err(StorageError::Full { .. }) => {
                self.no_space = true;
                if let Some(making) = self.making.take() {
                    let path = &making.path;
                    self.disk.remove_file(path).map_err(during("remove", path))?;
                }
                Ok(())
            }
            done => done,
        }
    }

    fn step(&mut self) -> Result<(), StorageError> {
        let total = self.options.segment_bytes;
        if self.making.is_none() {
            let free = self.disk.free_bytes(&self.dir);
            if free.map_err(during("measure the space of", &self.dir))? < total + total / 8 {
                // Trying would take the last space from those who write beside this.
                let source = io::Error::from(io::ErrorKind::StorageFull);
                return Err(StorageError::io("make a segment in", &self.dir, source));
            }
            let path = self.dir.join("segment.tmp");
            let file = self
                .disk
                .open_streamed(&path, OpenMode::OpenOrCreate)
                .map_err(during("create", &path))?;
            self.making = Some(Making { path, file, written: 0 });
        }
        let Some(making) = &mut self.making else { return Ok(()) };
        let path = &making.path;
        let length = STEP.min(total - making.written);
        write_zeros(&*making.file, making.written, length).map_err(during("write", path))?;
        making.written += length;
        if making.written < total {
            return Ok(());
        }
        making.file.sync_data().map_err(during("sync", path))?;
        let spare = spare_path(&self.dir, self.next_spare);
        self.disk.rename(path, &spare).map_err(during("rename", path))?;
        sync_names(self.disk.as_ref(), &self.dir)?;
        self.next_spare += 1;
        self.spares.push_back(spare);
        self.making = None;
        Ok(())
    }

    /// Recycles or deletes segments that a durable purge freed, oldest first. A file that a
    /// reader still holds is deleted, so that the reader keeps its bytes.
    pub fn retire(&mut self, segments: Vec<Arc<Segment>>) -> Result<(), StorageError> {
        if segments.is_empty() {
            return Ok(());
        }
        self.no_space = false;
        self.returns = true;
        // One more than is made ahead: how many a purge gives back at once goes up and down.
        let most = self.options.spares.max(1) + 1;
        for segment in segments {
            let path = segment.path.clone();
            let whole = segment.len() == self.options.segment_bytes;
            let unread = Arc::strong_count(&segment) == 1;
            if whole && unread && self.spares.len() < most {
                let spare = spare_path(&self.dir, self.next_spare);
                self.disk.rename(&path, &spare).map_err(during("rename", &path))?;
                self.next_spare += 1;
                self.spares.push_back(spare);
            } else {
                self.disk.remove_file(&path).map_err(during("remove", &path))?;
            }
        }
        sync_names(self.disk.as_ref(), &self.dir)
    }

    /// Fills a hole, or lets it go: writes its segment anew beside the old one and renames. Other
    /// holes of the segment stay holes.
    pub fn fill(
        &self,
        segment: &Scanned,
        hole: &Hole,
        filling: &Filling,
    ) -> Result<(), StorageError> {
        let old = read_file(self.disk.as_ref(), &segment.path)?;
        let generation = generation(self.options.seed, segment.number, !segment.header.generation);
        let header = SegmentHeader { generation, ..segment.header };
        let mut bytes = rewrite::fill(header, segment, &old, hole, filling)?;
        bytes.resize(bytes.len().max(self.options.segment_bytes as usize), 0);
        let beside = self.dir.join("mend.tmp");
        let file = self
            .disk
            .open_streamed(&beside, OpenMode::OpenOrCreate)
            .map_err(during("create", &beside))?;
        file.set_len(0).map_err(during("cut", &beside))?;
        let written = file.write_all_at(&bytes, 0).map_err(during("write", &beside));
        let synced = written.and_then(|()| file.sync_data().map_err(during("sync", &beside)));
        if let Err(full @ StorageError::Full { .. }) = synced {
            // What was written takes space that others wait for.
            self.disk.remove_file(&beside).map_err(during("remove", &beside))?;
            return Err(full);
        }
        synced?;
        self.disk.rename(&beside, &segment.path).map_err(during("rename", &beside))?;
        sync_names(self.disk.as_ref(), &self.dir)
    }

    /// Cuts the record in doubt, which is the last.
    pub fn cut_tail(&mut self) -> Result<(), StorageError> {
        self.wipe_tail()
    }

    /// Opens anew what is on the disk, after a mend.
    pub fn reopen(&self) -> Result<(Writer, Opened), StorageError> {
        Writer::open(Arc::clone(&self.disk), &self.dir, self.options.clone())
    }
}

/// What a segment of this length takes of entries.
pub(super) fn entry_bytes(len: u64) -> u64 {
    len.saturating_sub(SEGMENT_HEADER + kept_bytes(len))
}

/// The end of a segment of this length that is not for entries.
fn kept_bytes(len: u64) -> u64 {
    KEPT_BYTES.min(len / 16)
}

/// Every life of a file has its own generation, so that no old record fits a new chain.
fn generation(seed: u64, number: u64, before: u64) -> u64 {
    let mut z = seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ before.rotate_left(17);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)).max(1)
}

/// Spares of the right size; other remains of earlier runs are removed.
fn find_spares(
    disk: &dyn Disk,
    dir: &Path,
    options: &LogOptions,
) -> Result<(VecDeque<PathBuf>, u64), StorageError> {
    let mut spares = VecDeque::new();
    let mut next = 0;
    for path in disk.list(dir).map_err(during("list", dir))? {
        if let Some(number) = spare_number(&path) {
            next = next.max(number + 1);
            let file = disk.open(&path, OpenMode::Read).map_err(during("open", &path))?;
            let len = file.len().map_err(during("measure", &path))?;
            if len == options.segment_bytes {
                spares.push_back(path);
                continue;
            }
        } else if path.extension().is_none_or(|extension| extension != "tmp") {
            continue;
        }
        disk.remove_file(&path).map_err(during("remove", &path))?;
    }
    Ok((spares, next))
}

fn open_segments(disk: &dyn Disk, found: &Scan) -> Result<Vec<Arc<Segment>>, StorageError> {
    let mut segments = Vec::with_capacity(found.segments.len());
    for one in &found.segments {
        let path = one.path.clone();
        let file = disk.open_streamed(&path, OpenMode::ReadWrite).map_err(during("open", &path))?;
        if read_header(disk, &path)? == HeaderFound::Bad {
            // It rotted; what it said is known from the records.
            file.write_all_at(&one.header.encode(), 0).map_err(during("write", &path))?;
            file.sync_data().map_err(during("sync", &path))?;
        }
        let (number, generation, len) = (one.number, one.header.generation, one.len);
        segments.push(Arc::new(Segment::new(number, generation, path, file, len)));
    }
    Ok(segments)
}

fn write_zeros(file: &dyn DiskFile, from: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; STEP.min(len) as usize];
    let mut written = 0;
    while written < len {
        let some = STEP.min(len - written) as usize;
        file.write_all_at(zeros.get(..some).unwrap_or_default(), from + written)?;
        written += some as u64;
    }
    Ok(())
}

/// Makes a segment without a spare: the first of a log.
fn new_segment(
    disk: &dyn Disk,
    dir: &Path,
    header: &SegmentHeader,
    len: u64,
) -> Result<Arc<Segment>, StorageError> {
    let path = dir.join("first.tmp");
    let file =
        disk.open_streamed(&path, OpenMode::OpenOrCreate).map_err(during("create", &path))?;
    write_zeros(&*file, 0, len).map_err(during("write", &path))?;
    drop(file);
    name_segment(disk, dir, &path, header)
}

/// Makes the names in the log's folder durable.
fn sync_names(disk: &dyn Disk, dir: &Path) -> Result<(), StorageError> {
    if mutants::is_chosen("no-directory-fsync") {
        return Ok(());
    }
    disk.sync_dir(dir).map_err(during("sync", dir))
}

/// Header, fsync, rename, fsync of the folder: only then may a record follow.
fn name_segment(
    disk: &dyn Disk,
    dir: &Path,
    from: &Path,
    header: &SegmentHeader,
) -> Result<Arc<Segment>, StorageError> {
    let file = disk.open_streamed(from, OpenMode::ReadWrite).map_err(during("open", from))?;
    file.write_all_at(&header.encode(), 0).map_err(during("write", from))?;
    file.sync_data().map_err(during("sync", from))?;
    let path = segment_path(dir, header.number);
    disk.rename(from, &path).map_err(during("rename", from))?;
    sync_names(disk, dir)?;
    let len = file.len().map_err(during("measure", &path))?;
    let (number, generation) = (header.number, header.generation);
    Ok(Arc::new(Segment::new(number, generation, path, file, len)))
}
