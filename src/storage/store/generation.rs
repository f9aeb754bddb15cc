//! Where the tables lie: a generation is a folder with tables and body segments, and the file
//! `CURRENT` names the one that counts.
//!
//! A snapshot is installed by filling the folder of the next generation and then replacing
//! `CURRENT` by a rename, so a kill at any point leaves the old tables or the new ones. Folders
//! that `CURRENT` does not name are leftovers and are removed at open. `CURRENT` is durable
//! before the first commit, so where it is missing nothing was ever committed; where it is
//! damaged, opening is refused.
//!
//! Law: the format of `CURRENT` is that of all that it points to. Who changes the format of a row
//! raises it, so that an older version refuses the tables and takes no row of them for damage.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{StoreError, StoreOptions};
use crate::queue::State;
use crate::queue::rows::{Row, RowKey};
use crate::storage::bodies::Bodies;
use crate::storage::codec::{self, CodecError, Mark};
use crate::storage::disk::{Disk, DiskFile, OpenMode};
use crate::storage::keys;
use crate::storage::tables::{Rows, Span, Tables, TablesRead};

const CURRENT: &str = "CURRENT";
const CURRENT_NEW: &str = "CURRENT.new";
/// Why these tables are damaged, where only a commit met it.
const DAMAGED: &str = "DAMAGED";
const FORMAT: u8 = 1;
/// Format, number, CRC-32C of both.
const POINTER: usize = 13;

/// One folder of tables and bodies, open.
#[derive(Debug)]
pub struct Generation {
    pub number: u64,
    pub dir: PathBuf,
    pub tables: Arc<dyn Tables>,
    pub bodies: Bodies,
    /// Held by views and readers; the folder stays while any is.
    pub pin: Arc<()>,
}

fn failed(doing: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError::Io { doing, path: path.clone(), source }
}

fn folder(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("generation-{number:010}"))
}

impl Generation {
    /// Opens what `CURRENT` names, or makes the first generation; removes leftovers.
    pub fn open_current(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        options: &StoreOptions,
    ) -> Result<Generation, StoreError> {
        disk.create_dir_all(dir).map_err(failed("made", dir))?;
        if let Some(parent) = dir.parent() {
            disk.sync_dir(parent).map_err(failed("synced", parent))?;
        }
        let current = read_pointer(disk, dir)?;
        let number = current.unwrap_or(1);
        let keep = current.map(|number| folder(dir, number));
        for path in disk.list(dir).map_err(failed("listed", dir))? {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with("generation-") && Some(&path) != keep.as_ref() {
                disk.remove_dir_all(&path).map_err(failed("removed", &path))?;
            } else if name == CURRENT_NEW {
                disk.remove_file(&path).map_err(failed("removed", &path))?;
            }
        }
        let generation = Generation::open(disk, dir, number, options)?;
        if current.is_none() {
            generation.make_current(disk, dir)?;
        }
        Ok(generation)
    }

    /// Makes the folder of generation `number` anew, beside the current one.
    pub fn create(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        number: u64,
        options: &StoreOptions,
    ) -> Result<Generation, StoreError> {
        let path = folder(dir, number);
        if disk.exists(&path) {
            disk.remove_dir_all(&path).map_err(failed("removed", &path))?;
        }
        Generation::open(disk, dir, number, options)
    }

    fn open(
        disk: &Arc<dyn Disk>,
        dir: &Path,
        number: u64,
        options: &StoreOptions,
    ) -> Result<Generation, StoreError> {
        let path = folder(dir, number);
        disk.create_dir_all(&path).map_err(failed("made", &path))?;
        let tables = options.engine.open(disk, &path)?;
        let pin = Arc::<()>::default();
        let home = Arc::clone(&pin);
        let bodies = Bodies::open(disk, path.join("bodies"), &*tables, options.bodies, home)?;
        // The names of what is in the folder, and of the folder itself.
        disk.sync_dir(&path).map_err(failed("synced", &path))?;
        disk.sync_dir(dir).map_err(failed("synced", dir))?;
        Ok(Generation { number, dir: path, tables, bodies, pin })
    }

    /// Makes this generation the one that counts, durably.
    pub fn make_current(&self, disk: &Arc<dyn Disk>, dir: &Path) -> Result<(), StoreError> {
        let mut pointer = vec![FORMAT];
        pointer.extend_from_slice(&self.number.to_le_bytes());
        pointer.extend_from_slice(&crc32c::crc32c(&pointer).to_le_bytes());
        let (new, current) = (dir.join(CURRENT_NEW), dir.join(CURRENT));
        let file = disk.open(&new, OpenMode::OpenOrCreate).map_err(failed("made", &new))?;
        write_whole(&*file, &pointer).map_err(failed("written", &new))?;
        disk.rename(&new, &current).map_err(failed("replaced", &current))?;
        disk.sync_dir(dir).map_err(failed("synced", dir))
    }

