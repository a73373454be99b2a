//! The keys and records of what stands until its own time is over, and is not a frame.
//!
//! | kind | key after it | record |
//! |---|---|---|
//! | `k` slot | shard, slot id 32 | version 1, put id 16, written hours 4, payload |
//! | `u` slots by age | written hour 4, shard, slot id 32 | nothing |
//! | `b` bundle | shard, mailbox | publication id 16, published hours 4, first 4, next 4, last resort 1 |
//! | `i` bundle item | shard, mailbox, number 4 | version 1, payload |
//! | `r` revocation | shard, mailbox, serial 8 | last day 2 |
//! | `j` spent invite code | serial 8 | mailbox 16, last day 2 |

use bytes::Bytes;
use valise_proto::{MailboxId, PublicationId, PutId, SlotId};

use super::{CRC_BYTES, seal, sealed, take, unseal, whole};
use crate::payload::{Payload, RecordBuffer};
use crate::store::{BundleHead, Revocation, RunningHours, Slot, SpentCode, StoreError};

/// The first byte of all keys of slots by age.
pub(in crate::store) const SLOT_AGE_KIND: [u8; 1] = *b"u";
/// The first byte of all bundles' keys.
pub(in crate::store) const BUNDLE_KIND: [u8; 1] = *b"b";
/// The first byte of all revocations' keys.
pub(in crate::store) const REVOCATION_KIND: [u8; 1] = *b"r";
/// The first byte of all spent codes' keys.
pub(in crate::store) const SPENT_KIND: [u8; 1] = *b"j";

/// The first byte of all slots' keys.
pub(in crate::store) const SLOT_KIND: [u8; 1] = *b"k";
/// The first byte of all bundle items' keys.
pub(in crate::store) const ITEM_KIND: [u8; 1] = *b"i";
const VERSION: u8 = 1;
const SLOT_HEADER_BYTES: usize = 1 + PutId::LEN + 4;
const ITEM_HEADER_BYTES: usize = 1;

/// The key of a slot.
pub(in crate::store) fn slot_key(shard: u8, id: &SlotId) -> Vec<u8> {
    [&SLOT_KIND[..], &[shard], id.as_bytes()].concat()
}

/// The key of a slot among the slots by age.
pub(in crate::store) fn slot_age_key(written: RunningHours, shard: u8, id: &SlotId) -> Vec<u8> {
    [&slot_ages_end(written)[..], &[shard], id.as_bytes()].concat()
}

/// Above all slots by age that were written before this hour, and below all others.
pub(in crate::store) fn slot_ages_end(hour: RunningHours) -> Vec<u8> {
    [&SLOT_AGE_KIND[..], &hour.0.to_be_bytes()].concat()
}

/// The slot of a key by age.
pub(in crate::store) fn parse_slot_age_key(key: &[u8]) -> Result<SlotId, StoreError> {
    const WHAT: &str = "slot age key";
    let mut rest = key;
    let [_kind, _, _, _, _, _shard] = take(&mut rest, WHAT)?;
    SlotId::try_from(rest).map_err(|_| StoreError::Damaged { what: WHAT })
}

/// A slot's record.
pub(in crate::store) fn encode_slot(slot: &Slot) -> Bytes {
    let len = SLOT_HEADER_BYTES + slot.payload.len() + CRC_BYTES;
    let mut record = RecordBuffer::with_capacity(len);
    record.put(&[VERSION]);
    record.put(slot.put_id.as_bytes());
    record.put(&slot.written.0.to_be_bytes());
    slot.payload.write_record(&mut record);
    seal(record)
}

/// Reads a slot's record.
pub(in crate::store) fn decode_slot(id: &SlotId, record: &Bytes) -> Result<Slot, StoreError> {
    const WHAT: &str = "slot";
    let body = unseal(record, WHAT)?;
    let mut rest = body;
    let [version] = take(&mut rest, WHAT)?;
    let put_id = PutId::new(take(&mut rest, WHAT)?);
    let written = RunningHours(u32::from_be_bytes(take(&mut rest, WHAT)?));
    if version != VERSION {
        return Err(StoreError::Damaged { what: "slot version" });
    }
    let payload = Payload::from_record(record.slice(SLOT_HEADER_BYTES..body.len()));
    Ok(Slot { id: *id, put_id, written, payload })
}

