//! Puts a relay together and runs it: the only place that knows every room, and which store runs.

mod upkeep;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use valise_proto::RelayAddress;

use crate::admin::{Admin, Readiness};
use crate::committer::Committer;
use crate::config::{AdminListen, Config, StoreConfig};
use crate::disk::{Disk, DiskOptions};
use crate::identity::{
    DEVELOPMENT_LEAF, DEVELOPMENT_LEAF_KEY, Identity, IdentityError, Notice, StateDirectory,
    StateError, development_certificate, read_shard_key, read_token_keys,
};
use crate::listener::{self, Listener};
use crate::mailbox::Allowance;
use crate::metrics::{CommitTotals, Metrics, Reload};
use crate::rate::{Rate, RateClasses};
use crate::relay::{Patience, Relay, Settings, today};
use crate::router::Router;
use crate::store::{EmbeddedOptions, EmbeddedStore, ShardKey, Store, StoreError, Totals};
use crate::tls::{CertificateFiles, Tls, TlsError};
use crate::token::TokenKeys;

/// A relay that accepts connections.
pub struct Running {
    relay: Arc<Relay>,
    committer: Committer,
    disk: Arc<Disk>,
    admin: Option<Admin>,
    readiness: Arc<Readiness>,
    addresses: Vec<SocketAddr>,
    address: RelayAddress,
    ca: Option<PathBuf>,
    notices: Vec<Notice>,
    shutdown: watch::Sender<bool>,
    tasks: JoinSet<()>,
    // Dropped last: it holds the lock on the state directory.
    _state: StateDirectory,
}

/// Why a relay does not start. Sorted by what the operator has to look at.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The keys.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk cannot be looked at, or the ballast of another start cannot be removed.
    #[error("the disk of {directory} cannot be looked at: {source}")]
    Disk {
        /// The state directory.
        directory: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}; is another process using it?")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
}

/// Why nothing was reloaded.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The token keys.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// How a shutdown ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every connection ended by itself.
    Completely,
    /// Some had to be cut when the time was over.
    InTime,
}

impl Running {
    /// Opens keys and store, binds, and begins to accept.
    ///
    /// # Errors
    /// [`StartError`]; nothing was served.
    pub async fn start(config: &Config) -> Result<Self, StartError> {
        let mut options = EmbeddedOptions {
            cache_bytes: config.store.cache_mib << 20,
            journal_bytes: config.store.journal_mib << 20,
            accept_missing_commits: config.accept_missing_commits,
        };
        Self::start_on(config, move |state, shards| {
            let store = EmbeddedStore::open(&state.join(STORE), shards, options)?;
            // What the operator accepted was lost before the start, not while it runs.
            options.accept_missing_commits = 0;
            Ok(Arc::new(store))
        })
        .await
    }

    /// As [`Self::start`], on the store that is opened in this state directory, at first and after
    /// each failure: for tests of a disk that fails.
    ///
    /// # Errors
    /// [`StartError`]; nothing was served.
    pub async fn start_on(
        config: &Config,
        mut open: impl FnMut(&Path, ShardKey) -> Result<Arc<dyn Store>, StoreError> + Send + 'static,
    ) -> Result<Self, StartError> {
        let sockets = bind_all(config)?;
        let addresses: Vec<SocketAddr> =
            sockets.iter().map(|socket| socket.local_addr().expect("it is bound")).collect();
        let state = StateDirectory::open(&config.state_directory)?;
        let endpoints = config.endpoints_for(&addresses);
        let disk = Disk::new(state.path(), disk_options(&config.store)).map_err(|source| {
            StartError::Disk { directory: config.state_directory.clone(), source }
        })?;
        let disk = Arc::new(disk);
        let (identity, notices) = Identity::open(&state, &endpoints, u32::from(today()))?;
        let identity = Arc::new(identity);
        let (files, ca) = certificate(config, &state)?;
        let tls = Tls::load(files)?;
        if let Some(notice) = disk.notice() {
            tracing::warn!("{notice}");
        }
        let mut open = {
            let (directory, shards) = (state.path().to_owned(), identity.shard_key());
            move || open(&directory, ShardKey::new(&shards))
        };
        let store = open()?;
        let committer = Committer::start_with(store, upkeep::recovery(&disk, Box::new(open)));

        let metrics = Metrics::new();
        metrics.frames_at_start(committer.totals().queued());
        metrics.certificate_not_after(tls.not_after_unix());
        let router = Router::new(
            identity.tokens(),
            committer.clone(),
            disk.allowed(),
            metrics.clone(),
            config.access.clone(),
            allowance(config),
        );
        let address = address(&endpoints, &identity);
        let handshakes = config.limits.handshakes_max;
        let relay =
            Arc::new(Relay::new(router, metrics, tls, identity, handshakes, settings(config)));
        let mut running = Self {
            readiness: Arc::new(Readiness::default()),
            shutdown: watch::Sender::new(false),
            tasks: JoinSet::new(),
            admin: None,
            relay,
            committer,
            disk,
            addresses,
            address,
            ca,
            notices,
            _state: state,
        };
        running.begin(config, sockets)?;
        Ok(running)
    }

