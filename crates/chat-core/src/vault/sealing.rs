//! Keys, and the bytes that the disk sees.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::{digest, hmac};
use valise_client::random;
use zeroize::Zeroizing;

use super::{Cost, Passphrase, VaultError};

const TAG_LEN: usize = 16;
const SALT_LEN: usize = 16;
const CHECK_LEN: usize = 8;

/// 32 bytes that open something.
pub(super) struct Key(Zeroizing<[u8; Self::LEN]>);

impl Key {
    pub(super) const LEN: usize = 32;

    pub(super) fn random() -> Self {
        Self(Zeroizing::new(random::bytes()))
    }

    /// A key for one purpose, that says nothing about this one.
    pub(super) fn subkey(&self, purpose: &str) -> Self {
        let tag = hmac::sign(&self.hmac(), purpose.as_bytes());
        Self(Zeroizing::new(tag.as_ref().try_into().expect("HMAC-SHA-256 has 32 bytes")))
    }

    pub(super) fn hmac(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*self.0)
    }

    pub(super) fn sealer(&self) -> Sealer {
        let key = UnboundKey::new(&AES_256_GCM, &*self.0).expect("the key has 32 bytes");
        Sealer(LessSafeKey::new(key))
    }
}

impl From<Zeroizing<[u8; Key::LEN]>> for Key {
    fn from(bytes: Zeroizing<[u8; Key::LEN]>) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(redacted)")
    }
}

/// Seals values under one key: `nonce 12 | ciphertext | tag 16`. The nonce is random, which is good
/// for 2^32 values: a thousand writes a second for fifty days, or ten a second for thirteen years.
pub(super) struct Sealer(LessSafeKey);

impl Sealer {
    /// What a value costs beside its content.
    pub(super) const OVERHEAD: usize = NONCE_LEN + TAG_LEN;

