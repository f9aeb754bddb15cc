//! The group as the floors above see it: propose, receive, read, and the news of who leads and
//! how far this node has applied.
//!
//! Laws: a write is proposed only on the leader; every wait has a deadline; a write whose answer
//! did not come in time is *unknown*, never *failed*. An empty answer and every linearizable read
//! need a confirmation by a majority (ReadIndex) that began after the request came in. What is read
//! where another region may have newer data is as old as its T is by this node's clock.
//!
//! Long-lived work is handed out as [`Task`]s: who assembles the node spawns and joins them.

mod clocks;
mod comparing;
mod contents;
mod heard;
mod inquiry;
mod lag;
mod leadership;
mod lease;
mod local;
mod measures;
mod receive;
mod redundancy;
mod shipping;
mod space;
mod status;
mod upkeep;
mod waiting;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::Raft;
use openraft::async_runtime::{Instant as _, WatchReceiver as _};
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

use clocks::Clocks;
pub use clocks::{Followed, Follows};
use comparing::Agreements;
pub use comparing::{Agreement, CompareError};
pub use lag::{Behind, Limits};
pub use leadership::Leadership;
pub use lease::{Grant, RegionLease};
pub use measures::{Lead, Measures};
pub use shipping::Standing;
pub use status::{NodeView, Role, Status};
pub(super) use waiting::Waiting;

use super::confirm::Confirmer;
use super::error::{GroupError, Reason};
use super::fastpath::{self, FastPathOptions};
use super::forward::{ForwardError, LeaderChannels};
use super::log_store::LogStore;
use super::machine::{AppliedMark, Machine, SharedStore};
use super::membership::{
    self, Admission, AdmissionError, Found, Membership, MembershipError, OnDisk,
};
use super::network::{ChannelOptions, Network};
use super::pending::Pending;
use super::proposer::{Done, Proposer, RaftHandle, Term};
use super::transport::{Faults, PeerNetworkFactory, PeerService, Peers};
use super::types::{Member, NodeId, scoped};
use super::zones::Wanted;
use crate::clock::SharedClock;
use crate::queue::State;
use crate::queue::command::Envelope;
use crate::queue::ids::{LogTime, Position, Span};
use crate::storage::disk::FlushMode;
use crate::storage::log::Log;
use crate::storage::store::Store;
use crate::storage::vote::VoteRecord;

/// A leader that nothing was heard of for so long, at least, is not said to lead.
const SILENCE: Duration = Duration::from_secs(1);
/// Kept in the place of a vote by a node that is admitted to the forming of a cluster: for nobody,
/// in the term before the first.
const ADMITTED: VoteRecord = VoteRecord { term: 0, node: 0, committed: false };

/// A task that lives as long as the node, with its name.
pub type Task = (&'static str, Pin<Box<dyn Future<Output = ()> + Send>>);

/// How this node takes part.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    pub cluster_id: String,
    pub node: NodeId,
    /// The members of a cluster that is formed now; empty for a node that joins later. The same
    /// on every node.
    pub founders: BTreeMap<NodeId, Member>,
    pub heartbeat: Duration,
    pub election: (Duration, Duration),
    /// How far a wall clock may differ from those of a majority.
    pub clock_bound: Duration,
    pub preferred_zone: Option<String>,
    pub enable_faults: bool,
    pub channel: ChannelOptions,
    /// Decides elections in a simulation; from the system elsewhere.
    pub seed: u64,
}

/// What a started group hands to the node's assembly.
pub struct Started {
    pub group: Group,
    pub tasks: Vec<Task>,
    pub peer_service: PeerService<Machine>,
}

/// Why a group did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the timers are refused: {0}")]
    Timers(String),
    #[error(transparent)]
    ClusterId(#[from] super::transport::ClusterIdError),
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error("Raft did not start: {0}")]
    Raft(String),
}

/// Why a node does not take part.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(transparent)]
    Form(#[from] MembershipError),
}

