//! One shard at the supernode.
//!
//! ```text
//! Plain --Begin--> Local --Seal--> Sealed --Show(owned)--> Forward --Wipe--> Gone
//!   ^                ^  ^            |
//!   |                |  +---Show-----+     a later version, made for this boot
//!   +--Show(aborted)-+
//! ```
//!
//! The relay (`src/`) calls [`Shard::enter`] for whatever a client wants changed, under the lock
//! under which it numbers the entry, and [`Shard::step`] for what an importer asks. A step that
//! returns a [`Record`] has written nothing: the relay writes it with one synced commit, and says
//! [`Request::Written`]. Until then the shard is busy. After a start, [`Shard::restart`].

use serde::{Deserialize, Serialize};

use crate::entry::{Cursor, Entry};
use crate::ledger::{Ledger, Seal, Stage};
use crate::refusal::Refusal;
use crate::scheme::{Boot, Migration, Position, Scheme, Version};

/// What the process holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Shard<S: Scheme> {
    /// No migration: serves, without a log.
    Plain,
    /// Serves, and enters everything into its log.
    Local {
        /// Of which migration.
        migration: Migration,
        /// The ledger's version under which it serves.
        version: Version,
        /// The end of the log, what is not yet durable included.
        log: Cursor<S>,
    },
    /// It was serving when the process ended. Whether it still may is not known here: the process
    /// may have been restored from a backup. It waits for a ledger that was made for this boot.
    Unsure {
        /// Of which migration.
        migration: Migration,
        /// The end of the log.
        log: Cursor<S>,
    },
    /// A record is on its way to the disk.
    Writing {
        /// What will be so.
        to: Record<S>,
        /// The end of the log then.
        log: Cursor<S>,
    },
    /// Enters nothing. In doubt who owns the shard, it stays so.
    Sealed(Seal<S>),
    /// The data centre's: posts are passed on.
    Forward {
        /// Of which migration.
        migration: Migration,
        /// The end of this supernode's log.
        end: Cursor<S>,
    },
    /// Wiped.
    Gone {
        /// Of which migration.
        migration: Migration,
    },
}

/// What is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Record<S: Scheme> {
    /// No migration; the log, if there was one, goes in the same commit.
    Plain,
    /// There is a log.
    Local {
        /// Of which migration.
        migration: Migration,
        /// Under which version it serves until the process ends.
        version: Version,
    },
    /// Nothing is entered; the log's last entry is `Sealed`, written in the same commit.
    Sealed(Seal<S>),
    /// The data centre's.
    Forward {
        /// Of which migration.
        migration: Migration,
        /// The end of the log.
        end: Cursor<S>,
    },
    /// Wiped: frames, log and all.
    Gone {
        /// Of which migration.
        migration: Migration,
    },
}

/// What to do with something a client wants changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Admitted {
    /// Store it; there is no log.
    Store,
    /// Store it, and the entry at this place in the same commit. Answer when that is durable, or
    /// when the recipient has acknowledged.
    Log(Position),
    /// Pass it on, and answer what the data centre answers. Posts only.
    Forward,
}

/// What is asked of a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Request<S: Scheme> {
    /// Start the log, with an entry for each thing there is (`existing` is its end then).
    Begin {
        /// Made for this boot.
        ledger: Ledger<S>,
        /// The end of the log with everything that exists now.
        existing: Cursor<S>,
    },
    /// Enter nothing more, so that the data centre may activate in this version.
    Seal {
        /// Of which migration.
        migration: Migration,
        /// The ledger's.
        version: Version,
    },
    /// See what the ledger says.
    Show {
        /// It.
        ledger: Ledger<S>,
        /// The digest of this supernode's log at the ledger's cursor; none beyond its end.
        own: Option<S::Digest>,
    },
    /// Remove everything.
    Wipe {
        /// It.
        ledger: Ledger<S>,
        /// Attachments, and posts that are being passed on.
        users: usize,
    },
    /// The record is on the disk.
    Written,
}

type Step<S> = Result<(Shard<S>, Option<Record<S>>), Refusal>;

