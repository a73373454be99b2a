//! The importer's half of the bus: it brings a shard of a supernode's realm into a data centre. What
//! to do is decided in `valise_migration`; this says how it is asked for. It has no shard key: the
//! supernode says what is in which shard.
//!
//! A batch has no message ids, since one that is known would refuse the whole of it; the ledger, its
//! last message, is compared, so a batch that is said twice is refused the second time. Removals name
//! places in the stream, which are never used again, and are made before the batch that passes them.

mod batch;
mod center;
mod placed;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use serde_json::json;
use tokio::time::{Duration, Instant};
use valise_migration::plan::{Removal, Write};
use valise_migration::real::{Real, RealLedger, RealLine};
use valise_migration::{Migration, Position};
use valise_proto::MailboxId;

use crate::limits::BUS_PATIENCE_MS;
use crate::store::jetstream::frames::nonce_text;
use crate::store::jetstream::ledgers::{self, VersionedLedger};
use crate::store::jetstream::subject::{self, Kind, parse_removable};
use crate::store::jetstream::{BusError, Changed};
use crate::store::{BundleHead, record};
use batch::{Batch, heads, place, revocation_headers};
use placed::{Placed, Request};

pub use batch::fitting;
pub use center::{Center, IMPORTER, Room};

/// One shard of it. Two of them beside each other, in one process or two, are safe.
pub struct ShardImport {
    center: Arc<Center>,
    shard: u8,
    /// As it was read or changed last.
    ledger: Option<VersionedLedger>,
    heads: BTreeMap<[u8; 16], BundleHead>,
    placed: Placed,
}

/// Why something was not imported.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImportError {
    /// The bus.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A mailbox has as many frames there as it may.
    #[error("a mailbox holds more than the data centre's streams allow one")]
    MailboxFull,
    /// A stream has no room.
    #[error("stream {0} is full: give its servers more room")]
    StreamFull(String),
}

/// Removals asked for at a time, for one shard.
const REMOVALS_TOGETHER: usize = 16;

/// Messages that are read at a time where a shard is read, and their bytes.
const READ_TOGETHER: u32 = 512;
const READ_BYTES: u64 = 1 << 20;

impl ShardImport {
    /// Knows nothing yet.
    pub fn new(center: Arc<Center>, shard: u8) -> Self {
        let (heads, placed) = (BTreeMap::new(), Placed::default());
        Self { center, shard, ledger: None, heads, placed }
    }

