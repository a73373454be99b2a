//! A realm that several nodes serve: what a further node is given, and which record is in force.
//! Every node has a signing key of its own; token keys and shard key are those of the realm. The root
//! key stays where it is.

use std::path::Path;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use data_encoding::HEXLOWER as HEX;
use valise_proto::limits::REALM_RECORD_LIST_MAX;
use valise_proto::{RealmRecord, Signature, SignedRealmRecord, SigningKey};

use super::key_file::SigningPair;
use super::{
    EXPORTED, Identity, IdentityError, REALM_RECORD, ROOT_KEY, SHARD_KEY, SIGNING_KEY,
    StateDirectory, StateError, TOKEN_KEYS, keep_record, read_pair_at, read_record, record,
    sign_record, state_directory,
};

const HEADER: &str = "valise node 1";
/// Of a node that is marked: what does not know the mark must not make one without it.
const MARKED: &str = "valise node 2";
/// The mark of a node whose realm was a supernode's: it serves a shard only where the shard's ledger
/// says so. A file with nothing in it.
const LEDGERS: &str = "ledgers";
/// Where a supernode keeps its mailboxes, in its state directory.
pub const STORE: &str = "store";
/// What a node is given, in this order.
const FILES: [&str; 4] = [REALM_RECORD, SIGNING_KEY, TOKEN_KEYS, SHARD_KEY];

/// How a record that is told compares with this node's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared {
    /// It is the same, or newer and in force from now on.
    InForce,
    /// This node's is newer: tell this one.
    Older(Vec<u8>),
    /// It is newer, and this node may no longer sign for the realm.
    Out {
        /// Its epoch.
        epoch: u64,
        /// It.
        record: SignedRealmRecord,
    },
    /// It is not a record of this realm.
    Foreign,
}

impl Identity {
    /// This node's signing key, as records list it.
    pub fn signing_key(&self) -> SigningKey {
        self.signing.public()
    }

    /// Compares a record (`signature 64 | record`; nothing where there is none) with the one in
    /// force. A newer one that lists this node is put into force and kept.
    ///
    /// # Errors
    /// [`IdentityError`] when it cannot be kept.
    pub fn compare(&self, told: &[u8], today: u32) -> Result<Compared, IdentityError> {
        let own = self.record.load_full();
        let own_epoch = self.epoch();
        let older = || {
            let bytes = [&own.signature.as_bytes()[..], &own.record].concat();
            Ok(Compared::Older(bytes))
        };
        if told.is_empty() {
            return older();
        }
        let Some((signed, record)) = self.read_told(told) else { return Ok(Compared::Foreign) };
        if record.epoch < own_epoch {
            return older();
        }
        if record.epoch == own_epoch {
            return Ok(Compared::InForce);
        }
        if !record.lists(&self.signing.public(), today) {
            return Ok(Compared::Out { epoch: record.epoch, record: signed });
        }
        keep_record(&self.directory, &self.realm, &signed)?;
        self.put_into_force(signed, record.epoch);
        Ok(Compared::InForce)
    }

    /// Keeps a genuine record for the next start. The one in force stays.
    ///
    /// # Errors
    /// [`IdentityError`] when it cannot be kept.
    pub fn keep(&self, signed: &SignedRealmRecord) -> Result<(), IdentityError> {
        keep_record(&self.directory, &self.realm, signed)
    }

    /// Puts the record of the state directory into force, where it is newer.
    ///
    /// # Errors
    /// [`IdentityError`] when it cannot be read.
    pub fn reread_record(&self) -> Result<(), IdentityError> {
        let Some((signed, record)) = read_record(&self.directory)? else { return Ok(()) };
        if record.realm == self.realm && record.epoch > self.epoch() {
            self.put_into_force(signed, record.epoch);
        }
        Ok(())
    }

    /// Whether the record in force lists this node's key, be it outdated.
    pub fn is_listed(&self) -> bool {
        let (record, own) = (self.record.load().verify(&self.realm), self.signing.public());
        record.is_ok_and(|record| record.relay_keys.iter().any(|relay| relay.key == own))
    }

