//! Test vectors of the seals: frames, greetings, slots and items.

use aws_lc_rs::digest::{SHA256, digest};
use prost::Message;
use serde_json::{Value, json};

use super::parts::Assembler;
use super::{EpochKeys, HpkeKeyPair, ItemKey, SealError, frame, greeting, item, padded, slot};
use crate::vectors::{are_to_be_written, counting, hex, on_disk, settle, unhex};
use crate::wire;

fn keys() -> EpochKeys {
    EpochKeys { epoch: 5, hint: counting(0x10), envelope: counting(0x40), slot: counting(0x70) }
}

fn keys_json() -> Value {
    let keys = keys();
    json!({ "hint": hex(keys.hint), "envelope": hex(keys.envelope), "slot": hex(keys.slot) })
}

fn envelope_json(envelope: &wire::Envelope) -> Value {
    let part = envelope
        .part
        .as_ref()
        .map(|part| json!({ "index": part.index, "count": part.count, "bytes": hex(&part.bytes) }));
    json!({
        "stream": hex(&envelope.stream),
        "first_counter": envelope.first_counter,
        "messages": envelope.messages.iter().map(hex).collect::<Vec<_>>(),
        "part": part,
        "poke": envelope.poke,
    })
}

fn envelopes() -> Vec<(&'static str, wire::Envelope)> {
    let stream = counting::<16>(0xa0).to_vec();
    let messages = wire::Envelope {
        stream: stream.clone(),
        first_counter: 300,
        messages: vec![counting::<100>(1).to_vec(), counting::<40>(2).to_vec()],
        ..Default::default()
    };
    let receipt =
        wire::Envelope { messages: vec![counting::<60>(3).to_vec()], ..Default::default() };
    let bytes = counting::<200>(4).to_vec();
    let part = wire::Part { index: 1, count: 3, bytes };
    let part =
        wire::Envelope { stream, first_counter: 301, part: Some(part), ..Default::default() };
    let exactly_512 = wire::Envelope { messages: vec![vec![7; 469]], ..Default::default() };
    let one_more = wire::Envelope { messages: vec![vec![7; 470]], ..Default::default() };
    vec![
        ("ordered_messages", messages),
        ("unordered_message", receipt),
        ("part", part),
        ("poke", wire::Envelope { poke: true, ..Default::default() }),
        ("exactly_512", exactly_512),
        ("one_byte_more", one_more),
    ]
}

#[test]
fn frames() {
    let keys = keys();
    let mut nonce: [u8; 12] = counting(0xc0);
    let mut read = Vec::new();
    for (name, envelope) in envelopes() {
        nonce[0] += 1;
        let payload = frame::seal_with(&keys, nonce, &envelope).unwrap();
        assert_eq!(frame::open(&keys, &payload).as_ref(), Ok(&envelope), "{name}");
        read.push(json!({
            "name": name,
            "fields": envelope_json(&envelope),
            "envelope": hex(envelope.encode_to_vec()),
            "nonce": hex(nonce),
            "hint": hex(&payload[..8]),
            "payload": hex(&payload),
        }));
    }
    let refused: Vec<_> = refused_frames(&keys)
        .into_iter()
        .map(|(name, payload)| {
            let error = frame::open(&keys, &payload).unwrap_err();
            json!({ "name": name, "error": error_name(error), "payload": hex(payload) })
        })
        .collect();
    settle("frames.json", &json!({ "keys": keys_json(), "read": read, "refused": refused }));
}

/// Sealed by somebody who has the keys and does not care.
fn refused_frames(keys: &EpochKeys) -> Vec<(&'static str, Vec<u8>)> {
    let good = frame::seal_with(keys, counting(0xd0), &envelopes()[0].1).unwrap().to_vec();
    let changed = |at: usize| {
        let mut payload = good.clone();
        payload[at] ^= 1;
        payload
    };
    let hint = &good[..8];
    let careless = |content: &[u8]| {
        let (hint, nonce) = (hint, counting(0xd0));
        padded::seal(&keys.envelope, (hint, nonce), hint, content).unwrap().to_vec()
    };
    let both = wire::Envelope { poke: true, ..envelopes()[1].1.clone() };
    let other_aad = padded::seal(&keys.envelope, (hint, counting(0xd0)), &[], b"").unwrap();
    vec![
        ("another_hint", changed(0)),
        ("another_nonce", changed(8)),
        ("changed_ciphertext", changed(20)),
        ("changed_tag", changed(511)),
        ("no_padded_size", good[..511].to_vec()),
        ("hint_is_not_associated", other_aad.to_vec()),
        ("no_form_of_an_envelope", careless(&[])),
        ("messages_and_a_poke", careless(&both.encode_to_vec())),
        ("no_protobuf", careless(&[0xff; 9])),
    ]
}

fn error_name(error: SealError) -> &'static str {
    match error {
        SealError::NotPadded(_) => "not_padded",
        SealError::Hint => "hint",
        SealError::DoesNotOpen => "does_not_open",
        SealError::Malformed(_) => "malformed",
        SealError::Part(_) => "part",
        SealError::TooLong(_) => "too_long",
        SealError::HpkeKey => "hpke_key",
    }
}

