//! The way to the leader: one cached channel to the current leader's peer address, over which
//! a follower's public face passes calls on.
//!
//! Laws: the channel is the forwarded calls' own, so they never delay the log; it is made anew
//! when the leader or its address changes, or another node was at its end, and dropped calls are
//! the caller's to judge: not sent is *not applied*, broken after it was sent is *unknown*.
//!
//! Refuses a leader that is cut off by a fault.

use std::sync::{Arc, Mutex, PoisonError};

use tonic::transport::Channel;

use super::network::ChannelError;
use super::transport::Peers;

/// Why there is no way to the leader.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    #[error("leader {0} is cut off from this node")]
    Cut(u64),
    #[error("the address of leader {leader} cannot be used")]
    Address {
        leader: u64,
        #[source]
        source: ChannelError,
    },
}

/// The cached channel. A clone shares it.
#[derive(Clone, Debug)]
pub struct LeaderChannels {
    peers: Peers,
    cached: Arc<Mutex<Option<Cached>>>,
}

#[derive(Debug)]
struct Cached {
    leader: u64,
    address: String,
    channel: Channel,
}

impl LeaderChannels {
    #[must_use]
    pub fn new(peers: Peers) -> LeaderChannels {
        LeaderChannels { peers, cached: Arc::default() }
    }

    /// A channel to `leader` at its peer address.
    pub fn to(&self, leader: u64, address: &str) -> Result<Channel, ForwardError> {
        if self.peers.faults().is_cut(leader) {
            return Err(ForwardError::Cut(leader));
        }
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*cached
            && known.leader == leader
            && known.address == address
        {
            return Ok(known.channel.clone());
        }
        let channel = self
            .peers
            .channel(address)
            .map_err(|source| ForwardError::Address { leader, source })?;
        let address = address.to_owned();
        *cached = Some(Cached { leader, address, channel: channel.clone() });
        Ok(channel)
    }

    /// Gives up the channel to `leader`: at its end was another node.
    pub fn forget(&self, leader: u64) {
        let mut cached = self.cached.lock().unwrap_or_else(PoisonError::into_inner);
        cached.take_if(|known| known.leader == leader);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::super::network::{ChannelOptions, TcpNetwork};
    use super::super::transport::Faults;
    use super::*;

    #[tokio::test]
    async fn a_leader_that_is_cut_off_is_not_called() {
        let options = ChannelOptions::for_election(Duration::from_millis(200));
        let faults = Faults::enabled();
        let peers = Peers::new("red", 1, Arc::new(TcpNetwork), options, faults.clone()).unwrap();
        let channels = LeaderChannels::new(peers);
        assert!(channels.to(2, "127.0.0.1:7502").is_ok());
        faults.set_cut(BTreeSet::from([2])).unwrap();
        let error = channels.to(2, "127.0.0.1:7502").unwrap_err();
        assert_eq!(error.to_string(), "leader 2 is cut off from this node");
    }
}