    /// Reads the ledger at the leader.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn read_ledger(&mut self) -> Result<Option<RealLedger>, BusError> {
        let read = ledgers::read(&self.center.bus, &self.center.names, self.shard).await?;
        self.ledger = Some(read);
        Ok(read.ledger)
    }

    /// These lines come next: the heads of bundles in them go with the batch that writes them.
    ///
    /// # Errors
    /// [`BusError::Damaged`].
    pub fn comes(&mut self, lines: &[RealLine]) -> Result<(), BusError> {
        self.heads = heads(lines)?;
        Ok(())
    }

    /// Removes these, of what this migration has imported before this place. Confirmed when it
    /// returns.
    ///
    /// # Errors
    /// [`BusError`]; some may be removed, and all of it may be asked for again.
    pub async fn remove(
        &mut self,
        (migration, from): (Migration, Position),
        removals: &[Removal<Real>],
    ) -> Result<(), BusError> {
        self.placed.begin(migration, from);
        if !self.placed.is_whole() {
            self.look_where_it_is(migration).await?;
        }
        for removal in removals {
            let requests = stream::iter(self.placed.requests(removal));
            let asked =
                requests.map(|request| self.ask(request)).buffer_unordered(REMOVALS_TOGETHER);
            asked.try_collect::<()>().await?;
            self.placed.removed(removal);
        }
        Ok(())
    }

    /// Changes the ledger if it still is as it was read, and writes these in the same batch: all of
    /// it or nothing.
    ///
    /// # Errors
    /// [`ImportError`]; after [`BusError::Silent`] it may be done all the same, or still be.
    pub async fn change(
        &mut self,
        before: Option<RealLedger>,
        after: RealLedger,
        writes: &[Write<Real, bytes::Bytes>],
    ) -> Result<Changed, ImportError> {
        let Some(read) = self.ledger.filter(|read| read.ledger == before) else {
            return Ok(Changed::Outdated);
        };
        let imports = before.and_then(|ledger| Some((ledger.migration, ledger.importing().ok()?)));
        let to = after.importing().ok().map(|cursor| cursor.next);
        let stretch = imports.zip(to).filter(|((_, from), to)| from.next < *to);
        let mut batch = Batch::default();
        if let Some(((migration, from), _)) = stretch {
            self.placed.begin(migration, from.next);
            let heads = std::mem::take(&mut self.heads);
            batch = Batch::of(&self.center.names, self.shard, migration, writes, &heads)?;
        }
        let changed = self.publish(&batch, &after, read.version).await;
        let changed = match changed {
            Ok(seq) => {
                self.put(&batch, seq);
                self.ledger = Some(VersionedLedger { version: seq, ledger: Some(after) });
                if let Some((_, to)) = stretch {
                    self.placed.advanced(to);
                }
                return Ok(Changed::Done);
            }
            Err(error) if error.is_outdated() => Ok(Changed::Outdated),
            Err(error) if error.is_mailbox_full() => Err(ImportError::MailboxFull),
            Err(error) if error.is_stream_full() => {
                Err(ImportError::StreamFull(subject::stream(self.shard)))
            }
            Err(error) => Err(error.into()),
        };
        // What is known of the shard may be too little from here on.
        self.ledger = None;
        self.placed.forget();
        changed
    }

    /// Removes everything in the shard that is older than this ledger. Confirmed when it returns.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn clear(&mut self, ledger: &RealLedger) -> Result<(), BusError> {
        let read = self.ledger.filter(|read| read.ledger == Some(*ledger));
        let version = read.ok_or(BusError::Silent)?.version;
        self.placed.forget();
        let everything = self.center.names.shard(self.shard);
        self.purge(&everything, version).await
    }

    /// One after the other in the stream, the ledger last. Returns its place.
    async fn publish(
        &self,
        batch: &Batch,
        ledger: &RealLedger,
        version: u64,
    ) -> Result<u64, BusError> {
        let Center { bus, names, .. } = &*self.center;
        let last = ledgers::message(names, self.shard, ledger, version);
        if batch.messages.is_empty() && batch.revoked.is_empty() {
            let (subject, headers, record) = last;
            return Ok(bus.store(&subject, &headers, &record).await?.seq);
        }
        let mut records = Vec::with_capacity(batch.messages.len() + batch.revoked.len() + 1);
        // Before what can be removed: the places of that are counted from the last message.
        for (mailbox, revoked) in &batch.revoked {
            let mailbox = MailboxId::new(*mailbox);
            let mut serials = self.center.revocations(self.shard, &mailbox).await?.serials;
            for (serial, last_day) in revoked {
                if serials.iter().all(|(known, _)| known != serial) {
                    serials.push((*serial, *last_day));
                }
            }
            let subject = names.of(self.shard, &mailbox, Kind::Revoked);
            let headers = revocation_headers(&serials);
            records.push((subject, headers, record::encode_revocations(&serials)));
        }
        for message in &batch.messages {
            let headers = message.headers.clone();
            records.push((message.subject.clone(), headers, message.record.clone()));
        }
        records.push(last);
        let nonce = nonce_text(&nonce());
        Ok(bus.store_together(&nonce, records).await?.seq)
    }

    /// The batch is stored, with the ledger here.
    fn put(&mut self, batch: &Batch, ledger: u64) {
        let first = ledger - batch.messages.len() as u64;
        for (seq, message) in (first..).zip(&batch.messages) {
            if let Some((what, at)) = message.removable {
                self.placed.put(what, at, seq);
            }
        }
    }

    async fn ask(&self, request: Request) -> Result<(), BusError> {
        let names = &self.center.names;
        match request {
            Request::Frames(mailbox, seq) => {
                let subject = names.of(self.shard, &MailboxId::new(mailbox), Kind::Frames);
                self.purge(&subject, seq + 1).await
            }
            Request::Item(mailbox, item, seq) => {
                let subject = names.item(self.shard, &MailboxId::new(mailbox), item);
                self.purge(&subject, seq + 1).await
            }
            Request::One(seq) => self.delete(seq).await,
        }
    }

    async fn purge(&self, subject: &str, below: u64) -> Result<(), BusError> {
        let api = format!("STREAM.PURGE.{}", subject::stream(self.shard));
        let body = json!({ "filter": subject, "seq": below });
        self.center.bus.ask_patiently(&api, &body).await.map(drop)
    }

    /// Deletes one message; one that is gone is well.
    async fn delete(&self, seq: u64) -> Result<(), BusError> {
        let stream = subject::stream(self.shard);
        let body = json!({ "seq": seq, "no_erase": true });
        let bus = &self.center.bus;
        match bus.ask_patiently(&format!("STREAM.MSG.DELETE.{stream}"), &body).await {
            Err(BusError::Refused { code, said }) => {
                match bus.read_at_leader(&stream, &json!({ "seq": seq })).await? {
                    None => Ok(()),
                    Some(_) => Err(BusError::Refused { code, said }),
                }
            }
            answer => answer.map(drop),
        }
    }

    /// Reads the whole shard once, in the stream's order, up to the ledger that was read at the
    /// leader: whichever replica answers has no gap before what it shows, and one that does not show
    /// the ledger is behind.
    async fn look_where_it_is(&mut self, migration: Migration) -> Result<(), BusError> {
        let ledger = self.ledger.ok_or(BusError::Silent)?.version;
        let (stream, everything) =
            (subject::stream(self.shard), self.center.names.shard(self.shard));
        self.placed.reread();
        let mut until = Instant::now() + Duration::from_millis(BUS_PATIENCE_MS);
        let mut next = 1;
        while next <= ledger {
            let query = json!({
                "seq": next,
                "next_by_subj": everything,
                "batch": READ_TOGETHER,
                "max_bytes": READ_BYTES,
            });
            let read = self.center.bus.read(&stream, &query).await;
            let found = match read {
                Ok(many) => many.found,
                Err(error) if error.is_passing() => Vec::new(),
                Err(error) => return Err(error),
            };
            match found.last() {
                Some(last) => next = last.seq + 1,
                None if Instant::now() >= until => return Err(BusError::Silent),
                None => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    continue;
                }
            }
            until = Instant::now() + Duration::from_millis(BUS_PATIENCE_MS);
            for found in found {
                let what = parse_removable(&found.subject);
                let at = place(found.headers.as_ref(), migration);
                if let Some((what, at)) = what.zip(at) {
                    self.placed.put(what, at, found.seq);
                }
            }
        }
        self.placed.all_told();
        Ok(())
    }
}

fn nonce() -> [u8; 16] {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source works");
    bytes
}
