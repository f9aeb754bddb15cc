//! TLS from PEM files: what clients see, and what nodes show each other.

use std::path::Path;

use tonic::transport::{Identity, ServerTlsConfig};

use super::ServerError;
use super::config::TlsFiles;
use crate::consensus::network::PeerTls;

/// The name that every node's certificate carries beside its host names.
pub const PEER_NAME: &str = "zoneq-node";

/// What the files hold.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) peer: PeerTls,
}

impl Tls {
    pub(super) fn read(files: &TlsFiles) -> Result<Tls, ServerError> {
        let peer = PeerTls {
            authority: pem("tls_ca", &files.ca)?,
            certificate: pem("tls_cert", &files.cert)?,
            key: pem("tls_key", &files.key)?,
            name: PEER_NAME.to_owned(),
        };
        Ok(Tls { peer })
    }

    /// For clients, who need no certificate.
    pub(super) fn public(&self) -> ServerTlsConfig {
        let identity = Identity::from_pem(&self.peer.certificate, &self.peer.key);
        ServerTlsConfig::new().identity(identity)
    }
}

/// Whether the files can be read, as a start reads them.
///
/// # Errors
/// [`ServerError::Config`], which names the file.
pub fn check(files: &TlsFiles) -> Result<(), ServerError> {
    Tls::read(files).map(|_| ())
}

/// What this node shows its peers.
///
/// # Errors
/// As [`check`].
pub fn peer(files: &TlsFiles) -> Result<PeerTls, ServerError> {
    Tls::read(files).map(|tls| tls.peer)
}

fn pem(key: &str, path: &Path) -> Result<Vec<u8>, ServerError> {
    std::fs::read(path).map_err(|error| ServerError::Config {
        key: key.to_owned(),
        problem: format!("{} cannot be read: {error}", path.display()),
        allowed: "a PEM file that this process may read".to_owned(),
    })
}
