//! The processes of a measurement: where they run, and what the kernel says they used.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use serde::Serialize;

/// The core of the server under test, and the core of the load.
const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";

/// Ticks of `/proc` in a second (USER_HZ, the same on every Linux this runs on).
const TICKS_PER_SECOND: f64 = 100.0;

/// Pins this process, which makes the load, and says how servers are to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Pinning {
    /// Server and load have a core each.
    Pinned,
    /// `taskset` or the second core is missing: the figures include migrations and competition.
    Unpinned,
}

impl Pinning {
    /// To be called before there is a second thread: `taskset` moves one.
    pub(crate) fn establish() -> Self {
        let load = std::process::id().to_string();
        let both = taskset(&["-c", SERVER_CORE, "true"]) && taskset(&["-cp", LOAD_CORE, &load]);
        if both { Self::Pinned } else { Self::Unpinned }
    }

    fn command(self, program: &OsStr) -> Command {
        match self {
            Self::Pinned => {
                let mut command = Command::new("taskset");
                command.args(["-c", SERVER_CORE]).arg(program);
                command
            }
            Self::Unpinned => Command::new(program),
        }
    }
}

/// Whether `taskset` is there and does this.
fn taskset(arguments: &[&str]) -> bool {
    let mut command = Command::new("taskset");
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A server under test, killed when dropped.
pub(crate) struct Server {
    child: Child,
    /// Held open: a server must not die of a closed pipe.
    stdout: BufReader<ChildStdout>,
    address: String,
}

impl Server {
    /// Starts the program and waits for its address, the first line it prints.
    ///
    /// # Errors
    /// It cannot be started, or ends without an address.
    pub(crate) fn start(
        pinning: Pinning,
        program: &OsStr,
        arguments: &[&OsStr],
    ) -> io::Result<Self> {
        let mut child = pinning
            .command(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("it was asked to be piped");
        let mut server = Self { child, stdout: BufReader::new(stdout), address: String::new() };
        server.stdout.read_line(&mut server.address)?;
        server.address.truncate(server.address.trim_end().len());
        if server.address.is_empty() {
            return Err(io::Error::other(format!(
                "{} ended without an address",
                program.display()
            )));
        }
        Ok(server)
    }

    /// The first line it printed.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// What it, this process and the machine have used so far.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let machine = std::fs::read_to_string("/proc/stat")?;
        let machine = ticks(machine.lines().next().unwrap_or_default(), 1..9)?;
        // User, nice, system, idle, waiting, interrupts, soft interrupts, steal.
        let [user, nice, system, idle, waiting, hard, soft, steal] = machine[..] else {
            return Err(io::Error::other("/proc/stat lacks fields"));
        };
        let busy = user + nice + system + hard + soft;
        Ok(Usage {
            at: Instant::now(),
            server: process_ticks(&self.child.id().to_string())?,
            load: process_ticks("self")?,
            busy,
            steal,
            all: busy + idle + waiting + steal,
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// User and system time of a process, in ticks.
fn process_ticks(process: &str) -> io::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is the name in parentheses; user and system time are the fields 14 and 15,
    // so the 12th and 13th behind it.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    Ok(ticks(fields, 11..13)?.iter().sum())
}

/// Some of the fields of a line.
fn ticks(line: &str, fields: Range<usize>) -> io::Result<Vec<u64>> {
    line.split_ascii_whitespace()
        .skip(fields.start)
        .take(fields.len())
        .map(|field| field.parse().map_err(io::Error::other))
        .collect()
}

/// A reading of the kernel's clocks, in ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    at: Instant,
    server: u64,
    load: u64,
    busy: u64,
    steal: u64,
    all: u64,
}

impl Usage {
    /// Seconds between the readings.
    pub(crate) fn seconds_since(&self, before: &Self) -> f64 {
        (self.at - before.at).as_secs_f64()
    }

    /// Seconds of CPU the server used between the readings, user and system.
    pub(crate) fn server_seconds_since(&self, before: &Self) -> f64 {
        (self.server - before.server) as f64 / TICKS_PER_SECOND
    }

    /// The share of the machine's time that its host and other processes took between the readings,
    /// 0 to 1: what disturbed the measurement.
    pub(crate) fn disturbance_since(&self, before: &Self) -> f64 {
        let ours = self.server - before.server + self.load - before.load;
        let others = (self.busy - before.busy).saturating_sub(ours);
        let taken = others + self.steal - before.steal;
        taken as f64 / (self.all - before.all).max(1) as f64
    }
}
