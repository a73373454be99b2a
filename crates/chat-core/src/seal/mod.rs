//! The outer seal: what a relay carries. An MLS message shows its group and its epoch in clear, so
//! everything is sealed once more, and padded, before it leaves the device.
//!
//! Pure code; randomness is the only thing it takes from the world.

pub mod frame;
pub mod greeting;
mod hpke;
pub mod item;
mod keys;
mod padded;
pub mod parts;
pub mod slot;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use hpke::{HpkeKeyPair, HpkePublicKey};
pub use keys::{EpochKeys, ItemKey};

/// Something that cannot be sealed, or that is not to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    // Whoever wrote the payload.
    /// Not one of the padded sizes.
    #[error("{0} bytes are no padded size")]
    NotPadded(usize),
    /// A frame whose hint is not of this epoch, or a greeting without the zero hint.
    #[error("the payload's hint is not of this key")]
    Hint,
    /// Another key, or changed bytes.
    #[error("the payload does not open: another key sealed it, or it was changed")]
    DoesNotOpen,
    /// It opens, but its sender has not kept to the format.
    #[error("the payload opens, but {0}")]
    Malformed(&'static str),
    /// A part that does not go with the parts before it.
    #[error("a part {0}")]
    Part(&'static str),
    // We ourselves.
    /// More than fits one payload, or 4 MiB in parts.
    #[error("{0} bytes are too long to be sealed here")]
    TooLong(usize),
    /// Not a usable X25519 public key.
    #[error("nothing can be sealed to this HPKE key")]
    HpkeKey,
}
