//! The relay under test, where we start it ourselves: its configuration, its process, its counts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use valise_proto::RelayAddress;

use crate::process::Usage;

/// How long a start may take before it counts as failed.
const START_WAIT: Duration = Duration::from_secs(60);

/// The relay's rates as `--spawn` sets them (how many connections it takes is by default as many as
/// the system allows): far above what a run needs, so that the run measures
/// the relay and not its limiters. They stay in force, for loopback as for everyone.
const RAISED_LIMITS: [(&str, u64); 7] = [
    ("connects_burst_per_prefix", 1_000_000),
    ("connects_per_second_per_prefix", 1_000_000),
    ("joins_per_minute_per_prefix", 10_000_000),
    ("packets_burst", 10_000_000),
    ("packets_per_second", 10_000_000),
    ("posts_burst", 10_000_000),
    ("posts_per_second", 10_000_000),
];

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RelayError {
    #[error(
        "no relay to start: there is no `valise` at {0}; build it with `cargo build --release -p \
         valise`, or name it in VALISE_BIN"
    )]
    NoBinary(String),
    #[error("the relay's files: {0}")]
    Files(#[from] io::Error),
    #[error("the relay could not be started: {0}")]
    Spawn(io::Error),
    #[error("the relay said {said:?} instead of its address{log}")]
    NoAddress { said: String, log: String },
    #[error("the relay has ended by itself ({status}){log}")]
    Ended { status: String, log: String },
}

/// A relay of our own.
pub(crate) struct SpawnedRelay {
    binary: PathBuf,
    /// Configuration, log and state; gone when this is dropped, unless [`Self::keep`] was called.
    directory: TempDir,
    address: RelayAddress,
    admin: SocketAddr,
    child: Child,
    /// Of the processes before this one.
    earlier: Usage,
    /// From the start of the process until it printed its address.
    ready: Duration,
    started: Instant,
}

impl SpawnedRelay {
    /// Starts a relay on a free port with an empty state directory. Blocks until it is ready.
    ///
    /// # Errors
    /// [`RelayError`].
    pub(crate) fn start() -> Result<Self, RelayError> {
        let binary = find_binary(std::env::var_os("VALISE_BIN").map(PathBuf::from))?;
        let directory = tempfile::Builder::new().prefix("valise-load-").tempdir()?;
        let admin = free_address()?;
        write_configuration(directory.path(), 0, admin)?;
        let started = Instant::now();
        let mut child = spawn(&binary, directory.path())?;
        let (address, ready) = announced(&mut child, started, directory.path())?;
        // From now on always this port: clients come back to it after a restart.
        write_configuration(directory.path(), address.port, admin)?;
        let earlier = Usage::default();
        Ok(Self { binary, directory, address, admin, child, earlier, ready, started })
    }

    /// `kill -9`, and wait until it is gone.
    pub(crate) fn kill(&mut self) -> Result<(), RelayError> {
        self.check()?;
        self.earlier = self.usage();
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again, on the same state and the same port. Blocks until it is ready.
    pub(crate) fn restart(&mut self) -> Result<(), RelayError> {
        self.started = Instant::now();
        self.child = spawn(&self.binary, self.directory.path())?;
        let announced = announced(&mut self.child, self.started, self.directory.path())?;
        (self.address, self.ready) = announced;
        Ok(())
    }

    /// That it still runs.
    pub(crate) fn check(&mut self) -> Result<(), RelayError> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(RelayError::Ended {
                status: status.to_string(),
                log: log_end(self.directory.path()),
            }),
        }
    }

    pub(crate) fn address(&self) -> &RelayAddress {
        &self.address
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
        Usage::of(self.child.id()).unwrap_or_default().after(&self.earlier)
    }

    /// The limits that were raised for it.
    pub(crate) fn raised_limits() -> BTreeMap<String, u64> {
        RAISED_LIMITS.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect()
    }

    /// Leaves configuration, log and state where they are, for whoever has to find out why.
    pub(crate) fn keep(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }
}

impl Drop for SpawnedRelay {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// In this order: what the environment names, beside this program, a release build of the
/// workspace.
fn find_binary(named: Option<PathBuf>) -> Result<PathBuf, RelayError> {
    let candidates = match named {
        Some(named) => vec![named],
        None => {
            let own = std::env::current_exe()?;
            vec![own.with_file_name("valise"), PathBuf::from("target/release/valise")]
        }
    };
    match candidates.iter().find(|candidate| candidate.is_file()) {
        Some(found) => Ok(fs::canonicalize(found)?),
        None => {
            let tried: Vec<_> = candidates.iter().map(|path| path.display().to_string()).collect();
            Err(RelayError::NoBinary(tried.join(" or ")))
        }
    }
}

/// An address of this machine nobody listens on.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn write_configuration(directory: &Path, port: u16, admin: SocketAddr) -> io::Result<()> {
    let limits: toml::Table = RAISED_LIMITS
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value as i64).into()))
        .collect();
    let mut relay = toml::Table::new();
    relay.insert("listen".to_owned(), vec![format!("127.0.0.1:{port}")].into());
    relay.insert("access".to_owned(), "open".into());
    let mut admin_side = toml::Table::new();
    admin_side.insert("listen".to_owned(), admin.to_string().into());
    let mut all = toml::Table::new();
    all.insert("relay".to_owned(), relay.into());
    all.insert("admin".to_owned(), admin_side.into());
    all.insert("limits".to_owned(), limits.into());
    fs::write(directory.join("valise.toml"), all.to_string())
}

fn spawn(binary: &Path, directory: &Path) -> Result<Child, RelayError> {
    let log = File::options().create(true).append(true).open(directory.join("relay.log"))?;
    Command::new(binary)
        .arg("--config")
        .arg(directory.join("valise.toml"))
        .arg("--state-directory")
        .arg(directory.join("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(RelayError::Spawn)
}

/// Reads the first line, which is the address, and how long it took to come. The other lines are read
/// and dropped, so that the relay never waits for us.
fn announced(
    child: &mut Child,
    started: Instant,
    directory: &Path,
) -> Result<(RelayAddress, Duration), RelayError> {
    let stdout = child.stdout.take().expect("it was asked for as a pipe");
    let (said, first) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            said.try_send((line, started.elapsed())).ok();
        }
    });
    let said = first.recv_timeout(START_WAIT).map(|(line, ready)| (line.parse(), line, ready));
    match said {
        Ok((Ok(address), _, ready)) => Ok((address, ready)),
        other => {
            child.kill().ok();
            child.wait().ok();
            let said = other.map(|(_, line, _)| line).unwrap_or_default();
            Err(RelayError::NoAddress { said, log: log_end(directory) })
        }
    }
}

/// The last lines of the relay's log, as the end of a message.
fn log_end(directory: &Path) -> String {
    let log = fs::read_to_string(directory.join("relay.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    match &lines[lines.len().saturating_sub(10)..] {
        [] => String::new(),
        last => format!("; its log ends:\n{}", last.join("\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_binary_is_named_with_the_command_that_makes_it() {
        let error = find_binary(Some("/nonexistent/valise".into())).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/valise"), "{error}");
        assert!(error.contains("cargo build --release -p valise"), "{error}");
    }
}
