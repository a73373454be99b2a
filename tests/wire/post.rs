//! Post: outcomes, refusals, idempotency.

use std::time::Instant;

use bytes::Bytes;
use valise_proto::limits::{MAILBOX_FRAMES_MAX, PAYLOAD_SIZES, TARGETS_MAX, TTL_HOURS_MAX};
use valise_proto::{ClientPacket, Post, Reason, ServerPacket, Token, TokenKind};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire, frame_id, payload};

on_both_transports!(
    post_accepted,
    post_accepted_for_several_targets,
    post_repeated_is_accepted_once,
    post_repeated_over_a_restart_is_accepted_once,
    post_mailbox_full,
    post_token_invalid,
    post_token_expired,
    post_rate_limited,
    post_too_large,
    post_not_padded,
    post_too_many_targets,
    post_ttl_invalid,
);

const ACCEPTED: [Option<Reason>; 1] = [Some(Reason::Accepted)];

/// No capability rate in the way.
const FAST: &str = "[limits]\nposts_per_second = 100000\nposts_burst = 100000\n\
    packets_per_second = 100000\npackets_burst = 100000\n";

/// A capability for a mailbox nobody is attached to.
async fn offline(relay: &Relay, via: Via) -> (Wire, crate::wire::Mine) {
    let (mut wire, mine) = Wire::serve(relay, via).await;
    let request = wire.next_request();
    wire.say(&ClientPacket::Detach { request, attachment: mine.attachment }).await;
    assert_eq!(wire.receive().await, ServerPacket::Detached { request });
    (wire, mine)
}

async fn post_accepted(via: Via) {
    let mut relay = Relay::start().await;
    let (mut wire, mine) = offline(&relay, via).await;
    for (id, size) in (0..).zip(PAYLOAD_SIZES) {
        let payload = Bytes::from(vec![0x61; size]);
        assert_eq!(wire.post(id, &[mine.capability], payload).await, ACCEPTED);
    }
    // Accepted is durable.
    relay.restart().await;
    let mut wire = Wire::open(&relay, via).await;
    let (attachment, mail) = wire.attach_and_catch_up(&mine.owner, &mine.member).await;
    for ((id, size), deliver) in (0..).zip(PAYLOAD_SIZES).zip(&mail) {
        assert_eq!(deliver.frame_id, frame_id(id));
        assert_eq!(deliver.n, u64::from(id) + 1);
        assert_eq!(deliver.payload, vec![0x61; size]);
    }
    wire.ack(attachment, 4).await;
    wire.ping().await;
    relay.finish().await;
}

