//! Mends the log before Raft starts: what is damaged or in doubt is fetched from peers, a record
//! in doubt that no voter has is cut, and damage that nobody mends any more is let go once the
//! tables hold what was there (`restore.rs`).
//!
//! Laws: until the log is whole this node says nothing to Raft. Meanwhile it answers its peers'
//! questions for log entries, because they may be mending too; everything else it refuses. A
//! record in doubt is cut only when every other node has answered, or an operator gives it up.
//! Mending writes a segment anew: on a full disk it waits for the space.
//!
//! [`BeforeRaft`] is that time: the peers are asked and answered, and Raft does not run. Lost
//! tables (`restore.rs`) are fetched in it too.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::BoxStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::{Code, Request, Response, Status, Streaming};

use super::shutdown::end_within;
use super::tls::Tls;
use super::{Addresses, Config, Listeners, ServerError};
use crate::api::grpc::Mending;
use crate::consensus::network::{ChannelOptions, Network};
use crate::consensus::transport::convert::{stored_in, stored_out};
use crate::consensus::transport::{CallError, Faults, PeerClient, Peers, unread};
use crate::proto::admin::v1 as admin;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::peer_service_server::{PeerService, PeerServiceServer};
use crate::storage::error::StorageError;
use crate::storage::log::{Log, LogEntry, LogState};
use crate::storage::mend::{Hole, Trouble};

const QUESTION: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(250);
/// Between two tries to mend on a full disk.
const FULL_PAUSE: Duration = Duration::from_secs(1);
const ANSWER_BYTES: usize = 8 << 20;
/// How long damage waits for the nodes that do not answer, when another has let the entries go.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// The time before Raft starts, while peers are asked.
pub(super) struct BeforeRaft {
    pub(super) peers: Peers,
    /// The other nodes of the configuration, with their peer addresses.
    pub(super) others: Vec<(u64, String)>,
    /// What the operator is told meanwhile.
    pub(super) mending: Mending,
    local: Addresses,
    stop: watch::Sender<bool>,
    peer: Serving,
    grpc: Serving,
}

type Serving = JoinHandle<Result<(), tonic::transport::Error>>;

impl BeforeRaft {
    /// Answers peers and clients on the listeners until [`BeforeRaft::end`].
    pub(super) fn begin(
        config: &Config,
        network: &Arc<dyn Network>,
        log: &Log,
        channel: &ChannelOptions,
        listeners: Listeners,
        tls: Option<&Tls>,
    ) -> Result<BeforeRaft, ServerError> {
        let local = listeners.addresses();
        let Listeners { grpc, peer } = listeners;
        let (cluster, network) = (&*config.cluster_id, Arc::clone(network));
        let faults = Faults::disabled();
        let peers = Peers::new(cluster, config.node_id, network, channel.clone(), faults)
            .map_err(|error| ServerError::fatal("the node cannot ask its peers", error))?;
        let others = config.peers.0.iter().filter(|peer| peer.id != config.node_id);
        let others = others.map(|peer| (peer.id, peer.address.clone())).collect();
        let service = MendingPeer { log: log.clone(), peers: peers.clone() };
        let mut router = super::server(tls.map(|tls| tls.peer.server()))?;
        let router = router.add_service(service.into_server());
        let (stop, stopping) = watch::channel(false);
        let stopped = super::stopped(stopping.clone());
        let peer = tokio::spawn(router.serve_with_incoming_shutdown(peer.incoming, stopped));

        let mending = Mending::of_node(config.node_id);
        // Not serving is what this reporter says of everything that it is not told of.
        let (_, health) = tonic_health::server::health_reporter();
        let mut router = super::server(tls.map(Tls::public))?;
        let router = router.add_routes(mending.clone().routes()).add_service(health);
        let stopped = super::stopped(stopping);
        let grpc = tokio::spawn(router.serve_with_incoming_shutdown(grpc.incoming, stopped));
        Ok(BeforeRaft { peers, others, mending, local, stop, peer, grpc })
    }

    /// Somebody can be asked for what is missing in log and tables.
    ///
    /// # Errors
    /// Where there is no other node.
    pub(super) fn check_others(&self, trouble: Trouble) -> Result<(), ServerError> {
        let Some(hole) = trouble.hole().filter(|_| self.others.is_empty()) else { return Ok(()) };
        let why = format!(
            "entries {} to {} are damaged, the tables end before that, and there is no other node \
             to fetch them from",
            hole.first(),
            hole.last.index
        );
        Err(ServerError::fatal("the log cannot be mended", why))
    }

