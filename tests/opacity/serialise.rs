//! E0277: it cannot be serialised
use opaque::payload::Payload;

fn serialise<T: serde::Serialize>(_: &T) {}

pub fn try_to(payload: &Payload) {
    serialise(payload);
}

fn main() {}
