//! What is in the store of a relay that is not running.

use std::path::Path;

use super::StartError;
use crate::identity::{STORE, StateDirectory, read_shard_key};
use crate::store::{EmbeddedOptions, EmbeddedStore, ShardKey, Store, Totals};

/// What is really in a store, and what its totals say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified {
    /// Frames found; each was read and its checksum was right.
    pub counted: u64,
    /// The totals of the last batch.
    pub totals: Totals,
}

/// Reads every frame of the store of a relay that is not running.
///
/// # Errors
/// [`StartError`] when it cannot be opened or a record is damaged.
pub fn verify(state_directory: &Path) -> Result<Verified, StartError> {
    let state = StateDirectory::open(state_directory)?;
    let shards = ShardKey::new(&read_shard_key(state.path())?);
    let options = EmbeddedOptions::default();
    let store = EmbeddedStore::open(&state.path().join(STORE), shards, options)?;
    Ok(Verified { counted: store.count()?, totals: store.opened().totals })
}
