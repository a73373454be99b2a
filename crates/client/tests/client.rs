//! The client that stays, against a real relay that does not: restarts, kills, takeovers, and a
//! network that goes quiet.
#![allow(clippy::unwrap_used, reason = "a test may panic, its helpers included")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use valise_client::proto::{MailboxId, RealmId, RelayAddress, Token, TokenKind};
use valise_client::testing::TestRelay;
use valise_client::{
    Away, Client, Connection, ConversationId, Dial, Envelope, Inbox, OpeningError, OwnerKeyPair,
    PushError, SendError, Settlement, Stop, StreamId, TransportKind, Update, Updates, enroll,
};

const CHAT: ConversationId = ConversationId(1);

/// A member of the relay, not yet connected.
struct Member {
    owner: Arc<OwnerKeyPair>,
    member_token: Token,
    capability: Token,
}

impl Member {
    async fn new(dial: &Dial) -> Self {
        let owner = Arc::new(OwnerKeyPair::generate());
        let enrolled = enroll(dial, &owner, None, 1, 30).await.unwrap();
        Self { owner, member_token: enrolled.member_token, capability: enrolled.capabilities[0] }
    }

    fn start(&self, dial: &Dial) -> (Client, Updates) {
        let (client, updates) = Client::start(dial.clone());
        client.serve(self.owner.clone(), self.member_token);
        (client, updates)
    }

    fn mailbox(&self, relay: &TestRelay) -> MailboxId {
        self.owner.mailbox(&relay.address().realm)
    }
}

/// The next update that is not the realm's record.
async fn next(updates: &mut Updates) -> Update {
    loop {
        let update = timeout(Duration::from_secs(30), updates.next()).await.expect("in time");
        match update.expect("an update") {
            Update::Realm(_) => {}
            update => return update,
        }
    }
}

/// Reads messages, as an application would, until `count` have been shown; each shown message is
/// the text of its own counter.
async fn show(client: &Client, updates: &mut Updates, inbox: &mut Inbox, count: u64) {
    let mut shown = 0;
    while shown < count {
        let Update::Message { payload, receipt, .. } = next(updates).await else { continue };
        let envelope = Envelope::decode(&payload).unwrap();
        let (stream, first) = (envelope.stream, envelope.first_counter);
        let received = inbox.receive(stream, first, envelope.messages.len() as u64);
        assert_eq!(received.gap, None, "lost");
        for counter in received.fresh {
            let message = &envelope.messages[(counter - first) as usize];
            assert_eq!(*message, counter.to_string().as_bytes());
            shown += 1;
        }
        client.acknowledge(receipt);
    }
    assert_eq!(shown, count, "phantoms");
}

