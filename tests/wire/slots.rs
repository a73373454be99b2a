//! PutSlot and GetSlots: registers that are written once.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use valise::relay::Patience;
use valise_proto::limits::SLOT_HOURS;
use valise_proto::{CloseReason, Reason, ServerPacket, Token, TokenKind};

use crate::expiry::let_pass;
use crate::on_both_transports;
use crate::relay::{ESTABLISHMENT, Relay};
use crate::standing::{reason, slot_id, was_busy};
use crate::wire::{Via, Wire, payload};

on_both_transports!(
    put_stored,
    put_repeated_is_stored_once,
    put_taken,
    put_raced_has_one_winner,
    put_not_padded,
    put_token_invalid,
    put_token_expired,
    put_token_revoked,
    put_rate_limited,
    get_in_order_without_a_token,
    get_as_many_as_fit,
    get_limits_invalid,
    a_hundred_puts_at_once_are_all_answered,
    a_put_establishes_and_a_get_does_not,
    a_slot_is_free_again_after_its_time,
);

fn sized(len: usize, byte: u8) -> Bytes {
    Bytes::from(vec![byte; len])
}

/// A connection that serves nothing, and a slot token on somebody's account.
async fn writer(relay: &Relay, via: Via) -> (Wire, Token) {
    let wire = Wire::open(relay, via).await;
    let owner = valise_client::OwnerKeyPair::generate();
    let token = relay.token(TokenKind::Slot, &owner.mailbox(&relay.realm()), 1);
    (wire, token)
}

/// A debt that no test sits out.
const A_WHILE_MS: u32 = 20_000;

/// Puts large values, from this slot on, until the account owes for them. However fast the relay
/// is, what is paid back meanwhile is not taken for a fault.
async fn put_until_in_debt(wire: &mut Wire, token: &Token, first: u32) {
    for slot in first..first + 50 {
        match wire.put(token, slot, slot, sized(65_536, 1)).await {
            ServerPacket::Stored { .. } => {}
            ServerPacket::Refused(refused) if refused.retry_after_ms > A_WHILE_MS => {
                assert_eq!(refused.reason, Some(Reason::RateLimited));
                return;
            }
            ServerPacket::Refused(refused) => {
                let reason = refused.reason.unwrap();
                assert!(matches!(reason, Reason::Busy | Reason::RateLimited), "{reason:?}");
                tokio::time::sleep(Duration::from_millis(refused.retry_after_ms.into())).await;
            }
            other => panic!("{other:?}"),
        }
    }
    panic!("fifty large values, and no debt");
}

async fn put_stored(via: Via) {
    let mut relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let token = owner.issue(mine.attachment, TokenKind::Slot, 1).await[0];
    let mut wire = Wire::open(&relay, via).await;
    for (slot, len) in [(1, 512), (2, 2_048), (3, 8_192), (4, 65_536)] {
        wire.store(&token, slot, slot, sized(len, 7)).await;
        assert_eq!(wire.get([slot]).await, [Some(sized(len, 7))]);
    }
    relay.restart().await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(wire.get([4]).await, [Some(sized(65_536, 7))], "durable");
}

async fn put_repeated_is_stored_once(via: Via) {
    let mut relay = Relay::start().await;
    let (mut wire, token) = writer(&relay, via).await;
    // Twice at once, and again.
    for _ in 0..2 {
        wire.say_put(&token, 1, 1, payload(1)).await;
    }
    for _ in 0..2 {
        let answer = wire.receive().await;
        assert!(matches!(answer, ServerPacket::Stored { .. }), "{answer:?}");
    }
    wire.store(&token, 1, 1, payload(1)).await;
    relay.restart().await;
    let mut wire = Wire::open(&relay, via).await;
    wire.store(&token, 1, 1, payload(1)).await;
    // The put id decides, not the value: what stands there stays.
    wire.store(&token, 1, 1, payload(9)).await;
    assert_eq!(wire.get([1]).await, [Some(payload(1))]);
}

