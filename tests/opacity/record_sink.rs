//! E0603: the record buffer belongs to the store
use opaque::payload::Payload;

pub fn read(_: &Payload, _: &opaque::payload::RecordBuffer) {}

fn main() {}
