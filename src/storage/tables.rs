//! The tables: an ordered map from keys to values on disk, behind a trait narrow enough for
//! three engines.
//!
//! Laws: [`Tables::commit`] is durable and atomic when it returns; a [`TablesRead`] view never
//! changes, whatever is committed after it; a failed commit leaves the engine unusable and is
//! never retried, unless it found the disk full: that one may be made again, whether it counts
//! already or not, and a view of before may fail. The tables know nothing of rows: what a key means is in `keys.rs`.

pub mod memory;
pub mod redb;
#[cfg(feature = "sled")]
pub mod sled;

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;

use super::disk::Disk;

/// Why the tables could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    #[error("the tables at {path} could not be opened; {advice}")]
    Open { path: String, advice: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("the disk has no room for a commit of the tables; it can be made again")]
    NoRoom,
    #[error("the tables could not be {doing}")]
    Engine { doing: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
}

impl TablesError {
    /// Whether the engine found its own files unsound.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            TablesError::NoRoom => false,
            TablesError::Open { source, .. } | TablesError::Engine { source, .. } => {
                redb::is_damage(&**source)
            }
        }
    }

    fn engine(
        doing: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> TablesError {
        TablesError::Engine { doing, source: source.into() }
    }
}

/// What to do when an engine refuses its own files: the log and the vote are elsewhere.
const REBUILD: &str = "the log and the vote are not affected: remove the tables and the node \
                       rebuilds them from its group";

/// Changes for one transaction, by key: a value to put, `None` to delete.
pub type Batch = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Keys and values in key order.
pub type Page = Vec<(Vec<u8>, Vec<u8>)>;

/// A part of the keys: from `from`, or after it, up to and without `to`.
#[derive(Clone, Debug)]
pub struct Span {
    pub from: Vec<u8>,
    pub to: Vec<u8>,
}

impl Span {
    /// All keys with a tag in the range.
    #[must_use]
    pub fn tags(tags: std::ops::Range<u8>) -> Span {
        Span { from: vec![tags.start], to: vec![tags.end] }
    }

    /// All keys with this tag.
    #[must_use]
    pub fn tag(tag: u8) -> Span {
        Span::tags(tag..tag.saturating_add(1))
    }

    /// Moves the start behind a key: the next page begins there.
    pub fn skip_to_after(&mut self, key: &[u8]) {
        self.from.clear();
        self.from.extend_from_slice(key);
        // No key lies between a key and the same key with a zero byte behind it.
        self.from.push(0);
    }
}

/// What can be read, of the tables now or of a view.
pub trait TablesRead: Send + Sync + Debug {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TablesError>;
    /// The first rows of a span, until their keys and values take `max_bytes`; at least one
    /// when there is any.
    fn page(&self, span: &Span, max_bytes: usize) -> Result<Page, TablesError>;
}

/// An engine.
pub trait Tables: TablesRead {
    /// All of the changes, or none; durable on return.
    fn commit(&self, batch: &Batch) -> Result<(), TablesError>;
    /// A consistent view of the last commit.
    fn snapshot(&self) -> Result<Arc<dyn TablesRead>, TablesError>;
}

/// Which engine keeps the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    #[default]
    Redb,
    #[cfg(feature = "sled")]
    Sled,
    /// Nothing survives: for unit tests only.
    #[cfg(test)]
    Memory,
}

impl EngineKind {
    /// Opens or makes the tables in the folder `dir`, which exists.
    pub fn open(self, disk: &Arc<dyn Disk>, dir: &Path) -> Result<Arc<dyn Tables>, TablesError> {
        match self {
            EngineKind::Redb => Ok(Arc::new(redb::RedbTables::open(disk, dir)?)),
            #[cfg(feature = "sled")]
            EngineKind::Sled => Ok(Arc::new(sled::SledTables::open(dir)?)),
            #[cfg(test)]
            EngineKind::Memory => Ok(Arc::new(memory::MemoryTables::open(dir))),
        }
    }
}

/// Every row of a span, page by page. After an error it ends; ask [`Rows::result`].
pub struct Rows<'a> {
    source: &'a dyn TablesRead,
    span: Span,
    page: std::vec::IntoIter<(Vec<u8>, Vec<u8>)>,
    error: Option<TablesError>,
    done: bool,
}

const PAGE_BYTES: usize = 256 << 10;

impl<'a> Rows<'a> {
    #[must_use]
    pub fn new(source: &'a dyn TablesRead, span: Span) -> Rows<'a> {
        Rows { source, span, page: Vec::new().into_iter(), error: None, done: false }
    }

    /// Whether the rows ended because there are no more.
    pub fn result(self) -> Result<(), TablesError> {
        self.error.map_or(Ok(()), Err)
    }
}

impl Iterator for Rows<'_> {
    type Item = (Vec<u8>, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.page.len() == 0 && !self.done {
            match self.source.page(&self.span, PAGE_BYTES) {
                Ok(page) => {
                    match page.last() {
                        Some((key, _)) => self.span.skip_to_after(key),
                        None => self.done = true,
                    }
                    self.page = page.into_iter();
                }
                Err(error) => {
                    self.done = true;
                    self.error = Some(error);
                }
            }
        }
        self.page.next()
    }
}

#[cfg(test)]
mod tests;
