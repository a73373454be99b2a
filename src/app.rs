//! Puts a relay together and runs it: the only place that knows every room, and which store runs.

mod counting;
mod ground;
mod moving;
mod node;
mod upkeep;
mod verified;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use valise_proto::RelayAddress;

use crate::admin::{Admin, Readiness};
use crate::cluster::Cluster;
use crate::committer::Committer;
use crate::config::{AdminListen, Config, StoreConfig};
use crate::disk::{Disk, DiskOptions};
use crate::engines::{Engines, Local};
use crate::identity::{
    IdentityError, Nodes, Notice, STORE, StateDirectory, StateError, read_token_keys,
};
use crate::listener::Listener;
use crate::mailbox::Allowance;
use crate::metrics::{Metrics, Reload};
use crate::migration::KeyError;
use crate::rate::{Rate, RateClasses};
use crate::relay::{Patience, Relay, Settings};
use crate::router::Router;
use crate::store::jetstream::BusError;
use crate::store::{EmbeddedOptions, EmbeddedStore, ShardKey, Store, StoreError};
use crate::tls::TlsError;
use crate::token::TokenKeys;
use counting::scrape;
use ground::Ground;
use moving::Moving;

pub use verified::{Verified, verify};

/// A relay that accepts connections.
pub struct Running {
    relay: Arc<Relay>,
    kept: Kept,
    admin: Option<Admin>,
    readiness: Arc<Readiness>,
    addresses: Vec<SocketAddr>,
    migration_address: Option<SocketAddr>,
    address: RelayAddress,
    ca: Option<PathBuf>,
    notices: Vec<Notice>,
    shutdown: watch::Sender<bool>,
    tasks: JoinSet<()>,
    // Dropped last: it holds the lock on the state directory.
    _state: StateDirectory,
}

