//! The keys and records of the embedded store. Every key is `kind | shard | mailbox | seq` or a
//! prefix of it, every number is big-endian so that keys sort, and every record ends in the CRC-32
//! of all before it.
//!
//! | kind | key after it | record |
//! |---|---|---|
//! | `f` frame | shard, mailbox, seq | version 1, frame id 16, accepted hours 4, ttl hours 2, payload |
//! | `a` floor | shard, mailbox | seq 8; there is one while the mailbox holds frames, and after a kill until it is looked for |
//! | `t` expiry index | hour 4, shard, mailbox, seq | nothing; only where the ttl is not the default |
//! | `s` state | | see [`Opened`] |
//! | `v` format | | number 4 |
//!
//! What is not about frames is in `standing`, shards that move in `log`.

mod cluster;
#[cfg(test)]
mod hostile;
mod log;
mod standing;

use bytes::Bytes;
use valise_proto::{FrameId, MailboxId};

use super::{Frame, Opened, RunningHours, Seq, StoreError, Totals};
use crate::payload::{Payload, RecordBuffer};

pub(super) use cluster::*;
pub(super) use log::*;
pub(super) use standing::*;

/// The format this version writes, and the highest it reads. Format 1 has frames and spent codes
/// only, format 2 knows no shards that move; both are read as they are.
pub(super) const FORMAT: u32 = 3;

/// The key of the format record. Its record keeps this shape in all formats.
pub(super) const FORMAT_KEY: [u8; 1] = *b"v";
/// The key of the state record.
pub(super) const STATE_KEY: [u8; 1] = *b"s";
/// The first byte of all frame keys.
pub(super) const FRAME_KIND: [u8; 1] = *b"f";
/// The first byte of all floor keys.
pub(super) const FLOOR_KIND: [u8; 1] = *b"a";
/// The first byte of all expiry keys.
pub(super) const EXPIRY_KIND: [u8; 1] = *b"t";

const FRAME_VERSION: u8 = 1;
const FRAME_HEADER_BYTES: usize = 1 + FrameId::LEN + 4 + 2;
const CRC_BYTES: usize = 4;

/// The key of a frame.
pub(super) fn frame_key(shard: u8, mailbox: &MailboxId, seq: Seq) -> [u8; 26] {
    let mut key = [0; 26];
    key[0] = FRAME_KIND[0];
    key[1] = shard;
    key[2..18].copy_from_slice(mailbox.as_bytes());
    key[18..].copy_from_slice(&seq.0.to_be_bytes());
    key
}

/// The mailbox and sequence number of a frame's key.
pub(super) fn parse_frame_key(key: &[u8]) -> Result<(MailboxId, Seq), StoreError> {
    let mut rest = key;
    let ([kind], [_shard]) = (take(&mut rest, "frame key")?, take(&mut rest, "frame key")?);
    let mailbox = MailboxId::new(take(&mut rest, "frame key")?);
    let seq = Seq(u64::from_be_bytes(take(&mut rest, "frame key")?));
    if kind != FRAME_KIND[0] || !rest.is_empty() {
        return Err(StoreError::Damaged { what: "frame key" });
    }
    Ok((mailbox, seq))
}

/// The key of a mailbox's floor.
pub(super) fn floor_key(shard: u8, mailbox: &MailboxId) -> [u8; 18] {
    let mut key = [0; 18];
    key[0] = FLOOR_KIND[0];
    key[1] = shard;
    key[2..].copy_from_slice(mailbox.as_bytes());
    key
}

/// The mailbox of a floor's key.
pub(super) fn parse_floor_key(key: &[u8]) -> Result<MailboxId, StoreError> {
    const WHAT: &str = "floor key";
    let mut rest = key;
    let [kind, _shard] = take(&mut rest, WHAT)?;
    let mailbox = MailboxId::new(take(&mut rest, WHAT)?);
    if kind != FLOOR_KIND[0] || !rest.is_empty() {
        return Err(StoreError::Damaged { what: WHAT });
    }
    Ok(mailbox)
}

/// The key of a frame in the expiry index.
pub(super) fn expiry_key(
    expires: RunningHours,
    shard: u8,
    mailbox: &MailboxId,
    seq: Seq,
) -> [u8; 30] {
    let mut key = [0; 30];
    key[0] = EXPIRY_KIND[0];
    key[1..5].copy_from_slice(&expires.0.to_be_bytes());
    key[5..].copy_from_slice(&frame_key(shard, mailbox, seq)[1..]);
    key
}

