//! A client that says exactly what a test wants said, right or wrong, and reads what comes back.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_websockets::{ClientBuilder, Message, WebSocketStream};
use valise_client::OwnerKeyPair;
use valise_proto::{
    ALPN, Attach, Channel, ClientPacket, CloseReason, Deframer, Deliver, FrameId, Hello, Issue,
    Join, MailboxId, Move, Nonce, PacketBuffer, Post, Posted, RealmId, Reason, ServerPacket, Token,
    TokenKind, Welcome, statement,
};

use crate::relay::Relay;

/// Which transport a test runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Raw,
    WebSocket,
}

enum Stream {
    Raw(Box<TlsStream<TcpStream>>),
    WebSocket(Box<WebSocketStream<TlsStream<TcpStream>>>),
}

struct Incoming {
    stream: Stream,
    deframer: Deframer,
    packets: VecDeque<ServerPacket<Bytes>>,
    moves: Vec<Move>,
}

/// One connection.
pub struct Wire {
    incoming: Incoming,
    pub realm: RealmId,
    pub channel: Channel,
    pub nonce: Nonce,
    pub welcome: Welcome,
    attaches: u32,
    requests: u32,
}

/// A mailbox attached on a connection.
pub struct Mine {
    pub owner: OwnerKeyPair,
    pub member: Token,
    pub attachment: u32,
    pub mailbox: MailboxId,
    pub capability: Token,
}

/// Longer than anything takes, also where other tests keep the machine busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// A payload of 512 bytes that can be told from others.
pub fn payload(n: u8) -> Bytes {
    Bytes::from(vec![n; 512])
}

