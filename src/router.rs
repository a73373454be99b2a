//! Accept, refuse, or forward: opens the rights, finds the mailboxes, and hands each its frame. A
//! post goes from the sender's task straight to the recipient's doorbell.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use arc_swap::ArcSwap;
use valise_proto::limits::REVOCATIONS_MAX;
use valise_proto::{
    Join, MailboxId, OwnerKey, Post, PublishBundle, PutSlot, RealmId, Reason, ServerPacket, Signal,
    SlotId, Token, TokenKind,
};

use crate::access::{Access, Admission};
use crate::committer::Committer;
use crate::disk::Allowed;
use crate::doorbell::Doorbell;
use crate::mailbox::{
    Allowance, Attachment, Incoming, Mailbox, NotServed, SignalDropped, Surroundings,
};
use crate::metrics::{Metrics, SignalDrop};
use crate::payload::Payload;
use crate::receipt::{Receipt, Waiter};
use crate::registry::Mailboxes;
use crate::standing::{Put, Refusal, Standing, Taken};
use crate::store::{Revocation, RunningHours, SpentCode, StoreError};
use crate::token::{Right, TokenKeys};

/// Days since 1970-01-01.
pub type Day = u16;

/// The moment a packet is handled at: read once per turn of a connection's task.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For rates and deadlines.
    pub now: Instant,
    /// For expiry days.
    pub today: Day,
}

/// One per relay, shared by all connections.
pub struct Router {
    // Static after construction.
    realm: RealmId,
    mailboxes: Mailboxes,
    standing: Standing,
    around: Arc<Surroundings>,
    // Replaced as a whole by a reload.
    tokens: ArcSwap<TokenKeys>,
    access: ArcSwap<Access>,
    allowance: ArcSwap<Allowance>,
}

/// How long a member token issued by `Join` is valid, in days.
const MEMBER_DAYS: u16 = 400;

impl Router {
    /// A router over this realm's rights and this committer's store.
    pub fn new(
        tokens: TokenKeys,
        committer: Committer,
        disk: Allowed,
        metrics: Metrics,
        access: Access,
        allowance: Allowance,
    ) -> Self {
        let standing = Standing::new(committer.clone(), disk.clone());
        let around = Arc::new(Surroundings {
            committer,
            disk,
            metrics,
            ring_bytes: AtomicUsize::new(0),
            remembered: AtomicUsize::new(0),
        });
        Self {
            realm: tokens.realm(),
            tokens: ArcSwap::from_pointee(tokens),
            mailboxes: Mailboxes::default(),
            standing,
            around,
            access: ArcSwap::from_pointee(access),
            allowance: ArcSwap::from_pointee(allowance),
        }
    }

    /// The realm served.
    pub fn realm(&self) -> &RealmId {
        &self.realm
    }

    /// Puts a new access policy, new allowances and new token keys into force.
    pub fn reload(&self, access: Access, allowance: Allowance, tokens: TokenKeys) {
        self.tokens.store(Arc::new(tokens));
        self.access.store(Arc::new(access));
        self.allowance.store(Arc::new(allowance));
    }

    /// What a token says, if this realm sealed it and its last day has not passed.
    ///
    /// # Errors
    /// `token_invalid` or `token_expired`.
    pub fn open(&self, token: &Token, kind: TokenKind, today: Day) -> Result<Right, Reason> {
        let right = self
            .tokens
            .load()
            .open(token)
            .filter(|right| right.kind == kind)
            .ok_or(Reason::TokenInvalid)?;
        if right.expired(today) { Err(Reason::TokenExpired) } else { Ok(right) }
    }

    /// Whether whoever has this token may wait without attaching: it is a member token, and not
    /// revoked.
    pub fn may_wait(&self, token: &Token, today: Day) -> bool {
        self.open(token, TokenKind::Member, today)
            .is_ok_and(|right| self.check_revoked(&right).is_ok())
    }

    /// Seals a token of a mailbox.
    pub fn seal(&self, kind: TokenKind, mailbox: &MailboxId, last_day: Day, class: u8) -> Token {
        self.tokens.load().seal(kind, mailbox, last_day, class)
    }

    /// Whether the owner key may join, and on what condition.
    ///
    /// # Errors
    /// The reason it may not.
    pub fn admit(&self, join: &Join, today: Day) -> Result<Joining, Reason> {
        let mailbox = MailboxId::of_owner(&self.realm, &join.owner_key);
        match self.access.load().admit(&join.owner_key)? {
            Admission::Free => Ok(Joining { mailbox, spends: None }),
            Admission::WithCode => {
                let code = join.join_token.as_ref().ok_or(Reason::CodeRequired)?;
                let right = self.open(code, TokenKind::Join, today)?;
                let code = SpentCode { serial: right.serial, mailbox, last_day: right.expiry_day };
                Ok(Joining { mailbox, spends: Some(code) })
            }
        }
    }

