//! Reads the segments of a stopped log in order and says what they hold.
//!
//! Laws of evidence: a bad place with a good record or a good segment after it was durable, so
//! it is *damage*. At the very end a record without a whole header or trailer is *torn*, and one
//! whose header and trailer are good and whose checksum is bad is in *doubt*. Bytes of another
//! generation, and zeros, are nothing. After damage the scan goes on as if it were mended. A
//! segment that is missing is damage as well, unless it was the last: of that nobody here knows.

use std::path::{Path, PathBuf};

use super::record::{ALIGN, Found, HEADER, Header, Kind, first_seed, inspect, word64};
use super::segment::{HeaderFound, Run, Runs, SEGMENT_HEADER, SegmentHeader, segment_number};
use crate::mutants;
use crate::queue::ids::Position;
use crate::storage::disk::{Disk, OpenMode};
use crate::storage::error::{StorageError, during};
use crate::storage::mend::{Hole, Trouble};

/// The log as its records tell it.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub runs: Runs,
    pub last: Option<Position>,
    pub purged: Option<Position>,
    pub committed: Option<Position>,
}

/// A segment as found.
#[derive(Debug)]
pub(super) struct Scanned {
    pub number: u64,
    pub path: PathBuf,
    pub len: u64,
    pub header: SegmentHeader,
    /// Good records and holes in order, for a rewrite.
    pub pieces: Vec<Piece>,
    /// Where the next record goes, and its seed.
    pub end: u64,
    pub seed: u32,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Piece {
    Record { offset: u64, header: Header },
    Hole(Hole),
}

#[derive(Debug, Default)]
pub(super) struct Scan {
    pub replay: Replay,
    pub segments: Vec<Scanned>,
    pub trouble: Vec<Trouble>,
    /// Files that recycling did not finish; they hold nothing of the log.
    pub leftovers: Vec<PathBuf>,
}

impl Replay {
    fn start(&mut self, header: &SegmentHeader) {
        self.last = header.before;
        self.purged = header.purged;
        self.committed = header.committed;
    }

    fn record(&mut self, header: &Header, offset: u64) {
        match (header.kind, header.last) {
            (Kind::Entries, Some(last)) => self.runs.add(Run {
                first: header.first(),
                last: last.index,
                segment: header.segment,
                offset,
                end: offset + header.total() as u64,
            }),
            (Kind::Entries, None) => {}
            (Kind::Truncate, _) if mutants::is_chosen("stale-suffix") => {}
            (Kind::Truncate, last) => self.runs.truncate(last.map(|last| last.index)),
            (Kind::Purge, _) => {}
        }
        self.adopt(header);
    }

    /// Takes over what a header says of the log after it.
    fn adopt(&mut self, header: &Header) {
        self.last = header.last;
        self.purge(header.purged);
        self.committed = newer(self.committed, header.committed);
    }

    fn purge(&mut self, purged: Option<Position>) {
        self.purged = newer(self.purged, purged);
        if let Some(purged) = self.purged {
            self.runs.purge(purged.index);
        }
    }

