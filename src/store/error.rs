//! Why a store cannot serve.

/// Why the store cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Writing, syncing or reading failed. After a failed write nothing more is acknowledged.
    #[error("the store failed: {0}")]
    Engine(#[from] ::fjall::Error),
    /// A file beside the engine failed.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// A record's checksum or shape is wrong.
    #[error("a record of the store is damaged ({what}); nothing was changed")]
    Damaged {
        /// Which kind of record.
        what: &'static str,
    },
    /// The engine recovered fewer commits than were made.
    #[error(
        "the store has lost its last {missing} commits ({recovered} recovered, {recorded} \
         recorded), as happens to a damaged disk or an old copy; restore the whole state directory \
         from one backup, or start once with --accept-missing-commits {missing} to go on without them"
    )]
    MissingCommits {
        /// Commits in the high-water file.
        recorded: u64,
        /// Commits in the engine.
        recovered: u64,
        /// The difference.
        missing: u64,
    },
    /// Written by a newer version.
    #[error("the store has format {found}; this version knows up to {known}: use a newer valise")]
    NewerFormat {
        /// The store's format.
        found: u32,
        /// The highest this version reads.
        known: u32,
    },
    /// It failed and is being opened again: come back soon.
    #[error("the store is being opened again")]
    Reopening,
    /// Another process has it open.
    #[error("{0} is in use by another valise process")]
    Locked(std::path::PathBuf),
}

impl StoreError {
    /// Whether the disk is full, if the error says so: an engine whose own thread found that out
    /// only says that it failed.
    pub fn is_no_space(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                use std::io::ErrorKind::{QuotaExceeded, StorageFull};
                return matches!(error.kind(), StorageFull | QuotaExceeded);
            }
            cause = error.source();
        }
        false
    }

    /// Whether it is worth asking again soon.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Reopening)
    }
}