    fn put_into_force(&self, signed: SignedRealmRecord, epoch: u64) {
        self.record.store(signed.into());
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    fn read_told(&self, told: &[u8]) -> Option<(SignedRealmRecord, RealmRecord)> {
        let (signature, record) = told.split_at_checked(Signature::LEN)?;
        let signature = Signature::try_from(signature).ok()?;
        let signed = SignedRealmRecord { record: Bytes::copy_from_slice(record), signature };
        let record = signed.verify(&self.realm).ok()?;
        Some((signed, record))
    }
}

/// What one more node is given: a new signing key, which the realm's record lists from now on, and
/// the keys that all nodes share. Needs the root key in the state directory; it is not in the text.
///
/// # Errors
/// [`IdentityError`] says which file is wrong or missing; nothing was changed.
pub fn export_node(
    directory: &Path,
    endpoint: &str,
    today: u32,
) -> Result<(SigningKey, String), IdentityError> {
    let (root, earlier) = root_and_record(directory)?;
    let in_force = earlier.relay_keys.iter().filter(|relay| today <= relay.last_day).count();
    if in_force >= REALM_RECORD_LIST_MAX {
        return Err(IdentityError::NoRoom);
    }
    let signing = SigningPair::generate();
    let endpoints = record::with_endpoints(&earlier, &[endpoint.to_owned()]);
    let record = record::next(&earlier, signing.public(), None, &endpoints, today);
    let signed = sign_record(&root, &record)?;
    let file = [&record.realm.as_bytes()[..], signed.signature.as_bytes(), &signed.record].concat();
    let shared = |name: &'static str| {
        let path = directory.join(name);
        let text = state_directory::read_private(&path)?;
        text.ok_or(IdentityError::Missing { path, beside: REALM_RECORD })
    };
    let parts = [file, signing.to_pem().into_bytes(), shared(TOKEN_KEYS)?, shared(SHARD_KEY)?];
    // What this relay serves by itself must not be served by a node beside it, before it has moved.
    let marked = directory.join(STORE).is_dir() || directory.join(LEDGERS).exists();
    let mut text = format!("{}\n", if marked { MARKED } else { HEADER });
    for (name, part) in FILES.iter().zip(&parts) {
        text.push_str(&format!("{name} {}\n", HEX.encode(part)));
    }
    state_directory::write_private(directory, EXPORTED, &[])?;
    keep_record(directory, &record.realm, &signed)?;
    Ok((signing.public(), text))
}

