//! The relay under test, where we start it ourselves: its raised limits, its restarts, what it has
//! used. The process itself is the client library's `TestRelay`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use valise_client::testing::{TestRelay, TestRelayError};
use valise_proto::RelayAddress;

use crate::process::Usage;

/// The relay's rates as `--spawn` sets them: far above what a run needs, so that the run measures the relay and not its
/// limiters. They stay in force, for loopback as for everyone.
const RAISED_LIMITS: [(&str, u64); 7] = [
    ("connects_burst_per_prefix", 1_000_000),
    ("connects_per_second_per_prefix", 1_000_000),
    ("joins_per_minute_per_prefix", 10_000_000),
    ("packets_burst", 10_000_000),
    ("packets_per_second", 10_000_000),
    ("posts_burst", 10_000_000),
    ("posts_per_second", 10_000_000),
];

/// Connections besides the clients' own: joining, probing, those that are about to end.
const CONNECTIONS_SPARE: u64 = 128;

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error(transparent)]
    Process(#[from] TestRelayError),
    #[error("the relay does not say where its metrics are")]
    NoAdmin,
    #[error("the relay has ended by itself ({status}); its log ends:\n{log}")]
    Ended { status: String, log: String },
}

/// A relay of our own.
pub(crate) struct SpawnedRelay {
    relay: TestRelay,
    admin: SocketAddr,
    /// The process that runs; 0 between two.
    pid: Arc<AtomicU32>,
    /// Of the processes before this one.
    earlier: Usage,
    limits: BTreeMap<String, u64>,
    started: Instant,
    /// From the start of the process until it printed its address.
    ready: Duration,
}

impl SpawnedRelay {
    /// Starts a relay for so many clients, on a free port, with an empty state directory. Blocks
    /// until it is ready.
    ///
    /// # Errors
    /// [`RelayError`].
    pub(crate) fn start(clients: u32) -> Result<Self, RelayError> {
        let rates = RAISED_LIMITS.iter().map(|(key, value)| ((*key).to_owned(), *value));
        let mut raised: BTreeMap<String, u64> = rates.collect();
        raised.insert("connections_max".to_owned(), u64::from(clients) + CONNECTIONS_SPARE);
        let limits = toml::Table::from_iter(raised.iter().map(|(key, value)| {
            let value = i64::try_from(*value).expect("the limits are small");
            (key.clone(), toml::Value::Integer(value))
        }));
        let access = toml::Table::from_iter([("access".to_owned(), "open".into())]);
        let config = toml::Table::from_iter([
            ("relay".to_owned(), toml::Value::Table(access)),
            ("limits".to_owned(), toml::Value::Table(limits)),
        ]);
        let started = Instant::now();
        let relay = TestRelay::with_config(&config.to_string())?;
        let ready = started.elapsed();
        let admin = relay.admin_address().ok_or(RelayError::NoAdmin)?;
        let pid = Arc::new(AtomicU32::new(relay.pid().unwrap_or(0)));
        Ok(Self { relay, admin, pid, earlier: Usage::default(), limits: raised, started, ready })
    }

    /// `kill -9`, and wait until it is gone.
    pub(crate) fn kill(&mut self) -> Result<(), RelayError> {
        self.check()?;
        self.note_end();
        Ok(self.relay.kill()?)
    }

    /// SIGTERM, and wait until it has drained and gone.
    pub(crate) fn terminate(&mut self) -> Result<ExitStatus, RelayError> {
        self.check()?;
        self.note_end();
        Ok(self.relay.terminate()?)
    }

    fn note_end(&mut self) {
        self.earlier = self.usage();
        self.pid.store(0, Ordering::Relaxed);
    }

    /// Starts it again, on the same state and the same port. Blocks until it is ready.
    pub(crate) fn restart(&mut self) -> Result<(), RelayError> {
        self.started = Instant::now();
        self.relay.restart()?;
        self.ready = self.started.elapsed();
        self.pid.store(self.relay.pid().unwrap_or(0), Ordering::Relaxed);
        self.admin = self.relay.admin_address().ok_or(RelayError::NoAdmin)?;
        Ok(())
    }

    /// That it still runs.
    pub(crate) fn check(&mut self) -> Result<(), RelayError> {
        match self.relay.ended()? {
            None => Ok(()),
            Some(status) => {
                let log = self.relay.log();
                let lines: Vec<&str> = log.lines().collect();
                let log = lines[lines.len().saturating_sub(10)..].join("\n");
                Err(RelayError::Ended { status: status.to_string(), log })
            }
        }
    }

    pub(crate) fn address(&self) -> &RelayAddress {
        self.relay.address()
    }

    /// Where it answers `/metrics`.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// From the start of the process until it printed its address.
    pub(crate) fn ready(&self) -> Duration {
        self.ready
    }

    /// When the process was started.
    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// What all its processes have used together.
    pub(crate) fn usage(&self) -> Usage {
        let now = self.relay.pid().and_then(|pid| Usage::of(pid).ok());
        now.unwrap_or_default().after(&self.earlier)
    }

    /// The id of the process that runs, as it changes; 0 between two.
    pub(crate) fn pid(&self) -> Arc<AtomicU32> {
        self.pid.clone()
    }

    /// The limits that were set for it.
    pub(crate) fn limits(&self) -> &BTreeMap<String, u64> {
        &self.limits
    }

    /// Leaves configuration, log and state where they are, for whoever has to find out why.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.relay.keep()
    }
}
