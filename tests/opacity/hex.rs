//! E0277: it cannot be printed as hex
use opaque::payload::Payload;

pub fn read(payload: &Payload) -> String {
    format!("{payload:x}")
}

fn main() {}
