//! The relays of others.

use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use valise_client::SlotPut;
use valise_client::proto::limits::{MAILBOX_BYTES_MAX, PAYLOAD_BYTES_MAX};
use valise_client::proto::{PutId, RealmId, Reason, RelayAddress, SlotId, TokenKind};
use valise_client::testing::TestRelay;

use super::super::{Options, RelayError, RelayEvent, Relays};
use super::way::{Mood, Way, proxy};
use super::{Profile, SOON, accepted, id, options, payload};

#[tokio::test]
async fn two_realms_and_each_outcome() {
    let often = "[limits]\nposts_per_second = 10000\nposts_burst = 10000\n";
    let (here, mut there) = (TestRelay::spawn().unwrap(), TestRelay::with_config(often).unwrap());
    let mut alice = Profile::at(&here).await;
    let (bob, carol) = (Profile::at(&there).await, Profile::at(&there).await);
    let to = there.address().clone();
    let (capability, revoked) =
        (bob.issue(TokenKind::Post).await, carol.issue(TokenKind::Post).await);
    carol.relays.revoke(&revoked).await.unwrap();
    let foreign = alice.issue(TokenKind::Post).await;
    let targets = [capability, revoked, foreign];
    let (first, bad) = (id(), [Some(Reason::TokenRevoked), Some(Reason::TokenInvalid)]);
    // A retry with the same id is no second frame.
    for _ in 0..2 {
        let outcomes = alice.relays.post(&to, first, &targets, 0, payload(1)).await.unwrap();
        assert_eq!(outcomes, [&[Some(Reason::Accepted)][..], &bad[..]].concat());
    }
    // With the largest payloads it is bytes that fill a mailbox first.
    let large = async || {
        let payload = vec![0; PAYLOAD_BYTES_MAX].into();
        alice.relays.post(&to, id(), &[capability], 0, payload).await
    };
    for _ in 1..MAILBOX_BYTES_MAX / PAYLOAD_BYTES_MAX as u64 {
        assert_eq!(large().await, accepted());
    }
    assert_eq!(large().await, Ok(vec![Some(Reason::MailboxFull)]));
    let odd = alice.relays.post(&to, id(), &targets, 0, vec![0; 7].into()).await.unwrap_err();
    assert!(matches!(odd, RelayError::Refused { reason: Some(Reason::NotPadded), .. }), "{odd}");
    assert_eq!(alice.relays.post(&to, id(), &[], 0, payload(1)).await, Ok(vec![]));
    there.restart().unwrap();
    let posted = async {
        loop {
            match large().await {
                Err(error) if error.is_retryable() => sleep(Duration::from_millis(50)).await,
                other => return other,
            }
        }
    };
    let outcomes = timeout(Duration::from_secs(20), posted).await.unwrap();
    assert_eq!(outcomes, Ok(vec![Some(Reason::MailboxFull)]));
    // And the other way.
    assert_eq!(bob.post(here.address(), foreign, 4).await, accepted());
    let RelayEvent::Frame { payload: came, .. } = alice.frame().await else { panic!() };
    assert_eq!(came, payload(4));
}

#[tokio::test]
async fn more_targets_than_one_post_may_have() {
    let (here, there) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let (alice, bob) = (Profile::at(&here).await, Profile::at(&there).await);
    let capability = bob.issue(TokenKind::Post).await;
    let foreign = alice.issue(TokenKind::Post).await;
    // Of the largest payload 16 fit.
    let mut targets = vec![capability; 40];
    targets[35] = foreign;
    let large = vec![0; 64 * 1024].into();
    let outcomes = alice.relays.post(there.address(), id(), &targets, 0, large).await.unwrap();
    assert_eq!(outcomes.len(), 40);
    for (at, outcome) in outcomes.into_iter().enumerate() {
        let expected = if at == 35 { Reason::TokenInvalid } else { Reason::Accepted };
        assert_eq!(outcome, Some(expected), "{at}");
    }
}

#[tokio::test]
async fn slots_are_written_once_and_read_to_the_last() {
    let (here, there) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let (alice, bob) = (Profile::at(&here).await, Profile::at(&there).await);
    let to = there.address();
    let token = bob.issue(TokenKind::Slot).await;
    let slots: Vec<SlotId> = (0..150).map(|n| SlotId::new([n; 32])).collect();
    let put = async |profile: &Profile, slot: usize, put: u8, value| {
        let put = PutId::new([put; 16]);
        profile.relays.put_slot(to, &token, slots[slot], put, value).await.unwrap()
    };
    assert_eq!(put(&alice, 0, 1, payload(1)).await, SlotPut::Stored);
    assert_eq!(put(&bob, 0, 2, payload(2)).await, SlotPut::Taken(payload(1)));
    assert_eq!(put(&alice, 0, 1, payload(1)).await, SlotPut::Stored);
    // More than one answer holds, in number and in bytes.
    let large = bytes::Bytes::from(vec![7; 64 * 1024]);
    for slot in [1, 2, 149] {
        assert_eq!(put(&bob, slot, 3, large.clone()).await, SlotPut::Stored);
    }
    let values = alice.relays.get_slots(to, &slots).await.unwrap();
    assert_eq!(values.len(), slots.len());
    for (at, value) in values.into_iter().enumerate() {
        let expected = match at {
            0 => Some(payload(1)),
            1 | 2 | 149 => Some(large.clone()),
            _ => None,
        };
        assert!(value == expected, "slot {at}");
    }
    assert_eq!(alice.relays.get_slots(to, &[]).await, Ok(vec![]));
}

