//! Clients are moved to the node that their mailbox's shard prefers, and away from one that ends,
//! while they are written to: with the real client library, against three nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use valise::identity::read_shard_key;
use valise::limits::MOVED_AWAY_MS;
use valise::store::ShardKey;
use valise_client::{
    Client, ConversationId, Dial, Envelope, Inbox, OwnerKeyPair, Settlement, StreamId, Update,
    enroll,
};
use valise_proto::{ClientPacket, MailboxId, RelayAddress, SigningKey, Token};

use crate::faults::Process;
use crate::nats;
use crate::nodes::further_node;
use crate::relay::{Relay, value};
use crate::wire::{Via, Wire};

const PATIENCE: Duration = Duration::from_secs(40);

/// Somebody whose client is written to all the time.
struct Reader {
    client: Client,
    mailbox: MailboxId,
    capability: Token,
    /// Messages it has shown so far.
    count: Arc<AtomicU64>,
    /// Ends with the client; which messages it has shown, and what else it was told.
    shown: JoinHandle<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    messages: u64,
    copies: u64,
    connected: u32,
    disconnected: Vec<String>,
    caught_up: u32,
    prefers: Option<String>,
}

impl Reader {
    async fn start(dial: &Dial) -> Self {
        let owner = Arc::new(OwnerKeyPair::generate());
        let enrolled = enroll(dial, &owner, None, 1, 30).await.unwrap();
        let (client, mut updates) = Client::start(dial.clone());
        let mailbox = client.serve(owner, enrolled.member_token);
        let reading = client.clone();
        let count = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&count);
        let shown = tokio::spawn(async move {
            let (mut shown, mut inbox) = (Shown::default(), Inbox::default());
            while let Some(update) = updates.next().await {
                match update {
                    Update::Message { payload, receipt, .. } => {
                        shown.take(&mut inbox, &payload);
                        counting.store(shown.messages, Ordering::Release);
                        reading.acknowledge(receipt);
                    }
                    Update::Connected => shown.connected += 1,
                    Update::Disconnected { why, .. } => shown.disconnected.push(why),
                    Update::CaughtUp { .. } => shown.caught_up += 1,
                    Update::Prefers(endpoint) => shown.prefers = endpoint,
                    Update::Settled(_) | Update::Signaled { .. } => {}
                    Update::BundleLow { .. } | Update::Realm(_) => {}
                    other => panic!("{other:?}"),
                }
            }
            shown
        });
        Self { client, mailbox, capability: enrolled.capabilities[0], count, shown }
    }

    /// By which node it is served now.
    async fn node(&self) -> Option<SigningKey> {
        let held = self.client.attachment(self.mailbox, Duration::from_secs(5)).await.ok()?;
        Some(held.0.welcome().signing_key)
    }

    /// Once it has shown so many messages, and a moment for copies.
    async fn end_after(self, written: u64) -> Shown {
        let give_up = Instant::now() + PATIENCE;
        while self.count.load(Ordering::Acquire) < written && Instant::now() < give_up {
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_millis(100)).await;
        self.client.close().await;
        drop(self.client);
        timeout(PATIENCE, self.shown).await.unwrap().unwrap()
    }
}

impl Shown {
    /// In order, none left out; each is the text of its own counter.
    fn take(&mut self, inbox: &mut Inbox, payload: &Bytes) {
        let envelope = Envelope::decode(payload).unwrap();
        let first = envelope.first_counter;
        let received = inbox.receive(envelope.stream, first, envelope.messages.len() as u64);
        assert_eq!(received.gap, None, "lost");
        self.copies += envelope.messages.len() as u64;
        for counter in received.fresh {
            let message = &envelope.messages[(counter - first) as usize];
            assert_eq!(*message, counter.to_string().as_bytes());
            self.messages += 1;
            self.copies -= 1;
        }
    }
}

/// Writes to all of them until it is told to stop; returns how many messages each was sent, all of
/// which were accepted.
struct Writer {
    stop: Arc<AtomicBool>,
    written: JoinHandle<u64>,
}

impl Writer {
    fn start(dial: &Dial, readers: &[Reader]) -> Self {
        let (client, mut updates) = Client::start(dial.clone());
        for (number, reader) in readers.iter().enumerate() {
            let (id, capabilities) = (ConversationId(number as u64), vec![reader.capability]);
            client.open(id, StreamId::random(), capabilities, 1);
        }
        let settling = tokio::spawn(async move {
            let mut accepted = 0;
            while let Some(update) = updates.next().await {
                match update {
                    Update::Settled(settled) => {
                        assert_eq!(settled.fate, Settlement::Accepted);
                        accepted += settled.counters.end - settled.counters.start;
                    }
                    Update::GaveUp(stop) => panic!("{stop}"),
                    _ => {}
                }
            }
            accepted
        });
        let (stop, count) = (Arc::new(AtomicBool::new(false)), readers.len() as u64);
        let stopped = Arc::clone(&stop);
        let written = tokio::spawn(async move {
            let mut each = 0;
            while !stopped.load(Ordering::Acquire) {
                each += 1;
                for number in 0..count {
                    let text = Bytes::from(each.to_string());
                    assert_eq!(client.send(ConversationId(number), text), Ok(each));
                }
                sleep(Duration::from_millis(40)).await;
            }
            timeout(PATIENCE, client.settled()).await.expect("every post has met its fate");
            client.close().await;
            drop(client);
            assert_eq!(settling.await.unwrap(), each * count);
            each
        });
        Self { stop, written }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Release);
        self.written.await.unwrap()
    }
}

