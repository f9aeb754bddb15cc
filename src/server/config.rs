//! What a node must be told: its keys, their defaults and their ranges.
//!
//! Laws: unknown keys are refused; every refusal names the key, what is wrong and what is
//! allowed. [`ConfigKeys`] is what a file, the environment or flags give, each key optional;
//! [`Config`] is whole. A listener off loopback needs TLS or `insecure_listen`.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use super::ServerError;
use super::limits::{
    BODY_MEMORY_BYTES, DISK_RESERVE_BYTES, ELECTION_HEARTBEATS, HEARTBEAT_MS, LONGEST_ELECTION_MS,
    MAX_IN_FLIGHT_BYTES, MAX_IN_FLIGHT_REQUESTS, METRICS_QUEUES, NODE_NAMES, PEERS,
};
use crate::geo::other::Compression;
use crate::storage::tables::EngineKind;

/// The keys as they were given; a file, the environment and flags are laid over each other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigKeys {
    pub node_id: Option<u64>,
    pub cluster_id: Option<String>,
    pub region: Option<String>,
    pub zone: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub grpc_listen: Option<SocketAddr>,
    pub peer_listen: Option<SocketAddr>,
    pub metrics_listen: Option<SocketAddr>,
    pub metrics_queues: Option<usize>,
    pub grpc_advertise: Option<String>,
    pub peer_advertise: Option<String>,
    pub peers: Option<Peers>,
    pub insecure_listen: Option<bool>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_ca: Option<PathBuf>,
    pub engine: Option<String>,
    pub heartbeat_ms: Option<u64>,
    pub election_ms: Option<ElectionMs>,
    pub preferred_zone: Option<String>,
    pub other_region: Option<String>,
    pub region_compression: Option<String>,
    pub enable_faults: Option<bool>,
    pub max_in_flight_requests: Option<usize>,
    pub max_in_flight_bytes: Option<usize>,
    pub body_memory_bytes: Option<usize>,
    pub disk_reserve_bytes: Option<u64>,
}

/// What a node runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub node_id: u64,
    pub cluster_id: String,
    pub region: String,
    pub zone: String,
    pub data_dir: PathBuf,
    pub grpc_listen: SocketAddr,
    pub peer_listen: SocketAddr,
    /// Where metrics, liveness and readiness are asked for, over HTTP; `None` = nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Queues that metrics name, at most.
    pub metrics_queues: usize,
    /// `host:port`; `None` = as it listens.
    pub grpc_advertise: Option<String>,
    /// `host:port`; `None` = as it listens.
    pub peer_advertise: Option<String>,
    /// Empty = this node alone.
    pub peers: Peers,
    pub insecure_listen: bool,
    pub tls: Option<TlsFiles>,
    pub engine: EngineKind,
    pub heartbeat_ms: u64,
    pub election_ms: ElectionMs,
    pub preferred_zone: Option<String>,
    /// `host:port` of the peer listeners of the other region; empty = there is none.
    pub other_region: Vec<String>,
    /// How what goes to the other region is made smaller.
    pub region_compression: Compression,
    pub enable_faults: bool,
    /// Client calls and stream items in progress; more are answered `OVERLOADED`.
    pub max_in_flight_requests: usize,
    /// Bytes of those.
    pub max_in_flight_bytes: usize,
    /// Message bodies kept in memory until they are written to the disk.
    pub body_memory_bytes: usize,
    /// Kept on the disk for the moment when it is full; 0 keeps nothing and refuses nothing.
    pub disk_reserve_bytes: u64,
}

/// This node's certificate and key, and the authority of the others: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

/// One node of the static list that forms a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub id: u64,
    pub zone: String,
    /// `host:port` of the peer listener.
    pub address: String,
    /// `host:port` for clients, shown in the status; may be unknown.
    pub grpc_address: Option<String>,
}

/// `1=z1@host:7501,2=z2@host:7501`; behind an address `/host:7401` may give that for clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Peers(pub Vec<Peer>);

/// Silence before an election: shortest and longest, `500..1000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ElectionMs {
    pub min: u64,
    pub max: u64,
}

