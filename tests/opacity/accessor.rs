//! E0599: there is no accessor
use opaque::payload::Payload;

pub fn read(payload: &Payload) -> Vec<u8> {
    payload.bytes().to_vec()
}

fn main() {}
