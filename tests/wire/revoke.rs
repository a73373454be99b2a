//! Revoke: a token ends before its last day.

use std::sync::Arc;

use valise::relay::today;
use valise::store::{Batch, MemoryStore, Revocation, SpentCode, Step, Store};
use valise_client::OwnerKeyPair;
use valise_proto::limits::{REVOCATION_DAYS_AFTER, REVOCATIONS_MAX};
use valise_proto::{ClientPacket, MailboxId, Reason, ServerPacket, Signal, Token, TokenKind};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::standing::reason;
use crate::wire::{Via, Wire, payload};

on_both_transports!(
    revoke_ends_a_capability,
    revoke_ends_a_member_token,
    revoke_twice_and_after_a_restart,
    revoke_what_has_expired,
    revoke_not_attached,
    revoke_token_invalid,
    revoke_revocations_full,
    revoked_signals_are_dropped,
    revocations_and_spent_codes_go_after_their_last_day,
);

async fn revoke_ends_a_capability(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let tokens = owner.issue(mine.attachment, TokenKind::Post, 2).await;
    let mut sender = Wire::open(&relay, via).await;
    sender.say_post(1, &[tokens[0]], payload(1)).await;
    let first = owner.delivered().await;
    assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    owner.revoke(mine.attachment, &tokens[0]).await;
    let outcomes = sender.post(2, &[tokens[0]], payload(2)).await;
    assert_eq!(outcomes, [Some(Reason::TokenRevoked)]);
    // Of several targets just this one, and nothing of it reaches anybody.
    sender.say_post(3, &[tokens[0], tokens[1]], payload(3)).await;
    assert_eq!(owner.delivered().await.payload, payload(3));
    let expected = [Some(Reason::TokenRevoked), Some(Reason::Accepted)];
    assert_eq!(sender.posted().await.outcomes, expected);
    // So is a frame that it has brought before, which stays where it is.
    let outcomes = sender.post(1, &[tokens[0]], payload(1)).await;
    assert_eq!(outcomes, [Some(Reason::TokenRevoked)]);
    owner.receive_nothing().await;
    // What it brought stays.
    drop(owner);
    let mut again = Wire::open(&relay, via).await;
    let (_, mail) = again.attach_and_catch_up(&mine.owner, &mine.member).await;
    let payloads: Vec<_> = mail.iter().map(|deliver| deliver.payload.clone()).collect();
    assert_eq!(payloads, [first.payload, payload(3)]);
    relay.finish().await;
}

async fn revoke_ends_a_member_token(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let renewed = owner.issue(mine.attachment, TokenKind::Member, 1).await[0];
    owner.revoke(mine.attachment, &mine.member).await;
    // What is attached stays attached, and may go on.
    let mut sender = Wire::open(&relay, via).await;
    sender.say_post(1, &[mine.capability], payload(1)).await;
    assert_eq!(owner.delivered().await.n, 1);
    sender.posted().await;
    owner.issue(mine.attachment, TokenKind::Post, 1).await;
    // Nobody attaches with it any more, and nobody is replaced by trying.
    let mut thief = Wire::open(&relay, via).await;
    let attach = thief.make_attach(&mine.owner, &mine.member);
    assert_eq!(reason(thief.say_attach(attach).await), Reason::TokenRevoked);
    // Everything else that is wrong is said first: a stranger learns nothing of the token.
    let stranger = OwnerKeyPair::generate();
    let attach = thief.make_attach(&stranger, &mine.member);
    assert_eq!(reason(thief.say_attach(attach).await), Reason::NotOwner);
    let mut attach = thief.make_attach(&mine.owner, &mine.member);
    attach.signature = stranger.sign(b"something else");
    assert_eq!(reason(thief.say_attach(attach).await), Reason::SignatureInvalid);
    owner.receive_nothing().await;
    let (_, mail) = thief.attach_and_catch_up(&mine.owner, &renewed).await;
    assert_eq!(mail.len(), 1);
    assert!(matches!(owner.receive().await, ServerPacket::Replaced { .. }));
    relay.finish().await;
}

