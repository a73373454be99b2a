//! The open session: judges each packet and says what is to be done. Every packet leads to at most
//! one [`Action`].

use valise_proto::limits::{
    ATTACHMENTS_MAX, FAN_OUT_BYTES_MAX, ISSUE_COUNT_MAX, PUBLISH_BYTES_MAX, SLOTS_MAX, TARGETS_MAX,
    TOKEN_DAYS_MAX, TTL_HOURS_DEFAULT, TTL_HOURS_MAX, is_padded,
};
use valise_proto::{
    Attach, Channel, ClientPacket, CloseReason, Issue, Join, Post, PublishBundle, PutSlot, Reason,
    Refused, Revoke, ServerPacket, Signal, SlotId, Token, TokenKind, statement,
};

use super::hello::Greeting;
use super::serving::Serving;
use crate::metrics::SignalDrop;
use crate::payload::Payload;
use crate::router::{Place, Router, owns};
use crate::standing::Refusal;
use crate::token::Right;

/// What the connection is to do.
#[derive(Debug)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Send this.
    Reply(ServerPacket<Payload>),
    /// Refuse the request of the packet of this name.
    Refuse {
        /// The packet's name.
        packet: &'static str,
        /// What to send.
        refusal: Refused,
    },
    /// Judge the join by the access policy, then answer.
    Join(Box<Join>),
    /// Serve the mailbox through the free slot, then answer.
    Attach {
        /// Echoed in the answer.
        request: u32,
        /// The right to its mailbox, which is proven to be the client's.
        right: Right,
        /// Where.
        place: Place,
    },
    /// Stop serving this slot, then answer.
    Detach {
        /// Echoed in the answer.
        request: u32,
        /// Which.
        slot: u8,
    },
    /// Seal tokens of this slot's mailbox, then answer.
    Issue {
        /// Which.
        slot: u8,
        /// What was asked for, in range.
        issue: Issue,
        /// The kind asked for.
        kind: TokenKind,
    },
    /// End a token of this slot's mailbox, then answer.
    Revoke {
        /// Which.
        slot: u8,
        /// What was asked for.
        revoke: Box<Revoke>,
    },
    /// Put the value into the slot; it is padded.
    PutSlot(Box<PutSlot<Payload>>),
    /// Read these slots; they are not too many.
    GetSlots {
        /// Echoed in the answer.
        request: u32,
        /// Which.
        ids: Vec<SlotId>,
    },
    /// Add to the bundle of this slot's mailbox; it is in range.
    Publish {
        /// Which.
        slot: u8,
        /// What was published.
        publish: Box<PublishBundle<Payload>>,
    },
    /// Hand out an item.
    TakeBundle {
        /// Echoed in the answer.
        request: u32,
        /// By this right.
        token: Token,
    },
    /// Pass the frame on; it is in range.
    Post {
        /// What was posted.
        post: Post<Payload>,
        /// How long to keep it.
        ttl_hours: u16,
    },
    /// Pass the signal on; it is in range.
    Signal(Signal<Payload>),
    /// Drop the signal.
    DropSignal(SignalDrop),
    /// Tell this slot's mailbox what is acknowledged.
    Acknowledge {
        /// Which.
        slot: u8,
        /// Up to where.
        up_to: crate::store::Seq,
    },
}

/// An open session: what has been said so far on this connection.
pub struct Session {
    // Static after the opening.
    greeting: Greeting,
    // Counts.
    attaches: u32,
    // By slot; `None` is free.
    serving: Vec<Option<(u32, Serving)>>,
}

impl Session {
    /// A session on a connection that was greeted and has answered.
    pub fn new(greeting: Greeting) -> Self {
        Self { greeting, attaches: 0, serving: Vec::new() }
    }

