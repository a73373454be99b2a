//! A profile's store from the outside: typed rows, what the disk shows and what it may change, the
//! lock, and processes that are killed.

// A test fails by panicking. The methods of a transaction are tied to its lifetime, closures are not.
#![allow(clippy::unwrap_used)]
#![allow(clippy::redundant_closure_for_method_calls)]

mod directory;
mod disk;
mod formats;
mod killed;
mod passphrases;
mod rows;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use valise_chat_core::vault::{Cost, Passphrase, Record, Vault, VaultError};

/// Two kinds with the same content.
macro_rules! kind {
    ($name:ident, $kind:literal) => {
        #[derive(Clone, PartialEq, prost::Message)]
        struct $name {
            #[prost(int64, tag = "1")]
            parent: i64,
            #[prost(bytes = "vec", tag = "2")]
            name: Vec<u8>,
            #[prost(int64, tag = "3")]
            due: i64,
            #[prost(string, tag = "4")]
            text: String,
        }

        impl Record for $name {
            const KIND: u8 = $kind;

            fn parent(&self) -> i64 {
                self.parent
            }

            fn lookup(&self) -> Option<Vec<u8>> {
                (!self.name.is_empty()).then(|| self.name.clone())
            }

            fn due(&self) -> Option<i64> {
                (self.due > 0).then_some(self.due)
            }
        }
    };
}

kind!(Note, 200);
kind!(Other, 201);

/// A note with a text and nothing else.
fn note(text: &str) -> Note {
    Note { text: text.to_owned(), ..Note::default() }
}

fn named(name: &str, text: &str) -> Note {
    Note { name: name.into(), ..note(text) }
}

/// A place for a profile.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("profile")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    fn create(&self) -> Vault {
        Vault::create(&self.path(), &passphrase(), Cost::CHEAPEST).unwrap()
    }

    fn open(&self) -> Vault {
        Vault::open(&self.path(), &passphrase()).unwrap()
    }

    /// The database as anybody with the disk can use it. The vault must be closed.
    fn raw(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.file("profile.db")).unwrap()
    }

    /// All files and what is in them, in order of their names.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let entries = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> =
            entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
        files.sort();
        files
    }

    /// Whether any file has these bytes.
    fn shows(&self, bytes: &[u8]) -> bool {
        self.files().iter().any(|(_, content)| content.windows(bytes.len()).any(|at| at == bytes))
    }
}

fn passphrase() -> Passphrase {
    Passphrase::from("correct horse")
}

/// One transaction that only fails if the vault does.
fn insert<T: Record>(vault: &mut Vault, record: &T) -> i64 {
    vault.write::<_, VaultError>(|tx| tx.insert(record)).unwrap()
}

fn get<T: Record>(vault: &Vault, id: i64) -> Option<T> {
    vault.read::<_, VaultError>(|tx| tx.get(id)).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}
