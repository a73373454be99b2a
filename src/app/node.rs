//! Starts a relay as a node of a data centre.

use std::sync::Arc;
use std::time::Duration;

use super::{Ground, Kept, Running, StartError};
use crate::cluster::{Cluster, Membership, Places, Verdict};
use crate::config::{ClusterConfig, Config};
use crate::engines::Engines;
use crate::identity::{Compared, Identity, Nodes, serves_by_ledgers};
use crate::relay::{Relay, today};
use crate::store::ShardKey;
use crate::store::jetstream::JetStream;

/// Connects, makes or checks the streams, takes part in the realm, and begins to accept.
pub(super) async fn start(config: &Config, of: &ClusterConfig) -> Result<Running, StartError> {
    let ground = Ground::prepare(config, Nodes::Many)?;
    let identity = &ground.identity;
    let (realm, shards) = (identity.realm(), ShardKey::new(&identity.shard_key()));
    let stream_bytes = of.stream_mib << 20;
    let streams = JetStream::open(&of.bus, stream_bytes, &realm, shards).await?;
    let endpoints = config.endpoints_for(&ground.addresses);
    let by_ledgers = serves_by_ledgers(&ground.state)?;
    let membership = Arc::new(Member { identity: Arc::clone(identity), endpoints, by_ledgers });
    let ring_bytes = config.limits.ring_bytes_per_mailbox;
    let cluster = Cluster::start(streams, ground.metrics.clone(), ring_bytes, membership).await?;
    let cluster = Arc::new(cluster);
    let engine = Engines::Cluster(Arc::clone(&cluster));
    Running::on(config, ground, engine, Kept::Cluster(cluster))
}

/// Leads the clients of a node that ends to others, and waits for those that go, for a part of the
/// time that the end may take.
pub(super) async fn lead_away(cluster: &Cluster, relay: &Relay, drain: Duration) {
    let wait = cluster.leave(drain).await;
    // Those that have not moved are told next that the relay ends.
    let _ = tokio::time::timeout(wait, relay.connections.ended()).await;
}

/// This relay as a member of its realm.
struct Member {
    identity: Arc<Identity>,
    /// What clients dial to reach it, or what is in front of it.
    endpoints: Vec<String>,
    /// Whether its state directory was made of a supernode's.
    by_ledgers: bool,
}

impl Membership for Member {
    fn judge(&self, told: &[u8]) -> Verdict {
        match self.identity.compare(told, today().into()) {
            Ok(Compared::InForce) => Verdict::Member,
            Ok(Compared::Older(own)) => Verdict::Newer(own),
            Ok(Compared::Out { epoch, .. }) => Verdict::Out(format!(
                "the realm's record of epoch {epoch} does not list this node: it serves the realm no \
                 more; remove its state directory, or make it anew with `valise export-node`"
            )),
            Ok(Compared::Foreign) => Verdict::Out(
                "the cluster's record of this realm is not signed by its root key: somebody else \
                 writes to the bus; see who may, before a relay is started"
                    .to_owned(),
            ),
            Err(error) => {
                tracing::error!(%error, "the realm's record cannot be kept");
                Verdict::Member
            }
        }
    }

    fn places(&self) -> Places {
        let record = self.identity.record().verify(&self.identity.realm());
        let listed = record.map(|record| record.endpoints).unwrap_or_default();
        let own = self.endpoints.iter().find(|endpoint| listed.contains(endpoint)).cloned();
        Places { listed, own }
    }

    fn serves_by_ledgers(&self) -> bool {
        self.by_ledgers
    }

    fn key(&self) -> String {
        self.identity.signing_key().to_string()
    }
}
