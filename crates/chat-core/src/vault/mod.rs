//! A profile on the disk: one SQLite database in a directory of its own, every row sealed, one
//! engine at a time.
//!
//! The disk sees how many rows of which kind there are, whose children they are, how long they are,
//! and when they are due; nothing of their content, and lookup keys only as keyed hashes. Whoever
//! can write to the disk can remove rows, or bring back a whole older profile; a row that was
//! changed, or put in another place, is refused as damaged.
//!
//! A random key seals the rows; the passphrase wraps that key. So changing the passphrase is quick,
//! and a copy of the profile that was made before still opens with the old one. The header says in
//! clear where the passphrase is: in somebody's head, in the system's keyring, or nowhere.

mod directory;
mod error;
mod file;
mod opener;
mod passphrase;
mod rows;
mod schema;
mod sealing;

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};

use directory::Directory;
use rows::RowKeys;
use sealing::Key;

pub use error::VaultError;
pub use file::{open_file, seal_file};
pub use opener::Opener;
pub use passphrase::{Cost, Passphrase};
pub use rows::{Record, Transaction};

/// Where the engine listens for front ends: a socket in the profile's directory.
pub const SOCKET: &str = "engine.sock";

const PURPOSE: &str = "valise profile key 1";

/// How long the log may keep what was replaced or removed while a profile is in use.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// An open profile. Its lock is held as long as this lives.
pub struct Vault {
    connection: Connection,
    keys: RowKeys,
    master: Key,
    sweep_at: Instant,
    /// What SQLite had counted at the last sweep.
    swept_changes: u64,
    // Last: the lock goes when the database is closed.
    _directory: Directory,
}

impl Vault {
    /// Makes an empty profile in a directory, which is made too.
    ///
    /// # Errors
    /// [`VaultError::Exists`], [`VaultError::Locked`], [`VaultError::Exposed`], and what the system
    /// says.
    pub fn create(
        directory: &Path,
        passphrase: &Passphrase,
        cost: Cost,
    ) -> Result<Self, VaultError> {
        Self::create_with(directory, passphrase, cost, |_| Ok::<(), VaultError>(()))
    }