/// Pushes the counters from `first` on as texts, a few at a time.
async fn push(client: &Client, first: u64, count: u64) {
    for counter in first..first + count {
        let text = Bytes::from(counter.to_string());
        assert_eq!(client.send(CHAT, text), Ok(counter));
        if counter % 10 == 0 {
            sleep(Duration::from_millis(2)).await;
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_doubled_or_reordered_when_the_relay_is_killed() {
    let mut relay = TestRelay::spawn().unwrap();
    for transport in [TransportKind::Raw, TransportKind::WebSocket] {
        let dial = Dial { transport, ..relay.dial() };
        let (alice, bob) = (Member::new(&dial).await, Member::new(&dial).await);
        let (sender, mut outcomes) = alice.start(&dial);
        let (receiver, mut updates) = bob.start(&dial);
        sender.open(CHAT, StreamId::random(), vec![bob.capability], 1);
        let drain = tokio::spawn(async move {
            let mut accepted = 0;
            while let Some(update) = outcomes.next().await {
                if let Update::Settled(settled) = update {
                    assert_eq!(settled.fate, Settlement::Accepted);
                    accepted += settled.counters.end - settled.counters.start;
                }
            }
            accepted
        });
        let mut inbox = Inbox::default();
        for round in 0..3 {
            let pushing = push(&sender, 1 + round * 400, 400);
            let killing = async {
                sleep(Duration::from_millis(30)).await;
                relay.restart().unwrap();
            };
            let showing = show(&receiver, &mut updates, &mut inbox, 400);
            tokio::join!(pushing, killing, showing);
        }
        timeout(Duration::from_secs(30), sender.settled()).await.unwrap();
        sender.close().await;
        receiver.close().await;
        assert_eq!(drain.await.unwrap(), 1_200);
    }
}

#[tokio::test]
async fn an_announced_restart_is_obeyed() {
    let mut relay = TestRelay::with_config("[limits]\nreconnect_spread_seconds = 1\n").unwrap();
    let alice = Member::new(&relay.dial()).await;
    let (_client, mut updates) = alice.start(&relay.dial());
    let mailbox = alice.mailbox(&relay);
    assert_eq!(next(&mut updates).await, Update::Connected);
    assert_eq!(next(&mut updates).await, Update::CaughtUp { mailbox });
    let restarted = tokio::task::spawn_blocking(move || {
        relay.terminate().unwrap();
        relay.restart().unwrap();
        relay
    });
    let Update::Disconnected { why, retry_in } = next(&mut updates).await else {
        panic!("the connection ends");
    };
    assert!(why.contains("restarting"), "{why}");
    assert!(retry_in <= Duration::from_secs(1), "a random part of the announced second");
    loop {
        match next(&mut updates).await {
            // The relay may not be back yet; it said that it is worth trying.
            Update::Disconnected { retry_in, .. } => assert!(retry_in <= Duration::from_secs(2)),
            Update::Connected => break,
            other => panic!("not {other:?}"),
        }
    }
    assert_eq!(next(&mut updates).await, Update::CaughtUp { mailbox });
    drop(restarted.await.unwrap());
}

#[tokio::test]
async fn a_replaced_client_stays_away() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Member::new(&relay.dial()).await;
    let mailbox = alice.mailbox(&relay);
    let (first, mut updates) = alice.start(&relay.dial());
    assert_eq!(next(&mut updates).await, Update::Connected);
    assert_eq!(next(&mut updates).await, Update::CaughtUp { mailbox });
    let (_second, mut newer) = alice.start(&relay.dial());
    assert_eq!(next(&mut updates).await, Update::Replaced { mailbox });
    assert_eq!(next(&mut updates).await, Update::GaveUp(Stop::Replaced));
    assert_eq!(updates.next().await, None);
    assert_eq!(first.send(CHAT, Bytes::new()), Err(SendError::Ended));
    assert_eq!(next(&mut newer).await, Update::Connected);
    assert_eq!(next(&mut newer).await, Update::CaughtUp { mailbox });
    let quiet = timeout(Duration::from_secs(2), newer.next()).await;
    assert!(quiet.is_err(), "the first came back: {quiet:?}");
}

/// With a newer token, say: the older attachment of this connection is replaced by its own newer one.
#[tokio::test]
async fn a_mailbox_may_be_served_again() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Member::new(&relay.dial()).await;
    let mailbox = alice.mailbox(&relay);
    let (client, mut updates) = alice.start(&relay.dial());
    for _ in 0..3 {
        while next(&mut updates).await != (Update::CaughtUp { mailbox }) {}
        client.serve(alice.owner.clone(), alice.member_token);
    }
    client.open(CHAT, StreamId::random(), vec![alice.capability], 1);
    push(&client, 1, 1).await;
    show(&client, &mut updates, &mut Inbox::default(), 1).await;
}

#[tokio::test]
async fn one_replaced_mailbox_of_two_leaves_the_other_served() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = (Member::new(&relay.dial()).await, Member::new(&relay.dial()).await);
    let (client, mut updates) = alice.start(&relay.dial());
    client.serve(bob.owner.clone(), bob.member_token);
    let mut caught_up = 0;
    while caught_up < 2 {
        caught_up += u8::from(matches!(next(&mut updates).await, Update::CaughtUp { .. }));
    }
    let (_other, _updates) = bob.start(&relay.dial());
    let mailbox = bob.mailbox(&relay);
    assert_eq!(next(&mut updates).await, Update::Replaced { mailbox });
    client.open(CHAT, StreamId::random(), vec![alice.capability], 1);
    push(&client, 1, 1).await;
    show(&client, &mut updates, &mut Inbox::default(), 1).await;
    // On the next connection, too, only the one is attached.
    client.reconnect();
    let mut after = Vec::new();
    while after.len() < 2 {
        match next(&mut updates).await {
            Update::Settled(_) => {}
            update => after.push(update),
        }
    }
    let mailbox = alice.mailbox(&relay);
    assert_eq!(after, [Update::Connected, Update::CaughtUp { mailbox }]);
}

