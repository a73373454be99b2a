//! A file that is good for nothing but its room.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;

use crate::limits::BALLAST_SHARE_MAX;

const FILE_NAME: &str = "ballast";

/// The file, or its place.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    wanted: u64,
    /// What it takes now.
    bytes: u64,
    refused: Option<Refused>,
}

/// Why there will be none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    SmallDisk,
    FileSystem,
}

impl Ballast {
    /// Finds what is there; nothing is made. A file of another size goes.
    pub(super) fn find(directory: &Path, wanted: u64) -> io::Result<Self> {
        let path = directory.join(FILE_NAME);
        let space = rustix::fs::statvfs(directory)?;
        let refused = (space.f_blocks * space.f_frsize / BALLAST_SHARE_MAX < wanted)
            .then_some(Refused::SmallDisk);
        let mut ballast = Self { path, wanted, bytes: 0, refused };
        match std::fs::metadata(&ballast.path) {
            Ok(found) if found.len() == wanted && refused.is_none() => ballast.bytes = wanted,
            Ok(_) => ballast.release()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(ballast)
    }

    /// What it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What it would have to take again.
    pub(super) fn missing(&self) -> u64 {
        if self.refused.is_some() { 0 } else { self.wanted - self.bytes }
    }

    pub(super) fn notice(&self) -> Option<String> {
        let why = match self.refused? {
            Refused::SmallDisk => "would be more than an eighth of the disk",
            Refused::FileSystem => "cannot be reserved on this file system",
        };
        let mib = self.wanted >> 20;
        Some(format!(
            "there is no ballast: {mib} MiB {why}; when the disk is full, acknowledgements may have \
             to wait for room too (store.ballast_mib)"
        ))
    }

    /// Makes it. Where that fails nothing is left.
    pub(super) fn build(&mut self) -> io::Result<()> {
        let built = self.reserve();
        match &built {
            Ok(()) => self.bytes = self.wanted,
            Err(error) => {
                if error.kind() == io::ErrorKind::Unsupported {
                    self.refused = Some(Refused::FileSystem);
                }
                let _ = std::fs::remove_file(&self.path);
            }
        }
        built
    }

    /// Really allocated: a file of zeros would be stored as none by some.
    fn reserve(&self) -> io::Result<()> {
        let file: File =
            OpenOptions::new().write(true).create(true).truncate(true).open(&self.path)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, self.wanted)?;
        file.sync_all()
    }

    /// Throws it off.
    pub(super) fn release(&mut self) -> io::Result<()> {
        self.bytes = 0;
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