async fn put_taken(via: Via) {
    let mut relay = Relay::start().await;
    let (mut wire, token) = writer(&relay, via).await;
    let (mut other, their_token) = writer(&relay, via).await;
    wire.store(&token, 1, 1, payload(1)).await;
    let first_value = |answer| match answer {
        ServerPacket::Taken { payload, .. } => payload,
        other => panic!("not taken: {other:?}"),
    };
    assert_eq!(first_value(other.put(&their_token, 1, 2, payload(2)).await), payload(1));
    // The same value under another put id, and the same put id in another slot.
    assert_eq!(first_value(wire.put(&token, 1, 3, payload(1)).await), payload(1));
    other.store(&their_token, 2, 1, payload(4)).await;
    relay.restart().await;
    let mut other = Wire::open(&relay, via).await;
    assert_eq!(first_value(other.put(&their_token, 1, 2, payload(2)).await), payload(1));
}

async fn put_raced_has_one_winner(via: Via) {
    let relay = Relay::start().await;
    let mut wires = Vec::new();
    for _ in 0..20 {
        wires.push(writer(&relay, via).await);
    }
    for slot in 0..5 {
        for (n, (wire, token)) in (0u8..).zip(&mut wires) {
            wire.say_put(token, slot, u32::from(n), payload(n)).await;
        }
        let mut winner = None;
        let mut values = BTreeSet::new();
        for (n, (wire, token)) in (0u8..).zip(&mut wires) {
            let mut answer = wire.receive().await;
            while was_busy(&answer).await {
                answer = wire.put(token, slot, u32::from(n), payload(n)).await;
            }
            match answer {
                ServerPacket::Stored { .. } => assert_eq!(winner.replace(n), None, "two winners"),
                ServerPacket::Taken { payload, .. } => {
                    values.insert(payload);
                }
                other => panic!("{other:?}"),
            }
        }
        let winning = payload(winner.unwrap());
        assert_eq!(values, BTreeSet::from([winning.clone()]), "19 are told the winner's value");
        assert_eq!(wires[0].0.get([slot]).await, [Some(winning)]);
    }
}

async fn put_not_padded(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, token) = writer(&relay, via).await;
    for len in [0, 1, 511, 513, 65_535, 65_537] {
        let answer = wire.put(&token, 1, 1, sized(len, 1)).await;
        assert_eq!(reason(answer), Reason::NotPadded, "{len}");
    }
    // The size is looked at before the token.
    let answer = wire.put(&Token::new([0; 60]), 1, 1, sized(1, 1)).await;
    assert_eq!(reason(answer), Reason::NotPadded);
    assert_eq!(wire.get([1]).await, [None]);
}

async fn put_token_invalid(via: Via) {
    let relay = Relay::start().await;
    let elsewhere = Relay::start().await;
    let (mut wire, token) = writer(&relay, via).await;
    let mailbox = valise_client::OwnerKeyPair::generate().mailbox(&relay.realm());
    let mut wrong: Vec<Token> = TokenKind::ALL
        .into_iter()
        .filter(|kind| *kind != TokenKind::Slot)
        .map(|kind| relay.token(kind, &mailbox, 1))
        .collect();
    wrong.push(elsewhere.token(TokenKind::Slot, &mailbox, 1));
    wrong.push(Token::new([0xff; 60]));
    let mut damaged = *token.as_bytes();
    damaged[59] ^= 1;
    wrong.push(Token::new(damaged));
    for wrong in wrong {
        assert_eq!(reason(wire.put(&wrong, 1, 1, payload(1)).await), Reason::TokenInvalid);
    }
    assert_eq!(wire.get([1]).await, [None]);
}

async fn put_token_expired(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, _) = writer(&relay, via).await;
    let mailbox = valise_client::OwnerKeyPair::generate().mailbox(&relay.realm());
    let yesterday = relay.token(TokenKind::Slot, &mailbox, -1);
    assert_eq!(reason(wire.put(&yesterday, 1, 1, payload(1)).await), Reason::TokenExpired);
    let today = relay.token(TokenKind::Slot, &mailbox, 0);
    wire.store(&today, 1, 1, payload(1)).await;
}