impl<S: Scheme> Shard<S> {
    /// What the process holds at its start, from what is on the disk. `log` is the end of the log
    /// there.
    #[must_use]
    pub fn restart(record: Record<S>, log: Cursor<S>) -> Self {
        match record {
            Record::Plain => Self::Plain,
            Record::Local { migration, .. } => Self::Unsure { migration, log },
            Record::Sealed(seal) => Self::Sealed(seal),
            Record::Forward { migration, end } => Self::Forward { migration, end },
            Record::Gone { migration } => Self::Gone { migration },
        }
    }

    /// Whose log it has, if it has one.
    #[must_use]
    pub const fn migration(self) -> Option<Migration> {
        match self {
            Self::Plain => None,
            Self::Local { migration, .. }
            | Self::Unsure { migration, .. }
            | Self::Forward { migration, .. }
            | Self::Gone { migration } => Some(migration),
            Self::Sealed(seal) => Some(seal.migration),
            Self::Writing { to, .. } => match to {
                Record::Plain => None,
                Record::Local { migration, .. }
                | Record::Forward { migration, .. }
                | Record::Gone { migration } => Some(migration),
                Record::Sealed(seal) => Some(seal.migration),
            },
        }
    }

    /// Whether something may be entered, and where. A shard that serves is the only one that may.
    ///
    /// # Errors
    /// [`Refusal::Busy`] and [`Refusal::Moved`].
    pub fn enter(self, entry: &Entry<S>) -> Result<(Self, Admitted), Refusal> {
        match self {
            Self::Plain => Ok((self, Admitted::Store)),
            Self::Local { migration, version, log } => {
                let longer = Self::Local { migration, version, log: log.after(entry) };
                Ok((longer, Admitted::Log(log.next)))
            }
            Self::Forward { .. } if matches!(entry, Entry::Appended { .. }) => {
                Ok((self, Admitted::Forward))
            }
            Self::Unsure { .. } | Self::Writing { .. } | Self::Sealed(_) => Err(Refusal::Busy),
            Self::Forward { .. } | Self::Gone { .. } => Err(Refusal::Moved),
        }
    }

    /// Whether a device may attach. One that is attached when the shard is sealed stays: it gets
    /// what there is, and its acknowledgements are not entered.
    ///
    /// # Errors
    /// [`Refusal::Busy`] and [`Refusal::Moved`].
    pub fn attach(self) -> Result<(), Refusal> {
        match self {
            Self::Plain | Self::Local { .. } => Ok(()),
            Self::Unsure { .. } | Self::Writing { .. } | Self::Sealed(_) => Err(Refusal::Busy),
            Self::Forward { .. } | Self::Gone { .. } => Err(Refusal::Moved),
        }
    }

    /// Whether devices that are attached stay so. When this turns false, each is told
    /// `Move{go}`, and its attachment ends; never with `Replaced`, after which it would stay away.
    #[must_use]
    pub fn keeps_attachments(self) -> bool {
        !matches!(self, Self::Forward { .. } | Self::Gone { .. })
    }

    /// What an importer asks, or what the disk says.
    ///
    /// # Errors
    /// [`Refusal`]; the shard is as it was.
    pub fn step(self, boot: Boot, request: Request<S>) -> Step<S> {
        match (self, request) {
            (Self::Writing { to, log }, Request::Written) => Ok((Self::settled(to, log), None)),
            (_, Request::Written) => Err(Refusal::OutOfOrder),
            (Self::Writing { .. }, _) => Err(Refusal::Busy),
            (_, Request::Begin { ledger, existing }) => self.begin(boot, ledger, existing),
            (_, Request::Seal { migration, version }) => self.seal(migration, version),
            (_, Request::Show { ledger, own }) => self.show(boot, ledger, own),
            (_, Request::Wipe { ledger, users }) => self.wipe(ledger, users),
        }
    }

    fn settled(to: Record<S>, log: Cursor<S>) -> Self {
        match to {
            Record::Local { migration, version } => Self::Local { migration, version, log },
            other => Self::restart(other, log),
        }
    }

