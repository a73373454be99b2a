//! The guard against commits that the engine loses without saying so: it cuts a journal that is
//! damaged in the middle at the damage, and what came after is gone.
//!
//! A file beside the engine holds the number of the last commit. It is written after each commit
//! and synced once a second, so it never says more than the engine has, unless the engine lost
//! something.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::StoreError;
use crate::limits;

const FILE_NAME: &str = "high-water";
const FILE_BYTES: usize = 4096;
const SLOT_BYTES: usize = 12;
/// Two sectors are written in turn, so that a torn write leaves the one before it.
const SLOTS: [u64; 2] = [0, 2048];

/// The open file.
#[derive(Debug)]
pub(super) struct HighWater {
    path: PathBuf,
    file: File,
    synced: Instant,
}

impl HighWater {
    /// Opens or makes the file in this directory and compares it with what the engine recovered.
    ///
    /// # Errors
    /// [`StoreError::MissingCommits`] when more is missing than the operator accepts;
    /// [`StoreError::Damaged`] when nothing can be said, unless the operator accepts a loss.
    pub(super) fn open(
        dir: &Path,
        recovered: u64,
        accept_missing: u64,
    ) -> Result<Self, StoreError> {
        let path = dir.join(FILE_NAME);
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|source| StoreError::Io { path: path.clone(), source })?;
        let guard = Self { path, file, synced: Instant::now() };
        match guard.recorded()? {
            Recorded::Commits(recorded) if recorded <= recovered => {}
            Recorded::Commits(recorded) if recorded - recovered <= accept_missing => {
                guard.reset(dir, recovered)?;
            }
            Recorded::Commits(recorded) => {
                let missing = recorded - recovered;
                return Err(StoreError::MissingCommits { recorded, recovered, missing });
            }
            Recorded::Nothing if recovered == 0 => guard.reset(dir, recovered)?,
            Recorded::Nothing | Recorded::Damaged if accept_missing > 0 => {
                guard.reset(dir, recovered)?;
            }
            Recorded::Nothing => {
                return Err(StoreError::Damaged { what: "high-water file, which is missing" });
            }
            Recorded::Damaged => return Err(StoreError::Damaged { what: "high-water file" }),
        }
        Ok(guard)
    }

    /// Remembers that this commit is durable; the file is synced when that was not done for a
    /// second.
    pub(super) fn record(&mut self, commits: u64) -> Result<(), StoreError> {
        let at = SLOTS[(commits % 2) as usize];
        self.file.write_all_at(&slot(commits), at).map_err(|source| self.error(source))?;
        if self.synced.elapsed() >= Duration::from_millis(limits::HIGH_WATER_SYNC_MS) {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes what was recorded durable.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|source| self.error(source))?;
        self.synced = Instant::now();
        Ok(())
    }

    fn recorded(&self) -> Result<Recorded, StoreError> {
        let length = self.file.metadata().map_err(|source| self.error(source))?.len();
        if length == 0 {
            return Ok(Recorded::Nothing);
        }
        let mut highest = None;
        for at in SLOTS {
            let mut bytes = [0; SLOT_BYTES];
            match self.file.read_exact_at(&mut bytes, at) {
                Ok(()) => highest = highest.max(parse(&bytes)),
                Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(source) => return Err(self.error(source)),
            }
        }
        Ok(highest.map_or(Recorded::Damaged, Recorded::Commits))
    }

    fn reset(&self, dir: &Path, commits: u64) -> Result<(), StoreError> {
        let mut page = [0; FILE_BYTES];
        for at in SLOTS {
            page[at as usize..][..SLOT_BYTES].copy_from_slice(&slot(commits));
        }
        self.file
            .write_all_at(&page, 0)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> StoreError {
        StoreError::Io { path: self.path.clone(), source }
    }
}

enum Recorded {
    Nothing,
    Damaged,
    Commits(u64),
}

fn slot(commits: u64) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    let (number, crc) = slot.split_at_mut(8);
    number.copy_from_slice(&commits.to_be_bytes());
    crc.copy_from_slice(&crc32fast::hash(number).to_be_bytes());
    slot
}

fn parse(slot: &[u8; SLOT_BYTES]) -> Option<u64> {
    let (number, crc) = slot.split_first_chunk::<8>()?;
    (crc32fast::hash(number).to_be_bytes() == crc).then(|| u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flip(path: &Path, at: usize) {
        let mut bytes = std::fs::read(path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }

    #[test]
    fn it_says_how_many_commits_are_missing() {
        let dir = tempfile::tempdir().unwrap();
        let mut guard = HighWater::open(dir.path(), 0, 0).unwrap();
        (1..=9).for_each(|commits| guard.record(commits).unwrap());
        drop(guard);
        assert!(HighWater::open(dir.path(), 9, 0).is_ok());
        assert!(HighWater::open(dir.path(), 10, 0).is_ok(), "it lags after a power cut");
        for accepted in [0, 2] {
            let error = HighWater::open(dir.path(), 6, accepted).unwrap_err();
            assert!(matches!(
                error,
                StoreError::MissingCommits { recorded: 9, recovered: 6, missing: 3 }
            ));
        }
        HighWater::open(dir.path(), 6, 3).unwrap();
        assert!(HighWater::open(dir.path(), 6, 0).is_ok(), "accepted once, accepted for good");
    }

    #[test]
    fn a_torn_write_leaves_the_number_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut guard = HighWater::open(dir.path(), 0, 0).unwrap();
        (1..=4).for_each(|commits| guard.record(commits).unwrap());
        flip(&dir.path().join(FILE_NAME), 7);
        assert!(matches!(
            HighWater::open(dir.path(), 0, 0),
            Err(StoreError::MissingCommits { recorded: 3, .. })
        ));
        flip(&dir.path().join(FILE_NAME), 2048);
        assert!(matches!(HighWater::open(dir.path(), 4, 0), Err(StoreError::Damaged { .. })));
        assert!(HighWater::open(dir.path(), 4, 1).is_ok());
    }

    #[test]
    fn a_lost_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(HighWater::open(dir.path(), 4, 0), Err(StoreError::Damaged { .. })));
    }
}
