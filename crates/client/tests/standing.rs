//! Slots, bundles, revocations and a changed token key, against a real relay that is killed in the
//! middle of it.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use valise_client::proto::{PublicationId, PutId, Reason, SlotId, Token, TokenKind};
use valise_client::testing::TestRelay;
use valise_client::{
    Client, Connection, Dial, Event, Incoming, OwnerKeyPair, Publication, RequestError, SlotPut,
    TransportKind, Update, connect, enroll, random,
};

const BOTH: [TransportKind; 2] = [TransportKind::Raw, TransportKind::WebSocket];

/// A connected owner with an attached mailbox.
struct Member {
    owner: OwnerKeyPair,
    member_token: Token,
    connection: Connection,
    incoming: Incoming,
    attachment: u32,
}

impl Member {
    async fn join(dial: &Dial) -> Self {
        let owner = OwnerKeyPair::generate();
        let (connection, mut incoming) = connect(dial).await.unwrap();
        let member_token = connection.join(&owner, None).await.unwrap();
        let attachment = connection.attach(&owner, &member_token).await.unwrap();
        assert_eq!(next(&mut incoming).await, Event::CaughtUp { attachment });
        Self { owner, member_token, connection, incoming, attachment }
    }

    async fn issue(&self, kind: TokenKind) -> Token {
        self.connection.issue(self.attachment, kind, 1, 30, 0).await.unwrap()[0]
    }

    async fn publish(&self, id: u8, publication: Publication) -> Result<u32, RequestError> {
        let id = PublicationId::new([id; 16]);
        self.connection.publish_bundle(self.attachment, id, publication).await
    }
}

async fn next(incoming: &mut Incoming) -> Event {
    timeout(Duration::from_secs(10), incoming.next()).await.expect("in time").expect("an event")
}

fn payload(n: u32) -> Bytes {
    [&n.to_be_bytes()[..], &[0; 508]].concat().into()
}

fn items(numbers: std::ops::Range<u32>) -> Vec<Bytes> {
    numbers.map(payload).collect()
}

fn refused<T: std::fmt::Debug>(result: Result<T, RequestError>) -> Option<Reason> {
    match result.unwrap_err() {
        RequestError::Refused { reason, .. } => reason,
        other => panic!("not refused: {other}"),
    }
}

#[tokio::test]
async fn a_revoked_token_is_refused() {
    let relay = TestRelay::spawn().unwrap();
    for transport in BOTH {
        let dial = Dial { transport, ..relay.dial() };
        let (alice, bob) = (Member::join(&dial).await, Member::join(&dial).await);
        let capability = alice.issue(TokenKind::Post).await;
        let answer = bob.connection.revoke(bob.attachment, &capability).await;
        assert_eq!(refused(answer), Some(Reason::TokenInvalid));
        let answer = alice.connection.revoke(9, &capability).await;
        assert_eq!(refused(answer), Some(Reason::NotAttached));
        for _ in 0..2 {
            alice.connection.revoke(alice.attachment, &capability).await.unwrap();
        }
        let id = random::frame_id();
        let posted = bob.connection.post(id, &[capability], 0, payload(1)).await.unwrap();
        assert_eq!(posted.outcomes, [Some(Reason::TokenRevoked)]);
        // Revoking one's own member token: the next attach needs another.
        alice.connection.revoke(alice.attachment, &alice.member_token).await.unwrap();
        let (again, _incoming) = connect(&dial).await.unwrap();
        let answer = again.attach(&alice.owner, &alice.member_token).await;
        assert_eq!(refused(answer), Some(Reason::TokenRevoked));
    }
}

#[tokio::test]
async fn a_slot_is_written_once() {
    let mut relay = TestRelay::spawn().unwrap();
    for (slot, transport) in (1u8..).zip(BOTH) {
        let dial = Dial { transport, ..relay.dial() };
        let (alice, bob) = (Member::join(&dial).await, Member::join(&dial).await);
        let (id, token) = (SlotId::new([slot; 32]), alice.issue(TokenKind::Slot).await);
        let theirs = bob.issue(TokenKind::Slot).await;
        let (first, second) = (PutId::new([1; 16]), PutId::new([2; 16]));
        let put = alice.connection.put_slot(&token, id, first, payload(1)).await.unwrap();
        assert_eq!(put, SlotPut::Stored);
        let put = bob.connection.put_slot(&theirs, id, second, payload(2)).await.unwrap();
        assert_eq!(put, SlotPut::Taken(payload(1)));
        let free = SlotId::new([99; 32]);
        let got = bob.connection.get_slots(&[free, id]).await.unwrap();
        assert_eq!(got, [None, Some(payload(1))]);
        // What the library knows to be too long is not sent; the connection lives on.
        let long = vec![0; 200_000].into();
        let answer = bob.connection.put_slot(&theirs, free, second, long).await;
        assert_eq!(refused(answer), Some(Reason::TooLarge));
        let answer = bob.connection.get_slots(&[]).await;
        assert_eq!(refused(answer), Some(Reason::LimitsInvalid));
        let answer = bob.connection.put_slot(&token, free, second, Bytes::new()).await;
        assert_eq!(refused(answer), Some(Reason::NotPadded));
        // The relay is killed: what was stored is, and a repeated put finds itself.
        relay.restart().unwrap();
        let (connection, _incoming) = connect(&dial).await.unwrap();
        let put = connection.put_slot(&token, id, first, payload(1)).await.unwrap();
        assert_eq!(put, SlotPut::Stored);
        let put = connection.put_slot(&theirs, id, second, payload(2)).await.unwrap();
        assert_eq!(put, SlotPut::Taken(payload(1)));
    }
}

