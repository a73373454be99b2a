//! How keys lie in files. Symmetric keys are lines of hex, each with a check of its own; signing
//! keys are PKCS#8 in PEM (RFC 8410), so that other tools can hold a root key that was moved away.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use aws_lc_rs::{digest, rand};
use data_encoding::HEXLOWER_PERMISSIVE as HEX;
use valise_proto::SigningKey;

/// Length of a symmetric key, in bytes.
pub(super) const KEY_LEN: usize = 32;
const CHECK_LEN: usize = 4;
const PEM_TAG: &str = "PRIVATE KEY";

/// What is wrong with a key file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// The first line says that it is something else.
    #[error("its first line should be \"{0}\"")]
    Header(&'static str),
    /// A line is not `check key`, or the check does not belong to the key.
    #[error("line {0} is damaged")]
    Line(usize),
    /// No keys at all.
    #[error("it holds no key")]
    Empty,
    /// Not a PEM file with one private key.
    #[error("it is not a private key in PEM")]
    Pem,
    /// Not an Ed25519 key pair whose halves belong together.
    #[error("it does not hold an intact Ed25519 key")]
    Ed25519,
}

/// A new symmetric key.
pub(super) fn generate() -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    rand::fill(&mut key).expect("the system's random source works");
    key
}

/// The text of a file of symmetric keys: the header, then `check key` in hex, one key a line.
pub(super) fn keys_to_text(header: &'static str, keys: &[[u8; KEY_LEN]]) -> String {
    let mut text = format!("{header}\n");
    for key in keys {
        text.push_str(&HEX.encode(&check(header, key)));
        text.push(' ');
        text.push_str(&HEX.encode(key));
        text.push('\n');
    }
    text
}

/// Reads [`keys_to_text`] back.
pub(super) fn keys_from_text(
    header: &'static str,
    text: &[u8],
) -> Result<Vec<[u8; KEY_LEN]>, KeyFileError> {
    let text = str::from_utf8(text).map_err(|_| KeyFileError::Header(header))?;
    let mut lines = text.lines().enumerate();
    if lines.next().is_none_or(|(_, line)| line.trim_end() != header) {
        return Err(KeyFileError::Header(header));
    }
    let keys: Vec<_> = lines
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| key_from_line(header, line).ok_or(KeyFileError::Line(i + 1)))
        .collect::<Result<_, _>>()?;
    if keys.is_empty() { Err(KeyFileError::Empty) } else { Ok(keys) }
}

fn key_from_line(header: &str, line: &str) -> Option<[u8; KEY_LEN]> {
    let (stated, key) = line.trim_end().split_once(' ')?;
    let key: [u8; KEY_LEN] = HEX.decode(key.as_bytes()).ok()?.try_into().ok()?;
    (HEX.decode(stated.as_bytes()).ok()? == check(header, &key)).then_some(key)
}

/// Finds damage, and a key in the wrong file; it protects nothing.
fn check(header: &str, key: &[u8; KEY_LEN]) -> [u8; CHECK_LEN] {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(header.as_bytes());
    context.update(key);
    let mut check = [0; CHECK_LEN];
    check.copy_from_slice(&context.finish().as_ref()[..CHECK_LEN]);
    check
}

/// A signing key pair that shows its public half only.
pub(super) struct SigningPair {
    pair: Ed25519KeyPair,
    public: SigningKey,
}

impl SigningPair {
    /// A new one.
    pub(super) fn generate() -> Self {
        Self::new(Ed25519KeyPair::generate().expect("the system's random source works"))
    }

    fn new(pair: Ed25519KeyPair) -> Self {
        let public = SigningKey::try_from(pair.public_key().as_ref())
            .expect("an Ed25519 public key has 32 bytes");
        Self { pair, public }
    }

    /// The public half.
    pub(super) fn public(&self) -> SigningKey {
        self.public
    }

