//! The nodes a client knows: connections, a circuit for each, and which one is asked first.
//!
//! Laws: all calls of a client prefer the same node, and move on together when it fails, so that
//! a lost node costs one discovery and not one per call. A node whose circuit is open is passed
//! over; when all are open the call waits for the first to reopen.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::breaker::{Breaker, Gate};
use super::epochs::{Epochs, Line};
use super::error::ClientError;
use super::limits::ENDPOINTS;

const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// A node that answers no ping for so long is silent.
const PING_EVERY: Duration = Duration::from_millis(300);
const PING_PATIENCE: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Node {
    endpoint: Endpoint,
    channels: Vec<OnceLock<Channel>>,
    breaker: Mutex<Breaker>,
}

impl Node {
    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All nodes of one client.
#[derive(Debug)]
pub(super) struct Pool {
    nodes: Vec<Node>,
    preferred: AtomicUsize,
    turn: AtomicUsize,
    /// What all of them told.
    epochs: Arc<Epochs>,
}

/// What `pick` found.
#[derive(Debug)]
pub(super) enum Choice<'a> {
    Node(Pick<'a>),
    /// Every circuit is open until then.
    Wait(Instant),
}

/// A node chosen for one call. Dropped without a word it counts for nothing.
#[derive(Debug)]
pub(super) struct Pick<'a> {
    pool: &'a Pool,
    index: usize,
    pub(super) line: Line,
    told: bool,
}

fn endpoint(
    address: &str,
    tls_ca: Option<&[u8]>,
    connect_timeout: Duration,
) -> Result<Endpoint, ClientError> {
    let scheme = if tls_ca.is_some() { "https" } else { "http" };
    let address = address.trim();
    let uri =
        if address.contains("://") { address.to_owned() } else { format!("{scheme}://{address}") };
    let wrong = |why: String| ClientError::Invalid(format!("endpoint {address:?}: {why}"));
    let endpoint = Endpoint::from_shared(uri.clone()).map_err(|error| wrong(error.to_string()))?;
    match endpoint.uri().scheme_str() {
        Some("http" | "https") if endpoint.uri().host().is_some_and(|host| !host.is_empty()) => {}
        _ => return Err(wrong("must be http://HOST:PORT or https://HOST:PORT".to_owned())),
    }
    // A colon behind the host with no port that can be read: too large, or none at all.
    let place = endpoint.uri().authority().map_or("", |all| all.as_str());
    let behind_host = place.rsplit_once(']').map_or(place, |(_, behind)| behind);
    if behind_host.contains(':') && endpoint.uri().port_u16().is_none() {
        return Err(wrong("its port is not one of 1 to 65535".to_owned()));
    }
    let endpoint = endpoint
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE)
        .keep_alive_while_idle(false);
    match (endpoint.uri().scheme_str(), tls_ca) {
        (Some("https"), Some(pem)) => {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint.tls_config(tls).map_err(|error| wrong(format!("TLS: {error}")))
        }
        (Some("https"), None) => {
            Err(wrong("https needs the certificate authority of the cluster".to_owned()))
        }
        _ => Ok(endpoint),
    }
}

impl Pool {
    pub(super) fn new(
        addresses: &[String],
        tls_ca: Option<&[u8]>,
        connect_timeout: Duration,
        connections: usize,
    ) -> Result<Pool, ClientError> {
        if !ENDPOINTS.contains(&addresses.len()) {
            return Err(ClientError::Invalid(format!(
                "{} endpoints were given; allowed: {} to {}",
                addresses.len(),
                ENDPOINTS.start(),
                ENDPOINTS.end()
            )));
        }
        let mut nodes = Vec::with_capacity(addresses.len());
        for address in addresses {
            nodes.push(Node {
                endpoint: endpoint(address, tls_ca, connect_timeout)?,
                channels: (0..connections).map(|_| OnceLock::new()).collect(),
                breaker: Mutex::new(Breaker::new()),
            });
        }
        let (preferred, turn) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Ok(Pool { nodes, preferred, turn, epochs: Arc::default() })
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The preferred node, or the next whose circuit lets a call pass. `connection` is which of
    /// the node's connections to use; without one they take turns.
    pub(super) fn pick(&self, connection: Option<usize>) -> Choice<'_> {
        let now = Instant::now();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut reopens: Option<Instant> = None;
        for index in (0..self.nodes.len()).map(|step| (first + step) % self.nodes.len()) {
            let Some(node) = self.nodes.get(index) else { continue };
            if let Gate::Wait(until) = node.breaker().ask(now) {
                reopens = Some(reopens.map_or(until, |earlier| earlier.min(until)));
                continue;
            }
            let turn = connection.unwrap_or_else(|| self.turn.fetch_add(1, Ordering::Relaxed));
            let slot = node.channels.get(turn % node.channels.len().max(1));
            let channel = match slot {
                Some(slot) => slot.get_or_init(|| node.endpoint.connect_lazy()).clone(),
                None => node.endpoint.connect_lazy(),
            };
            if index != first {
                self.move_preference(first, index);
            }
            let line = Line::new(channel, Arc::clone(&self.epochs));
            return Choice::Node(Pick { pool: self, index, line, told: false });
        }
        Choice::Wait(reopens.unwrap_or(now + PING_EVERY))
    }

