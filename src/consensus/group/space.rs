//! What a node does about a disk that fills: it looks, says what it refuses, and leads no longer
//! when another's disk is better.
//!
//! Laws: what a stage refuses is refused before it is proposed, so it is *not applied*; a
//! follower refuses the call before it appends. The leader takes no send that a majority of the
//! voters could not store, and of a voter that is silent it does not believe that it could. All
//! of it ends by itself when there is space again.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tokio::time::Instant;

use super::super::error::{Fate, GroupError, Reason};
use super::super::transport::DiskReport;
use super::super::types::NodeId;
use super::Group;
use crate::queue::authority::command::RegionVerb;
use crate::queue::command::Command;
use crate::storage::disk::FlushMode;
use crate::storage::error::StorageError;
use crate::storage::reserve::Stage;
use crate::storage::space::Space;

/// How often it looks, and how often where space is scarce.
const EVERY: Duration = Duration::from_millis(200);
const OFTEN: Duration = Duration::from_millis(50);
/// When a refused call may be tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// What a voter said of its disk holds for so long, at least.
const NEWS: Duration = Duration::from_secs(3);
/// With less room in its log, and no space for more, a node only gives back.
const LOG_SHORT_BYTES: u64 = 4 << 20;
/// The end of a log's segment that is not for entries.
const LOG_KEPT_BYTES: u64 = 64 << 10;
/// What is shipped here, and from which stage on it is refused.
const SHIPPED: (Stage, &str) = (Stage::RefuseSends, "shipped entries");
/// How far a voter may be behind that shall lead instead.
const NEARLY: u64 = 1_000;

/// What is refused now, and by reason of whose disk. Reading it costs nothing.
#[derive(Debug, Default)]
pub(super) struct Refusing {
    own: AtomicU8,
    stage: AtomicU8,
    node: AtomicU64,
    /// Since when anything is.
    since: Mutex<Option<Instant>>,
}

impl Refusing {
    pub(super) fn own(&self) -> Stage {
        Stage::from_number(self.own.load(Ordering::Relaxed)).unwrap_or_default()
    }

    fn set(&self, own: Stage, (stage, node): (Stage, NodeId)) {
        self.own.store(own as u8, Ordering::Relaxed);
        self.node.store(node, Ordering::Relaxed);
        self.stage.store(stage as u8, Ordering::Relaxed);
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = (stage != Stage::Ok).then(|| since.unwrap_or_else(Instant::now));
    }
}

/// From which stage on a command is refused.
fn refused_from(command: &Command) -> (Stage, &'static str) {
    match command {
        Command::Send { .. }
        | Command::CreateQueue { .. }
        | Command::SetMetadata { .. }
        | Command::StartRedrive(_)
        | Command::ReplayTail(_)
        | Command::UndeleteQueue { .. }
        | Command::RaiseRules { .. } => (Stage::RefuseSends, "sends"),
        Command::Update(update) if update.content.is_some() => (Stage::RefuseSends, "sends"),
        Command::Transact(asked) if !asked.sends.is_empty() => (Stage::RefuseSends, "sends"),
        Command::Update(_) | Command::Receive(_) | Command::Release { .. } => {
            (Stage::RefuseReceives, "receives")
        }
        Command::Delete { .. }
        | Command::Transact(_)
        | Command::DeleteQueue { .. }
        | Command::SetPaused { .. }
        | Command::SetSettings { .. }
        | Command::CancelRedrive { .. }
        | Command::SetAccountQuota(_)
        | Command::Clear { .. } => (Stage::RefuseDeletes, "deletes"),
        Command::Region(asked) => match asked.verb {
            RegionVerb::ApplyShipped(_) => SHIPPED,
            // Who may write must be settled on a full disk too.
            _ => (Stage::Emergency, "changes of regions"),
        },
        Command::Pulse => (Stage::Emergency, "pulses"),
    }
}

