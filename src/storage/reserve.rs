//! Space kept for the moment when the disk is full: what is refused when, and the file that
//! holds the space.
//!
//! Law: sends stop first, then receives, then deletes; the last part is for elections, table
//! commits and copying bodies forward, which give space back. A stage is left only when there
//! is clearly more space than it needs, so that it does not flap.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, OpenMode};
use super::error::{StorageError, during};

/// What is refused, from nothing to everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    #[default]
    Ok,
    RefuseSends,
    RefuseReceives,
    RefuseDeletes,
    Emergency,
}

impl Stage {
    /// All, by number.
    pub const ALL: [Stage; 5] = [
        Stage::Ok,
        Stage::RefuseSends,
        Stage::RefuseReceives,
        Stage::RefuseDeletes,
        Stage::Emergency,
    ];

    /// The stage in one word, as metrics name it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Stage::Ok => "ok",
            Stage::RefuseSends => "refuse_sends",
            Stage::RefuseReceives => "refuse_receives",
            Stage::RefuseDeletes => "refuse_deletes",
            Stage::Emergency => "emergency",
        }
    }

    /// What is refused, in words; `ok` for nothing.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stage::Ok => "ok",
            Stage::RefuseSends => "refuses sends",
            Stage::RefuseReceives => "refuses sends and receives",
            Stage::RefuseDeletes => "refuses sends, receives and deletes",
            Stage::Emergency => "refuses everything",
        }
    }

    /// The stage with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Stage> {
        Stage::ALL.get(usize::from(number)).copied()
    }
}

/// Written at once when the file is filled.
const STEP: u64 = 1 << 20;
/// Written by one look, so that filling the reserve is hardly felt by the log beside it.
const FILL_BYTES: u64 = 2 << 20;

/// The stage for what is left: free bytes and what the reserve still holds, together, less what
/// was promised to the disk already.
#[must_use]
pub fn stage(now: Stage, left_bytes: u64, reserve_bytes: u64) -> Stage {
    let needs = [
        (Stage::Emergency, reserve_bytes / 8),
        (Stage::RefuseDeletes, reserve_bytes / 4),
        (Stage::RefuseReceives, reserve_bytes / 2),
        (Stage::RefuseSends, reserve_bytes),
    ];
    for (stage, at_most) in needs {
        // Leaving a stage takes a sixteenth of the reserve more than entering it.
        let margin = if now >= stage { reserve_bytes / 16 } else { 0 };
        if left_bytes <= at_most.saturating_add(margin) {
            return stage;
        }
    }
    Stage::Ok
}

/// The file that holds the space.
#[derive(Debug)]
pub struct Reserve {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    wanted: u64,
    held: u64,
    stage: Stage,
}