/// A way to the relay that can go quiet: it stays open, and carries nothing any more.
struct Way {
    port: u16,
    is_quiet: Arc<AtomicBool>,
}

impl Way {
    async fn to(relay: &RelayAddress) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let is_quiet = Arc::new(AtomicBool::new(false));
        let (quiet, target) = (is_quiet.clone(), relay.port);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let relay = TcpStream::connect(("127.0.0.1", target)).await.unwrap();
                let ((client_read, client_write), (relay_read, relay_write)) =
                    (client.into_split(), relay.into_split());
                tokio::spawn(carry(client_read, relay_write, quiet.clone()));
                tokio::spawn(carry(relay_read, client_write, quiet.clone()));
            }
        });
        Self { port, is_quiet }
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    is_quiet: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        while is_quiet.load(Ordering::Relaxed) {
            sleep(Duration::from_millis(10)).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn a_replaced_on_a_connection_that_was_given_up_is_ignored() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Member::new(&relay.dial()).await;
    let mailbox = alice.mailbox(&relay);
    let ways = [Way::to(relay.address()).await, Way::to(relay.address()).await];
    // The first connection goes by a way that then falls silent: half-open, for both sides.
    let switch = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address =
        RelayAddress { port: switch.local_addr().unwrap().port(), ..relay.address().clone() };
    let ports = ways.each_ref().map(|way| way.port);
    tokio::spawn(async move {
        for port in ports {
            let (mut client, _) = switch.accept().await.unwrap();
            let mut way = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut way).await });
        }
    });
    let (client, mut updates) = alice.start(&Dial::new(address));
    assert_eq!(next(&mut updates).await, Update::Connected);
    assert_eq!(next(&mut updates).await, Update::CaughtUp { mailbox });
    ways[0].is_quiet.store(true, Ordering::Relaxed);
    client.reconnect();
    assert_eq!(next(&mut updates).await, Update::Connected);
    assert_eq!(next(&mut updates).await, Update::CaughtUp { mailbox });
    // Now the relay's `Replaced` for the old attachment gets through.
    ways[0].is_quiet.store(false, Ordering::Relaxed);
    client.open(CHAT, StreamId::random(), vec![alice.capability], 1);
    push(&client, 1, 5).await;
    show(&client, &mut updates, &mut Inbox::default(), 5).await;
    sleep(Duration::from_millis(500)).await;
    client.settled().await;
    let mut left = Vec::new();
    while let Ok(Some(update)) = timeout(Duration::from_millis(100), updates.next()).await {
        left.push(update);
    }
    assert!(left.iter().all(|update| matches!(update, Update::Settled(_))), "{left:?}");
}

#[tokio::test]
async fn the_wrong_realm_ends_the_client_with_a_reason() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Member::new(&relay.dial()).await;
    let realm = RealmId::new([7; 20]);
    let (client, mut updates) =
        alice.start(&Dial::new(RelayAddress { realm, ..relay.address().clone() }));
    let Update::GaveUp(Stop::Untrusted(OpeningError::Realm(_))) = next(&mut updates).await else {
        panic!("it gives up");
    };
    assert_eq!(updates.next().await, None);
    client.settled().await;
    client.close().await;
}

#[tokio::test]
async fn a_mailbox_that_may_not_be_attached_is_reported_and_not_tried_again() {
    let relay = TestRelay::spawn().unwrap();
    let (alice, bob) = (Member::new(&relay.dial()).await, Member::new(&relay.dial()).await);
    let (client, mut updates) = Client::start(relay.dial());
    client.serve(alice.owner.clone(), bob.member_token);
    assert_eq!(next(&mut updates).await, Update::Connected);
    let mailbox = alice.mailbox(&relay);
    assert!(
        matches!(next(&mut updates).await, Update::NotServed { mailbox: named, .. } if named == mailbox)
    );
    client.serve(alice.owner.clone(), alice.member_token);
    assert_eq!(next(&mut updates).await, Update::CaughtUp { mailbox });
}

