//! What all seals have in common: `length u32 BE | content | zeros` under AES-256-GCM (NIST SP
//! 800-38D) with a random nonce, so that the whole payload has one of the padded sizes.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bytes::Bytes;
use valise_proto::limits::{PAYLOAD_SIZES, is_padded};
use zeroize::Zeroizing;

use super::SealError;

/// Bytes of a GCM nonce.
pub(super) const NONCE_BYTES: usize = NONCE_LEN;
/// Bytes of a GCM tag.
pub(super) const TAG_BYTES: usize = 16;
/// Bytes of the length before the content.
pub(super) const LENGTH_BYTES: usize = 4;

/// The padded size of a payload with `len` bytes of everything but padding.
pub(super) fn size_for(len: usize) -> Option<usize> {
    PAYLOAD_SIZES.into_iter().find(|size| len <= *size)
}

/// `length | content | zeros`, such that `overhead` further bytes make a padded size.
pub(super) fn pad(content: &[u8], overhead: usize) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let too_long = SealError::TooLong(content.len());
    let size = size_for(overhead + LENGTH_BYTES + content.len()).ok_or(too_long)?;
    let mut plain = Zeroizing::new(Vec::with_capacity(size));
    put_padded(&mut plain, content, size - overhead);
    Ok(plain)
}

/// The content of [`pad`].
pub(super) fn unpad(plain: &[u8]) -> Result<&[u8], SealError> {
    let short = SealError::Malformed("its length is longer than the payload");
    let (length, rest) = plain.split_first_chunk::<LENGTH_BYTES>().ok_or(short)?;
    let length = usize::try_from(u32::from_be_bytes(*length)).map_err(|_| short)?;
    let (content, padding) = rest.split_at_checked(length).ok_or(short)?;
    if padding.iter().any(|byte| *byte != 0) {
        return Err(SealError::Malformed("its padding is not zeros"));
    }
    Ok(content)
}

/// `prefix | nonce 12 | AES-256-GCM(length | content | zeros)`.
pub(super) fn seal(
    key: &[u8; 32],
    (prefix, nonce): (&[u8], [u8; NONCE_BYTES]),
    aad: &[u8],
    content: &[u8],
) -> Result<Bytes, SealError> {
    let overhead = prefix.len() + NONCE_BYTES + TAG_BYTES;
    let too_long = SealError::TooLong(content.len());
    let size = size_for(overhead + LENGTH_BYTES + content.len()).ok_or(too_long)?;
    // Sealed in place and never moved: no copy of the content stays behind.
    let mut payload = Vec::with_capacity(size);
    payload.extend_from_slice(prefix);
    payload.extend_from_slice(&nonce);
    let start = payload.len();
    put_padded(&mut payload, content, size - overhead);
    let tag = cipher(key)
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut payload[start..],
        )
        .expect("a payload is far below what GCM can seal");
    payload.extend_from_slice(tag.as_ref());
    Ok(payload.into())
}

/// The content of [`seal`], with a prefix of so many bytes.
pub(super) fn open(
    key: &[u8; 32],
    prefix_bytes: usize,
    aad: &[u8],
    payload: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    if !is_padded(payload.len()) {
        return Err(SealError::NotPadded(payload.len()));
    }
    // A padded size is longer than all that.
    let (nonce, sealed) = payload[prefix_bytes..]
        .split_first_chunk::<NONCE_BYTES>()
        .ok_or(SealError::NotPadded(payload.len()))?;
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let plain = cipher(key)
        .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(aad), &mut buffer)
        .map_err(|_| SealError::DoesNotOpen)?;
    unpad(plain).map(|content| Zeroizing::new(content.to_vec()))
}

fn put_padded(out: &mut Vec<u8>, content: &[u8], len: usize) {
    let end = out.len() + len;
    let length = u32::try_from(content.len()).expect("content fits a payload");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(content);
    out.resize(end, 0);
}

fn cipher(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("an AES-256 key has 32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_fills_to_the_size_and_not_beyond() {
        for (len, size) in [(0, 512), (452, 512), (453, 2048), (65_476, 65_536)] {
            assert_eq!(pad(&vec![1; len], 56).unwrap().len() + 56, size, "{len}");
        }
        assert_eq!(pad(&vec![1; 65_477], 56), Err(SealError::TooLong(65_477)));
    }

    #[test]
    fn padding_that_lies_is_refused() {
        assert_eq!(unpad(&[0, 0, 0, 1, 9, 0]), Ok(&[9][..]));
        for plain in [&[0, 0, 0, 1, 9, 1][..], &[0, 0, 0, 3, 9, 1], &[255; 8], &[0, 0], &[]] {
            assert!(matches!(unpad(plain), Err(SealError::Malformed(_))), "{plain:?}");
        }
    }
}
