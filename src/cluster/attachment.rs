//! Attaching, certified: listen, claim, ask a replica that has seen the claim, read from the oldest.

use std::sync::Arc;
use std::time::Duration;

use valise_proto::{MailboxId, Reason};

use super::account::Account;
use super::node::Node;
use super::partition::{Partition, Partitions};
use super::random;
use super::served::{Removal, Served};
use crate::engine::{Attach, Attached};
use crate::limits::{PURGE_FRAMES, PURGE_WAIT_MS};
use crate::mailbox::{NotServed, Pulled};
use crate::standing::low;
use crate::store::jetstream::BusError;
use crate::store::{Seq, StoreError};

/// A mailbox served by a connection of this node. Dropping it detaches.
pub struct Attachment {
    served: Arc<Served>,
    partition: Arc<Partition>,
}

/// Serves a mailbox for whoever asks.
///
/// # Errors
/// [`NotServed`].
pub(super) async fn attach(
    node: Arc<Node>,
    partitions: Arc<Partitions>,
    account: Arc<Account>,
    who: Attach,
) -> Result<Attached<Attachment>, NotServed> {
    let Attach { mailbox, serial, doorbell, slot, number, now } = who;
    if node.is_fenced() {
        return Err(busy());
    }
    account.known().touched = Some(now);
    match node.serves(&mailbox).await {
        Ok(()) => {}
        Err(Reason::Moved) => return Err(NotServed::Moved),
        Err(_) => return Err(busy()),
    }
    let gaps = node.gaps();
    let partition = partitions.listen(node.streams.shard(&mailbox)).await.map_err(not_served)?;
    let served = Served::new(Arc::clone(&node), Arc::clone(&account), (doorbell, slot, number));
    let served = Arc::new(served);
    // From here on whatever happens is heard of. Dropped in between, all is undone.
    partition.add(mailbox, &served);
    let attachment = Attachment { served: Arc::clone(&served), partition };

    // A token that is revoked takes nothing over.
    if node.revoked(&account).await.map_err(not_served)?.contains(&serial) {
        return Err(NotServed::Revoked);
    }
    let claim = node.streams.claim(&mailbox, &random()).await.map_err(not_served)?;
    served.claims(claim);
    for other in attachment.partition.of(&mailbox) {
        other.claimed(claim);
    }
    let certified = node.streams.certify(&mailbox, claim).await.map_err(not_served)?;
    account.known().read(certified.revoked.clone(), now, gaps);
    if certified.revoked.contains(&serial) {
        return Err(NotServed::Revoked);
    }
    served.claimed(certified.claim);
    let floor = account.known().floor;
    let last = certified.last.unwrap_or_default().max(floor);
    served.begin(floor, last);
    node.metrics.attachment_began();
    let bundle_low = certified.bundle.and_then(|head| low(&head));
    Ok(Attached { attachment, floor, last, bundle_low })
}

impl Attachment {
    /// The mailbox.
    pub fn mailbox(&self) -> &MailboxId {
        &self.served.account.mailbox
    }

    /// The connection serves it from now on: if it is over already, that is told again.
    pub fn begin(&self) {
        if self.served.is_over() {
            self.served.doorbell.replaced(self.served.number);
        }
    }

    /// Frames that are here, in order: at least one if there is one, then as many as fit. Each must
    /// be delivered, since it is not here any more then.
    ///
    /// # Errors
    /// [`StoreError`] when frames cannot be read.
    pub fn pull(&self, _after: Seq, bytes_max: usize) -> Result<Vec<Pulled>, StoreError> {
        self.served.pull(bytes_max)
    }

    /// Whether no frame is left with `after < seq <= up_to`. False when it is served elsewhere.
    pub fn has_nothing_between(&self, after: Seq, up_to: Seq) -> bool {
        self.served.has_nothing_between(after, up_to)
    }

    /// The recipient's device has committed everything up to here.
    pub fn acknowledge(&self, up_to: Seq) {
        match self.served.acknowledge(up_to, PURGE_FRAMES) {
            None => {}
            Some(Removal::AtOnce) => {
                let served = Arc::clone(&self.served);
                tokio::spawn(async move { remove(&served, up_to).await });
            }
            Some(Removal::Soon) => {
                let served = Arc::clone(&self.served);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(PURGE_WAIT_MS)).await;
                    if let Some(up_to) = served.take_removal() {
                        remove(&served, up_to).await;
                    }
                });
            }
        }
        let mut known = self.served.account.known();
        known.floor = known.floor.max(up_to);
    }
}

/// Forgets acknowledged frames. Without an answer they come again, to whoever attaches elsewhere.
async fn remove(served: &Served, up_to: Seq) {
    if let Err(error) = served.node.streams.remove(&served.mailbox(), up_to).await {
        tracing::warn!(%error, "acknowledged frames are not removed yet");
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mailbox = self.served.mailbox();
        self.partition.remove(&mailbox, &self.served);
        let (claim, _) = self.served.end();
        if claim.is_some() {
            self.served.node.metrics.attachment_ended();
        }
        let removal = self.served.take_removal();
        let served = Arc::clone(&self.served);
        // A runtime that is gone has ended every connection to the bus too.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let leaving = served.node.leaving.token();
        runtime.spawn(async move {
            let _leaving = leaving;
            if let Some(up_to) = removal {
                remove(&served, up_to).await;
            }
            if let Some(claim) = claim
                && let Err(error) = served.node.streams.withdraw(&mailbox, claim).await
            {
                tracing::debug!(%error, "a claim is left to its time");
            }
        });
    }
}

fn busy() -> NotServed {
    NotServed::Store(StoreError::Reopening)
}

/// What the bus cannot say now may be asked again; what is damaged stays so.
fn not_served(error: BusError) -> NotServed {
    if let BusError::Damaged { what } = error {
        return NotServed::Store(StoreError::Damaged { what });
    }
    if !error.is_passing() {
        tracing::warn!(%error, "a mailbox was not served");
    }
    busy()
}