/// What a majority of the voters refuses, and who decides it. `None` is a voter of which nothing
/// was heard lately. Where silence alone makes the majority, the disk is not to blame, and the
/// fullest that is known decides.
fn of_majority(voters: &[(NodeId, Option<Stage>)]) -> (Stage, NodeId) {
    let mut known: Vec<(Stage, NodeId)> =
        voters.iter().filter_map(|(id, stage)| Some(((*stage)?, *id))).collect();
    known.sort_unstable();
    let decides = known.get(voters.len() / 2).or_else(|| known.last());
    decides.copied().unwrap_or_default()
}

impl Group {
    /// Refuses a command for which a disk is too full.
    pub(super) fn check_space(&self, command: &Command) -> Result<(), GroupError> {
        let refusing = &self.inner.refusing;
        let stage = refusing.stage.load(Ordering::Relaxed);
        if stage == 0 {
            return Ok(());
        }
        let (from, what) = refused_from(command);
        if stage < from as u8 {
            return Ok(());
        }
        let node = refusing.node.load(Ordering::Relaxed);
        Err(GroupError::NotNow {
            reason: Reason::DiskFull { node, what },
            fate: Fate::NotApplied,
            retry_after: RETRY_AFTER,
            leader: None,
        })
    }

    /// Why this node, if it leads, takes nothing now that the other region ships, and for how long
    /// a disk has been too full.
    #[must_use]
    pub fn refuses_shipped(&self) -> Option<(String, Duration)> {
        let refusing = &self.inner.refusing;
        let (from, what) = SHIPPED;
        if refusing.stage.load(Ordering::Relaxed) < from as u8 {
            return None;
        }
        let node = refusing.node.load(Ordering::Relaxed);
        let since = *refusing.since.lock().unwrap_or_else(PoisonError::into_inner);
        let lasted = since.map_or(Duration::ZERO, |since| since.elapsed());
        Some((Reason::DiskFull { node, what }.to_string(), lasted))
    }

    /// Why this node takes no entries of so many bytes from its leader now.
    pub(super) fn refuses_entries(&self, bytes: u64) -> Option<String> {
        let stage = self.inner.refusing.own();
        if stage == Stage::Ok {
            return None;
        }
        let room = self.inner.log.room();
        (stage == Stage::Emergency || room < bytes.saturating_add(LOG_KEPT_BYTES)).then(|| {
            let node = self.node();
            format!("the disk of node {node} is full: it takes no entries until there is space")
        })
    }

    /// Lets this node's disk count as if no more than this were free: for tests and drills.
    pub fn pretend_disk_free(&self, bytes: Option<u64>) {
        self.space().pretend_free(bytes);
    }

    /// What a node last said of its disk, if that was not long ago.
    #[must_use]
    pub fn disk_of(&self, node: NodeId) -> Option<DiskReport> {
        let bound = (self.inner.config.election.1 * 4).max(NEWS);
        let report = self.inner.peers.disk_of(node)?;
        (node == self.node() || report.at.elapsed() <= bound).then_some(report)
    }

    pub(super) fn disk_is_short(&self, node: NodeId) -> bool {
        self.disk_of(node).is_some_and(|disk| disk.stage != Stage::Ok)
    }

    pub(super) fn space(&self) -> Space {
        self.inner.store.read().disk_space().clone()
    }

    /// Bytes that the disk must still take for what was accepted.
    fn owed_bytes(&self) -> u64 {
        let owed = self.inner.store.read().owed_bytes();
        let (room, segment) = (self.inner.log.room(), self.inner.log.segment_bytes());
        // A segment less its header is one that the log can go on in.
        let next = if room.saturating_add(8 << 10) < segment { segment } else { 0 };
        owed.saturating_add(next)
    }

    /// The stage of this node's disk: a log without room counts as a full one.
    fn own_stage(&self, looked: Stage) -> Stage {
        let (room, segment) = (self.inner.log.room(), self.inner.log.segment_bytes());
        match looked {
            Stage::Ok => Stage::Ok,
            short if room < LOG_SHORT_BYTES.min(segment / 4) => short.max(Stage::RefuseDeletes),
            short => short,
        }
    }