/// Above all keys of the expiry index before this hour, and below all others.
pub(super) fn expiry_keys_end(hour: RunningHours) -> Vec<u8> {
    [&EXPIRY_KIND[..], &hour.0.to_be_bytes()].concat()
}

/// The mailbox of a key of the expiry index.
pub(super) fn parse_expiry_key(key: &[u8]) -> Result<MailboxId, StoreError> {
    const WHAT: &str = "expiry key";
    let mut rest = key;
    let ([kind], _hour): ([u8; 1], [u8; 4]) = (take(&mut rest, WHAT)?, take(&mut rest, WHAT)?);
    let [_shard] = take(&mut rest, WHAT)?;
    let mailbox = MailboxId::new(take(&mut rest, WHAT)?);
    if kind != EXPIRY_KIND[0] || rest.len() != size_of::<u64>() {
        return Err(StoreError::Damaged { what: WHAT });
    }
    Ok(mailbox)
}

/// A frame's record: the one copy of its payload on the way to the disk.
pub(super) fn encode_frame(frame: &Frame) -> Bytes {
    let mut record =
        RecordBuffer::with_capacity(FRAME_HEADER_BYTES + frame.payload.len() + CRC_BYTES);
    record.put(&[FRAME_VERSION]);
    record.put(frame.frame_id.as_bytes());
    record.put(&frame.accepted.0.to_be_bytes());
    record.put(&frame.ttl_hours.to_be_bytes());
    frame.payload.write_record(&mut record);
    seal(record)
}

/// Reads a frame's record; the payload shares the record's memory.
pub(super) fn decode_frame(
    mailbox: MailboxId,
    seq: Seq,
    record: &Bytes,
) -> Result<Frame, StoreError> {
    const WHAT: &str = "frame";
    let body = unseal(record, WHAT)?;
    let mut rest = body;
    let [version] = take(&mut rest, WHAT)?;
    let frame_id = FrameId::new(take(&mut rest, WHAT)?);
    let accepted = RunningHours(u32::from_be_bytes(take(&mut rest, WHAT)?));
    let ttl_hours = u16::from_be_bytes(take(&mut rest, WHAT)?);
    if version != FRAME_VERSION {
        return Err(StoreError::Damaged { what: "frame version" });
    }
    let payload = Payload::from_record(record.slice(FRAME_HEADER_BYTES..body.len()));
    Ok(Frame { mailbox, seq, frame_id, accepted, ttl_hours, payload })
}

/// A floor's record.
pub(super) fn encode_floor(floor: Seq) -> Bytes {
    sealed(&[&floor.0.to_be_bytes()])
}

/// Reads a floor's record.
pub(super) fn decode_floor(record: &[u8]) -> Result<Seq, StoreError> {
    Ok(Seq(u64::from_be_bytes(whole(record, "floor")?)))
}

/// The record of the expiry index: its key says it all.
pub(super) fn encode_expiry() -> Bytes {
    sealed(&[])
}

/// The format's record.
pub(super) fn encode_format(format: u32) -> Bytes {
    sealed(&[&format.to_be_bytes()])
}

/// Reads the format's record.
pub(super) fn decode_format(record: &[u8]) -> Result<u32, StoreError> {
    Ok(u32::from_be_bytes(whole(record, "format")?))
}

/// The record of the whole store, written with every batch.
pub(super) fn encode_state(state: &Opened) -> Bytes {
    let Opened { totals, next_seq, hours, commits } = state;
    sealed(&[
        &totals.accepted.to_be_bytes(),
        &totals.acknowledged.to_be_bytes(),
        &totals.expired.to_be_bytes(),
        &totals.discarded.to_be_bytes(),
        &next_seq.0.to_be_bytes(),
        &hours.0.to_be_bytes(),
        &commits.to_be_bytes(),
    ])
}

/// Reads the state's record.
pub(super) fn decode_state(record: &[u8]) -> Result<Opened, StoreError> {
    let mut rest = unseal(record, "state")?;
    let mut number = || take(&mut rest, "state").map(u64::from_be_bytes);
    let totals = Totals {
        accepted: number()?,
        acknowledged: number()?,
        expired: number()?,
        discarded: number()?,
    };
    let next_seq = Seq(number()?);
    let hours = RunningHours(u32::from_be_bytes(take(&mut rest, "state")?));
    // The last of it, so that nothing is left over.
    let commits = rest.try_into().map_err(|_| StoreError::Damaged { what: "state" })?;
    let commits = u64::from_be_bytes(commits);
    Ok(Opened { totals, next_seq, hours, commits })
}

