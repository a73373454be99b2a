//! Connections made by hand, which get stuck where the client library never would.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConnection;
use tokio_rustls::rustls::pki_types::ServerName;
use valise_client::{Dial, OpeningError, TransportKind, tls_config, verify};
use valise_proto::{
    Attach, Channel, ClientPacket, Deframer, Hello, MailboxId, PacketBuffer, ServerPacket, VERSION,
    Welcome, statement,
};

use crate::account::Account;

/// How long opening one may take.
const OPENING_WAIT: Duration = Duration::from_secs(9);

/// Where a connection gets stuck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stuck {
    /// TCP, and not a byte.
    NoClientHello,
    /// The relay's part of the handshake is never answered.
    HalfHandshake,
    /// TLS works; not a packet is sent.
    NoHello,
    /// Attached; not even pings.
    Silent,
}

impl Stuck {
    pub(crate) const ALL: [Self; 4] =
        [Self::NoClientHello, Self::HalfHandshake, Self::NoHello, Self::Silent];
}

/// A connection that got stuck as planned.
pub(crate) enum Bare {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// It got stuck elsewhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BareError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0} cannot be dialled by hand")]
    Host(String),
    #[error("{0}")]
    Opening(#[from] OpeningError),
    #[error("the relay said something else")]
    Unexpected,
    #[error("it took too long")]
    TimedOut,
}

impl BareError {
    /// For counting.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Io(error) => error.kind().to_string(),
            error => error.to_string(),
        }
    }
}

impl Bare {
    /// Waits until the relay closes it. What it says before is not looked at.
    pub(crate) async fn ended(&mut self) {
        let mut scratch = [0; 1_024];
        loop {
            let read = match self {
                Self::Tcp(tcp) => tcp.read(&mut scratch).await,
                Self::Tls(tls) => tls.read(&mut scratch).await,
            };
            if !matches!(read, Ok(bytes) if bytes > 0) {
                return;
            }
        }
    }
}

/// Opens a connection and gets stuck; `account` is needed to be attached.
///
/// # Errors
/// [`BareError`], if it got stuck somewhere else.
pub(crate) async fn open(
    dial: &Dial,
    stuck: Stuck,
    account: Option<&Account>,
) -> Result<Bare, BareError> {
    let opening = Box::pin(open_until_stuck(dial, stuck, account));
    tokio::time::timeout(OPENING_WAIT, opening).await.map_err(|_| BareError::TimedOut)?
}

async fn open_until_stuck(
    dial: &Dial,
    stuck: Stuck,
    account: Option<&Account>,
) -> Result<Bare, BareError> {
    let host = &dial.address.host;
    let bad_host = || BareError::Host(host.clone());
    let mut tcp = connect(dial).await?;
    if stuck == Stuck::NoClientHello {
        return Ok(Bare::Tcp(tcp));
    }
    let name = ServerName::try_from(host.clone()).map_err(|_| bad_host())?;
    let config = tls_config(TransportKind::Raw);
    if stuck == Stuck::HalfHandshake {
        let mut hello = Vec::new();
        let mut client = ClientConnection::new(config, name).map_err(io::Error::other)?;
        client.write_tls(&mut hello)?;
        tcp.write_all(&hello).await?;
        return Ok(Bare::Tcp(tcp));
    }
    let mut tls = Box::new(TlsConnector::from(config).connect(name, tcp).await?);
    if let (Stuck::Silent, Some(account)) = (stuck, account) {
        attach(&mut tls, dial, account).await?;
    }
    Ok(Bare::Tls(tls))
}

async fn connect(dial: &Dial) -> Result<TcpStream, BareError> {
    let mut addresses =
        tokio::net::lookup_host((dial.address.host.as_str(), dial.address.port)).await?;
    let address: SocketAddr =
        addresses.next().ok_or_else(|| BareError::Host(dial.address.host.clone()))?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    if let Some(from) = dial.connect_from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    let tcp = socket.connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// `Hello` and `Attach`, up to the relay's answer.
async fn attach(
    tls: &mut TlsStream<TcpStream>,
    dial: &Dial,
    account: &Account,
) -> Result<(), BareError> {
    let realm = dial.address.realm;
    let leaf = tls.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let channel = Channel::of_certificate(leaf.expect("a TLS 1.3 server shows a certificate"));
    let mut packets = Packets { tls, deframer: Deframer::default() };
    let ServerPacket::Welcome(welcome) = packets.next().await? else {
        return Err(BareError::Unexpected);
    };
    let welcome: Box<Welcome> = welcome;
    let day = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() / 86_400);
    let today = u32::try_from(day).unwrap_or(u32::MAX);
    let record = verify(&welcome, &realm, &channel, 0, today)?;
    let mailbox = MailboxId::of_owner(&realm, &account.owner.owner_key());
    let statement = statement::attach(&realm, &channel, &welcome.nonce, &mailbox, 0);
    let mut batch = PacketBuffer::default();
    let hello =
        Hello { version: VERSION, features: 0, realm_epoch: record.epoch, member_token: None };
    ClientPacket::<Bytes>::Hello(hello).encode(&mut batch);
    ClientPacket::<Bytes>::Attach(Box::new(Attach {
        request: 1,
        member_token: account.member,
        owner_key: account.owner.owner_key(),
        signature: account.owner.sign(&statement),
        without_channel: false,
    }))
    .encode(&mut batch);
    packets.tls.write_all(&batch.take()).await?;
    packets.tls.flush().await?;
    match packets.next().await? {
        ServerPacket::Attached { .. } => Ok(()),
        _ => Err(BareError::Unexpected),
    }
}

struct Packets<'a> {
    tls: &'a mut TlsStream<TcpStream>,
    deframer: Deframer,
}

impl Packets<'_> {
    /// The next packet. What comes with it in one read is not looked at: nothing of interest does.
    async fn next(&mut self) -> Result<ServerPacket<Bytes>, BareError> {
        let mut scratch = vec![0; 16 * 1_024];
        loop {
            let read = self.tls.read(&mut scratch).await?;
            if read == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let mut input = &scratch[..read];
            let packet = self.deframer.next(&mut input).map_err(|_| BareError::Unexpected)?;
            if let Some(packet) = packet {
                return ServerPacket::decode(packet).map_err(|_| BareError::Unexpected);
            }
        }
    }
}
