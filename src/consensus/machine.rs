//! openraft's state machine over the store: applies entries in order and answers their clients
//! straight from here.
//!
//! Laws: one writer; every entry moves the applied position, those without commands too; nothing
//! is applied while the tables are too far behind. The tables *are* the snapshot: a snapshot is a
//! pinned view at the position they hold durably, and nothing is copied to make one.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use openraft::entry::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::watch;

use super::group::{Limits, Waiting};
use super::pending::Pending;
use super::proposer::Answered;
use super::types::{
    Applied, Local, LogId, Proposal, Snapshot, SnapshotData, SnapshotMeta, StoredMembership,
    TypeConfig, log_id, position, read_stored_membership,
};
use crate::proto::epoch::KnownEpoch;
use crate::queue::authority::Role;
use crate::queue::ids::{Epoch, LogTime, Position};
use crate::queue::outcome::{Outcome, Reply as QueueReply};
use crate::storage::bodies::Found;
use crate::storage::codec;
use crate::storage::snapshot::SnapshotView;
use crate::storage::store::{Store, StoreError};

/// How far this node has applied, and the T it reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppliedMark {
    pub position: Option<Position>,
    pub log_time: LogTime,
}

/// The store as everybody on this node shares it: readers take it for a moment, the machine
/// alone writes.
#[derive(Clone, Debug)]
pub struct SharedStore {
    store: Arc<RwLock<Store>>,
    applied: watch::Sender<AppliedMark>,
    footing: watch::Sender<Footing>,
    known_epoch: watch::Sender<Option<KnownEpoch>>,
}

/// Whether this cluster may write now, in which epoch, and by whose leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footing {
    pub epoch: Epoch,
    pub is_writable: bool,
    /// Nothing is acknowledged without a grant of the other region.
    pub needs_lease: bool,
    /// Beyond them writes wait for the other region.
    pub limits: Option<Limits>,
}

impl SharedStore {
    #[must_use]
    pub fn new(store: Store) -> SharedStore {
        let (applied, _) = watch::channel(mark_of(&store));
        let (footing, _) = watch::channel(footing_of(&store));
        let (known_epoch, _) = watch::channel(known_epoch_of(&store));
        SharedStore { store: Arc::new(RwLock::new(store)), applied, footing, known_epoch }
    }

    /// The store to read, for a moment: never across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Store> {
        self.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.store.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves whenever an entry was applied.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<AppliedMark> {
        self.applied.subscribe()
    }

    /// Moves whenever another epoch is in force, by a promotion here or in the other region, and
    /// whenever writing is allowed or refused.
    #[must_use]
    pub fn footing(&self) -> watch::Receiver<Footing> {
        self.footing.subscribe()
    }

    /// As of the last entry that was applied.
    #[must_use]
    pub fn footing_now(&self) -> Footing {
        *self.footing.borrow()
    }

    /// The epoch that clients are told, where this cluster is in a pair, as of the last entry that
    /// was applied: the one that it is in, or by which it is fenced.
    #[must_use]
    pub fn known_epoch(&self) -> Option<KnownEpoch> {
        *self.known_epoch.borrow()
    }

    /// Said while the store is held: who read it since then knows the epoch of what it read.
    fn tell_epoch(&self, store: &Store) {
        let known = known_epoch_of(store);
        self.known_epoch.send_if_modified(|told| std::mem::replace(told, known) != known);
    }

    fn publish(&self) {
        let (mark, footing) = {
            let store = self.read();
            (mark_of(&store), footing_of(&store))
        };
        // Who hears that an entry was applied must not read the footing before it.
        self.footing.send_if_modified(|known| std::mem::replace(known, footing) != footing);
        self.applied.send_replace(mark);
    }

