//! The byte strings that are signed. Each begins with its own label, so that a signature made for
//! one purpose is none for another. All integers are big-endian. See docs/PROTOCOL.md, "Statements".

use crate::{Channel, MailboxId, Nonce, RealmId};

/// What a relay signs in `Welcome`: it holds the realm's relay key, speaks on this very channel,
/// and offers these versions and features.
pub fn welcome(
    realm: &RealmId,
    channel: &Channel,
    nonce: &Nonce,
    versions: &[u32],
    features: u64,
) -> Vec<u8> {
    let mut statement = b"valise welcome 1".to_vec();
    statement.extend_from_slice(realm.as_bytes());
    statement.extend_from_slice(channel.as_bytes());
    statement.extend_from_slice(nonce.as_bytes());
    statement.extend_from_slice(&features.to_be_bytes());
    versions.iter().for_each(|version| statement.extend_from_slice(&version.to_be_bytes()));
    statement
}

/// What an owner signs in `Join`.
pub fn join(realm: &RealmId, channel: &Channel, nonce: &Nonce) -> Vec<u8> {
    let mut statement = b"valise join 1".to_vec();
    statement.extend_from_slice(realm.as_bytes());
    statement.extend_from_slice(channel.as_bytes());
    statement.extend_from_slice(nonce.as_bytes());
    statement
}

/// What an owner signs in `Attach`. `attaches_before` is the number of `Attach` packets sent
/// earlier on this connection, so no signature can be used twice.
pub fn attach(
    realm: &RealmId,
    channel: &Channel,
    nonce: &Nonce,
    mailbox: &MailboxId,
    attaches_before: u32,
) -> Vec<u8> {
    let mut statement = b"valise attach 1".to_vec();
    statement.extend_from_slice(realm.as_bytes());
    statement.extend_from_slice(channel.as_bytes());
    statement.extend_from_slice(nonce.as_bytes());
    statement.extend_from_slice(mailbox.as_bytes());
    statement.extend_from_slice(&attaches_before.to_be_bytes());
    statement
}

/// What a realm's root key signs: exactly the bytes of the encoded record.
pub fn realm_record(record: &[u8]) -> Vec<u8> {
    let mut statement = b"valise realm record 1".to_vec();
    statement.extend_from_slice(record);
    statement
}
