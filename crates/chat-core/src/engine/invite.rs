//! Invites: a link opens a slot, and the slot holds all that is needed to begin.

use aws_lc_rs::digest;
use bytes::Bytes;
use prost::Message as _;
use serde_json::json;
use valise_client::SlotPut;

use super::core::{Core, now_ms};
use super::effect::{Gather, Gathered, Job, Purpose, Ticket};
use super::fault::Fault;
use super::records::state;
use crate::api::{Link, Refusal};
use crate::identity::{InviteLink, is_sound};
use crate::relays::RelayError;
use crate::seal::item;
use crate::vault::Transaction;
use crate::wire;

impl Core {
    /// A link that can be followed.
    pub(super) fn check_invite(
        &mut self,
        tx: &Transaction<'_>,
        link: &str,
        allow_relay: bool,
    ) -> Result<InviteLink, Fault> {
        let link: InviteLink = link
            .parse()
            .map_err(|error| Fault::refused("bad_link", format!("this is no invite: {error}")))?;
        let (relay, trace) = (link.relay.to_string(), invite_trace(link.secret()));
        if allow_relay {
            self.permit_named(tx, &trace)?;
        }
        if self.may_reach(&relay) {
            return Ok(link);
        }
        if !allow_relay {
            self.refuse_new(tx, &[relay], &trace)?;
        } else {
            self.allow(tx, &relay, true)?;
        }
        Ok(link)
    }

    /// The tokens are there: what the link opens is put into its slot.
    pub(super) fn make_invite(
        &mut self,
        tx: &Transaction<'_>,
        ticket: Ticket,
        device_link: Option<Vec<u8>>,
        gathered: Gathered,
    ) -> Result<(), Fault> {
        let is_link = device_link.is_some();
        let (Some(post), Some(take), Some(slot)) =
            (gathered.post.first(), gathered.take.first(), gathered.slot)
        else {
            return Err(Fault::refused("no_tokens", "the relay gave no tokens; try again"));
        };
        let link = InviteLink::new(self.own_relay.clone(), valise_client::random::bytes());
        let capability = post.as_bytes().to_vec();
        let content = if let Some(join_code) = device_link {
            wire::LinkOffer {
                account: self.me.account.clone(),
                root_key: self.own_root()?.1.to_vec(),
                hpke_key: self.me.hpke_public.clone(),
                address: Some(wire::Address {
                    relay: self.me.relay.clone(),
                    capability: capability.clone(),
                }),
                relay: self.me.relay.clone(),
                join_code,
            }
            .encode_to_vec()
        } else {
            self.account_card(tx, capability.clone(), take.as_bytes().to_vec())?.encode_to_vec()
        };
        let key = if is_link { link.device_key() } else { link.key() };
        let payload = item::seal(&key, &content).map_err(|_| Fault::damaged("an invite"))?;
        tx.insert(&state::Invite {
            secret: link.secret().to_vec(),
            capability,
            take_token: take.as_bytes().to_vec(),
            made_ms: now_ms(),
            is_link,
        })?;
        self.start(Job::PutInvite { ticket, link, is_link, token: slot, payload });
        Ok(())
    }

    /// The slot holds it: the link can be handed out.
    pub(super) fn invite_put(
        &mut self,
        ticket: Ticket,
        link: &InviteLink,
        result: Result<SlotPut, RelayError>,
    ) {
        match result {
            Ok(SlotPut::Stored) => self.answer(ticket, json!(Link { link: link.to_string() })),
            Ok(SlotPut::Taken(_)) => {
                let text = "the relay says that somebody has guessed the invite; make another one";
                self.refuse(ticket, Refusal::new("taken", text));
            }
            Err(error) => {
                let text = format!("the relay could not keep the invite: {error}");
                self.refuse(ticket, Refusal::new("unreachable", text));
            }
        }
    }

    /// What an invite opened.
    pub(super) fn invite_read(
        &mut self,
        tx: &Transaction<'_>,
        ticket: Ticket,
        link: &InviteLink,
        result: Result<Option<Bytes>, RelayError>,
    ) -> Result<(), Fault> {
        match self.invited(tx, ticket, link, result) {
            Err(Fault::Refused(refusal)) => {
                self.refuse(ticket, refusal);
                Ok(())
            }
            done => done,
        }
    }

    fn invited(
        &mut self,
        tx: &Transaction<'_>,
        ticket: Ticket,
        link: &InviteLink,
        result: Result<Option<Bytes>, RelayError>,
    ) -> Result<(), Fault> {
        let value = result.map_err(|error| {
            Fault::refused("unreachable", format!("the invite's relay could not be asked: {error}"))
        })?;
        let Some(value) = value else {
            let text = "there is nothing behind this invite: it was mistyped, or is older than 90 days; ask for a new one";
            return Err(Fault::refused("no_invite", text));
        };
        let card = item::open(&link.key(), &value).ok();
        let card = card.and_then(|content| wire::Card::decode(content.as_slice()).ok());
        let Some(card) = card else {
            let text = "what the invite opens is not what was put there; ask for a new one";
            return Err(Fault::refused("bad_invite", text));
        };
        let newcomers = if is_sound(&card) { Self::newcomers(&card) } else { Vec::new() };
        let Some((_, first)) = newcomers.first() else {
            return Err(Fault::refused(
                "bad_invite",
                "the invite names no device; ask for a new one",
            ));
        };
        if first.account == self.me.account {
            let text = "this is your own invite: send it to somebody else";
            return Err(Fault::refused("own_invite", text));
        }
        let mut cards = card.devices.clone();
        let siblings = self.sibling_newcomers(tx)?;
        cards.extend(siblings.into_iter().map(|(card, _)| card));
        let invite = invite_trace(link.secret());
        self.require(tx, &cards, &invite)?;
        let gather = Gather { post: 1, slot: true, cards, ..Default::default() };
        let card = Box::new(card);
        let purpose = Purpose::Greet { card, invite, ticket: Some(ticket) };
        self.start(Job::Gather(purpose, gather));
        Ok(())
    }

    /// An invite that was followed is of no use to anyone else.
    pub(super) fn use_up_invite(
        &mut self,
        tx: &Transaction<'_>,
        trace: &[u8],
    ) -> Result<(), Fault> {
        if trace.is_empty() {
            return Ok(());
        }
        for (id, invite) in tx.all::<state::Invite>()? {
            if invite_trace(&invite.secret) == trace {
                // The rest of the greetings may still be under way.
                self.revoke_later(tx, invite.capability, 10 * 60 * 1_000)?;
                self.revoke_later(tx, invite.take_token, 0)?;
                tx.remove::<state::Invite>(id)?;
            }
        }
        Ok(())
    }
}

/// What tells the inviter which invite was followed, and nobody else anything.
fn invite_trace(secret: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, secret).as_ref().to_vec()
}