impl Default for ElectionMs {
    fn default() -> Self {
        ElectionMs { min: 500, max: 1_000 }
    }
}

impl FromStr for ElectionMs {
    type Err = String;

    fn from_str(text: &str) -> Result<ElectionMs, String> {
        let wrong = || format!("{text:?} is no range of milliseconds; write for example 500..1000");
        let (min, max) = text.split_once("..").ok_or_else(wrong)?;
        let parse = |text: &str| text.trim().parse().map_err(|_| wrong());
        Ok(ElectionMs { min: parse(min)?, max: parse(max)? })
    }
}

impl TryFrom<String> for ElectionMs {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for ElectionMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.min, self.max)
    }
}

impl FromStr for Peers {
    type Err = String;

    fn from_str(text: &str) -> Result<Peers, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(str::parse).collect::<Result<_, _>>().map(Peers)
    }
}

impl TryFrom<String> for Peers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Peer {
    type Err = String;

    fn from_str(text: &str) -> Result<Peer, String> {
        let wrong = || format!("{text:?} is no peer; write for example 1=z1@host:7501");
        let (id, rest) = text.split_once('=').ok_or_else(wrong)?;
        let (zone, addresses) = rest.split_once('@').ok_or_else(wrong)?;
        let (address, grpc) = match addresses.split_once('/') {
            Some((address, grpc)) => (address, Some(grpc.to_owned())),
            None => (addresses, None),
        };
        let id = id.parse().map_err(|_| wrong())?;
        Ok(Peer { id, zone: zone.to_owned(), address: address.to_owned(), grpc_address: grpc })
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}@{}", self.id, self.zone, self.address)?;
        self.grpc_address.as_ref().map_or(Ok(()), |grpc| write!(f, "/{grpc}"))
    }
}

