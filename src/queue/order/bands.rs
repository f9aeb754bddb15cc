//! The messages of a queue by priority: of most queues all have the same.

use std::collections::BTreeSet;

use super::chunks::Chunks;
use crate::queue::ranked::Key;

/// The messages of one priority.
#[derive(Clone, Debug, Default)]
pub struct Band {
    pub chunks: Chunks,
    /// Touched messages by visible time; those up to T are visible.
    pub waiting: BTreeSet<Key>,
}

/// The bands of those priorities that have messages, in order: a list, for there are ten at most,
/// and what one message needs lies together.
#[derive(Clone, Debug, Default)]
pub struct Bands(Vec<(u8, Band)>);

impl Band {
    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.waiting.is_empty()
    }
}

impl Bands {
    /// Those from a priority on.
    pub fn from(&self, priority: u8) -> impl Iterator<Item = (u8, &Band)> {
        self.iter().skip_while(move |(of, _)| *of < priority)
    }

    pub fn iter(&self) -> impl Iterator<Item = (u8, &Band)> {
        self.0.iter().map(|(priority, band)| (*priority, band))
    }

    pub fn first_mut(&mut self) -> Option<(u8, &mut Band)> {
        self.0.first_mut().map(|(priority, band)| (*priority, band))
    }

    fn place(&self, priority: u8) -> Result<usize, usize> {
        self.0.binary_search_by_key(&priority, |(of, _)| *of)
    }

    #[must_use]
    pub fn get(&self, priority: u8) -> Option<&Band> {
        self.iter().find(|(of, _)| *of == priority).map(|(_, band)| band)
    }

    pub fn get_mut(&mut self, priority: u8) -> Option<&mut Band> {
        self.0.iter_mut().find(|(of, _)| *of == priority).map(|(_, band)| band)
    }

    /// The band of a priority, made where there is none.
    pub fn open(&mut self, priority: u8) -> &mut Band {
        let at = self.place(priority).unwrap_or_else(|at| {
            self.0.insert(at, (priority, Band::default()));
            at
        });
        &mut self.0[at].1
    }

    /// What waits in the band goes with it.
    pub fn remove(&mut self, priority: u8) {
        self.0.retain(|(of, _)| *of != priority);
    }

    /// Forgets the band of a priority if nothing is left in it.
    pub fn drop_if_empty(&mut self, priority: u8) {
        if let Ok(at) = self.place(priority)
            && self.0.get(at).is_some_and(|(_, band)| band.is_empty())
        {
            self.0.remove(at);
        }
    }
}
