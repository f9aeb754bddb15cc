//! The contents of messages: bodies with their headers. Which of this node's homes a content
//! has is its own affair: neither state nor digest nor a snapshot's identity knows.
//!
//! A content lives in memory until the table commit that holds its message, so one that was
//! sent and deleted between two commits is never written. There it is a slice of the entry it
//! came in, not a copy: the whole entry stays while one of its contents does, and so the bytes
//! of all entries since the last commit count, not only what is alive. At the commit it is
//! appended to a body segment, fsynced before the commit that names its place; or before, where the
//! commit itself can wait: what lies behind the lengths in the tables is cut at the next open, and
//! comes again from the log. A segment without a live content is deleted once the tables no longer name it and no snapshot pins it; one with less than a
//! quarter alive is copied forward, a bounded number of bytes a commit. Where space is scarce
//! the emptiest go first, and with as much as half alive.
//!
//! This file plans; `segment.rs` does the reading and writing, `directory.rs` knows places.

mod directory;
mod half;
mod segment;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

pub use directory::{Directory, Group, Place};
pub use half::Half;
pub use segment::{Flush, Placing, SegmentFiles, decode_record, encode_record};

use crate::queue::command::Content;
use crate::queue::ids::ContentId;
use crate::storage::codec::CodecError;
use crate::storage::disk::Disk;
use crate::storage::keys;
use crate::storage::store::StoreError;
use crate::storage::tables::{Batch, Rows, Span, TablesRead};
use segment::record_len;

/// What a content in memory costs besides its bytes.
const HELD_COST: usize = 128;
/// Places of contents take this much of a commit, in bytes.
const PLACE_COST: usize = 12;

/// Sizes that a test makes small.
#[derive(Clone, Copy, Debug)]
pub struct BodyOptions {
    /// A segment is closed when the next record would take it past this.
    pub segment_bytes: u32,
    /// Bytes copied forward in one commit.
    pub copy_bytes: u32,
}

impl Default for BodyOptions {
    fn default() -> BodyOptions {
        BodyOptions { segment_bytes: 64 << 20, copy_bytes: 8 << 20 }
    }
}

/// Keeps a segment's file, and the folder that it is in, while it is held.
#[derive(Clone, Debug)]
pub struct Pin {
    #[allow(dead_code, reason = "it is counted, not read")]
    segment: Arc<()>,
    #[allow(dead_code, reason = "it is counted, not read")]
    home: Arc<()>,
}

#[derive(Debug)]
struct Segment {
    len: u32,
    live: u64,
    /// Every id whose content lies here is between these.
    first: u64,
    last: u64,
    pin: Arc<()>,
}

impl Segment {
    /// Less than a quarter lives; where space is scarce, less than half and no more bytes than may
    /// be written for it.
    fn sparse(&self, scarce: Option<u64>) -> bool {
        let len = u64::from(self.len);
        match scarce {
            Some(most) => self.live < len / 2 && self.live <= most,
            None => self.live < len / 4,
        }
    }
}

/// A content in memory that no commit has taken yet.
#[derive(Debug)]
struct Held {
    content: Content,
    /// Of its record.
    len: u32,
}

impl Held {
    fn cost(&self) -> usize {
        self.len as usize + HELD_COST
    }
}

/// A content found: reading it needs no lock on the store.
#[derive(Clone, Debug)]
pub enum Found {
    Held(Content),
    Stored { id: ContentId, place: Place, files: Arc<SegmentFiles>, pin: Pin },
}

impl Found {
    /// The content; read from its segment and checked if it is not in memory.
    pub fn read(&self) -> Result<Content, StoreError> {
        match self {
            Found::Held(content) => Ok(content.clone()),
            Found::Stored { id, place, files, .. } => files.read(*id, *place),
        }
    }
}