/// What keeps the mailboxes.
#[derive(Clone)]
enum Kept {
    /// This process, and a store on its disk.
    Local { local: Arc<Local>, committer: Committer, disk: Arc<Disk> },
    /// The data centre.
    Cluster(Arc<Cluster>),
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
    /// The data centre.
    #[error(transparent)]
    Cluster(#[from] BusError),
    /// The key of the migration's port.
    #[error(transparent)]
    Migration(#[from] KeyError),
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
        if let Some(cluster) = &config.cluster {
            return Box::pin(node::start(config, cluster)).await;
        }
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
        // A realm that moves has nodes in the data centre, which stay in its record.
        let nodes = if config.migration.is_some() { Nodes::Many } else { Nodes::One };
        let ground = Ground::prepare(config, nodes)?;
        let state = ground.state.path();
        let disk = Disk::new(state, disk_options(&config.store)).map_err(|source| {
            StartError::Disk { directory: config.state_directory.clone(), source }
        })?;
        let disk = Arc::new(disk);
        if let Some(notice) = disk.notice() {
            tracing::warn!("{notice}");
        }
        let mut open = {
            let (directory, shards) = (state.to_owned(), ground.identity.shard_key());
            move || open(&directory, ShardKey::new(&shards))
        };
        let store = open()?;
        let shards = ground.shards(&*store)?;
        let recovery = upkeep::recovery(&disk, Box::new(open));
        let committer = Committer::start_with(store, recovery, Some(shards));
        ground.metrics.frames_at_start(committer.totals().queued());
        let local = Local::new(committer.clone(), disk.allowed(), ground.metrics.clone());
        let local = Arc::new(local);
        let moving = moving::prepare(config, &ground, &local, &committer, &disk).await?;
        let engine = Engines::Local(Arc::clone(&local));
        let kept = Kept::Local { local, committer, disk };
        let mut running = Self::on(config, ground, engine, kept)?;
        if let Some(Moving { address, mut tasks }) = moving {
            running.migration_address = address;
            tasks.drain(..).for_each(|task| drop(running.tasks.spawn(task)));
        }
        Ok(running)
    }

    /// Begins to accept on this ground.
    fn on(
        config: &Config,
        ground: Ground,
        engine: Engines,
        kept: Kept,
    ) -> Result<Self, StartError> {
        let Ground { sockets, addresses, state, address, identity, notices, tls, ca, metrics } =
            ground;
        metrics.certificate_not_after(tls.not_after_unix());
        let tokens = identity.tokens();
        let router =
            Router::new(engine, tokens, metrics.clone(), config.access.clone(), allowance(config));
        let handshakes = config.limits.handshakes_max;
        let relay =
            Arc::new(Relay::new(router, metrics, tls, identity, handshakes, settings(config)));
        let mut running = Self {
            readiness: Arc::new(Readiness::default()),
            shutdown: watch::Sender::new(false),
            tasks: JoinSet::new(),
            admin: None,
            relay,
            kept,
            addresses,
            migration_address: None,
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
        self.look_after();
        if let AdminListen::On { address, or_next_free } = config.admin {
            let (kept, relay) = (self.kept.clone(), Arc::clone(&self.relay));
            let scrape = move || scrape(&relay, &kept);
            let readiness = Arc::clone(&self.readiness);
            let admin = Admin::start(address, or_next_free, Box::new(scrape), readiness)
                .map_err(|source| StartError::Bind { address, source })?;
            self.admin = Some(admin);
        }
        Ok(())
    }

    /// Starts what the relay does by itself.
    fn look_after(&mut self) {
        let metrics = self.relay.metrics.clone();
        let readiness = Arc::clone(&self.readiness);
        let realm =
            upkeep::watch_realm(Arc::clone(&self.relay), self.kept.clone(), readiness.clone());
        self.tasks.spawn(realm);
        match self.kept.clone() {
            Kept::Local { local, committer, disk } => {
                let shutdown = self.shutdown.subscribe();
                let swept = Arc::clone(&local);
                self.tasks.spawn(upkeep::sweep(swept, committer.clone(), shutdown));
                let status = committer.clone();
                self.tasks.spawn(upkeep::follow(metrics.clone(), local, status, readiness));
                self.tasks.spawn(upkeep::watch_disk(disk, committer, metrics));
            }
            Kept::Cluster(cluster) => {
                self.tasks.spawn(upkeep::follow_cluster(metrics, cluster, readiness));
            }
        }
    }

    /// What clients are given: where it is, and which realm it must prove to serve.
    pub fn address(&self) -> &RelayAddress {
        &self.address
    }

    /// The addresses that are listened on.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where importers connect.
    pub fn migration_address(&self) -> Option<SocketAddr> {
        self.migration_address
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
        self.relay.identity().reread_record()?;
        match &self.kept {
            // A record that was signed here is told to the others.
            Kept::Cluster(cluster) => cluster.look_at_the_realm(),
            Kept::Local { committer, .. } => moving::look_at_the_realm(&self.relay, committer),
        }
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
        scrape(&self.relay, &self.kept)
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
        match &self.kept {
            Kept::Local { committer, .. } => committer.failed().await,
            Kept::Cluster(cluster) => cluster.failed().await,
        }
    }

    /// In this order, under one deadline: not ready, no new connections, clients of a node led to
    /// other nodes, every client that is still here told when to come back, what was accepted written, the store closed.
    pub async fn shut_down(mut self) -> Drained {
        self.readiness.drain();
        self.relay.metrics.draining();
        self.shutdown.send_replace(true);
        let drain = self.relay.settings().drain;
        let until = Instant::now() + drain;
        if let Kept::Cluster(cluster) = &self.kept {
            node::lead_away(cluster, &self.relay, drain).await;
        }
        self.relay.connections.shut_down();
        let ended = tokio::time::timeout_at(until, self.relay.connections.ended()).await;
        self.tasks.shutdown().await;
        match &self.kept {
            Kept::Local { committer, .. } => {
                let committer = committer.clone();
                let closing = tokio::task::spawn_blocking(move || committer.close());
                closing.await.expect("closing never panics");
            }
            Kept::Cluster(cluster) => cluster.close().await,
        }
        if ended.is_ok() { Drained::Completely } else { Drained::InTime }
    }
}

fn disk_options(store: &StoreConfig) -> DiskOptions {
    DiskOptions {
        free_min: store.free_min_mib.map(|mib| mib << 20),
        budget: store.budget_mib.map(|mib| mib << 20),
        ballast: store.ballast_mib << 20,
    }
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
