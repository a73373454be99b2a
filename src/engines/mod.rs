//! The engines there are, in one type: the way of a post has a branch and not a call through a table.

mod local;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use valise_proto::{MailboxId, PublishBundle, PutSlot, Reason, SlotId};

use crate::cluster::{self, Cluster};
use crate::doorbell::Doorbell;
use crate::engine::{Attach, Attached, Engine};
use crate::mailbox::{self, Allowance, Incoming, NotServed, Pulled, SignalDropped};
use crate::migration::Led;
use crate::payload::Payload;
use crate::rate::Rate;
use crate::receipt::Waiter;
use crate::standing::{Put, Refusal, Taken};
use crate::store::{Revocation, Seq, SpentCode, StoreError};

pub use local::Local;

/// The answer to an attach.
pub enum Attaching {
    /// At once.
    Done(Result<Attached<Attachment>, NotServed>),
    /// When others have answered. Dropping it undoes what was begun.
    Waiting(Waiting),
}

/// An attach that waits for others.
pub type Waiting = Pin<Box<dyn Future<Output = Result<Attached<Attachment>, NotServed>> + Send>>;

/// A mailbox served by a connection. Dropping it detaches.
pub enum Attachment {
    /// By [`Local`].
    Local(mailbox::Attachment),
    /// By [`Cluster`].
    Cluster(cluster::Attachment),
}

impl Attachment {
    /// The mailbox.
    pub fn mailbox(&self) -> &MailboxId {
        match self {
            Self::Local(attachment) => attachment.mailbox(),
            Self::Cluster(attachment) => attachment.mailbox(),
        }
    }

    /// Frames after `after`, in order: at least one if one can be had now, then as many as fit
    /// into `bytes_max`. Empty when there is nothing (more will ring), or when the mailbox is
    /// served elsewhere by now. Each must be delivered, since it may not be had again.
    ///
    /// # Errors
    /// [`StoreError`] when frames cannot be read.
    pub fn pull(&self, after: Seq, bytes_max: usize) -> Result<Vec<Pulled>, StoreError> {
        match self {
            Self::Local(attachment) => attachment.pull(after, bytes_max),
            Self::Cluster(attachment) => attachment.pull(after, bytes_max),
        }
    }

    /// Whether no frame is left with `after < seq <= up_to`. False when the mailbox is served
    /// elsewhere by now.
    pub fn has_nothing_between(&self, after: Seq, up_to: Seq) -> bool {
        match self {
            Self::Local(attachment) => attachment.has_nothing_between(after, up_to),
            Self::Cluster(attachment) => attachment.has_nothing_between(after, up_to),
        }
    }

    /// The recipient's device has committed everything up to here.
    pub fn acknowledge(&self, up_to: Seq, now: Instant) {
        match self {
            Self::Local(attachment) => attachment.acknowledge(up_to, now),
            Self::Cluster(attachment) => attachment.acknowledge(up_to),
        }
    }

    /// The connection serves it from now on: what happened on the way here is told again.
    pub fn begin(&self) {
        if let Self::Cluster(attachment) = self {
            attachment.begin();
        }
    }
}

/// A connection that may be asked to move; forgotten when dropped.
pub enum Steered {
    /// From a supernode into a data centre.
    Local(Led),
    /// From one node to another.
    Cluster(cluster::Steered),
}

impl Steered {
    /// The mailboxes that the connection serves from now on, the one it has served longest first.
    pub fn serves<'a>(&self, mut mailboxes: impl Iterator<Item = &'a MailboxId>) {
        match self {
            Self::Local(led) => led.serves(mailboxes),
            Self::Cluster(steered) => steered.by(mailboxes.next()),
        }
    }
}

/// The engine that runs.
pub enum Engines {
    /// This process alone.
    Local(Arc<Local>),
    /// One node of many.
    Cluster(Arc<Cluster>),
}

impl Engines {
    /// A connection whose door this is, where it may be asked to move.
    pub fn connected(&self, door: &Arc<Doorbell>) -> Option<Steered> {
        match self {
            Self::Local(local) => local.connected(door).map(Steered::Local),
            Self::Cluster(cluster) => Some(Steered::Cluster(cluster.connected(door))),
        }
    }

    /// Serves a mailbox, at once where nobody has to be asked.
    pub fn attach_soon(&self, who: Attach) -> Attaching {
        match self {
            Self::Local(local) => {
                Attaching::Done(local.attach_now(&who).map(|done| done.map(Attachment::Local)))
            }
            Self::Cluster(cluster) => {
                let waiting = cluster.attach(who);
                Attaching::Waiting(Box::pin(async move {
                    waiting.await.map(|done| done.map(Attachment::Cluster))
                }))
            }
        }
    }
}

macro_rules! either {
    ($self:ident, $engine:ident => $call:expr) => {
        match $self {
            Engines::Local($engine) => $call,
            Engines::Cluster($engine) => $call,
        }
    };
}

impl Engine for Engines {
    type Attachment = Attachment;

    fn append(
        &self,
        mailbox: &MailboxId,
        incoming: Incoming,
        allowance: &Allowance,
        now: Instant,
        waiter: Waiter,
    ) {
        either!(self, engine => engine.append(mailbox, incoming, allowance, now, waiter));
    }

    fn signal(
        &self,
        mailbox: &MailboxId,
        by: ([u8; 8], u8),
        payload: Payload,
        allowance: &Allowance,
        now: Instant,
    ) -> Result<(), SignalDropped> {
        either!(self, engine => engine.signal(mailbox, by, payload, allowance, now))
    }

    fn attach(
        &self,
        who: Attach,
    ) -> impl Future<Output = Result<Attached<Attachment>, NotServed>> + Send + 'static {
        let attaching = self.attach_soon(who);
        async move {
            match attaching {
                Attaching::Done(done) => done,
                Attaching::Waiting(waiting) => waiting.await,
            }
        }
    }

    async fn is_revoked(&self, mailbox: &MailboxId, serial: &[u8; 8]) -> Result<bool, Refusal> {
        either!(self, engine => engine.is_revoked(mailbox, serial).await)
    }

    async fn revoke(&self, revocation: Revocation) -> Result<(), Refusal> {
        either!(self, engine => engine.revoke(revocation).await)
    }

    async fn spend(&self, code: SpentCode) -> Result<(), Reason> {
        either!(self, engine => engine.spend(code).await)
    }

    async fn put_slot(
        &self,
        put: PutSlot<Payload>,
        account: &MailboxId,
        bytes_a_second: &Rate,
        now: Instant,
    ) -> Result<Put, Refusal> {
        either!(self, engine => engine.put_slot(put, account, bytes_a_second, now).await)
    }

    async fn get_slots(&self, ids: &[SlotId]) -> Result<Vec<Option<Payload>>, Reason> {
        either!(self, engine => engine.get_slots(ids).await)
    }

    async fn publish(
        &self,
        mailbox: &MailboxId,
        publish: PublishBundle<Payload>,
    ) -> Result<u32, Refusal> {
        either!(self, engine => engine.publish(mailbox, publish).await)
    }

    async fn take(
        &self,
        mailbox: &MailboxId,
        serial: [u8; 8],
        rate: &Rate,
        now: Instant,
    ) -> Result<Taken, Refusal> {
        either!(self, engine => engine.take(mailbox, serial, rate, now).await)
    }

    fn bundle_is_low(&self, mailbox: &MailboxId, items: u32) {
        either!(self, engine => engine.bundle_is_low(mailbox, items));
    }
}
