//! A relay that cannot prove that it serves the realm on this very connection is not sent a byte.
//! Handmade relays try; each counts what it receives.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::StreamExt;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_websockets::Message;
use valise_client::proto::{
    Channel, ClientPacket, CloseReason, Deframer, Nonce, PacketBuffer, RealmError, RealmId,
    RealmRecord, RelayAddress, RelayKey, ServerPacket, SignedRealmRecord, SigningKey, Welcome,
    statement,
};
use valise_client::{
    ConnectError, Dial, Ending, Event, OpeningError, OwnerKeyPair, TransportKind, connect,
};

const NONCE: Nonce = Nonce::new([9; 32]);

/// A realm with one relay key, and everything a relay of it says.
struct Realm {
    root: OwnerKeyPair,
    relay: OwnerKeyPair,
    epoch: u64,
    last_day: u32,
    versions: Vec<u32>,
}

impl Realm {
    fn new() -> Self {
        Self {
            root: OwnerKeyPair::generate(),
            relay: OwnerKeyPair::generate(),
            epoch: 5,
            last_day: today() + 1,
            versions: vec![1],
        }
    }

    fn id(&self) -> RealmId {
        RealmId::of_root_key(&key(&self.root))
    }

    fn record(&self) -> SignedRealmRecord {
        let record = RealmRecord {
            realm: self.id(),
            root_key: key(&self.root),
            epoch: self.epoch,
            endpoints: vec![],
            relay_keys: vec![RelayKey { key: key(&self.relay), last_day: self.last_day }],
            key_log_url: String::new(),
        };
        let record = record.encode();
        let signature = self.root.sign(&statement::realm_record(&record));
        SignedRealmRecord { record, signature }
    }

    fn welcome(&self, channel: &Channel) -> Welcome {
        let text = statement::welcome(&self.id(), channel, &NONCE, &self.versions, 0);
        Welcome {
            versions: self.versions.clone(),
            features: 0,
            realm_record: self.record(),
            nonce: NONCE,
            signing_key: key(&self.relay),
            signature: self.relay.sign(&text),
        }
    }
}

fn key(pair: &OwnerKeyPair) -> SigningKey {
    SigningKey::new(*pair.owner_key().as_bytes())
}

fn today() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    (since.as_secs() / 86_400) as u32
}

/// A certificate, its key, and the channel of a connection served with it.
struct Certificate {
    der: CertificateDer<'static>,
    key: rcgen::KeyPair,
}

impl Certificate {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        Self { der: parameters.self_signed(&key).unwrap().der().clone(), key }
    }

    fn channel(&self) -> Channel {
        Channel::of_certificate(&self.der)
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }
}

/// What a handmade relay does, and what it counted.
struct Server {
    port: u16,
    received: JoinHandle<Vec<u8>>,
}

#[derive(Debug)]
struct Shows(Arc<CertifiedKey>);

impl ResolvesServerCert for Shows {
    fn resolve(&self, _client: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

impl Server {
    /// Serves one connection with this certificate and key, sends `first`, and collects every
    /// application byte until the client leaves.
    async fn start(shown: &Certificate, key: &Certificate, alpn: &[u8], first: Vec<u8>) -> Self {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let signer = provider.key_provider.load_private_key(key.private_key()).unwrap();
        let certified = CertifiedKey::new(vec![shown.der.clone()], signer);
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shows(Arc::new(certified))));
        config.alpn_protocols = vec![alpn.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let is_raw = alpn == valise_client::proto::ALPN;
        Self::listen(move |tcp| async move {
            match acceptor.accept(tcp).await {
                Ok(tls) if is_raw => serve_raw(tls, first).await,
                Ok(tls) => serve_web_socket(tls, first).await,
                Err(_) => Vec::new(),
            }
        })
        .await
    }

    async fn listen<F: Future<Output = Vec<u8>> + Send + 'static>(
        serve: impl FnOnce(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let received = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            serve(tcp).await
        });
        Self { port, received }
    }

    fn dial(&self, realm: RealmId) -> Dial {
        let timeout = Duration::from_secs(5);
        let address = RelayAddress { host: "127.0.0.1".to_owned(), port: self.port, realm };
        Dial { timeout, ..Dial::new(address) }
    }

    /// Everything the client sent inside TLS.
    async fn received(self) -> Vec<u8> {
        tokio::time::timeout(Duration::from_secs(5), self.received).await.unwrap().unwrap()
    }
}