async fn post_accepted_for_several_targets(via: Via) {
    let relay = Relay::start().await;
    let (mut one, mine) = Wire::serve(&relay, via).await;
    let (_two, yours) = offline(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    let targets = [mine.capability, Token::new([1; 60]), yours.capability];
    sender.say_post(1, &targets, payload(7)).await;
    one.delivered().await;
    one.ack(mine.attachment, 1).await;
    let outcomes = sender.posted().await.outcomes;
    let expected = [Reason::Accepted, Reason::TokenInvalid, Reason::Accepted].map(Some);
    assert_eq!(outcomes, expected);
    relay.finish().await;
}

async fn post_repeated_is_accepted_once(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    sender.say_post(1, &[mine.capability], payload(1)).await;
    sender.say_post(1, &[mine.capability], payload(1)).await;
    assert_eq!(wire.delivered().await.n, 1);
    wire.ack(mine.attachment, 1).await;
    assert_eq!(sender.posted().await.outcomes, ACCEPTED);
    assert_eq!(sender.posted().await.outcomes, ACCEPTED);
    // It has left the queue, and is still known.
    assert_eq!(sender.post(1, &[mine.capability], payload(1)).await, ACCEPTED);
    wire.receive_nothing().await;
    assert!(relay.metric("valise_frames_repeated_total") >= 2.0);
    relay.finish().await;
}

async fn post_repeated_over_a_restart_is_accepted_once(via: Via) {
    let mut relay = Relay::start().await;
    let (mut wire, mine) = offline(&relay, via).await;
    assert_eq!(wire.post(1, &[mine.capability], payload(1)).await, ACCEPTED);
    relay.restart().await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(wire.post(1, &[mine.capability], payload(1)).await, ACCEPTED);
    let (_, mail) = wire.attach_and_catch_up(&mine.owner, &mine.member).await;
    assert_eq!(mail.len(), 1);
    relay.finish().await;
}

async fn post_mailbox_full(via: Via) {
    let relay = Relay::configured(FAST).await;
    let (mut wire, mine) = offline(&relay, via).await;
    // Who only listens for as long as a slow bus takes is closed as idle.
    for first in (0..MAILBOX_FRAMES_MAX).step_by(100) {
        wire.say_posts(first..first + 100, &[mine.capability]).await;
        for _ in 0..100 {
            assert_eq!(wire.posted().await.outcomes, ACCEPTED);
        }
    }
    wire.say_post(9_999, &[mine.capability], payload(1)).await;
    let posted = wire.posted().await;
    assert_eq!(posted.outcomes, [Some(Reason::MailboxFull)]);
    assert!(posted.retry_after_ms > 0);
    // A frame that is in there is still accepted: it is a retry, not a new one. The bus knows the last
    // minute's.
    assert_eq!(wire.post(MAILBOX_FRAMES_MAX - 1, &[mine.capability], payload(1)).await, ACCEPTED);
    if relay.is_node() {
        return; // the bus counts frames only
    }
    // And the quota counts bytes too: 16 MiB are 256 of the largest frames.
    let (mut wire, mine) = offline(&relay, via).await;
    for id in 0..256 {
        let large = Bytes::from(vec![1; 64 * 1024]);
        assert_eq!(wire.post(id, &[mine.capability], large).await, ACCEPTED);
    }
    let outcomes = wire.post(256, &[mine.capability], payload(1)).await;
    assert_eq!(outcomes, [Some(Reason::MailboxFull)]);
    relay.finish().await;
}

async fn post_token_invalid(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    // Forged; of another kind.
    for token in [Token::new([4; 60]), mine.member] {
        let outcomes = wire.post(1, &[token], payload(1)).await;
        assert_eq!(outcomes, [Some(Reason::TokenInvalid)]);
    }
    wire.receive_nothing().await;
}

async fn post_token_expired(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let yesterday = relay.token(TokenKind::Post, &mine.mailbox, -1);
    let outcomes = wire.post(1, &[yesterday], payload(1)).await;
    assert_eq!(outcomes, [Some(Reason::TokenExpired)]);
}

/// Posts far more in one write than may be taken at once, from this id on. So many are taken, and one
/// more for each second that passes meanwhile; the rest is refused.
async fn too_many_at_once(sender: &mut Wire, first: u32, capabilities: &[Token], burst: u32) {
    let (began, said) = (Instant::now(), burst + 20);
    sender.say_posts(first..first + said, capabilities).await;
    let mut accepted = 0;
    for _ in 0..said {
        let posted = sender.posted().await;
        match posted.outcomes[..] {
            [Some(Reason::Accepted)] => accepted += 1,
            [Some(Reason::RateLimited)] => assert!((1..=1_000).contains(&posted.retry_after_ms)),
            ref other => panic!("{other:?}"),
        }
    }
    let most = burst + u32::try_from(began.elapsed().as_secs()).unwrap();
    assert!((burst..=most).contains(&accepted), "{accepted}, and {burst} to {most} may be");
    assert!(accepted < said, "none was refused");
}

/// What a class means is the operator's word; the owner of a mailbox chooses one for a capability.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capability_has_the_rate_of_its_class() {
    let limits = "[limits]\nposts_per_second = 1\nposts_burst = 3\nrate_classes = [\"1=1/1\", \
        \"200=1/5\"]\n";
    let relay = Relay::configured(limits).await;
    let (mut wire, mine) = Wire::serve(&relay, Via::Raw).await;
    let mut sender = Wire::open(&relay, Via::Raw).await;
    // The class, and how many it may have at once; nobody has said what 7 is.
    let classes = [(0, 3), (1, 1), (200, 5), (7, 3)];
    let mut capabilities = Vec::new();
    for (class, _) in classes {
        let kind = TokenKind::Post;
        capabilities.push(wire.issue_of_class(mine.attachment, kind, 1, class).await);
    }
    for ((class, burst), tokens) in classes.into_iter().zip(capabilities) {
        too_many_at_once(&mut sender, 1_000 * class, &tokens, burst).await;
    }
    relay.finish().await;
}

async fn post_rate_limited(via: Via) {
    let relay = Relay::configured("[limits]\nposts_per_second = 1\nposts_burst = 3\n").await;
    let (mut wire, mine) = offline(&relay, via).await;
    too_many_at_once(&mut wire, 0, &[mine.capability], 3).await;
    // Another correspondent is not held back by it.
    let other = relay.token(TokenKind::Post, &mine.mailbox, 1);
    assert_eq!(wire.post(900, &[other], payload(1)).await, ACCEPTED);
    relay.finish().await;
}

async fn refusal(wire: &mut Wire, targets: usize, size: usize, ttl_hours: u32) -> Reason {
    let request = wire.next_request();
    let post = Post {
        request,
        frame_id: frame_id(1),
        capabilities: vec![Token::new([1; 60]); targets],
        ttl_hours,
        payload: Bytes::from(vec![0; size]),
    };
    wire.say(&ClientPacket::Post(post)).await;
    wire.refused().await
}

async fn post_too_large(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(refusal(&mut wire, 17, 64 * 1024, 0).await, Reason::TooLarge);
    assert_eq!(refusal(&mut wire, TARGETS_MAX, 2 * 1024, 0).await, Reason::TooLarge);
}

async fn post_not_padded(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    for size in [0, 1, 511, 513, 2_047, 8_193, 65_535, 65_537] {
        assert_eq!(refusal(&mut wire, 1, size, 0).await, Reason::NotPadded, "{size}");
    }
}

async fn post_too_many_targets(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(refusal(&mut wire, TARGETS_MAX + 1, 512, 0).await, Reason::TooManyTargets);
    assert_eq!(refusal(&mut wire, 0, 512, 0).await, Reason::TooManyTargets);
}

async fn post_ttl_invalid(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    assert_eq!(refusal(&mut wire, 1, 512, TTL_HOURS_MAX + 1).await, Reason::TtlInvalid);
}
