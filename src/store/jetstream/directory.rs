//! The realm's record, as all its nodes have it, and what the nodes say of themselves.

use async_nats::Subscriber;
use bytes::Bytes;
use futures_util::StreamExt;

use super::bus::Found;
use super::subject::DIRECTORY;
use super::{BusError, Changed, JetStream};
use crate::store::jetstream::{after, alone};

/// A record as it was told; whoever reads it verifies it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// By which a change is compared; 0 for none.
    pub version: u64,
    /// The bytes; empty for none.
    pub record: Bytes,
}

impl JetStream {
    /// The realm's record.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn realm_record(&self) -> Result<Told, BusError> {
        let found: Option<Found> = self.bus.last(DIRECTORY, &self.names.record()).await?;
        Ok(found.map_or(Told { version: 0, record: Bytes::new() }, |found| Told {
            version: found.seq,
            record: found.record,
        }))
    }

    /// Tells the realm's record to all nodes, if it is still at this version.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn tell_realm_record(&self, told: &Told) -> Result<Changed, BusError> {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-TTL", "never");
        let headers = alone(after(headers, told.version));
        match self.bus.store(&self.names.record(), &headers, &told.record).await {
            Ok(_) => Ok(Changed::Done),
            Err(error) if error.is_outdated() => Ok(Changed::Outdated),
            Err(error) => Err(error),
        }
    }

    /// Hears of new realm records.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn listen_to_realm(&self) -> Result<RealmNews, BusError> {
        Ok(RealmNews(self.bus.subscribe(self.names.live_record()).await?))
    }
}

impl JetStream {
    /// Lets the other nodes of the realm have this, if they listen. Never stored.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn tell_nodes(&self, said: Bytes) -> Result<(), BusError> {
        self.bus.publish(self.names.nodes(), said).await
    }

    /// Hears what the nodes of the realm say, this one included.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn listen_to_nodes(&self) -> Result<NodeNews, BusError> {
        Ok(NodeNews(self.bus.subscribe(self.names.nodes()).await?))
    }
}

/// What nodes say.
pub struct NodeNews(Subscriber);

impl NodeNews {
    /// Waits for the next word; none when there will be no more. Cancel-safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        Some(self.0.next().await?.payload)
    }
}

/// The news of realm records.
pub struct RealmNews(Subscriber);

impl RealmNews {
    /// Waits for the next one; false when there will be none. Cancel-safe.
    pub async fn next(&mut self) -> bool {
        self.0.next().await.is_some()
    }
}