    fn begin(&mut self, config: &Config, sockets: Vec<TcpListener>) -> Result<(), StartError> {
        let permits = Arc::new(Semaphore::new(config.limits.connections_max));
        for socket in sockets {
            let listener = Listener::new(socket, Arc::clone(&self.relay), Arc::clone(&permits));
            self.tasks.spawn(listener.run(self.shutdown.subscribe()));
        }
        self.tasks.spawn(upkeep::sweep(
            Arc::clone(&self.relay),
            self.committer.clone(),
            self.shutdown.subscribe(),
        ));
        self.tasks.spawn(upkeep::follow(
            Arc::clone(&self.relay),
            self.committer.clone(),
            Arc::clone(&self.readiness),
        ));
        self.tasks.spawn(upkeep::watch_disk(
            Arc::clone(&self.disk),
            self.committer.clone(),
            self.relay.metrics.clone(),
        ));
        if let AdminListen::On { address, or_next_free } = config.admin {
            let committer = self.committer.clone();
            let relay = Arc::clone(&self.relay);
            let scrape = move || scrape(&relay, &committer);
            let readiness = Arc::clone(&self.readiness);
            let admin = Admin::start(address, or_next_free, Box::new(scrape), readiness)
                .map_err(|source| StartError::Bind { address, source })?;
            self.admin = Some(admin);
        }
        Ok(())
    }

    /// What clients are given: where it is, and which realm it must prove to serve.
    pub fn address(&self) -> &RelayAddress {
        &self.address
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the admin side listens.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// The development CA, if the certificate is our own.
    pub fn ca(&self) -> Option<&Path> {
        self.ca.as_deref()
    }

    /// What the operator should know.
    pub fn notices(&self) -> &[Notice] {
        &self.notices
    }

    /// Puts the reloadable part of a configuration into force, and the certificate files and token
    /// keys as they are now.
    ///
    /// # Errors
    /// [`ReloadError`]; everything in force stays in force.
    pub fn reload(&self, config: &Config) -> Result<(), ReloadError> {
        let tokens = self.reload_files(&config.state_directory);
        let tokens = tokens.inspect_err(|_| self.relay.metrics.reload(Reload::Failed))?;
        self.relay.metrics.certificate_not_after(self.relay.tls.not_after_unix());
        self.relay.router.reload(config.access.clone(), allowance(config), tokens);
        self.relay.reload(settings(config));
        self.relay.metrics.reload(Reload::Done);
        Ok(())
    }

    fn reload_files(&self, state_directory: &Path) -> Result<TokenKeys, ReloadError> {
        let tokens = read_token_keys(state_directory)?;
        self.relay.tls.reload()?;
        Ok(tokens)
    }

    /// The OpenMetrics text, as the admin side gives it.
    pub fn scrape(&self) -> String {
        scrape(&self.relay, &self.committer)
    }

    /// The relay's counts, which outlive it.
    pub fn metrics(&self) -> Metrics {
        self.relay.metrics.clone()
    }

    /// Changes the patience with silent and slow peers for connections to come. For tests, which
    /// cannot wait as long as people must be able to.
    pub fn set_patience(&self, patience: Patience) {
        self.relay.reload(Settings { patience, ..Settings::clone(&self.relay.settings()) });
    }

    /// A reload could not even read the configuration.
    pub fn reload_failed(&self) {
        self.relay.metrics.reload(Reload::Failed);
    }

    /// Waits for the store to fail for good, which ends the relay: nothing can be accepted any more.
    /// Cancel-safe.
    pub async fn store_failed(&self) -> String {
        self.committer.failed().await
    }

    /// In this order, under one deadline: not ready, no new connections, every client told when to
    /// come back, what was accepted written, the store closed.
    pub async fn shut_down(mut self) -> Drained {
        self.readiness.drain();
        self.relay.metrics.draining();
        self.shutdown.send_replace(true);
        self.relay.connections.shut_down();
        let drain = self.relay.settings().drain;
        let ended = tokio::time::timeout(drain, self.relay.connections.ended()).await;
        self.tasks.shutdown().await;
        let committer = self.committer.clone();
        tokio::task::spawn_blocking(move || committer.close()).await.expect("closing never panics");
        if ended.is_ok() { Drained::Completely } else { Drained::InTime }
    }
}

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
    let shards = ShardKey::new(&read_shard_key(&state)?);
    let options = EmbeddedOptions::default();
    let store = EmbeddedStore::open(&state.path().join(STORE), shards, options)?;
    Ok(Verified { counted: store.count()?, totals: store.opened().totals })
}

