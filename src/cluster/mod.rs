//! One node of a data centre: many relays over one JetStream cluster. Nothing about a mailbox is
//! kept here that cannot be read again: the bus orders the frames, keeps them, and pushes them to
//! the node that has claimed the mailbox.
//!
//! ```text
//! append -> posts -> JetStream --acknowledged--> accepted
//!                        |
//!                        +-- as it is stored --> partition -> served -> doorbell
//! ```

mod account;
mod announcement;
mod attachment;
mod ledgers;
mod node;
mod partition;
mod posts;
mod presence;
mod served;
mod serving;
mod standing;
mod steering;
mod upkeep;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use valise_proto::{MailboxId, PublishBundle, PutSlot, Reason, SlotId};

use crate::doorbell::Doorbell;
use crate::engine::{Attach, Attached, Engine};
use crate::mailbox::{Allowance, Incoming, NotServed, SignalDropped};
use crate::metrics::{BusTotals, Metrics};
use crate::payload::Payload;
use crate::rate::Rate;
use crate::receipt::Waiter;
use crate::registry::Mailboxes;
use crate::standing::{Accounts, Put, Refusal, Taken};
use crate::store::jetstream::{BusError, JetStream};
use crate::store::{Revocation, SpentCode};
use account::Account;
use node::Node;
use partition::Partitions;
use presence::Presence;

pub use attachment::Attachment;
pub use presence::Steered;
pub use steering::Places;
pub use upkeep::{Membership, Verdict};

/// This node's part in the data centre.
pub struct Cluster {
    node: Arc<Node>,
    partitions: Arc<Partitions>,
    presence: Arc<Presence>,
    mailboxes: Arc<Mailboxes<Account>>,
    accounts: Arc<Accounts>,
    // Ended when this is dropped.
    tasks: std::sync::Mutex<JoinSet<()>>,
    realm: Arc<Notify>,
}

impl Cluster {
    /// Begins to listen, and to look after what nobody tells.
    ///
    /// # Errors
    /// [`BusError`].
    pub async fn start(
        streams: JetStream,
        metrics: Metrics,
        ring_bytes: usize,
        membership: Arc<dyn Membership>,
    ) -> Result<Self, BusError> {
        let by_ledgers = membership.serves_by_ledgers();
        let node = Arc::new(Node::new(streams, metrics, ring_bytes, by_ledgers));
        let mailboxes = Arc::new(Mailboxes::default());
        let accounts = Arc::new(Accounts::default());
        let mut tasks = JoinSet::new();
        let revocations = node.streams.listen_to_revocations().await?;
        tasks.spawn(upkeep::hear_of_revocations(revocations, Arc::clone(&mailboxes)));
        tasks.spawn(ledgers::follow(Arc::clone(&node), node.streams.listen_to_ledgers().await?));
        node.streams.flush().await;
        ledgers::check(&node).await?;
        let news = node.streams.listen_to_realm().await?;
        upkeep::check_membership(&node, &*membership).await?;
        let realm = Arc::new(Notify::new());
        let nudged = Arc::clone(&realm);
        let presence = Arc::new(Presence::new(Arc::clone(&node), Arc::clone(&membership)));
        tasks.spawn(Arc::clone(&presence).run(node.streams.listen_to_nodes().await?));
        tasks.spawn(upkeep::follow_realm(Arc::clone(&node), news, membership, nudged));
        tasks.spawn(upkeep::look_at_room(Arc::clone(&node)));
        tasks.spawn(upkeep::check_servers(Arc::clone(&node)));
        let (idle, counted) = (Arc::clone(&mailboxes), Arc::clone(&accounts));
        tasks.spawn(upkeep::forget_idle(idle, counted));
        let partitions = Arc::new(Partitions::new(Arc::clone(&node)));
        let tasks = std::sync::Mutex::new(tasks);
        Ok(Self { node, partitions, presence, mailboxes, accounts, tasks, realm })
    }

    /// Compares this node's record of the realm with the cluster's, soon.
    pub fn look_at_the_realm(&self) {
        self.realm.notify_one();
    }

    /// A connection whose door this is: it may be asked to move to another node.
    pub fn connected(&self, door: &Arc<Doorbell>) -> Steered {
        self.presence.connected(door)
    }

    /// Asks every connection to move to another node, now and from now on, since this one ends.
    /// Returns how long to wait for them, of the time that the end may take.
    pub async fn leave(&self, drain: Duration) -> Duration {
        self.presence.leave(drain).await
    }

    /// Whether it is known here that a token is revoked.
    pub fn knows_revoked(&self, mailbox: &MailboxId, serial: &[u8; 8]) -> bool {
        self.mailboxes.get(mailbox).is_some_and(|account| account.known().knows_revoked(serial))
    }

    /// Mailboxes in memory.
    pub fn mailboxes_live(&self) -> usize {
        self.mailboxes.len()
    }

    /// Tells the metrics what the bus has counted.
    pub fn count_bus(&self) {
        let (streams, stats) = (&self.node.streams, self.node.streams.stats());
        self.node.metrics.bus(BusTotals {
            connected: stats.connected(),
            gaps: stats.gaps(),
            stale_reads: stats.stale_reads(),
            claims: stats.claims(),
            purges: stats.purges(),
            repeated: stats.repeated(),
            given_up: stats.given_up(),
            streams_full: streams.streams_full(),
        });
    }

