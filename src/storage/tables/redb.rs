//! Tables in redb, over this project's own [`Disk`]: the simulator runs it on the faulty one.
//!
//! Cache 32 MiB; quick repair on, so that opening after a crash does not walk the file. A view
//! is a read transaction: cheap, but pages that it sees are not used again while it is open.
//!
//! Laws: redb refuses everything after a failed write, as it must not guess what is on the disk.
//! Where the disk was full the file is opened again, which mends it as after a cut of the power;
//! views of before fail from then on.
//!
//! redb reads its pages without looking at their checksums, and may panic at one that rotted.
//! That is damage like any other: nothing here lets a panic out.

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase as _, StorageBackend,
    StorageError, TableDefinition, TableError,
};

use super::{Batch, Page, REBUILD, Span, Tables, TablesError, TablesRead};
use crate::storage::disk::{Disk, DiskFile, OpenMode};

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");
const CACHE_BYTES: usize = 32 << 20;
const FILE: &str = "rows.redb";

#[derive(Debug)]
struct DiskBackend(Arc<dyn DiskFile>);

impl StorageBackend for DiskBackend {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        // After a failed sync nobody knows what is on the disk: not one to be made again.
        self.0.sync_data().map_err(|error| match error.kind() {
            ErrorKind::StorageFull => std::io::Error::other(error),
            _ => error,
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// Tables in one redb file.
#[derive(Debug)]
pub struct RedbTables {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    database: RwLock<Quiet<Arc<Database>>>,
}

impl RedbTables {
    /// Opens or makes `rows.redb` in `dir`.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<RedbTables, TablesError> {
        let path = dir.join(FILE);
        let file = disk.open(&path, OpenMode::OpenOrCreate);
        let file = file.map_err(|error| not_opened(&path, error))?;
        // The file may be new: its name must be as durable as the first commit.
        disk.sync_dir(dir).map_err(|error| not_opened(&path, error))?;
        let database = RwLock::new(open_file(&path, &file)?);
        Ok(RedbTables { path, file, database })
    }

    /// What the engine is now; one that a full disk stopped is replaced.
    fn database(&self) -> Quiet<Arc<Database>> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        Quiet(Some(Arc::clone(&database)))
    }

    /// Opens the file again. The engine before it touches it no more, whoever still has a view.
    fn reopen(&self) -> Result<(), TablesError> {
        let opened = open_file(&self.path, &self.file)?;
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = opened;
        Ok(())
    }

    fn begin(&self) -> Result<RedbView, TablesError> {
        let database = self.database();
        let read = sound(|| database.begin_read());
        let read = read.map_err(|error| TablesError::engine("read", error))?;
        Ok(RedbView { read: Quiet(Some(read)), _database: database })
    }
}

fn not_opened(
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> TablesError {
    let path = path.display().to_string();
    TablesError::Open { path, advice: REBUILD, source: source.into() }
}

fn open_file(path: &Path, file: &Arc<dyn DiskFile>) -> Result<Quiet<Arc<Database>>, TablesError> {
    let opened = sound(|| {
        let mut builder = Database::builder();
        let backend = DiskBackend(Arc::clone(file));
        builder.set_cache_size(CACHE_BYTES).create_with_backend(backend)
    });
    let database = opened.map_err(|error| not_opened(path, error))?;
    Ok(Quiet(Some(Arc::new(database))))
}

struct RedbView {
    read: Quiet<ReadTransaction>,
    /// A transaction is closed with its database, and a view outlives the store's use of it.
    _database: Quiet<Arc<Database>>,
}

impl std::fmt::Debug for RedbView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedbView")
    }
}

type RowTable = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

