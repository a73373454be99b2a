//! A shard that is listened to, because at least one of its mailboxes is served here: one
//! subscription for all of them, while any is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use valise_proto::MailboxId;

use super::node::Node;
use super::served::Served;
use crate::limits::CLUSTER_SWEEP_SECONDS;
use crate::store::jetstream::{BusError, Live, LiveFrames};

/// The shards that are listened to.
pub(super) struct Partitions {
    node: Arc<Node>,
    by_shard: AsyncMutex<HashMap<u8, Weak<Partition>>>,
}

/// One of them. Whoever serves a mailbox of it holds it; when nobody does, nobody listens.
pub(super) struct Partition {
    node: Arc<Node>,
    served: Arc<ServedHere>,
    tasks: [JoinHandle<()>; 2],
}

/// Who is served, by mailbox. More than one only while one takes over from another.
#[derive(Default)]
struct ServedHere(Mutex<HashMap<MailboxId, Vec<Arc<Served>>>>);

impl Partitions {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self { node, by_shard: AsyncMutex::default() }
    }

    /// The shard, listened to. What is published on the same connection after this is not missed.
    pub(super) async fn listen(&self, shard: u8) -> Result<Arc<Partition>, BusError> {
        let mut by_shard = self.by_shard.lock().await;
        if let Some(partition) = by_shard.get(&shard).and_then(Weak::upgrade) {
            return Ok(partition);
        }
        let live = self.node.streams.listen(shard).await?;
        let served = Arc::new(ServedHere::default());
        let partition = Arc::new(Partition {
            tasks: [
                tokio::spawn(dispatch(live, Arc::clone(&served))),
                tokio::spawn(look_again(Arc::clone(&self.node), shard, Arc::clone(&served))),
            ],
            served,
            node: Arc::clone(&self.node),
        });
        self.node.metrics.partition_began();
        by_shard.insert(shard, Arc::downgrade(&partition));
        Ok(partition)
    }

    /// Who serves this mailbox here.
    pub(super) async fn serving(&self, shard: u8, mailbox: &MailboxId) -> Option<Arc<Served>> {
        let partition = self.by_shard.lock().await.get(&shard).and_then(Weak::upgrade)?;
        partition.served.of(mailbox).pop()
    }
}

impl Partition {
    /// What happens to the mailbox is passed on from now on.
    pub(super) fn add(&self, mailbox: MailboxId, served: &Arc<Served>) {
        self.served.all().entry(mailbox).or_default().push(Arc::clone(served));
    }

    /// No more.
    pub(super) fn remove(&self, mailbox: &MailboxId, served: &Arc<Served>) {
        let mut all = self.served.all();
        if let Some(of) = all.get_mut(mailbox) {
            of.retain(|other| !Arc::ptr_eq(other, served));
            if of.is_empty() {
                all.remove(mailbox);
            }
        }
    }

    /// Who else serves it here.
    pub(super) fn of(&self, mailbox: &MailboxId) -> Vec<Arc<Served>> {
        self.served.of(mailbox)
    }
}

impl Drop for Partition {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.node.metrics.partition_ended();
    }
}

impl ServedHere {
    fn all(&self) -> MutexGuard<'_, HashMap<MailboxId, Vec<Arc<Served>>>> {
        self.0.lock().expect("no one panics while it holds the lock")
    }

    fn of(&self, mailbox: &MailboxId) -> Vec<Arc<Served>> {
        self.all().get(mailbox).cloned().unwrap_or_default()
    }
}

/// Passes on what is pushed. Never waits, so that nothing piles up.
async fn dispatch(mut live: LiveFrames, served: Arc<ServedHere>) {
    while let Some(live) = live.next().await {
        match live {
            Live::Frame(frame, before) => {
                for served in served.of(&frame.mailbox) {
                    served.pushed(frame.clone(), before);
                }
            }
            Live::Claimed(mailbox, claim) => {
                served.of(&mailbox).iter().for_each(|served| served.claimed(claim));
            }
            Live::BundleLow(mailbox, items) => {
                served.of(&mailbox).iter().for_each(|served| served.bundle_is_low(items));
            }
            Live::Signal(mailbox, payload) => {
                if let Some(served) = served.of(&mailbox).pop() {
                    served.signal(payload);
                }
            }
            Live::Revoked(..) => {}
        }
    }
}

/// Looks at what is served here when something may have been missed, and now and then.
async fn look_again(node: Arc<Node>, shard: u8, served: Arc<ServedHere>) {
    let period = Duration::from_secs(CLUSTER_SWEEP_SECONDS);
    // Staggered: not all shards at once.
    let first = Instant::now() + period / 256 * (u32::from(shard) + 1);
    let mut ticks = interval_at(first, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut gaps = node.streams.gaps();
    loop {
        tokio::select! {
            biased;
            changed = gaps.changed() => if changed.is_err() { return },
            _ = ticks.tick() => {}
        }
        let mailboxes: Vec<MailboxId> = served.all().keys().copied().collect();
        if mailboxes.is_empty() {
            continue;
        }
        match node.streams.look(shard, &mailboxes).await {
            Ok(seen) => {
                for seen in seen {
                    served.of(&seen.mailbox).iter().for_each(|served| served.seen(&seen));
                }
            }
            Err(error) => tracing::debug!(%error, "mailboxes are looked at later"),
        }
    }
}