    /// Judges one packet.
    ///
    /// # Errors
    /// The reason to close the connection.
    pub fn step(
        &mut self,
        router: &Router,
        packet: ClientPacket<Payload>,
        today: u16,
    ) -> Result<Action, CloseReason> {
        match packet {
            ClientPacket::Hello(_) => Err(CloseReason::OutOfOrder),
            ClientPacket::Join(join) => Ok(self.join(router, join)),
            ClientPacket::Attach(attach) => Ok(self.attach(router, &attach, today)),
            ClientPacket::Detach { request, attachment } => {
                Ok(self.slot_of(attachment).map_or_else(
                    || refuse("detach", request, Reason::NotAttached),
                    |slot| Action::Detach { request, slot },
                ))
            }
            ClientPacket::Issue(issue) => Ok(self.issue(issue)),
            ClientPacket::Revoke(revoke) => Ok(self.slot_of(revoke.attachment).map_or_else(
                || refuse("revoke", revoke.request, Reason::NotAttached),
                |slot| Action::Revoke { slot, revoke: revoke.clone() },
            )),
            ClientPacket::PutSlot(put) => Ok(match judge_padding([&put.payload]) {
                Ok(()) => Action::PutSlot(put),
                Err(reason) => refuse("put_slot", put.request, reason),
            }),
            ClientPacket::GetSlots { request, slot_ids } => Ok(match slot_ids.len() {
                1..=SLOTS_MAX => Action::GetSlots { request, ids: slot_ids },
                _ => refuse("get_slots", request, Reason::LimitsInvalid),
            }),
            ClientPacket::PublishBundle(publish) => Ok(self.publish(publish)),
            ClientPacket::TakeBundle { request, take_token } => {
                Ok(Action::TakeBundle { request, token: take_token })
            }
            ClientPacket::Post(post) => Ok(judge_post(post)),
            ClientPacket::Signal(signal) => Ok(judge_signal(signal)),
            ClientPacket::Ack { attachment, n } => self.acknowledge(attachment, n),
            ClientPacket::Ping { request } => Ok(Action::Reply(ServerPacket::Pong { request })),
            ClientPacket::Pong { .. } | ClientPacket::Unknown => Ok(Action::Nothing),
        }
    }

    /// The slot begins to serve the attachment of this number.
    pub fn served(&mut self, slot: u8, number: u32, serving: Serving) {
        let slot = usize::from(slot);
        if self.serving.len() <= slot {
            self.serving.resize_with(slot + 1, || None);
        }
        self.serving[slot] = Some((number, serving));
    }

    /// The slot is free again.
    pub fn freed(&mut self, slot: u8) {
        self.serving[usize::from(slot)] = None;
    }

    /// The deliveries of a slot and its attachment's number.
    pub fn serving(&mut self, slot: u8) -> Option<(u32, &mut Serving)> {
        let (number, serving) = self.serving.get_mut(usize::from(slot))?.as_mut()?;
        Some((*number, serving))
    }

    /// The slot of the attachment of this number.
    pub fn slot_of(&self, attachment: u32) -> Option<u8> {
        let served = |slot: &Option<(u32, Serving)>| {
            slot.as_ref().is_some_and(|(number, _)| *number == attachment)
        };
        self.serving.iter().position(served).and_then(|slot| u8::try_from(slot).ok())
    }

    fn join(&self, router: &Router, join: Box<Join>) -> Action {
        let channel = match self.channel(join.without_channel) {
            Ok(channel) => channel,
            Err(reason) => return refuse("join", join.request, reason),
        };
        let statement = statement::join(router.realm(), &channel, &self.greeting.nonce);
        if join.owner_key.verifies(&statement, &join.signature) {
            Action::Join(join)
        } else {
            refuse("join", join.request, Reason::SignatureInvalid)
        }
    }

    fn attach(&mut self, router: &Router, attach: &Attach, today: u16) -> Action {
        // Every Attach counts, refused or not, so that no signature is ever good twice.
        let number = self.attaches;
        self.attaches += 1;
        match self.judge_attach(router, attach, number, today) {
            Ok((right, slot)) => {
                Action::Attach { request: attach.request, right, place: Place { slot, number } }
            }
            Err(reason) => refuse("attach", attach.request, reason),
        }
    }

    fn judge_attach(
        &self,
        router: &Router,
        attach: &Attach,
        number: u32,
        today: u16,
    ) -> Result<(Right, u8), Reason> {
        let slot = self.free_slot().ok_or(Reason::TooManyAttachments)?;
        let channel = self.channel(attach.without_channel)?;
        let right = router.open(&attach.member_token, TokenKind::Member, today)?;
        if !owns(router.realm(), &attach.owner_key, &right.mailbox) {
            return Err(Reason::NotOwner);
        }
        let nonce = &self.greeting.nonce;
        let statement = statement::attach(router.realm(), &channel, nonce, &right.mailbox, number);
        if !attach.owner_key.verifies(&statement, &attach.signature) {
            return Err(Reason::SignatureInvalid);
        }
        Ok((right, slot))
    }

