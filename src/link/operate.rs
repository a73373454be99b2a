//! Requests that wait for their turn and the disk: each in a task of its own, whose answer is left
//! at the door like every other.

use std::sync::Arc;

use valise_proto::{
    Join, PublishBundle, PutSlot, Reason, Refused, ServerPacket, SlotId, Token, TokenKind,
};

use super::Link;
use crate::payload::Payload;
use crate::router::Moment;
use crate::standing::{Put, Refusal};
use crate::transport::Transport;

/// A slot read costs this fraction of a packet in the connection's rate: reading is work too.
const SLOTS_PER_PACKET: u32 = 8;

impl<T: Transport> Link<T> {
    /// Runs a request and answers it.
    fn operate(
        &mut self,
        (packet, request): (&'static str, u32),
        work: impl Future<Output = Result<ServerPacket<Payload>, Refusal>> + Send + 'static,
    ) {
        self.undecided += 1;
        self.operations += 1;
        let (relay, doorbell) = (Arc::clone(&self.relay), Arc::clone(&self.doorbell));
        tokio::spawn(async move {
            let answer = work.await;
            doorbell.answer(answer.unwrap_or_else(|refusal| {
                relay.metrics.refusal(packet, refusal.reason);
                refused(request, refusal)
            }));
        });
    }

    pub(super) fn refuse_with(&mut self, packet: &'static str, request: u32, refusal: Refusal) {
        self.relay.metrics.refusal(packet, refusal.reason);
        self.send(refused(request, refusal));
    }

    pub(super) fn join(&mut self, join: &Join, moment: Moment) {
        if let Err(wait) = self.relay.take_join(self.prefix, moment.now) {
            return self.refuse_with("join", join.request, Refusal::too_often(wait));
        }
        let joining = match self.relay.router.admit(join, moment.today) {
            Ok(joining) => joining,
            Err(reason) => return self.refuse_with("join", join.request, reason.into()),
        };
        let (relay, request) = (Arc::clone(&self.relay), join.request);
        self.operate(("join", request), async move {
            Ok(relay.router.join(request, joining, moment.today).await?)
        });
    }

    pub(super) fn revoke(&mut self, request: u32, slot: u8, token: &Token, moment: Moment) {
        let Some(mailbox) = self.attachment(slot).map(|attachment| *attachment.mailbox()) else {
            return self.refuse_with("revoke", request, Reason::NotAttached.into());
        };
        let (relay, token) = (Arc::clone(&self.relay), *token);
        self.operate(("revoke", request), async move {
            relay.router.revoke(&mailbox, &token, moment.today).await?;
            Ok(ServerPacket::Revoked { request })
        });
    }

    pub(super) fn put_slot(&mut self, put: PutSlot<Payload>, moment: Moment) {
        let request = put.request;
        let right = match self.relay.router.open(&put.slot_token, TokenKind::Slot, moment.today) {
            Ok(right) => right,
            Err(reason) => return self.refuse_with("put_slot", request, reason.into()),
        };
        self.deadlines.established();
        let relay = Arc::clone(&self.relay);
        self.operate(("put_slot", request), async move {
            Ok(match relay.router.put_slot(put, right, moment.now).await? {
                Put::Stored => ServerPacket::Stored { request },
                Put::Taken(payload) => ServerPacket::Taken { request, payload },
            })
        });
    }

    pub(super) fn get_slots(&mut self, request: u32, ids: Vec<SlotId>, moment: Moment) {
        let settings = self.relay.settings();
        let count = u32::try_from(ids.len()).expect("the session has checked the range");
        self.packets.charge(&settings.packets, count / SLOTS_PER_PACKET, moment.now);
        match self.relay.router.get_slots_now(&ids) {
            Some(Ok(payloads)) => self.send(ServerPacket::Slots { request, payloads }),
            Some(Err(reason)) => self.refuse_with("get_slots", request, reason.into()),
            None => {
                let relay = Arc::clone(&self.relay);
                self.operate(("get_slots", request), async move {
                    let payloads = relay.router.get_slots(&ids).await?;
                    Ok(ServerPacket::Slots { request, payloads })
                });
            }
        }
    }

    pub(super) fn publish(&mut self, slot: u8, publish: PublishBundle<Payload>) {
        let request = publish.request;
        let Some(mailbox) = self.attachment(slot).map(|attachment| *attachment.mailbox()) else {
            return self.refuse_with("publish_bundle", request, Reason::NotAttached.into());
        };
        let relay = Arc::clone(&self.relay);
        self.operate(("publish_bundle", request), async move {
            let items = relay.router.publish(&mailbox, publish).await?;
            Ok(ServerPacket::Published { request, items })
        });
    }

    pub(super) fn take(&mut self, request: u32, token: &Token, moment: Moment) {
        let right = match self.relay.router.open(token, TokenKind::Take, moment.today) {
            Ok(right) => right,
            Err(reason) => return self.refuse_with("take_bundle", request, reason.into()),
        };
        self.deadlines.established();
        let relay = Arc::clone(&self.relay);
        self.operate(("take_bundle", request), async move {
            let taken = relay.router.take(right, moment.now).await?;
            let (last_resort, payload) = (taken.last_resort, taken.payload);
            Ok(ServerPacket::BundleItem { request, last_resort, payload })
        });
    }
}

fn refused(request: u32, refusal: Refusal) -> ServerPacket<Payload> {
    let Refusal { reason, retry_after_ms } = refusal;
    ServerPacket::Refused(Refused { request, reason: Some(reason), retry_after_ms })
}
