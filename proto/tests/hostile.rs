//! Whatever comes in, the decoders answer with a value or an error: they never panic, never hold
//! more than one packet, and a realm record that was touched is never believed.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use bytes::Bytes;
use common::{Client, Server, client_body, client_packet, server_body, server_packet};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use valise_proto::limits::{
    LENGTH_PREFIX_BYTES_MAX, PACKET_BYTES_MAX, REALM_RECORD_BYTES_MAX, REALM_RECORD_LIST_MAX,
};
use valise_proto::{
    Deframer, FramingError, RealmError, RealmId, RealmRecord, RelayAddress, RelayKey, Signature,
    SignedRealmRecord, SigningKey, Token, statement,
};

/// Decodes as both sides would. What is accepted must survive being written and read again.
fn decode_as_both(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(packet) = Client::decode(bytes.clone()) {
        assert_eq!(Client::decode(client_body(&packet)), Ok(packet));
    }
    if let Ok(packet) = Server::decode(bytes) {
        assert_eq!(Server::decode(server_body(&packet)), Ok(packet));
    }
}

fn flip(bytes: &mut [u8], bits: &[Index]) {
    if bytes.is_empty() {
        return;
    }
    for bit in bits {
        let bit = bit.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

/// Feeds a stream in pieces until it ends or breaks, and checks what is held at every step.
fn deframe(stream: &[u8], piece: usize) -> (usize, Option<FramingError>) {
    let mut deframer = Deframer::default();
    let mut bytes_out = 0;
    for mut input in stream.chunks(piece) {
        loop {
            match deframer.next(&mut input) {
                Ok(Some(packet)) => {
                    assert!(packet.len() <= PACKET_BYTES_MAX);
                    bytes_out += packet.len();
                }
                Ok(None) => break,
                Err(error) => return (bytes_out, Some(error)),
            }
            assert!(deframer.buffered() < LENGTH_PREFIX_BYTES_MAX + PACKET_BYTES_MAX);
        }
        assert!(input.is_empty());
    }
    (bytes_out, None)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn flipped_bits(
        client in client_packet(),
        server in server_packet(),
        bits in vec(any::<Index>(), 1..8),
    ) {
        for body in [client_body(&client), server_body(&server)] {
            let mut body = body.to_vec();
            flip(&mut body, &bits);
            decode_as_both(&body);
        }
    }

    #[test]
    fn truncated(client in client_packet(), server in server_packet(), at in any::<Index>()) {
        for body in [client_body(&client), server_body(&server)] {
            decode_as_both(&body[..at.index(body.len() + 1)]);
        }
    }

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..2000)) {
        decode_as_both(&bytes);
    }

    /// Arbitrary bytes rarely pass the first tag; these are of a real kind with arbitrary content.
    #[test]
    fn arbitrary_content(kind in 1u8..23, content in vec(any::<u8>(), 0..120)) {
        let len = u8::try_from(content.len()).unwrap();
        // Field numbers up to 15 take one byte as a tag; the rest takes two.
        let mut body = if kind < 16 { vec![kind << 3 | 2] } else { vec![kind << 3 | 0x82, 1] };
        body.push(len);
        body.extend(content);
        decode_as_both(&body);
    }

    #[test]
    fn arbitrary_streams(
        stream in vec(any::<u8>(), 0..4000),
        piece in 1usize..500,
    ) {
        let whole = deframe(&stream, stream.len().max(1));
        prop_assert_eq!(deframe(&stream, piece), whole, "the cuts change nothing");
    }

    /// Any declared length, followed by fewer bytes than declared.
    #[test]
    fn arbitrary_declared_lengths(declared in any::<u32>(), follow in 0usize..600) {
        let mut stream = Vec::new();
        prost::encoding::encode_varint(u64::from(declared), &mut stream);
        stream.extend(vec![0; follow.min(declared as usize)]);
        let (_, error) = deframe(&stream, 97);
        let too_large = declared as usize > PACKET_BYTES_MAX;
        let expected = too_large.then_some(FramingError::TooLarge { declared: declared.into() });
        prop_assert_eq!(error, expected);
    }

    #[test]
    fn arbitrary_realm_records(
        record in vec(any::<u8>(), 0..600),
        signature in any::<[[u8; 32]; 2]>(),
    ) {
        let signature = Signature::try_from(&signature.concat()[..]).unwrap();
        let signed = SignedRealmRecord { record: record.into(), signature };
        prop_assert!(signed.verify(&RealmId::new([0; 20])).is_err());
    }

    #[test]
    fn arbitrary_addresses(text in "\\PC{0,80}") {
        read_address(&text);
    }

    /// Arbitrary text rarely passes the scheme; these are addresses with arbitrary parts.
    #[test]
    fn nearly_addresses(
        host in "(\\PC{0,12}|[a-z.\\[\\]:0-9]{0,12})",
        port in "(\\PC{0,4}|[+-]?[0-9]{0,6})",
        realm in "([a-z2-7]{32}|[A-Z2-7]{32}|[a-z0-9=]{30,34}|\\PC{0,40})",
    ) {
        read_address(&format!("valise://{host}:{port}/{realm}"));
    }

    #[test]
    fn arbitrary_codes(text in "([a-z2-7]{96}|[A-Za-z0-9 ]{90,100}|\\PC{0,100})") {
        if let Ok(token) = Token::from_text(&text) {
            prop_assert_eq!(token.to_text(), text.trim().to_lowercase());
        }
        if let Ok(realm) = RealmId::from_text(&text) {
            prop_assert_eq!(realm.to_text(), text.to_lowercase());
        }
    }
}

