//! What is the node's own: its configuration, its data directory, and its clock against those of
//! its peers.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Check;
use crate::clock::{Clock as _, SystemClock};
use crate::consensus::network::{ChannelOptions, TcpNetwork};
use crate::consensus::transport::{Faults, PeerClient, Peers};
use crate::consensus::zones::{self, Redundancy};
use crate::server::config::Peer;
use crate::server::tls;
use crate::server::{CLOCK_BOUND, Config};
use crate::storage::disk::Disk;
use crate::storage::disk::real::RealDisk;
use crate::storage::error::StorageError;
use crate::storage::format::{Identity, check_identity, read_identity};
use crate::storage::log::{Trouble, inspect};

/// How long a peer may take to say its time.
const QUESTION: Duration = Duration::from_millis(800);

/// What is allowed and may still be a mistake.
pub(super) fn configuration(config: &Config) -> Vec<Check> {
    const NAME: &str = "configuration";
    let mut checks = vec![Check::ok(
        NAME,
        format!("node {} of cluster {} in zone {}", config.node_id, config.cluster_id, config.zone),
    )];
    let reached = [config.grpc_listen, config.peer_listen].iter().any(|a| !a.ip().is_loopback());
    if let Some(files) = &config.tls
        && let Err(error) = tls::check(files)
    {
        checks.push(Check::fail("TLS", error.to_string(), "The node would not start."));
    }
    if reached && config.tls.is_none() {
        checks.push(Check::warn(
            "TLS",
            "others reach this node, and there is none",
            "Whoever reaches the ports may read, write and change the cluster; set tls_cert, \
             tls_key and tls_ca.",
        ));
    }
    if config.enable_faults {
        checks.push(Check::warn(
            "enable_faults",
            "anybody may cut this node off",
            "It is for labs and drills; take it away in production.",
        ));
    }
    checks.push(redundancy(config));
    checks
}

fn redundancy(config: &Config) -> Check {
    const NAME: &str = "redundancy";
    let peers = &config.peers.0;
    if peers.is_empty() {
        return Check::warn(
            NAME,
            "this node is alone",
            "Its disk is the only copy; give `peers` in three zones for ZRS.",
        );
    }
    if !peers.iter().any(|peer| peer.id == config.node_id) {
        let found = format!("node {} is not in `peers`", config.node_id);
        return Check::ok(NAME, format!("{found}, so it joins and waits to be added"));
    }
    match zones::redundancy(peers.iter().map(|peer| peer.zone.as_str())) {
        Ok(Redundancy::Zone) => Check::ok(NAME, "ZRS: any one zone may be lost"),
        Ok(Redundancy::Local) => Check::warn(
            NAME,
            "LRS: all nodes are in one zone",
            "When that zone is lost so is the cluster; use three zones.",
        ),
        Ok(Redundancy::Degraded) => Check::fail(
            NAME,
            "one zone holds so many nodes that without it no majority is left",
            "Spread `peers` evenly over three zones or more.",
        ),
        Err(error) => Check::fail(NAME, error.to_string(), "Correct `peers`."),
    }
}

/// Whose the data directory is and what state it is in; and whether a node runs on it.
pub(super) fn data_directory(config: &Config) -> (Vec<Check>, bool) {
    const NAME: &str = "data directory";
    let (disk, dir) = (RealDisk, &config.data_dir);
    let place = dir.display();
    if !dir.exists() {
        return (
            vec![Check::ok(NAME, format!("{place} is not there yet and will be made"))],
            false,
        );
    }
    let identity = Identity {
        cluster_id: config.cluster_id.clone(),
        node_id: config.node_id,
        region: config.region.clone(),
        zone: config.zone.clone(),
    };
    let found = read_identity(&disk, dir);
    let checked = found.and_then(|found| match found {
        Some(found) => check_identity(dir, &found, &identity).map(|()| true),
        None => Ok(false),
    });
    match checked {
        Ok(true) => {}
        Ok(false) => return (vec![Check::ok(NAME, format!("{place} is empty"))], false),
        Err(error) => return (vec![refused(NAME, &error)], false),
    }
    // The lock file is there with the identity: taking it changes nothing.
    let lock = match disk.lock(dir) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let found = format!("{place} is this node's, and it is running");
            return (vec![Check::ok(NAME, found)], true);
        }
        Err(error) => {
            let found = format!("{place} cannot be locked: {error}");
            let advice = "The node's user needs the right to write there.";
            return (vec![Check::fail(NAME, found, advice)], false);
        }
    };
    let checks = vec![Check::ok(NAME, format!("{place} is this node's")), log(&disk, config)];
    drop(lock);
    (checks, false)
}

fn refused(name: &'static str, error: &StorageError) -> Check {
    let advice = match error {
        StorageError::ForeignCluster { .. } | StorageError::ForeignNode { .. } => {
            "Use the directory of this node, or an empty one under a new node_id."
        }
        StorageError::NewerFormat { .. } => "Run the newer version.",
        _ => "Look at the disk; `zoneq inspect` shows what is left. Replace the node by a new one.",
    };
    Check::fail(name, error.to_string(), advice)
}

