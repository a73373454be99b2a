//! The shards of a supernode that migrates.

use std::sync::Mutex;

use tokio::sync::watch;
use valise_migration::importer::Report;
use valise_migration::real::{Digest, Real, RealLine, RealRequest};
use valise_migration::realm::Realm;
use valise_migration::{Boot, Epoch, Position, Refusal, Shard};

use crate::store::StoreError;

/// The shards.
pub struct Shards {
    changes: watch::Sender<u64>,
    phase: Mutex<Realm>,
}

/// What is done with what comes for a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Served.
    Serves,
    /// Nobody may answer now.
    Busy,
    /// Posts are passed on.
    Forward,
    /// Served elsewhere.
    Moved,
}

impl Shards {
    /// None has moved.
    pub fn plain(epoch: Epoch) -> Self {
        Self { changes: watch::Sender::new(0), phase: Mutex::new(Realm::Active(epoch)) }
    }

    /// This life of the process.
    pub fn boot(&self) -> Boot {
        Boot(1)
    }

    /// The realm's.
    pub fn phase(&self) -> Realm {
        *self.phase.lock().expect("no one panics while it holds the lock")
    }

    /// A shard's.
    pub fn mode(&self, _: u8) -> Mode {
        Mode::Serves
    }

    /// Anything but all plain.
    pub fn is_moving(&self) -> bool {
        false
    }

    /// How a shard is.
    pub fn report(&self, _: u8) -> Report<Real> {
        Report { boot: self.boot(), shard: Shard::Plain, durable: Position(0) }
    }

    /// Does it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn tell(&self, _: u8, _: Boot, _: RealRequest) -> Result<(), Refusal> {
        Err(Refusal::OutOfOrder)
    }

    /// Entries.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn fetch(
        &self,
        _: u8,
        _: Position,
    ) -> Result<(Option<Digest>, Vec<RealLine>), StoreError> {
        Ok((None, Vec::new()))
    }

    /// Rises.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// May fence.
    pub fn hello(&self, heard: Epoch) {
        let mut phase = self.phase.lock().expect("no one panics while it holds the lock");
        *phase = phase.hello(heard);
    }
}
