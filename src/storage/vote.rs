//! The vote: two slots of 4 KiB in a file of its own, written in turn.
//!
//! Laws: a vote counts when its slot was fsynced; a slot is overwritten only when the other is
//! durable, so a cut in the middle leaves the vote before; the newer of the good slots is the
//! vote. Both written and both bad: the node does not start, since it could vote twice.
//! Refused: a vote that goes back.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these bytes came from a disk: none of them may end the process"
)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, OpenMode};
use super::error::{StorageError, during};

const SLOT: u64 = 4096;
/// Magic, version, counter, term, node, committed, checksum.
const BYTES: usize = 48;
const MAGIC: u32 = 0x5a51_5654;
const VERSION: u32 = 1;

/// A vote as Raft keeps it: for whom in which term, and whether that leader was elected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VoteRecord {
    pub term: u64,
    pub node: u64,
    pub committed: bool,
}

/// The open vote file.
#[derive(Debug)]
pub struct VoteFile {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    /// Of the newest durable slot; the next goes to the other one.
    counter: u64,
    vote: Option<VoteRecord>,
}

#[derive(Debug)]
enum Slot {
    Empty,
    Bad,
    Newer(u32),
    Good(u64, VoteRecord),
}

impl VoteFile {
    /// Opens the vote, or makes the file of a node that never voted.
    ///
    /// # Errors
    /// [`StorageError::VoteLost`] when neither slot can be read.
    pub fn open(disk: &dyn Disk, dir: &Path) -> Result<VoteFile, StorageError> {
        let path = dir.join("vote");
        let file = disk.open(&path, OpenMode::OpenOrCreate).map_err(during("open", &path))?;
        if file.len().map_err(during("measure", &path))? < 2 * SLOT {
            // Only a file whose making was cut short is shorter, and it never held a vote:
            // the first vote is written after this sync.
            file.write_all_at(&vec![0; 2 * SLOT as usize], 0).map_err(during("write", &path))?;
            file.sync_data().map_err(during("sync", &path))?;
            disk.sync_dir(dir).map_err(during("sync", dir))?;
        }
        let (counter, vote) = read_slots(file.as_ref(), &path)?;
        Ok(VoteFile { path, file, counter, vote })
    }

    /// Reads the vote of a stopped node and writes nothing.
    ///
    /// # Errors
    /// As [`VoteFile::open`]; a missing file is no vote.
    pub fn peek(disk: &dyn Disk, dir: &Path) -> Result<Option<VoteRecord>, StorageError> {
        let path = dir.join("vote");
        if !disk.exists(&path) {
            return Ok(None);
        }
        let file = disk.open(&path, OpenMode::Read).map_err(during("open", &path))?;
        if file.len().map_err(during("measure", &path))? < 2 * SLOT {
            return Ok(None);
        }
        Ok(read_slots(file.as_ref(), &path)?.1)
    }

    #[must_use]
    pub fn vote(&self) -> Option<VoteRecord> {
        self.vote
    }

    /// Writes and fsyncs the vote into the older slot.
    ///
    /// # Errors
    /// When the disk fails; the file must not be used after that.
    pub fn save(&mut self, vote: VoteRecord) -> Result<(), StorageError> {
        if let Some(held) = self.vote
            && vote.term < held.term
        {
            return Err(StorageError::damaged(
                &self.path,
                format!("a vote of term {} would replace one of term {}", vote.term, held.term),
            ));
        }
        let counter = self.counter + 1;
        let offset = (counter % 2) * SLOT;
        self.file
            .write_all_at(&encode(counter, vote), offset)
            .map_err(during("write", &self.path))?;
        if !crate::mutants::is_chosen("vote-unsynced") {
            self.file.sync_data().map_err(during("sync", &self.path))?;
        }
        self.counter = counter;
        self.vote = Some(vote);
        Ok(())
    }
}

