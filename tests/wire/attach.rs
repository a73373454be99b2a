//! Attach, takeover, Detach.

use valise_client::OwnerKeyPair;
use valise_proto::limits::ATTACHMENTS_MAX;
use valise_proto::{
    Attach, Channel, ClientPacket, Reason, ServerPacket, Signature, Token, TokenKind,
};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire, payload};

on_both_transports!(
    attach_ok,
    attach_token_invalid,
    attach_token_expired,
    attach_signature_invalid,
    attach_replayed_signature_invalid,
    attach_not_owner,
    attach_too_many_attachments,
    attach_elsewhere_replaces,
    attach_again_on_the_same_connection_replaces,
    a_half_open_connection_is_replaced,
    detach_ok,
    detach_not_attached,
);

async fn refusal(wire: &mut Wire, attach: Attach) -> Reason {
    match wire.say_attach(attach).await {
        ServerPacket::Refused(refused) => refused.reason.unwrap(),
        other => panic!("not refused: {other:?}"),
    }
}

async fn attach_ok(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    for number in 0..3 {
        let owner = OwnerKeyPair::generate();
        let member = wire.join(&owner).await;
        let (attachment, delivered) = wire.attach_and_catch_up(&owner, &member).await;
        assert_eq!(attachment, number, "attachments are numbered by their Attach packets");
        assert!(delivered.is_empty());
    }
    relay.finish().await;
}

async fn attach_token_invalid(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    let owner = OwnerKeyPair::generate();
    let attach = wire.make_attach(&owner, &Token::new([9; 60]));
    assert_eq!(refusal(&mut wire, attach).await, Reason::TokenInvalid);
    // A capability is no right to read.
    let post = relay.token(TokenKind::Post, &owner.mailbox(&relay.realm()), 3);
    let attach = wire.make_attach(&owner, &post);
    assert_eq!(refusal(&mut wire, attach).await, Reason::TokenInvalid);
}

async fn attach_token_expired(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    let owner = OwnerKeyPair::generate();
    let mailbox = owner.mailbox(&relay.realm());
    let member = relay.token(TokenKind::Member, &mailbox, -1);
    let attach = wire.make_attach(&owner, &member);
    assert_eq!(refusal(&mut wire, attach).await, Reason::TokenExpired);
    let member = relay.token(TokenKind::Member, &mailbox, 0);
    wire.attach(&owner, &member).await;
}

async fn attach_signature_invalid(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    let owner = OwnerKeyPair::generate();
    let member = wire.join(&owner).await;
    let mut attach = wire.make_attach(&owner, &member);
    attach.signature = Signature::new([0; 64]);
    assert_eq!(refusal(&mut wire, attach).await, Reason::SignatureInvalid);
    // Signed for another channel, as a man in the middle would need it.
    let channel = wire.channel;
    wire.channel = Channel::new([3; 32]);
    let attach = wire.make_attach(&owner, &member);
    assert_eq!(refusal(&mut wire, attach).await, Reason::SignatureInvalid);
    wire.channel = channel;
    // Refused ones count: the next signature covers 2.
    wire.attach(&owner, &member).await;
}

async fn attach_replayed_signature_invalid(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    let owner = OwnerKeyPair::generate();
    let member = wire.join(&owner).await;
    let attach = wire.make_attach(&owner, &member);
    let attached = wire.say_attach(attach.clone()).await;
    assert!(matches!(attached, ServerPacket::Attached { .. }));
    assert!(matches!(wire.receive().await, ServerPacket::CaughtUp { .. }));
    assert_eq!(refusal(&mut wire, attach.clone()).await, Reason::SignatureInvalid);
    let mut other = Wire::open(&relay, via).await;
    assert_eq!(refusal(&mut other, attach).await, Reason::SignatureInvalid);
}

async fn attach_not_owner(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    let (owner, thief) = (OwnerKeyPair::generate(), OwnerKeyPair::generate());
    let member = wire.join(&owner).await;
    let attach = wire.make_attach(&thief, &member);
    assert_eq!(refusal(&mut wire, attach).await, Reason::NotOwner);
}

async fn attach_too_many_attachments(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    for _ in 0..ATTACHMENTS_MAX {
        let owner = OwnerKeyPair::generate();
        let member = wire.join(&owner).await;
        wire.attach_and_catch_up(&owner, &member).await;
    }
    let owner = OwnerKeyPair::generate();
    let member = wire.join(&owner).await;
    let attach = wire.make_attach(&owner, &member);
    assert_eq!(refusal(&mut wire, attach).await, Reason::TooManyAttachments);
    // A freed place can be taken.
    let request = wire.next_request();
    wire.say(&ClientPacket::Detach { request, attachment: 5 }).await;
    assert_eq!(wire.receive().await, ServerPacket::Detached { request });
    wire.attach(&owner, &member).await;
}

