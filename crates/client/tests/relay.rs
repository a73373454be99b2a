//! The client and a real relay: what every application does, over both transports.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use valise_client::proto::{Reason, Token, TokenKind};
use valise_client::testing::TestRelay;
use valise_client::{
    Closed, Connection, Dial, Ending, Event, Incoming, OwnerKeyPair, RequestError, TransportKind,
    connect, random,
};

const BOTH: [TransportKind; 2] = [TransportKind::Raw, TransportKind::WebSocket];

/// A connected owner with an attached mailbox and one capability for it.
struct Member {
    owner: OwnerKeyPair,
    member_token: Token,
    connection: Connection,
    incoming: Incoming,
    attachment: u32,
    capability: Token,
}

impl Member {
    async fn join(dial: &Dial) -> Self {
        let owner = OwnerKeyPair::generate();
        let (connection, mut incoming) = connect(dial).await.unwrap();
        let member_token = connection.join(&owner, None).await.unwrap();
        let attachment = connection.attach(&owner, &member_token).await.unwrap();
        let tokens = connection.issue(attachment, TokenKind::Post, 1, 30, 0).await.unwrap();
        assert_eq!(next(&mut incoming).await, Event::CaughtUp { attachment });
        let capability = tokens[0];
        Self { owner, member_token, connection, incoming, attachment, capability }
    }

    async fn again(self, dial: &Dial) -> Self {
        let (connection, incoming) = connect(dial).await.unwrap();
        let attachment = connection.attach(&self.owner, &self.member_token).await.unwrap();
        Self { connection, incoming, attachment, ..self }
    }

    async fn frame(&mut self) -> (u64, Bytes) {
        match next(&mut self.incoming).await {
            Event::Deliver(deliver) => (deliver.n, deliver.payload),
            other => panic!("a frame was due, not {other:?}"),
        }
    }
}

async fn next(incoming: &mut Incoming) -> Event {
    timeout(Duration::from_secs(10), incoming.next()).await.expect("in time").expect("an event")
}

fn payload(byte: u8) -> Bytes {
    vec![byte; 512].into()
}

#[tokio::test]
async fn a_frame_goes_from_one_to_the_other() {
    let relay = TestRelay::spawn().unwrap();
    for transport in BOTH {
        let dial = Dial { transport, ..relay.dial() };
        let (alice, mut bob) = (Member::join(&dial).await, Member::join(&dial).await);
        assert_eq!(alice.connection.key_exchange_group(), "X25519MLKEM768");
        let posted = alice
            .connection
            .post(random::frame_id(), &[bob.capability], 0, payload(1))
            .await
            .unwrap();
        assert_eq!(posted.outcomes, [Some(Reason::Accepted)]);
        assert_eq!(bob.frame().await, (1, payload(1)));
        alice.connection.signal(&[bob.capability], payload(2)).unwrap();
        let attachment = bob.attachment;
        assert_eq!(
            next(&mut bob.incoming).await,
            Event::Signaled { attachment, payload: payload(2) }
        );
        bob.connection.ack(bob.attachment, 1).unwrap();
        assert!(bob.connection.ping().await.unwrap() < Duration::from_secs(5));
        bob.connection.close().await;
        assert_eq!(next(&mut bob.incoming).await, Event::Closed(Ending::Ours));
        assert_eq!(bob.incoming.next().await, None);
        let error = bob.connection.ping().await.unwrap_err();
        assert_eq!(error, RequestError::Closed(Ending::Ours));
        let mut bob = bob.again(&dial).await;
        let attachment = bob.attachment;
        assert_eq!(next(&mut bob.incoming).await, Event::CaughtUp { attachment }, "acknowledged");
    }
}

