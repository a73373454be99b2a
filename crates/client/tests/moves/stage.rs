//! Handmade relays of one realm, which say what a test wants them to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use valise_client::proto::{
    Attach, Channel, ClientPacket, Deframer, Deliver, FrameId, Issue, MailboxId, Move, MovePhase,
    Nonce, PacketBuffer, Post, Posted, RealmId, RealmRecord, Reason, Refused, RelayAddress,
    RelayKey, ServerPacket, SignedRealmRecord, SigningKey, Token, Welcome, statement,
};
use valise_client::{
    Client, ConversationId, Dial, Envelope, OwnerKeyPair, Settlement, StreamId, Update, Updates,
};

pub(crate) type Packet = ServerPacket<Bytes>;

pub(crate) const CHAT: ConversationId = ConversationId(1);
pub(crate) const NONCE: Nonce = Nonce::new([9; 32]);

/// Everything but the relays' own.
pub(crate) struct Realm {
    pub(crate) root: OwnerKeyPair,
    pub(crate) relay: OwnerKeyPair,
    pub(crate) certificate: CertificateDer<'static>,
    pub(crate) key: PrivateKeyDer<'static>,
    /// What the relays show: the epoch, and the endpoints.
    pub(crate) record: Mutex<(u64, Vec<String>)>,
    /// Attachments end without a word.
    pub(crate) is_quiet: AtomicBool,
    /// Who serves the one mailbox there is: its connection, and its attachment's number.
    pub(crate) serving: Mutex<Option<(mpsc::Sender<Packet>, u32)>>,
}

/// One relay.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) port: u16,
    pub(crate) state: Arc<Mutex<State>>,
}

#[derive(Default)]
pub(crate) struct State {
    /// Connections, the last one last.
    pub(crate) connections: Vec<mpsc::Sender<Packet>>,
    /// Packets that were said.
    pub(crate) said: Vec<ClientPacket<Bytes>>,
    pub(crate) manners: Manners,
    /// The record that this node shows, if it is another than the realm's.
    pub(crate) shows: Option<(u64, Vec<String>)>,
    /// Answers that are kept back.
    pub(crate) held: Vec<(mpsc::Sender<Packet>, Packet)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Manners {
    #[default]
    Good,
    /// Keeps answers to posts and pings back.
    Holds,
    /// Keeps the answers to attaches back, too.
    HoldsAttaches,
    /// Attaches nothing.
    Refuses,
    /// Attaches, and dies before it says so.
    Dies,
    /// Serves nothing of what is asked: it is served elsewhere.
    Moved,
    /// Serves the mailboxes of these capabilities, by their first byte, and nothing else.
    Serves(u8),
}

pub(crate) fn key(pair: &OwnerKeyPair) -> SigningKey {
    SigningKey::new(*pair.owner_key().as_bytes())
}

impl Realm {
    pub(crate) fn new(endpoints: Vec<String>) -> Arc<Self> {
        let pair = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        Arc::new(Self {
            root: OwnerKeyPair::generate(),
            relay: OwnerKeyPair::generate(),
            record: Mutex::new((5, endpoints)),
            is_quiet: AtomicBool::new(false),
            certificate: parameters.self_signed(&pair).unwrap().der().clone(),
            key: PrivatePkcs8KeyDer::from(pair.serialize_der()).into(),
            serving: Mutex::new(None),
        })
    }

    pub(crate) fn id(&self) -> RealmId {
        RealmId::of_root_key(&key(&self.root))
    }

    pub(crate) fn signed(&self, epoch: u64, endpoints: Vec<String>) -> SignedRealmRecord {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let last_day = (since.as_secs() / 86_400) as u32 + 1;
        let record = RealmRecord {
            realm: self.id(),
            root_key: key(&self.root),
            epoch,
            endpoints,
            relay_keys: vec![RelayKey { key: key(&self.relay), last_day }],
            key_log_url: String::new(),
        };
        let record = record.encode();
        let signature = self.root.sign(&statement::realm_record(&record));
        SignedRealmRecord { record, signature }
    }

