//! What a relay hands a device: frames, slot values, items, and what envelopes say. What can be
//! sealed opens as it was, and nothing else makes an end stumble.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use valise_chat_core::seal::{EpochKeys, ItemKey, frame, item, slot};
use valise_chat_core::wire;
use valise_proto::SlotId;

fuzz_target!(|bytes: &[u8]| {
    // Those of crates/chat-core/vectors/frames.json and items.json: the seeds open.
    let counting = |first: u8| std::array::from_fn(|i| first.wrapping_add(i as u8));
    let (hint, envelope) = (counting(0x10), counting(0x40));
    let keys = EpochKeys { epoch: 5, hint, envelope, slot: counting(0x70) };
    let key = ItemKey::new(counting(0x90));
    if let Ok(envelope) = frame::open(&keys, bytes) {
        assert!(frame::matches(&keys, bytes));
        assert!(frame::seal(&keys, &envelope).is_ok());
    }
    slot::open_head(&keys, 0, bytes).ok();
    item::open(&key, bytes).ok();
    if let Ok(envelope) = wire::Envelope::decode(bytes)
        && let Ok(payload) = frame::seal(&keys, &envelope)
    {
        assert_eq!(frame::open(&keys, &payload), Ok(envelope));
        // A frame is no value of any slot.
        assert!(slot::open_head(&keys, 0, &payload).is_err());
    }
    if let Ok(payload) = item::seal(&key, bytes) {
        assert_eq!(item::open(&key, &payload).unwrap()[..], *bytes);
    }
    if let Ok(values) = slot::seal_values(&keys, 0, bytes) {
        let head = slot::open_head(&keys, 0, &values.last().unwrap().1).unwrap();
        let later = values.iter().rev().skip(1).map(|(_, value)| Some(value.clone()));
        let later: Vec<_> = later.collect();
        assert_eq!(slot::whole(&keys, 0, &head, &later), slot::Whole::Commit(bytes.to_vec()));
        let void = slot::seal_void(&keys, &SlotId::new([0; 32]));
        assert!(slot::open_head(&keys, 0, &void).is_err());
    }
});
