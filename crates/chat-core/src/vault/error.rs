//! Why a profile could not be made, opened or used.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

/// Sorted by blame: what was asked, what is on the disk, what the system refuses.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    // Whoever asked.
    /// There is none.
    #[error("there is no profile in {0}: make one with `valise-chat init`")]
    Missing(PathBuf),
    /// There is one already.
    #[error("there is a profile in {0} already: open it, or choose another directory")]
    Exists(PathBuf),
    /// Another engine has it.
    #[error(
        "the profile in {0} is in use by another process: close that one, or let it do the work \
         over its socket"
    )]
    Locked(PathBuf),
    /// Others than its owner may look into the directory.
    #[error("other users of this machine can look into {0}: close it with `chmod 700`")]
    Exposed(PathBuf),
    /// It does not open with this passphrase.
    #[error("the passphrase is wrong: try again, nothing was changed")]
    WrongPassphrase,
    /// No program of ours asks for such a cost.
    #[error(
        "trying a passphrase must cost 8 KiB to 1 GiB of memory for each of up to 16 lanes, and at \
         most 4 GiB over all passes: choose a cost within that, or distrust where this came from"
    )]
    Cost,
    /// A mistake of the program: the row that was there first stays.
    #[error("two rows of one kind cannot have the same lookup key: nothing was written")]
    Taken,
    // What is on the disk.
    /// It was written by a newer program.
    #[error(
        "the profile has format {found}, this program knows up to {known}: use a newer program; \
         nothing was changed"
    )]
    Newer {
        /// Its format.
        found: i64,
        /// The newest one we know.
        known: i64,
    },
    /// It is not what it was.
    #[error("the profile is damaged ({0}): restore it from an export or a copy")]
    Damaged(&'static str),
    /// Its header names an opener that this program does not know.
    #[error(
        "the profile opens in a way that this program does not know: use a newer program; nothing \
         was changed"
    )]
    Opener,
    /// An export that a newer program wrote.
    #[error("the file has format {found}, this program knows {known}: use a newer program")]
    FileNewer {
        /// Its format.
        found: u8,
        /// The one we know.
        known: u8,
    },
    /// An export that is none, or is not what it was.
    #[error("the file {0}: try another copy of the export")]
    FileDamaged(&'static str),
    // The system.
    /// No room.
    #[error("the disk is full: make room; nothing of this was written")]
    Full,
    /// Argon2id needs its memory for a moment.
    #[error("there is not enough memory to try a passphrase: close other programs")]
    Memory,
    /// A file could not be read or written.
    #[error("cannot use {path}: {error}")]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The database could not be read or written.
    #[error("cannot use the profile's database: {0}")]
    Database(rusqlite::Error),
}

impl VaultError {
    /// What the system says about a path.
    pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        move |error| Self::File { path: path.to_owned(), error }
    }
}

impl From<rusqlite::Error> for VaultError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::Error;
        match &error {
            Error::SqliteFailure(failure, _) => match failure.code {
                ErrorCode::NotADatabase => Self::Damaged("its file is no database"),
                ErrorCode::DatabaseCorrupt => Self::Damaged("its tables make no sense"),
                ErrorCode::ConstraintViolation => Self::Taken,
                ErrorCode::DiskFull => Self::Full,
                _ => Self::Database(error),
            },
            Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..)
            | Error::Utf8Error(..) => Self::Damaged("a column holds what it cannot hold"),
            _ => Self::Database(error),
        }
    }
}
