//! Keys and sealed bytes: what a passphrase costs to try, and what the disk sees.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use valise_client::random;
use zeroize::Zeroizing;

use super::VaultError;

/// The most that opening a file may cost: a hostile one must not ask for all memory there is.
const MEMORY_KIB_MAX: u32 = 1024 * 1024;
const PASSES_MAX: u32 = 64;
const LANES_MAX: u32 = 16;

const FILE_MAGIC: &[u8; 8] = b"valise\x00\x01";
const SALT_BYTES: usize = 16;

/// A secret that a person remembers. An empty one protects nothing: front ends say so.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<String>);

impl From<&str> for Passphrase {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

impl From<String> for Passphrase {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(redacted)")
    }
}

/// What one guess of a passphrase costs: Argon2id (RFC 9106).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for Cost {
    /// 64 MiB, three passes, one lane: about a third of a second.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

impl Cost {
    /// As cheap as it can be: for tests, where the passphrase protects nothing.
    pub const CHEAPEST: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };

    fn encode(self) -> [u8; 12] {
        let mut bytes = [0; 12];
        bytes[..4].copy_from_slice(&self.memory_kib.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.passes.to_be_bytes());
        bytes[8..].copy_from_slice(&self.lanes.to_be_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut numbers = bytes.chunks_exact(4).map(|chunk| {
            u32::from_be_bytes(chunk.try_into().expect("chunks have this length"))
        });
        let cost = Self {
            memory_kib: numbers.next()?,
            passes: numbers.next()?,
            lanes: numbers.next()?,
        };
        let is_sane = cost.memory_kib <= MEMORY_KIB_MAX
            && (1..=PASSES_MAX).contains(&cost.passes)
            && (1..=LANES_MAX).contains(&cost.lanes);
        is_sane.then_some(cost)
    }

    fn derive(self, passphrase: &Passphrase, salt: &[u8]) -> Result<Key, VaultError> {
        let params = argon2::Params::new(self.memory_kib, self.passes, self.lanes, Some(32));
        let params = params.map_err(|_| VaultError::Damaged("the cost of its passphrase"))?;
        let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut key = Zeroizing::new([0; 32]);
        argon
            .hash_password_into(passphrase.0.as_bytes(), salt, &mut *key)
            .map_err(|_| VaultError::Damaged("the cost of its passphrase"))?;
        Ok(Key(key))
    }
}

/// 32 bytes that open something.
pub(super) struct Key(Zeroizing<[u8; 32]>);

impl Key {
    pub(super) fn random() -> Self {
        Self(Zeroizing::new(random::bytes()))
    }

    pub(super) fn subkey(&self, label: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &*self.0);
        let tag = hmac::sign(&key, label.as_bytes());
        Self(Zeroizing::new(tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")))
    }

    pub(super) fn sealer(&self) -> Sealer {
        let key = UnboundKey::new(&AES_256_GCM, &*self.0).expect("the key has 32 bytes");
        Sealer(LessSafeKey::new(key))
    }

    pub(super) fn names(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*self.0)
    }
}

/// Seals values under one key, each with a random nonce: `nonce 12 | ciphertext | tag 16`.
pub(super) struct Sealer(LessSafeKey);

impl Sealer {
    pub(super) fn seal(&self, about: &[u8], plain: Vec<u8>) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = random::bytes();
        let mut sealed = plain;
        self.0
            .seal_in_place_append_tag(Nonce::from(&nonce), Aad::from(about), &mut sealed)
            .expect("a row is far below what AES-GCM can seal");
        [&nonce[..], &sealed].concat()
    }

    pub(super) fn open(&self, about: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = rest.to_vec();
        let len =
            self.0.open_in_place(Nonce::from(nonce), Aad::from(about), &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }
}

/// A key under a passphrase: `cost 12 | salt 16 | sealed key`.
pub(super) fn wrap(
    key: &Key,
    passphrase: &Passphrase,
    cost: Cost,
) -> Result<Vec<u8>, VaultError> {
    let salt: [u8; SALT_BYTES] = random::bytes();
    let wrapping = cost.derive(passphrase, &salt)?;
    let sealed = wrapping.sealer().seal(b"vault key", key.0.to_vec());
    Ok([&cost.encode()[..], &salt, &sealed].concat())
}

pub(super) fn unwrap(wrapped: &[u8], passphrase: &Passphrase) -> Result<Key, VaultError> {
    let damaged = VaultError::Damaged("the key in its header");
    let Some((head, sealed)) = wrapped.split_at_checked(12 + SALT_BYTES) else {
        return Err(damaged);
    };
    let cost = Cost::decode(&head[..12]).ok_or(damaged)?;
    let wrapping = cost.derive(passphrase, &head[12..])?;
    let plain = wrapping.sealer().open(b"vault key", sealed).map(Zeroizing::new);
    let plain = plain.ok_or(VaultError::WrongPassphrase)?;
    let key = plain.as_slice().try_into();
    Ok(Key(Zeroizing::new(key.map_err(|_| VaultError::Damaged("the key in its header"))?)))
}

/// A file that only its passphrase opens: `magic 8 | cost 12 | salt 16 | sealed key 60 | content`.
///
/// # Errors
/// [`VaultError`] if the cost cannot be paid.
pub fn seal_file(
    passphrase: &Passphrase,
    cost: Cost,
    plaintext: &[u8],
) -> Result<Vec<u8>, VaultError> {
    let key = Key::random();
    let wrapped = wrap(&key, passphrase, cost)?;
    let sealed = key.sealer().seal(FILE_MAGIC, plaintext.to_vec());
    Ok([&FILE_MAGIC[..], &wrapped, &sealed].concat())
}

/// Opens what [`seal_file`] has sealed.
///
/// # Errors
/// [`VaultError::WrongPassphrase`], or [`VaultError::Damaged`] for a file that is none of ours or
/// not whole.
pub fn open_file(passphrase: &Passphrase, bytes: &[u8]) -> Result<Vec<u8>, VaultError> {
    let damaged = || VaultError::Damaged("the file: it is no export, or not whole");
    let rest = bytes.strip_prefix(&FILE_MAGIC[..]).ok_or_else(damaged)?;
    let wrapped = 12 + SALT_BYTES + NONCE_LEN + 32 + 16;
    let (wrapped, sealed) = rest.split_at_checked(wrapped).ok_or_else(damaged)?;
    let key = unwrap(wrapped, passphrase)?;
    key.sealer().open(FILE_MAGIC, sealed).ok_or_else(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_opens_with_its_passphrase_only() {
        let right = Passphrase::from("correct horse");
        let file = seal_file(&right, Cost::CHEAPEST, b"secret").unwrap();
        assert_eq!(open_file(&right, &file).unwrap(), b"secret");
        let wrong = open_file(&Passphrase::from("battery"), &file);
        assert!(matches!(wrong, Err(VaultError::WrongPassphrase)));
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(open_file(&right, &changed).is_err(), "byte {at}");
            assert!(open_file(&right, &file[..at]).is_err(), "cut at {at}");
        }
        let mut greedy = file;
        greedy[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(open_file(&right, &greedy), Err(VaultError::Damaged(_))));
        assert!(!format!("{right:?}").contains("horse"));
    }
}
