//! The relay under test, where we start it ourselves: its raised limits, its restarts, what it has
//! used. The process itself is the client library's `TestRelay`. In a data centre it is the first
//! node, and has the others and their servers with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use valise_client::testing::{TestRelay, TestRelayError};
use valise_proto::RelayAddress;

use crate::centre::{Centre, CentreError};
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
    #[error(transparent)]
    Centre(#[from] CentreError),
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
    /// What it is a node of.
    centre: Option<Centre>,
}

/// What the relay stands on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ground {
    /// Nodes of a data centre; 0 for a supernode.
    pub(crate) nodes: u32,
    /// Each NATS server in a network namespace of its own, so that they can be parted.
    pub(crate) apart: bool,
    /// The bus of the last node passes through us, so that pushes can be lost.
    pub(crate) tapped: bool,
}

impl SpawnedRelay {
    /// Starts a relay for so many clients, on a free port, with an empty state directory; in a data
    /// centre also its servers and the other nodes. Blocks until all are ready. `more` is what else
    /// its configuration says.
    ///
    /// # Errors
    /// [`RelayError`].
    pub(crate) fn start(clients: u32, ground: Ground, more: &str) -> Result<Self, RelayError> {
        let limits = raised(clients);
        let config = format!("{}{more}", configuration(&limits));
        let mut centre = (ground.nodes > 0).then(|| Centre::start(ground)).transpose()?;
        let section = centre.as_ref().map(Centre::section).unwrap_or_default();
        let started = Instant::now();
        let relay = TestRelay::with_config(&format!("{config}{section}"))?;
        let ready = started.elapsed();
        if let Some(centre) = &mut centre {
            centre.add_nodes(&relay, ground, &config)?;
        }
        let admin = relay.admin_address().ok_or(RelayError::NoAdmin)?;
        let pid = Arc::new(AtomicU32::new(relay.pid().unwrap_or(0)));
        let earlier = Usage::default();
        Ok(Self { relay, admin, pid, earlier, limits, started, ready, centre })
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
        let own = now.unwrap_or_default().after(&self.earlier);
        self.centre.as_ref().map_or(own, |centre| own.beside(&centre.usage()))
    }

    /// What the NATS servers under it have used together; none under a supernode.
    pub(crate) fn bus_usage(&self) -> Option<Usage> {
        self.centre.as_ref().map(Centre::bus_usage)
    }

    /// What it is a node of.
    pub(crate) fn centre(&mut self) -> Option<&mut Centre> {
        self.centre.as_mut()
    }

    /// Where the further nodes are; none of a supernode.
    pub(crate) fn further(&self) -> Vec<RelayAddress> {
        self.centre.as_ref().map(Centre::addresses).unwrap_or_default()
    }

    /// Where all nodes answer `/metrics`.
    pub(crate) fn admins(&self) -> Vec<SocketAddr> {
        let further = self.centre.iter().flat_map(Centre::admins);
        std::iter::once(self.admin).chain(further).collect()
    }

    /// The id of the process that runs, as it changes; 0 between two.
    pub(crate) fn pid(&self) -> Arc<AtomicU32> {
        self.pid.clone()
    }

    /// The limits that were set for it.
    pub(crate) fn limits(&self) -> &BTreeMap<String, u64> {
        &self.limits
    }

    /// Starts nodes of a data centre that serve this relay's realm, and lets it hear of them. Blocks
    /// until they are ready.
    pub(crate) fn add_nodes(&self, centre: &mut Centre, nodes: u32) -> Result<(), RelayError> {
        let ground = Ground { nodes: nodes + 1, ..Ground::default() };
        centre.add_nodes(&self.relay, ground, &configuration(&self.limits))?;
        Ok(self.relay.hang_up()?)
    }

    pub(crate) fn binary(&self) -> &Path {
        self.relay.binary()
    }

    pub(crate) fn state_directory(&self) -> PathBuf {
        self.relay.state_directory()
    }

    /// Leaves configuration, log and state where they are, for whoever has to find out why.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.relay.keep()
    }
}

/// The nodes of a data centre, by number; this relay is the first.
impl SpawnedRelay {
    pub(crate) fn nodes(&self) -> usize {
        1 + self.centre.as_ref().map_or(0, Centre::count)
    }

    /// `kill -9`, and wait until it is gone.
    pub(crate) fn kill_node(&mut self, i: usize) -> Result<(), RelayError> {
        match (i.checked_sub(1), &mut self.centre) {
            (Some(further), Some(centre)) => Ok(centre.kill_node(further)?),
            _ => self.kill(),
        }
    }

    /// SIGTERM, and wait until it has drained and gone.
    pub(crate) fn terminate_node(&mut self, i: usize) -> Result<(), RelayError> {
        match (i.checked_sub(1), &mut self.centre) {
            (Some(further), Some(centre)) => Ok(centre.terminate_node(further)?),
            _ => self.terminate().map(drop),
        }
    }

    /// Starts it again. Blocks until it is ready.
    pub(crate) fn restart_node(&mut self, i: usize) -> Result<(), RelayError> {
        match (i.checked_sub(1), &mut self.centre) {
            (Some(further), Some(centre)) => Ok(centre.restart_node(further)?),
            _ => self.restart(),
        }
    }

    /// It does nothing any more, and its connections stay open; or it goes on.
    pub(crate) fn hang_node(&self, i: usize, hangs: bool) -> Result<(), RelayError> {
        let relay = match (i.checked_sub(1), &self.centre) {
            (Some(further), Some(centre)) => centre.node(further),
            _ => &self.relay,
        };
        Ok(if hangs { relay.hang() } else { relay.go_on() }?)
    }
}

/// The limits of a relay for so many clients.
fn raised(clients: u32) -> BTreeMap<String, u64> {
    let rates = RAISED_LIMITS.iter().map(|(key, value)| ((*key).to_owned(), *value));
    let mut raised: BTreeMap<String, u64> = rates.collect();
    raised.insert("connections_max".to_owned(), u64::from(clients) + CONNECTIONS_SPARE);
    raised
}

fn configuration(limits: &BTreeMap<String, u64>) -> String {
    let limits = toml::Table::from_iter(limits.iter().map(|(key, value)| {
        let value = i64::try_from(*value).expect("the limits are small");
        (key.clone(), toml::Value::Integer(value))
    }));
    let access = toml::Table::from_iter([("access".to_owned(), "open".into())]);
    let config = toml::Table::from_iter([
        ("relay".to_owned(), toml::Value::Table(access)),
        ("limits".to_owned(), toml::Value::Table(limits)),
    ]);
    config.to_string()
}
