//! Accept, refuse, or forward: opens the rights, finds the mailboxes, and hands each its frame. A
//! post goes from the sender's task straight to the recipient's doorbell.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use arc_swap::ArcSwap;
use valise_proto::{
    Join, MailboxId, OwnerKey, Post, RealmId, Reason, ServerPacket, Signal, Token, TokenKind,
};

use crate::access::{Access, Admission};
use crate::committer::Committer;
use crate::doorbell::Doorbell;
use crate::limits::BUSY_RETRY_MS;
use crate::mailbox::{Allowance, Attachment, Incoming, Mailbox, SignalDropped, Surroundings};
use crate::metrics::{Metrics, SignalDrop};
use crate::payload::Payload;
use crate::receipt::{Receipt, Waiter};
use crate::registry::Mailboxes;
use crate::store::{RunningHours, SpentCode, StoreError};
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
    tokens: TokenKeys,
    mailboxes: Mailboxes,
    around: Arc<Surroundings>,
    // Replaced as a whole by a reload.
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
        metrics: Metrics,
        access: Access,
        allowance: Allowance,
    ) -> Self {
        let around = Arc::new(Surroundings {
            committer,
            metrics,
            ring_bytes: AtomicUsize::new(0),
            remembered: AtomicUsize::new(0),
        });
        Self {
            realm: tokens.realm(),
            tokens,
            mailboxes: Mailboxes::default(),
            around,
            access: ArcSwap::from_pointee(access),
            allowance: ArcSwap::from_pointee(allowance),
        }
    }

    /// The realm served.
    pub fn realm(&self) -> &RealmId {
        &self.realm
    }

    /// Puts a new access policy and new allowances into force.
    pub fn reload(&self, access: Access, allowance: Allowance) {
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
            .open(token)
            .filter(|right| right.kind == kind)
            .ok_or(Reason::TokenInvalid)?;
        if right.expired(today) { Err(Reason::TokenExpired) } else { Ok(right) }
    }

    /// Seals a token of a mailbox.
    pub fn seal(&self, kind: TokenKind, mailbox: &MailboxId, last_day: Day, class: u8) -> Token {
        self.tokens.seal(kind, mailbox, last_day, class)
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
            self.spend(code).await?;
        }
        let member_token =
            self.seal(TokenKind::Member, &joining.mailbox, today.saturating_add(MEMBER_DAYS), 0);
        Ok(ServerPacket::Joined { request, member_token })
    }

    async fn spend(&self, code: SpentCode) -> Result<(), Reason> {
        let _turn = self.mailboxes.spending().await;
        match self.around.committer.store().spent(&code.serial) {
            Ok(Some(earlier)) if earlier == code.mailbox => Ok(()),
            Ok(Some(_)) => Err(Reason::CodeSpent),
            Ok(None) => self.around.committer.spend(code).await.map_err(|_| Reason::Busy),
            Err(_) => Err(Reason::Busy),
        }
    }

    /// Serves a mailbox through a connection's slot.
    ///
    /// # Errors
    /// [`StoreError`] when what the mailbox holds cannot be read.
    pub fn attach(
        &self,
        mailbox: &MailboxId,
        doorbell: &Arc<Doorbell>,
        slot: u8,
        number: u32,
        now: Instant,
    ) -> Result<Attachment, StoreError> {
        self.mailbox(mailbox).attach(doorbell, slot, number, now)
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
                    mailbox.signal(right.serial, payload, &allowance, moment.now)
                },
            );
            match outcome {
                Ok(()) => metrics.signal_delivered(),
                Err(SignalDropped::NotAttached) => metrics.signal_dropped(SignalDrop::NotAttached),
                Err(SignalDropped::Window) => metrics.signal_dropped(SignalDrop::Window),
                Err(SignalDropped::RateLimited) => metrics.signal_dropped(SignalDrop::RateLimited),
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
        self.around.committer.store().expired(hour)
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

    /// Forgets the mailboxes that are idle.
    pub fn sweep(&self, now: Instant) {
        self.mailboxes.forget_idle(now);
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

/// When a refusal for this reason is worth a retry, in milliseconds.
pub fn retry_after_ms(reason: Reason) -> u32 {
    if reason == Reason::Busy { BUSY_RETRY_MS } else { 0 }
}

/// Whether this owner key has this mailbox in this realm.
pub fn owns(realm: &RealmId, owner: &OwnerKey, mailbox: &MailboxId) -> bool {
    MailboxId::of_owner(realm, owner) == *mailbox
}

#[cfg(test)]
mod tests;