/// A slot's record among the slots by age.
pub(in crate::store) fn encode_slot_age() -> Bytes {
    sealed(&[])
}

/// The key of a mailbox's bundle.
pub(in crate::store) fn bundle_key(shard: u8, mailbox: &MailboxId) -> Vec<u8> {
    [&BUNDLE_KIND[..], &[shard], mailbox.as_bytes()].concat()
}

/// The mailbox of a bundle's key.
pub(in crate::store) fn parse_bundle_key(key: &[u8]) -> Result<MailboxId, StoreError> {
    const WHAT: &str = "bundle key";
    let mut rest = key;
    let [_kind, _shard] = take(&mut rest, WHAT)?;
    MailboxId::try_from(rest).map_err(|_| StoreError::Damaged { what: WHAT })
}

/// A bundle's record.
pub(in crate::store) fn encode_bundle(head: &BundleHead) -> Bytes {
    sealed(&[
        head.publication_id.as_bytes(),
        &head.published.0.to_be_bytes(),
        &head.first.to_be_bytes(),
        &head.next.to_be_bytes(),
        &[u8::from(head.last_resort)],
    ])
}

/// Reads a bundle's record.
pub(in crate::store) fn decode_bundle(record: &[u8]) -> Result<BundleHead, StoreError> {
    const WHAT: &str = "bundle";
    let mut rest = unseal(record, WHAT)?;
    let publication_id = PublicationId::new(take(&mut rest, WHAT)?);
    let mut number = || take(&mut rest, WHAT).map(u32::from_be_bytes);
    let (published, first, next) = (RunningHours(number()?), number()?, number()?);
    let [last_resort] = take(&mut rest, WHAT)?;
    if first > next || last_resort > 1 || !rest.is_empty() {
        return Err(StoreError::Damaged { what: WHAT });
    }
    Ok(BundleHead { publication_id, published, first, next, last_resort: last_resort == 1 })
}

/// The key of an item of a bundle.
pub(in crate::store) fn item_key(shard: u8, mailbox: &MailboxId, number: u32) -> Vec<u8> {
    [&ITEM_KIND[..], &[shard], mailbox.as_bytes(), &number.to_be_bytes()].concat()
}

/// An item's record.
pub(in crate::store) fn encode_item(payload: &Payload) -> Bytes {
    let mut record = RecordBuffer::with_capacity(ITEM_HEADER_BYTES + payload.len() + CRC_BYTES);
    record.put(&[VERSION]);
    payload.write_record(&mut record);
    seal(record)
}

/// Reads an item's record.
pub(in crate::store) fn decode_item(record: &Bytes) -> Result<Payload, StoreError> {
    let body = unseal(record, "bundle item")?;
    if body.first() != Some(&VERSION) {
        return Err(StoreError::Damaged { what: "bundle item version" });
    }
    Ok(Payload::from_record(record.slice(ITEM_HEADER_BYTES..body.len())))
}

/// What all keys of a mailbox's revocations begin with.
pub(in crate::store) fn revocations(shard: u8, mailbox: &MailboxId) -> Vec<u8> {
    [&REVOCATION_KIND[..], &[shard], mailbox.as_bytes()].concat()
}

/// The key of a revocation.
pub(in crate::store) fn revocation_key(
    shard: u8,
    mailbox: &MailboxId,
    serial: &[u8; 8],
) -> Vec<u8> {
    [&revocations(shard, mailbox)[..], serial].concat()
}

/// The mailbox and serial of a revocation's key.
pub(in crate::store) fn parse_revocation_key(
    key: &[u8],
) -> Result<(MailboxId, [u8; 8]), StoreError> {
    const WHAT: &str = "revocation key";
    let mut rest = key;
    let [_kind, _shard] = take(&mut rest, WHAT)?;
    let mailbox = MailboxId::new(take(&mut rest, WHAT)?);
    let serial = rest.try_into().map_err(|_| StoreError::Damaged { what: WHAT })?;
    Ok((mailbox, serial))
}