    /// The log must end at `wanted` here. What is missing for that, if anything.
    fn gap(&mut self, wanted: Option<Position>, segment: u64, offset: u64) -> Option<Hole> {
        if wanted == self.last {
            return None;
        }
        let had = self.last;
        self.last = wanted;
        let Some(last) = wanted.filter(|wanted| Some(*wanted) != self.purged) else {
            self.runs.truncate(wanted.map(|wanted| wanted.index));
            return None;
        };
        // Within one leader's term a log only grows. Across terms a truncation may be among
        // what was lost; it never reached below the commit index.
        let grew = had.is_none_or(|had| {
            had.term == last.term && had.node == last.node && had.index < last.index
        });
        let after = if grew { had } else { newer(self.committed, self.purged) };
        self.runs.truncate(after.map(|after| after.index));
        Some(Hole { after, last, segment, offset })
    }
}

/// The one with the higher index.
pub(super) fn newer(a: Option<Position>, b: Option<Position>) -> Option<Position> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.index > a.index { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// Reads all of a file.
pub(super) fn read_file(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>, StorageError> {
    let file = disk.open(path, OpenMode::Read).map_err(during("open", path))?;
    let len = file.len().map_err(during("measure", path))?;
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(during("read", path))?;
    Ok(bytes)
}

/// Scans the folder of a log.
pub(super) fn scan(disk: &dyn Disk, dir: &Path) -> Result<Scan, StorageError> {
    let mut scan = Scan::default();
    let mut files = Vec::new();
    for path in disk.list(dir).map_err(during("list", dir))? {
        if let Some(number) = segment_number(&path) {
            let header = read_header(disk, &path)?;
            match header {
                HeaderFound::Newer(found) => {
                    return Err(StorageError::NewerFormat { path, found, known: 1 });
                }
                HeaderFound::Good(header) if header.number != number => scan.leftovers.push(path),
                HeaderFound::Good(header) => files.push((number, path, Some(header))),
                HeaderFound::Bad => files.push((number, path, None)),
            }
        }
    }
    for at in 0..files.len() {
        let Some((number, path, header)) = files.get(at) else { break };
        let next = files.get(at + 1);
        let bytes = read_file(disk, path)?;
        let lost_header = header.is_none();
        let header = header.unwrap_or_else(|| rebuild_header(&bytes, *number, &scan.replay));
        if at == 0 {
            scan.replay.start(&header);
        }
        let mut one = OneSegment::new(&bytes, &header, lost_header);
        one.run(&mut scan, next.is_some());
        // A next segment whose header is bad does not say where this one ended. Where segments
        // between the two are missing, the hole is what they held.
        if let Some((_, _, Some(after))) = next {
            one.gap(&mut scan, after.before, after.purged);
        }
        scan.segments.push(one.finish(path));
    }
    missing_front(&mut scan, dir)?;
    let replay = &mut scan.replay;
    if let (Some(committed), Some(last)) = (replay.committed, replay.last)
        && committed.index > last.index
    {
        replay.committed = Some(last);
    }
    Ok(scan)
}

/// A segment goes only when all in it is purged, durably. One that went before that was lost, and
/// what it held is a hole at the beginning of the first that is there.
fn missing_front(scan: &mut Scan, dir: &Path) -> Result<(), StorageError> {
    let (purged, last) = (scan.replay.purged, scan.replay.last);
    let Some(first) = scan.segments.first_mut() else { return Ok(()) };
    let Some(before) = first.header.before else { return Ok(()) };
    let purged_index = purged.map(|purged| purged.index);
    let held = scan.replay.runs.first().or(last.map(|last| last.index.saturating_add(1)));
    // Where the tail was truncated later, less is missing, and that record names the entry.
    let wanted = held.unwrap_or(0).checked_sub(1).min(Some(before.index));
    if Some(before.index) <= purged_index || wanted <= purged_index {
        return Ok(());
    }
    let records = first.pieces.iter().filter_map(|piece| match piece {
        Piece::Record { header, .. } => header.last,
        Piece::Hole(_) => None,
    });
    let ends = std::iter::once(before).chain(records);
    let Some(last) = ends.into_iter().find(|end| Some(end.index) == wanted) else {
        return Err(StorageError::damaged(dir, "its first segments are missing"));
    };
    let (segment, offset) = (first.number, SEGMENT_HEADER);
    let hole = Hole { after: purged, last, segment, offset };
    first.pieces.insert(0, Piece::Hole(hole));
    scan.trouble.insert(0, Trouble::Damage(hole));
    Ok(())
}

pub(super) fn read_header(disk: &dyn Disk, path: &Path) -> Result<HeaderFound, StorageError> {
    let file = disk.open(path, OpenMode::Read).map_err(during("open", path))?;
    let len = file.len().map_err(during("measure", path))?;
    let mut bytes = vec![0; len.min(SEGMENT_HEADER) as usize];
    file.read_exact_at(&mut bytes, 0).map_err(during("read", path))?;
    Ok(SegmentHeader::decode(&bytes))
}

/// A named segment's header rotted: a record inside knows the generation. Without one the
/// segment is empty, or all of it is lost.
fn rebuild_header(bytes: &[u8], number: u64, replay: &Replay) -> SegmentHeader {
    let mut at = SEGMENT_HEADER as usize;
    while at + HEADER <= bytes.len() {
        let header = bytes.get(at..).and_then(Header::decode).filter(|h| h.segment == number);
        if let Some(header) = header {
            let (generation, purged) = (header.generation, header.purged);
            let before = if replay.last.is_some() { replay.last } else { header.before };
            return SegmentHeader { number, generation, before, purged, committed: None };
        }
        at += ALIGN;
    }
    let generation = word64(bytes, 24).unwrap_or_default();
    let (before, purged, committed) = (replay.last, replay.purged, replay.committed);
    SegmentHeader { number, generation, before, purged, committed }
}

struct OneSegment<'a> {
    bytes: &'a [u8],
    header: SegmentHeader,
    at: usize,
    seed: u32,
    /// The record before was bad, so the chain starts anew at the next.
    broken: bool,
    bad_at: usize,
    pieces: Vec<Piece>,
}

impl<'a> OneSegment<'a> {
    fn new(bytes: &'a [u8], header: &SegmentHeader, lost_header: bool) -> OneSegment<'a> {
        let seed = first_seed(header.number, header.generation);
        let at = SEGMENT_HEADER as usize;
        OneSegment {
            bytes,
            header: *header,
            at,
            seed,
            broken: lost_header,
            bad_at: at,
            pieces: Vec::new(),
        }
    }

    fn look(&self, at: usize) -> Found {
        inspect(self.bytes, at, self.header.number, self.header.generation)
    }

    fn run(&mut self, scan: &mut Scan, followed: bool) {
        loop {
            let found = self.look(self.at);
            if let Found::Good { header, checksum } = found
                && (self.broken || header.seed == self.seed)
            {
                self.gap(scan, header.before, header.purged);
                scan.replay.record(&header, self.at as u64);
                self.pieces.push(Piece::Record { offset: self.at as u64, header });
                self.at += header.total();
                self.seed = checksum;
                self.broken = false;
                continue;
            }
            let later = self.later_good();
            if let (Found::BadBody { header, .. }, true) = (found, later.is_some() || followed) {
                self.lost_body(scan, &header);
            }
            match later {
                Some(later) => {
                    self.bad_at = self.at;
                    self.at = later;
                    self.broken = true;
                }
                None if followed => return,
                None => return self.tail(scan, found),
            }
        }
    }

    /// A record whose header says what its payload held.
    fn lost_body(&mut self, scan: &mut Scan, header: &Header) {
        self.gap(scan, header.before, header.purged);
        if let (Kind::Entries, Some(last)) = (header.kind, header.last) {
            let (segment, offset) = (self.header.number, self.at as u64);
            self.hole(scan, Hole { after: header.before, last, segment, offset });
        }
        scan.replay.adopt(header);
    }

    fn gap(&mut self, scan: &mut Scan, wanted: Option<Position>, purged: Option<Position>) {
        if wanted != scan.replay.last {
            scan.replay.purge(purged);
        }
        let offset = if self.broken { self.bad_at } else { self.at } as u64;
        if let Some(hole) = scan.replay.gap(wanted, self.header.number, offset) {
            self.hole(scan, hole);
        }
    }

    fn hole(&mut self, scan: &mut Scan, hole: Hole) {
        self.pieces.push(Piece::Hole(hole));
        scan.trouble.push(Trouble::Damage(hole));
    }

    fn later_good(&self) -> Option<usize> {
        let mut at = self.at + ALIGN;
        while at + HEADER <= self.bytes.len() {
            if let Found::Good { .. } = self.look(at) {
                return Some(at);
            }
            at += ALIGN;
        }
        None
    }

    /// Nothing good follows: the end, torn, or in doubt.
    fn tail(&mut self, scan: &mut Scan, found: Found) {
        let (segment, offset) = (self.header.number, self.at as u64);
        match found {
            Found::Nothing => {}
            Found::BadBody { header, trailer_good: true }
                if self.broken || header.seed == self.seed =>
            {
                if let Some(last) = header.last {
                    let hole = Hole { after: header.before, last, segment, offset };
                    self.pieces.push(Piece::Hole(hole));
                    scan.trouble.push(Trouble::Doubt(hole));
                }
            }
            Found::BadHeader | Found::BadBody { .. } | Found::Good { .. } => {
                scan.trouble.push(Trouble::Torn { segment, offset });
            }
        }
    }

    fn finish(self, path: &Path) -> Scanned {
        Scanned {
            number: self.header.number,
            path: path.to_path_buf(),
            len: self.bytes.len() as u64,
            header: self.header,
            pieces: self.pieces,
            end: self.at as u64,
            seed: self.seed,
        }
    }
}
