//! What is not a packet, and who sends too much.

use bytes::Bytes;
use valise_proto::limits::PACKET_BYTES_MAX;
use valise_proto::{ClientPacket, CloseReason, PacketBuffer};

use crate::on_both_transports;
use crate::relay::Relay;
use crate::wire::{Via, Wire};

on_both_transports!(
    malformed,
    packet_too_large,
    unknown_packets_are_ignored,
    pong_is_ignored,
    several_packets_in_one_write,
    too_many_packets_are_read_later,
);

async fn malformed(via: Via) {
    let relay = Relay::start().await;
    let bad: [&[u8]; 4] = [
        // A field that announces more than there is.
        &[3, 0x12, 0x7f, 0],
        // An Attach whose keys are too short.
        &[8, 0x1a, 6, 0x12, 1, 0, 0x1a, 1, 0],
        // A length prefix that is no varint of five bytes.
        &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        // Group wire types, which protobuf 3 does not have.
        &[1, 0x0f],
    ];
    for bytes in bad {
        let mut wire = Wire::open(&relay, via).await;
        wire.say_bytes(Bytes::from_static(bytes)).await;
        wire.closed_with(CloseReason::Malformed).await;
    }
    if via == Via::WebSocket {
        let mut wire = Wire::open(&relay, via).await;
        wire.say_text("hello").await;
        wire.closed_with(CloseReason::Malformed).await;
        // A message that ends inside a packet.
        let mut wire = Wire::open(&relay, via).await;
        wire.say_bytes(Bytes::from_static(&[9, 1, 2])).await;
        wire.closed_with(CloseReason::Malformed).await;
    }
}

async fn packet_too_large(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    let declared = u32::try_from(PACKET_BYTES_MAX + 1).unwrap();
    let mut prefix = Vec::new();
    prost::encoding::encode_varint(declared.into(), &mut prefix);
    // Only the prefix: it must not take the packet itself to be refused.
    wire.say_bytes(prefix.into()).await;
    wire.closed_with(CloseReason::PacketTooLarge).await;
}

async fn unknown_packets_are_ignored(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    // Number 99, and the reserved number 16.
    wire.say_bytes(Bytes::from_static(&[4, 0x9a, 0x06, 1, 0])).await;
    wire.say_bytes(Bytes::from_static(&[3, 0x82, 0x01, 0])).await;
    wire.ping().await;
}

async fn pong_is_ignored(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    // The relay never pings, so it answers nothing it asked for.
    wire.say(&ClientPacket::Pong { request: 7 }).await;
    wire.ping().await;
}

async fn several_packets_in_one_write(via: Via) {
    let relay = Relay::start().await;
    let mut wire = Wire::open(&relay, via).await;
    let mut out = PacketBuffer::default();
    for request in 1..=50 {
        ClientPacket::<Bytes>::Ping { request }.encode(&mut out);
    }
    wire.say_bytes(out.take()).await;
    for request in 1..=50 {
        assert_eq!(wire.receive().await, valise_proto::ServerPacket::Pong { request });
    }
}

/// Nothing is lost and nobody is thrown out: the relay just reads on later.
async fn too_many_packets_are_read_later(via: Via) {
    let limits = "[limits]\npackets_per_second = 100\npackets_burst = 10\n";
    let relay = Relay::configured(limits).await;
    let began = std::time::Instant::now();
    let mut wire = Wire::open(&relay, via).await;
    for round in 0..2 {
        for request in 1..=60 {
            wire.say(&ClientPacket::Ping { request: round * 60 + request }).await;
        }
        for request in 1..=60 {
            let request = round * 60 + request;
            assert_eq!(wire.receive().await, valise_proto::ServerPacket::Pong { request });
        }
    }
    // The first round may come in one read; the second waits until its debt is paid: 61 packets
    // with Hello, 10 of them at once, 100 a second.
    assert!(began.elapsed().as_millis() >= 500, "{:?}", began.elapsed());
}
