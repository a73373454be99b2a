//! Where scripts are played: a supernode, or nodes of a data centre.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use valise::identity::read_shard_key;
use valise::store::{ShardKey, jetstream};
use valise_proto::{MailboxId, RealmId};

use crate::nats;
use crate::nodes::further_node;
use crate::relay::Relay;
use crate::wire::{Via, Wire, hello};

/// Enough for scripts: they are not about rates.
pub const LIMITS: &str = "[limits]\nposts_per_second = 100000\nposts_burst = 100000\n\
    packets_per_second = 100000\npackets_burst = 100000\ntakes_per_hour_per_token = 100000\n\
    connects_per_second_per_prefix = 100000\nconnects_burst_per_prefix = 100000\n\
    joins_per_minute_per_prefix = 100000\n";

/// The relays of one realm.
pub struct Place {
    pub name: String,
    pub realm: RealmId,
    pub sockets: Vec<SocketAddr>,
    /// None where the relay is a process of its own.
    pub relays: Vec<Relay>,
    bus: Option<Bus>,
}

/// What is behind the nodes, seen by the test.
struct Bus {
    client: async_nats::Client,
    shards: ShardKey,
}

impl Place {
    pub async fn supernode() -> Self {
        let relay = Relay::on_servers(tempfile::tempdir().unwrap(), LIMITS).await;
        Self::of("a supernode".to_owned(), vec![relay], None)
    }

    /// A data centre of so many nodes; none without NATS servers.
    pub async fn data_centre(nodes: usize) -> Option<Self> {
        let nats = nats::shared()?;
        let mut relays = vec![Relay::configured(LIMITS).await];
        while relays.len() < nodes {
            let (directory, port, _) = further_node(&relays[0]);
            relays.push(Relay::at(directory, ([127, 0, 0, 1], port).into(), LIMITS).await);
        }
        let client = async_nats::connect(nats.urls()).await.unwrap();
        let shards = ShardKey::new(&read_shard_key(&relays[0].state_directory()).unwrap());
        let name = format!("a data centre of {nodes}");
        Some(Self::of(name, relays, Some(Bus { client, shards })))
    }

    /// A supernode that is a process of its own.
    pub fn process(realm: RealmId, socket: SocketAddr) -> Self {
        let name = "a process".to_owned();
        Self { name, realm, sockets: vec![socket], relays: Vec::new(), bus: None }
    }

    fn of(name: String, relays: Vec<Relay>, bus: Option<Bus>) -> Self {
        let sockets = relays.iter().map(Relay::socket).collect();
        Self { name, realm: relays[0].realm(), sockets, relays, bus }
    }

    /// Connected to one of its relays.
    pub async fn connect(&self, relay: usize, via: Via) -> Wire {
        let socket = self.sockets[relay % self.sockets.len()];
        let mut wire = Wire::connect_to(socket, self.realm, via).await;
        wire.say(&hello()).await;
        wire
    }

    pub fn is_data_centre(&self) -> bool {
        self.bus.is_some()
    }

    /// Waits until exactly so many frames of a mailbox are kept. A node removes what was acknowledged
    /// after 2 s, 64 frames, or the end of the attachment, and nobody is told when.
    pub async fn settle(&self, mailbox: &MailboxId, frames: usize) {
        let Some(bus) = &self.bus else { return };
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            let kept = bus.frames(mailbox).await;
            if kept == frames as u64 {
                return;
            }
            assert!(
                Instant::now() < give_up,
                "{}: {kept} frames are kept, not {frames}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Checks that no frame is kept in the whole realm, also where nobody looks.
    pub async fn is_empty(&self) {
        if let Some(bus) = &self.bus {
            let realm = hex(self.realm.as_bytes());
            let streams: BTreeSet<String> = (0..=255).map(jetstream::stream).collect();
            for stream in streams {
                let kept = bus.kept(&stream, &format!("m.{realm}.*.*.f")).await;
                assert_eq!(kept, 0, "{}: frames of nobody in {stream}", self.name);
            }
        } else if let [relay] = &self.relays[..] {
            assert_eq!(relay.metric("valise_frames_queued"), 0.0, "frames of nobody");
        }
    }

    /// Ends it. A supernode's store has to agree with its counts.
    pub async fn finish(self) {
        for relay in self.relays {
            if self.bus.is_some() {
                relay.stop().await;
            } else {
                relay.finish().await;
            }
        }
    }
}

impl Bus {
    async fn frames(&self, mailbox: &MailboxId) -> u64 {
        let stream = jetstream::stream(self.shards.shard(mailbox));
        self.kept(&stream, &format!("m.*.*.{}.f", hex(mailbox.as_bytes()))).await
    }

    async fn kept(&self, stream: &str, subjects: &str) -> u64 {
        let body = format!("{{\"subjects_filter\":\"{subjects}\"}}");
        let subject = format!("$JS.API.STREAM.INFO.{stream}");
        let answer = self.client.request(subject, body.into()).await.unwrap();
        let info: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(info["state"].is_object(), "{info}");
        let subjects = info["state"]["subjects"].as_object();
        subjects.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
