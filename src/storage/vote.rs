//! The vote: twice in a file of its own, in two slots of 4 KiB.
//!
//! Laws: a vote counts when it is durable in *both* slots. A save writes one slot and fsyncs it,
//! then the other, and begins only when both hold the vote before; so at most one slot is ever cut
//! short, and the other holds what this node may have answered by. The newer of the good slots is
//! the vote. At start whatever else the other holds is written over with it before the vote is
//! told, so that a slot that rots later leaves a good one:
//!
//! | found | the power went, or a slot rotted | the vote |
//! |---|---|---|
//! | both the same | between saves | it |
//! | one a step newer | between both writes | the newer; nobody was answered by it yet |
//! | one unreadable, the other old | in the first write | the old; nobody was answered by the new |
//! | one unreadable, the other new | in the second write | the new one |
//! | one unreadable, the other the same | it rotted | the other |
//! | one unreadable, the other never written | in the very first write | none |
//! | both unreadable | both rotted, or one rotted and one was cut | lost: the node does not start |
//!
//! A cut write and a rotten slot look alike and need not be told apart. The price is a second
//! fsync for each change of the vote, which only elections and new leaders cause. Earlier
//! builds wrote the slots in turn; their file looks like one whose second write was cut.
//! Refused: a vote that goes back; to start where the vote is lost, for it could vote twice.

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
    /// Of the vote that both slots hold.
    counter: u64,
    vote: Option<VoteRecord>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Empty,
    Bad,
    Newer(u32),
    /// Its counter and its vote.
    Good(u64, VoteRecord),
}

/// What the file holds.
struct Found {
    slots: [Slot; 2],
    /// The good slot of the higher counter.
    newest: Option<(u64, VoteRecord)>,
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
        let found = read_slots(file.as_ref(), &path)?;
        let vote = found.newest.map(|(_, vote)| vote);
        let counter = found.newest.map_or(0, |(counter, _)| counter);
        let opened = VoteFile { path, file, counter, vote };
        opened.repair(&found)?;
        Ok(opened)
    }

    /// Makes both slots hold the newest vote, before anybody is answered by it.
    fn repair(&self, found: &Found) -> Result<(), StorageError> {
        let Some((counter, vote)) = found.newest else { return Ok(()) };
        for (slot, held) in (0..2).zip(&found.slots) {
            if *held == Slot::Bad {
                tracing::warn!(
                    path = %self.path.display(),
                    "one of the two slots of the vote was cut short or rotted: it is written anew"
                );
            }
            if *held != Slot::Good(counter, vote) {
                self.write(slot, counter, vote)?;
            }
        }
        Ok(())
    }

    /// Writes one slot and makes it durable.
    fn write(&self, slot: u64, counter: u64, vote: VoteRecord) -> Result<(), StorageError> {
        self.file
            .write_all_at(&encode(counter, vote), slot * SLOT)
            .map_err(during("write", &self.path))?;
        if !crate::mutants::is_chosen("vote-unsynced") {
            self.file.sync_data().map_err(during("sync", &self.path))?;
        }
        Ok(())
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
        Ok(read_slots(file.as_ref(), &path)?.newest.map(|(_, vote)| vote))
    }

    #[must_use]
    pub fn vote(&self) -> Option<VoteRecord> {
        self.vote
    }

    /// Writes and fsyncs the vote into one slot, and then into the other.
    ///
    /// # Errors
    /// When the disk fails; the file must not be used after that, nor may anybody be answered.
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
        for slot in 0..2 {
            self.write(slot, counter, vote)?;
        }
        self.counter = counter;
        self.vote = Some(vote);
        Ok(())
    }
}

