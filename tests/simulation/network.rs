//! The nodes' network over turmoil's TCP, and clocks that are wrong.
//!
//! Laws: a dial is refused only by a machine that runs and has no listener, as the trait asks;
//! one whose packets are dropped hangs until its caller gives up. turmoil itself says *refused*
//! in both cases, the second at once, and leaves dials to a stopped host hanging.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use tokio::time::Instant;
use zoneq::clock::Clock;
use zoneq::consensus::network::{ChannelOptions, Io, Listener, Network, channel};

use crate::doors::{Breakable, Doors};
use crate::layout::{Layout, host_name, region_of};
use crate::workload;

/// Which machines answer dials with a refusal: their process was killed, their kernel runs. And
/// what else is on the way to them.
#[derive(Clone, Debug, Default)]
pub struct Wires {
    refusals: Arc<Mutex<Refusals>>,
    pub doors: Doors,
}

#[derive(Debug, Default)]
struct Refusals {
    hosts: BTreeSet<String>,
    cut: BTreeSet<(String, String)>,
}

impl Wires {
    fn lock(&self) -> MutexGuard<'_, Refusals> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn refuse(&self, host: &str, refuses: bool) {
        let mut refusals = self.lock();
        if refuses {
            refusals.hosts.insert(host.to_owned());
        } else {
            refusals.hosts.remove(host);
        }
    }

    /// No refusal crosses a link that is cut.
    pub fn cut(&self, from: &str, to: &str, cut: bool) {
        let pair = (from.to_owned(), to.to_owned());
        let mut refusals = self.lock();
        if cut {
            refusals.cut.insert(pair);
        } else {
            refusals.cut.remove(&pair);
        }
    }

    pub fn is_cut(&self, from: &str, to: &str) -> bool {
        self.lock().cut.contains(&(from.to_owned(), to.to_owned()))
    }

    fn refuses(&self, from: &str, to: &str) -> bool {
        let refusals = self.lock();
        let cut = |a: &str, b: &str| refusals.cut.contains(&(a.to_owned(), b.to_owned()));
        let refuses = refusals.hosts.contains(to) || self.doors.refuses(from, to);
        refuses && !cut(from, to) && !cut(to, from)
    }
}

/// The network as one host sees it.
#[derive(Clone, Debug)]
pub struct SimNetwork {
    pub host: String,
    pub wires: Wires,
}

impl SimNetwork {
    /// The nodes of all regions as one client reaches them, over connections of its own.
    pub fn reached(&self, layout: &Layout) -> Vec<workload::Reached> {
        let options = ChannelOptions::for_election(Duration::from_millis(400));
        let reached = layout.hosts().into_iter().filter_map(|host| {
            let address = format!("{}:7401", host_name(host));
            let channel = channel(Arc::new(self.clone()), &address, &options).ok()?;
            Some(workload::Reached { channel, region: region_of(host) })
        });
        reached.collect()
    }
}

#[async_trait::async_trait]
impl Network for SimNetwork {
    async fn dial(&self, address: &str) -> io::Result<Io> {
        let (target, address) = self.wires.doors.lead(address);
        if self.wires.refuses(&self.host, &target) {
            tokio::time::sleep(Duration::from_millis(2)).await;
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let began = Instant::now();
        match turmoil::net::TcpStream::connect(address).await {
            Ok(stream) => Ok(match self.wires.doors.cord(&self.host, &target) {
                Some(cord) => Io::new(Breakable { stream, cord }, None),
                None => Io::new(stream, None),
            }),
            // Refused in no time: the packet was dropped, so nobody said anything.
            Err(_) if began.elapsed().is_zero() => std::future::pending().await,
            Err(error) => Err(error),
        }
    }

    async fn listen(&self, address: &str) -> io::Result<Listener> {
        let asked: SocketAddr = address
            .parse()
            .map_err(|_| io::Error::other(format!("{address:?} is no socket address")))?;
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, asked.port()));
        let listener = turmoil::net::TcpListener::bind(everywhere).await?;
        let known = (listener, self.wires.doors.clone());
        let incoming = futures::stream::unfold(known, |(listener, doors)| async move {
            let accepted = listener.accept().await;
            let accepted =
                accepted.map(|(stream, from)| Io::new(stream, Some(doors.seen_from(from))));
            Some((accepted, (listener, doors)))
        });
        Ok(Listener { local: everywhere, incoming: incoming.boxed() })
    }
}

/// 2027-01-15 08:00:00 UTC, where every run begins.
pub const EPOCH_US: u64 = 1_800_000_000_000_000;
/// What time it is for clients.
pub const CLOCK: workload::Clock =
    workload::Clock { now: || now_us().unwrap_or_default(), began: EPOCH_US };

/// Simulated time of the host that runs now.
pub fn now_us() -> Option<u64> {
    turmoil::sim_elapsed().and_then(|elapsed| u64::try_from(elapsed.as_micros()).ok())
}

/// A node's clocks: the wall clock is off by what the faults say.
#[derive(Debug, Default)]
pub struct SimClock {
    skew_us: AtomicI64,
    last_us: AtomicU64,
}

impl SimClock {
    pub fn set_skew(&self, skew_us: i64) {
        self.skew_us.store(skew_us, Ordering::Relaxed);
    }

    fn elapsed_us(&self) -> u64 {
        // A destructor runs outside of any host.
        let now = now_us().unwrap_or_default();
        self.last_us.fetch_max(now, Ordering::Relaxed).max(now)
    }
}

impl Clock for SimClock {
    fn wall_us(&self) -> u64 {
        (EPOCH_US + self.elapsed_us()).saturating_add_signed(self.skew_us.load(Ordering::Relaxed))
    }

    fn monotonic_us(&self) -> u64 {
        self.elapsed_us()
    }
}
