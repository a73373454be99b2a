//! A disk that fails: nothing is accepted that is not kept, and whoever asks is told.

use std::sync::Arc;

use bytes::Bytes;
use valise::store::Store;
use valise_client::OwnerKeyPair;
use valise_proto::{CloseReason, MailboxId, Reason, ServerPacket, TokenKind};

use crate::breakable::{Breakable, Health};
use crate::on_both_transports;
use crate::relay::Relay;
use crate::standing::{item, publication, slot_id};
use crate::wire::{Via, Wire, payload};

on_both_transports!(
    join_busy,
    post_busy,
    attach_store_failed,
    revoke_busy,
    put_slot_busy,
    get_slots_busy,
    publish_busy,
    take_busy,
);

pub async fn relay(configuration: &str) -> (Relay, Arc<Breakable>) {
    let disk = Arc::new(Breakable::default());
    (Relay::on_store(configuration, disk.clone()).await, disk)
}

async fn join_busy(via: Via) {
    let (relay, disk) = relay("[relay]\naccess = \"codes\"\n").await;
    let code = relay.token(TokenKind::Join, &MailboxId::new([0; 16]), 3);
    let mut wire = Wire::open(&relay, via).await;
    disk.set(Health::Broken);
    for _ in 0..2 {
        let join = wire.make_join(&OwnerKeyPair::generate(), Some(code));
        let ServerPacket::Refused(refused) = wire.say_join(join).await else { panic!("joined") };
        assert_eq!(refused.reason, Some(Reason::Busy));
        assert!(refused.retry_after_ms > 0);
    }
}

async fn post_busy(via: Via) {
    let (relay, disk) = relay("").await;
    let (wire, mine) = Wire::serve(&relay, via).await;
    drop(wire);
    let mut sender = Wire::open(&relay, via).await;
    assert_eq!(sender.post(1, &[mine.capability], payload(1)).await, [Some(Reason::Accepted)]);
    disk.set(Health::Broken);
    // The first finds the disk broken, the others a relay that knows it; the second is a retry.
    for id in [2, 2, 3] {
        sender.say_post(id, &[mine.capability], payload(1)).await;
        let posted = sender.posted().await;
        assert_eq!(posted.outcomes, [Some(Reason::Busy)]);
        assert!(posted.retry_after_ms > 0);
    }
    let accepted = relay.metric("valise_frames_accepted_total");
    assert!((accepted - 1.0).abs() < f64::EPSILON, "{accepted} accepted");
    assert!(!relay.running().store_failed().await.is_empty());
}

async fn attach_store_failed(via: Via) {
    let (relay, disk) = relay("").await;
    let mut wire = Wire::open(&relay, via).await;
    let owner = OwnerKeyPair::generate();
    let member = wire.join(&owner).await;
    disk.set(Health::Broken);
    let attach = wire.make_attach(&owner, &member);
    let closing = wire.say_attach(attach).await;
    assert_eq!(closing, ServerPacket::Closing(Some(CloseReason::StoreFailed)));
    assert_eq!(wire.receive_or_end().await, None);
}

/// Busy, and worth another try.
fn is_busy(answer: ServerPacket<Bytes>) {
    let ServerPacket::Refused(refused) = answer else { panic!("not refused: {answer:?}") };
    assert_eq!(refused.reason, Some(Reason::Busy));
    assert!(refused.retry_after_ms > 0);
}

/// A revocation that is not on disk is none: whoever asks is told, and nobody is refused by it.
async fn revoke_busy(via: Via) {
    let (relay, disk) = relay("").await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    disk.set(Health::Broken);
    for _ in 0..2 {
        is_busy(owner.say_revoke(mine.attachment, &mine.capability).await);
    }
    // With the disk in order again the token is good, as it would be after a restart.
    disk.set(Health::Healthy);
    assert!(disk.load(&mine.mailbox).unwrap().revoked.is_empty());
    let mut sender = Wire::open(&relay, via).await;
    sender.say_post(1, &[mine.capability], payload(1)).await;
    let outcomes = sender.posted().await.outcomes;
    assert_ne!(outcomes, [Some(Reason::TokenRevoked)]);
}

async fn put_slot_busy(via: Via) {
    let (relay, disk) = relay("").await;
    let mailbox = OwnerKeyPair::generate().mailbox(&relay.realm());
    let token = relay.token(TokenKind::Slot, &mailbox, 1);
    let mut wire = Wire::open(&relay, via).await;
    wire.store(&token, 1, 1, payload(1)).await;
    disk.set(Health::Broken);
    for slot in [1, 2, 2] {
        is_busy(wire.put(&token, slot, 1, payload(1)).await);
    }
    disk.set(Health::Healthy);
    assert!(disk.slot(&slot_id(1)).unwrap().is_some());
    assert!(disk.slot(&slot_id(2)).unwrap().is_none());
}

async fn get_slots_busy(via: Via) {
    let (relay, disk) = relay("").await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(wire.get([1]).await, [None]);
    disk.set(Health::Broken);
    is_busy(wire.say_get([1]).await);
}

async fn publish_busy(via: Via) {
    let (relay, disk) = relay("").await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    disk.set(Health::Broken);
    for _ in 0..2 {
        is_busy(owner.say_publish(publication(mine.attachment, 1, vec![payload(1)])).await);
    }
    disk.set(Health::Healthy);
    assert_eq!(disk.bundle(&mine.mailbox).unwrap(), None);
}

/// An item that the disk did not forget is not handed out.
async fn take_busy(via: Via) {
    let (relay, disk) = relay("").await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let token = relay.token(TokenKind::Take, &mine.mailbox, 1);
    let mut wire = Wire::open(&relay, via).await;
    owner.publish(publication(mine.attachment, 1, vec![payload(1), payload(2)])).await;
    assert_eq!(item(wire.take(&token).await).0, payload(1));
    disk.set(Health::Broken);
    for _ in 0..2 {
        is_busy(wire.take(&token).await);
    }
    disk.set(Health::Healthy);
    assert_eq!(disk.bundle(&mine.mailbox).unwrap().unwrap().items(), 1);
}
