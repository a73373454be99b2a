//! Posts that the supernode passes on, for shards that have moved: each is published as a node would, and
//! the supernode is told what came of it. Those of one capability to one mailbox go one after the other, as
//! at a node.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use valise::store::SHARDS;
use valise::store::jetstream::Center;
use valise_client::proto::Reason;
use valise_migration::Ledger;
use valise_migration::wire::{FromImporter, Passing as Post};

use crate::limits::PASSING_TOGETHER;

/// Mailbox and serial.
type Lane = ([u8; 16], [u8; 8]);

/// A post that waits for its turn.
struct Waiting {
    number: u64,
    post: Post,
    out: mpsc::Sender<FromImporter>,
    _permit: OwnedSemaphorePermit,
}

/// Passes posts on.
pub(crate) struct Passing {
    center: Arc<Center>,
    /// By shard: it is known to be the data centre's.
    owned: [AtomicBool; SHARDS],
    permits: Arc<Semaphore>,
    /// Somebody sees to each lane that is here.
    lanes: Mutex<HashMap<Lane, VecDeque<Waiting>>>,
    accepted: AtomicU64,
}

impl Passing {
    pub(crate) fn new(center: Arc<Center>) -> Self {
        Self {
            center,
            owned: [const { AtomicBool::new(false) }; SHARDS],
            permits: Arc::new(Semaphore::new(PASSING_TOGETHER)),
            lanes: Mutex::default(),
            accepted: AtomicU64::new(0),
        }
    }

    /// How many were accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The shard is the data centre's.
    pub(crate) fn owned(&self, shard: u8) {
        self.owned[usize::from(shard)].store(true, Ordering::Relaxed);
    }

    /// Takes a post; answers it on this connection, later.
    pub(crate) fn take(self: &Arc<Self>, number: u64, post: Post, out: mpsc::Sender<FromImporter>) {
        // More at a time than can be seen to: the sender tries again.
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            let busy = FromImporter::Passed(number, Reason::Busy.number());
            drop(out.try_send(busy));
            return;
        };
        let lane = (post.mailbox, post.serial);
        let waiting = Waiting { number, post, out, _permit: permit };
        let mut lanes = self.lanes();
        let is_new = !lanes.contains_key(&lane);
        lanes.entry(lane).or_default().push_back(waiting);
        drop(lanes);
        if is_new {
            tokio::spawn(Arc::clone(self).see_to(lane));
        }
    }

    /// Sees to a lane, until nothing waits in it.
    async fn see_to(self: Arc<Self>, lane: Lane) {
        while let Some(waiting) = self.next(lane) {
            let outcome = self.pass(&waiting.post).await;
            // A supernode that is gone tells its sender to try again.
            drop(waiting.out.send(FromImporter::Passed(waiting.number, outcome.number())).await);
        }
    }

    fn next(&self, lane: Lane) -> Option<Waiting> {
        let mut lanes = self.lanes();
        let next = lanes.get_mut(&lane).and_then(VecDeque::pop_front);
        if next.is_none() {
            lanes.remove(&lane);
        }
        next
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Lane, VecDeque<Waiting>>> {
        self.lanes.lock().expect("no one panics while it holds the lock")
    }

    async fn pass(&self, post: &Post) -> Reason {
        if !self.is_owned(post.shard).await {
            return Reason::Busy;
        }
        let outcome = self.center.pass_on(post).await;
        if outcome == Reason::Accepted {
            self.accepted.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    async fn is_owned(&self, shard: u8) -> bool {
        if self.owned[usize::from(shard)].load(Ordering::Relaxed) {
            return true;
        }
        let ledger = self.center.ledger(shard).await;
        let owned = ledger.is_ok_and(|ledger| Ledger::accepts(ledger.as_ref()).is_ok());
        if owned {
            self.owned(shard);
        }
        owned
    }
}
