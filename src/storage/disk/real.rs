//! The machine's disk: positioned reads and writes, fdatasync, a lock per folder.
//!
//! Partial transfers and interrupted calls are finished here; everything else is the caller's
//! to judge. Nothing is retried after a failed fsync.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::streamed::{DirectFile, PagedFile};
use super::{Disk, DiskFile, DiskLock, FlushMode, OpenMode};

/// Slices in one `pwritev`; the kernel takes at most 1,024.
const MAX_SLICES: usize = 1024;

/// The file that a lock is taken on.
const LOCK_FILE: &str = "LOCK";

#[derive(Debug, Clone, Copy, Default)]
pub struct RealDisk;

#[derive(Debug)]
pub(super) struct RealFile {
    file: File,
}

/// The kernel drops the lock with the descriptor, also when the process dies.
#[derive(Debug)]
struct RealLock {
    _file: File,
}

impl DiskLock for RealLock {}

impl DiskFile for RealFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn write_vectored_at(&self, bufs: &[&[u8]], mut offset: u64) -> io::Result<()> {
        for some in bufs.chunks(MAX_SLICES) {
            let mut slices: Vec<IoSlice<'_>> = some.iter().map(|buf| IoSlice::new(buf)).collect();
            let mut rest = slices.as_mut_slice();
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                match rustix::io::pwritev(&self.file, rest, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(written) => {
                        offset += written as u64;
                        IoSlice::advance_slices(&mut rest, written);
                    }
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(open(path, mode)?))
    }

    fn open_streamed(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = open(path, mode)?;
        Ok(match DirectFile::open(path)? {
            Some(direct) => Arc::new(direct),
            None => Arc::new(PagedFile(file)),
        })
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            self.create_dir_all(parent)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            made => made?,
        }
        self.sync_dir(path)?;
        self.sync_dir(parent_of(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut paths = fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<PathBuf>>>()?;
        paths.sort();
        Ok(paths)
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))?;
        rustix::fs::flock(file.as_fd(), rustix::fs::FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(RealLock { _file: file }))
    }

    fn flush_mode(&self) -> FlushMode {
        FlushMode::Threads
    }

    fn sync_delay(&self) -> Duration {
        Duration::ZERO
    }
}

pub(super) fn open(path: &Path, mode: OpenMode) -> io::Result<RealFile> {
    let mut options = OpenOptions::new();
    options.read(true).mode(0o600);
    match mode {
        OpenMode::Read => &mut options,
        OpenMode::ReadWrite => options.write(true),
        OpenMode::CreateNew => options.write(true).create_new(true),
        OpenMode::OpenOrCreate => options.write(true).create(true).truncate(false),
    };
    Ok(RealFile { file: options.open(path)? })
}

/// The folder that names `path`; a bare name is in the working directory.
fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_slices_land_one_after_another() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/b/file");
        RealDisk.create_dir_all(path.parent().expect("a parent")).expect("folders");
        let file = RealDisk.open(&path, OpenMode::CreateNew).expect("a new file");
        let slices: Vec<[u8; 3]> = (0..3000u32).map(|n| [n as u8, (n >> 8) as u8, 7]).collect();
        let mut bufs: Vec<&[u8]> = slices.iter().map(|slice| slice.as_slice()).collect();
        bufs.insert(1, &[]);
        bufs.push(&[]);
        file.write_vectored_at(&bufs, 5).expect("a write");
        file.sync_data().expect("a sync");
        let mut read = vec![0; 9000];
        file.read_exact_at(&mut read, 5).expect("all of it");
        assert_eq!(read, slices.concat());
        assert_eq!(file.len().expect("a length"), 9005);
        assert_eq!(
            file.read_exact_at(&mut [0; 2], 9004).map_err(|error| error.kind()),
            Err(io::ErrorKind::UnexpectedEof)
        );
    }

    #[test]
    fn a_folder_is_locked_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = RealDisk.lock(folder.path()).expect("a lock");
        let second = RealDisk.lock(folder.path()).map(|_| ()).map_err(|error| error.kind());
        assert_eq!(second, Err(io::ErrorKind::WouldBlock));
        drop(held);
        assert!(RealDisk.lock(folder.path()).is_ok(), "free again");
        assert!(RealDisk.free_bytes(folder.path()).expect("a figure") > 0);
    }
}
