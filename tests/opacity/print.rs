//! E0277: it cannot be displayed
use opaque::payload::Payload;

pub fn read(payload: &Payload) -> String {
    format!("{payload}")
}

fn main() {}
