//! Properties of all seals: what is sealed opens, nothing else does, and sizes are padded ones.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;
use valise_client::random;
use valise_proto::limits::is_padded;

use super::parts::{Assembler, WHOLE_BYTES_MAX, split};
use super::{EpochKeys, HpkeKeyPair, ItemKey, SealError, frame, greeting, item, slot};
use crate::wire;

fn keys() -> EpochKeys {
    let bytes = random::bytes;
    EpochKeys { epoch: 3, hint: bytes(), envelope: bytes(), slot: bytes() }
}

fn ordered(messages: Vec<Vec<u8>>) -> wire::Envelope {
    wire::Envelope { stream: vec![7; 16], first_counter: 9, messages, ..Default::default() }
}

fn poke() -> wire::Envelope {
    wire::Envelope { poke: true, ..Default::default() }
}

fn welcome(bytes: Vec<u8>) -> wire::Greeting {
    wire::Greeting { body: Some(wire::greeting::Body::Welcome(bytes)), invite: Vec::new() }
}

/// A key of each kind and what opens under it: each opener with a payload that it takes.
type Opener = (&'static str, Box<dyn Fn(&[u8]) -> Result<(), SealError>>, Vec<u8>);

fn openers() -> Vec<Opener> {
    let (keys, item_key, device) = (keys(), ItemKey::random(), HpkeKeyPair::generate());
    let framed = frame::seal(&keys, &ordered(vec![b"message".to_vec()])).unwrap();
    let item = item::seal(&item_key, b"item").unwrap();
    let greeting = greeting::seal(&device.public(), &welcome(vec![1; 40])).unwrap().remove(0);
    let values = slot::seal_values(&keys, 1, &[5; 70_000]).unwrap();
    let (later, head) = (values[0].1.to_vec(), values[1].1.to_vec());
    let opened_head = slot::open_head(&keys, 1, &head).unwrap();
    let (one, two, three) = (keys.clone(), keys.clone(), keys);
    vec![
        ("frame", Box::new(move |p| frame::open(&one, p).map(drop)), framed.to_vec()),
        ("item", Box::new(move |p| item::open(&item_key, p).map(drop)), item.to_vec()),
        ("greeting", Box::new(move |p| greeting::open_part(&device, p).map(drop)), greeting.into()),
        ("slot", Box::new(move |p| slot::open_head(&two, 1, p).map(drop)), head),
        (
            "slot part",
            Box::new(move |p| slot::open_part(&three, 1, (&opened_head, 1), p).map(drop)),
            later,
        ),
    ]
}

#[test]
fn a_changed_bit_or_another_length_opens_nothing() {
    for (what, open, payload) in openers() {
        assert_eq!(open(&payload), Ok(()), "{what}");
        // All bits of small payloads; of the large one every byte of the beginning and of the end.
        let bits = (0..payload.len() * 8).filter(|bit| {
            let byte = bit / 8;
            payload.len() <= 512 || (bit % 8 == byte % 8 && (byte % 4099 < 40))
        });
        for bit in bits.chain([payload.len() * 8 - 1]) {
            let mut changed = payload.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open(&changed).is_err(), "{what}, bit {bit}");
        }
        for len in (0..payload.len().min(600)).chain([payload.len() - 1]) {
            assert!(open(&payload[..len]).is_err(), "{what}, {len} bytes");
        }
        let longer = [&payload[..], &[0]].concat();
        assert_eq!(open(&longer), Err(SealError::NotPadded(longer.len())), "{what}");
    }
}

/// Each payload opens by its own way alone, though frames and slots share a key.
#[test]
fn nothing_opens_as_something_else() {
    let openers = openers();
    for (what, open, _) in &openers {
        for (other, _, payload) in &openers {
            assert_eq!(open(payload).is_ok(), what == other, "{other} opened as {what}");
        }
    }
}

