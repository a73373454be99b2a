//! One's own mailbox.

use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use valise_client::proto::{PublicationId, RealmId, Reason, RelayAddress, Token, TokenKind};
use valise_client::testing::TestRelay;
use valise_client::{BundleItem, OwnerKeyPair, Publication};

use super::super::{Options, RelayError, RelayEvent, Relays, enroll};
use super::{Profile, accepted, id, next, options, payload};

#[tokio::test]
async fn frames_come_again_until_they_are_acknowledged() {
    let mut relay = TestRelay::spawn().unwrap();
    let mut alice = Profile::at(&relay).await;
    let bob = Profile::at(&relay).await;
    let (to, capability) = (relay.address().clone(), alice.issue(TokenKind::Post).await);
    let to_himself = bob.issue(TokenKind::Post).await;
    for n in 1..=5 {
        assert_eq!(bob.post(&to, capability, n).await, accepted());
    }
    for n in 1..=5 {
        let RelayEvent::Frame { payload: came, receipt, .. } = alice.frame().await else {
            panic!()
        };
        assert_eq!(came, payload(n));
        if n == 2 {
            alice.relays.acknowledge(receipt);
        }
    }
    acknowledged_for_good(&alice, &bob, to_himself).await;
    relay.kill().unwrap();
    let RelayEvent::Offline { .. } = alice.next().await else { panic!("offline") };
    relay.restart().unwrap();
    assert!(alice.caught_up().await == [payload(3), payload(4), payload(5)]);
    // The same once more, with nothing acknowledged in between; then all of them at once.
    relay.restart().unwrap();
    let mut last = None;
    for n in 3..=5 {
        let RelayEvent::Frame { payload: came, receipt, .. } = alice.frame().await else {
            panic!()
        };
        assert_eq!(came, payload(n));
        last = Some(receipt);
    }
    assert_eq!(alice.next().await, RelayEvent::CaughtUp);
    alice.relays.acknowledge(last.unwrap());
    acknowledged_for_good(&alice, &bob, to_himself).await;
    relay.restart().unwrap();
    assert!(alice.caught_up().await.is_empty());
    // The sender found back, too.
    assert_eq!(bob.post(&to, capability, 6).await, accepted());
    alice.frame().await;
}

/// The relay's disk has an acknowledgement a moment after the relay, and before what comes later.
async fn acknowledged_for_good(alice: &Profile, bob: &Profile, to_himself: Token) {
    alice.issue(TokenKind::Post).await;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(bob.post(&bob.own.address, to_himself, 9).await, accepted());
}

