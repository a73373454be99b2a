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

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use valise_proto::{RelayAddress, Token};

use crate::Dial;

/// How long a relay may take to print its address, and to exit when told to.
const PATIENCE: Duration = Duration::from_secs(30);

/// The relay could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum TestRelayError {
    /// There is no binary, and none could be built.
    #[error("no relay to start: set VALISE_BIN, or run `cargo build -p valise` first ({0})")]
    NoBinary(String),
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
    /// It does not run.
    #[error("the relay does not run")]
    NotRunning,
    /// It did not exit in time after SIGTERM.
    #[error("the relay did not exit in {} s after SIGTERM", PATIENCE.as_secs())]
    StillRunning,
}

/// A relay process. Dropping it kills the process and removes its state.
pub struct TestRelay {
    // Static after construction.
    directory: TempDir,
    binary: PathBuf,
    // Of the process that runs, or ran last.
    process: Option<Process>,
    address: RelayAddress,
}

struct Process {
    child: Child,
    output: Arc<Output>,
}

/// What the process has printed, filled by a thread of its own.
#[derive(Default)]
struct Output {
    printed: Mutex<Printed>,
    more: Condvar,
}

#[derive(Default)]
struct Printed {
    lines: Vec<String>,
    ended: bool,
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
        let binary = binary()?;
        let directory = tempfile::Builder::new()
            .prefix("valise-test-")
            .tempdir()
            .map_err(failed("make a temporary directory"))?;
        fs::write(directory.path().join(CONFIG), toml).map_err(failed("write valise.toml"))?;
        let (process, address) = start(&binary, directory.path(), 0)?;
        Ok(Self { directory, binary, process: Some(process), address })
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
        let (process, address) = start(&self.binary, self.directory.path(), self.address.port)?;
        self.process = Some(process);
        self.address = address;
        Ok(())
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

fn start(
    binary: &Path,
    directory: &Path,
    port: u16,
) -> Result<(Process, RelayAddress), TestRelayError> {
    let log = File::options().create(true).append(true).open(directory.join(LOG));
    let mut child = Command::new(binary)
        .arg("--config")
        .arg(directory.join(CONFIG))
        .arg("--state-directory")
        .arg(directory.join(STATE))
        .arg("--listen")
        .arg(format!("127.0.0.1:{port}"))
        .args(["--admin", "127.0.0.1:0"])
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

impl Output {
    fn collect(stdout: ChildStdout) -> Arc<Self> {
        let output = Arc::new(Self::default());
        let filled = output.clone();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                filled.lock().lines.push(line);
                filled.more.notify_all();
            }
            filled.lock().ended = true;
            filled.more.notify_all();
        });
        output
    }

    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first line that `find` finds something in; `None` once the output has ended, or
    /// patience has.
    fn wait_for<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let until = Instant::now() + PATIENCE;
        let mut printed = self.lock();
        loop {
            if let Some(found) = printed.lines.iter().find_map(|line| find(line)) {
                return Some(found);
            }
            let left = until.saturating_duration_since(Instant::now());
            if printed.ended || left.is_zero() {
                return None;
            }
            printed =
                self.more.wait_timeout(printed, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Looked for once per process.
fn binary() -> Result<PathBuf, TestRelayError> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| {
        if let Some(path) = std::env::var_os("VALISE_BIN").filter(|path| !path.is_empty()) {
            return Ok(path.into());
        }
        let test = std::env::current_exe().map_err(|error| error.to_string())?;
        // Tests are in target/PROFILE/deps, examples in target/PROFILE/examples.
        let beside = test.ancestors().skip(1).take(2).map(|folder| folder.join("valise"));
        beside.into_iter().find(|path| path.is_file()).map_or_else(|| build(&test), Ok)
    });
    found.clone().map_err(TestRelayError::NoBinary)
}

/// Builds the relay in the profile of the test.
fn build(test: &Path) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let profile = test
        .ancestors()
        .skip(1)
        .find(|folder| !folder.ends_with("deps") && !folder.ends_with("examples"));
    let profile = profile.ok_or("the test is in no folder")?;
    let is_release = profile.ends_with("release");
    let mut command = Command::new(cargo);
    command.args(["build", "-p", "valise"]).args(is_release.then_some("--release"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).stdin(Stdio::null());
    let output = command.output().map_err(|error| error.to_string())?;
    let built = profile.join("valise");
    if output.status.success() && built.is_file() {
        Ok(built)
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}
