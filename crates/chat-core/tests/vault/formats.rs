//! Older and newer formats. What `version-1.sql` makes was made by the first version of this
//! program: it must open for ever.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use rusqlite::Connection;
use rusqlite::config::DbConfig;
use valise_chat_core::vault::{Opener, Vault, VaultError};

use crate::{Note, Place, insert, named, note, passphrase};

const VERSION_1: &str = include_str!("version-1.sql");

#[test]
fn a_profile_of_the_first_version_opens() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o700)).unwrap();
    place.raw().execute_batch(VERSION_1).unwrap();
    assert_eq!(Vault::opener(&place.path()).unwrap(), Opener::Passphrase, "it does not say");
    let mut vault = place.open();
    let ann = Note { parent: 7, due: 12, ..named("Ann", "of Ann") };
    let rows = vault.read(|tx| tx.all::<Note>()).unwrap();
    assert_eq!(rows, [(1, ann.clone()), (3, note("third"))]);
    assert_eq!(vault.read(|tx| tx.find::<Note>(b"Ann")).unwrap(), Some((1, ann)));
    assert_eq!(insert(&mut vault, &note("new")), 5, "the fourth was removed");
    drop(vault);
    assert_eq!(place.open().read(|tx| tx.all::<Note>()).unwrap().len(), 3);
}

/// Not even the log is touched: the newer program finds all as it was.
#[test]
fn a_newer_profile_is_refused_by_name_and_left_alone() {
    let place = Place::new();
    insert(&mut place.create(), &note("kept"));
    let connection: Connection = place.raw();
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    fs::remove_file(place.file("profile.db-shm")).ok();
    let before = place.files();
    assert!(before.iter().any(|(path, _)| path.ends_with("profile.db-wal")), "the log has it");
    let refused = Vault::open(&place.path(), &passphrase()).unwrap_err();
    assert!(matches!(refused, VaultError::Newer { found: 99, known: 1 }), "{refused:?}");
    assert!(refused.to_string().contains("newer program"));
    assert_eq!(place.files(), before);
}

#[test]
fn a_file_of_another_program_is_refused() {
    let place = Place::new();
    drop(place.create());
    for (content, why) in [
        (b"not a database, but long enough to be taken for one, perhaps".to_vec(), "no database"),
        (Vec::new(), "not of this program"),
    ] {
        fs::write(place.file("profile.db"), content).unwrap();
        let refused = Vault::open(&place.path(), &passphrase()).unwrap_err();
        assert!(matches!(refused, VaultError::Damaged(_)), "{refused:?}");
        assert!(refused.to_string().contains(why), "{refused}");
    }
    fs::remove_file(place.file("profile.db")).unwrap();
    place.raw().execute_batch("CREATE TABLE rows (x)").unwrap();
    let refused = Vault::open(&place.path(), &passphrase()).unwrap_err();
    assert!(refused.to_string().contains("not of this program"), "{refused}");
}
