//! Room on the disk: whether posts are taken, how much one mailbox may hold, and a ballast that is
//! thrown off when the store has hit the bottom all the same, so that what frees space still works.
//!
//! The decision is [`judge`]; [`Disk`] looks and acts; [`Allowed`] is what everyone else reads.

mod ballast;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use valise_proto::limits::MAILBOX_BYTES_MAX;

use crate::limits::{
    DISK_FREE_MIN_BYTES_MAX, DISK_FREE_MIN_PERCENT, REOPEN_ROOM_BYTES, SHORT_BYTES,
};
use ballast::Ballast;

/// What an operator may choose, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskOptions {
    /// Posts are refused with less than this free; a share of the file system where not chosen.
    pub free_min: Option<u64>,
    /// What the state directory may take; the whole file system where not chosen.
    pub budget: Option<u64>,
    /// The ballast; zero for none.
    pub ballast: u64,
}

/// What was found on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Found {
    /// What the file system holds for unprivileged users, free or not.
    pub size: u64,
    /// What of it is free.
    pub free: u64,
    /// What of it this budget counts: the state directory's files, or everybody's. Without ballast.
    pub used: u64,
    /// What the ballast would have to take again.
    pub ballast_missing: u64,
}

/// What follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Posts, joins with a code and whatever else takes space are let in.
    pub takes: bool,
    /// What one mailbox may hold, in bytes.
    pub mailbox_bytes_max: u64,
    /// What the budget is, in bytes.
    pub budget: u64,
    /// It is time to make the ballast again.
    pub rebuild: bool,
}

/// Posts need so much room that the ballast can be made again and enough is left then.
pub fn judge(found: &Found, options: &DiskOptions) -> Verdict {
    let share = found.size / 100 * DISK_FREE_MIN_PERCENT;
    let free_min = options.free_min.unwrap_or(share.min(DISK_FREE_MIN_BYTES_MAX));
    let budget = options.budget.unwrap_or(found.size);
    let roomy = found.free.saturating_sub(found.ballast_missing) >= free_min;
    Verdict {
        takes: roomy && found.used < budget,
        mailbox_bytes_max: mailbox_bytes_max(found.used, budget),
        budget,
        rebuild: roomy && found.ballast_missing > 0,
    }
}

/// Above 80 % of the budget, a mailbox may hold half as much for every further 5 %, so that the
/// last of the room is shared by many.
fn mailbox_bytes_max(used: u64, budget: u64) -> u64 {
    let twentieths = u128::from(used) * 20 / u128::from(budget.max(1));
    let halvings = u32::try_from(twentieths.saturating_sub(16).min(4)).expect("four at most");
    MAILBOX_BYTES_MAX >> halvings
}

/// What the disk allows just now. Clones share it; reading it costs nothing.
#[derive(Debug, Clone)]
pub struct Allowed(Arc<Numbers>);

#[derive(Debug)]
struct Numbers {
    takes: AtomicBool,
    mailbox_bytes_max: AtomicU64,
}

impl Default for Allowed {
    /// Everything.
    fn default() -> Self {
        Self(Arc::new(Numbers {
            takes: AtomicBool::new(true),
            mailbox_bytes_max: AtomicU64::new(MAILBOX_BYTES_MAX),
        }))
    }
}

impl Allowed {
    /// Whether anything may be let in that takes space.
    pub fn takes(&self) -> bool {
        self.0.takes.load(Ordering::Relaxed)
    }

    /// What one mailbox may hold, in bytes.
    pub fn mailbox_bytes_max(&self) -> u64 {
        self.0.mailbox_bytes_max.load(Ordering::Relaxed)
    }

    fn set(&self, verdict: &Verdict) {
        self.0.takes.store(verdict.takes, Ordering::Relaxed);
        self.0.mailbox_bytes_max.store(verdict.mailbox_bytes_max, Ordering::Relaxed);
    }
}

