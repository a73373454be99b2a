//! Which shards this node may serve, where its realm moves here from a supernode or has moved: those
//! whose ledger says that the data centre owns them. That one is owned is known for good; that it is
//! not may be old, and is read again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as AsyncMutex;
use valise_migration::Ledger;
use valise_migration::real::RealLedger;
use valise_proto::Reason;

use super::node::Node;
use crate::limits::CLUSTER_SWEEP_SECONDS;
use crate::store::jetstream::{BusError, JetStream, LedgerNews};

/// What is known of each shard's ledger.
pub(super) enum Ledgers {
    /// The realm was never a supernode's: everything is served, and there must be no ledger.
    None,
    /// By shard.
    Of(Box<[Shard]>),
}

/// One shard.
#[derive(Default)]
pub(super) struct Shard {
    owned: AtomicBool,
    /// When it was read last that it is not owned, and of how many gaps the bus had told then. Who
    /// holds the lock reads, and whoever else wants to know waits for that.
    elsewhere: AsyncMutex<Option<(Instant, u64)>>,
}

impl Ledgers {
    /// Nothing is known yet.
    pub(super) fn new(by_ledgers: bool) -> Self {
        match by_ledgers {
            true => Self::Of((0..=u8::MAX).map(|_| Shard::default()).collect()),
            false => Self::None,
        }
    }

    /// Whether this node serves the shard.
    ///
    /// # Errors
    /// [`Reason::Moved`], or [`Reason::Busy`] while it cannot be known.
    pub(super) async fn serves(&self, streams: &JetStream, shard: u8) -> Result<(), Reason> {
        let Self::Of(shards) = self else { return Ok(()) };
        let known = &shards[usize::from(shard)];
        if known.is_owned() {
            return Ok(());
        }
        let mut elsewhere = known.elsewhere.lock().await;
        if known.is_owned() {
            return Ok(());
        }
        let (now, gaps) = (Instant::now(), *streams.gaps().borrow());
        // Nothing that was told since can have been missed, and it is not old.
        let fresh =
            |(at, then): (Instant, u64)| then == gaps && now.saturating_duration_since(at) < FRESH;
        if elsewhere.is_some_and(fresh) {
            return Err(Reason::Moved);
        }
        let ledger = streams.ledger(shard).await.map_err(|error| {
            tracing::debug!(%error, "whose a shard is cannot be known now");
            Reason::Busy
        })?;
        if Ledger::accepts(ledger.as_ref()).is_ok() {
            known.owned.store(true, Ordering::Release);
            return Ok(());
        }
        *elsewhere = Some((now, gaps));
        Err(Reason::Moved)
    }

    fn told(&self, shard: u8, ledger: &RealLedger) {
        if let Self::Of(shards) = self
            && Ledger::accepts(Some(ledger)).is_ok()
        {
            shards[usize::from(shard)].owned.store(true, Ordering::Release);
        }
    }

    fn must_be_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

const FRESH: Duration = Duration::from_secs(CLUSTER_SWEEP_SECONDS);

impl Shard {
    fn is_owned(&self) -> bool {
        self.owned.load(Ordering::Acquire)
    }
}

/// A node that does not serve by ledgers must not be where there are any: it would serve what the
/// supernode still serves. To be asked after it listens.
///
/// # Errors
/// [`BusError::NotMarked`].
pub(super) async fn check(node: &Node) -> Result<(), BusError> {
    let wrong =
        node.ledgers.must_be_none() && !node.streams.shards_with_ledgers().await?.is_empty();
    if wrong { Err(BusError::NotMarked) } else { Ok(()) }
}

/// Follows the ledgers.
pub(super) async fn follow(node: Arc<Node>, mut news: LedgerNews) {
    while let Some((shard, ledger)) = news.next().await {
        if node.ledgers.must_be_none() {
            let reason = BusError::NotMarked.to_string();
            tracing::error!(%reason, "nothing is accepted any more");
            return node.fence(reason);
        }
        node.ledgers.told(shard, &ledger);
    }
}