#[tokio::test]
async fn thousands_of_posts_come_back_in_order_and_the_queue_holds_back() {
    let relay = TestRelay::with_config(
        "[limits]\nposts_per_second = 1000000\nposts_burst = 1000000\n\
         packets_per_second = 1000000\npackets_burst = 1000000\n",
    )
    .unwrap();
    for transport in BOTH {
        let dial = Dial { transport, ..relay.dial() };
        let (mut alice, mut bob) = (Member::join(&dial).await, Member::join(&dial).await);
        let frames = 3_000u32;
        // What was read and acknowledged: a mailbox holds 1,000 frames, accepted or not.
        let read = Cell::new(0u32);
        let posting = async {
            let mut accepted = 0;
            for i in 0..frames {
                alice.connection.ready().await;
                let numbered = [&i.to_be_bytes()[..], &[0; 508]].concat().into();
                let id = random::frame_id();
                alice.connection.post_later(id, &[bob.capability], 0, numbered).unwrap();
                while i - accepted > 500 {
                    accepted += accept(&mut alice.incoming).await;
                }
                while i.saturating_sub(read.get()) > 500 {
                    tokio::task::yield_now().await;
                }
            }
            while accepted < frames {
                accepted += accept(&mut alice.incoming).await;
            }
        };
        let reading = async {
            let mut expected = 0u32;
            while expected < frames {
                let Event::Deliver(deliver) = next(&mut bob.incoming).await else { continue };
                assert_eq!(deliver.payload[..4], expected.to_be_bytes());
                expected += 1;
                assert_eq!(deliver.n, u64::from(expected));
                bob.connection.ack(bob.attachment, deliver.n).unwrap();
                read.set(expected);
            }
        };
        timeout(Duration::from_secs(60), async { tokio::join!(posting, reading) }).await.unwrap();
    }
}

async fn accept(incoming: &mut Incoming) -> u32 {
    match next(incoming).await {
        Event::Posted(posted) => {
            assert_eq!(posted.outcomes, [Some(Reason::Accepted)]);
            1
        }
        other => panic!("an outcome was due, not {other:?}"),
    }
}

#[tokio::test]
async fn refusals_have_their_names() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Member::join(&relay.dial()).await;
    let refused = |error: RequestError| match error {
        RequestError::Refused { reason, .. } => reason,
        other => panic!("not refused: {other}"),
    };
    let foreign = OwnerKeyPair::generate();
    let error = alice.connection.attach(&foreign, &alice.member_token).await.unwrap_err();
    assert_eq!(refused(error), Some(Reason::NotOwner));
    let error = alice.connection.issue(9, TokenKind::Post, 1, 1, 0).await.unwrap_err();
    assert_eq!(refused(error), Some(Reason::NotAttached));
    let id = random::frame_id();
    let error = alice.connection.post(id, &[alice.capability], 0, Bytes::new()).await.unwrap_err();
    assert_eq!(refused(error), Some(Reason::NotPadded));
    // What fits no packet is not sent; the connection lives on.
    let many = vec![alice.capability; 3_000];
    let error = alice.connection.post(id, &many, 0, payload(1)).await.unwrap_err();
    assert_eq!(refused(error), Some(Reason::TooLarge));
    let error = alice.connection.post_later(id, &many, 0, payload(1)).unwrap_err();
    assert_eq!(error, Closed::TooLarge);
    let large = vec![0; 200_000].into();
    assert_eq!(alice.connection.signal(&[alice.capability], large), Err(Closed::TooLarge));
    let error = alice.connection.post(id, &many[..1025], 0, payload(1)).await.unwrap_err();
    assert_eq!(refused(error), Some(Reason::TooManyTargets));
    let forged = Token::new([1; 60]);
    let posted = alice.connection.post(id, &[forged], 0, payload(1)).await.unwrap();
    assert_eq!(posted.outcomes, [Some(Reason::TokenInvalid)]);
    // The count of attaches includes the refused one, and so does the next signature.
    alice.connection.detach(alice.attachment).await.unwrap();
    alice.connection.attach(&alice.owner, &alice.member_token).await.unwrap();
}

