//! The commands about the nodes of a realm.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use data_encoding::HEXLOWER as HEX;
use valise_proto::{RealmId, RelayAddress, SigningKey};

use super::{ExportNode, ImportNode, NodeKey, RetireNode};
use crate::config::{Config, ConfigError, Surroundings};
use crate::identity::{
    IdentityError, StateDirectory, StateError, export_node, import_node, node_key, retire_node,
};

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// What was asked for.
    #[error("{0}")]
    Usage(String),
    /// The configuration does not say where the state is.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The keys.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The file.
    #[error("{}: {source}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

impl ExportNode {
    /// Writes the file; says what to do with it. `today` is in days since 1970-01-01.
    ///
    /// # Errors
    /// [`NodeError`]; without the file nothing was changed.
    pub fn make(&self, surroundings: &Surroundings, today: u16) -> Result<String, NodeError> {
        let realm = RealmId::new([0; RealmId::LEN]).to_text();
        if format!("valise://{}/{realm}", self.endpoint).parse::<RelayAddress>().is_err() {
            return Err(NodeError::Usage(format!("`{}` is no host:port", self.endpoint)));
        }
        let file = self.place.config.as_deref();
        let directory = Config::state_directory_of(file, self.place.layer(), surroundings)?;
        let wrong = |source| NodeError::File { path: self.output.clone(), source };
        let open =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.output);
        let mut output = open.map_err(wrong)?;
        let made = export_node(&directory, &self.endpoint, today.into());
        let (key, text) = made.inspect_err(|_| drop(fs::remove_file(&self.output)))?;
        output.write_all(text.as_bytes()).and_then(|()| output.sync_all()).map_err(wrong)?;
        Ok(format!(
            "node key {}\n\
             Whoever has {} can serve this realm: carry it to the new node as you would a key, then\n\
             \x20   valise import-node {}\n\
             and delete it. The realm's record names the node from its first start on.\n",
            HEX.encode(key.as_bytes()),
            self.output.display(),
            self.output.display(),
        ))
    }
}

impl ImportNode {
    /// Makes the state directory; says what to do next.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn make(&self, surroundings: &Surroundings) -> Result<String, NodeError> {
        let file = self.place.config.as_deref();
        let directory = Config::state_directory_of(file, self.place.layer(), surroundings)?;
        let text = fs::read_to_string(&self.file)
            .map_err(|source| NodeError::File { path: self.file.clone(), source })?;
        import_node(&StateDirectory::open(&directory)?, &text)?;
        Ok(format!(
            "{} is a node's state directory now; delete {}\n",
            directory.display(),
            self.file.display()
        ))
    }
}

impl NodeKey {
    /// The key on a line of its own; works while the relay runs.
    ///
    /// # Errors
    /// [`NodeError`].
    pub fn make(&self, surroundings: &Surroundings) -> Result<String, NodeError> {
        let file = self.place.config.as_deref();
        let directory = Config::state_directory_of(file, self.place.layer(), surroundings)?;
        Ok(format!("{}\n", HEX.encode(node_key(&directory)?.as_bytes())))
    }
}

impl RetireNode {
    /// Signs the record; says what to do next. `today` is in days since 1970-01-01.
    ///
    /// # Errors
    /// [`NodeError`]; nothing was changed.
    pub fn make(&self, surroundings: &Surroundings, today: u16) -> Result<String, NodeError> {
        let key = HEX.decode(self.key.as_bytes()).ok();
        let key = key.and_then(|key| SigningKey::try_from(key.as_slice()).ok());
        let key = key.ok_or_else(|| NodeError::Usage("that is no node key".to_owned()))?;
        let file = self.place.config.as_deref();
        let directory = Config::state_directory_of(file, self.place.layer(), surroundings)?;
        let epoch = retire_node(&directory, &key, self.endpoint.as_deref(), today.into())?;
        Ok(format!(
            "the realm's record has epoch {epoch} now; this relay tells it to the others when it is \
             started or told to reload (SIGHUP)\n"
        ))
    }
}