async fn attach_elsewhere_replaces(via: Via) {
    let relay = Relay::start().await;
    let (mut first, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    sender.say_post(1, &[mine.capability], payload(1)).await;
    assert_eq!(first.delivered().await.n, 1);
    // The first device holds it without acknowledging; the second gets it again.
    let mut second = Wire::open(&relay, via).await;
    let (attachment, mail) = second.attach_and_catch_up(&mine.owner, &mine.member).await;
    assert_eq!(mail.len(), 1);
    assert_eq!(first.receive().await, ServerPacket::Replaced { attachment: mine.attachment });
    // What the first one acknowledges now says nothing.
    first.ack(mine.attachment, 1).await;
    first.ping().await;
    second.ack(attachment, 1).await;
    assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    relay.finish().await;
}

async fn attach_again_on_the_same_connection_replaces(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let attach = wire.make_attach(&mine.owner, &mine.member);
    let ServerPacket::Attached { attachment, .. } = wire.say_attach(attach).await else {
        panic!("not attached")
    };
    assert_ne!(attachment, mine.attachment);
    let told = [wire.receive().await, wire.receive().await];
    assert!(told.contains(&ServerPacket::Replaced { attachment: mine.attachment }));
    assert!(told.contains(&ServerPacket::CaughtUp { attachment }));
    let mut sender = Wire::open(&relay, via).await;
    sender.say_post(1, &[mine.capability], payload(1)).await;
    assert_eq!(wire.delivered().await.attachment, attachment);
    wire.ack(attachment, 1).await;
    sender.posted().await;
    relay.finish().await;
}

/// A device whose network has gone attaches again on a new connection, while the relay still holds
/// the old one. The new one gets everything; the old one's `Replaced`, which the device may still
/// read, changes nothing for it.
async fn a_half_open_connection_is_replaced(via: Via) {
    let relay = Relay::start().await;
    let (mut lost, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    // From here on nothing is read from the old connection, and nothing said on it.
    sender.say_post(1, &[mine.capability], payload(1)).await;
    assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    let mut wire = Wire::open(&relay, via).await;
    let (attachment, mail) = wire.attach_and_catch_up(&mine.owner, &mine.member).await;
    assert_eq!(mail.len(), 1);
    for id in 2..=10u32 {
        sender.say_post(id, &[mine.capability], payload(1)).await;
        assert_eq!(wire.delivered().await.n, u64::from(id));
        wire.ack(attachment, u64::from(id)).await;
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    }
    // The old one got the first frame, then its notice, and nothing after it.
    assert_eq!(lost.delivered().await.n, 1);
    assert_eq!(lost.receive().await, ServerPacket::Replaced { attachment: mine.attachment });
    lost.receive_nothing().await;
    wire.receive_nothing().await;
    drop(lost);
    wire.ping().await;
    sender.say_post(11, &[mine.capability], payload(1)).await;
    assert_eq!(wire.delivered().await.n, 11, "the end of the old one detached nothing");
    wire.ack(attachment, 11).await;
    sender.posted().await;
    relay.finish().await;
}

async fn detach_ok(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let request = wire.next_request();
    wire.say(&ClientPacket::Detach { request, attachment: mine.attachment }).await;
    assert_eq!(wire.receive().await, ServerPacket::Detached { request });
    let mut sender = Wire::open(&relay, via).await;
    let outcomes = sender.post(1, &[mine.capability], payload(1)).await;
    assert_eq!(outcomes, [Some(Reason::Accepted)], "it waits in the mailbox");
    wire.receive_nothing().await;
    let (_, mail) = wire.attach_and_catch_up(&mine.owner, &mine.member).await;
    assert_eq!(mail.len(), 1);
    relay.finish().await;
}

async fn detach_not_attached(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    let request = wire.next_request();
    wire.say(&ClientPacket::Detach { request, attachment: 0 }).await;
    assert_eq!(wire.refused().await, Reason::NotAttached);
}

#[tokio::test]
async fn attach_channel_required() {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, Via::Raw).await;
    let owner = OwnerKeyPair::generate();
    let member = wire.join(&owner).await;
    wire.channel = Channel::UNSEEN;
    let mut attach = wire.make_attach(&owner, &member);
    attach.without_channel = true;
    assert_eq!(refusal(&mut wire, attach).await, Reason::ChannelRequired);
}

#[tokio::test]
async fn attach_without_channel_ok_in_a_browser() {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, Via::WebSocket).await;
    let owner = OwnerKeyPair::generate();
    let member = wire.join(&owner).await;
    wire.channel = Channel::UNSEEN;
    let mut attach = wire.make_attach(&owner, &member);
    attach.without_channel = true;
    let attached = wire.say_attach(attach).await;
    assert!(matches!(attached, ServerPacket::Attached { .. }), "{attached:?}");
}
