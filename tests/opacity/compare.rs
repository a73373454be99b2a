//! E0369: two of them cannot be compared
use opaque::payload::Payload;

pub fn same(one: &Payload, other: &Payload) -> bool {
    one == other
}

fn main() {}
