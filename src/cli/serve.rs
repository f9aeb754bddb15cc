//! `zoneq serve`: runs one node until it is told to end.
//!
//! Laws: a flag wins over its environment variable, that over the file, the file over the
//! default. The addresses are announced once the node listens. The first SIGTERM or SIGINT hands
//! leadership over and drains; a second one ends it at once. What is wrong with the command
//! line, the configuration, a port or the choice of the data directory exits with 64; a node
//! that fails, or finds its data damaged, with 70.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::Context;
use super::exit::Exit;
use crate::server::config::{ElectionMs, Peers};
use crate::server::{ConfigKeys, Node, telemetry};

const EXAMPLES: &str = "\
Examples:
  zoneq serve --config /etc/zoneq/zoneq.toml
  zoneq serve --node-id 1 --cluster-id shop --zone z1 --data-dir /var/lib/zoneq \\
      --peers 1=z1@10.0.1.1:7501,2=z2@10.0.2.1:7501,3=z3@10.0.3.1:7501 \\
      --grpc-listen 10.0.1.1:7401 --peer-listen 10.0.1.1:7501 \\
      --tls-cert node.pem --tls-key node.key --tls-ca ca.pem";

/// Flags of a node; each is a key of the configuration file too.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Serve {
    /// Configuration file in TOML; flags and variables win over it
    #[arg(long, env = "ZONEQ_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// This node's id in the cluster, from 1
    #[arg(long, env = "ZONEQ_NODE_ID")]
    node_id: Option<u64>,
    /// The name of the cluster
    #[arg(long, env = "ZONEQ_CLUSTER_ID")]
    cluster_id: Option<String>,
    /// The zone: what fails together with this node
    #[arg(long, env = "ZONEQ_ZONE")]
    zone: Option<String>,
    /// The region [default: east]
    #[arg(long, env = "ZONEQ_REGION")]
    region: Option<String>,
    /// Where the data is; locked while the node runs
    #[arg(long, env = "ZONEQ_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:7401]
    #[arg(long, env = "ZONEQ_GRPC_LISTEN", value_name = "IP:PORT")]
    grpc_listen: Option<SocketAddr>,
    /// Where the other nodes connect [default: 127.0.0.1:7501]
    #[arg(long, env = "ZONEQ_PEER_LISTEN", value_name = "IP:PORT")]
    peer_listen: Option<SocketAddr>,
    /// Where metrics, liveness and readiness are asked for, over plain HTTP [default: nowhere]
    #[arg(long, env = "ZONEQ_METRICS_LISTEN", value_name = "IP:PORT")]
    metrics_listen: Option<SocketAddr>,
    /// Queues that metrics name, those that hold most, 0 to 1000 [default: 0]
    #[arg(long, env = "ZONEQ_METRICS_QUEUES")]
    metrics_queues: Option<usize>,
    /// The address given to clients [default: as it listens]
    #[arg(long, env = "ZONEQ_GRPC_ADVERTISE", value_name = "HOST:PORT")]
    grpc_advertise: Option<String>,
    /// The address given to the other nodes [default: as it listens]
    #[arg(long, env = "ZONEQ_PEER_ADVERTISE", value_name = "HOST:PORT")]
    peer_advertise: Option<String>,
    /// The nodes that form the cluster, this one too: ID=ZONE@HOST:PORT[/HOST:PORT],...; behind
    /// the slash the address for clients [default: this node alone]
    #[arg(long, env = "ZONEQ_PEERS")]
    peers: Option<Peers>,
    /// Listen elsewhere than on loopback without TLS
    #[arg(long, env = "ZONEQ_INSECURE_LISTEN", value_parser = FalseyValueParser::new())]
    insecure_listen: bool,
    /// This node's certificate, PEM
    #[arg(long, env = "ZONEQ_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// This node's private key, PEM
    #[arg(long, env = "ZONEQ_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Where tables are kept: redb, or sled in builds with it [default: redb]
    #[arg(long, env = "ZONEQ_ENGINE")]
    engine: Option<String>,
    /// Allow built-in transport faults; for labs and drills, never in production
    #[arg(long, env = "ZONEQ_ENABLE_FAULTS", value_parser = FalseyValueParser::new())]
    enable_faults: bool,
    /// Milliseconds between heartbeats [default: 150]
    #[arg(long, env = "ZONEQ_HEARTBEAT_MS")]
    heartbeat_ms: Option<u64>,
    /// Silence before an election in milliseconds, MIN..MAX [default: 500..1000]
    #[arg(long, env = "ZONEQ_ELECTION_MS", value_name = "MIN..MAX")]
    election_ms: Option<ElectionMs>,
    /// Leadership moves to this zone when a voter there has caught up
    #[arg(long, env = "ZONEQ_PREFERRED_ZONE")]
    preferred_zone: Option<String>,
    /// Peer listeners of the other region's nodes, host:port,host:port
    #[arg(long, env = "ZONEQ_OTHER_REGION")]
    other_region: Option<String>,
    /// How what goes to the other region is made smaller: none or zstd [default: none]
    #[arg(long, env = "ZONEQ_REGION_COMPRESSION")]
    region_compression: Option<String>,
    /// Client calls and stream items in progress at most [default: 65536]
    #[arg(long, env = "ZONEQ_MAX_IN_FLIGHT_REQUESTS")]
    max_in_flight_requests: Option<usize>,
    /// Bytes of those at most [default: 256 MiB]
    #[arg(long, env = "ZONEQ_MAX_IN_FLIGHT_BYTES")]
    max_in_flight_bytes: Option<usize>,
    /// Bytes of message bodies kept in memory until they are written [default: 64 MiB]
    #[arg(long, env = "ZONEQ_BODY_MEMORY_BYTES")]
    body_memory_bytes: Option<usize>,
    /// Bytes kept on the disk for when it is full; 0 keeps none and refuses nothing
    /// [default: 128 MiB]
    #[arg(long, env = "ZONEQ_DISK_RESERVE_BYTES")]
    disk_reserve_bytes: Option<u64>,
    /// Which events go to standard error, for example debug or info,zoneq::consensus=debug
    #[arg(long, env = "ZONEQ_LOG", value_name = "FILTER")]
    log_level: Option<String>,
}

