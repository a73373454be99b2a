//! Carries out what the session decided.

use std::sync::Arc;
use std::time::Instant;

use valise_proto::{
    CloseReason, Issue, Join, MailboxId, Post, Reason, Refused, ServerPacket, Token, TokenKind,
};

use super::{Link, Phase};
use crate::payload::Payload;
use crate::router::{Moment, retry_after_ms};
use crate::session::{Action, Serving};
use crate::transport::Transport;

/// An issued token costs this fraction of a packet in the connection's rate: sealing is work too.
const TOKENS_PER_PACKET: u32 = 8;

impl<T: Transport> Link<T> {
    pub(super) fn act(&mut self, action: Action, moment: Moment) -> Result<(), CloseReason> {
        match action {
            Action::Nothing => {}
            Action::Reply(packet) => self.send(packet),
            Action::Refuse { packet, refusal } => self.refuse(packet, refusal),
            Action::Join(join) => self.join(&join, moment),
            Action::Attach { request, mailbox, slot, number } => {
                return self.attach(request, &mailbox, slot, number, moment.now);
            }
            Action::Detach { request, slot } => {
                self.free(slot);
                self.send(ServerPacket::Detached { request });
            }
            Action::Issue { slot, issue, kind } => self.issue(slot, &issue, kind, moment),
            Action::Post { post, ttl_hours } => self.post(post, ttl_hours, moment),
            Action::Signal(signal) => {
                if self.relay.router.signal(&signal, moment) {
                    self.deadlines.established();
                }
            }
            Action::DropSignal(reason) => self.relay.metrics.signal_dropped(reason),
            Action::Acknowledge { slot, up_to } => {
                if let Some(attachment) = self.attachment(slot) {
                    attachment.acknowledge(up_to, moment.now);
                }
                // The window may have opened.
                self.mail |= 1 << slot;
            }
        }
        Ok(())
    }

    fn refuse(&mut self, packet: &'static str, refusal: Refused) {
        if let Some(reason) = refusal.reason {
            self.relay.metrics.refusal(packet, reason);
        }
        self.send(ServerPacket::Refused(refusal));
    }

    fn refuse_for(&mut self, packet: &'static str, request: u32, reason: Reason) {
        let retry_after_ms = retry_after_ms(reason);
        self.refuse(packet, Refused { request, reason: Some(reason), retry_after_ms });
    }

    /// A join that spends an invite code waits for the disk in a task of its own; its answer is
    /// left at the door like every other.
    fn join(&mut self, join: &Join, moment: Moment) {
        if let Err(wait) = self.relay.take_join(self.prefix, moment.now) {
            let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
            let reason = Some(Reason::RateLimited);
            return self.refuse("join", Refused { request: join.request, reason, retry_after_ms });
        }
        let joining = match self.relay.router.admit(join, moment.today) {
            Ok(joining) => joining,
            Err(reason) => return self.refuse_for("join", join.request, reason),
        };
        self.undecided += 1;
        let (relay, doorbell) = (Arc::clone(&self.relay), Arc::clone(&self.doorbell));
        let request = join.request;
        tokio::spawn(async move {
            let answer = relay.router.join(request, joining, moment.today).await;
            doorbell.answer(answer.unwrap_or_else(|reason| {
                relay.metrics.refusal("join", reason);
                let retry_after_ms = retry_after_ms(reason);
                ServerPacket::Refused(Refused { request, reason: Some(reason), retry_after_ms })
            }));
        });
    }

    fn attach(
        &mut self,
        request: u32,
        mailbox: &MailboxId,
        slot: u8,
        number: u32,
        now: Instant,
    ) -> Result<(), CloseReason> {
        let attached = self.relay.router.attach(mailbox, &self.doorbell, slot, number, now);
        let attachment = match attached {
            Ok(attachment) => attachment,
            Err(error) if error.is_passing() => {
                self.refuse_for("attach", request, Reason::Busy);
                return Ok(());
            }
            Err(_) => return Err(CloseReason::StoreFailed),
        };
        let Phase::Open(session) = &mut self.phase else { return Err(CloseReason::OutOfOrder) };
        session.served(slot, number, Serving::new(attachment.floor, attachment.last));
        if self.slots.len() <= usize::from(slot) {
            self.slots.resize_with(usize::from(slot) + 1, || None);
        }
        self.slots[usize::from(slot)] = Some(attachment);
        self.deadlines.established();
        self.mail |= 1 << slot;
        self.send(ServerPacket::Attached { request, attachment: number });
        Ok(())
    }

    fn issue(&mut self, slot: u8, issue: &Issue, kind: TokenKind, moment: Moment) {
        let settings = self.relay.settings();
        self.packets.charge(&settings.packets, issue.count / TOKENS_PER_PACKET, moment.now);
        let Some(mailbox) = self.attachment(slot).map(|attachment| *attachment.mailbox()) else {
            return self.refuse_for("issue", issue.request, Reason::NotAttached);
        };
        let days = u16::try_from(issue.days).expect("the session has checked the range");
        let class = u8::try_from(issue.rate_class).expect("the session has checked the range");
        let last_day = moment.today.saturating_add(days);
        let seal = |_| self.relay.router.seal(kind, &mailbox, last_day, class);
        let tokens: Vec<Token> = (0..issue.count).map(seal).collect();
        self.send(ServerPacket::Issued { request: issue.request, tokens });
    }

    fn post(&mut self, post: Post<Payload>, ttl_hours: u16, moment: Moment) {
        self.undecided += 1;
        if self.relay.router.post(post, ttl_hours, &self.doorbell, moment) {
            self.deadlines.established();
        }
    }

    fn attachment(&self, slot: u8) -> Option<&crate::mailbox::Attachment> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    /// The slot that serves the attachment of this number.
    pub(super) fn slot_of(&self, number: u32) -> Option<u8> {
        match &self.phase {
            Phase::Open(session) => session.slot_of(number),
            Phase::Greeted(_) => None,
        }
    }

    /// Stops serving a slot.
    pub(super) fn free(&mut self, slot: u8) {
        self.slots[usize::from(slot)] = None;
        self.mail &= !(1 << slot);
        if let Phase::Open(session) = &mut self.phase {
            session.freed(slot);
        }
    }
}
