//! What this node heard of a promotion in the other region: a file beside the vote.
//!
//! Laws: the file is replaced whole, so that a power cut leaves what was there or what is new. It
//! is kept before anybody is answered by it. What cannot be read counts as never heard: the other
//! region tells it again, so its loss opens no more than the moment until then.
//!
//! What is in it is the floor above's; here it is bytes. Refused: more than [`MOST`] of them, and
//! a file of a newer format.

#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "these bytes came from a disk: none of them may end the process"
)]

use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::disk::{Disk, OpenMode};
use super::error::{StorageError, during};

const MAGIC: u32 = 0x5a51_4845;
const VERSION: u32 = 1;
/// Magic, version, length, checksum.
const HEADER: usize = 24;
/// The most bytes that are kept.
pub const MOST: usize = 1 << 20;

fn path(dir: &Path) -> PathBuf {
    dir.join("heard")
}

/// Replaces what was heard; durable when this ends.
///
/// # Errors
/// When the disk fails or is full, or for more than [`MOST`] bytes. What was kept before is still
/// there, or the new word is.
pub fn save(disk: &dyn Disk, dir: &Path, word: &[u8]) -> Result<(), StorageError> {
    let (path, new) = (path(dir), dir.join("heard.new"));
    if word.len() > MOST {
        let what = format!("{} bytes were heard, and at most {MOST} are kept", word.len());
        return Err(StorageError::damaged(&path, what));
    }
    let mut bytes = Vec::with_capacity(HEADER + word.len());
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&(word.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&u64::from(crc32c::crc32c(word)).to_le_bytes());
    bytes.extend_from_slice(word);
    let file = disk.open(&new, OpenMode::OpenOrCreate).map_err(during("open", &new))?;
    file.set_len(bytes.len() as u64).map_err(during("resize", &new))?;
    file.write_all_at(&bytes, 0).map_err(during("write", &new))?;
    file.sync_data().map_err(during("sync", &new))?;
    disk.rename(&new, &path).map_err(during("rename", &new))?;
    disk.sync_dir(dir).map_err(during("sync", dir))
}

/// What was heard; `None` = nothing, or nothing that can be read.
///
/// # Errors
/// When the disk fails, or the file has a newer format.
pub fn load(disk: &dyn Disk, dir: &Path) -> Result<Option<Bytes>, StorageError> {
    let path = path(dir);
    if !disk.exists(&path) {
        return Ok(None);
    }
    let file = disk.open(&path, OpenMode::Read).map_err(during("open", &path))?;
    let len = file.len().map_err(during("measure", &path))?;
    let found = usize::try_from(len).ok().filter(|len| *len <= HEADER + MOST);
    let mut bytes = vec![0; found.unwrap_or_default()];
    file.read_exact_at(&mut bytes, 0).map_err(during("read", &path))?;
    let word = read(&path, &bytes)?;
    if word.is_none() {
        tracing::warn!(
            path = %path.display(),
            "what was heard of the other region cannot be read: it is asked again"
        );
    }
    Ok(word)
}

fn read(path: &Path, bytes: &[u8]) -> Result<Option<Bytes>, StorageError> {
    let half = |at: usize| -> Option<u32> {
        Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    let whole = |at: usize| -> Option<u64> {
        Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
    };
    if half(0) != Some(MAGIC) {
        return Ok(None);
    }
    match half(4) {
        Some(VERSION) => {}
        Some(found) => {
            let path = path.to_path_buf();
            return Err(StorageError::NewerFormat { path, found, known: VERSION });
        }
        None => return Ok(None),
    }
    let word = bytes.get(HEADER..).unwrap_or_default();
    let is_good =
        whole(8) == Some(word.len() as u64) && whole(16) == Some(u64::from(crc32c::crc32c(word)));
    Ok(is_good.then(|| Bytes::copy_from_slice(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::faulty::FaultyDisk;

    const DIR: &str = "";

    fn found(disk: &FaultyDisk) -> Option<Bytes> {
        load(disk, Path::new(DIR)).expect("readable")
    }

    #[test]
    fn what_was_heard_last_is_there_after_a_power_cut() {
        let disk = FaultyDisk::new(1);
        assert_eq!(found(&disk), None);
        save(&disk, Path::new(DIR), b"a long first word").expect("kept");
        save(&disk, Path::new(DIR), b"the second").expect("kept");
        assert_eq!(found(&disk.restart()), Some(Bytes::from_static(b"the second")));
    }

    #[test]
    fn a_cut_at_any_place_leaves_the_word_before_or_the_new_one() {
        // It is made, gets its length, is written and renamed; file and folder are synced.
        let places = (1..=4).map(|at| (false, at)).chain((1..=2).map(|at| (true, at)));
        for (seed, (is_sync, at)) in
            (0..20).flat_map(|seed| places.clone().map(move |it| (seed, it)))
        {
            let disk = FaultyDisk::new(seed);
            save(&disk, Path::new(DIR), b"before").expect("kept");
            match is_sync {
                true => disk.kill_at_sync(at),
                false => disk.kill_at_write(at),
            }
            assert!(save(&disk, Path::new(DIR), b"new").is_err(), "the power went");
            let left = found(&disk.restart()).expect("one of both");
            assert!(
                left == "before" || left == "new",
                "seed {seed}, sync {is_sync}, {at}: {left:?}"
            );
            save(&disk.restart(), Path::new(DIR), b"later").expect("kept over what was left");
        }
    }

    #[test]
    fn what_rotted_counts_as_never_heard() {
        let disk = FaultyDisk::new(1);
        save(&disk, Path::new(DIR), b"a word").expect("kept");
        for at in [0, 9, 17, HEADER as u64 + 2] {
            disk.flip_bit(Path::new("heard"), at, 3).expect("a flip");
            assert_eq!(found(&disk), None, "a flip at {at}");
            disk.flip_bit(Path::new("heard"), at, 3).expect("flipped back");
        }
        assert!(found(&disk).is_some());
    }

    #[test]
    fn more_than_is_ever_heard_is_refused_and_a_newer_format_is_named() {
        let disk = FaultyDisk::new(1);
        assert!(save(&disk, Path::new(DIR), &vec![0; MOST + 1]).is_err());
        save(&disk, Path::new(DIR), b"a word").expect("kept");
        disk.flip_bit(Path::new("heard"), 4, 1).expect("a flip");
        let refused = load(&disk, Path::new(DIR));
        assert!(matches!(refused, Err(StorageError::NewerFormat { .. })), "{refused:?}");
    }
}
