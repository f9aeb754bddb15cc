//! Tables in memory, for unit tests. What is committed is shared by all who open the same
//! folder in one process, so a test can close and open again; no file is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Batch, Page, Span, Tables, TablesError, TablesRead};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// Tables whose rows are in a map; a view is a copy.
#[derive(Debug)]
pub struct MemoryTables {
    rows: Arc<Mutex<Arc<Map>>>,
}

static FOLDERS: Mutex<BTreeMap<PathBuf, Arc<Mutex<Arc<Map>>>>> = Mutex::new(BTreeMap::new());

impl MemoryTables {
    /// The tables of this folder: those that were open before, or new ones.
    #[must_use]
    pub fn open(dir: &Path) -> MemoryTables {
        let mut folders = FOLDERS.lock().unwrap_or_else(PoisonError::into_inner);
        MemoryTables { rows: Arc::clone(folders.entry(dir.to_path_buf()).or_default()) }
    }

    fn now(&self) -> Arc<Map> {
        Arc::clone(&self.rows.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl TablesRead for Map {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        Ok(BTreeMap::get(self, key).cloned())
    }

    fn page(&self, span: &Span, max_bytes: usize) -> Result<Page, TablesError> {
        let mut page = Page::new();
        let mut bytes = 0;
        if span.from >= span.to {
            return Ok(page);
        }
        for (key, value) in self.range(span.from.clone()..span.to.clone()) {
            if bytes >= max_bytes {
                break;
            }
            bytes += key.len() + value.len();
            page.push((key.clone(), value.clone()));
        }
        Ok(page)
    }
}

impl TablesRead for MemoryTables {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError> {
        TablesRead::get(&*self.now(), key)
    }

    fn page(&self, span: &Span, max_bytes: usize) -> Result<Page, TablesError> {
        self.now().page(span, max_bytes)
    }
}

impl Tables for MemoryTables {
    fn commit(&self, batch: &Batch) -> Result<(), TablesError> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let map = Arc::make_mut(&mut rows);
        for (key, value) in batch {
            match value {
                Some(value) => map.insert(key.clone(), value.clone()),
                None => map.remove(key),
            };
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Arc<dyn TablesRead>, TablesError> {
        Ok(self.now())
    }
}
