//! Signal: delivered if attached, never stored, never answered.

use std::time::Instant;

use bytes::Bytes;
use valise_proto::limits::TARGETS_MAX;
use valise_proto::{ClientPacket, PacketBuffer, ServerPacket, Signal, Token, TokenKind};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire, payload};

on_both_transports!(
    signal_ok,
    signal_once_for_each_mailbox,
    signal_not_attached,
    signal_token_invalid,
    signal_token_expired,
    signal_rate_limited,
    signal_not_padded,
    signal_too_large,
    signal_too_many_targets,
    signal_window,
);

async fn say_signal(wire: &mut Wire, capabilities: &[Token], payload: Bytes) {
    let capabilities = capabilities.to_vec();
    wire.say(&ClientPacket::Signal(Signal { capabilities, payload })).await;
}

fn dropped(relay: &Relay, reason: &str) -> f64 {
    relay.metric(&format!("valise_signals_dropped_total{{reason=\"{reason}\"}}"))
}

async fn signal_ok(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    for n in 1..=3 {
        say_signal(&mut sender, &[mine.capability], payload(n)).await;
        let attachment = mine.attachment;
        let expected = ServerPacket::Signaled { attachment, payload: payload(n) };
        assert_eq!(wire.receive().await, expected);
    }
    sender.receive_nothing().await;
    relay.finish().await;
}

async fn signal_once_for_each_mailbox(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let other = wire.join_and_attach(valise_client::OwnerKeyPair::generate()).await;
    let more = wire.issue(mine.attachment, TokenKind::Post, 1).await[0];
    let mut sender = Wire::open(&relay, via).await;
    let to = [mine.capability, more, other.capability, more];
    say_signal(&mut sender, &to, payload(1)).await;
    sender.ping().await;
    let mut signaled = Vec::new();
    while signaled.len() < 2 {
        match wire.receive().await {
            ServerPacket::Signaled { attachment, .. } => signaled.push(attachment),
            ServerPacket::CaughtUp { .. } => {}
            other => panic!("no signal: {other:?}"),
        }
    }
    signaled.sort_unstable();
    assert_eq!(signaled, [mine.attachment, other.attachment]);
    wire.receive_nothing().await;
}

async fn signal_not_attached(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    let owner = valise_client::OwnerKeyPair::generate();
    let capability = relay.token(TokenKind::Post, &owner.mailbox(&relay.realm()), 1);
    say_signal(&mut wire, &[capability], payload(1)).await;
    wire.ping().await;
    // A node does not know who serves a mailbox that it does not serve itself.
    let counted = dropped(&relay, "not_attached");
    assert!(relay.is_node() || (counted - 1.0).abs() < f64::EPSILON);
    let member = wire.join(&owner).await;
    let (_, mail) = wire.attach_and_catch_up(&owner, &member).await;
    assert!(mail.is_empty(), "a signal is never stored");
    wire.receive_nothing().await;
}

async fn nothing_comes(via: Via, reason: &str, capabilities: usize, size: usize) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let capabilities = vec![mine.capability; capabilities];
    say_signal(&mut wire, &capabilities, Bytes::from(vec![0; size])).await;
    wire.ping().await;
    assert!((dropped(&relay, reason) - 1.0).abs() < f64::EPSILON);
}

async fn signal_not_padded(via: Via) {
    nothing_comes(via, "not_padded", 1, 100).await;
}

async fn signal_too_large(via: Via) {
    nothing_comes(via, "too_large", 17, 64 * 1024).await;
}

async fn signal_too_many_targets(via: Via) {
    nothing_comes(via, "too_many_targets", TARGETS_MAX + 1, 512).await;
}

async fn signal_token_invalid(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    say_signal(&mut wire, &[mine.member], payload(1)).await;
    wire.ping().await;
    assert!((dropped(&relay, "token_invalid") - 1.0).abs() < f64::EPSILON);
}

async fn signal_token_expired(via: Via) {
    let relay = Relay::start().await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let yesterday = relay.token(TokenKind::Post, &mine.mailbox, -1);
    say_signal(&mut wire, &[yesterday], payload(1)).await;
    wire.ping().await;
    assert!((dropped(&relay, "token_expired") - 1.0).abs() < f64::EPSILON);
}

async fn signal_rate_limited(via: Via) {
    let relay = Relay::configured("[limits]\nposts_per_second = 1\nposts_burst = 2\n").await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    let began = Instant::now();
    // In one write, so that they are judged at one time.
    let mut out = PacketBuffer::default();
    for n in 0..20 {
        let capabilities = vec![mine.capability];
        ClientPacket::Signal(Signal { capabilities, payload: payload(n) }).encode(&mut out);
    }
    sender.say_bytes(out.take()).await;
    sender.ping().await;
    let most = 2 + began.elapsed().as_secs();
    let come = 20 - dropped(&relay, "rate_limited") as u64;
    assert!((2..=most).contains(&come), "{come}, and {most} at most");
    for _ in 0..come {
        assert!(matches!(wire.receive().await, ServerPacket::Signaled { .. }));
    }
    wire.receive_nothing().await;
}

/// For someone who does not read, no more waits than the kernel's buffers, the outbox and the door
/// hold; the rest is dropped. Whatever was not comes when he reads.
async fn signal_window(via: Via) {
    const SIGNALS: u32 = 800;
    let limits = "[limits]\nposts_per_second = 100000\nposts_burst = 100000\n\
        packets_per_second = 100000\npackets_burst = 100000\n";
    let relay = Relay::configured(limits).await;
    let (mut wire, mine) = Wire::serve(&relay, via).await;
    let mut sender = Wire::open(&relay, via).await;
    for _ in 0..SIGNALS {
        let large = Bytes::from(vec![0; 64 * 1024]);
        say_signal(&mut sender, &[mine.capability], large).await;
        // One at a time, so that each finds the door empty if the last one went on.
        sender.ping().await;
    }
    // Of 50 MiB: the kernel holds 10 MiB at most.
    let series = "valise_signals_dropped_total{reason=\"window\"}";
    relay.until(series, |dropped| dropped >= f64::from(SIGNALS) * 0.75).await;
    let all = |relay: &Relay| relay.metric(series) + relay.metric("valise_signals_delivered_total");
    relay.until("valise_signals_delivered_total", |_| all(&relay) >= f64::from(SIGNALS)).await;
    let mut left = f64::from(SIGNALS) - relay.metric(series);
    while left > 0.0 {
        assert!(matches!(wire.receive().await, ServerPacket::Signaled { .. }));
        left -= 1.0;
    }
    wire.ping().await;
}
