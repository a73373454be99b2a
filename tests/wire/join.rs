//! Join and the access policies.

use valise_client::OwnerKeyPair;
use valise_proto::{MailboxId, Reason, ServerPacket, Signature, Token, TokenKind};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire};

on_both_transports!(
    join_ok,
    join_code_ok,
    join_code_required,
    join_code_spent,
    join_token_invalid,
    join_token_expired,
    join_not_allowed,
    join_signature_invalid,
    join_rate_limited,
);

const CODES: &str = "[relay]\naccess = \"codes\"\n";

fn nobody() -> MailboxId {
    MailboxId::new([0; 16])
}

async fn refusal(wire: &mut Wire, code: Option<Token>) -> Option<Reason> {
    let join = wire.make_join(&OwnerKeyPair::generate(), code);
    match wire.say_join(join).await {
        ServerPacket::Refused(refused) => refused.reason,
        other => panic!("not refused: {other:?}"),
    }
}

async fn join_ok(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    let owner = OwnerKeyPair::generate();
    let member = wire.join(&owner).await;
    wire.attach(&owner, &member).await;
    relay.finish().await;
}

async fn join_code_ok(via: Via) {
    let mut relay = Relay::configured(CODES).await;
    let code = relay.token(TokenKind::Join, &nobody(), 3);
    let owner = OwnerKeyPair::generate();
    // Twice with the same key, over a restart: an answer may have been lost.
    for _ in 0..2 {
        let mut wire = Wire::open(&relay, via).await;
        let join = wire.make_join(&owner, Some(code));
        let joined = wire.say_join(join).await;
        assert!(matches!(joined, ServerPacket::Joined { .. }), "{joined:?}");
        relay.restart().await;
    }
    relay.finish().await;
}

async fn join_code_required(via: Via) {
    let relay = Relay::configured(CODES).await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(refusal(&mut wire, None).await, Some(Reason::CodeRequired));
}

async fn join_code_spent(via: Via) {
    let mut relay = Relay::configured(CODES).await;
    let code = relay.token(TokenKind::Join, &nobody(), 3);
    let mut wire = Wire::open(&relay, via).await;
    let join = wire.make_join(&OwnerKeyPair::generate(), Some(code));
    assert!(matches!(wire.say_join(join).await, ServerPacket::Joined { .. }));
    assert_eq!(refusal(&mut wire, Some(code)).await, Some(Reason::CodeSpent));
    relay.restart().await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(refusal(&mut wire, Some(code)).await, Some(Reason::CodeSpent), "it is durable");
    relay.finish().await;
}

async fn join_token_invalid(via: Via) {
    let relay = Relay::configured(CODES).await;
    let mut wire = Wire::open(&relay, via).await;
    let mut forged = *relay.token(TokenKind::Join, &nobody(), 3).as_bytes();
    forged[30] ^= 1;
    assert_eq!(refusal(&mut wire, Some(Token::new(forged))).await, Some(Reason::TokenInvalid));
    // Genuine, and of another kind.
    let member = relay.token(TokenKind::Member, &nobody(), 3);
    assert_eq!(refusal(&mut wire, Some(member)).await, Some(Reason::TokenInvalid));
}

async fn join_token_expired(via: Via) {
    let relay = Relay::configured(CODES).await;
    let mut wire = Wire::open(&relay, via).await;
    let code = relay.token(TokenKind::Join, &nobody(), -1);
    assert_eq!(refusal(&mut wire, Some(code)).await, Some(Reason::TokenExpired));
}

async fn join_not_allowed(via: Via) {
    let invited = OwnerKeyPair::generate();
    let list = tempfile::NamedTempFile::new().unwrap();
    let key = invited.owner_key();
    let hex: String = key.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    std::fs::write(list.path(), format!("# friends\n{hex}\n")).unwrap();
    let configuration =
        format!("[relay]\naccess = \"allow-list\"\nallow_list = \"{}\"\n", list.path().display());
    let relay = Relay::configured(&configuration).await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(refusal(&mut wire, None).await, Some(Reason::NotAllowed));
    wire.join(&invited).await;
}

async fn join_signature_invalid(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    let mut join = wire.make_join(&OwnerKeyPair::generate(), None);
    join.signature = Signature::new([1; 64]);
    let ServerPacket::Refused(refused) = wire.say_join(join).await else { panic!("not refused") };
    assert_eq!(refused.reason, Some(Reason::SignatureInvalid));
    // Good on another connection, so not on this one.
    let mut other = Wire::open(&relay, via).await;
    let join = other.make_join(&OwnerKeyPair::generate(), None);
    let ServerPacket::Refused(refused) = wire.say_join(join).await else { panic!("not refused") };
    assert_eq!(refused.reason, Some(Reason::SignatureInvalid));
}

async fn join_rate_limited(via: Via) {
    let relay = Relay::configured("[limits]\njoins_per_minute_per_prefix = 2\n").await;
    let mut wire = Wire::open(&relay, via).await;
    for _ in 0..2 {
        wire.join(&OwnerKeyPair::generate()).await;
    }
    let join = wire.make_join(&OwnerKeyPair::generate(), None);
    let ServerPacket::Refused(refused) = wire.say_join(join).await else { panic!("not refused") };
    assert_eq!(refused.reason, Some(Reason::RateLimited));
    assert!(refused.retry_after_ms > 0);
}

#[tokio::test]
async fn join_channel_required() {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, Via::Raw).await;
    let mut join = wire.make_join(&OwnerKeyPair::generate(), None);
    join.without_channel = true;
    let ServerPacket::Refused(refused) = wire.say_join(join).await else { panic!("not refused") };
    assert_eq!(refused.reason, Some(Reason::ChannelRequired));
}

/// A browser cannot see the certificate and signs zeros instead.
#[tokio::test]
async fn join_without_channel_ok_in_a_browser() {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, Via::WebSocket).await;
    wire.channel = valise_proto::Channel::UNSEEN;
    let mut join = wire.make_join(&OwnerKeyPair::generate(), None);
    join.without_channel = true;
    let joined = wire.say_join(join).await;
    assert!(matches!(joined, ServerPacket::Joined { .. }), "{joined:?}");
}
