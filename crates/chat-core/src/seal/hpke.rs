//! HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-128-GCM. Anyone who
//! knows a device's public key can seal to it; who did so is for the content to prove.

use std::fmt;

use openmls_rust_crypto::RustCrypto;
use openmls_traits::crypto::OpenMlsCrypto;
use openmls_traits::types::{HpkeAeadType, HpkeCiphertext, HpkeConfig, HpkeKdfType, HpkeKemType};
use valise_client::random;
use valise_proto::IdError;
use zeroize::Zeroizing;

use super::SealError;

/// Bytes of the encapsulated key.
pub(super) const ENC_BYTES: usize = 32;

/// A device's X25519 public key, or an account's for notices.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct HpkePublicKey(pub [u8; 32]);

/// The key pair, kept as the 32 bytes it is derived from (RFC 9180, section 7.1.3).
pub struct HpkeKeyPair {
    seed: Zeroizing<[u8; 32]>,
    secret: Zeroizing<Vec<u8>>,
    public: HpkePublicKey,
}

impl HpkeKeyPair {
    /// A new key pair.
    pub fn generate() -> Self {
        Self::from_seed(&Zeroizing::new(random::bytes()))
    }

    /// The key pair that `DeriveKeyPair` makes of 32 bytes.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = RustCrypto::default()
            .derive_hpke_keypair(config(), seed)
            .expect("X25519 derives a key pair of any 32 bytes");
        let public = pair.public.as_slice().try_into().expect("an X25519 key has 32 bytes");
        Self {
            seed: Zeroizing::new(*seed),
            secret: Zeroizing::new(pair.private.to_vec()),
            public: HpkePublicKey(public),
        }
    }

    /// What [`Self::from_seed`] takes, for secret storage.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    pub fn public(&self) -> HpkePublicKey {
        self.public
    }

    pub(super) fn open(&self, info: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (enc, ciphertext) = sealed.split_at_checked(ENC_BYTES).ok_or(SealError::DoesNotOpen)?;
        let input = HpkeCiphertext { kem_output: enc.into(), ciphertext: ciphertext.into() };
        RustCrypto::default()
            .hpke_open(config(), &input, &self.secret, info, &[])
            .map(Zeroizing::new)
            .map_err(|_| SealError::DoesNotOpen)
    }
}

impl HpkePublicKey {
    /// `enc 32 | ciphertext`.
    pub(super) fn seal(&self, info: &[u8], plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let sealed = RustCrypto::default()
            .hpke_seal(config(), &self.0, info, &[], plain)
            .map_err(|_| SealError::HpkeKey)?;
        Ok([sealed.kem_output.as_slice(), sealed.ciphertext.as_slice()].concat())
    }
}

impl TryFrom<&[u8]> for HpkePublicKey {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError {
            what: "HpkePublicKey",
            expected: 32,
            got: bytes.len(),
        })
    }
}

impl fmt::Debug for HpkePublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HpkePublicKey({})", valise_proto::to_base32(&self.0[..5]))
    }
}

impl fmt::Debug for HpkeKeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HpkeKeyPair({:?}, redacted)", self.public)
    }
}

fn config() -> HpkeConfig {
    HpkeConfig(HpkeKemType::DhKem25519, HpkeKdfType::HkdfSha256, HpkeAeadType::AesGcm128)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_owner_opens_and_only_for_the_same_purpose() {
        let (owner, other) = (HpkeKeyPair::generate(), HpkeKeyPair::generate());
        let sealed = owner.public().seal(b"one", b"plain").unwrap();
        assert_eq!(owner.open(b"one", &sealed).unwrap()[..], b"plain"[..]);
        assert_eq!(owner.open(b"two", &sealed), Err(SealError::DoesNotOpen));
        assert_eq!(other.open(b"one", &sealed), Err(SealError::DoesNotOpen));
        for len in 0..sealed.len() {
            assert_eq!(owner.open(b"one", &sealed[..len]), Err(SealError::DoesNotOpen));
        }
    }

    #[test]
    fn a_seed_makes_the_same_pair_again() {
        let pair = HpkeKeyPair::generate();
        assert_eq!(HpkeKeyPair::from_seed(pair.seed()).public(), pair.public());
        assert!(format!("{pair:?}").ends_with("redacted)"));
    }

    /// RFC 7748, section 6.1: such a key would make the shared secret the same for everyone.
    #[test]
    fn nothing_is_sealed_to_a_key_of_small_order() {
        for byte in [0, 1] {
            let mut key = [0; 32];
            key[0] = byte;
            assert_eq!(HpkePublicKey(key).seal(b"one", b"plain"), Err(SealError::HpkeKey));
        }
    }
}
