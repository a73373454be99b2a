//! A profile on the disk: one SQLite database in a directory of its own, every row sealed, one
//! engine at a time. The disk sees how many rows of which kind there are, how long they are, and
//! when they are due; nothing of their content.

mod rows;
mod schema;
mod sealing;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};
use rustix::fs::{FlockOperation, flock};

use rows::RowKeys;
use sealing::Key;

pub use rows::{Record, Transaction};
pub use sealing::{Cost, Passphrase, open_file, seal_file};

const DATABASE: &str = "profile.db";
const LOCK: &str = "lock";
/// Where the engine listens for front ends.
pub const SOCKET: &str = "engine.sock";
/// Everything a profile's directory may hold.
const FILES: &[&str] =
    &[DATABASE, "profile.db-wal", "profile.db-shm", "profile.db-journal", "profile.new", SOCKET, LOCK];

/// The profile could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is none.
    #[error("there is no profile in {0}: make one with `valise-chat init`")]
    Missing(PathBuf),
    /// There is one already.
    #[error("there is a profile in {0} already")]
    Exists(PathBuf),
    /// It does not open with this passphrase.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// Another engine has it.
    #[error("the profile in {0} is in use by another process: close it, or let it do the work")]
    Locked(PathBuf),
    /// It was written by a newer program.
    #[error("the profile has format {found}, this program knows up to {known}: use a newer program")]
    Newer {
        /// Its format.
        found: i64,
        /// The newest one we know.
        known: i64,
    },
    /// It is not what it was.
    #[error("the profile is damaged: {0}; restore it from an export")]
    Damaged(&'static str),
    /// A file could not be read or written.
    #[error("cannot use {path}: {error}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The database could not be read or written.
    #[error("the profile's database: {0}")]
    Database(#[from] rusqlite::Error),
}

/// An open profile. Its lock is held as long as this lives.
pub struct Vault {
    connection: Connection,
    keys: RowKeys,
    master: Key,
    _lock: File,
}

impl Vault {
    /// Makes a profile in a directory, which is made too.
    ///
    /// # Errors
    /// [`VaultError::Exists`] and others.
    pub fn create(
        directory: &Path,
        passphrase: &Passphrase,
        cost: Cost,
    ) -> Result<Self, VaultError> {
        let at = |error| VaultError::File { path: directory.to_owned(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at)?;
        let lock = lock(directory)?;
        if Self::exists(directory) {
            return Err(VaultError::Exists(directory.to_owned()));
        }
        // Under another name until it is whole: a half-made profile is none.
        let path = directory.join("profile.new");
        remove_file(&path)?;
        private_file(&path)?;
        let master = Key::random();
        let mut connection = Connection::open(&path)?;
        schema::create(&mut connection, &sealing::wrap(&master, passphrase, cost)?)?;
        connection.close().map_err(|(_, error)| error)?;
        let database = directory.join(DATABASE);
        fs::rename(&path, &database).map_err(at)?;
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(at)?;
        Self::opened(&database, master, lock)
    }

    /// Opens a profile.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn open(directory: &Path, passphrase: &Passphrase) -> Result<Self, VaultError> {
        if !Self::exists(directory) {
            return Err(VaultError::Missing(directory.to_owned()));
        }
        let lock = lock(directory)?;
        let database = directory.join(DATABASE);
        let mut connection = Connection::open(&database)?;
        let wrapped = schema::open(&mut connection)?;
        let master = sealing::unwrap(&wrapped, passphrase)?;
        drop(connection);
        Self::opened(&database, master, lock)
    }

    fn opened(database: &Path, master: Key, lock: File) -> Result<Self, VaultError> {
        let connection = Connection::open(database)?;
        schema::prepare(&connection)?;
        let keys = RowKeys::new(&master);
        Ok(Self { connection, keys, master, _lock: lock })
    }

    /// Whether a directory holds a profile.
    pub fn exists(directory: &Path) -> bool {
        directory.join(DATABASE).exists()
    }

    /// One transaction: all of it is kept when this returns, or nothing.
    ///
    /// # Errors
    /// What `work` says, or [`VaultError`].
    pub fn write<R, E: From<VaultError>>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(VaultError::from)?;
        let result = work(&Transaction::new(&transaction, &self.keys))?;
        transaction.commit().map_err(VaultError::from)?;
        Ok(result)
    }

    /// Reads; what `work` writes is not kept.
    ///
    /// # Errors
    /// What `work` says, or [`VaultError`].
    pub fn read<R, E: From<VaultError>>(
        &self,
        work: impl FnOnce(&Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let transaction = self.connection.unchecked_transaction().map_err(VaultError::from)?;
        work(&Transaction::new(&transaction, &self.keys))
    }

    /// The profile opens with another passphrase from now on.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn change_passphrase(
        &mut self,
        passphrase: &Passphrase,
        cost: Cost,
    ) -> Result<(), VaultError> {
        schema::set_key(&self.connection, &sealing::wrap(&self.master, passphrase, cost)?)
    }

    /// Removes a profile, so that nothing of it stays. What other programs copied is not in our
    /// hands, and flash memory may keep old blocks: the passphrase is what protects those.
    ///
    /// # Errors
    /// [`VaultError::Locked`] while an engine has it.
    pub fn remove(directory: &Path) -> Result<(), VaultError> {
        if !Self::exists(directory) {
            return Err(VaultError::Missing(directory.to_owned()));
        }
        let lock = lock(directory)?;
        for name in FILES {
            remove_file(&directory.join(name))?;
        }
        drop(lock);
        // A directory with files of somebody else stays.
        fs::remove_dir(directory).ok();
        Ok(())
    }
}

fn lock(directory: &Path) -> Result<File, VaultError> {
    let path = directory.join(LOCK);
    let at = |error| VaultError::File { path: path.clone(), error };
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = options.open(&path).map_err(at)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(VaultError::Locked(directory.to_owned())),
        Err(error) => Err(at(error.into())),
    }
}

/// An empty file that only its owner can read: SQLite takes its permissions for the others.
fn private_file(path: &Path) -> Result<(), VaultError> {
    let at = |error| VaultError::File { path: path.to_owned(), error };
    let mut options = OpenOptions::new();
    options.create_new(true).write(true).mode(0o600).open(path).map_err(at)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(at)
}

fn remove_file(path: &Path) -> Result<(), VaultError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(VaultError::File { path: path.to_owned(), error })
        }
        _ => Ok(()),
    }
}
