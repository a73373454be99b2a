//! The root key of an account: it signs the account's records and its devices' certificates. Every
//! device of the account holds it, so that each can link and remove others.

use std::fmt;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use valise_client::random;
use zeroize::Zeroizing;

use super::{AccountId, Credential, DeviceId, RootPublicKey, credential};

/// An Ed25519 key pair (RFC 8032). Whoever holds it is the account.
pub struct RootKey {
    /// aws-lc clears a key's memory when it is freed.
    pair: Ed25519KeyPair,
    seed: Zeroizing<[u8; 32]>,
    public: RootPublicKey,
}

impl RootKey {
    /// A new key pair.
    pub fn generate() -> Self {
        Self::from_seed(&Zeroizing::new(random::bytes()))
    }

    /// The key pair of a 32-byte seed (RFC 8032 calls it the private key).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("every 32 bytes are a seed");
        let public = RootPublicKey::try_from(pair.public_key().as_ref())
            .expect("an Ed25519 public key has 32 bytes");
        Self { pair, seed: Zeroizing::new(*seed), public }
    }

    /// What [`Self::from_seed`] takes, for secret storage and for a linked device.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    pub fn public(&self) -> RootPublicKey {
        self.public
    }

    /// Says that the MLS signature key belongs to this device of this account.
    pub fn certify(
        &self,
        account: AccountId,
        device: DeviceId,
        signature_key: &[u8; 32],
    ) -> Credential {
        let certificate = self.sign(&credential::statement(&account, &device, signature_key));
        Credential { account, device, root_key: self.public, certificate }
    }

    /// Signs a statement, which begins with a label of its own.
    pub(super) fn sign(&self, statement: &[u8]) -> [u8; 64] {
        self.pair.sign(statement).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

impl fmt::Debug for RootKey {
    /// Redacted: only the public half is shown, in its short form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootKey({}, redacted)", self.public)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_key_again() {
        let root = RootKey::generate();
        let again = RootKey::from_seed(root.seed());
        assert_eq!(root.public(), again.public());
        assert!(root.public().verifies(b"statement", &again.sign(b"statement")));
        assert!(!root.public().verifies(b"another", &again.sign(b"statement")));
    }

    #[test]
    fn debug_shows_nothing_of_the_seed() {
        let shown = format!("{:?}", RootKey::from_seed(&[0xab; 32]));
        assert!(shown.contains("redacted") && !shown.contains("abab"), "{shown}");
        assert!(!shown.contains("171"), "{shown}");
    }
}