async fn serve_raw(mut tls: TlsStream<TcpStream>, first: Vec<u8>) -> Vec<u8> {
    tls.write_all(&first).await.unwrap();
    tls.flush().await.unwrap();
    let mut received = Vec::new();
    // A client that aborts need not say goodbye.
    tls.read_to_end(&mut received).await.ok();
    received
}

async fn serve_web_socket(tls: TlsStream<TcpStream>, first: Vec<u8>) -> Vec<u8> {
    use futures_util::SinkExt;
    let (request, mut stream) = tokio_websockets::ServerBuilder::new().accept(tls).await.unwrap();
    assert_eq!(request.uri().path(), "/v1/relay");
    stream.send(Message::binary(first)).await.unwrap();
    let mut received = Vec::new();
    while let Some(Ok(message)) = stream.next().await {
        received.extend_from_slice(message.as_payload());
    }
    received
}

fn encoded(packet: &ServerPacket<Bytes>) -> Vec<u8> {
    let mut buffer = PacketBuffer::default();
    packet.encode(&mut buffer);
    buffer.unwritten().to_vec()
}

fn welcome(welcome: Welcome) -> Vec<u8> {
    encoded(&ServerPacket::Welcome(Box::new(welcome)))
}

/// The client's error against a relay that sends `first`, having sent nothing itself.
async fn refused(
    dial: impl FnOnce(&mut Dial),
    realm: RealmId,
    first: Vec<u8>,
    c: &Certificate,
) -> ConnectError {
    let server = Server::start(c, c, b"valise/1", first).await;
    let mut settings = server.dial(realm);
    dial(&mut settings);
    let Err(error) = connect(&settings).await else { panic!("the client was convinced") };
    assert_eq!(server.received().await, b"", "sent in spite of: {error}");
    error
}

#[tokio::test]
async fn the_right_relay_is_greeted() {
    let (realm, certificate) = (Realm::new(), Certificate::new());
    let first = welcome(realm.welcome(&certificate.channel()));
    let server = Server::start(&certificate, &certificate, b"valise/1", first).await;
    let (connection, mut incoming) = connect(&server.dial(realm.id())).await.unwrap();
    assert_eq!(connection.key_exchange_group(), "X25519MLKEM768");
    assert_eq!(connection.record().epoch, 5);
    connection.close().await;
    assert_eq!(incoming.next().await, Some(Event::Closed(Ending::Ours)));
    assert_eq!(incoming.next().await, None);
    assert_is_hello(&server.received().await);
}

fn assert_is_hello(received: &[u8]) {
    let packet = Deframer::default().next(&mut &received[..]).unwrap().expect("a whole packet");
    let ClientPacket::<Bytes>::Hello(hello) = ClientPacket::decode(packet).unwrap() else {
        panic!("the first packet is Hello");
    };
    assert_eq!((hello.version, hello.realm_epoch), (1, 5));
}

#[tokio::test]
async fn over_a_web_socket_only_the_upgrade_is_sent_before_the_proof() {
    for convincing in [true, false] {
        let (realm, certificate) = (Realm::new(), Certificate::new());
        let other = Certificate::new();
        let signed = if convincing { &certificate } else { &other };
        let first = welcome(realm.welcome(&signed.channel()));
        let server = Server::start(&certificate, &certificate, b"http/1.1", first).await;
        let dial = Dial { transport: TransportKind::WebSocket, ..server.dial(realm.id()) };
        match connect(&dial).await {
            Ok((connection, _incoming)) => {
                assert!(convincing);
                connection.close().await;
                assert_is_hello(&server.received().await);
            }
            Err(error) => {
                assert!(!convincing, "{error}");
                assert!(matches!(error, ConnectError::Opening(OpeningError::Signature)));
                assert_eq!(server.received().await, b"");
            }
        }
    }
}