async fn revoke_twice_and_after_a_restart(via: Via) {
    let mut relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    for _ in 0..3 {
        owner.revoke(mine.attachment, &mine.capability).await;
    }
    relay.restart().await;
    // Of a mailbox that nobody has attached since, too.
    let mut sender = Wire::open(&relay, via).await;
    let outcomes = sender.post(1, &[mine.capability], payload(1)).await;
    assert_eq!(outcomes, [Some(Reason::TokenRevoked)]);
    let (attachment, mail) = sender.attach_and_catch_up(&mine.owner, &mine.member).await;
    assert!(mail.is_empty());
    sender.revoke(attachment, &mine.capability).await;
    // With the last member token gone only another Join leads back.
    sender.revoke(attachment, &mine.member).await;
    relay.restart().await;
    let mut owner = Wire::open(&relay, via).await;
    let attach = owner.make_attach(&mine.owner, &mine.member);
    assert_eq!(reason(owner.say_attach(attach).await), Reason::TokenRevoked);
    let member = owner.join(&mine.owner).await;
    owner.attach(&mine.owner, &member).await;
    relay.finish().await;
}

async fn revoke_what_has_expired(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let expired = relay.token(TokenKind::Post, &mine.mailbox, -1);
    owner.revoke(mine.attachment, &expired).await;
    let mut sender = Wire::open(&relay, via).await;
    assert_eq!(sender.post(1, &[expired], payload(1)).await, [Some(Reason::TokenExpired)]);
    let last_day = relay.token(TokenKind::Post, &mine.mailbox, 0);
    owner.revoke(mine.attachment, &last_day).await;
    assert_eq!(sender.post(2, &[last_day], payload(1)).await, [Some(Reason::TokenRevoked)]);
}

async fn revoke_not_attached(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    // Said before anything about the token.
    for token in [mine.capability, Token::new([0; 60])] {
        assert_eq!(reason(owner.say_revoke(7, &token).await), Reason::NotAttached);
    }
    let request = owner.next_request();
    owner.say(&ClientPacket::Detach { request, attachment: mine.attachment }).await;
    owner.receive().await;
    let answer = owner.say_revoke(mine.attachment, &mine.capability).await;
    assert_eq!(reason(answer), Reason::NotAttached);
    assert_eq!(owner.post(1, &[mine.capability], payload(1)).await, [Some(Reason::Accepted)]);
}

async fn revoke_token_invalid(via: Via) {
    let relay = Relay::start().await;
    let elsewhere = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let (mut thief, theirs) = Wire::serve(&relay, via).await;
    // Somebody else's, even one that one has been given.
    let answer = thief.say_revoke(theirs.attachment, &mine.capability).await;
    assert_eq!(reason(answer), Reason::TokenInvalid);
    let expired = relay.token(TokenKind::Post, &mine.mailbox, -1);
    let answer = thief.say_revoke(theirs.attachment, &expired).await;
    assert_eq!(reason(answer), Reason::TokenInvalid);
    let mut damaged = *mine.capability.as_bytes();
    damaged[20] ^= 1;
    let wrong = [
        elsewhere.token(TokenKind::Post, &mine.mailbox, 1),
        relay.token(TokenKind::Join, &MailboxId::new([0; 16]), 1),
        relay.token(TokenKind::Join, &mine.mailbox, 1),
        relay.token(TokenKind::Blob, &mine.mailbox, 1),
        Token::new(damaged),
        Token::new([0xff; 60]),
    ];
    for token in wrong {
        let answer = owner.say_revoke(mine.attachment, &token).await;
        assert_eq!(reason(answer), Reason::TokenInvalid);
    }
    let outcomes = thief.post(1, &[mine.capability], payload(1)).await;
    assert_eq!(outcomes, [Some(Reason::Accepted)], "still good");
}

/// A store that holds these revocations of one mailbox and these spent codes.
fn store_with(revocations: Vec<Revocation>, codes: Vec<SpentCode>) -> Arc<MemoryStore> {
    let store = MemoryStore::new();
    let revocations = revocations.into_iter().map(Step::Revoke);
    let steps = revocations.chain(codes.into_iter().map(Step::Spend)).collect();
    store.commit(&Batch { steps, ..Batch::default() }).unwrap();
    Arc::new(store)
}

