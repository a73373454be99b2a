//! Peers that are silent, and peers that take nothing. What a person must be given a minute for is
//! given a second here.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{sleep, timeout};
use valise::relay::Patience;
use valise_proto::{ClientPacket, CloseReason, Issue, PacketBuffer, TokenKind};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire};

on_both_transports!(idle, too_slow);

const SECOND: Duration = Duration::from_secs(1);

async fn idle(via: Via) {
    let relay = Relay::start().await;
    relay.running().set_patience(Patience { idle: SECOND, ..Patience::default() });
    let (mut wire, _) = Wire::serve(&relay, via).await;
    for _ in 0..4 {
        sleep(SECOND / 2).await;
        wire.ping().await;
    }
    wire.closed_with(CloseReason::Idle).await;
}

/// A client that asks for more and more and reads nothing: the relay stops reading it, holds a
/// bounded rest, and gives up. There is no goodbye, since nobody takes it.
async fn too_slow(via: Via) {
    let limits = "[limits]\npackets_per_second = 1000000\npackets_burst = 1000000\n";
    let relay = Relay::configured(limits).await;
    relay.running().set_patience(Patience { stall: SECOND, ..Patience::default() });
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut issues = PacketBuffer::default();
    for request in 0..100 {
        let kind = Some(TokenKind::Post);
        let attachment = mine.attachment;
        let issue = Issue { request, kind, attachment, count: 100, days: 1, rate_class: 0 };
        ClientPacket::<Bytes>::Issue(issue).encode(&mut issues);
    }
    let issues = issues.take();
    // Until both directions are full: the kernel's buffers take some megabytes.
    while timeout(SECOND / 2, wire.try_say_bytes(issues.clone())).await == Ok(true) {}
    let series = "valise_connections_closed_total{reason=\"too_slow\"}";
    for _ in 0..100 {
        if relay.metric(series) > 0.0 {
            return;
        }
        sleep(SECOND / 10).await;
    }
    panic!("it was kept");
}
