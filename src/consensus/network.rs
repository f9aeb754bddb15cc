//! Connections between nodes: dialling and listening behind one trait, so that the simulator
//! can bring its own wires, and the settings every peer channel has.
//!
//! Laws: every socket, dialled or accepted, has Nagle's delay off (delayed acknowledgements
//! against it cost 96 % of the throughput); a dial is bounded by the connect timeout; a dead
//! connection is found by HTTP/2 pings within less than an election timeout.
//!
//! Refuses: an address without a port, and plain connections once peer TLS is configured.

use std::fmt::{self, Debug};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::Connected;
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig, Uri,
};

/// One HTTP/2 stream may have this much unread.
pub const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// One connection may have this much unread.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest HTTP/2 frame a node takes. With the default of 16 KiB an entry arrives in many
/// pieces, each put behind the others in a buffer that grows.
pub const FRAME_BYTES: u32 = 1 << 20;

/// How nodes reach one another.
#[async_trait::async_trait]
pub trait Network: Send + Sync + Debug + 'static {
    /// Connects to `host:port`. `ConnectionRefused` must mean that the host answered and
    /// nothing listens there: the failover fast path takes it as evidence.
    async fn dial(&self, address: &str) -> io::Result<Io>;
    /// Listens on `host:port`; port 0 takes any free one.
    async fn listen(&self, address: &str) -> io::Result<Listener>;
}

/// A listening socket.
pub struct Listener {
    /// The address taken, with the real port.
    pub local: SocketAddr,
    /// The accepted connections. An error concerns one connection, not the listener.
    pub incoming: BoxStream<'static, io::Result<Io>>,
}

impl Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("local", &self.local).finish_non_exhaustive()
    }
}

/// What an [`Io`] carries: any two-way byte stream.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Wire for T {}

/// One connection, whatever it runs over.
pub struct Io {
    wire: Box<dyn Wire>,
    remote: Option<SocketAddr>,
}

impl Io {
    /// Wraps a connection whose Nagle delay is already off.
    pub fn new(wire: impl Wire, remote: Option<SocketAddr>) -> Io {
        Io { wire: Box::new(wire), remote }
    }
}

impl Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io").field("remote", &self.remote).finish_non_exhaustive()
    }
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub Option<SocketAddr>);

impl Connected for Io {
    type ConnectInfo = Remote;

    fn connect_info(&self) -> Remote {
        Remote(self.remote)
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_read(cx, buf)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }
}

/// The machine's own TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNetwork;

#[async_trait::async_trait]
impl Network for TcpNetwork {
    async fn dial(&self, address: &str) -> io::Result<Io> {
        let stream = TcpStream::connect(address).await?;
        without_delay(stream)
    }

    async fn listen(&self, address: &str) -> io::Result<Listener> {
        let listener = TcpListener::bind(address).await?;
        let local = listener.local_addr()?;
        let incoming = futures::stream::unfold(listener, |listener| async move {
            let accepted = accept(&listener).await;
            Some((accepted, listener))
        });
        Ok(Listener { local, incoming: incoming.boxed() })
    }
}

async fn accept(listener: &TcpListener) -> io::Result<Io> {
    match listener.accept().await {
        Ok((stream, _)) => without_delay(stream),
        Err(error) => {
            // Out of file descriptors, as a rule: without a pause the loop would spin.
            tokio::time::sleep(Duration::from_millis(10)).await;
            Err(error)
        }
    }
}

/// A connection whose small writes leave at once.
fn without_delay(stream: TcpStream) -> io::Result<Io> {
    stream.set_nodelay(true)?;
    let remote = stream.peer_addr().ok();
    Ok(Io::new(stream, remote))
}

/// Both ends' certificates between nodes, as PEM.
#[derive(Clone)]
pub struct PeerTls {
    /// The authority that signed every node's certificate; both ends check it.
    pub authority: Vec<u8>,
    /// This node's certificate chain.
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
    /// The name that every node's certificate carries.
    pub name: String,
}

impl Debug for PeerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerTls").field("name", &self.name).finish_non_exhaustive()
    }
}

impl PeerTls {
    fn identity(&self) -> Identity {
        Identity::from_pem(&self.certificate, &self.key)
    }

    /// For the dialling side.
    #[must_use]
    pub fn client(&self) -> ClientTlsConfig {
        ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(&self.authority))
            .identity(self.identity())
            .domain_name(self.name.clone())
    }

    /// For the listening side; a caller without a certificate is turned away.
    #[must_use]
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new()
            .identity(self.identity())
            .client_ca_root(Certificate::from_pem(&self.authority))
    }
}

