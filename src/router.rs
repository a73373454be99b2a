//! Accept, refuse, or forward: opens the rights, finds the mailboxes, and hands each its frame. A
//! post goes from the sender's task straight to the recipient's doorbell.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use valise_proto::{
    Join, MailboxId, OwnerKey, Post, PublishBundle, PutSlot, RealmId, Reason, ServerPacket, Signal,
    SlotId, Token, TokenKind,
};

use crate::access::{Access, Admission};
use crate::doorbell::Doorbell;
use crate::engine::{Attach, Engine};
use crate::engines::{Attaching, Engines, Steered};
use crate::mailbox::{Allowance, Incoming, SignalDropped};
use crate::metrics::{Metrics, SignalDrop};
use crate::payload::Payload;
use crate::receipt::{Receipt, Waiter};
use crate::standing::{Put, Refusal, Taken};
use crate::store::{Revocation, SpentCode};
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
    engine: Engines,
    metrics: Metrics,
    // Replaced as a whole by a reload.
    tokens: ArcSwap<TokenKeys>,
    access: ArcSwap<Access>,
    allowance: ArcSwap<Allowance>,
}

/// How long a member token issued by `Join` is valid, in days.
const MEMBER_DAYS: u16 = 400;

impl Router {
    /// A router over this realm's rights and an engine.
    pub fn new(
        engine: Engines,
        tokens: TokenKeys,
        metrics: Metrics,
        access: Access,
        allowance: Allowance,
    ) -> Self {
        Self {
            realm: tokens.realm(),
            engine,
            metrics,
            tokens: ArcSwap::from_pointee(tokens),
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

    /// A connection whose door this is, where it may be asked to move.
    pub fn connected(&self, door: &Arc<Doorbell>) -> Option<Steered> {
        self.engine.connected(door)
    }

    /// Whether whoever has this token may wait without attaching: it is a member token, and not
    /// known here to be revoked. One node of many may have to ask others, and does when it matters.
    pub fn may_wait(&self, token: &Token, today: Day) -> bool {
        let revoked = |right: Right| match &self.engine {
            Engines::Local(local) => local.is_revoked_now(&right.mailbox, &right.serial),
            Engines::Cluster(cluster) => Ok(cluster.knows_revoked(&right.mailbox, &right.serial)),
        };
        self.open(token, TokenKind::Member, today)
            .is_ok_and(|right| revoked(right).is_ok_and(|revoked| !revoked))
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
            self.engine.spend(code).await?;
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
        let (serial, last_day) = (right.serial, right.expiry_day);
        self.engine.revoke(Revocation { mailbox: *mailbox, serial, last_day }).await
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
        self.check_revoked(&right).await?;
        let rate = self.allowance.load().slot_bytes;
        self.engine.put_slot(put, &right.mailbox, &rate, now).await
    }

    /// What the first of these slots hold: as many as have 64 KiB together, one at least.
    ///
    /// # Errors
    /// `busy` when they cannot be read.
    pub async fn get_slots(&self, ids: &[SlotId]) -> Result<Vec<Option<Payload>>, Reason> {
        self.engine.get_slots(ids).await
    }

    /// The same, where nobody has to be asked.
    pub fn get_slots_now(&self, ids: &[SlotId]) -> Option<Result<Vec<Option<Payload>>, Reason>> {
        match &self.engine {
            Engines::Local(local) => Some(local.get_slots_now(ids)),
            Engines::Cluster(_) => None,
        }
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
        self.engine.publish(mailbox, publish).await
    }

    /// Hands out an item of a bundle by this right, and tells its owner where few are left.
    ///
    /// # Errors
    /// `token_revoked`, `rate_limited`, `bundle_empty` or `busy`.
    pub async fn take(&self, right: Right, now: Instant) -> Result<Taken, Refusal> {
        self.check_revoked(&right).await?;
        let rate = self.allowance.load().takes;
        let taken = self.engine.take(&right.mailbox, right.serial, &rate, now).await?;
        if let Some(items) = taken.low {
            self.engine.bundle_is_low(&right.mailbox, items);
        }
        Ok(taken)
    }

    async fn check_revoked(&self, right: &Right) -> Result<(), Refusal> {
        match self.engine.is_revoked(&right.mailbox, &right.serial).await? {
            true => Err(Reason::TokenRevoked.into()),
            false => Ok(()),
        }
    }

    /// Serves a mailbox at a connection's place.
    pub fn attach(
        &self,
        right: &Right,
        doorbell: &Arc<Doorbell>,
        place: Place,
        now: Instant,
    ) -> Attaching {
        let Place { slot, number } = place;
        let (mailbox, serial) = (right.mailbox, right.serial);
        let doorbell = Arc::clone(doorbell);
        self.engine.attach_soon(Attach { mailbox, serial, doorbell, slot, number, now })
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
            self.engine.append(&right.mailbox, incoming, &allowance, moment.now, waiter);
            any_good = true;
        }
        any_good
    }

    /// Passes a signal to the targets that are attached; nobody is told. Returns whether any of the
    /// capabilities was good.
    pub fn signal(&self, signal: &Signal<Payload>, moment: Moment) -> bool {
        let mut any_good = false;
        let metrics = &self.metrics;
        let allowance = self.allowance.load();
        let mut reached = HashSet::new();
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
            // Several capabilities of one mailbox are one signal.
            if reached.contains(&right.mailbox) {
                continue;
            }
            let by = (right.serial, right.class);
            let payload = signal.payload.clone();
            let outcome = self.engine.signal(&right.mailbox, by, payload, &allowance, moment.now);
            if outcome.is_ok() && signal.capabilities.len() > 1 {
                reached.insert(right.mailbox);
            }
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