/// HPKE draws a key for each seal, so these payloads are kept as they are and only opened.
#[test]
fn greetings() {
    const FILE: &str = "greetings.json";
    let device = HpkeKeyPair::from_seed(&counting(0x20));
    let invite = counting::<32>(0x80).to_vec();
    let welcome = wire::greeting::Body::Welcome(counting::<100>(9).to_vec());
    let greeting = wire::Greeting { body: Some(welcome), invite };
    let mut payloads: Vec<_> =
        on_disk(FILE)["payloads"].as_array().into_iter().flatten().map(unhex).collect();
    if are_to_be_written() && payloads.is_empty() {
        payloads = two_parts(&device, &greeting);
    }
    let mut whole = None;
    let mut parts = Assembler::new();
    let mut opened = Vec::new();
    for payload in &payloads {
        let part = greeting::open_part(&device, payload).unwrap();
        opened.push(json!({
            "transfer": hex(&part.transfer),
            "index": part.index,
            "count": part.count,
            "bytes": hex(&part.bytes),
        }));
        whole = parts.add(part.index, part.count, part.bytes).unwrap();
    }
    assert_eq!(greeting::read(&whole.unwrap()), Ok(greeting.clone()));
    settle(
        FILE,
        &json!({
            "hpke_seed": hex(device.seed()),
            "hpke_key": hex(device.public().0),
            "payloads": payloads.iter().map(hex).collect::<Vec<_>>(),
            "parts": opened,
            "greeting": hex(greeting.encode_to_vec()),
        }),
    );
}

/// A greeting that would fit one payload, in two: readers must not mind.
fn two_parts(device: &HpkeKeyPair, greeting: &wire::Greeting) -> Vec<Vec<u8>> {
    let whole = greeting.encode_to_vec();
    let (first, second) = whole.split_at(whole.len() / 2);
    let part = |(index, bytes): (u32, &[u8])| {
        let transfer = counting::<16>(0x30).to_vec();
        let part = wire::FirstContact { transfer, index, count: 2, bytes: bytes.to_vec() };
        let plain = padded::pad(&part.encode_to_vec(), 56).unwrap();
        let sealed = device.public().seal(b"valise greeting 1", &plain).unwrap();
        [&[0; 8][..], &sealed].concat()
    };
    [(0, first), (1, second)].map(part).to_vec()
}

#[test]
fn slots() {
    let keys = keys();
    let seed = counting(0x50);
    let ids: Vec<_> = [0, 1, u32::MAX]
        .map(|attempt| {
            let later: Vec<_> = [1, 2, 127]
                .map(|part| {
                    json!({ "part": part, "slot": hex(slot::part_id(&keys, attempt, part, &seed).as_bytes()) })
                })
                .to_vec();
            json!({ "attempt": attempt, "slot": hex(slot::id(&keys, attempt).as_bytes()), "parts": later })
        })
        .to_vec();
    let mut commits = Vec::new();
    for (name, attempt, len) in [("short", 0, 300), ("long", 3, 70_000)] {
        let commit: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let mut nonce: [u8; 12] = counting(0xe0);
        let nonces = || {
            nonce[0] += 1;
            nonce
        };
        let values = slot::seal_values_with(&keys, attempt, &commit, seed, nonces).unwrap();
        let written: Vec<_> = values
            .iter()
            .map(|(id, value)| {
                // Large ones by their hash; where they begin and end is shown.
                let shown = if value.len() <= 8192 { hex(value) } else { String::new() };
                json!({
                    "slot": hex(id.as_bytes()),
                    "nonce": hex(&value[..12]),
                    "bytes": value.len(),
                    "sha256": hex(digest(&SHA256, value)),
                    "value": shown,
                })
            })
            .collect();
        let counted = "byte i of the commit is i mod 251";
        commits.push(json!({
            "name": name,
            "attempt": attempt,
            "commit_bytes": len,
            "commit": counted,
            "written_in_order": written,
        }));
        let head = slot::open_head(&keys, attempt, &values.last().unwrap().1).unwrap();
        let parts: Vec<_> = (1..head.count)
            .map(|part| {
                let value = &values[values.len() - 1 - part as usize].1;
                slot::open_part(&keys, attempt, (&head, part), value).unwrap()
            })
            .collect();
        assert_eq!(slot::join(head, &parts), Ok(commit), "{name}");
    }
    let slot = slot::part_id(&keys, 3, 1, &seed);
    let value = slot::seal_void_with(&keys, &slot, counting(0xf0));
    let void =
        json!({ "attempt": 3, "part": 1, "slot": hex(slot.as_bytes()), "value": hex(value) });
    let file = json!({
        "keys": keys_json(),
        "seed": hex(seed),
        "ids": ids,
        "commits": commits,
        "void": void,
    });
    settle("slots.json", &file);
}

#[test]
fn items() {
    let key = ItemKey::new(counting(0x90));
    let mut vectors = Vec::new();
    for (name, content) in
        [("empty", Vec::new()), ("short", counting::<64>(1).to_vec()), ("long", vec![3; 481])]
    {
        let value = item::seal_with(&key, counting(0xb0), &content).unwrap();
        assert_eq!(item::open(&key, &value).unwrap()[..], content[..]);
        vectors.push(json!({ "name": name, "content": hex(content), "value": hex(value) }));
    }
    settle(
        "items.json",
        &json!({
            "key": hex(key.as_bytes()),
            "nonce": hex(counting::<12>(0xb0)),
            "note": "one nonce for all, so that vectors do not change: never do that",
            "items": vectors,
        }),
    );
}
