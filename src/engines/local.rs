//! The engine of a supernode: this process orders, and a store beside it keeps.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use valise_proto::limits::REVOCATIONS_MAX;
use valise_proto::{MailboxId, PublishBundle, PutSlot, Reason, SlotId};

use crate::committer::Committer;
use crate::disk::Allowed;
use crate::doorbell::Doorbell;
use crate::engine::{Attach, Attached, Engine};
use crate::limits::SEALED_RETRY_MS;
use crate::mailbox::{
    Allowance, Attachment, Incoming, Mailbox, NotServed, SignalDropped, Surroundings,
};
use crate::metrics::Metrics;
use crate::migration::{Clients, Led, Passing};
use crate::payload::Payload;
use crate::rate::Rate;
use crate::receipt::Waiter;
use crate::registry::Mailboxes;
use crate::shards::{Mode, Shards};
use crate::standing::{Put, Refusal, Standing, Taken};
use crate::store::{Frame, Revocation, RunningHours, Seq, SpentCode, StoreError};

/// Mailboxes of this process alone.
pub struct Local {
    mailboxes: Mailboxes<Mailbox>,
    standing: Standing,
    /// Where it may move into a data centre: its connections, and posts that are passed on.
    moving: OnceLock<(Arc<Clients>, Arc<Passing>)>,
    /// What its mailboxes share.
    pub(crate) around: Arc<Surroundings>,
}

impl Local {
    /// Over this committer's store.
    pub fn new(committer: Committer, disk: Allowed, metrics: Metrics) -> Self {
        let standing = Standing::new(committer.clone(), disk.clone());
        let around = Arc::new(Surroundings {
            committer,
            disk,
            metrics,
            ring_bytes: AtomicUsize::new(0),
            remembered: AtomicUsize::new(0),
        });
        Self { mailboxes: Mailboxes::default(), standing, moving: OnceLock::new(), around }
    }

    /// It may move into a data centre: connections are known here from now on, and posts of shards that
    /// have moved are passed on. Said once, before anybody connects.
    pub fn may_move(&self, clients: Arc<Clients>, passing: Arc<Passing>) {
        let _ = self.moving.set((clients, passing));
    }

    /// A connection whose door this is, where it may be asked to move.
    pub fn connected(&self, door: &Arc<Doorbell>) -> Option<Led> {
        let (clients, _) = self.moving.get()?;
        Some(clients.connected(door))
    }

    /// Serves a mailbox; nobody has to be asked.
    ///
    /// # Errors
    /// [`NotServed`].
    pub fn attach_now(&self, who: &Attach) -> Result<Attached<Attachment>, NotServed> {
        let Attach { mailbox, serial, doorbell, slot, number, now } = who;
        match self.mode(|shards| shards.of_mailbox(mailbox)) {
            Mode::Serves => {}
            Mode::Busy => return Err(NotServed::Store(StoreError::Reopening)),
            Mode::Forward | Mode::Moved => return Err(NotServed::Moved),
        }
        let attachment = self.mailbox(mailbox).attach(serial, doorbell, *slot, *number, *now)?;
        // A bundle that cannot be read now is no reason not to be served.
        let bundle_low = self.standing.low(mailbox).ok().flatten();
        let (floor, last) = (attachment.floor, attachment.last);
        Ok(Attached { attachment, floor, last, bundle_low })
    }

    /// What slots hold, now.
    ///
    /// # Errors
    /// `busy` when they cannot be read.
    pub fn get_slots_now(&self, ids: &[SlotId]) -> Result<Vec<Option<Payload>>, Reason> {
        for id in ids {
            self.serves(|shards| shards.of_slot(id)).map_err(|refusal| refusal.reason)?;
        }
        self.standing.get_slots(ids)
    }

    /// Whether a token is revoked, now.
    ///
    /// # Errors
    /// [`StoreError`] when that cannot be read.
    pub fn is_revoked_now(
        &self,
        mailbox: &MailboxId,
        serial: &[u8; 8],
    ) -> Result<bool, StoreError> {
        self.mailbox(mailbox).revocations(serial).map(|(_, revoked)| revoked)
    }

