//! How long nobody's write was acknowledged: clients that write all the time, one beginning at
//! each node, each with the product's own client library.
//!
//! Laws: a call is bounded, and so is each try of one node; the time that counts is from one
//! acknowledgement to the next, whoever got it. What a single client saw is told beside it. Its
//! queue is in an account of its own, which no check relies on, and its messages expire soon.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use zoneq::client::{Client, NewMessage, QueueSettings, Ttl};

use crate::cluster::Address;
use crate::gaps::longest;
use crate::history::{Micros, SharedHistory};
use crate::now;

pub const ACCOUNT: &str = "prober";
pub const QUEUE: &str = "probe";
/// Between two writes of one client.
const EVERY: Duration = Duration::from_millis(10);
/// How long one node may be silent before the client asks the next.
const ATTEMPT: Duration = Duration::from_millis(300);
const DEADLINE: Duration = Duration::from_secs(5);
const TTL: Duration = Duration::from_secs(5);

/// When which client was acknowledged a write.
type Acknowledged = Arc<Mutex<Vec<(Micros, usize)>>>;

pub struct Prober {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
    acknowledged: Acknowledged,
}

/// The longest times without an acknowledged write, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// Of all clients together.
    pub of_all: Micros,
    /// Of the client that waited longest.
    pub of_one: Micros,
}

impl Prober {
    /// Begins to write, through each of these nodes, but for those of a region that clients are
    /// kept away from.
    pub async fn start(addresses: &[Address], history: &SharedHistory) -> Result<Prober, String> {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Acknowledged::default());
        let mut clients = Vec::new();
        for first in 0..addresses.len() {
            let mut own = addresses.to_vec();
            own.rotate_left(first);
            let ways = Ways::new(&own)?;
            if first == 0 {
                let settings = QueueSettings::default();
                let made = ways.all.create_queue(QUEUE, Default::default(), settings);
                made.await.map_err(|error| format!("the prober's queue: {error}"))?;
            }
            let at = (Arc::clone(&acknowledged), history.clone());
            clients.push(tokio::spawn(write(ways, first, Arc::clone(&stop), at)));
        }
        Ok(Prober { stop, clients, acknowledged })
    }

    /// The longest gaps that ended behind `from`, so far.
    pub fn gap_since(&self, from: Micros) -> Gap {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let all = acknowledged.iter().map(|(at, _)| *at);
        let one = |client| {
            longest(acknowledged.iter().filter(|(_, of)| *of == client).map(|(at, _)| *at), from)
        };
        let of_one = (0..self.clients.len()).map(one).max().unwrap_or_default();
        Gap { of_all: longest(all, from), of_one }
    }

    /// Whether every client was acknowledged something behind `from`.
    pub fn all_go_on_since(&self, from: Micros) -> bool {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on =
            |client| acknowledged.iter().rev().any(|(at, of)| *of == client && *at > from);
        (0..self.clients.len()).all(goes_on)
    }

    /// Ends all clients.
    pub async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            // A client that panicked has said so.
            let _ = client.await;
        }
    }
}

/// The nodes that a client knows: all of them, and those of each region.
struct Ways {
    all: Client,
    of_region: Vec<(usize, Client)>,
}

impl Ways {
    fn new(addresses: &[Address]) -> Result<Ways, String> {
        let regions: BTreeSet<usize> = addresses.iter().map(|(region, _)| *region).collect();
        let of_region = regions.into_iter().map(|region| {
            let own = addresses.iter().filter(|(of, _)| *of == region);
            Ok((region, client(own)?))
        });
        let of_region = of_region.collect::<Result<_, String>>()?;
        Ok(Ways { all: client(addresses.iter())?, of_region })
    }

    /// A client of the nodes that may be asked just now.
    fn open(&self, history: &SharedHistory) -> &Client {
        let history = history.lock();
        let is_open = |region: &usize| !history.pair.is_closed(*region);
        if self.of_region.iter().all(|(region, _)| is_open(region)) {
            return &self.all;
        }
        let open = self.of_region.iter().find(|(region, _)| is_open(region));
        open.map_or(&self.all, |(_, client)| client)
    }
}

fn client<'a>(addresses: impl Iterator<Item = &'a Address>) -> Result<Client, String> {
    let urls: Vec<String> = addresses.map(|(_, at)| format!("http://{at}")).collect();
    Client::builder()
        .endpoints(urls)
        .account(ACCOUNT)
        .deadline(DEADLINE)
        .attempt_timeout(ATTEMPT)
        .build()
        .map_err(|error| error.to_string())
}

async fn write(
    ways: Ways,
    own: usize,
    stop: Arc<AtomicBool>,
    (acknowledged, history): (Acknowledged, SharedHistory),
) {
    let mut due = tokio::time::interval(EVERY);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        due.tick().await;
        let message = NewMessage::new("probe").ttl(Ttl::After(TTL));
        if ways.open(&history).send(QUEUE, message).await.is_ok() {
            let at = now();
            acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push((at, own));
        }
    }
}