/// How fresh a read must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// It sees every write that was acknowledged before it began.
    Linearizable,
    /// Whatever this node has, if it heard of the leader within this time; and in a cluster that
    /// another region may be ahead of, if its T is within this time of this node's clock.
    Stale(Duration),
}

/// A handle to the group. Cheap to clone.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    config: GroupConfig,
    raft: RaftHandle,
    store: SharedStore,
    log: Log,
    proposer: Proposer,
    confirmer: Confirmer,
    peers: Peers,
    leadership: watch::Receiver<Leadership>,
    terms: watch::Receiver<Option<Arc<Term>>>,
    channels: LeaderChannels,
    waiting: Waiting,
    /// What its disk held when this node started.
    held: OnDisk,
    draining: AtomicBool,
    refusing: space::Refusing,
    lease: RegionLease,
    heard: heard::Heard,
    clocks: Clocks,
    copy: lag::Copy,
    agreements: Agreements,
    inquiry: inquiry::Inquiry,
}

fn raft_config(config: &GroupConfig) -> Result<Arc<openraft::Config>, StartError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let (shortest, longest) = (millis(config.election.0), millis(config.election.1));
    let wanted = openraft::Config {
        cluster_name: config.cluster_id.clone(),
        heartbeat_interval: millis(config.heartbeat),
        election_timeout_min: shortest,
        election_timeout_max: longest,
        enable_pre_vote: Some(true),
        // A leader that lost its quorum stops its heartbeats, so that others may elect.
        quorum_loss_probe_interval: Some(longest * 2 + longest / 2),
        // Bytes are bounded by the log reader.
        max_payload_entries: 64,
        // The tables are the snapshot; `upkeep` asks for them and purges.
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        install_snapshot_timeout: 10_000,
        enable_leader_restore: Some(false),
        // Under a mutant its assertion would end the run before our own checks see the loss.
        allow_log_reversion: crate::mutants::is_any_chosen().then_some(true),
        ..openraft::Config::default()
    };
    wanted.validate().map(Arc::new).map_err(|error| StartError::Timers(error.to_string()))
}

/// What the disk holds. It must reach as far as the others remember; under a mutant it need not,
/// so that our own checks see the loss.
async fn held(
    peers: &Peers,
    log: &Log,
    store: &Store,
    founders: &BTreeMap<NodeId, Member>,
) -> Result<OnDisk, AdmissionError> {
    let vote = log.vote();
    if vote.is_none() && log.last().is_none() {
        return Ok(OnDisk::Nothing);
    }
    let ends = [log.last(), log.last_purged(), store.applied()];
    let last = ends.iter().flatten().map(|at| at.index).max();
    if !crate::mutants::is_any_chosen() {
        let term = vote.map_or(0, |vote| vote.term);
        let found = Found { last: last.unwrap_or(0), term };
        membership::memory_check(peers, found, &addresses(founders)).await?;
    }
    let was_admitted = vote == Some(ADMITTED) && last.is_none();
    Ok(if was_admitted { OnDisk::Admission } else { OnDisk::Promises })
}

/// Where the members' peers listen.
fn addresses(members: &BTreeMap<NodeId, Member>) -> BTreeMap<NodeId, String> {
    members.iter().map(|(id, member)| (*id, member.peer_address.clone())).collect()
}

