//! Test vectors of identities: credentials, records and how they are judged, links, words.

use bip39::Language;
use prost::Message;
use serde_json::{Value, json};
use valise_proto::{RealmId, RelayAddress};

use super::words::{link_words, safety_words};
use super::{
    AccountId, Credential, CredentialError, DeviceId, InviteLink, LinkError, RecordError, RootKey,
    SignedRecord, Verdict, judge,
};
use crate::vectors::{counting, hex, settle};
use crate::wire;

// One cast for all vectors. A seed is 32 times the byte.
const ACCOUNT: AccountId = AccountId([0xa1; 32]);
const OTHER: AccountId = AccountId([0x5e; 32]);
const ROOT_SEED: u8 = 1;
const NEXT_ROOT_SEED: u8 = 2;

fn root(seed: u8) -> RootKey {
    RootKey::from_seed(&[seed; 32])
}

fn device(number: u8) -> wire::DeviceRecord {
    wire::DeviceRecord {
        device: counting::<16>(number).to_vec(),
        signature_key: counting::<32>(number.wrapping_add(0x40)).to_vec(),
        hpke_key: counting::<32>(number.wrapping_add(0x80)).to_vec(),
        name: format!("device {number}"),
        since_ms: 1_750_000_000_000 + u64::from(number),
    }
}

fn first_record() -> SignedRecord {
    SignedRecord::first(&root(ROOT_SEED), ACCOUNT, device(1), counting(0xc0)).unwrap()
}

#[test]
fn credentials() {
    let root = root(ROOT_SEED);
    let (device, signature_key) = (DeviceId(counting(0x11)), counting(0x22));
    let credential = root.certify(ACCOUNT, device, &signature_key);
    let encoded = credential.encode();
    let read = Credential::decode(&encoded).unwrap();
    assert_eq!(read.verify(&signature_key), Ok(()));
    let mut other_device = encoded.clone();
    other_device[40] ^= 1;
    let mut other_certificate = encoded.clone();
    other_certificate[151] ^= 1;
    let (account, rest) = encoded.split_at(34);
    let refused: Vec<_> = [
        ("another_device", other_device),
        ("another_certificate", other_certificate),
        ("an_unknown_field", [&encoded[..], &[0x28, 1]].concat()),
        ("fields_in_another_order", [rest, account].concat()),
        ("a_field_twice", [account, &encoded].concat()),
        ("a_longer_length_than_needed", [&[0x0a, 0xa0, 0x00], &encoded[2..]].concat()),
        ("cut_off", encoded[..151].to_vec()),
    ]
    .into_iter()
    .map(|(name, bytes)| {
        let judged = Credential::decode(&bytes).and_then(|read| read.verify(&signature_key));
        let error = match judged.unwrap_err() {
            CredentialError::Malformed => "malformed",
            CredentialError::SignatureKey(_) => "signature_key",
            CredentialError::Certificate => "certificate",
        };
        json!({ "name": name, "error": error, "credential": hex(bytes) })
    })
    .collect();
    let statement = super::credential::statement(&ACCOUNT, &device, &signature_key);
    settle(
        "credentials.json",
        &json!({
            "root_seed": hex(root.seed()),
            "root_key": hex(root.public().0),
            "account": hex(ACCOUNT.0),
            "account_text": ACCOUNT.to_text(),
            "device": hex(device.0),
            "device_text": device.to_text(),
            "signature_key": hex(signature_key),
            "statement": hex(statement),
            "certificate": hex(credential.certificate),
            "credential": hex(encoded),
            "refused": refused,
        }),
    );
}

