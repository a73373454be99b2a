//! The key pair that owns a mailbox. The mailbox is named after the public half, so nothing needs
//! to be registered.

use std::fmt;

use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use valise_proto::{MailboxId, OwnerKey, RealmId, Signature};

/// An Ed25519 key pair. Whoever holds it can empty the mailbox.
pub struct OwnerKeyPair {
    pair: Ed25519KeyPair,
    seed: [u8; 32],
    owner_key: OwnerKey,
}

impl OwnerKeyPair {
    /// A new key pair. Keep [`Self::seed`], or the mailbox is lost with the process.
    pub fn generate() -> Self {
        let mut seed = [0; 32];
        rand::fill(&mut seed).expect("the system's random number generator works");
        Self::from_seed(&seed)
    }

    /// The key pair of a 32-byte seed (RFC 8032 calls it the private key).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("every 32 bytes are a seed");
        let owner_key = OwnerKey::try_from(pair.public_key().as_ref())
            .expect("an Ed25519 public key has 32 bytes");
        Self { pair, seed: *seed, owner_key }
    }

    /// What [`Self::from_seed`] takes, for the device's own secret storage.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    pub fn owner_key(&self) -> OwnerKey {
        self.owner_key
    }

    /// The mailbox this key owns in a realm.
    pub fn mailbox(&self, realm: &RealmId) -> MailboxId {
        MailboxId::of_owner(realm, &self.owner_key)
    }

    /// Signs one of the statements of `valise_proto::statement`.
    pub fn sign(&self, statement: &[u8]) -> Signature {
        Signature::try_from(self.pair.sign(statement).as_ref())
            .expect("an Ed25519 signature has 64 bytes")
    }
}

impl fmt::Debug for OwnerKeyPair {
    /// Redacted: only the public half is shown, in its short form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnerKeyPair({}, redacted)", self.owner_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_key_again() {
        let owner = OwnerKeyPair::generate();
        let again = OwnerKeyPair::from_seed(owner.seed());
        assert_eq!(owner.owner_key(), again.owner_key());
        assert!(owner.owner_key().verifies(b"statement", &again.sign(b"statement")));
        assert!(!owner.owner_key().verifies(b"another", &again.sign(b"statement")));
    }

    #[test]
    fn debug_shows_nothing_of_the_seed() {
        let shown = format!("{:?}", OwnerKeyPair::from_seed(&[0xab; 32]));
        assert!(shown.contains("redacted") && !shown.contains("abab"), "{shown}");
    }
}
