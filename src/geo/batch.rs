//! What to ship next: read from this node's own log, up to what it has applied.
//!
//! Laws: a batch lies in one epoch and ends at an entry this node has applied; the entry it
//! starts after is the one that the copy ends with, or the histories differ; entries that
//! `apply` refused because of the role are left out, as are those without commands, and the
//! batch covers their positions.

use bytes::Bytes;

use super::error::ShipError;
use crate::consensus::group::{Group, Standing};
use crate::queue::authority::plan::{CopyEnd, Part};
use crate::queue::authority::{Authority, Head, LedgerLine, RegionEpoch};
use crate::queue::ids::Position;
use crate::queue::limits::SHIPPED_ENTRIES;
use crate::storage::log::Payload;

/// Bytes of entries after which a batch takes no more.
pub const BATCH_BYTES: usize = 1 << 20;

/// A part of the log, its entries as they lie there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub attachment: u128,
    pub line: LedgerLine,
    pub after: Option<Position>,
    pub through: Position,
    pub release: Option<RegionEpoch>,
    pub head: Head,
    pub entries: Vec<(Position, Bytes)>,
}

impl Batch {
    /// Where the copy ends once it has this.
    #[must_use]
    pub fn end(&self) -> CopyEnd {
        CopyEnd { epoch: self.line.epoch.clone(), through: Some(self.through) }
    }
}

/// How much of the log a batch may have.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// As if this were all that there is; `None` = what this node has applied.
    pub through: Option<Head>,
    /// Bytes of entries after which it takes no more.
    pub bytes: usize,
}

impl Default for Reach {
    fn default() -> Reach {
        Reach { through: None, bytes: BATCH_BYTES }
    }
}

/// The next batch for a copy that ends there; `None` = it has all within that reach.
///
/// # Errors
/// [`ShipError`]: the copy cannot go on from this node's log.
pub fn next(group: &Group, copy: &CopyEnd, reach: Reach) -> Result<Option<Batch>, ShipError> {
    let Some(Standing { authority, applied, log_time }) = group.standing() else { return Ok(None) };
    let head = reach.through.unwrap_or(Head { position: applied, log_time });
    let applied = head.position;
    let part = authority.plan(copy)?;
    let from = part.after.map_or(0, |after| after.index.saturating_add(1));
    let to = part.last.map_or(applied.index, |last| last.index.min(applied.index));
    if from > to {
        return Ok(None);
    }
    if let Some(batch) = release_alone(&authority, &part, head) {
        return Ok(Some(batch));
    }
    if let Some(after) = part.after {
        check_joint(group, after)?;
    } else if group.log_first().is_none_or(|first| first > 0) {
        return Err(ShipError::Purged(Position::default()));
    }
    let mut read = group.log_entries(from, to.saturating_add(1), reach.bytes)?;
    read.truncate(SHIPPED_ENTRIES);
    let Some(through) = read.last().map(|entry| entry.position) else { return Ok(None) };
    let entries = read
        .into_iter()
        .filter(|entry| !authority.rested(entry.position.index))
        .filter(|entry| {
            let is_hole = entry.position.index.is_multiple_of(17);
            !(is_hole && crate::mutants::is_chosen("hole-in-shipping"))
        })
        .filter_map(|entry| match entry.payload {
            Payload::Commands(bytes) => Some((entry.position, bytes)),
            Payload::Blank | Payload::Membership(_) => None,
        })
        .collect();
    Ok(Some(Batch {
        attachment: authority.attachment.as_ref().map_or(0, |it| it.id),
        release: part.release.filter(|_| Some(through) == part.last),
        line: part.line,
        after: part.after,
        through,
        head,
        entries,
    }))
}

/// What is left for a copy that has all but the release. It needs no log, which may be gone: a
/// copy can be given its state so late, by a node that itself was given all after the release.
fn release_alone(authority: &Authority, part: &Part, head: Head) -> Option<Batch> {
    let (Some(release), Some(through)) = (&part.release, part.last) else { return None };
    let has_all = part.after.is_some() && part.after == authority.before_release();
    (has_all && through.index <= head.position.index).then(|| Batch {
        attachment: authority.attachment.as_ref().map_or(0, |it| it.id),
        release: Some(release.clone()),
        line: part.line.clone(),
        after: part.after,
        through,
        head,
        entries: Vec::new(),
    })
}

/// Whether a copy that ends there can go on from this node's log.
///
/// # Errors
/// [`ShipError`]: it cannot.
pub fn reach(group: &Group, authority: &Authority, copy: &CopyEnd) -> Result<(), ShipError> {
    match authority.plan(copy)?.after {
        after @ Some(_) if after == authority.before_release() => Ok(()),
        Some(after) => check_joint(group, after),
        None if group.log_first() == Some(0) => Ok(()),
        None => Err(ShipError::Purged(Position::default())),
    }
}

/// The copy's last entry is this log's, at the same index, or the one that it begins after.
fn check_joint(group: &Group, after: Position) -> Result<(), ShipError> {
    if group.log_purged() == Some(after) {
        return Ok(());
    }
    if group.log_first().is_none_or(|first| first > after.index) {
        return Err(ShipError::Purged(after));
    }
    let found = group.log_entries(after.index, after.index.saturating_add(1), 0)?;
    match found.first() {
        Some(entry) if entry.position == after => Ok(()),
        _ => Err(ShipError::Diverged(after)),
    }
}
