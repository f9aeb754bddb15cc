//! The roof: builds the rooms in order, starts them, announces the addresses, and drains in
//! reverse. Nothing is decided here. The only place that spawns long-lived tasks.
//!
//! The order: ports, HTTP, data directory, log, mending, reserve, tables, Raft, peer listener, client listener.
//! Each failure has its own class and message ([`ServerError`]).

pub mod config;
mod error;
mod health;
mod http;
pub mod limits;
mod mend;
mod pair;
mod restore;
mod shutdown;
mod sizes;
pub mod telemetry;
pub mod tls;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::RngCore as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::InterceptorLayer;
use tonic::transport::Server;
use tonic::{Request, Status};

pub use config::{Config, ConfigKeys};
pub use error::{ErrorClass, ServerError};
pub use sizes::Sizes;

use crate::api::admission::Admission;
use crate::api::grpc::{ClusterFace, Mending, QueueFace, RegionFace, told};
use crate::clock::{SharedClock, SystemClock};
use crate::consensus::group::{Group, GroupConfig, StartError, Started};
use crate::consensus::network::{
    CONNECTION_WINDOW_BYTES, ChannelOptions, FRAME_BYTES, Listener, Network, STREAM_WINDOW_BYTES,
    TcpNetwork,
};
use crate::consensus::transport::Peers;
use crate::consensus::types::Member;
use crate::consensus::zones::{self, Wanted};
use crate::geo::pair::Pair;
use crate::geo::receiver::Receiver;
use crate::storage::disk::real::RealDisk;
use crate::storage::disk::{Disk, FlushMode};
use crate::storage::error::StorageError;
use crate::storage::format::{DataDir, Identity};
use crate::storage::log::{Log, LogOptions, LogState};
use crate::storage::space::Space;
use crate::storage::store::{Store, StoreOptions};
use http::Http;
use mend::BeforeRaft;
use tls::Tls;

/// How far a wall clock may differ from those of a majority.
pub const CLOCK_BOUND: Duration = Duration::from_secs(1);
/// How long a node with an empty disk asks the others whether it was ever used.
const JOIN_WITHIN: Duration = Duration::from_secs(300);
/// A client connection that is silent is asked this often whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What a node stands on: the machine's own, or a simulator's.
#[derive(Clone, Debug)]
pub struct Parts {
    pub disk: Arc<dyn Disk>,
    pub clock: SharedClock,
    pub network: Arc<dyn Network>,
    /// Decides elections in a simulation; from the system elsewhere.
    pub seed: u64,
    pub sizes: Sizes,
}

impl Parts {
    /// The machine's own.
    #[must_use]
    pub fn real() -> Parts {
        Parts {
            disk: Arc::new(RealDisk),
            clock: Arc::new(SystemClock::default()),
            network: Arc::new(TcpNetwork),
            seed: rand::rng().next_u64(),
            sizes: Sizes::default(),
        }
    }
}

/// Where a node listens, with the ports it was given when it asked for port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub grpc: SocketAddr,
    pub peer: SocketAddr,
    /// `None` = it listens nowhere for metrics.
    pub metrics: Option<SocketAddr>,
}

/// The sockets that clients and peers come in by.
struct Listeners {
    grpc: Listener,
    peer: Listener,
}

impl Listeners {
    async fn open(parts: &Parts, at: Addresses) -> Result<Listeners, ServerError> {
        let grpc = listen(parts, "grpc_listen", at.grpc).await?;
        let peer = listen(parts, "peer_listen", at.peer).await?;
        Ok(Listeners { grpc, peer })
    }

    fn addresses(&self) -> Addresses {
        Addresses { grpc: self.grpc.local, peer: self.peer.local, metrics: None }
    }
}