/// A void goes with no part 0, in whatever place it lies, and decides whatever else is missing.
#[test]
fn a_void_makes_a_commit_junk_and_a_missing_part_does_not() {
    let keys = keys();
    let commit = vec![5; 200_000];
    let values = slot::seal_values(&keys, 2, &commit).unwrap();
    let head = slot::open_head(&keys, 2, &values[3].1).unwrap();
    let parts: Vec<_> = values[..3].iter().rev().map(|(_, value)| Some(value.clone())).collect();
    let void = |part| Some(slot::seal_void(&keys, &slot::part_id(&keys, 2, part, &head.seed)));
    let whole = |values: &[Option<bytes::Bytes>]| slot::whole(&keys, 2, &head, values);
    assert_eq!(whole(&parts), slot::Whole::Commit(commit));
    let with = |changes: &[(usize, Option<bytes::Bytes>)]| {
        let mut parts = parts.clone();
        changes.iter().for_each(|(at, value)| parts[*at].clone_from(value));
        whole(&parts)
    };
    use slot::Whole::{Junk, Missing};
    for (changes, expected) in [
        (vec![(0, None)], Missing(1)),
        (vec![(2, None), (1, None)], Missing(2)),
        (vec![(2, void(3))], Junk),
        (vec![(0, None), (2, void(3))], Junk),
        (vec![(0, void(2))], Junk),
        (vec![(0, parts[1].clone())], Junk),
    ] {
        assert_eq!(with(&changes), expected, "{changes:?}");
    }
    assert_eq!(whole(&parts[..2]), Junk);
    assert_eq!(void(1).unwrap().len(), 512);
    let slot = slot::id(&keys, 2);
    assert!(slot::open_head(&keys, 2, &slot::seal_void(&keys, &slot)).is_err());
}

/// Under one envelope key, cut to fit each other's format: the associated data tells them apart.
#[test]
fn a_frame_is_no_slot_value_and_a_value_stays_in_its_slot() {
    let keys = keys();
    let content = wire::SlotValue { bytes: vec![1], count: 1, seed: vec![2; 16] };
    let content = prost::Message::encode_to_vec(&content);
    let seal = |aad: &[u8]| {
        super::padded::seal(&keys.envelope, (&[], random::bytes()), aad, &content).unwrap()
    };
    assert!(slot::open_head(&keys, 0, &seal(slot::id(&keys, 0).as_bytes())).is_ok());
    for aad in [&[][..], &[0; 8], slot::id(&keys, 1).as_bytes()] {
        assert_eq!(slot::open_head(&keys, 0, &seal(aad)), Err(SealError::DoesNotOpen));
    }
}

#[test]
fn envelopes_that_break_the_rules_are_neither_sealed_nor_read() {
    let keys = keys();
    let part = |index, count, bytes: &[u8]| wire::Envelope {
        part: Some(wire::Part { index, count, bytes: bytes.to_vec() }),
        ..ordered(Vec::new())
    };
    let good = ordered(vec![vec![1]]);
    let unordered = wire::Envelope { stream: Vec::new(), first_counter: 0, ..good.clone() };
    for envelope in [&good, &unordered, &poke(), &part(1, 2, b"x")] {
        assert_eq!(
            frame::open(&keys, &frame::seal(&keys, envelope).unwrap()).as_ref(),
            Ok(envelope)
        );
    }
    let last = wire::Envelope { first_counter: u64::MAX, ..good.clone() };
    assert!(frame::seal(&keys, &last).is_ok());
    for (what, envelope) in [
        ("nothing", wire::Envelope::default()),
        ("a stream and nothing in it", ordered(Vec::new())),
        ("an empty message", ordered(vec![vec![1], Vec::new()])),
        ("a short stream", wire::Envelope { stream: vec![7; 15], ..good.clone() }),
        ("a stream without counter", wire::Envelope { first_counter: 0, ..good.clone() }),
        ("a counter without stream", wire::Envelope { stream: Vec::new(), ..good.clone() }),
        ("beyond the last counter", wire::Envelope { messages: vec![vec![1]; 2], ..last }),
        ("messages and a poke", wire::Envelope { poke: true, ..unordered.clone() }),
        ("a poke in a stream", wire::Envelope { messages: Vec::new(), poke: true, ..good.clone() }),
        ("messages and a part", wire::Envelope { part: part(0, 2, b"x").part, ..good.clone() }),
        ("an unordered part", wire::Envelope { part: part(0, 2, b"x").part, ..Default::default() }),
        ("one part alone", part(0, 1, b"x")),
        ("a part beyond the count", part(2, 2, b"x")),
        ("an empty part", part(0, 2, b"")),
    ] {
        let refused = frame::seal(&keys, &envelope);
        assert!(matches!(refused, Err(SealError::Malformed(_))), "sealed: {what}");
        // Sealed by somebody who does not care.
        let nonce = random::bytes();
        let hint = hint_of(&keys, &nonce);
        let content = prost::Message::encode_to_vec(&envelope);
        let payload = super::padded::seal(&keys.envelope, (&hint, nonce), &hint, &content).unwrap();
        let read = frame::open(&keys, &payload);
        assert!(matches!(read, Err(SealError::Malformed(_))), "read: {what}");
    }
}

