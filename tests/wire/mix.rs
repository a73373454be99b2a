//! Twenty clients on one relay do whatever comes to their minds for a while: post, read, read
//! nothing, acknowledge late, vanish, and attach elsewhere, on both transports. What a sender was
//! told is accepted arrives, once and in order, and nothing else; the relay's counts agree.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use valise_client::OwnerKeyPair;
use valise_proto::{
    ClientPacket, FrameId, PacketBuffer, Post, Posted, Reason, ServerPacket, Token,
};

use crate::relay::Relay;
use crate::wire::{Via, Wire, frame_id};

const CLIENTS: u32 = 20;
const MOMENT: Duration = Duration::from_millis(2);

/// A bound on what comes sooner or later.
const SURELY: Duration = Duration::from_secs(30);

/// Frames of one client are numbered from a multiple of this on.
const NUMBERS: u32 = 100_000;

/// Little fits into a ring, so that most of what waits is spilled.
const LIMITS: &str = "[limits]\nring_bytes_per_mailbox = 1536\nposts_per_second = 100000\n\
    posts_burst = 100000\npackets_per_second = 1000000\npackets_burst = 1000000\n\
    connects_per_second_per_prefix = 100000\nconnects_burst_per_prefix = 100000\n\
    joins_per_minute_per_prefix = 100000\n";

/// Numbers that follow from a seed (xorshift).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % u64::from(end)).unwrap()
    }
}

/// A frame that its sender has not been told the outcomes of.
#[derive(Clone)]
struct Unresolved {
    number: u32,
    targets: Vec<u32>,
}

struct Client {
    // Static.
    name: u32,
    owner: OwnerKeyPair,
    member: Token,
    capabilities: Arc<Vec<Token>>,
    // Its connection, if it has one.
    wire: Option<(Wire, u32)>,
    delivered: u64,
    acknowledged: u64,
    // What it knows.
    dice: Dice,
    posted: u32,
    unresolved: Option<Unresolved>,
    accepted: Vec<(u32, u32)>,
    received: Vec<u32>,
    seen: HashSet<u32>,
}

fn payload_of(number: u32) -> Bytes {
    let mut bytes = number.to_be_bytes().to_vec();
    bytes.resize(512, number as u8);
    Bytes::from(bytes)
}

fn number_of(id: &FrameId) -> u32 {
    u32::from_be_bytes(id.as_bytes()[..4].try_into().unwrap())
}

impl Client {
    async fn connect(&mut self, relay: &Relay) {
        let via = if self.dice.below(2) == 0 { Via::Raw } else { Via::WebSocket };
        let mut wire = Wire::open(relay, via).await;
        let attachment = wire.attach(&self.owner, &self.member).await;
        // The older connection, if there is one, ends without having heard of it.
        self.wire = Some((wire, attachment));
        (self.delivered, self.acknowledged) = (0, 0);
        if let Some(unresolved) = self.unresolved.clone() {
            self.send(&unresolved).await;
        }
    }

    async fn say(&mut self, packet: &ClientPacket<Bytes>) {
        let Some((wire, _)) = &mut self.wire else { return };
        let mut out = PacketBuffer::default();
        packet.encode(&mut out);
        assert!(wire.try_say_bytes(out.take()).await, "{} was thrown out", self.name);
    }

    async fn send(&mut self, unresolved: &Unresolved) {
        let capability = |target: &u32| self.capabilities[*target as usize];
        let post = Post {
            request: unresolved.number,
            frame_id: frame_id(unresolved.number),
            capabilities: unresolved.targets.iter().map(capability).collect(),
            ttl_hours: 0,
            payload: payload_of(unresolved.number),
        };
        self.say(&ClientPacket::Post(post)).await;
    }

    async fn post(&mut self) {
        self.posted += 1;
        let number = self.name * NUMBERS + self.posted;
        let count = 1 + self.dice.below(3);
        let targets: HashSet<u32> = (0..count).map(|_| self.dice.below(CLIENTS)).collect();
        let unresolved = Unresolved { number, targets: targets.into_iter().collect() };
        self.send(&unresolved).await;
        self.unresolved = Some(unresolved);
    }

    async fn acknowledge(&mut self, n: u64) {
        let Some((_, attachment)) = self.wire else { return };
        if n > self.acknowledged {
            self.say(&ClientPacket::Ack { attachment, n }).await;
            self.acknowledged = n;
        }
    }

    fn resolved(&mut self, posted: &Posted) {
        let unresolved = self.unresolved.take().expect("one answer for each post");
        assert_eq!(posted.frame_id, frame_id(unresolved.number));
        for (target, outcome) in unresolved.targets.iter().zip(&posted.outcomes) {
            assert_eq!(*outcome, Some(Reason::Accepted));
            self.accepted.push((*target, unresolved.number));
        }
    }

