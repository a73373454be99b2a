//! The state directory: the one place where a relay keeps anything. Readable by its owner alone,
//! used by one process at a time, and every file in it is either the old one or the new one.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";
const OTHERS: u32 = 0o077;

/// An open state directory. It belongs to this process until it is dropped.
#[derive(Debug)]
pub struct StateDirectory {
    path: PathBuf,
    /// The lock is the kernel's: it ends with the process, however that ends.
    _lock: File,
}

/// Why the state directory, or a file in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it.
    #[error(
        "the state directory {} is in use by another valise process; stop that one, or give this \
         one a directory of its own with --state-directory", .0.display()
    )]
    InUse(PathBuf),
    /// A file stands where the directory should be.
    #[error("{} is not a directory; choose another --state-directory", .0.display())]
    NotADirectory(PathBuf),
    /// Other users can get at it.
    #[error(
        "{path} can be opened by other users (mode {mode:04o}); if nobody else has read it, run: \
         chmod go= {path}"
    )]
    OpenToOthers {
        /// The file or directory.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl StateDirectory {
    /// Makes the directory if it is missing (0700, parents included) and takes its lock. One that is
    /// there and empty is closed to other users; one that holds something has to be closed already.
    ///
    /// # Errors
    /// [`StateError`] if another process has it, other users can open it, or the system refuses.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |action| move |source| StateError::Io { path: path.into(), action, source };
        if path.exists() && !path.is_dir() {
            return Err(StateError::NotADirectory(path.into()));
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed("make the state directory"))?;
        let metadata = fs::metadata(path).map_err(failed("look at it"))?;
        let is_empty = fs::read_dir(path).map_err(failed("list it"))?.next().is_none();
        if is_empty && metadata.mode() & OTHERS != 0 {
            fs::set_permissions(path, Permissions::from_mode(0o700))
                .map_err(failed("close it to other users"))?;
        } else {
            refuse_others(path, &metadata)?;
        }

        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join(LOCK))
            .map_err(failed("open its lock file"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.into(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(path.into())),
            Err(TryLockError::Error(source)) => Err(failed("lock it")(source)),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file; `None` if it does not exist.
    ///
    /// # Errors
    /// [`StateError`] if other users can open it, or the system refuses.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        read_private(&self.file(name))
    }

    /// Writes a file of mode 0600 that is durable, whole or not there at all, when this returns.
    ///
    /// # Errors
    /// [`StateError`] if the system refuses.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        write_private(&self.path, name, bytes)
    }
}

/// As [`StateDirectory::write`], for what works beside a running relay, which holds the lock.
pub(super) fn write_private(directory: &Path, name: &str, bytes: &[u8]) -> Result<(), StateError> {
    let path = directory.join(name);
    let at = || path.clone();
    let failed = |action| move |source| StateError::Io { path: at(), action, source };
    // A temporary file is made with mode 0600.
    let mut file = tempfile::Builder::new()
        .prefix(".new-")
        .tempfile_in(directory)
        .map_err(failed("make a new file beside it"))?;
    file.write_all(bytes).map_err(failed("write it"))?;
    file.as_file().sync_all().map_err(failed("sync it"))?;
    file.persist(&path).map_err(|error| failed("replace it")(error.error))?;
    // The new name is durable only once the directory is.
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed("sync its directory"))
}

/// Reads a file that only its owner may open; `None` if it does not exist. For what works beside a
/// running relay, which holds the lock.
pub(super) fn read_private(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    let failed = |source| StateError::Io { path: path.into(), action: "read it", source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    refuse_others(path, &file.metadata().map_err(failed)?)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(failed)?;
    Ok(Some(bytes))
}

fn refuse_others(path: &Path, metadata: &fs::Metadata) -> Result<(), StateError> {
    let mode = metadata.mode() & 0o7777;
    if mode & OTHERS == 0 {
        return Ok(());
    }
    Err(StateError::OpenToOthers { path: path.display().to_string(), mode })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn it_is_made_for_its_owner_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let directory = StateDirectory::open(&path).unwrap();
        directory.write("x", b"1").unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&path.join("x")), 0o600);
        assert_eq!(mode(&path.join(LOCK)), 0o600);
    }

    #[test]
    fn one_process_at_a_time() {
        let path = tempfile::tempdir().unwrap();
        let first = StateDirectory::open(path.path()).unwrap();
        let error = StateDirectory::open(path.path()).unwrap_err().to_string();
        assert!(error.contains(&path.path().display().to_string()), "{error}");
        assert!(error.contains("in use by another valise process"), "{error}");
        drop(first);
        StateDirectory::open(path.path()).unwrap();
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_beside_it() {
        let path = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(path.path()).unwrap();
        assert_eq!(directory.read("x").unwrap(), None);
        directory.write("x", b"a long first version").unwrap();
        directory.write("x", b"short").unwrap();
        assert_eq!(directory.read("x").unwrap().unwrap(), b"short");
        let mut names: Vec<_> =
            fs::read_dir(path.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["lock", "x"]);
    }

    #[test]
    fn what_others_can_open_is_refused() {
        let path = tempfile::tempdir().unwrap();
        let directory = StateDirectory::open(path.path()).unwrap();
        directory.write("x", b"1").unwrap();
        fs::set_permissions(path.path().join("x"), Permissions::from_mode(0o640)).unwrap();
        let error = directory.read("x").unwrap_err().to_string();
        assert!(error.contains("mode 0640") && error.contains("chmod go= "), "{error}");
        drop(directory);
        fs::set_permissions(path.path(), Permissions::from_mode(0o755)).unwrap();
        let error = StateDirectory::open(path.path()).unwrap_err();
        assert!(matches!(error, StateError::OpenToOthers { mode: 0o755, .. }), "{error}");
    }

    #[test]
    fn an_empty_directory_is_closed_to_others() {
        let path = tempfile::tempdir().unwrap();
        fs::set_permissions(path.path(), Permissions::from_mode(0o755)).unwrap();
        StateDirectory::open(path.path()).unwrap();
        assert_eq!(mode(path.path()), 0o700);
    }

    #[test]
    fn a_file_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = StateDirectory::open(file.path()).unwrap_err();
        assert!(matches!(error, StateError::NotADirectory(_)), "{error}");
    }
}