/// As docs/PROTOCOL.md, section 24, says, and not as the code does.
fn hint_of(keys: &EpochKeys, nonce: &[u8; 12]) -> [u8; 8] {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &keys.hint);
    aws_lc_rs::hmac::sign(&key, nonce).as_ref()[..8].try_into().unwrap()
}

/// The relay must not see which frames belong to one group: no 8 bytes in a row come twice, not
/// even of frames that say the same.
#[test]
fn frames_of_one_group_share_no_eight_bytes() {
    let keys = keys();
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        let payload = frame::seal(&keys, &poke()).unwrap();
        for window in payload.windows(8) {
            let window: [u8; 8] = window.try_into().unwrap();
            assert!(seen.insert(window), "{window:?}");
        }
    }
}

#[test]
fn a_zero_hint_is_no_frame_whatever_the_key_says() {
    let payload = [0; 512];
    assert!(greeting::is_greeting(&payload));
    assert!(!frame::matches(&keys(), &payload));
    let frame = frame::seal(&keys(), &poke()).unwrap();
    assert!(!greeting::is_greeting(&frame));
}

#[test]
fn room_is_what_seal_takes() {
    let keys = keys();
    // As long as there can be, stream and counter included.
    let full = |messages| wire::Envelope { first_counter: u64::MAX - 99, ..ordered(messages) };
    for lengths in [vec![1], vec![441], vec![442], vec![100; 5], vec![9_000; 9], vec![65_463]] {
        let room = frame::room(lengths.iter().copied());
        let fitting: Vec<_> = lengths.iter().take(room.messages).map(|len| vec![1; *len]).collect();
        assert!(room.messages > 0, "{lengths:?}");
        let payload = frame::seal(&keys, &full(fitting)).unwrap();
        assert_eq!(payload.len(), room.size, "{lengths:?}");
    }
    assert_eq!(frame::room([1, 65_536]).messages, 1);
    assert_eq!(frame::room([65_464]).messages, 0);
    assert_eq!(frame::room([1, usize::MAX, 1]).messages, 1);
    assert_eq!(frame::room([]).messages, 0);
}

#[test]
fn a_long_greeting_comes_in_parts() {
    let (device, other) = (HpkeKeyPair::generate(), HpkeKeyPair::generate());
    let greeting = welcome((0..200_000u32).map(|i| i as u8).collect());
    let payloads = greeting::seal(&device.public(), &greeting).unwrap();
    assert_eq!(payloads.len(), 4);
    let mut parts = Assembler::new();
    let mut whole = None;
    let mut transfers = BTreeSet::new();
    for payload in payloads.iter().rev() {
        assert!(is_padded(payload.len()) && greeting::is_greeting(payload));
        assert_eq!(greeting::open_part(&other, payload), Err(SealError::DoesNotOpen));
        let part = greeting::open_part(&device, payload).unwrap();
        transfers.insert(part.transfer);
        whole = parts.add(part.index, part.count, part.bytes).unwrap();
    }
    assert_eq!(transfers.len(), 1);
    assert_eq!(greeting::read(&whole.unwrap()), Ok(greeting));
    let long = greeting::seal(&device.public(), &welcome(vec![0; WHOLE_BYTES_MAX]));
    assert!(matches!(long, Err(SealError::TooLong(_))));
}

