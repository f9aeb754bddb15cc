//! Machines that are no node of the cluster: the gateway in front of one, and those that answer at
//! an address that was a node's.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use turmoil::net::{TcpListener, TcpStream};
use zoneq::consensus::network::Network as _;
use zoneq::server::{Config, Node, Parts, Sizes};
use zoneq::storage::disk::faulty::FaultyDisk;

use crate::doors::{GATEWAY, Gateway, PEER_PORT};
use crate::layout::host_name;
use crate::network::{SimClock, SimNetwork, Wires};

/// A node of another cluster.
pub const OTHER_CLUSTER: &str = "x1";
/// A server of another kind.
pub const OTHER_SERVER: &str = "w1";
/// How long the gateway tries to reach the node behind it.
const REACH: Duration = Duration::from_secs(1);

fn peer_port() -> (Ipv4Addr, u16) {
    (Ipv4Addr::UNSPECIFIED, PEER_PORT)
}

/// The gateway in front of a node. A change of what it does ends all that it relays.
pub async fn gateway(wires: Wires, behind: u64) -> turmoil::Result {
    let Some(mut told) = wires.doors.gateway() else { return Ok(()) };
    let network = SimNetwork { host: GATEWAY.to_owned(), wires };
    loop {
        let now = *told.borrow_and_update();
        if now == Gateway::Refuses {
            told.changed().await?;
            continue;
        }
        let listener = TcpListener::bind(peer_port()).await?;
        let mut relayed = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                changed = told.changed() => {
                    changed?;
                    break;
                }
                Some(_) = relayed.join_next() => {}
                accepted = listener.accept() => {
                    let (stream, _) = accepted?;
                    if now == Gateway::Relays {
                        relayed.spawn(relay(network.clone(), stream, behind));
                    }
                }
            }
        }
    }
}

/// Both directions, until one of the ends closes. What cannot be passed on is closed.
async fn relay(network: SimNetwork, mut outer: TcpStream, behind: u64) {
    let address = format!("{}:{PEER_PORT}", host_name(behind));
    if let Ok(Ok(mut inner)) = tokio::time::timeout(REACH, network.dial(&address)).await {
        // How a connection ends is for its ends to tell.
        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
    }
}

/// A node that is a whole cluster of the same kind with another name.
pub async fn other_cluster(disk: FaultyDisk, wires: Wires, seed: u64) -> turmoil::Result {
    let name = OTHER_CLUSTER;
    let mut config = Config::new(1, "another", name.to_owned(), "/data");
    let any = |port| std::net::SocketAddr::from(([0, 0, 0, 0], port));
    (config.grpc_listen, config.peer_listen) = (any(7401), any(PEER_PORT));
    config.grpc_advertise = Some(format!("{name}:7401"));
    config.peer_advertise = Some(format!("{name}:{PEER_PORT}"));
    config.peers = format!("1={name}@{name}:{PEER_PORT}/{name}:7401").parse()?;
    config.insecure_listen = true;
    config.disk_reserve_bytes = 1 << 20;
    let parts = Parts {
        disk: disk.shared(),
        clock: Arc::<SimClock>::default(),
        network: Arc::new(SimNetwork { host: name.to_owned(), wires }),
        seed,
        sizes: Sizes::default(),
    };
    let node = Node::start_with(config, parts).await?;
    Err(node.failed().await.to_string().into())
}

/// Answers the first in words of another protocol, says nothing to the second, and so on.
pub async fn other_server() -> turmoil::Result {
    let listener = TcpListener::bind(peer_port()).await?;
    let mut speaks = false;
    loop {
        let (stream, _) = listener.accept().await?;
        speaks = !speaks;
        tokio::spawn(answer(stream, speaks));
    }
}

async fn answer(mut stream: TcpStream, speaks: bool) {
    let mut heard = [0; 1_024];
    while let Ok(1..) = stream.read(&mut heard).await {
        if speaks {
            // Who dialled may be gone.
            let _ =
                stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
            return;
        }
    }
}
