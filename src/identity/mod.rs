//! Who this relay is: the realm it serves, the record that says so, and the keys behind it. All of
//! it lies in the [`StateDirectory`]; the root key is needed to sign a record and otherwise belongs
//! elsewhere.

mod development;
mod error;
mod key_file;
mod node;
mod record;
mod state_directory;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use valise_proto::limits::REALM_RECORD_LIST_MAX;
use valise_proto::{
    Channel, FEATURES, Nonce, RealmId, RealmRecord, Signature, SignedRealmRecord, SigningKey,
    VERSION, Welcome, statement,
};

pub use self::development::{
    DEVELOPMENT_CA, DEVELOPMENT_LEAF, DEVELOPMENT_LEAF_KEY, development_certificate,
};
pub use self::error::{IdentityError, Notice};
pub use self::key_file::KeyFileError;
use self::key_file::SigningPair;
pub use self::node::{
    Compared, STORE, export_node, import_node, node_key, retire_node, serves_by_ledgers,
};
use self::record::Need;
pub use self::state_directory::{StateDirectory, StateError};
use crate::token::TokenKeys;

const ROOT_KEY: &str = "realm-root.key";
const SIGNING_KEY: &str = "relay-signing.key";
const TOKEN_KEYS: &str = "token.keys";
const SHARD_KEY: &str = "shard.key";
const REALM_RECORD: &str = "realm-record";
/// That further nodes were made of this state directory: the record names theirs from then on, however
/// this relay is run. A file with nothing in it.
const EXPORTED: &str = "exported";

const TOKEN_KEYS_HEADER: &str = "valise token keys 1";
const SHARD_KEY_HEADER: &str = "valise shard key 1";

/// How many relays serve the realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nodes {
    /// This one: the record names its endpoints and no others.
    One,
    /// Several: the record names the endpoints of all.
    Many,
}

/// A relay's identity, opened.
pub struct Identity {
    // Static after construction.
    realm: RealmId,
    directory: PathBuf,
    // Replaced as a whole, by a newer one.
    record: ArcSwap<SignedRealmRecord>,
    epoch: AtomicU64,
    signing: SigningPair,
    tokens: TokenKeys,
    shard_key: [u8; 32],
}

impl Identity {
    /// Opens the identity in this directory, or makes one if the directory is new. `endpoints` are
    /// `host:port`, in order of preference; `today` is in days since 1970-01-01.
    ///
    /// # Errors
    /// [`IdentityError`] says which file is wrong and what to do about it. Nothing was changed.
    pub fn open(
        directory: &StateDirectory,
        endpoints: &[String],
        today: u32,
    ) -> Result<(Self, Vec<Notice>), IdentityError> {
        Self::open_as(Nodes::One, directory, endpoints, today)
    }

    /// The same, for one of so many nodes.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_as(
        nodes: Nodes,
        directory: &StateDirectory,
        endpoints: &[String],
        today: u32,
    ) -> Result<(Self, Vec<Notice>), IdentityError> {
        if endpoints.is_empty() || endpoints.len() > REALM_RECORD_LIST_MAX {
            return Err(IdentityError::Endpoints(endpoints.len()));
        }
        let root = read_pair(directory, ROOT_KEY)?;
        let signing = read_pair(directory, SIGNING_KEY)?;
        match read_record(directory.path())? {
            Some((signed, record)) => {
                Opening { nodes, directory, endpoints, today }.later(root, signing, signed, record)
            }
            // The record is written before the signing key: it cannot be missing beside one.
            None if signing.is_some() => Err(IdentityError::Missing {
                path: directory.file(REALM_RECORD),
                beside: SIGNING_KEY,
            }),
            None => Opening { nodes, directory, endpoints, today }.first(root),
        }
    }

    /// The realm this relay serves.
    pub fn realm(&self) -> RealmId {
        self.realm
    }

    /// The signed record of the realm.
    pub fn record(&self) -> Arc<SignedRealmRecord> {
        self.record.load_full()
    }

    /// The epoch of the record in force.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// The keys that seal and open tokens.
    pub fn tokens(&self) -> TokenKeys {
        self.tokens.clone()
    }

    /// The key that spreads mailboxes over shards. It never changes in the life of a store.
    pub fn shard_key(&self) -> [u8; 32] {
        self.shard_key
    }

    /// The relay's first packet on a connection that was served with the certificate of `channel`.
    pub fn welcome(&self, channel: &Channel, nonce: Nonce) -> Welcome {
        let versions = vec![VERSION];
        let statement = statement::welcome(&self.realm, channel, &nonce, &versions, FEATURES);
        Welcome {
            versions,
            features: FEATURES,
            realm_record: SignedRealmRecord::clone(&self.record.load()),
            nonce,
            signing_key: self.signing.public(),
            signature: self.signing.sign(&statement),
        }
    }
}