/// Looks at the disk under a state directory, and acts.
pub struct Disk {
    // static
    directory: PathBuf,
    options: DiskOptions,

    allowed: Allowed,
    ballast: Mutex<Ballast>,
}

/// How it stands with the disk, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What was found.
    pub found: Found,
    /// What follows.
    pub verdict: Verdict,
}

impl Disk {
    /// Looks for the first time, and makes the ballast.
    ///
    /// # Errors
    /// What the system says when it cannot tell how much is free.
    pub fn new(directory: &Path, options: DiskOptions) -> io::Result<Self> {
        let ballast = Ballast::find(directory, options.ballast)?;
        let disk = Self {
            directory: directory.to_owned(),
            options,
            allowed: Allowed::default(),
            ballast: Mutex::new(ballast),
        };
        disk.look()?;
        Ok(disk)
    }

    /// What is allowed just now, and later.
    pub fn allowed(&self) -> Allowed {
        self.allowed.clone()
    }

    /// Why there is no ballast although one was wanted, for the operator.
    pub fn notice(&self) -> Option<String> {
        self.ballast().notice()
    }

    /// Looks again, and makes the ballast again where there is room for it.
    ///
    /// # Errors
    /// The system's; everything stays as it was.
    pub fn look(&self) -> io::Result<Standing> {
        let mut ballast = self.ballast();
        let mut standing = self.stand(&ballast)?;
        if standing.verdict.rebuild {
            if let Err(error) = ballast.build() {
                tracing::warn!(%error, "the ballast cannot be made");
            }
            standing = self.stand(&ballast)?;
        }
        if standing.verdict.takes != self.allowed.takes() {
            let free = standing.found.free;
            if standing.verdict.takes {
                tracing::warn!(free, "there is room on the disk again");
            } else {
                tracing::error!(free, "the disk is nearly full: nothing is taken that needs room");
            }
        }
        self.allowed.set(&standing.verdict);
        Ok(standing)
    }

    /// The store found no room: lets nothing more in and throws the ballast off. Returns whether
    /// the store can work with what is free now.
    pub fn make_room(&self) -> bool {
        let mut ballast = self.ballast();
        if let Err(error) = ballast.release() {
            tracing::error!(%error, "the ballast cannot be released");
        }
        let Ok(standing) = self.stand(&ballast) else { return true };
        self.allowed.set(&standing.verdict);
        standing.found.free >= REOPEN_ROOM_BYTES
    }

    /// What the state directory's files take, without ballast, in bytes. Looks at every file.
    pub fn files(&self) -> u64 {
        let all = files_bytes(&self.directory).unwrap_or_default();
        all.saturating_sub(self.ballast().bytes())
    }

    /// Whether so little is free that a store may have failed of it.
    pub fn is_short(&self) -> bool {
        let standing = self.stand(&self.ballast());
        standing.is_ok_and(|now| !now.verdict.takes || now.found.free < SHORT_BYTES)
    }

    fn stand(&self, ballast: &Ballast) -> io::Result<Standing> {
        let space = rustix::fs::statvfs(&self.directory)?;
        let free = space.f_bavail * space.f_frsize;
        let taken = space.f_blocks.saturating_sub(space.f_bfree) * space.f_frsize;
        let used = match self.options.budget {
            Some(_) => files_bytes(&self.directory)?,
            None => taken,
        };
        let found = Found {
            size: taken + free,
            free,
            used: used.saturating_sub(ballast.bytes()),
            ballast_missing: ballast.missing(),
        };
        Ok(Standing { found, verdict: judge(&found, &self.options) })
    }

    fn ballast(&self) -> std::sync::MutexGuard<'_, Ballast> {
        self.ballast.lock().expect("nothing panics while it looks at the disk")
    }
}

/// What the files below a directory take on the disk. Those that go while it looks count nothing.
fn files_bytes(directory: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)?.flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        bytes += if metadata.is_dir() {
            files_bytes(&entry.path()).unwrap_or_default()
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