    pub(crate) fn welcome(&self, shows: Option<(u64, Vec<String>)>) -> Welcome {
        let (epoch, endpoints) = shows.unwrap_or_else(|| self.record.lock().unwrap().clone());
        let channel = Channel::of_certificate(&self.certificate);
        let text = statement::welcome(&self.id(), &channel, &NONCE, &[1], 0);
        Welcome {
            versions: vec![1],
            features: 0,
            realm_record: self.signed(epoch, endpoints),
            nonce: NONCE,
            signing_key: key(&self.relay),
            signature: self.relay.sign(&text),
        }
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.clone()], self.key.clone_key())
            .unwrap();
        config.alpn_protocols = vec![b"valise/1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    pub(crate) fn dial(&self, node: &Node) -> Dial {
        let address =
            RelayAddress { host: "127.0.0.1".to_owned(), port: node.port, realm: self.id() };
        Dial { timeout: Duration::from_secs(5), ..Dial::new(address) }
    }
}

impl Node {
    pub(crate) fn serve(listener: TcpListener, realm: Arc<Realm>) -> Self {
        let port = listener.local_addr().unwrap().port();
        let node = Self { port, state: Arc::default() };
        let serving = node.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (node, realm) = (serving.clone(), Arc::clone(&realm));
                tokio::spawn(async move { node.connection(tcp, realm).await });
            }
        });
        node
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) async fn connection(&self, tcp: TcpStream, realm: Arc<Realm>) {
        let Ok(mut tls) = realm.acceptor().accept(tcp).await else { return };
        let (out, mut packets) = mpsc::channel(64);
        self.state().connections.push(out.clone());
        let shows = self.state().shows.clone();
        out.try_send(ServerPacket::Welcome(Box::new(realm.welcome(shows)))).unwrap();
        let (mut deframer, mut attaches) = (Deframer::default(), 0);
        let mut buffer = vec![0; 16 * 1024];
        loop {
            tokio::select! {
                packet = packets.recv() => {
                    let packet = packet.unwrap();
                    let mut bytes = PacketBuffer::default();
                    packet.encode(&mut bytes);
                    tls.write_all(bytes.unwritten()).await.ok();
                    tls.flush().await.ok();
                    if matches!(packet, ServerPacket::Closing(_)) {
                        return;
                    }
                }
                read = tls.read(&mut buffer) => {
                    let Some(count) = read.ok().filter(|count| *count > 0) else { return };
                    let mut input = &buffer[..count];
                    while let Some(packet) = deframer.next(&mut input).unwrap() {
                        let packet = ClientPacket::decode(packet).unwrap();
                        self.state().said.push(packet.clone());
                        if !self.answer(&realm, &out, packet, &mut attaches) {
                            return;
                        }
                    }
                }
            }
        }
    }

    /// False when this is the end.
    pub(crate) fn answer(
        &self,
        realm: &Realm,
        out: &mpsc::Sender<Packet>,
        packet: ClientPacket<Bytes>,
        attaches: &mut u32,
    ) -> bool {
        let manners = self.state().manners;
        let answer = match packet {
            ClientPacket::Attach(attach) => {
                *attaches += 1;
                return self.attach(realm, out, &attach, *attaches - 1);
            }
            ClientPacket::Post(Post { request, frame_id, capabilities, .. }) => {
                let outcome = |token: &Token| Some(manners.outcome(token.as_bytes()[0]));
                let outcomes = capabilities.iter().map(outcome).collect();
                ServerPacket::Posted(Posted { request, frame_id, outcomes, retry_after_ms: 0 })
            }
            ClientPacket::GetSlots { request, .. } | ClientPacket::Issue(Issue { request, .. })
                if manners == Manners::Moved =>
            {
                refused(request, Reason::Moved)
            }
            ClientPacket::Join(join) if matches!(manners, Manners::Moved | Manners::Serves(_)) => {
                refused(join.request, Reason::Moved)
            }
            ClientPacket::Join(join) => {
                let member_token = Token::new([self.port as u8; 60]);
                ServerPacket::Joined { request: join.request, member_token }
            }
            ClientPacket::GetSlots { request, slot_ids } => {
                ServerPacket::Slots { request, payloads: vec![None; slot_ids.len()] }
            }
            ClientPacket::Issue(Issue { request, .. }) => {
                ServerPacket::Issued { request, tokens: vec![Token::new([self.port as u8; 60])] }
            }
            ClientPacket::Ping { request } => ServerPacket::Pong { request },
            _ => return true,
        };
        if manners == Manners::Holds {
            self.state().held.push((out.clone(), answer));
        } else {
            out.try_send(answer).unwrap();
        }
        true
    }

    pub(crate) fn attach(
        &self,
        realm: &Realm,
        out: &mpsc::Sender<Packet>,
        it: &Attach,
        number: u32,
    ) -> bool {
        let manners = self.state().manners;
        if manners == Manners::Refuses {
            let (reason, retry_after_ms) = (Some(Reason::Busy), 100);
            let refused = Refused { request: it.request, reason, retry_after_ms };
            out.try_send(ServerPacket::Refused(refused)).unwrap();
            return true;
        }
        if manners == Manners::Moved {
            out.try_send(refused(it.request, Reason::Moved)).unwrap();
            return true;
        }
        let before = realm.serving.lock().unwrap().replace((out.clone(), number));
        let before = before.filter(|_| !realm.is_quiet.load(Ordering::Relaxed));
        if let Some((before, attachment)) = before {
            before.try_send(ServerPacket::Replaced { attachment }).ok();
        }
        if manners == Manners::Dies {
            return false;
        }
        let attached = ServerPacket::Attached { request: it.request, attachment: number };
        for answer in [attached, ServerPacket::CaughtUp { attachment: number }] {
            if manners == Manners::HoldsAttaches {
                self.state().held.push((out.clone(), answer));
            } else {
                out.try_send(answer).unwrap();
            }
        }
        true
    }

    /// Says something on the last connection.
    pub(crate) fn say(&self, packet: Packet) {
        self.state().connections.last().unwrap().try_send(packet).unwrap();
    }

    pub(crate) fn say_move(&self, phase: MovePhase, endpoints: &[String]) {
        self.say_with(phase, endpoints, None);
    }

    pub(crate) fn say_with(
        &self,
        phase: MovePhase,
        endpoints: &[String],
        realm_record: Option<SignedRealmRecord>,
    ) {
        let endpoints = endpoints.to_vec();
        let phase = Some(phase);
        self.say(ServerPacket::Move(Box::new(Move {
            phase,
            realm_record,
            endpoints,
            spread_ms: 20,
        })));
    }

    pub(crate) fn go(&self, endpoints: &[String]) {
        self.say_move(MovePhase::Go, endpoints);
    }

    pub(crate) fn behave(&self, manners: Manners) {
        self.state().manners = manners;
    }

    /// Gives the answers that were kept back.
    pub(crate) fn release(&self) {
        for (out, answer) in std::mem::take(&mut self.state().held) {
            out.try_send(answer).ok();
        }
    }

    /// Frames that were posted here, with the messages in them.
    pub(crate) fn posted(&self) -> Vec<(FrameId, Envelope)> {
        let posts = self.state().said.iter().filter_map(post).collect::<Vec<_>>();
        posts.into_iter().map(|(id, payload)| (id, Envelope::decode(&payload).unwrap())).collect()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state().connections.len()
    }

    pub(crate) fn attaches(&self) -> usize {
        let state = self.state();
        state.said.iter().filter(|packet| matches!(packet, ClientPacket::Attach(_))).count()
    }
}

