//! The space on this node's disk, as everybody on the node sees it.
//!
//! Laws: one [`Space`] looks at the disk now and then and moves the [`Stage`]; reading what it
//! saw costs nothing and never waits. Who is about to write more than a little asks for room
//! first, from a thread that may block: what is refused before a byte is written can be tried
//! again, a write that failed half way cannot.
//!
//! A [`Space`] without a reserve refuses nothing: for tests, and for those who set none.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::Disk;
use super::error::StorageError;
use super::reserve::{Reserve, Stage};

/// With less than this many reserves left, everybody is thrifty: commits are small, the log is
/// short and sparse segments are emptied early.
const SCARCE: u64 = 16;

/// What the last look saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub stage: Stage,
    /// Free bytes of the disk.
    pub free_bytes: u64,
    /// Free bytes and the reserve, less what is owed.
    pub left_bytes: u64,
}

/// A handle; all clones are the same space.
#[derive(Clone, Debug, Default)]
pub struct Space(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    reserve: Mutex<Reserve>,
    wanted: u64,
    seen: Mutex<Option<Seen>>,
    /// A fault: the disk counts as if no more than this were free.
    pretended: AtomicU64,
}

impl Space {
    /// The space of the disk that holds `dir`, with a reserve; none for 0 bytes.
    ///
    /// # Errors
    /// When the disk fails; a full one is no error.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        reserve_bytes: u64,
    ) -> Result<Space, StorageError> {
        if reserve_bytes == 0 {
            return Ok(Space::default());
        }
        let reserve = Reserve::open(disk, dir, reserve_bytes)?;
        let inner = Inner {
            wanted: reserve.wanted_bytes(),
            reserve: Mutex::new(reserve),
            seen: Mutex::new(None),
            pretended: AtomicU64::new(u64::MAX),
        };
        Ok(Space(Some(Arc::new(inner))))
    }

    /// Looks at the disk and moves the stage. `owed` bytes must still be written for what was
    /// accepted. It may block.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn observe(&self, owed: u64) -> Result<Stage, StorageError> {
        let Some(inner) = &self.0 else { return Ok(Stage::Ok) };
        let mut reserve = lock(&inner.reserve);
        let free_bytes = reserve.free()?.min(inner.pretended.load(Ordering::Relaxed));
        let left_bytes = free_bytes.saturating_add(reserve.held_bytes()).saturating_sub(owed);
        let stage = reserve.observe(free_bytes, owed)?;
        *lock(&inner.seen) = Some(Seen { stage, free_bytes, left_bytes });
        Ok(stage)
    }

    /// Whether `bytes` can be written now; what the reserve holds is given back for it. It may
    /// block.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn make_room(&self, bytes: u64) -> Result<bool, StorageError> {
        match &self.0 {
            Some(inner) => lock(&inner.reserve).make_room(bytes),
            None => Ok(true),
        }
    }

    /// What the last look saw; `None` before the first, and without a reserve.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        self.0.as_ref().and_then(|inner| *lock(&inner.seen))
    }

    #[must_use]
    pub fn stage(&self) -> Stage {
        self.seen().map_or(Stage::Ok, |seen| seen.stage)
    }

    /// Whether to be thrifty.
    #[must_use]
    pub fn is_scarce(&self) -> bool {
        self.beyond_reserves(SCARCE) == Some(0)
    }

    /// Bytes left beyond so many reserves; `None` when nobody counts them.
    #[must_use]
    pub fn beyond_reserves(&self, reserves: u64) -> Option<u64> {
        let (inner, seen) = (self.0.as_ref()?, self.seen()?);
        Some(seen.left_bytes.saturating_sub(inner.wanted.saturating_mul(reserves)))
    }

    /// Lets the disk count as if no more than this were free; `None` ends that.
    pub fn pretend_free(&self, bytes: Option<u64>) {
        if let Some(inner) = &self.0 {
            inner.pretended.store(bytes.unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::faulty::FaultyDisk;

    fn space(capacity: u64) -> (FaultyDisk, Space) {
        let disk = FaultyDisk::new(1);
        disk.set_capacity(capacity);
        let space = Space::open(disk.shared(), Path::new(""), 1_600).expect("a reserve");
        (disk, space)
    }

    #[test]
    fn it_is_scarce_before_it_is_short() {
        let (disk, space) = space(40_000);
        assert!(!space.is_scarce(), "nobody has looked");
        assert_eq!(space.observe(0).expect("a stage"), Stage::Ok);
        assert!(!space.is_scarce());
        assert_eq!(space.beyond_reserves(2), Some(36_800));
        disk.set_capacity(20_000);
        assert_eq!(space.observe(0).expect("a stage"), Stage::Ok);
        assert!(space.is_scarce());
        assert_eq!(space.observe(19_000).expect("a stage"), Stage::RefuseSends);
        assert_eq!(space.stage(), Stage::RefuseSends);
    }

    #[test]
    fn without_a_reserve_nothing_is_refused_and_nothing_is_made() {
        let disk = FaultyDisk::new(1);
        disk.set_capacity(0);
        let space = Space::open(disk.shared(), Path::new(""), 0).expect("none");
        assert_eq!(space.observe(1).expect("a stage"), Stage::Ok);
        assert!(space.make_room(1 << 30).expect("no question"));
        assert!(!space.is_scarce());
        assert!(!disk.exists(Path::new("reserve")));
    }

    #[test]
    fn a_disk_that_pretends_to_be_full_is_taken_for_full_until_it_stops() {
        let (_disk, space) = space(100_000);
        space.pretend_free(Some(0));
        space.observe(0).expect("a stage");
        space.pretend_free(None);
        assert_eq!(space.observe(0).expect("a stage"), Stage::Ok);
        space.pretend_free(Some(0));
        assert_eq!(space.observe(0).expect("a stage"), Stage::RefuseSends);
        space.pretend_free(None);
        assert_eq!(space.observe(0).expect("a stage"), Stage::Ok);
    }
}