impl fmt::Display for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, peer) in self.0.iter().enumerate() {
            write!(f, "{}{peer}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl ConfigKeys {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// [`ServerError::ConfigFile`] when it cannot be read, has an unknown key or a bad value.
    pub fn load(path: &Path) -> Result<ConfigKeys, ServerError> {
        let refused = |why: String| ServerError::ConfigFile { path: path.to_path_buf(), why };
        let text = std::fs::read_to_string(path).map_err(|error| refused(error.to_string()))?;
        ConfigKeys::from_toml(&text).map_err(|error| refused(error.to_string()))
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// When it has an unknown key or a bad value.
    pub fn from_toml(text: &str) -> Result<ConfigKeys, toml::de::Error> {
        toml::from_str(text)
    }

    /// These keys, and where one is missing that of `under`.
    #[must_use]
    pub fn over(self, under: ConfigKeys) -> ConfigKeys {
        ConfigKeys {
            node_id: self.node_id.or(under.node_id),
            cluster_id: self.cluster_id.or(under.cluster_id),
            region: self.region.or(under.region),
            zone: self.zone.or(under.zone),
            data_dir: self.data_dir.or(under.data_dir),
            grpc_listen: self.grpc_listen.or(under.grpc_listen),
            peer_listen: self.peer_listen.or(under.peer_listen),
            metrics_listen: self.metrics_listen.or(under.metrics_listen),
            metrics_queues: self.metrics_queues.or(under.metrics_queues),
            grpc_advertise: self.grpc_advertise.or(under.grpc_advertise),
            peer_advertise: self.peer_advertise.or(under.peer_advertise),
            peers: self.peers.or(under.peers),
            insecure_listen: self.insecure_listen.or(under.insecure_listen),
            tls_cert: self.tls_cert.or(under.tls_cert),
            tls_key: self.tls_key.or(under.tls_key),
            tls_ca: self.tls_ca.or(under.tls_ca),
            engine: self.engine.or(under.engine),
            heartbeat_ms: self.heartbeat_ms.or(under.heartbeat_ms),
            election_ms: self.election_ms.or(under.election_ms),
            preferred_zone: self.preferred_zone.or(under.preferred_zone),
            other_region: self.other_region.or(under.other_region),
            region_compression: self.region_compression.or(under.region_compression),
            enable_faults: self.enable_faults.or(under.enable_faults),
            max_in_flight_requests: self.max_in_flight_requests.or(under.max_in_flight_requests),
            max_in_flight_bytes: self.max_in_flight_bytes.or(under.max_in_flight_bytes),
            body_memory_bytes: self.body_memory_bytes.or(under.body_memory_bytes),
            disk_reserve_bytes: self.disk_reserve_bytes.or(under.disk_reserve_bytes),
        }
    }

    /// The whole configuration, defaults filled in and everything checked.
    ///
    /// # Errors
    /// [`ServerError::Config`]: the first key that is missing or wrong.
    pub fn into_config(self) -> Result<Config, ServerError> {
        let needed = |key: &'static str| move || missing(key);
        let tls = match (self.tls_cert, self.tls_key, self.tls_ca) {
            (None, None, None) => None,
            (Some(cert), Some(key), Some(ca)) => Some(TlsFiles { cert, key, ca }),
            _ => {
                let problem = "are given in part";
                let allowed = "all three, or none for a node without TLS";
                return Err(refuse("tls_cert, tls_key and tls_ca", problem, allowed));
            }
        };
        let mut config = Config::new(
            self.node_id.ok_or_else(needed("node_id"))?,
            self.cluster_id.ok_or_else(needed("cluster_id"))?,
            self.zone.ok_or_else(needed("zone"))?,
            self.data_dir.ok_or_else(needed("data_dir"))?,
        );
        config.tls = tls;
        if let Some(name) = self.engine {
            config.engine = engine(&name)?;
        }
        if let Some(name) = self.region_compression {
            let unknown = || refuse("region_compression", format!("is {name:?}"), "none or zstd");
            config.region_compression = Compression::of(&name).ok_or_else(unknown)?;
        }
        config.metrics_listen = self.metrics_listen;
        config.grpc_advertise = self.grpc_advertise;
        config.peer_advertise = self.peer_advertise;
        config.preferred_zone = self.preferred_zone;
        let listed = self.other_region.unwrap_or_default();
        config.other_region =
            listed.split(',').filter(|it| !it.is_empty()).map(str::to_owned).collect();
        set(&mut config.region, self.region);
        set(&mut config.grpc_listen, self.grpc_listen);
        set(&mut config.peer_listen, self.peer_listen);
        set(&mut config.metrics_queues, self.metrics_queues);
        set(&mut config.peers, self.peers);
        set(&mut config.insecure_listen, self.insecure_listen);
        set(&mut config.heartbeat_ms, self.heartbeat_ms);
        set(&mut config.election_ms, self.election_ms);
        set(&mut config.enable_faults, self.enable_faults);
        set(&mut config.max_in_flight_requests, self.max_in_flight_requests);
        set(&mut config.max_in_flight_bytes, self.max_in_flight_bytes);
        set(&mut config.body_memory_bytes, self.body_memory_bytes);
        set(&mut config.disk_reserve_bytes, self.disk_reserve_bytes);
        config.validate()?;
        Ok(config)
    }
}

fn missing(key: &str) -> ServerError {
    let (flag, variable) = (key.replace('_', "-"), key.to_uppercase());
    let ways = format!("--{flag}, ZONEQ_{variable} or the key in the configuration file");
    refuse(key, "is missing and has no default", ways)
}

fn set<T>(value: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *value = given;
    }
}

/// The engine of a name that this build has.
fn engine(name: &str) -> Result<EngineKind, ServerError> {
    match name {
        "redb" => Ok(EngineKind::Redb),
        #[cfg(feature = "sled")]
        "sled" => Ok(EngineKind::Sled),
        #[cfg(not(feature = "sled"))]
        "sled" => Err(refuse("engine", "is \"sled\", which this build does not have", "redb")),
        other => Err(refuse("engine", format!("is {other:?}"), "redb or sled")),
    }
}

impl Config {
    /// A node alone, with defaults for the rest; for embedding, tests and the simulator.
    #[must_use]
    pub fn new(
        node_id: u64,
        cluster_id: impl Into<String>,
        zone: impl Into<String>,
        data_dir: impl Into<PathBuf>,
    ) -> Config {
        Config {
            node_id,
            cluster_id: cluster_id.into(),
            region: "east".to_owned(),
            zone: zone.into(),
            data_dir: data_dir.into(),
            grpc_listen: SocketAddr::from(([127, 0, 0, 1], 7401)),
            peer_listen: SocketAddr::from(([127, 0, 0, 1], 7501)),
            metrics_listen: None,
            metrics_queues: 0,
            grpc_advertise: None,
            peer_advertise: None,
            peers: Peers::default(),
            insecure_listen: false,
            tls: None,
            engine: EngineKind::default(),
            heartbeat_ms: 150,
            election_ms: ElectionMs::default(),
            preferred_zone: None,
            other_region: Vec::new(),
            region_compression: Compression::default(),
            enable_faults: false,
            max_in_flight_requests: 65_536,
            max_in_flight_bytes: 256 << 20,
            body_memory_bytes: 64 << 20,
            disk_reserve_bytes: 128 << 20,
        }
    }

