//! `valise migration-key`.

use super::MigrationKey;
use crate::config::{Config, ConfigError, Surroundings};
use crate::identity::{IdentityError, read_token_keys};
use crate::migration::peer::KEY_FILE;
use crate::migration::{KeyError, PeerKey};

/// Why no pin was printed.
#[derive(Debug, thiserror::Error)]
pub enum MigrationKeyError {
    /// The configuration does not say where the state is.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is no realm in the state directory.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl MigrationKey {
    /// The pin on a line of its own. The key is made where there is none; works while the relay runs.
    ///
    /// # Errors
    /// [`MigrationKeyError`] says what is missing.
    pub fn make(&self, surroundings: &Surroundings) -> Result<String, MigrationKeyError> {
        let file = self.place.config.as_deref();
        let directory = Config::state_directory_of(file, self.place.layer(), surroundings)?;
        // Refuses what is no state directory.
        read_token_keys(&directory)?;
        let key = PeerKey::open_or_make(&directory.join(KEY_FILE))?;
        Ok(format!("{}\n", key.pin()))
    }
}
