//! Carries out what the session decided.

use std::task::{Context, Poll};
use std::time::Instant;

use valise_proto::{CloseReason, Issue, Post, Reason, Refused, ServerPacket, Token, TokenKind};

use super::{Link, Phase};
use crate::engine::Attached;
use crate::engines::{Attaching, Attachment};
use crate::mailbox::NotServed;
use crate::payload::Payload;
use crate::router::{Moment, Place};
use crate::session::{Action, Serving};
use crate::token::Right;
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
            Action::Attach { request, right, place } => {
                return self.attach(request, &right, place, moment.now);
            }
            Action::Detach { request, slot } => {
                self.free(slot);
                self.send(ServerPacket::Detached { request });
            }
            Action::Issue { slot, issue, kind } => self.issue(slot, &issue, kind, moment),
            Action::Revoke { slot, revoke } => {
                self.revoke(revoke.request, slot, &revoke.token, moment);
            }
            Action::PutSlot(put) => self.put_slot(*put, moment),
            Action::GetSlots { request, ids } => self.get_slots(request, ids, moment),
            Action::Publish { slot, publish } => self.publish(slot, *publish),
            Action::TakeBundle { request, token } => self.take(request, &token, moment),
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

    /// Nothing more is read until it is decided: what comes next may be about this attachment.
    fn attach(
        &mut self,
        request: u32,
        right: &Right,
        place: Place,
        now: Instant,
    ) -> Result<(), CloseReason> {
        match self.relay.router.attach(right, &self.doorbell, place, now) {
            Attaching::Done(done) => self.attached(request, place, done),
            Attaching::Waiting(waiting) => {
                // It has proven that the mailbox is its own; what is waited for is not the client.
                self.deadlines.established();
                self.undecided += 1;
                self.attaching = Some((request, place, waiting));
                Ok(())
            }
        }
    }

    /// Goes on with an attach that waits for others. Returns whether it was decided now.
    pub(super) fn go_on_attaching(&mut self, cx: &mut Context<'_>) -> bool {
        let Some((request, place, waiting)) = &mut self.attaching else { return false };
        let Poll::Ready(done) = waiting.as_mut().poll(cx) else { return false };
        let (request, place) = (*request, *place);
        self.attaching = None;
        self.undecided -= 1;
        if let Err(reason) = self.attached(request, place, done) {
            self.close(reason);
        }
        self.tell_replaced();
        true
    }

    fn attached(
        &mut self,
        request: u32,
        place: Place,
        done: Result<Attached<Attachment>, NotServed>,
    ) -> Result<(), CloseReason> {
        let Place { slot, number } = place;
        let Attached { attachment, floor, last, bundle_low } = match done {
            Ok(attached) => attached,
            Err(NotServed::Revoked) => {
                self.refuse_with("attach", request, Reason::TokenRevoked.into());
                return Ok(());
            }
            Err(NotServed::Moved) => {
                self.refuse_with("attach", request, Reason::Moved.into());
                return Ok(());
            }
            Err(NotServed::Store(error)) if error.is_passing() => {
                self.refuse_with("attach", request, Reason::Busy.into());
                return Ok(());
            }
            Err(NotServed::Store(_)) => return Err(CloseReason::StoreFailed),
        };
        let Phase::Open(session) = &mut self.phase else { return Err(CloseReason::OutOfOrder) };
        session.served(slot, number, Serving::new(floor, last));
        if self.slots.len() <= usize::from(slot) {
            self.slots.resize_with(usize::from(slot) + 1, || None);
        }
        attachment.begin();
        self.slots[usize::from(slot)] = Some(attachment);
        self.steer();
        self.deadlines.established();
        self.mail |= 1 << slot;
        self.send(ServerPacket::Attached { request, attachment: number });
        if let Some(items) = bundle_low {
            self.send(ServerPacket::BundleLow { attachment: number, items });
        }
        Ok(())
    }

    fn issue(&mut self, slot: u8, issue: &Issue, kind: TokenKind, moment: Moment) {
        let settings = self.relay.settings();
        self.packets.charge(&settings.packets, issue.count / TOKENS_PER_PACKET, moment.now);
        let Some(mailbox) = self.attachment(slot).map(|attachment| *attachment.mailbox()) else {
            return self.refuse_with("issue", issue.request, Reason::NotAttached.into());
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

    pub(super) fn attachment(&self, slot: u8) -> Option<&Attachment> {
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
        self.steer();
    }
}