/// The nodes, by endpoint, with the keys they sign with.
type Nodes = BTreeMap<String, SigningKey>;

async fn node_at(relay: &Relay) -> (String, SigningKey) {
    let wire = Wire::connect(relay, Via::Raw).await;
    (format!("127.0.0.1:{}", relay.socket().port()), wire.welcome.signing_key)
}

/// By which key a mailbox's shard prefers to be served: what docs/decisions/0035 says.
fn preferred(shards: &ShardKey, mailbox: &MailboxId, nodes: &Nodes) -> SigningKey {
    let shard = shards.shard(mailbox);
    let score = |endpoint: &str| {
        let text = [b"valise steering 1", &[shard][..], endpoint.as_bytes()].concat();
        digest(&SHA256, &text).as_ref()[..16].to_vec()
    };
    *nodes.iter().max_by_key(|(endpoint, _)| score(endpoint)).unwrap().1
}

fn shards_of(relay: &Relay) -> ShardKey {
    ShardKey::new(&read_shard_key(&relay.state_directory()).unwrap())
}

/// Waits until each is served by the node that this gives.
async fn until_served_by(readers: &[Reader], node: impl Fn(&Reader) -> SigningKey) {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let mut astray = 0;
        for reader in readers {
            astray += u32::from(reader.node().await != Some(node(reader)));
        }
        if astray == 0 {
            return;
        }
        assert!(Instant::now() < give_up, "{astray} are not where they belong");
        sleep(Duration::from_millis(100)).await;
    }
}