    /// Reads what comes within a moment. Returns whether anything came.
    async fn read(&mut self) -> bool {
        let Some((wire, attached)) = &mut self.wire else { return false };
        let Some(packet) = wire.receive_soon(MOMENT).await else { return false };
        match packet.expect("the relay ends no connection here") {
            ServerPacket::Deliver(deliver) => {
                assert_eq!(deliver.attachment, *attached);
                assert_eq!(deliver.n, self.delivered + 1);
                let number = number_of(&deliver.frame_id);
                assert_eq!(deliver.payload, payload_of(number));
                self.delivered = deliver.n;
                if self.seen.insert(number) {
                    self.received.push(number);
                }
            }
            ServerPacket::Posted(posted) => self.resolved(&posted),
            ServerPacket::CaughtUp { .. } => {}
            other => panic!("not expected: {other:?}"),
        }
        true
    }

    /// One thing that comes to its mind.
    async fn act(&mut self, relay: &Relay) {
        if self.wire.is_none() {
            return self.connect(relay).await;
        }
        match self.dice.below(40) {
            0 => self.wire = None,
            1 => self.connect(relay).await,
            2..14 if self.unresolved.is_none() => self.post().await,
            14..18 => {
                let unacknowledged = u32::try_from(self.delivered - self.acknowledged).unwrap();
                let some = self.dice.below(unacknowledged + 1);
                self.acknowledge(self.acknowledged + u64::from(some)).await;
            }
            18..20 => tokio::time::sleep(5 * MOMENT).await,
            _ => {
                self.read().await;
            }
        }
    }

    /// Reads and acknowledges until its own post has its answer, so many frames are there, and nothing
    /// has come for a while.
    async fn quiet(&mut self, relay: &Relay, owed: usize) {
        if self.wire.is_none() {
            self.connect(relay).await;
        }
        let mut heard = Instant::now();
        while self.unresolved.is_some()
            || self.received.len() < owed
            || heard.elapsed() < Duration::from_millis(700)
        {
            if self.read().await {
                heard = Instant::now();
            }
            self.acknowledge(self.delivered).await;
            let (name, came) = (self.name, self.received.len());
            assert!(heard.elapsed() < SURELY, "{name} has no answer, or {came} frames of {owed}");
        }
    }
}

async fn clients(relay: &Relay, seed: u64) -> Vec<Client> {
    let mut made = Vec::new();
    for _ in 0..CLIENTS {
        made.push(Wire::serve(relay, Via::Raw).await.1);
    }
    let capabilities = Arc::new(made.iter().map(|mine| mine.capability).collect::<Vec<_>>());
    let clients = (0..CLIENTS).zip(made).map(|(name, mine)| Client {
        name,
        owner: mine.owner,
        member: mine.member,
        capabilities: Arc::clone(&capabilities),
        wire: None,
        delivered: 0,
        acknowledged: 0,
        dice: Dice((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(name) + 1)),
        posted: 0,
        unresolved: None,
        accepted: Vec::new(),
        received: Vec::new(),
        seen: HashSet::new(),
    });
    clients.collect()
}

async fn mix(seed: u64) {
    let relay = Arc::new(Relay::configured(LIMITS).await);
    let acting = clients(&relay, seed).await.into_iter().map(|mut client| {
        let relay = Arc::clone(&relay);
        tokio::spawn(async move {
            for _ in 0..250 {
                client.act(&relay).await;
            }
            client.quiet(&relay, 0).await;
            client
        })
    });
    let mut clients = Vec::new();
    for client in acting.collect::<Vec<_>>() {
        clients.push(client.await.unwrap());
    }
    let mut owed: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for client in &clients {
        for (target, number) in &client.accepted {
            owed.entry(*target).or_default().push(*number);
        }
    }
    for client in &mut clients {
        let mut expected = owed.remove(&client.name).unwrap_or_default();
        // Whoever was quick to be quiet may have mail from whoever was not.
        client.quiet(&relay, expected.len()).await;
        // A sender has one unresolved frame at a time, so its numbers come in their order.
        for sender in 0..CLIENTS {
            let of_sender = |number: &&u32| **number / NUMBERS == sender;
            let came: Vec<_> = client.received.iter().filter(of_sender).collect();
            assert!(came.is_sorted(), "seed {seed}: {} has {came:?}", client.name);
        }
        expected.sort_unstable();
        client.received.sort_unstable();
        assert_eq!(client.received, expected, "seed {seed}: {}", client.name);
    }
    assert!(relay.metric("valise_frames_spilled_total") > 0.0);
    assert!(relay.metric("valise_attachments_replaced_total") > 0.0);
    drop(clients);
    Arc::into_inner(relay).expect("nobody else is left").finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_they_do_nothing_is_lost() {
    let seed = std::env::var("VALISE_MIX_SEED").ok().and_then(|seed| seed.parse().ok());
    for seed in seed.map_or(0..1, |seed| seed..seed + 1) {
        mix(seed).await;
    }
}