/// Makes a state directory of what [`export_node`] gave.
///
/// # Errors
/// [`IdentityError`] when the text is damaged, or the directory has a realm already.
pub fn import_node(directory: &StateDirectory, text: &str) -> Result<(), IdentityError> {
    if read_record(directory.path())?.is_some() || directory.read(TOKEN_KEYS)?.is_some() {
        return Err(IdentityError::Occupied(directory.path().to_owned()));
    }
    let mut lines = text.lines();
    let marked = match lines.next() {
        Some(HEADER) => false,
        Some(MARKED) => true,
        _ => return Err(IdentityError::NodeFile),
    };
    let mut parts = Vec::new();
    for name in FILES {
        let line = lines.next().and_then(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let part = line.and_then(|hex| HEX.decode(hex.as_bytes()).ok());
        parts.push((name, part.ok_or(IdentityError::NodeFile)?));
    }
    if marked {
        directory.write(LEDGERS, &[])?;
    }
    // The record last: with it, the directory has a realm.
    for (name, part) in parts.iter().rev() {
        directory.write(name, part)?;
    }
    Ok(())
}

/// Whether a node serves by ledgers alone: its realm was a supernode's.
///
/// # Errors
/// [`StateError`] when the state directory cannot be read.
pub fn serves_by_ledgers(directory: &StateDirectory) -> Result<bool, StateError> {
    Ok(directory.read(LEDGERS)?.is_some())
}

/// The signing key of the relay with this state directory, as records list it.
///
/// # Errors
/// [`IdentityError`] where there is none.
pub fn node_key(directory: &Path) -> Result<SigningKey, IdentityError> {
    let path = directory.join(SIGNING_KEY);
    let pair = read_pair_at(directory, SIGNING_KEY)?;
    Ok(pair.ok_or(IdentityError::Missing { path, beside: REALM_RECORD })?.public())
}

/// Signs a record without this node's key and, where one is given, its endpoint.
///
/// # Errors
/// [`IdentityError`] says what is missing; nothing was changed.
pub fn retire_node(
    directory: &Path,
    key: &SigningKey,
    endpoint: Option<&str>,
    today: u32,
) -> Result<u64, IdentityError> {
    let (root, earlier) = root_and_record(directory)?;
    let mut without = earlier.clone();
    without.relay_keys.retain(|relay| relay.key != *key);
    without.endpoints.retain(|other| Some(other.as_str()) != endpoint);
    let Some(first) = without.relay_keys.first().map(|relay| relay.key) else {
        return Err(IdentityError::NoSuchNode);
    };
    if without.relay_keys.len() == earlier.relay_keys.len() {
        return Err(IdentityError::NoSuchNode);
    }
    let record = record::next(&without, first, None, &without.endpoints, today);
    let signed = sign_record(&root, &record)?;
    keep_record(directory, &record.realm, &signed)?;
    Ok(record.epoch)
}

fn root_and_record(directory: &Path) -> Result<(SigningPair, RealmRecord), IdentityError> {
    let Some((_, record)) = read_record(directory)? else {
        return Err(IdentityError::NoRealm(directory.into()));
    };
    let root = read_pair_at(directory, ROOT_KEY)?;
    let root = root.ok_or_else(|| IdentityError::NoRootKey(directory.join(ROOT_KEY)))?;
    if root.public() != record.root_key {
        return Err(IdentityError::NoRootKey(directory.join(ROOT_KEY)));
    }
    Ok((root, record))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Nodes;

    const TODAY: u32 = 20_700;

    fn open(dir: &Path, endpoint: &str) -> Identity {
        let directory = StateDirectory::open(dir).unwrap();
        let endpoints = [endpoint.to_owned()];
        Identity::open_as(Nodes::Many, &directory, &endpoints, TODAY).unwrap().0
    }

    fn import(dir: &Path, text: &str) -> Result<(), IdentityError> {
        import_node(&StateDirectory::open(dir).unwrap(), text)
    }

    fn told(identity: &Identity) -> Vec<u8> {
        let record = identity.record();
        [&record.signature.as_bytes()[..], &record.record].concat()
    }

    #[test]
    fn a_further_node_has_a_key_of_its_own_and_no_root_key() {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let one = open(first.path(), "a.example:1");
        let (key, text) = export_node(first.path(), "b.example:2", TODAY).unwrap();
        let root = std::fs::read(first.path().join(ROOT_KEY)).unwrap();
        assert!(!text.contains(&HEX.encode(&root)));
        import(second.path(), &text).unwrap();
        assert!(!second.path().join(ROOT_KEY).exists());
        let other = open(second.path(), "b.example:2");
        assert_eq!((other.realm(), other.signing_key()), (one.realm(), key));
        assert_eq!(node_key(second.path()).unwrap(), key);
        assert!(matches!(node_key(Path::new("/nowhere")), Err(IdentityError::Missing { .. })));
        assert_eq!(other.shard_key(), one.shard_key());
        let record = other.record().verify(&one.realm()).unwrap();
        assert_eq!(record.endpoints, ["a.example:1", "b.example:2"]);
        assert!(record.lists(&key, TODAY) && record.lists(&one.signing_key(), TODAY));
        // The first one keeps both when it is started again.
        let again = open(first.path(), "a.example:1");
        assert_eq!(again.record().verify(&one.realm()).unwrap(), record);
    }

    /// A supernode whose realm has moved, say: started once more, it must not take the realm's clients back.
    #[test]
    fn who_was_put_out_stays_out_with_the_root_key_at_hand() {
        let first = tempfile::tempdir().unwrap();
        let one = open(first.path(), "a.example:1");
        export_node(first.path(), "b.example:2", TODAY).unwrap();
        let (own, endpoint) = (one.signing_key(), Some("a.example:1"));
        drop(one);
        retire_node(first.path(), &own, endpoint, TODAY).unwrap();
        let before = std::fs::read(first.path().join(REALM_RECORD)).unwrap();
        let state = StateDirectory::open(first.path()).unwrap();
        for nodes in [Nodes::One, Nodes::Many] {
            let opened = Identity::open_as(nodes, &state, &["a.example:1".to_owned()], TODAY);
            let error = opened.unwrap_err();
            assert!(matches!(error, IdentityError::PutOut { .. }), "{error}");
        }
        assert_eq!(std::fs::read(first.path().join(REALM_RECORD)).unwrap(), before);
        // By mistake, it says, and how to mend it.
        std::fs::remove_file(first.path().join(SIGNING_KEY)).unwrap();
        let again = Identity::open(&state, &["a.example:1".to_owned()], TODAY).unwrap().0;
        assert!(again.is_listed());
    }

    /// Before it is told that its realm moves, and after its operator has taken that out again.
    #[test]
    fn a_supernode_keeps_the_endpoints_of_nodes_that_were_made_of_it() {
        let first = tempfile::tempdir().unwrap();
        let endpoints = |host: &str| {
            let state = StateDirectory::open(first.path()).unwrap();
            let (one, _) = Identity::open(&state, &[host.to_owned()], TODAY).unwrap();
            one.record().verify(&one.realm()).unwrap().endpoints
        };
        assert_eq!(endpoints("a.example:1"), ["a.example:1"]);
        assert_eq!(endpoints("a.example:2"), ["a.example:2"], "it is alone");
        export_node(first.path(), "b.example:2", TODAY).unwrap();
        assert_eq!(endpoints("a.example:2"), ["a.example:2", "b.example:2"]);
    }

    #[test]
    fn a_record_that_is_full_takes_no_further_node_and_loses_none() {
        let first = tempfile::tempdir().unwrap();
        let one = open(first.path(), "a.example:1");
        for _ in 1..REALM_RECORD_LIST_MAX {
            export_node(first.path(), "b.example:2", TODAY).unwrap();
        }
        let full = export_node(first.path(), "b.example:2", TODAY);
        assert!(matches!(full, Err(IdentityError::NoRoom)));
        one.reread_record().unwrap();
        assert!(one.is_listed());
    }

    #[test]
    fn a_damaged_or_a_second_import_is_refused() {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let _ = open(first.path(), "a.example:1");
        let (_, text) = export_node(first.path(), "b.example:2", TODAY).unwrap();
        for damaged in ["", "valise node 1\n", &text[..text.len() / 2]] {
            assert!(matches!(import(second.path(), damaged), Err(IdentityError::NodeFile)));
        }
        import(second.path(), &text).unwrap();
        assert!(matches!(import(second.path(), &text), Err(IdentityError::Occupied(_))));
        std::fs::remove_file(first.path().join(ROOT_KEY)).unwrap();
        let refused = export_node(first.path(), "c.example:3", TODAY);
        assert!(matches!(refused, Err(IdentityError::NoRootKey(_))));
    }

    #[test]
    fn a_node_made_of_a_supernode_is_marked_and_so_are_those_made_of_it() {
        let marked_of = |prepare: &dyn Fn(&Path)| {
            let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
            drop(open(first.path(), "a.example:1"));
            prepare(first.path());
            let (_, text) = export_node(first.path(), "b.example:2", TODAY).unwrap();
            import(second.path(), &text).unwrap();
            serves_by_ledgers(&StateDirectory::open(second.path()).unwrap()).unwrap()
        };
        assert!(!marked_of(&|_| {}));
        assert!(marked_of(&|path| std::fs::create_dir(path.join(STORE)).unwrap()));
        assert!(marked_of(&|path| std::fs::write(path.join(LEDGERS), []).unwrap()));
    }

    #[test]
    fn the_newest_record_is_in_force_for_whom_it_lists() {
        let [first, second] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let one = open(first.path(), "a.example:1");
        let earlier = told(&one);
        assert_eq!(one.compare(&[], TODAY).unwrap(), Compared::Older(earlier.clone()));
        assert_eq!(one.compare(&earlier, TODAY).unwrap(), Compared::InForce);
        let (key, text) = export_node(first.path(), "b.example:2", TODAY).unwrap();
        import(second.path(), &text).unwrap();
        let other = open(second.path(), "b.example:2");
        assert_eq!(one.compare(&told(&other), TODAY).unwrap(), Compared::InForce);
        assert_eq!(told(&one), told(&other), "it is in force, and kept");
        assert_eq!(other.compare(&earlier, TODAY).unwrap(), Compared::Older(told(&other)));
        // Without the other.
        let epoch = retire_node(first.path(), &key, Some("b.example:2"), TODAY).unwrap();
        assert!(one.is_listed());
        one.reread_record().unwrap();
        assert!(one.is_listed());
        assert_eq!(one.epoch(), epoch);
        let record = SignedRealmRecord::clone(&one.record());
        assert_eq!(other.compare(&told(&one), TODAY).unwrap(), Compared::Out { epoch, record });
        assert!(matches!(
            retire_node(first.path(), &one.signing_key(), None, TODAY),
            Err(IdentityError::NoSuchNode)
        ));
        // Not of this realm, or not signed.
        let mut forged = told(&one);
        forged[0] ^= 1;
        assert_eq!(one.compare(&forged, TODAY).unwrap(), Compared::Foreign);
        assert_eq!(one.compare(&[1], TODAY).unwrap(), Compared::Foreign);
    }
}