    /// Who shall lead in this node's place because its disk is short: a voter whose disk is not,
    /// and that has nearly all of the log.
    pub(super) fn heir_of_a_full_disk(&self) -> Option<NodeId> {
        if self.inner.refusing.own() == Stage::Ok || !self.inner.leadership.borrow().is_me {
            return None;
        }
        let status = self.status();
        let fit = status.nodes.iter().filter(|node| {
            node.voter
                && node.id != status.node
                && self.disk_of(node.id).is_some_and(|disk| disk.stage == Stage::Ok)
                && node.matched.is_some_and(|held| held + NEARLY >= status.last_log)
        });
        fit.max_by_key(|node| node.matched).map(|node| node.id)
    }

    /// Takes notice of a look at the disk.
    fn note_look(&self, looked: Stage, space: &Space) {
        let own = self.own_stage(looked);
        let free_bytes = space.seen().map_or(0, |seen| seen.free_bytes);
        let report = DiskReport { stage: own, free_bytes, at: Instant::now() };
        self.inner.peers.note_disk(self.node(), report);
        self.inner.log.make_spares_ahead(own == Stage::Ok);
        let voters: Vec<(NodeId, Option<Stage>)> = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters = metrics.membership_config.voter_ids();
            voters.map(|id| (id, self.disk_of(id).map(|disk| disk.stage))).collect()
        };
        let before = self.inner.refusing.own();
        // What this node leads it must store as well.
        self.inner.refusing.set(own, of_majority(&voters).max((own, self.node())));
        if own != before {
            match own {
                Stage::Ok => tracing::info!("there is space on the disk again"),
                _ => tracing::warn!(free_bytes, "the disk is nearly full: it {}", own.name()),
            }
        }
    }
}

/// Looks until Raft stops.
pub(super) async fn run(group: Group, mode: FlushMode) {
    let space = group.space();
    while group.is_running() {
        match look(&space, group.owed_bytes(), mode).await {
            Ok(stage) => group.note_look(stage, &space),
            Err(error) => {
                tracing::error!(%error, "the disk cannot be used: this node stops");
                let _ = group.inner.peers.scoped(group.inner.raft.shutdown()).await;
                return;
            }
        }
        tokio::time::sleep(if space.is_scarce() { OFTEN } else { EVERY }).await;
    }
}

/// The disk may take its time, and nobody waits for it.
async fn look(space: &Space, owed: u64, mode: FlushMode) -> Result<Stage, StorageError> {
    match mode {
        FlushMode::Inline => space.observe(owed),
        FlushMode::Threads => {
            let looking = space.clone();
            let looked = tokio::task::spawn_blocking(move || looking.observe(owed)).await;
            // A runtime that ends takes no more looks.
            looked.unwrap_or_else(|_| Ok(space.stage()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_decides_and_a_silent_voter_is_not_counted_on() {
        use Stage::{Emergency, Ok, RefuseReceives, RefuseSends};
        let decided = |stages: &[Option<Stage>]| {
            let voters: Vec<_> = (1..).zip(stages.iter().copied()).collect();
            of_majority(&voters).0
        };
        assert_eq!(decided(&[Some(Ok), Some(Ok), Some(Emergency)]), Ok);
        assert_eq!(decided(&[Some(Ok), Some(RefuseSends), Some(Emergency)]), RefuseSends);
        assert_eq!(decided(&[Some(Ok), None, Some(RefuseReceives)]), RefuseReceives);
        assert_eq!(decided(&[Some(Ok), None, None]), Ok, "that is not the disk's fault");
        assert_eq!(decided(&[Some(Ok), Some(Ok), None]), Ok);
        assert_eq!(decided(&[Some(RefuseSends)]), RefuseSends);
        assert_eq!(decided(&[Some(Ok), Some(RefuseSends)]), RefuseSends, "both are needed");
        assert_eq!(decided(&[]), Ok);
    }
}
