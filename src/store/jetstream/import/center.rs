//! A data centre, as an importer of one realm sees it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};
use valise_migration::real::RealLedger;
use valise_migration::wire::Passing;
use valise_proto::{MailboxId, RealmId, Reason};

use crate::limits::BUS_PATIENCE_MS;
use crate::store::jetstream::bus::{Bus, NO_STREAM};
use crate::store::jetstream::frames::{append, hours_now};
use crate::store::jetstream::ledgers;
use crate::store::jetstream::standing::Revocations;
use crate::store::jetstream::streams::{check_servers, full_streams, judge_stream, needed_streams};
use crate::store::jetstream::subject::{self, Kind, RealmNames};
use crate::store::jetstream::{BusError, BusOptions, STARTING_WAIT};
use crate::store::{Seq, record};

/// The name by which importers are known to the servers.
pub const IMPORTER: &str = "valise-importer";

/// A data centre, as an importer of one realm sees it.
pub struct Center {
    pub(super) bus: Bus,
    pub(super) names: RealmNames,
    /// One bit for each stream that is nearly full.
    full: AtomicU32,
}

/// How much there is in the streams, and how much there may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes of all streams of mailboxes.
    pub bytes: u64,
    /// Bytes that they may hold.
    pub bytes_max: u64,
    /// Messages that they hold of this realm, ledgers not counted.
    pub messages: u64,
    /// Ledgers of this realm.
    pub ledgers: u64,
}

impl Center {
    /// Connects, and checks servers and streams. It makes none: the nodes do, at their first start. Servers
    /// that do not answer are asked for as long as a node asks them: one may have been killed just now.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn open(options: &BusOptions, realm: &RealmId) -> Result<Self, BusError> {
        let bus = Bus::connect_as(IMPORTER, options).await?;
        let center = Self { bus, names: RealmNames::new(realm), full: AtomicU32::new(0) };
        let until = Instant::now() + Duration::from_millis(BUS_PATIENCE_MS);
        loop {
            match check_servers(&center.bus).await {
                Err(error) if error.is_of_starting() && Instant::now() < until => {
                    sleep(STARTING_WAIT).await;
                }
                checked => break checked?,
            }
        }
        for (name, settings) in needed_streams(1) {
            let info = center.bus.info(&name, &json!({})).await;
            let info = info.map_err(|error| match error {
                BusError::Refused { code: NO_STREAM, .. } => BusError::NoStream(name.clone()),
                error => error,
            })?;
            if let Some(wrong) = judge_stream(&name, &settings, &info["config"]).into_iter().next()
            {
                return Err(wrong.into());
            }
        }
        Ok(center)
    }

    /// Looks how full the streams are.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn look_at_room(&self) -> Result<(), BusError> {
        self.full.store(full_streams(&self.bus).await?, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the shard's stream was nearly full: what is left of it is for what drains it, so nothing
    /// is copied there. A shard that is sealed is copied to its end all the same.
    pub fn is_full(&self, shard: u8) -> bool {
        self.full.load(Ordering::Relaxed) & (1 << subject::stream_number(shard)) != 0
    }

    /// How much there is.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn room(&self) -> Result<Room, BusError> {
        let mut room = Room::default();
        let list = self.bus.ask_patiently("STREAM.LIST", &json!({ "subject": "m.>" })).await?;
        for stream in list["streams"].as_array().into_iter().flatten() {
            room.bytes += stream["state"]["bytes"].as_u64().unwrap_or_default();
            room.bytes_max += stream["config"]["max_bytes"].as_u64().unwrap_or_default();
        }
        for (subject, count) in ledgers::subjects(&self.bus, &self.names.everything()).await? {
            match subject::parse_ledger(&subject) {
                Some(_) => room.ledgers += 1,
                None => room.messages += count,
            }
        }
        Ok(room)
    }

    /// What time it is at a server, in RFC 3339; empty where it does not say.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn server_time(&self) -> Result<String, BusError> {
        let info = self
            .bus
            .ask_patiently(&format!("STREAM.INFO.{}", subject::DIRECTORY), &json!({}))
            .await?;
        Ok(info["ts"].as_str().unwrap_or_default().to_owned())
    }

    /// The realm's record as the nodes have told it: signature 64, record. None where none has.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn realm_record(&self) -> Result<Option<bytes::Bytes>, BusError> {
        let found = self.bus.last(subject::DIRECTORY, &self.names.record()).await?;
        Ok(found.map(|found| found.record))
    }

    /// The ledger of a shard, at the leader.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn ledger(&self, shard: u8) -> Result<Option<RealLedger>, BusError> {
        Ok(ledgers::read(&self.bus, &self.names, shard).await?.ledger)
    }

    /// The revoked tokens of a mailbox, at the leader.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn revocations(
        &self,
        shard: u8,
        mailbox: &MailboxId,
    ) -> Result<Revocations, BusError> {
        let subject = self.names.of(shard, mailbox, Kind::Revoked);
        let found = self.bus.last(&subject::stream(shard), &subject).await?;
        found.as_ref().map_or_else(|| Ok(Revocations::default()), Revocations::read)
    }

    /// Stores a post that the supernode passes on, durably and once, as a node would.
    pub async fn pass_on(&self, passing: &Passing) -> Reason {
        let Passing { shard, mailbox, serial, record } = passing;
        let mailbox = MailboxId::new(*mailbox);
        let Ok(mut frame) = record::decode_frame(mailbox, Seq(0), record) else {
            tracing::error!("a post that was passed on is damaged");
            return Reason::Busy;
        };
        frame.accepted = hours_now();
        match self.revocations(*shard, &mailbox).await {
            Ok(revoked) if revoked.contains(serial) => return Reason::TokenRevoked,
            Ok(_) => {}
            Err(_) => return Reason::Busy,
        }
        match append(&self.bus, &self.names, *shard, &frame).await {
            Ok(_) => Reason::Accepted,
            Err(error) if error.is_mailbox_full() => Reason::MailboxFull,
            Err(error) => {
                if !error.is_passing() {
                    tracing::warn!(%error, "a post that was passed on was not stored");
                }
                Reason::Busy
            }
        }
    }
}
