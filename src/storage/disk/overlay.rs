//! A disk that lies over another one and keeps in memory all that is written: what opens files
//! in order to mend, settle or repair them can be used for looking at them.
//!
//! Laws: the disk below is read only, never changed; a change is seen by everybody who uses the
//! same overlay and is gone with it. Nothing is ever durable here, and syncs do nothing.
//! Not for large writes: they stay in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Disk, DiskFile, DiskLock, FlushMode, OpenMode};

const PAGE: u64 = 4096;

/// A read-only view of another disk that takes writes.
#[derive(Debug)]
pub struct OverlayDisk {
    below: Arc<dyn Disk>,
    names: Mutex<Names>,
}

#[derive(Debug, Default)]
struct Names {
    /// Opened, made or moved here.
    files: BTreeMap<PathBuf, Arc<OverlayFile>>,
    folders: BTreeSet<PathBuf>,
    /// Removed here, with all below it.
    gone: BTreeSet<PathBuf>,
}

impl Names {
    fn is_gone(&self, path: &Path) -> bool {
        path.ancestors().any(|above| self.gone.contains(above))
    }
}

impl OverlayDisk {
    #[must_use]
    pub fn new(below: Arc<dyn Disk>) -> OverlayDisk {
        OverlayDisk { below, names: Mutex::default() }
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_below(&self, names: &Names, path: &Path) -> bool {
        !names.is_gone(path) && self.below.exists(path)
    }

    /// The file at a path, as it is here; `None` when there is none.
    fn find(&self, names: &mut Names, path: &Path) -> io::Result<Option<Arc<OverlayFile>>> {
        if let Some(file) = names.files.get(path) {
            return Ok(Some(Arc::clone(file)));
        }
        if !self.is_below(names, path) {
            return Ok(None);
        }
        let file = Arc::new(OverlayFile::over(self.below.open(path, OpenMode::Read)?)?);
        names.files.insert(path.to_path_buf(), Arc::clone(&file));
        Ok(Some(file))
    }
}

impl Disk for OverlayDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut names = self.names();
        match (self.find(&mut names, path)?, mode) {
            (Some(_), OpenMode::CreateNew) => Err(io::ErrorKind::AlreadyExists.into()),
            (Some(file), _) => Ok(file),
            (None, OpenMode::Read | OpenMode::ReadWrite) => Err(io::ErrorKind::NotFound.into()),
            (None, OpenMode::CreateNew | OpenMode::OpenOrCreate) => {
                let file = Arc::<OverlayFile>::default();
                names.files.insert(path.to_path_buf(), Arc::clone(&file));
                Ok(file)
            }
        }
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names();
        for above in path.ancestors() {
            names.folders.insert(above.to_path_buf());
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let names = self.names();
        let mut found = BTreeSet::new();
        if self.is_below(&names, path) {
            found.extend(self.below.list(path)?);
            found.retain(|below| !names.is_gone(below));
        } else if !names.folders.contains(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let here = names.files.keys().chain(&names.folders);
        found.extend(here.filter(|here| here.parent() == Some(path)).cloned());
        Ok(found.into_iter().collect())
    }

    fn exists(&self, path: &Path) -> bool {
        let names = self.names();
        names.files.contains_key(path)
            || names.folders.contains(path)
            || self.is_below(&names, path)
    }

    /// Files only: nobody renames folders.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names();
        let file = self.find(&mut names, from)?.ok_or(io::ErrorKind::NotFound)?;
        names.files.remove(from);
        names.gone.insert(from.to_path_buf());
        names.files.insert(to.to_path_buf(), file);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names();
        self.find(&mut names, path)?.ok_or(io::ErrorKind::NotFound)?;
        names.files.remove(path);
        names.gone.insert(path.to_path_buf());
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut names = self.names();
        names.files.retain(|file, _| !file.starts_with(path));
        names.folders.retain(|folder| !folder.starts_with(path));
        names.gone.insert(path.to_path_buf());
        Ok(())
    }

