//! E0616: its field is private
use opaque::payload::Payload;

pub fn read(payload: &Payload) -> bytes::Bytes {
    payload.0.clone()
}

fn main() {}