    /// Makes all that is applied durable in the tables. Nobody waits for the disk meanwhile.
    ///
    /// # Errors
    /// [`StoreError::NoRoom`] while the disk is full. A failed commit: the node must stop.
    pub async fn commit(&self) -> Result<(), StoreError> {
        let target = self.read().applied();
        loop {
            let mut commits = self.read().commits();
            commits.borrow_and_update();
            if self.write().commit_through(target)? {
                return Ok(());
            }
            if commits.changed().await.is_err() {
                return Err(StoreError::Failed("the writer of the tables has ended".into()));
            }
        }
    }

    /// What is done now and then whether or not anything is applied: begins a commit that is
    /// due, and frees rows of cleared queues, a bounded number.
    pub fn keep_house(&self) -> Result<(), StoreError> {
        /// Rows freed each time.
        const ROWS: usize = 1_000;
        let mut store = self.write();
        store.reclaim(ROWS);
        store.commit_if_due().map(|_| ())
    }

    /// Waits until the tables have caught up enough for another entry.
    async fn until_writable(&self) -> Result<(), StoreError> {
        loop {
            let mut commits = self.read().commits();
            commits.borrow_and_update();
            {
                let mut store = self.write();
                store.commit_if_due()?;
                if !store.must_wait() {
                    return Ok(());
                }
            }
            if commits.changed().await.is_err() {
                return Ok(());
            }
        }
    }
}

fn mark_of(store: &Store) -> AppliedMark {
    AppliedMark { position: store.applied(), log_time: store.state().log_time() }
}

fn footing_of(store: &Store) -> Footing {
    let state = store.state();
    let needs_lease = state.authority().is_some_and(|it| it.leasing.in_force.is_some());
    let limits = state.authority().and_then(Limits::throttling);
    Footing { epoch: state.epoch(), is_writable: state.is_writable(), needs_lease, limits }
}