fn sealed(parts: &[&[u8]]) -> Bytes {
    let mut record =
        RecordBuffer::with_capacity(parts.iter().map(|part| part.len()).sum::<usize>() + CRC_BYTES);
    parts.iter().for_each(|part| record.put(part));
    seal(record)
}

fn seal(mut record: RecordBuffer) -> Bytes {
    let crc = record.crc();
    record.put(&crc.to_be_bytes());
    record.finish()
}

fn unseal<'a>(record: &'a [u8], what: &'static str) -> Result<&'a [u8], StoreError> {
    match record.split_last_chunk::<CRC_BYTES>() {
        Some((body, crc)) if crc32fast::hash(body).to_be_bytes() == *crc => Ok(body),
        _ => Err(StoreError::Damaged { what }),
    }
}

fn whole<const N: usize>(record: &[u8], what: &'static str) -> Result<[u8; N], StoreError> {
    unseal(record, what)?.try_into().map_err(|_| StoreError::Damaged { what })
}

fn take<const N: usize>(rest: &mut &[u8], what: &'static str) -> Result<[u8; N], StoreError> {
    let (head, tail) = rest.split_first_chunk().ok_or(StoreError::Damaged { what })?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::frame;

    #[test]
    fn a_frame_survives_its_record() {
        let original = frame(3, 9, 512);
        let decoded = decode_frame(original.mailbox, original.seq, &encode_frame(&original));
        let decoded = decoded.expect("intact");
        assert_eq!(encode_frame(&decoded), encode_frame(&original));
        assert_eq!(
            (decoded.frame_id, decoded.accepted, decoded.ttl_hours, decoded.payload.len()),
            (original.frame_id, original.accepted, original.ttl_hours, 512)
        );
    }

    #[test]
    fn every_flipped_bit_of_a_record_is_seen() {
        let original = frame(1, 1, 64);
        let record = encode_frame(&original);
        for bit in 0..record.len() * 8 {
            let mut damaged = record.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let result = decode_frame(original.mailbox, original.seq, &damaged.into());
            assert!(matches!(result, Err(StoreError::Damaged { .. })), "bit {bit}");
        }
    }

    #[test]
    fn every_truncation_is_seen() {
        let original = frame(1, 1, 64);
        let frame_record = encode_frame(&original);
        for len in 0..frame_record.len() {
            let cut = frame_record.slice(..len);
            assert!(decode_frame(original.mailbox, original.seq, &cut).is_err(), "{len}");
        }
        let state = encode_state(&Opened::default());
        for len in 0..state.len() {
            assert!(decode_state(&state[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn keys_sort_by_sequence_number_within_a_mailbox() {
        let mailbox = MailboxId::new([5; 16]);
        assert!(frame_key(1, &mailbox, Seq(255)) < frame_key(1, &mailbox, Seq(256)));
        let key = frame_key(1, &mailbox, Seq(256));
        assert_eq!(parse_frame_key(&key).expect("own key"), (mailbox, Seq(256)));
        assert!(parse_frame_key(&key[..25]).is_err());
        assert_eq!(parse_floor_key(&floor_key(1, &mailbox)).expect("own key"), mailbox);
        assert!(parse_floor_key(&key[..18]).is_err());
        let key = expiry_key(RunningHours(255), 1, &mailbox, Seq(256));
        assert_eq!(parse_expiry_key(&key).expect("own key"), mailbox);
        assert!(parse_expiry_key(&key[..29]).is_err());
        assert!(expiry_keys_end(RunningHours(255)).as_slice() <= &key[..]);
        assert!(&key[..] < expiry_keys_end(RunningHours(256)).as_slice());
    }

    #[test]
    fn the_state_survives_its_record() {
        let state = Opened {
            totals: Totals { accepted: 9, acknowledged: 4, expired: 3, discarded: 1 },
            next_seq: Seq(77),
            hours: RunningHours(12),
            commits: 1 << 40,
        };
        assert_eq!(decode_state(&encode_state(&state)).expect("intact"), state);
    }
}
