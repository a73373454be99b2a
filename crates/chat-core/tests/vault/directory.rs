//! One engine at a time, for its owner alone, and nothing stays of a removed profile.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use valise_chat_core::vault::{Cost, SOCKET, Vault, VaultError};

use crate::{Place, get, insert, mode, note, passphrase};

#[test]
fn a_profile_is_there_once_it_is_made() {
    let place = Place::new();
    assert!(!Vault::exists(&place.path()));
    let missing = Vault::open(&place.path(), &passphrase()).unwrap_err();
    assert!(matches!(&missing, VaultError::Missing(path) if *path == place.path()));
    assert!(!place.path().exists(), "looking for a profile makes nothing");
    let id = insert(&mut place.create(), &note("kept"));
    assert!(Vault::exists(&place.path()));
    let again = Vault::create(&place.path(), &passphrase(), Cost::CHEAPEST);
    assert!(matches!(again, Err(VaultError::Exists(_))));
    assert_eq!(get(&place.open(), id), Some(note("kept")));
}

#[test]
fn a_profile_is_whole_or_not_there() {
    let place = Place::new();
    let first = |vault: &Vault| get(vault, 1);
    let failed = Vault::create_with(&place.path(), &passphrase(), Cost::CHEAPEST, |tx| {
        tx.insert(&note("first"))?;
        Err(VaultError::Taken)
    });
    assert!(matches!(failed, Err(VaultError::Taken)));
    assert!(!place.path().exists(), "nothing stays of a profile that could not be made");
    let vault = Vault::create_with(&place.path(), &passphrase(), Cost::CHEAPEST, |tx| {
        tx.insert(&note("first")).map(drop)
    });
    assert_eq!(first(&vault.unwrap()), Some(note("first")));
    assert_eq!(first(&place.open()), Some(note("first")));
}

/// Files of a profile that was half made or half removed, the logs of databases that are no more
/// among them, do not get into the new one.
#[test]
fn remains_are_replaced() {
    let (place, older) = (Place::new(), Place::new());
    let mut vault = older.create();
    insert(&mut vault, &note("from an older profile"));
    fs::create_dir(place.path()).unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o700)).unwrap();
    let log = fs::read(older.file("profile.db-wal")).unwrap();
    assert!(!log.is_empty());
    for name in ["profile.db-wal", "profile.new-wal", "profile.new-journal", "profile.new"] {
        fs::write(place.file(name), &log).unwrap();
    }
    assert!(!Vault::exists(&place.path()));
    let mut vault = place.create();
    assert_eq!(insert(&mut vault, &note("new")), 1);
    drop(vault);
    assert_eq!(get(&place.open(), 1), Some(note("new")));
    assert!(place.files().iter().all(|(path, _)| !path.ends_with("profile.new")));
}

#[test]
fn a_second_engine_is_refused_while_the_first_lives() {
    let place = Place::new();
    let vault = place.create();
    let refused = [
        Vault::open(&place.path(), &passphrase()).unwrap_err(),
        Vault::create(&place.path(), &passphrase(), Cost::CHEAPEST).unwrap_err(),
        Vault::remove(&place.path()).unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(error, VaultError::Locked(_)), "{error:?}");
        let said = error.to_string();
        assert!(said.contains(place.path().to_str().unwrap()) && said.contains("close that one"));
    }
    drop(vault);
    drop(place.open());
    Vault::remove(&place.path()).unwrap();
}

/// A process that is being started has the files of the one that starts it for a moment, the lock's
/// among them. That must not keep anyone out.
#[test]
fn a_closed_profile_can_be_opened_while_processes_start() {
    let place = Place::new();
    drop(place.create());
    let end = Instant::now() + Duration::from_secs(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            while Instant::now() < end {
                Command::new("true").status().unwrap();
            }
        });
        while Instant::now() < end {
            drop(place.open());
        }
    });
}

#[test]
fn only_its_owner_can_look_into_it() {
    let place = Place::new();
    // An empty directory that others can look into is closed.
    fs::create_dir(place.path()).unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let mut vault = place.create();
    insert(&mut vault, &note("x"));
    assert_eq!(mode(&place.path()), 0o700);
    let files = place.files();
    assert!(files.iter().any(|(path, _)| path.ends_with("profile.db-wal")), "{files:?}");
    for (path, _) in files {
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    drop(vault);
    fs::set_permissions(place.path(), Permissions::from_mode(0o750)).unwrap();
    let exposed = Vault::open(&place.path(), &passphrase()).unwrap_err();
    assert!(matches!(exposed, VaultError::Exposed(_)));
    assert!(exposed.to_string().contains("chmod 700"));
}

#[test]
fn a_directory_with_other_files_is_not_closed_and_not_used() {
    let place = Place::new();
    fs::create_dir(place.path()).unwrap();
    fs::write(place.file("mine"), "").unwrap();
    fs::set_permissions(place.path(), Permissions::from_mode(0o755)).unwrap();
    let refused = Vault::create(&place.path(), &passphrase(), Cost::CHEAPEST);
    assert!(matches!(refused, Err(VaultError::Exposed(_))));
    assert_eq!(mode(&place.path()), 0o755);
    assert_eq!(place.files().len(), 1);
}

#[test]
fn nothing_stays_of_a_removed_profile() {
    let place = Place::new();
    let missing = Vault::remove(&place.path());
    assert!(matches!(missing, Err(VaultError::Missing(_))));
    drop(place.create());
    let socket = UnixListener::bind(place.file(SOCKET)).unwrap();
    // As if it had been killed: a log, and what an older attempt left.
    for name in ["profile.db-wal", "profile.db-shm", "profile.new", "profile.new-journal"] {
        fs::write(place.file(name), "x").unwrap();
    }
    Vault::remove(&place.path()).unwrap();
    drop(socket);
    assert!(!place.path().exists());
}

#[test]
fn files_of_somebody_else_stay() {
    let place = Place::new();
    drop(place.create());
    fs::write(place.file("notes.txt"), "mine").unwrap();
    Vault::remove(&place.path()).unwrap();
    let left: Vec<_> = place.files();
    assert_eq!(left, [(place.file("notes.txt"), b"mine".to_vec())]);
}