#[test]
fn a_long_commit_lies_in_several_slots_and_the_deciding_one_is_last() {
    let keys = keys();
    let commit: Vec<u8> = (0..150_000u32).map(|i| (i / 3) as u8).collect();
    let values = slot::seal_values(&keys, 2, &commit).unwrap();
    let ids: BTreeSet<_> = values.iter().map(|(id, _)| *id).collect();
    assert_eq!((values.len(), ids.len()), (3, 3));
    let (id, value) = values.last().unwrap();
    assert_eq!(*id, slot::id(&keys, 2));
    let head = slot::open_head(&keys, 2, value).unwrap();
    assert_eq!(head.count, 3);
    let part = |part: u32| {
        let id = slot::part_id(&keys, 2, part, &head.seed);
        let (_, value) = values.iter().find(|(there, _)| *there == id).unwrap();
        slot::open_part(&keys, 2, (&head, part), value).unwrap()
    };
    let parts = [part(1), part(2)];
    assert_eq!(slot::join(head.clone(), &parts), Ok(commit));
    assert!(matches!(slot::join(head.clone(), &parts[..1]), Err(SealError::Part(_))));
    let swapped = slot::open_part(&keys, 2, (&head, 2), &values[1].1);
    assert_eq!(swapped, Err(SealError::DoesNotOpen));
    assert_eq!(slot::open_head(&keys, 1, value), Err(SealError::DoesNotOpen), "another attempt");
    assert!(slot::seal_values(&keys, 0, &[]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sealed_opens_and_has_a_padded_size(
        messages in vec(vec(any::<u8>(), 1..3_000), 1..8),
        content in vec(any::<u8>(), 0..9_000),
    ) {
        let (keys, key, device) = (keys(), ItemKey::random(), HpkeKeyPair::generate());
        let envelope = ordered(messages);
        let payload = frame::seal(&keys, &envelope).unwrap();
        prop_assert!(is_padded(payload.len()) && frame::matches(&keys, &payload));
        prop_assert_eq!(frame::open(&keys, &payload), Ok(envelope));

        let value = item::seal(&key, &content).unwrap();
        prop_assert!(is_padded(value.len()));
        prop_assert_eq!(&item::open(&key, &value).unwrap()[..], &content[..]);

        let greeting = welcome(content.clone());
        let payloads = greeting::seal(&device.public(), &greeting).unwrap();
        prop_assert!(payloads.len() == 1 && is_padded(payloads[0].len()));
        let part = greeting::open_part(&device, &payloads[0]).unwrap();
        prop_assert_eq!(greeting::read(&part.bytes), Ok(greeting));

        let commit = [&content[..], &[1]].concat();
        let values = slot::seal_values(&keys, 0, &commit).unwrap();
        prop_assert!(values.len() == 1 && is_padded(values[0].1.len()));
        let head = slot::open_head(&keys, 0, &values[0].1).unwrap();
        prop_assert_eq!(slot::join(head, &[]), Ok(commit));
    }

    #[test]
    fn a_split_message_is_whole_again_in_any_order(
        len in 2..400_000usize,
        order in any::<u64>(),
    ) {
        let keys = keys();
        let message: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
        let mut envelopes = split(&[4; 16], 1, &message).unwrap();
        let at = order as usize % envelopes.len();
        envelopes.rotate_left(at);
        let mut parts = Assembler::new();
        let mut whole = None;
        for envelope in envelopes {
            let payload = frame::seal(&keys, &envelope).unwrap();
            let part = frame::open(&keys, &payload).unwrap().part.unwrap();
            whole = parts.add(part.index, part.count, part.bytes).unwrap();
        }
        prop_assert_eq!(whole, Some(message));
    }

    /// Whoever has the key can seal anything: what is read then is well formed, or nothing.
    #[test]
    fn any_content_under_the_right_key_is_read_without_a_panic(
        content in vec(any::<u8>(), 0..452),
        hint: bool,
    ) {
        let (keys, device) = (keys(), HpkeKeyPair::generate());
        let nonce = random::bytes();
        let prefix = hint_of(&keys, &nonce);
        let aad = slot::id(&keys, 0);
        let payload = match hint {
            true => super::padded::seal(&keys.envelope, (&prefix, nonce), &prefix, &content),
            false => super::padded::seal(&keys.envelope, (&[], nonce), aad.as_bytes(), &content),
        };
        let payload = payload.unwrap();
        if let Ok(envelope) = frame::open(&keys, &payload) {
            prop_assert!(frame::seal(&keys, &envelope).is_ok());
        }
        if let Ok(head) = slot::open_head(&keys, 0, &payload) {
            prop_assert!(head.count > 0 && !head.bytes.is_empty());
        }
        let plain = super::padded::pad(&content, 56).unwrap();
        let sealed = device.public().seal(b"valise greeting 1", &plain).unwrap();
        if let Ok(part) = greeting::open_part(&device, &[&[0; 8][..], &sealed].concat()) {
            prop_assert!(part.index < part.count && part.transfer.len() == 16);
        }
    }

    #[test]
    fn arbitrary_bytes_open_nothing(size in 0..2usize, seed in vec(any::<u8>(), 600)) {
        let payload: Vec<u8> = seed.iter().copied().cycle().take([512, 2_048][size]).collect();
        let zeros = [&[0; 8][..], &payload[8..]].concat();
        for (what, open, _) in openers() {
            for bytes in [&payload[..], &zeros, &seed] {
                prop_assert!(open(bytes).is_err(), "{}", what);
            }
        }
    }
}
