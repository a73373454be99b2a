//! The realm at the supernode: which phase its migration is in, and whether this process may still
//! speak for the realm at all. Phases follow from the shards; nothing here decides about a frame.
//!
//! The relay (`src/`) asks [`Realm::allows`] before it lets an importer's request reach a shard,
//! calls [`Realm::observe`] after each change of one, and [`Realm::hello`] for every `Hello`. What
//! they return is written to the disk before it is acted upon.

use crate::refusal::Refusal;
use crate::scheme::{Epoch, Migration, Scheme};
use crate::shard::{Request, Shard};

/// The phase of a realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Realm {
    /// No migration.
    Active(Epoch),
    /// Logs are being started.
    Preparing(Epoch, Migration),
    /// Every shard has a log.
    Copying(Epoch, Migration),
    /// Shards are sealed, some may have moved.
    Cutting(Epoch, Migration),
    /// Every shard is the data centre's: the record of the next epoch is published.
    Draining(Epoch, Migration),
    /// Wiped.
    Retired(Epoch, Migration),
    /// A newer record is about that this process knows no reason for. It serves nobody.
    Fenced(Epoch),
}

/// How many shards are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// Without a log.
    pub plain: usize,
    /// With a log, serving or about to.
    pub local: usize,
    /// Sealed.
    pub sealed: usize,
    /// The data centre's.
    pub forward: usize,
    /// Wiped.
    pub gone: usize,
}

impl Census {
    /// Counts. A shard whose record is on its way to the disk is not looked at: wait for it.
    ///
    /// # Errors
    /// [`Refusal::Busy`].
    pub fn of<S: Scheme>(shards: impl IntoIterator<Item = Shard<S>>) -> Result<Self, Refusal> {
        let mut census = Self::default();
        for shard in shards {
            *match shard {
                Shard::Plain => &mut census.plain,
                Shard::Local { .. } | Shard::Unsure { .. } => &mut census.local,
                Shard::Sealed(_) => &mut census.sealed,
                Shard::Forward { .. } => &mut census.forward,
                Shard::Gone { .. } => &mut census.gone,
                Shard::Writing { .. } => return Err(Refusal::Busy),
            } += 1;
        }
        Ok(census)
    }
}

impl Realm {
    /// The epoch of the record this process serves by.
    #[must_use]
    pub const fn epoch(self) -> Epoch {
        match self {
            Self::Active(epoch)
            | Self::Preparing(epoch, _)
            | Self::Copying(epoch, _)
            | Self::Cutting(epoch, _)
            | Self::Draining(epoch, _)
            | Self::Retired(epoch, _)
            | Self::Fenced(epoch) => epoch,
        }
    }

    /// Whether this request may reach a shard now.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn allows<S: Scheme>(self, request: &Request<S>) -> Result<(), Refusal> {
        match (self, request) {
            // What stops this process from serving, and the disk's answer, always may.
            (_, Request::Show { .. } | Request::Written) => Ok(()),
            (Self::Fenced(_), _) => Err(Refusal::Fenced),
            (Self::Draining(..) | Self::Retired(..), Request::Wipe { .. }) => Ok(()),
            (_, Request::Wipe { .. }) => Err(Refusal::Left),
            (Self::Draining(..) | Self::Retired(..), _) => Err(Refusal::Owned),
            (Self::Copying(..) | Self::Cutting(..), Request::Seal { .. }) => Ok(()),
            (_, Request::Seal { .. }) => Err(Refusal::OutOfOrder),
            (_, Request::Begin { .. }) => Ok(()),
        }
    }

    /// The phase that follows from the shards. A shard that came back to [`Shard::Plain`] alone
    /// (an abort that raced with another shard's activation) is prepared anew: the realm waits
    /// for it in [`Realm::Cutting`].
    #[must_use]
    pub fn observe(self, census: Census, migration: Migration) -> Self {
        let epoch = self.epoch();
        let Census { plain, local, sealed, forward, gone } = census;
        match self {
            Self::Fenced(_) | Self::Retired(..) => self,
            _ if plain + local + sealed + forward == 0 => Self::Retired(epoch, migration),
            _ if plain + local + sealed == 0 => Self::Draining(epoch, migration),
            _ if sealed + forward + gone > 0 => Self::Cutting(epoch, migration),
            _ if local == 0 => Self::Active(epoch),
            _ if plain > 0 => Self::Preparing(epoch, migration),
            Self::Cutting(..) => self,
            _ => Self::Copying(epoch, migration),
        }
    }

    /// A client or an importer knows this epoch. A supernode that migrates knows of the next one;
    /// one that hears of an epoch it cannot explain was left behind, and ends its service.
    #[must_use]
    pub fn hello(self, heard: Epoch) -> Self {
        let explained = match self {
            Self::Active(epoch) | Self::Fenced(epoch) => epoch,
            other => other.epoch().next(),
        };
        if heard > explained { Self::Fenced(self.epoch()) } else { self }
    }

    /// Whether clients are served at all.
    ///
    /// # Errors
    /// [`Refusal::Moved`]: the record that fenced it says where.
    pub const fn serves(self) -> Result<(), Refusal> {
        match self {
            Self::Fenced(_) => Err(Refusal::Moved),
            _ => Ok(()),
        }
    }
}