    /// Ends it; the addresses are free afterwards.
    pub(super) async fn end(mut self) -> Addresses {
        self.stop.send_replace(true);
        // A server asked to stop keeps its port while a connection is open.
        let peer = end_within(PATIENCE, &mut self.peer);
        let grpc = end_within(PATIENCE, &mut self.grpc);
        if tokio::join!(peer, grpc) != (false, false) {
            tracing::debug!("a connection outlived the mending");
        }
        self.local
    }
}

/// How long calls of peers have to end.
const PATIENCE: Duration = Duration::from_millis(500);

/// Puts the entries in the place of what is missing, or lets it go, as soon as there is space for
/// that.
///
/// # Errors
/// When the log cannot be written.
pub(super) async fn in_its_place(
    log: &Log,
    trouble: Trouble,
    entries: Option<Vec<LogEntry>>,
) -> Result<LogState, ServerError> {
    let mut said = false;
    loop {
        let done = match (trouble, entries.clone()) {
            (Trouble::Damage(hole) | Trouble::Doubt(hole), Some(entries)) => {
                log.mend(hole, entries).await
            }
            (Trouble::Damage(hole), None) => log.let_go(hole).await,
            (Trouble::Doubt(_) | Trouble::Torn { .. }, _) => log.cut_doubt().await,
        };
        match done {
            Err(error @ StorageError::Full { .. }) => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!(%error, "the log waits for space to be mended");
                }
                tokio::time::sleep(FULL_PAUSE).await;
            }
            done => return done.map_err(unmended),
        }
    }
}

fn unmended(source: StorageError) -> ServerError {
    ServerError::fatal("the log cannot be mended", source)
}

/// Mends until nothing is left to mend, or until nobody gives what is missing.
///
/// # Errors
/// When the log cannot be written.
pub(super) async fn run(
    log: &Log,
    state: &mut LogState,
    before: &BeforeRaft,
) -> Result<Option<Trouble>, ServerError> {
    let (peers, others, mending) = (&before.peers, &before.others[..], &before.mending);
    let mut asked = None;
    while let Some(trouble) = state.trouble.iter().find(|trouble| trouble.hole().is_some()).copied()
    {
        let Some(hole) = trouble.hole() else { break };
        let begun = match asked {
            Some((of, begun)) if of == hole => begun,
            _ => tokio::time::Instant::now(),
        };
        asked = Some((hole, begun));
        tracing::warn!(
            ?trouble,
            "the log is not whole; asking the other nodes for the entries that are missing"
        );
        let in_doubt = matches!(trouble, Trouble::Doubt(_));
        let (fetched, heard) = fetch(hole, peers, others).await;
        mending.tell(heard.report(hole, in_doubt));
        let is_late = begun.elapsed() >= LONGEST_SILENCE;
        match fetched {
            Fetched::Entries(entries) => {
                *state = in_its_place(log, trouble, Some(entries)).await?;
                tracing::info!("the log was mended");
            }
            Fetched::NobodyHadThem if in_doubt => {
                *state = in_its_place(log, trouble, None).await?;
                tracing::warn!("the last record was cut: no other node has it");
            }
            Fetched::NobodyHadThem | Fetched::LetGo => return Ok(Some(trouble)),
            Fetched::Undecided if is_late && !heard.let_go.is_empty() => return Ok(Some(trouble)),
            Fetched::Undecided if in_doubt && mending.is_loss_accepted() => {
                *state = in_its_place(log, trouble, None).await?;
                tracing::warn!(
                    first = hole.first(), last = hole.last.index, silent = ?heard.silent,
                    "the last record was cut because an operator gave it up"
                );
            }
            Fetched::Undecided => tokio::time::sleep(PAUSE).await,
        }
    }
    Ok(None)
}

enum Fetched {
    Entries(Vec<LogEntry>),
    /// All others answered, and none has ever had all of them.
    NobodyHadThem,
    /// All others answered, and what one of them had is in its tables alone.
    LetGo,
    Undecided,
}

/// What the others said when they were asked.
#[derive(Debug, Default)]
struct Heard {
    silent: Vec<u64>,
    lacking: Vec<u64>,
    /// Their logs begin later.
    let_go: Vec<u64>,
}

impl Heard {
    fn report(&self, hole: Hole, in_doubt: bool) -> admin::GetMendingResponse {
        use admin::MendingTrouble::{Damage, Doubt};
        let lacking = self.lacking.iter().chain(&self.let_go);
        admin::GetMendingResponse {
            node_id: 0,
            trouble: if in_doubt { Doubt } else { Damage }.into(),
            first_index: hole.first(),
            last_index: hole.last.index,
            silent_nodes: self.silent.clone(),
            lacking_nodes: lacking.copied().collect(),
        }
    }
}