/// A running node. Dropping it stops it at once, as a crash would.
pub struct Node {
    addresses: Addresses,
    group: Group,
    tasks: JoinSet<()>,
    grpc_stop: watch::Sender<bool>,
    servers: shutdown::Servers,
    /// Answers until the very end, so that one sees that the node drains.
    _http: Option<Http>,
    failed: watch::Receiver<Option<Arc<ServerError>>>,
    /// Held while the node runs: the lock goes with it.
    _data_dir: DataDir,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Node {
    /// Starts a node on the machine's own disk, clock and network. It serves once a leader is
    /// known; [`Node::failed`] says when it cannot go on.
    ///
    /// # Errors
    /// [`ServerError`], each class with its own message.
    pub async fn start(config: Config) -> Result<Node, ServerError> {
        Node::start_with(config, Parts::real()).await
    }

    /// Starts a node on the parts given.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_with(config: Config, parts: Parts) -> Result<Node, ServerError> {
        config.validate()?;
        let tls = config.tls.as_ref().map(Tls::read).transpose()?;
        if let Some(tls) = &tls {
            // What is wrong with the files is said before anything is made.
            server(Some(tls.public()))?;
            server(Some(tls.peer.server()))?;
        }
        if tls.is_none() && !(loopback(config.grpc_listen) && loopback(config.peer_listen)) {
            tracing::warn!("listening without TLS on addresses that others reach: insecure_listen");
        }
        let (grpc, peer) = (config.grpc_listen, config.peer_listen);
        let wished = Addresses { grpc, peer, metrics: None };
        let listeners = Listeners::open(&parts, wished).await?;
        let http = Http::open(&config, &parts).await?;
        let addresses = listeners.addresses();
        let (data_dir, log, state) = open_log(&config, &parts).await?;

        let mut channel = ChannelOptions::for_election(election(&config).0);
        channel.tls = tls.as_ref().map(|tls| tls.peer.clone());
        let (store, listeners) =
            repair(&config, &parts, &log, state, &channel, listeners, tls.as_ref()).await?;

        let founders = founders(&config, addresses);
        let wanted = wanted(&founders);
        let group_config = GroupConfig {
            cluster_id: config.cluster_id.clone(),
            node: config.node_id,
            founders,
            heartbeat: config.heartbeat(),
            election: election(&config),
            clock_bound: CLOCK_BOUND,
            preferred_zone: config.preferred_zone.clone(),
            enable_faults: config.enable_faults,
            channel,
            seed: parts.seed,
        };
        let mode = parts.disk.flush_mode();
        let (clock, network) = (Arc::clone(&parts.clock), Arc::clone(&parts.network));
        let mut started = Group::start(group_config, log, store, mode, clock, network)
            .await
            .map_err(|error| match error {
                StartError::Admission(source) => {
                    ServerError::MayNotJoin { source: Box::new(source) }
                }
                other => ServerError::fatal("the node cannot take part", other),
            })?;
        let pair = pair::begin(&config, &mut started, &parts.clock);
        let sockets = (listeners, http);
        Node::assemble(&config, data_dir, (started, pair), wanted, sockets, tls.as_ref())
    }

