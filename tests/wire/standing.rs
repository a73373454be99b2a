//! What a client says of slots, bundles and revocations, and what it is told.

use std::time::Duration;

use bytes::Bytes;
use valise_proto::{
    ClientPacket, PublicationId, PublishBundle, PutId, PutSlot, Reason, Revoke, ServerPacket,
    SlotId, Token,
};

use crate::wire::Wire;

/// A slot id that can be told from others.
pub fn slot_id(n: u32) -> SlotId {
    let mut id = [0xa5; 32];
    id[..4].copy_from_slice(&n.to_be_bytes());
    SlotId::new(id)
}

/// A put id that can be told from others.
pub fn put_id(n: u32) -> PutId {
    let mut id = [0xb6; 16];
    id[..4].copy_from_slice(&n.to_be_bytes());
    PutId::new(id)
}

/// A publication of these items, which adds to what there is.
pub fn publication(attachment: u32, id: u8, items: Vec<Bytes>) -> PublishBundle<Bytes> {
    let publication_id = PublicationId::new([id; 16]);
    let (replace, last_resort) = (false, None);
    PublishBundle { request: 0, attachment, publication_id, replace, last_resort, items }
}

/// The reason of a refusal.
pub fn reason(answer: ServerPacket<Bytes>) -> Reason {
    match answer {
        ServerPacket::Refused(refused) => refused.reason.unwrap(),
        other => panic!("not refused: {other:?}"),
    }
}

/// The item of an answer, and whether it is the last resort.
pub fn item(answer: ServerPacket<Bytes>) -> (Bytes, bool) {
    match answer {
        ServerPacket::BundleItem { payload, last_resort, .. } => (payload, last_resort),
        other => panic!("no item: {other:?}"),
    }
}

/// Whether the relay was too busy, as a node is where others were ahead of it too often. By then it
/// is time to ask again.
pub async fn was_busy(answer: &ServerPacket<Bytes>) -> bool {
    let ServerPacket::Refused(refused) = answer else { return false };
    let busy = refused.reason == Some(Reason::Busy);
    if busy {
        tokio::time::sleep(Duration::from_millis(refused.retry_after_ms.into())).await;
    }
    busy
}

impl Wire {
    /// Says a put and returns its request.
    pub async fn say_put(&mut self, token: &Token, slot: u32, put: u32, payload: Bytes) -> u32 {
        let request = self.next_request();
        let (slot_token, slot_id, put_id) = (*token, slot_id(slot), put_id(put));
        let put = PutSlot { request, slot_token, slot_id, put_id, payload };
        self.say(&ClientPacket::PutSlot(Box::new(put))).await;
        request
    }

    /// Puts, and waits for the answer to it.
    pub async fn put(
        &mut self,
        token: &Token,
        slot: u32,
        put: u32,
        payload: Bytes,
    ) -> ServerPacket<Bytes> {
        let asked = self.say_put(token, slot, put, payload).await;
        let answer = self.receive().await;
        match &answer {
            ServerPacket::Stored { request } | ServerPacket::Taken { request, .. } => {
                assert_eq!(*request, asked);
            }
            ServerPacket::Refused(refused) => assert_eq!(refused.request, asked),
            other => panic!("no answer to a put: {other:?}"),
        }
        answer
    }

    /// Puts what must be stored.
    pub async fn store(&mut self, token: &Token, slot: u32, put: u32, payload: Bytes) {
        let answer = self.put(token, slot, put, payload).await;
        assert!(matches!(answer, ServerPacket::Stored { .. }), "{answer:?}");
    }

    /// Asks for slots.
    pub async fn say_get(&mut self, slots: impl IntoIterator<Item = u32>) -> ServerPacket<Bytes> {
        let request = self.next_request();
        let slot_ids = slots.into_iter().map(slot_id).collect();
        self.say(&ClientPacket::GetSlots { request, slot_ids }).await;
        self.receive().await
    }

    /// What slots hold.
    pub async fn get(&mut self, slots: impl IntoIterator<Item = u32>) -> Vec<Option<Bytes>> {
        match self.say_get(slots).await {
            ServerPacket::Slots { payloads, .. } => payloads,
            other => panic!("no slots: {other:?}"),
        }
    }

    /// Publishes; the request is numbered here.
    pub async fn say_publish(&mut self, publish: PublishBundle<Bytes>) -> ServerPacket<Bytes> {
        let request = self.next_request();
        let publish = PublishBundle { request, ..publish };
        self.say(&ClientPacket::PublishBundle(Box::new(publish))).await;
        self.receive().await
    }

    /// Publishes what must be taken in; the number of items there are then.
    pub async fn publish(&mut self, publish: PublishBundle<Bytes>) -> u32 {
        match self.say_publish(publish).await {
            ServerPacket::Published { items, .. } => items,
            other => panic!("not published: {other:?}"),
        }
    }

    /// Says that it takes, without waiting.
    pub async fn say_take(&mut self, token: &Token) {
        let request = self.next_request();
        self.say(&ClientPacket::TakeBundle { request, take_token: *token }).await;
    }

    /// Takes, and waits for the answer.
    pub async fn take(&mut self, token: &Token) -> ServerPacket<Bytes> {
        self.say_take(token).await;
        self.receive().await
    }

    /// Revokes a token of an attachment's mailbox.
    pub async fn say_revoke(&mut self, attachment: u32, token: &Token) -> ServerPacket<Bytes> {
        let request = self.next_request();
        let revoke = Revoke { request, attachment, token: *token };
        self.say(&ClientPacket::Revoke(Box::new(revoke))).await;
        self.receive().await
    }

    /// Revokes what must be revoked.
    pub async fn revoke(&mut self, attachment: u32, token: &Token) {
        let answer = self.say_revoke(attachment, token).await;
        assert!(matches!(answer, ServerPacket::Revoked { .. }), "{answer:?}");
    }
}