fn read_slots(file: &dyn DiskFile, path: &Path) -> Result<(u64, Option<VoteRecord>), StorageError> {
    let mut slots = Vec::with_capacity(2);
    for number in 0..2 {
        let mut bytes = [0; BYTES];
        file.read_exact_at(&mut bytes, number * SLOT).map_err(during("read", path))?;
        slots.push(decode(&bytes));
    }
    let mut best = None;
    let mut bad = 0;
    for slot in &slots {
        match slot {
            Slot::Newer(found) => {
                let path = path.to_path_buf();
                return Err(StorageError::NewerFormat { path, found: *found, known: VERSION });
            }
            Slot::Bad => bad += 1,
            Slot::Empty => {}
            Slot::Good(counter, vote) => {
                if best.is_none_or(|(known, _)| *counter > known) {
                    best = Some((*counter, *vote));
                }
            }
        }
    }
    match best {
        Some((counter, vote)) => Ok((counter, Some(vote))),
        // The first vote's own write was torn: it never counted, and the other slot is clean.
        None if bad < 2 => Ok((0, None)),
        None => Err(StorageError::VoteLost { path: path.to_path_buf() }),
    }
}

fn encode(counter: u64, vote: VoteRecord) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SLOT as usize);
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&counter.to_le_bytes());
    bytes.extend_from_slice(&vote.term.to_le_bytes());
    bytes.extend_from_slice(&vote.node.to_le_bytes());
    bytes.extend_from_slice(&u64::from(vote.committed).to_le_bytes());
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&u64::from(checksum).to_le_bytes());
    bytes.resize(SLOT as usize, 0);
    bytes
}

fn decode(bytes: &[u8; BYTES]) -> Slot {
    if bytes.iter().all(|byte| *byte == 0) {
        return Slot::Empty;
    }
    let word = |at: usize| -> u64 {
        let mut word = [0; 8];
        if let Some(found) = bytes.get(at..at + 8) {
            word.copy_from_slice(found);
        }
        u64::from_le_bytes(word)
    };
    let summed = bytes.get(..BYTES - 8).unwrap_or_default();
    if word(40) != u64::from(crc32c::crc32c(summed)) || word(0) as u32 != MAGIC {
        return Slot::Bad;
    }
    match (word(0) >> 32) as u32 {
        VERSION => {}
        newer => return Slot::Newer(newer),
    }
    if word(32) > 1 {
        return Slot::Bad;
    }
    Slot::Good(word(8), VoteRecord { term: word(16), node: word(24), committed: word(32) == 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::faulty::FaultyDisk;

    fn vote(term: u64) -> VoteRecord {
        VoteRecord { term, node: 1, committed: term.is_multiple_of(2) }
    }

    #[test]
    fn a_cut_in_a_save_leaves_the_vote_before_or_the_new_one() {
        for seed in 0..100 {
            for kill in 1..4 {
                let disk = FaultyDisk::new(seed);
                let mut file = VoteFile::open(&disk, Path::new("")).expect("a vote file");
                file.save(vote(1)).expect("a vote");
                disk.kill_at_write(kill);
                let mut held = 1;
                while file.save(vote(held + 1)).is_ok() {
                    held += 1;
                }
                let disk = disk.restart();
                let found = VoteFile::open(&disk, Path::new("")).expect("a good slot").vote();
                let term = found.expect("a vote").term;
                assert!(term == held || term == held + 1, "{term} after {held}");
            }
        }
    }

    #[test]
    fn one_rotten_slot_shows_the_other_and_two_stop_the_node() {
        let disk = FaultyDisk::new(1);
        let mut file = VoteFile::open(&disk, Path::new("")).expect("a vote file");
        file.save(vote(1)).expect("a vote");
        file.save(vote(2)).expect("a vote");
        disk.flip_bit(Path::new("vote"), 17, 3).expect("a flip");
        let found = VoteFile::open(&disk, Path::new("")).expect("one good slot").vote();
        assert_eq!(found, Some(vote(1)));
        disk.flip_bit(Path::new("vote"), SLOT + 17, 3).expect("a flip");
        let refused = VoteFile::open(&disk, Path::new(""));
        assert!(matches!(refused, Err(StorageError::VoteLost { .. })), "{refused:?}");
    }

    #[test]
    fn a_vote_does_not_go_back() {
        let disk = FaultyDisk::new(1);
        let mut file = VoteFile::open(&disk, Path::new("")).expect("a vote file");
        file.save(vote(5)).expect("a vote");
        assert!(file.save(vote(4)).is_err());
        assert_eq!(VoteFile::peek(&disk, Path::new("")).expect("readable"), Some(vote(5)));
    }
}
