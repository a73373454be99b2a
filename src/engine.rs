//! What keeps mailboxes, seen from the router: one trait. [`crate::engines::Local`] keeps it (this
//! process orders the frames and a [`crate::store::Store`] makes them durable), and
//! [`crate::cluster::Cluster`] (many nodes over JetStream, which orders and keeps). One suite of
//! tests, that of packets, runs against both.

use std::sync::Arc;
use std::time::Instant;

use valise_proto::{MailboxId, PublishBundle, PutSlot, Reason, SlotId};

use crate::doorbell::Doorbell;
use crate::mailbox::{Allowance, Incoming, NotServed, SignalDropped};
use crate::payload::Payload;
use crate::rate::Rate;
use crate::receipt::Waiter;
use crate::standing::{Put, Refusal, Taken};
use crate::store::{Revocation, Seq, SpentCode};

/// Keeps mailboxes. Implementations
///
/// 1. MUST decide each append once: `accepted` only when the frame is durable, or acknowledged by
///    its recipient.
/// 2. MUST give one mailbox's frames of one capability to its recipient in the order in which they
///    were appended, if the earlier was decided before the later came or both came from one task.
/// 3. MUST give every accepted frame to whoever attaches until it is acknowledged or its time to
///    live ends; an acknowledged one may come again only after a crash or a takeover.
/// 4. MUST keep one attachment of a mailbox: the last one; an earlier one is told `Replaced` and
///    gets nothing more.
/// 5. MUST store a frame once that is appended again, with the same id, within a minute.
/// 6. MUST refuse a frame above the mailbox's quota (`mailbox_full`), and one by a capability that
///    is revoked; other nodes may take a moment to know that.
/// 7. MUST let one put win a slot, hand an item out once, and spend a code for one mailbox.
/// 8. MUST NOT block the caller, in `append` and `signal`, longer than a local disk read.
pub trait Engine: Send + Sync + 'static {
    /// A mailbox as a connection serves it. Dropping it detaches.
    type Attachment;

    /// Takes a frame in, or says why not. The waiter hears of it once, now or later.
    fn append(
        &self,
        mailbox: &MailboxId,
        incoming: Incoming,
        allowance: &Allowance,
        now: Instant,
        waiter: Waiter,
    );

    /// Passes a signal, by a capability of this serial and class, to whoever is attached.
    ///
    /// # Errors
    /// [`SignalDropped`], as far as that is known here; nobody is told.
    fn signal(
        &self,
        mailbox: &MailboxId,
        by: ([u8; 8], u8),
        payload: Payload,
        allowance: &Allowance,
        now: Instant,
    ) -> Result<(), SignalDropped>;

    /// Serves a mailbox; whoever was served before is told.
    ///
    /// # Errors
    /// [`NotServed`].
    fn attach(
        &self,
        who: Attach,
    ) -> impl Future<Output = Result<Attached<Self::Attachment>, NotServed>> + Send + 'static;

    /// Whether a token of the mailbox is revoked.
    ///
    /// # Errors
    /// `busy` when that cannot be known now.
    fn is_revoked(
        &self,
        mailbox: &MailboxId,
        serial: &[u8; 8],
    ) -> impl Future<Output = Result<bool, Refusal>> + Send;

    /// Ends a token; durable when it returns.
    ///
    /// # Errors
    /// `revocations_full` or `busy`.
    fn revoke(&self, revocation: Revocation) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Spends an invite code for a mailbox, which may do so again; durable when it returns.
    ///
    /// # Errors
    /// `code_spent` by another mailbox, or `busy`.
    fn spend(&self, code: SpentCode) -> impl Future<Output = Result<(), Reason>> + Send;

    /// Puts a value into a slot, on the account of a mailbox, if nothing is in it; durable when it
    /// returns.
    ///
    /// # Errors
    /// `rate_limited` or `busy`.
    fn put_slot(
        &self,
        put: PutSlot<Payload>,
        account: &MailboxId,
        bytes_a_second: &Rate,
        now: Instant,
    ) -> impl Future<Output = Result<Put, Refusal>> + Send;

    /// What the first of these slots hold: as many as have 64 KiB together, one at least.
    ///
    /// # Errors
    /// `busy` when they cannot be read.
    fn get_slots(
        &self,
        ids: &[SlotId],
    ) -> impl Future<Output = Result<Vec<Option<Payload>>, Reason>> + Send;

    /// Adds to a mailbox's bundle; durable when it returns. Returns how many items it has then.
    ///
    /// # Errors
    /// `bundle_full` or `busy`.
    fn publish(
        &self,
        mailbox: &MailboxId,
        publish: PublishBundle<Payload>,
    ) -> impl Future<Output = Result<u32, Refusal>> + Send;

    /// Hands out an item of a mailbox's bundle; it is durably forgotten when it returns.
    ///
    /// # Errors
    /// `rate_limited`, `bundle_empty` or `busy`.
    fn take(
        &self,
        mailbox: &MailboxId,
        serial: [u8; 8],
        rate: &Rate,
        now: Instant,
    ) -> impl Future<Output = Result<Taken, Refusal>> + Send;

    /// Tells whoever is attached that its bundle has few items left.
    fn bundle_is_low(&self, mailbox: &MailboxId, items: u32);
}

/// Who wants to be served, and where.
pub struct Attach {
    /// The mailbox.
    pub mailbox: MailboxId,
    /// The serial of the member token.
    pub serial: [u8; 8],
    /// The connection's door.
    pub doorbell: Arc<Doorbell>,
    /// The slot there.
    pub slot: u8,
    /// The attachment's number.
    pub number: u32,
    /// When it was asked for.
    pub now: Instant,
}

/// A mailbox that is served.
pub struct Attached<A> {
    /// As the connection serves it.
    pub attachment: A,
    /// Everything at or below is acknowledged: where delivery begins.
    pub floor: Seq,
    /// The newest frame when the attachment began: once delivered, the client has caught up.
    pub last: Seq,
    /// How many items its bundle has, where there is one and they are few.
    pub bundle_low: Option<u32>,
}

impl<A> Attached<A> {
    /// The same, served in another way.
    pub fn map<B>(self, change: impl FnOnce(A) -> B) -> Attached<B> {
        let Self { attachment, floor, last, bundle_low } = self;
        Attached { attachment: change(attachment), floor, last, bundle_low }
    }
}
