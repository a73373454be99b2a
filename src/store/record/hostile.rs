//! Records that nobody wrote: whatever stands on a disk, reading it never panics, a damaged record
//! never passes, and what is read is all that was there.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use valise_proto::SlotId;

use super::*;
use crate::store::contract::{frame, mailbox};

/// Reads the bytes as each kind of record and key. What is read is written again: what comes of it.
fn read_as_everything(record: &Bytes) -> Vec<(&'static str, Bytes)> {
    let id = SlotId::new([7; SlotId::LEN]);
    let read = [
        ("frame", decode_frame(mailbox(1), Seq(1), record).map(|frame| encode_frame(&frame))),
        ("floor", decode_floor(record).map(encode_floor)),
        ("format", decode_format(record).map(encode_format)),
        ("state", decode_state(record).map(|state| encode_state(&state))),
        ("slot", decode_slot(&id, record).map(|slot| encode_slot(&slot))),
        ("bundle", decode_bundle(record).map(|head| encode_bundle(&head))),
        ("item", decode_item(record).map(|item| encode_item(&item))),
    ];
    let _ = (decode_revocation(record), decode_spent(record));
    read.into_iter().filter_map(|(kind, read)| Some((kind, read.ok()?))).collect()
}

fn read_as_every_key(key: &[u8]) {
    let _ = (parse_frame_key(key), parse_floor_key(key), parse_expiry_key(key));
    let _ = (parse_slot_age_key(key), parse_bundle_key(key));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn bytes_that_are_no_record_are_read_as_none(bytes in vec(any::<u8>(), 0..200)) {
        read_as_every_key(&bytes);
        let read = read_as_everything(&Bytes::from(bytes));
        // One in four thousand million has the checksum it should have.
        prop_assert!(read.is_empty(), "{read:?}");
    }

    #[test]
    fn what_is_read_is_all_there_was(
        version in prop_oneof![3 => Just(1u8), 1 => any::<u8>()],
        rest in vec(prop_oneof![Just(0), Just(1), any::<u8>()], 0..90),
    ) {
        let record = sealed(&[&[version], &rest]);
        for (kind, again) in read_as_everything(&record) {
            prop_assert_eq!(again, record.clone(), "{}", kind);
        }
    }

    #[test]
    fn a_damaged_record_never_passes(
        bytes in 0..600usize,
        flips in vec(any::<proptest::sample::Index>(), 1..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let intact = encode_frame(&frame(1, 1, bytes));
        let mut damaged = intact.to_vec();
        for flip in &flips {
            let bit = flip.index(damaged.len() * 8);
            damaged[bit / 8] ^= 1 << (bit % 8);
        }
        if damaged != intact {
            prop_assert!(read_as_everything(&Bytes::from(damaged)).is_empty());
        }
        let shorter = intact.slice(..cut.index(intact.len()));
        prop_assert!(read_as_everything(&shorter).is_empty());
    }
}
