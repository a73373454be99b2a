//! A client that is told to move. Handmade relays of one realm say so, rightly or wrongly, and keep
//! count of what they are told.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use valise_client::proto::{
    Attach, Channel, ClientPacket, Deframer, Deliver, FrameId, Move, MovePhase, Nonce,
    PacketBuffer, Post, Posted, RealmId, RealmRecord, Reason, Refused, RelayAddress, RelayKey,
    ServerPacket, SignedRealmRecord, SigningKey, Token, Welcome, statement,
};
use valise_client::{
    Client, ConversationId, Dial, Envelope, OwnerKeyPair, Settlement, SocksProxy, StreamId, Update,
    Updates,
};

type Packet = ServerPacket<Bytes>;

const CHAT: ConversationId = ConversationId(1);
const NONCE: Nonce = Nonce::new([9; 32]);

/// Everything but the relays' own.
struct Realm {
    root: OwnerKeyPair,
    relay: OwnerKeyPair,
    endpoints: Vec<String>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    /// Who serves the one mailbox there is: its connection, and its attachment's number.
    serving: Mutex<Option<(mpsc::Sender<Packet>, u32)>>,
}

/// One relay.
#[derive(Clone)]
struct Node {
    port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Connections, the last one last.
    connections: Vec<mpsc::Sender<Packet>>,
    /// Packets that were said.
    said: Vec<ClientPacket<Bytes>>,
    manners: Manners,
    /// Answers that are kept back.
    held: Vec<(mpsc::Sender<Packet>, Packet)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Manners {
    #[default]
    Good,
    /// Keeps answers to posts and pings back.
    Holds,
    /// Attaches nothing.
    Refuses,
    /// Attaches, and dies before it says so.
    Dies,
}

fn key(pair: &OwnerKeyPair) -> SigningKey {
    SigningKey::new(*pair.owner_key().as_bytes())
}

impl Realm {
    fn new(endpoints: Vec<String>) -> Arc<Self> {
        let pair = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        Arc::new(Self {
            root: OwnerKeyPair::generate(),
            relay: OwnerKeyPair::generate(),
            endpoints,
            certificate: parameters.self_signed(&pair).unwrap().der().clone(),
            key: PrivatePkcs8KeyDer::from(pair.serialize_der()).into(),
            serving: Mutex::new(None),
        })
    }

    fn id(&self) -> RealmId {
        RealmId::of_root_key(&key(&self.root))
    }

