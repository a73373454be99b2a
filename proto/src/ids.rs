//! Fixed-length identifiers and keys. `Display` is the short form: eight hex digits, enough to
//! follow one thing through a test's output and too little to find a mailbox by.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

/// A byte string had the wrong length for its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {expected} bytes, got {got}")]
pub struct IdError {
    /// The type's name.
    pub what: &'static str,
    /// Bytes the type has.
    pub expected: usize,
    /// Bytes that were given.
    pub got: usize,
}

macro_rules! fixed {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Wraps the bytes.
            pub const fn new(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;

            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                bytes.try_into().map(Self).map_err(|_| IdError {
                    what: stringify!($name),
                    expected: $len,
                    got: bytes.len(),
                })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

macro_rules! readable {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    )*};
}

fixed!(/// A realm: the first 20 bytes of SHA-256("valise realm 1" | algorithm | root key).
    RealmId, 20);
fixed!(/// A mailbox: the first 16 bytes of SHA-256("valise mailbox 1" | realm | algorithm | owner key).
    MailboxId, 16);
fixed!(/// 16 random bytes chosen by the sender; with the mailbox it is the idempotency key.
    FrameId, 16);
fixed!(/// A write-once register: 32 bytes that only those who share a secret can know.
    SlotId, 32);
fixed!(/// 16 random bytes chosen by whoever puts a value into a slot; with the slot it is the
    /// idempotency key.
    PutId, 16);
fixed!(/// 16 random bytes chosen by the owner who publishes bundle items; with the mailbox it is the
    /// idempotency key.
    PublicationId, 16);
fixed!(/// 32 random bytes the relay draws per connection; every signature on it covers them.
    Nonce, 32);
fixed!(/// SHA-256 of the leaf certificate this connection was served (RFC 5929
    /// `tls-server-end-point`), or zeros where the client cannot see the certificate.
    Channel, 32);
fixed!(/// The Ed25519 public key that owns a mailbox.
    OwnerKey, 32);
fixed!(/// An Ed25519 public key of a realm (root) or of a relay (signing).
    SigningKey, 32);
fixed!(/// An Ed25519 signature.
    Signature, 64);
fixed!(/// A sealed right (docs/PROTOCOL.md, "Tokens"): opaque to everyone but the relay.
    Token, 60);

readable!(
    RealmId,
    MailboxId,
    FrameId,
    SlotId,
    PutId,
    PublicationId,
    Nonce,
    Channel,
    OwnerKey,
    SigningKey,
    Signature
);

impl fmt::Debug for Token {
    /// Redacted: whoever holds a token has the right it carries.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

/// The number of the only key algorithm of version 1, Ed25519.
pub(crate) const ED25519_ALGORITHM: u8 = 1;

impl Channel {
    /// What a browser signs, because it cannot see the certificate (weaker: docs/THREATS.md).
    pub const UNSEEN: Self = Self([0; 32]);

    /// The channel of a connection served with this leaf certificate, in DER.
    pub fn of_certificate(leaf_der: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, leaf_der).as_ref());
        Self(hash)
    }
}

impl RealmId {
    /// The realm a root key speaks for.
    pub fn of_root_key(root: &SigningKey) -> Self {
        Self(hash_prefix(&[b"valise realm 1", &[ED25519_ALGORITHM], root.as_bytes()]))
    }
}

impl MailboxId {
    /// The mailbox an owner key has in a realm. Nothing needs to be registered: the id is the proof.
    pub fn of_owner(realm: &RealmId, owner: &OwnerKey) -> Self {
        Self(hash_prefix(&[
            b"valise mailbox 1",
            realm.as_bytes(),
            &[ED25519_ALGORITHM],
            owner.as_bytes(),
        ]))
    }
}

impl OwnerKey {
    /// Whether this key signed the statement.
    pub fn verifies(&self, statement: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(statement, &signature.0).is_ok()
    }
}

impl SigningKey {
    /// Whether this key signed the statement.
    pub fn verifies(&self, statement: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(statement, &signature.0).is_ok()
    }
}

/// The first `N` bytes of the SHA-256 of the parts, one after the other.
fn hash_prefix<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let mut context = digest::Context::new(&digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let hash = context.finish();
    let mut prefix = [0; N];
    prefix.copy_from_slice(&hash.as_ref()[..N]);
    prefix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_lengths_are_named() {
        let error = FrameId::try_from(&[0u8; 15][..]).unwrap_err();
        assert_eq!(error.to_string(), "FrameId must be 16 bytes, got 15");
    }

    #[test]
    fn debug_of_a_token_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Token::new([0xab; 60])), "Token(redacted)");
    }

    #[test]
    fn a_mailbox_belongs_to_one_realm() {
        let owner = OwnerKey::new([7; 32]);
        assert_ne!(
            MailboxId::of_owner(&RealmId::new([1; 20]), &owner),
            MailboxId::of_owner(&RealmId::new([2; 20]), &owner)
        );
    }
}
