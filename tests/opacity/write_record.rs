//! E0624: writing a record is for the store
use opaque::payload::Payload;

pub fn read(payload: &Payload) {
    payload.write_record(unreachable!());
}

fn main() {}
