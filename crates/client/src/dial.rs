//! How a relay is reached: TCP or a SOCKS5 proxy, TLS 1.3, raw or WebSocket, and the first packets.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_websockets::{ClientBuilder, Limits};
use valise_proto::limits::WEBSOCKET_MESSAGE_BYTES_MAX;
use valise_proto::{Channel, CloseReason, RelayAddress, SignedRealmRecord, Token, WEBSOCKET_PATH};

use crate::endpoint::{is_public_address, is_public_host};
use crate::opening::{self, OpeningError};
use crate::socks::{self, SocksError, SocksProxy};
use crate::transport::{Transport, TransportError};
use crate::{Connection, Incoming, limits, tls};

/// The two ways packets travel inside TLS. They carry the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TransportKind {
    /// ALPN `valise/1`: the leanest.
    #[default]
    Raw,
    /// `GET /v1/relay`: for networks that let only HTTPS through. The upgrade request is sent
    /// before the relay has proven anything; it says nothing but the relay's own address.
    WebSocket,
}

/// Where to connect, and how.
#[derive(Debug, Clone)]
pub struct Dial {
    /// The relay and the realm it must prove to serve.
    pub address: RelayAddress,
    /// Raw unless told otherwise.
    pub transport: TransportKind,
    /// The proxy resolves the relay's name.
    pub proxy: Option<SocksProxy>,
    /// Refuses hosts that are not public, and overlooks addresses that are not, where a name is
    /// resolved here: for relay addresses that somebody else has given us.
    pub public_only: bool,
    /// For the whole opening, from TCP to `Welcome`.
    pub timeout: Duration,
    /// The local address to connect from, for hosts with several.
    pub connect_from: Option<IpAddr>,
    /// The socket's receive buffer in bytes, where the system's own choice is too much (or too
    /// little) for this device.
    pub receive_buffer_bytes: Option<u32>,
    /// Bytes of events the application has not taken; above it the connection stops reading its
    /// socket, and TCP holds the relay back.
    pub incoming_bytes_max: usize,
    /// Another endpoint of the realm, `host:port`, to be tried before the address: one that its
    /// record has listed.
    pub prefer: Option<String>,
    /// The realm's record, as [`Update::Realm`](crate::Update::Realm) has told it the last time: it
    /// lists where else the realm is served. [`crate::Client`] looks at it; one that is not genuine
    /// is none.
    pub realm_record: Option<SignedRealmRecord>,
    /// The highest epoch of the realm seen so far; a relay that shows an older one is refused.
    pub realm_epoch: u64,
    /// Lets the connection live without an attachment or a post.
    pub member_token: Option<Token>,
}