fn dial_of(relay: &Relay) -> Dial {
    let mut dial = Dial::new(relay.running().address().clone());
    dial.timeout = Duration::from_secs(5);
    dial
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_go_to_the_node_they_belong_to_and_from_one_that_ends() {
    let Some(_nats) = nats::shared() else { return };
    let first = Relay::start().await;
    let (directory, port, _) = further_node(&first);
    let second = Relay::at(directory, ([127, 0, 0, 1], port).into(), "").await;
    let (directory, port, _) = further_node(&first);
    let third = Relay::at(directory, ([127, 0, 0, 1], port).into(), "").await;
    for node in [&first, &second, &third] {
        node.until("valise_nodes_live", |live| live >= 3.0).await;
    }
    let mut nodes = Nodes::new();
    for node in [&first, &second, &third] {
        nodes.extend([node_at(node).await]);
    }
    let shards = shards_of(&first);
    let dial = dial_of(&first);
    let mut readers = Vec::new();
    for _ in 0..24 {
        readers.push(Reader::start(&dial).await);
    }
    let writers = [
        Writer::start(&dial, &readers),
        Writer::start(
            &Dial { address: second.running().address().clone(), ..dial.clone() },
            &readers,
        ),
    ];
    until_served_by(&readers, |reader| preferred(&shards, &reader.mailbox, &nodes)).await;
    let moved = "valise_moves_total{reason=\"preferred\"}";
    assert!(first.metric(moved) > 4.0, "{}", first.metric(moved));
    let served: f64 =
        [&first, &second, &third].iter().map(|n| n.metric("valise_attachments")).sum();
    assert!(served >= 24.0, "{served}");
    assert!(second.metric("valise_partitions") >= 1.0);

    // One ends: its clients are elsewhere before it does. Where the machine stood still for as long as
    // a node waits for them, some are left to be told that it ends; then another one ends.
    let (mut left, mut in_time) = (0, false);
    for node in [third, second] {
        let (gone, _) = node_at(&node).await;
        let metrics = node.stop().await;
        nodes.remove(&gone);
        until_served_by(&readers, |reader| preferred(&shards, &reader.mailbox, &nodes)).await;
        assert!(value(&metrics, "valise_moves_total{reason=\"leaving\"}") >= 1.0);
        let told = value(&metrics, "valise_packets_sent_total{packet=\"restarting\"}");
        left += told as usize;
        in_time = told == 0.0;
        if in_time {
            break;
        }
    }
    assert!(in_time, "{left} were left to be told, twice");

    let mut written = 0;
    for writer in writers {
        written += writer.end().await;
    }
    let mut disconnected = Vec::new();
    for reader in readers {
        let shown = reader.end_after(written).await;
        assert_eq!(shown.messages, written, "{shown:?}");
        let seen = shown.disconnected.len() as u32;
        assert_eq!((shown.connected, shown.caught_up), (1 + seen, 1 + seen), "{shown:?}");
        disconnected.extend(shown.disconnected);
    }
    assert!(disconnected.len() <= left, "nobody sees a move: {disconnected:?}, {left} were left");
}

/// Reads until it was told to move, but for so long at most, and for a moment more: where to.
async fn told(wire: &mut Wire, most: Duration) -> Vec<Vec<String>> {
    let give_up = Instant::now() + most;
    while wire.moves().is_empty() && Instant::now() < give_up {
        wire.receive_soon(Duration::from_millis(50)).await;
    }
    let end = Instant::now() + Duration::from_millis(500);
    while let Some(left) = end.checked_duration_since(Instant::now()) {
        wire.receive_soon(left).await;
    }
    wire.moves().iter().map(|moved| moved.endpoints.clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_is_steered_by_its_first_mailbox() {
    let Some(_nats) = nats::shared() else { return };
    let first = Relay::start().await;
    let (directory, port, key) = further_node(&first);
    let _second = Relay::at(directory, ([127, 0, 0, 1], port).into(), "").await;
    first.until("valise_nodes_live", |live| live >= 2.0).await;
    let (endpoint, own) = node_at(&first).await;
    let elsewhere = format!("127.0.0.1:{port}");
    let nodes = Nodes::from([(endpoint, own), (elsewhere.clone(), key)]);
    let shards = shards_of(&first);
    let owner_at = |key: SigningKey| loop {
        let owner = OwnerKeyPair::generate();
        if preferred(&shards, &owner.mailbox(&first.realm()), &nodes) == key {
            return owner;
        }
    };
    let mut stays = Wire::open(&first, Via::Raw).await;
    let here = stays.join_and_attach(owner_at(own)).await;
    stays.join_and_attach(owner_at(key)).await;
    let mut goes = Wire::open(&first, Via::Raw).await;
    let there = goes.join_and_attach(owner_at(key)).await;
    goes.join_and_attach(owner_at(own)).await;
    let settled = Duration::from_secs(8);
    let (by_stays, by_goes) = tokio::join!(told(&mut stays, settled), told(&mut goes, PATIENCE));
    assert_eq!(by_stays, Vec::<Vec<String>>::new());
    assert_eq!(by_goes, [[elsewhere.clone()]]);
    // Without the first one, the next is the first.
    for (wire, attachment) in [(&mut stays, here.attachment), (&mut goes, there.attachment)] {
        wire.say(&ClientPacket::Detach { request: 900, attachment }).await;
    }
    assert_eq!(told(&mut stays, PATIENCE).await, [[elsewhere.clone()]]);
    assert_eq!(told(&mut goes, PATIENCE).await, [[elsewhere]], "it belongs here now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_killed_node_go_on_elsewhere() {
    let Some(nats) = nats::shared() else { return };
    let first = Relay::start().await;
    let (directory, port, key) = further_node(&first);
    let second = Process::start(&directory.path().join("state"), port, &nats);
    first.until("valise_nodes_live", |live| live >= 2.0).await;
    let (endpoint, own) = node_at(&first).await;
    let nodes = Nodes::from([(endpoint, own), (format!("127.0.0.1:{port}"), key)]);
    let shards = shards_of(&first);
    let dial = dial_of(&first);
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(Reader::start(&dial).await);
    }
    let writer = Writer::start(&dial, &readers);
    until_served_by(&readers, |reader| preferred(&shards, &reader.mailbox, &nodes)).await;
    drop(second);
    until_served_by(&readers, |_| own).await;
    let written = writer.end().await;
    for reader in readers {
        let there = preferred(&shards, &reader.mailbox, &nodes) == key;
        let shown = reader.end_after(written).await;
        assert_eq!(shown.messages, written, "{shown:?}");
        assert_eq!(shown.prefers.is_some(), there, "{shown:?}");
        assert_eq!(shown.disconnected.is_empty(), !there, "{shown:?}");
    }
}

/// With something in front of them, nodes do not know which is which: nobody is moved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_without_an_endpoint_of_their_own_steer_nobody() {
    let Some(_nats) = nats::shared() else { return };
    let shared = "[relay]\nendpoints = [\"127.0.0.1:1\"]\n";
    let first = Relay::configured(shared).await;
    let (directory, port, _) = further_node(&first);
    let second = Relay::at(directory, ([127, 0, 0, 1], port).into(), shared).await;
    let address = |relay: &Relay| RelayAddress {
        port: relay.socket().port(),
        ..relay.running().address().clone()
    };
    let dial = Dial::new(address(&first));
    let mut readers = Vec::new();
    for _ in 0..8 {
        readers.push(Reader::start(&dial).await);
    }
    let (_, own) = node_at(&first).await;
    sleep(Duration::from_secs(8)).await;
    for node in [&first, &second] {
        for reason in ["preferred", "leaving"] {
            assert_eq!(node.metric(&format!("valise_moves_total{{reason=\"{reason}\"}}")), 0.0);
        }
    }
    until_served_by(&readers, |_| own).await;
    // There is nowhere to wait for, and one of the two is quick on every machine.
    let mut took = Vec::new();
    for node in [first, second] {
        let began = Instant::now();
        let metrics = node.stop().await;
        took.push(began.elapsed());
        assert_eq!(value(&metrics, "valise_moves_total{reason=\"leaving\"}"), 0.0);
    }
    assert!(took.iter().any(|took| took.as_millis() < u128::from(MOVED_AWAY_MS)), "{took:?}");
}
