//! What every connection of a relay shares.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::Semaphore;
use valise_proto::limits::{EPOCH_AHEAD_MAX, ESTABLISHMENT_SECONDS, IDLE_SECONDS};
use valise_proto::{Channel, CloseReason, Nonce, Welcome};

use crate::connections::Connections;
use crate::identity::Identity;
use crate::limits::STALL_SECONDS;
use crate::metrics::Metrics;
use crate::prefix::{Prefix, Prefixes};
use crate::rate::Rate;
use crate::router::{Moment, Router};
use crate::tls::Tls;

/// How a connection ended; the one name of each is the metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The relay closed it and said why.
    Closed(CloseReason),
    /// The peer closed it.
    Peer,
    /// The stream failed.
    Transport,
    /// TLS was not established.
    Tls,
    /// An HTTPS request was answered.
    Http,
}

impl Ended {
    /// The metric label and log field.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed(reason) => reason.name(),
            Self::Peer => "peer_closed",
            Self::Transport => "transport_error",
            Self::Tls => "tls_failed",
            Self::Http => "http_answered",
        }
    }
}

/// The settings a reload can change.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Connections of one address prefix.
    pub connects: Rate,
    /// Joins of one address prefix.
    pub joins: Rate,
    /// Packets of one connection.
    pub packets: Rate,
    /// Over how long clients spread their reconnecting after a restart, in milliseconds.
    pub reconnect_spread_ms: u32,
    /// How long clients should keep trying after a restart, in milliseconds.
    pub try_for_ms: u32,
    /// How long a shutdown may take.
    pub drain: Duration,
    /// The patience with silent and slow peers.
    pub patience: Patience,
}

/// How long a connection may be silent or slow. Operators cannot change it: clients count on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the accept to the first attachment or post.
    pub establishment: Duration,
    /// Nothing heard.
    pub idle: Duration,
    /// Nothing taken.
    pub stall: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            establishment: Duration::from_secs(ESTABLISHMENT_SECONDS),
            idle: Duration::from_secs(IDLE_SECONDS),
            stall: Duration::from_secs(STALL_SECONDS),
        }
    }
}

/// One running relay.
pub struct Relay {
    /// Accept, refuse, or forward.
    pub router: Router,
    /// Counts.
    pub metrics: Metrics,
    /// Certificates.
    pub tls: Tls,
    /// The live connections.
    pub connections: Connections,
    /// Handshakes that may run at once.
    pub handshakes: Semaphore,
    identity: Arc<Identity>,
    prefixes: Prefixes,
    settings: ArcSwap<Settings>,
    /// The highest epoch of the realm that somebody has claimed to know.
    claimed_epoch: AtomicU64,
}

impl Relay {
    /// A relay that serves nobody yet.
    pub fn new(
        router: Router,
        metrics: Metrics,
        tls: Tls,
        identity: Arc<Identity>,
        handshakes_max: usize,
        settings: Settings,
    ) -> Self {
        Self {
            router,
            metrics,
            tls,
            connections: Connections::default(),
            handshakes: Semaphore::new(handshakes_max),
            identity,
            prefixes: Prefixes::new(Instant::now()),
            settings: ArcSwap::from_pointee(settings),
            claimed_epoch: AtomicU64::new(0),
        }
    }

    /// A `Hello` knows this epoch of the realm. One that is above the record's proves nothing, since
    /// anybody may say so: the operator is told, and nothing else follows (decision 44).
    pub fn heard_of_epoch(&self, epoch: u64) {
        let own = self.identity.epoch();
        if epoch <= own || epoch > own.saturating_add(EPOCH_AHEAD_MAX) {
            return;
        }
        self.metrics.newer_epoch_claimed();
        if self.claimed_epoch.fetch_max(epoch, Ordering::Relaxed) < epoch {
            tracing::warn!(
                claimed = epoch,
                own,
                "a client says that it knows a newer record of the realm; if that is so, this relay was \
                 restored from an old backup or signed out of the realm: see OPERATIONS, Moving"
            );
        }
    }

    /// The epoch that somebody claims to know, if it is above that of the record in force.
    pub fn claimed_epoch(&self) -> Option<u64> {
        Some(self.claimed_epoch.load(Ordering::Relaxed)).filter(|it| *it > self.identity.epoch())
    }

    /// The settings in force.
    pub fn settings(&self) -> Guard<Arc<Settings>> {
        self.settings.load()
    }

    /// Puts new settings into force.
    pub fn reload(&self, settings: Settings) {
        self.settings.store(Arc::new(settings));
    }

    /// The realm's record, for whoever asks over HTTPS.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The welcome for a connection on this channel.
    pub fn welcome(&self, channel: &Channel, nonce: Nonce) -> Welcome {
        self.identity.welcome(channel, nonce)
    }

    /// Now, by both clocks.
    pub fn moment(&self) -> Moment {
        Moment { now: Instant::now(), today: today() }
    }

    /// Takes one connection from the budget of its address prefix.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take_connect(&self, address: IpAddr) -> Result<Prefix, Duration> {
        self.prefixes.take_connect(address, &self.settings().connects, Instant::now())
    }

    /// Takes one join from the prefix's budget.
    ///
    /// # Errors
    /// How long to wait.
    pub fn take_join(&self, prefix: Prefix, now: Instant) -> Result<(), Duration> {
        self.prefixes.take_join(prefix, &self.settings().joins, now)
    }
}

/// Days since 1970-01-01 by the wall clock; a clock before that counts as day 0.
pub fn today() -> u16 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u16::try_from(since.as_secs() / 86_400).unwrap_or(u16::MAX)
}
