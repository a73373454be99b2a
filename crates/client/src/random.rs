//! Random ids and random times, all from aws-lc-rs.

use std::time::Duration;

use aws_lc_rs::rand;
use valise_proto::FrameId;

/// Random bytes.
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system's random number generator works");
    bytes
}

/// An id for a new frame. The same id is used again only to retry the same frame.
pub fn frame_id() -> FrameId {
    FrameId::new(bytes())
}

/// A number from 0 up to, but not including, 1.
pub fn fraction() -> f64 {
    // 53 bits fill the mantissa of an f64 exactly.
    (u64::from_be_bytes(bytes()) >> 11) as f64 / (1u64 << 53) as f64
}

/// A time between the two.
pub fn between(least: Duration, most: Duration) -> Duration {
    least + most.saturating_sub(least).mul_f64(fraction())
}
