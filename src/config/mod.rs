//! The configuration: a raw form from flags, environment (`VALISE_SECTION_KEY`) and a TOML file, in
//! this order of precedence, and the checked form the relay runs with. Nothing in it is secret.

mod allow_list;
mod check;
mod cluster;
mod defaults;
mod effective;
mod error;
mod key;
mod migration;
mod rate_class;
mod source;
mod surroundings;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use self::effective::NeedsRestart;
pub use self::error::{ConfigError, Origin};
pub use self::key::{
    AdminLayer, Change, ClusterLayer, KEYS, Key, Kind, Layer, LimitsLayer, LogLayer,
    MigrationLayer, RelayLayer, StoreLayer, TlsLayer,
};
use self::source::FileLayer;
pub use self::surroundings::Surroundings;
use crate::access::Access;
use crate::migration::Pin;
use crate::store::jetstream::BusOptions;
use crate::tls::CertificateFiles;

/// A checked configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// The only address of `listen` was not configured: if it is taken, take the next free port.
    pub listen_or_next_free: bool,
    /// What clients dial, as `host:port`; empty if they dial what is listened on.
    pub endpoints: Vec<String>,
    /// Where keys and frames are kept; absolute.
    pub state_directory: PathBuf,
    /// Who may join.
    pub access: Access,
    /// The file behind [`Access::AllowList`].
    pub allow_list: Option<PathBuf>,
    /// The certificate; `None` for the development certificate.
    pub certificate: Option<CertificateFiles>,
    /// Metrics and health.
    pub admin: AdminListen,
    /// What peers may take.
    pub limits: Limits,
    /// The store on disk.
    pub store: StoreConfig,
    /// The data centre; `None` for a supernode.
    pub cluster: Option<ClusterConfig>,
    /// The port for the move into a data centre.
    pub migration: Option<MigrationConfig>,
    /// What is logged.
    pub log: LogLevel,
    /// Commits the operator has decided to go on without; from the command line only.
    pub accept_missing_commits: u64,
}

/// Where the admin side listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminListen {
    /// Nowhere.
    Off,
    /// At an address.
    On {
        /// The address.
        address: SocketAddr,
        /// It was not configured: if it is taken, take the next free port.
        or_next_free: bool,
    },
}

/// What one peer, and all of them together, may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub connections_max: usize,
    /// TLS handshakes at one time.
    pub handshakes_max: usize,
    /// New connections from one IPv4 address or IPv6 /56.
    pub connects_per_second_per_prefix: u32,
    /// The same, at once.
    pub connects_burst_per_prefix: u32,
    /// Packets on one connection.
    pub packets_per_second: u32,
    /// The same, at once.
    pub packets_burst: u32,
    /// Posts and signals with one capability.
    pub posts_per_second: u32,
    /// The same, at once.
    pub posts_burst: u32,
    /// Posts and signals with a capability of these classes: the class, how many a second, and at
    /// once. Classes that are not here are class 0, which has the rates above.
    pub rate_classes: Vec<RateClass>,
    /// Joins from one IPv4 address or IPv6 /56.
    pub joins_per_minute_per_prefix: u32,
    /// MiB put into slots in 24 hours on the account of one mailbox.
    pub slot_mib_per_day_per_mailbox: u32,
    /// Bundle items taken in an hour with one take token.
    pub takes_per_hour_per_token: u32,
    /// Bytes of frames kept in memory for a live mailbox.
    pub ring_bytes_per_mailbox: usize,
    /// How long a shutdown may take.
    pub drain_seconds: u32,
    /// Over how long clients come back after a restart.
    pub reconnect_spread_seconds: u32,
}

/// One class of rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateClass {
    /// Its number in tokens; never 0.
    pub class: u8,
    /// Posts and signals with one capability.
    pub per_second: u32,
    /// The same, at once.
    pub burst: u32,
}

impl fmt::Display for RateClass {
    /// As it is configured.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}/{}", self.class, self.per_second, self.burst)
    }
}

/// The store on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// Memory for reading, in MiB.
    pub cache_mib: u64,
    /// Journals on disk, in MiB.
    pub journal_mib: u64,
    /// What the state directory may take, in MiB; `None` for the whole disk.
    pub budget_mib: Option<u64>,
    /// What posts leave free, in MiB; `None` for a share of the disk.
    pub free_min_mib: Option<u64>,
    /// The ballast, in MiB.
    pub ballast_mib: u64,
}

/// The data centre of which the relay is a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// The NATS servers, and by what the relay is known there.
    pub bus: BusOptions,
    /// What each stream may hold, in MiB, where it is made.
    pub stream_mib: u64,
}

/// The port for the move into a data centre.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationConfig {
    /// Where importers connect.
    pub listen: SocketAddr,
    /// The one that is let in.
    pub importer: Pin,
}

/// What is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What the operator has to act on.
    Error,
    /// What the operator should know.
    Warn,
    /// Starts, stops and reloads.
    Info,
    /// Each connection and each mistake of a peer.
    Debug,
    /// Everything; never a frame.
    Trace,
}

impl LogLevel {
    /// Every level, from silent to talkative.
    pub const ALL: [Self; 6] =
        [Self::Off, Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Its name in the configuration; a directive of `tracing_subscriber::EnvFilter` too.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Config {
    /// Reads and checks everything. Flags win over the environment, the environment over the file,
    /// the file over the defaults.
    ///
    /// # Errors
    /// [`ConfigError`] says where, what and what to write instead.
    pub fn load(
        file: Option<&Path>,
        flags: Layer,
        surroundings: &Surroundings,
    ) -> Result<Self, ConfigError> {
        let file = file.map(FileLayer::read).transpose()?.unwrap_or_default();
        let environment = source::environment_layer(&surroundings.variables)?;
        check::check(&check::Sources { flags, environment, file }, surroundings)
    }

    /// Where keys and frames are kept, without checking anything else: for commands that work
    /// beside a running relay.
    ///
    /// # Errors
    /// [`ConfigError`] if the file or the variables are wrong, or there is no such place.
    pub fn state_directory_of(
        file: Option<&Path>,
        flags: Layer,
        surroundings: &Surroundings,
    ) -> Result<PathBuf, ConfigError> {
        let file = file.map(FileLayer::read).transpose()?.unwrap_or_default();
        let environment = source::environment_layer(&surroundings.variables)?;
        check::state_directory(&check::Sources { flags, environment, file }, surroundings)
    }

    /// What clients dial when the relay is bound to these addresses: as configured, else these.
    pub fn endpoints_for(&self, bound: &[SocketAddr]) -> Vec<String> {
        if self.endpoints.is_empty() {
            bound.iter().map(SocketAddr::to_string).collect()
        } else {
            self.endpoints.clone()
        }
    }
}

#[cfg(test)]
mod tests;
