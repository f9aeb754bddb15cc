//! Tables in sled 0.34, kept as an option behind the cargo feature `sled`.
//!
//! Its `flush()` does not reach the disk: it asks for write-back and never for an fsync, and in
//! simulated power cuts it lost what it had acknowledged. So every commit here fsyncs sled's
//! files itself. It has no consistent view: a snapshot copies all rows to memory while commits
//! pause. A failed open is final: the tables are rebuilt from the group. It knows nothing of
//! [`Disk`](crate::storage::disk::Disk), so no simulation runs it.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Batch, Page, REBUILD, Span, Tables, TablesError, TablesRead};

const CACHE_BYTES: u64 = 32 << 20;
const FOLDER: &str = "rows.sled";

/// Tables in one sled folder.
#[derive(Debug)]
pub struct SledTables {
    db: sled::Db,
    path: PathBuf,
    /// Held by a commit, and by a snapshot while it copies.
    pause: Mutex<()>,
}

/// Opens the folder. A database that was dropped keeps its lock until sled's own threads have
/// ended, a moment later, so a lock that is held is waited for, within a bound.
#[allow(clippy::disallowed_methods, reason = "sled tells nobody when it lets its lock go")]
fn open_when_free(path: &Path) -> sled::Result<sled::Db> {
    const TRIES: u32 = 250;
    const BETWEEN: std::time::Duration = std::time::Duration::from_millis(20);
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let mut tries = 0;
    loop {
        match config.open() {
            Err(error) if tries < TRIES && error.to_string().contains("acquire lock") => {
                tries += 1;
                std::thread::sleep(BETWEEN);
            }
            done => return done,
        }
    }
}

impl SledTables {
    /// Opens or makes `rows.sled` in `dir`.
    pub fn open(dir: &Path) -> Result<SledTables, TablesError> {
        let path = dir.join(FOLDER);
        let failed = |source| TablesError::Open {
            path: path.display().to_string(),
            advice: REBUILD,
            source,
        };
        let db = open_when_free(&path).map_err(|e| failed(e.into()))?;
        let tables = SledTables { db, path: path.clone(), pause: Mutex::new(()) };
        tables.sync().map_err(|e| failed(e.into()))?;
        File::open(dir).and_then(|folder| folder.sync_all()).map_err(|e| failed(e.into()))?;
        Ok(tables)
    }

    /// fdatasync of every file that sled keeps rows in, and of their folders.
    fn sync(&self) -> std::io::Result<()> {
        sync_folder(&self.path)?;
        let blobs = self.path.join("blobs");
        if blobs.exists() { sync_folder(&blobs) } else { Ok(()) }
    }
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            match File::open(entry.path()) {
                Ok(file) => file.sync_data()?,
                // sled replaces its index snapshot file on its own threads.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    File::open(path)?.sync_all()
}

impl TablesRead for SledTables {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        let value = self.db.get(key).map_err(|e| TablesError::engine("read", e))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn page(&self, span: &Span, max_bytes: usize) -> Result<Page, TablesError> {
        let mut page = Page::new();
        if span.from >= span.to {
            return Ok(page);
        }
        let mut bytes = 0;
        for row in self.db.range(span.from.as_slice()..span.to.as_slice()) {
            if bytes >= max_bytes {
                break;
            }
            let (key, value) = row.map_err(|e| TablesError::engine("read", e))?;
            bytes += key.len() + value.len();
            page.push((key.to_vec(), value.to_vec()));
        }
        Ok(page)
    }
}

impl Tables for SledTables {
    fn commit(&self, batch: &Batch) -> Result<(), TablesError> {
        let _paused = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = sled::Batch::default();
        for (key, value) in batch {
            match value {
                Some(value) => changes.insert(key.as_slice(), value.as_slice()),
                None => changes.remove(key.as_slice()),
            }
        }
        self.db.apply_batch(changes).map_err(|e| TablesError::engine("committed", e))?;
        self.db.flush().map_err(|e| TablesError::engine("committed", e))?;
        self.sync().map_err(|e| TablesError::engine("committed", e))
    }

    fn snapshot(&self) -> Result<Arc<dyn TablesRead>, TablesError> {
        let _paused = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        let mut copy = BTreeMap::new();
        for row in self.db.iter() {
            let (key, value) = row.map_err(|e| TablesError::engine("read", e))?;
            copy.insert(key.to_vec(), value.to_vec());
        }
        Ok(Arc::new(copy))
    }
}