    fn assemble(
        config: &Config,
        data_dir: DataDir,
        (started, pair): (Started, Pair),
        wanted: Wanted,
        (listeners, http): (Listeners, Option<Http>),
        tls: Option<&Tls>,
    ) -> Result<Node, ServerError> {
        let metrics = http.as_ref().map(|http| http.local);
        let addresses = Addresses { metrics, ..listeners.addresses() };
        let Listeners { grpc, peer } = listeners;
        let Started { group, tasks, peer_service } = started;
        let (mut running, (fail, failed)) = (JoinSet::new(), watch::channel(None));
        for (name, task) in tasks {
            running.spawn(supervised(name, task, fail.clone()));
        }

        let admission = Admission::new(config.max_in_flight_requests, config.max_in_flight_bytes);
        let queue = QueueFace::new(group.clone(), admission.clone());
        let cluster = ClusterFace::new(pair.clone());
        let router = server(tls.map(|tls| tls.peer.server()))?
            .layer(meant_for(group.peers().clone()))
            .add_service(peer_service.into_server())
            .add_service(Receiver::new(group.clone(), pair.clone()).into_server())
            .add_service(RegionFace::new(pair.clone()).into_server())
            .add_service(queue.clone().into_server())
            .add_service(cluster.clone().into_server());
        let peers = group.peers().clone();
        let left = async move { peers.until_left().await };
        let peer_server = router.serve_with_incoming_shutdown(peer.incoming, left);

        let (reporter, health_service) = tonic_health::server::health_reporter();
        let (ready_out, ready) = watch::channel(false);
        running.spawn(health::run(group.clone(), reporter, ready_out));
        let requests = http::begin(http.as_ref(), &pair, admission, ready);
        let (grpc_stop, grpc_stopped) = watch::channel(false);
        let router = server(tls.map(Tls::public))?
            .layer(told(pair.group().clone()))
            .layer(requests)
            .add_service(queue.into_server())
            .add_service(cluster.into_server())
            .add_service(RegionFace::new(pair).into_server())
            .add_service(Mending::nothing(config.node_id).into_server())
            .add_service(health_service)
            .add_service(reflection()?);
        let grpc_server = router.serve_with_incoming_shutdown(grpc.incoming, stopped(grpc_stopped));

        let servers = shutdown::Servers {
            peer: tokio::spawn(served("peer listener", peer_server, fail.clone())),
            grpc: tokio::spawn(served("client listener", grpc_server, fail.clone())),
        };
        running.spawn(join(group.clone(), wanted, fail));
        tracing::info!(
            node = config.node_id,
            zone = config.zone,
            grpc = %addresses.grpc,
            peer = %addresses.peer,
            "the node has started"
        );
        Ok(Node {
            addresses,
            group,
            tasks: running,
            grpc_stop,
            servers,
            _http: http,
            failed,
            _data_dir: data_dir,
        })
    }

    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The node's part of the group, for tests and embedding.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Resolves when the node can serve no longer by itself; then [`Node::shutdown`] it.
    pub async fn failed(&self) -> Arc<ServerError> {
        let mut failed = self.failed.clone();
        let why = failed.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        match why {
            Some(why) => why,
            // All tasks ended without a word: only a shutdown does that.
            None => std::future::pending().await,
        }
    }
}

fn loopback(address: SocketAddr) -> bool {
    address.ip().is_loopback()
}

fn election(config: &Config) -> (Duration, Duration) {
    let range = config.election_ms;
    (Duration::from_millis(range.min), Duration::from_millis(range.max))
}

async fn listen(
    parts: &Parts,
    key: &'static str,
    address: SocketAddr,
) -> Result<Listener, ServerError> {
    parts.network.listen(&address.to_string()).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServerError::PortInUse { key, address },
        _ => ServerError::Listen { key, address, source },
    })
}

/// Runs disk work: on its own thread over a real disk, in place over a simulated one.
async fn disk_work<T: Send + 'static>(
    mode: FlushMode,
    work: impl FnOnce() -> Result<T, ServerError> + Send + 'static,
) -> Result<T, ServerError> {
    match mode {
        FlushMode::Inline => work(),
        FlushMode::Threads => tokio::task::spawn_blocking(work)
            .await
            .unwrap_or_else(|gone| Err(ServerError::fatal("opening the data directory", gone))),
    }
}

async fn open_log(config: &Config, parts: &Parts) -> Result<(DataDir, Log, LogState), ServerError> {
    let (disk, dir) = (Arc::clone(&parts.disk), config.data_dir.clone());
    let identity = Identity {
        cluster_id: config.cluster_id.clone(),
        node_id: config.node_id,
        region: config.region.clone(),
        zone: config.zone.clone(),
    };
    let mut options = LogOptions::new(parts.seed, Arc::clone(&parts.clock));
    options.segment_bytes = parts.sizes.log_segment_bytes;
    options.cache_bytes = parts.sizes.log_cache_bytes;
    let opening = move || {
        let refused = |source| ServerError::DataDir { dir: dir.clone(), source };
        let data_dir =
            DataDir::open(&disk, &dir, identity).map_err(|error| refused(Box::new(error)))?;
        let (log, state) = Log::open(Arc::clone(&disk), &dir.join("log"), options)
            .map_err(|error| refused(Box::new(error)))?;
        Ok((data_dir, log, state))
    };
    if parts.disk.flush_mode() == FlushMode::Inline {
        return opening();
    }
    // The flusher may start a task of this runtime, so the thread must know it.
    let runtime = tokio::runtime::Handle::current();
    disk_work(FlushMode::Threads, move || {
        let _inside = runtime.enter();
        opening()
    })
    .await
}

