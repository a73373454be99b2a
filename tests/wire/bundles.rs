//! PublishBundle, TakeBundle, BundleLow: what an owner leaves for strangers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use valise::relay::Patience;
use valise_client::OwnerKeyPair;
use valise_proto::limits::BUNDLE_HOURS;
use valise_proto::{CloseReason, PublishBundle, Reason, ServerPacket, Token, TokenKind};

use crate::expiry::let_pass;
use crate::on_both_transports;
use crate::relay::{ESTABLISHMENT, Relay};
use crate::standing::{item, publication, reason, was_busy};
use crate::wire::{Mine, Via, Wire, payload};

on_both_transports!(
    publish_and_take_in_order,
    publish_repeated_changes_nothing,
    publish_replaces,
    publish_not_attached,
    publish_not_padded,
    publish_too_large,
    publish_bundle_full,
    take_raced_hands_out_each_item_once,
    take_last_resort,
    take_token_invalid,
    take_token_expired,
    take_token_revoked,
    take_rate_limited,
    take_bundle_empty,
    a_take_establishes,
    bundle_low_after_a_take,
    bundle_low_after_attached,
    a_bundle_goes_after_its_time,
);

fn payloads(numbers: std::ops::Range<u8>) -> Vec<Bytes> {
    numbers.map(payload).collect()
}

fn sized(len: usize) -> Bytes {
    Bytes::from(vec![1; len])
}

/// A take token of somebody else's mailbox, and a connection that serves nothing.
async fn taker(relay: &Relay, via: Via, mine: &Mine) -> (Wire, Token) {
    (Wire::open(relay, via).await, relay.token(TokenKind::Take, &mine.mailbox, 1))
}

async fn publish_and_take_in_order(via: Via) {
    let mut relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let token = owner.issue(mine.attachment, TokenKind::Take, 1).await[0];
    assert_eq!(owner.publish(publication(mine.attachment, 1, payloads(0..15))).await, 15);
    assert_eq!(owner.publish(publication(mine.attachment, 2, payloads(15..20))).await, 20);
    let mut wire = Wire::open(&relay, via).await;
    for n in 0..10 {
        assert_eq!(item(wire.take(&token).await), (payload(n), false));
    }
    // A restart hands out nothing again and loses nothing.
    relay.restart().await;
    let mut wire = Wire::open(&relay, via).await;
    for n in 10..20 {
        assert_eq!(item(wire.take(&token).await), (payload(n), false));
    }
    assert_eq!(reason(wire.take(&token).await), Reason::BundleEmpty);
}

async fn publish_repeated_changes_nothing(via: Via) {
    let mut relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let (mut wire, token) = taker(&relay, via, &mine).await;
    let first = publication(mine.attachment, 1, payloads(0..12));
    assert_eq!(owner.publish(first.clone()).await, 12);
    assert_eq!(owner.publish(first.clone()).await, 12);
    assert_eq!(item(wire.take(&token).await).0, payload(0));
    assert_eq!(owner.publish(first.clone()).await, 11, "the items there are");
    // Whatever it holds: the id is what counts.
    let other = PublishBundle { replace: true, ..publication(mine.attachment, 1, payloads(9..10)) };
    assert_eq!(owner.publish(other).await, 11);
    relay.restart().await;
    let mut owner = Wire::open(&relay, via).await;
    let (attachment, _) = owner.attach_and_catch_up(&mine.owner, &mine.member).await;
    assert_eq!(owner.publish(PublishBundle { attachment, ..first.clone() }).await, 11);
    // Another publication is the last one now.
    assert_eq!(owner.publish(publication(attachment, 2, payloads(20..21))).await, 12);
    assert_eq!(owner.publish(publication(attachment, 2, payloads(20..21))).await, 12);
    assert_eq!(owner.publish(PublishBundle { attachment, ..first }).await, 24);
    let mut wire = Wire::open(&relay, via).await;
    for n in (1..12).chain([20]).chain(0..12) {
        assert_eq!(item(wire.take(&token).await), (payload(n), false));
    }
}

