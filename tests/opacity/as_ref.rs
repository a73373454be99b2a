//! E0277: it is no byte slice
use opaque::payload::Payload;

fn read<T: AsRef<[u8]>>(_: &T) {}

pub fn try_to(payload: &Payload) {
    read(payload);
}

fn main() {}