#[tokio::test]
async fn a_bundle_is_published_taken_and_runs_low() {
    let relay = TestRelay::spawn().unwrap();
    for transport in BOTH {
        let dial = Dial { transport, ..relay.dial() };
        let (mut alice, bob) = (Member::join(&dial).await, Member::join(&dial).await);
        let token = alice.issue(TokenKind::Take).await;
        assert_eq!(refused(bob.connection.take_bundle(&token).await), Some(Reason::BundleEmpty));
        let what = Publication {
            last_resort: Some(payload(99)),
            items: items(0..10),
            ..Default::default()
        };
        for _ in 0..2 {
            assert_eq!(alice.publish(1, what.clone()).await.unwrap(), 10);
        }
        for n in 0..10 {
            let item = bob.connection.take_bundle(&token).await.unwrap();
            assert_eq!((item.payload, item.last_resort), (payload(n), false));
            let low = Event::BundleLow { attachment: alice.attachment, items: 9 - n };
            assert_eq!(next(&mut alice.incoming).await, low);
        }
        let item = bob.connection.take_bundle(&token).await.unwrap();
        assert_eq!((item.payload, item.last_resort), (payload(99), true));
        let replaced = Publication { replace: true, items: items(20..21), last_resort: None };
        assert_eq!(alice.publish(2, replaced).await.unwrap(), 1);
        assert_eq!(bob.connection.take_bundle(&token).await.unwrap().payload, payload(20));
        assert_eq!(refused(bob.connection.take_bundle(&token).await), Some(Reason::BundleEmpty));
        let long = Publication { items: vec![vec![0; 65_536].into(); 3], ..Default::default() };
        assert_eq!(refused(alice.publish(3, long).await), Some(Reason::TooLarge));
        let full = Publication { items: items(0..101), ..Default::default() };
        assert_eq!(refused(alice.publish(3, full).await), Some(Reason::BundleFull));
    }
}

/// The client that stays tells its application, after a take and when it attaches.
#[tokio::test]
async fn a_staying_client_hears_that_its_bundle_runs_low() {
    let relay = TestRelay::spawn().unwrap();
    let dial = relay.dial();
    let alice = Member::join(&dial).await;
    let token = alice.issue(TokenKind::Take).await;
    alice.publish(1, Publication { items: items(0..3), ..Default::default() }).await.unwrap();
    let mailbox = alice.owner.mailbox(&relay.address().realm);
    alice.connection.close().await;
    let (client, mut updates) = Client::start(dial.clone());
    client.serve(Arc::new(alice.owner), alice.member_token);
    let mut told = async |items| {
        let low = timeout(Duration::from_secs(10), async {
            loop {
                match updates.next().await.unwrap() {
                    Update::BundleLow { mailbox, items } => break (mailbox, items),
                    _ => continue,
                }
            }
        });
        assert_eq!(low.await.unwrap(), (mailbox, items));
    };
    told(3).await;
    let (connection, _incoming) = connect(&dial).await.unwrap();
    connection.take_bundle(&token).await.unwrap();
    told(2).await;
    client.close().await;
}

/// Everybody takes while the relay is killed again and again: nobody gets what another has got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_item_is_handed_out_twice_by_a_relay_that_is_killed() {
    let mut relay =
        TestRelay::with_config("[limits]\ntakes_per_hour_per_token = 100000\n").unwrap();
    let dial = relay.dial();
    let alice = Member::join(&dial).await;
    let token = alice.issue(TokenKind::Take).await;
    alice.publish(1, Publication { items: items(0..100), ..Default::default() }).await.unwrap();
    let takers: Vec<_> = (0..10)
        .map(|_| {
            let dial = dial.clone();
            tokio::spawn(async move {
                let mut taken = Vec::new();
                let give_up = Instant::now() + Duration::from_secs(60);
                while Instant::now() < give_up {
                    let Ok((connection, _incoming)) = connect(&dial).await else {
                        sleep(Duration::from_millis(20)).await;
                        continue;
                    };
                    loop {
                        match connection.take_bundle(&token).await {
                            Ok(item) => taken.push(item.payload),
                            Err(RequestError::Refused {
                                reason: Some(Reason::BundleEmpty),
                                ..
                            }) => return taken,
                            // The relay was killed, or cannot decide.
                            Err(_) => break,
                        }
                        sleep(Duration::from_millis(15)).await;
                    }
                }
                panic!("the bundle does not become empty")
            })
        })
        .collect();
    for _ in 0..4 {
        sleep(Duration::from_millis(40)).await;
        relay.restart().unwrap();
    }
    let mut seen = BTreeSet::new();
    for taker in takers {
        for item in taker.await.unwrap() {
            assert!(seen.insert(item), "handed out twice");
        }
    }
    // An answer that was under way when the relay was killed took its item with it: one for each
    // taker and kill at most.
    assert!((60..=100).contains(&seen.len()), "{} of 100", seen.len());
}

