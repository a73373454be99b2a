//! The processes of a measurement: where they run, and what the kernel says they used.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use serde::Serialize;

/// The core of the server under test, and the core of the load.
const SERVER_CORE: &str = "0";
const LOAD_CORE: &str = "1";

/// Ticks of `/proc/PID/stat` in a second (USER_HZ, the same on every Linux this runs on).
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
        let moved = Command::new("taskset")
            .args(["-cp", LOAD_CORE, &std::process::id().to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if moved.is_ok_and(|status| status.success()) { Self::Pinned } else { Self::Unpinned }
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

    /// What it, and the machine, have used so far.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The second field, the name in parentheses, may contain spaces; user and system time are
        // fields 14 and 15, so the 12th and 13th behind it.
        let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
        let cpu_ticks: u64 = numbers(fields).skip(10).take(2).sum();
        let machine = std::fs::read_to_string("/proc/stat")?;
        let ticks: Vec<u64> = numbers(machine.lines().next().unwrap_or_default()).take(8).collect();
        Ok(Usage {
            at: Instant::now(),
            cpu_ticks,
            steal_ticks: ticks.last().copied().unwrap_or_default(),
            machine_ticks: ticks.iter().sum(),
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

fn numbers(fields: &str) -> impl Iterator<Item = u64> {
    fields.split_ascii_whitespace().filter_map(|field| field.parse().ok())
}

/// A reading of the kernel's clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    at: Instant,
    cpu_ticks: u64,
    steal_ticks: u64,
    machine_ticks: u64,
}

impl Usage {
    /// Seconds between the readings.
    pub(crate) fn seconds_since(&self, before: &Self) -> f64 {
        (self.at - before.at).as_secs_f64()
    }

    /// Seconds of CPU the server used between the readings, user and system.
    pub(crate) fn cpu_seconds_since(&self, before: &Self) -> f64 {
        (self.cpu_ticks - before.cpu_ticks) as f64 / TICKS_PER_SECOND
    }

    /// The share of the machine's time that its host took away between the readings, 0 to 1.
    pub(crate) fn steal_since(&self, before: &Self) -> f64 {
        let all = (self.machine_ticks - before.machine_ticks).max(1);
        (self.steal_ticks - before.steal_ticks) as f64 / all as f64
    }
}