#[tokio::test]
async fn a_client_without_a_reason_does_not_connect_and_one_with_nobody_there_keeps_trying() {
    let mut relay = TestRelay::spawn().unwrap();
    let alice = Member::new(&relay.dial()).await;
    let (client, mut updates) = Client::start(relay.dial());
    assert_eq!(client.send(CHAT, Bytes::new()), Err(PushError::Unknown.into()));
    assert!(timeout(Duration::from_millis(300), updates.next()).await.is_err());
    relay.kill().unwrap();
    client.open(CHAT, StreamId::random(), vec![alice.capability], 1);
    push(&client, 1, 3).await;
    for _ in 0..2 {
        assert!(matches!(next(&mut updates).await, Update::Disconnected { .. }));
    }
    relay.restart().unwrap();
    let start = Instant::now();
    client.reconnect();
    while next(&mut updates).await != Update::Connected {}
    assert!(start.elapsed() < Duration::from_secs(30), "it tries at once when told to");
    client.settled().await;
    assert_eq!(client.unsettled(), 0);
    // Closing must not wait for an application that reads no updates.
    timeout(Duration::from_secs(10), client.close()).await.unwrap();
}

#[tokio::test]
async fn a_connection_is_lent_as_long_as_it_is_held() {
    let relay = TestRelay::spawn().unwrap();
    let alice = Member::new(&relay.dial()).await;
    let mailbox = alice.mailbox(&relay);
    let idle = Duration::from_millis(300);
    let (client, mut updates) = Client::start_on_demand(relay.dial(), idle);
    let patience = Duration::from_secs(20);
    let refused = client.attachment(mailbox, Duration::from_secs(1)).await.err();
    assert_eq!(refused, Some(Away::NotServed));
    let held = client.connection(patience).await.unwrap();
    held.ping().await.unwrap();
    assert_eq!(next(&mut updates).await, Update::Connected);
    sleep(idle * 2).await;
    held.ping().await.expect("held");
    let first = Connection::clone(&held);
    drop(held);
    while first.ping().await.is_ok() {
        sleep(idle / 4).await;
    }
    drop(client.connection(patience).await.unwrap());
    assert_eq!(next(&mut updates).await, Update::Connected, "another one: nobody held the first");
    // Serving a mailbox is a reason to stay.
    client.serve(alice.owner.clone(), alice.member_token);
    let (held, attachment) = client.attachment(mailbox, patience).await.unwrap();
    held.issue(attachment, TokenKind::Post, 1, 1, 0).await.unwrap();
    let connection = Connection::clone(&held);
    drop(held);
    sleep(idle * 2).await;
    connection.ping().await.expect("a mailbox is served");
    client.close().await;
    assert_eq!(client.connection(patience).await.err(), Some(Away::Ended(None)));
}

#[tokio::test]
async fn nobody_waits_for_a_relay_that_is_away() {
    let mut relay = TestRelay::spawn().unwrap();
    relay.kill().unwrap();
    let (client, _updates) = Client::start_on_demand(relay.dial(), Duration::from_secs(1));
    let failed = client.connection(Duration::MAX).await.err();
    assert!(matches!(failed, Some(Away::Paused { .. })), "the try that was waited for: {failed:?}");
    // A try that is not due at once is not waited for.
    let start = Instant::now();
    client.connection(Duration::ZERO).await.err().unwrap();
    assert!(start.elapsed() < Duration::from_secs(20));
    relay.restart().unwrap();
    client.connection(Duration::MAX).await.unwrap();
    let dial = Dial { public_only: true, ..relay.dial() };
    let (client, _updates) = Client::start_on_demand(dial, Duration::from_secs(1));
    let refused = client.connection(Duration::MAX).await.err();
    assert!(matches!(refused, Some(Away::Ended(Some(Stop::Address(_))))), "{refused:?}");
}