fn read_slots(file: &dyn DiskFile, path: &Path) -> Result<Found, StorageError> {
    let mut slots = [Slot::Empty; 2];
    for (offset, slot) in [0, SLOT].into_iter().zip(&mut slots) {
        let mut bytes = [0; BYTES];
        file.read_exact_at(&mut bytes, offset).map_err(during("read", path))?;
        *slot = decode(&bytes);
    }
    let mut newest = None;
    for slot in &slots {
        match slot {
            Slot::Newer(found) => {
                let path = path.to_path_buf();
                return Err(StorageError::NewerFormat { path, found: *found, known: VERSION });
            }
            Slot::Good(counter, vote) if newest.is_none_or(|(known, _)| *counter > known) => {
                newest = Some((*counter, *vote));
            }
            Slot::Good(..) | Slot::Bad | Slot::Empty => {}
        }
    }
    if slots == [Slot::Bad; 2] {
        return Err(StorageError::VoteLost { path: path.to_path_buf() });
    }
    Ok(Found { slots, newest })
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

    const ROOT: &str = "";

    fn found(disk: &FaultyDisk) -> Option<VoteRecord> {
        VoteFile::open(disk, Path::new(ROOT)).expect("a good slot").vote()
    }

    fn rot(disk: &FaultyDisk, slot: u64) {
        disk.flip_bit(Path::new("vote"), slot * SLOT + 17, 3).expect("a flip");
    }

    /// A disk that died at this place of the save of the second vote, or of the first one.
    fn cut(seed: u64, held: u64, place: impl Fn(&FaultyDisk)) -> (FaultyDisk, bool) {
        let disk = FaultyDisk::new(seed);
        let mut file = VoteFile::open(&disk, Path::new(ROOT)).expect("a vote file");
        for term in 1..=held {
            file.save(vote(term)).expect("a vote");
        }
        place(&disk);
        let is_answered = file.save(vote(held + 1)).is_ok();
        (disk.restart(), is_answered)
    }

    /// All places at which one save can be cut: its two writes and its two syncs, each with the
    /// slot whole or torn as the disk's dice have it, or torn within a block.
    fn everywhere(held: u64, check: impl Fn(&FaultyDisk, u64, bool, &str)) {
        for seed in 0..20 {
            for (step, is_torn) in [(1, false), (1, true), (2, false), (2, true), (3, false)] {
                for is_sync in [false, true] {
                    let place = |disk: &FaultyDisk| match is_sync {
                        true => disk.kill_at_sync(step),
                        false => disk.kill_at_write(step),
                    };
                    let (disk, is_answered) = cut(seed, held, place);
                    assert_eq!(is_answered, step == 3);
                    if is_torn {
                        let at = (step - 1) * SLOT + 25;
                        disk.flip_bit(Path::new("vote"), at, 3).expect("a torn slot");
                    }
                    let why = format!("{seed}, {step}, sync {is_sync}, torn {is_torn}");
                    check(&disk, step, is_answered, &why);
                }
            }
        }
    }

    #[test]
    fn a_cut_at_any_place_of_a_save_leaves_the_vote_before_or_the_new_one_for_good() {
        for held in [1, 2] {
            everywhere(held, |disk, _, is_answered, why| {
                let first = found(disk).expect("a vote").term;
                let is_either = first == held + 1 || (first == held && !is_answered);
                assert!(is_either, "{why}: {first}");
                // What the node tells now, it tells whichever slot rots after that.
                for slot in [0, 1] {
                    rot(disk, slot);
                    assert_eq!(found(disk), Some(vote(first)), "{why}, then slot {slot}");
                }
            });
        }
    }

    #[test]
    fn a_slot_that_rots_while_a_node_is_down_takes_nothing_back_that_it_answered_by() {
        for slot in [0, 1] {
            everywhere(1, |disk, step, is_answered, why| {
                rot(disk, slot);
                let vote = match VoteFile::open(disk, Path::new(ROOT)) {
                    Ok(file) => file.vote().expect("a vote").term,
                    // The other one was being written.
                    Err(StorageError::VoteLost { .. }) if step < 3 => return,
                    Err(error) => panic!("{why}, slot {slot}: {error}"),
                };
                assert!(vote == 2 || (vote == 1 && !is_answered), "{why}, slot {slot}: {vote}");
            });
        }
    }

    #[test]
    fn a_cut_in_the_first_save_leaves_no_vote_or_the_first() {
        everywhere(0, |disk, _, is_answered, why| {
            let first = found(disk);
            assert!(first == Some(vote(1)) || (first.is_none() && !is_answered), "{why}");
        });
    }

    #[test]
    fn a_repair_that_is_cut_loses_nothing() {
        for slot in [0, 1] {
            for (seed, is_sync) in (0..20).flat_map(|seed| [(seed, true), (seed, false)]) {
                let disk = FaultyDisk::new(seed);
                let mut file = VoteFile::open(&disk, Path::new(ROOT)).expect("a vote file");
                file.save(vote(3)).expect("a vote");
                rot(&disk, slot);
                match is_sync {
                    true => disk.kill_at_sync(1),
                    false => disk.kill_at_write(1),
                }
                assert!(VoteFile::open(&disk, Path::new(ROOT)).is_err(), "the power went");
                let disk = disk.restart();
                assert_eq!(found(&disk), Some(vote(3)), "seed {seed}, slot {slot}");
                rot(&disk, 1 - slot);
                assert_eq!(found(&disk), Some(vote(3)), "seed {seed}, then the other");
            }
        }
    }

    #[test]
    fn slots_that_were_written_in_turn_hold_the_newer_vote() {
        for newer in [0, 1] {
            let disk = FaultyDisk::new(1);
            let file = VoteFile::open(&disk, Path::new(ROOT)).expect("a vote file");
            file.write(1 - newer, 6, vote(6)).expect("a slot");
            file.write(newer, 7, vote(7)).expect("a slot");
            assert_eq!(found(&disk), Some(vote(7)));
            rot(&disk, newer);
            assert_eq!(found(&disk), Some(vote(7)), "since then both hold it");
        }
    }

    #[test]
    fn two_rotten_slots_stop_the_node() {
        let disk = FaultyDisk::new(1);
        let mut file = VoteFile::open(&disk, Path::new(ROOT)).expect("a vote file");
        file.save(vote(2)).expect("a vote");
        rot(&disk, 0);
        rot(&disk, 1);
        let refused = VoteFile::open(&disk, Path::new(ROOT));
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