/// All contents of one set of tables.
#[derive(Debug)]
pub struct Bodies {
    options: BodyOptions,
    files: Arc<SegmentFiles>,
    directory: Directory,
    held: BTreeMap<u64, Held>,
    held_cost: usize,
    /// What the running commit writes: placed in the directory, and read here until it is durable.
    placing: Arc<[Placing]>,
    /// Bytes of the entries that came since the running commit was planned, and before it.
    entry_bytes: usize,
    placing_entry_bytes: usize,
    /// Where contents lie that the running commit copies: their new places are not yet written.
    moving: BTreeMap<u64, Place>,
    segments: BTreeMap<u32, Segment>,
    /// Segments that have grown since the last commit was planned.
    grown: BTreeSet<u32>,
    active: Option<u32>,
    next_segment: u32,
    /// Segments that the running commit takes out of the tables.
    leaving: Vec<(u32, Arc<()>)>,
    /// Segments out of the tables; deleted when no snapshot pins them.
    gone: Vec<(u32, Arc<()>)>,
    home: Arc<()>,
}

impl Bodies {
    /// Reads the directory from the tables and cuts the files in `dir` to the lengths there.
    pub fn open(
        disk: &Arc<dyn Disk>,
        dir: PathBuf,
        tables: &dyn TablesRead,
        options: BodyOptions,
        home: Arc<()>,
    ) -> Result<Bodies, StoreError> {
        let lengths = lengths(tables)?;
        let files = Arc::new(SegmentFiles::new(Arc::clone(disk), dir));
        files.settle(&lengths)?;
        let mut bodies = Bodies {
            options,
            files,
            directory: Directory::default(),
            held: BTreeMap::new(),
            held_cost: 0,
            placing: Arc::default(),
            entry_bytes: 0,
            placing_entry_bytes: 0,
            moving: BTreeMap::new(),
            segments: BTreeMap::new(),
            grown: BTreeSet::new(),
            active: None,
            next_segment: 1,
            leaving: Vec::new(),
            gone: Vec::new(),
            home,
        };
        for (number, len) in lengths {
            let len = u32::try_from(len).map_err(|_| damaged("the length of a body segment"))?;
            let segment = Segment { len, live: 0, first: u64::MAX, last: 0, pin: Arc::default() };
            bodies.segments.insert(number, segment);
            bodies.active = Some(number);
            bodies.next_segment = number.saturating_add(1);
        }
        bodies.load(tables)?;
        Ok(bodies)
    }

    fn load(&mut self, tables: &dyn TablesRead) -> Result<(), StoreError> {
        let mut rows = Rows::new(tables, Span::tag(keys::CONTENTS_TAG));
        for (key, value) in rows.by_ref() {
            let number = keys::parse_contents(&key).ok_or(damaged("the key of a contents row"))?;
            let group = Group::decode(&value)?;
            for (low, place) in group.iter() {
                let end = u64::from(place.offset) + u64::from(place.len);
                match self.segments.get_mut(&place.segment) {
                    Some(segment) if end <= u64::from(segment.len) => {
                        segment.count(number << 8 | u64::from(low), place.len);
                    }
                    _ => return Err(damaged("a place that is in no body segment").into()),
                }
            }
            self.directory.load(number, group);
        }
        Ok(rows.result()?)
    }

    /// Takes a content; it is held in memory until it is placed and committed.
    pub fn put(&mut self, id: ContentId, content: Content) {
        self.remove(id);
        let held = Held { len: record_len(&content) as u32, content };
        self.held_cost += held.cost();
        self.held.insert(id.0, held);
    }

    /// An entry of so many bytes was applied: contents that came in it keep it in memory.
    pub fn note_entry(&mut self, bytes: usize) {
        self.entry_bytes += bytes;
    }

    /// Forgets a content.
    pub fn remove(&mut self, id: ContentId) {
        if let Some(held) = self.held.remove(&id.0) {
            self.held_cost -= held.cost();
            return;
        }
        self.moving.remove(&id.0);
        if let Some(place) = self.directory.remove(id.0) {
            self.release(place);
        }
    }