impl Serve {
    /// The keys of the flags over those of the file.
    pub fn keys(self, tls_ca: Option<PathBuf>) -> anyhow::Result<ConfigKeys> {
        let file = match &self.config {
            Some(path) => ConfigKeys::load(path)?,
            None => ConfigKeys::default(),
        };
        let flags = ConfigKeys {
            node_id: self.node_id,
            cluster_id: self.cluster_id,
            region: self.region,
            zone: self.zone,
            data_dir: self.data_dir,
            grpc_listen: self.grpc_listen,
            peer_listen: self.peer_listen,
            metrics_listen: self.metrics_listen,
            metrics_queues: self.metrics_queues,
            grpc_advertise: self.grpc_advertise,
            peer_advertise: self.peer_advertise,
            peers: self.peers,
            insecure_listen: self.insecure_listen.then_some(true),
            tls_cert: self.tls_cert,
            tls_key: self.tls_key,
            tls_ca,
            engine: self.engine,
            heartbeat_ms: self.heartbeat_ms,
            election_ms: self.election_ms,
            preferred_zone: self.preferred_zone,
            other_region: self.other_region,
            region_compression: self.region_compression,
            enable_faults: self.enable_faults.then_some(true),
            max_in_flight_requests: self.max_in_flight_requests,
            max_in_flight_bytes: self.max_in_flight_bytes,
            body_memory_bytes: self.body_memory_bytes,
            disk_reserve_bytes: self.disk_reserve_bytes,
        };
        Ok(flags.over(file))
    }

    pub async fn run(mut self, context: &Context) -> anyhow::Result<Exit> {
        telemetry::start(self.log_level.take().as_deref());
        let config = self.keys(context.global.tls_ca.clone())?.into_config()?;
        let (id, zone) = (config.node_id, config.zone.clone());
        let insecure = config.insecure_listen && config.tls.is_none();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let node = tokio::select! {
            node = Node::start(config) => node?,
            // Nothing was acknowledged yet, so there is nothing to hand over.
            _ = interrupt.recv() => return Ok(Exit::Done),
            _ = terminate.recv() => return Ok(Exit::Done),
        };
        let addresses = node.addresses();
        let (grpc, peer) = (addresses.grpc.to_string(), addresses.peer.to_string());
        context.out.item(&json!({
            "event": "listening", "node_id": id, "zone": zone, "grpc": grpc, "peer": peer,
            "metrics": addresses.metrics.map(|address| address.to_string()),
            "pid": std::process::id(),
        }))?;
        context.out.say(&format!("node {id} in zone {zone} serves on {grpc}"))?;
        if insecure {
            tracing::warn!("listening without TLS as told: whoever reaches the ports may use them");
        }
        let failure = tokio::select! {
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
            failure = node.failed() => Some(failure),
        };
        let ended = tokio::select! {
            ended = node.shutdown() => ended,
            _ = interrupt.recv() => anyhow::bail!("ended at once by a second signal"),
            _ = terminate.recv() => anyhow::bail!("ended at once by a second signal"),
        };
        match (failure, ended) {
            (Some(failure), _) => Err(failure.into()),
            (None, ended) => {
                ended?;
                context.out.result(&json!({ "ok": true, "node_id": id }), "ended")?;
                Ok(Exit::Done)
            }
        }
    }
}

/// A node's work runs on one thread: the flush and the table writer have their own.
pub fn run_alone(serve: Serve, context: &Context) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(serve.run(context));
    runtime.shutdown_timeout(Duration::from_secs(1));
    ended
}
