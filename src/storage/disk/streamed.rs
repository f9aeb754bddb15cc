//! Files that are written in order: past the page cache where the file system allows it.
//!
//! A write that goes through the page cache costs a copy into memory that may have to be found
//! first, and a kernel with large folios (Linux from 6.16 with ext4) writes the whole folio for
//! each small record in it: ten times the bytes were seen (benches/README.md). With `O_DIRECT`
//! the kernel moves whole blocks from our memory to the disk and nothing else.
//!
//! Laws: a write that begins inside a block writes the bytes before it again as they are; the
//! rest of its last block becomes zero, and the file may grow by it, so these files are only
//! written at their end. Reads go through the page cache, which the kernel keeps in step.
//! `sync_data` is still needed: the disk has a cache of its own.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::DiskFile;
use super::real::RealFile;

/// Address, offset and length of a direct write are multiples of this.
const BLOCK: usize = 4 << 10;
/// Gathered before it is written.
const BUFFER: usize = 1 << 20;

thread_local! {
    /// One for each of the few threads that write.
    static GATHERED: RefCell<Aligned> = RefCell::new(Aligned::new());
}

/// Memory that begins at a block's border.
struct Aligned {
    bytes: Vec<u8>,
    shift: usize,
}

impl Aligned {
    fn new() -> Aligned {
        let bytes = vec![0; BUFFER + BLOCK];
        let shift = bytes.as_ptr().align_offset(BLOCK);
        Aligned { bytes, shift }
    }

    fn get(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.shift..self.shift + BUFFER).unwrap_or_default()
    }
}

/// The last block written, when it is not full: the next write begins in it.
#[derive(Debug)]
struct Tail {
    at: Option<u64>,
    block: Box<[u8; BLOCK]>,
}

/// A file around the page cache.
#[derive(Debug)]
pub(super) struct DirectFile {
    writes: File,
    reads: File,
    tail: Mutex<Tail>,
}

impl DirectFile {
    /// `None` where the file system has no direct writes.
    pub fn open(path: &Path) -> io::Result<Option<DirectFile>> {
        let flag = libc::O_DIRECT;
        let writes = match File::options().write(true).custom_flags(flag).open(path) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
            opened => opened?,
        };
        let reads = File::open(path)?;
        let tail = Mutex::new(Tail { at: None, block: Box::new([0; BLOCK]) });
        Ok(Some(DirectFile { writes, reads, tail }))
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `block` with what the file holds at `at`, as far as it goes.
    fn read_block(&self, block: &mut [u8], at: u64) -> io::Result<()> {
        block.fill(0);
        let mut filled = 0;
        while let Some(rest) = block.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.reads.read_at(rest, at + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl DiskFile for DirectFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_vectored_at(&[buf], offset)
    }

    fn write_vectored_at(&self, bufs: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut tail = self.tail();
        GATHERED.with_borrow_mut(|gathered| {
            let gathered = gathered.get();
            let mut at = offset - offset % BLOCK as u64;
            let mut filled = (offset - at) as usize;
            if filled > 0 {
                let (lead, _) = gathered.split_at_mut(BLOCK);
                if tail.at == Some(at) {
                    lead.copy_from_slice(&*tail.block);
                } else {
                    self.read_block(lead, at)?;
                }
            }
            // Until this write has succeeded nothing is known of the block.
            tail.at = None;
            for mut buf in bufs.iter().copied() {
                while !buf.is_empty() {
                    let (_, room) = gathered.split_at_mut(filled);
                    let (now, later) = buf.split_at(buf.len().min(room.len()));
                    room.split_at_mut(now.len()).0.copy_from_slice(now);
                    filled += now.len();
                    buf = later;
                    if filled == gathered.len() {
                        self.writes.write_all_at(gathered, at)?;
                        at += filled as u64;
                        filled = 0;
                    }
                }
            }
            let whole = filled.next_multiple_of(BLOCK);
            let (blocks, _) = gathered.split_at_mut(whole);
            blocks.split_at_mut(filled).1.fill(0);
            self.writes.write_all_at(blocks, at)?;
            if filled < whole {
                let last = whole - BLOCK;
                tail.block.copy_from_slice(blocks.split_at(last).1);
                tail.at = Some(at + last as u64);
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.tail().at = None;
        self.writes.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.writes.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.writes.sync_data()
    }
}

/// Where direct writes are not to be had: through the page cache, one page at a time, so that it
/// keeps small folios.
#[derive(Debug)]
pub(super) struct PagedFile(pub RealFile);

impl DiskFile for PagedFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.write_vectored_at(&[buf], offset)
    }

    fn write_vectored_at(&self, bufs: &[&[u8]], mut offset: u64) -> io::Result<()> {
        let mut page = Vec::with_capacity(BLOCK);
        for mut rest in bufs.iter().copied() {
            while !rest.is_empty() {
                let to_border = BLOCK - (offset % BLOCK as u64) as usize - page.len();
                let (now, later) = rest.split_at(rest.len().min(to_border));
                page.extend_from_slice(now);
                rest = later;
                if now.len() == to_border {
                    self.0.write_all_at(&page, offset)?;
                    offset += page.len() as u64;
                    page.clear();
                }
            }
        }
        self.0.write_all_at(&page, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::storage::disk::real::{RealDisk, open};
    use crate::storage::disk::{Disk, OpenMode};

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn what_is_appended_is_read_whatever_the_pieces(
            pieces in prop::collection::vec(
                (prop::collection::vec(0usize..9_000, 0..4), any::<bool>()), 1..12),
            begin in 0u64..9_000,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("file");
            RealDisk.open(&path, OpenMode::CreateNew).expect("a file").set_len(begin).expect("cut");
            let open = || RealDisk.open_streamed(&path, OpenMode::ReadWrite).expect("opened");
            let mut file = open();
            let mut expected = vec![0; begin as usize];
            for (lengths, again) in pieces {
                let bufs: Vec<Vec<u8>> = lengths
                    .iter()
                    .map(|len| (0..*len).map(|n| (n * 7 + expected.len()) as u8).collect())
                    .collect();
                let slices: Vec<&[u8]> = bufs.iter().map(Vec::as_slice).collect();
                file.write_vectored_at(&slices, expected.len() as u64).expect("written");
                expected.extend(bufs.concat());
                if again {
                    file = open();
                }
            }
            file.sync_data().expect("synced");
            let mut found = vec![1; expected.len()];
            file.read_exact_at(&mut found, 0).expect("all of it");
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn more_than_the_buffer_is_written_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let file = RealDisk.open_streamed(&path, OpenMode::OpenOrCreate).expect("a file");
        let long: Vec<u8> = (0..2 * BUFFER + 777).map(|n| (n % 251) as u8).collect();
        file.write_all_at(b"head", 0).expect("written");
        file.write_all_at(&long, 4).expect("written");
        let mut found = vec![0; long.len()];
        file.read_exact_at(&mut found, 4).expect("all of it");
        assert_eq!(found, long);
        let mut head = [0; 4];
        file.read_exact_at(&mut head, 0).expect("the beginning");
        assert_eq!(&head, b"head");
    }

    #[test]
    fn pages_land_one_after_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let file = PagedFile(open(&path, OpenMode::CreateNew).expect("a file"));
        let long: Vec<u8> = (0..30_000).map(|n| (n % 251) as u8).collect();
        file.write_vectored_at(&[&long[..5_000], &[], &long[5_000..]], 100).expect("written");
        let mut found = vec![0; long.len()];
        file.read_exact_at(&mut found, 100).expect("all of it");
        assert_eq!(found, long);
    }
}