    /// Only the first of many calls that saw `from` fail moves on.
    fn move_preference(&self, from: usize, to: usize) {
        let _ = self.preferred.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Pick<'_> {
    fn breaker(&self) -> Option<MutexGuard<'_, Breaker>> {
        self.pool.nodes.get(self.index).map(Node::breaker)
    }

    pub(super) fn address(&self) -> String {
        self.pool.nodes.get(self.index).map_or_else(String::new, |n| n.endpoint.uri().to_string())
    }

    /// Which of the pool's nodes it is.
    pub(super) fn index(&self) -> usize {
        self.index
    }

    /// There are other nodes to ask.
    pub(super) fn has_others(&self) -> bool {
        self.pool.len() > 1
    }

    /// The node answered, well or ill.
    pub(super) fn answered(&mut self) {
        self.told = true;
        if let Some(mut breaker) = self.breaker() {
            breaker.answered();
        }
    }

    /// The node could not be reached, or was silent.
    pub(super) fn failed(&mut self) {
        self.told = true;
        if let Some(mut breaker) = self.breaker() {
            breaker.failed(Instant::now());
        }
        self.leave();
    }

    /// The node cannot serve now: others are asked first from here on.
    pub(super) fn leave(&self) {
        self.pool.move_preference(self.index, (self.index + 1) % self.pool.len());
    }
}

impl Drop for Pick<'_> {
    fn drop(&mut self) {
        if !self.told
            && let Some(mut breaker) = self.breaker()
        {
            breaker.abandoned(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(addresses: &[&str]) -> Pool {
        let addresses: Vec<String> = addresses.iter().map(|a| (*a).to_owned()).collect();
        Pool::new(&addresses, None, Duration::from_millis(300), 2).expect("addresses are good")
    }

    fn picked(pool: &Pool) -> Pick<'_> {
        match pool.pick(None) {
            Choice::Node(pick) => pick,
            Choice::Wait(_) => panic!("a circuit is closed"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_calls_move_on_together_when_a_node_fails() {
        let pool = pool(&["http://a:1", "http://b:1", "c:1"]);
        assert_eq!(picked(&pool).address(), "http://a:1/");
        let (mut one, mut two) = (picked(&pool), picked(&pool));
        one.failed();
        two.failed();
        assert_eq!(picked(&pool).address(), "http://b:1/", "two reports move one step");
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_with_an_open_circuit_is_passed_over_until_it_reopens() {
        let pool = pool(&["http://a:1", "http://b:1"]);
        let mut picks: Vec<Pick> = (0..2).map(|_| picked(&pool)).collect();
        picks.iter_mut().for_each(Pick::failed);
        let mut on_b: Vec<Pick> = (0..2).map(|_| picked(&pool)).collect();
        on_b.iter_mut().for_each(Pick::failed);
        let Choice::Wait(until) = pool.pick(None) else { panic!("both circuits are open") };
        tokio::time::sleep_until(until).await;
        picked(&pool).answered();
        assert!(matches!(pool.pick(None), Choice::Node(_)));
    }

    #[test]
    fn addresses_that_make_no_sense_are_refused_by_name() {
        for address in ["", "ftp://a:1", "http://", "https://a:1", "a:70000", "http://a:"] {
            let error = endpoint(address, None, Duration::from_millis(1)).expect_err(address);
            assert!(error.to_string().contains(&format!("{address:?}")), "{error}");
        }
        assert!(Pool::new(&[], None, Duration::from_millis(1), 1).is_err());
    }
}