pub(crate) fn refused(request: u32, reason: Reason) -> Packet {
    ServerPacket::Refused(Refused { request, reason: Some(reason), retry_after_ms: 0 })
}

impl Manners {
    /// The outcome of a post to a mailbox whose capability begins so.
    pub(crate) fn outcome(self, mailbox: u8) -> Reason {
        match self {
            Self::Moved => Reason::Moved,
            Self::Serves(served) if served != mailbox => Reason::Moved,
            _ => Reason::Accepted,
        }
    }
}

fn post(packet: &ClientPacket<Bytes>) -> Option<(FrameId, Bytes)> {
    match packet {
        ClientPacket::Post(post) => Some((post.frame_id, post.payload.clone())),
        _ => None,
    }
}

/// Nodes a and b of a realm, whose record lists them and `more`; a client attached at a.
pub(crate) struct Scene {
    pub(crate) realm: Arc<Realm>,
    pub(crate) a: Node,
    pub(crate) b: Node,
    pub(crate) client: Client,
    pub(crate) updates: Updates,
    pub(crate) mailbox: MailboxId,
    /// Records that were told.
    pub(crate) told: Vec<SignedRealmRecord>,
}

impl Scene {
    pub(crate) async fn new(more: &[String]) -> Self {
        Self::dialling(more, |_| ()).await
    }

