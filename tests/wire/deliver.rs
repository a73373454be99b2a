//! Deliver, Ack, windows, order across the spill, slow readers.

use std::time::{Duration, Instant};

use bytes::Bytes;
use valise_client::OwnerKeyPair;
use valise_proto::limits::ATTACHMENT_WINDOW_BYTES;
use valise_proto::{ClientPacket, CloseReason, Reason, ServerPacket};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Mine, Via, Wire, frame_id, payload};

on_both_transports!(
    ack_ok,
    ack_is_cumulative,
    ack_invalid,
    ack_of_a_replaced_attachment_says_nothing,
    an_acknowledged_frame_never_touches_the_disk,
    the_window_holds,
    order_is_kept_across_the_spill,
    unacknowledged_frames_come_again,
    a_slow_reader_holds_nobody_else,
    a_stuck_mailbox_starves_no_other,
);

const FAST: &str = "[limits]\nposts_per_second = 100000\nposts_burst = 100000\n\
    packets_per_second = 100000\npackets_burst = 100000\nring_bytes_per_mailbox = 8192\n";

async fn ack_ok(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    for n in 1..=5u32 {
        sender.say_post(n, &[mine.capability], payload(9)).await;
        let deliver = wire.delivered().await;
        assert_eq!((deliver.n, deliver.frame_id), (u64::from(n), frame_id(n)));
        wire.ack(mine.attachment, u64::from(n)).await;
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    }
    wire.ping().await;
    relay.until_queued(0).await;
    relay.finish().await;
}

async fn ack_is_cumulative(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    for n in 1..=10 {
        sender.say_post(n, &[mine.capability], payload(9)).await;
    }
    for n in 1..=10 {
        assert_eq!(wire.delivered().await.n, n);
    }
    wire.ack(mine.attachment, 10).await;
    // Repeated and older ones say nothing new.
    wire.ack(mine.attachment, 10).await;
    wire.ack(mine.attachment, 3).await;
    wire.ping().await;
    for _ in 1..=10 {
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    }
    relay.finish().await;
}

async fn ack_invalid(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    wire.ack(mine.attachment, 1).await;
    wire.closed_with(CloseReason::AckInvalid).await;
    let (mut wire, _) = Wire::serve(&relay, via).await;
    wire.ack(3, 0).await;
    wire.closed_with(CloseReason::AckInvalid).await;
}

async fn ack_of_a_replaced_attachment_says_nothing(via: Via) {
    let relay = Relay::start().await;
    let (mut first, mine) = Wire::serve(&relay, via).await;
    let mut second = Wire::open(&relay, via).await;
    second.attach(&mine.owner, &mine.member).await;
    assert!(matches!(first.receive().await, ServerPacket::Replaced { .. }));
    first.ack(mine.attachment, 99).await;
    first.ping().await;
}

/// Posts, and acknowledges at once, until so many frames were never written. Some are late on a busy
/// machine. The number of the last one.
pub async fn never_written(
    relay: &Relay,
    sender: &mut Wire,
    (wire, mine): (&mut Wire, &Mine),
    enough: u32,
) -> u32 {
    let give_up = Instant::now() + Duration::from_secs(60);
    let mut n = 0;
    loop {
        n += 1;
        sender.say_post(n, &[mine.capability], payload(1)).await;
        assert_eq!(wire.delivered().await.n, u64::from(n));
        wire.ack(mine.attachment, u64::from(n)).await;
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
        let count = relay.metric("valise_frames_never_written_total");
        if count >= f64::from(enough) {
            return n;
        }
        assert!(Instant::now() < give_up, "only {count} of {n} were acknowledged in time");
    }
}

async fn an_acknowledged_frame_never_touches_the_disk(via: Via) {
    let relay = Relay::configured(FAST).await;
    if relay.is_node() {
        return; // the bus writes everything
    }
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    never_written(&relay, &mut sender, (&mut wire, &mine), 50).await;
    relay.finish().await;
}

async fn the_window_holds(via: Via) {
    let relay = Relay::configured(FAST).await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    for id in 0..4 {
        let large = Bytes::from(vec![1; 64 * 1024]);
        sender.say_post(id, &[mine.capability], large).await;
    }
    let fit = (ATTACHMENT_WINDOW_BYTES / (64 * 1024)) as u64;
    for n in 1..=fit {
        assert_eq!(wire.delivered().await.n, n);
    }
    wire.receive_nothing().await;
    wire.ack(mine.attachment, 1).await;
    assert_eq!(wire.delivered().await.n, fit + 1);
    wire.receive_nothing().await;
    wire.ack(mine.attachment, fit + 1).await;
    assert_eq!(wire.delivered().await.n, fit + 2);
    wire.ack(mine.attachment, fit + 2).await;
    wire.ping().await;
    for _ in 0..4 {
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    }
    relay.finish().await;
}

