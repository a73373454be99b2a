//! Mailboxes on NATS JetStream: a mailbox is a subject, an append is one publication with an
//! acknowledgement, and what is stored is republished to the nodes that listen. This room says
//! what is asked of the bus and reads what comes back; who is served is decided above.
//!
//! Reads of a mailbox go to whichever replica answers, and are certified: a replica has what it
//! must have once it shows the claim that was published before (`frames`). What is changed by
//! comparing, and what is written once, is read at the leader (`standing`).

mod bus;
mod directory;
mod elections;
mod frames;
mod import;
mod ledgers;
mod live;
mod standing;
mod stats;
mod streams;
mod subject;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_nats::HeaderMap;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use valise_proto::{MailboxId, RealmId, SlotId};

use crate::limits::SERVERS_START_SECONDS;
use crate::store::{ShardKey, StoreError};
use bus::Bus;
use subject::{Names, STREAMS};

pub use bus::{BusOptions, BusTls, NODE};
pub use directory::{NodeNews, RealmNews, Told};
pub use frames::{Certified, Seen, Window, hours_now};
pub use import::{Center, IMPORTER, ImportError, Room, ShardImport, fitting};
pub use ledgers::{LedgerNews, VersionedLedger};
pub use live::{Live, LiveFrames};
pub use standing::{Changed, Revocations, VersionedBundle};
pub use stats::BusStats;
pub use streams::{
    RECOMMENDED_VERSION, REPLICAS, Unsafe, judge_server, judge_stream, needed_streams,
};
pub use subject::{is_subscription_of_node, stream};

/// The streams of a data centre, for one realm.
pub struct JetStream {
    bus: Bus,
    names: Names,
    /// One bit for each stream that takes no more posts.
    full: AtomicU32,
    stream_bytes: u64,
}

const _: () = assert!(STREAMS as u32 == u32::BITS);

/// Why the bus did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// No server can be reached; they may be starting.
    #[error("no server of the cluster can be reached: {0}")]
    Away(String),
    /// None lets this relay in, or none is what was named.
    #[error("no server of the cluster lets this relay in: {0}")]
    Shut(String),
    /// What nodes make at their first start is not there.
    #[error("there is no stream {0}: start the data centre's nodes once before")]
    NoStream(String),
    /// There was no answer in time: what was asked may be done, or still be.
    #[error("the cluster does not answer")]
    Silent,
    /// An earlier attempt is under way.
    #[error("an earlier attempt is under way")]
    InProcess,
    /// It said no.
    #[error("the cluster refuses: {said} ({code})")]
    Refused {
        /// The server's number for it.
        code: u64,
        /// The server's words, which hold nothing of what was sent.
        said: String,
    },
    /// A record or an answer is not what it must be.
    #[error("a record of the cluster is damaged ({what})")]
    Damaged {
        /// Which kind.
        what: &'static str,
    },
    /// This node is in its realm no more.
    #[error("{0}")]
    Fenced(String),
    /// The realm moves here from a supernode, and this node does not know it.
    #[error(
        "the cluster has ledgers of this realm: it moves here from a supernode, or has moved, and this \
         node's state directory was not made of that supernode's; make it anew: `valise export-node` \
         where the supernode's state directory is, then `valise import-node` here"
    )]
    NotMarked,
    /// The servers or streams are not set up so that nothing is lost.
    #[error(transparent)]
    Unsafe(#[from] Unsafe),
}

impl BusError {
    /// Whether it is worth asking again.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Silent | Self::InProcess)
    }

    /// Whether it ends by itself where servers are starting.
    fn is_of_starting(&self) -> bool {
        match self {
            Self::Away(_) | Self::Silent => true,
            Self::Unsafe(cause) => matches!(cause, Unsafe::TooFew { .. }),
            _ => false,
        }
    }

    /// Whether the mailbox has as many frames as it may.
    pub fn is_mailbox_full(&self) -> bool {
        matches!(self, Self::Refused { code: 10_077, said } if said.contains("per subject"))
    }

    fn is_stream_full(&self) -> bool {
        matches!(self, Self::Refused { code: 10_077, said } if !said.contains("per subject"))
    }

    /// Whether somebody else has changed it first.
    fn is_outdated(&self) -> bool {
        matches!(self, Self::Refused { code: 10_071 | 10_164, .. })
    }
}

