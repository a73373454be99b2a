//! What everything of this node shares.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use valise_proto::limits::PAYLOAD_BYTES_MAX;
use valise_proto::{MailboxId, Reason};

use super::account::Account;
use super::ledgers::Ledgers;
use crate::metrics::Metrics;
use crate::store::jetstream::{BusError, JetStream, Revocations};

/// This node.
pub(super) struct Node {
    // Static after construction.
    pub(super) streams: JetStream,
    pub(super) metrics: Metrics,
    pub(super) ring_bytes: usize,
    /// Which shards are served.
    pub(super) ledgers: Ledgers,
    // Changed by anyone.
    /// Payload bytes that wait to be stored.
    pub(super) waiting: AtomicUsize,
    /// Attachments that are leaving.
    pub(super) leaving: TaskTracker,
    fenced: AtomicBool,
    failed: watch::Sender<Option<String>>,
}

impl Node {
    pub(super) fn new(
        streams: JetStream,
        metrics: Metrics,
        ring_bytes: usize,
        by_ledgers: bool,
    ) -> Self {
        // Less than this could not take what one read may give.
        let ring_bytes = ring_bytes.max(2 * PAYLOAD_BYTES_MAX);
        Self {
            streams,
            metrics,
            ring_bytes,
            ledgers: Ledgers::new(by_ledgers),
            waiting: AtomicUsize::new(0),
            leaving: TaskTracker::new(),
            fenced: AtomicBool::new(false),
            failed: watch::Sender::new(None),
        }
    }

    /// Nothing is accepted any more, for this reason, and the node ends.
    pub(super) fn fence(&self, reason: String) {
        self.fenced.store(true, Ordering::Release);
        self.failed.send_replace(Some(reason));
    }

    /// Whether nothing is accepted any more.
    pub(super) fn is_fenced(&self) -> bool {
        self.fenced.load(Ordering::Acquire)
    }

    /// Waits until nothing is accepted any more, and says why. Cancel-safe.
    pub(super) async fn failed(&self) -> String {
        let mut failed = self.failed.subscribe();
        let reason = failed.wait_for(Option::is_some).await;
        reason.ok().and_then(|reason| reason.clone()).unwrap_or_default()
    }

    /// Whether the mailbox's shard is served here.
    ///
    /// # Errors
    /// As [`Ledgers::serves`].
    pub(super) async fn serves(&self, mailbox: &MailboxId) -> Result<(), Reason> {
        self.serves_shard(self.streams.shard(mailbox)).await
    }

    /// The same for what is in a shard by itself.
    ///
    /// # Errors
    /// As [`Ledgers::serves`].
    pub(super) async fn serves_shard(&self, shard: u8) -> Result<(), Reason> {
        self.ledgers.serves(&self.streams, shard).await
    }

    /// The revoked tokens of a mailbox: what is known, or what the store says.
    pub(super) async fn revoked(&self, account: &Account) -> Result<Arc<Revocations>, BusError> {
        let (now, gaps) = (Instant::now(), self.gaps());
        if let Some(revoked) = account.known().revoked(now, gaps) {
            return Ok(revoked);
        }
        let read = self.streams.revocations(&account.mailbox).await?;
        let mut known = account.known();
        known.read(read, now, gaps);
        // It is good for this once, even if something was missed a moment ago.
        known.revoked(now, gaps).ok_or(BusError::Silent)
    }

    /// Of how many gaps the bus has told.
    pub(super) fn gaps(&self) -> u64 {
        *self.streams.gaps().borrow()
    }
}