    /// Waits until nothing is accepted any more, and says why. Cancel-safe.
    pub async fn failed(&self) -> String {
        self.node.failed().await
    }

    /// What was acknowledged is removed, claims are withdrawn; for a while at most.
    pub async fn close(&self) {
        self.node.leaving.close();
        // What is not removed comes again, and is known by its id.
        let _ = tokio::time::timeout(LEAVING, self.node.leaving.wait()).await;
        self.tasks.lock().expect("no one panics while it holds the lock").abort_all();
        self.node.streams.flush().await;
    }

    fn account(&self, mailbox: &MailboxId) -> Arc<Account> {
        self.mailboxes.get_or_insert_with(mailbox, || Account::new(*mailbox))
    }
}

/// How long a node that ends may take to withdraw its claims.
const LEAVING: Duration = Duration::from_secs(3);

impl Engine for Cluster {
    type Attachment = Attachment;

    fn append(
        &self,
        mailbox: &MailboxId,
        incoming: Incoming,
        allowance: &Allowance,
        now: Instant,
        waiter: Waiter,
    ) {
        posts::append(&self.node, &self.account(mailbox), incoming, allowance, now, waiter);
    }

    /// Whether somebody is attached is known to the node that serves the mailbox, and to nobody else:
    /// what left here counts as passed on.
    fn signal(
        &self,
        mailbox: &MailboxId,
        (serial, class): ([u8; 8], u8),
        payload: Payload,
        allowance: &Allowance,
        now: Instant,
    ) -> Result<(), SignalDropped> {
        let account = self.account(mailbox);
        {
            let mut known = account.known();
            known.touched = Some(now);
            if known.knows_revoked(&serial) {
                return Err(SignalDropped::Revoked);
            }
            if known.rates.take(serial, allowance.posts.of(class), now).is_err() {
                return Err(SignalDropped::RateLimited);
            }
        }
        let (node, partitions) = (Arc::clone(&self.node), Arc::clone(&self.partitions));
        // Bounded by the rates; nobody waits for it, and it may be lost.
        tokio::spawn(async move {
            // Whoever serves the shard elsewhere is not told: it may be lost.
            if node.serves(&account.mailbox).await.is_err() {
                return;
            }
            let revoked = node.revoked(&account).await;
            if !revoked.is_ok_and(|revoked| !revoked.contains(&serial)) {
                return;
            }
            let mailbox = account.mailbox;
            match partitions.serving(node.streams.shard(&mailbox), &mailbox).await {
                Some(served) => served.signal(payload),
                // Who gets it, if anybody, is not known here; it may be lost.
                None => drop(node.streams.signal(&mailbox, &payload).await),
            }
        });
        Ok(())
    }

    fn attach(
        &self,
        who: Attach,
    ) -> impl Future<Output = Result<Attached<Attachment>, NotServed>> + Send + 'static {
        let account = self.account(&who.mailbox);
        attachment::attach(Arc::clone(&self.node), Arc::clone(&self.partitions), account, who)
    }

    async fn is_revoked(&self, mailbox: &MailboxId, serial: &[u8; 8]) -> Result<bool, Refusal> {
        self.node.serves(mailbox).await?;
        let revoked = self.node.revoked(&self.account(mailbox)).await;
        revoked.map(|revoked| revoked.contains(serial)).map_err(|_| Reason::Busy.into())
    }

    async fn revoke(&self, revocation: Revocation) -> Result<(), Refusal> {
        standing::revoke(&self.node, &self.account(&revocation.mailbox), revocation).await
    }

    async fn spend(&self, code: SpentCode) -> Result<(), Reason> {
        standing::spend(&self.node, code).await
    }

    async fn put_slot(
        &self,
        put: PutSlot<Payload>,
        account: &MailboxId,
        bytes_a_second: &Rate,
        now: Instant,
    ) -> Result<Put, Refusal> {
        standing::put_slot(&self.node, &self.accounts, put, account, (bytes_a_second, now)).await
    }

    async fn get_slots(&self, ids: &[SlotId]) -> Result<Vec<Option<Payload>>, Reason> {
        standing::get_slots(&self.node, ids).await
    }

    async fn publish(
        &self,
        mailbox: &MailboxId,
        publish: PublishBundle<Payload>,
    ) -> Result<u32, Refusal> {
        standing::publish(&self.node, &self.accounts, mailbox, publish).await
    }

    async fn take(
        &self,
        mailbox: &MailboxId,
        serial: [u8; 8],
        rate: &Rate,
        now: Instant,
    ) -> Result<Taken, Refusal> {
        standing::take(&self.node, &self.accounts, mailbox, serial, (rate, now)).await
    }

    /// The node that serves the mailbox hears of it, if one does.
    fn bundle_is_low(&self, mailbox: &MailboxId, items: u32) {
        let (node, mailbox) = (Arc::clone(&self.node), *mailbox);
        // It may be lost: the next attach tells it too.
        tokio::spawn(async move { drop(node.streams.tell_low(&mailbox, items).await) });
    }
}

/// A nonce.
fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source works");
    bytes
}