/// The store's place in the state directory.
const STORE: &str = "store";

fn disk_options(store: &StoreConfig) -> DiskOptions {
    DiskOptions {
        free_min: store.free_min_mib.map(|mib| mib << 20),
        budget: store.budget_mib.map(|mib| mib << 20),
        ballast: store.ballast_mib << 20,
    }
}

/// The OpenMetrics text, with what others count as it is now.
fn scrape(relay: &Relay, committer: &Committer) -> String {
    let stats = committer.stats();
    relay.metrics.commits(CommitTotals {
        commits: stats.commits(),
        steps: stats.steps(),
        written_bytes: stats.synced_bytes(),
        sync_microseconds: u64::try_from(stats.sync_total().as_micros()).unwrap_or(u64::MAX),
        never_written: stats.skipped(),
        reopened: stats.times_reopened(),
    });
    relay.metrics.mailboxes_live(relay.router.mailboxes_live());
    relay.metrics.encode()
}

/// Binds every configured address. One that was not configured moves to the next free port.
fn bind_all(config: &Config) -> Result<Vec<TcpListener>, StartError> {
    let bind =
        |address| listener::bind(address).map_err(|source| StartError::Bind { address, source });
    if !config.listen_or_next_free {
        return config.listen.iter().map(|address| bind(*address)).collect();
    }
    let first = config.listen[0];
    let free = (first.port()..first.port().saturating_add(PORTS_TRIED))
        .find_map(|port| listener::bind(SocketAddr::new(first.ip(), port)).ok());
    free.map_or_else(|| bind(first).map(|socket| vec![socket]), |socket| Ok(vec![socket]))
}

/// How many ports are tried when none was configured.
const PORTS_TRIED: u16 = 100;

fn certificate(
    config: &Config,
    state: &StateDirectory,
) -> Result<(CertificateFiles, Option<PathBuf>), StartError> {
    if let Some(files) = &config.certificate {
        return Ok((files.clone(), None));
    }
    let ca = development_certificate(state)?;
    let certificate = state.file(DEVELOPMENT_LEAF);
    Ok((CertificateFiles { certificate, key: state.file(DEVELOPMENT_LEAF_KEY) }, Some(ca)))
}

fn address(endpoints: &[String], identity: &Identity) -> RelayAddress {
    let first = endpoints.first().expect("there is always an endpoint");
    let text = format!("valise://{first}/{}", identity.realm().to_text());
    text.parse().expect("the configuration has checked the endpoint")
}

fn allowance(config: &Config) -> Allowance {
    let limits = &config.limits;
    let classes = limits.rate_classes.iter();
    let others = classes.map(|class| (class.class, Rate::new(class.per_second, class.burst)));
    let default = Rate::new(limits.posts_per_second, limits.posts_burst);
    Allowance {
        posts: RateClasses::new(default, others.collect()),
        ring_bytes: limits.ring_bytes_per_mailbox,
        slot_bytes: Rate::in_each(DAY, limits.slot_mib_per_day_per_mailbox << 20),
        takes: Rate::in_each(Duration::from_secs(3_600), limits.takes_per_hour_per_token),
    }
}

const DAY: Duration = Duration::from_secs(86_400);

fn settings(config: &Config) -> Settings {
    let limits = &config.limits;
    Settings {
        connects: Rate::new(
            limits.connects_per_second_per_prefix,
            limits.connects_burst_per_prefix,
        ),
        joins: Rate::in_each(Duration::from_secs(60), limits.joins_per_minute_per_prefix),
        packets: Rate::new(limits.packets_per_second, limits.packets_burst),
        reconnect_spread_ms: limits.reconnect_spread_seconds * 1_000,
        try_for_ms: TRY_FOR_MS,
        drain: Duration::from_secs(limits.drain_seconds.into()),
        patience: Patience::default(),
    }
}

/// How long clients keep trying after a restart, in milliseconds.
const TRY_FOR_MS: u32 = 10 * 60 * 1_000;