    /// The configuration of a TOML file alone.
    ///
    /// # Errors
    /// As [`ConfigKeys::load`] and [`ConfigKeys::into_config`].
    pub fn load(path: &Path) -> Result<Config, ServerError> {
        ConfigKeys::load(path)?.into_config()
    }

    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    /// Checks every key against its range.
    ///
    /// # Errors
    /// [`ServerError::Config`]: the first key that is wrong.
    pub fn validate(&self) -> Result<(), ServerError> {
        if self.node_id == 0 {
            return Err(refuse("node_id", "is 0", "1 and more"));
        }
        name("cluster_id", &self.cluster_id)?;
        name("region", &self.region)?;
        name("zone", &self.zone)?;
        self.preferred_zone.as_ref().map_or(Ok(()), |zone| name("preferred_zone", zone))?;
        self.other_region.iter().try_for_each(|address| host_port("other_region", address))?;
        if self.data_dir.as_os_str().is_empty() {
            return Err(refuse("data_dir", "is empty", "a path"));
        }
        for (key, given) in
            [("grpc_advertise", &self.grpc_advertise), ("peer_advertise", &self.peer_advertise)]
        {
            given.as_ref().map_or(Ok(()), |address| host_port(key, address))?;
        }
        self.check_listeners()?;
        self.check_peers()?;
        self.check_timers()?;
        range("metrics_queues", self.metrics_queues, METRICS_QUEUES)?;
        range("max_in_flight_requests", self.max_in_flight_requests, MAX_IN_FLIGHT_REQUESTS)?;
        range("max_in_flight_bytes", self.max_in_flight_bytes, MAX_IN_FLIGHT_BYTES)?;
        range("body_memory_bytes", self.body_memory_bytes, BODY_MEMORY_BYTES)?;
        range("disk_reserve_bytes", self.disk_reserve_bytes, DISK_RESERVE_BYTES)
    }

    fn check_listeners(&self) -> Result<(), ServerError> {
        for (key, address) in [("grpc_listen", self.grpc_listen), ("peer_listen", self.peer_listen)]
        {
            if !address.ip().is_loopback() && self.tls.is_none() && !self.insecure_listen {
                let problem = format!("is {address}, which others reach, and there is no TLS");
                let allowed = "loopback; or set tls_cert, tls_key and tls_ca; or insecure_listen \
                               where the network itself is trusted";
                return Err(refuse(key, problem, allowed));
            }
            let advertised =
                if key == "grpc_listen" { &self.grpc_advertise } else { &self.peer_advertise };
            if address.ip().is_unspecified() && advertised.is_none() {
                let key = key.replace("listen", "advertise");
                let problem = format!("is missing, and {address} is no address to reach it by");
                return Err(refuse(&key, problem, "host:port as others reach this node"));
            }
        }
        let mut taken = vec![("grpc_listen", self.grpc_listen)];
        let more =
            [("peer_listen", Some(self.peer_listen)), ("metrics_listen", self.metrics_listen)];
        for (key, address) in more {
            let Some(address) = address else { continue };
            let twin = taken.iter().find(|(_, other)| *other == address && address.port() != 0);
            if let Some((other, _)) = twin {
                let problem = format!("is {address}, which {other} is too");
                return Err(refuse(key, problem, "another port"));
            }
            taken.push((key, address));
        }
        self.check_metrics()
    }

