//! E0277: it does not become bytes
use opaque::payload::Payload;

pub fn read(payload: Payload) -> bytes::Bytes {
    payload.into()
}

fn main() {}
