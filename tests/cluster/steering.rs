//! Clients are moved to the node that their mailbox's shard prefers, and away from one that ends,
//! while they are written to: with the real client library, against three nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use valise::identity::read_shard_key;
use valise::store::ShardKey;
use valise_client::{
    Client, ConversationId, Dial, Envelope, Inbox, OwnerKeyPair, Settlement, StreamId, Update,
    enroll,
};
use valise_proto::{ClientPacket, MailboxId, RelayAddress, SigningKey, Token};

use crate::faults::Process;
use crate::nats;
use crate::nodes::further_node;
use crate::relay::Relay;
use crate::wire::{Via, Wire};

const PATIENCE: Duration = Duration::from_secs(40);

/// Somebody whose client is written to all the time.
struct Reader {
    client: Client,
    mailbox: MailboxId,
    capability: Token,
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
        let shown = tokio::spawn(async move {
            let (mut shown, mut inbox) = (Shown::default(), Inbox::default());
            while let Some(update) = updates.next().await {
                match update {
                    Update::Message { payload, receipt, .. } => {
                        shown.take(&mut inbox, &payload);
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
        Self { client, mailbox, capability: enrolled.capabilities[0], shown }
    }

    /// By which node it is served now.
    async fn node(&self) -> Option<SigningKey> {
        let held = self.client.attachment(self.mailbox, Duration::from_secs(5)).await.ok()?;
        Some(held.0.welcome().signing_key)
    }

    async fn end(self) -> Shown {
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

    // One ends: its clients are elsewhere before it does.
    let (gone, _) = node_at(&third).await;
    let metrics = third.stop().await;
    nodes.remove(&gone);
    until_served_by(&readers, |reader| preferred(&shards, &reader.mailbox, &nodes)).await;
    let told = metrics
        .lines()
        .find_map(|line| line.strip_prefix("valise_moves_total{reason=\"leaving\"} "));
    assert!(told.unwrap().parse::<f64>().unwrap() >= 1.0);
    let restarting = "valise_packets_sent_total{packet=\"restarting\"} ";
    let told = metrics.lines().find_map(|line| line.strip_prefix(restarting));
    assert_eq!(told, Some("0"), "nobody was left to be told");

    let mut written = 0;
    for writer in writers {
        written += writer.end().await;
    }
    sleep(Duration::from_millis(500)).await;
    for reader in readers {
        let shown = reader.end().await;
        assert_eq!(shown.messages, written, "{shown:?}");
        assert_eq!((shown.connected, shown.caught_up), (1, 1), "nobody sees a move: {shown:?}");
        assert_eq!(shown.disconnected, Vec::<String>::new());
    }
}

/// Reads for so long; where it was told to move to meanwhile.
async fn told(wire: &mut Wire, moment: Duration) -> Vec<Vec<String>> {
    let end = Instant::now() + moment;
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
    let (by_stays, by_goes) = tokio::join!(told(&mut stays, settled), told(&mut goes, settled));
    assert_eq!(by_stays, Vec::<Vec<String>>::new());
    assert_eq!(by_goes, [[elsewhere.clone()]]);
    // Without the first one, the next is the first.
    for (wire, attachment) in [(&mut stays, here.attachment), (&mut goes, there.attachment)] {
        wire.say(&ClientPacket::Detach { request: 900, attachment }).await;
    }
    let moment = Duration::from_millis(500);
    assert_eq!(told(&mut stays, moment).await, [[elsewhere.clone()]]);
    assert_eq!(told(&mut goes, moment).await, [[elsewhere]], "it belongs here now");
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
    sleep(Duration::from_millis(500)).await;
    for reader in readers {
        let there = preferred(&shards, &reader.mailbox, &nodes) == key;
        let shown = reader.end().await;
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
    let began = Instant::now();
    let metrics = first.stop().await;
    assert!(began.elapsed() < Duration::from_secs(3), "there is nowhere to wait for");
    assert!(metrics.contains("valise_moves_total{reason=\"leaving\"} 0"));
}
