//! Realm records: where and by whom a realm is served, signed by the realm's root key. Anyone may
//! carry one; the root key, and nothing else, makes it true.

use bytes::Bytes;
use prost::Message;

use crate::ids::ED25519_ALGORITHM;
use crate::limits::{REALM_RECORD_BYTES_MAX, REALM_RECORD_LIST_MAX};
use crate::{IdError, RealmId, Signature, SigningKey, pb, statement};

/// A record as it travels: the exact bytes that were signed, and the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedRealmRecord {
    /// An encoded [`RealmRecord`].
    pub record: Bytes,
    /// By the root key, over [`statement::realm_record`] of `record`.
    pub signature: Signature,
}

/// A verified record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RealmRecord {
    /// The realm.
    pub realm: RealmId,
    /// The key the realm is named after.
    pub root_key: SigningKey,
    /// The highest wins; equal epochs with different content are an alarm.
    pub epoch: u64,
    /// `host:port`, in order of preference.
    pub endpoints: Vec<String>,
    /// Who may sign `Welcome` for the realm.
    pub relay_keys: Vec<RelayKey>,
    /// Empty while the realm has no key log.
    pub key_log_url: String,
}

/// A key that may sign `Welcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayKey {
    /// Ed25519.
    pub key: SigningKey,
    /// Its last valid day, in days since 1970-01-01.
    pub last_day: u32,
}

/// A realm record that proves nothing.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RealmError {
    /// Not an encoded record.
    #[error("the realm record does not decode: {0}")]
    Decode(#[from] prost::DecodeError),
    /// A field of fixed length has another one.
    #[error(transparent)]
    Field(#[from] IdError),
    /// A list, or the record, is longer than allowed.
    #[error("the realm record is larger than allowed")]
    TooLarge,
    /// Only Ed25519 is known.
    #[error("the realm record uses the unknown key algorithm {0}")]
    Algorithm(u32),
    /// The realm id is not the hash of the root key.
    #[error("the realm record's root key does not belong to its realm id")]
    NotItsKey,
    /// It is about another realm than the one asked for.
    #[error("the relay serves realm {got}, not {expected}")]
    OtherRealm {
        /// The realm asked for.
        expected: RealmId,
        /// The realm of the record.
        got: RealmId,
    },
    /// The root key did not sign it.
    #[error("the realm record's signature is wrong")]
    Signature,
}

impl RealmRecord {
    /// The bytes to be signed.
    pub fn encode(&self) -> Bytes {
        let record = pb::RealmRecord {
            realm: Bytes::copy_from_slice(self.realm.as_bytes()),
            key_algorithm: u32::from(ED25519_ALGORITHM),
            root_key: Bytes::copy_from_slice(self.root_key.as_bytes()),
            epoch: self.epoch,
            endpoints: self.endpoints.clone(),
            relay_keys: self
                .relay_keys
                .iter()
                .map(|relay| pb::RelayKey {
                    key: Bytes::copy_from_slice(relay.key.as_bytes()),
                    last_day: relay.last_day,
                })
                .collect(),
            key_log_url: self.key_log_url.clone(),
        };
        record.encode_to_vec().into()
    }

    /// Whether the key may sign `Welcome` on this day (days since 1970-01-01).
    pub fn lists(&self, key: &SigningKey, today: u32) -> bool {
        self.relay_keys.iter().any(|relay| relay.key == *key && today <= relay.last_day)
    }
}

impl SignedRealmRecord {
    /// Checks everything that can be checked without a clock: size, realm, root key, signature.
    ///
    /// # Errors
    /// [`RealmError`] says what does not hold.
    pub fn verify(&self, expected: &RealmId) -> Result<RealmRecord, RealmError> {
        if self.record.len() > REALM_RECORD_BYTES_MAX {
            return Err(RealmError::TooLarge);
        }
        let record = pb::RealmRecord::decode(self.record.clone())?;
        if record.key_algorithm != u32::from(ED25519_ALGORITHM) {
            return Err(RealmError::Algorithm(record.key_algorithm));
        }
        if record.endpoints.len().max(record.relay_keys.len()) > REALM_RECORD_LIST_MAX {
            return Err(RealmError::TooLarge);
        }
        let realm = RealmId::try_from(&record.realm[..])?;
        let root_key = SigningKey::try_from(&record.root_key[..])?;
        if RealmId::of_root_key(&root_key) != realm {
            return Err(RealmError::NotItsKey);
        }
        if realm != *expected {
            return Err(RealmError::OtherRealm { expected: *expected, got: realm });
        }
        if !root_key.verifies(&statement::realm_record(&self.record), &self.signature) {
            return Err(RealmError::Signature);
        }
        let relay_keys = record
            .relay_keys
            .iter()
            .map(|relay| Ok(RelayKey { key: relay.key[..].try_into()?, last_day: relay.last_day }))
            .collect::<Result<_, IdError>>()?;
        Ok(RealmRecord {
            realm,
            root_key,
            epoch: record.epoch,
            endpoints: record.endpoints,
            relay_keys,
            key_log_url: record.key_log_url,
        })
    }
}