    /// The mark in the tables; the default one before the first commit.
    pub fn mark(&self) -> Result<Mark, StoreError> {
        read_mark(&*self.tables)
    }

    /// Rebuilds the state from the rows; its digest is checked.
    pub fn load(&self) -> Result<State, StoreError> {
        load_state(&*self.tables)
    }
}

fn write_whole(file: &dyn DiskFile, bytes: &[u8]) -> io::Result<()> {
    file.set_len(0)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()
}

/// Notes that the tables in `dir` are damaged: a commit met what opening does not read. Without
/// the note the node would open them again, and stop at the same place.
///
/// # Errors
/// [`StoreError`]: the disk fails.
pub(super) fn note_damage(disk: &Arc<dyn Disk>, dir: &Path, why: &str) -> Result<(), StoreError> {
    let path = dir.join(DAMAGED);
    let file = disk.open(&path, OpenMode::OpenOrCreate).map_err(failed("made", &path))?;
    write_whole(&*file, why.as_bytes()).map_err(failed("written", &path))?;
    disk.sync_dir(dir).map_err(failed("synced", dir))
}

/// The damage that was noted of the tables in `dir`, if there is such a note.
#[must_use]
pub fn noted_damage(disk: &Arc<dyn Disk>, dir: &Path) -> Option<StoreError> {
    let path = dir.join(DAMAGED);
    disk.exists(&path).then(|| StoreError::Damaged {
        what: dir.display().to_string(),
        why: format!("a commit of an earlier run failed at it, as {} says", path.display()),
    })
}

/// The number of the generation that counts of the tables in `dir`; `None` = nothing was ever
/// committed.
///
/// # Errors
/// [`StoreError`]: the pointer is damaged, or of a newer version, or the disk fails.
pub fn read_pointer(disk: &Arc<dyn Disk>, dir: &Path) -> Result<Option<u64>, StoreError> {
    let path = dir.join(CURRENT);
    if !disk.exists(&path) {
        return Ok(None);
    }
    let damaged = |why: &str| StoreError::Damaged {
        what: path.display().to_string(),
        why: format!("{why}; remove the tables' folder and the node rebuilds it from its group"),
    };
    let file = disk.open(&path, OpenMode::Read).map_err(failed("opened", &path))?;
    if file.len().map_err(failed("measured", &path))? != POINTER as u64 {
        return Err(damaged("its length is wrong"));
    }
    let mut pointer = [0; POINTER];
    file.read_exact_at(&mut pointer, 0).map_err(failed("read", &path))?;
    let [format, a, b, c, d, e, f, g, h, crc @ ..] = pointer;
    let number = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    if u32::from_le_bytes(crc) != crc32c::crc32c(&[format, a, b, c, d, e, f, g, h]) {
        return Err(damaged("its checksum does not match"));
    }
    if format != FORMAT {
        let path = path.display().to_string();
        return Err(StoreError::Newer { path, found: format, known: FORMAT });
    }
    Ok(Some(number))
}

/// The mark of tables or of a view.
pub fn read_mark(tables: &dyn TablesRead) -> Result<Mark, StoreError> {
    match tables.get(&[keys::MARK_TAG])? {
        Some(value) => Ok(codec::decode_mark(&value)?),
        None => Ok(Mark::default()),
    }
}

fn load_state(tables: &dyn TablesRead) -> Result<State, StoreError> {
    if tables.get(&keys::row(&RowKey::Counters))?.is_none() {
        return match tables.page(&Span::tags(keys::REPLICATED), 1)?.is_empty() {
            true => Ok(State::new()),
            false => Err(CodecError::Missing { what: "the tables", field: "counters" }.into()),
        };
    }
    let mut rows = Rows::new(tables, Span::tags(keys::REPLICATED));
    let mut unreadable = None;
    let state = State::load(std::iter::from_fn(|| {
        let (key, value) = rows.next()?;
        decode(&key, &value).map_err(|error| unreadable = Some(error)).ok()
    }));
    rows.result()?;
    if let Some(error) = unreadable {
        return Err(error.into());
    }
    state.map_err(|error| StoreError::Load { source: error.into() })
}

/// A replicated row from its key and value.
///
/// # Errors
/// [`CodecError`]: they are none, or of a newer version.
pub fn decode(key: &[u8], value: &[u8]) -> Result<Row, CodecError> {
    let wrong = CodecError::Wrong { what: "a row", field: "key, or it is of a newer version" };
    codec::decode_row(&keys::parse_row(key).ok_or(wrong)?, value)
}
