//! E0308: it writes itself into a packet buffer only
use opaque::payload::Payload;

use valise_proto::PacketPayload;

pub fn read(payload: &Payload) -> Vec<u8> {
    let mut bytes = Vec::new();
    payload.write(&mut bytes);
    bytes
}

fn main() {}
