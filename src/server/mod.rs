//! The roof: builds the rooms in order, starts them, announces the addresses, and drains in
//! reverse. Nothing is decided here. The only place that spawns long-lived tasks.

pub mod config;
mod error;
pub mod telemetry;

use std::net::SocketAddr;

pub use config::{Config, ConfigKeys};
pub use error::{ErrorClass, ServerError};

/// Where a node listens, with the ports it was given when it asked for port 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    pub grpc: SocketAddr,
    pub peer: SocketAddr,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    addresses: Addresses,
}

impl Node {
    /// Starts a node on the machine's own disk, clock and network.
    ///
    /// # Errors
    /// [`ServerError`], each class with its own message.
    pub async fn start(config: Config) -> Result<Node, ServerError> {
        config.validate()?;
        Err(ServerError::fatal("the node cannot start", "the rooms below are not joined yet"))
    }

    #[must_use]
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Resolves when the node can serve no longer by itself; then [`Node::shutdown`] it.
    pub async fn failed(&self) -> ServerError {
        std::future::pending().await
    }

    /// Hands leadership over, refuses new work, ends what is in progress and makes the tables
    /// durable.
    ///
    /// # Errors
    /// [`ServerError::Fatal`] when the last commit failed; nothing acknowledged is lost by it.
    pub async fn shutdown(self) -> Result<(), ServerError> {
        Ok(())
    }
}
