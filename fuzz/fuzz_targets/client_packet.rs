//! A packet from a client: an answer or an error, and what is read survives being written.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use valise_proto::{ClientPacket, Deframer, PacketBuffer};

fuzz_target!(|bytes: &[u8]| {
    let Ok(packet) = ClientPacket::<Bytes>::decode(Bytes::copy_from_slice(bytes)) else { return };
    let mut out = PacketBuffer::default();
    packet.encode(&mut out);
    let body = Deframer::default().next(&mut out.unwritten()).unwrap().unwrap();
    assert_eq!(ClientPacket::decode(body), Ok(packet));
});
