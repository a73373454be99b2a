//! First contact: what is sent to a device with which there is no group yet. `zeros 8 | enc 32 |
//! HPKE ciphertext` with info "valise greeting 1" and empty associated data; the plaintext is
//! `length u32 BE | wire::FirstContact | zeros`. Greetings longer than a payload come in parts.
//!
//! The relay sees that a payload is a greeting, and no more.

use bytes::Bytes;
use prost::Message;
use valise_client::random;
use valise_proto::limits::{PAYLOAD_BYTES_MAX, is_padded};

use super::frame::HINT_BYTES;
use super::hpke::ENC_BYTES;
use super::padded::{LENGTH_BYTES, TAG_BYTES, pad, unpad};
use super::parts::{PARTS_MAX, pieces};
use super::{HpkeKeyPair, HpkePublicKey, SealError};
use crate::wire;

/// Where a frame has its hint.
pub const HINT: [u8; HINT_BYTES] = [0; HINT_BYTES];

const INFO: &[u8] = b"valise greeting 1";

/// Bytes of a greeting that are neither content nor padding.
const OVERHEAD: usize = HINT_BYTES + ENC_BYTES + TAG_BYTES;

/// Room for a part's bytes: without the transfer (2 + 16), index and count (2 x 6), tag and length.
const PART_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - OVERHEAD - LENGTH_BYTES - 18 - 12 - 5;

/// Seals a greeting to a device: the payloads to post, each on its own.
///
/// # Errors
/// [`SealError::TooLong`]; [`SealError::HpkeKey`] if nothing can be sealed to the key.
pub fn seal(to: &HpkePublicKey, greeting: &wire::Greeting) -> Result<Vec<Bytes>, SealError> {
    let whole = greeting.encode_to_vec();
    let transfer: [u8; 16] = random::bytes();
    let pieces = pieces(&whole, PART_BYTES_MAX)?;
    let count = pieces.len() as u32;
    let part = |(index, bytes): (u32, &[u8])| {
        let (transfer, bytes) = (transfer.to_vec(), bytes.to_vec());
        seal_part(to, &wire::FirstContact { transfer, index, count, bytes })
    };
    (0..).zip(pieces).map(part).collect()
}

/// One part's payload.
pub(crate) fn seal_part(to: &HpkePublicKey, part: &wire::FirstContact) -> Result<Bytes, SealError> {
    let sealed = to.seal(INFO, &pad(&part.encode_to_vec(), OVERHEAD)?)?;
    Ok([&HINT[..], &sealed].concat().into())
}

/// Whether the payload says that it is a greeting.
pub fn is_greeting(payload: &[u8]) -> bool {
    payload.starts_with(&HINT)
}

/// One part of a greeting to us. The parts of one transfer go into a
/// [`super::parts::Assembler`], whose whole [`read`] reads.
///
/// # Errors
/// [`SealError::NotPadded`], [`SealError::Hint`], [`SealError::DoesNotOpen`],
/// [`SealError::Malformed`].
pub fn open_part(own: &HpkeKeyPair, payload: &[u8]) -> Result<wire::FirstContact, SealError> {
    if !is_padded(payload.len()) {
        return Err(SealError::NotPadded(payload.len()));
    }
    let sealed = payload.strip_prefix(&HINT).ok_or(SealError::Hint)?;
    let plain = own.open(INFO, sealed)?;
    let part = wire::FirstContact::decode(unpad(&plain)?)
        .map_err(|_| SealError::Malformed("it holds no part of a greeting"))?;
    let right = part.transfer.len() == 16
        && part.index < part.count
        && part.count <= PARTS_MAX
        && !part.bytes.is_empty();
    if right { Ok(part) } else { Err(SealError::Malformed("its part is not well formed")) }
}

/// The greeting that all parts together are.
///
/// # Errors
/// [`SealError::Malformed`].
pub fn read(whole: &[u8]) -> Result<wire::Greeting, SealError> {
    match wire::Greeting::decode(whole) {
        Ok(greeting) if greeting.body.is_some() => Ok(greeting),
        _ => Err(SealError::Malformed("it holds no greeting")),
    }
}