async fn fetch(hole: Hole, peers: &Peers, others: &[(u64, String)]) -> (Fetched, Heard) {
    let mut heard = Heard::default();
    for (id, address) in others {
        match fetch_from(hole, peers, *id, address).await {
            Ok(Some(entries)) => return (Fetched::Entries(entries), heard),
            Ok(None) => heard.lacking.push(*id),
            Err(CallError::Status { status, .. }) if status.code() == Code::OutOfRange => {
                heard.let_go.push(*id);
            }
            Err(error) => {
                tracing::info!(node = id, %error, "a node did not answer");
                heard.silent.push(*id);
            }
        }
    }
    let fetched = match (heard.silent.is_empty(), heard.let_go.is_empty()) {
        (true, true) => Fetched::NobodyHadThem,
        (true, false) => Fetched::LetGo,
        (false, _) => Fetched::Undecided,
    };
    (fetched, heard)
}

/// Exactly the hole's entries, or `None` when that node does not have them.
async fn fetch_from(
    hole: Hole,
    peers: &Peers,
    id: u64,
    address: &str,
) -> Result<Option<Vec<LogEntry>>, CallError> {
    let mut client = PeerClient::new(peers.clone(), id, address);
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut next = hole.first();
    let end = hole.last.index.saturating_add(1);
    while next < end {
        let read = client.read_log(next, end, QUESTION).await?;
        let read: Option<Vec<LogEntry>> = read.into_iter().map(stored_in).collect();
        let Some(read) = read.filter(|read| !read.is_empty()) else { return Ok(None) };
        for entry in read {
            if entry.position.index != next {
                return Ok(None);
            }
            next += 1;
            entries.push(entry);
        }
    }
    let fits = entries.last().is_some_and(|entry| entry.position == hole.last);
    Ok(fits.then_some(entries))
}

/// What a node that mends answers its peers.
pub(super) struct MendingPeer {
    pub(super) log: Log,
    pub(super) peers: Peers,
}

impl MendingPeer {
    pub(super) fn into_server(self) -> PeerServiceServer<MendingPeer> {
        PeerServiceServer::new(self)
    }
}

fn mending<T>() -> Result<Response<T>, Status> {
    Err(Status::unavailable("this node mends its data before it takes part"))
}

#[tonic::async_trait]
impl PeerService for MendingPeer {
    type AppendStream = BoxStream<'static, Result<pb::AppendResponse, Status>>;
    type ReadSnapshotStream = BoxStream<'static, Result<pb::ReadSnapshotResponse, Status>>;

    async fn append(
        &self,
        _: Request<Streaming<pb::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        mending()
    }

    async fn vote(
        &self,
        _: Request<pb::VoteRequest>,
    ) -> Result<Response<pb::VoteResponse>, Status> {
        mending()
    }

    async fn install_snapshot(
        &self,
        _: Request<Streaming<pb::InstallSnapshotRequest>>,
    ) -> Result<Response<pb::InstallSnapshotResponse>, Status> {
        mending()
    }

    async fn transfer_leader(
        &self,
        _: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        mending()
    }

    async fn read_clock(
        &self,
        _: Request<pb::ReadClockRequest>,
    ) -> Result<Response<pb::ReadClockResponse>, Status> {
        mending()
    }

    async fn read_log(
        &self,
        request: Request<pb::ReadLogRequest>,
    ) -> Result<Response<pb::ReadLogResponse>, Status> {
        self.peers.admit(request.metadata())?;
        let pb::ReadLogRequest { from_index, to_index } = request.into_inner();
        let entries = match self.log.read(from_index, to_index, ANSWER_BYTES) {
            Err(purged @ StorageError::OutOfRange { .. }) => return Err(unread(&purged)),
            // What is missing here too is as good as not there.
            read => read.unwrap_or_default().into_iter().map(stored_out).collect(),
        };
        Ok(Response::new(pb::ReadLogResponse { entries }))
    }

    async fn read_snapshot(
        &self,
        _: Request<pb::ReadSnapshotRequest>,
    ) -> Result<Response<Self::ReadSnapshotStream>, Status> {
        mending()
    }

    async fn read_content(
        &self,
        _: Request<pb::ReadContentRequest>,
    ) -> Result<Response<pb::ReadContentResponse>, Status> {
        mending()
    }

    async fn compare(
        &self,
        _: Request<pb::CompareRequest>,
    ) -> Result<Response<pb::CompareResponse>, Status> {
        mending()
    }

    async fn get_digest(
        &self,
        _: Request<pb::GetDigestRequest>,
    ) -> Result<Response<pb::GetDigestResponse>, Status> {
        mending()
    }

    async fn get_standing(
        &self,
        _: Request<pb::GetStandingRequest>,
    ) -> Result<Response<pb::GetStandingResponse>, Status> {
        mending()
    }
}
