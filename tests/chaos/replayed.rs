//! What the nodes of a pair of regions were, entry by entry, from the logs that they left behind:
//! every entry is applied again, by the same code, to a state that begins empty.
//!
//! A real process tells nobody of its state at each position; its log does, whole, as a short run
//! is far from what a log lets go of. What the processes themselves held is compared with it, by
//! the digests that they told when they were at rest.
//!
//! Laws: an entry is taken for applied up to the last one that a node was seen to have applied.
//! When it first was is not known but between two times: the stamp that its proposer gave it, and
//! the first look that saw it applied. Whichever of the two blames nobody wrongly is written down:
//! the second one for what ends a right to answer, which is a fence, the first for all else. Where
//! faults move clocks a stamp tells no time; then the last looks at which no log had the entry are
//! the first of the two.

use std::path::Path;
use std::sync::Arc;

use zoneq::clock::SystemClock;
use zoneq::queue::State;
use zoneq::queue::authority::{Authority, Role};
use zoneq::storage::codec;
use zoneq::storage::disk::overlay::OverlayDisk;
use zoneq::storage::disk::real::RealDisk;
use zoneq::storage::log::{Log, LogEntry, LogOptions, Payload};

use crate::began;
use crate::history::{Applied, Cluster, History, Micros, Sighted};
use crate::seen::Seen;

/// Bytes of entries that are read at once.
const READ_BYTES: usize = 4 << 20;
/// The node that is told of: all of a cluster are the same at the same position.
const NODE: u64 = 1;

/// Whether the clocks of nodes tell the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clocks {
    True,
    /// A fault moves them.
    Moved,
}

/// A state on its way through a log.
struct Replay<'a> {
    cluster: Cluster,
    seen: &'a Seen,
    clocks: Clocks,
    state: State,
    authority: Option<Arc<Authority>>,
    /// When the entry before was stamped.
    stamped: Micros,
}

/// Writes down what a cluster was at each entry of this node's log, as far as it was seen to be
/// applied; how many entries there were.
pub fn replay(
    history: &mut History,
    cluster: Cluster,
    data: &Path,
    seen: &Seen,
    clocks: Clocks,
) -> Result<u64, String> {
    let words = |error: zoneq::storage::error::StorageError| {
        format!("the log in {} cannot be read: {error}", data.display())
    };
    let disk = Arc::new(OverlayDisk::new(Arc::new(RealDisk)));
    let options = LogOptions::new(0, Arc::new(SystemClock::default()));
    let (log, opened) = Log::open(disk, &data.join("log"), options).map_err(words)?;
    if let Some(purged) = opened.last_purged {
        return Err(format!("the log in {} begins only at {purged:?}", data.display()));
    }
    let last = opened.last.map_or(0, |last| last.index);
    if last < seen.last() {
        let through = seen.last();
        return Err(format!("the log in {} ends at {last}, before {through}", data.display()));
    }
    let (state, authority, stamped) = (State::new(), None, 0);
    let mut replay = Replay { cluster, seen, clocks, state, authority, stamped };
    let mut next = log_begin(&log).map_err(words)?;
    let begin = next;
    while next <= seen.last() {
        let entries = log.read(next, seen.last() + 1, READ_BYTES).map_err(words)?;
        if entries.is_empty() {
            return Err(format!("the log in {} has no entry {next}", data.display()));
        }
        for entry in &entries {
            replay.apply(history, entry)?;
            next = entry.position.index + 1;
        }
    }
    Ok(next - begin)
}

/// The first index that it has: a cluster may number its entries from zero.
fn log_begin(log: &Log) -> Result<u64, zoneq::storage::error::StorageError> {
    let first = log.read(0, 1, READ_BYTES);
    Ok(u64::from(!first.is_ok_and(|entries| !entries.is_empty())))
}

impl Replay<'_> {
    fn apply(&mut self, history: &mut History, entry: &LogEntry) -> Result<(), String> {
        let at = entry.position;
        if let Payload::Commands(bytes) = &entry.payload {
            let decoded = codec::decode_entry(at, bytes.clone())
                .map_err(|error| format!("entry {at:?} cannot be read: {error}"))?;
            self.stamped = self.stamped.max(decoded.stamp.0.saturating_sub(began().1));
            self.state.apply(&decoded);
        }
        let (cluster, digest) = (self.cluster, self.state.digest().0);
        let (index, term, leader) = (at.index, at.term, at.node);
        history.applied.push(Applied { cluster, node: NODE, index, term, leader, digest });
        let Some(authority) = self.state.authority() else { return Ok(()) };
        let same = self.authority.as_ref().filter(|known| ***known == *authority);
        let authority = same.map_or_else(|| Arc::new(authority.clone()), Arc::clone);
        self.authority = Some(Arc::clone(&authority));
        let by = self.seen.by(index);
        let is_silent = matches!(authority.role, Role::Fenced { .. } | Role::Conflict { .. });
        let since = match self.clocks {
            Clocks::True => self.stamped,
            Clocks::Moved => self.seen.since(index),
        };
        let at = if is_silent { by } else { since.min(by) };
        let log_time = self.state.log_time().0;
        let digest = Some(digest);
        let sighted = Sighted { at, cluster, node: NODE, index, log_time, digest, authority };
        history.pair.sighted.push(sighted);
        Ok(())
    }
}