#[tokio::test]
async fn an_own_request_waits_for_the_relay_but_not_for_ever() {
    let mut relay = TestRelay::spawn().unwrap();
    let mut alice = Profile::at(&relay).await;
    relay.kill().unwrap();
    // Until the pauses have grown above what a request waits for.
    loop {
        let RelayEvent::Offline { retry_in, .. } = alice.next().await else { panic!("offline") };
        if retry_in > Duration::from_millis(1_500) {
            break;
        }
    }
    let start = Instant::now();
    for _ in 0..100 {
        let error = alice.relays.issue(TokenKind::Post, 1, 30).await.unwrap_err();
        assert!(matches!(error, RelayError::Unreachable(_)), "{error}");
        assert!(error.is_retryable());
    }
    // Each at once, and not after what a request waits for.
    assert!(start.elapsed() < 10 * options().request_limit, "{:?}", start.elapsed());
    relay.restart().unwrap();
    alice.relays.reconnect();
    // The try has begun, or begins now; the request is there for it.
    let issued = async {
        loop {
            match alice.relays.issue(TokenKind::Post, 3, 30).await {
                Ok(tokens) => return tokens,
                Err(RelayError::Unreachable(_)) => tokio::task::yield_now().await,
                Err(other) => panic!("{other}"),
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(5), issued).await.unwrap().len(), 3);
}

#[tokio::test]
async fn tokens_end_and_are_renewed() {
    let relay = TestRelay::spawn().unwrap();
    let mut alice = Profile::at(&relay).await;
    let bob = Profile::at(&relay).await;
    let (to, capability) = (relay.address().clone(), alice.issue(TokenKind::Post).await);
    assert_eq!(bob.post(&to, capability, 1).await, accepted());
    let error = bob.relays.revoke(&capability).await.unwrap_err();
    assert!(
        matches!(error, RelayError::Refused { reason: Some(Reason::TokenInvalid), .. }),
        "{error}"
    );
    for _ in 0..2 {
        alice.relays.revoke(&capability).await.unwrap();
    }
    assert_eq!(bob.post(&to, capability, 2).await, Ok(vec![Some(Reason::TokenRevoked)]));
    let RelayEvent::Frame { receipt, .. } = alice.frame().await else { panic!() };
    alice.relays.acknowledge(receipt);
    // The new member token is the one that attaches from now on.
    let renewed = alice.relays.renew_member().await.unwrap();
    assert_ne!(renewed, alice.own.member_token);
    alice.relays.revoke(&alice.own.member_token).await.unwrap();
    alice.relays.reconnect();
    assert_eq!(alice.next().await, RelayEvent::Online);
    assert_eq!(alice.next().await, RelayEvent::CaughtUp);
    // A profile that still has the old one is told that it is not served.
    alice.relays.close().await;
    let (relays, mut events) = Relays::start(alice.own.clone(), Vec::new(), options());
    assert_eq!(next(&mut events).await, Some(RelayEvent::Online));
    let Some(RelayEvent::Stopped { why }) = next(&mut events).await else { panic!("stopped") };
    assert!(why.contains("token_revoked"), "{why}");
    assert_eq!(next(&mut events).await, None);
    let error = relays.issue(TokenKind::Post, 1, 30).await.unwrap_err();
    assert!(matches!(error, RelayError::Stopped(_)), "{error}");
    // Writing is still possible.
    let capability = bob.issue(TokenKind::Post).await;
    let posted = relays.post(&to, id(), &[capability], 0, payload(1)).await;
    assert_eq!(posted, accepted());
}

#[tokio::test]
async fn a_bundle_is_published_and_taken() {
    let relay = TestRelay::spawn().unwrap();
    let mut alice = Profile::at(&relay).await;
    let (bob, to) = (Profile::at(&relay).await, relay.address().clone());
    let token = alice.issue(TokenKind::Take).await;
    let error = bob.relays.take_bundle(&to, &token).await.unwrap_err();
    assert!(
        matches!(error, RelayError::Refused { reason: Some(Reason::BundleEmpty), .. }),
        "{error}"
    );
    let publication = Publication {
        replace: false,
        last_resort: Some(payload(9)),
        items: (0..10).map(payload).collect(),
    };
    // A retry with the same id adds nothing.
    for _ in 0..2 {
        let id = PublicationId::new([1; 16]);
        assert_eq!(alice.relays.publish(id, publication.clone()).await, Ok(10));
    }
    for n in 0..10 {
        let item = bob.relays.take_bundle(&to, &token).await.unwrap();
        assert_eq!(item, BundleItem { payload: payload(n), last_resort: false });
    }
    let item = bob.relays.take_bundle(&to, &token).await.unwrap();
    assert_eq!(item, BundleItem { payload: payload(9), last_resort: true });
    while !matches!(alice.next().await, RelayEvent::BundleLow { items } if items < 10) {}
}

#[tokio::test]
async fn whoever_is_replaced_stops() {
    let relay = TestRelay::spawn().unwrap();
    let mut first = Profile::at(&relay).await;
    let (_second, mut newer) = Relays::start(first.own.clone(), Vec::new(), options());
    assert_eq!(next(&mut newer).await, Some(RelayEvent::Online));
    assert_eq!(next(&mut newer).await, Some(RelayEvent::CaughtUp));
    let RelayEvent::Stopped { why } = first.next().await else { panic!("stopped") };
    assert!(why.contains("elsewhere"), "{why}");
    assert_eq!(first.events.recv().await, None);
    let error = first.relays.issue(TokenKind::Post, 1, 30).await.unwrap_err();
    assert!(matches!(error, RelayError::Stopped(_)), "{error}");
    let quiet = timeout(Duration::from_secs(1), newer.recv()).await;
    assert!(quiet.is_err(), "the first came back: {quiet:?}");
}

#[tokio::test]
async fn closing_ends_everything() {
    let (home, other) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let (mut alice, bob) = (Profile::at(&home).await, Profile::at(&other).await);
    let capability = bob.issue(TokenKind::Post).await;
    assert_eq!(alice.post(other.address(), capability, 1).await, accepted());
    timeout(Duration::from_secs(5), alice.relays.close()).await.unwrap();
    for to in [home.address(), other.address()] {
        assert_eq!(alice.post(to, capability, 2).await, Err(RelayError::Closed));
    }
    assert_eq!(alice.relays.issue(TokenKind::Post, 1, 30).await, Err(RelayError::Closed));
    assert_eq!(next(&mut alice.events).await, None);
    // Without a last word, too: the mailbox is free for the next, who is not replaced.
    let Profile { own, relays, .. } = bob;
    drop(relays);
    let (_relays, mut events) = Relays::start(own, Vec::new(), options());
    assert_eq!(next(&mut events).await, Some(RelayEvent::Online));
    let RelayEvent::Frame { .. } = next(&mut events).await.unwrap() else { panic!("the frame") };
}

#[tokio::test]
async fn who_may_not_enroll_is_told() {
    let relay = TestRelay::with_config("[relay]\naccess = \"codes\"\n").unwrap();
    let (owner, other) = (OwnerKeyPair::generate(), OwnerKeyPair::generate());
    let join = async |owner, code| enroll(relay.address(), owner, code, &options()).await;
    let reason = |result| match result {
        Err(RelayError::Refused { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason(join(&owner, None).await), Some(Reason::CodeRequired));
    let code = relay.invite_code().unwrap();
    join(&owner, Some(&code)).await.unwrap();
    join(&owner, Some(&code)).await.unwrap();
    assert_eq!(reason(join(&other, Some(&code)).await), Some(Reason::CodeSpent));
    let elsewhere = RelayAddress { realm: RealmId::new([7; 20]), ..relay.address().clone() };
    let error = enroll(&elsewhere, &owner, None, &options()).await.unwrap_err();
    assert!(matches!(error, RelayError::Untrusted(_)), "{error}");
    let nobody = RelayAddress { port: 9, ..relay.address().clone() };
    let error = enroll(&nobody, &owner, None, &Options::default()).await.unwrap_err();
    assert!(matches!(error, RelayError::Unreachable(_)), "{error}");
}