impl fmt::Debug for Identity {
    /// Public parts only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("realm", &self.realm)
            .field("signing_key", &self.signing.public())
            .finish_non_exhaustive()
    }
}

/// The token keys of a state directory, without its lock: an invite code can be made while the
/// relay runs.
///
/// # Errors
/// [`IdentityError`] says which file is wrong and what to do about it.
pub fn read_token_keys(state_directory: &Path) -> Result<TokenKeys, IdentityError> {
    let Some((_, record)) = read_record(state_directory)? else {
        return Err(IdentityError::NoRealm(state_directory.into()));
    };
    token_keys(state_directory, record.realm)
}

/// Puts a new token key in front of the others, and returns how many there are then. A running relay
/// seals with it once it is reloaded, and goes on opening what the others have sealed.
///
/// # Errors
/// [`IdentityError`] says which file is wrong and what to do about it; nothing was changed.
pub fn rotate_token_key(state_directory: &Path) -> Result<usize, IdentityError> {
    // Refuses what is no state directory, or is damaged.
    read_token_keys(state_directory)?;
    let earlier = read_keys(state_directory, TOKEN_KEYS, TOKEN_KEYS_HEADER)?;
    let keys: Vec<_> = std::iter::once(key_file::generate()).chain(earlier).collect();
    let text = key_file::keys_to_text(TOKEN_KEYS_HEADER, &keys);
    state_directory::write_private(state_directory, TOKEN_KEYS, text.as_bytes())?;
    Ok(keys.len())
}

/// The shard key alone, for looking at a store without serving from it; also while a relay serves.
///
/// # Errors
/// [`IdentityError`] says which file is wrong and what to do about it.
pub fn read_shard_key(state_directory: &Path) -> Result<[u8; 32], IdentityError> {
    Ok(read_keys(state_directory, SHARD_KEY, SHARD_KEY_HEADER)?[0])
}

/// One call of [`Identity::open`].
struct Opening<'a> {
    nodes: Nodes,
    directory: &'a StateDirectory,
    endpoints: &'a [String],
    today: u32,
}

type Opened = Result<(Identity, Vec<Notice>), IdentityError>;