#[tokio::test]
async fn attaches_may_overtake_each_others_answers() {
    let relay = TestRelay::spawn().unwrap();
    let (connection, _incoming) = connect(&relay.dial()).await.unwrap();
    let owners: Vec<OwnerKeyPair> = (0..8).map(|_| OwnerKeyPair::generate()).collect();
    let attach = async |owner: &OwnerKeyPair| {
        let token = connection.join(owner, None).await.unwrap();
        connection.attach(owner, &token).await.unwrap()
    };
    let mut numbers = futures_util::future::join_all(owners.iter().map(attach)).await;
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[tokio::test]
async fn a_newer_attach_replaces_the_older() {
    let relay = TestRelay::spawn().unwrap();
    let mut first = Member::join(&relay.dial()).await;
    let (connection, _incoming) = connect(&relay.dial()).await.unwrap();
    connection.attach(&first.owner, &first.member_token).await.unwrap();
    let attachment = first.attachment;
    assert_eq!(next(&mut first.incoming).await, Event::Replaced { attachment });
}

#[tokio::test]
async fn what_is_not_read_is_held_back_not_lost() {
    let relay = TestRelay::with_config(
        "[limits]\nposts_per_second = 1000000\nposts_burst = 1000000\n\
         packets_per_second = 1000000\npackets_burst = 1000000\n",
    )
    .unwrap();
    let mut alice = Member::join(&relay.dial()).await;
    // Outcomes nobody reads fill the incoming queue; the connection must then stop reading, keep
    // its memory, and lose nothing.
    let forged = vec![Token::new([1; 60]); 1024];
    let posts = 2_000u32;
    let posting = async {
        for _ in 0..posts {
            alice.connection.ready().await;
            alice.connection.post_later(random::frame_id(), &forged, 0, payload(1)).unwrap();
        }
    };
    let reading = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..posts {
            match next(&mut alice.incoming).await {
                Event::Posted(posted) => assert_eq!(posted.outcomes.len(), 1024),
                other => panic!("an outcome was due, not {other:?}"),
            }
        }
    };
    timeout(Duration::from_secs(60), async { tokio::join!(posting, reading) }).await.unwrap();
}

#[tokio::test]
async fn a_small_appetite_holds_the_relay_back_and_an_abort_ends_at_once() {
    let relay = TestRelay::spawn().unwrap();
    let mut alice = Member::join(&relay.dial()).await;
    let capabilities = [alice.capability];
    let dial = Dial { receive_buffer_bytes: Some(8 << 10), incoming_bytes_max: 1, ..relay.dial() };
    let (connection, mut incoming) = connect(&dial).await.unwrap();
    for byte in 0..100 {
        connection.post_later(random::frame_id(), &capabilities, 0, payload(byte)).unwrap();
    }
    for _ in 0..100 {
        assert!(matches!(next(&mut incoming).await, Event::Posted(_)));
    }
    // Nobody reads what alice is sent, and still she can leave without a word.
    alice.connection.abort();
    let aborted = timeout(Duration::from_millis(500), async {
        while !matches!(next(&mut alice.incoming).await, Event::Closed(Ending::Ours)) {}
    });
    aborted.await.unwrap();
    assert_eq!(alice.connection.ack(alice.attachment, 1), Err(Closed::Ended));
}

#[tokio::test]
async fn a_terminated_relay_says_that_it_restarts_and_comes_back() {
    let mut relay = TestRelay::spawn().unwrap();
    let mut alice = Member::join(&relay.dial()).await;
    alice.connection.post(random::frame_id(), &[alice.capability], 0, payload(7)).await.unwrap();
    let relay = tokio::task::spawn_blocking(move || {
        assert!(relay.terminate().unwrap().success());
        relay.restart().unwrap();
        relay
    });
    assert_eq!(alice.frame().await, (1, payload(7)));
    assert!(matches!(next(&mut alice.incoming).await, Event::Restarting { .. }));
    let Event::Closed(Ending::Relay(Some(_))) = next(&mut alice.incoming).await else {
        panic!("the relay says why it closes");
    };
    let relay = relay.await.unwrap();
    let mut alice = alice.again(&relay.dial()).await;
    assert_eq!(alice.frame().await, (1, payload(7)), "not acknowledged, so delivered again");
    assert!(relay.admin_address().is_some());
}
