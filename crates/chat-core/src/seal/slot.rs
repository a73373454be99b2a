//! Commits in slots: MLS needs one commit per epoch, and a slot can be written once, so the first
//! commit wins. Only members can find an epoch's slots.
//!
//! A value is `nonce 12 | AES-256-GCM(length u32 BE | wire::SlotValue | zeros)` under the envelope
//! key, the slot's id as associated data: a value opens in its own slot only. Part 0 decides; the
//! later parts lie in slots named after its seed and are written before it, so whoever reads part 0
//! can have them all. Where one is missing all the same, its reader puts a void into its slot: the
//! slot decides whether there will ever be such a part, the same for everyone.

use aws_lc_rs::hmac;
use bytes::Bytes;
use prost::Message;
use valise_client::random;
use valise_proto::SlotId;
use valise_proto::limits::PAYLOAD_BYTES_MAX;

use super::padded::{LENGTH_BYTES, NONCE_BYTES, TAG_BYTES};
use super::parts::{PARTS_MAX, WHOLE_BYTES_MAX, pieces};
use super::{EpochKeys, SealError, padded};
use crate::wire;

/// Bytes of a later part's seed.
pub const SEED_BYTES: usize = 16;

/// Room for a value's bytes: without tag and length (5), count (6) and seed (2 + 16).
const PART_BYTES_MAX: usize = PAYLOAD_BYTES_MAX - NONCE_BYTES - TAG_BYTES - LENGTH_BYTES - 29;

/// What part 0 says.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    /// The commit, or its beginning.
    pub bytes: Vec<u8>,
    /// How many values there are, this one included.
    pub count: u32,
    /// Names the slots of the later parts.
    pub seed: [u8; SEED_BYTES],
}

/// What part 0 and what lies in the later parts' slots make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whole {
    /// The commit.
    Commit(Vec<u8>),
    /// Something that does not go with part 0, and never will: no commit for anyone.
    Junk,
    /// This part's slot is free. A void has to be put there, and decides.
    Missing(u32),
}

/// The slot of part 0: HMAC-SHA-256(slot key, "valise slot 1" | attempt u32 BE | 0 u32).
pub fn id(keys: &EpochKeys, attempt: u32) -> SlotId {
    hmac_id(keys, &[b"valise slot 1", &attempt.to_be_bytes(), &[0; 4]])
}

/// The slot of a later part: HMAC-SHA-256(slot key, "valise slot part 1" | attempt u32 BE | part u32
/// BE | seed).
pub fn part_id(keys: &EpochKeys, attempt: u32, part: u32, seed: &[u8; SEED_BYTES]) -> SlotId {
    let (attempt, part) = (attempt.to_be_bytes(), part.to_be_bytes());
    hmac_id(keys, &[b"valise slot part 1", &attempt, &part, seed])
}

/// A commit as values to write, in this order. Keep them until they are written: another seal of
/// the same commit is another value, and a slot takes only one.
///
/// # Errors
/// [`SealError::TooLong`]; [`SealError::Malformed`] for an empty commit.
pub fn seal_values(
    keys: &EpochKeys,
    attempt: u32,
    commit: &[u8],
) -> Result<Vec<(SlotId, Bytes)>, SealError> {
    seal_values_with(keys, attempt, commit, random::bytes(), random::bytes)
}

/// As [`seal_values`], with a seed, and with nonces that must never be used in this epoch again.
pub(crate) fn seal_values_with(
    keys: &EpochKeys,
    attempt: u32,
    commit: &[u8],
    seed: [u8; SEED_BYTES],
    mut nonce: impl FnMut() -> [u8; NONCE_BYTES],
) -> Result<Vec<(SlotId, Bytes)>, SealError> {
    if commit.is_empty() {
        return Err(SealError::Malformed("a commit is not empty"));
    }
    let pieces = pieces(commit, PART_BYTES_MAX)?;
    let count = pieces.len() as u32;
    let seal_one = |(part, bytes): (u32, &[u8])| {
        let (id, seed) = match part {
            0 => (id(keys, attempt), seed.to_vec()),
            _ => (part_id(keys, attempt, part, &seed), Vec::new()),
        };
        let value = wire::SlotValue { bytes: bytes.to_vec(), count, seed }.encode_to_vec();
        Ok((id, padded::seal(&keys.envelope, (&[], nonce()), id.as_bytes(), &value)?))
    };
    let in_order: Vec<(u32, &[u8])> = (0..).zip(pieces).collect();
    in_order.into_iter().rev().map(seal_one).collect()
}

