//! How a node's peer address is reached, in the seeds in which that is among the faults: nodes are
//! known by the numbers of their machines, as the fast path for refused connections asks, one of
//! them may be behind a gateway, an address may be answered by somebody else, and connections may
//! be refused and broken while both ends live.
//!
//! Laws: where no doors were drawn, every address leads where it says, and nothing is changed of
//! the connections. A gateway is in front of one node, in both directions: what others dial is the
//! gateway, and what the node dials seems to come from it. What cuts two machines off cuts the way
//! through the gateway too.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use zoneq::storage::disk::faulty::Dice;

use crate::layout::{Layout, host_name};
use crate::schedule::Named;

/// Where nodes hear each other.
pub const PEER_PORT: u16 = 7501;
/// The machine in front of a node.
pub const GATEWAY: &str = "g1";

/// Whether a seed has doors, and which node of it is behind a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    pub behind: Option<u64>,
}

impl Front {
    /// One seed in four of one region whose membership stays has doors, and every schedule that
    /// has a name; half of those seeds have a gateway.
    pub fn of(seed: u64, layout: &Layout, named: Option<Named>) -> Option<Front> {
        let mut dice = Dice::new(seed ^ 0x6c69_7374_656e);
        let drawn = dice.below(4) == 0;
        let node = 1 + dice.below(3);
        let with_gateway = named.map_or(dice.below(2) == 0, Named::has_gateway);
        let has = !layout.is_pair() && !layout.has_spares() && (drawn || named.is_some());
        has.then_some(Front { behind: with_gateway.then_some(node) })
    }
}

/// What the gateway does with who dials it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gateway {
    #[default]
    Relays,
    /// It has no listener.
    Refuses,
    /// It accepts, and closes at once.
    Closes,
}

#[derive(Clone, Debug, Default)]
pub struct Doors(Arc<Mutex<Option<Drawn>>>);

#[derive(Debug)]
struct Drawn {
    front: Front,
    /// The machines by their numbers.
    names: BTreeMap<IpAddr, String>,
    gateway: watch::Sender<Gateway>,
    /// Who answers at a machine's peer port in its place.
    tenants: BTreeMap<String, &'static str>,
    /// Who refuses whom, as `(from, to)`.
    refused: BTreeSet<(String, String)>,
    /// Changes whenever the connections of a machine break.
    breaks: BTreeMap<String, watch::Sender<u64>>,
}

impl Drawn {
    fn address(&self, name: &str) -> Option<IpAddr> {
        self.names.iter().find(|(_, known)| *known == name).map(|(address, _)| *address)
    }

    fn behind(&self) -> Option<String> {
        self.front.behind.map(host_name)
    }
}

impl Doors {
    fn lock(&self) -> MutexGuard<'_, Option<Drawn>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on there are doors, between machines of these numbers.
    pub fn draw(&self, front: Front, names: BTreeMap<IpAddr, String>) {
        let breaks = names.values().map(|name| (name.clone(), watch::Sender::new(0))).collect();
        let (tenants, refused) = (BTreeMap::new(), BTreeSet::new());
        let gateway = watch::Sender::new(Gateway::default());
        *self.lock() = Some(Drawn { front, names, gateway, tenants, refused, breaks });
    }

    pub fn front(&self) -> Option<Front> {
        self.lock().as_ref().map(|drawn| drawn.front)
    }

    /// What a node says of itself as where others reach it.
    pub fn peer_host(&self, name: &str) -> String {
        let drawn = self.lock();
        let known = drawn.as_ref().and_then(|drawn| {
            let is_behind = drawn.behind().as_deref() == Some(name);
            drawn.address(if is_behind { GATEWAY } else { name })
        });
        known.map_or_else(|| name.to_owned(), |address| address.to_string())
    }

    /// The machine that an address leads to, and what to dial there.
    pub fn lead(&self, address: &str) -> (String, String) {
        let plain = address.split(':').next().unwrap_or_default().to_owned();
        let drawn = self.lock();
        let Some((drawn, asked)) = drawn.as_ref().zip(address.parse::<SocketAddr>().ok()) else {
            return (plain, address.to_owned());
        };
        let name = drawn.names.get(&asked.ip()).cloned().unwrap_or(plain);
        match drawn.tenants.get(&name).filter(|_| asked.port() == PEER_PORT) {
            Some(tenant) => ((*tenant).to_owned(), format!("{tenant}:{PEER_PORT}")),
            None => (name, address.to_owned()),
        }
    }

