//! Frames between members of a group: `hint 8 | nonce 12 | AES-256-GCM(length u32 BE |
//! wire::Envelope | zeros)`, the hint as associated data.
//!
//! The hint is new for each frame, so that the relay cannot tell which frames belong to one group;
//! a receiver tries the hint keys that it has.

use aws_lc_rs::hmac;
use bytes::Bytes;
use prost::Message;
use prost::encoding::encoded_len_varint;
use valise_client::random;
use valise_proto::limits::{PAYLOAD_BYTES_MAX, is_padded};

use super::padded::{LENGTH_BYTES, NONCE_BYTES, TAG_BYTES, size_for};
use super::{EpochKeys, SealError, greeting, padded};
use crate::wire;

/// Bytes of a hint. All zeros: the payload is a greeting.
pub const HINT_BYTES: usize = 8;

/// Bytes of hint and nonce: the part of a frame that tells its epoch.
pub const START_BYTES: usize = HINT_BYTES + NONCE_BYTES;

/// Bytes of a frame that are neither envelope nor padding.
const OVERHEAD: usize = HINT_BYTES + NONCE_BYTES + TAG_BYTES + LENGTH_BYTES;

/// The longest encoded envelope, in bytes.
pub const ENVELOPE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - OVERHEAD;

/// The most that an envelope's stream (2 + 16) and first counter (1 + 10) take, in bytes.
const STREAM_BYTES: usize = 29;

/// How much of a backlog fits one frame: see [`room`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// So many messages from the front; 0: the first is too long, see [`super::parts`].
    pub messages: usize,
    /// The frame's padded size with these messages.
    pub size: usize,
}

/// How many messages of these lengths, from the front, fit one frame, and which size it has then.
pub fn room(lengths: impl IntoIterator<Item = usize>) -> Room {
    let mut room = Room { messages: 0, size: 0 };
    let mut bytes = STREAM_BYTES + OVERHEAD;
    for len in lengths {
        // The length comes from outside and may be absurd.
        bytes = bytes.saturating_add(len).saturating_add(1 + encoded_len_varint(len as u64));
        match size_for(bytes) {
            Some(size) => room = Room { messages: room.messages + 1, size },
            None => break,
        }
    }
    room
}

/// Seals an envelope.
///
/// # Errors
/// [`SealError::TooLong`]; [`SealError::Malformed`] if no receiver would take the envelope.
pub fn seal(keys: &EpochKeys, envelope: &wire::Envelope) -> Result<Bytes, SealError> {
    loop {
        let nonce = random::bytes();
        // One in 2^64 nonces would make a greeting of it.
        if hint(keys, &nonce) != greeting::HINT {
            return seal_with(keys, nonce, envelope);
        }
    }
}

/// As [`seal`], with a nonce that must never be used in this epoch again.
pub(crate) fn seal_with(
    keys: &EpochKeys,
    nonce: [u8; NONCE_BYTES],
    envelope: &wire::Envelope,
) -> Result<Bytes, SealError> {
    check(envelope)?;
    let hint = hint(keys, &nonce);
    padded::seal(&keys.envelope, (&hint, nonce), &hint, &envelope.encode_to_vec())
}

/// Whether the payload is a frame of this epoch, as far as its hint tells.
pub fn matches(keys: &EpochKeys, payload: &[u8]) -> bool {
    let start = payload.first_chunk::<START_BYTES>();
    is_padded(payload.len()) && start.is_some_and(|start| matches_start(keys, start))
}

/// As [`matches()`], of a frame's beginning.
pub fn matches_start(keys: &EpochKeys, start: &[u8; START_BYTES]) -> bool {
    let (stated, nonce) = start.split_at(HINT_BYTES);
    let nonce = nonce.first_chunk().expect("the rest of a start is a nonce");
    stated != greeting::HINT && stated == hint(keys, nonce)
}

/// The envelope of a frame of this epoch.
///
/// # Errors
/// [`SealError::NotPadded`], [`SealError::Hint`], [`SealError::DoesNotOpen`],
/// [`SealError::Malformed`].
pub fn open(keys: &EpochKeys, payload: &[u8]) -> Result<wire::Envelope, SealError> {
    if !is_padded(payload.len()) {
        return Err(SealError::NotPadded(payload.len()));
    }
    if !matches(keys, payload) {
        return Err(SealError::Hint);
    }
    let plain = padded::open(&keys.envelope, HINT_BYTES, &payload[..HINT_BYTES], payload)?;
    let envelope = wire::Envelope::decode(&plain[..])
        .map_err(|_| SealError::Malformed("it holds no envelope"))?;
    check(&envelope)?;
    Ok(envelope)
}

/// The first 8 bytes of HMAC-SHA-256(hint key, nonce).
fn hint(keys: &EpochKeys, nonce: &[u8; NONCE_BYTES]) -> [u8; HINT_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &keys.hint), nonce);
    *tag.as_ref().first_chunk().expect("an HMAC-SHA-256 has 32 bytes")
}

/// An envelope is a poke, or has messages, or a part: in a stream counted from 1, or, for messages
/// only, unordered, with neither stream nor counter.
fn check(envelope: &wire::Envelope) -> Result<(), SealError> {
    let wire::Envelope { stream, first_counter, messages, part, poke } = envelope;
    let ordered = stream.len() == 16 && *first_counter > 0;
    let unordered = stream.is_empty() && *first_counter == 0;
    let wrong = match (messages.is_empty(), part, poke) {
        (true, None, true) if unordered => return Ok(()),
        (true, None, true) => "a poke has no stream",
        (false, None, false) if messages.iter().any(Vec::is_empty) => "a message is empty",
        (false, None, false) if unordered => return Ok(()),
        (false, None, false) if ordered => {
            // The last message's counter must be a number, too.
            let more = (messages.len() - 1) as u64;
            match first_counter.checked_add(more) {
                Some(_) => return Ok(()),
                None => "its counters are too large",
            }
        }
        (true, Some(part), false) if ordered => {
            let right = part.index < part.count && part.count >= 2 && !part.bytes.is_empty();
            match right {
                true => return Ok(()),
                false => "its part is not well formed",
            }
        }
        (false, None, false) | (true, Some(_), false) => {
            "stream and counter are neither both there nor both missing"
        }
        _ => "its envelope is not exactly one of messages, part and poke",
    };
    Err(SealError::Malformed(wrong))
}