async fn publish_replaces(via: Via) {
    let mut relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let first = publication(mine.attachment, 1, payloads(0..100));
    let first = PublishBundle { last_resort: Some(payload(200)), ..first };
    assert_eq!(owner.publish(first).await, 100);
    let second = publication(mine.attachment, 2, payloads(110..112));
    let second = PublishBundle { replace: true, ..second };
    assert_eq!(owner.publish(second).await, 2);
    relay.restart().await;
    let (mut wire, token) = taker(&relay, via, &mine).await;
    assert_eq!(item(wire.take(&token).await), (payload(110), false));
    assert_eq!(item(wire.take(&token).await), (payload(111), false));
    assert_eq!(reason(wire.take(&token).await), Reason::BundleEmpty, "the last resort went too");
    // With nothing new it empties the bundle; with a last resort alone it leaves just that.
    let mut owner = Wire::open(&relay, via).await;
    let attachment = owner.attach(&mine.owner, &mine.member).await;
    assert_eq!(owner.receive().await, ServerPacket::BundleLow { attachment, items: 0 });
    assert_eq!(owner.receive().await, ServerPacket::CaughtUp { attachment });
    let alone = PublishBundle {
        replace: true,
        last_resort: Some(payload(201)),
        ..publication(attachment, 3, Vec::new())
    };
    assert_eq!(owner.publish(alone).await, 0);
    assert_eq!(item(wire.take(&token).await), (payload(201), true));
    assert_eq!(owner.receive().await, ServerPacket::BundleLow { attachment, items: 0 });
    let nothing = PublishBundle { replace: true, ..publication(attachment, 4, Vec::new()) };
    assert_eq!(owner.publish(nothing.clone()).await, 0);
    assert_eq!(reason(wire.take(&token).await), Reason::BundleEmpty);
    // It has ended: nobody is told any more that it is low, and it can be ended again.
    assert_eq!(owner.publish(nothing).await, 0);
    let mut again = Wire::open(&relay, via).await;
    let attachment = again.attach(&mine.owner, &mine.member).await;
    assert_eq!(again.receive().await, ServerPacket::CaughtUp { attachment });
}

async fn publish_not_attached(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    // Said before everything else that is wrong.
    for items in [payloads(0..1), vec![sized(3)], vec![sized(65_536); 2], Vec::new()] {
        let answer = owner.say_publish(publication(7, 1, items)).await;
        assert_eq!(reason(answer), Reason::NotAttached);
    }
    let mut other = Wire::open(&relay, via).await;
    other.join_and_attach(OwnerKeyPair::generate()).await;
    let request = other.next_request();
    let detach = valise_proto::ClientPacket::Detach { request, attachment: 0 };
    other.say(&detach).await;
    other.receive().await;
    let answer = other.say_publish(publication(0, 1, payloads(0..1))).await;
    assert_eq!(reason(answer), Reason::NotAttached, "not any more");
    let (mut wire, token) = taker(&relay, via, &mine).await;
    assert_eq!(reason(wire.take(&token).await), Reason::BundleEmpty);
}

async fn publish_not_padded(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let wrong = |items| publication(mine.attachment, 1, items);
    let bad = [
        wrong(vec![sized(513)]),
        wrong(vec![payload(1), Bytes::new(), payload(2)]),
        // Tens of thousands of nothings in one packet.
        wrong(vec![Bytes::new(); 60_000]),
        // Too large as well: the size of each is looked at first.
        wrong(vec![sized(65_536), sized(65_537)]),
        PublishBundle { last_resort: Some(sized(100)), ..wrong(payloads(0..1)) },
    ];
    for publish in bad {
        assert_eq!(reason(owner.say_publish(publish).await), Reason::NotPadded);
    }
    assert_eq!(owner.publish(wrong(payloads(0..1))).await, 1, "none of it was taken in");
}

async fn publish_too_large(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let whole = publication(mine.attachment, 1, vec![sized(65_536); 2]);
    let more = PublishBundle { last_resort: Some(payload(1)), ..whole.clone() };
    assert_eq!(reason(owner.say_publish(more).await), Reason::TooLarge);
    // Also too many, which is looked at later.
    let many = publication(mine.attachment, 1, vec![payload(1); 257]);
    assert_eq!(reason(owner.say_publish(many).await), Reason::TooLarge);
    assert_eq!(owner.publish(whole).await, 2, "exactly 128 KiB");
}