    fn begin(self, boot: Boot, ledger: Ledger<S>, existing: Cursor<S>) -> Step<S> {
        let Ledger { migration, version, .. } = ledger;
        match self {
            Self::Plain => {}
            Self::Local { migration: mine, .. } if mine == migration => return Ok((self, None)),
            _ => return Err(Refusal::OutOfOrder),
        }
        if ledger.boot != boot {
            return Err(Refusal::OtherBoot);
        }
        if ledger.importing()?.next != Position(0) {
            return Err(Refusal::Diverged);
        }
        Ok(writing(Record::Local { migration, version }, existing))
    }

    fn seal(self, migration: Migration, version: Version) -> Step<S> {
        match self {
            Self::Local { migration: mine, version: since, log } => {
                if mine != migration {
                    return Err(Refusal::OtherMigration);
                }
                if version < since {
                    return Err(Refusal::Overtaken);
                }
                let end = log.after(&Entry::Sealed);
                Ok(writing(Record::Sealed(Seal { migration, version, end }), end))
            }
            Self::Sealed(seal) if seal.migration != migration => Err(Refusal::OtherMigration),
            Self::Sealed(seal) if version < seal.version => Err(Refusal::Overtaken),
            Self::Sealed(seal) if version == seal.version => Ok((self, None)),
            Self::Sealed(seal) => Ok(writing(Record::Sealed(Seal { version, ..seal }), seal.end)),
            _ => Err(Refusal::OutOfOrder),
        }
    }

    fn show(self, boot: Boot, ledger: Ledger<S>, own: Option<S::Digest>) -> Step<S> {
        let (mine, log) = match self {
            Self::Forward { .. } | Self::Gone { .. } => return Ok((self, None)),
            Self::Plain => (None, Cursor::start()),
            Self::Local { migration, log, .. } | Self::Unsure { migration, log } => {
                (Some(migration), log)
            }
            Self::Sealed(seal) => (Some(seal.migration), seal.end),
            Self::Writing { .. } => return Err(Refusal::Busy),
        };
        if mine.is_some_and(|mine| ledger.migration < mine) {
            return Err(Refusal::OtherMigration);
        }
        match ledger.stage {
            // Whatever this process believed: it serves no more. A supernode that was sealed for
            // it knows its whole log there; any other was restored, and is never wiped.
            Stage::Owned(_) => {
                Ok(writing(Record::Forward { migration: ledger.migration, end: log }, log))
            }
            _ if mine.is_none() => Ok((self, None)),
            _ if ledger.boot != boot => Err(Refusal::OtherBoot),
            Stage::Aborted => Ok(writing(Record::Plain, Cursor::start())),
            Stage::Importing(_) if mine != Some(ledger.migration) => Err(Refusal::OtherMigration),
            Stage::Importing(cursor) if own != Some(cursor.digest) => Err(Refusal::Diverged),
            Stage::Importing(_) => self.serve_again(ledger, log),
        }
    }

    fn serve_again(self, ledger: Ledger<S>, log: Cursor<S>) -> Step<S> {
        let Ledger { migration, version, .. } = ledger;
        match self {
            Self::Unsure { .. } => Ok((Self::Local { migration, version, log }, None)),
            Self::Sealed(seal) if version <= seal.version => Err(Refusal::Overtaken),
            Self::Sealed(_) => Ok(writing(Record::Local { migration, version }, log)),
            _ => Ok((self, None)),
        }
    }

    fn wipe(self, ledger: Ledger<S>, users: usize) -> Step<S> {
        match (self, ledger.stage) {
            (Self::Gone { .. }, _) => Ok((self, None)),
            (Self::Forward { migration, end }, Stage::Owned(cursor)) => {
                if migration != ledger.migration {
                    return Err(Refusal::OtherMigration);
                }
                if users > 0 || cursor != end {
                    return Err(Refusal::Left);
                }
                Ok(writing(Record::Gone { migration }, end))
            }
            _ => Err(Refusal::OutOfOrder),
        }
    }
}

fn writing<S: Scheme>(to: Record<S>, log: Cursor<S>) -> (Shard<S>, Option<Record<S>>) {
    (Shard::Writing { to, log }, Some(to))
}