    /// Gives a content another id, which no other has.
    pub fn rename(&mut self, from: ContentId, to: ContentId) {
        let placing = self.placing(from.0).map(|it| it.content.clone());
        if let Some(held) = self.held.remove(&from.0) {
            self.held.insert(to.0, held);
        } else if let (Some(content), Some(_)) = (placing, self.directory.get(from.0)) {
            // A commit is writing it; it is written again under its new id.
            self.remove(from);
            self.put(to, content);
        } else if let Some(place) = self.directory.remove(from.0) {
            if let Some(source) = self.moving.remove(&from.0) {
                self.moving.insert(to.0, source);
            }
            self.directory.insert(to.0, place);
            if let Some(segment) = self.segments.get_mut(&place.segment) {
                segment.first = segment.first.min(to.0);
                segment.last = segment.last.max(to.0);
            }
        }
    }

    /// Forgets every content of one half.
    pub fn remove_half(&mut self, half: Half) {
        let held: Vec<u64> = self.held.range(half.ids()).map(|(id, _)| *id).collect();
        for id in held {
            self.remove(ContentId(id));
        }
        self.moving.retain(|id, _| !half.ids().contains(id));
        for place in self.directory.remove_range(half.ids()) {
            self.release(place);
        }
    }

    /// What the running commit writes for this id.
    fn placing(&self, id: u64) -> Option<&Placing> {
        let at = self.placing.binary_search_by_key(&id, |placing| placing.id.0).ok()?;
        self.placing.get(at)
    }

    fn release(&mut self, place: Place) {
        if let Some(segment) = self.segments.get_mut(&place.segment) {
            segment.live = segment.live.saturating_sub(place.len.into());
        }
    }

    /// Where a content is now.
    #[must_use]
    pub fn find(&self, id: ContentId) -> Option<Found> {
        if let Some(held) = self.held.get(&id.0) {
            return Some(Found::Held(held.content.clone()));
        }
        // What is not in the directory was removed, though a commit may be writing it.
        let place = self.directory.get(id.0)?;
        if let Some(placing) = self.placing(id.0) {
            return Some(Found::Held(placing.content.clone()));
        }
        let place = self.moving.get(&id.0).copied().unwrap_or(place);
        let pin = self.pin(place.segment)?;
        Some(Found::Stored { id, place, files: Arc::clone(&self.files), pin })
    }

    /// Puts a content in the place of what rotted, if that still lies where it was found.
    pub fn mend(&mut self, id: ContentId, rotten: Place, content: Content) -> bool {
        let lies_there =
            matches!(self.find(id), Some(Found::Stored { place, .. }) if place == rotten);
        if lies_there {
            self.note_entry(content.size());
            self.put(id, content);
        }
        lies_there
    }