async fn publish_bundle_full(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let attachment = mine.attachment;
    let answer = owner.say_publish(publication(attachment, 1, payloads(0..101))).await;
    assert_eq!(reason(answer), Reason::BundleFull);
    assert_eq!(owner.publish(publication(attachment, 1, payloads(0..100))).await, 100);
    let answer = owner.say_publish(publication(attachment, 2, payloads(0..1))).await;
    assert_eq!(reason(answer), Reason::BundleFull);
    // A refused publication is not the last one that was carried out.
    assert_eq!(owner.publish(publication(attachment, 1, payloads(0..1))).await, 100);
    // The last resort is not counted, and neither is what is replaced.
    let last_resort = Some(payload(7));
    let with = PublishBundle { last_resort, ..publication(attachment, 3, Vec::new()) };
    assert_eq!(owner.publish(with).await, 100);
    let whole = publication(attachment, 4, payloads(100..200));
    assert_eq!(owner.publish(PublishBundle { replace: true, ..whole }).await, 100);
}

/// The answer to a take that was said. A client whose relay is busy says it again.
async fn taken(wire: &mut Wire, token: &Token) -> ServerPacket<Bytes> {
    loop {
        let answer = wire.receive().await;
        if !was_busy(&answer).await {
            return answer;
        }
        wire.say_take(token).await;
    }
}

async fn take_raced_hands_out_each_item_once(via: Via) {
    let mut relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    owner.publish(publication(mine.attachment, 1, payloads(0..50))).await;
    let mut seen = BTreeSet::new();
    for round in 0..2 {
        let mut wires = Vec::new();
        for _ in 0..20 {
            wires.push(taker(&relay, via, &mine).await);
        }
        for (wire, token) in &mut wires {
            wire.say_take(token).await;
        }
        for (wire, token) in &mut wires {
            let (payload, last_resort) = item(taken(wire, token).await);
            assert!(!last_resort);
            assert!(seen.insert(payload), "round {round}: handed out twice");
        }
        drop(wires);
        relay.restart().await;
    }
    // The clumsy way: one connection, all at once.
    let (mut wire, token) = taker(&relay, via, &mine).await;
    for _ in 0..20 {
        wire.say_take(&token).await;
    }
    let mut empty = 0;
    for _ in 0..20 {
        match taken(&mut wire, &token).await {
            ServerPacket::Refused(refused) => {
                assert_eq!(refused.reason, Some(Reason::BundleEmpty));
                empty += 1;
            }
            answer => assert!(seen.insert(item(answer).0), "handed out twice"),
        }
    }
    assert_eq!((seen.len(), empty), (50, 10));
}

async fn take_last_resort(via: Via) {
    let mut relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let last_resort = Some(payload(77));
    let with = PublishBundle { last_resort, ..publication(mine.attachment, 1, payloads(0..1)) };
    assert_eq!(owner.publish(with).await, 1);
    let (mut wire, token) = taker(&relay, via, &mine).await;
    assert_eq!(item(wire.take(&token).await), (payload(0), false));
    for _ in 0..3 {
        assert_eq!(item(wire.take(&token).await), (payload(77), true));
    }
    relay.restart().await;
    let mut owner = Wire::open(&relay, via).await;
    let attachment = owner.attach(&mine.owner, &mine.member).await;
    assert_eq!(owner.receive().await, ServerPacket::BundleLow { attachment, items: 0 });
    assert_eq!(owner.receive().await, ServerPacket::CaughtUp { attachment });
    // An empty one leaves it as it was; another takes its place.
    assert_eq!(owner.publish(publication(attachment, 2, Vec::new())).await, 0);
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(item(wire.take(&token).await), (payload(77), true));
    assert_eq!(owner.receive().await, ServerPacket::BundleLow { attachment, items: 0 });
    let last_resort = Some(payload(78));
    let other = PublishBundle { last_resort, ..publication(attachment, 3, payloads(1..2)) };
    assert_eq!(owner.publish(other).await, 1);
    assert_eq!(item(wire.take(&token).await), (payload(1), false), "items come first");
    assert_eq!(item(wire.take(&token).await), (payload(78), true));
}

async fn take_token_invalid(via: Via) {
    let relay = Relay::start().await;
    let elsewhere = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    owner.publish(publication(mine.attachment, 1, payloads(0..20))).await;
    let (mut wire, token) = taker(&relay, via, &mine).await;
    let mut wrong: Vec<Token> = TokenKind::ALL
        .into_iter()
        .filter(|kind| *kind != TokenKind::Take)
        .map(|kind| relay.token(kind, &mine.mailbox, 1))
        .collect();
    wrong.extend([elsewhere.token(TokenKind::Take, &mine.mailbox, 1), Token::new([0; 60])]);
    for wrong in wrong {
        assert_eq!(reason(wire.take(&wrong).await), Reason::TokenInvalid);
    }
    assert_eq!(item(wire.take(&token).await).0, payload(0), "nothing was handed out");
}