impl Group {
    /// Starts this node's part of the group over an opened log and store, and forms the cluster
    /// if this node is a founder and has no state at all.
    ///
    /// # Errors
    /// Timers that openraft refuses, a cluster id no call can carry, a log that cannot be read, or
    /// one that lost its end.
    pub async fn start(
        config: GroupConfig,
        log: Log,
        store: Store,
        mode: FlushMode,
        clock: SharedClock,
        network: Arc<dyn Network>,
    ) -> Result<Started, StartError> {
        let raft_config = raft_config(&config)?;
        let faults = if config.enable_faults { Faults::enabled() } else { Faults::disabled() };
        let (cluster_id, channel) = (config.cluster_id.clone(), config.channel.clone());
        let peers = Peers::new(cluster_id, config.node, network, channel, faults)?;
        let held = held(&peers, &log, &store, &config.founders).await?;
        let heard = heard::Heard::new(log.heard());
        let store = SharedStore::new(store);
        let factory = PeerNetworkFactory::new(peers.clone());
        let (pending, waiting) = (Pending::default(), Waiting::default());
        let machine = Machine::new(store.clone(), pending.clone()).waking(waiting.clone());
        let logs = LogStore::new(log.clone(), pending).answering(&machine);
        let start = Raft::new(config.node, raft_config, factory, logs, machine);
        let raft = scoped(config.seed, start)
            .await
            .map_err(|fatal| StartError::Raft(fatal.to_string()))?;

        let (terms_out, terms) = watch::channel(None);
        let (leadership_out, leadership) = watch::channel(Leadership::default());
        let (proposer, propose) = Proposer::new(raft.clone(), terms.clone());
        let round = (config.election.1 * 2).max(Duration::from_secs(1));
        let (confirmer, confirm) = Confirmer::new(raft.clone(), peers.clone(), round);
        let (signal, lost) = fastpath::signal();
        let inner = Inner {
            raft: raft.clone(),
            store,
            log,
            proposer,
            confirmer,
            peers: peers.clone(),
            leadership,
            terms,
            channels: LeaderChannels::new(peers.clone()),
            waiting,
            held,
            draining: AtomicBool::new(false),
            refusing: space::Refusing::default(),
            lease: RegionLease::new(Arc::clone(&clock)),
            heard,
            clocks: Clocks::new(Arc::clone(&clock)),
            copy: lag::Copy::default(),
            agreements: Agreements::default(),
            inquiry: inquiry::Inquiry::default(),
            config,
        };
        let group = Group { inner: Arc::new(inner) };
        let local = Arc::new(local::Local::new(group.clone(), held != OnDisk::Promises, mode));
        let peer_service =
            PeerService::new(raft.clone(), peers.clone(), local, Arc::clone(&clock), signal);
        let leading = leadership::run(group.clone(), clock, leadership_out, terms_out);
        let tasks: Vec<Task> = vec![
            ("proposer", Box::pin(propose)),
            ("confirmer", Box::pin(confirm)),
            ("fast path", Box::pin(fastpath::run(raft, peers, FastPathOptions::default(), lost))),
            ("leadership", Box::pin(leading)),
            ("receivers", Box::pin(receive::serve(group.clone()))),
            ("disk space", Box::pin(space::run(group.clone(), mode))),
            ("upkeep", Box::pin(upkeep::run(group.clone()))),
            ("comparing", Box::pin(comparing::run(group.clone()))),
            ("fencing", Box::pin(heard::run(group.clone()))),
        ];
        Ok(Started { group, tasks, peer_service })
    }

    /// Finds out whether this node may take part under its id, and forms the cluster if it is a
    /// founder and everybody's disk is empty. The peer service must be answering by now: every
    /// founder does the same, and each needs the others' word.
    ///
    /// # Errors
    /// A node that lost its disk, or too few answers by the deadline.
    pub async fn join(&self, wanted: Wanted, within: Duration) -> Result<Admission, JoinError> {
        let config = &self.inner.config;
        let others = addresses(&config.founders);
        let (peers, held) = (&self.inner.peers, self.inner.held);
        let keep = || self.inner.log.save_vote(&ADMITTED);
        let admission = membership::admission_check(peers, held, &others, within, keep).await?;
        if admission == Admission::Forming && config.founders.contains_key(&config.node) {
            self.members().form(config.founders.clone(), wanted).await?;
        }
        Ok(admission)
    }

    /// The verbs that change who belongs to the group.
    #[must_use]
    pub fn members(&self) -> Membership<Machine> {
        Membership::new(self.inner.raft.clone())
    }