/// What a start would find in the log.
fn log(disk: &dyn Disk, config: &Config) -> Check {
    const NAME: &str = "log";
    let dir = config.data_dir.join("log");
    if !disk.exists(&dir) {
        return Check::ok(NAME, "nothing is written yet");
    }
    let inspect_it = format!("`zoneq inspect {}` says where.", config.data_dir.display());
    let found = match inspect(disk, &dir) {
        Ok(found) => found,
        Err(error) => return Check::fail(NAME, error.to_string(), inspect_it),
    };
    if let Err(error) = found.vote {
        return Check::fail("vote", error.to_string(), "Replace the node by one with a new id.");
    }
    if found.trouble.iter().any(|trouble| trouble.hole().is_some()) {
        let advice = format!("A start asks the peers for them. {inspect_it}");
        return Check::warn(NAME, "entries are damaged or in doubt", advice);
    }
    let torn = found.trouble.iter().any(|trouble| matches!(trouble, Trouble::Torn { .. }));
    let last = found.last.map_or_else(|| "nothing".to_owned(), |last| last.index.to_string());
    let tail = if torn { "; a crash cut its last write short, which a start cuts off" } else { "" };
    Check::ok(NAME, format!("it is whole up to entry {last}{tail}"))
}

/// This machine's clock against those of the peers that answer.
pub(super) async fn clocks(config: &Config) -> Vec<Check> {
    const NAME: &str = "clock";
    let others: Vec<&Peer> =
        config.peers.0.iter().filter(|peer| peer.id != config.node_id).collect();
    if others.is_empty() {
        return vec![Check::ok(NAME, "there is no peer to compare it with")];
    }
    let mut channel = ChannelOptions::for_election(QUESTION);
    match config.tls.as_ref().map(tls::peer).transpose() {
        Ok(tls) => channel.tls = tls,
        Err(error) => return vec![Check::warn(NAME, error.to_string(), "Correct TLS first.")],
    }
    let network = Arc::new(TcpNetwork);
    let peers =
        Peers::new(&*config.cluster_id, config.node_id, network, channel, Faults::disabled());
    let peers = match peers {
        Ok(peers) => peers,
        Err(error) => return vec![Check::fail(NAME, error.to_string(), "Correct cluster_id.")],
    };
    let asked = others.into_iter().map(|peer| clock(peers.clone(), peer));
    futures::future::join_all(asked).await
}

async fn clock(peers: Peers, peer: &Peer) -> Check {
    const NAME: &str = "clock";
    let clock = SystemClock::default();
    let mut client = PeerClient::new(peers, peer.id, &peer.address);
    let before = clock.wall_us();
    let theirs = client.read_clock(QUESTION).await;
    let after = clock.wall_us();
    match theirs {
        // It said so between the two.
        Ok(theirs) => compare(peer.id, i128::from(theirs) - i128::from(before.midpoint(after))),
        Err(error) => Check::warn(
            NAME,
            format!("node {} at {} says nothing: {error}", peer.id, peer.address),
            "Not compared: start it, or see whether its peer port is reached from here.",
        ),
    }
}

/// Judges how far ahead a peer's clock is, in microseconds.
fn compare(node: u64, ahead_us: i128) -> Check {
    const NAME: &str = "clock";
    let apart = Duration::from_micros(u64::try_from(ahead_us.unsigned_abs()).unwrap_or(u64::MAX));
    let way = if ahead_us < 0 { "ahead of" } else { "behind" };
    let found = format!("it is {} ms {way} that of node {node}", apart.as_millis());
    if apart > CLOCK_BOUND {
        let advice = "A leader whose clock a majority does not share hands over: run an NTP client \
                      on every node.";
        return Check::fail(NAME, found, advice);
    }
    if apart > CLOCK_BOUND / 4 {
        let advice = "Leases may be shorter by that when the leader changes: run an NTP client on \
                      every node.";
        return Check::warn(NAME, found, advice);
    }
    Check::ok(NAME, found)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn clocks_may_differ_a_little() {
        for (ahead_us, state, words) in [
            (0, State::Ok, "0 ms"),
            (-100_000, State::Ok, "100 ms ahead of"),
            (400_000, State::Warn, "400 ms behind"),
            (-5_000_000, State::Fail, "5000 ms ahead of"),
            (i128::MAX, State::Fail, "behind"),
        ] {
            let check = compare(2, ahead_us);
            assert_eq!(check.state, state, "{check:?}");
            assert!(check.found.contains(words), "{check:?}");
        }
    }

    #[test]
    fn a_layout_is_judged_as_the_cluster_will() {
        for (peers, state) in [
            ("", State::Warn),
            ("1=a@h:1,2=b@h:2,3=c@h:3", State::Ok),
            ("1=a@h:1,2=a@h:2,3=a@h:3", State::Warn),
            ("1=a@h:1,2=a@h:2,3=b@h:3", State::Fail),
            ("2=b@h:2,3=c@h:3,4=d@h:4", State::Ok),
        ] {
            let mut config = Config::new(1, "c", "a", "/nowhere");
            config.peers = peers.parse().expect(peers);
            assert_eq!(redundancy(&config).state, state, "{peers}");
        }
    }
}
