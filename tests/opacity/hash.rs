//! E0277: it cannot be hashed
use opaque::payload::Payload;

fn hash<T: std::hash::Hash>(_: &T) {}

pub fn try_to(payload: &Payload) {
    hash(payload);
}

fn main() {}