impl From<StoreError> for BusError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged { what } => Self::Damaged { what },
            _ => Self::Damaged { what: "record" },
        }
    }
}

impl JetStream {
    /// Connects, makes the streams that are not there, and checks those that are, and the servers.
    /// Servers that start together with this node have to find each other first: they are waited for.
    ///
    /// # Errors
    /// [`BusError`]; with unsafe servers or streams nothing is served.
    pub async fn open(
        options: &BusOptions,
        stream_bytes: u64,
        realm: &RealmId,
        shards: ShardKey,
    ) -> Result<Self, BusError> {
        let until = Instant::now() + Duration::from_secs(SERVERS_START_SECONDS);
        let mut told = false;
        loop {
            let opening = Self::open_once(options, stream_bytes, realm, shards.clone());
            let error = match Box::pin(opening).await {
                Err(error) if error.is_of_starting() && Instant::now() < until => error,
                opened => return opened,
            };
            if !told {
                tracing::warn!(%error, "waiting for the servers of the cluster");
                told = true;
            }
            sleep(STARTING_WAIT).await;
        }
    }

    async fn open_once(
        options: &BusOptions,
        stream_bytes: u64,
        realm: &RealmId,
        shards: ShardKey,
    ) -> Result<Self, BusError> {
        let bus = Bus::connect_as(NODE, options).await?;
        let names = Names::new(realm, shards);
        let streams = Self { bus, names, full: AtomicU32::new(0), stream_bytes };
        streams.check_servers().await?;
        streams.make_streams().await?;
        streams.look_at_room().await?;
        Ok(streams)
    }

    /// The shard of a mailbox.
    pub fn shard(&self, mailbox: &MailboxId) -> u8 {
        self.names.shard(mailbox)
    }

    /// The shard of a slot.
    pub fn slot_shard(&self, slot: &SlotId) -> u8 {
        self.names.slot_shard(slot)
    }

    /// The shard of an invite code.
    pub fn code_shard(&self, serial: &[u8; 8]) -> u8 {
        self.names.serial_shard(serial)
    }

    /// Whether the stream of a mailbox takes posts.
    pub fn takes(&self, mailbox: &MailboxId) -> bool {
        self.stream_takes(self.shard(mailbox))
    }

    /// Rises whenever something that was published may have been missed here.
    pub fn gaps(&self) -> watch::Receiver<u64> {
        self.bus.gaps()
    }

    /// What has been asked of the bus so far.
    pub fn stats(&self) -> &BusStats {
        self.bus.stats()
    }

    /// Streams that take no more posts.
    pub fn streams_full(&self) -> u32 {
        self.full.load(Ordering::Relaxed).count_ones()
    }

    /// Waits until everything that was handed over is on the wire.
    pub async fn flush(&self) {
        self.bus.flush().await;
    }

    fn stream_takes(&self, shard: u8) -> bool {
        let bit = 1 << subject::stream_number(shard);
        self.full.load(Ordering::Relaxed) & bit == 0
    }
}

const STARTING_WAIT: Duration = Duration::from_millis(250);

/// The headers of a record that is kept for so many hours.
fn headers(message_id: &str, hours: u32) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", message_id);
    headers.insert("Nats-TTL", format!("{hours}h"));
    headers
}

/// This headers' record replaces what its subject holds.
fn alone(mut headers: HeaderMap) -> HeaderMap {
    headers.insert("Nats-Rollup", "sub");
    headers
}

/// This headers' record is stored only while its subject's last one is this; 0 for none.
fn after(mut headers: HeaderMap, seq: u64) -> HeaderMap {
    headers.insert("Nats-Expected-Last-Subject-Sequence", seq.to_string());
    headers
}