#[tokio::test]
async fn another_realm_is_refused() {
    let (realm, certificate) = (Realm::new(), Certificate::new());
    let expected = Realm::new().id();
    let first = welcome(realm.welcome(&certificate.channel()));
    let error = refused(|_| {}, expected, first, &certificate).await;
    let named = RealmError::OtherRealm { expected, got: realm.id() };
    assert!(
        matches!(&error, ConnectError::Opening(OpeningError::Realm(realm)) if *realm == named),
        "{error}"
    );
}

#[tokio::test]
async fn another_certificate_in_the_middle_is_refused() {
    let (realm, relay, middle) = (Realm::new(), Certificate::new(), Certificate::new());
    let first = welcome(realm.welcome(&relay.channel()));
    let error = refused(|_| {}, realm.id(), first, &middle).await;
    assert!(matches!(error, ConnectError::Opening(OpeningError::Signature)), "{error}");
}

#[tokio::test]
async fn a_copied_certificate_without_its_key_is_refused() {
    let (realm, relay, middle) = (Realm::new(), Certificate::new(), Certificate::new());
    let first = welcome(realm.welcome(&relay.channel()));
    let server = Server::start(&relay, &middle, b"valise/1", first).await;
    let error = connect(&server.dial(realm.id())).await.err().unwrap();
    assert!(matches!(&error, ConnectError::Tls(_)), "{error}");
    assert_eq!(server.received().await, b"");
}

#[tokio::test]
async fn a_stale_or_foreign_key_is_refused() {
    let certificate = Certificate::new();
    let stale = Realm { last_day: today() - 1, ..Realm::new() };
    let first = welcome(stale.welcome(&certificate.channel()));
    let error = refused(|_| {}, stale.id(), first, &certificate).await;
    assert!(matches!(error, ConnectError::Opening(OpeningError::KeyNotListed)), "{error}");

    // A key of the thief's own, in an otherwise genuine Welcome.
    let realm = Realm::new();
    let thief =
        Realm { relay: OwnerKeyPair::generate(), root: OwnerKeyPair::generate(), ..Realm::new() };
    let text = statement::welcome(&realm.id(), &certificate.channel(), &NONCE, &[1], 0);
    let forged = Welcome {
        signing_key: key(&thief.relay),
        signature: thief.relay.sign(&text),
        ..realm.welcome(&certificate.channel())
    };
    let error = refused(|_| {}, realm.id(), welcome(forged), &certificate).await;
    assert!(matches!(error, ConnectError::Opening(OpeningError::KeyNotListed)), "{error}");
}

#[tokio::test]
async fn a_forged_record_is_refused() {
    let (realm, certificate) = (Realm::new(), Certificate::new());
    let mut forged = realm.welcome(&certificate.channel());
    let newer =
        Realm { epoch: 6, root: OwnerKeyPair::from_seed(realm.root.seed()), ..Realm::new() };
    forged.realm_record.record = newer.record().record;
    let error = refused(|_| {}, realm.id(), welcome(forged), &certificate).await;
    let is_named =
        matches!(error, ConnectError::Opening(OpeningError::Realm(RealmError::Signature)));
    assert!(is_named, "{error}");
}

#[tokio::test]
async fn an_older_epoch_than_known_is_refused() {
    let (realm, certificate) = (Realm::new(), Certificate::new());
    let first = welcome(realm.welcome(&certificate.channel()));
    let error = refused(|dial| dial.realm_epoch = 6, realm.id(), first, &certificate).await;
    let named = OpeningError::EpochBehind { got: 5, known: 6 };
    assert!(matches!(&error, ConnectError::Opening(why) if *why == named), "{error}");
}

