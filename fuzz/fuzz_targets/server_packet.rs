//! A packet from a relay: an answer or an error, and what is read survives being written.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use valise_proto::limits::PACKET_BYTES_MAX;
use valise_proto::{Deframer, PacketBuffer, ServerPacket};

/// An unknown outcome is read from one byte and written in five.
const GROWTH: usize = 5;

fuzz_target!(|bytes: &[u8]| {
    if bytes.len() > PACKET_BYTES_MAX / GROWTH {
        return;
    }
    let Ok(packet) = ServerPacket::<Bytes>::decode(Bytes::copy_from_slice(bytes)) else { return };
    let mut out = PacketBuffer::default();
    packet.encode(&mut out);
    let body = Deframer::default().next(&mut out.unwritten()).unwrap().unwrap();
    assert_eq!(ServerPacket::decode(body), Ok(packet));
});
