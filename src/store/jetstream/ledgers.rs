//! The ledgers of a realm that moves here, or has moved: whose each shard is. One record a shard, in
//! the shard's stream, read at the leader and changed by comparing. It stays for good.

use std::collections::BTreeSet;

use async_nats::{HeaderMap, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use serde_json::json;
use valise_migration::real::{RealLedger, decode, encode};

use super::bus::{Bus, Found};
use super::subject::{self, RealmNames, STREAMS};
use super::{BusError, JetStream, after, alone};

/// A ledger, and the place of its record; 0 for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VersionedLedger {
    /// By which a change is compared.
    pub version: u64,
    /// What it says.
    pub ledger: Option<RealLedger>,
}

/// The news of ledgers. Dropped, nobody listens any more.
pub struct LedgerNews(Subscriber);

impl LedgerNews {
    /// Waits for the next change of a ledger; none when there will be no more. What cannot be read is
    /// left out: whoever needs it reads it at the leader, and is told there. Cancel-safe.
    pub async fn next(&mut self) -> Option<(u8, RealLedger)> {
        loop {
            let message = self.0.next().await?;
            let shard = subject::parse_ledger(&message.subject);
            match (shard, decode(&message.payload)) {
                (Some(shard), Some(ledger)) => return Some((shard, ledger)),
                _ => tracing::error!("the bus: a ledger that was told cannot be read"),
            }
        }
    }
}

impl JetStream {
    /// The ledger of a shard, as the leader knows it.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn ledger(&self, shard: u8) -> Result<Option<RealLedger>, BusError> {
        Ok(read(&self.bus, self.names.realm(), shard).await?.ledger)
    }

    /// The shards of this realm that have a ledger.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn shards_with_ledgers(&self) -> Result<BTreeSet<u8>, BusError> {
        let found = subjects(&self.bus, &self.names.realm().ledgers()).await?;
        Ok(found.iter().filter_map(|(subject, _)| subject::parse_ledger(subject)).collect())
    }

    /// Hears of changes of this realm's ledgers.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn listen_to_ledgers(&self) -> Result<LedgerNews, BusError> {
        Ok(LedgerNews(self.bus.subscribe(self.names.realm().live_ledgers()).await?))
    }
}

/// The ledger of a shard, at the leader.
pub(super) async fn read(
    bus: &Bus,
    names: &RealmNames,
    shard: u8,
) -> Result<VersionedLedger, BusError> {
    let found = bus.last(&subject::stream(shard), &names.ledger(shard)).await?;
    let Some(Found { seq, record, .. }) = found else { return Ok(VersionedLedger::default()) };
    let ledger = decode(&record).ok_or(BusError::Damaged { what: "ledger" })?;
    Ok(VersionedLedger { version: seq, ledger: Some(ledger) })
}

/// A ledger as a message: stored only while the record before it has this place, and alone. It has no
/// message id: said twice, the second time does not compare.
pub(super) fn message(
    names: &RealmNames,
    shard: u8,
    ledger: &RealLedger,
    version: u64,
) -> (String, HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-TTL", "never");
    (names.ledger(shard), alone(after(headers, version)), encode(ledger).into())
}

/// The stored subjects that match, in all streams, and how many messages each has.
pub(super) async fn subjects(bus: &Bus, filter: &str) -> Result<Vec<(String, u64)>, BusError> {
    let asked = (0..STREAMS).map(|number| async move {
        let name = subject::stream_name(number);
        let body = json!({ "subjects_filter": filter });
        let info = bus.info(&name, &body).await?;
        let subjects = info["state"]["subjects"].as_object().cloned().unwrap_or_default();
        Ok::<_, BusError>(subjects)
    });
    let found = try_join_all(asked).await?;
    let count = |(subject, count): (String, serde_json::Value)| {
        (subject, count.as_u64().unwrap_or_default())
    };
    Ok(found.into_iter().flatten().map(count).collect())
}