async fn open_store(config: &Config, parts: &Parts, log: &Log) -> Result<Store, ServerError> {
    // A node with neither vote nor entries never had tables of its own to lose, and where nobody
    // else has them and the log does not reach back, they are better kept as they are.
    let state = log.state();
    let others = config.peers.0.iter().any(|peer| peer.id != config.node_id);
    let replaceable =
        (state.vote.is_some() || state.last.is_some()) && (others || state.last_purged.is_none());
    let (disk, dir) = (Arc::clone(&parts.disk), config.data_dir.clone());
    let mut options = StoreOptions::new(Arc::clone(&parts.clock));
    options.engine = config.engine;
    options.body_bytes = config.body_memory_bytes;
    options.bodies.segment_bytes = parts.sizes.body_segment_bytes;
    options.commit_bytes = parts.sizes.commit_bytes;
    options.commit_interval = parts.sizes.commit_interval;
    options.many_rows = parts.sizes.many_rows;
    let reserve_bytes = config.disk_reserve_bytes;
    disk_work(parts.disk.flush_mode(), move || {
        options.space = open_space(&disk, &dir, reserve_bytes)
            .map_err(|error| ServerError::DataDir { dir: dir.clone(), source: Box::new(error) })?;
        restore::open_tables(&disk, &dir, &options, replaceable)
            .map_err(|error| ServerError::DataDir { dir, source: Box::new(error) })
    })
    .await
}

/// The space on the data directory's disk. A reserve from an earlier run makes room for what
/// opening the tables writes.
fn open_space(
    disk: &Arc<dyn Disk>,
    dir: &std::path::Path,
    reserve_bytes: u64,
) -> Result<Space, StorageError> {
    const TO_OPEN_BYTES: u64 = 4 << 20;
    let space = Space::open(Arc::clone(disk), dir, reserve_bytes)?;
    space.make_room(TO_OPEN_BYTES.min(reserve_bytes))?;
    Ok(space)
}

/// Opens the tables over a whole log, and makes both whole first if they are not. Gives the
/// listeners back.
async fn repair(
    config: &Config,
    parts: &Parts,
    log: &Log,
    mut state: LogState,
    channel: &ChannelOptions,
    listeners: Listeners,
    tls: Option<&Tls>,
) -> Result<(Store, Listeners), ServerError> {
    let holes = !state.holes().is_empty();
    if !holes {
        let store = open_store(config, parts, log).await?;
        if restore::is_needed(&store, log).is_none() {
            restore::align(&store, log).await?;
            return Ok((store, listeners));
        }
        let before = BeforeRaft::begin(config, &parts.network, log, channel, listeners, tls)?;
        return restored(store, parts, log, before).await;
    }
    let before = BeforeRaft::begin(config, &parts.network, log, channel, listeners, tls)?;
    let mut store = None;
    while let Some(trouble) = mend::run(log, &mut state, &before).await? {
        // No log holds what is missing: tables do, once they end behind it.
        let mut held = match store.take() {
            Some(store) => store,
            None => open_store(config, parts, log).await?,
        };
        if let Some(from) = restore::is_needed_for(&held, trouble) {
            before.check_others(trouble)?;
            restore::run(&mut held, from, &before, parts.disk.flush_mode()).await?;
        }
        state = mend::in_its_place(log, trouble, None).await?;
        tracing::warn!(
            ?trouble,
            "the log does without it: no other has it, and the tables hold it"
        );
        store = Some(held);
    }
    let store = match store {
        Some(store) => store,
        None => open_store(config, parts, log).await?,
    };
    restored(store, parts, log, before).await
}

/// Fetches the tables that are missing, and ends the time before Raft.
async fn restored(
    mut store: Store,
    parts: &Parts,
    log: &Log,
    before: BeforeRaft,
) -> Result<(Store, Listeners), ServerError> {
    if let Some(from) = restore::is_needed(&store, log) {
        restore::run(&mut store, from, &before, parts.disk.flush_mode()).await?;
    }
    restore::align(&store, log).await?;
    let local = before.end().await;
    Ok((store, Listeners::open(parts, local).await?))
}