    fn issue(&self, issue: Issue) -> Action {
        let Some(slot) = self.slot_of(issue.attachment) else {
            return refuse("issue", issue.request, Reason::NotAttached);
        };
        let kind = match issue.kind {
            Some(TokenKind::Join | TokenKind::Blob) | None => {
                return refuse("issue", issue.request, Reason::KindInvalid);
            }
            Some(kind) => kind,
        };
        let in_range = (1..=ISSUE_COUNT_MAX).contains(&issue.count)
            && (1..=TOKEN_DAYS_MAX).contains(&issue.days)
            && issue.rate_class <= u32::from(u8::MAX);
        if !in_range {
            return refuse("issue", issue.request, Reason::LimitsInvalid);
        }
        Action::Issue { slot, issue, kind }
    }

    fn publish(&self, publish: Box<PublishBundle<Payload>>) -> Action {
        let request = publish.request;
        let payloads = || publish.items.iter().chain(&publish.last_resort);
        let judged = judge_padding(payloads()).and_then(|()| {
            let bytes: usize = payloads().map(Payload::len).sum();
            if bytes > PUBLISH_BYTES_MAX { Err(Reason::TooLarge) } else { Ok(()) }
        });
        match (self.slot_of(publish.attachment), judged) {
            (None, _) => refuse("publish_bundle", request, Reason::NotAttached),
            (_, Err(reason)) => refuse("publish_bundle", request, reason),
            (Some(slot), Ok(())) => Action::Publish { slot, publish },
        }
    }

    /// An `Ack` for an attachment that is gone says nothing: it may have crossed its `Replaced`.
    fn acknowledge(&mut self, attachment: u32, n: u64) -> Result<Action, CloseReason> {
        let Some(slot) = self.slot_of(attachment) else {
            let ever = attachment < self.attaches;
            return if ever { Ok(Action::Nothing) } else { Err(CloseReason::AckInvalid) };
        };
        let (_, serving) = self.serving(slot).expect("the slot was just found");
        let up_to = serving.acknowledge(n).map_err(|_| CloseReason::AckInvalid)?;
        Ok(up_to.map_or(Action::Nothing, |up_to| Action::Acknowledge { slot, up_to }))
    }

    fn channel(&self, without: bool) -> Result<Channel, Reason> {
        match without {
            true if self.greeting.channel_required => Err(Reason::ChannelRequired),
            true => Ok(Channel::UNSEEN),
            false => Ok(self.greeting.channel),
        }
    }

    fn free_slot(&self) -> Option<u8> {
        let free = self.serving.iter().position(Option::is_none).unwrap_or(self.serving.len());
        u8::try_from(free).ok().filter(|_| free < ATTACHMENTS_MAX)
    }
}

fn judge_post(post: Post<Payload>) -> Action {
    let ttl_hours = if post.ttl_hours == 0 { TTL_HOURS_DEFAULT } else { post.ttl_hours };
    let judged = judge_fan_out(post.capabilities.len(), post.payload.len());
    let judged =
        judged.and(if ttl_hours > TTL_HOURS_MAX { Err(Reason::TtlInvalid) } else { Ok(()) });
    match judged {
        Ok(()) => {
            let ttl_hours = u16::try_from(ttl_hours).expect("at most 90 days");
            Action::Post { post, ttl_hours }
        }
        Err(reason) => refuse("post", post.request, reason),
    }
}

fn judge_signal(signal: Signal<Payload>) -> Action {
    match judge_fan_out(signal.capabilities.len(), signal.payload.len()) {
        Ok(()) => Action::Signal(signal),
        Err(Reason::NotPadded) => Action::DropSignal(SignalDrop::NotPadded),
        Err(Reason::TooManyTargets) => Action::DropSignal(SignalDrop::TooManyTargets),
        Err(_) => Action::DropSignal(SignalDrop::TooLarge),
    }
}

fn judge_padding<'a>(payloads: impl IntoIterator<Item = &'a Payload>) -> Result<(), Reason> {
    let padded = payloads.into_iter().all(|payload| is_padded(payload.len()));
    if padded { Ok(()) } else { Err(Reason::NotPadded) }
}

fn judge_fan_out(targets: usize, payload: usize) -> Result<(), Reason> {
    if !is_padded(payload) {
        Err(Reason::NotPadded)
    } else if targets == 0 || targets > TARGETS_MAX {
        Err(Reason::TooManyTargets)
    } else if targets * payload > FAN_OUT_BYTES_MAX {
        Err(Reason::TooLarge)
    } else {
        Ok(())
    }
}

/// The action that refuses a request.
pub(super) fn refuse(packet: &'static str, request: u32, reason: Reason) -> Action {
    let Refusal { retry_after_ms, .. } = reason.into();
    Action::Refuse { packet, refusal: Refused { request, reason: Some(reason), retry_after_ms } }
}
