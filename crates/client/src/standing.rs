//! What a connection can do with slots, bundles and revocations.

use bytes::Bytes;
use valise_proto::limits::PUBLISH_BYTES_MAX;
use valise_proto::{
    ClientPacket, PublicationId, PublishBundle, PutId, PutSlot, Reason, Revoke, ServerPacket,
    SlotId, Token,
};

use crate::connection::refusal;
use crate::{Connection, RequestError};

/// What came of putting a value into a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SlotPut {
    /// The slot holds the value.
    Stored,
    /// Another put was first: this is its value.
    Taken(Bytes),
}

/// An item of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleItem {
    /// The item, as its owner has sealed it.
    pub payload: Bytes,
    /// Nothing else was left: others get it too.
    pub last_resort: bool,
}

/// What an owner adds to a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publication {
    /// What the bundle held goes first.
    pub replace: bool,
    /// `None` leaves it as it was.
    pub last_resort: Option<Bytes>,
    /// One-time items.
    pub items: Vec<Bytes>,
}

impl Connection {
    /// Ends a token of an attached mailbox before its last day. Durable when it returns.
    ///
    /// # Errors
    /// [`RequestError`]; repeating it is right.
    pub async fn revoke(&self, attachment: u32, token: &Token) -> Result<(), RequestError> {
        let answer = self.ask(|_, request| {
            ClientPacket::Revoke(Box::new(Revoke { request, attachment, token: *token }))
        });
        match answer.await? {
            ServerPacket::Revoked { .. } => Ok(()),
            other => Err(refusal(other)),
        }
    }

    /// Puts a value of one of the padded sizes into a slot, if nothing is in it.
    ///
    /// # Errors
    /// [`RequestError`]; a retry with the same put id is right.
    pub async fn put_slot(
        &self,
        slot_token: &Token,
        slot_id: SlotId,
        put_id: PutId,
        payload: Bytes,
    ) -> Result<SlotPut, RequestError> {
        check_fits(payload.len())?;
        self.ready().await;
        let slot_token = *slot_token;
        let answer = self.ask(|_, request| {
            let put = PutSlot { request, slot_token, slot_id, put_id, payload };
            ClientPacket::PutSlot(Box::new(put))
        });
        match answer.await? {
            ServerPacket::Stored { .. } => Ok(SlotPut::Stored),
            ServerPacket::Taken { payload, .. } => Ok(SlotPut::Taken(payload)),
            other => Err(refusal(other)),
        }
    }

    /// What slots hold, in order, `None` for a free one. The list may be shorter than `slot_ids`:
    /// ask again for the rest.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn get_slots(&self, slot_ids: &[SlotId]) -> Result<Vec<Option<Bytes>>, RequestError> {
        let slot_ids = slot_ids.to_vec();
        let answer = self.ask(|_, request| ClientPacket::GetSlots { request, slot_ids });
        match answer.await? {
            ServerPacket::Slots { payloads, .. } => Ok(payloads),
            other => Err(refusal(other)),
        }
    }

    /// Adds to the bundle of an attached mailbox; returns how many one-time items it has then.
    ///
    /// # Errors
    /// [`RequestError`]; a retry with the same publication id, before any other publication, is
    /// right.
    pub async fn publish_bundle(
        &self,
        attachment: u32,
        publication_id: PublicationId,
        publication: Publication,
    ) -> Result<u32, RequestError> {
        check_fits(publication.items.iter().chain(&publication.last_resort).map(Bytes::len).sum())?;
        self.ready().await;
        let Publication { replace, last_resort, items } = publication;
        let answer = self.ask(|_, request| {
            ClientPacket::PublishBundle(Box::new(PublishBundle {
                request,
                attachment,
                publication_id,
                replace,
                last_resort,
                items,
            }))
        });
        match answer.await? {
            ServerPacket::Published { items, .. } => Ok(items),
            other => Err(refusal(other)),
        }
    }

    /// Takes an item of somebody's bundle. An item whose answer is lost is lost: take another.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn take_bundle(&self, take_token: &Token) -> Result<BundleItem, RequestError> {
        let take_token = *take_token;
        let answer = self.ask(|_, request| ClientPacket::TakeBundle { request, take_token });
        match answer.await? {
            ServerPacket::BundleItem { last_resort, payload, .. } => {
                Ok(BundleItem { payload, last_resort })
            }
            other => Err(refusal(other)),
        }
    }
}

/// The relay would close the connection at the first byte of a packet that is too long.
fn check_fits(payload: usize) -> Result<(), RequestError> {
    if payload <= PUBLISH_BYTES_MAX {
        return Ok(());
    }
    let reason = Some(Reason::TooLarge);
    Err(RequestError::Refused { reason, retry_after_ms: 0 })
}