impl Opening<'_> {
    /// A new realm, or one that only its root key is left of. Files that a stopped first start has
    /// left behind are used; the record comes before the signing key.
    fn first(&self, root: Option<SigningPair>) -> Opened {
        let mut notices = Vec::new();
        let root = match root {
            Some(root) => root,
            None if self.directory.read(TOKEN_KEYS)?.is_some() => {
                return Err(IdentityError::Missing {
                    path: self.directory.file(REALM_RECORD),
                    beside: TOKEN_KEYS,
                });
            }
            None => {
                let root = SigningPair::generate();
                self.directory.write(ROOT_KEY, root.to_pem().as_bytes())?;
                notices.push(Notice::NewRealm {
                    realm: RealmId::of_root_key(&root.public()),
                    root_key: self.directory.file(ROOT_KEY),
                });
                root
            }
        };
        for (file, header) in [(TOKEN_KEYS, TOKEN_KEYS_HEADER), (SHARD_KEY, SHARD_KEY_HEADER)] {
            if self.directory.read(file)?.is_none() {
                let text = key_file::keys_to_text(header, &[key_file::generate()]);
                self.directory.write(file, text.as_bytes())?;
            }
        }
        let signing = SigningPair::generate();
        let record = record::first(root.public(), signing.public(), self.endpoints, self.today);
        let signed = self.sign(&root, &record)?;
        self.directory.write(SIGNING_KEY, signing.to_pem().as_bytes())?;
        self.finish(record.realm, signed, signing, notices)
    }

    /// A realm that has a record: signed again where that is needed and the root key is here.
    fn later(
        &self,
        root: Option<SigningPair>,
        signing: Option<SigningPair>,
        signed: SignedRealmRecord,
        record: RealmRecord,
    ) -> Opened {
        let root_key = self.directory.file(ROOT_KEY);
        if let Some(root) = &root
            && root.public() != record.root_key
        {
            return Err(IdentityError::OtherRealm {
                path: root_key,
                found: RealmId::of_root_key(&root.public()),
                expected: record.realm,
            });
        }
        let public = signing.as_ref().map(SigningPair::public);
        let need = record::need(&record, public.as_ref(), &self.endpoints_in(&record)?, self.today);
        match (need, root, signing) {
            (Need::Nothing, _, Some(signing)) => {
                self.finish(record.realm, signed, signing, Vec::new())
            }
            (Need::Endpoints, Some(root), Some(signing)) => {
                self.resign(&root, &record, signing, None, "the endpoints changed")
            }
            (Need::Endpoints, None, Some(signing)) => {
                let notice = Notice::EndpointsUnsigned { root_key };
                self.finish(record.realm, signed, signing, vec![notice])
            }
            (Need::RenewalBefore { last_day }, None, Some(signing)) => {
                let days = last_day - self.today;
                let notice = Notice::RenewalDue { days, root_key };
                self.finish(record.realm, signed, signing, vec![notice])
            }
            // Whoever put it out meant it: the root key in its reach is no reason to come back.
            (Need::Unlisted, ..) => {
                Err(IdentityError::PutOut { signing_key: self.directory.file(SIGNING_KEY) })
            }
            (Need::Expired { last_day }, None, _) => {
                Err(IdentityError::Expired { days: self.today - last_day, root_key })
            }
            (_, Some(root), _) => {
                let signing = SigningPair::generate();
                self.resign(&root, &record, signing, public.as_ref(), "a new signing key")
            }
            (_, None, _) => Err(IdentityError::NoSigningKey {
                signing_key: self.directory.file(SIGNING_KEY),
                root_key,
            }),
        }
    }

    /// What the record should name: this node's, or those of the others and this node's.
    fn endpoints_in(&self, record: &RealmRecord) -> Result<Vec<String>, IdentityError> {
        let is_alone = self.nodes == Nodes::One && self.directory.read(EXPORTED)?.is_none();
        Ok(match is_alone {
            true => self.endpoints.to_vec(),
            false => record::with_endpoints(record, self.endpoints),
        })
    }

    fn resign(
        &self,
        root: &SigningPair,
        record: &RealmRecord,
        signing: SigningPair,
        replaced: Option<&SigningKey>,
        why: &'static str,
    ) -> Opened {
        let endpoints = self.endpoints_in(record)?;
        let record = record::next(record, signing.public(), replaced, &endpoints, self.today);
        let signed = self.sign(root, &record)?;
        self.directory.write(SIGNING_KEY, signing.to_pem().as_bytes())?;
        let notice = Notice::Resigned { epoch: record.epoch, why };
        self.finish(record.realm, signed, signing, vec![notice])
    }

    /// Signs and stores a record: `realm 20 | signature 64 | record`.
    fn sign(
        &self,
        root: &SigningPair,
        record: &RealmRecord,
    ) -> Result<SignedRealmRecord, IdentityError> {
        let signed = sign_record(root, record)?;
        keep_record(self.directory.path(), &record.realm, &signed)?;
        Ok(signed)
    }

    fn finish(
        &self,
        realm: RealmId,
        record: SignedRealmRecord,
        signing: SigningPair,
        notices: Vec<Notice>,
    ) -> Opened {
        let tokens = token_keys(self.directory.path(), realm)?;
        let shard_key = read_keys(self.directory.path(), SHARD_KEY, SHARD_KEY_HEADER)?[0];
        let directory = self.directory.path().to_owned();
        let epoch = record.verify(&realm).map(|record| record.epoch).unwrap_or_default().into();
        let record = ArcSwap::from_pointee(record);
        Ok((Identity { realm, directory, record, epoch, signing, tokens, shard_key }, notices))
    }
}

