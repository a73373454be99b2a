//! E0608: it has no elements
use opaque::payload::Payload;

pub fn read(payload: &Payload) -> u8 {
    payload[0]
}

fn main() {}