async fn put_token_revoked(via: Via) {
    let relay = Relay::configured("[limits]\nslot_mib_per_day_per_mailbox = 1\n").await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let tokens = owner.issue(mine.attachment, TokenKind::Slot, 2).await;
    let mut wire = Wire::open(&relay, via).await;
    wire.store(&tokens[0], 1, 1, payload(1)).await;
    put_until_in_debt(&mut wire, &tokens[0], 2).await;
    owner.revoke(mine.attachment, &tokens[0]).await;
    // Said before the rate, and of a repeated put too; the other token has not ended.
    assert_eq!(reason(wire.put(&tokens[0], 90, 1, payload(1)).await), Reason::TokenRevoked);
    assert_eq!(reason(wire.put(&tokens[0], 1, 1, payload(1)).await), Reason::TokenRevoked);
    assert_eq!(reason(wire.put(&tokens[1], 90, 1, payload(1)).await), Reason::RateLimited);
    assert_eq!(wire.get([1]).await, [Some(payload(1))], "what it brought stays");
}

/// The account is the mailbox's, whichever token and connection is used.
async fn put_rate_limited(via: Via) {
    let relay = Relay::configured("[limits]\nslot_mib_per_day_per_mailbox = 1\n").await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let tokens = owner.issue(mine.attachment, TokenKind::Slot, 2).await;
    let mut wire = Wire::open(&relay, via).await;
    for slot in 0..16 {
        let connection = if slot % 2 == 0 { &mut wire } else { &mut owner };
        connection.store(&tokens[slot as usize % 2], slot, slot, sized(65_536, 1)).await;
    }
    // Who may put a byte again may put a value, and then owes it.
    put_until_in_debt(&mut wire, &tokens[0], 16).await;
    for token in &tokens {
        let answer = wire.put(token, 99, 99, payload(1)).await;
        let ServerPacket::Refused(refused) = answer else { panic!("{answer:?}") };
        assert_eq!(refused.reason, Some(Reason::RateLimited));
        assert!(refused.retry_after_ms > A_WHILE_MS, "{}", refused.retry_after_ms);
    }
    assert_eq!(wire.get([99]).await, [None], "what is refused is not stored");
    // What stands already costs nothing: a lost answer can always be asked for again.
    wire.store(&tokens[0], 0, 0, sized(65_536, 1)).await;
    let taken = wire.put(&tokens[0], 0, 99, payload(1)).await;
    assert!(matches!(taken, ServerPacket::Taken { .. }), "{taken:?}");
    // Another mailbox has an account of its own.
    let (mut other, token) = writer(&relay, via).await;
    other.store(&token, 99, 99, payload(3)).await;
}

async fn get_in_order_without_a_token(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, token) = writer(&relay, via).await;
    for slot in [3, 1] {
        wire.store(&token, slot, slot, payload(u8::try_from(slot).unwrap())).await;
    }
    let mut other = Wire::open(&relay, via).await;
    let some = |n| Some(payload(n));
    assert_eq!(other.get([1, 2, 3, 1]).await, [some(1), None, some(3), some(1)]);
    assert_eq!(other.get(100..164).await, vec![None; 64]);
    // One bit beside it there is nothing.
    let mut near = *slot_id(1).as_bytes();
    near[31] ^= 1;
    let request = other.next_request();
    let slot_ids = vec![valise_proto::SlotId::new(near)];
    other.say(&valise_proto::ClientPacket::GetSlots { request, slot_ids }).await;
    assert_eq!(other.receive().await, ServerPacket::Slots { request, payloads: vec![None] });
}

async fn get_as_many_as_fit(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, token) = writer(&relay, via).await;
    for slot in 0..8 {
        wire.store(&token, slot, slot, sized(8_192, 8)).await;
    }
    wire.store(&token, 8, 8, payload(1)).await;
    wire.store(&token, 9, 9, sized(65_536, 2)).await;
    // 65,536 bytes fit, a byte more does not; free slots weigh nothing.
    assert_eq!(wire.get(0..10).await.len(), 8);
    assert_eq!(wire.get([0, 1, 2, 3, 4, 5, 6, 7, 50, 51, 8, 52]).await.len(), 10);
    assert_eq!(wire.get([9, 8]).await, [Some(sized(65_536, 2))], "the first one at least");
    assert_eq!(wire.get([8, 9]).await, [Some(payload(1))]);
    // A clumsy client that asks on for the rest gets all of it.
    let mut rest: Vec<u32> = (0..10).collect();
    let mut bytes = 0;
    while !rest.is_empty() {
        let got = wire.get(rest.clone()).await;
        assert!(!got.is_empty());
        bytes += got.iter().flatten().map(Bytes::len).sum::<usize>();
        rest.drain(..got.len());
    }
    assert_eq!(bytes, 8 * 8_192 + 512 + 65_536);
}

