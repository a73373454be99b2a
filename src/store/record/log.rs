//! The keys and records of shards that move.
//!
//! | kind | key after it | record |
//! |---|---|---|
//! | `h` shard | shard | as `valise_migration::real` encodes it; none for a shard that does not move |
//! | `l` log | shard, place 8 | digest 32, frame's seq 8 or 0, entry |
//! | `p` places of frames | shard, mailbox, seq | place 8 |

use bytes::Bytes;
use valise_migration::Position;
use valise_migration::real::{self, Digest, RealRecord};
use valise_proto::MailboxId;

use super::{frame_key, sealed, take, unseal, whole};
use crate::store::{Logged, Seq, StoreError};

/// The first byte of all shards' keys.
pub(in crate::store) const SHARD_KIND: [u8; 1] = *b"h";

const LOG_KIND: u8 = b'l';
const PLACE_KIND: u8 = b'p';

/// The key of a shard's state.
pub(in crate::store) fn shard_key(shard: u8) -> [u8; 2] {
    [SHARD_KIND[0], shard]
}

/// The shard of such a key.
pub(in crate::store) fn parse_shard_key(key: &[u8]) -> Result<u8, StoreError> {
    match key {
        [_, shard] => Ok(*shard),
        _ => Err(StoreError::Damaged { what: "shard key" }),
    }
}

/// A shard's state.
pub(in crate::store) fn encode_shard(record: &RealRecord) -> Bytes {
    sealed(&[&real::encode(record)])
}

/// Reads [`encode_shard`] back.
pub(in crate::store) fn decode_shard(record: &[u8]) -> Result<RealRecord, StoreError> {
    const WHAT: &str = "shard";
    real::decode(unseal(record, WHAT)?).ok_or(StoreError::Damaged { what: WHAT })
}

/// What all keys of a shard's log begin with.
pub(in crate::store) fn log_of(shard: u8) -> [u8; 2] {
    [LOG_KIND, shard]
}

/// The key of an entry.
pub(in crate::store) fn log_key(shard: u8, at: Position) -> [u8; 10] {
    let mut key = [0; 10];
    key[..2].copy_from_slice(&log_of(shard));
    key[2..].copy_from_slice(&at.0.to_be_bytes());
    key
}

/// An entry's record.
pub(in crate::store) fn encode_logged(logged: &Logged) -> Bytes {
    let seq = logged.frame.unwrap_or_default().0.to_be_bytes();
    sealed(&[&logged.digest, &seq, &real::encode(&logged.entry)])
}

/// Reads [`encode_logged`] back, and its key.
pub(in crate::store) fn decode_logged(key: &[u8], record: &[u8]) -> Result<Logged, StoreError> {
    const WHAT: &str = "log";
    let mut rest = key;
    let [_kind, shard] = take(&mut rest, WHAT)?;
    let at = Position(u64::from_be_bytes(take(&mut rest, WHAT)?));
    let mut rest = unseal(record, WHAT)?;
    let digest: Digest = take(&mut rest, WHAT)?;
    let seq = Seq(u64::from_be_bytes(take(&mut rest, WHAT)?));
    let entry = real::decode(rest).ok_or(StoreError::Damaged { what: WHAT })?;
    let frame = (seq.0 > 0).then_some(seq);
    Ok(Logged { shard, at, entry, digest, frame })
}

/// What all keys of a shard's places begin with.
pub(in crate::store) fn places_of(shard: u8) -> [u8; 2] {
    [PLACE_KIND, shard]
}

/// The key of a frame's place.
pub(in crate::store) fn place_key(shard: u8, mailbox: &MailboxId, seq: Seq) -> [u8; 26] {
    let mut key = frame_key(shard, mailbox, seq);
    key[0] = PLACE_KIND;
    key
}

/// A frame's place.
pub(in crate::store) fn encode_place(at: Position) -> Bytes {
    sealed(&[&at.0.to_be_bytes()])
}

/// Reads [`encode_place`] back.
pub(in crate::store) fn decode_place(record: &[u8]) -> Result<Position, StoreError> {
    Ok(Position(u64::from_be_bytes(whole(record, "place")?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use valise_migration::{Entry, Migration, Record, Version};

    #[test]
    fn a_log_survives_its_records() {
        let entry = Entry::Appended { mailbox: [1; 16], frame: [2; 16] };
        for frame in [None, Some(Seq(9))] {
            let logged = Logged { shard: 3, at: Position(300), entry, digest: [7; 32], frame };
            let record = encode_logged(&logged);
            let key = log_key(3, Position(300));
            assert_eq!(decode_logged(&key, &record).expect("intact"), logged);
            for len in 0..record.len() {
                assert!(decode_logged(&key, &record[..len]).is_err(), "{len}");
            }
        }
        assert_eq!(decode_place(&encode_place(Position(5))).expect("intact"), Position(5));
        assert!(log_key(3, Position(255)) < log_key(3, Position(256)));
    }

    #[test]
    fn a_shard_survives_its_record() {
        let state: RealRecord = Record::Local { migration: Migration(1), version: Version(2) };
        assert_eq!(decode_shard(&encode_shard(&state)).expect("intact"), state);
        assert_eq!(parse_shard_key(&shard_key(7)).expect("own key"), 7);
        assert!(parse_shard_key(b"h").is_err());
    }
}
