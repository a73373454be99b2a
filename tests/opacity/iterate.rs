//! E0277: it has no elements
use opaque::payload::Payload;

pub fn read(payload: Payload) -> usize {
    let mut sum = 0;
    for byte in payload {
        sum += usize::from(byte);
    }
    sum
}

fn main() {}