    /// Completes a join: spends its code durably, then seals the member token.
    ///
    /// # Errors
    /// `code_spent`, or `busy` when the store could not tell.
    pub async fn join(
        &self,
        request: u32,
        joining: Joining,
        today: Day,
    ) -> Result<ServerPacket<Payload>, Reason> {
        if let Some(code) = joining.spends {
            self.standing.spend(code).await?;
        }
        let member_token =
            self.seal(TokenKind::Member, &joining.mailbox, today.saturating_add(MEMBER_DAYS), 0);
        Ok(ServerPacket::Joined { request, member_token })
    }

    /// Ends a token of this mailbox; durable when it returns. One whose last day has passed needs
    /// no more.
    ///
    /// # Errors
    /// `token_invalid`, `revocations_full` or `busy`.
    pub async fn revoke(
        &self,
        mailbox: &MailboxId,
        token: &Token,
        today: Day,
    ) -> Result<(), Refusal> {
        let right = self.tokens.load().open(token);
        let right = right
            .filter(|right| right.mailbox == *mailbox && is_revocable(right.kind))
            .ok_or(Reason::TokenInvalid)?;
        if right.expired(today) {
            return Ok(());
        }
        let _turn = self.standing.turn_of(mailbox).await;
        let live = self.mailbox(mailbox);
        let (count, already) = live.revocations(&right.serial)?;
        if already {
            return Ok(());
        }
        if count >= REVOCATIONS_MAX {
            return Err(Reason::RevocationsFull.into());
        }
        let (serial, last_day) = (right.serial, right.expiry_day);
        self.standing.revoke(Revocation { mailbox: *mailbox, serial, last_day }).await?;
        live.revoked(serial);
        Ok(())
    }

    /// Puts a value into a slot by this right; durable when it returns.
    ///
    /// # Errors
    /// `token_revoked`, `rate_limited` or `busy`.
    pub async fn put_slot(
        &self,
        put: PutSlot<Payload>,
        right: Right,
        now: Instant,
    ) -> Result<Put, Refusal> {
        self.check_revoked(&right)?;
        let rate = self.allowance.load().slot_bytes;
        self.standing.put_slot(put, &right.mailbox, &rate, now).await
    }

    /// What the first of these slots hold: as many as have 64 KiB together, one at least.
    ///
    /// # Errors
    /// `busy` when they cannot be read.
    pub fn get_slots(&self, ids: &[SlotId]) -> Result<Vec<Option<Payload>>, Reason> {
        self.standing.get_slots(ids)
    }

    /// Adds to a mailbox's bundle; durable when it returns. Returns how many items it has then.
    ///
    /// # Errors
    /// `bundle_full` or `busy`.
    pub async fn publish(
        &self,
        mailbox: &MailboxId,
        publish: PublishBundle<Payload>,
    ) -> Result<u32, Refusal> {
        self.standing.publish(mailbox, publish).await
    }

    /// Hands out an item of a bundle by this right, and tells its owner where few are left.
    ///
    /// # Errors
    /// `token_revoked`, `rate_limited`, `bundle_empty` or `busy`.
    pub async fn take(&self, right: Right, now: Instant) -> Result<Taken, Refusal> {
        self.check_revoked(&right)?;
        let rate = self.allowance.load().takes;
        let taken = self.standing.take(&right.mailbox, right.serial, &rate, now).await?;
        if let Some(items) = taken.low
            && let Some(owner) = self.mailboxes.get(&right.mailbox)
        {
            owner.bundle_low(items);
        }
        Ok(taken)
    }