fn rotate(relay: &TestRelay) {
    let mut command = Command::new(relay.binary());
    command.arg("rotate-token-key").arg("--state-directory").arg(relay.state_directory());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until the relay has logged something so many times.
async fn logged(relay: &TestRelay, what: &str, times: usize) {
    let give_up = Instant::now() + Duration::from_secs(10);
    while relay.log().matches(what).count() < times {
        assert!(Instant::now() < give_up, "no {what:?} in {}", relay.log());
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_token_key_is_changed_under_load_and_nobody_is_refused() {
    let config = "[limits]\nposts_per_second = 100000\nposts_burst = 100000\n";
    let mut relay = TestRelay::with_config(config).unwrap();
    let dial = relay.dial();
    let bob = Member::join(&dial).await;
    let oldest = bob.issue(TokenKind::Post).await;
    let (stop, posts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let load = {
        let (stop, posts, dial) = (Arc::clone(&stop), Arc::clone(&posts), dial.clone());
        tokio::spawn(async move {
            let (connection, _incoming) = connect(&dial).await.unwrap();
            while !stop.load(Ordering::Relaxed) {
                let n = posts.fetch_add(1, Ordering::Relaxed);
                let id = random::frame_id();
                let posted = connection.post(id, &[oldest], 0, payload(n)).await.unwrap();
                assert_eq!(posted.outcomes, [Some(Reason::Accepted)]);
            }
        })
    };
    let Member { connection, mut incoming, attachment, .. } = bob;
    let received = Arc::new(AtomicU32::new(0));
    let receiver = {
        let (connection, received) = (connection.clone(), Arc::clone(&received));
        tokio::spawn(async move {
            let mut expected = 0;
            while let Some(event) = incoming.next().await {
                let Event::Deliver(deliver) = event else { continue };
                assert_eq!(deliver.payload, payload(expected), "lost");
                expected += 1;
                received.store(expected, Ordering::Relaxed);
                if connection.ack(attachment, deliver.n).is_err() {
                    break;
                }
            }
            expected
        })
    };
    let mut tokens = vec![oldest];
    for round in 1..=4 {
        let before = posts.load(Ordering::Relaxed);
        rotate(&relay);
        relay.hang_up().unwrap();
        logged(&relay, "reloaded", round).await;
        let issued = connection.issue(attachment, TokenKind::Post, 1, 30, 0).await.unwrap()[0];
        let other_key = |token: &Token| token.as_bytes()[..4] != issued.as_bytes()[..4];
        assert!(tokens.iter().all(other_key), "sealed with an older key");
        tokens.push(issued);
        while posts.load(Ordering::Relaxed) < before + 20 {
            sleep(Duration::from_millis(5)).await;
        }
    }
    // Damaged keys leave the ones in force there.
    let path = relay.state_directory().join("token.keys");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, good.replacen('\n', "\n0", 1)).unwrap();
    relay.hang_up().unwrap();
    logged(&relay, "line 2 is damaged", 1).await;
    let issued = connection.issue(attachment, TokenKind::Post, 1, 30, 0).await.unwrap()[0];
    assert_eq!(issued.as_bytes()[..4], tokens[4].as_bytes()[..4]);
    std::fs::write(&path, good).unwrap();
    stop.store(true, Ordering::Relaxed);
    load.await.unwrap();
    let give_up = Instant::now() + Duration::from_secs(30);
    while received.load(Ordering::Relaxed) < posts.load(Ordering::Relaxed) {
        assert!(Instant::now() < give_up, "not each of them came");
        sleep(Duration::from_millis(5)).await;
    }
    connection.close().await;
    assert_eq!(receiver.await.unwrap(), posts.load(Ordering::Relaxed), "each of them came");
    // After a kill, too, each of them is good.
    relay.restart().unwrap();
    let (connection, _incoming) = connect(&dial).await.unwrap();
    let posted = connection.post(random::frame_id(), &tokens, 0, payload(0)).await.unwrap();
    assert_eq!(posted.outcomes, [Some(Reason::Accepted); 5]);
    let theirs = enroll(&dial, &OwnerKeyPair::generate(), None, 1, 30).await.unwrap();
    assert_eq!(theirs.member_token.as_bytes()[..4], tokens[4].as_bytes()[..4]);
}