#[tokio::test]
async fn who_is_not_asked_is_left_and_found_again() {
    let (here, there) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let way = Way::to(there.address()).await;
    let idle = Duration::from_millis(700);
    let alice = Profile::with(&here, Options { idle, ..options() }).await;
    let bob = Profile::at(&there).await;
    let capability = bob.issue(TokenKind::Post).await;
    assert_eq!(way.come(), 0, "nothing to ask yet");
    // In use it stays, however long.
    for n in 1..=6 {
        assert_eq!(alice.post(&way.address, capability, n).await, accepted());
        sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(way.come(), 1);
    timeout(Duration::from_secs(5), way.there(0)).await.expect("closed when idle");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(way.come(), 1, "nobody asks for it");
    assert_eq!(alice.post(&way.address, capability, 7).await, accepted());
    assert_eq!(way.come(), 2);
}

#[tokio::test]
async fn one_connection_serves_many_at_once() {
    let (here, there) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let way = Way::to(there.address()).await;
    let (alice, bob) = (Profile::at(&here).await, Profile::at(&there).await);
    let capability = bob.issue(TokenKind::Post).await;
    let mut posts = tokio::task::JoinSet::new();
    for n in 0..50 {
        let (relays, to) = (alice.relays.clone(), way.address.clone());
        posts.spawn(async move { relays.post(&to, id(), &[capability], 0, payload(n)).await });
    }
    while let Some(posted) = posts.join_next().await {
        assert_eq!(posted.unwrap(), accepted());
    }
    assert_eq!(way.come(), 1);
}

#[tokio::test]
async fn a_relay_that_says_nothing_holds_nobody_up() {
    let here = TestRelay::spawn().unwrap();
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = mute.local_addr().unwrap().port();
    let to = RelayAddress { port, host: "127.0.0.1".to_owned(), realm: RealmId::new([7; 20]) };
    let connect_limit = Duration::from_millis(600);
    let alice = Profile::with(&here, Options { connect_limit, ..options() }).await;
    let token = alice.issue(TokenKind::Post).await;
    let start = Instant::now();
    let error = alice.post(&to, token, 1).await.unwrap_err();
    assert!(matches!(error, RelayError::Unreachable(_)), "{error}");
    assert!(start.elapsed() >= connect_limit && start.elapsed() < SOON);
    // The request's own limit is the shorter one: nothing was sent either.
    let request_limit = Duration::from_millis(300);
    let hasty = Profile::with(&here, Options { request_limit, ..options() }).await;
    let start = Instant::now();
    let error = hasty.post(&to, token, 1).await.unwrap_err();
    assert!(matches!(error, RelayError::Unreachable(_)), "{error}");
    assert!(start.elapsed() < SOON);
}

#[tokio::test]
async fn a_relay_nobody_reaches_fails_fast_and_is_found_when_it_is_back() {
    let (here, mut there) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let (alice, bob) = (Profile::at(&here).await, Profile::at(&there).await);
    let (capability, to) = (bob.issue(TokenKind::Post).await, there.address().clone());
    there.kill().unwrap();
    // Failures until the pause between two tries is long.
    let pausing = async {
        loop {
            let start = Instant::now();
            let error = alice.post(&to, capability, 1).await.unwrap_err();
            assert!(matches!(error, RelayError::Unreachable(_)), "{error}");
            if start.elapsed() < Duration::from_millis(5) {
                return;
            }
        }
    };
    timeout(Duration::from_secs(60), pausing).await.unwrap();
    there.restart().unwrap();
    alice.relays.reconnect();
    let back = async {
        while let Err(error) = alice.post(&to, capability, 2).await {
            assert!(error.is_retryable(), "{error}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, back).await.expect("tried at once when told to");
}

#[tokio::test]
async fn what_was_asked_when_the_connection_broke_is_unknown() {
    let (here, there) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let way = Way::to(there.address()).await;
    let request_limit = Duration::from_secs(5);
    let alice = Profile::with(&here, Options { request_limit, ..options() }).await;
    let bob = Profile::at(&there).await;
    let capability = bob.issue(TokenKind::Post).await;
    assert_eq!(alice.post(&way.address, capability, 1).await, accepted());
    way.set(Mood::Quiet);
    let start = Instant::now();
    let error = alice.post(&way.address, capability, 2).await.unwrap_err();
    assert!(matches!(error, RelayError::Unknown(_)), "{error}");
    assert!(start.elapsed() >= request_limit && start.elapsed() < SOON);
    let (posting, breaking) = tokio::join!(alice.post(&way.address, capability, 3), async {
        sleep(Duration::from_millis(200)).await;
        way.set(Mood::Broken);
        Instant::now()
    });
    let error = posting.unwrap_err();
    assert!(matches!(error, RelayError::Unknown(_)), "{error}");
    assert!(breaking.elapsed() < request_limit / 2, "told when it broke");
    // One's own relay was not disturbed, and this one is found again.
    alice.issue(TokenKind::Post).await;
    way.set(Mood::Friendly);
    let back = async {
        while let Err(error) = alice.post(&way.address, capability, 4).await {
            assert!(error.is_retryable(), "{error}");
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, back).await.unwrap();
}

#[tokio::test]
async fn an_impostor_is_refused_and_not_asked_again() {
    let (here, there) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let way = Way::to(there.address()).await;
    let alice = Profile::at(&here).await;
    let token = alice.issue(TokenKind::Post).await;
    let to = RelayAddress { realm: RealmId::new([7; 20]), ..way.address.clone() };
    for _ in 0..20 {
        let error = alice.post(&to, token, 1).await.unwrap_err();
        assert!(matches!(error, RelayError::Untrusted(_)), "{error}");
    }
    assert_eq!(way.come(), 1);
    // The right realm at the same place is another relay.
    let bob = Profile::at(&there).await;
    let capability = bob.issue(TokenKind::Post).await;
    assert_eq!(alice.post(&way.address, capability, 1).await, accepted());
    // The application may insist.
    alice.relays.reconnect();
    alice.post(&to, token, 1).await.unwrap_err();
    assert!(way.come() >= 3);
}

#[tokio::test]
async fn others_do_not_send_us_into_our_own_network() {
    let (here, there) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let way = Way::to(there.address()).await;
    let alice = Profile::with(&here, Options::default()).await;
    let token = alice.issue(TokenKind::Post).await;
    let error = alice.post(&way.address, token, 1).await.unwrap_err();
    assert!(matches!(error, RelayError::Forbidden(_)), "{error}");
    assert!(!error.is_retryable());
    assert_eq!(way.come(), 0);
    // One's own realm is asked over one's own connection, whatever host is named for it.
    let named = RelayAddress { realm: here.address().realm, ..way.address.clone() };
    assert_eq!(alice.post(&named, token, 1).await, accepted());
    assert_eq!(way.come(), 0);
}

#[tokio::test]
async fn everything_goes_through_the_proxy() {
    let (here, there) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let bob = Profile::at(&there).await;
    let capability = bob.issue(TokenKind::Post).await;
    let (proxy, asked) = proxy().await;
    // Enrolling, and one's own mailbox.
    let alice = Profile::with(&here, Options { proxy: Some(proxy), ..Options::default() }).await;
    assert_eq!(*asked.borrow(), ["127.0.0.1"; 2]);
    // A name that nobody resolves here.
    let named = RelayAddress { host: "relay.example".to_owned(), ..there.address().clone() };
    assert_eq!(alice.post(&named, capability, 1).await, accepted());
    assert_eq!(*asked.borrow(), ["127.0.0.1", "127.0.0.1", "relay.example"]);
}

/// Whoever knows where a relay has moved needs no other address than that of before, which nobody
/// answers at any more.
#[tokio::test]
async fn a_relay_that_has_moved_is_found_by_its_record() {
    let (home, away) = (TestRelay::spawn().unwrap(), TestRelay::spawn().unwrap());
    let alice = Profile::at(&away).await;
    let mut bob = Profile::at(&home).await;
    let capability = alice.issue(TokenKind::Post).await;
    assert_eq!(bob.post(away.address(), capability, 1).await, accepted());
    let known = async {
        loop {
            match bob.events.recv().await {
                Some(RelayEvent::Realm(known)) if known.realm == away.address().realm => {
                    return known;
                }
                event => assert!(event.is_some()),
            }
        }
    };
    let known = timeout(Duration::from_secs(30), known).await.unwrap();
    bob.relays.close().await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let before = RelayAddress { port: gone.port(), ..away.address().clone() };
    let post = async |known| {
        let (relays, _events) = Relays::start(bob.own.clone(), known, options());
        relays.post(&before, id(), &[capability], 0, payload(2)).await
    };
    assert!(matches!(post(Vec::new()).await, Err(RelayError::Unreachable(_))));
    assert_eq!(post(vec![known]).await, accepted());
}