fn sign_record(
    root: &SigningPair,
    record: &RealmRecord,
) -> Result<SignedRealmRecord, IdentityError> {
    let bytes = record.encode();
    let signature = root.sign(&statement::realm_record(&bytes));
    let signed = SignedRealmRecord { record: bytes, signature };
    // A record of our own making can only be too large.
    signed.verify(&record.realm).map_err(|_| IdentityError::EndpointsTooLong)?;
    Ok(signed)
}

fn keep_record(
    directory: &Path,
    realm: &RealmId,
    signed: &SignedRealmRecord,
) -> Result<(), IdentityError> {
    let file = [&realm.as_bytes()[..], signed.signature.as_bytes(), &signed.record];
    Ok(state_directory::write_private(directory, REALM_RECORD, &file.concat())?)
}

fn read_pair(directory: &StateDirectory, name: &str) -> Result<Option<SigningPair>, IdentityError> {
    read_pair_at(directory.path(), name)
}

fn read_pair_at(directory: &Path, name: &str) -> Result<Option<SigningPair>, IdentityError> {
    let path = directory.join(name);
    let Some(text) = state_directory::read_private(&path)? else { return Ok(None) };
    SigningPair::from_pem(&text).map(Some).map_err(|cause| IdentityError::KeyFile { path, cause })
}

fn read_keys(
    directory: &Path,
    name: &str,
    header: &'static str,
) -> Result<Vec<[u8; 32]>, IdentityError> {
    let path = directory.join(name);
    let Some(text) = state_directory::read_private(&path)? else {
        return Err(IdentityError::Missing { path, beside: REALM_RECORD });
    };
    key_file::keys_from_text(header, &text).map_err(|cause| IdentityError::KeyFile { path, cause })
}

fn token_keys(directory: &Path, realm: RealmId) -> Result<TokenKeys, IdentityError> {
    let keys = read_keys(directory, TOKEN_KEYS, TOKEN_KEYS_HEADER)?;
    TokenKeys::new(realm, &keys)
        .map_err(|cause| IdentityError::TokenKeys { path: directory.join(TOKEN_KEYS), cause })
}

fn read_record(
    directory: &Path,
) -> Result<Option<(SignedRealmRecord, RealmRecord)>, IdentityError> {
    let path = directory.join(REALM_RECORD);
    let Some(file) = state_directory::read_private(&path)? else { return Ok(None) };
    let damaged = |cause| IdentityError::Record { path: path.clone(), cause };
    // Too short a file fails as a field of the wrong length.
    let (realm, rest) = file.split_at(RealmId::LEN.min(file.len()));
    let (signature, record) = rest.split_at(Signature::LEN.min(rest.len()));
    let realm = RealmId::try_from(realm).map_err(|error| damaged(error.into()))?;
    let signature = Signature::try_from(signature).map_err(|error| damaged(error.into()))?;
    let signed = SignedRealmRecord { record: Bytes::copy_from_slice(record), signature };
    let record = signed.verify(&realm).map_err(damaged)?;
    Ok(Some((signed, record)))
}

#[cfg(test)]
mod tests;
