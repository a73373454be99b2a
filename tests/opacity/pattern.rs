//! E0532: it cannot be taken apart
use opaque::payload::Payload;

pub fn read(payload: Payload) -> bytes::Bytes {
    let Payload(bytes) = payload;
    bytes
}

fn main() {}
