//! Why a node did not start, or stopped.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The classes that a caller may tell apart; the command line gives each an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The configuration is wrong: exit code 64.
    Config,
    PortInUse,
    /// The data directory is locked, foreign, of a newer format, damaged or unreadable.
    DataDir,
    Fatal,
}

#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("{key} {problem}; allowed: {allowed}")]
    Config { key: String, problem: String, allowed: String },
    #[error("the configuration file {path} is refused: {why}", path = path.display())]
    ConfigFile { path: PathBuf, why: String },
    #[error(
        "{key}: the port of {address} is in use by another process; choose another, or stop it"
    )]
    PortInUse { key: &'static str, address: SocketAddr },
    #[error("{key}: cannot listen on {address}")]
    Listen { key: &'static str, address: SocketAddr, source: io::Error },
    #[error("the data directory {dir} cannot be used: {source}", dir = dir.display())]
    DataDir { dir: PathBuf, source: Box<dyn Error + Send + Sync> },
    #[error("this node may not take part: {source}")]
    MayNotJoin { source: Box<dyn Error + Send + Sync> },
    #[error("{doing}: {source}")]
    Fatal { doing: &'static str, source: Box<dyn Error + Send + Sync> },
}

impl ServerError {
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            ServerError::Config { .. } | ServerError::ConfigFile { .. } => ErrorClass::Config,
            ServerError::PortInUse { .. } => ErrorClass::PortInUse,
            ServerError::DataDir { .. } | ServerError::MayNotJoin { .. } => ErrorClass::DataDir,
            ServerError::Listen { .. } | ServerError::Fatal { .. } => ErrorClass::Fatal,
        }
    }

    pub(crate) fn fatal(
        doing: &'static str,
        source: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> ServerError {
        ServerError::Fatal { doing, source: source.into() }
    }
}