    pub(crate) async fn dialling(more: &[String], change: impl FnOnce(&mut Dial)) -> Self {
        let listeners = [
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        ];
        let own = listeners.iter().map(|l| l.local_addr().unwrap().to_string());
        let realm = Realm::new(own.chain(more.iter().cloned()).collect());
        let [a, b] = listeners.map(|listener| Node::serve(listener, Arc::clone(&realm)));
        let mut dial = realm.dial(&a);
        change(&mut dial);
        let (client, updates) = Client::start(dial);
        let mailbox = client.serve(Arc::new(OwnerKeyPair::generate()), Token::new([7; 60]));
        client.open(CHAT, StreamId::random(), vec![Token::new([8; 60])], 1);
        let mut scene = Self { realm, a, b, client, updates, mailbox, told: Vec::new() };
        assert_eq!(scene.next().await, Update::Connected);
        assert!(matches!(scene.next().await, Update::CaughtUp { .. }));
        scene
    }

    /// The next update that is not a record.
    pub(crate) async fn next(&mut self) -> Update {
        loop {
            let update = timeout(Duration::from_secs(20), self.updates.next()).await;
            match update.expect("in time").expect("an update") {
                Update::Realm(signed) => self.told.push(signed),
                update => return update,
            }
        }
    }

    /// Sends one message and waits until it is accepted. Nothing else may be told meanwhile.
    pub(crate) async fn send(&mut self) {
        self.client.send(CHAT, Bytes::from_static(b"text")).unwrap();
        match self.next().await {
            Update::Settled(settled) => assert_eq!(settled.fate, Settlement::Accepted),
            other => panic!("{other:?}"),
        }
    }

    /// Until the client is served by this node; where it prefers to be is all that is told.
    pub(crate) async fn moves_to(&mut self, node: &Node) {
        until(|| node.attaches() > 0).await;
        assert_eq!(self.next().await, Update::Prefers(Some(node.endpoint())));
        let before = node.posted().len();
        let give_up = Instant::now() + Duration::from_secs(10);
        while node.posted().len() == before {
            assert!(Instant::now() < give_up, "it still posts elsewhere");
            self.send().await;
        }
    }
}

pub(crate) async fn until(holds: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < give_up, "it does not come");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn deliver(n: u64) -> Packet {
    let (frame_id, payload) = (FrameId::new([n as u8; 16]), Bytes::from(vec![n as u8; 512]));
    ServerPacket::Deliver(Deliver { attachment: 0, n, frame_id, payload })
}