    /// How many items a mailbox's bundle has, where there is one and they are few.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    pub fn bundle_low(&self, mailbox: &MailboxId) -> Result<Option<u32>, StoreError> {
        self.standing.low(mailbox)
    }

    fn check_revoked(&self, right: &Right) -> Result<(), Refusal> {
        match self.mailbox(&right.mailbox).revocations(&right.serial)? {
            (_, true) => Err(Reason::TokenRevoked.into()),
            (_, false) => Ok(()),
        }
    }

    /// Serves a mailbox at a connection's place.
    ///
    /// # Errors
    /// [`NotServed`].
    pub fn attach(
        &self,
        right: &Right,
        doorbell: &Arc<Doorbell>,
        place: Place,
        now: Instant,
    ) -> Result<Attachment, NotServed> {
        let Place { slot, number } = place;
        self.mailbox(&right.mailbox).attach(&right.serial, doorbell, slot, number, now)
    }

    /// Puts a frame into each target's mailbox. The answer goes to the sender's doorbell once every
    /// target is decided. Returns whether any of the capabilities was good.
    pub fn post(
        &self,
        post: Post<Payload>,
        ttl_hours: u16,
        sender: &Arc<Doorbell>,
        moment: Moment,
    ) -> bool {
        let mut any_good = false;
        let targets = post.capabilities.len();
        let receipt =
            Arc::new(Receipt::new(post.request, post.frame_id, targets, Arc::clone(sender)));
        let allowance = self.allowance.load();
        for (target, capability) in (0u16..).zip(&post.capabilities) {
            let waiter = Waiter::new(Arc::clone(&receipt), target);
            let right = match self.open(capability, TokenKind::Post, moment.today) {
                Ok(right) => right,
                Err(reason) => {
                    waiter.decide(reason);
                    continue;
                }
            };
            let incoming = Incoming {
                frame_id: post.frame_id,
                payload: post.payload.clone(),
                ttl_hours,
                serial: right.serial,
                class: right.class,
            };
            self.mailbox(&right.mailbox).append(incoming, &allowance, moment.now, waiter);
            any_good = true;
        }
        any_good
    }

    /// Passes a signal to the targets that are attached; nobody is told. Returns whether any of the
    /// capabilities was good.
    pub fn signal(&self, signal: &Signal<Payload>, moment: Moment) -> bool {
        let mut any_good = false;
        let metrics = &self.around.metrics;
        let allowance = self.allowance.load();
        for capability in &signal.capabilities {
            let right = match self.open(capability, TokenKind::Post, moment.today) {
                Ok(right) => right,
                Err(Reason::TokenExpired) => {
                    metrics.signal_dropped(SignalDrop::TokenExpired);
                    continue;
                }
                Err(_) => {
                    metrics.signal_dropped(SignalDrop::TokenInvalid);
                    continue;
                }
            };
            any_good = true;
            let outcome = self.mailboxes.get(&right.mailbox).map_or(
                Err(SignalDropped::NotAttached),
                |mailbox| {
                    let payload = signal.payload.clone();
                    mailbox.signal((right.serial, right.class), payload, &allowance, moment.now)
                },
            );
            match outcome {
                Ok(()) => metrics.signal_delivered(),
                Err(SignalDropped::NotAttached) => metrics.signal_dropped(SignalDrop::NotAttached),
                Err(SignalDropped::Window) => metrics.signal_dropped(SignalDrop::Window),
                Err(SignalDropped::RateLimited) => metrics.signal_dropped(SignalDrop::RateLimited),
                Err(SignalDropped::Revoked) => metrics.signal_dropped(SignalDrop::TokenRevoked),
            }
        }
        any_good
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
    pub async fn forget_outdated(&self, hour: RunningHours, today: Day) -> Result<(), StoreError> {
        self.standing.sweep(hour, today).await
    }

    /// Forgets the mailboxes that are idle, and who has not been busy lately.
    pub fn sweep(&self, now: Instant) {
        self.standing.forget_full(now);
        self.mailboxes.forget_idle(now);
    }

    /// The store can be read again: whoever is served looks again.
    pub fn ring(&self) {
        self.mailboxes.all().iter().for_each(|mailbox| mailbox.ring());
    }

    /// Mailboxes in memory.
    pub fn mailboxes_live(&self) -> usize {
        self.mailboxes.len()
    }

    fn mailbox(&self, id: &MailboxId) -> Arc<Mailbox> {
        self.mailboxes.get_or_insert(id, &self.around)
    }
}

/// An admitted join, before its code is spent.
#[derive(Debug, Clone, Copy)]
pub struct Joining {
    /// The mailbox of the owner key.
    pub mailbox: MailboxId,
    spends: Option<SpentCode>,
}

/// Where on a connection a mailbox is served.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The slot.
    pub slot: u8,
    /// The attachment's number.
    pub number: u32,
}

/// Invite codes belong to nobody, and blobs are not known yet.
fn is_revocable(kind: TokenKind) -> bool {
    match kind {
        TokenKind::Member | TokenKind::Post | TokenKind::Take | TokenKind::Slot => true,
        TokenKind::Join | TokenKind::Blob => false,
    }
}

/// Whether this owner key has this mailbox in this realm.
pub fn owns(realm: &RealmId, owner: &OwnerKey, mailbox: &MailboxId) -> bool {
    MailboxId::of_owner(realm, owner) == *mailbox
}

#[cfg(test)]
mod tests;
