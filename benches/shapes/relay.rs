//! The relay under test: how it is started, and the load's side of the protocol, spoken through
//! `valise_proto` directly so that the load stays lean.

use std::io;
use std::sync::Arc;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::client::TlsStream;
use valise_proto::{
    Attach, Channel, ClientPacket, Deframer, FrameId, Hello, Issue, Join, MailboxId, OwnerKey,
    PacketBuffer, Post, Reason, RelayAddress, ServerPacket, Signal, Signature, Token, TokenKind,
    Welcome, statement,
};

use crate::pair::{Arrivals, Frame, Sender, Tally};
use crate::plan::{Kind, Load, Pace};
use crate::process::{Pinning, Server};
use crate::pump::{Outbox, Receive};
use crate::tls::Dialer;

/// The binary that was built for this benchmark.
const PROGRAM: &str = env!("CARGO_BIN_EXE_valise");

/// Rates that one machine with hundreds of connections does not reach.
const CONFIGURATION: &str = r#"
[relay]
listen = ["127.0.0.1:0"]
access = "open"

[admin]
listen = "127.0.0.1:0"

[limits]
packets_per_second = 10000000
packets_burst = 10000000
posts_per_second = 10000000
posts_burst = 10000000
connects_per_second_per_prefix = 100000
connects_burst_per_prefix = 100000
joins_per_minute_per_prefix = 100000
handshakes_max = 1000
"#;

/// A relay with a state directory of its own, gone when dropped.
pub(crate) struct Relay {
    // Dropped in this order: the process before its directory.
    server: Server,
    _directory: TempDir,
}

impl Relay {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// It does not start.
    pub(crate) fn start(pinning: Pinning) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let configuration = directory.path().join("valise.toml");
        std::fs::write(&configuration, CONFIGURATION)?;
        let state = directory.path().join("state");
        let arguments = [
            "--config".as_ref(),
            configuration.as_os_str(),
            "--state-directory".as_ref(),
            state.as_os_str(),
        ];
        let server = Server::start(pinning, PROGRAM.as_ref(), &arguments)?;
        Ok(Self { server, _directory: directory })
    }

    /// Its process.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }
}

/// Opens a pair: two members of the relay, both attached, and a capability of the receiver's.
pub(crate) async fn open_pair(
    dialer: &Dialer,
    address: &str,
    kind: Kind,
    load: Load,
    tally: &Arc<Tally>,
) -> io::Result<Arc<Sender>> {
    let address: RelayAddress = address.parse().map_err(io::Error::other)?;
    let mut receiving = Opening::begin(dialer, &address).await?;
    let capability = receiving.issue_capability().await?;
    let sending = Opening::begin(dialer, &address).await?;

    let posts = kind == Kind::Post;
    let (streams, closed_loop) = match load.pace {
        Pace::Closed(streams) => (streams, true),
        Pace::Open(_) => (1, false),
    };
    let frame = if posts { post } else { signal };
    let frames =
        (0..streams).map(|stream| frame(stream as u32, capability, load.payload_bytes)).collect();
    let outbox = Arc::new(Outbox::default());
    let sender = Sender::new(tally, outbox.clone(), frames, closed_loop);
    let answers = Answers { deframer: Deframer::default(), sender: sender.clone(), batch: vec![] };
    tally.spawn(sending.into_stream()?, outbox, answers);

    let outbox = Arc::new(Outbox::default());
    let completes = (!posts).then(|| sender.clone());
    let receiver = Receiver {
        deframer: Deframer::default(),
        arrivals: Arrivals::new(tally, completes, !closed_loop),
        outbox: outbox.clone(),
    };
    tally.spawn(receiving.into_stream()?, outbox, receiver);
    Ok(sender)
}

fn signal(_stream: u32, capability: Token, payload_bytes: usize) -> Frame {
    let signal = Signal { capabilities: vec![capability], payload: sealed(payload_bytes) };
    Frame::new(encode(&ClientPacket::Signal(signal)), payload_bytes, None)
}

fn post(stream: u32, capability: Token, payload_bytes: usize) -> Frame {
    let mut id = [0; FrameId::LEN];
    aws_lc_rs::rand::fill(&mut id).expect("the generator was seeded");
    let post = Post {
        request: stream,
        frame_id: FrameId::new(id),
        capabilities: vec![capability],
        ttl_hours: 0,
        payload: sealed(payload_bytes),
    };
    let bytes = encode(&ClientPacket::Post(post));
    let id_at = bytes.windows(FrameId::LEN).position(|window| window == id);
    Frame::new(bytes, payload_bytes, Some(id_at.expect("the packet holds its frame id")))
}

/// What a sealed payload looks like to a relay.
fn sealed(payload_bytes: usize) -> Bytes {
    let mut payload = vec![0; payload_bytes];
    aws_lc_rs::rand::fill(&mut payload).expect("the generator was seeded");
    payload.into()
}

fn encode(packet: &ClientPacket<Bytes>) -> Vec<u8> {
    let mut buffer = PacketBuffer::default();
    packet.encode(&mut buffer);
    buffer.take().into()
}

/// A connection on the way from its handshake to being attached.
struct Opening {
    stream: TlsStream<TcpStream>,
    deframer: Deframer,
    /// Read and not yet cut into packets.
    unread: Bytes,
}