#[tokio::test]
async fn signed_versions_and_features_cannot_be_changed_and_must_fit() {
    let certificate = Certificate::new();
    let realm = Realm { versions: vec![2, 3], ..Realm::new() };
    let first = welcome(realm.welcome(&certificate.channel()));
    let error = refused(|_| {}, realm.id(), first, &certificate).await;
    assert!(matches!(error, ConnectError::Opening(OpeningError::Version(_))), "{error}");

    let realm = Realm::new();
    let widened = Welcome { features: 1, ..realm.welcome(&certificate.channel()) };
    let error = refused(|_| {}, realm.id(), welcome(widened), &certificate).await;
    assert!(matches!(error, ConnectError::Opening(OpeningError::Signature)), "{error}");
}

#[tokio::test]
async fn what_is_no_welcome_is_refused() {
    let (realm, certificate) = (Realm::new(), Certificate::new());
    let send = |first| refused(|_| {}, realm.id(), first, &certificate);
    let pong = encoded(&ServerPacket::Pong { request: 1 });
    let error = send(pong).await;
    assert!(matches!(error, ConnectError::Opening(OpeningError::NotWelcome)), "{error}");
    let closing = encoded(&ServerPacket::Closing(Some(CloseReason::Restarting)));
    let error = send(closing).await;
    assert!(matches!(error, ConnectError::EndedEarly(Some(CloseReason::Restarting))), "{error}");
    for garbage in [b"\x04abcd".to_vec(), b"HTTP/1.1 400 Bad Request\r\n".repeat(9), vec![0xff; 9]]
    {
        let error = send(garbage).await;
        assert!(matches!(error, ConnectError::Broken(_)), "{error}");
    }
}

#[tokio::test]
async fn a_server_of_another_kind_is_refused() {
    let (realm, certificate) = (Realm::new(), Certificate::new());
    let server = Server::start(&certificate, &certificate, b"h2", Vec::new()).await;
    let error = connect(&server.dial(realm.id())).await.err().unwrap();
    assert!(matches!(error, ConnectError::Tls(_) | ConnectError::NotARelay(_)), "{error}");
    assert_eq!(server.received().await, b"");
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let server = Server::listen(|mut tcp| async move {
        // A ServerHello that chooses TLS 1.2: random, no session, ECDHE-ECDSA-AES128-GCM.
        let mut hello = vec![0x16, 3, 3, 0, 42, 2, 0, 0, 38, 3, 3];
        hello.extend([7; 32]);
        hello.extend([0, 0xc0, 0x2b, 0]);
        tcp.write_all(&hello).await.unwrap();
        let mut received = Vec::new();
        tcp.read_to_end(&mut received).await.ok();
        received
    })
    .await;
    let error = connect(&server.dial(Realm::new().id())).await.err().unwrap();
    assert!(
        matches!(&error, ConnectError::Tls(tls) if tls.to_string().contains("ersion")),
        "{error}"
    );
    // Records of the types handshake, change-cipher-spec and alert only: no application data (23).
    let received = server.received().await;
    let mut rest = &received[..];
    while let [kind, _, _, high, low, ..] = *rest {
        assert_ne!(kind, 23);
        rest = &rest[5 + usize::from(high) * 256 + usize::from(low)..];
    }
}

#[tokio::test]
async fn a_silent_server_costs_the_timeout_and_names_the_step() {
    let server = Server::listen(|mut tcp| async move {
        let mut received = Vec::new();
        tcp.read_to_end(&mut received).await.ok();
        received
    })
    .await;
    let dial = Dial { timeout: Duration::from_millis(200), ..server.dial(Realm::new().id()) };
    let error = connect(&dial).await.err().unwrap();
    assert!(matches!(error, ConnectError::TimedOut("the TLS handshake")), "{error}");
    // Nobody listens any more once the server has served its one connection.
    let port = server.port;
    server.received().await;
    let error = connect(&dial).await.err().unwrap();
    assert!(
        matches!(&error, ConnectError::Unreachable { port: named, .. } if *named == port),
        "{error}"
    );
}
