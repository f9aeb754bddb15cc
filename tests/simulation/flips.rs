//! Rots what a disk holds durably: one bit, in the log, the vote, the tables or the bodies.
//!
//! Laws: only bytes that were written are hit, while the node is down. What no checksum can tell
//! from a write that was cut short is left alone: the end of the log, which only a leader remembers
//! (docs/operating/damage.md). A flip that would do no more than that is taken back. Of the vote
//! one slot rots, which takes nothing away, or both; and the tables of a node with neither vote
//! nor entries stay, for nobody but their owner would make them anew.

use std::path::{Path, PathBuf};

use zoneq::storage::disk::faulty::{Dice, FaultyDisk};
use zoneq::storage::disk::{Disk, OpenMode};
use zoneq::storage::log::{Inspection, inspect};

/// What is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Log,
    /// Both slots of the vote.
    Vote,
    /// One of them alone.
    Slot,
    Tables,
    Bodies,
}

/// Which byte of it, and which bit, is drawn from this number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    pub place: Place,
    pub roll: u64,
}

/// Tries to find a byte that was written.
const TRIES: usize = 64;
const LOG: &str = "/data/log";
/// One slot of the vote file.
const SLOT: u64 = 4096;
/// What of it is written.
const WRITTEN: u64 = 48;
/// A segment's own head is within so many bytes.
const HEAD: u64 = 64;

impl Flip {
    pub fn draw(dice: &mut Dice) -> Flip {
        let place = match dice.below(8) {
            0..3 => Place::Log,
            3 if dice.below(3) == 0 => Place::Vote,
            3 => Place::Slot,
            4..6 => Place::Tables,
            _ => Place::Bodies,
        };
        Flip { place, roll: dice.next() }
    }

    /// The same of a node that nobody replaces: its vote stays readable.
    pub fn draw_of_a_member(dice: &mut Dice) -> Flip {
        let place = match dice.below(7) {
            0..3 => Place::Log,
            3..5 => Place::Tables,
            _ => Place::Bodies,
        };
        Flip { place, roll: dice.next() }
    }

    /// Under which name it is counted.
    pub fn name(self) -> &'static str {
        match self.place {
            Place::Log => "a bit of the log flipped",
            Place::Vote => "the vote rotted",
            Place::Slot => "one slot of the vote rotted",
            Place::Tables => "a bit of the tables flipped",
            Place::Bodies => "a bit of the bodies flipped",
        }
    }

    /// Does it; says what was hit, if there was anything.
    pub fn on(self, disk: &FaultyDisk) -> Option<String> {
        let mut dice = Dice::new(self.roll);
        match self.place {
            Place::Log => in_log(disk, &mut dice),
            Place::Vote => in_vote(disk, &mut dice, &[0, 1]),
            Place::Slot => {
                let slot = dice.below(2);
                in_vote(disk, &mut dice, &[slot])
            }
            Place::Tables | Place::Bodies if is_new(disk) => None,
            Place::Tables => in_any(disk, &mut dice, |path| {
                path.starts_with("/data/tables") && !is_of_bodies(path)
            }),
            Place::Bodies => in_any(disk, &mut dice, |path| {
                path.starts_with("/data/tables") && is_of_bodies(path)
            }),
        }
    }
}

fn is_of_bodies(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "bodies")
}

/// Whether its node holds no vote and no entry.
fn is_new(disk: &FaultyDisk) -> bool {
    let held = inspect(disk, Path::new(LOG));
    held.is_ok_and(|held| held.last.is_none() && matches!(held.vote, Ok(None)))
}

/// All files below a folder.
fn files(disk: &FaultyDisk, folder: &Path) -> Vec<PathBuf> {
    let below = disk.list(folder).unwrap_or_default();
    let each = below.into_iter().flat_map(|path| match disk.open(&path, OpenMode::Read) {
        Ok(_) => vec![path],
        Err(_) => files(disk, &path),
    });
    each.collect()
}

/// The byte there, if the file is as long.
fn byte(disk: &FaultyDisk, path: &Path, offset: u64) -> Option<u8> {
    let mut byte = [0];
    disk.open(path, OpenMode::Read).ok()?.read_exact_at(&mut byte, offset).ok()?;
    Some(byte[0])
}

/// Flips a bit of a byte that was written, from so many bytes on.
fn flip(
    disk: &FaultyDisk,
    path: &Path,
    (from, length): (u64, u64),
    dice: &mut Dice,
) -> Option<(u64, u8)> {
    let mut offsets = (0..TRIES).map(|_| from + dice.below(length));
    let offset = offsets.find(|at| byte(disk, path, *at).is_some_and(|byte| byte != 0))?;
    let bit = dice.below(8) as u8;
    disk.flip_bit(path, offset, bit).ok()?;
    Some((offset, bit))
}

fn in_any(disk: &FaultyDisk, dice: &mut Dice, is_asked: impl Fn(&Path) -> bool) -> Option<String> {
    let mut files = files(disk, Path::new("/data"));
    files.retain(|path| is_asked(path));
    let path = files.get(dice.below(files.len() as u64) as usize)?;
    let length = disk.open(path, OpenMode::Read).ok()?.len().ok()?;
    let (offset, bit) = flip(disk, path, (0, length), dice)?;
    Some(format!("bit {bit} of byte {offset} of {}", path.display()))
}

/// Rots these slots of the vote, if each was written: one that was not holds nothing to lose.
fn in_vote(disk: &FaultyDisk, dice: &mut Dice, slots: &[u64]) -> Option<String> {
    let path = Path::new(LOG).join("vote");
    let is_written = |slot: &u64| byte(disk, &path, slot * SLOT).is_some_and(|byte| byte != 0);
    if !slots.iter().all(is_written) {
        return None;
    }
    for slot in slots {
        flip(disk, &path, (slot * SLOT, WRITTEN), dice)?;
    }
    Some(format!("of the vote slots {slots:?}"))
}

fn in_log(disk: &FaultyDisk, dice: &mut Dice) -> Option<String> {
    let before = inspect(disk, Path::new(LOG)).ok()?;
    let record = before.records.get(dice.below(before.records.len() as u64) as usize)?;
    let span = if dice.below(8) == 0 { (0, HEAD) } else { (record.offset, record.bytes) };
    let path = &record.segment;
    let (offset, bit) = flip(disk, path, span, dice)?;
    if inspect(disk, Path::new(LOG)).is_ok_and(|after| is_shorter(&before, &after)) {
        disk.flip_bit(path, offset, bit).ok()?;
        return None;
    }
    Some(format!("bit {bit} of byte {offset} of {}", path.display()))
}

/// Whether the log ends elsewhere, and nothing tells of what it lacks.
fn is_shorter(before: &Inspection, after: &Inspection) -> bool {
    let tells = after.trouble.iter().any(|trouble| trouble.hole().is_some());
    !tells && after.last != before.last
}