async fn take_token_expired(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    owner.publish(publication(mine.attachment, 1, payloads(0..20))).await;
    let mut wire = Wire::open(&relay, via).await;
    let yesterday = relay.token(TokenKind::Take, &mine.mailbox, -1);
    assert_eq!(reason(wire.take(&yesterday).await), Reason::TokenExpired);
    let today = relay.token(TokenKind::Take, &mine.mailbox, 0);
    assert_eq!(item(wire.take(&today).await).0, payload(0));
}

async fn take_token_revoked(via: Via) {
    let relay = Relay::configured("[limits]\ntakes_per_hour_per_token = 1\n").await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let tokens = owner.issue(mine.attachment, TokenKind::Take, 2).await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(reason(wire.take(&tokens[0]).await), Reason::BundleEmpty);
    owner.revoke(mine.attachment, &tokens[0]).await;
    // Before the rate, and before the emptiness of the bundle.
    assert_eq!(reason(wire.take(&tokens[0]).await), Reason::TokenRevoked);
    owner.publish(publication(mine.attachment, 1, payloads(0..20))).await;
    assert_eq!(reason(wire.take(&tokens[0]).await), Reason::TokenRevoked);
    assert_eq!(item(wire.take(&tokens[1]).await).0, payload(0));
}

async fn take_rate_limited(via: Via) {
    let relay = Relay::configured("[limits]\ntakes_per_hour_per_token = 2\n").await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let (mut wire, token) = taker(&relay, via, &mine).await;
    let (mut other, their_token) = taker(&relay, via, &mine).await;
    owner.publish(publication(mine.attachment, 1, payloads(0..20))).await;
    assert_eq!(item(wire.take(&token).await).0, payload(0));
    // The token is what counts, not the connection.
    assert_eq!(item(other.take(&token).await).0, payload(1));
    for connection in [&mut wire, &mut other] {
        let ServerPacket::Refused(refused) = connection.take(&token).await else { panic!() };
        assert_eq!(refused.reason, Some(Reason::RateLimited));
        assert!((1..=1_800_000).contains(&refused.retry_after_ms), "{}", refused.retry_after_ms);
    }
    assert_eq!(item(other.take(&their_token).await).0, payload(2));
    // An empty bundle costs as much, and the rate is looked at before the bundle.
    let nobody = OwnerKeyPair::generate().mailbox(&relay.realm());
    let token = relay.token(TokenKind::Take, &nobody, 1);
    for expected in [Reason::BundleEmpty, Reason::BundleEmpty, Reason::RateLimited] {
        assert_eq!(reason(wire.take(&token).await), expected);
    }
}

/// Of a mailbox that does not exist as of one that has nothing: nobody can tell them apart.
async fn take_bundle_empty(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let (mut wire, token) = taker(&relay, via, &mine).await;
    let nobody = OwnerKeyPair::generate().mailbox(&relay.realm());
    for token in [token, relay.token(TokenKind::Take, &nobody, 1)] {
        let ServerPacket::Refused(refused) = wire.take(&token).await else { panic!() };
        assert_eq!((refused.reason, refused.retry_after_ms), (Some(Reason::BundleEmpty), 0));
    }
    owner.receive_nothing().await;
}

async fn a_take_establishes(via: Via) {
    let relay = Relay::start().await;
    relay.running().set_patience(Patience { establishment: ESTABLISHMENT, ..Patience::default() });
    let mailbox = OwnerKeyPair::generate().mailbox(&relay.realm());
    let mut guesser = Wire::open(&relay, via).await;
    let expired = relay.token(TokenKind::Take, &mailbox, -1);
    for token in [Token::new([0; 60]), expired, relay.token(TokenKind::Slot, &mailbox, 1)] {
        reason(guesser.take(&token).await);
    }
    let mut good = Wire::open(&relay, via).await;
    let opened = Instant::now();
    reason(good.take(&relay.token(TokenKind::Take, &mailbox, 1)).await);
    guesser.closed_with(CloseReason::EstablishmentTimeout).await;
    let over = opened + ESTABLISHMENT + ESTABLISHMENT / 10;
    tokio::time::sleep_until(over.into()).await;
    good.ping().await;
}