async fn get_limits_invalid(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(reason(wire.say_get([]).await), Reason::LimitsInvalid);
    assert_eq!(reason(wire.say_get(0..65).await), Reason::LimitsInvalid);
    assert_eq!(reason(wire.say_get(0..4_000).await), Reason::LimitsInvalid);
}

/// A connection may have eight of them under way; the others are read later, and nothing is lost.
async fn a_hundred_puts_at_once_are_all_answered(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, token) = writer(&relay, via).await;
    let mut asked = BTreeSet::new();
    for slot in 0..100 {
        // Large ones, so that not all of them fit into what the relay reads ahead.
        let len = if slot % 3 == 0 { 65_536 } else { 512 };
        asked.insert(wire.say_put(&token, slot, slot, sized(len, 1)).await);
    }
    let last = wire.next_request();
    wire.say(&valise_proto::ClientPacket::Ping { request: last }).await;
    asked.insert(last);
    while !asked.is_empty() {
        let (ServerPacket::Stored { request } | ServerPacket::Pong { request }) =
            wire.receive().await
        else {
            panic!("neither stored nor pong")
        };
        assert!(asked.remove(&request), "{request} is answered twice");
    }
    for from in (0..100).step_by(3) {
        assert!(wire.get([from]).await[0].is_some(), "{from}");
    }
}

async fn a_put_establishes_and_a_get_does_not(via: Via) {
    let relay = Relay::start().await;
    relay.running().set_patience(Patience { establishment: ESTABLISHMENT, ..Patience::default() });
    let mailbox = valise_client::OwnerKeyPair::generate().mailbox(&relay.realm());
    let (mut good, token) = writer(&relay, via).await;
    good.store(&token, 1, 1, payload(1)).await;
    let mut reader = Wire::open(&relay, via).await;
    assert_eq!(reader.get([1]).await, [Some(payload(1))]);
    let mut guesser = Wire::open(&relay, via).await;
    let wrong = [
        Token::new([0; 60]),
        relay.token(TokenKind::Slot, &mailbox, -1),
        relay.token(TokenKind::Post, &mailbox, 1),
    ];
    for token in wrong {
        reason(guesser.put(&token, 2, 2, payload(1)).await);
    }
    // A good token does not help what is refused before the token is looked at.
    let mut clumsy = Wire::open(&relay, via).await;
    reason(clumsy.put(&token, 3, 3, sized(1, 1)).await);
    for wire in [&mut reader, &mut guesser, &mut clumsy] {
        wire.closed_with(CloseReason::EstablishmentTimeout).await;
    }
    // It is older than they were.
    tokio::time::sleep(ESTABLISHMENT / 10).await;
    good.ping().await;
}

/// Waits until the time of what is in a slot is over.
async fn until_free(wire: &mut Wire, slot: u32) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while wire.get([slot]).await != [None] {
        assert!(Instant::now() < give_up, "it does not go");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn a_slot_is_free_again_after_its_time(via: Via) {
    let mut relay = Relay::start().await;
    if relay.is_node() {
        return; // the servers keep the time: tests/cluster/nodes.rs sees what they are told
    }
    let (mut wire, token) = writer(&relay, via).await;
    wire.store(&token, 1, 1, payload(1)).await;
    relay.restart_after(|state| let_pass(state, SLOT_HOURS)).await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(wire.get([1]).await, [Some(payload(1))], "written at the end of its hour perhaps");
    wire.store(&token, 2, 2, payload(2)).await;
    relay.restart_after(|state| let_pass(state, 1)).await;
    let mut wire = Wire::open(&relay, via).await;
    // Who has put something may wait.
    wire.store(&token, 4, 4, payload(4)).await;
    until_free(&mut wire, 1).await;
    assert_eq!(wire.get([2]).await, [Some(payload(2))], "younger by as much");
    // Free means free: another value stands there now, and for its whole time.
    wire.store(&token, 1, 3, payload(3)).await;
    relay.restart_after(|state| let_pass(state, SLOT_HOURS)).await;
    let mut wire = Wire::open(&relay, via).await;
    wire.store(&token, 5, 5, payload(5)).await;
    until_free(&mut wire, 2).await;
    assert_eq!(wire.get([1]).await, [Some(payload(3))]);
}