    pub fn refuses(&self, from: &str, to: &str) -> bool {
        let pair = (from.to_owned(), to.to_owned());
        self.lock().as_ref().is_some_and(|drawn| drawn.refused.contains(&pair))
    }

    /// Whom an accepted connection seems to come from.
    pub fn seen_from(&self, from: SocketAddr) -> SocketAddr {
        let drawn = self.lock();
        let masked = drawn.as_ref().and_then(|drawn| {
            let name = drawn.names.get(&from.ip())?;
            if drawn.behind()? != *name {
                return None;
            }
            drawn.address(GATEWAY)
        });
        SocketAddr::new(masked.unwrap_or(from.ip()), from.port())
    }

    /// All ways over which two machines speak, each as from and to.
    pub fn ways(&self, from: &str, to: &str) -> Vec<(String, String)> {
        let mut ways = vec![(from.to_owned(), to.to_owned())];
        let behind = self.lock().as_ref().and_then(Drawn::behind);
        if behind.as_deref() == Some(to) {
            ways.push((from.to_owned(), GATEWAY.to_owned()));
        } else if behind.as_deref() == Some(from) {
            ways.push((GATEWAY.to_owned(), to.to_owned()));
        }
        ways
    }

    /// What the gateway is to do, for the gateway.
    pub fn gateway(&self) -> Option<watch::Receiver<Gateway>> {
        self.lock().as_ref().map(|drawn| drawn.gateway.subscribe())
    }

    /// The gateway begins anew: it does this, and what it relayed is broken.
    pub fn set_gateway(&self, gateway: Gateway) {
        if let Some(drawn) = self.lock().as_ref() {
            drawn.gateway.send_replace(gateway);
        }
        let behind = self.lock().as_ref().and_then(Drawn::behind);
        if let Some(behind) = behind {
            self.break_all(&behind);
        }
    }

    /// At the peer address of this machine answers another, or it itself again.
    pub fn set_tenant(&self, of: &str, tenant: Option<&'static str>) {
        if let Some(drawn) = self.lock().as_mut() {
            match tenant {
                Some(tenant) => drawn.tenants.insert(of.to_owned(), tenant),
                None => drawn.tenants.remove(of),
            };
        }
    }

    /// These are refused by that machine, and nobody else is refused by anybody.
    pub fn set_refused(&self, to: &str, from: &[String]) {
        if let Some(drawn) = self.lock().as_mut() {
            drawn.refused = from.iter().map(|from| (from.clone(), to.to_owned())).collect();
        }
    }

    /// Every connection between this node and another breaks, whoever dialled it.
    pub fn break_all(&self, name: &str) {
        if let Some(breaks) = self.lock().as_ref().and_then(|drawn| drawn.breaks.get(name)) {
            breaks.send_modify(|breaks| *breaks += 1);
        }
    }

    /// What ends a connection between these two, where there are doors.
    pub fn cord(&self, from: &str, to: &str) -> Option<Cord> {
        let drawn = self.lock();
        let breaks = &drawn.as_ref()?.breaks;
        let mut ends = [from, to].map(|end| breaks.get(end).map(watch::Sender::subscribe));
        Some(Cord(Some(Box::pin(async move {
            let [one, other] = &mut ends;
            tokio::select! {
                biased;
                () = broken(one) => {}
                () = broken(other) => {}
            }
        }))))
    }
}

async fn broken(end: &mut Option<watch::Receiver<u64>>) {
    let is_broken = match end {
        Some(end) => end.changed().await.is_ok(),
        None => false,
    };
    if !is_broken {
        std::future::pending().await
    }
}

/// Says when its connection breaks; nothing is left of one that said so.
pub struct Cord(Option<BoxFuture<'static, ()>>);

/// A connection that a cord can break: the one who dialled sees it reset, the other sees it end.
pub struct Breakable<S> {
    pub stream: S,
    pub cord: Cord,
}

impl<S> Breakable<S> {
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.cord.0.as_mut().is_some_and(|cord| cord.poll_unpin(cx).is_ready()) {
            self.cord.0 = None;
        }
        match self.cord.0 {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Breakable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_broken(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Breakable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