/// The owner serves three mailboxes on two connections; only one attachment is told.
async fn bundle_low_after_a_take(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, first) = Wire::serve(&relay, via).await;
    let mine = owner.join_and_attach(OwnerKeyPair::generate()).await;
    let (mut elsewhere, third) = Wire::serve(&relay, via).await;
    for attachment in [first.attachment, mine.attachment] {
        owner.publish(publication(attachment, 1, payloads(0..11))).await;
    }
    elsewhere.publish(publication(third.attachment, 1, payloads(0..11))).await;
    let (mut wire, token) = taker(&relay, via, &mine).await;
    item(wire.take(&token).await);
    owner.receive_nothing().await;
    let attachment = mine.attachment;
    for items in (0..10).rev() {
        item(wire.take(&token).await);
        assert_eq!(owner.receive().await, ServerPacket::BundleLow { attachment, items });
    }
    assert_eq!(reason(wire.take(&token).await), Reason::BundleEmpty);
    // An attachment that has ended is not told; the one that has taken over is.
    let mut newer = Wire::open(&relay, via).await;
    let attachment = newer.attach(&mine.owner, &mine.member).await;
    assert_eq!(newer.receive().await, ServerPacket::BundleLow { attachment, items: 0 });
    assert_eq!(newer.receive().await, ServerPacket::CaughtUp { attachment });
    let replaced = ServerPacket::Replaced { attachment: mine.attachment };
    assert_eq!(owner.receive().await, replaced);
    newer.publish(publication(attachment, 2, payloads(0..2))).await;
    item(wire.take(&token).await);
    assert_eq!(newer.receive().await, ServerPacket::BundleLow { attachment, items: 1 });
    owner.receive_nothing().await;
    elsewhere.receive_nothing().await;
}

async fn bundle_low_after_attached(via: Via) {
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let mut attachment = mine.attachment;
    for (id, numbers, low) in [(1, 0..9, Some(9)), (2, 9..10, None)] {
        owner.publish(publication(attachment, id, payloads(numbers))).await;
        owner = Wire::open(&relay, via).await;
        attachment = owner.attach(&mine.owner, &mine.member).await;
        if let Some(items) = low {
            assert_eq!(owner.receive().await, ServerPacket::BundleLow { attachment, items });
        }
        assert_eq!(owner.receive().await, ServerPacket::CaughtUp { attachment });
        owner.receive_nothing().await;
    }
    // Where there is no bundle at all, nothing is said.
    owner.join_and_attach(OwnerKeyPair::generate()).await;
    owner.receive_nothing().await;
}

async fn a_bundle_goes_after_its_time(via: Via) {
    let mut relay = Relay::start().await;
    if relay.is_node() {
        return; // the servers keep the time: tests/cluster/nodes.rs sees what they are told
    }
    let (mut owner, mine) = Wire::serve(&relay, via).await;
    let other = owner.join_and_attach(OwnerKeyPair::generate()).await;
    let last_resort = Some(payload(99));
    for attachment in [mine.attachment, other.attachment] {
        let what = publication(attachment, 1, payloads(0..12));
        owner.publish(PublishBundle { last_resort: last_resort.clone(), ..what }).await;
    }
    relay.restart_after(|state| let_pass(state, BUNDLE_HOURS)).await;
    let (mut wire, token) = taker(&relay, via, &mine).await;
    assert_eq!(item(wire.take(&token).await).0, payload(0), "not over yet");
    // A publication of nothing renews it.
    let mut owner = Wire::open(&relay, via).await;
    let (attachment, _) = owner.attach_and_catch_up(&other.owner, &other.member).await;
    assert_eq!(owner.publish(publication(attachment, 2, Vec::new())).await, 12);
    relay.restart_after(|state| let_pass(state, 1)).await;
    let (mut wire, _) = taker(&relay, via, &mine).await;
    let began = Instant::now();
    loop {
        match wire.take(&token).await {
            ServerPacket::Refused(refused) => {
                assert_eq!(
                    refused.reason,
                    Some(Reason::BundleEmpty),
                    "the last resort is gone too"
                );
                break;
            }
            answer => drop(item(answer)),
        }
        assert!(began.elapsed() < Duration::from_secs(30), "it does not go");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let renewed = relay.token(TokenKind::Take, &other.mailbox, 1);
    assert_eq!(item(wire.take(&renewed).await).0, payload(0));
    // A bundle after that begins anew, and even the same publication id is a new one.
    let mut owner = Wire::open(&relay, via).await;
    let (attachment, _) = owner.attach_and_catch_up(&mine.owner, &mine.member).await;
    assert_eq!(owner.publish(publication(attachment, 1, payloads(50..52))).await, 2);
    assert_eq!(item(wire.take(&token).await), (payload(50), false));
}
