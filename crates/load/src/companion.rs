//! Clients of a run in a process of their own, since one process opens only so many files: this program
//! once more, as `one-to-one --following`.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use clap::ValueEnum;
use tempfile::TempDir;
use valise_proto::RelayAddress;

use crate::merge::{self, MergeError};
use crate::plan::{Pace, Plan};
use crate::report::Report;

/// As long as a run may last: it is ended before.
const LONGEST: &str = "24h";

/// The process. Killed when it is dropped.
pub(crate) struct Companion {
    child: Child,
    /// Its report, and what it says.
    directory: TempDir,
}

/// Why nothing is known of these clients.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompanionError {
    #[error("files or processes cannot be made: {0}")]
    System(#[from] io::Error),
    #[error("the process of the other clients has ended by itself ({status}):\n{said}")]
    Ended { status: ExitStatus, said: String },
    #[error("the process of the other clients has left no report: {0}; it says:\n{1}")]
    NoReport(MergeError, String),
}

impl Companion {
    /// Starts the plan's others: in pairs, with as many frames for each of them as for each of its clients.
    pub(crate) fn start(plan: &Plan, relay: &RelayAddress) -> Result<Self, CompanionError> {
        let directory = tempfile::Builder::new().prefix("valise-companion-").tempdir()?;
        let said = File::create(directory.path().join("said"))?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments(plan, relay)).arg("--json").arg(directory.path().join("report"));
        // Its standard input is closed by us, or by our end, whatever that is.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(said);
        Ok(Self { child: command.spawn()?, directory })
    }

    /// That it has not ended by itself.
    pub(crate) fn check(&mut self) -> Result<(), CompanionError> {
        match self.child.try_wait()? {
            Some(status) => Err(CompanionError::Ended { status, said: self.said() }),
            None => Ok(()),
        }
    }

    /// Lets it end, and returns what its clients saw. Blocks until it has judged that.
    pub(crate) fn end(mut self) -> Result<Report, CompanionError> {
        drop(self.child.stdin.take());
        self.child.wait()?;
        let report: PathBuf = self.directory.path().join("report");
        merge::files(&[report]).map_err(|error| CompanionError::NoReport(error, self.said()))
    }

    fn said(&self) -> String {
        fs::read_to_string(self.directory.path().join("said")).unwrap_or_default()
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The command line by which this program does that.
fn arguments(plan: &Plan, relay: &RelayAddress) -> Vec<OsString> {
    let share = f64::from(plan.others) / f64::from(plan.clients);
    let pace = match plan.pace {
        Pace::Rate(rate) => ("--rate", (rate * share).to_string()),
        Pace::Window(window) => ("--window", window.to_string()),
    };
    let transport = plan.transport.to_possible_value().expect("each has a name");
    let flags = [
        ("--target", relay.to_string()),
        ("--clients", plan.others.to_string()),
        ("--conversations", plan.conversations.to_string()),
        ("--size", plan.payload_bytes.to_string()),
        ("--transport", transport.get_name().to_owned()),
        ("--threads", plan.threads.to_string()),
        ("--duration", LONGEST.to_owned()),
        pace,
    ];
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    ["one-to-one", "--following", "--leashed"]
        .map(str::to_owned)
        .into_iter()
        .chain(flags)
        .map(Into::into)
        .collect()
}