    /// The mailboxes that hold frames to be given up in this hour, or a floor and no frame. Reads
    /// much of the store, so call it where that may take its time.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub fn expired(&self, hour: RunningHours) -> Result<Vec<MailboxId>, StoreError> {
        self.around.committer.store()?.expired(hour)
    }

    /// Gives up the frames of a mailbox whose time to live ended before this hour.
    ///
    /// # Errors
    /// [`StoreError`] when the mailbox cannot be read.
    pub fn expire(
        &self,
        mailbox: &MailboxId,
        hour: RunningHours,
        now: Instant,
    ) -> Result<(), StoreError> {
        self.mailbox(mailbox).expire(hour, now)
    }

    /// Removes slots, bundles, revocations and spent codes whose time is over.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    pub async fn forget_outdated(&self, hour: RunningHours, today: u16) -> Result<(), StoreError> {
        self.standing.sweep(hour, today).await
    }

    /// Forgets the mailboxes that are idle, and who has not been busy lately.
    pub fn sweep(&self, now: Instant) {
        self.standing.forget_full(now);
        self.mailboxes.forget(|mailbox| mailbox.is_idle(now));
    }

    /// The store can be read again: whoever is served looks again.
    pub fn ring(&self) {
        self.mailboxes.all().iter().for_each(|mailbox| mailbox.ring());
    }

    /// Mailboxes in memory.
    pub fn mailboxes_live(&self) -> usize {
        self.mailboxes.len()
    }

    /// Whether the shard of something is served here.
    #[inline]
    fn mode(&self, of: impl FnOnce(&Shards) -> u8) -> Mode {
        match self.around.committer.shards() {
            Some(shards) if shards.is_moving() => shards.mode(of(shards)),
            _ => Mode::Serves,
        }
    }

    /// Whether something may be asked that is no post.
    fn serves(&self, of: impl FnOnce(&Shards) -> u8) -> Result<(), Refusal> {
        match self.mode(of) {
            Mode::Serves => Ok(()),
            Mode::Busy => Err(Refusal { reason: Reason::Busy, retry_after_ms: SEALED_RETRY_MS }),
            Mode::Forward | Mode::Moved => Err(Reason::Moved.into()),
        }
    }

    /// Passes a post on to the data centre. What it counts and knows of the capability is its own.
    fn pass(&self, mailbox: &MailboxId, incoming: Incoming, now: Instant, waiter: Waiter) {
        let (Some(shards), Some((_, passing))) =
            (self.around.committer.shards(), self.moving.get())
        else {
            return waiter.decide(Reason::Moved);
        };
        let Incoming { frame_id, payload, ttl_hours, serial, .. } = incoming;
        let (mailbox, accepted) = (*mailbox, RunningHours(0));
        let frame = Frame { mailbox, seq: Seq(0), frame_id, accepted, ttl_hours, payload };
        passing.pass(shards.of_mailbox(&mailbox), serial, &frame, now, waiter);
    }

    fn mailbox(&self, id: &MailboxId) -> Arc<Mailbox> {
        self.mailboxes.get_or_insert_with(id, || Mailbox::new(*id, Arc::clone(&self.around)))
    }
}

impl Engine for Local {
    type Attachment = Attachment;

    #[inline]
    fn append(
        &self,
        mailbox: &MailboxId,
        incoming: Incoming,
        allowance: &Allowance,
        now: Instant,
        waiter: Waiter,
    ) {
        match self.mode(|shards| shards.of_mailbox(mailbox)) {
            Mode::Serves => self.mailbox(mailbox).append(incoming, allowance, now, waiter),
            Mode::Busy => waiter.decide_with_retry(Reason::Busy, SEALED_RETRY_MS),
            Mode::Forward => self.pass(mailbox, incoming, now, waiter),
            Mode::Moved => waiter.decide(Reason::Moved),
        }
    }

    #[inline]
    fn signal(
        &self,
        mailbox: &MailboxId,
        by: ([u8; 8], u8),
        payload: Payload,
        allowance: &Allowance,
        now: Instant,
    ) -> Result<(), SignalDropped> {
        let mode = self.mode(|shards| shards.of_mailbox(mailbox));
        if matches!(mode, Mode::Forward | Mode::Moved) {
            return Err(SignalDropped::NotAttached);
        }
        let mailbox = self.mailboxes.get(mailbox).ok_or(SignalDropped::NotAttached)?;
        mailbox.signal(by, payload, allowance, now)
    }

    fn attach(
        &self,
        who: Attach,
    ) -> impl Future<Output = Result<Attached<Attachment>, NotServed>> + Send + 'static {
        std::future::ready(self.attach_now(&who))
    }

    async fn is_revoked(&self, mailbox: &MailboxId, serial: &[u8; 8]) -> Result<bool, Refusal> {
        self.serves(|shards| shards.of_mailbox(mailbox))?;
        Ok(self.is_revoked_now(mailbox, serial)?)
    }

    async fn revoke(&self, revocation: Revocation) -> Result<(), Refusal> {
        let Revocation { mailbox, serial, .. } = revocation;
        self.serves(|shards| shards.of_mailbox(&mailbox))?;
        let _turn = self.standing.turn_of(&mailbox).await;
        let live = self.mailbox(&mailbox);
        let (count, already) = live.revocations(&serial)?;
        if already {
            return Ok(());
        }
        if count >= REVOCATIONS_MAX {
            return Err(Reason::RevocationsFull.into());
        }
        self.standing.revoke(revocation).await?;
        live.revoked(serial);
        Ok(())
    }

    async fn spend(&self, code: SpentCode) -> Result<(), Reason> {
        let serves = self.serves(|shards| shards.of_code(&code.serial));
        serves.map_err(|refusal| refusal.reason)?;
        self.standing.spend(code).await
    }

    async fn put_slot(
        &self,
        put: PutSlot<Payload>,
        account: &MailboxId,
        bytes_a_second: &Rate,
        now: Instant,
    ) -> Result<Put, Refusal> {
        self.serves(|shards| shards.of_slot(&put.slot_id))?;
        self.standing.put_slot(put, account, bytes_a_second, now).await
    }

    async fn get_slots(&self, ids: &[SlotId]) -> Result<Vec<Option<Payload>>, Reason> {
        self.get_slots_now(ids)
    }

    async fn publish(
        &self,
        mailbox: &MailboxId,
        publish: PublishBundle<Payload>,
    ) -> Result<u32, Refusal> {
        self.serves(|shards| shards.of_mailbox(mailbox))?;
        self.standing.publish(mailbox, publish).await
    }

    async fn take(
        &self,
        mailbox: &MailboxId,
        serial: [u8; 8],
        rate: &Rate,
        now: Instant,
    ) -> Result<Taken, Refusal> {
        self.serves(|shards| shards.of_mailbox(mailbox))?;
        self.standing.take(mailbox, serial, rate, now).await
    }

    fn bundle_is_low(&self, mailbox: &MailboxId, items: u32) {
        if let Some(owner) = self.mailboxes.get(mailbox) {
            owner.bundle_low(items);
        }
    }
}