/// The settings of a channel to a peer.
#[derive(Clone, Debug)]
pub struct ChannelOptions {
    pub connect_timeout: Duration,
    /// A ping is sent after this long without a frame, and must be answered in as long again.
    pub keep_alive: Duration,
    pub tls: Option<PeerTls>,
}

impl ChannelOptions {
    /// Options that find a dead connection within one shortest election timeout.
    #[must_use]
    pub fn for_election(shortest: Duration) -> ChannelOptions {
        let half = shortest / 2;
        ChannelOptions {
            connect_timeout: half.clamp(Duration::from_millis(100), Duration::from_millis(200)),
            keep_alive: half.max(Duration::from_millis(100)),
            tls: None,
        }
    }
}

/// Why no channel could be made.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the peer address {address:?} is not host:port")]
    Address { address: String },
    #[error("the TLS settings for peer {address} cannot be used")]
    Tls {
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
}

/// A channel to `address` that connects when first used, and again after a break.
pub fn channel(
    network: Arc<dyn Network>,
    address: &str,
    options: &ChannelOptions,
) -> Result<Channel, ChannelError> {
    let wrong = || ChannelError::Address { address: address.to_owned() };
    let scheme = if options.tls.is_some() { "https" } else { "http" };
    let uri: Uri = format!("{scheme}://{address}").parse().map_err(|_| wrong())?;
    if uri.host().is_none() || uri.port_u16().is_none() {
        return Err(wrong());
    }
    let mut endpoint = Endpoint::from(uri)
        .tcp_nodelay(true)
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(options.keep_alive)
        .keep_alive_timeout(options.keep_alive)
        .keep_alive_while_idle(true)
        .http2_adaptive_window(false)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    if let Some(tls) = &options.tls {
        endpoint = endpoint
            .tls_config(tls.client())
            .map_err(|source| ChannelError::Tls { address: address.to_owned(), source })?;
    }
    let address: Arc<str> = address.into();
    let connector = tower::service_fn(move |_: Uri| {
        let network = Arc::clone(&network);
        let address = Arc::clone(&address);
        async move { network.dial(&address).await.map(TokioIo::new) }
    });
    Ok(endpoint.connect_with_connector_lazy(connector))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;

    use super::*;

    fn nodelay(fd: i32) -> bool {
        let mut value: libc::c_int = 0;
        let mut length = size_of::<libc::c_int>() as libc::socklen_t;
        let result = unsafe {
            libc::getsockopt(
                fd,
                libc::IPPROTO_TCP,
                libc::TCP_NODELAY,
                (&raw mut value).cast(),
                &raw mut length,
            )
        };
        assert_eq!(result, 0);
        value != 0
    }

    /// Every open socket of this process that is connected from or to `port`.
    fn sockets_at(port: u16) -> Vec<i32> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
            let fd: i32 = entry.unwrap().file_name().to_str().unwrap().parse().unwrap();
            if let Ok(socket) = socket_ports(fd)
                && (socket.0 == port || socket.1 == port)
            {
                found.push(fd);
            }
        }
        found
    }

    fn socket_ports(fd: i32) -> io::Result<(u16, u16)> {
        use std::os::fd::{FromRawFd as _, IntoRawFd as _};
        // Borrowed for two questions and handed back, never closed.
        let stream = unsafe { std::net::TcpStream::from_raw_fd(fd) };
        let answer = (stream.local_addr(), stream.peer_addr());
        assert_eq!(stream.as_raw_fd(), fd);
        let _ = stream.into_raw_fd();
        Ok((answer.0?.port(), answer.1?.port()))
    }

    #[tokio::test]
    async fn both_ends_of_a_connection_have_nagle_off() {
        let mut listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local.to_string();
        let (dialled, accepted) = tokio::join!(TcpNetwork.dial(&address), listener.incoming.next());
        let _open = (dialled.unwrap(), accepted.unwrap().unwrap());

        let sockets = sockets_at(listener.local.port());
        assert_eq!(sockets.len(), 2, "one socket dialled, one accepted");
        for fd in sockets {
            assert!(nodelay(fd), "socket {fd} still waits for acknowledgements");
        }
    }

    #[tokio::test]
    async fn a_port_without_a_listener_refuses() {
        let listener = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let address = listener.local.to_string();
        drop(listener);
        let error = TcpNetwork.dial(&address).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn an_address_without_a_port_makes_no_channel() {
        let options = ChannelOptions::for_election(Duration::from_millis(200));
        let error = channel(Arc::new(TcpNetwork), "localhost", &options).unwrap_err();
        assert_eq!(error.to_string(), "the peer address \"localhost\" is not host:port");
    }
}