    fn sync_dir(&self, _path: &Path) -> io::Result<()> {
        Ok(())
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.below.free_bytes(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        self.below.lock(path)
    }

    /// No thread may outlive a look.
    fn flush_mode(&self) -> FlushMode {
        FlushMode::Inline
    }

    fn sync_delay(&self) -> Duration {
        Duration::ZERO
    }
}

/// A file of the disk below with the pages that were written since.
#[derive(Debug, Default)]
struct OverlayFile {
    below: Option<Arc<dyn DiskFile>>,
    now: Mutex<Content>,
}

#[derive(Debug, Default)]
struct Content {
    len: u64,
    /// Bytes of the file below that still count.
    below: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl OverlayFile {
    fn over(below: Arc<dyn DiskFile>) -> io::Result<OverlayFile> {
        let len = below.len()?;
        let now = Mutex::new(Content { len, below: len, pages: BTreeMap::new() });
        Ok(OverlayFile { below: Some(below), now })
    }

    fn now(&self) -> MutexGuard<'_, Content> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is below a page: bytes of the file, then zeros.
    fn page_below(&self, now: &Content, number: u64) -> io::Result<Vec<u8>> {
        let mut page = vec![0; PAGE as usize];
        let from = number * PAGE;
        let held = now.below.saturating_sub(from).min(PAGE) as usize;
        if let (Some(file), Some(part)) = (&self.below, page.get_mut(..held))
            && held > 0
        {
            file.read_exact_at(part, from)?;
        }
        Ok(page)
    }

    /// Calls `each` with the part of every page that a range touches, in order.
    fn parts(
        offset: u64,
        length: usize,
        mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let start = (at % PAGE) as usize;
            let some = (length - done).min(PAGE as usize - start);
            each(at / PAGE, start..start + some, done..done + some)?;
            done += some;
        }
        Ok(())
    }
}

impl DiskFile for OverlayFile {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let now = self.now();
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > now.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if now.pages.is_empty() && offset + buf.len() as u64 <= now.below {
            let below = self.below.as_ref().ok_or(io::ErrorKind::UnexpectedEof)?;
            return below.read_exact_at(buf, offset);
        }
        OverlayFile::parts(offset, buf.len(), |number, inside, outside| {
            let own = now.pages.get(&number);
            let made = if own.is_none() { Some(self.page_below(&now, number)?) } else { None };
            let page = own.or(made.as_ref());
            if let (Some(to), Some(from)) =
                (buf.get_mut(outside), page.and_then(|page| page.get(inside)))
            {
                to.copy_from_slice(from);
            }
            Ok(())
        })
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut now = self.now();
        OverlayFile::parts(offset, buf.len(), |number, inside, outside| {
            let some = buf.get(outside).unwrap_or_default();
            let nothing_there = number * PAGE >= now.below && !now.pages.contains_key(&number);
            if nothing_there && some.iter().all(|byte| *byte == 0) {
                return Ok(());
            }
            let made = match now.pages.contains_key(&number) {
                true => None,
                false => Some(self.page_below(&now, number)?),
            };
            let page = now.pages.entry(number).or_insert_with(|| made.unwrap_or_default());
            if let Some(to) = page.get_mut(inside) {
                to.copy_from_slice(some);
            }
            Ok(())
        })?;
        now.len = now.len.max(offset + buf.len() as u64);
        Ok(())
    }

    fn write_vectored_at(&self, bufs: &[&[u8]], mut offset: u64) -> io::Result<()> {
        for buf in bufs {
            self.write_all_at(buf, offset)?;
            offset += buf.len() as u64;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut now = self.now();
        now.pages.retain(|number, _| number * PAGE < len);
        if let Some(page) = now.pages.get_mut(&(len / PAGE))
            && let Some(cut) = page.get_mut((len % PAGE) as usize..)
        {
            cut.fill(0);
        }
        now.below = now.below.min(len);
        now.len = len;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.now().len)
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::faulty::FaultyDisk;
    use proptest::prelude::*;

    fn read(disk: &dyn Disk, path: &str) -> Vec<u8> {
        let file = disk.open(Path::new(path), OpenMode::Read).expect("there");
        let mut bytes = vec![0; file.len().expect("a length") as usize];
        file.read_exact_at(&mut bytes, 0).expect("readable");
        bytes
    }

    fn write(disk: &dyn Disk, path: &str, bytes: &[u8]) {
        let file = disk.open(Path::new(path), OpenMode::OpenOrCreate).expect("a file");
        file.write_all_at(bytes, 0).expect("written");
    }

    #[test]
    fn names_change_above_and_stay_below() {
        let below = FaultyDisk::new(1);
        below.create_dir_all(Path::new("d/old")).expect("folders");
        write(&below, "d/a", b"below");
        write(&below, "d/old/b", b"b");
        let disk = OverlayDisk::new(below.shared());
        write(&disk, "d/a", b"above");
        write(&disk, "d/new", b"new");
        disk.rename(Path::new("d/a"), Path::new("d/c")).expect("renamed");
        disk.remove_dir_all(Path::new("d/old")).expect("removed");
        let listed = disk.list(Path::new("d")).expect("listed");
        assert_eq!(listed, [PathBuf::from("d/c"), PathBuf::from("d/new")]);
        assert_eq!(read(&disk, "d/c"), b"above");
        assert!(!disk.exists(Path::new("d/old/b")) && !disk.exists(Path::new("d/a")));
        disk.remove_file(Path::new("d/c")).expect("removed");
        assert!(disk.open(Path::new("d/c"), OpenMode::Read).is_err());

        let listed = below.list(Path::new("d")).expect("listed");
        assert_eq!(listed, [PathBuf::from("d/a"), PathBuf::from("d/old")]);
        assert_eq!((read(&below, "d/a"), read(&below, "d/old/b")), (b"below".into(), b"b".into()));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(u64, Vec<u8>),
        Cut(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let write = (0u64..12_000, prop::collection::vec(any::<u8>(), 0..9_000));
        let step = prop_oneof![
            write.prop_map(|(at, bytes)| Step::Write(at, bytes)),
            (0u64..20_000).prop_map(Step::Cut),
        ];
        prop::collection::vec(step, 0..12)
    }

    proptest! {
        #[test]
        fn a_file_reads_as_if_it_had_been_written(
            old in prop::collection::vec(1u8.., 0..10_000), steps in steps(),
        ) {
            let below = FaultyDisk::new(1);
            write(&below, "f", &old);
            let disk = OverlayDisk::new(below.shared());
            let file = disk.open(Path::new("f"), OpenMode::ReadWrite).expect("there");
            let mut model = old.clone();
            for step in steps {
                match step {
                    Step::Write(at, bytes) => {
                        file.write_all_at(&bytes, at).expect("written");
                        let end = at as usize + bytes.len();
                        if !bytes.is_empty() || end > model.len() {
                            model.resize(model.len().max(end), 0);
                        }
                        model[at as usize..end].copy_from_slice(&bytes);
                    }
                    Step::Cut(len) => {
                        file.set_len(len).expect("cut");
                        model.resize(len as usize, 0);
                    }
                }
                prop_assert_eq!(&read(&disk, "f"), &model);
            }
            prop_assert_eq!(read(&below, "f"), old);
        }
    }
}
