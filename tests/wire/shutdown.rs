//! How a relay stops.

use std::time::{Duration, Instant};

use valise::limits::DRAIN_OUTCOMES_MS;
use valise_proto::{CloseReason, Reason, ServerPacket};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire, payload};

on_both_transports!(a_shutdown_tells_everyone, what_was_posted_before_is_decided);

async fn a_shutdown_tells_everyone(via: Via) {
    let mut relay = Relay::configured("[limits]\nreconnect_spread_seconds = 3\n").await;
    let (mut wire, _) = Wire::serve(&relay, via).await;
    let told = tokio::spawn(async move {
        let restarting = wire.receive().await;
        wire.closed_with(CloseReason::Restarting).await;
        restarting
    });
    relay.restart().await;
    let ServerPacket::Restarting { reconnect_in_ms, try_for_ms } = told.await.unwrap() else {
        panic!("not told")
    };
    assert_eq!(reconnect_in_ms, 3_000);
    assert!(try_for_ms >= 60_000);
    Wire::serve(&relay, via).await;
}

async fn what_was_posted_before_is_decided(via: Via) {
    let mut relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    for id in 0..20 {
        sender.say_post(id, &[mine.capability], payload(1)).await;
    }
    // Delivered and not acknowledged: they wait for the grace period when the shutdown comes.
    for _ in 0..20 {
        wire.delivered().await;
    }
    let outcomes = tokio::spawn(async move {
        let mut accepted = 0;
        loop {
            match sender.receive().await {
                ServerPacket::Posted(posted) => {
                    assert_eq!(posted.outcomes, [Some(Reason::Accepted)]);
                    accepted += 1;
                }
                ServerPacket::Restarting { .. } => {}
                ServerPacket::Closing(_) => return (accepted, Instant::now()),
                other => panic!("not expected: {other:?}"),
            }
        }
    });
    let began = Instant::now();
    relay.restart().await;
    let (accepted, closed) = outcomes.await.unwrap();
    // A connection waits for what it owes, but not for ever.
    let waited = closed.duration_since(began);
    assert!(accepted == 20 || waited >= Duration::from_millis(DRAIN_OUTCOMES_MS), "{accepted}");
    let mut wire = Wire::open(&relay, via).await;
    let (_, mail) = wire.attach_and_catch_up(&mine.owner, &mine.member).await;
    assert_eq!(mail.len(), 20);
    relay.finish().await;
}