/// A life of one account, and two records that do not belong to it.
fn records() -> Vec<(&'static str, SignedRecord)> {
    let (old, new) = (root(ROOT_SEED), root(NEXT_ROOT_SEED));
    let first = first_record();
    let second = first.with_device(&old, device(2)).unwrap();
    let third = second.without_device(&old, DeviceId(counting(1))).unwrap();
    let fourth = third.with_root(&old, &new).unwrap();
    let fork = first.with_device(&old, device(3)).unwrap();
    let after_fork = fork.with_device(&old, device(4)).unwrap();
    let reset = second.with_root(&new, &new).unwrap();
    vec![
        ("first", first),
        ("second_adds_a_device", second),
        ("third_removes_one", third),
        ("fourth_changes_the_root", fourth),
        ("another_second", fork),
        ("another_third", after_fork),
        ("root_not_signed_by_the_old_one", reset),
    ]
}

fn record_json(name: &str, record: &SignedRecord) -> Value {
    let signed = wire::SignedRecord::from(record.clone());
    let content = record.record();
    let device = |device: &super::DeviceEntry| {
        json!({
            "device": hex(device.device.0),
            "signature_key": hex(device.signature_key),
            "hpke_key": hex(device.hpke_key),
            "name": device.name,
            "since_ms": device.since_ms,
        })
    };
    json!({
        "name": name,
        "fields": {
            "account": hex(content.account.0),
            "sequence": content.sequence,
            "previous": content.previous.map(hex).unwrap_or_default(),
            "root_key": hex(content.root_key.0),
            "devices": content.devices.iter().map(device).collect::<Vec<_>>(),
            "notice_key": hex(content.notice_key),
        },
        "record": hex(&signed.record),
        "statement": hex([&b"valise account record 1"[..], &signed.record].concat()),
        "signature": hex(&signed.signature),
        "previous_signature": hex(&signed.previous_signature),
        "hash": hex(record.hash()),
        "signed_record": hex(signed.encode_to_vec()),
    })
}

#[test]
fn account_records() {
    let records = records();
    let ids = |devices: &[DeviceId]| devices.iter().map(|id| hex(id.0)).collect::<Vec<_>>();
    let mut judged = Vec::new();
    for (known_name, known) in &records {
        for (name, incoming) in &records {
            let verdict = match judge(Some(known), incoming).unwrap() {
                Verdict::First => unreachable!("something is known"),
                Verdict::Same => json!("same"),
                Verdict::Older => json!("older"),
                Verdict::Reset => json!("reset"),
                Verdict::Fork => json!("fork"),
                Verdict::Newer { added, removed, root_changed, skipped, forked } => json!({
                    "added": ids(&added),
                    "removed": ids(&removed),
                    "root_changed": root_changed,
                    "skipped": skipped,
                    "forked": forked,
                }),
            };
            judged.push(json!({ "known": known_name, "incoming": name, "verdict": verdict }));
        }
    }
    let shown: Vec<_> = records.iter().map(|(name, record)| record_json(name, record)).collect();
    settle(
        "account_records.json",
        &json!({
            "root_seed": hex([ROOT_SEED; 32]),
            "next_root_seed": hex([NEXT_ROOT_SEED; 32]),
            "records": shown,
            "judged": judged,
            "refused": refused_records(),
        }),
    );
}

fn refused_records() -> Vec<Value> {
    let good = wire::AccountRecord {
        account: ACCOUNT.0.to_vec(),
        sequence: 2,
        previous: vec![7; 32],
        root_key: root(ROOT_SEED).public().0.to_vec(),
        devices: vec![device(1)],
        notice_key: vec![9; 32],
    };
    let mut records: Vec<(&str, wire::SignedRecord)> = [
        ("sequence_0", wire::AccountRecord { sequence: 0, ..good.clone() }),
        ("first_with_a_previous", wire::AccountRecord { sequence: 1, ..good.clone() }),
        ("second_without", wire::AccountRecord { previous: Vec::new(), ..good.clone() }),
        ("no_device", wire::AccountRecord { devices: Vec::new(), ..good.clone() }),
        ("a_device_twice", wire::AccountRecord { devices: vec![device(1); 2], ..good.clone() }),
        ("a_short_account", wire::AccountRecord { account: vec![1; 31], ..good.clone() }),
    ]
    .into_iter()
    .map(|(name, record)| (name, sign(&record.encode_to_vec(), ROOT_SEED)))
    .collect();
    records.push(("another_root_has_signed", sign(&good.encode_to_vec(), NEXT_ROOT_SEED)));
    let refused = |(name, signed): (&str, wire::SignedRecord)| {
        let encoded = hex(signed.encode_to_vec());
        let error = match SignedRecord::try_from(signed).unwrap_err() {
            RecordError::Signature => "signature",
            _ => "malformed",
        };
        json!({ "name": name, "error": error, "signed_record": encoded })
    };
    records.into_iter().map(refused).collect()
}

