//! E0614: it points to nothing
use opaque::payload::Payload;

pub fn read(payload: &Payload) -> usize {
    (**payload).len()
}

fn main() {}