impl Opening {
    /// Joins with a fresh owner key and attaches its mailbox.
    async fn begin(dialer: &Dialer, address: &RelayAddress) -> io::Result<Self> {
        let place = lookup_host((&*address.host, address.port)).await?.next();
        let stream = dialer.dial(place.ok_or(io::ErrorKind::AddrNotAvailable)?).await?;
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let channel = Channel::of_certificate(leaf.ok_or(io::ErrorKind::InvalidData)?);
        let mut opening = Self { stream, deframer: Deframer::default(), unread: Bytes::new() };

        let owner = Ed25519KeyPair::generate().map_err(io::Error::other)?;
        let owner_key =
            OwnerKey::try_from(owner.public_key().as_ref()).map_err(io::Error::other)?;
        let sign = |statement: &[u8]| {
            Signature::try_from(owner.sign(statement).as_ref()).map_err(io::Error::other)
        };
        let realm = &address.realm;
        let mailbox = MailboxId::of_owner(realm, &owner_key);

        let ServerPacket::Welcome(welcome) = opening.hear().await? else {
            return Err(io::Error::other("the relay did not begin with Welcome"));
        };
        let Welcome { nonce, .. } = *welcome;
        let hello = Hello {
            version: valise_proto::VERSION,
            features: 0,
            realm_epoch: 0,
            member_token: None,
        };
        opening.say(&ClientPacket::Hello(hello)).await?;
        let join = Join {
            request: 1,
            owner_key,
            signature: sign(&statement::join(realm, &channel, &nonce))?,
            join_token: None,
            without_channel: false,
        };
        opening.say(&ClientPacket::Join(Box::new(join))).await?;
        let member_token = match opening.hear().await? {
            ServerPacket::Joined { member_token, .. } => member_token,
            other => return Err(unexpected(&other)),
        };
        let attach = Attach {
            request: 2,
            member_token,
            owner_key,
            signature: sign(&statement::attach(realm, &channel, &nonce, &mailbox, 0))?,
            without_channel: false,
        };
        opening.say(&ClientPacket::Attach(Box::new(attach))).await?;
        loop {
            match opening.hear().await? {
                ServerPacket::Attached { .. } => {}
                ServerPacket::CaughtUp { .. } => return Ok(opening),
                other => return Err(unexpected(&other)),
            }
        }
    }

    /// A capability for the mailbox attached here.
    async fn issue_capability(&mut self) -> io::Result<Token> {
        let issue = Issue {
            request: 3,
            kind: Some(TokenKind::Post),
            attachment: 0,
            count: 1,
            days: 1,
            rate_class: 0,
        };
        self.say(&ClientPacket::Issue(issue)).await?;
        match self.hear().await? {
            ServerPacket::Issued { tokens, .. } if tokens.len() == 1 => Ok(tokens[0]),
            other => Err(unexpected(&other)),
        }
    }

    async fn say(&mut self, packet: &ClientPacket<Bytes>) -> io::Result<()> {
        self.stream.write_all(&encode(packet)).await?;
        self.stream.flush().await
    }

    async fn hear(&mut self) -> io::Result<ServerPacket<Bytes>> {
        loop {
            let mut input = &self.unread[..];
            let packet = self.deframer.next(&mut input).map_err(io::Error::other)?;
            self.unread = self.unread.slice_ref(input);
            if let Some(packet) = packet {
                return ServerPacket::decode(packet).map_err(io::Error::other);
            }
            let mut read = vec![0; 4096];
            match self.stream.read(&mut read).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => read.truncate(count),
            }
            self.unread = read.into();
        }
    }

    /// The connection, if nothing was left unheard.
    fn into_stream(self) -> io::Result<TlsStream<TcpStream>> {
        if self.unread.is_empty() && self.deframer.is_between_packets() {
            Ok(self.stream)
        } else {
            Err(io::Error::other("the relay said more than it was asked"))
        }
    }
}

fn unexpected(packet: &ServerPacket<Bytes>) -> io::Error {
    io::Error::other(format!("the relay said {packet:?}"))
}

/// Hands every packet of a read to `take`.
fn each_packet(
    deframer: &mut Deframer,
    mut bytes: &[u8],
    mut take: impl FnMut(ServerPacket<Bytes>) -> io::Result<()>,
) -> io::Result<()> {
    while let Some(packet) = deframer.next(&mut bytes).map_err(io::Error::other)? {
        take(ServerPacket::decode(packet).map_err(io::Error::other)?)?;
    }
    Ok(())
}

/// The receiving end: counts, and acknowledges once for all that a read brought.
struct Receiver {
    deframer: Deframer,
    arrivals: Arrivals,
    outbox: Arc<Outbox>,
}

impl Receive for Receiver {
    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (arrivals, mut last) = (&mut self.arrivals, None);
        each_packet(&mut self.deframer, bytes, |packet| {
            match packet {
                ServerPacket::Deliver(deliver) => {
                    arrivals.arrived(&deliver.payload);
                    last = Some((deliver.attachment, deliver.n));
                }
                ServerPacket::Signaled { payload, .. } => arrivals.arrived(&payload),
                other => return Err(unexpected(&other)),
            }
            Ok(())
        })?;
        if let Some((attachment, n)) = last {
            let ack = encode(&ClientPacket::Ack { attachment, n });
            self.outbox.push(|batch| batch.extend_from_slice(&ack));
        }
        self.arrivals.end_of_batch();
        Ok(())
    }
}

/// The sending end: every post must be accepted, and lets the next one of its stream go.
struct Answers {
    deframer: Deframer,
    sender: Arc<Sender>,
    batch: Vec<usize>,
}

impl Receive for Answers {
    fn receive(&mut self, bytes: &[u8]) -> io::Result<()> {
        let batch = &mut self.batch;
        each_packet(&mut self.deframer, bytes, |packet| match packet {
            ServerPacket::Posted(posted) if posted.outcomes == [Some(Reason::Accepted)] => {
                batch.push(posted.request as usize);
                Ok(())
            }
            other => Err(unexpected(&other)),
        })?;
        self.sender.completed(self.batch.drain(..));
        Ok(())
    }
}