/// A frame id that can be told from others.
pub fn frame_id(n: u32) -> FrameId {
    let mut id = [0x5a; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    FrameId::new(id)
}

impl Wire {
    /// Connected and welcomed; has said nothing.
    pub async fn connect(relay: &Relay, via: Via) -> Self {
        Self::connect_over(TcpStream::connect(relay.socket()).await.unwrap(), relay, via).await
    }

    /// The same, over a socket of the test's own making.
    pub async fn connect_over(tcp: TcpStream, relay: &Relay, via: Via) -> Self {
        Self::connect_on(tcp, relay.socket().port(), relay.realm(), via).await
    }

    /// To a relay that is a process of its own.
    #[allow(dead_code)] // for tests/cluster
    pub async fn connect_to(address: SocketAddr, realm: RealmId, via: Via) -> Self {
        let tcp = TcpStream::connect(address).await.unwrap();
        Self::connect_on(tcp, address.port(), realm, via).await
    }

    async fn connect_on(tcp: TcpStream, port: u16, realm: RealmId, via: Via) -> Self {
        tcp.set_nodelay(true).unwrap();
        let alpn = if via == Via::Raw { ALPN } else { b"http/1.1" };
        let tls = tls(tcp, alpn).await.unwrap();
        let channel = channel(&tls);
        let stream = match via {
            Via::Raw => Stream::Raw(Box::new(tls)),
            Via::WebSocket => {
                let uri = format!("wss://localhost:{port}/v1/relay");
                let builder = ClientBuilder::new().uri(&uri).unwrap();
                Stream::WebSocket(Box::new(builder.connect_on(tls).await.unwrap().0))
            }
        };
        let mut incoming = Incoming {
            stream,
            deframer: Deframer::default(),
            packets: VecDeque::new(),
            moves: Vec::new(),
        };
        let first = tokio::time::timeout(PATIENCE, incoming.next()).await.expect("nothing came");
        let Some(ServerPacket::Welcome(welcome)) = first else { panic!("no welcome") };
        Self {
            incoming,
            realm,
            channel,
            nonce: welcome.nonce,
            welcome: *welcome,
            attaches: 0,
            requests: 0,
        }
    }

    /// Connected, and has said `Hello`.
    pub async fn open(relay: &Relay, via: Via) -> Self {
        let mut wire = Self::connect(relay, via).await;
        wire.say(&hello()).await;
        wire
    }

    /// Joined and attached, with a capability for the mailbox.
    pub async fn serve(relay: &Relay, via: Via) -> (Self, Mine) {
        let mut wire = Self::open(relay, via).await;
        let mine = wire.join_and_attach(OwnerKeyPair::generate()).await;
        (wire, mine)
    }

    pub async fn join_and_attach(&mut self, owner: OwnerKeyPair) -> Mine {
        let member = self.join(&owner).await;
        let attachment = self.attach(&owner, &member).await;
        let tokens = self.issue(attachment, TokenKind::Post, 1).await;
        let mailbox = owner.mailbox(&self.realm);
        Mine { owner, member, attachment, mailbox, capability: tokens[0] }
    }

    /// Sends one packet.
    pub async fn say(&mut self, packet: &ClientPacket<Bytes>) {
        let mut out = PacketBuffer::default();
        packet.encode(&mut out);
        self.say_bytes(out.take()).await;
    }

    /// Sends bytes as they are, in one write or one message.
    pub async fn say_bytes(&mut self, bytes: Bytes) {
        assert!(self.try_say_bytes(bytes).await, "the relay closed the connection");
    }

    /// As [`Self::say_bytes`]; false when the relay takes nothing any more.
    pub async fn try_say_bytes(&mut self, bytes: Bytes) -> bool {
        match &mut self.incoming.stream {
            Stream::Raw(tls) => tls.write_all(&bytes).await.is_ok() && tls.flush().await.is_ok(),
            Stream::WebSocket(ws) => ws.send(Message::binary(bytes)).await.is_ok(),
        }
    }

    /// Sends a WebSocket text message.
    pub async fn say_text(&mut self, text: &str) {
        let Stream::WebSocket(ws) = &mut self.incoming.stream else { panic!("not a WebSocket") };
        ws.send(Message::text(text.to_owned())).await.unwrap();
    }

    /// Sends WebSocket pings until the relay takes no more of them, or for so long.
    pub async fn ping_without_reading(&mut self, at_most: Duration) {
        let Stream::WebSocket(ws) = &mut self.incoming.stream else { panic!("not a WebSocket") };
        let pings = async {
            // Written before the relay closed it, or refused because it did: both are an end.
            while ws.send(Message::ping(vec![7; 125])).await.is_ok() {}
        };
        let _ = tokio::time::timeout(at_most, pings).await;
    }

    /// Ends the connection as a client does that has nothing more to say.
    pub async fn close(mut self) {
        match &mut self.incoming.stream {
            Stream::Raw(tls) => tls.shutdown().await.unwrap(),
            Stream::WebSocket(ws) => ws.close().await.unwrap(),
        }
        while self.receive_or_end().await.is_some() {}
    }

    /// The next packet; panics when the connection ends or nothing comes.
    pub async fn receive(&mut self) -> ServerPacket<Bytes> {
        self.receive_or_end().await.expect("the relay closed the connection")
    }

    /// The next packet, or `None` at the end of the connection.
    pub async fn receive_or_end(&mut self) -> Option<ServerPacket<Bytes>> {
        self.receive_within(PATIENCE).await
    }

    /// The same, with another patience.
    pub async fn receive_within(&mut self, patience: Duration) -> Option<ServerPacket<Bytes>> {
        tokio::time::timeout(patience, self.incoming.next()).await.expect("nothing came")
    }

    /// The next packet or the end, if that comes so soon.
    pub async fn receive_soon(&mut self, soon: Duration) -> Option<Option<ServerPacket<Bytes>>> {
        tokio::time::timeout(soon, self.incoming.next()).await.ok()
    }

    /// Asserts that nothing comes for a moment.
    pub async fn receive_nothing(&mut self) {
        let moment = Duration::from_millis(150);
        if let Ok(packet) = tokio::time::timeout(moment, self.incoming.next()).await {
            panic!("expected nothing, got {packet:?}");
        }
    }

    /// What it was told to move to while it received.
    #[allow(dead_code)] // for tests/cluster
    pub fn moves(&self) -> &[Move] {
        &self.incoming.moves
    }

    pub fn next_request(&mut self) -> u32 {
        self.requests += 1;
        self.requests
    }

    /// A correct `Join`.
    pub fn make_join(&mut self, owner: &OwnerKeyPair, code: Option<Token>) -> Join {
        let statement = statement::join(&self.realm, &self.channel, &self.nonce);
        Join {
            request: self.next_request(),
            owner_key: owner.owner_key(),
            signature: owner.sign(&statement),
            join_token: code,
            without_channel: false,
        }
    }

    /// A correct `Attach`, were it sent next.
    pub fn make_attach(&mut self, owner: &OwnerKeyPair, member: &Token) -> Attach {
        let mailbox = owner.mailbox(&self.realm);
        let statement =
            statement::attach(&self.realm, &self.channel, &self.nonce, &mailbox, self.attaches);
        Attach {
            request: self.next_request(),
            member_token: *member,
            owner_key: owner.owner_key(),
            signature: owner.sign(&statement),
            without_channel: false,
        }
    }

    pub async fn say_join(&mut self, join: Join) -> ServerPacket<Bytes> {
        self.say(&ClientPacket::Join(Box::new(join))).await;
        self.receive().await
    }

    pub async fn join(&mut self, owner: &OwnerKeyPair) -> Token {
        let join = self.make_join(owner, None);
        match self.say_join(join).await {
            ServerPacket::Joined { member_token, .. } => member_token,
            other => panic!("not joined: {other:?}"),
        }
    }

    pub async fn say_attach(&mut self, attach: Attach) -> ServerPacket<Bytes> {
        self.begin_attach(attach).await;
        self.receive().await
    }

    /// Says an `Attach`, without waiting. Its attachment has the number that is returned.
    pub async fn begin_attach(&mut self, attach: Attach) -> u32 {
        let number = self.attaches;
        self.attaches += 1;
        self.say(&ClientPacket::Attach(Box::new(attach))).await;
        number
    }

    /// Attaches several mailboxes with one write.
    pub async fn say_attaches(&mut self, mailboxes: &[Mine]) {
        let mut out = PacketBuffer::default();
        for mine in mailboxes {
            let attach = self.make_attach(&mine.owner, &mine.member);
            self.attaches += 1;
            ClientPacket::<Bytes>::Attach(Box::new(attach)).encode(&mut out);
        }
        self.say_bytes(out.take()).await;
    }

    pub async fn attach(&mut self, owner: &OwnerKeyPair, member: &Token) -> u32 {
        let attach = self.make_attach(owner, member);
        match self.say_attach(attach).await {
            ServerPacket::Attached { attachment, .. } => attachment,
            other => panic!("not attached: {other:?}"),
        }
    }

    /// Attaches and reads up to `CaughtUp`: the attachment and what was delivered before.
    pub async fn attach_and_catch_up(
        &mut self,
        owner: &OwnerKeyPair,
        member: &Token,
    ) -> (u32, Vec<Deliver<Bytes>>) {
        let attachment = self.attach(owner, member).await;
        let mut delivered = Vec::new();
        loop {
            match self.receive().await {
                ServerPacket::Deliver(deliver) => delivered.push(deliver),
                ServerPacket::CaughtUp { attachment: caught_up } if caught_up == attachment => {
                    return (attachment, delivered);
                }
                other => panic!("neither mail nor caught up: {other:?}"),
            }
        }
    }

    /// Issues tokens; skips the `CaughtUp` of a fresh attachment.
    pub async fn issue(&mut self, attachment: u32, kind: TokenKind, count: u32) -> Vec<Token> {
        self.issue_of_class(attachment, kind, count, 0).await
    }

    /// Tokens of a rate class.
    pub async fn issue_of_class(
        &mut self,
        attachment: u32,
        kind: TokenKind,
        count: u32,
        rate_class: u32,
    ) -> Vec<Token> {
        let request = self.next_request();
        let kind = Some(kind);
        let issue = Issue { request, kind, attachment, count, days: 30, rate_class };
        self.say(&ClientPacket::Issue(issue)).await;
        loop {
            match self.receive().await {
                ServerPacket::Issued { tokens, .. } => return tokens,
                ServerPacket::CaughtUp { .. } => {}
                other => panic!("not issued: {other:?}"),
            }
        }
    }

    pub async fn say_post(&mut self, id: u32, capabilities: &[Token], payload: Bytes) {
        let request = self.next_request();
        let post = Post {
            request,
            frame_id: frame_id(id),
            capabilities: capabilities.to_vec(),
            ttl_hours: 0,
            payload,
        };
        self.say(&ClientPacket::Post(post)).await;
    }

    /// Posts frames with these ids in one write, so that they are judged at one time.
    pub async fn say_posts(&mut self, ids: std::ops::Range<u32>, capabilities: &[Token]) {
        let mut out = PacketBuffer::default();
        for id in ids {
            let post = Post {
                request: self.next_request(),
                frame_id: frame_id(id),
                capabilities: capabilities.to_vec(),
                ttl_hours: 0,
                payload: payload(1),
            };
            ClientPacket::Post(post).encode(&mut out);
        }
        self.say_bytes(out.take()).await;
    }

    /// Posts and waits for the outcomes.
    pub async fn post(
        &mut self,
        id: u32,
        capabilities: &[Token],
        payload: Bytes,
    ) -> Vec<Option<Reason>> {
        self.say_post(id, capabilities, payload).await;
        self.posted().await.outcomes
    }

    pub async fn posted(&mut self) -> Posted {
        match self.receive().await {
            ServerPacket::Posted(posted) => posted,
            other => panic!("not posted: {other:?}"),
        }
    }

    pub async fn delivered(&mut self) -> Deliver<Bytes> {
        match self.receive().await {
            ServerPacket::Deliver(deliver) => deliver,
            other => panic!("not delivered: {other:?}"),
        }
    }

    pub async fn refused(&mut self) -> Reason {
        match self.receive().await {
            ServerPacket::Refused(refused) => refused.reason.unwrap(),
            other => panic!("not refused: {other:?}"),
        }
    }

    pub async fn ack(&mut self, attachment: u32, n: u64) {
        self.say(&ClientPacket::Ack { attachment, n }).await;
    }

    /// A round trip: what was said before has been heard.
    pub async fn ping(&mut self) {
        let request = self.next_request();
        self.say(&ClientPacket::Ping { request }).await;
        assert_eq!(self.receive().await, ServerPacket::Pong { request });
    }

    /// Asserts that the relay ends the connection for this reason, and says so last.
    pub async fn closed_with(&mut self, reason: CloseReason) {
        loop {
            match self.receive().await {
                ServerPacket::Closing(told) => {
                    assert_eq!(told, Some(reason));
                    assert_eq!(self.receive_or_end().await, None);
                    return;
                }
                ServerPacket::CaughtUp { .. } => {}
                other => panic!("not closed: {other:?}"),
            }
        }
    }
}

impl Incoming {
    async fn next(&mut self) -> Option<ServerPacket<Bytes>> {
        loop {
            match self.packets.pop_front() {
                // A node may say so at any time; these tests stay where they are.
                Some(ServerPacket::Move(moved)) => {
                    self.moves.push(*moved);
                    continue;
                }
                Some(packet) => return Some(packet),
                None => {}
            }
            let bytes = match &mut self.stream {
                Stream::Raw(tls) => {
                    let mut buffer = vec![0; 16 * 1024];
                    let count = tls.read(&mut buffer).await.unwrap_or(0);
                    buffer.truncate(count);
                    Bytes::from(buffer)
                }
                Stream::WebSocket(ws) => match ws.next().await {
                    Some(Ok(message)) if message.is_binary() => message.into_payload().into(),
                    Some(Ok(message)) if !message.is_close() => continue,
                    _ => Bytes::new(),
                },
            };
            if bytes.is_empty() {
                return None;
            }
            let mut input = &bytes[..];
            while let Some(packet) = self.deframer.next(&mut input).unwrap() {
                self.packets.push_back(ServerPacket::decode(packet).unwrap());
            }
        }
    }
}

pub fn hello() -> ClientPacket<Bytes> {
    ClientPacket::Hello(Hello { version: 1, features: 0, realm_epoch: 0, member_token: None })
}

fn channel(tls: &TlsStream<TcpStream>) -> Channel {
    Channel::of_certificate(&tls.get_ref().1.peer_certificates().unwrap()[0])
}

/// A TLS connection that trusts whatever it is shown: these tests are about what comes after.
pub async fn tls(tcp: TcpStream, alpn: &[u8]) -> std::io::Result<TlsStream<TcpStream>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(TrustAll(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

#[derive(Debug)]
struct TrustAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