/// No connection, and why.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name does not resolve, or nobody listens there.
    #[error("cannot reach {host}:{port}: {error}")]
    Unreachable {
        /// The relay's, or the proxy's, host.
        host: String,
        /// Its port.
        port: u16,
        /// What the system says.
        error: io::Error,
    },
    /// The proxy did not connect us.
    #[error(transparent)]
    Proxy(#[from] SocksError),
    /// The relay's host is neither a DNS name nor an IP address.
    #[error("{0} is neither a host name nor an IP address")]
    HostName(String),
    /// Only public endpoints were asked for, and this is none.
    #[error("{0} is not on the public internet")]
    NotPublic(String),
    /// No TLS 1.3 with the other side.
    #[error("the TLS handshake failed: {0}")]
    Tls(io::Error),
    /// TLS works, but the other side does not speak the transport asked for.
    #[error("the other side is no Valise relay: it did not agree to {0}")]
    NotARelay(&'static str),
    /// The HTTP upgrade failed.
    #[error("the WebSocket could not be opened: {0}")]
    Upgrade(tokio_websockets::Error),
    /// The relay proved nothing, or the wrong thing. Nothing was sent to it.
    #[error(transparent)]
    Opening(#[from] OpeningError),
    /// The relay ended the connection instead of introducing itself.
    #[error("the relay ended the connection before it introduced itself: {}", close_text(*.0))]
    EndedEarly(Option<CloseReason>),
    /// The stream broke before `Welcome`.
    #[error("the connection broke before the relay introduced itself: {0}")]
    Broken(#[from] TransportError),
    /// The time is over.
    #[error("{0} took too long")]
    TimedOut(&'static str),
}

fn close_text(reason: Option<CloseReason>) -> &'static str {
    reason.map_or("no reason given", CloseReason::name)
}

impl Dial {
    /// The defaults: raw, no proxy, 15 seconds.
    pub fn new(address: RelayAddress) -> Self {
        Self {
            address,
            transport: TransportKind::Raw,
            proxy: None,
            public_only: false,
            timeout: limits::CONNECT_WAIT,
            connect_from: None,
            receive_buffer_bytes: None,
            incoming_bytes_max: limits::INCOMING_BYTES_MAX,
            prefer: None,
            realm_record: None,
            realm_epoch: 0,
            member_token: None,
        }
    }
}

/// Connects to the relay, checks that it serves the realm, and says hello. Nothing is sent to a
/// relay that cannot prove it (over WebSocket: nothing but the upgrade request). Runs in a Tokio
/// runtime, where the connection's task lives on.
///
/// # Errors
/// [`ConnectError`] names the step that failed.
pub async fn connect(dial: &Dial) -> Result<(Connection, Incoming), ConnectError> {
    // On the heap: the handshakes' state is large, and callers wait for several things at once.
    Box::pin(open(dial)).await
}

async fn open(dial: &Dial) -> Result<(Connection, Incoming), ConnectError> {
    let until = Instant::now() + dial.timeout;
    let tcp = within(until, "connecting", reach(dial)).await?;
    let tls = within(until, "the TLS handshake", encrypt(dial, tcp)).await?;
    let session = tls.get_ref().1;
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let channel = Channel::of_certificate(leaf.expect("a TLS 1.3 server shows a certificate"));
    let group = session.negotiated_key_exchange_group().and_then(|group| group.name().as_str());
    let transport = within(until, "the WebSocket upgrade", Box::pin(frame(dial, tls))).await?;
    let opened = within(until, "the relay's welcome", opening::open(transport, channel, dial));
    Ok(Connection::start(opened.await?, group.unwrap_or("unknown"), dial))
}

async fn within<T>(
    until: Instant,
    step: &'static str,
    work: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    timeout_at(until, work).await.unwrap_or(Err(ConnectError::TimedOut(step)))
}

/// A TCP connection whose other end is the relay.
async fn reach(dial: &Dial) -> Result<TcpStream, ConnectError> {
    let RelayAddress { host, port, .. } = &dial.address;
    let (next_host, next_port) = match &dial.proxy {
        None => (host, *port),
        Some(proxy) => (&proxy.host, proxy.port),
    };
    if dial.public_only && !is_public_host(host) {
        return Err(ConnectError::NotPublic(host.clone()));
    }
    let unreachable = |error| {
        let (host, port) = (next_host.clone(), next_port);
        ConnectError::Unreachable { host, port, error }
    };
    let addresses = tokio::net::lookup_host((next_host.as_str(), next_port)).await;
    let mut addresses: Vec<SocketAddr> = addresses.map_err(unreachable)?.collect();
    // The proxy's own address was not given by somebody else.
    if dial.public_only && dial.proxy.is_none() {
        addresses.retain(|address| is_public_address(address.ip()));
    }
    let mut tcp = tcp_connect(&addresses, dial).await.map_err(unreachable)?;
    // Packets are batched here; the kernel must not wait for more.
    tcp.set_nodelay(true).map_err(ConnectError::Tls)?;
    if let Some(proxy) = &dial.proxy {
        socks::through(&mut tcp, proxy, host, *port).await?;
    }
    Ok(tcp)
}

async fn tcp_connect(addresses: &[SocketAddr], dial: &Dial) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address we may use");
    for &address in addresses {
        if dial.connect_from.is_some_and(|from| from.is_ipv4() != address.is_ipv4()) {
            continue;
        }
        match tcp_connect_to(address, dial).await {
            Ok(tcp) => return Ok(tcp),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn tcp_connect_to(address: SocketAddr, dial: &Dial) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(bytes) = dial.receive_buffer_bytes {
        // Before the connection, so that TCP never offers a larger window.
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(from) = dial.connect_from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(address).await
}

async fn encrypt(dial: &Dial, tcp: TcpStream) -> Result<TlsStream<TcpStream>, ConnectError> {
    let host = dial.address.host.clone();
    let name = ServerName::try_from(host.clone()).map_err(|_| ConnectError::HostName(host))?;
    let tls = TlsConnector::from(tls::config(dial.transport)).connect(name, tcp).await;
    let tls = tls.map_err(ConnectError::Tls)?;
    match (dial.transport, tls.get_ref().1.alpn_protocol()) {
        (TransportKind::Raw, Some(valise_proto::ALPN)) => Ok(tls),
        (TransportKind::WebSocket, None | Some(b"http/1.1")) => Ok(tls),
        (TransportKind::Raw, _) => Err(ConnectError::NotARelay("the protocol valise/1")),
        (TransportKind::WebSocket, _) => Err(ConnectError::NotARelay("HTTP/1.1")),
    }
}

async fn frame(dial: &Dial, tls: TlsStream<TcpStream>) -> Result<Transport, ConnectError> {
    if dial.transport == TransportKind::Raw {
        return Ok(Transport::raw(tls));
    }
    let RelayAddress { host, port, .. } = &dial.address;
    let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
    let uri = format!("wss://{open}{host}{close}:{port}{WEBSOCKET_PATH}");
    let builder =
        ClientBuilder::new().uri(&uri).map_err(|_| ConnectError::HostName(host.clone()))?;
    let limits = Limits::default().max_payload_len(Some(WEBSOCKET_MESSAGE_BYTES_MAX));
    let (stream, _response) =
        builder.limits(limits).connect_on(tls).await.map_err(ConnectError::Upgrade)?;
    Ok(Transport::web_socket(stream))
}