impl Reserve {
    /// Opens or makes the reserve in `dir`; [`Reserve::observe`] fills it by and by.
    ///
    /// # Errors
    /// When the disk fails; a full one is no error.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        wanted_bytes: u64,
    ) -> Result<Reserve, StorageError> {
        let path = dir.join("reserve");
        let file = disk.open(&path, OpenMode::OpenOrCreate).map_err(during("open", &path))?;
        let held = file.len().map_err(during("measure", &path))?;
        let dir = dir.to_path_buf();
        let mut reserve =
            Reserve { disk, dir, path, file, wanted: wanted_bytes, held, stage: Stage::Ok };
        if held > wanted_bytes {
            reserve.release(wanted_bytes)?;
        }
        reserve.disk.sync_dir(&reserve.dir).map_err(during("sync", &reserve.dir))?;
        Ok(reserve)
    }

    /// Moves the stage by what is `free` on the disk and `owed` to it: bytes that must still be
    /// written for what was accepted. Gives space back when it is short, and takes it again,
    /// some at each look, when that is over.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn observe(&mut self, free: u64, owed: u64) -> Result<Stage, StorageError> {
        let left = free.saturating_add(self.held).saturating_sub(owed);
        self.stage = stage(self.stage, left, self.wanted);
        match self.stage {
            Stage::Ok => self.fill()?,
            Stage::RefuseSends => {}
            // What stays for later stages is kept; the rest is for those who still may write.
            Stage::RefuseReceives => self.release(self.wanted / 2)?,
            Stage::RefuseDeletes => self.release(self.wanted / 4)?,
            Stage::Emergency => self.release(0)?,
        }
        Ok(self.stage)
    }

    /// Whether `bytes` can be written now; gives back as much of the reserve as that takes.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn make_room(&mut self, bytes: u64) -> Result<bool, StorageError> {
        let free = self.free()?;
        if free >= bytes {
            return Ok(true);
        }
        let missing = bytes - free;
        if missing > self.held {
            return Ok(false);
        }
        self.release(self.held - missing)?;
        Ok(self.free()? >= bytes)
    }

    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        self.held
    }

    #[must_use]
    pub fn wanted_bytes(&self) -> u64 {
        self.wanted
    }

    /// Free bytes on the disk that holds the reserve.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn free(&self) -> Result<u64, StorageError> {
        self.disk.free_bytes(&self.dir).map_err(during("measure the space of", &self.dir))
    }

    fn release(&mut self, keep: u64) -> Result<(), StorageError> {
        if self.held > keep {
            self.file.set_len(keep).map_err(during("cut", &self.path))?;
            self.file.sync_data().map_err(during("sync", &self.path))?;
            self.held = keep;
        }
        Ok(())
    }

    fn fill(&mut self) -> Result<(), StorageError> {
        if self.held >= self.wanted {
            return Ok(());
        }
        let until = self.wanted.min(self.held.saturating_add(FILL_BYTES));
        while self.held < until {
            let length = STEP.min(until - self.held);
            let zeros = vec![0; length as usize];
            match self.file.write_all_at(&zeros, self.held).map_err(during("fill", &self.path)) {
                Ok(()) => self.held += length,
                Err(StorageError::Full { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        self.file.sync_data().map_err(during("sync", &self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::faulty::FaultyDisk;

    #[test]
    fn stages_follow_each_other_as_the_space_goes() {
        let reserve = 1600;
        let at = |left| stage(Stage::Ok, left, reserve);
        assert_eq!(at(1601), Stage::Ok);
        assert_eq!((at(1600), at(801)), (Stage::RefuseSends, Stage::RefuseSends));
        assert_eq!((at(800), at(401)), (Stage::RefuseReceives, Stage::RefuseReceives));
        assert_eq!((at(400), at(201)), (Stage::RefuseDeletes, Stage::RefuseDeletes));
        assert_eq!((at(200), at(0)), (Stage::Emergency, Stage::Emergency));
    }

    #[test]
    fn a_stage_is_left_with_some_space_to_spare() {
        assert_eq!(stage(Stage::RefuseSends, 1650, 1600), Stage::RefuseSends);
        assert_eq!(stage(Stage::RefuseSends, 1701, 1600), Stage::Ok);
        assert_eq!(stage(Stage::Emergency, 10_000, 1600), Stage::Ok);
    }

    fn observed(reserve: &mut Reserve) -> Stage {
        let free = reserve.free().expect("a figure");
        reserve.observe(free, 0).expect("a stage")
    }

    #[test]
    fn what_is_owed_counts_as_written_already() {
        let disk = FaultyDisk::new(1);
        disk.set_capacity(10_000);
        let mut reserve = Reserve::open(disk.shared(), Path::new(""), 1600).expect("a reserve");
        assert_eq!(observed(&mut reserve), Stage::Ok);
        let free = reserve.free().expect("a figure");
        assert_eq!(reserve.observe(free, 8_000).expect("a stage"), Stage::Ok);
        assert_eq!(reserve.observe(free, 8_400).expect("a stage"), Stage::RefuseSends);
        assert_eq!(reserve.observe(free, 9_999).expect("a stage"), Stage::Emergency);
    }

    #[test]
    fn room_is_made_out_of_the_reserve_as_far_as_it_goes() {
        let disk = FaultyDisk::new(1);
        disk.set_capacity(2_000);
        let mut reserve = Reserve::open(disk.shared(), Path::new(""), 1600).expect("a reserve");
        observed(&mut reserve);
        assert_eq!(reserve.held_bytes(), 1600);
        assert!(reserve.make_room(400).expect("a figure"));
        assert_eq!(reserve.held_bytes(), 1600, "there was room");
        assert!(!reserve.make_room(2_001).expect("a figure"));
        assert_eq!(reserve.held_bytes(), 1600, "it would not have been enough");
        assert!(reserve.make_room(1_000).expect("a figure"));
        assert_eq!((reserve.held_bytes(), reserve.free().expect("a figure")), (1_000, 1_000));
    }

    #[test]
    fn a_large_reserve_is_filled_by_and_by() {
        let disk = FaultyDisk::new(1);
        let mut reserve = Reserve::open(disk.shared(), Path::new(""), 5 << 20).expect("a reserve");
        let held: Vec<u64> = (0..4)
            .map(|_| {
                observed(&mut reserve);
                reserve.held_bytes() >> 20
            })
            .collect();
        assert_eq!(held, [2, 4, 5, 5]);
    }

    #[test]
    fn the_reserve_gives_space_when_the_disk_is_full_and_takes_it_again() {
        let disk = FaultyDisk::new(1);
        disk.set_capacity(10_000);
        let mut reserve = Reserve::open(disk.shared(), Path::new(""), 1600).expect("a reserve");
        assert_eq!(observed(&mut reserve), Stage::Ok);
        assert_eq!((reserve.stage(), reserve.held_bytes()), (Stage::Ok, 1600));
        let other = disk.open(Path::new("data"), OpenMode::CreateNew).expect("a file");
        other.write_all_at(&vec![1; 8400], 0).expect("fits");
        assert_eq!(observed(&mut reserve), Stage::RefuseSends);
        assert!(other.write_all_at(&[1], 8400).is_err(), "the reserve is held");
        disk.set_capacity(9_200);
        assert_eq!(observed(&mut reserve), Stage::RefuseSends);
        disk.set_capacity(8_500);
        reserve.release(0).expect("space");
        assert_eq!(observed(&mut reserve), Stage::Emergency);
        other.write_all_at(&[1; 100], 8400).expect("the space is there");
        disk.set_capacity(20_000);
        assert_eq!(observed(&mut reserve), Stage::Ok);
        assert_eq!(reserve.held_bytes(), 1600, "filled again");
    }
}