/// What is an address reads the same once written.
fn read_address(text: &str) {
    if let Ok(address) = text.parse::<RelayAddress>() {
        assert_eq!(address.to_string().parse(), Ok(address), "{text:?}");
    }
}

fn root() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap()
}

fn root_key() -> SigningKey {
    SigningKey::try_from(root().public_key().as_ref()).unwrap()
}

fn record() -> RealmRecord {
    RealmRecord {
        realm: RealmId::of_root_key(&root_key()),
        root_key: root_key(),
        epoch: 3,
        endpoints: vec!["relay.example:7443".to_owned(), "[2001:db8::1]:443".to_owned()],
        relay_keys: vec![RelayKey { key: SigningKey::new([9; 32]), last_day: 20_000 }],
        key_log_url: "https://log.example/".to_owned(),
    }
}

fn signed(record: Bytes) -> SignedRealmRecord {
    let signature = root().sign(&statement::realm_record(&record));
    let signature = Signature::try_from(signature.as_ref()).unwrap();
    SignedRealmRecord { record, signature }
}

#[test]
fn a_realm_record_is_believed_whole_or_not_at_all() {
    let realm = RealmId::of_root_key(&root_key());
    let good = signed(record().encode());
    assert_eq!(good.verify(&realm), Ok(record()));
    for bit in 0..good.record.len() * 8 {
        let mut touched = good.record.to_vec();
        touched[bit / 8] ^= 1 << (bit % 8);
        let touched = SignedRealmRecord { record: touched.into(), ..good.clone() };
        assert!(touched.verify(&realm).is_err(), "record bit {bit}");
    }
    for bit in 0..Signature::LEN * 8 {
        let mut touched = *good.signature.as_bytes();
        touched[bit / 8] ^= 1 << (bit % 8);
        let touched = SignedRealmRecord { signature: Signature::new(touched), ..good.clone() };
        assert_eq!(touched.verify(&realm), Err(RealmError::Signature), "signature bit {bit}");
    }
    for len in 0..good.record.len() {
        let cut = SignedRealmRecord { record: good.record.slice(..len), ..good.clone() };
        assert!(cut.verify(&realm).is_err(), "cut to {len} bytes");
    }
}

#[test]
fn each_flaw_of_a_realm_record_has_its_name() {
    let realm = record().realm;
    let other = RealmId::new([7; 20]);
    let good = signed(record().encode());
    assert_eq!(good.verify(&other), Err(RealmError::OtherRealm { expected: other, got: realm }));
    // The root key of someone else, who signs in our realm's name.
    let mut forged = record();
    forged.root_key = SigningKey::new([2; 32]);
    assert_eq!(signed(forged.encode()).verify(&realm), Err(RealmError::NotItsKey));
    let mut crowded = record();
    crowded.endpoints = vec!["a:1".to_owned(); REALM_RECORD_LIST_MAX + 1];
    assert_eq!(signed(crowded.encode()).verify(&realm), Err(RealmError::TooLarge));
    let mut long = record();
    long.key_log_url = "x".repeat(REALM_RECORD_BYTES_MAX);
    assert_eq!(signed(long.encode()).verify(&realm), Err(RealmError::TooLarge));
    // Field 2, the key algorithm, as 2 instead of 1; it stands after the realm's 22 bytes.
    let mut algorithm = record().encode().to_vec();
    assert_eq!(algorithm[22..24], [0x10, 1]);
    algorithm[23] = 2;
    assert_eq!(signed(algorithm.into()).verify(&realm), Err(RealmError::Algorithm(2)));
}
