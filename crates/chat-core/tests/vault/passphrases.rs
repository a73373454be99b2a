//! Which passphrase opens a profile.

use valise_chat_core::vault::{Cost, Opener, Passphrase, Vault, VaultError};

use crate::{Place, get, insert, note, passphrase};

#[test]
fn a_wrong_passphrase_is_told_and_changes_nothing() {
    let place = Place::new();
    let id = insert(&mut place.create(), &note("kept"));
    let before = place.files();
    for wrong in ["", "correct horse ", "Correct horse"] {
        let refused = Vault::open(&place.path(), &Passphrase::from(wrong));
        assert!(matches!(refused, Err(VaultError::WrongPassphrase)), "{wrong:?}");
    }
    assert_eq!(place.files(), before);
    assert_eq!(get(&place.open(), id), Some(note("kept")));
}

#[test]
fn the_passphrase_can_be_empty() {
    let place = Place::new();
    let empty = Passphrase::from("");
    drop(Vault::create(&place.path(), &empty, Cost::CHEAPEST).unwrap());
    assert!(Vault::open(&place.path(), &empty).is_ok());
}

/// The old passphrase opens nothing any more, and the key that it wrapped is in no file.
#[test]
fn a_changed_passphrase_replaces_the_old_one() {
    let place = Place::new();
    let id = insert(&mut place.create(), &note("kept"));
    let wrapped = header(&place);
    assert!(place.shows(&wrapped), "the scan finds what is there");
    let new = Passphrase::from("battery staple");
    let mut vault = place.open();
    let dearer = Cost { memory_kib: 64, passes: 2, lanes: 2 };
    vault.change_passphrase(&new, dearer).unwrap();
    assert!(!place.shows(&wrapped[28..60]), "not in the log either");
    drop(vault);
    assert_ne!(header(&place), wrapped);
    let old = Vault::open(&place.path(), &passphrase());
    assert!(matches!(old, Err(VaultError::WrongPassphrase)));
    let vault = Vault::open(&place.path(), &new).unwrap();
    assert_eq!(get(&vault, id), Some(note("kept")));
}

#[test]
fn a_cost_that_nobody_can_pay_is_refused() {
    let place = Place::new();
    let cost = Cost { memory_kib: u32::MAX, passes: 1, lanes: 1 };
    let refused = Vault::create(&place.path(), &passphrase(), cost);
    assert!(matches!(refused, Err(VaultError::Cost)));
    assert!(!place.path().exists());
    let mut vault = place.create();
    assert!(matches!(vault.change_passphrase(&passphrase(), cost), Err(VaultError::Cost)));
    drop(vault);
    drop(place.open());
}

/// Damage of the header is not taken for a wrong passphrase.
#[test]
fn a_damaged_header_is_told_from_a_wrong_passphrase() {
    let place = Place::new();
    drop(place.create());
    let whole = header(&place);
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1 << (at % 8);
        set_header(&place, &changed);
        let opened = Vault::open(&place.path(), &passphrase());
        assert!(matches!(opened, Err(VaultError::Damaged(_))), "byte {at}: {opened:?}");
    }
    for other in [&whole[1..], &[]] {
        set_header(&place, other);
        let opened = Vault::open(&place.path(), &passphrase());
        assert!(matches!(opened, Err(VaultError::Damaged(_))), "{opened:?}");
    }
    place.raw().execute("DELETE FROM header", []).unwrap();
    let opened = Vault::open(&place.path(), &passphrase());
    assert!(matches!(opened, Err(VaultError::Damaged(_))), "{opened:?}");
}

/// A front end asks for the right secret, and needs none to know which.
#[test]
fn a_profile_says_where_its_secret_is() {
    let place = Place::new();
    let missing = Vault::opener(&place.path());
    assert!(matches!(missing, Err(VaultError::Missing(_))), "{missing:?}");
    let mut vault = place.create();
    assert!(matches!(Vault::opener(&place.path()), Err(VaultError::Locked(_))));
    let keyring = Passphrase::from_keyring("3f".to_owned(), "of the keyring");
    for (secret, opener) in [
        (passphrase(), Opener::Passphrase),
        (keyring, Opener::Keyring("3f".to_owned())),
        (Passphrase::from(""), Opener::Nothing),
        (passphrase(), Opener::Passphrase),
    ] {
        vault.change_passphrase(&secret, Cost::CHEAPEST).unwrap();
        drop(vault);
        assert_eq!(Vault::opener(&place.path()).unwrap(), opener);
        vault = Vault::open(&place.path(), &secret).unwrap();
    }
}

/// Nobody remembers it, so nobody guesses it: to open such a profile takes no time.
#[test]
fn a_secret_of_the_keyring_is_not_made_dear() {
    let place = Place::new();
    let secret = Passphrase::from_keyring("3f".to_owned(), "of the keyring");
    let dear = Cost { memory_kib: 64, passes: 2, lanes: 2 };
    drop(Vault::create(&place.path(), &secret, dear).unwrap());
    assert_eq!(header(&place)[..4], Cost::CHEAPEST.memory_kib.to_be_bytes());
    assert_eq!(Vault::opener(&place.path()).unwrap(), Opener::Keyring("3f".to_owned()));
    let same = Passphrase::from("of the keyring");
    assert!(Vault::open(&place.path(), &same).is_ok(), "what it is called opens nothing");
}

/// The hint is no lock: a changed one is not obeyed against the passphrase.
#[test]
fn a_hint_that_nobody_knows_keeps_nobody_out() {
    let place = Place::new();
    drop(place.create());
    let sql = "UPDATE header SET value = CAST('token' AS BLOB) WHERE name = 'opener'";
    place.raw().execute(sql, []).unwrap();
    assert!(matches!(Vault::opener(&place.path()), Err(VaultError::Opener)));
    drop(place.open());
}

fn header(place: &Place) -> Vec<u8> {
    let sql = "SELECT value FROM header WHERE name = 'key'";
    place.raw().query_row(sql, [], |row| row.get(0)).unwrap()
}

fn set_header(place: &Place, wrapped: &[u8]) {
    place.raw().execute("UPDATE header SET value = ?1 WHERE name = 'key'", [wrapped]).unwrap();
}
