//! Two nodes of one realm: what happens on one is seen on the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use valise::identity::{StateDirectory, export_node, import_node, retire_node};
use valise::limits::{BUS_ANSWER_MS, CLUSTER_SWEEP_SECONDS};
use valise::relay::today;
use valise_client::OwnerKeyPair;
use valise_client::testing::free_port;
use valise_proto::limits::{BUNDLE_HOURS, REVOCATION_DAYS_AFTER, SLOT_HOURS};
use valise_proto::{
    ClientPacket, PublicationId, PublishBundle, PutId, PutSlot, Reason, Revoke, ServerPacket,
    Signal, SlotId, Token, TokenKind,
};

use crate::kept::Kept;
use crate::nats;
use crate::relay::Relay;
use crate::wire::{Via, Wire, payload};

/// Two relays that serve one realm.
pub struct Pair {
    pub first: Relay,
    pub second: Relay,
    /// The second one's key, as the realm's record lists it.
    pub key: valise_proto::SigningKey,
    kept: Kept,
}

impl Pair {
    /// None without NATS servers.
    pub async fn start() -> Option<Self> {
        Self::configured("").await
    }

    pub async fn configured(more: &str) -> Option<Self> {
        let nats = nats::shared()?;
        let first = Relay::configured(more).await;
        let (directory, port, key) = further_node(&first);
        let listen = ([127, 0, 0, 1], port).into();
        let second = Relay::at(directory, listen, more).await;
        let kept = Kept::of(&nats, &first).await;
        Some(Self { first, second, key, kept })
    }
}

/// The state directory of one more node of this relay's realm, and its port.
pub fn further_node(first: &Relay) -> (tempfile::TempDir, u16, valise_proto::SigningKey) {
    let port = free_port().unwrap();
    let endpoint = format!("127.0.0.1:{port}");
    let exported = export_node(&first.state_directory(), &endpoint, today().into());
    let (key, text) = exported.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(&directory.path().join("state")).unwrap();
    import_node(&state, &text).unwrap();
    (directory, port, key)
}

/// How long something may take that takes moments, unless the machine stands still.
const SOON: Duration = Duration::from_secs(20);

/// Asks until the answer is another than to come again, as a client does.
async fn insist(wire: &mut Wire, ask: impl Fn(u32) -> ClientPacket<Bytes>) -> ServerPacket<Bytes> {
    let give_up = Instant::now() + SOON;
    loop {
        let request = wire.next_request();
        wire.say(&ask(request)).await;
        match wire.receive_within(SOON).await {
            Some(ServerPacket::Refused(refused)) if refused.reason == Some(Reason::Busy) => {
                assert!(Instant::now() < give_up, "it is always busy");
                tokio::time::sleep(Duration::from_millis(refused.retry_after_ms.into())).await;
            }
            answer => return answer.expect("the relay closed the connection"),
        }
    }
}