    /// Metrics are told in plain HTTP, whatever the other listeners do.
    fn check_metrics(&self) -> Result<(), ServerError> {
        let Some(address) = self.metrics_listen else { return Ok(()) };
        if address.ip().is_loopback() || self.insecure_listen {
            return Ok(());
        }
        let problem = format!("is {address}, which others reach, and it is plain HTTP");
        let allowed = "loopback; or insecure_listen where the network itself is trusted";
        Err(refuse("metrics_listen", problem, allowed))
    }

    fn check_peers(&self) -> Result<(), ServerError> {
        let peers = &self.peers.0;
        if peers.is_empty() {
            return Ok(());
        }
        range("peers", peers.len(), PEERS)?;
        for (at, peer) in peers.iter().enumerate() {
            if peer.id == 0 {
                return Err(refuse("peers", format!("has the id 0 in {peer}"), "ids from 1"));
            }
            name("peers: zone", &peer.zone)?;
            host_port("peers", &peer.address)?;
            peer.grpc_address.as_ref().map_or(Ok(()), |grpc| host_port("peers", grpc))?;
            let before = peers.iter().take(at);
            if let Some(twin) = before
                .into_iter()
                .find(|other| other.id == peer.id || other.address == peer.address)
            {
                let problem = format!("names {twin} and {peer}");
                return Err(refuse("peers", problem, "each id and address once"));
            }
        }
        // A node that is added later starts with the list that formed the cluster, without it.
        match peers.iter().find(|peer| peer.id == self.node_id) {
            Some(me) if me.zone != self.zone => {
                let problem = format!("is {:?}, and peers says {me}", self.zone);
                Err(refuse("zone", problem, "the same in both"))
            }
            _ => Ok(()),
        }
    }

    fn check_timers(&self) -> Result<(), ServerError> {
        range("heartbeat_ms", self.heartbeat_ms, HEARTBEAT_MS)?;
        let ElectionMs { min, max } = self.election_ms;
        let least = self.heartbeat_ms.saturating_mul(ELECTION_HEARTBEATS);
        if min < least || max <= min || max > LONGEST_ELECTION_MS {
            let allowed = format!(
                "shortest at least twice heartbeat_ms ({}), longest more than that, up to \
                 {LONGEST_ELECTION_MS}",
                self.heartbeat_ms
            );
            return Err(refuse("election_ms", format!("is {}", self.election_ms), allowed));
        }
        Ok(())
    }
}

fn refuse(key: &str, problem: impl Into<String>, allowed: impl Into<String>) -> ServerError {
    ServerError::Config { key: key.to_owned(), problem: problem.into(), allowed: allowed.into() }
}

fn range<T: PartialOrd + fmt::Display>(
    key: &str,
    value: T,
    allowed: RangeInclusive<T>,
) -> Result<(), ServerError> {
    if !allowed.contains(&value) {
        let (least, most) = allowed.into_inner();
        return Err(refuse(key, format!("is {value}"), format!("{least} to {most}")));
    }
    Ok(())
}

fn name(key: &str, value: &str) -> Result<(), ServerError> {
    let letters = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if NODE_NAMES.contains(&value.len()) && value.bytes().all(letters) {
        return Ok(());
    }
    let allowed = format!("{} to {} of a-z, 0-9 and -", NODE_NAMES.start(), NODE_NAMES.end());
    Err(refuse(key, format!("is {value:?}"), allowed))
}

fn host_port(key: &str, address: &str) -> Result<(), ServerError> {
    let good = address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(['/', '@', ' ', ','])
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if good {
        return Ok(());
    }
    Err(refuse(key, format!("has the address {address:?}"), "host:port, port 1 to 65535"))
}

#[cfg(test)]
mod tests;