fn sign(record: &[u8], seed: u8) -> wire::SignedRecord {
    let signature = root(seed).sign(&[b"valise account record 1", record].concat()).to_vec();
    wire::SignedRecord { record: record.to_vec(), signature, ..Default::default() }
}

#[test]
fn links() {
    let realm = RealmId::new(counting(0x61));
    let secret = counting(0xf0);
    let mut read = Vec::new();
    for host in ["relay.example", "192.0.2.7", "2001:db8::7"] {
        let relay = RelayAddress { host: host.to_owned(), port: 7443, realm };
        let written = InviteLink::new(relay, secret).to_string();
        for text in [written.clone(), written.to_uppercase(), format!("  {written}\r\n")] {
            assert_eq!(text.parse::<InviteLink>().unwrap().to_string(), written.to_lowercase());
            read.push(json!({
                "text": text, "host": host, "port": 7443, "realm": hex(realm.as_bytes()),
                "secret": hex(secret), "written": written,
            }));
        }
    }
    let relay = RelayAddress { host: "relay.example".to_owned(), port: 7443, realm };
    let link = InviteLink::new(relay.clone(), secret);
    let whole = link.to_string();
    let refused: Vec<_> = [
        ("cut_off", whole[..whole.len() - 1].to_owned()),
        ("one_character_more", format!("{whole}a")),
        ("a_relay_only", relay.to_string()),
        ("another_scheme", whole.replace("valise", "https")),
        ("no_realm", "valise://relay.example:7443#".to_owned() + whole.split_once('#').unwrap().1),
        ("bits_left_over", format!("{}b", &whole[..whole.len() - 1])),
    ]
    .into_iter()
    .map(|(name, text)| {
        let error = match text.parse::<InviteLink>().unwrap_err() {
            LinkError::NoSecret => "no_secret",
            LinkError::Secret => "secret",
            LinkError::Address(_) => "address",
        };
        json!({ "name": name, "text": text, "error": error })
    })
    .collect();
    settle(
        "links.json",
        &json!({
            "read": read,
            "refused": refused,
            "secret": hex(secret),
            "invite": { "slot": hex(link.slot().as_bytes()), "key": hex(link.key().as_bytes()) },
            "device": {
                "slot": hex(link.device_slot().as_bytes()),
                "key": hex(link.device_key().as_bytes()),
            },
        }),
    );
}

#[test]
fn words() {
    let list = Language::English.word_list();
    let index = |word: &&str| list.iter().position(|other| other == word).unwrap();
    let indices = |words: &[&'static str]| words.iter().map(index).collect::<Vec<_>>();
    let mut safety = Vec::new();
    for (one, other) in [(ROOT_SEED, NEXT_ROOT_SEED), (NEXT_ROOT_SEED, ROOT_SEED), (7, 7)] {
        let (one, other) = (root(one).public().0, root(other).public().0);
        let words = safety_words((&ACCOUNT, &one), (&OTHER, &other));
        safety.push(json!({
            "one": { "account": hex(ACCOUNT.0), "root_key": hex(one) },
            "other": { "account": hex(OTHER.0), "root_key": hex(other) },
            "indices": indices(&words),
            "words": words,
        }));
    }
    let secret = counting(0xf0);
    let words = link_words(&secret, &device(5));
    let link = json!({
        "secret": hex(secret),
        "device_record": hex(device(5).encode_to_vec()),
        "indices": indices(&words),
        "words": words,
    });
    settle("words.json", &json!({ "safety": safety, "link": [link] }));
}