    /// Signs a statement.
    pub(super) fn sign(&self, statement: &[u8]) -> valise_proto::Signature {
        valise_proto::Signature::try_from(self.pair.sign(statement).as_ref())
            .expect("an Ed25519 signature has 64 bytes")
    }

    /// PKCS#8 version 2: with the public half, by which damage is found.
    pub(super) fn to_pem(&self) -> String {
        let pkcs8 = self.pair.to_pkcs8().expect("a key pair can be encoded");
        pem::encode(&pem::Pem::new(PEM_TAG, pkcs8.as_ref()))
    }

    /// Reads [`Self::to_pem`] back.
    pub(super) fn from_pem(text: &[u8]) -> Result<Self, KeyFileError> {
        let parsed = pem::parse(text).map_err(|_| KeyFileError::Pem)?;
        if parsed.tag() != PEM_TAG {
            return Err(KeyFileError::Pem);
        }
        Ed25519KeyPair::from_pkcs8(parsed.contents())
            .map(Self::new)
            .map_err(|_| KeyFileError::Ed25519)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "valise test keys 1";

    #[test]
    fn symmetric_keys_round_trip() {
        let keys = [generate(), generate()];
        assert_eq!(keys_from_text(HEADER, keys_to_text(HEADER, &keys).as_bytes()).unwrap(), keys);
    }

    #[test]
    fn damage_is_found_and_named() {
        let text = keys_to_text(HEADER, &[[1; 32], [2; 32]]);
        let read = |text: &str| keys_from_text(HEADER, text.as_bytes()).unwrap_err();
        assert_eq!(read(""), KeyFileError::Header(HEADER));
        assert_eq!(read(&text.replace("test", "shard")), KeyFileError::Header(HEADER));
        assert_eq!(read("valise test keys 1\n\n"), KeyFileError::Empty);
        assert_eq!(read(&text[..text.len() - 3]), KeyFileError::Line(3));
        assert_eq!(read(&text.replace("0101", "0102")), KeyFileError::Line(2));
        let other = keys_to_text("valise other keys 1", &[[1; 32]]).replace("other", "test");
        assert_eq!(read(&other), KeyFileError::Line(2), "a key from another file");
        assert_eq!(keys_from_text(HEADER, &[0xff; 40]), Err(KeyFileError::Header(HEADER)));
    }

    #[test]
    fn every_changed_digit_of_a_symmetric_key_is_found() {
        let text = keys_to_text(HEADER, &[generate()]);
        for i in HEADER.len() + 1..text.len() - 1 {
            let mut damaged = text.clone().into_bytes();
            damaged[i] = if damaged[i] == b'0' { b'1' } else { b'0' };
            assert!(keys_from_text(HEADER, &damaged).is_err(), "character {i}");
        }
    }

    #[test]
    fn signing_keys_round_trip_and_sign() {
        let pair = SigningPair::generate();
        let read = SigningPair::from_pem(pair.to_pem().as_bytes()).unwrap();
        assert_eq!(read.public(), pair.public());
        assert!(pair.public().verifies(b"statement", &read.sign(b"statement")));
    }

    #[test]
    fn damaged_signing_keys_are_refused() {
        let pair = SigningPair::generate();
        let pem = pair.to_pem();
        let refused = |text: &str| SigningPair::from_pem(text.as_bytes()).err();
        assert_eq!(refused(""), Some(KeyFileError::Pem));
        assert_eq!(refused(&pem.replace("PRIVATE", "PUBLIC")), Some(KeyFileError::Pem));
        let der = pem::parse(&pem).unwrap().into_contents();
        let ec = pem::encode(&pem::Pem::new(PEM_TAG, &der[..der.len() - 1]));
        assert_eq!(refused(&ec), Some(KeyFileError::Ed25519));
        for bit in 0..der.len() * 8 {
            let mut damaged = der.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let text = pem::encode(&pem::Pem::new(PEM_TAG, damaged));
            if let Ok(read) = SigningPair::from_pem(text.as_bytes()) {
                assert_eq!(read.public(), pair.public(), "bit {bit} gave another key");
            }
        }
    }
}
