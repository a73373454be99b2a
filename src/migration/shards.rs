//! The supernode's shards, as an importer may ask of them.

use std::sync::Arc;

use valise_migration::importer::Report;
use valise_migration::real::{Digest, Real, RealLine, RealRequest};
use valise_migration::realm::Realm;
use valise_migration::wire::{LINES_BYTES_MAX, LINES_MAX};
use valise_migration::{Boot, Epoch, Position, Refusal};

use tokio::sync::watch;

use crate::committer::Committer;
use crate::shards;
use crate::store::StoreError;

pub use crate::shards::Mode;

/// All shards of a supernode, and the committer that alone changes them.
#[derive(Clone)]
pub struct Shards {
    committer: Committer,
    shards: Arc<shards::Shards>,
}

impl Shards {
    /// Those of this committer; none where none can move.
    pub fn of(committer: &Committer) -> Option<Self> {
        let shards = Arc::clone(committer.shards()?);
        Some(Self { committer: committer.clone(), shards })
    }

    /// This life of the process.
    pub fn boot(&self) -> Boot {
        self.shards.boot()
    }

    /// The realm's phase.
    pub fn phase(&self) -> Realm {
        self.shards.phase()
    }

    /// Whether a shard is served here.
    pub fn mode(&self, shard: u8) -> Mode {
        self.shards.mode(shard)
    }

    /// Whether a migration is under way, or done.
    pub fn is_moving(&self) -> bool {
        self.shards.is_moving()
    }

    /// How a shard is.
    pub fn report(&self, shard: u8) -> Report<Real> {
        self.shards.report(shard)
    }

    /// Asks something of a shard, of the process with this boot. It is so, and durable, when this
    /// returns.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn tell(&self, shard: u8, boot: Boot, request: RealRequest) -> Result<(), Refusal> {
        if boot != self.boot() {
            return Err(Refusal::OtherBoot);
        }
        self.phase().allows(&request)?;
        self.committer.tell(shard, request).await
    }

    /// Durable entries of a shard's log from here on, and the log's digest there; none beyond its
    /// end. Reads the store, so call it where that may take its time.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn fetch(
        &self,
        shard: u8,
        from: Position,
    ) -> Result<(Option<Digest>, Vec<RealLine>), StoreError> {
        let durable = self.report(shard).durable;
        let store = self.committer.store()?;
        let Some(logs) = store.logs() else { return Ok((None, Vec::new())) };
        let own = logs.log_digest(shard, from)?;
        let max = (LINES_MAX, LINES_BYTES_MAX);
        let lines = match own {
            Some(_) if from < durable => {
                logs.log(shard, from..durable, max, self.committer.hours())?
            }
            _ => Vec::new(),
        };
        Ok((own, lines))
    }

    /// Rises whenever whether a shard is served here has changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shards.changes()
    }

    /// A signed record of this epoch is about.
    pub fn hello(&self, heard: Epoch) {
        self.shards.hello(heard);
    }
}
