//! What is kept on the bus, asked beside the nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::Value;
use valise::identity::read_shard_key;
use valise::store::{ShardKey, jetstream};
use valise_client::testing::TestNats;
use valise_proto::{MailboxId, RealmId};

use crate::relay::Relay;

/// Asks the servers of a realm what they keep.
pub struct Kept {
    client: async_nats::Client,
    shards: ShardKey,
}

impl Kept {
    /// Of the realm of this node, which is on these servers.
    pub async fn of(nats: &TestNats, node: &Relay) -> Self {
        let client = async_nats::connect(nats.urls()).await.unwrap();
        Self { client, shards: ShardKey::new(&read_shard_key(&node.state_directory()).unwrap()) }
    }

    /// Waits until exactly so many frames of a mailbox are kept. A node removes what was acknowledged
    /// after 2 s, 64 frames, or the end of the attachment, and nobody is told when.
    pub async fn until(&self, mailbox: &MailboxId, frames: u64) {
        let give_up = Instant::now() + Duration::from_secs(20);
        loop {
            let kept = self.frames(mailbox).await;
            if kept == frames {
                return;
            }
            assert!(Instant::now() < give_up, "{kept} frames are kept, not {frames}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Frames in a whole realm, also where nobody looks, by stream; streams without any are left out.
    pub async fn of_realm(&self, realm: &RealmId) -> BTreeMap<String, u64> {
        let subjects = format!("m.{}.*.*.f", hex(realm.as_bytes()));
        let streams: BTreeSet<String> = (0..=255).map(jetstream::stream).collect();
        let mut by_stream = BTreeMap::new();
        for stream in streams {
            let kept = self.matching(&stream, &subjects).await;
            by_stream.extend((kept > 0).then_some((stream, kept)));
        }
        by_stream
    }

    async fn frames(&self, mailbox: &MailboxId) -> u64 {
        let stream = jetstream::stream(self.shards.shard(mailbox));
        self.matching(&stream, &format!("m.*.*.{}.f", hex(mailbox.as_bytes()))).await
    }

    async fn matching(&self, stream: &str, subjects: &str) -> u64 {
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
