use std::fs;
use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;
use valise_proto::MailboxId;
use valise_proto::TokenKind;

use super::*;

const TODAY: u32 = 20_700;

fn here() -> Vec<String> {
    vec!["relay.example:443".to_owned()]
}

fn there() -> Vec<String> {
    vec!["elsewhere.example:443".to_owned()]
}

fn open(dir: &TempDir, endpoints: &[String], today: u32) -> Opened {
    let directory = StateDirectory::open(dir.path()).unwrap();
    Identity::open(&directory, endpoints, today)
}

/// A state directory after its first start.
fn started() -> (TempDir, Identity) {
    let dir = tempfile::tempdir().unwrap();
    let (identity, _) = open(&dir, &here(), TODAY).unwrap();
    (dir, identity)
}

/// The same, with the root key moved away.
fn rootless() -> (TempDir, Identity, Vec<u8>) {
    let (dir, identity) = started();
    let root = fs::read(dir.path().join(ROOT_KEY)).unwrap();
    fs::remove_file(dir.path().join(ROOT_KEY)).unwrap();
    (dir, identity, root)
}

fn put(dir: &TempDir, name: &str, bytes: &[u8]) {
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn record_of(identity: &Identity) -> RealmRecord {
    identity.record().verify(&identity.realm()).unwrap()
}

#[test]
fn a_first_start_makes_a_realm_and_says_where_its_root_key_is() {
    let dir = tempfile::tempdir().unwrap();
    let (identity, notices) = open(&dir, &here(), TODAY).unwrap();
    let root_key = dir.path().join(ROOT_KEY);
    assert_eq!(notices, [Notice::NewRealm { realm: identity.realm(), root_key }]);
    assert!(notices[0].to_string().contains("move it"), "{}", notices[0]);
    for file in [ROOT_KEY, SIGNING_KEY, TOKEN_KEYS, SHARD_KEY, REALM_RECORD] {
        let mode = fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{file}");
    }
    let record = record_of(&identity);
    assert_eq!(record.endpoints, here());
    assert_eq!(record.relay_keys[0].last_day, TODAY + 400);
}

#[test]
fn a_welcome_verifies_on_its_channel_only() {
    let (_dir, identity) = started();
    let (channel, nonce) = (Channel::new([1; 32]), Nonce::new([2; 32]));
    let welcome = identity.welcome(&channel, nonce);
    let record = welcome.realm_record.verify(&identity.realm()).unwrap();
    assert!(record.lists(&welcome.signing_key, TODAY));
    let said = |channel: &Channel, nonce: &Nonce| {
        let realm = identity.realm();
        let statement =
            statement::welcome(&realm, channel, nonce, &welcome.versions, welcome.features);
        welcome.signing_key.verifies(&statement, &welcome.signature)
    };
    assert!(said(&channel, &nonce));
    assert!(!said(&Channel::new([3; 32]), &nonce));
    assert!(!said(&channel, &Nonce::new([3; 32])));
    assert_eq!((welcome.versions.as_slice(), welcome.features), (&[1][..], 0));
}

#[test]
fn later_starts_need_no_root_key_and_change_nothing() {
    let (dir, first, _) = rootless();
    let token = first.tokens().seal(TokenKind::Member, &MailboxId::new([1; 16]), 30_000, 0);
    let (later, notices) = open(&dir, &here(), TODAY + 1).unwrap();
    assert_eq!(notices, []);
    assert_eq!(later.record(), first.record());
    assert_eq!(later.shard_key(), first.shard_key());
    assert!(later.tokens().open(&token).is_some());
}

#[test]
fn changed_endpoints_are_signed_again_if_the_root_key_is_here() {
    let (dir, first) = started();
    let (later, notices) = open(&dir, &there(), TODAY).unwrap();
    let (before, after) = (record_of(&first), record_of(&later));
    assert_eq!(after.epoch, before.epoch + 1);
    assert_eq!(after.endpoints, there());
    assert_eq!(after.relay_keys, before.relay_keys, "the signing key stays");
    let why = "the endpoints changed";
    assert_eq!(notices, [Notice::Resigned { epoch: after.epoch, why }]);
    let (_, notices) = open(&dir, &there(), TODAY).unwrap();
    assert_eq!(notices, [], "once");
}

#[test]
fn changed_endpoints_without_the_root_key_are_a_notice() {
    let (dir, first, _) = rootless();
    let (later, notices) = open(&dir, &there(), TODAY).unwrap();
    assert_eq!(later.record(), first.record());
    assert!(matches!(notices[..], [Notice::EndpointsUnsigned { .. }]), "{notices:?}");
}

#[test]
fn a_key_past_half_its_life_is_renewed_or_announced() {
    let (dir, first, root) = rootless();
    let (_, notices) = open(&dir, &here(), TODAY + 201).unwrap();
    assert!(matches!(notices[..], [Notice::RenewalDue { days: 199, .. }]), "{notices:?}");

    put(&dir, ROOT_KEY, &root);
    let (renewed, _) = open(&dir, &there(), TODAY + 201).unwrap();
    let record = record_of(&renewed);
    assert_eq!(record.endpoints, there());
    assert_eq!(record.relay_keys[0].last_day, TODAY + 601);
    let welcome = renewed.welcome(&Channel::new([1; 32]), Nonce::new([2; 32]));
    assert_eq!(record.relay_keys[0].key, welcome.signing_key);
    assert_ne!(welcome.signing_key, first.signing.public());
}

#[test]
fn an_expired_key_stops_the_start_until_the_root_key_is_back() {
    let (dir, _, root) = rootless();
    let error = open(&dir, &here(), TODAY + 403).unwrap_err().to_string();
    assert!(error.contains("ended 3 days ago") && error.contains(ROOT_KEY), "{error}");
    put(&dir, ROOT_KEY, &root);
    let ended = fs::read(dir.path().join(SIGNING_KEY)).unwrap();
    let (_, notices) = open(&dir, &here(), TODAY + 403).unwrap();
    assert_eq!(notices.len(), 1);
    // A stop before the new key was written: it is done again.
    put(&dir, SIGNING_KEY, &ended);
    let (renewed, _) = open(&dir, &here(), TODAY + 403).unwrap();
    assert!(record_of(&renewed).lists(&renewed.signing.public(), TODAY + 403));
    fs::remove_file(dir.path().join(ROOT_KEY)).unwrap();
    open(&dir, &here(), TODAY + 404).unwrap();
}

#[test]
fn a_first_start_may_stop_anywhere() {
    // In the order of writing; each start goes on from what the one before it left.
    for kept in 1..=4 {
        let (dir, first) = started();
        let written = [ROOT_KEY, TOKEN_KEYS, SHARD_KEY, REALM_RECORD, SIGNING_KEY];
        for name in &written[kept..] {
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        let (again, _) = open(&dir, &here(), TODAY + 1).unwrap();
        assert_eq!(again.realm(), first.realm(), "{kept} files");
        assert!(record_of(&again).epoch > record_of(&first).epoch);
        assert!(record_of(&again).lists(&again.signing.public(), TODAY));
    }
}

#[test]
fn a_renewal_may_stop_between_record_and_key() {
    let (dir, _) = started();
    let old_key = fs::read(dir.path().join(SIGNING_KEY)).unwrap();
    let (renewed, _) = open(&dir, &here(), TODAY + 250).unwrap();
    put(&dir, SIGNING_KEY, &old_key);
    fs::remove_file(dir.path().join(ROOT_KEY)).unwrap();
    let (again, _) = open(&dir, &here(), TODAY + 250).unwrap();
    assert_ne!(again.signing.public(), renewed.signing.public());
    assert!(record_of(&again).lists(&again.signing.public(), TODAY + 250));
}

#[test]
fn missing_files_are_named() {
    let cases = [
        (REALM_RECORD, SIGNING_KEY),
        (TOKEN_KEYS, REALM_RECORD),
        (SHARD_KEY, REALM_RECORD),
        (SIGNING_KEY, ROOT_KEY),
    ];
    for (file, also_named) in cases {
        let (dir, ..) = rootless();
        fs::remove_file(dir.path().join(file)).unwrap();
        let error = open(&dir, &here(), TODAY).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains(also_named), "{error}");
    }
    let (dir, ..) = rootless();
    fs::remove_file(dir.path().join(REALM_RECORD)).unwrap();
    fs::remove_file(dir.path().join(SIGNING_KEY)).unwrap();
    let error = open(&dir, &here(), TODAY).unwrap_err().to_string();
    assert!(error.contains(REALM_RECORD) && error.contains(TOKEN_KEYS), "{error}");
}

#[test]
fn damaged_files_are_named_with_cause_and_fix() {
    for file in [ROOT_KEY, SIGNING_KEY, TOKEN_KEYS, SHARD_KEY, REALM_RECORD] {
        let (dir, _) = started();
        let bytes = fs::read(dir.path().join(file)).unwrap();
        for damaged in [&bytes[..0], &bytes[..10], &bytes[..bytes.len() - 4]] {
            put(&dir, file, damaged);
            let error = open(&dir, &here(), TODAY).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains("restore it"), "{error}");
        }
    }
}