/// Receives deliveries until this many have come.
async fn deliveries(wire: &mut Wire, count: usize) -> Vec<Bytes> {
    let mut payloads = Vec::new();
    while payloads.len() < count {
        payloads.push(wire.delivered().await.payload);
    }
    payloads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_posted_on_one_is_delivered_on_the_other_in_order() {
    let Some(pair) = Pair::start().await else { return };
    assert_eq!(pair.first.realm(), pair.second.realm());
    let (mut owner, mine) = Wire::serve(&pair.first, Via::Raw).await;
    let mut sender = Wire::open(&pair.second, Via::Raw).await;
    // Without waiting for the outcomes: the order is that of the posts.
    for id in 0..50 {
        sender.say_post(id, &[mine.capability], payload(id as u8)).await;
    }
    let expected: Vec<Bytes> = (0..50).map(payload).collect();
    assert_eq!(deliveries(&mut owner, 50).await, expected);
    for _ in 0..50 {
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    }
    // The same frame again, by way of the other node, is stored once.
    let mut again = Wire::open(&pair.first, Via::Raw).await;
    assert_eq!(again.post(49, &[mine.capability], payload(49)).await, [Some(Reason::Accepted)]);
    owner.receive_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_attaches_last_is_served_wherever_that_is() {
    let Some(pair) = Pair::start().await else { return };
    let (mut old, mine) = Wire::serve(&pair.first, Via::Raw).await;
    let mut sender = Wire::open(&pair.first, Via::Raw).await;
    for round in 0..10_u8 {
        let there = if round.is_multiple_of(2) { &pair.second } else { &pair.first };
        let mut new = Wire::open(there, Via::Raw).await;
        let (attachment, before) = new.attach_and_catch_up(&mine.owner, &mine.member).await;
        assert!(before.is_empty(), "everything was acknowledged");
        let replaced = old.receive_within(SOON).await;
        assert!(matches!(replaced, Some(ServerPacket::Replaced { .. })), "{replaced:?}");
        sender.post(round.into(), &[mine.capability], payload(round)).await;
        let delivered = new.delivered().await;
        assert_eq!(delivered.payload, payload(round));
        new.ack(attachment, delivered.n).await;
        // What is acknowledged is removed in a while; a takeover before that repeats it.
        pair.kept.until(&mine.mailbox, 0).await;
        old.receive_nothing().await;
        old = new;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_is_drained_on_any_node_and_comes_once() {
    let Some(pair) = Pair::configured("[limits]\nposts_burst = 5000\n").await else { return };
    let (mut owner, mine) = Wire::serve(&pair.first, Via::Raw).await;
    owner.say(&ClientPacket::Detach { request: 900, attachment: mine.attachment }).await;
    while !matches!(owner.receive().await, ServerPacket::Detached { .. }) {}
    let mut sender = Wire::open(&pair.first, Via::Raw).await;
    // More than a window and more than a ring.
    for id in 0..600_u32 {
        sender.say_post(id, &[mine.capability], payload(id as u8)).await;
        if id % 100 == 99 {
            for _ in 0..100 {
                assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
            }
        }
    }
    let mut there = Wire::open(&pair.second, Via::Raw).await;
    let attach = there.make_attach(&mine.owner, &mine.member);
    let ServerPacket::Attached { attachment, .. } = there.say_attach(attach).await else {
        panic!("not attached")
    };
    for id in 0..600_u32 {
        let delivered = there.delivered().await;
        assert_eq!(delivered.payload, payload(id as u8), "frame {id}");
        there.ack(attachment, delivered.n).await;
    }
    assert!(matches!(there.receive().await, ServerPacket::CaughtUp { .. }));
    there.say(&ClientPacket::Detach { request: 901, attachment }).await;
    assert!(matches!(there.receive().await, ServerPacket::Detached { .. }));
    // Detaching removes what was acknowledged.
    pair.kept.until(&mine.mailbox, 0).await;
    let (_, before) = owner.attach_and_catch_up(&mine.owner, &mine.member).await;
    assert!(before.is_empty(), "{} frames came twice", before.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_knows_what_was_acknowledged() {
    let Some(mut pair) = Pair::start().await else { return };
    let (mut owner, mine) = Wire::serve(&pair.second, Via::Raw).await;
    let mut sender = Wire::open(&pair.first, Via::Raw).await;
    for id in 0..4 {
        sender.post(id, &[mine.capability], payload(id as u8)).await;
    }
    deliveries(&mut owner, 4).await;
    owner.ack(mine.attachment, 3).await;
    owner.ping().await;
    pair.second.restart().await;
    let mut owner = Wire::open(&pair.first, Via::Raw).await;
    let (_, before) = owner.attach_and_catch_up(&mine.owner, &mine.member).await;
    let payloads: Vec<_> = before.iter().map(|deliver| deliver.payload.clone()).collect();
    assert_eq!(payloads, [payload(3)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_mailbox_is_full_on_every_node() {
    let Some(pair) = Pair::configured("[limits]\nposts_burst = 5000\npackets_burst = 9000\n").await
    else {
        return;
    };
    let (mut owner, mine) = Wire::serve(&pair.first, Via::Raw).await;
    owner.say(&ClientPacket::Detach { request: 900, attachment: mine.attachment }).await;
    while !matches!(owner.receive().await, ServerPacket::Detached { .. }) {}
    let mut sender = Wire::open(&pair.first, Via::Raw).await;
    for batch in 0..10_u32 {
        for id in 0..100 {
            sender.say_post(100 * batch + id, &[mine.capability], payload(1)).await;
        }
        for _ in 0..100 {
            assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
        }
    }
    let mut other = Wire::open(&pair.second, Via::Raw).await;
    let posted = other.post(5_000, &[mine.capability], payload(1)).await;
    assert_eq!(posted, [Some(Reason::MailboxFull)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_capability_is_refused_on_every_node() {
    let Some(pair) = Pair::start().await else { return };
    let (mut owner, mine) = Wire::serve(&pair.first, Via::Raw).await;
    let mut sender = Wire::open(&pair.second, Via::Raw).await;
    // The other node knows the mailbox, and that nothing is revoked.
    sender.post(1, &[mine.capability], payload(1)).await;
    owner.delivered().await;
    let request = owner.next_request();
    let (attachment, token) = (mine.attachment, mine.capability);
    owner.say(&ClientPacket::Revoke(Box::new(Revoke { request, attachment, token }))).await;
    assert!(matches!(owner.receive().await, ServerPacket::Revoked { .. }));
    // One push away, and not only when the node looks again by itself.
    const { assert!(SOON.as_secs() < CLUSTER_SWEEP_SECONDS) };
    let give_up = Instant::now() + SOON;
    let mut id = 2;
    while sender.post(id, &[mine.capability], payload(2)).await != [Some(Reason::TokenRevoked)] {
        assert!(Instant::now() < give_up, "the other node has not heard of it");
        id += 1;
    }
    // Where it was revoked, too; what was accepted until then is delivered to the owner's connection.
    let mut sender = Wire::open(&pair.first, Via::Raw).await;
    let posted = sender.post(900, &[mine.capability], payload(2)).await;
    assert_eq!(posted, [Some(Reason::TokenRevoked)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_has_one_winner_among_nodes() {
    let Some(pair) = Pair::start().await else { return };
    let (mut one, mine) = Wire::serve(&pair.first, Via::Raw).await;
    let slot_token = one.issue(mine.attachment, TokenKind::Slot, 1).await[0];
    let mut other = Wire::open(&pair.second, Via::Raw).await;
    for round in 0..20_u8 {
        let slot_id = SlotId::new([round; 32]);
        let put = |request, n: u8| {
            ClientPacket::PutSlot(Box::new(PutSlot {
                request,
                slot_token,
                slot_id,
                put_id: PutId::new([n; 16]),
                payload: payload(n),
            }))
        };
        let puts = tokio::join!(
            insist(&mut one, |request| put(request, 1)),
            insist(&mut other, |request| put(request, 2))
        );
        let answers = [puts.0, puts.1];
        let winners: Vec<_> =
            answers.iter().filter(|a| matches!(a, ServerPacket::Stored { .. })).collect();
        assert_eq!(winners.len(), 1, "{answers:?}");
        let taken = answers.iter().find_map(|answer| match answer {
            ServerPacket::Taken { payload, .. } => Some(payload.clone()),
            _ => None,
        });
        let won = if matches!(answers[0], ServerPacket::Stored { .. }) { 1 } else { 2 };
        assert_eq!(taken, Some(payload(won)));
        // Whoever won may say so again, anywhere.
        let again = insist(&mut other, |request| put(request, won)).await;
        assert!(matches!(again, ServerPacket::Stored { .. }), "{again:?}");
        // And it is read at once, on either.
        for wire in [&mut one, &mut other] {
            let request = wire.next_request();
            wire.say(&ClientPacket::GetSlots { request, slot_ids: vec![slot_id] }).await;
            let ServerPacket::Slots { payloads, .. } = wire.receive().await else { panic!() };
            assert_eq!(payloads, [Some(payload(won))]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_item_is_handed_out_once_among_nodes() {
    let Some(pair) = Pair::start().await else { return };
    let (mut owner, mine) = Wire::serve(&pair.first, Via::Raw).await;
    let take_token = owner.issue(mine.attachment, TokenKind::Take, 1).await[0];
    let request = owner.next_request();
    let publish = PublishBundle {
        request,
        attachment: mine.attachment,
        publication_id: PublicationId::new([1; 16]),
        replace: false,
        last_resort: Some(payload(99)),
        items: (0..20).map(payload).collect(),
    };
    owner.say(&ClientPacket::PublishBundle(Box::new(publish))).await;
    let published = owner.receive().await;
    assert!(matches!(published, ServerPacket::Published { items: 20, .. }), "{published:?}");
    let mut one = Wire::open(&pair.first, Via::Raw).await;
    let mut other = Wire::open(&pair.second, Via::Raw).await;
    let take = |request| ClientPacket::TakeBundle { request, take_token };
    let (mut taken, mut last, mut slow) = (Vec::new(), 0, 0);
    while last == 0 {
        let began = Instant::now();
        let answers = tokio::join!(insist(&mut one, take), insist(&mut other, take));
        slow += 2 * usize::from(began.elapsed() >= Duration::from_millis(BUS_ANSWER_MS));
        for answer in [answers.0, answers.1] {
            match answer {
                ServerPacket::BundleItem { last_resort: false, payload, .. } => taken.push(payload),
                ServerPacket::BundleItem { .. } => last += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    taken.sort();
    let published: Vec<_> = (0..20).map(payload).collect();
    assert!(taken.iter().all(|item| published.contains(item)), "{taken:?}");
    assert!(taken.windows(2).all(|two| two[0] != two[1]), "one was handed out twice: {taken:?}");
    // An item whose taking was not answered in time is nobody's: it may have been handed out.
    assert!(taken.len() + slow >= published.len(), "{slow} slow, {taken:?}");
    // The owner was told, though half of them were taken elsewhere.
    let low = owner.receive_within(SOON).await;
    assert!(matches!(low, Some(ServerPacket::BundleLow { items: ..10, .. })), "{low:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invite_code_is_spent_once_among_nodes() {
    let Some(pair) = Pair::configured("[relay]\naccess = \"codes\"\n").await else { return };
    let nobody = valise_proto::MailboxId::new([0; 16]);
    let code: Token = pair.first.token(TokenKind::Join, &nobody, 3);
    let (mut one, mut other) =
        (Wire::open(&pair.first, Via::Raw).await, Wire::open(&pair.second, Via::Raw).await);
    let (owner, stranger) = (OwnerKeyPair::generate(), OwnerKeyPair::generate());
    let join = one.make_join(&owner, Some(code));
    assert!(matches!(one.say_join(join).await, ServerPacket::Joined { .. }));
    let join = other.make_join(&stranger, Some(code));
    let refused = other.say_join(join).await;
    let ServerPacket::Refused(refused) = refused else { panic!("{refused:?}") };
    assert_eq!(refused.reason, Some(Reason::CodeSpent));
    let join = other.make_join(&owner, Some(code));
    assert!(matches!(other.say_join(join).await, ServerPacket::Joined { .. }), "its own again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_finds_the_node_that_serves() {
    let Some(pair) = Pair::start().await else { return };
    let (mut owner, mine) = Wire::serve(&pair.first, Via::Raw).await;
    for sender in [&pair.second, &pair.first] {
        let mut sender = Wire::open(sender, Via::Raw).await;
        let signal = Signal { capabilities: vec![mine.capability], payload: payload(7) };
        // A signal may be lost: a server hears a moment later who wants it.
        let mut tries = 0;
        let signaled = loop {
            sender.say(&ClientPacket::Signal(signal.clone())).await;
            if let Some(packet) = owner.receive_soon(Duration::from_secs(1)).await {
                break packet;
            }
            tries += 1;
            assert!(tries < 20, "none of {tries} signals has come");
        };
        assert!(
            matches!(&signaled, Some(ServerPacket::Signaled { payload: p, .. }) if *p == payload(7)),
            "{signaled:?}"
        );
        // Those that came later than they were waited for are not taken for the next one's.
        while let Some(Some(_)) = owner.receive_soon(Duration::from_millis(150)).await {}
    }
}

/// The first node signs the other one out: it accepts nothing more, and says why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_out_of_the_realm_ends() {
    let Some(pair) = Pair::start().await else { return };
    let (_owner, mine) = Wire::serve(&pair.first, Via::Raw).await;
    let mut sender = Wire::open(&pair.second, Via::Raw).await;
    sender.post(1, &[mine.capability], payload(1)).await;
    // Both know the record in which both are.
    retire_node(&pair.first.state_directory(), &pair.key, None, today().into()).unwrap();
    pair.first.reload().unwrap();
    let reason = tokio::time::timeout(SOON, pair.second.running().store_failed()).await.unwrap();
    assert!(reason.contains("does not list this node"), "{reason}");
    let posted = sender.post(2, &[mine.capability], payload(2)).await;
    assert_eq!(posted, [Some(Reason::Busy)]);
    // The other one goes on.
    let mut sender = Wire::open(&pair.first, Via::Raw).await;
    let posted = sender.post(3, &[mine.capability], payload(3)).await;
    assert_eq!(posted, [Some(Reason::Accepted)]);
}

/// Two realms on the same servers know nothing of each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn realms_are_apart() {
    let Some(_nats): Option<Arc<valise_client::testing::TestNats>> = nats::shared() else { return };
    let (one, other) = (Relay::start().await, Relay::start().await);
    assert_ne!(one.realm(), other.realm());
    let (mut owner, mine) = Wire::serve(&one, Via::Raw).await;
    let mut sender = Wire::open(&other, Via::Raw).await;
    let posted = sender.post(1, &[mine.capability], payload(1)).await;
    assert_eq!(posted, [Some(Reason::TokenInvalid)]);
    owner.receive_nothing().await;
}

/// The servers give up what is over: each frame tells them when, in whole hours that are past.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_has_its_time_and_an_id_of_its_mailbox() {
    let Some(nats) = nats::shared() else { return };
    let relay = Relay::start().await;
    let (_owner, mine) = Wire::serve(&relay, Via::Raw).await;
    let client = async_nats::connect(nats.urls()).await.unwrap();
    let mailbox: String =
        mine.mailbox.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut live = client.subscribe(format!("live.*.*.{mailbox}.f")).await.unwrap();
    client.flush().await.unwrap();
    let mut sender = Wire::open(&relay, Via::Raw).await;
    for (ttl_hours, expected) in [(1, "2h"), (0, "721h")] {
        let request = sender.next_request();
        let frame_id = crate::wire::frame_id(ttl_hours);
        let capabilities = vec![mine.capability];
        let post =
            valise_proto::Post { request, frame_id, capabilities, ttl_hours, payload: payload(1) };
        sender.say(&ClientPacket::Post(post)).await;
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
        let stored = futures_util::StreamExt::next(&mut live).await.unwrap();
        let headers = stored.headers.unwrap();
        assert_eq!(headers.get("Nats-TTL").unwrap().as_str(), expected);
        assert!(headers.get("Nats-Msg-Id").unwrap().as_str().ends_with(&mailbox));
    }
}

/// What stands goes by itself too, and no sooner than on a supernode: slots, bundles, revocations.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_has_its_time() {
    let Some(nats) = nats::shared() else { return };
    let relay = Relay::start().await;
    let (mut owner, mine) = Wire::serve(&relay, Via::Raw).await;
    let client = async_nats::connect(nats.urls()).await.unwrap();
    let realm: String = relay.realm().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut live = client.subscribe(format!("live.{realm}.>")).await.unwrap();
    client.flush().await.unwrap();
    let slot_token = owner.issue(mine.attachment, TokenKind::Slot, 1).await[0];
    owner.store(&slot_token, 1, 1, payload(1)).await;
    let publish = PublishBundle {
        last_resort: Some(payload(2)),
        ..crate::standing::publication(mine.attachment, 1, vec![payload(3)])
    };
    assert_eq!(owner.publish(publish).await, 1);
    owner.revoke(mine.attachment, &slot_token).await;
    // A token of 30 days; its revocation is kept 60 days longer, to the end of a day.
    let kept = (30 + REVOCATION_DAYS_AFTER as u64) * 24;
    let (slot, bundle) = (u64::from(SLOT_HOURS), u64::from(BUNDLE_HOURS) + 1);
    // One slot, two items, the bundle's head, and the revocations.
    for _ in 0..5 {
        let stored = futures_util::StreamExt::next(&mut live).await.unwrap();
        let ttl = stored.headers.as_ref().unwrap().get("Nats-TTL").unwrap().as_str();
        let hours: u64 = ttl.strip_suffix('h').unwrap().parse().unwrap();
        let kind = stored.subject.split('.').nth(4).unwrap();
        let expected = match kind {
            "w" => slot..=slot,
            "b" | "i" => bundle..=bundle,
            "r" => kept..=kept + 48,
            other => panic!("{other} was stored"),
        };
        assert!(expected.contains(&hours), "{kind}: {hours} hours, not {expected:?}");
    }
}