fn known_epoch_of(store: &Store) -> Option<KnownEpoch> {
    let authority = store.state().authority()?;
    let epoch = match &authority.role {
        Role::Fenced { by, .. } => by,
        _ => &authority.epoch,
    };
    KnownEpoch::new(epoch.number.0.into(), &epoch.region, authority.lineage)
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

/// openraft's state machine.
#[derive(Clone, Debug)]
pub struct Machine {
    shared: SharedStore,
    pending: Pending,
    /// Who must hear of what is applied.
    waiting: Waiting,
    /// For a mutant: the last entry that openraft gave to apply.
    agreed: Arc<Mutex<Option<LogId>>>,
}

impl Machine {
    #[must_use]
    pub fn new(shared: SharedStore, pending: Pending) -> Machine {
        Machine { shared, pending, waiting: Waiting::default(), agreed: Arc::default() }
    }

    /// Tells those who wait for messages which queues an entry has changed.
    #[must_use]
    pub(super) fn waking(self, waiting: Waiting) -> Machine {
        Machine { waiting, ..self }
    }

    /// The mutant: a proposal of this node, if all before it is applied.
    pub(super) fn apply_early(&self, id: &LogId, proposal: &Proposal) -> io::Result<()> {
        let next = self.shared.read().applied().map(|at| at.index + 1);
        if proposal.is_local() && next == Some(id.index()) {
            self.apply_commands(id, proposal)?;
            self.shared.publish();
        }
        Ok(())
    }

    /// Only under the mutant is an entry applied before it is committed.
    fn was_applied_early(&self, id: &LogId) -> bool {
        if !crate::mutants::is_chosen("acknowledge-before-quorum") {
            return false;
        }
        *self.agreed.lock().unwrap_or_else(PoisonError::into_inner) = Some(*id);
        self.shared.read().applied().is_some_and(|at| at.index >= id.index())
    }

    fn snapshot_of(&self, view: SnapshotView) -> io::Result<Snapshot> {
        let held = log_id(&view.position());
        // Under the mutant openraft must not learn of what was applied early.
        let agreed = *self.agreed.lock().unwrap_or_else(PoisonError::into_inner);
        let meta = SnapshotMeta {
            last_log_id: Some(agreed.map_or(held, |agreed| held.min(agreed))),
            last_membership: read_membership(view.membership())?,
        };
        Ok(Snapshot { meta, snapshot: SnapshotData::View(view) })
    }

    fn apply_commands(&self, id: &LogId, proposal: &Proposal) -> io::Result<()> {
        let at = position(id);
        let (entry, replies) = match self.pending.take(id) {
            Some(Local { mut entry, replies }) => {
                entry.position = at;
                (entry, replies)
            }
            None => {
                let entry = codec::decode_entry(at, proposal.encoded.clone()).map_err(broken)?;
                (entry, Vec::new())
            }
        };
        let mut store = self.shared.write();
        let applied = store.apply(&entry);
        self.shared.tell_epoch(&store);
        if replies.is_empty() {
            drop(store);
            self.waiting.applied(&applied.changes.rows);
            return Ok(());
        }
        let answers: Vec<(Outcome, Vec<Option<Found>>)> = applied
            .outcomes
            .into_iter()
            .map(|outcome| {
                let found = contents_of(&store, &outcome);
                (outcome, found)
            })
            .collect();
        drop(store);
        self.waiting.applied(&applied.changes.rows);
        let (position, epoch, log_time) = (at, entry.epoch, applied.log_time);
        for (reply, (outcome, found)) in replies.into_iter().zip(answers) {
            // A caller that has gone away is no trouble. Contents are read by who waits for them: a
            // slow disk holds nobody else up.
            let _ = reply.send(Ok(Answered { outcome, position, epoch, log_time, found }));
        }
        Ok(())
    }
}

fn contents_of(store: &Store, outcome: &Outcome) -> Vec<Option<Found>> {
    match outcome {
        Ok(QueueReply::Received { messages, .. }) => {
            messages.iter().map(|granted| store.find(granted.content)).collect()
        }
        _ => Vec::new(),
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Machine;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let store = self.shared.read();
        let membership = read_membership(store.membership())?;
        Ok((store.applied().as_ref().map(log_id), membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            if self.shared.read().must_wait() {
                self.shared.until_writable().await.map_err(broken)?;
            }
            match &entry.payload {
                _ if self.was_applied_early(&entry.log_id) => {}
                EntryPayload::Blank => self.shared.write().mark(position(&entry.log_id)),
                EntryPayload::Normal(proposal) => self.apply_commands(&entry.log_id, proposal)?,
                EntryPayload::Membership(membership) => {
                    let stored = StoredMembership::new(Some(entry.log_id), membership.clone());
                    let bytes = serde_json::to_vec(&stored).map_err(broken)?;
                    let at = position(&entry.log_id);
                    self.shared.write().set_membership(at, Bytes::from(bytes));
                }
            }
            self.shared.publish();
            if let Some(responder) = responder {
                responder.send(Applied {});
            }
        }
        self.shared.write().commit_if_due().map_err(broken)?;
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Machine {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let SnapshotData::Received(ready) = snapshot else {
            return Err(io::Error::other("a snapshot of this node cannot be installed on it"));
        };
        {
            let mut store = self.shared.write();
            store.install(ready).map_err(broken)?;
            self.shared.tell_epoch(&store);
        }
        self.shared.publish();
        self.waiting.all_changed();
        tracing::info!("a snapshot from another node was installed");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let view = {
            let store = self.shared.read();
            if store.durable().is_none() {
                return Ok(None);
            }
            store.view().map_err(broken)?
        };
        self.snapshot_of(view).map(Some)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        match self.shared.commit().await {
            // What was durable before is a snapshot too.
            Err(StoreError::NoRoom) if self.shared.read().durable().is_some() => {}
            committed => committed.map_err(broken)?,
        }
        let view = self.shared.read().view().map_err(broken)?;
        self.snapshot_of(view)
    }
}

fn read_membership(stored: Option<(Position, Bytes)>) -> io::Result<StoredMembership> {
    stored.map_or_else(
        || Ok(StoredMembership::default()),
        |(_, bytes)| read_stored_membership(&bytes).map_err(broken),
    )
}
