//! What comes from outside every group, and what is said in one: parts of greetings, greetings, cards
//! with their records, content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use valise_chat_core::identity::SignedRecord;
use valise_chat_core::seal::parts::Assembler;
use valise_chat_core::seal::{HpkeKeyPair, greeting};
use valise_chat_core::wire;

fuzz_target!(|bytes: &[u8]| {
    let own = HpkeKeyPair::from_seed(&std::array::from_fn(|i| 0x20 + i as u8));
    greeting::open_part(&own, bytes).ok();
    // Parts as somebody may send them: index, count, and so many bytes.
    let mut parts = Assembler::new();
    for part in bytes.chunks(9) {
        let (index, count) = (part[0], part.get(1).copied().unwrap_or(1));
        if let Ok(Some(whole)) = parts.add(index.into(), count.into(), part.to_vec()) {
            greeting::read(&whole).ok();
        }
    }
    if let Ok(greeting) = greeting::read(bytes) {
        let payloads = greeting::seal(&own.public(), &greeting).unwrap();
        let mut whole = None;
        let mut parts = Assembler::new();
        for payload in payloads {
            let part = greeting::open_part(&own, &payload).unwrap();
            whole = parts.add(part.index, part.count, part.bytes).unwrap();
        }
        assert_eq!(greeting::read(&whole.unwrap()), Ok(greeting));
    }
    wire::Content::decode(bytes).ok();
    wire::LinkOffer::decode(bytes).ok();
    if let Ok(card) = wire::Card::decode(bytes) {
        card.record.map(SignedRecord::try_from);
    }
});
