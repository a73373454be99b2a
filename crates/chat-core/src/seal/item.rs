//! What lies sealed in one place until somebody takes it: bundle items, and the values of invites
//! and links. `nonce 12 | AES-256-GCM(length u32 BE | content | zeros)`, the associated data empty.

use bytes::Bytes;
use valise_client::random;
use zeroize::Zeroizing;

use super::{ItemKey, SealError, padded};

/// Seals a key package, a card, or an offer.
///
/// # Errors
/// [`SealError::TooLong`].
pub fn seal(key: &ItemKey, content: &[u8]) -> Result<Bytes, SealError> {
    seal_with(key, random::bytes(), content)
}

/// As [`seal`], with a nonce that must never be used with this key again.
pub(crate) fn seal_with(
    key: &ItemKey,
    nonce: [u8; padded::NONCE_BYTES],
    content: &[u8],
) -> Result<Bytes, SealError> {
    padded::seal(key.as_bytes(), (&[], nonce), &[], content)
}

/// What was sealed.
///
/// # Errors
/// [`SealError::NotPadded`], [`SealError::DoesNotOpen`], [`SealError::Malformed`].
pub fn open(key: &ItemKey, value: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    padded::open(key.as_bytes(), 0, &[], value)
}