/// A revocation's record.
pub(in crate::store) fn encode_revocation(revocation: &Revocation) -> Bytes {
    sealed(&[&revocation.last_day.to_be_bytes()])
}

/// The last day in a revocation's record.
pub(in crate::store) fn decode_revocation(record: &[u8]) -> Result<u16, StoreError> {
    whole(record, "revocation").map(u16::from_be_bytes)
}

/// The key of a spent invite code.
pub(in crate::store) fn spent_key(serial: &[u8; 8]) -> [u8; 9] {
    let mut key = [0; 9];
    key[0] = SPENT_KIND[0];
    key[1..].copy_from_slice(serial);
    key
}

/// The serial of a spent code's key.
pub(in crate::store) fn parse_spent_key(key: &[u8]) -> Result<[u8; 8], StoreError> {
    key[1..].try_into().map_err(|_| StoreError::Damaged { what: "spent code key" })
}

/// A spent code's record.
pub(in crate::store) fn encode_spent(code: &SpentCode) -> Bytes {
    sealed(&[code.mailbox.as_bytes(), &code.last_day.to_be_bytes()])
}

/// The mailbox and the last day in a spent code's record.
pub(in crate::store) fn decode_spent(record: &[u8]) -> Result<(MailboxId, u16), StoreError> {
    let mut rest = unseal(record, "spent code")?;
    let mailbox = MailboxId::new(take(&mut rest, "spent code")?);
    let last_day = rest.try_into().map_err(|_| StoreError::Damaged { what: "spent code" })?;
    Ok((mailbox, u16::from_be_bytes(last_day)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::contract::{mailbox, slot};

    #[test]
    fn records_survive_and_every_flipped_bit_is_seen() {
        let original = slot(3, 64);
        let record = encode_slot(&original);
        let read = decode_slot(&original.id, &record).expect("intact");
        assert_eq!((read.put_id, read.written), (original.put_id, original.written));
        assert_eq!(encode_slot(&read), record);
        let item = encode_item(&original.payload);
        assert_eq!(encode_item(&decode_item(&item).expect("intact")), item);
        let head = BundleHead {
            publication_id: PublicationId::new([4; 16]),
            published: RunningHours(5),
            first: 6,
            next: 70,
            last_resort: true,
        };
        let bundle = encode_bundle(&head);
        assert_eq!(decode_bundle(&bundle).expect("intact"), head);
        let flipped = |record: &Bytes, bit: usize| {
            let mut damaged = record.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            Bytes::from(damaged)
        };
        for bit in 0..record.len() * 8 {
            assert!(decode_slot(&original.id, &flipped(&record, bit)).is_err(), "slot, bit {bit}");
        }
        for bit in 0..item.len() * 8 {
            assert!(decode_item(&flipped(&item, bit)).is_err(), "item, bit {bit}");
        }
        for bit in 0..bundle.len() * 8 {
            assert!(decode_bundle(&flipped(&bundle, bit)).is_err(), "bundle, bit {bit}");
        }
    }

    #[test]
    fn keys_are_read_as_they_were_written() {
        let id = slot(3, 0).id;
        let key = slot_age_key(RunningHours(255), 9, &id);
        assert_eq!(parse_slot_age_key(&key).expect("own key"), id);
        assert!(key < slot_ages_end(RunningHours(256)));
        assert!(key > slot_ages_end(RunningHours(255)));
        assert!(parse_slot_age_key(&key[..30]).is_err());
        let owner = mailbox(7);
        let key = revocation_key(9, &owner, &[1; 8]);
        assert_eq!(parse_revocation_key(&key).expect("own key"), (owner, [1; 8]));
        assert!(parse_revocation_key(&key[..20]).is_err());
        assert_eq!(parse_bundle_key(&bundle_key(9, &owner)).expect("own key"), owner);
        assert_eq!(parse_spent_key(&spent_key(&[2; 8])).expect("own key"), [2; 8]);
    }
}
