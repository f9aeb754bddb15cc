//! Tables in redb, over this project's own [`Disk`]: the simulator runs it on the faulty one.
//!
//! Cache 32 MiB; quick repair on, so that opening after a crash does not walk the file. A view
//! is a read transaction: cheap, but pages that it sees are not used again while it is open.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

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
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write_all_at(data, offset)
    }
}

/// Tables in one redb file.
#[derive(Debug)]
pub struct RedbTables {
    database: Arc<Database>,
}

impl RedbTables {
    /// Opens or makes `rows.redb` in `dir`.
    pub fn open(disk: &Arc<dyn Disk>, dir: &Path) -> Result<RedbTables, TablesError> {
        let path = dir.join(FILE);
        let failed = |source| TablesError::Open {
            path: path.display().to_string(),
            advice: REBUILD,
            source,
        };
        let file = disk.open(&path, OpenMode::OpenOrCreate).map_err(|e| failed(e.into()))?;
        // The file may be new: its name must be as durable as the first commit.
        disk.sync_dir(dir).map_err(|e| failed(e.into()))?;
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(DiskBackend(file))
            .map_err(|e| failed(e.into()))?;
        Ok(RedbTables { database: Arc::new(database) })
    }

    fn begin(&self) -> Result<RedbView, TablesError> {
        let read = self.database.begin_read().map_err(|e| TablesError::engine("read", e))?;
        Ok(RedbView { read, _database: Arc::clone(&self.database) })
    }
}

struct RedbView {
    read: ReadTransaction,
    /// A transaction is closed with its database, and a view outlives the store's use of it.
    _database: Arc<Database>,
}

impl std::fmt::Debug for RedbView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RedbView")
    }
}

type RowTable = redb::ReadOnlyTable<&'static [u8], &'static [u8]>;

impl RedbView {
    /// `None` before the first commit.
    fn table(&self) -> Result<Option<RowTable>, TablesError> {
        match self.read.open_table(ROWS) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(error) => Err(TablesError::engine("read", error)),
        }
    }
}

impl TablesRead for RedbView {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let Some(table) = self.table()? else { return Ok(None) };
        let value = table.get(key).map_err(|e| TablesError::engine("read", e))?;
        Ok(value.map(|value| value.value().to_vec()))
    }

    fn page(&self, span: &Span, max_bytes: usize) -> Result<Page, TablesError> {
        let mut page = Page::new();
        let Some(table) = self.table()? else { return Ok(page) };
        if span.from >= span.to {
            return Ok(page);
        }
        let rows = table
            .range::<&[u8]>(span.from.as_slice()..span.to.as_slice())
            .map_err(|e| TablesError::engine("read", e))?;
        let mut bytes = 0;
        for row in rows {
            if bytes >= max_bytes {
                break;
            }
            let (key, value) = row.map_err(|e| TablesError::engine("read", e))?;
            let (key, value) = (key.value().to_vec(), value.value().to_vec());
            bytes += key.len() + value.len();
            page.push((key, value));
        }
        Ok(page)
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
        write(&self.database, batch).map_err(|e| TablesError::engine("committed", e))
    }

    fn snapshot(&self) -> Result<Arc<dyn TablesRead>, TablesError> {
        Ok(Arc::new(self.begin()?))
    }
}

/// Whether redb says that its file is not what it wrote.
pub(super) fn is_damage(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    let storage = match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(StorageError::Corrupted(_)), _, _)
        | (_, Some(DatabaseError::Storage(StorageError::Corrupted(_))), _)
        | (_, _, Some(TableError::Storage(StorageError::Corrupted(_)))) => return true,
        (Some(StorageError::Io(error)), _, _)
        | (_, Some(DatabaseError::Storage(StorageError::Io(error))), _)
        | (_, _, Some(TableError::Storage(StorageError::Io(error)))) => error.kind(),
        _ => return false,
    };
    // A magic number that is not there, and a file that is too short.
    matches!(storage, ErrorKind::InvalidData | ErrorKind::UnexpectedEof)
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