/// 600 frames against a ring of 16: most wait on disk, some in memory, and the recipient reads in
/// fits and starts. They come in order, each once.
async fn order_is_kept_across_the_spill(via: Via) {
    const FRAMES: u32 = 600;
    let relay = Relay::configured(FAST).await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    let capability = mine.capability;
    let posting = tokio::spawn(async move {
        for id in 0..FRAMES {
            sender.say_post(id, &[capability], payload(1)).await;
            if id % 50 == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let mut decided = 0;
        while decided < FRAMES {
            match sender.receive().await {
                ServerPacket::Posted(posted) => {
                    assert_eq!(posted.outcomes, [Some(Reason::Accepted)]);
                    decided += 1;
                    // Who only listens for as long as a slow bus takes is closed as idle.
                    if decided % 50 == 0 {
                        sender.say(&ClientPacket::Ping { request: 0 }).await;
                    }
                }
                ServerPacket::Pong { .. } => {}
                other => panic!("neither posted nor pong: {other:?}"),
            }
        }
    });
    for id in 0..FRAMES {
        let deliver = wire.delivered().await;
        assert_eq!((deliver.n, deliver.frame_id), (u64::from(id) + 1, frame_id(id)));
        if id % 7 == 0 {
            wire.ack(mine.attachment, deliver.n).await;
        }
        if id % 150 == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    wire.ack(mine.attachment, u64::from(FRAMES)).await;
    wire.ping().await;
    posting.await.unwrap();
    // A node has no disk of its own to spill to.
    assert!(relay.is_node() || relay.metric("valise_frames_spilled_total") > 0.0);
    relay.finish().await;
}

async fn unacknowledged_frames_come_again(via: Via) {
    let mut relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    for id in 1..=3 {
        sender.say_post(id, &[mine.capability], payload(1)).await;
        wire.delivered().await;
    }
    wire.ack(mine.attachment, 1).await;
    wire.ping().await;
    for _ in 1..=3 {
        sender.posted().await;
    }
    drop(wire);
    let mut wire = Wire::open(&relay, via).await;
    let (_, mail) = wire.attach_and_catch_up(&mine.owner, &mine.member).await;
    let ids: Vec<_> = mail.iter().map(|deliver| deliver.frame_id).collect();
    assert_eq!(ids, [frame_id(2), frame_id(3)]);
    relay.restart().await;
    let mut wire = Wire::open(&relay, via).await;
    let (attachment, mail) = wire.attach_and_catch_up(&mine.owner, &mine.member).await;
    let ids: Vec<_> = mail.iter().map(|deliver| deliver.frame_id).collect();
    assert_eq!(ids, [frame_id(2), frame_id(3)]);
    wire.ack(attachment, 2).await;
    wire.ping().await;
    relay.finish().await;
}

async fn a_slow_reader_holds_nobody_else(via: Via) {
    let relay = Relay::configured(FAST).await;
    let (slow, never) = Wire::serve(&relay, via).await;
    let (mut quick, always) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    for id in 0..100u32 {
        let large = Bytes::from(vec![1; 64 * 1024]);
        sender.say_post(2 * id, &[never.capability], large).await;
        sender.say_post(2 * id + 1, &[always.capability], payload(1)).await;
        assert_eq!(quick.delivered().await.n, u64::from(id) + 1);
        quick.ack(always.attachment, u64::from(id) + 1).await;
        for _ in 0..2 {
            assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
        }
    }
    // All wait for the slow one, and for nobody else.
    relay.until_queued(100).await;
    drop(slow);
    relay.finish().await;
}

/// Two mailboxes on one connection: one is never acknowledged, the other goes on.
async fn a_stuck_mailbox_starves_no_other(via: Via) {
    let relay = Relay::configured(FAST).await;
    let (mut wire, stuck) = Wire::serve(&relay, via).await;
    let other = wire.join_and_attach(OwnerKeyPair::generate()).await;
    let mut sender = Wire::open(&relay, via).await;
    for id in 0..4 {
        let large = Bytes::from(vec![1; 64 * 1024]);
        assert_eq!(sender.post(id, &[stuck.capability], large).await, [Some(Reason::Accepted)]);
    }
    for n in 1..=2 {
        let deliver = wire.delivered().await;
        assert_eq!((deliver.attachment, deliver.n), (stuck.attachment, n), "the window's worth");
    }
    for n in 1..=20u32 {
        sender.say_post(100 + n, &[other.capability], payload(1)).await;
        let deliver = wire.delivered().await;
        assert_eq!((deliver.attachment, deliver.n), (other.attachment, n.into()));
        wire.ack(other.attachment, n.into()).await;
        assert_eq!(sender.posted().await.outcomes, [Some(Reason::Accepted)]);
    }
    wire.ack(stuck.attachment, 2).await;
    for n in 3..=4 {
        let deliver = wire.delivered().await;
        assert_eq!((deliver.attachment, deliver.n), (stuck.attachment, n));
    }
    relay.finish().await;
}