async fn revoke_revocations_full(via: Via) {
    // The realm is made with the relay, so the mailbox's revocations come after it.
    let store = Arc::new(MemoryStore::new());
    let relay = Relay::on_store("", store.clone()).await;
    let owner = OwnerKeyPair::generate();
    let mailbox = owner.mailbox(&relay.realm());
    let last_day = today() + 3;
    let one = |n: u64| Revocation { mailbox, serial: n.to_be_bytes(), last_day };
    let steps = (1..REVOCATIONS_MAX as u64).map(|n| Step::Revoke(one(n))).collect();
    store.commit(&Batch { steps, ..Batch::default() }).unwrap();
    let mut wire = Wire::open(&relay, via).await;
    let mine = wire.join_and_attach(owner).await;
    let tokens = wire.issue(mine.attachment, TokenKind::Post, 2).await;
    wire.revoke(mine.attachment, &tokens[0]).await;
    assert_eq!(store.load(&mailbox).unwrap().revoked.len(), REVOCATIONS_MAX);
    let ServerPacket::Refused(refused) = wire.say_revoke(mine.attachment, &tokens[1]).await else {
        panic!("the 4,097th was taken in")
    };
    let expected = (Some(Reason::RevocationsFull), 0);
    assert_eq!((refused.reason, refused.retry_after_ms), expected);
    // What is revoked already, has expired or is not this mailbox's is told apart from it.
    wire.revoke(mine.attachment, &tokens[0]).await;
    wire.revoke(mine.attachment, &relay.token(TokenKind::Post, &mailbox, -1)).await;
    let answer = wire.say_revoke(mine.attachment, &Token::new([1; 60])).await;
    assert_eq!(reason(answer), Reason::TokenInvalid);
    let mut sender = Wire::open(&relay, via).await;
    let outcomes = sender.post(1, &[tokens[0]], payload(1)).await;
    assert_eq!(outcomes, [Some(Reason::TokenRevoked)]);
}

async fn revoked_signals_are_dropped(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    owner.revoke(mine.attachment, &mine.capability).await;
    let mut sender = Wire::open(&relay, via).await;
    let signal = Signal { capabilities: vec![mine.capability], payload: payload(1) };
    sender.say(&ClientPacket::Signal(signal)).await;
    sender.ping().await;
    owner.receive_nothing().await;
    let dropped = relay.metric("valise_signals_dropped_total{reason=\"token_revoked\"}");
    assert!((dropped - 1.0).abs() < f64::EPSILON, "{dropped}");
}

/// 60 days after it a token could not be used in any clock's opinion.
async fn revocations_and_spent_codes_go_after_their_last_day(via: Via) {
    let days = u16::try_from(REVOCATION_DAYS_AFTER).unwrap();
    let (gone, stays) = (today() - days - 1, today() - days);
    let mailbox = MailboxId::new([7; 16]);
    let revocation = |n: u64, last_day| Revocation { mailbox, serial: n.to_be_bytes(), last_day };
    let code = |n: u64, last_day| SpentCode { serial: n.to_be_bytes(), mailbox, last_day };
    // More than are swept at a time.
    let old = (1..=600).map(|n| revocation(n, gone)).chain([revocation(1_000, stays)]);
    let codes = vec![code(1, gone), code(2, stays), code(3, today())];
    let store = store_with(old.collect(), codes);
    let relay = Relay::on_store("", store.clone()).await;
    let began = std::time::Instant::now();
    while store.load(&mailbox).unwrap().revoked.len() > 1
        || store.spent(&1u64.to_be_bytes()).unwrap().is_some()
    {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "they do not go");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // The relay serves while it sweeps.
    Wire::open(&relay, via).await.ping().await;
    relay.stop().await;
    assert_eq!(store.load(&mailbox).unwrap().revoked, [1_000u64.to_be_bytes()]);
    for n in [2u64, 3] {
        assert_eq!(store.spent(&n.to_be_bytes()).unwrap(), Some(mailbox));
    }
}