    /// Bytes in memory: the entries that contents are slices of, those of the running commit
    /// included.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.entry_bytes + self.placing_entry_bytes
    }

    /// About how much contents in memory take of the next flush.
    #[must_use]
    pub fn unplaced_bytes(&self) -> usize {
        self.held_cost
    }

    /// About how much the next commit writes.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.held_cost + self.directory.dirty() * 256 * PLACE_COST / 2
    }

    #[must_use]
    pub fn files(&self) -> Arc<SegmentFiles> {
        Arc::clone(&self.files)
    }

    fn pin(&self, number: u32) -> Option<Pin> {
        let segment = match self.segments.get(&number) {
            Some(segment) => &segment.pin,
            // The running commit copies what lived there.
            None => &self.leaving.iter().find(|(leaving, _)| *leaving == number)?.1,
        };
        Some(Pin { segment: Arc::clone(segment), home: Arc::clone(&self.home) })
    }

    /// Pins segments, for a view whose tables name them. `None` when one is not there.
    #[must_use]
    pub fn pin_all(&self, segments: &[(u32, u64)]) -> Option<Vec<Pin>> {
        segments.iter().map(|(number, _)| self.pin(*number)).collect()
    }

    /// Gives every content in memory a place, copies sparse segments forward, and adds what the
    /// tables must know to `batch`. The flush must be durable before the batch; then
    /// [`Bodies::committed`]. One at a time. Where space is `scarce` it says how much may live in
    /// a segment that is emptied.
    pub fn plan(&mut self, batch: &mut Batch, scarce: Option<u64>) -> Flush {
        let mut flush = self.plan_ahead();
        let mut grown = std::mem::take(&mut self.grown);
        self.copy_forward(&mut flush, &mut grown, scarce);
        self.retire(batch, &mut grown);
        for number in grown {
            if let Some(segment) = self.segments.get(&number) {
                let len = u64::from(segment.len).to_be_bytes().to_vec();
                batch.push((keys::segment(number), Some(len)));
            }
        }
        for (number, row) in self.directory.take_dirty() {
            batch.push((keys::contents(number), row));
        }
        flush
    }

    /// Gives every content in memory a place, and leaves it to a later [`Bodies::plan`] to tell
    /// the tables. Once the flush is durable, [`Bodies::committed`].
    pub fn plan_ahead(&mut self) -> Flush {
        let mut flush = Flush::default();
        self.held_cost = 0;
        self.placing_entry_bytes = std::mem::take(&mut self.entry_bytes);
        let mut placing = Vec::with_capacity(self.held.len());
        for (id, Held { content, len }) in std::mem::take(&mut self.held) {
            let to = self.allot(id, len, &mut flush);
            if self.grown.last() != Some(&to.segment) {
                self.grown.insert(to.segment);
            }
            placing.push(Placing { id: ContentId(id), content, to });
        }
        self.directory.insert_all(placing.iter().map(|placing| (placing.id.0, placing.to)));
        self.placing = placing.into();
        flush.new = Arc::clone(&self.placing);
        flush
    }

    /// The next free place, in a new segment when the active one is full.
    fn allot(&mut self, id: u64, len: u32, flush: &mut Flush) -> Place {
        let limit = self.options.segment_bytes;
        let full = |segment: &Segment| segment.len > 0 && segment.len.saturating_add(len) > limit;
        let active = self.active.filter(|number| !self.segments.get(number).is_none_or(full));
        let number = active.unwrap_or_else(|| {
            let number = self.next_segment;
            self.next_segment = number.saturating_add(1);
            self.active = Some(number);
            flush.created.push(number);
            number
        });
        let segment = self.segments.entry(number).or_insert_with(|| Segment {
            len: 0,
            live: 0,
            first: u64::MAX,
            last: 0,
            pin: Arc::default(),
        });
        let place = Place { segment: number, offset: segment.len, len };
        segment.len = segment.len.saturating_add(len);
        segment.count(id, len);
        place
    }

    /// Moves what lives in sparse segments, up to the bound, so that they empty.
    fn copy_forward(&mut self, flush: &mut Flush, grown: &mut BTreeSet<u32>, scarce: Option<u64>) {
        let mut budget = u64::from(self.options.copy_bytes);
        let mut sparse: Vec<_> = self
            .segments
            .iter()
            .filter(|(number, segment)| {
                Some(**number) != self.active && segment.live > 0 && segment.sparse(scarce)
            })
            .map(|(number, segment)| (segment.live, *number, segment.first, segment.last))
            .collect();
        if scarce.is_some() {
            sparse.sort_unstable();
        }
        for (_, number, first, last) in sparse {
            let mut chosen = Vec::new();
            for (id, place) in self.directory.range(first, last) {
                if place.segment != number || self.placing(id).is_some() {
                    continue;
                }
                let Some(left) = budget.checked_sub(place.len.into()) else { break };
                budget = left;
                chosen.push((id, place));
            }
            for (id, from) in chosen {
                let to = self.allot(id, from.len, flush);
                grown.insert(to.segment);
                self.directory.insert(id, to);
                self.release(from);
                self.moving.insert(id, from);
                flush.copies.push((from, to));
            }
        }
    }

    /// Takes segments without a live content out of the tables. The active one too, if nothing
    /// was added to it now: an idle store gives all its space back.
    fn retire(&mut self, batch: &mut Batch, grown: &mut BTreeSet<u32>) {
        let dead: Vec<u32> = self
            .segments
            .iter()
            .filter(|(number, segment)| segment.live == 0 && !grown.contains(number))
            .map(|(number, _)| *number)
            .collect();
        for number in dead {
            if let Some(segment) = self.segments.remove(&number) {
                batch.push((keys::segment(number), None));
                self.leaving.push((number, segment.pin));
            }
            if self.active == Some(number) {
                self.active = None;
            }
        }
    }

    /// The planned flush, and its batch if it has one, are durable.
    pub fn committed(&mut self) {
        self.placing = Arc::default();
        self.placing_entry_bytes = 0;
        self.moving.clear();
        self.gone.append(&mut self.leaving);
    }

    /// Segments whose files may be deleted now. They are forgotten: the caller deletes them.
    pub fn take_deletable(&mut self) -> Vec<u32> {
        let (free, pinned) = std::mem::take(&mut self.gone)
            .into_iter()
            .partition(|(_, pin)| Arc::strong_count(pin) == 1);
        self.gone = pinned;
        let free: Vec<(u32, Arc<()>)> = free;
        free.into_iter().map(|(number, _)| number).collect()
    }

    /// Whether [`Bodies::take_deletable`] has something to give.
    #[must_use]
    pub fn has_deletable(&self) -> bool {
        self.gone.iter().any(|(_, pin)| Arc::strong_count(pin) == 1)
    }

    /// Whether a commit would free space even if nothing else changed.
    #[must_use]
    pub fn has_sparse(&self, scarce: Option<u64>) -> bool {
        self.segments.iter().any(|(number, segment)| {
            segment.live == 0 || (Some(*number) != self.active && segment.sparse(scarce))
        })
    }

    /// Live bytes and file bytes of all segments.
    #[must_use]
    pub fn space(&self) -> (u64, u64) {
        self.segments.values().fold((0, 0), |(live, len), segment| {
            (live + segment.live, len + u64::from(segment.len))
        })
    }
}