    /// The way to the leader for calls that are passed on; `None` when nobody leads or this node
    /// does.
    #[must_use]
    pub fn leader_channel(&self) -> Option<(NodeId, Result<Channel, ForwardError>)> {
        let leader = self.inner.leadership.borrow().leader.filter(|id| *id != self.node())?;
        let members = self.members().members();
        let member = members.voters.get(&leader).or_else(|| members.learners.get(&leader))?;
        Some((leader, self.inner.channels.to(leader, &member.peer_address)))
    }

    /// Gives up the way to `leader`, at the end of which was another node.
    pub fn forget_leader_channel(&self, leader: NodeId) {
        self.inner.channels.forget(leader);
    }

    #[must_use]
    pub fn node(&self) -> NodeId {
        self.inner.config.node
    }

    #[must_use]
    pub fn config(&self) -> &GroupConfig {
        &self.inner.config
    }

    #[must_use]
    pub fn raft(&self) -> &RaftHandle {
        &self.inner.raft
    }

    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.inner.peers
    }

    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.inner.store
    }

    /// Who leads, as far as this node knows.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// How far this node has applied.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<AppliedMark> {
        self.inner.store.applied()
    }

    /// Whether new work is refused here.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Relaxed)
    }

    fn term(&self) -> Result<Arc<Term>, GroupError> {
        self.inner.terms.borrow().clone().ok_or_else(|| self.not_leader())
    }

    fn not_leader(&self) -> GroupError {
        let leader = self.inner.leadership.borrow().leader;
        GroupError::NotNow {
            reason: if leader.is_some() { Reason::NotLeader } else { Reason::NoLeader },
            fate: super::error::Fate::NotApplied,
            retry_after: self.inner.config.heartbeat,
            leader,
        }
    }

    /// Queues a command on the leader; what is returned resolves to its answer. Dearer callers
    /// use [`Group::propose`].
    ///
    /// # Errors
    /// Not applied: this node does not lead, drains, has too much in flight, holds no region lease
    /// where one is relied on, the other region is too far behind, or a disk is full.
    pub fn submit(
        &self,
        envelope: Envelope,
        deadline: Instant,
    ) -> Result<impl Future<Output = Result<Done, GroupError>> + Send + use<>, GroupError> {
        if self.is_draining() {
            return Err(GroupError::not_applied(Reason::Draining));
        }
        let term = self.term()?;
        self.check_footing(&term, &envelope.command)?;
        self.check_space(&envelope.command)?;
        let is_clients = lease::is_clients(&envelope.command);
        if is_clients {
            self.check_lease()?;
            self.check_lag(&envelope.command)?;
        }
        let answer = self.inner.proposer.submit(envelope, |sent| self.announce(sent))?;
        let group = self.clone();
        Ok(async move {
            let answered = match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(answered)) => answered?,
                Ok(Err(_)) => return Err(GroupError::unknown(Reason::LeaderChanged)),
                Err(_) => return Err(GroupError::unknown(Reason::Deadline)),
            };
            let done = group.done(answered, deadline).await?;
            if is_clients {
                group.check_lease_after()?;
                group.check_heard_after(done.epoch)?;
            }
            Ok(done)
        })
    }

    /// Proposes a command and waits for its outcome.
    ///
    /// # Errors
    /// As [`Group::submit`]; *unknown* when no answer came by the deadline.
    pub async fn propose(&self, envelope: Envelope, deadline: Instant) -> Result<Done, GroupError> {
        self.until_within_limits(&envelope.command, deadline).await?;
        self.submit(envelope, deadline)?.await
    }

    /// Confirms with a majority that this node leads and has applied everything acknowledged
    /// before the call.
    ///
    /// # Errors
    /// *Not now* when it could not be confirmed by the deadline.
    pub async fn confirm(&self, deadline: Instant) -> Result<(), GroupError> {
        if crate::mutants::is_chosen("stale-leader-read") {
            return Ok(());
        }
        self.inner.confirmer.confirm(deadline).await
    }

    /// Reads from the store at the freshness asked for; the T is that of the state which
    /// answered.
    ///
    /// # Errors
    /// *Not now* when the freshness cannot be had; refused by the role of this cluster.
    pub async fn read<T>(
        &self,
        freshness: Freshness,
        deadline: Instant,
        look: impl FnOnce(&Store, LogTime) -> T,
    ) -> Result<(T, LogTime), GroupError> {
        let now = match freshness {
            Freshness::Linearizable => {
                let term = self.term()?;
                self.confirm(deadline).await?;
                self.check_lease()?;
                self.check_heard()?;
                term.clock.stamp()
            }
            Freshness::Stale(bound) => {
                if !self.heard_within(bound) {
                    return Err(GroupError::not_applied(Reason::NoLeader));
                }
                LogTime::default()
            }
        };
        let store = self.inner.store.read();
        let allowed = store.state().authority().map(|it| match freshness {
            Freshness::Linearizable => it.check_newest(),
            Freshness::Stale(bound) => {
                let allowed = Span(u64::try_from(bound.as_micros()).unwrap_or(u64::MAX));
                let now = LogTime(self.inner.clocks.wall_us());
                it.check_age(store.state().log_time(), now, allowed)
            }
        });
        if let Some(Err(refusal)) = allowed {
            return Err(GroupError::Rejected(refusal.into()));
        }
        let at = told_time(store.state());
        // Where nothing may be written T rests, or follows the other region's.
        let now = if store.state().is_writable() { LogTime(now.0.max(at.0)) } else { at };
        Ok((look(&store, now), at))
    }

    /// The leader, if this node heard of it lately. Where no majority is, nobody is.
    #[must_use]
    pub fn leader_heard(&self) -> Option<NodeId> {
        let leader = self.inner.raft.metrics().borrow_watched().current_leader?;
        let bound = (self.inner.config.election.1 * 2).max(SILENCE);
        self.heard_within(bound).then_some(leader)
    }

    /// Whether this node heard of a leader within this time: as a follower by what it was sent,
    /// as the leader by a majority's answers. Knowing a leader's name says nothing: a node that
    /// is cut off knows it for ever.
    fn heard_within(&self, bound: Duration) -> bool {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.current_leader == Some(self.node()) {
            let alone = metrics.membership_config.voter_ids().count() == 1;
            return alone || metrics.last_quorum_acked.is_some_and(|at| at.elapsed() <= bound);
        }
        self.inner.peers.last_heard().is_some_and(|at| at.elapsed() <= bound)
    }

    /// Whether this node knows that exactly this entry is committed and applied. An entry that
    /// another leader wrote at the same index is not it, and of one that was purged nothing is
    /// known any more.
    #[must_use]
    pub fn has_applied(&self, position: Position) -> bool {
        let reached = self.inner.store.read().applied();
        let held = || self.inner.log.entry(position.index).ok().flatten();
        reached.is_some_and(|at| at.index >= position.index)
            && held().is_some_and(|entry| entry.position == position)
    }

    /// Refuses new work and hands leadership over, or ends that.
    pub async fn drain(&self, on: bool) {
        self.inner.draining.store(on, Ordering::Relaxed);
        if on && self.inner.leadership.borrow().is_me {
            let _ = self.hand_over(None).await;
        }
    }

    /// Stops taking part. The log and the store are whole whenever this ends.
    pub async fn shutdown(&self) {
        let _ = self.inner.peers.scoped(self.inner.raft.shutdown()).await;
        if let Err(error) = self.inner.store.commit().await {
            tracing::error!(%error, "the last commit of the tables failed");
        }
    }

    fn is_running(&self) -> bool {
        self.inner.raft.metrics().borrow_watched().running_state.is_ok()
    }
}

/// The T that a read carries: that of the very state which answers.
fn told_time(state: &State) -> LogTime {
    if crate::mutants::is_chosen("newest-sync-on-reads")
        && let Some(head) = state.authority().and_then(|it| it.head)
    {
        return head.log_time.max(state.log_time());
    }
    state.log_time()
}

fn stopped() -> GroupError {
    GroupError::Fatal("its Raft core ended".into())
}

#[cfg(test)]
mod tests;
