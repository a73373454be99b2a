//! A profile's directory: its lock, its files, who may look into it, and how nothing of it stays.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::{SOCKET, VaultError};

const DATABASE: &str = "profile.db";
/// What a profile is called until it is whole.
const UNFINISHED: &str = "profile.new";
const LOCK: &str = "lock";

/// Everything a profile's directory may hold beside the lock. The database is first, because
/// without it the others are nothing: its header has the key.
const FILES: &[&str] = &[
    DATABASE,
    "profile.db-wal",
    "profile.db-shm",
    "profile.db-journal",
    UNFINISHED,
    "profile.new-wal",
    "profile.new-shm",
    "profile.new-journal",
    SOCKET,
];

/// Permissions of users who are not the owner.
const OTHERS: u32 = 0o077;

/// A directory that this process alone works in, as long as this lives.
pub(super) struct Directory {
    path: PathBuf,
    lock: File,
}

impl Directory {
    /// Makes the directory, or takes an empty one, or one with files of somebody else.
    pub(super) fn make(path: &Path) -> Result<Self, VaultError> {
        let at = VaultError::at(path);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(&at)?;
        if fs::read_dir(path).map_err(&at)?.next().is_none() {
            fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(&at)?;
        }
        Self::lock(path)
    }

    /// Locks a directory that is there.
    pub(super) fn lock(path: &Path) -> Result<Self, VaultError> {
        let at = VaultError::at(path);
        if fs::metadata(path).map_err(&at)?.mode() & OTHERS != 0 {
            return Err(VaultError::Exposed(path.to_owned()));
        }
        let name = path.join(LOCK);
        let at = VaultError::at(&name);
        loop {
            let mut options = OpenOptions::new();
            options.create(true).truncate(false).write(true).mode(0o600);
            let file = options.open(&name).map_err(&at)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(VaultError::Locked(path.to_owned()));
                }
                Err(error) => return Err(at(error.into())),
            }
            // Who removes a profile removes its lock too. A lock that has no name any more keeps
            // nobody out.
            let held = file.metadata().map_err(&at)?;
            match fs::metadata(&name) {
                Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => {
                    return Ok(Self { path: path.to_owned(), lock: file });
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(at(error)),
            }
        }
    }

    /// Whether there is a whole profile.
    pub(super) fn has_profile(path: &Path) -> bool {
        path.join(DATABASE).exists()
    }

    /// Whether there is anything of a profile.
    pub(super) fn has_remains(path: &Path) -> bool {
        FILES.iter().any(|name| path.join(name).symlink_metadata().is_ok())
    }

    /// Where the profile is.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }

    /// An empty file for a profile to be made in. What stays of an earlier attempt goes: a log
    /// beside a database is part of it, whichever database it was written for.
    pub(super) fn unfinished(&self) -> Result<PathBuf, VaultError> {
        self.clear()?;
        let path = self.path.join(UNFINISHED);
        let mut options = OpenOptions::new();
        // SQLite gives its other files the permissions of this one.
        options
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(VaultError::at(&path))?;
        Ok(path)
    }

    /// What was made in [`Self::unfinished`] is the profile from now on, whatever happens.
    pub(super) fn finish(&self) -> Result<PathBuf, VaultError> {
        let (unfinished, database) = (self.path.join(UNFINISHED), self.database());
        File::open(&unfinished)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&unfinished, &database))
            .map_err(VaultError::at(&database))?;
        sync(&self.path)?;
        Ok(database)
    }

    /// Removes everything of a profile, and the directory if nothing else is in it.
    pub(super) fn remove(self) -> Result<(), VaultError> {
        self.clear()?;
        remove_file(&self.path.join(LOCK))?;
        sync(&self.path)?;
        match fs::remove_dir(&self.path) {
            // Files of somebody else are in it, or it is a mount point.
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::DirectoryNotEmpty | ErrorKind::ResourceBusy | ErrorKind::NotFound
                ) =>
            {
                Err(VaultError::at(&self.path)(error))
            }
            _ => Ok(()),
        }
    }

    fn clear(&self) -> Result<(), VaultError> {
        FILES.iter().try_for_each(|name| remove_file(&self.path.join(name)))
    }
}

impl Drop for Directory {
    /// A process that is just being started from this one may have the file open for a moment
    /// longer; the lock must not be.
    fn drop(&mut self) {
        flock(&self.lock, FlockOperation::Unlock).ok();
    }
}

fn remove_file(path: &Path) -> Result<(), VaultError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(VaultError::at(path)(error)),
        _ => Ok(()),
    }
}

/// Names in a directory last when this returns.
fn sync(path: &Path) -> Result<(), VaultError> {
    let synced: io::Result<()> = File::open(path).and_then(|directory| directory.sync_all());
    synced.map_err(VaultError::at(path))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    /// Whoever waits at the lock of a profile that is being removed must not end up with a lock
    /// that keeps nobody out.
    #[test]
    fn the_lock_holds_while_profiles_come_and_go() {
        let place = tempfile::TempDir::new().unwrap();
        fs::set_permissions(place.path(), Permissions::from_mode(0o700)).unwrap();
        // It stays, so that there is always a directory.
        fs::write(place.path().join("mine"), "").unwrap();
        let (inside, times) = (AtomicBool::new(false), AtomicU32::new(0));
        let give_up = Instant::now() + Duration::from_secs(60);
        let come_and_go = || {
            while times.load(Ordering::SeqCst) < 100 {
                assert!(Instant::now() < give_up, "{times:?} times only");
                match Directory::lock(place.path()) {
                    Ok(directory) => {
                        assert!(!inside.swap(true, Ordering::SeqCst), "two have the lock");
                        thread::sleep(Duration::from_micros(100));
                        inside.store(false, Ordering::SeqCst);
                        times.fetch_add(1, Ordering::SeqCst);
                        directory.remove().unwrap();
                    }
                    Err(error) => assert!(matches!(error, VaultError::Locked(_)), "{error}"),
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(come_and_go);
            }
        });
    }
}