/// Opens part 0. An error says that the slot holds junk, and everyone goes on to the next attempt.
///
/// # Errors
/// [`SealError::NotPadded`], [`SealError::DoesNotOpen`], [`SealError::Malformed`].
pub fn open_head(keys: &EpochKeys, attempt: u32, value: &[u8]) -> Result<Head, SealError> {
    let value = open_value(keys, &id(keys, attempt), value)?;
    let seed = value.seed.try_into().map_err(|_| SealError::Malformed("its seed is wrong"))?;
    if value.count == 0 || value.count > PARTS_MAX {
        return Err(SealError::Malformed("its count of parts cannot be"));
    }
    Ok(Head { bytes: value.bytes, count: value.count, seed })
}

/// Opens a later part, from 1. An error says that the whole commit is junk.
///
/// # Errors
/// [`SealError::NotPadded`], [`SealError::DoesNotOpen`], [`SealError::Malformed`].
pub fn open_part(
    keys: &EpochKeys,
    attempt: u32,
    (head, part): (&Head, u32),
    value: &[u8],
) -> Result<Vec<u8>, SealError> {
    let value = open_value(keys, &part_id(keys, attempt, part, &head.seed), value)?;
    if value.count != head.count || !value.seed.is_empty() {
        return Err(SealError::Malformed("it does not go with part 0"));
    }
    Ok(value.bytes)
}

/// A value for the slot of a later part that is missing. It opens to an empty message, which goes with
/// no part 0: if it is stored, the whole commit is junk for everyone.
pub fn seal_void(keys: &EpochKeys, slot: &SlotId) -> Bytes {
    seal_void_with(keys, slot, random::bytes())
}

/// As [`seal_void`], with a nonce that must never be used in this epoch again.
pub(crate) fn seal_void_with(keys: &EpochKeys, slot: &SlotId, nonce: [u8; NONCE_BYTES]) -> Bytes {
    let void = wire::SlotValue::default().encode_to_vec();
    padded::seal(&keys.envelope, (&[], nonce), slot.as_bytes(), &void)
        .expect("an empty message fits the smallest size")
}

/// What a part 0 makes with what its later parts' slots hold, in order; `None`: a slot is free.
pub fn whole(keys: &EpochKeys, attempt: u32, head: &Head, values: &[Option<Bytes>]) -> Whole {
    let mut parts = Vec::new();
    let mut missing = None;
    for (part, value) in (1..).zip(values) {
        let Some(value) = value else {
            missing = missing.or(Some(part));
            continue;
        };
        match open_part(keys, attempt, (head, part), value) {
            Ok(bytes) => parts.push(bytes),
            // Whatever else may come: one that does not fit is enough.
            Err(_) => return Whole::Junk,
        }
    }
    match missing {
        Some(part) => Whole::Missing(part),
        None => join(head.clone(), &parts).map_or(Whole::Junk, Whole::Commit),
    }
}

/// The commit of part 0 and the later parts, in order.
///
/// # Errors
/// [`SealError::Part`] if there are fewer or more than part 0 says, or together they are too long.
pub fn join(head: Head, parts: &[Vec<u8>]) -> Result<Vec<u8>, SealError> {
    if parts.len() + 1 != head.count as usize {
        return Err(SealError::Part("is missing, or one is too many"));
    }
    if head.bytes.len() + parts.iter().map(Vec::len).sum::<usize>() > WHOLE_BYTES_MAX {
        return Err(SealError::Part("makes the whole too long"));
    }
    let mut commit = head.bytes;
    parts.iter().for_each(|part| commit.extend_from_slice(part));
    Ok(commit)
}

fn open_value(keys: &EpochKeys, slot: &SlotId, value: &[u8]) -> Result<wire::SlotValue, SealError> {
    let plain = padded::open(&keys.envelope, 0, slot.as_bytes(), value)?;
    let value = wire::SlotValue::decode(&plain[..])
        .map_err(|_| SealError::Malformed("it holds no slot value"))?;
    if value.bytes.is_empty() {
        return Err(SealError::Malformed("it is empty"));
    }
    Ok(value)
}

fn hmac_id(keys: &EpochKeys, message: &[&[u8]]) -> SlotId {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &keys.slot));
    message.iter().for_each(|part| context.update(part));
    SlotId::try_from(context.sign().as_ref()).expect("an HMAC-SHA-256 has 32 bytes")
}

impl std::fmt::Debug for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Head({} bytes, 1 of {} parts)", self.bytes.len(), self.count)
    }
}
