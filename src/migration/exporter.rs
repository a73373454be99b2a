//! What a supernode answers to an importer.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::spawn_blocking;
use valise_migration::realm::Realm;
use valise_migration::wire::{Answer, Question, Users, VERSION, Welcome};
use valise_migration::{Epoch, Position, Refusal};
use valise_proto::limits::REALM_RECORD_LIST_MAX;

use super::clients::Clients;
use super::passing::Passing;
use super::shards::Shards;
use crate::identity::{Compared, Identity};
use crate::metrics::Metrics;

/// What a supernode says of itself that others know.
pub trait Supernode: Send + Sync {
    /// What it holds, and what it lets a mailbox hold. Looks at the disk.
    fn holdings(&self) -> Holdings;

    /// Days since 1970-01-01.
    fn today(&self) -> u32;
}

/// What a supernode holds.
#[derive(Debug, Clone, Copy)]
pub struct Holdings {
    /// Frames.
    pub frames: u64,
    /// Bytes of them, about.
    pub bytes: u64,
    /// Bytes that a mailbox may hold.
    pub mailbox_bytes_max: u64,
}

/// Answers importers.
pub struct Exporter {
    /// The shards.
    pub shards: Shards,
    /// Posts that are passed on.
    pub passing: Arc<Passing>,
    /// The clients.
    pub clients: Arc<Clients>,
    /// The realm.
    pub identity: Arc<Identity>,
    /// What is counted.
    pub metrics: Metrics,
    /// The rest.
    pub supernode: Arc<dyn Supernode>,
}

impl Exporter {
    /// The answer to a question; none where the store cannot be read, which the importer takes for lost.
    pub(super) async fn answer(&self, question: Question) -> Option<Answer> {
        Some(match question {
            Question::Hello { .. } => Answer::Welcome(self.welcome().await),
            Question::Report(shard) => Answer::Report(Box::new(self.shards.report(shard))),
            Question::Reports => {
                let reports = (0..=u8::MAX).map(|shard| self.shards.report(shard));
                Answer::Reports(reports.collect())
            }
            Question::Fetch(shard, from) => return self.fetch(shard, from).await,
            Question::Tell(shard, boot, request) => {
                Answer::Told(self.shards.tell(shard, boot, request).await)
            }
            Question::Lead { endpoints, per_second } => {
                Answer::Told(self.lead(endpoints, per_second))
            }
            Question::Users => Answer::Users(self.users()),
            Question::Record(told) => Answer::Told(self.compare(&told)),
        })
    }

    /// Whether this is the importer's first question, of this version and about this realm.
    pub(super) fn is_for_here(&self, question: &Question) -> bool {
        let own = *self.identity.realm().as_bytes();
        matches!(question, Question::Hello { version: VERSION, realm } if *realm == own)
    }

    /// How this supernode introduces itself.
    pub(super) async fn welcome(&self) -> Welcome {
        let record = self.identity.record();
        let supernode = Arc::clone(&self.supernode);
        let holdings = spawn_blocking(move || supernode.holdings()).await;
        let holdings = holdings.expect("looking at the disk never panics");
        Welcome {
            version: VERSION,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            realm: *self.identity.realm().as_bytes(),
            epoch: Epoch(self.identity.epoch()),
            record: Bytes::from([&record.signature.as_bytes()[..], &record.record].concat()),
            boot: self.shards.boot(),
            frames: holdings.frames,
            bytes: holdings.bytes,
            mailbox_frames_max: valise_proto::limits::MAILBOX_FRAMES_MAX,
            mailbox_bytes_max: holdings.mailbox_bytes_max,
        }
    }

    async fn fetch(&self, shard: u8, from: Position) -> Option<Answer> {
        let shards = self.shards.clone();
        let fetched = spawn_blocking(move || shards.fetch(shard, from)).await;
        match fetched.expect("reading the store never panics") {
            Ok((digest, lines)) => {
                self.metrics.migration().entries_exported(lines.len());
                Some(Answer::Lines(digest, lines))
            }
            Err(error) => {
                tracing::error!(%error, shard, "a shard's log cannot be read");
                None
            }
        }
    }

    /// Clients dial what the realm's record lists, and nothing else: one that has just been signed beside this
    /// process counts.
    fn lead(&self, endpoints: Vec<String>, per_second: u32) -> Result<(), Refusal> {
        if let Err(error) = self.identity.reread_record() {
            tracing::error!(%error, "the realm's record cannot be read again");
        }
        let record = self.identity.record().verify(&self.identity.realm());
        let listed = record.map(|record| record.endpoints).unwrap_or_default();
        let in_range = (1..=REALM_RECORD_LIST_MAX).contains(&endpoints.len());
        if !in_range || !endpoints.iter().all(|endpoint| listed.contains(endpoint)) {
            tracing::error!(
                "the importer leads clients to endpoints that the realm's record does not list: make \
                 the nodes of the data centre with `valise export-node` on this state directory"
            );
            return Err(Refusal::OutOfOrder);
        }
        tracing::info!(per_second, "clients are told to prepare for the data centre");
        self.clients.lead(endpoints, per_second);
        Ok(())
    }

    fn users(&self) -> Users {
        let few = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (connections, attachments) = self.clients.users();
        Users {
            connections: few(connections),
            attachments: few(attachments),
            passing: few(self.passing.waiting()),
        }
    }

    /// A newer record that lists this supernode is put into force. One that does not list it ends its
    /// service, unless it serves nothing any more: then posts go on to be passed on.
    fn compare(&self, told: &[u8]) -> Result<(), Refusal> {
        match self.identity.compare(told, self.supernode.today()) {
            Ok(Compared::InForce | Compared::Older(_)) => Ok(()),
            Ok(Compared::Foreign) => Err(Refusal::OutOfOrder),
            Ok(Compared::Out { epoch, record }) => {
                // Kept, so that it holds for the next start too.
                if signed_out(&self.shards, epoch)
                    && let Err(error) = self.identity.keep(&record)
                {
                    tracing::error!(%error, "the realm's record cannot be kept");
                }
                self.clients.superseded(record);
                self.shards.phase().serves().map_err(|_| Refusal::Fenced)
            }
            Err(error) => {
                tracing::error!(%error, "the realm's record cannot be kept");
                Err(Refusal::Busy)
            }
        }
    }
}

/// A signed record of this epoch does not list this supernode: whether it serves nobody any more because of
/// that. Where it serves no shard, posts go on to be passed on.
pub fn signed_out(shards: &Shards, epoch: u64) -> bool {
    if matches!(shards.phase(), Realm::Draining(..) | Realm::Retired(..)) {
        return false;
    }
    shards.hello(Epoch(epoch));
    shards.phase().serves().is_err()
}