#[test]
fn a_damaged_bit_of_the_record_is_found() {
    let (dir, _) = started();
    let bytes = fs::read(dir.path().join(REALM_RECORD)).unwrap();
    for i in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[i] ^= 1 << (i % 8);
        put(&dir, REALM_RECORD, &damaged);
        let error = open(&dir, &here(), TODAY).unwrap_err();
        assert!(matches!(error, IdentityError::Record { .. }), "byte {i}: {error}");
    }
}

#[test]
fn key_files_that_others_can_read_are_refused() {
    for file in [ROOT_KEY, SIGNING_KEY, TOKEN_KEYS, SHARD_KEY, REALM_RECORD] {
        let (dir, _) = started();
        let path = dir.path().join(file);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = open(&dir, &here(), TODAY).unwrap_err().to_string();
        assert!(error.contains(file) && error.contains("chmod"), "{error}");
    }
}

#[test]
fn another_realms_root_key_is_refused() {
    let (dir, _) = started();
    let (other, _) = started();
    put(&dir, ROOT_KEY, &fs::read(other.path().join(ROOT_KEY)).unwrap());
    let error = open(&dir, &here(), TODAY).unwrap_err();
    assert!(matches!(error, IdentityError::OtherRealm { .. }), "{error}");
}

#[test]
fn a_record_has_room_for_sixteen_endpoints() {
    let dir = tempfile::tempdir().unwrap();
    for count in [0, 17] {
        let error = open(&dir, &vec!["a:1".to_owned(); count], TODAY).unwrap_err();
        assert!(matches!(error, IdentityError::Endpoints(n) if n == count), "{error}");
    }
    let error = open(&dir, &vec!["a".repeat(300); 16], TODAY).unwrap_err();
    assert!(matches!(error, IdentityError::EndpointsTooLong), "{error}");
    assert!(open(&dir, &vec!["a:1".to_owned(); 16], TODAY).is_ok());
}

#[test]
fn token_keys_can_be_read_while_the_relay_runs() {
    let dir = tempfile::tempdir().unwrap();
    let directory = StateDirectory::open(dir.path()).unwrap();
    let error = read_token_keys(dir.path()).unwrap_err();
    assert!(matches!(error, IdentityError::NoRealm(_)), "{error}");
    let (identity, _) = Identity::open(&directory, &here(), TODAY).unwrap();
    let beside = read_token_keys(dir.path()).unwrap();
    let code = beside.seal(TokenKind::Join, &MailboxId::new([0; 16]), 30_000, 0);
    assert_eq!(identity.tokens().open(&code).unwrap().kind, TokenKind::Join);
}

#[test]
fn debug_shows_public_parts_only() {
    let (dir, identity) = started();
    let shown = format!("{identity:?}");
    assert!(shown.contains("realm") && !shown.contains("shard_key"), "{shown}");
    for file in [TOKEN_KEYS, SHARD_KEY] {
        let text = fs::read_to_string(dir.path().join(file)).unwrap();
        let key = text.lines().nth(1).unwrap().split(' ').nth(1).unwrap();
        assert!(!shown.contains(&key[..8]));
    }
}
