//! The ledger of a shard: one record at the data centre, changed only by comparing. Its change to
//! [`Stage::Owned`] is the commit point of the shard's migration.
//!
//! Owner, version and cursor are one record, so that one comparison guards all three: a batch of
//! imported entries cannot slip in beside a change of the owner. No two records of one shard are
//! the same, so comparing the record and comparing its sequence in the stream are the same thing.
//!
//! Every change is decided here and published by whoever decided it, with the sequence of the
//! record it was decided upon: the importer (`crates/ctl`). A node of the data centre reads it for
//! [`Ledger::accepts`].

use serde::{Deserialize, Serialize};

use crate::entry::Cursor;
use crate::refusal::Refusal;
use crate::scheme::{Boot, Migration, Position, Scheme, Version};

/// What the data centre knows of a shard that is, or was, on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Ledger<S: Scheme> {
    /// Of which migration.
    pub migration: Migration,
    /// Grows whenever what the supernode may do changes; what was agreed for an earlier version
    /// is void.
    pub version: Version,
    /// The life of the supernode's process this version was made for. A process of another boot
    /// cannot take it for leave to serve: that is the fence against a restored backup.
    pub boot: Boot,
    /// Whose the shard is.
    pub stage: Stage<S>,
}

/// Whose the shard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(bound = "")]
pub enum Stage<S: Scheme> {
    /// The supernode's; its log has been imported so far.
    Importing(Cursor<S>),
    /// The supernode's; what this migration has imported is void and is removed.
    Aborted,
    /// The data centre's, with the whole log. For good, in this epoch.
    Owned(Cursor<S>),
}

/// What a supernode has promised, on its disk: it enters nothing after `end`, until it sees a
/// version beyond this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Seal<S: Scheme> {
    /// For which migration.
    pub migration: Migration,
    /// The only version in which the data centre may activate.
    pub version: Version,
    /// The end of its log.
    pub end: Cursor<S>,
}

impl<S: Scheme> Ledger<S> {
    /// The first ledger of a migration, after none or after one that was aborted and cleared.
    ///
    /// # Errors
    /// [`Refusal`]: a migration is under way or done, or the number was used.
    pub fn open(before: Option<Self>, migration: Migration, boot: Boot) -> Result<Self, Refusal> {
        let version = match before {
            None => Version(1),
            Some(Self { stage: Stage::Aborted, migration: last, version, .. })
                if last < migration =>
            {
                version.next()
            }
            Some(Self { stage: Stage::Owned(_), .. }) => return Err(Refusal::Owned),
            Some(_) => return Err(Refusal::OtherMigration),
        };
        Ok(Self { migration, version, boot, stage: Stage::Importing(Cursor::start()) })
    }

    /// Entries up to `to` are imported in the same batch.
    ///
    /// # Errors
    /// [`Refusal`]: not the supernode's any more, or the cursor is not at `from`.
    pub fn advance(self, from: Position, to: Cursor<S>) -> Result<Self, Refusal> {
        let cursor = self.importing()?;
        if cursor.next != from || to.next <= from {
            return Err(Refusal::NotThere);
        }
        Ok(Self { stage: Stage::Importing(to), ..self })
    }

    /// A new version for this boot: voids every seal, and is what lets a sealed or restarted
    /// supernode serve again. This is the abort of one shard's cutover.
    ///
    /// # Errors
    /// [`Refusal::Owned`].
    pub fn renew(self, boot: Boot) -> Result<Self, Refusal> {
        match self.stage {
            Stage::Owned(_) => Err(Refusal::Owned),
            _ => Ok(Self { version: self.version.next(), boot, ..self }),
        }
    }

    /// Gives the migration of this shard up.
    ///
    /// # Errors
    /// [`Refusal`]: it is too late, or done already.
    pub fn abort(self, boot: Boot) -> Result<Self, Refusal> {
        self.importing()?;
        Ok(Self { version: self.version.next(), boot, stage: Stage::Aborted, ..self })
    }

    /// **The commit point.** Everything before the seal is here, and the seal is for this version.
    ///
    /// # Errors
    /// [`Refusal`]: the seal is of another migration or version, or the cursor is not at its end.
    pub fn activate(self, seal: Seal<S>) -> Result<Self, Refusal> {
        let cursor = self.importing()?;
        if seal.migration != self.migration {
            return Err(Refusal::OtherMigration);
        }
        if seal.version != self.version {
            return Err(Refusal::Overtaken);
        }
        if seal.end.next != cursor.next {
            return Err(Refusal::NotThere);
        }
        if seal.end.digest != cursor.digest {
            return Err(Refusal::Diverged);
        }
        Ok(Self { version: self.version.next(), stage: Stage::Owned(cursor), ..self })
    }

    /// Whether a node of the data centre serves clients of this shard. A realm that moves is
    /// served by its ledgers alone: where there is none, it is not here. A node that believes an
    /// old ledger is safe: before activation it refuses, and after activation there is no change.
    ///
    /// # Errors
    /// [`Refusal::Moved`].
    pub fn accepts(ledger: Option<&Self>) -> Result<(), Refusal> {
        match ledger.map(|ledger| ledger.stage) {
            Some(Stage::Owned(_)) => Ok(()),
            _ => Err(Refusal::Moved),
        }
    }

    /// How far the import is, while there is one.
    ///
    /// # Errors
    /// [`Refusal`]: the data centre's, or given up.
    pub fn importing(self) -> Result<Cursor<S>, Refusal> {
        match self.stage {
            Stage::Importing(cursor) => Ok(cursor),
            Stage::Aborted => Err(Refusal::GivenUp),
            Stage::Owned(_) => Err(Refusal::Owned),
        }
    }
}