    /// Makes a profile that has this from the start: there is the whole of it, or no profile. What
    /// an attempt leaves that was cut off goes with the next one.
    ///
    /// # Errors
    /// What `first` says, and as [`Self::create`].
    pub fn create_with<E: From<VaultError>>(
        directory: &Path,
        passphrase: &Passphrase,
        cost: Cost,
        first: impl FnOnce(&Transaction<'_>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let made = Directory::make(directory)?;
        if Directory::has_profile(directory) {
            return Err(VaultError::Exists(directory.to_owned()).into());
        }
        match Self::build(&made, passphrase, cost, first) {
            Ok(master) => Ok(Self::opened(made.finish()?.as_path(), master, made)?),
            Err(error) => {
                // That it could not be made is what has to be said.
                made.remove().ok();
                Err(error)
            }
        }
    }

    fn build<E: From<VaultError>>(
        directory: &Directory,
        passphrase: &Passphrase,
        cost: Cost,
        first: impl FnOnce(&Transaction<'_>) -> Result<(), E>,
    ) -> Result<Key, E> {
        let master = Key::random();
        let wrapped = sealing::wrap(&master, PURPOSE, passphrase, passphrase.cost(cost))?;
        let mut connection = schema::connect(&directory.unfinished()?)?;
        schema::create(&mut connection, &wrapped, passphrase.opener())?;
        transact(&mut connection, &RowKeys::new(&master), first)?;
        connection.close().map_err(|(_, error)| VaultError::from(error))?;
        Ok(master)
    }

    /// Opens a profile.
    ///
    /// # Errors
    /// [`VaultError::Missing`], [`VaultError::Locked`], [`VaultError::WrongPassphrase`],
    /// [`VaultError::Newer`], [`VaultError::Damaged`], and others.
    pub fn open(directory: &Path, passphrase: &Passphrase) -> Result<Self, VaultError> {
        let locked = Self::lock(directory)?;
        let database = locked.database();
        let wrapped = schema::wrapped_key(&schema::connect(&database)?)?;
        let master = sealing::unwrap(&wrapped, PURPOSE, passphrase)?;
        Self::opened(&database, master, locked)
    }

    /// Where the secret is that opens a profile. Needs none, and changes nothing.
    ///
    /// # Errors
    /// As [`Self::open`], but for the passphrase, and [`VaultError::Opener`].
    pub fn opener(directory: &Path) -> Result<Opener, VaultError> {
        let locked = Self::lock(directory)?;
        schema::opener(&schema::connect(&locked.database())?)
    }

    fn lock(directory: &Path) -> Result<Directory, VaultError> {
        let missing = || VaultError::Missing(directory.to_owned());
        if !Self::exists(directory) {
            return Err(missing());
        }
        let locked = Directory::lock(directory)?;
        // It may have been removed before we had the lock.
        if Self::exists(directory) { Ok(locked) } else { Err(missing()) }
    }

    fn opened(database: &Path, master: Key, directory: Directory) -> Result<Self, VaultError> {
        let mut connection = schema::connect(database)?;
        schema::prepare(&mut connection)?;
        let keys = RowKeys::new(&master);
        let swept_changes = connection.total_changes();
        let sweep_at = Instant::now() + SWEEP_EVERY;
        Ok(Self { connection, keys, master, sweep_at, swept_changes, _directory: directory })
    }

    /// Whether a directory holds a profile.
    pub fn exists(directory: &Path) -> bool {
        Directory::has_profile(directory)
    }

    /// One transaction: all of it is kept when this returns, or nothing.
    ///
    /// # Errors
    /// What `work` says, or [`VaultError`].
    pub fn write<R, E: From<VaultError>>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let result = transact(&mut self.connection, &self.keys, work)?;
        if self.sweep_at <= Instant::now() {
            // The commit stands in any case. What is not swept now is swept later.
            self.sweep().ok();
        }
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

    /// What was replaced or removed leaves the files now, instead of within a minute of use or when
    /// the profile is closed. It is about files only: flash memory may keep old blocks, sealed.
    ///
    /// # Errors
    /// [`VaultError`].
    pub fn sweep(&mut self) -> Result<(), VaultError> {
        self.sweep_at = Instant::now() + SWEEP_EVERY;
        let changes = self.connection.total_changes();
        if changes != self.swept_changes {
            schema::sweep(&self.connection)?;
            self.swept_changes = changes;
        }
        Ok(())
    }

    /// The profile opens with another passphrase from now on, and no more with the old one. Copies
    /// that were made before still do.
    ///
    /// # Errors
    /// [`VaultError::Cost`], and what the system says.
    pub fn change_passphrase(
        &mut self,
        passphrase: &Passphrase,
        cost: Cost,
    ) -> Result<(), VaultError> {
        let wrapped = sealing::wrap(&self.master, PURPOSE, passphrase, passphrase.cost(cost))?;
        schema::set_key(&self.connection, &wrapped, passphrase.opener())?;
        self.sweep()
    }

    /// Removes a profile, so that nothing of it stays. What other programs copied is not in our
    /// hands, and flash memory may keep old blocks: the passphrase is what protects those.
    ///
    /// # Errors
    /// [`VaultError::Locked`] while an engine has it, [`VaultError::Missing`].
    pub fn remove(directory: &Path) -> Result<(), VaultError> {
        // The remains of a profile that was half made or half removed go too.
        if !Directory::has_remains(directory) {
            return Err(VaultError::Missing(directory.to_owned()));
        }
        Directory::lock(directory)?.remove()
    }
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("database", &self.connection.path()).finish_non_exhaustive()
    }
}

fn transact<R, E: From<VaultError>>(
    connection: &mut Connection,
    keys: &RowKeys,
    work: impl FnOnce(&Transaction<'_>) -> Result<R, E>,
) -> Result<R, E> {
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(VaultError::from)?;
    let result = work(&Transaction::new(&transaction, keys))?;
    transaction.commit().map_err(VaultError::from)?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_in_use_is_swept_now_and_then() {
        let place = tempfile::TempDir::new().unwrap();
        let path = place.path().join("profile");
        let mut vault = Vault::create(&path, &Passphrase::from(""), Cost::CHEAPEST).unwrap();
        let log = || path.join("profile.db-wal").metadata().map_or(0, |log| log.len());
        let put = |tx: &Transaction<'_>| tx.put(1, &crate::wire::Member::default());
        vault.write(put).unwrap();
        assert!(log() > 0);
        vault.sweep_at = Instant::now();
        vault.write(put).unwrap();
        assert_eq!(log(), 0);
        vault.write(put).unwrap();
        assert!(log() > 0, "not after each write");
    }

    impl Record for crate::wire::Member {
        const KIND: u8 = 255;
    }
}