    /// Seals what `write` appends. With the right `len` no copy of it stays in memory.
    pub(super) fn seal(
        &self,
        about: &[u8],
        len: usize,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Vec<u8> {
        let nonce: [u8; NONCE_LEN] = random::bytes();
        let mut sealed = Vec::with_capacity(len + Self::OVERHEAD);
        sealed.extend_from_slice(&nonce);
        write(&mut sealed);
        let tag = self
            .0
            .seal_in_place_separate_tag(
                Nonce::from(&nonce),
                Aad::from(about),
                &mut sealed[NONCE_LEN..],
            )
            .expect("what fits the memory is far below what AES-GCM can seal");
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// `None`: another key, something else, or changed bytes.
    pub(super) fn open(&self, about: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut plain = Zeroizing::new(rest.to_vec());
        let len =
            self.0.open_in_place(Nonce::from(nonce), Aad::from(about), &mut plain).ok()?.len();
        plain.truncate(len);
        Some(plain)
    }
}

/// Bytes of a wrapped key: `cost 12 | salt 16 | sealed key 60 | check 8`. The check is the start of
/// the SHA-256 of the rest: it tells a damaged header from a wrong passphrase, and helps nobody who
/// guesses.
pub(super) const WRAPPED_LEN: usize =
    Cost::LEN + SALT_LEN + Key::LEN + Sealer::OVERHEAD + CHECK_LEN;

/// A key under a passphrase, for one purpose.
pub(super) fn wrap(
    key: &Key,
    purpose: &str,
    passphrase: &Passphrase,
    cost: Cost,
) -> Result<Vec<u8>, VaultError> {
    let salt: [u8; SALT_LEN] = random::bytes();
    let wrapping = cost.derive(passphrase, &salt)?.sealer();
    let sealed =
        wrapping.seal(purpose.as_bytes(), Key::LEN, |bytes| bytes.extend_from_slice(&*key.0));
    let mut wrapped = [&cost.encode()[..], &salt, &sealed].concat();
    wrapped.extend(check(&wrapped));
    Ok(wrapped)
}

/// The key that [`wrap`] wrapped.
///
/// # Errors
/// [`VaultError::WrongPassphrase`], or [`VaultError::Damaged`] for what [`wrap`] has not made.
pub(super) fn unwrap(
    wrapped: &[u8],
    purpose: &str,
    passphrase: &Passphrase,
) -> Result<Key, VaultError> {
    let damaged = || VaultError::Damaged("the wrapped key in its header was changed");
    let (checked, rest) = wrapped.split_at_checked(WRAPPED_LEN - CHECK_LEN).ok_or_else(damaged)?;
    if check(checked) != rest {
        return Err(damaged());
    }
    let (cost, rest) = checked.split_first_chunk().ok_or_else(damaged)?;
    let (salt, sealed) = rest.split_at(SALT_LEN);
    let wrapping = Cost::decode(cost).derive(passphrase, salt)?.sealer();
    let plain = wrapping.open(purpose.as_bytes(), sealed).ok_or(VaultError::WrongPassphrase)?;
    let key = plain.as_slice().try_into().map_err(|_| damaged())?;
    Ok(Key(Zeroizing::new(key)))
}

fn check(wrapped: &[u8]) -> [u8; CHECK_LEN] {
    let digest = digest::digest(&digest::SHA256, wrapped);
    digest.as_ref()[..CHECK_LEN].try_into().expect("SHA-256 has 32 bytes")
}

/// Makes the check of a changed wrapped key fit, as whoever forges one can.
#[cfg(test)]
pub(super) fn fix_check(wrapped: &mut [u8]) {
    let (checked, rest) = wrapped.split_at_mut(WRAPPED_LEN - CHECK_LEN);
    rest.copy_from_slice(&check(checked));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_only_in_its_place_and_unchanged() {
        let sealer = Key::random().sealer();
        let sealed = sealer.seal(b"here", 5, |bytes| bytes.extend_from_slice(b"hello"));
        assert_eq!(sealed.len(), 5 + Sealer::OVERHEAD);
        assert_eq!(sealer.open(b"here", &sealed).unwrap().as_slice(), b"hello");
        assert!(sealer.open(b"there", &sealed).is_none());
        assert!(Key::random().sealer().open(b"here", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(sealer.open(b"here", &changed).is_none(), "byte {at}");
            assert!(sealer.open(b"here", &sealed[..at]).is_none(), "cut at {at}");
        }
        let again = sealer.seal(b"here", 5, |bytes| bytes.extend_from_slice(b"hello"));
        assert_ne!(sealed, again, "the nonce is new each time");
    }

    #[test]
    fn a_wrapped_key_says_whether_it_or_the_passphrase_is_wrong() {
        let (key, right) = (Key::random(), Passphrase::from(""));
        let wrapped = wrap(&key, "test", &right, Cost::CHEAPEST).unwrap();
        assert_eq!(wrapped.len(), WRAPPED_LEN);
        assert_eq!(*unwrap(&wrapped, "test", &right).unwrap().0, *key.0);
        let refused = |wrapped: &[u8], purpose, passphrase: &str| {
            unwrap(wrapped, purpose, &Passphrase::from(passphrase)).unwrap_err()
        };
        assert!(matches!(refused(&wrapped, "test", "x"), VaultError::WrongPassphrase));
        assert!(matches!(refused(&wrapped, "other", ""), VaultError::WrongPassphrase));
        assert!(matches!(refused(&wrapped[1..], "test", ""), VaultError::Damaged(_)));
        assert!(matches!(refused(&[], "test", ""), VaultError::Damaged(_)));
        let mut changed = wrapped.clone();
        changed[Cost::LEN] ^= 1; // the salt
        assert!(matches!(refused(&changed, "test", ""), VaultError::Damaged(_)));
        fix_check(&mut changed);
        assert!(matches!(refused(&changed, "test", ""), VaultError::WrongPassphrase));
    }
}