fn server(tls: Option<tonic::transport::ServerTlsConfig>) -> Result<Server, ServerError> {
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE));
    match tls {
        None => Ok(server),
        Some(tls) => server.tls_config(tls).map_err(|error| ServerError::Config {
            key: "tls_cert, tls_key and tls_ca".to_owned(),
            problem: format!("cannot be used: {error}"),
            allowed: "PEM files of a certificate, its key and its authority".to_owned(),
        }),
    }
}

fn reflection() -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<
        impl tonic_reflection::server::v1::ServerReflection,
    >,
    ServerError,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(crate::proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| ServerError::fatal("reflection cannot be offered", error))
}

/// What another node passes on is for this node of this cluster, or it is refused.
fn meant_for(
    target: Peers,
) -> InterceptorLayer<impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone> {
    InterceptorLayer::new(move |request: Request<()>| {
        target.admit_signed(request.metadata()).map(|()| request)
    })
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    // A sender that is gone means a node that was dropped.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn served(
    name: &'static str,
    serving: impl Future<Output = Result<(), tonic::transport::Error>>,
    fail: watch::Sender<Option<Arc<ServerError>>>,
) {
    if let Err(error) = serving.await {
        tell(&fail, ServerError::fatal(name, error));
    }
}

/// A task of the group; when it ends by itself the node cannot go on.
async fn supervised(
    name: &'static str,
    task: std::pin::Pin<Box<dyn Future<Output = ()> + Send>>,
    fail: watch::Sender<Option<Arc<ServerError>>>,
) {
    task.await;
    tell(&fail, ServerError::fatal(name, "its task has ended; the events before say why"));
}

/// Finds out whether this node may take part, and forms the cluster if it is new.
async fn join(group: Group, wanted: Wanted, fail: watch::Sender<Option<Arc<ServerError>>>) {
    match group.join(wanted, JOIN_WITHIN).await {
        Ok(admission) => tracing::info!(?admission, "this node takes part"),
        Err(error) => {
            tracing::error!(%error, "this node may not take part");
            tell(&fail, ServerError::MayNotJoin { source: Box::new(error) });
        }
    }
}

/// The first failure is the one that is told.
fn tell(fail: &watch::Sender<Option<Arc<ServerError>>>, error: ServerError) {
    fail.send_if_modified(|told| {
        let first = told.is_none();
        if first {
            *told = Some(Arc::new(error));
        }
        first
    });
}

/// The members that form the cluster: those of the list, or this node alone. A node that is not
/// in the list joins later and founds nothing.
fn founders(config: &Config, addresses: Addresses) -> BTreeMap<u64, Member> {
    let own_peer = config.peer_advertise.clone().unwrap_or_else(|| addresses.peer.to_string());
    let own_grpc = config.grpc_advertise.clone().unwrap_or_else(|| addresses.grpc.to_string());
    let member = |zone: &str, peer_address: String, grpc_address: String| Member {
        zone: zone.to_owned(),
        region: config.region.clone(),
        peer_address,
        grpc_address,
    };
    if config.peers.0.is_empty() {
        return BTreeMap::from([(config.node_id, member(&config.zone, own_peer, own_grpc))]);
    }
    let listed = config.peers.0.iter().map(|peer| {
        // The list is the same on all nodes, and so must be what they form.
        let grpc = peer.grpc_address.clone().unwrap_or_default();
        (peer.id, member(&peer.zone, peer.address.clone(), grpc))
    });
    listed.collect()
}

/// One node, or one zone by the list itself, is local redundancy; everything else must survive
/// the loss of a zone.
fn wanted(founders: &BTreeMap<u64, Member>) -> Wanted {
    match zones::redundancy(founders.values().map(|member| member.zone.as_str())) {
        Ok(zones::Redundancy::Local) => Wanted::Lrs,
        _ => Wanted::Zrs,
    }
}