impl Segment {
    fn count(&mut self, id: u64, len: u32) {
        self.live += u64::from(len);
        self.first = self.first.min(id);
        self.last = self.last.max(id);
    }
}

fn damaged(what: &'static str) -> CodecError {
    CodecError::Wrong { what: "the tables", field: what }
}

/// The lengths of the body segments that the tables record.
pub fn lengths(tables: &dyn TablesRead) -> Result<Vec<(u32, u64)>, StoreError> {
    let mut lengths = Vec::new();
    let mut rows = Rows::new(tables, Span::tag(keys::SEGMENT_TAG));
    for (key, value) in rows.by_ref() {
        let number = keys::parse_segment(&key).ok_or(damaged("the key of a segment row"))?;
        let len = value.try_into().map_err(|_| damaged("the length of a body segment"))?;
        lengths.push((number, u64::from_be_bytes(len)));
    }
    rows.result()?;
    Ok(lengths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::disk::faulty::FaultyDisk;
    use crate::storage::tables::EngineKind;

    fn content(n: u8) -> Content {
        Content { body: vec![n; 500].into(), ..Content::default() }
    }

    #[test]
    fn a_content_that_is_copied_forward_is_read_where_it_was_until_the_commit_is_durable() {
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(1));
        let dir = PathBuf::from("/copied");
        disk.create_dir_all(&dir).unwrap();
        let tables = EngineKind::Redb.open(&disk, &dir).unwrap();
        let options = BodyOptions { segment_bytes: 10_000, copy_bytes: 1_100 };
        let mut bodies =
            Bodies::open(&disk, dir.join("bodies"), &*tables, options, Arc::default()).unwrap();
        for n in 0..60u8 {
            bodies.put(ContentId(n.into()), content(n));
        }
        let read = |bodies: &Bodies, n: u8| bodies.find(ContentId(n.into())).unwrap().read();
        let commit = |bodies: &mut Bodies, then: &dyn Fn(&Bodies)| {
            let mut batch = Batch::new();
            let flush = bodies.plan(&mut batch, None);
            then(bodies);
            bodies.files().write(&flush).unwrap();
            then(bodies);
            tables.commit(&batch).unwrap();
            bodies.committed();
            then(bodies);
            flush.new.len() + flush.copies.len()
        };
        assert_eq!(commit(&mut bodies, &|_| {}), 60);
        let stay = [3, 7, 8];
        for n in (0..19u8).filter(|n| !stay.contains(n)) {
            bodies.remove(ContentId(n.into()));
        }
        let all_read = |bodies: &Bodies| {
            for n in stay {
                assert_eq!(read(bodies, n).unwrap(), content(n));
            }
        };
        assert_eq!(commit(&mut bodies, &all_read), 2, "no more than the bound");
        assert_eq!(commit(&mut bodies, &all_read), 1, "the rest");
        assert_eq!(bodies.take_deletable(), [1], "the empty segment can go");
        assert!(bodies.find(ContentId(4)).is_none());
    }

    #[test]
    fn a_content_is_mended_only_where_what_rotted_still_lies() {
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(1));
        let dir = PathBuf::from("/mended");
        disk.create_dir_all(&dir).unwrap();
        let tables = EngineKind::Redb.open(&disk, &dir).unwrap();
        let options = BodyOptions::default();
        let mut bodies =
            Bodies::open(&disk, dir.join("bodies"), &*tables, options, Arc::default()).unwrap();
        let commit = |bodies: &mut Bodies| {
            let mut batch = Batch::new();
            let flush = bodies.plan(&mut batch, None);
            bodies.files().write(&flush).unwrap();
            tables.commit(&batch).unwrap();
            bodies.committed();
        };
        let place = |bodies: &Bodies, id| match bodies.find(id) {
            Some(Found::Stored { place, .. }) => place,
            other => panic!("not in a segment: {other:?}"),
        };
        let content = |body: &'static [u8]| Content { body: body.into(), ..Content::default() };
        let id = ContentId(7);
        bodies.put(id, content(b"first"));
        commit(&mut bodies);
        let first = place(&bodies, id);
        assert!(bodies.mend(id, first, content(b"mended")));
        assert!(!bodies.mend(id, first, content(b"twice")), "a commit is to write it");
        commit(&mut bodies);
        assert_ne!(place(&bodies, id), first);
        assert!(!bodies.mend(id, first, content(b"late")), "it lies elsewhere");
        assert_eq!(bodies.find(id).unwrap().read().unwrap(), content(b"mended"));
        let second = place(&bodies, id);
        bodies.remove(id);
        assert!(!bodies.mend(id, second, content(b"gone")));
        assert!(bodies.find(id).is_none());
    }

    #[test]
    fn a_million_places_are_read_at_open_in_well_under_two_seconds() {
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(1));
        let dir = PathBuf::from("/million");
        disk.create_dir_all(&dir).unwrap();
        let tables = EngineKind::Redb.open(&disk, &dir).unwrap();
        let open = || {
            let options = BodyOptions::default();
            Bodies::open(&disk, dir.join("bodies"), &*tables, options, Arc::default()).unwrap()
        };
        let mut bodies = open();
        for id in 0..1_000_000u64 {
            bodies.put(ContentId(id * 2), Content::default());
            if id % 100_000 == 99_999 {
                let mut batch = Batch::new();
                let flush = bodies.plan(&mut batch, None);
                bodies.files().write(&flush).unwrap();
                tables.commit(&batch).unwrap();
                bodies.committed();
            }
        }
        let start = tokio::time::Instant::now();
        let again = open();
        let took = start.elapsed();
        assert!(took.as_millis() < 1_500, "{took:?}");
        assert_eq!(again.space(), bodies.space());
        assert!(again.find(ContentId(1_999_998)).is_some());
    }
}