impl RedbView {
    /// `None` before the first commit.
    fn table(&self) -> Result<Option<RowTable>, TableError> {
        match self.read.open_table(ROWS) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn value(&self, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
        let Some(table) = self.table()? else { return Ok(None) };
        Ok(table.get(key)?.map(|value| value.value().to_vec()))
    }

    fn rows(&self, span: &Span, max_bytes: usize) -> Result<Page, redb::Error> {
        let mut page = Page::new();
        let Some(table) = self.table()? else { return Ok(page) };
        if span.from >= span.to {
            return Ok(page);
        }
        let mut bytes = 0;
        for row in table.range::<&[u8]>(span.from.as_slice()..span.to.as_slice())? {
            if bytes >= max_bytes {
                break;
            }
            let (key, value) = row?;
            let (key, value) = (key.value().to_vec(), value.value().to_vec());
            bytes += key.len() + value.len();
            page.push((key, value));
        }
        Ok(page)
    }
}

impl TablesRead for RedbView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let value = sound(|| self.value(key));
        value.map_err(|error| TablesError::engine("read", error))
    }

    fn page(&self, span: &Span, max_bytes: usize) -> Result<Page, TablesError> {
        let page = sound(|| self.rows(span, max_bytes));
        page.map_err(|error| TablesError::engine("read", error))
    }
}

impl TablesRead for RedbTables {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        self.begin()?.get(key)
    }

    fn page(&self, span: &Span, max_bytes: usize) -> Result<Page, TablesError> {
        self.begin()?.page(span, max_bytes)
    }
}

impl Tables for RedbTables {
    fn commit(&self, batch: &Batch) -> Result<(), TablesError> {
        let database = self.database();
        match sound(|| write(&database, batch)) {
            Err(error) if is_full(&*error) => {
                drop(database);
                self.reopen()?;
                Err(TablesError::NoRoom)
            }
            written => written.map_err(|error| TablesError::engine("committed", error)),
        }
    }

    fn snapshot(&self) -> Result<Arc<dyn TablesRead>, TablesError> {
        Ok(Arc::new(self.begin()?))
    }
}

/// A part of redb that is let go of without a word: after a panic it would panic again.
#[derive(Debug)]
struct Quiet<T>(Option<T>);

impl<T> std::ops::Deref for Quiet<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(held) => held,
            None => unreachable!("it is held until this is dropped"),
        }
    }
}

impl<T> Drop for Quiet<T> {
    fn drop(&mut self) {
        let held = self.0.take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(held)));
    }
}

/// redb panicked.
#[derive(Debug, thiserror::Error)]
#[error("redb cannot go on with what it read: {0}")]
struct Unsound(String);

/// Runs a part of redb; a panic in it is an error.
fn sound<T, E>(
    run: impl FnOnce() -> Result<T, E>,
) -> Result<T, Box<dyn std::error::Error + Send + Sync>>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(done) => done.map_err(Into::into),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().cloned();
            let words = words.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
            Err(Box::new(Unsound(words.unwrap_or_default())))
        }
    }
}

/// Whether redb says that its file is not what it wrote.
pub(super) fn is_damage(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    if error.is::<Unsound>() {
        return true;
    }
    if let Some(error) = error.downcast_ref::<redb::Error>() {
        return match error {
            redb::Error::Corrupted(_) => true,
            redb::Error::Io(error) => is_cut(error.kind()),
            _ => false,
        };
    }
    let storage = match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(StorageError::Corrupted(_)), _, _)
        | (_, Some(DatabaseError::Storage(StorageError::Corrupted(_))), _)
        | (_, _, Some(TableError::Storage(StorageError::Corrupted(_)))) => return true,
        (Some(StorageError::Io(error)), _, _)
        | (_, Some(DatabaseError::Storage(StorageError::Io(error))), _)
        | (_, _, Some(TableError::Storage(StorageError::Io(error)))) => error.kind(),
        _ => return false,
    };
    is_cut(storage)
}

/// Whether a write of redb found the disk full.
fn is_full(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(error.downcast_ref(), Some(redb::Error::Io(error))
        if error.kind() == ErrorKind::StorageFull)
}

/// A magic number that is not there, or a file that is too short.
fn is_cut(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
}

fn write(database: &Database, batch: &Batch) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    transaction.set_quick_repair(true);
    {
        let mut table = transaction.open_table(ROWS)?;
        for (key, value) in batch {
            match value {
                Some(value) => table.insert(key.as_slice(), value.as_slice())?,
                None => table.remove(key.as_slice())?,
            };
        }
    }
    transaction.commit()?;
    Ok(())
}