    fn welcome(&self) -> Welcome {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let last_day = (since.as_secs() / 86_400) as u32 + 1;
        let record = RealmRecord {
            realm: self.id(),
            root_key: key(&self.root),
            epoch: 5,
            endpoints: self.endpoints.clone(),
            relay_keys: vec![RelayKey { key: key(&self.relay), last_day }],
            key_log_url: String::new(),
        };
        let record = record.encode();
        let signature = self.root.sign(&statement::realm_record(&record));
        let channel = Channel::of_certificate(&self.certificate);
        let text = statement::welcome(&self.id(), &channel, &NONCE, &[1], 0);
        Welcome {
            versions: vec![1],
            features: 0,
            realm_record: SignedRealmRecord { record, signature },
            nonce: NONCE,
            signing_key: key(&self.relay),
            signature: self.relay.sign(&text),
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
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

    fn dial(&self, node: &Node) -> Dial {
        let address =
            RelayAddress { host: "127.0.0.1".to_owned(), port: node.port, realm: self.id() };
        Dial { timeout: Duration::from_secs(5), ..Dial::new(address) }
    }
}

impl Node {
    fn serve(listener: TcpListener, realm: Arc<Realm>) -> Self {
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    async fn connection(&self, tcp: TcpStream, realm: Arc<Realm>) {
        let Ok(mut tls) = realm.acceptor().accept(tcp).await else { return };
        let (out, mut packets) = mpsc::channel(64);
        self.state().connections.push(out.clone());
        out.try_send(ServerPacket::Welcome(Box::new(realm.welcome()))).unwrap();
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
    fn answer(
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
                let outcomes = vec![Some(Reason::Accepted); capabilities.len()];
                ServerPacket::Posted(Posted { request, frame_id, outcomes, retry_after_ms: 0 })
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

    fn attach(&self, realm: &Realm, out: &mpsc::Sender<Packet>, it: &Attach, number: u32) -> bool {
        let manners = self.state().manners;
        if manners == Manners::Refuses {
            let (reason, retry_after_ms) = (Some(Reason::Busy), 100);
            let refused = Refused { request: it.request, reason, retry_after_ms };
            out.try_send(ServerPacket::Refused(refused)).unwrap();
            return true;
        }
        let before = realm.serving.lock().unwrap().replace((out.clone(), number));
        if let Some((before, attachment)) = before {
            before.try_send(ServerPacket::Replaced { attachment }).ok();
        }
        if manners == Manners::Dies {
            return false;
        }
        out.try_send(ServerPacket::Attached { request: it.request, attachment: number }).unwrap();
        out.try_send(ServerPacket::CaughtUp { attachment: number }).unwrap();
        true
    }

    /// Says something on the last connection.
    fn say(&self, packet: Packet) {
        self.state().connections.last().unwrap().try_send(packet).unwrap();
    }

    fn say_move(&self, phase: MovePhase, endpoints: &[String]) {
        let endpoints = endpoints.to_vec();
        let phase = Some(phase);
        self.say(ServerPacket::Move(Box::new(Move {
            phase,
            realm_record: None,
            endpoints,
            spread_ms: 20,
        })));
    }

    fn go(&self, endpoints: &[String]) {
        self.say_move(MovePhase::Go, endpoints);
    }

    fn behave(&self, manners: Manners) {
        self.state().manners = manners;
    }

    /// Gives the answers that were kept back.
    fn release(&self) {
        for (out, answer) in std::mem::take(&mut self.state().held) {
            out.try_send(answer).ok();
        }
    }

    /// Frames that were posted here, with the messages in them.
    fn posted(&self) -> Vec<(FrameId, Envelope)> {
        let posts = self.state().said.iter().filter_map(post).collect::<Vec<_>>();
        posts.into_iter().map(|(id, payload)| (id, Envelope::decode(&payload).unwrap())).collect()
    }

    fn connections(&self) -> usize {
        self.state().connections.len()
    }

    fn attaches(&self) -> usize {
        let state = self.state();
        state.said.iter().filter(|packet| matches!(packet, ClientPacket::Attach(_))).count()
    }
}

fn post(packet: &ClientPacket<Bytes>) -> Option<(FrameId, Bytes)> {
    match packet {
        ClientPacket::Post(post) => Some((post.frame_id, post.payload.clone())),
        _ => None,
    }
}

/// Nodes a and b of a realm, whose record lists them and `more`; a client attached at a.
struct Scene {
    realm: Arc<Realm>,
    a: Node,
    b: Node,
    client: Client,
    updates: Updates,
}

impl Scene {
    async fn new(more: &[String]) -> Self {
        Self::dialling(more, |_| ()).await
    }

    async fn dialling(more: &[String], change: impl FnOnce(&mut Dial)) -> Self {
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
        client.serve(Arc::new(OwnerKeyPair::generate()), Token::new([7; 60]));
        client.open(CHAT, StreamId::random(), vec![Token::new([8; 60])], 1);
        let mut scene = Self { realm, a, b, client, updates };
        assert_eq!(scene.next().await, Update::Connected);
        assert!(matches!(scene.next().await, Update::CaughtUp { .. }));
        scene
    }

    async fn next(&mut self) -> Update {
        let update = timeout(Duration::from_secs(20), self.updates.next()).await;
        update.expect("in time").expect("an update")
    }

    /// Sends one message and waits until it is accepted. Nothing else may be told meanwhile.
    async fn send(&mut self) {
        self.client.send(CHAT, Bytes::from_static(b"text")).unwrap();
        match self.next().await {
            Update::Settled(settled) => assert_eq!(settled.fate, Settlement::Accepted),
            other => panic!("{other:?}"),
        }
    }

    /// Until the client is served by this node; where it prefers to be is all that is told.
    async fn moves_to(&mut self, node: &Node) {
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

async fn until(holds: impl Fn() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < give_up, "it does not come");
        sleep(Duration::from_millis(5)).await;
    }
}

fn deliver(n: u64) -> Packet {
    let (frame_id, payload) = (FrameId::new([n as u8; 16]), Bytes::from(vec![n as u8; 512]));
    ServerPacket::Deliver(Deliver { attachment: 0, n, frame_id, payload })
}

#[tokio::test]
async fn the_client_goes_where_it_is_sent_and_nobody_sees_it() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    scene.send().await;
    a.go(&[b.endpoint()]);
    scene.moves_to(&b).await;
    // What comes there is for the application.
    b.say(deliver(1));
    assert!(matches!(scene.next().await, Update::Message { .. }));
    assert_eq!((a.connections(), b.connections()), (1, 1));
    // The old connection is closed, and b is where it comes back to.
    until(|| a.state().connections[0].is_closed()).await;
    b.say(ServerPacket::Closing(None));
    assert!(matches!(scene.next().await, Update::Disconnected { .. }));
    assert_eq!(scene.next().await, Update::Connected);
    assert_eq!((a.connections(), b.connections()), (1, 2));
}

#[tokio::test]
async fn a_place_that_the_record_does_not_list_is_not_dialled() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let elsewhere = trap.local_addr().unwrap().to_string();
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.go(std::slice::from_ref(&elsewhere));
    a.go(&[b.endpoint(), elsewhere]);
    scene.send().await;
    assert!(timeout(Duration::from_millis(500), trap.accept()).await.is_err(), "it was dialled");
    assert_eq!(b.connections(), 0, "the packet is ignored as a whole");
    a.go(&[b.endpoint()]);
    scene.moves_to(&b).await;
}

#[tokio::test]
async fn from_a_dead_place_the_client_comes_back_to_where_it_never_left() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = dead.local_addr().unwrap().to_string();
    drop(dead);
    let mut scene = Scene::new(std::slice::from_ref(&gone)).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.go(std::slice::from_ref(&gone));
    assert_eq!(scene.next().await, Update::Prefers(Some(gone.clone())));
    for _ in 0..20 {
        scene.send().await;
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((a.connections(), a.attaches()), (1, 1), "it is where it was");
    // The next of several is taken.
    a.go(&[gone.clone(), b.endpoint()]);
    until(|| b.attaches() == 1).await;
    scene.send().await;
}

#[tokio::test]
async fn an_impostor_is_told_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let impostor = Node::serve(listener, Realm::new(Vec::new()));
    let mut scene = Scene::new(&[impostor.endpoint()]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.go(&[impostor.endpoint()]);
    assert_eq!(scene.next().await, Update::Prefers(Some(impostor.endpoint())));
    until(|| impostor.connections() == 1).await;
    assert_eq!(scene.next().await, Update::Prefers(None), "nor is it where to begin next time");
    for _ in 0..10 {
        scene.send().await;
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!((a.connections(), a.attaches()), (1, 1), "it is where it was");
    assert!(impostor.state().said.is_empty(), "not even a hello");
    a.go(&[impostor.endpoint(), b.endpoint()]);
    scene.moves_to(&b).await;
    assert_eq!(impostor.connections(), 1, "it is not asked again");
}

/// Each message is in one frame, whatever became of the connection that it was posted on.
fn check_frames(nodes: [&Node; 2], messages: u64) {
    let mut frames: HashMap<FrameId, Envelope> = HashMap::new();
    for (id, envelope) in nodes.iter().flat_map(|node| node.posted()) {
        let known = frames.entry(id).or_insert_with(|| envelope.clone());
        assert_eq!(*known, envelope, "the same id is the same frame");
    }
    let mut counters: Vec<u64> = frames
        .values()
        .flat_map(|envelope| {
            let first = envelope.first_counter;
            first..first + envelope.messages.len() as u64
        })
        .collect();
    counters.sort_unstable();
    assert_eq!(counters, (1..=messages).collect::<Vec<_>>(), "in two frames, or in none");
}

#[tokio::test]
async fn a_post_under_way_is_awaited() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.behave(Manners::Holds);
    // Several conversations, so that posts to one place do not wait for each other.
    for n in 2..8 {
        scene.client.open(
            ConversationId(n),
            StreamId::random(),
            vec![Token::new([n as u8; 60])],
            1,
        );
        scene.client.send(ConversationId(n), Bytes::from_static(b"text")).unwrap();
    }
    until(|| a.posted().len() == 6).await;
    a.go(&[b.endpoint()]);
    scene.moves_to(&b).await;
    assert_eq!(scene.client.unsettled(), 6);
    a.release();
    timeout(Duration::from_secs(5), scene.client.settled()).await.unwrap();
    let there = b.posted();
    for (id, _) in a.posted() {
        assert!(there.iter().all(|(other, _)| *other != id), "it was accepted once");
    }
    until(|| a.state().connections[0].is_closed()).await;
}

#[tokio::test]
async fn a_post_whose_answer_is_lost_is_repeated_with_its_id() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.behave(Manners::Holds);
    scene.client.send(CHAT, Bytes::from_static(b"one")).unwrap();
    until(|| a.posted().len() == 1).await;
    for _ in 0..3 {
        scene.client.send(CHAT, Bytes::from_static(b"more")).unwrap();
    }
    a.go(&[b.endpoint()]);
    until(|| b.attaches() == 1).await;
    assert_eq!(scene.next().await, Update::Prefers(Some(b.endpoint())));
    // The order is kept: what comes after it waits for it.
    sleep(Duration::from_millis(100)).await;
    assert_eq!(b.posted(), []);
    a.say(ServerPacket::Closing(None));
    timeout(Duration::from_secs(10), scene.client.settled()).await.unwrap();
    assert_eq!(b.posted()[0].0, a.posted()[0].0);
    check_frames([&a, &b], 4);
}

#[tokio::test]
async fn what_an_application_has_asked_is_answered() {
    let scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    let held = scene.client.connection(Duration::ZERO).await.unwrap();
    a.behave(Manners::Holds);
    let asked = tokio::spawn(async move { held.ping().await });
    until(|| !a.state().held.is_empty()).await;
    a.go(&[b.endpoint()]);
    until(|| b.attaches() == 1).await;
    // Whoever asks now asks there.
    let until_there = async {
        loop {
            let held = scene.client.connection(Duration::ZERO).await.unwrap();
            if timeout(Duration::from_millis(50), held.ping()).await.is_ok() {
                return;
            }
        }
    };
    timeout(Duration::from_secs(10), until_there).await.unwrap();
    a.release();
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_node_that_does_not_attach_is_left_alone() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    b.behave(Manners::Refuses);
    a.go(&[b.endpoint()]);
    until(|| b.attaches() == 1).await;
    assert_eq!(scene.next().await, Update::Prefers(Some(b.endpoint())));
    until(|| b.state().connections[0].is_closed()).await;
    a.say(deliver(1));
    let Update::Message { receipt, .. } = scene.next().await else { panic!("no message") };
    scene.client.acknowledge(receipt);
    let is_ack = |packet: &ClientPacket<Bytes>| matches!(packet, ClientPacket::Ack { n: 1, .. });
    until(|| a.state().said.iter().any(is_ack)).await;
    scene.send().await;
    assert_eq!(a.connections(), 1);
}

/// `Replaced` comes from the client's own attach there, of which it never hears.
#[tokio::test]
async fn a_node_that_dies_while_it_attaches_is_not_another_device() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    b.behave(Manners::Dies);
    a.go(&[b.endpoint()]);
    assert_eq!(scene.next().await, Update::Prefers(Some(b.endpoint())));
    assert_eq!(scene.next().await, Update::Connected, "it comes back, where it can");
    assert!(matches!(scene.next().await, Update::CaughtUp { .. }));
    assert_eq!((a.attaches(), b.attaches()), (2, 1));
    scene.send().await;
    drop(scene.realm);
}

#[tokio::test]
async fn a_connection_is_held_until_it_is_wanted() {
    let mut scene = Scene::new(&[]).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.say_move(MovePhase::Prepare, &[b.endpoint()]);
    until(|| !b.state().said.is_empty()).await;
    let hello = b.state().said[0].clone();
    let ClientPacket::Hello(hello) = hello else { panic!("{hello:?}") };
    assert!(hello.member_token.is_some(), "so that it may wait");
    scene.send().await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!((a.posted().len(), b.attaches()), (1, 0), "it waits");
    a.go(&[b.endpoint()]);
    scene.moves_to(&b).await;
    assert_eq!(b.connections(), 1, "the one that was held");
}

/// For a relay where others have their mailboxes.
#[tokio::test]
async fn a_client_that_nobody_needs_just_goes() {
    let listeners = [
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    let own = listeners.iter().map(|l| l.local_addr().unwrap().to_string());
    let realm = Realm::new(own.collect());
    let [a, b] = listeners.map(|listener| Node::serve(listener, Arc::clone(&realm)));
    let (client, mut updates) = Client::start_on_demand(realm.dial(&a), Duration::from_secs(60));
    client.connection(Duration::ZERO).await.unwrap().ping().await.unwrap();
    a.go(&[b.endpoint()]);
    until(|| a.state().connections[0].is_closed()).await;
    assert_eq!(b.connections(), 0, "not before there is a reason");
    client.connection(Duration::ZERO).await.unwrap().ping().await.unwrap();
    assert_eq!((a.connections(), b.connections()), (1, 1));
    assert_eq!(updates.next().await, Some(Update::Connected));
    assert_eq!(updates.next().await, Some(Update::Prefers(Some(b.endpoint()))));
    assert_eq!(updates.next().await, Some(Update::Connected));
    // One that is in use is moved.
    let held = client.connection(Duration::ZERO).await.unwrap();
    b.go(&[a.endpoint()]);
    until(|| a.connections() == 2).await;
    held.ping().await.unwrap();
    drop(held);
    until(|| b.state().connections[0].is_closed()).await;
}

#[tokio::test]
async fn a_move_goes_through_the_proxy() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked: Arc<Mutex<Vec<u16>>> = Arc::default();
    let noted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let noted = Arc::clone(&noted);
            tokio::spawn(async move {
                let (mut methods, mut request) = ([0; 3], [0; 10]);
                client.read_exact(&mut methods).await.unwrap();
                client.write_all(&[5, 0]).await.unwrap();
                client.read_exact(&mut request).await.unwrap();
                let port = u16::from_be_bytes([request[8], request[9]]);
                noted.lock().unwrap().push(port);
                client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
                let mut relay = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                copy_bidirectional(&mut client, &mut relay).await.ok();
            });
        }
    });
    let proxy = SocksProxy { host: "127.0.0.1".to_owned(), port, credentials: None };
    let mut scene = Scene::dialling(&[], |dial| dial.proxy = Some(proxy)).await;
    let (a, b) = (scene.a.clone(), scene.b.clone());
    a.go(&[b.endpoint()]);
    scene.moves_to(&b).await;
    assert_eq!(*asked.lock().unwrap(), [a.port, b.port]);
}
